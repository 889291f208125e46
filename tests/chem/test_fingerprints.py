import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from chemkl.chem.fingerprints import (
    morgan_fingerprint,
    morgan_fingerprints,
    tanimoto,
    tanimoto_matrix,
)

MOLS = [Chem.MolFromSmiles(s) for s in ("CCO", "CCN", "c1ccccc1", "CCOc1ccccc1", "OCC")]


@pytest.mark.parametrize(("radius", "n_bits"), [(2, 2048), (2, 1024), (3, 512), (0, 64)])
def test_fingerprints_are_rdkits(radius, n_bits):
    oracle = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=n_bits)
    expected = [oracle.GetFingerprint(mol).ToBitString() for mol in MOLS]
    found = morgan_fingerprints(MOLS, radius=radius, n_bits=n_bits)
    assert [each.ToBitString() for each in found] == expected
    one = morgan_fingerprint(MOLS[0], radius=radius, n_bits=n_bits)
    assert one.ToBitString() == expected[0]


def test_tanimoto_counts_common_bits():
    a, b = (DataStructs.ExplicitBitVect(8) for _ in range(2))
    a.SetBitsFromList([0, 1, 2])
    b.SetBitsFromList([1, 2, 3, 4])
    assert tanimoto(a, [a, b]).tolist() == [1.0, 2 / 5]  # 2 common of 5 in either
    assert tanimoto(a, []).shape == (0,)


def test_matrix_is_every_pair():
    fingerprints = morgan_fingerprints(MOLS)
    matrix = tanimoto_matrix(fingerprints)
    expected = [[DataStructs.TanimotoSimilarity(a, b) for b in fingerprints] for a in fingerprints]
    np.testing.assert_array_equal(matrix, expected)
    assert matrix[0, 4] == 1.0  # CCO and OCC
    assert tanimoto_matrix([]).shape == (0, 0)
