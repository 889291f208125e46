import subprocess
import sys

import pytest
from rdkit import Chem, rdBase

from chemkl.chem.molecules import as_mol, canonicalise, parse, read_molecule, silenced
from chemkl.config import InputError

REASONS = [
    ("", "empty"),
    ("C1CC", "not parsable: unclosed ring 1 opened at position 2"),
    ("CC%12CC1CC1", "not parsable: unclosed ring 12 opened at position 3"),
    ("CC(C", "not parsable: unclosed branch at position 3"),
    ("CC)", "not parsable: ')' without '(' at position 3"),
    ("CC[NH", "not parsable: unclosed bracket at position 3"),
    ("C[Xx]", "not parsable: unknown atom [Xx] at position 2"),
    ("CCX", "not parsable: unexpected 'X' at position 3"),
    ("CC=", "not parsable: syntax error"),
    (".", "not parsable: syntax error"),
    ("CN(C)(C)C", "not sane: Explicit valence for atom # 1 N, 4, is greater than permitted"),
    ("c1cccc1", "not sane: Can't kekulize mol. Unkekulized atoms: 0 1 2 3 4"),
    ("CCé", "not ASCII: 'é' at position 3"),
    ("C\udc80", r"not ASCII: '\udc80' at position 2"),
    ("CC ethane", "whitespace: ' ' at position 3"),
    ("CC\n", r"whitespace: '\n' at position 3"),
    ("C\x00C", r"whitespace: '\x00' at position 2"),
    ("^CC$", "not parsable: unexpected '^' at position 1"),
]


@pytest.mark.parametrize(("smiles", "reason"), REASONS)
def test_every_failure_has_its_reason(smiles, reason):
    molecule = read_molecule(smiles)
    assert molecule.reason == reason
    assert not molecule.valid
    assert (molecule.smiles, molecule.canonical_smiles, molecule.mol) == (smiles, None, None)
    assert parse(smiles) is None
    assert canonicalise(smiles) is None


@pytest.mark.parametrize(
    ("smiles", "canonical"),
    [
        ("OCC", "CCO"),
        ("C1=CC=CC=C1.[Na+].[Cl-]", "[Cl-].[Na+].c1ccccc1"),  # salts keep every fragment
        ("O[C@@H](C)F", "C[C@H](O)F"),  # stereo
        ("F/C=C\\F", "F/C=C\\F"),
        ("[2H]C", "[2H]C"),  # isotope
        ("[CH3]", "[CH3]"),  # radical
        ("*C", "*C"),  # dummy atom
        ("CC[N+](C)(C)C", "CC[N+](C)(C)C"),
        ("C%10CC%10", "C1CC1"),
        ("C%(123)CC%(123)", "C1CC1"),
    ],
)
def test_valid_molecules_keep_what_they_are(smiles, canonical):
    molecule = read_molecule(smiles)
    assert molecule.valid
    assert molecule.reason is None
    assert molecule.canonical_smiles == canonical
    assert canonical == Chem.MolToSmiles(Chem.MolFromSmiles(smiles))
    assert parse(smiles).GetNumAtoms() == molecule.mol.GetNumAtoms()


def test_size_limits():
    assert read_molecule("C" * 300).valid
    assert read_molecule("C" * 501).reason == "too many atoms: 501, at most 500"
    assert read_molecule("C" * 10, max_atoms=9).reason == "too many atoms: 10, at most 9"
    assert read_molecule("C" * 10, max_atoms=10).valid
    # never handed to RDKit: a chain of ten million atoms would take gigabytes
    assert read_molecule("C" * 10_000_000).reason == "too long: 10000000 characters, at most 5000"


def test_as_mol_names_what_is_no_molecule():
    mol = Chem.MolFromSmiles("CC")
    assert as_mol(mol) is mol
    assert as_mol("CCO").GetNumAtoms() == 3
    with pytest.raises(InputError, match="'C1' is not a molecule: not parsable: unclosed ring 1"):
        as_mol("C1")


def test_log_is_silent_in_the_scope_only():
    before = rdBase.LogStatus()
    assert "rdApp.error:enabled" in before
    with silenced():
        with silenced():
            pass
        assert "rdApp.error:disabled" in rdBase.LogStatus()
    assert rdBase.LogStatus() == before
    with pytest.raises(KeyError), silenced():
        raise KeyError
    assert rdBase.LogStatus() == before


def test_importing_and_parsing_leave_rdkit_log_and_torch_alone():
    program = """
import sys
from rdkit import rdBase
before = rdBase.LogStatus()
from chemkl.chem import fingerprints, molecules, randomise, scaffolds, standardise
assert molecules.read_molecule("C1CC").reason
assert standardise.Standardiser([{"name": "default"}])("CC(=O)[O-].[Na+]")
assert rdBase.LogStatus() == before, rdBase.LogStatus()
assert not {"torch", "lightning"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
