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


@pytest.mark.parametrize("p", [1, 2])
def test_int_div_moses_against_loops_over_all_pairs(fingerprints, p):
    n = len(fingerprints)
    per_molecule = [
        (sum(similarity(a, b) ** p for b in fingerprints) / n) ** (1 / p) for a in fingerprints
    ]
    expected = 1 - sum(per_molecule) / n
    assert int_div_moses(fingerprints)[p] == pytest.approx(expected, abs=1e-12)


def test_int_div_pairs_against_a_loop(real_smiles):
    bits = morgan(real_smiles[:120], n_bits=2048)
    distances = [1 - similarity(a, b) for a, b in itertools.combinations(bits, 2)]
    assert int_div_pairs(bits) == pytest.approx(sum(distances) / len(distances), abs=1e-12)


@pytest.mark.parametrize("distance", [0.5, 0.65, 0.75, 0.85])
def test_leaders_take_the_first_molecule_that_fits_in_the_given_order(fingerprints, distance):
    naive = []
    for i, bits in enumerate(fingerprints):
        if all(1 - similarity(bits, fingerprints[j]) > distance for j in naive):
            naive.append(i)
    assert leaders(fingerprints, distance) == naive


def test_sediv_of_a_thousand_copies_of_two_molecules_is_two_leaders(fingerprints):
    benzene, octanol = morgan(["c1ccccc1", "CCCCCCCCO"])
    assert sphere_exclusion([benzene, octanol] * 600) == 2 / 1000
    assert sphere_exclusion(fingerprints) is None  # fewer than a thousand


@pytest.mark.parametrize(("smiles", "value", "n"), [([], None, 0), (["CCO"], 0.0, 1)])
def test_no_molecule_and_one(smiles, value, n):
    bits = morgan(smiles)
    assert int_div_moses(bits) == {1: value, 2: value}
    assert int_div_pairs(bits) is None
    assert len(leaders(bits, 0.75)) == n


# ---- from the matrix of all distances


@pytest.fixture
def matrix(real_smiles):
    return tanimoto_matrix(morgan(real_smiles, n_bits=2048))


def shortest(distance):
    """Every closed tour, the first molecule fixed."""
    n = len(distance)
    tours = ((0, *rest) for rest in itertools.permutations(range(1, n)))
    return min(sum(distance[t[i], t[(i + 1) % n]] for i in range(n)) for t in tours)


@pytest.mark.filterwarnings("ignore:Please import `csr_matrix`:DeprecationWarning")
def test_vendi_against_the_package_of_its_authors(matrix):
    for n in (1, 2, 50, 200):
        expected = vendi.score_K(matrix[:n, :n])
        assert vendi_score(matrix[:n, :n]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [3, 4, 6, 8])
def test_the_tour_is_close_to_the_shortest_and_never_below(matrix, n):
    # 3 molecules have one tour; of the 3 tours of 4 molecules each is one swap from the others
    for start in range(0, 5 * n, n):
        distance = 1 - matrix[start : start + n, start : start + n]
        best = shortest(distance)
        most = best * (1.05 if n > 4 else 1)
        assert best - 1e-12 <= hamiltonian_diversity(distance) <= most + 1e-12


def test_points_on_a_circle_are_visited_round_the_circle():
    # a tour in the plane that no swap shortens has no crossing, and on a circle only one has none
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 60)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    tour = np.argsort(angles)
    expected = distance[tour, np.roll(tour, -1)].sum()
    assert hamiltonian_diversity(distance) == pytest.approx(expected)


def test_small_sets():
    none = np.ones((0, 0))
    assert vendi_score(none) is None
    assert hamiltonian_diversity(none) is None
    assert butina_clusters(none, 0.5) == []
    assert hamiltonian_diversity(np.zeros((1, 1))) == 0
    assert hamiltonian_diversity(np.array([[0, 0.3], [0.3, 0]])) == pytest.approx(0.6)


def test_butina_takes_the_molecule_with_most_neighbours_first():
    # on a line: 0 sees 1; 1 sees 0, 2; 2 sees 1, 3, 4; 3 and 4 see 2 and each other; 5 is alone
    place = np.array([0.0, 1.0, 2.0, 2.9, 3.0, 9.0])
    distance = np.abs(place[:, None] - place[None])
    found = [(cluster[0], set(cluster)) for cluster in butina_clusters(distance, 1.0)]
    # 2 has three neighbours, and takes 1, 3 and 4 with it; 0 and 5 are left
    assert found[0] == (2, {1, 2, 3, 4})
    assert sorted(centre for centre, _ in found[1:]) == [0, 5]
