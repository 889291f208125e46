"""Order of components, failures of batches and values, filters, penalties, aggregates."""

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


def sizes(mols):
    return [mol.GetNumAtoms() for mol in mols]


# ---- batched components: a molecule that spoils the batch fails alone


@pytest.fixture
def batched(register):
    """Register the batched component `sizes`; return a reward of it, and its calls."""

    def make(score):
        calls = register("sizes", score, (0, 9), batched=True)
        return reward_of({"kind": "sizes", "transform": TENTH}), calls

    return make


def test_a_batch_has_every_new_molecule_once(batched):
    model, calls = batched(sizes)
    frame = model.score(["CC", "C", "C1CC", "C-C", "CCC", "C", "OCC"])
    assert calls == [["CC", "C", "CCC", "CCO"]]  # canonical
    assert frame["raw_sizes"].fillna(-1).tolist() == [2, 1, -1, 2, 3, 1, 3]
    assert frame["reward"].tolist() == pytest.approx([0.2, 0.1, 0, 0.2, 0.3, 0.1, 0.3], abs=1e-15)
    for batch in (["CCC", "CCCC", "OO("], ["CCC", ""], []):
        model.score(batch)
    assert calls[1:] == [["CCCC"]]  # never an empty batch


def in_place(mols):
    values = sizes(mols)
    mols.reverse()
    mols.pop()
    return values


FORMS = [tuple, np.array, pd.Series, iter, lambda values: map(int, values)]


@pytest.mark.parametrize(
    "score", [*(lambda mols, form=form: form(sizes(mols)) for form in FORMS), in_place]
)
def test_any_list_of_numbers_is_accepted_and_the_list_of_molecules_may_be_changed(batched, score):
    assert batched(score)[0].score(MOLECULES)["raw_sizes"].tolist() == [1, 2, 3, 4, 5]


def refuse_three(mols):
    if any(mol.GetNumAtoms() == 3 for mol in mols):
        raise RuntimeError("three\nis a crowd")
    return sizes(mols)


SPOILT = [
    (refuse_three, "three is a crowd"),
    # values for fewer molecules never shift to their neighbours
    (lambda mols: [n for n in sizes(mols) if n != 3], "it returned 0 values for 1 molecules"),
]
WRONG = [
    (None, "it returned None, not a number"),
    ("3", "it returned '3', not a number"),
    ([3], "it returned [3], not a number"),
    (3j, "it returned 3j, not a number"),
    (10**400, "not a number"),
    ("x" * 500, f"it returned '{'x' * 76}..., not a number"),
    (math.nan, "it returned nan"),
    (-math.inf, "it returned -inf"),
    (Failure("no\n conformer"), "no conformer"),
]


def with_value(value):
    return lambda mols: [value if n == 3 else n for n in sizes(mols)]


@pytest.mark.parametrize(
    ("score", "reason", "n_calls"),
    [
        *((score, reason, 6) for score, reason in SPOILT),
        *((with_value(value), reason, 1) for value, reason in WRONG),
    ],
)
def test_a_failure_in_a_batch_fails_one_molecule(batched, score, reason, n_calls):
    model, calls = batched(score)
    frame = model.score(MOLECULES)
    assert frame["raw_sizes"].fillna(-1).tolist() == [1, 2, -1, 4, 5]
    assert frame["reason"].isna().tolist() == [True, True, False, True, True]
    assert re.fullmatch(f"component sizes failed: .*{re.escape(reason)}", frame.loc[2, "reason"])
    assert frame.loc[2, "reward"] == 0.0
    assert calls == [MOLECULES, *([smiles] for smiles in MOLECULES)][:n_calls]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "'NoneType' object is not iterable"),
        ("12345", "it returned '12345', not a list of numbers"),
        ({1, 2, 3, 4, 5}, "it returned {1, 2, 3, 4, 5}, not a list of numbers"),
        (dict.fromkeys(range(5)), "not a list of numbers"),
    ],
)
def test_something_that_is_no_list_fails_all(batched, value, reason):
    frame = batched(lambda _: value)[0].score(MOLECULES)
    assert frame["raw_sizes"].isna().all()
    assert (frame["reward"] == 0).all()
    assert frame["reason"].str.endswith(reason).all()


# ---- filters, penalties, costly components

MAPPED = {0: 0.25, 1: 0.49, 2: 0.5, 3: 1}
SCREEN = [
    {"kind": "docking", "weight": 3},  # first in the config, but costly
    {"kind": "nitrogens", "role": "filter", "transform": {"kind": "value_map", "values": MAPPED}},
    {"kind": "half"},
    {"kind": "no_oxygen", "role": "filter"},
]
# nitrogen atoms 3 and 2 pass (1 and .5), 1 and 0 do not (.49 and .25); oxygen never passes
PASSING, FAILING = ["N=NN", "NCN"], ["CN", "CC", "NCNO", "CO"]


