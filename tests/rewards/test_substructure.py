"""SMARTS, counted by eye in small molecules, and structural alerts, against RDKit's catalogs."""

from typing import get_args

import pytest
from building import build, mol, reward_of
from rdkit import Chem
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

from chemkl.config import InputError
from chemkl.rewards.components.substructure import CatalogName

ACID, AMINE = "C(=O)[OX2H1]", "[NX3;H2]"
KINDS = ["required_smarts", "forbidden_smarts", "smarts_count"]


@pytest.mark.parametrize(
    ("smiles", "every", "any_", "none", "count"),
    [
        ("NCC(=O)O", 1, 1, 0, 2),  # glycine: both
        ("CC(=O)O", 0, 1, 0, 1),
        ("CCN", 0, 1, 0, 1),
        ("CCO", 0, 0, 1, 0),
        ("NCC(CC(=O)O)C(=O)O", 1, 1, 0, 3),
    ],
)
def test_required_forbidden_and_counted_patterns(smiles, every, any_, none, count):
    patterns = [ACID, AMINE]
    assert build("required_smarts", smarts=patterns)(mol(smiles)) == every
    assert build("required_smarts", smarts=patterns, combine="any")(mol(smiles)) == any_
    assert build("forbidden_smarts", smarts=patterns)(mol(smiles)) == none
    assert build("smarts_count", smarts=patterns)(mol(smiles)) == count


@pytest.mark.parametrize(
    ("limits", "passing"),
    [  # of 0, 1, 2 and 3 hydroxyl groups
        ({"min_matches": 2}, [0, 0, 1, 1]),
        ({"max_matches": 1}, [0, 1, 0, 0]),
        ({"min_matches": 0, "max_matches": 1}, [1, 1, 0, 0]),
        ({"min_matches": 2, "max_matches": 2}, [0, 0, 1, 0]),
        ({"min_matches": 0, "max_matches": 0}, [1, 0, 0, 0]),
    ],
)
def test_a_number_of_matches_can_be_asked_for(limits, passing):
    score = build("required_smarts", smarts="[OX2H]", **limits)
    assert [score(mol(each)) for each in ("CCC", "CCO", "OCCO", "OCC(O)CO")] == passing


def test_each_pattern_keeps_the_limits_for_itself():
    limits = {"smarts": ["[OX2H]", "[NX3;H2]"], "min_matches": 2}
    assert build("required_smarts", **limits)(mol("OCCO")) == 0
    assert build("required_smarts", combine="any", **limits)(mol("OCCO")) == 1
    assert build("required_smarts", **limits)(mol("OCC(N)C(N)CO")) == 1


def test_limits_that_nothing_can_meet():
    with pytest.raises(InputError, match="max_matches = 1 is below min_matches = 2"):
        build("required_smarts", smarts="C", min_matches=2, max_matches=1)


def test_the_same_atoms_in_another_order_count_on_demand():
    # one benzene ring, six starting atoms and two directions
    assert build("smarts_count", smarts="c1ccccc1")(mol("c1ccccc1")) == 1
    assert build("smarts_count", smarts="c1ccccc1", unique=False)(mol("c1ccccc1")) == 12


def test_more_matches_than_rdkits_limit():
    # ordered pairs of neighbours in a chain of 1,201 atoms: 2 x 1,200
    score = build("smarts_count", smarts="CC", unique=False)
    assert score(mol("C" * 1201)) == 2400


