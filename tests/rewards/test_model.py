"""Rewards from end to end: one row for every string; failures are counted; rows are read back."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from building import mol, reward_of
from rdkit import Chem
from rdkit.Chem import QED, Crippen
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.chem import scaffolds
from chemkl.config import InputError
from chemkl.results import TraceWriter, read_trace
from chemkl.rewards import RewardModel, scoring
from chemkl.rewards.model import Failures
from chemkl.rewards.scoring import AGGREGATES, Failed

QED_LOGP = {
    "components": [
        {"kind": "qed", "weight": 2},
        {"kind": "logp", "transform": {"kind": "sigmoid", "low": 0, "high": 4, "k": 0.4}},
    ]
}
COLUMNS = [
    *("smiles", "canonical_smiles", "valid", "reason", "scaffold"),
    *("raw_qed", "score_qed", "raw_logp", "score_logp", "reward"),
]
GOOD = [
    *("OCC", "c1ccccc1C(=O)O", "CCO", "[Na+].[Cl-]", "N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O"),
    *("[2H]C([2H])[2H]", "[CH2]C", "C" * 300, "*CC", "CC(=O)[O-].[Na+]", "C[CH]C", "[13CH3][2H]"),
    *("F/C=C\\F", "C[N+](C)(C)C", "[Cu+2]", "[H][H]", "[#118]", "C[CH3:999]"),
]
BAD = {
    "": "empty",
    " ": "whitespace: ' ' at position 1",
    "CCé": "not ASCII: 'é' at position 3",
    "CC ethane": "whitespace: ' ' at position 3",
    "C(C)(C)(C)(C)C": "not sane",
    "c1cccc1": "not sane",
    "C1CC": "not parsable: unclosed ring 1 opened at position 2",
    "C" * 501: "too many atoms: 501, at most 500",
    "C" * 100_000: "too long: 100000 characters, at most 5000",
    "CC>>CO": "not parsable",
    "[#119]": "not parsable: a number too large in the bracket at position 1",
    "Cc1ccc2nc(C)=n(C)c12": "not readable again: RDKit writes CC1=c2c(nc(C)n2C)",
    "C\0C": "whitespace: '\\x00' at position 2",
}
BATCH = [smiles for pair in zip([*BAD, *BAD], GOOD, strict=False) for smiles in pair]


@pytest.fixture
def reward():
    return RewardModel.from_config(QED_LOGP)


def test_every_row_is_rdkits(reward):
    frame = reward.score(BATCH)
    assert frame.columns.tolist() == COLUMNS
    assert frame["smiles"].tolist() == BATCH
    for row in frame.itertuples():
        if row.smiles in BAD:
            assert row.reason.startswith(BAD[row.smiles])
            assert (row.valid, row.reward) == (False, 0.0)
            missing = [*("canonical_smiles", "scaffold"), *COLUMNS[5:9]]
            assert all(pd.isna(getattr(row, column)) for column in missing)
            continue
        assert row.valid
        assert pd.isna(row.reason)
        read = mol(row.smiles)
        assert row.canonical_smiles == Chem.MolToSmiles(read)  # with isotopes, charges, stereo
        assert row.scaffold == MurckoScaffold.MurckoScaffoldSmiles(mol=read)
        assert row.raw_qed == pytest.approx(QED.qed(read), abs=1e-12)
        assert row.raw_logp == pytest.approx(Crippen.MolLogP(read), abs=1e-9)
        logp_score = 1 / (1 + 10 ** (-10 * 0.4 * (Crippen.MolLogP(read) - 2) / 4))
        assert row.reward == pytest.approx((QED.qed(read) ** 2 * logp_score) ** (1 / 3), abs=1e-9)


@pytest.mark.parametrize("batch", [[], ["C1CC", "", "x"], ["CCO"], ["CCO", "x"]])
def test_types_do_not_depend_on_the_batch(reward, batch):
    frame = reward.score(batch)
    assert frame.columns.tolist() == reward.columns == COLUMNS
    assert frame.dtypes.equals(reward.score(["CCO", "x"]).dtypes)
    assert frame.dtypes["valid"] == np.dtype(bool)
    assert frame.dtypes["reward"] == frame.dtypes["raw_qed"] == np.dtype("float64")
    assert frame.dtypes["smiles"] == frame.dtypes["reason"] == "str"
    assert frame.index.tolist() == list(range(len(batch)))


def test_rewards_are_bit_equal_in_any_order_spelling_and_history(reward):
    spellings = ["c1ccc(cc1)C(=O)NCCN(CC)CC", "CCN(CC)CCNC(=O)c1ccccc1", "O=C(c1ccccc1)NCCN(CC)CC"]
    rewards = set()
    for start in range(3):
        fresh = RewardModel.from_config(QED_LOGP)
        rewards |= set(fresh.score(spellings[start:] + spellings[:start])["reward"])
    assert len(rewards) == 1
    forward = reward.score(BATCH)
    backward = RewardModel.from_config(QED_LOGP).score(BATCH[::-1])[::-1].reset_index(drop=True)
    pd.testing.assert_frame_equal(forward, backward, check_exact=True)
    paid = forward.loc[1, "reward"]
    forward["reward"] = forward["raw_qed"] = 0.0  # a caller's change is not remembered
    assert reward.score([BATCH[1]]).loc[0, "reward"] == paid > 0


def fails_on_oxygen(mol):
    if mol.HasSubstructMatch(Chem.MolFromSmarts("[#8]")):
        raise RuntimeError("no\noxygen, please")
    return 0.25


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_failed_components_never_earn_a_reward(register, aggregate):
    wrong = {"nothing": math.nan, "endless": math.inf, "none": None}
    for kind, answer in wrong.items():
        register(kind, lambda _, answer=answer: answer)
    register("picky", fails_on_oxygen)
    kinds = ["picky", *wrong]
    row = reward_of(*kinds, aggregate=aggregate).score(["CCO"]).loc[0]
    assert (row["valid"], row["reward"]) == (True, 0.0)
    assert all(math.isnan(row[f"{part}_{kind}"]) for kind in kinds for part in ("raw", "score"))
    assert row["reason"].split("; ") == [
        "component picky failed: no oxygen, please",
        "component nothing failed: it returned nan",
        "component endless failed: it returned inf",
        "component none failed: it returned None, not a number",
    ]


@pytest.mark.parametrize("value", [-0.001, 1.001, 7.0])
def test_a_score_outside_0_and_1_is_a_failure(register, value):
    register("liar", lambda _: value)  # its range is 0 to 1
    row = reward_of("liar").score(["CCO"]).loc[0]
    assert (row["raw_liar"], row["reward"]) == (value, 0.0)
    assert math.isnan(row["score_liar"])
    assert row["reason"] == f"component liar failed: score {value:g} is not between 0 and 1"


def violated(_mol):
    raise RuntimeError("Invariant")


@pytest.mark.parametrize(
    ("place", "name", "replacement", "reason"),
    [
        (scaffolds, "_murcko", violated, "scaffold failed: Invariant"),
        (scoring, "parse", lambda *_, **__: None, "canonical SMILES cannot be read back"),
    ],
)
def test_a_failure_of_rdkit_costs_its_molecule_only(monkeypatch, place, name, replacement, reason):
    monkeypatch.setattr(place, name, replacement)
    row = reward_of("qed").score(["CCO"]).loc[0]
    assert (row["reason"], row["reward"]) == (reason, 0.0)
    assert pd.isna(row["scaffold"])


def test_the_size_limit_is_a_setting():
    frame = reward_of("qed", max_atoms=3).score(["CCO", "CCCO"])
    assert frame["valid"].tolist() == [True, False]
    assert frame.loc[1, "reason"] == "too many atoms: 4, at most 3"


def test_any_iterable_of_strings_is_accepted(reward):
    expected = reward.score(["CCO", "CC"])
    for batch in (("CCO", "CC"), iter(["CCO", "CC"]), pd.Series(["CCO", "CC"], index=[7, 3])):
        pd.testing.assert_frame_equal(reward.score(batch), expected)
    with pytest.raises(InputError, match="a list of SMILES, not one string"):
        reward.score("CCO")
    with pytest.raises(InputError, match="SMILES 1 is not a string: None"):
        reward.score(["CCO", None])
    frame = reward.score(["CCO", "C\udc80"])  # which no file can hold
    assert frame["smiles"].tolist() == ["CCO", r"C\udc80"]
    assert frame["valid"].tolist() == [True, False]
    assert frame.loc[1, "reason"] == r"not ASCII: '\udc80' at position 2"


def test_nothing_is_logged_and_torch_is_not_imported():
    program = """
