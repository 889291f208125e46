"""Reactions and attachment points: bonds counted by eye."""

import pytest
from building import build, mol, reward_of
from rdkit import Chem

from chemkl.config import InputError

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


def test_reactions_are_compiled_once(monkeypatch):
    from rdkit.Chem import AllChem

    disconnections = build("disconnections", reactions=AMIDE)
    at_points = build("reaction_filter", scaffold=SCAFFOLD, reactions=[[AMIDE], []])
    compiled = []
    monkeypatch.setattr(AllChem, "ReactionFromSmarts", compiled.append)
    monkeypatch.setattr(Chem, "MolFromSmarts", compiled.append)
    assert disconnections(mol("CC(=O)NC")) == 1
    assert at_points(mol("CNC(=O)c1ccc(CC)cc1")) == 1
    assert compiled == []


@pytest.mark.parametrize(
    ("scaffold", "message"),
    [
        ("c1", "scaffold 'c1' is not a molecule: not parsable"),
        ("CC", "scaffold 'CC' has no attachment point"),
        ("C*C*", r"'C\*C\*' has an attachment point that is not at the end of one bond"),
        ("**", "has two attachment points bound to one another"),
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
    at_points = {"scaffold": SCAFFOLD, "reactions": [[AMIDE], [ARYL_ETHER]]}
    cuts = {
        "kind": "disconnections",
        "parameters": {"reactions": [AMIDE, ARYL_ETHER]},
        "transform": {"kind": "step", "low": 2},
    }
    reward = reward_of({"kind": "reaction_filter", "parameters": at_points}, cuts)
    frame = reward.score(["CNC(=O)c1ccc(OC)cc1", "CCC", "C1CC", "[Na+].[Cl-]"])
    assert frame["reward"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert frame["raw_disconnections"].fillna(-1).tolist() == [2.0, 0.0, -1.0, 0.0]
    assert frame["reason"].isna().tolist() == [True, True, False, True]
    assert (capfd.readouterr().err, list(recwarn)) == ("", [])
