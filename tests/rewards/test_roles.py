"""Filters, penalties, costly components: who is asked, what is paid, what a resume gives back."""

import math
from pathlib import Path

import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import Lipinski

from chemkl.results import TraceWriter, read_trace
from chemkl.rewards import RewardModel
from chemkl.rewards.registry import COMPONENTS, Component

MAPPED = {0: 0.25, 1: 0.49, 2: 0.5, 3: 1}


def count(symbol):
    def score(mol):
        return sum(atom.GetSymbol() == symbol for atom in mol.GetAtoms())

    return score


@pytest.fixture
def asked(monkeypatch):
    """`docking` and `purchase` are costly; every question to a component is noted."""
    questions = {}

    def add(kind, score, range_=(0, 1), **flags):
        questions[kind] = []

        def factory():
            def noted(mol):
                questions[kind].append(Chem.MolToSmiles(mol))
                return score(mol)

            return noted

        part = Component(kind, factory, "", range_, "made up", **flags)
        monkeypatch.setitem(COMPONENTS, kind, part)

    def docking(mol):
        if count("Br")(mol):
            raise RuntimeError("no pose")
        return 0.8

    add("docking", docking, costly=True)
    add("purchase", lambda mol: 0.0 if count("S")(mol) else 1.0, costly=True)
    add("nitrogens", count("N"), (0, math.inf))
    add("half", lambda _: 0.5)
    add("no_oxygen", lambda mol: 0.0 if count("O")(mol) else 1.0)
    return questions


REWARD = {
    "components": [
        {"kind": "docking", "weight": 3},  # first in the config, and asked last all the same
        {
            "kind": "nitrogens",
            "role": "filter",
            "transform": {"kind": "value_map", "values": MAPPED},
        },
        {"kind": "half"},
        {"kind": "no_oxygen", "role": "filter"},
    ]
}
# nitrogen atoms 3 and 2 pass (1 and .5), 1 and 0 do not (.49 and .25); oxygen never passes
PASSING = ["N=NN", "NCN"]
FAILING = ["CN", "CC", "NCNO", "CO"]


def test_a_filter_passes_from_one_half_on_and_else_the_reward_is_0(asked):
    frame = RewardModel.from_config(REWARD).score([*PASSING, *FAILING])
    paid = (0.8**3 * 0.5) ** (1 / 4)  # the filters' own scores are no part of it
    assert frame["reward"].tolist() == pytest.approx([paid, paid, 0, 0, 0, 0], abs=1e-15)
    assert frame["valid"].all()
    assert frame["reason"].fillna("").tolist() == [
        *("", ""),
        *("filter nitrogens failed", "filter nitrogens failed", "filter no_oxygen failed"),
        "filter nitrogens failed; filter no_oxygen failed",
    ]
    assert frame["score_nitrogens"].tolist() == [1, 0.5, 0.49, 0.25, 0.5, 0.25]


def test_what_fails_a_filter_is_not_asked_of_the_costly_ones(asked):
    model = RewardModel.from_config(REWARD)
    frame = model.score([*FAILING, *PASSING])
    assert asked["docking"] == PASSING  # canonical as they stand
    assert len(asked["half"]) == len(asked["no_oxygen"]) == 6  # the cheap ones hear of all
    assert frame["raw_docking"].isna().tolist() == [True] * 4 + [False] * 2
    assert frame["score_docking"].isna().tolist() == [True] * 4 + [False] * 2
    counts = model.failures["docking"]
    assert (counts.asked, counts.failed) == (2, 0)
    model.score(["NC", *FAILING])
    assert len(asked["docking"]) == 2  # nor later


def test_a_costly_filter_comes_before_the_other_costly_ones(asked):
    parts = [
        {"kind": "docking"},
        {"kind": "purchase", "role": "filter"},
        {"kind": "no_oxygen", "role": "filter"},
    ]
    frame = RewardModel.from_config({"components": parts}).score(["CS", "CO", "CC"])
    assert asked["no_oxygen"] == ["CS", "CO", "CC"]
    assert asked["purchase"] == ["CS", "CC"]
    assert asked["docking"] == ["CC"]
    assert frame["reward"].tolist() == pytest.approx([0, 0, 0.8], abs=1e-15)
    assert frame["reason"].fillna("").tolist() == [
        "filter purchase failed",
        "filter no_oxygen failed",
        "",
    ]


def test_a_filter_that_cannot_tell_lets_nothing_pass(asked, monkeypatch):
    def refuse(_):
        raise RuntimeError("cannot tell")

    picky = Component("picky", lambda: refuse, "", (0, 1), "made up")
    monkeypatch.setitem(COMPONENTS, "picky", picky)
    parts = [{"kind": "docking"}, {"kind": "picky", "role": "filter"}]
    row = RewardModel.from_config({"components": parts}).score(["CC"]).loc[0]
    assert asked["docking"] == []
    assert (row["reward"], row["reason"]) == (0.0, "component picky failed: cannot tell")


