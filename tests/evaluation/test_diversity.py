"""Diversity of molecules: against loops, enumeration and the packages of the authors."""

import itertools

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from vendi_score import vendi

from chemkl.chem.fingerprints import tanimoto_matrix
from chemkl.evaluation.diversity import (
    butina_clusters,
    hamiltonian_diversity,
    int_div_moses,
    int_div_pairs,
    leaders,
    sphere_exclusion,
    vendi_score,
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


def test_int_div_against_loops(fingerprints, real_smiles):
    n = len(fingerprints)
    similarities = [[similarity(a, b) for b in fingerprints] for a in fingerprints]
    for p in (1, 2):
        per_molecule = [(sum(t**p for t in row) / n) ** (1 / p) for row in similarities]
        expected = 1 - sum(per_molecule) / n
        assert int_div_moses(fingerprints)[p] == pytest.approx(expected, abs=1e-12)
    bits = morgan(real_smiles[:120], n_bits=2048)
    distances = [1 - similarity(a, b) for a, b in itertools.combinations(bits, 2)]
    assert int_div_pairs(bits) == pytest.approx(sum(distances) / len(distances), abs=1e-12)


@pytest.mark.parametrize("distance", [0.5, 0.65, 0.75, 0.85])
def test_leaders_are_picked_in_the_order_of_the_molecules(fingerprints, distance):
    naive = []
    for i, bits in enumerate(fingerprints):
        if all(1 - similarity(bits, fingerprints[j]) > distance for j in naive):
            naive.append(i)
    assert leaders(fingerprints, distance) == naive


def test_sediv_of_a_thousand_copies_of_two_molecules_is_two_leaders(fingerprints):
    assert sphere_exclusion(morgan(["c1ccccc1", "CCCCCCCCO"]) * 600) == 2 / 1000
    assert sphere_exclusion(fingerprints) is None  # fewer than a thousand


@pytest.mark.parametrize(("smiles", "value", "n"), [([], None, 0), (["CCO"], 0.0, 1)])
def test_no_molecule_and_one(smiles, value, n):
    bits = morgan(smiles)
    assert int_div_moses(bits) == {1: value, 2: value}
    assert int_div_pairs(bits) is None
    assert len(leaders(bits, 0.75)) == n


# ---- from the distance matrix


@pytest.fixture(scope="module")
def matrix(real_smiles):
    return tanimoto_matrix(morgan(real_smiles, n_bits=2048))


@pytest.mark.filterwarnings("ignore:Please import `csr_matrix`:DeprecationWarning")
def test_vendi_against_the_package_of_its_authors(matrix):
    for n in (1, 2, 50, 200):
        expected = vendi.score_K(matrix[:n, :n])
        assert vendi_score(matrix[:n, :n]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [3, 4, 6, 8])
def test_tour_is_close_to_the_shortest_and_never_below(matrix, n):
    tours = [(0, *rest) for rest in itertools.permutations(range(1, n))]
    # 3 molecules have one tour; of the 3 tours of 4 molecules each is one swap from the others
    for start in range(0, 5 * n, n):
        distance = 1 - matrix[start : start + n, start : start + n]
        shortest = min(sum(distance[t[i], t[(i + 1) % n]] for i in range(n)) for t in tours)
        limit = shortest * (1.05 if n > 4 else 1)
        assert shortest - 1e-12 <= hamiltonian_diversity(distance) <= limit + 1e-12


def test_points_on_a_circle_are_visited_in_its_order():
    # a tour in the plane that no swap shortens has no crossing, and on a circle only one has none
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 60)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    tour = np.argsort(angles)
    expected = distance[tour, np.roll(tour, -1)].sum()
    assert hamiltonian_diversity(distance) == pytest.approx(expected)


def test_small_sets():
    empty = np.ones((0, 0))
    assert vendi_score(empty) is None
    assert hamiltonian_diversity(empty) is None
    assert butina_clusters(empty, 0.5) == []
    assert hamiltonian_diversity(np.zeros((1, 1))) == 0
    assert hamiltonian_diversity(np.array([[0, 0.3], [0.3, 0]])) == pytest.approx(0.6)


def test_butina_starts_with_the_molecule_with_most_neighbours():
    # on a line: 0 sees 1; 1 sees 0, 2; 2 sees 1, 3, 4; 3 and 4 see 2 and each other; 5 is alone
    place = np.array([0.0, 1.0, 2.0, 2.9, 3.0, 9.0])
    first, *others = butina_clusters(np.abs(place[:, None] - place[None]), 1.0)
    # 2 has three neighbours, and takes 1, 3 and 4 with it; 0 and 5 are left
    assert (first[0], set(first)) == (2, {1, 2, 3, 4})
    assert sorted(cluster[0] for cluster in others) == [0, 5]
