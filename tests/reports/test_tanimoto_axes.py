import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from chemkl.reports.tanimoto_axes import find_axes

GENERATOR = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)


def bits(smiles):
    return [GENERATOR.GetFingerprint(Chem.MolFromSmiles(each)) for each in smiles]


def test_three_molecules_lie_at_their_very_distances():
    # three points span a plane, so that two axes lose nothing: d_ij^2 = 2 - 2 T_ij
    prints = bits(["CCOc1ccccc1", "CCNc1ccccc1", "O=C(O)C1CCCC1"])
    axes = find_axes(prints)
    placed = axes.place(prints)
    assert axes.explained == pytest.approx(1)
    for i in range(3):
        for j in range(3):
            similarity = DataStructs.TanimotoSimilarity(prints[i], prints[j])
            squared = float(((placed[i] - placed[j]) ** 2).sum())
            assert squared == pytest.approx(2 - 2 * similarity, abs=1e-9)


def test_the_axes_are_those_of_principal_coordinates(real_smiles):
    # by the singular values of an explicit embedding: the Cholesky factor of the similarities
    prints = bits(real_smiles[:30])
    similar = np.array([DataStructs.BulkTanimotoSimilarity(each, prints) for each in prints])
    points = np.linalg.cholesky(similar)
    points -= points.mean(axis=0)
    u, s, _ = np.linalg.svd(points)
    axes = find_axes(prints)
    placed = axes.place(prints)
    assert np.abs(placed) == pytest.approx(np.abs(u[:, :2] * s[:2]), abs=1e-8)
    assert axes.explained == pytest.approx(float((s[:2] ** 2).sum() / (s**2).sum()))


def test_others_lie_where_a_landmark_like_them_lies(real_smiles):
    prints = bits(real_smiles[:40])
    axes = find_axes(prints)
    same = bits([Chem.MolToSmiles(Chem.MolFromSmiles(real_smiles[7]), doRandom=True)])
    assert axes.place(same)[0] == pytest.approx(axes.place(prints)[7])


def test_no_distance_on_the_map_is_longer_than_the_true_one(real_smiles):
    prints = bits(real_smiles[:40])
    placed = find_axes(prints).place(prints)
    for i in range(40):
        for j in range(i):
            true = np.sqrt(2 - 2 * DataStructs.TanimotoSimilarity(prints[i], prints[j]))
            assert np.linalg.norm(placed[i] - placed[j]) <= true + 1e-9


@pytest.mark.parametrize("smiles", [["CCO"], ["CCO", "OCC", "CCO"]])
def test_molecules_that_are_all_alike_have_no_axes(smiles):
    axes = find_axes(bits(smiles))
    assert axes.explained is None
    assert (axes.place(bits(smiles)) == 0).all()


def test_two_molecules_have_one_axis():
    prints = bits(["CCO", "c1ccccc1"])  # nothing in common: T = 0, d^2 = 2
    placed = find_axes(prints).place(prints)
    assert abs(placed[0, 0] - placed[1, 0]) == pytest.approx(np.sqrt(2))
    assert placed[:, 1] == pytest.approx(0, abs=1e-9)


def test_nothing_is_placed_nowhere():
    assert find_axes(bits(["CCO", "CCN"])).place([]).shape == (0, 2)