import sys
from chemkl.rewards import RewardModel
every = [
    {"kind": "qed"},
    {"kind": "sa_score", "transform": {"kind": "reverse_sigmoid", "low": 1, "high": 9}},
    {"kind": "tanimoto", "parameters": {"references": ["CCO"]}},
    {"kind": "required_smarts", "parameters": {"smarts": ["C"]}},
]
batch = ["CCO", "C1CC", "[H]", "c1cccc1", "CN(C)(C)C"]
frame = RewardModel.from_config({"components": every}).score(batch)
assert frame["valid"].sum() == 2, frame
assert not {"torch", "lightning", "sklearn", "skops", "onnxruntime"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---- a component that fails too often ends the run

CARBON = {"kind": "required_smarts", "parameters": {"smarts": "C"}}
CHAINS = [f"{'C' * a}O{'C' * b}N" for a in range(1, 21) for b in range(1, 21)]
NUMBER = {Chem.CanonSmiles(smiles): n for n, smiles in enumerate(CHAINS, 1)}


@pytest.fixture
def model(register):
    """A reward whose component `picky` fails on chains of these numbers, from 1."""

    def make(fails, **settings):
        def score(mol):
            n = NUMBER[Chem.MolToSmiles(mol)]
            if fails(n):
                raise RuntimeError("too late" if n > 20 else f"no luck with {n}")
            return 0.5

        register("picky", score)
        return reward_of("picky", CARBON, **settings)

    return make


def test_a_component_that_always_fails_ends_the_run_after_20_molecules(model):
    broken = model(lambda _: True)
    frame = broken.score(CHAINS[:19])
    assert frame["raw_picky"].isna().all()
    assert (frame["reward"] == 0).all()
    with pytest.raises(InputError, match=r"picky failed on 20 of 20 molecules \(100.0%\)"):
        broken.score([CHAINS[19]])
    # 20 different reasons for the short chains, one for the other 80
    with pytest.raises(InputError) as caught:
        broken.score(CHAINS[20:100])
    assert str(caught.value) == (
        "component picky failed on 100 of 100 molecules (100.0%), more than most_failures = 0.5 "
        "allows. Most frequent reason (80 times): too late. Fix the component, or raise "
        "most_failures."
    )


def test_one_that_often_fails_ends_it_after_100_molecules(model):
    nearly = model(lambda n: n != 1)
    assert (nearly.score(CHAINS[:99])["reward"] > 0).sum() == 1
    with pytest.raises(InputError, match="picky failed on 99 of 100 molecules"):
        nearly.score([CHAINS[99]])
    assert (nearly.score(CHAINS[:1])["reward"] > 0).all()  # nothing new, no reason to stop
    assert len(model(lambda n: n % 2 == 0).score(CHAINS[:200])) == 200  # the share is allowed
    with pytest.raises(InputError, match=r"failed on 50 of 100 molecules \(50.0%\).* = 0.4 allows"):
        model(lambda n: n % 2 == 0, most_failures=0.4).score(CHAINS[:100])
    assert (model(lambda _: True, most_failures=1).score(CHAINS)["reward"] == 0).all()


def test_repeats_and_invalid_strings_do_not_count(model):
    broken = model(lambda _: True, most_failures=1)
    for _ in range(5):
        broken.score([*CHAINS[:50], "C1CC", ""])
    counts = {name: (count.attempts, count.failed) for name, count in broken.failures.items()}
    assert counts == {"picky": (50, 50), "required_smarts": (50, 0)}
    reasons = broken.failures["picky"].reasons
    assert (reasons["too late"], reasons["no luck with 7"]) == (30, 1)


def test_remembered_failures_count_and_do_not_end_a_continued_run(model):
    rows = model(lambda _: True, most_failures=1).score(CHAINS[:150])
    fixed = model(lambda _: False)
    fixed.remember(rows)
    fixed.remember(rows)
    assert (fixed.failures["picky"].attempts, fixed.failures["picky"].failed) == (150, 150)
    assert (fixed.score(CHAINS[:150])["reward"] == 0).all()  # final, as in the trace
    assert (fixed.score(CHAINS[150:300])["reward"] > 0).all()


@pytest.mark.parametrize("words", [("molecules", "component"), ("completions", "reward function")])
def test_failures_are_described(words):
    failures = Failures(["mine", "fine"], 0.5, *words)
    failures.add(failures, [])
    for reason in ("it returned nan", "ValueError: no (mine.py:3)", "it returned nan"):
        failures.add(failures, [Failed("mine", reason)])
    text = f"{words[1]} mine failed on 3 of 4 {words[0]}, most often: it returned nan"
    assert failures.describe() == [text]


# ---- raw values that are read back are equal, bit for bit

PARTS = [
    {"kind": "fussy", "transform": {"kind": "sigmoid", "low": 0, "high": 10}},
    "share",
    {"kind": "small", "role": "filter"},
    "docking",
]
FUSSY = "component fussy failed: no nitrogen, please"
SHARE = "component share failed: score 1.5 is not between 0 and 1"
REASONS = {
    "CCO": "",
    "C1CC": "not parsable: unclosed ring 1 opened at position 2",
    "CCN": FUSSY,
    "c1ccccc1O": "",
    "CCCl": SHARE,
    "NCCl": f"{FUSSY}; {SHARE}",  # in this order
    "C" * 20: "filter small failed",
    "CCBr": "component docking failed: no pose",
}


@pytest.fixture
def calls(register):
    """`fussy` fails on nitrogen, `share` leaves 0 to 1 on chlorine, `docking` is costly."""

    def has(symbol, mol):
        return any(atom.GetSymbol() == symbol for atom in mol.GetAtoms())

    def fussy(mol):
        if has("N", mol):
            raise RuntimeError("no nitrogen, please")
        return math.sqrt(mol.GetNumAtoms())

    def docking(mol):
        if has("Br", mol):
            raise RuntimeError("no pose")
        return 0.9

    register("share", lambda mol: 1.5 if has("Cl", mol) else 1 / 3)
    register("small", lambda mol: float(mol.GetNumAtoms() < 20))
    return register("fussy", fussy, (0, math.inf)), register("docking", docking, costly=True)


def through_a_trace(rows, folder):
    """Write rows to a trace and read them back."""
    writer = TraceWriter(folder, ["fussy", "share", "small", "docking"], "run", "hash")
    zeros = dict.fromkeys(("step", "logp_policy", "logp_ref", "reward_filtered", "log_target"), 0)
    flags = dict.fromkeys(("repeat", "hit", "anchor", "is_replay"), False)
    writer.append(rows.assign(row=range(len(rows)), call=None, n_tokens=5, **zeros, **flags))
    writer.cut()
    return read_trace(folder)


def test_a_trace_gives_every_row_back_without_a_call(calls, tmp_path):
    smiles = [*REASONS, "OCC"]
    scored = reward_of(*PARTS).score(smiles)
    assert scored["reason"].fillna("").tolist() == [*REASONS.values(), ""]
    n_calls = [*map(len, calls)]
    second, third = reward_of(*PARTS), reward_of(*PARTS)
    second.remember(through_a_trace(scored, tmp_path))
    pd.testing.assert_frame_equal(second.score(smiles), scored, check_exact=True)
    third.remember(second.score(smiles))
    pd.testing.assert_frame_equal(third.score(smiles), scored, check_exact=True)
    assert [*map(len, calls)] == n_calls
    rows = third.score(["C(O)C", "Oc1ccccc1", "CCCC"])  # two are other spellings
    assert calls[0][n_calls[0] :] == ["CCCC"]
    assert rows["reward"][0] == scored["reward"][0] > 0


def test_scored_molecules_stay_and_unexplained_gaps_are_scored_again(calls):
    model = reward_of(*PARTS)
    first = model.score(["CCO"])
    model.remember(first.assign(raw_fussy=99.0))
    pd.testing.assert_frame_equal(model.score(["CCO"]), first)
    fresh = reward_of(*PARTS)
    fresh.remember(fresh.score(["C1CC", ""]))  # nothing to remember
    fresh.remember(first.assign(raw_docking=math.nan))
    pd.testing.assert_frame_equal(fresh.score(["CCO"]), first, check_exact=True)
    assert calls[1] == ["CCO", "CCO"]
