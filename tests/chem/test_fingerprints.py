import itertools

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from chemkl.chem.fingerprints import morgan_fingerprint, tanimoto, tanimoto_kernel, tanimoto_matrix

MOLS = [Chem.MolFromSmiles(s) for s in ("CCO", "CCN", "c1ccccc1", "CCOc1ccccc1", "OCC")]


@pytest.mark.parametrize(("radius", "n_bits"), [(2, 2048), (2, 1024), (3, 512), (0, 64)])
def test_fingerprints_are_rdkits(radius, n_bits):
    oracle = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=n_bits)
    for mol in MOLS:
        fingerprint = morgan_fingerprint(mol, radius=radius, n_bits=n_bits)
        assert fingerprint == oracle.GetFingerprint(mol)


def test_tanimoto_counts_common_bits():
    a, b = (DataStructs.ExplicitBitVect(8) for _ in range(2))
    a.SetBitsFromList([0, 1, 2])
    b.SetBitsFromList([1, 2, 3, 4])
    assert tanimoto(a, [a, b]).tolist() == [1.0, 2 / 5]  # 2 common of 5 in either
    assert tanimoto(a, []).shape == (0,)


def test_matrix_is_every_pair():
    fingerprints = [morgan_fingerprint(mol) for mol in MOLS]
    matrix = tanimoto_matrix(fingerprints)
    expected = [[DataStructs.TanimotoSimilarity(a, b) for b in fingerprints] for a in fingerprints]
    np.testing.assert_array_equal(matrix, expected)
    assert matrix[0, 4] == 1.0  # CCO and OCC
    assert tanimoto_matrix([]).shape == (0, 0)


def test_the_kernel_is_rdkits_and_a_row_without_a_molecule_is_similar_to_itself_only():
    smiles = ["CCO", "CCN", None, "c1ccccc1", "no molecule", "CCOc1ccccc1", "OCC", None]
    oracle = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    rows = [0, 1, 3, 5, 6]
    prints = {row: oracle.GetFingerprint(Chem.MolFromSmiles(smiles[row])) for row in rows}
    expected = np.eye(len(smiles))
    for a, b in itertools.product(rows, rows):
        expected[a, b] = DataStructs.TanimotoSimilarity(prints[a], prints[b])
    kernel = tanimoto_kernel(smiles)
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel, expected, rtol=1e-6, atol=0)
    np.testing.assert_array_equal(kernel, kernel.T)
    assert kernel[0, 6] == 1.0  # two spellings of ethanol
    assert tanimoto_kernel([]).shape == (0, 0)
    np.testing.assert_array_equal(tanimoto_kernel([None, "("]), np.eye(2))
