import pytest
from rdkit import Chem

from chemkl.chem.molecules import sdf_record
from chemkl.config import InputError


def read(record):
    supplier = Chem.SDMolSupplier()
    supplier.SetData(record)
    (mol,) = supplier
    return mol


@pytest.mark.parametrize(
    "smiles",
    [
        "C[C@H](N)C(=O)O",
        "C/C=C/C",
        "C/C=C\\C",
        "CC=CC",  # left open, and it must not become trans by its drawing
        "CC=NO",
        "N[C@@H]1CC[C@H](O)CC1",
        "C[S@](=O)CC",
        "C[N+](C)(C)CC([O-])=O",
        "[Na+].[O-]c1ccccc1",
        "[13CH3]C([2H])O",
        "*c1ccccc1",
        "c1cc[nH]c1",
        "C=C=C",
        "[CH3]",
    ],
)
def test_rdkit_reads_the_same_molecule_back(smiles):
    assert Chem.MolToSmiles(read(sdf_record(smiles, "", {}))) == Chem.CanonSmiles(smiles)


def test_a_record_has_a_title_flat_coordinates_and_properties():
    record = sdf_record("CCO", "run_1", {"reward": "0.5", "reason": "two\n\nlines", "empty": ""})
    mol = read(record)
    assert record.startswith("run_1\n")
    assert record.endswith("$$$$\n")
    assert mol.GetPropsAsDict() == {"reward": 0.5, "reason": "two lines", "empty": ""}
    positions = mol.GetConformer().GetPositions()
    assert not positions[:, 2].any()
    assert len({tuple(xyz) for xyz in positions.tolist()}) == 3
    assert not mol.GetConformer().Is3D()


def test_what_v2000_cannot_hold_is_written_as_v3000():
    assert "V2000" in sdf_record("C[C@H](N)O", "", {})
    racemic = Chem.MolFromSmiles("C[C@H](N)O |&1:1|")  # as would be a thousand atoms, in seconds
    record = sdf_record(racemic, "", {})
    assert "V3000" in record
    assert len(read(record).GetStereoGroups()) == 1


def test_a_molecule_that_is_handed_in_is_left_as_it_was():
    mol = Chem.MolFromSmiles("CCO")
    sdf_record(mol, "name", {"reward": "1"})
    assert mol.GetNumConformers() == 0
    assert mol.GetPropsAsDict() == {}


def test_what_is_no_molecule_is_refused():
    with pytest.raises(InputError, match="'C1CC' is not a molecule: not parsable"):
        sdf_record("C1CC", "", {})
