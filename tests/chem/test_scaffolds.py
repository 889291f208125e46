import pytest
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.chem.scaffolds import generic_scaffold, murcko_scaffold
from chemkl.config import InputError

DRUGS = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1",
    "OC(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1",
    "C[C@H]1CC[C@@H](O)C1=O",
    "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "O=S1(=O)CCCC1",
]


@pytest.mark.parametrize("smiles", DRUGS)
def test_murcko_is_rdkits(smiles):
    assert murcko_scaffold(Chem.MolFromSmiles(smiles)) == (
        MurckoScaffold.MurckoScaffoldSmilesFromSmiles(smiles)
    )
    assert murcko_scaffold(smiles) == murcko_scaffold(Chem.MolFromSmiles(smiles))


def test_hand_drawn_scaffolds():
    # toluene -> benzene; benzophenone keeps its exocyclic C=O, the generic form does not
    assert murcko_scaffold("Cc1ccccc1") == "c1ccccc1"
    assert murcko_scaffold("O=C(c1ccccc1)c1ccccc1") == "O=C(c1ccccc1)c1ccccc1"
    assert generic_scaffold("O=C(c1ccccc1)c1ccccc1") == "C1CCC(CC2CCCCC2)CC1"
    assert generic_scaffold("Cc1cnccc1") == "C1CCCCC1"
    assert generic_scaffold("O=S1(=O)CCCC1") == "C1CCCC1"


def test_acyclic_is_empty():
    assert murcko_scaffold("CCO") == ""
    assert generic_scaffold("CCO") == ""


def test_salts_contribute_their_rings_only():
    assert murcko_scaffold("Cc1ccccc1.[Na+].CCO") == "c1ccccc1"


def test_enantiomers_and_isotopes_share_a_scaffold():
    assert murcko_scaffold("C[C@H]1CCO[C@@H]1c1ccccc1") == murcko_scaffold("CC1CCOC1c1ccccc1")
    assert murcko_scaffold("[13cH]1ccccc1C") == "c1ccccc1"


def test_no_generic_scaffold_where_carbon_would_need_five_bonds(capfd):
    phosphorane = "C1CP2(C1)(c1ccccc1)CC2"  # the ring P has five bonds
    assert murcko_scaffold(phosphorane) == "c1ccc(P23(CCC2)CC3)cc1"
    assert generic_scaffold(phosphorane) is None
    assert capfd.readouterr().err == ""


def test_a_string_that_is_no_molecule_is_named():
    with pytest.raises(InputError, match="'C1' is not a molecule"):
        murcko_scaffold("C1")
