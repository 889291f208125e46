"""SMARTS and reactions, counted by eye in small molecules; alerts against RDKit's catalogs."""

from typing import get_args

import pytest
from building import build, mol, part, reward_of
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
    with pytest.raises(InputError, match="max_matches = 1 is below min_matches = 2"):
        build("required_smarts", **limits, max_matches=1)


def test_the_same_atoms_in_another_order_count_on_demand_beyond_rdkits_limit():
    # one benzene ring, six starting atoms and two directions
    assert build("smarts_count", smarts="c1ccccc1")(mol("c1ccccc1")) == 1
    assert build("smarts_count", smarts="c1ccccc1", unique=False)(mol("c1ccccc1")) == 12
    # ordered pairs of neighbours in a chain of 1,201 atoms: 2 x 1,200
    assert build("smarts_count", smarts="CC", unique=False)(mol("C" * 1201)) == 2400


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


# ---- structural alerts


RHODANINE = "O=C1NC(=S)SC1=Cc1ccccc1"  # ene_rhod_A, the paper's best-known PAINS
SMILES = [
    *(RHODANINE, "c1ccccc1", "O=C1C=CC(=O)C=C1", "CC(=O)Cl", "O=[N+]([O-])c1ccc(N=Nc2ccccc2)cc1"),
    *("CCCCCCCCCCCCCCCC", "ClCCSCCCl", "C"),
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


# ---- reactions, and a scaffold with its decorations

AMIDE = "[C:1](=[O:2])-!@[N:3]>>[C:1](=[O:2])O.[N:3]"
ARYL_ETHER = "[c:1]-!@[O:2]>>[c:1]F.[O:2]"
BIARYL = "[c:1]-!@[c:2]>>[c:1]Br.[c:2]B(O)O"
SCAFFOLD = "*C(=O)c1ccc(*)cc1"  # the first point at the carbonyl, the second para to it


@pytest.mark.parametrize(
    ("smiles", "amide", "any_"),
    [
        ("CC(=O)NC", 1, 1),
        ("CC(=O)NCC(=O)NC", 2, 2),
        ("CC(=O)N(C)C(C)=O", 2, 2),  # an imide: the nitrogen has two of them
        ("O=C1CCCN1", 0, 0),  # a lactam opens, it does not split
        ("CC(=O)OC", 0, 0),
        ("c1ccc(-c2ccccc2)cc1", 0, 1),
        ("CC(=O)Nc1ccc(-c2ccccc2)cc1", 1, 2),
        ("C", 0, 0),
    ],
)
def test_bonds_that_reactions_make(smiles, amide, any_):
    assert build("disconnections", reactions=AMIDE)(mol(smiles)) == amide
    assert build("disconnections", reactions=[AMIDE, BIARYL])(mol(smiles)) == any_


def test_a_bond_of_two_reactions_counts_once():
    wide = "[#6:1]-!@[N:3]>>[#6:1]Cl.[N:3]"
    # acetanilide N-methyl: C(=O)-N, N-CH3 and N-phenyl; the amide is among them
    smiles = "CC(=O)N(C)c1ccccc1"
    assert build("disconnections", reactions=wide)(mol(smiles)) == 3
    assert build("disconnections", reactions=[AMIDE, wide])(mol(smiles)) == 3


def test_disconnections_see_no_isotopes_and_the_filter_does():
    heavy = "[13C:1](=[O:2])-!@[N:3]>>[C:1](=[O:2])O.[N:3]"
    labelled = mol("CN[13C](=O)c1ccccc1")
    assert build("disconnections", reactions=heavy)(labelled) == 0
    assert build("disconnections", reactions=AMIDE)(labelled) == 1
    at_point = {"scaffold": "*c1ccccc1", "reactions": [["[c:1]-!@[13C:2]>>[c:1]Br.[C:2]"]]}
    assert build("reaction_filter", **at_point)(labelled) == 1
    assert build("reaction_filter", **at_point)(mol("CNC(=O)c1ccccc1")) == 0.5


def test_either_hand_is_disconnected():
    # RDKit's reactions match whatever hand the molecule has
    hand = "[C@:4]([N:5])([C:6])-!@[c:1]>>[C:4]([N:5])([C:6])Br.[c:1]"
    molecules = [mol("C[C@H](N)c1ccccc1"), mol("C[C@@H](N)c1ccccc1")]
    score = build("disconnections", reactions=hand)
    at_point = build("reaction_filter", scaffold="*c1ccccc1", reactions=[[hand]])
    assert [score(each) for each in molecules] == [1, 1]
    assert [at_point(each) for each in molecules] == [1, 1]


@pytest.mark.parametrize(
    ("smiles", "fits"),
    [
        ("CNC(=O)c1ccc(OC)cc1", 1),
        ("CC(=O)c1ccc(C(N)=O)cc1", 1),
        ("CNC(=O)c1ccc(OC)c(F)c1", 0),  # a fluorine where no point is
        ("CNC(=O)c1ccccc1", 0),  # nothing at the second point
        ("CNC(=O)c1cccc(OC)c1", 0),  # meta
        ("O=C1CCCOc2ccc1cc2", 0),  # one bridge in place of two decorations
        ("CNC(=O)c1ccc(OC)cc1.Cl", 0),  # a salt
        ("CCO", 0),
    ],
)
def test_the_scaffold_decorated_at_its_points_only(smiles, fits):
    assert build("decorated_scaffold", scaffold=SCAFFOLD)(mol(smiles)) == fits


def test_two_points_on_one_atom():
    score = build("decorated_scaffold", scaffold="*N(*)C1CC1")
    assert [score(mol(s)) for s in ("CN(CC)C1CC1", "CNC1CC1", "C1CN(C1)C1CC1")] == [1, 0, 0]


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


def test_points_are_taken_by_their_numbers():
    swapped = {"scaffold": "[*:1]C(=O)c1ccc([*:0])cc1", "reactions": [[ARYL_ETHER], [AMIDE]]}
    in_order = {"scaffold": SCAFFOLD, "reactions": [[ARYL_ETHER], [AMIDE]]}
    smiles = mol("CNC(=O)c1ccc(OC)cc1")
    assert build("reaction_filter", **swapped)(smiles) == 1
    assert build("reaction_filter", **in_order)(smiles) == 0.5
    assert build("reaction_filter", mode="non_selective", **in_order)(smiles) == 1


def test_an_empty_list_allows_any_bond():
    score = build("reaction_filter", scaffold=SCAFFOLD, reactions=[[AMIDE], []])
    molecule = mol("CNC(=O)c1ccc(CC)cc1")
    assert score(molecule) == 1
    assert not any(atom.HasProp("bondNum") for atom in molecule.GetAtoms())  # it is left alone
    assert score(mol("CC(=O)c1ccc(CC)cc1")) == 0.75


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        *((kind, {"smarts": [ACID, AMINE]}) for kind in KINDS),
        ("disconnections", {"reactions": AMIDE}),
        ("reaction_filter", {"scaffold": SCAFFOLD, "reactions": [[AMIDE], []]}),
        ("tanimoto", {"references": "CNC(=O)c1ccc(CC)cc1"}),
    ],
)
def test_patterns_reactions_and_references_are_read_once(kind, parameters, monkeypatch):
    from rdkit.Chem import AllChem

    score, molecule = build(kind, **parameters), mol("CNC(=O)c1ccc(CC)cc1")
    compiled = []
    monkeypatch.setattr(AllChem, "ReactionFromSmarts", compiled.append)
    monkeypatch.setattr(Chem, "MolFromSmarts", compiled.append)
    monkeypatch.setattr(Chem, "MolFromSmiles", compiled.append)
    assert score(molecule) == (kind not in ("required_smarts", "smarts_count"))
    assert compiled == []


