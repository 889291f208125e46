"""Who is asked in which order, what a wrong answer costs, and what several scores pay."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from building import reward_of

from chemkl.rewards import Failure
from chemkl.rewards.scoring import AGGREGATES

MOLECULES = ["C", "CC", "CCC", "CCCC", "CCCCC"]
TENTH = {"kind": "linear_clip", "low": 0, "high": 10}


def count(symbol):
    return lambda mol: sum(atom.GetSymbol() == symbol for atom in mol.GetAtoms())


# ---- batched components: a molecule that spoils the batch fails alone


@pytest.fixture
def batched(register):
    """Register the batched component `sizes`; give a reward of it, and what it is asked."""

    def make(score):
        questions = register("sizes", score, (0, 9), batched=True)
        return reward_of({"kind": "sizes", "transform": TENTH}), questions

    return make


def sizes(mols):
    return [mol.GetNumAtoms() for mol in mols]


def test_unknown_molecules_are_asked_about_together_and_once(batched):
    model, questions = batched(sizes)
    frame = model.score(["CC", "C", "C1CC", "C-C", "CCC", "C", "OCC"])
    assert questions == [["CC", "C", "CCC", "CCO"]]  # canonical
    assert frame["raw_sizes"].fillna(-1).tolist() == [2, 1, -1, 2, 3, 1, 3]
    assert frame["reward"].tolist() == pytest.approx([0.2, 0.1, 0, 0.2, 0.3, 0.1, 0.3], abs=1e-15)
    model.score(["CCC", "CCCC", "OO("])
    model.score(["CCC", ""])
    model.score([])
    assert questions[1:] == [["CCCC"]]  # never asked about nothing


@pytest.mark.parametrize(
    "form", [tuple, np.array, pd.Series, iter, lambda values: map(int, values)]
)
def test_any_list_of_numbers_will_do(batched, form):
    model, _ = batched(lambda mols: form(sizes(mols)))
    assert model.score(MOLECULES)["raw_sizes"].tolist() == [1, 2, 3, 4, 5]


def refuse_three(mols):
    if any(mol.GetNumAtoms() == 3 for mol in mols):
        raise RuntimeError("three\nis a crowd")
    return sizes(mols)


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (refuse_three, "three is a crowd"),
        # values for fewer molecules never shift to their neighbours
        (lambda mols: [n for n in sizes(mols) if n != 3], "it returned 0 values for 1 molecules"),
    ],
)
def test_what_spoils_a_batch_costs_the_guilty_only(batched, score, reason):
    model, questions = batched(score)
    frame = model.score(MOLECULES)
    assert frame["raw_sizes"].fillna(-1).tolist() == [1, 2, -1, 4, 5]
    assert frame["reason"].fillna("").tolist() == [
        *("", ""), f"component sizes failed: {reason}", *("", ""),
    ]  # fmt: skip
    assert frame.loc[2, "reward"] == 0.0
    assert questions == [MOLECULES, *([smiles] for smiles in MOLECULES)]


def test_a_list_that_the_component_shortens_or_turns_is_its_own(batched):
    def careless(mols):
        values = sizes(mols)
        mols.reverse()
        mols.pop()
        return values

    assert batched(careless)[0].score(MOLECULES)["raw_sizes"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "it returned None, not a number"),
        ("3", "it returned '3', not a number"),
        ([3], "it returned [3], not a number"),
        (3j, "it returned 3j, not a number"),
        (10**400, "not a number"),
        ("x" * 500, f"it returned '{'x' * 76}..., not a number"),
        (math.nan, "it returned nan"),
        (-math.inf, "it returned -inf"),
        (Failure("no\n conformer"), "no conformer"),
    ],
)
def test_one_wrong_value_costs_one_molecule(batched, value, reason):
    model, questions = batched(lambda mols: [value if n == 3 else n for n in sizes(mols)])
    frame = model.score(MOLECULES)
    assert frame["raw_sizes"].fillna(-1).tolist() == [1, 2, -1, 4, 5]
    assert re.fullmatch(f"component sizes failed: .*{re.escape(reason)}", frame.loc[2, "reason"])
    assert len(questions) == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "'NoneType' object is not iterable"),
        ("12345", "it returned '12345', not a list of numbers"),
        ({1, 2, 3, 4, 5}, "it returned {1, 2, 3, 4, 5}, not a list of numbers"),
        (dict.fromkeys(range(5)), "not a list of numbers"),
    ],
)
def test_something_that_is_no_list_is_no_score(batched, value, reason):
    frame = batched(lambda _: value)[0].score(MOLECULES)
    assert frame["raw_sizes"].isna().all()
    assert (frame["reward"] == 0).all()
    assert frame["reason"].str.endswith(reason).all()


# ---- filters, penalties, costly components


MAPPED = {0: 0.25, 1: 0.49, 2: 0.5, 3: 1}


@pytest.fixture
def asked(register):
    """`docking` and `purchase` are costly; every question to a component is noted."""

    def docking(mol):
        if count("Br")(mol):
            raise RuntimeError("no pose")
        return 0.8

    def without(symbol):
        return lambda mol: 0.0 if count(symbol)(mol) else 1.0

    return {
        "docking": register("docking", docking, costly=True),
        "purchase": register("purchase", without("S"), costly=True),
        "nitrogens": register("nitrogens", count("N"), (0, math.inf)),
        "half": register("half", lambda _: 0.5),
        "no_oxygen": register("no_oxygen", without("O")),
    }


SCREEN = [
    {"kind": "docking", "weight": 3},  # first in the config, and asked last all the same
    {"kind": "nitrogens", "role": "filter", "transform": {"kind": "value_map", "values": MAPPED}},
    {"kind": "half"},
    {"kind": "no_oxygen", "role": "filter"},
]
# nitrogen atoms 3 and 2 pass (1 and .5), 1 and 0 do not (.49 and .25); oxygen never passes
PASSING = ["N=NN", "NCN"]
FAILING = ["CN", "CC", "NCNO", "CO"]


def test_a_filter_passes_from_one_half_on_and_else_the_reward_is_0(asked):
    frame = reward_of(*SCREEN).score([*PASSING, *FAILING])
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
    model = reward_of(*SCREEN)
    frame = model.score([*FAILING, *PASSING])
    assert asked["docking"] == PASSING  # canonical as they stand
    assert len(asked["half"]) == len(asked["no_oxygen"]) == 6  # the cheap ones hear of all
    for column in ("raw_docking", "score_docking"):
        assert frame[column].isna().tolist() == [True] * 4 + [False] * 2
    assert (model.failures["docking"].attempts, model.failures["docking"].failed) == (2, 0)
    model.score(["NC", *FAILING])
    assert len(asked["docking"]) == 2  # nor later


def test_a_costly_filter_comes_before_the_other_costly_ones(asked):
    filters = [{"kind": kind, "role": "filter"} for kind in ("purchase", "no_oxygen")]
    frame = reward_of("docking", *filters).score(["CS", "CO", "CC"])
    assert asked["no_oxygen"] == ["CS", "CO", "CC"]
    assert asked["purchase"] == ["CS", "CC"]
    assert asked["docking"] == ["CC"]
    assert frame["reward"].tolist() == pytest.approx([0, 0, 0.8], abs=1e-15)
    assert frame["reason"].fillna("").tolist() == [
        *("filter purchase failed", "filter no_oxygen failed", "")
    ]


def test_a_filter_that_cannot_tell_lets_nothing_pass(asked, register):
    register("picky", lambda _: math.nan)
    row = reward_of("docking", {"kind": "picky", "role": "filter"}).score(["CC"]).loc[0]
    assert asked["docking"] == []
    assert (row["reward"], row["reason"]) == (0.0, "component picky failed: it returned nan")


def test_a_value_without_a_score_says_so(asked):
    row = reward_of(*SCREEN).score(["NN(N)NN"]).loc[0]
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
        *("docking", "half"),
        {"kind": "nitrogens", "role": "penalty", "transform": line},
        {"kind": "half", "name": "again", "role": "penalty"},
    ]
    frame = reward_of(*parts, aggregate=aggregate).score(["CC", "CN", "NCN", "NN(N)NN"])
    expected = [joined * 0.5, joined * 0.75 * 0.5, joined * 0.5 * 0.5, 0.0]
    assert frame["reward"].tolist() == pytest.approx(expected, abs=1e-15)
    assert frame["reason"].isna().all()  # a penalty of 0 is no failure


def test_a_penalty_that_fails_costs_the_reward(asked):
    row = reward_of("half", {"kind": "docking", "role": "penalty"}).score(["CBr"]).loc[0]
    assert (row["reward"], row["reason"]) == (0.0, "component docking failed: no pose")


# ---- several scores to one reward


@pytest.mark.parametrize(
    ("aggregate", "scores", "weights", "expected"),
    [
        ("geometric_mean", [0.25, 1.0], [1, 1], 0.5),  # sqrt(1/4)
        # (0.5^3 * 0.008^1)^(1/4) = (0.001)^(1/4)
        ("geometric_mean", [0.5, 0.008], [3, 1], 0.001**0.25),
        ("geometric_mean", [0.2, 0.9], [0.05, 0.15], (0.2 * 0.9**3) ** 0.25),  # the ratio counts
        ("geometric_mean", [0.0, 1.0], [1, 99], 0.0),
        ("arithmetic_mean", [0.25, 1.0], [1, 1], 0.625),
        ("arithmetic_mean", [0.5, 0.1], [3, 1], 0.4),  # 1.6 / 4
        ("arithmetic_mean", [0.0, 1.0], [1, 99], 0.99),
        ("product", [0.5, 0.4, 0.5], [1, 1, 1], 0.1),
        ("product", [0.5, 0.4], [2, 1], 0.1),  # .25 * .4: exponents
        ("product", [0.0, 1.0], [1, 99], 0.0),
        ("minimum", [0.7, 0.2, 0.9], [1, 5, 1], 0.2),
        ("minimum", [0.0, 1.0], [1, 99], 0.0),
    ],
)
def test_aggregates_by_hand(aggregate, scores, weights, expected):
    assert AGGREGATES[aggregate](scores, weights) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("join", AGGREGATES.values())
def test_what_every_aggregate_keeps(join):
    assert join([0.3], [1]) == 0.3
    assert join([1.0] * 7, [0.1, 0.7, 1 / 3, 1e-9, 1e9, 2, 0.3]) == 1.0  # never more
    for scores in ([0.0, math.nan], [math.nan, 0.0], [math.nan]):
        assert math.isnan(join(scores, [1] * len(scores)))
    with pytest.raises(ValueError, match="zip"):
        join([0.1, 0.2], [1])
