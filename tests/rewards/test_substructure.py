"""SMARTS and reactions, counted by eye in small molecules; alerts against RDKit's catalogs."""

from typing import get_args

import pytest
from building import build, mol, part, reward_of
from rdkit import Chem
from rdkit.Chem import AllChem
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

from chemkl.config import InputError
from chemkl.rewards.components.substructure import CatalogName

ACID, AMINE = "C(=O)[OX2H1]", "[NX3;H2]"
KINDS = ["required_smarts", "forbidden_smarts", "smarts_count"]
BOTH = {"smarts": [ACID, AMINE]}
TWICE = {"smarts": ["[OX2H]", "[NX3;H2]"], "min_matches": 2}
LEFT, RIGHT = "N[C@H](C)C(=O)O", "N[C@@H](C)C(=O)O"
FLAT, CHIRAL = {"smarts": RIGHT}, {"smarts": RIGHT, "use_chirality": True}
AMIDE = "[C:1](=[O:2])-!@[N:3]>>[C:1](=[O:2])O.[N:3]"
ARYL_ETHER = "[c:1]-!@[O:2]>>[c:1]F.[O:2]"
BIARYL = "[c:1]-!@[c:2]>>[c:1]Br.[c:2]B(O)O"
ANY_AMINE = "[#6:1]-!@[N:3]>>[#6:1]Cl.[N:3]"
HEAVY = "[13C:1](=[O:2])-!@[N:3]>>[C:1](=[O:2])O.[N:3]"
HEAVY_ARYL = "[c:1]-!@[13C:2]>>[c:1]Br.[C:2]"
HAND = "[C@:4]([N:5])([C:6])-!@[c:1]>>[C:4]([N:5])([C:6])Br.[c:1]"
SCAFFOLD = "*C(=O)c1ccc(*)cc1"  # the first point at the carbonyl, the second para to it
SWAPPED = "[*:1]C(=O)c1ccc([*:0])cc1"
ORDERED = {"scaffold": SCAFFOLD, "reactions": [[ARYL_ETHER], [AMIDE]]}
BY_HAND = [
    *(
        (kind, BOTH | more, dict(zip(
            ("NCC(=O)O", "CC(=O)O", "CCN", "CCO", "NCC(CC(=O)O)C(=O)O"), values, strict=True
        )))
        for kind, more, values in [
            ("required_smarts", {}, (1, 0, 0, 0, 1)),
            ("required_smarts", {"combine": "any"}, (1, 1, 1, 0, 1)),
            ("forbidden_smarts", {}, (0, 0, 0, 1, 0)),
            ("smarts_count", {}, (2, 1, 1, 0, 3)),
        ]
    ),
    # limits apply to each pattern
    ("required_smarts", TWICE, {"OCCO": 0, "OCC(N)C(N)CO": 1}),
    ("required_smarts", TWICE | {"combine": "any"}, {"OCCO": 1}),
    # one benzene ring, from six starting atoms in two directions
    ("smarts_count", {"smarts": "c1ccccc1"}, {"c1ccccc1": 1}),
    ("smarts_count", {"smarts": "c1ccccc1", "unique": False}, {"c1ccccc1": 12}),
    # ordered pairs of neighbours in a chain of 1,201 atoms, beyond RDKit's default limit
    ("smarts_count", {"smarts": "CC", "unique": False}, {"C" * 1201: 2400}),
    *((kind, FLAT, {LEFT: 1, RIGHT: 1}) for kind in ("required_smarts", "smarts_count")),
    *((kind, CHIRAL, {LEFT: 0, RIGHT: 1}) for kind in ("required_smarts", "smarts_count")),
    ("forbidden_smarts", FLAT, {LEFT: 0, RIGHT: 0}),
    ("forbidden_smarts", CHIRAL, {LEFT: 1, RIGHT: 0}),
    ("required_smarts", FLAT | {"max_matches": 1}, {LEFT: 1, RIGHT: 1}),
    ("required_smarts", CHIRAL | {"max_matches": 1}, {LEFT: 0, RIGHT: 1}),
    ("disconnections", {"reactions": AMIDE}, {
        "CC(=O)NC": 1,
        "CC(=O)NCC(=O)NC": 2,
        "CC(=O)N(C)C(C)=O": 2,  # an imide: the nitrogen has two of them
        "O=C1CCCN1": 0,  # a lactam opens, it does not split
        **{"CC(=O)OC": 0, "c1ccc(-c2ccccc2)cc1": 0, "CC(=O)Nc1ccc(-c2ccccc2)cc1": 1, "C": 0},
        "CN[13C](=O)c1ccccc1": 1,
    }),
    ("disconnections", {"reactions": [AMIDE, BIARYL]}, {
        **{"CC(=O)NC": 1, "CC(=O)NCC(=O)NC": 2, "CC(=O)N(C)C(C)=O": 2, "O=C1CCCN1": 0},
        **{"CC(=O)OC": 0, "c1ccc(-c2ccccc2)cc1": 1, "CC(=O)Nc1ccc(-c2ccccc2)cc1": 2, "C": 0},
    }),
    # C(=O)-N, N-CH3 and N-phenyl; the amide is among them, and counts once
    ("disconnections", {"reactions": ANY_AMINE}, {"CC(=O)N(C)c1ccccc1": 3}),
    ("disconnections", {"reactions": [AMIDE, ANY_AMINE]}, {"CC(=O)N(C)c1ccccc1": 3}),
    # disconnections ignore isotopes, and the filter does not
    ("disconnections", {"reactions": HEAVY}, {"CN[13C](=O)c1ccccc1": 0}),
    ("reaction_filter", {"scaffold": "*c1ccccc1", "reactions": [[HEAVY_ARYL]]},
     {"CN[13C](=O)c1ccccc1": 1, "CNC(=O)c1ccccc1": 0.5}),
    # RDKit's reactions match either enantiomer
    ("disconnections", {"reactions": HAND}, {"C[C@H](N)c1ccccc1": 1, "C[C@@H](N)c1ccccc1": 1}),
    ("reaction_filter", {"scaffold": "*c1ccccc1", "reactions": [[HAND]]},
     {"C[C@H](N)c1ccccc1": 1, "C[C@@H](N)c1ccccc1": 1}),
    ("decorated_scaffold", {"scaffold": SCAFFOLD}, {
        **{"CNC(=O)c1ccc(OC)cc1": 1, "CC(=O)c1ccc(C(N)=O)cc1": 1},
        "CNC(=O)c1ccc(OC)c(F)c1": 0,  # a fluorine without a point
        "CNC(=O)c1ccccc1": 0,  # nothing at the second point
        "CNC(=O)c1cccc(OC)c1": 0,  # meta
        "O=C1CCCOc2ccc1cc2": 0,  # a bridge instead of two decorations
        **{"CNC(=O)c1ccc(OC)cc1.Cl": 0, "CCO": 0},
    }),
    ("decorated_scaffold", {"scaffold": "*N(*)C1CC1"},  # two points on one atom
     {"CN(CC)C1CC1": 1, "CNC1CC1": 0, "C1CN(C1)C1CC1": 0}),
    ("reaction_filter", {"scaffold": SWAPPED, "reactions": [[ARYL_ETHER], [AMIDE]]},
     {"CNC(=O)c1ccc(OC)cc1": 1}),
    ("reaction_filter", ORDERED, {"CNC(=O)c1ccc(OC)cc1": 0.5}),
    ("reaction_filter", ORDERED | {"mode": "non_selective"}, {"CNC(=O)c1ccc(OC)cc1": 1}),
    # an empty list allows any bond
    ("reaction_filter", {"scaffold": SCAFFOLD, "reactions": [[AMIDE], []]},
     {"CNC(=O)c1ccc(CC)cc1": 1, "CC(=O)c1ccc(CC)cc1": 0.75}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "expected"), BY_HAND)
