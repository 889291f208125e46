"""The ledger of calls: what is counted and paid, the budget, and hits."""

import math
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem, RDConfig, RDLogger
from rdkit.Chem import QED, Descriptors
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.config.objective import FILTERS
from chemkl.policies import Rollout, Vocabulary
from chemkl.policies.base import pad
from chemkl.results import TraceWriter, read_trace
from chemkl.rewards import RewardModel
from chemkl.training import ledger as ledger_module
from chemkl.training.filters import NoFilter, build_filter
from chemkl.training.ledger import Ledger, describe_hits

VOCABULARY = Vocabulary.of(list("CNOcno123456()=#"))
REWARD = {
    "components": [
        {"kind": "counted", "transform": {"kind": "sigmoid", "low": 0, "high": 60}},
        {"kind": "qed"},
    ]
}
POOL = ["CCO", "OCC", "C(O)C", "CCN", "c1ccccc1", "c1ccccc1C", "C1CC1N", "C1CC", "C(C", "", "CCCC"]


@pytest.fixture(autouse=True)
def _quiet_rdkit():
    RDLogger.DisableLog("rdApp.*")
    yield
    RDLogger.EnableLog("rdApp.*")


def rollout(smiles, truncated=()):
    """Sequences of these texts; those at the positions `truncated` have no end token."""
    rows = [VOCABULARY.encode(s) for s in smiles]
    width = max(map(len, rows))
    token_BT = pad([[*row[:-1], *[2] * (width - len(row) + 1)] if i in truncated else row
                    for i, row in enumerate(rows)])  # fmt: skip
    truncated_B = torch.tensor([i in truncated for i in range(len(rows))])
    return Rollout(list(smiles), token_BT, torch.zeros(len(rows)), truncated_B)


@pytest.fixture
def make_ledger(asked):
    def make(budget=1000, diversity_filter=None, reward=REWARD):
        return Ledger(RewardModel.from_config(reward), diversity_filter or NoFilter(), budget)

    return make


def canonical(smiles):
    mol = Chem.MolFromSmiles(smiles) if smiles else None
    return None if mol is None else Chem.MolToSmiles(mol)


def expected_reward(smiles):
    """The geometric mean of a sigmoid of TPSA and QED, by RDKit and the formulas alone."""
    mol = Chem.MolFromSmiles(canonical(smiles))
    tpsa = 1 / (1 + 10 ** (-10 * 0.25 * (Descriptors.TPSA(mol) - 30) / 60))
    return float(np.sqrt(tpsa * QED.qed(mol)))


# ---- counting


def test_only_the_first_scoring_of_a_valid_molecule_costs_a_call(make_ledger):
    ledger = make_ledger()
    rows = ledger.enter(0, rollout(["CCO", "OCC", "C1CC", "CCO", "CCN"]))
    assert rows["call"].tolist() == [1, pd.NA, pd.NA, pd.NA, 2]
    assert rows["repeat"].tolist() == [False, True, False, True, False]
    assert rows["valid"].tolist() == [True, True, False, True, True]
    assert (ledger.n_calls, ledger.n_samples) == (2, 5)
    rows = ledger.enter(1, rollout(["C(N)C", "CCCC", "OCC"]))  # counting continues
    assert rows["call"].tolist() == [pd.NA, 3, pd.NA]
    assert rows["repeat"].tolist() == [True, False, True]
    assert rows["step"].tolist() == [1, 1, 1]
    assert rows["row"].tolist() == [0, 1, 2]


def test_a_truncated_row_is_invalid_whatever_its_text(make_ledger, asked):
    rows = make_ledger().enter(0, rollout(["CCO", "CCN", "CCCC"], truncated={1}))
    row = rows.iloc[1]
    assert not row["valid"]
    assert row["reason"] == "truncated: no end after 5 tokens"  # the longest has 4 and an end
    assert (row["smiles"], row["n_tokens"]) == ("CCN", 5)
    assert row[["canonical_smiles", "scaffold", "raw_qed"]].isna().all()
    assert row["reward"] == row["reward_filtered"] == 0.0
    assert rows["call"].tolist() == [1, pd.NA, 2]
    assert asked == ["CCO", "CCCC"]


@pytest.mark.parametrize("truncated", [set(), {0, 1, 2}])
def test_a_batch_without_a_valid_row_is_accepted(make_ledger, tmp_path, truncated):
    ledger = make_ledger()
    rows = ledger.enter(0, rollout(["C1CC", "C(C", ""], truncated))
    assert not rows["valid"].any()
    assert rows["reason"].notna().all()
    assert rows["reward"].tolist() == [0.0, 0.0, 0.0]
    assert rows["call"].isna().all()
    assert not rows["repeat"].any()
    assert ledger.n_calls == 0
    dtypes = [str(rows[c].dtype) for c in ("valid", "repeat", "call", "reward")]
    assert dtypes == ["bool", "bool", "Int64", "float64"]
    assert written(rows, tmp_path)["reason"].tolist() == rows["reason"].tolist()


