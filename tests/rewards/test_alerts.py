"""Structural alerts: molecules of the catalogs' papers, and RDKit's catalogs one at a time."""

from typing import get_args

import pytest
from rdkit import Chem
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

from chemkl.config import InputError
from chemkl.rewards.components.substructure import CatalogName
from chemkl.rewards.registry import find_component

RHODANINE = "O=C1NC(=S)SC1=Cc1ccccc1"  # ene_rhod_A, the paper's best-known PAINS
BENZENE = "c1ccccc1"
MOLECULES = [
    RHODANINE,
    BENZENE,
    "O=C1C=CC(=O)C=C1",  # quinone
    "CC(=O)Cl",
    "O=[N+]([O-])c1ccc(N=Nc2ccccc2)cc1",
    "CCCCCCCCCCCCCCCC",
    "ClCCSCCCl",
    "C",
]
SINGLE = [name for name in get_args(CatalogName) if name not in {"PAINS", "CHEMBL", "ALL"}]


def mol(smiles):
    return Chem.MolFromSmiles(smiles)


def build(kind, *catalogs):
    return find_component(kind).build({"catalogs": list(catalogs)})


def rdkits(name):
    return FilterCatalog(FilterCatalogParams(FilterCatalogParams.FilterCatalogs.names[name]))


@pytest.mark.parametrize("name", get_args(CatalogName))
def test_each_catalog_is_rdkits(name):
    count, clean, catalog = build("alert_count", name), build("no_alerts", name), rdkits(name)
    for smiles in MOLECULES:
        expected = len(catalog.GetMatches(mol(smiles)))
        assert count(mol(smiles)) == expected
        assert clean(mol(smiles)) == (expected == 0)


def test_a_rhodanine_is_a_pain_and_benzene_is_none():
    assert build("alert_count", "PAINS")(mol(RHODANINE)) == 1
    assert build("no_alerts", "PAINS")(mol(RHODANINE)) == 0
    assert build("no_alerts", "PAINS_B", "PAINS_C")(mol(RHODANINE)) == 1
    assert build("no_alerts", "PAINS", "BRENK", "NIH")(mol(BENZENE)) == 1


def test_catalogs_add_up_and_none_counts_twice():
    each = {name: build("alert_count", name) for name in SINGLE}
    both, everything = build("alert_count", "BRENK", "NIH"), build("alert_count", "ALL")
    pains = build("alert_count", "PAINS", "PAINS_A", "PAINS")
    for molecule in map(mol, MOLECULES):
        n = {name: count(molecule) for name, count in each.items()}
        assert both(molecule) == n["BRENK"] + n["NIH"]
        assert pains(molecule) == n["PAINS_A"] + n["PAINS_B"] + n["PAINS_C"]
        assert everything(molecule) == sum(n.values())
    assert everything(mol(RHODANINE)) > 2


def test_an_alert_counts_once_however_often_it_occurs():
    # Brenk's aldehyde, once and twice
    one, two = mol("O=CCc1ccccc1"), mol("O=CCc1ccc(CC=O)cc1")
    assert build("alert_count", "BRENK")(one) == build("alert_count", "BRENK")(two) == 1


@pytest.mark.parametrize("kind", ["alert_count", "no_alerts"])
def test_unknown_catalogs(kind):
    with pytest.raises(InputError, match=r"catalogs\.1: 'PAIN' is not allowed.*PAINS"):
        build(kind, "BRENK", "PAIN")
    with pytest.raises(InputError, match="catalogs: should have at least 1 entry"):
        build(kind)
    with pytest.raises(InputError, match="catalogs: required, and not given"):
        find_component(kind).build({})