def test_values_by_hand(kind, settings, expected):
    score, mols = build(kind, **settings), {smiles: mol(smiles) for smiles in expected}
    assert {smiles: score(molecule) for smiles, molecule in mols.items()} == expected
    assert not any(atom.HasProp("bondNum") for m in mols.values() for atom in m.GetAtoms())


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
def test_the_number_of_matches_is_limited(limits, passing):
    score = build("required_smarts", smarts="[OX2H]", **limits)
    assert [score(mol(smiles)) for smiles in ("CCC", "CCO", "OCCO", "OCC(O)CO")] == passing


@pytest.mark.parametrize(
    ("smiles", "right", "fits"),
    [
        ("CNC(=O)c1ccc(OC)cc1", 2, True),  # amide and aryl ether, each at its point
        ("CNC(=O)c1ccc(CC)cc1", 1, True),  # amide only
        ("CC(=O)c1ccc(OC)cc1", 1, True),  # aryl ether only
        ("CC(=O)c1ccc(CC)cc1", 0, True),
        ("NC(=O)c1ccc(C(C)=O)cc1", 1, True),  # two carbonyls: the better way round
        ("CNC(=O)c1ccccc1", 0, False),
        ("CCC", 0, False),
    ],
)
def test_reactions_at_each_point(smiles, right, fits):
    settings = {"scaffold": SCAFFOLD, "reactions": [[AMIDE], [ARYL_ETHER]]}
    selective = build("reaction_filter", **settings)
    anywhere = build("reaction_filter", mode="non_selective", **settings)
    assert selective(mol(smiles)) == (0.5 + right / 4 if fits else 0)
    assert anywhere(mol(smiles)) == right / 2


