import itertools
import math

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from vendi_score import vendi

from chemkl.chem.fingerprints import tanimoto_matrix
from chemkl.evaluation.matrix_diversity import (
    butina_clusters,
    hamiltonian_diversity,
    short_tour,
    tour_length,
    vendi_score,
)


@pytest.fixture
def similarity(real_smiles):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    return tanimoto_matrix([generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in real_smiles])


def shortest(distance):
    """Every closed tour, the first molecule fixed."""
    n = len(distance)
    tours = ((0, *rest) for rest in itertools.permutations(range(1, n)))
    return min(sum(distance[t[i], t[(i + 1) % n]] for i in range(n)) for t in tours)


@pytest.mark.filterwarnings("ignore:Please import `csr_matrix`:DeprecationWarning")
def test_vendi_against_the_package_of_its_authors(similarity):
    for n in (1, 2, 50, 200):
        expected = vendi.score_K(similarity[:n, :n])
        assert vendi_score(similarity[:n, :n]) == pytest.approx(expected, rel=1e-9)


def test_vendi_counts_what_is_different():
    assert vendi_score(np.eye(7)) == pytest.approx(7)
    assert vendi_score(np.ones((7, 7))) == pytest.approx(1)
    blocks = np.kron(np.eye(3), np.ones((4, 4)))  # three kinds, four copies of each
    assert vendi_score(blocks) == pytest.approx(3)
    # eigenvalues of [[1, t], [t, 1]] / 2 are (1 + t) / 2 and (1 - t) / 2: 0.75 and 0.25
    by_hand = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert vendi_score(np.array([[1, 0.5], [0.5, 1]])) == pytest.approx(by_hand)


@pytest.mark.parametrize("n", [3, 4])
def test_the_tour_of_up_to_four_molecules_is_the_shortest(similarity, n):
    # 3 molecules have one tour; of the 3 tours of 4 molecules each is one swap from the others
    for start in range(0, 60, n):
        distance = 1 - similarity[start : start + n, start : start + n]
        assert hamiltonian_diversity(distance) == pytest.approx(shortest(distance))


@pytest.mark.parametrize("n", [6, 8])
def test_the_tour_is_close_to_the_shortest_and_never_below(similarity, n):
    for start in range(0, 5 * n, n):
        distance = 1 - similarity[start : start + n, start : start + n]
        best = shortest(distance)
        assert best - 1e-12 <= hamiltonian_diversity(distance) <= 1.05 * best


def test_points_on_a_circle_are_visited_round_the_circle():
    # a tour in the plane that no swap shortens has no crossing, and on a circle only one has none
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 60)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    expected = tour_length(distance, np.argsort(angles))
    assert hamiltonian_diversity(distance) == pytest.approx(expected)


def test_no_swap_shortens_the_tour(similarity):
    distance = 1 - similarity[:40, :40]
    tour = short_tour(distance)
    assert sorted(tour) == list(range(40))
    length = tour_length(distance, tour)
    for i, j in itertools.combinations(range(40), 2):
        turned = np.concatenate([tour[:i], tour[i : j + 1][::-1], tour[j + 1 :]])
        assert tour_length(distance, turned) > length - 1e-9


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


def test_members_of_a_butina_cluster_are_near_its_centre(similarity):
    distance = 1 - similarity[:150, :150]
    clusters = butina_clusters(distance, 0.65)
    assert sorted(i for cluster in clusters for i in cluster) == list(range(150))
    assert 1 < len(clusters) < 150
    assert all(distance[cluster[0], i] <= 0.65 for cluster in clusters for i in cluster)
