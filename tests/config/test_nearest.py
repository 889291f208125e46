"""Unknown names: what was meant, by spelling, other name or meaning; and no walls of names."""

import pytest

from chemkl.config import did_you_mean
from chemkl.config.base import nearest

ALSO = {"mol_wt": ["MolecularWeight", "MW"], "tpsa": ["PSA"], "hbd": ["HBondDonors"]}
MEANINGS = {
    "mol_wt": "Average molecular weight",
    "tpsa": "Topological polar surface area",
    "hbd": "Number of hydrogen-bond donors",
}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tpas", ["tpsa"]),
        ("TPSA", ["tpsa"]),
        ("mw", ["mol_wt"]),
        ("molecular_weight", ["mol_wt"]),
        ("h_bond_donor", ["hbd"]),
        ("donors_of_hydrogen", ["hbd"]),
        ("surfaceArea", ["tpsa"]),
        ("number_of_molecules", []),  # words that every meaning has
        ("zzz", []),
    ],
)
def test_a_name_is_found_by_spelling_or_other_name_or_meaning(name, meant):
    assert nearest(name, MEANINGS, ALSO, MEANINGS) == meant


def test_of_many_names_the_nearest_are_told_and_the_others_counted():
    names = [f"column_{n}" for n in range(200)]
    text = did_you_mean("column_19x", names)
    assert text.startswith("; did you mean 'column_19'? Known: ")
    assert text.endswith(" and 192 more")
    assert len(text) < 200


def test_few_names_are_all_told_in_order():
    assert did_you_mean("x", ["b", "a", "c"]) == ". Known: a, b, c"
    assert did_you_mean("x", []) == ": there is none."