# ---- structural alerts


RHODANINE = "O=C1NC(=S)SC1=Cc1ccccc1"  # ene_rhod_A, the paper's best-known PAINS
SMILES = [
    *(RHODANINE, "c1ccccc1", "O=C1C=CC(=O)C=C1", "CC(=O)Cl", "O=[N+]([O-])c1ccc(N=Nc2ccccc2)cc1"),
    *("CCCCCCCCCCCCCCCC", "ClCCSCCCl", "C"),
]


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


def test_catalogs_add_up_and_none_counts_twice():
    counts = {name: alerts("alert_count", name) for name in get_args(CatalogName)}
    both, pains = alerts("alert_count", "BRENK", "NIH"), alerts("alert_count", "PAINS", "PAINS_A")
    for molecule in map(mol, SMILES):
        n = {name: count(molecule) for name, count in counts.items()}
        assert both(molecule) == n["BRENK"] + n["NIH"]
        assert pains(molecule) == n["PAINS_A"] + n["PAINS_B"] + n["PAINS_C"]
        assert n["ALL"] == sum(n.values()) - n["PAINS"] - n["CHEMBL"] - n["ALL"]
    assert counts["ALL"](mol(RHODANINE)) > 2
    # Brenk's aldehyde, once and twice, is one alert
    for smiles in ("O=CCc1ccccc1", "O=CCc1ccc(CC=O)cc1"):
        assert counts["BRENK"](mol(smiles)) == 1


# ---- checks and costs

