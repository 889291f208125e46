"""Parts that molecules hold: written with a point last, joined as reinvent-chemistry joins them."""

import pytest
from rdkit import Chem
from reinvent_chemistry.library_design import BondMaker

from chemkl.chem.parts import Lead, Opened, Pair, Scaffold, Walk, Way
from chemkl.config import InputError

SCAFFOLDS = [
    "*c1ccccc1",
    "*c1ccc2[nH]ccc2c1",
    "*N1CCN(*)CC1",
    "*C(=O)N1CCC(*)CC1",
    "*n1cc(*)c(*)n1",
    "*c1cnc2c(c1)oc1ccc(*)cc12",
    "*CC(C)(*)C(=O)N*",
    "C[C@H](N)c1ccc(*)cc1",
]


def canonical(smiles):
    return Chem.CanonSmiles(smiles)


@pytest.mark.parametrize("smiles", SCAFFOLDS)
def test_all_points_are_decorated_one_after_another(smiles):
    part = Scaffold(smiles)
    for seed in range(12):
        ways, text = part.begin(seed, 4), ""
        for k in range(part.rounds):
            assert ways, (smiles, seed, k)
            assert len({way.text for way in ways}) == len(ways) <= 4
            if k == 0:
                assert {canonical(way.text + "[H]") for way in ways} == {
                    canonical(smiles.replace("*", "[H]"))
                }
            way = ways[seed % len(ways)]
            assert len(way.state) == part.rounds - k - 1
            text = way.text + "F"
            ways = part.go_on(way, "F", seed, 4)
        assert not ways
        assert part.problem(way, text) is None
        mol = Chem.MolFromSmiles(text)
        wanted = canonical(smiles.replace("*", "F"))
        assert Chem.MolToSmiles(mol) == wanted


def test_what_does_not_hold_a_scaffold_is_told_and_what_is_no_molecule_is_left_to_others():
    part = Scaffold("*c1ccc(*)cc1")
    way = part.begin(0, 1)[0]
    assert "fixed part" in part.problem(way, "Cc1ccccc1")  # nothing at the other point
    assert "fixed part" in part.problem(way, "Cc1ccc(C)c(C)c1")  # one where none is
    assert part.problem(way, "Cc1ccc(CC)cc1") is None
    assert part.problem(way, "Cc1ccc(") is None


@pytest.mark.parametrize("pair", [("*c1ccncc1", "*C1CCNC1"), ("*NC(C)=O", "*c1ccc2[nH]ccc2c1")])
@pytest.mark.parametrize("completion", ["CCO", "-c1cc(CN)cnc1", "C(=O)NCC1CC1", "C1CCN(CC2CC2)C1"])
def test_fragments_are_joined_as_reinvent_chemistry_joins_them(pair, completion):
    """BondMaker puts the other fragment at every atom with a hydrogen; each way is one of these."""
    part, maker = Pair(pair), BondMaker()
    for seed in range(4):
        way = part.begin(seed, 1)[0]
        first = way.state[0]
        other = Chem.MolFromSmiles(pair[1 - first].replace("*", "[*:0]"))
        possible = set()
        for stop in {place.stop for place in Walk(completion).places} | {len(completion)}:
            for text in (way.text + completion, way.text + completion[:stop]):
                mol = Chem.MolFromSmiles(text)
                for atom in mol.GetAtoms() if mol else ():
                    if not atom.GetTotalNumHs():
                        continue
                    opened, point = Opened(mol, [atom.GetIdx()])._with_star(atom.GetIdx())
                    opened.GetAtomWithIdx(point).SetAtomMapNum(0)
                    opened.GetAtomWithIdx(point).SetProp("molAtomMapNumber", "0")
                    labelled = Chem.Mol(other)
                    for at in labelled.GetAtoms():
                        if at.GetAtomicNum() == 0:
                            at.SetProp("molAtomMapNumber", "0")
                    joined = maker.join_molecule_fragments(opened, labelled)
                    if joined is not None:
                        possible.add(canonical(Chem.MolToSmiles(joined)))
        ways = part.go_on(way, completion, seed, 50)
        assert ways
        for one in ways:
            assert one.finished
            assert one.text.startswith(one.given)
            assert canonical(one.text) in possible
            assert part.problem(one, one.text) is None
        assert len(part.go_on(way, completion, seed, 2)) == 2


