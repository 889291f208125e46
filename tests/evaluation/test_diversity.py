import itertools
import math

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from chemkl.evaluation.diversity import (
    circles,
    int_div_moses,
    int_div_pairs,
    leaders,
    sphere_exclusion,
)


def morgan(smiles, n_bits=1024):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=n_bits)
    return [generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in smiles]


@pytest.fixture
def fingerprints(real_smiles):
    return morgan(real_smiles[:120])


def similarity(a, b):
    """Tanimoto from the sets of bits, without RDKit's own similarity."""
    a, b = set(a.GetOnBits()), set(b.GetOnBits())
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("p", [1, 2])
def test_int_div_moses_against_loops_over_all_pairs(fingerprints, p):
    n = len(fingerprints)
    per_molecule = [
        (sum(similarity(a, b) ** p for b in fingerprints) / n) ** (1 / p) for a in fingerprints
    ]
    expected = 1 - sum(per_molecule) / n
    assert int_div_moses(fingerprints)[p] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_int_div_moses_against_the_matrix_formula_of_molsets(fingerprints, p):
    # molsets 0.3.1, average_agg_tanimoto(fps, fps, agg="mean", p=p), on dense vectors
    x = np.array([list(f) for f in fingerprints], dtype=float)
    common = x @ x.T
    jaccard = common / (x.sum(1, keepdims=True) + x.sum(1) - common)
    expected = 1 - np.mean(((jaccard**p).sum(0) / len(x)) ** (1 / p))
    assert int_div_moses(fingerprints)[p] == pytest.approx(expected, abs=1e-12)


def test_int_div_of_two_molecules_by_hand():
    two = morgan(["CCO", "CCN"])
    t = similarity(*two)
    assert 0 < t < 1
    values = int_div_moses(two)
    assert values[1] == pytest.approx(1 - (1 + t) / 2)
    assert values[2] == pytest.approx(1 - math.sqrt((1 + t * t) / 2))
    assert int_div_pairs(two) == pytest.approx(1 - t)


def test_int_div_pairs_against_a_loop(real_smiles):
    bits = morgan(real_smiles[:120], n_bits=2048)
    distances = [1 - similarity(a, b) for a, b in itertools.combinations(bits, 2)]
    assert int_div_pairs(bits) == pytest.approx(sum(distances) / len(distances), abs=1e-12)


def test_the_two_conventions_differ_by_the_diagonal(fingerprints):
    # same bits: MOSES counts n pairs (i, i) at distance 0 among n^2
    n = len(fingerprints)
    assert int_div_moses(fingerprints)[1] == pytest.approx(
        int_div_pairs(fingerprints) * (n - 1) / n
    )


def test_circles_is_a_packing_that_nothing_can_join(fingerprints):
    chosen = leaders(fingerprints, 0.75)
    assert circles(fingerprints) == len(chosen)
    for i, j in itertools.combinations(chosen, 2):
        assert 1 - similarity(fingerprints[i], fingerprints[j]) > 0.75
    for i in set(range(len(fingerprints))) - set(chosen):
        assert any(1 - similarity(fingerprints[i], fingerprints[j]) <= 0.75 for j in chosen)


@pytest.mark.parametrize("distance", [0.5, 0.65, 0.75, 0.85])
def test_circles_takes_the_first_molecule_that_fits_in_the_given_order(fingerprints, distance):
    naive = []
    for i, bits in enumerate(fingerprints):
        if all(1 - similarity(bits, fingerprints[j]) > distance for j in naive):
            naive.append(i)
    assert leaders(fingerprints, distance) == naive


def test_circles_depends_on_the_order(fingerprints):
    assert leaders(fingerprints, 0.75)[0] == 0
    assert leaders(fingerprints[::-1], 0.75)[0] == 0  # the last molecule, now in front


def test_sediv_needs_a_thousand_molecules(fingerprints):
    assert sphere_exclusion(fingerprints) is None


def test_sediv_of_a_thousand_copies_of_two_molecules_is_two_leaders():
    benzene, octanol = morgan(["c1ccccc1", "CCCCCCCCO"])
    assert sphere_exclusion([benzene, octanol] * 600) == 2 / 1000


def test_empty_sets_have_no_diversity_and_no_circles():
    assert int_div_moses([]) == {1: None, 2: None}
    assert int_div_pairs([]) is None
    assert circles([]) == 0


def test_one_molecule_is_one_circle_and_no_pair():
    one = morgan(["CCO"])
    assert int_div_moses(one) == {1: 0.0, 2: 0.0}
    assert int_div_pairs(one) is None
    assert circles(one) == 1


def test_bits_are_compared_as_rdkit_compares_them(fingerprints):
    a, b = fingerprints[:2]
    assert similarity(a, b) == pytest.approx(DataStructs.TanimotoSimilarity(a, b))