CATALOGS = [
    (["BRENK", "PAIN"], r"catalogs\.1: 'PAIN' is not allowed.*PAINS"),
    ([], "catalogs: should have at least 1 entry"),
]
SCAFFOLDS = {
    "c1": "scaffold 'c1' is not a molecule: not parsable",
    "CC": "scaffold 'CC' has no attachment point",
    "C*C*": r"'C\*C\*' has an attachment point that is not at the end of one bond",
    "**": "has two attachment points bound to each other",
    "[*:1]CC[*:3]": r"has attachment points numbered \[1, 3\]; number them 0, 1",
}


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("required_smarts", TWICE | {"max_matches": 1}, "max_matches = 1 is below min_matches = 2"),
        *((kind, {"catalogs": catalogs}, message)
          for catalogs, message in CATALOGS for kind in ("alert_count", "no_alerts")),
        *(("decorated_scaffold", {"scaffold": scaffold}, message)
          for scaffold, message in SCAFFOLDS.items()),
        *(("reaction_filter", {"scaffold": scaffold, "reactions": [[]]}, message)
          for scaffold, message in SCAFFOLDS.items()),
        ("reaction_filter", {"scaffold": "*N(*)C", "reactions": [[], []]},
         "an atom with two attachment points"),
        ("reaction_filter", {"scaffold": SCAFFOLD, "reactions": [[]], "mode": "non_selective"},
         "no reaction; mode non_selective needs at least one"),
        ("disconnections", {"reactions": [AMIDE, "foo"]},
         r"reactions\[1\] = 'foo' is not a reaction SMARTS"),
        ("reaction_filter",
         {"scaffold": SCAFFOLD, "reactions": [["foo", AMIDE], ["C>>C"], ["é"]]},
         r".*reactions\[0\]\[0\] = 'foo' is not a reaction SMARTS.*\n"
         r".*reactions\[1\]\[0\] = 'C>>C' is not a disconnection: it has 1 and 1 molecules .*\n"
         r".*reactions\[2\]\[0\] = 'é' is not a reaction SMARTS: not ASCII\n"
         r".*reactions: 3 lists for 2 attachment points; .*$"),
        *((kind, {"smarts": ["[#6]", "[#6", "C(", "é", ""]},
           rf"^{kind}: smarts\[1\] = '\[#6' is not a SMARTS pattern\n"
           rf"{kind}: smarts\[2\] = 'C\(' is not a SMARTS pattern\n"
           rf"{kind}: smarts\[3\] = 'é' is not a SMARTS pattern\n"
           rf"{kind}: smarts\[4\] = '' is not a SMARTS pattern$") for kind in KINDS),
    ],
)  # fmt: skip
def test_bad_parameters_are_named_and_nothing_is_logged(kind, parameters, message, capfd):
    with pytest.raises(InputError, match=message):
        build(kind, **parameters)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        *((kind, BOTH) for kind in KINDS),
        ("disconnections", {"reactions": AMIDE}),
        ("reaction_filter", {"scaffold": SCAFFOLD, "reactions": [[AMIDE], []]}),
        ("tanimoto", {"references": "CNC(=O)c1ccc(CC)cc1"}),
    ],
)
def test_patterns_reactions_and_references_are_compiled_once(kind, parameters, monkeypatch):
    score, molecule = build(kind, **parameters), mol("CNC(=O)c1ccc(CC)cc1")
    compiled = []
    monkeypatch.setattr(AllChem, "ReactionFromSmarts", compiled.append)
    monkeypatch.setattr(Chem, "MolFromSmarts", compiled.append)
    monkeypatch.setattr(Chem, "MolFromSmiles", compiled.append)
    assert score(molecule) == (kind not in ("required_smarts", "smarts_count"))
    assert compiled == []


def test_a_reward_of_reactions(capfd, recwarn):
    at_points = part("reaction_filter", scaffold=SCAFFOLD, reactions=[[AMIDE], [ARYL_ETHER]])
    cuts = part("disconnections", 0, 2, reactions=[AMIDE, ARYL_ETHER])
    frame = reward_of(at_points, cuts).score(["CNC(=O)c1ccc(OC)cc1", "CCC", "C1CC", "[Na+].[Cl-]"])
    assert frame["reward"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert frame["raw_disconnections"].fillna(-1).tolist() == [2.0, 0.0, -1.0, 0.0]
    assert frame["reason"].isna().tolist() == [True, True, False, True]
    assert (capfd.readouterr().err, list(recwarn)) == ("", [])
