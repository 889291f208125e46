"""Genetic operators: what is proposed, of whom, and that the seed alone decides."""

import builtins
import time

import numpy as np
import pytest
from rdkit import Chem, rdBase

from chemkl.chem import operators
from chemkl.chem.fingerprints import morgan_fingerprint, tanimoto
from chemkl.chem.operators import graph_ga, propose
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
    assert {one.origin for one in sixty} == {"crossover", "mutation", "neighbour"}
    for one in sixty:
        assert set(one.parents) <= known
        assert len(set(one.parents)) == (2 if one.origin == "crossover" else 1)


def test_neighbours_are_similar_and_mutations_need_not_be():
    def similarities(origin):
        for one in propose(PARENTS, 20, numbers(), shares={origin: 1.0}, similarity=0.6):
            assert one.origin == origin
            child, parent = map(fingerprint, (one.smiles, *one.parents))
            yield tanimoto(child, [parent])[0]

    assert min(similarities("neighbour")) >= 0.6
    assert min(similarities("mutation")) < 0.6


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
    assert propose([PARENTS[0]], 3, numbers(), shares={"crossover": 1.0}) == []
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
