import re

import pytest
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from chemkl.chem.molecules import ELEMENTS, element_counts, parse_formula
from chemkl.config import InputError


def test_there_are_118_elements():
    assert len(ELEMENTS) == 118
    assert {"H", "C", "Cl", "Og"} < ELEMENTS
    assert not {"D", "T", "*", "Xx"} & ELEMENTS


@pytest.mark.parametrize(
    "smiles",
    ["CC(=O)Oc1ccccc1C(=O)O", "[2H]O[2H]", "[CH3]", "CC(=O)[O-].[Na+]", "C[N+](C)(C)CCO", "[H][H]"],
)
def test_counts_are_those_of_rdkits_formula(smiles):
    mol = Chem.MolFromSmiles(smiles)
    formula = re.sub(r"[+-]\d*$", "", CalcMolFormula(mol))
    assert element_counts(mol) == parse_formula(formula)


def test_a_formula_is_read():
    assert parse_formula("C2H5OH") == {"C": 2, "H": 6, "O": 1}
    assert parse_formula("CCl4") == {"C": 1, "Cl": 4}


def test_no_formula_no_counts():
    with pytest.raises(InputError, match=r"'Fe\(OH\)3' is not a molecular formula"):
        parse_formula("Fe(OH)3")