def test_hands_differ_on_demand():
    pattern, left, right = "N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O", "N[C@@H](C)C(=O)O"
    for use_chirality, expected in [(False, [1, 1]), (True, [0, 1])]:
        settings = {"smarts": pattern, "use_chirality": use_chirality}
        for kind in ("required_smarts", "smarts_count"):
            assert [build(kind, **settings)(mol(each)) for each in (left, right)] == expected
        forbidden = build("forbidden_smarts", **settings)
        assert [forbidden(mol(each)) for each in (left, right)] == [1 - each for each in expected]
        exactly = build("required_smarts", max_matches=1, **settings)
        assert [exactly(mol(each)) for each in (left, right)] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_every_unparsable_pattern_is_named_with_its_place(kind, capfd):
    with pytest.raises(InputError) as caught:
        build(kind, smarts=["[#6]", "[#6", "C(", "é", ""])
    assert str(caught.value).splitlines() == [
        f"{kind}: smarts[1] = '[#6' is not a SMARTS pattern",
        f"{kind}: smarts[2] = 'C(' is not a SMARTS pattern",
        f"{kind}: smarts[3] = 'é' is not a SMARTS pattern",
        f"{kind}: smarts[4] = '' is not a SMARTS pattern",
    ]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_are_compiled_once(kind, monkeypatch):
    compiled = []
    compile_one = Chem.MolFromSmarts
    monkeypatch.setattr(
        Chem, "MolFromSmarts", lambda text: compiled.append(text) or compile_one(text)
    )
    part = {"kind": kind, "parameters": {"smarts": [ACID, AMINE]}}
    if kind == "smarts_count":
        part["transform"] = {"kind": "step", "low": 1}
    frame = reward_of(part).score(["C" * n + "N" for n in range(1, 50)])
    assert frame[f"raw_{kind}"].nunique() == 1
    assert compiled == [ACID, AMINE]


# ---- structural alerts


RHODANINE = "O=C1NC(=S)SC1=Cc1ccccc1"  # ene_rhod_A, the paper's best-known PAINS
SMILES = [
    RHODANINE,
    "c1ccccc1",
    "O=C1C=CC(=O)C=C1",  # quinone
    "CC(=O)Cl",
    "O=[N+]([O-])c1ccc(N=Nc2ccccc2)cc1",
    "CCCCCCCCCCCCCCCC",
    "ClCCSCCCl",
    "C",
]
SINGLE = [name for name in get_args(CatalogName) if name not in {"PAINS", "CHEMBL", "ALL"}]


def alerts(kind, *catalogs):
    return build(kind, catalogs=list(catalogs))


def rdkits(name):
    return FilterCatalog(FilterCatalogParams(FilterCatalogParams.FilterCatalogs.names[name]))


@pytest.mark.parametrize("name", get_args(CatalogName))
def test_each_catalog_is_rdkits(name):
    count, clean, catalog = alerts("alert_count", name), alerts("no_alerts", name), rdkits(name)
    for smiles in SMILES:
        expected = len(catalog.GetMatches(mol(smiles)))
        assert count(mol(smiles)) == expected
        assert clean(mol(smiles)) == (expected == 0)


def test_a_rhodanine_is_a_pain_and_benzene_is_none():
    assert alerts("alert_count", "PAINS")(mol(RHODANINE)) == 1
    assert alerts("no_alerts", "PAINS")(mol(RHODANINE)) == 0
    assert alerts("no_alerts", "PAINS_B", "PAINS_C")(mol(RHODANINE)) == 1
    assert alerts("no_alerts", "PAINS", "BRENK", "NIH")(mol("c1ccccc1")) == 1


def test_catalogs_add_up_and_none_counts_twice():
    each = {name: alerts("alert_count", name) for name in SINGLE}
    both, everything = alerts("alert_count", "BRENK", "NIH"), alerts("alert_count", "ALL")
    pains = alerts("alert_count", "PAINS", "PAINS_A", "PAINS")
    for molecule in map(mol, SMILES):
        n = {name: count(molecule) for name, count in each.items()}
        assert both(molecule) == n["BRENK"] + n["NIH"]
        assert pains(molecule) == n["PAINS_A"] + n["PAINS_B"] + n["PAINS_C"]
        assert everything(molecule) == sum(n.values())
    assert everything(mol(RHODANINE)) > 2


def test_an_alert_counts_once_however_often_it_occurs():
    # Brenk's aldehyde, once and twice
    one, two = mol("O=CCc1ccccc1"), mol("O=CCc1ccc(CC=O)cc1")
    assert alerts("alert_count", "BRENK")(one) == alerts("alert_count", "BRENK")(two) == 1


@pytest.mark.parametrize("kind", ["alert_count", "no_alerts"])
def test_unknown_catalogs(kind):
    with pytest.raises(InputError, match=r"catalogs\.1: 'PAIN' is not allowed.*PAINS"):
        alerts(kind, "BRENK", "PAIN")
    with pytest.raises(InputError, match="catalogs: should have at least 1 entry"):
        alerts(kind)
    with pytest.raises(InputError, match="catalogs: required, and not given"):
        build(kind)
