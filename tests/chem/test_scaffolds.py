"""Scaffolds and fingerprints against RDKit."""

import itertools

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.chem.fingerprints import morgan_fingerprint, tanimoto, tanimoto_kernel, tanimoto_matrix
from chemkl.chem.scaffolds import StructureReader, generic_scaffold, murcko_scaffold, skeleton

_DRUGS = """
    CC(=O)Oc1ccccc1C(=O)O Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1
    OC(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1 C[C@H]1CC[C@@H](O)C1=O
    CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21 O=S1(=O)CCCC1
"""
DRUGS = _DRUGS.split()


@pytest.mark.parametrize(
    ("smiles", "scaffold", "generic"),
    [
        ("Cc1ccccc1", "c1ccccc1", "C1CCCCC1"),
        # an exocyclic C=O or S=O stays, and is cut from the generic form
        ("O=C(c1ccccc1)c1ccccc1", "O=C(c1ccccc1)c1ccccc1", "C1CCC(CC2CCCCC2)CC1"),
        ("O=S1(=O)CCCC1", "O=S1(=O)CCCC1", "C1CCCC1"),
        ("Cc1cnccc1", "c1ccncc1", "C1CCCCC1"),
        ("CCO", "", ""),  # acyclic
        ("Cc1ccccc1.[Na+].CCO", "c1ccccc1", "C1CCCCC1"),  # a salt
        ("C[C@H]1CCO[C@@H]1c1ccccc1", "c1ccc(C2CCCO2)cc1", "C1CCC(C2CCCC2)CC1"),  # no stereo
        ("[13cH]1ccccc1C", "c1ccccc1", "C1CCCCC1"),  # no isotopes
        ("C1CP2(C1)(c1ccccc1)CC2", "c1ccc(P23(CCC2)CC3)cc1", None),  # the ring P has five bonds
    ],
)
def test_scaffolds_by_hand(capfd, smiles, scaffold, generic):
    assert murcko_scaffold(smiles) == scaffold
    assert generic_scaffold(smiles) == generic
    assert capfd.readouterr().err == ""


# ---- scaffolds and fingerprints of large sets

ODD = [
    "CCO", "[H][H]", "c1ccccc1.C1CCNC1",  # no ring, or two parts with one
    "C1CP2(C1)(c1ccccc1)CC2", "FS1(F)(F)CCCC1",  # atoms with five and six bonds
    "C[N+]1(C)CCCC1", "c1cc[n+](C)cc1", "[O-][n+]1ccccc1", "C1CC[CH]C1",  # charges, a radical
    "c1cc[nH]c1", "c1cc[se]c1", "C1CC[Si](C)(C)C1", "B1OCCO1", "[NH3]->[Pt]1NCCN1",
    "[Fe]12CCCC1CC2", "[2H]C1CCCC1", "[2H]C1([2H])CCCC1", "[13CH2]1CCCC1", "*C1CCCC1",
    "*c1ccc(*)cc1", "C1CC*1",
    "O=C1CCS(=O)(=O)C1", "C1CC2CCC1C2=C", "O=C1C=CC(=C2CCCC2)C=C1", "C/C=C/C1CC1", "FC(F)=C1CC1",
    "c1ccc(-c2ccccc2)cc1", "C1CC[C@@H](O)[C@H](Cl)C1Br", "C12C3C4C1C5C2C3C45",
]  # fmt: skip


@pytest.fixture
def read():
    return StructureReader()


@pytest.mark.parametrize("smiles", ODD)
def test_scaffolds_of_odd_molecules_are_rdkits(read, smiles):
    structure, mol = read(smiles), Chem.MolFromSmiles(smiles)
    scaffold = MurckoScaffold.GetScaffoldForMol(mol)
    assert structure.scaffold == Chem.MolToSmiles(scaffold, isomericSmiles=False)
    assert structure.generic == generic_scaffold(mol)


def test_scaffolds_of_real_molecules_are_rdkits(read, real_smiles):
    for smiles in [*real_smiles, *DRUGS]:
        assert murcko_scaffold(smiles) == MurckoScaffold.MurckoScaffoldSmilesFromSmiles(smiles)
        generic = MurckoScaffold.MakeScaffoldGeneric(
            MurckoScaffold.GetScaffoldForMol(Chem.MolFromSmiles(smiles))
        )
        expected = Chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(generic))
        assert read(smiles).generic == expected


@pytest.mark.parametrize(
    ("scaffold", "drawn"),
    [
        ("c1ccc(-c2cc[nH]c2)cc1", "C1CCC(C2CCCC2)CC1"),
        ("O=C1CC=CN1", "CC1CCCC1"),
        ("C1=C%10CCC%10C1", "C1C%10CCC%10C1"),
        ("ClC1CC1Br", "CC1CC1C"),
        ("c1cc[n+]cc1", None),
        ("C1C[SiH2]C1", None),
        ("*1CC1", None),
        ("N1->CC1", None),
        ("", None),
    ],
)
def test_a_skeleton_is_a_scaffold_in_carbons_and_single_bonds(scaffold, drawn):
    assert skeleton(scaffold) == drawn


def test_the_fingerprint_is_rdkits_bit_for_bit(read, real_smiles):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    for smiles in real_smiles[:50]:
        on = set(generator.GetFingerprint(Chem.MolFromSmiles(smiles)).GetOnBits())
        packed = read(smiles).packed
        assert {i for i in range(2048) if packed[i // 8] >> i % 8 & 1} == on
    assert read("Cc1ccccc1", "C1CCCCC1").scaffold == "C1CCCCC1"  # not computed again
    assert read("C1CC") is None


# ---- fingerprints and similarities

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
