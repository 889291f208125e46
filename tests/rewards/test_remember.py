"""Raw values that are read back: what was paid for is not asked again, and comes out the same."""

import math

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

from chemkl.results import TraceWriter, read_trace
from chemkl.rewards import RewardModel
from chemkl.rewards.registry import COMPONENTS, Component

REWARD = {
    "components": [
        {"kind": "fussy", "transform": {"kind": "sigmoid", "low": 0, "high": 10}},
        {"kind": "share"},
    ]
}
SMILES = ["CCO", "OCC", "C1CC", "CCN", "c1ccccc1O", "CCCl", "C1CC1"]


@pytest.fixture
def questions(monkeypatch):
    """Two components: `fussy` fails on nitrogen, `share` leaves 0 to 1 on chlorine."""
    molecules = []

    def fussy():
        def score(mol):
            molecules.append(Chem.MolToSmiles(mol))
            if any(atom.GetSymbol() == "N" for atom in mol.GetAtoms()):
                raise RuntimeError("no nitrogen, please")
            return math.sqrt(mol.GetNumAtoms())

        return score

    def share():
        return lambda mol: 1.5 if any(a.GetSymbol() == "Cl" for a in mol.GetAtoms()) else 1 / 3

    for kind, factory, highest in (("fussy", fussy, math.inf), ("share", share, 1)):
        component = Component(kind, factory, "", (0, highest), "made up")
        monkeypatch.setitem(COMPONENTS, kind, component)
    return molecules


@pytest.fixture
def scored(questions):
    return RewardModel.from_config(REWARD).score(SMILES)


def through_a_trace(rows, folder):
    """The same rows as a run's trace gives them back."""
    writer = TraceWriter(folder, ["fussy", "share"], "run", "hash")
    writer.append(
        rows.assign(
            step=0, row=range(len(rows)), call=None, repeat=False, n_tokens=5, logp_policy=0.0,
            logp_ref=0.0, reward_filtered=0.0, log_target=0.0, hit=False, anchor=False,
            is_replay=False,
        )
    )  # fmt: skip
    writer.cut()
    return read_trace(folder)


@pytest.mark.parametrize("from_disk", [False, True])
def test_remembered_rows_come_out_again_bit_for_bit_without_a_question(
    questions, scored, tmp_path, from_disk
):
    rows = through_a_trace(scored, tmp_path) if from_disk else scored
    fresh = RewardModel.from_config(REWARD)
    fresh.remember(rows)
    questions.clear()
    pd.testing.assert_frame_equal(fresh.score(SMILES), scored, check_exact=True)
    assert questions == []


def test_other_spellings_are_known_too_and_new_molecules_are_scored(questions, scored):
    fresh = RewardModel.from_config(REWARD)
    fresh.remember(scored)
    questions.clear()
    rows = fresh.score(["C(O)C", "Oc1ccccc1", "CCCC"])
    assert questions == ["CCCC"]
    assert rows["reward"][0] == scored["reward"][0]
    assert rows["reward"][2] == pytest.approx(
        math.sqrt(1 / (1 + 10 ** (-10 * 0.25 * (2 - 5) / 10)) / 3), abs=1e-12
    )


def test_a_failure_is_final_with_its_reason(questions, scored, tmp_path):
    fresh = RewardModel.from_config(REWARD)
    fresh.remember(through_a_trace(scored, tmp_path))
    questions.clear()
    row = fresh.score(["C(C)N"]).iloc[0]
    assert row["valid"]
    assert row["reason"] == "component fussy failed: no nitrogen, please"
    assert np.isnan(row["raw_fussy"])
    assert row["raw_share"] == 1 / 3
    assert row["reward"] == 0.0
    assert questions == []


def test_a_score_out_of_range_is_found_again_and_said_once(scored):
    fresh = RewardModel.from_config(REWARD)
    fresh.remember(scored)
    row = fresh.score(["CCCl"]).iloc[0]
    assert row["reason"] == "component share failed: score 1.5 is not between 0 and 1"
    assert row["raw_share"] == 1.5
    assert np.isnan(row["score_share"])


def test_both_sorts_of_failure_keep_their_order(questions, tmp_path):
    model = RewardModel.from_config(REWARD)
    rows = model.score(["NCCl"])
    reason = (
        "component fussy failed: no nitrogen, please; "
        "component share failed: score 1.5 is not between 0 and 1"
    )
    assert rows["reason"].tolist() == [reason]
    fresh = RewardModel.from_config(REWARD)
    fresh.remember(through_a_trace(rows, tmp_path))
    assert fresh.score(["NCCl"])["reason"].tolist() == [reason]


def test_what_a_filter_took_away_does_not_come_back_as_the_reward(scored, tmp_path):
    trace = through_a_trace(scored, tmp_path)  # its reward_filtered is 0 throughout
    fresh = RewardModel.from_config(REWARD)
    fresh.remember(trace)
    assert fresh.score(["CCO"])["reward"][0] == scored["reward"][0] > 0


def test_what_is_known_already_stays(questions, scored):
    model = RewardModel.from_config(REWARD)
    first = model.score(["CCO"])
    model.remember(scored.assign(raw_fussy=99.0))
    pd.testing.assert_frame_equal(model.score(["CCO"]), first)


def test_rows_without_a_valid_one_are_nothing_to_remember(questions):
    model = RewardModel.from_config(REWARD)
    model.remember(model.score(["C1CC", ""]))
    model.remember(model.score([]))
    questions.clear()
    model.score(["CCO"])
    assert questions == ["CCO"]
