"""Batched components: asked together, and a molecule that spoils the batch fails alone."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

from chemkl.rewards import Failure, RewardModel, component
from chemkl.rewards.registry import COMPONENTS, find_component

MOLECULES = ["C", "CC", "CCC", "CCCC", "CCCCC"]


@pytest.fixture
def batched(monkeypatch):
    """Register a batched component for one test; give the reward of it and the calls it got."""

    def add(score, **flags):
        calls = []

        def factory():
            def noted(mols):
                calls.append([mol.GetNumAtoms() for mol in mols])
                return score(mols)

            return noted

        monkeypatch.delitem(COMPONENTS, "sizes", raising=False)
        component("sizes", range=(0, 9), source="this test", batched=True, **flags)(factory)
        transform = {"kind": "linear_clip", "low": 0, "high": 10}
        return RewardModel.from_config(
            {"components": [{"kind": "sizes", "transform": transform}]}
        ), calls

    yield add
    COMPONENTS.pop("sizes", None)


def sizes(mols):
    return [mol.GetNumAtoms() for mol in mols]


def test_the_decorator_says_what_it_is_told(batched):
    batched(sizes, costly=True)
    assert (find_component("sizes").batched, find_component("sizes").costly) == (True, True)
    assert (find_component("qed").batched, find_component("qed").costly) == (False, False)


def test_unknown_molecules_are_asked_about_together_and_once(batched):
    model, calls = batched(sizes)
    frame = model.score(["CC", "C", "C1CC", "C-C", "CCC", "C"])
    assert calls == [[2, 1, 3]]
    assert frame["raw_sizes"].fillna(-1).tolist() == [2, 1, -1, 2, 3, 1]
    assert frame["reward"].tolist() == pytest.approx([0.2, 0.1, 0, 0.2, 0.3, 0.1], abs=1e-15)
    model.score(["CCC", "CCCC", "OO("])
    assert calls == [[2, 1, 3], [4]]
    model.score(["CCC", ""])
    model.score([])
    assert len(calls) == 2  # never asked about nothing


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


def leave_three_out(mols):
    return [n for n in sizes(mols) if n != 3]


def test_an_exception_in_a_batch_costs_the_guilty_only(batched):
    model, calls = batched(refuse_three)
    frame = model.score(MOLECULES)
    assert frame["raw_sizes"].fillna(-1).tolist() == [1, 2, -1, 4, 5]
    assert frame.loc[2, "reason"] == "component sizes failed: three is a crowd"
    assert frame.loc[2, "reward"] == 0.0
    assert frame["reason"].isna().tolist() == [True, True, False, True, True]
    assert calls == [[1, 2, 3, 4, 5], [1], [2], [3], [4], [5]]


def test_values_for_fewer_molecules_never_shift_to_their_neighbours(batched):
    model, _ = batched(leave_three_out)
    frame = model.score(MOLECULES)
    assert frame["raw_sizes"].fillna(-1).tolist() == [1, 2, -1, 4, 5]
    assert frame.loc[2, "reason"] == (
        "component sizes failed: it returned 0 values for 1 molecules"
    )


def test_a_list_that_the_component_shortens_or_turns_is_its_own(batched):
    def careless(mols):
        values = sizes(mols)
        mols.reverse()
        mols.pop()
        return values

    model, _ = batched(careless)
    assert model.score(MOLECULES)["raw_sizes"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "it returned None, not a number"),
        ("3", "it returned '3', not a number"),
        ([3], "it returned [3], not a number"),
        (3j, "it returned 3j, not a number"),
        (10**400, "not a number"),
        ("x" * 500, f"it returned '{'x' * 56}..., not a number"),
        (math.nan, "it returned nan"),
        (-math.inf, "it returned -inf"),
        (Failure("no\n conformer"), "no conformer"),
    ],
)
def test_one_wrong_value_costs_one_molecule(batched, value, reason):
    model, calls = batched(lambda mols: [value if n == 3 else n for n in sizes(mols)])
    frame = model.score(MOLECULES)
    assert frame["raw_sizes"].fillna(-1).tolist() == [1, 2, -1, 4, 5]
    assert frame.loc[2, "reason"].startswith("component sizes failed: ")
    assert frame.loc[2, "reason"].endswith(reason)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "'NoneType' object is not iterable"),
        (0.5, "'float' object is not iterable"),
        ("12345", "it returned '12345', not a list of numbers"),
        ({1, 2, 3, 4, 5}, "it returned {1, 2, 3, 4, 5}, not a list of numbers"),
        (dict.fromkeys(range(5)), "not a list of numbers"),
    ],
)
def test_something_that_is_no_list_is_no_score(batched, value, reason):
    model, _ = batched(lambda _: value)
    frame = model.score(MOLECULES)
    assert frame["raw_sizes"].isna().all()
    assert (frame["reward"] == 0).all()
    assert frame["reason"].str.endswith(reason).all()


def test_one_by_one_and_together_are_the_same(batched):
    model, _ = batched(sizes)
    together = model.score(MOLECULES)
    other, _ = batched(sizes)
    alone = pd.concat([other.score([smiles]) for smiles in MOLECULES], ignore_index=True)
    pd.testing.assert_frame_equal(together, alone, check_exact=True)


def test_answers_travel_between_processes(batched):
    model, _ = batched(refuse_three)
    raw = model.score_molecule("CCC")
    back = pickle.loads(pickle.dumps(raw))
    assert (back.failures, back.scaffold) == (raw.failures, raw.scaffold)
    assert math.isnan(back.values["sizes"])
    assert [str(each) for each in back.failures] == ["component sizes failed: three is a crowd"]


def test_mols_are_what_rdkit_reads_from_the_canonical_smiles(batched):
    seen = []
    model, _ = batched(lambda mols: seen.extend(map(Chem.MolToSmiles, mols)) or sizes(mols))
    model.score(["OCC", "C(C)N"])
    assert seen == ["CCO", "CCN"]