@pytest.mark.parametrize(
    ("scaffold", "message"),
    [
        ("c1", "scaffold 'c1' is not a molecule: not parsable"),
        ("CC", "scaffold 'CC' has no attachment point"),
        ("C*C*", r"'C\*C\*' has an attachment point that is not at the end of one bond"),
        ("**", "has two attachment points bound to each other"),
        ("[*:1]CC[*:3]", r"has attachment points numbered \[1, 3\]; number them 0, 1"),
    ],
)
@pytest.mark.parametrize("kind", ["decorated_scaffold", "reaction_filter"])
def test_unusable_scaffolds(kind, scaffold, message):
    reactions = {"reactions": [[]]} if kind == "reaction_filter" else {}
    with pytest.raises(InputError, match=message):
        build(kind, scaffold=scaffold, **reactions)


def test_unusable_reactions(capfd):
    with pytest.raises(InputError) as caught:
        build("reaction_filter", scaffold=SCAFFOLD, reactions=[["foo", AMIDE], ["C>>C"], ["é"]])
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "reactions[0][0] = 'foo' is not a reaction SMARTS" in lines[0]
    assert "reactions[1][0] = 'C>>C' is not a disconnection: it has 1 and 1 molecules" in lines[1]
    assert "reactions[2][0] = 'é' is not a reaction SMARTS: not ASCII" in lines[2]
    assert "reactions: 3 lists for 2 attachment points" in lines[3]
    with pytest.raises(InputError, match=r"reactions\[1\] = 'foo' is not a reaction SMARTS"):
        build("disconnections", reactions=[AMIDE, "foo"])
    with pytest.raises(InputError, match="an atom with two attachment points"):
        build("reaction_filter", scaffold="*N(*)C", reactions=[[], []])
    with pytest.raises(InputError, match="no reaction at all; mode non_selective needs one"):
        build("reaction_filter", scaffold=SCAFFOLD, reactions=[[]], mode="non_selective")
    assert capfd.readouterr().err == ""


def test_in_a_reward(capfd, recwarn):
    at_points = part("reaction_filter", scaffold=SCAFFOLD, reactions=[[AMIDE], [ARYL_ETHER]])
    cuts = part("disconnections", 0, 2, reactions=[AMIDE, ARYL_ETHER])
    frame = reward_of(at_points, cuts).score(["CNC(=O)c1ccc(OC)cc1", "CCC", "C1CC", "[Na+].[Cl-]"])
    assert frame["reward"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert frame["raw_disconnections"].fillna(-1).tolist() == [2.0, 0.0, -1.0, 0.0]
    assert frame["reason"].isna().tolist() == [True, True, False, True]
    assert (capfd.readouterr().err, list(recwarn)) == ("", [])
