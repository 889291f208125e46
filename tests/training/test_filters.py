"""Diversity filters: what they pay, exactly, and in which order."""

import random

import numpy as np
import pandas as pd
import pytest
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.config.filters import MurckoFilterConfig
from chemkl.training.filters import MurckoBucket, build_filter


def scaffold_rows(pairs):
    """Rows of (scaffold, reward); None stands for an invalid row."""
    return pd.DataFrame(pairs, columns=["scaffold", "reward"])


def test_a_bucket_of_10_pays_exactly_10_of_40_molecules_in_one_batch():
    smiles = [f"c1ccccc1{'C' * n}" for n in range(1, 41)]
    scaffolds = [MurckoScaffold.MurckoScaffoldSmiles(s) for s in smiles]
    assert set(scaffolds) == {"c1ccccc1"}
    batch = scaffold_rows([(scaffold, 0.9) for scaffold in scaffolds])
    assert MurckoBucket(10, 0.4)(batch).tolist() == [0.9] * 10 + [0.0] * 30
    assert batch["reward"].tolist() == [0.9] * 40  # what was earned stays in the trace


def test_each_scaffold_has_a_bucket_of_its_own_and_the_acyclic_ones_share_theirs():
    batch = scaffold_rows([("C1CC1", 0.8), ("", 0.8), ("C1CCC1", 0.8), ("", 0.7), ("C1CC1", 0.6)])
    assert MurckoBucket(1, 0.4)(batch).tolist() == [0.8, 0.8, 0.8, 0.0, 0.0]


def test_rewards_below_the_minimum_are_not_counted_and_not_touched():
    batch = scaffold_rows([("C1CC1", 0.39), ("C1CC1", 0.4), ("C1CC1", 0.39), ("C1CC1", 0.4)])
    assert MurckoBucket(1, 0.4)(batch).tolist() == [0.39, 0.4, 0.39, 0.0]


def test_rows_without_a_scaffold_are_left_alone():
    batch = scaffold_rows([(None, 0.0), (np.nan, 0.0), ("C1CC1", 0.9), (None, 0.0)])
    assert MurckoBucket(1, 0.0)(batch).tolist() == [0.0, 0.0, 0.9, 0.0]


def test_the_same_molecule_again_takes_another_place():
    batch = scaffold_rows([("C1CC1", 0.9)] * 3)
    assert MurckoBucket(2, 0.4)(batch).tolist() == [0.9, 0.9, 0.0]


@pytest.mark.parametrize("cut", [1, 17, 50, 99])
def test_rows_in_two_batches_are_paid_as_in_one(cut):
    rng = random.Random(cut)
    whole = scaffold_rows([(rng.choice(["", "C1CC1", None]), rng.random()) for _ in range(100)])
    parts = MurckoBucket(5, 0.3)
    paid = [*parts(whole[:cut]), *parts(whole[cut:])]
    assert paid == MurckoBucket(5, 0.3)(whole).tolist()
    assert sum(p == 0.0 for p in paid) > 10


def test_a_filter_is_built_from_its_config():
    filtered = build_filter(MurckoFilterConfig(kind="murcko", bucket=2, min_score=0.5))
    batch = scaffold_rows([("C1CC1", 0.9), ("C1CC1", 0.45), ("C1CC1", 0.9), ("C1CC1", 0.9)])
    assert filtered(batch).tolist() == [0.9, 0.45, 0.9, 0.0]
