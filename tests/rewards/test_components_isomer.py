"""The isomer score against GuacaMol's definition, worked out by hand."""

import math

import pytest
from rdkit import Chem

from chemkl.config import InputError
from chemkl.rewards.registry import find_component

CAFFEINE = "Cn1cnc2c1c(=O)n(C)c(=O)n2C"  # C8H10N4O2, 24 atoms


def score(formula, smiles, **parameters):
    mol = Chem.MolFromSmiles(smiles)
    return find_component("isomer_score").build({"formula": formula, **parameters})(mol)


@pytest.mark.parametrize(
    ("formula", "smiles"),
    [
        ("C7H8N2O2", "NNC(=O)c1ccccc1O"),
        ("C9H10N2O2PF2Cl", "NC1=CC=C(C(F)=C1)C(F)(Cl)P(=O)(O)CC=N"),
        ("C11H24", "CCCC(C)(C)CCCCC"),
        ("H2O", "[2H]O[2H]"),
        ("CH3", "[CH3]"),
        ("C2H3O2Na", "CC(=O)[O-].[Na+]"),
        ("C2H5OH", "CCO"),  # H comes twice
    ],
)
def test_an_isomer_scores_one(formula, smiles):
    assert score(formula, smiles) == 1.0
    assert score(formula, smiles, mean="arithmetic") == 1.0
    match = find_component("formula_match").build({"formula": formula})
    assert match(Chem.MolFromSmiles(smiles)) == 1.0


def test_a_wrong_molecule_by_hand():
    # C9H8O4 has 21 atoms; caffeine: C -1, O -2, H +2 (sigma 1), all atoms +3 (sigma 2)
    parts = [math.exp(-0.5), math.exp(-2), math.exp(-2), math.exp(-1.125)]
    assert score("C9H8O4", CAFFEINE) == pytest.approx(math.prod(parts) ** 0.25, abs=1e-12)
    assert score("C9H8O4", CAFFEINE, mean="arithmetic") == pytest.approx(sum(parts) / 4, abs=1e-12)


def test_an_element_that_the_formula_lacks_counts_in_the_total():
    # C2H6O for C2H6: one atom too many, sigma 2; three parts
    assert score("C2H6", "CCO") == pytest.approx(math.exp(-1 / 8 / 3), abs=1e-12)
    assert (
        find_component("formula_match").build({"formula": "C2H6"})(Chem.MolFromSmiles("CCO")) == 0
    )


def test_a_large_molecule_is_as_good_as_zero_and_not_an_error():
    assert score("C7H8N2O2", "C" * 300) == 0.0


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("", "is not a molecular formula"),
        ("C7 H8", "is not a molecular formula"),
        ("C5H12NO+", "no charge, isotope, bracket or blank"),
        ("c6h6", "is not a molecular formula"),
        ("C\uff16", "is not a molecular formula"),  # a full-width digit
        ("C6H6Xx", "'C6H6Xx': Xx is not the symbol of an element"),
        ("D2O", "D is not the symbol of an element"),
        ("C0H4", "C0 should be between 1 and a million"),
        ("C99999999999999999999", "should be between 1 and a million"),
    ],
)
@pytest.mark.parametrize("kind", ["isomer_score", "formula_match"])
def test_a_formula_that_is_none_is_refused(kind, formula, message):
    with pytest.raises(InputError, match=message):
        find_component(kind).build({"formula": formula})