@pytest.fixture
def calls(register):
    """`docking` and `purchase` are costly; the calls of every component."""

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
        "picky": register("picky", lambda _: math.nan),
    }


def test_a_score_of_one_half_passes_a_filter_and_less_costs_the_reward_and_the_costly_parts(calls):
    model = reward_of(*SCREEN)
    frame = model.score([*PASSING, *FAILING])
    paid = (0.8**3 * 0.5) ** (1 / 4)  # without the filters' scores
    assert frame["reward"].tolist() == pytest.approx([paid, paid, 0, 0, 0, 0], abs=1e-15)
    assert frame["valid"].all()
    assert frame["reason"].fillna("").tolist() == [
        *("", ""),
        *("filter nitrogens failed", "filter nitrogens failed", "filter no_oxygen failed"),
        "filter nitrogens failed; filter no_oxygen failed",
    ]
    assert frame["score_nitrogens"].tolist() == [1, 0.5, 0.49, 0.25, 0.5, 0.25]
    assert calls["docking"] == PASSING  # canonical
    assert len(calls["half"]) == len(calls["no_oxygen"]) == 6
    for column in ("raw_docking", "score_docking"):
        assert frame[column].isna().tolist() == [False] * 2 + [True] * 4
    assert (model.failures["docking"].attempts, model.failures["docking"].failed) == (2, 0)
    model.score(["NC", *FAILING])
    assert len(calls["docking"]) == 2


def test_a_costly_filter_comes_before_the_other_costly_components(calls):
    filters = [{"kind": kind, "role": "filter"} for kind in ("purchase", "no_oxygen")]
    frame = reward_of("docking", *filters).score(["CS", "CO", "CC"])
    assert calls["no_oxygen"] == ["CS", "CO", "CC"]
    assert (calls["purchase"], calls["docking"]) == (["CS", "CC"], ["CC"])
    assert frame["reward"].tolist() == pytest.approx([0, 0, 0.8], abs=1e-15)
    assert frame["reason"].fillna("").tolist() == [
        *("filter purchase failed", "filter no_oxygen failed", "")
    ]


@pytest.mark.parametrize(
    ("parts", "smiles", "reason", "n_docked"),
    [
        (["docking", {"kind": "picky", "role": "filter"}], "CC",
         "component picky failed: it returned nan", 0),
        (SCREEN, "NN(N)NN",
         "component nitrogens failed: its transform has no score for the value 5", 0),
        (["half", {"kind": "docking", "role": "penalty"}], "CBr",
         "component docking failed: no pose", 1),
    ],
)  # fmt: skip
def test_a_filter_or_penalty_without_a_score_costs_the_reward(
    calls, parts, smiles, reason, n_docked
):
    row = reward_of(*parts).score([smiles]).loc[0]
    assert (row["reward"], row["reason"]) == (0.0, reason)
    assert len(calls["docking"]) == n_docked
    if parts is SCREEN:
        assert row["raw_nitrogens"] == 5
        assert math.isnan(row["score_nitrogens"])


@pytest.mark.parametrize(
    ("aggregate", "joined"),
    [
        ("geometric_mean", math.sqrt(0.8 * 0.5)),
        ("arithmetic_mean", 0.65),
        ("product", 0.4),
        ("minimum", 0.5),
    ],
)
def test_penalties_multiply_the_aggregate(calls, aggregate, joined):
    line = {"kind": "linear_clip", "low": 4, "high": 0}  # 1 nitrogen .75, 2 nitrogens .5
    parts = [
        *("docking", "half"),
        {"kind": "nitrogens", "role": "penalty", "transform": line},
        {"kind": "half", "name": "again", "role": "penalty"},
    ]
    frame = reward_of(*parts, aggregate=aggregate).score(["CC", "CN", "NCN", "NN(N)NN"])
    expected = [joined * 0.5, joined * 0.75 * 0.5, joined * 0.5 * 0.5, 0.0]
    assert frame["reward"].tolist() == pytest.approx(expected, abs=1e-15)
    assert frame["reason"].isna().all()  # a penalty of 0 is not a failure


# ---- aggregates


@pytest.mark.parametrize(
    ("aggregate", "scores", "weights", "expected"),
    [
        ("geometric_mean", [0.25, 1.0], [1, 1], 0.5),  # sqrt(1/4)
        ("geometric_mean", [0.5, 0.008], [3, 1], 0.001**0.25),  # (0.5^3 * 0.008^1)^(1/4)
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
def test_properties_of_every_aggregate(join):
    assert join([0.3], [1]) == 0.3
    assert join([1.0] * 7, [0.1, 0.7, 1 / 3, 1e-9, 1e9, 2, 0.3]) == 1.0  # never more
    for scores in ([0.0, math.nan], [math.nan, 0.0], [math.nan]):
        assert math.isnan(join(scores, [1] * len(scores)))
    with pytest.raises(ValueError, match="zip"):
        join([0.1, 0.2], [1])