def test_a_molecule_whose_component_failed_costs_its_call_and_gets_no_reward(make_ledger, asked):
    def fail(mol):
        asked.append(Chem.MolToSmiles(mol))
        raise RuntimeError("no licence")

    ledger = make_ledger()
    ledger._reward._terms[0] = ledger._reward._terms[0]._replace(score=fail)
    rows = ledger.enter(0, rollout(["CCO", "OCC"]))
    assert rows["valid"].all()
    assert rows["reason"].tolist() == ["component counted failed: no licence"] * 2
    assert rows["reward"].tolist() == [0.0, 0.0]
    assert rows["call"].tolist() == [1, pd.NA]
    assert asked == ["CCO"]


# ---- rows keep their neighbours


def test_rows_stay_aligned_among_invalid_truncated_and_repeated_ones(make_ledger):
    rng = random.Random(1)
    ledger = make_ledger()
    for step in range(5):
        smiles = rng.choices(POOL, k=20)
        truncated = {i for i in range(20) if rng.random() < 0.2}
        rows = ledger.enter(step, rollout(smiles, truncated))
        assert rows["smiles"].tolist() == smiles
        for i, row in rows.iterrows():
            expected = None if i in truncated else canonical(smiles[i])
            assert row["valid"] == (expected is not None)
            if expected is None:
                assert row["reward"] == 0.0
                assert np.isnan(row["raw_counted"])
                continue
            assert row["canonical_smiles"] == expected
            assert row["scaffold"] == MurckoScaffold.MurckoScaffoldSmiles(expected)
            assert row["n_tokens"] == len(smiles[i]) + 1
            assert row["raw_counted"] == Descriptors.TPSA(Chem.MolFromSmiles(expected))
            assert row["reward"] == pytest.approx(expected_reward(expected), abs=1e-12)


# ---- the budget


def test_a_rollout_is_cut_before_the_row_that_exceeds_the_budget(make_ledger, asked):
    ledger = make_ledger(budget=2)
    batch = rollout(["CCO", "OCC", "CCN", "C1CC", "CCO", "CCCC", "CCO"])
    kept = ledger.affordable(batch)
    assert kept.smiles == ["CCO", "OCC", "CCN", "C1CC", "CCO"]  # what is free may follow
    assert asked == []
    assert len(kept.tokens) == len(kept.logp) == len(kept.truncated) == 5
    ledger.enter(0, kept)
    assert ledger.is_exhausted
    assert asked == ["CCO", "CCN"]
    for budget in (3, 7):  # it fits
        assert make_ledger(budget=budget).affordable(batch) is batch


def test_molecules_too_large_for_the_reward_cost_no_call(make_ledger):
    ledger = make_ledger(budget=2, reward={**REWARD, "max_atoms": 4})
    batch = rollout(["CCO", "CCCCC", "CCCCCC", "CCN", "CCCCCCC"])
    kept = ledger.affordable(batch)
    assert kept is batch
    rows = ledger.enter(0, kept)
    assert rows["call"].tolist() == [1, pd.NA, pd.NA, 2, pd.NA]
    assert rows["reason"][1] == "too many atoms: 5, at most 4"
    assert len(ledger.affordable(rollout(["CCCCC", "CCCC"]))) == 1
    long = "C" * 501  # beyond the default of 500 atoms
    ledger = make_ledger(budget=1, reward={**REWARD, "max_atoms": 600})
    assert len(ledger.affordable(rollout(["CCO", long]))) == 1


@pytest.mark.parametrize("budget", range(1, 8))
def test_the_budget_is_spent_exactly(make_ledger, asked, budget):
    rng = random.Random(budget)
    ledger = make_ledger(budget)
    calls = []
    for step in range(100):
        batch = rollout(rng.choices(POOL, k=rng.randint(1, 6)), truncated={0})
        rows = ledger.enter(step, ledger.affordable(batch))
        calls += rows["call"].dropna().tolist()
        if ledger.is_exhausted:
            break
    distinct = {canonical(s) for s in POOL} - {None}
    assert len(asked) == ledger.n_calls == min(budget, len(distinct))
    assert calls == list(range(1, len(calls) + 1))


# ---- resuming