def test_two_fragments_without_a_linker_or_without_one_of_them_are_told():
    part = Pair(["*c1ccncc1", "*C1CCNC1"])
    assert "two fragments" in part.problem(None, "c1cc(C2CCNC2)ccn1")
    assert "two fragments" in part.problem(None, "CCc1ccncc1")
    assert part.problem(None, "c1cc(CC2CCNC2)ccn1") is None


def test_a_seed_keeps_the_beginning_of_a_spelling_of_so_many_tokens():
    seed = Lead("CC(=O)Nc1ccc(O)cc1", keep=(0.5, 0.5))
    texts = {way.text for n in range(8) for way in seed.begin(n, 3)}
    assert len(texts) > 10
    assert {len(text) for text in texts} == {9}  # of 18 tokens
    way = next(way for n in range(20) for way in seed.begin(n, 3) if "c1" in way.text)
    assert seed.problem(way, "CC(=O)Nc1ccc(O)cc1") is None
    assert "kept" in seed.problem(way, "CCCCCC")


def test_mutants_of_a_lead_are_begun_with_too():
    smiles = "CC(=O)Nc1ccc(O)cc1"
    begun = [Lead(smiles, keep=(0.9, 0.9), mutants=n) for n in (0, 6, 6)]
    alone, some, again = ([one.begin(seed, 1)[0].text for seed in range(60)] for one in begun)
    assert some == again
    assert len({*some} - {*alone}) > 20
    known = Chem.MolFromSmiles(smiles)
    for text in alone:  # what is kept of the molecule is in the molecule
        assert begun[1].problem(Way(text), smiles) is None
    foreign = [text for text in some if begun[1].problem(Way(text), Chem.MolToSmiles(known))]
    assert foreign  # of a mutant


def test_points_may_be_marked_by_isotopes_as_fragments_of_brics_are():
    scaffold = Scaffold("[1*]c1ccccc1[16*]")
    assert scaffold.problem(Way(""), "CCc1ccccc1Cl") is None
    assert "fixed part" in scaffold.problem(Way(""), "CCc1ccccc1")
    pair = Pair(["[4*]c1ccccc1", "[5*]N1CCOCC1"])
    assert pair.problem(Way(""), "c1ccc(CCN2CCOCC2)cc1") is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Scaffold("c1ccccc1"), "has no attachment point; write \\* where one is"),
        (lambda: Scaffold("*c1cccc"), "is not a molecule: not parsable"),
        (lambda: Scaffold("C[C@H](*)N"), "point on a stereocentre, whose configuration"),
        (lambda: Scaffold("c1ccc(/C=C/*)cc1"), "point on a double bond whose configuration"),
        (lambda: Pair(["*/C=C/c1ccccc1", "*C"]), "point on a double bond whose configuration"),
        (lambda: Lead("*CCO"), r"has an attachment point; generator: \{kind: decorate\}"),
        (lambda: Scaffold("*=C1CC1"), "point that is bound by more than a single bond"),
        (lambda: Pair(["*c1ccccc1", "*C*"]), r"fragment '\*C\*' has 2 attachment points"),
        (lambda: Pair(["*c1ccccc1", "CC"]), "^fragment 'CC' has no attachment point"),
        (lambda: Pair(["*c1ccccc1", "*c1cc"]), "^fragment '.*' is not a molecule"),
        (lambda: Lead("C1CC"), "molecule 'C1CC': not parsable"),
    ],
)
def test_what_is_no_part_is_one_clear_error(build, message):
    with pytest.raises(InputError, match=message):
        build()
