"""Fixed parts: spellings that end at a point, fragments joined as by reinvent-chemistry, leads."""

import pytest
from rdkit import Chem
from reinvent_chemistry.library_design import BondMaker

from chemkl.chem.parts import Lead, Opened, Pair, Scaffold, Walk, Way
from chemkl.config import InputError

_SCAFFOLDS = """
    *c1ccccc1 *c1ccc2[nH]ccc2c1 *N1CCN(*)CC1 *C(=O)N1CCC(*)CC1 *n1cc(*)c(*)n1
    *c1cnc2c(c1)oc1ccc(*)cc12 *CC(C)(*)C(=O)N* C[C@H](N)c1ccc(*)cc1
"""
SCAFFOLDS = _SCAFFOLDS.split()


@pytest.mark.parametrize("smiles", SCAFFOLDS)
def test_all_points_are_decorated_one_after_another(smiles):
    part = Scaffold(smiles)
    for seed in range(12):
        ways, text = part.begin(seed, 4), ""
        for k in range(part.rounds):
            assert ways, (smiles, seed, k)
            assert len({way.text for way in ways}) == len(ways) <= 4
            if k == 0:
                spellings = {Chem.CanonSmiles(way.text + "[H]") for way in ways}
                assert spellings == {Chem.CanonSmiles(smiles.replace("*", "[H]"))}
            way = ways[seed % len(ways)]
            assert len(way.state) == part.rounds - k - 1
            text = way.text + "F"
            ways = part.go_on(way, "F", seed, 4)
        assert not ways
        assert part.problem(way, text) is None
        assert Chem.CanonSmiles(text) == Chem.CanonSmiles(smiles.replace("*", "F"))


PARA, BRICS_SCAFFOLD = Scaffold("*c1ccc(*)cc1"), Scaffold("[1*]c1ccccc1[16*]")
PAIR = Pair(["*c1ccncc1", "*C1CCNC1"])


@pytest.mark.parametrize(
    ("part", "text", "problem"),
    [
        (PARA, "Cc1ccc(CC)cc1", None),
        (PARA, "Cc1ccccc1", "not the scaffold"),  # nothing at the other point
        (PARA, "Cc1ccc(C)c(C)c1", "not the scaffold"),  # a decoration without a point
        (PARA, "Cc1ccc(", None),  # an invalid SMILES is not the part's problem
        (BRICS_SCAFFOLD, "CCc1ccccc1Cl", None),  # isotopes mark points, as in BRICS
        (BRICS_SCAFFOLD, "CCc1ccccc1", "not the scaffold"),
        (PAIR, "c1cc(CC2CCNC2)ccn1", None),
        (PAIR, "c1cc(C2CCNC2)ccn1", "not the two fragments"),  # no linker
        (PAIR, "CCc1ccncc1", "not the two fragments"),
        (Pair(["[4*]c1ccccc1", "[5*]N1CCOCC1"]), "c1ccc(CCN2CCOCC2)cc1", None),
    ],
)
def test_a_molecule_without_the_part_is_a_problem(part, text, problem):
    message = part.problem(Way(""), text)
    assert message is problem is None or f"fixed part: {problem}" in message


@pytest.mark.parametrize("pair", [("*c1ccncc1", "*C1CCNC1"), ("*NC(C)=O", "*c1ccc2[nH]ccc2c1")])
@pytest.mark.parametrize("completion", ["CCO", "-c1cc(CN)cnc1", "C(=O)NCC1CC1", "C1CCN(CC2CC2)C1"])
def test_fragments_are_joined_as_reinvent_chemistry_joins_them(pair, completion):
    """BondMaker puts the other fragment at every atom with a hydrogen; each way is one of these."""
    part, maker = Pair(pair), BondMaker()
    for seed in range(4):
        way = part.begin(seed, 1)[0]
        other = Chem.MolFromSmiles(pair[1 - way.state[0]].replace("*", "[*:0]"))
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
                    for end in labelled.GetAtoms():
                        if end.GetAtomicNum() == 0:
                            end.SetProp("molAtomMapNumber", "0")
                    joined = maker.join_molecule_fragments(opened, labelled)
                    if joined is not None:
                        possible.add(Chem.CanonSmiles(Chem.MolToSmiles(joined)))
        ways = part.go_on(way, completion, seed, 50)
        assert ways
        for linked in ways:
            assert linked.finished
            assert linked.text.startswith(linked.prefix)
            assert Chem.CanonSmiles(linked.text) in possible
            assert part.problem(linked, linked.text) is None
        assert len(part.go_on(way, completion, seed, 2)) == 2


PARACETAMOL = "CC(=O)Nc1ccc(O)cc1"


def test_a_lead_keeps_the_beginning_of_a_spelling():
    lead = Lead(PARACETAMOL, keep=(0.5, 0.5))
    texts = {way.text for seed in range(8) for way in lead.begin(seed, 3)}
    assert len(texts) > 10
    assert {len(text) for text in texts} == {9}  # of 18 tokens
    way = next(way for seed in range(20) for way in lead.begin(seed, 3) if "c1" in way.text)
    assert lead.problem(way, PARACETAMOL) is None
    assert "kept" in lead.problem(way, "CCCCCC")


def test_a_lead_may_begin_with_its_mutants():
    leads = [Lead(PARACETAMOL, keep=(0.9, 0.9), mutants=n) for n in (0, 6, 6)]
    alone, mutated, again = ([lead.begin(s, 1)[0].text for s in range(60)] for lead in leads)
    assert mutated == again
    assert len({*mutated} - {*alone}) > 20
    assert all(leads[1].problem(Way(text), PARACETAMOL) is None for text in alone)
    assert any(leads[1].problem(Way(text), PARACETAMOL) for text in mutated)  # a mutant's


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Scaffold("c1ccccc1"), "has no attachment point; write \\* where one is"),
        (lambda: Scaffold("*c1cccc"), "is not a molecule: not parsable"),
        (lambda: Scaffold("C[C@H](*)N"), "point on a stereocentre, whose configuration"),
        (lambda: Scaffold("c1ccc(/C=C/*)cc1"), "point on a double bond whose configuration"),
        (lambda: Pair(["*/C=C/c1ccccc1", "*C"]), "point on a double bond whose configuration"),
        (lambda: Lead("*CCO"), r"has an attachment point; use generator: \{kind: decorate\}"),
        (lambda: Scaffold("*=C1CC1"), "point that is bound by more than a single bond"),
        (lambda: Pair(["*c1ccccc1", "*C*"]), r"fragment '\*C\*' has 2 attachment points"),
        (lambda: Pair(["*c1ccccc1", "CC"]), "^fragment 'CC' has no attachment point"),
        (lambda: Pair(["*c1ccccc1", "*c1cc"]), "^fragment '.*' is not a molecule"),
        (lambda: Lead("C1CC"), "molecule 'C1CC': not parsable"),
    ],
)
def test_an_invalid_part_is_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
