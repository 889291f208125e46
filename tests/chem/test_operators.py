"""Genetic operators: what is proposed, of whom, and that the seed alone decides."""

import builtins
import time
from itertools import combinations

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import BRICS

from chemkl.chem import operators
from chemkl.chem.fingerprints import morgan_fingerprint, tanimoto
from chemkl.chem.operators import SHARES, graph_ga, propose
from chemkl.config import InputError

PARENTS = [
    "CC(=O)Nc1ccc(O)cc1",
    "CC(C)Cc1ccc(C(C)C(=O)O)cc1",
    "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "O=C(O)c1ccccc1OC(C)=O",
    "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1",
    "CN1CCC[C@H]1c1cccnc1",
]


def numbers(seed=0):
    return np.random.default_rng(seed)


def fingerprint(smiles):
    return morgan_fingerprint(Chem.MolFromSmiles(smiles))


@pytest.fixture(scope="module")
def sixty():
    return propose(PARENTS, 60, numbers())


def test_what_is_proposed_is_new_whole_and_canonical(sixty):
    assert len({one.smiles for one in sixty}) == 60
    known = {Chem.CanonSmiles(smiles) for smiles in PARENTS}
    for one in sixty:
        mol = Chem.MolFromSmiles(one.smiles)
        assert Chem.MolToSmiles(mol) == one.smiles
        assert one.smiles not in known
        assert len(Chem.GetMolFrags(mol)) == 1
        assert not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())


def test_every_operator_is_used_and_names_its_parents(sixty):
    known = {Chem.CanonSmiles(smiles) for smiles in PARENTS}
    assert {one.origin for one in sixty} == {*SHARES}
    for one in sixty:
        assert set(one.parents) <= known
        assert len(set(one.parents)) == (2 if one.origin in operators.OF_TWO else 1)


def test_neighbours_are_similar_and_mutations_need_not_be():
    def similarities(origin):
        for one in propose(PARENTS, 20, numbers(), shares={origin: 1.0}, similarity=0.6):
            assert one.origin == origin
            child, parent = map(fingerprint, (one.smiles, *one.parents))
            yield tanimoto(child, [parent])[0]

    assert min(similarities("neighbour")) >= 0.6
    assert min(similarities("mutation")) < 0.6


def test_fragments_join_pieces_of_two_parents_at_bonds_that_brics_knows():
    found = propose(PARENTS, 10, numbers(), shares={"fragments": 1.0})
    assert found == propose(PARENTS, 10, numbers(), shares={"fragments": 1.0})
    assert len(found) == 10
    for one in found:
        assert one.origin == "fragments"
        ours, *theirs = (
            {text for _, text in operators._pieces(each)} for each in (one.smiles, *one.parents)
        )
        assert all(ours & pieces for pieces in theirs)


@pytest.mark.parametrize("whole", ["CN1CCC[C@H]1c1cccnc1", "CC(=O)N[C@@H](C)c1ccc(OC)cc1"])
def test_pieces_have_the_ends_of_brics_and_keep_their_stereo(whole):
    mol, known, made = Chem.MolFromSmiles(whole), set(), set()
    for bond in BRICS.FindBRICSBonds(mol):
        cut = Chem.MolToSmiles(BRICS.BreakBRICSBonds(mol, [bond]), isomericSmiles=True)
        known |= {unturned(text) for text in cut.split(".")}
    pieces = operators._pieces(whole)
    assert {unturned(text.replace("*:1", f"{kind}*")) for kind, text in pieces} == known
    for (_, one), (_, other) in combinations(pieces, 2):
        made.add(Chem.MolToSmiles(Chem.molzip(Chem.MolFromSmiles(f"{one}.{other}"))))
    assert Chem.CanonSmiles(whole) in made


def test_a_double_bond_that_is_e_or_z_stays_whole():
    pieces = operators._pieces("CNC(=O)/C=C/c1ccccc1")
    assert (1, "[*:1]C(=O)/C=C/c1ccccc1") in pieces
    assert 7 not in {kind for kind, _ in pieces}
    assert 7 in {kind for kind, _ in operators._pieces("CNC(=O)C=Cc1ccccc1")}


def unturned(smiles):
    """A SMILES without stereocentres, and with isotopes."""
    mol = Chem.MolFromSmiles(smiles)
    Chem.RemoveStereochemistry(mol)
    return Chem.MolToSmiles(mol)


def test_the_seed_decides_and_the_parents_are_left_alone(sixty):
    assert propose(list(PARENTS), 60, numbers()) == sixty
    assert propose(PARENTS, 60, numbers(1)) != sixty


def test_more_than_half_of_the_attempts_are_molecules(monkeypatch):
    """New, whole and of at most 70 atoms; neighbours are also asked for their similarity."""
    made = []
    original = operators._child

    def child(*arguments):
        made.append(original(*arguments))
        return made[-1]

    monkeypatch.setattr(operators, "_child", child)
    propose(PARENTS, 60, numbers())
    assert sum(smiles is not None for smiles in made) / len(made) > 0.5


def test_size_is_bounded():
    found = propose(PARENTS, 30, numbers(), most_atoms=14)
    assert found
    assert max(Chem.MolFromSmiles(one.smiles).GetNumHeavyAtoms() for one in found) <= 14


def test_one_parent_has_no_crossover_and_a_poor_one_few_children():
    alone = propose([PARENTS[0]], 10, numbers())
    assert {one.origin for one in alone} <= {"mutation", "neighbour"}
    assert len(alone) == 10
    for two in ("crossover", "fragments"):
        assert propose([PARENTS[0]], 3, numbers(), shares={two: 1.0}) == []
    assert propose(["CC", "CCC"], 3, numbers(), shares={"fragments": 1.0}) == []  # nothing to cut


def test_a_salt_has_pieces_too():
    salts = ["CNC(=O)c1ccccc1.Cl", "CCOC(=O)c1ccncc1.[Na+]"]
    found = propose(salts, 5, numbers(), shares={"fragments": 1.0})
    assert found
    assert not any("." in one.smiles for one in found)
    assert len(propose(["C"], 500, numbers(), shares={"mutation": 1.0})) < 500


def test_bad_parents_are_told():
    with pytest.raises(InputError, match=r"parent 1, 'c1ccc', is not a molecule: "):
        propose(["CC", "c1ccc"], 3, numbers())
    with pytest.raises(InputError, match="no parents are given"):
        propose([], 3, numbers())


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("mol_ga"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    graph_ga.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"need the package mol_ga: pip install"):
        propose(["CC"], 1, numbers())


def test_rdkits_log_is_left_as_it_was():
    """mol_ga switches it off when it is imported, for the whole process."""
    before = rdBase.LogStatus()
    propose(PARENTS[:2], 1, numbers())
    assert rdBase.LogStatus() == before
    assert "rdApp.error:enabled" in before


def test_a_proposal_takes_milliseconds():
    began = time.process_time()
    n = len(propose(PARENTS, 40, numbers(3)))
    assert (time.process_time() - began) / n < 0.2  # some ms; a slow one would try all of mol_ga's