def written(rows, folder):
    """What comes back from disk, with the columns that others fill in."""
    writer = TraceWriter(folder, ["counted", "qed"], "run", "hash")
    rest = {"logp_policy": 0.0, "logp_ref": 0.0, "log_target": 0.0}
    writer.append(rows.assign(**rest, hit=False, anchor=False, is_replay=False))
    writer.cut()
    return read_trace(folder)


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("penalty", ["step", "tanh"])
def test_a_restored_ledger_continues_like_the_uninterrupted_one(
    make_ledger, asked, tmp_path, kind, penalty
):
    rng = random.Random(3)
    config = FILTERS[kind](kind=kind, bucket=5, min_score=0.05, penalty=penalty)
    batches = [rollout(rng.choices(POOL, k=12), {rng.randrange(12)}) for _ in range(6)]
    whole = make_ledger(diversity_filter=build_filter(config))
    expected = [whole.enter(step, batch) for step, batch in enumerate(batches)]
    assert any((rows["reward_filtered"] < rows["reward"]).any() for rows in expected[3:])

    trace = written(pd.concat(expected[:3], ignore_index=True), tmp_path)
    asked.clear()
    resumed = make_ledger(diversity_filter=build_filter(config))
    resumed.restore(trace)
    assert resumed.n_samples == 36
    for step in range(3, 6):
        pd.testing.assert_frame_equal(resumed.enter(step, batches[step]), expected[step])
    assert not set(asked) & set(trace["canonical_smiles"].dropna())


def test_remembered_rewards_are_the_raw_ones_and_cost_no_second_scoring(
    make_ledger, asked, tmp_path
):
    reward = RewardModel.from_config(REWARD)
    once = build_filter(FILTERS["same_smiles"](kind="same_smiles", min_score=0.0))
    first = Ledger(reward, once, 1000).enter(0, rollout(["CCO", "OCC", "CCO"]))
    assert first["reward_filtered"].tolist() == [first["reward"][0], 0.0, 0.0]
    again = Ledger(reward, NoFilter(), 1000).enter(0, rollout(["CCO"]))
    assert asked == ["CCO"]
    assert again["reward_filtered"][0] == again["reward"][0] == first["reward"][2] > 0

    batch = rollout(["CCO", "C1CC", "CCN", "OCC"])  # of a step after the checkpoint
    expected = make_ledger().enter(0, batch)
    asked.clear()
    ledger = make_ledger()
    ledger.remember(written(expected, tmp_path))
    assert ledger.n_calls == 0
    pd.testing.assert_frame_equal(ledger.enter(0, batch), expected)
    assert asked == []
    assert ledger.n_calls == 2


# ---- hits: length, size, synthetic accessibility


@pytest.fixture(scope="module")
def sascorer():
    """RDKit's own module, imported the way its documentation says."""
    folder = str(Path(RDConfig.RDContribDir) / "SA_Score")
    sys.path.append(folder)
    try:
        import sascorer
    finally:
        sys.path.remove(folder)
    return sascorer


def hits(pairs):
    return pd.DataFrame(pairs, columns=["canonical_smiles", "n_tokens"])


def test_hits_are_described_by_rows_for_the_length_and_by_molecules_for_the_rest(sascorer):
    aspirin, ethanol = "CC(=O)Oc1ccccc1C(=O)O", "CCO"
    got = describe_hits(hits([(aspirin, 20), (ethanol, 4), (aspirin, 24)]))
    sa = [sascorer.calculateScore(Chem.MolFromSmiles(s)) for s in (aspirin, ethanol)]
    assert got == {
        "n_tokens": pytest.approx((20 + 4 + 24) / 3),
        "heavy_atoms": pytest.approx((13 + 3) / 2),
        "sa_score": pytest.approx(sum(sa) / 2, abs=1e-12),
    }


@pytest.mark.parametrize("missing", [None, np.nan])
def test_invalid_rows_may_be_hits_where_tau_is_zero(missing):
    got = describe_hits(hits([("CCO", 4), (missing, 8)]))
    assert (got["n_tokens"], got["heavy_atoms"]) == (6, 3)
    assert math.isnan(describe_hits(hits([(missing, 8)]))["sa_score"])
    assert all(math.isnan(value) for value in describe_hits(hits([])).values())


def test_a_hit_that_cannot_be_read_or_scored_is_left_out(monkeypatch):
    def fails(mol):
        if mol.GetNumAtoms() == 2:
            raise RuntimeError("made up")
        return 3.0

    component = SimpleNamespace(build=lambda _: fails)
    monkeypatch.setattr(ledger_module, "find_component", lambda _: component)
    got = describe_hits(hits([("CCO", 4), ("CC", 3), ("CC1=c2c(nc(C)n2C)C=C1", 20)]))
    assert got == {"n_tokens": 9, "heavy_atoms": 2.5, "sa_score": 3.0}