def test_a_value_without_a_score_says_so(asked):
    row = RewardModel.from_config(REWARD).score(["NN(N)NN"]).loc[0]
    reason = "component nitrogens failed: its transform has no score for the value 5"
    assert (row["raw_nitrogens"], row["reward"], row["reason"]) == (5, 0.0, reason)
    assert math.isnan(row["score_nitrogens"])
    assert asked["docking"] == []


@pytest.mark.parametrize(
    ("aggregate", "joined"),
    [
        ("geometric_mean", math.sqrt(0.8 * 0.5)),
        ("arithmetic_mean", 0.65),
        ("product", 0.4),
        ("minimum", 0.5),
    ],
)
def test_penalties_multiply_what_the_scorers_earn(asked, aggregate, joined):
    line = {"kind": "linear_clip", "low": 4, "high": 0}  # 1 nitrogen .75, 2 nitrogens .5
    parts = [
        {"kind": "docking"},
        {"kind": "half"},
        {"kind": "nitrogens", "role": "penalty", "transform": line},
        {"kind": "half", "name": "again", "role": "penalty"},
    ]
    model = RewardModel.from_config({"components": parts, "aggregate": aggregate})
    frame = model.score(["CC", "CN", "NCN", "NN(N)NN"])
    expected = [joined * 0.5, joined * 0.75 * 0.5, joined * 0.5 * 0.5, 0.0]
    assert frame["reward"].tolist() == pytest.approx(expected, abs=1e-15)
    assert frame["reason"].isna().all()  # a penalty of 0 is no failure


def test_a_penalty_that_fails_costs_the_reward(asked):
    parts = [{"kind": "half"}, {"kind": "docking", "role": "penalty"}]
    row = RewardModel.from_config({"components": parts}).score(["CBr"]).loc[0]
    assert (row["reward"], row["reason"]) == (0.0, "component docking failed: no pose")


# ---- what a trace gives back

ALL = [*PASSING, *FAILING, "NC(Br)N", "NN(N)NN", "C1CC"]


def through_a_trace(rows, names, folder):
    writer = TraceWriter(folder, names, "run", "hash")
    writer.append(
        rows.assign(
            step=0, row=range(len(rows)), call=None, repeat=False, n_tokens=5, logp_policy=0.0,
            logp_ref=0.0, reward_filtered=0.0, log_target=0.0, hit=False, anchor=False,
            is_replay=False,
        )
    )  # fmt: skip
    writer.cut()
    return read_trace(folder)


def test_a_trace_gives_every_row_back_without_a_question(asked, tmp_path):
    model = RewardModel.from_config(REWARD)
    scored = model.score(ALL)
    assert scored.loc[6, "reason"] == "component docking failed: no pose"
    fresh = RewardModel.from_config(REWARD)
    fresh.remember(through_a_trace(scored, model.component_names, tmp_path))
    for questions in asked.values():
        questions.clear()
    pd.testing.assert_frame_equal(fresh.score(ALL), scored, check_exact=True)
    assert not any(asked.values())
    # a second time: what was read back can be read back again
    third = RewardModel.from_config(REWARD)
    third.remember(fresh.score(ALL))
    pd.testing.assert_frame_equal(third.score(ALL), scored, check_exact=True)
    assert not any(asked.values())


def test_what_was_not_asked_is_no_failure_after_a_resume_either(asked, tmp_path):
    model = RewardModel.from_config(REWARD)
    fresh = RewardModel.from_config(REWARD)
    rows = model.score(FAILING)
    fresh.remember(through_a_trace(rows, model.component_names, tmp_path))
    assert fresh.score(FAILING)["reason"].tolist() == rows["reason"].tolist()
    assert "component" not in " ".join(fresh.score(FAILING)["reason"])


def test_a_missing_value_that_nothing_explains_is_asked_for_again(asked):
    model = RewardModel.from_config(REWARD)
    scored = model.score(PASSING)
    fresh = RewardModel.from_config(REWARD)
    fresh.remember(scored.assign(raw_docking=math.nan))
    asked["docking"].clear()
    pd.testing.assert_frame_equal(fresh.score(PASSING), scored, check_exact=True)
    assert asked["docking"] == PASSING


def test_the_shipped_example_screens_pays_and_punishes():
    file = Path(__file__).parents[2] / "configs/rewards/screened_lead.yaml"
    chains = [f"c1ccccc1{'C' * n}" for n in (6, 9, 11, 14)]
    frame = RewardModel.from_config(file).score([*chains, "O=Cc1ccccc1", "CCC", "CC=O"])
    paid = (frame["score_qed"] ** 2 * frame["score_sa_score"]) ** (1 / 3)
    # a chain of n carbons on benzene has n - 1 rotatable bonds: its last one turns a methyl only
    assert [Lipinski.NumRotatableBonds(Chem.MolFromSmiles(each)) for each in chains] == [
        5,
        8,
        10,
        13,
    ]
    left = [1, 4 / 6, 2 / 6, 0]
    assert frame["reward"][:4].tolist() == pytest.approx((paid[:4] * left).tolist(), abs=1e-12)
    assert frame["reason"].fillna("").tolist()[4:] == [
        "filter reactive failed",
        "filter rings failed",
        "filter reactive failed; filter rings failed",
    ]
