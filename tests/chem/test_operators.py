"""Genetic operators: validity and origin of proposals, BRICS pieces, reproducibility."""

import sys
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

_PARENTS = """
    CC(=O)Nc1ccc(O)cc1 CC(C)Cc1ccc(C(C)C(=O)O)cc1 Cn1c(=O)c2c(ncn2C)n(C)c1=O O=C(O)c1ccccc1OC(C)=O
    Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1 CN1CCC[C@H]1c1cccnc1
"""
PARENTS = _PARENTS.split()
LOG_BEFORE = rdBase.LogStatus()


def proposals(n, parents=PARENTS, seed=0, **settings):
    return propose(parents, n, np.random.default_rng(seed), **settings)


@pytest.fixture(scope="module")
def made():
    """Children of all attempts, the 60 proposals, and the processor time."""
    children, original, start = [], operators._child, time.process_time()

    def child(*arguments):
        children.append(original(*arguments))
        return children[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operators, "_child", child)
        return children, proposals(60), time.process_time() - start


def test_proposals_are_new_connected_and_canonical_and_name_their_parents(made):
    children, sixty, seconds = made
    canonical = {Chem.CanonSmiles(smiles) for smiles in PARENTS}
    assert len({proposal.smiles for proposal in sixty} - canonical) == 60
    assert {proposal.origin for proposal in sixty} == {*SHARES}
    for proposal in sixty:
        mol = Chem.MolFromSmiles(proposal.smiles)
        assert Chem.MolToSmiles(mol) == proposal.smiles
        assert len(Chem.GetMolFrags(mol)) == 1
        assert not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
        assert set(proposal.parents) <= canonical
        assert len(set(proposal.parents)) == (2 if proposal.origin in operators.OF_TWO else 1)
    assert sum(smiles is not None for smiles in children) / len(children) > 0.5
    assert seconds / 60 < 0.2  # some ms; trying all of mol_ga's mutations would take longer
    assert "rdApp.error:enabled" in LOG_BEFORE
    assert rdBase.LogStatus() == LOG_BEFORE  # importing mol_ga disables it


def test_the_seed_decides(made):
    assert proposals(60, list(PARENTS)) == made[1] != proposals(60, seed=1)


def test_neighbours_are_similar_and_mutations_need_not_be():
    def similarities(origin):
        for proposal in proposals(20, shares={origin: 1.0}, similarity=0.6):
            assert proposal.origin == origin
            child, parent = (
                morgan_fingerprint(Chem.MolFromSmiles(smiles))
                for smiles in (proposal.smiles, *proposal.parents)
            )
            yield tanimoto(child, [parent])[0]

    assert min(similarities("neighbour")) >= 0.6 > min(similarities("mutation"))


def test_fragments_join_pieces_of_two_parents_at_brics_bonds():
    ten = proposals(10, shares={"fragments": 1.0})
    assert ten == proposals(10, shares={"fragments": 1.0})
    assert [proposal.origin for proposal in ten] == ["fragments"] * 10
    for proposal in ten:
        child, *parents = (
            {text for _, text in operators._pieces(smiles)}
            for smiles in (proposal.smiles, *proposal.parents)
        )
        assert all(child & pieces for pieces in parents)


def flat(smiles):
    """A SMILES without stereocentres, but with isotopes."""
    mol = Chem.MolFromSmiles(smiles)
    Chem.RemoveStereochemistry(mol)
    return Chem.MolToSmiles(mol)


@pytest.mark.parametrize("whole", ["CN1CCC[C@H]1c1cccnc1", "CC(=O)N[C@@H](C)c1ccc(OC)cc1"])
def test_pieces_have_the_ends_of_brics_and_keep_their_stereo(whole):
    mol, expected, joined = Chem.MolFromSmiles(whole), set(), set()
    for bond in BRICS.FindBRICSBonds(mol):
        cut = Chem.MolToSmiles(BRICS.BreakBRICSBonds(mol, [bond]), isomericSmiles=True)
        expected |= {flat(text) for text in cut.split(".")}
    pieces = operators._pieces(whole)
    assert {flat(text.replace("*:1", f"{kind}*")) for kind, text in pieces} == expected
    for (_, first), (_, second) in combinations(pieces, 2):
        joined.add(Chem.MolToSmiles(Chem.molzip(Chem.MolFromSmiles(f"{first}.{second}"))))
    assert Chem.CanonSmiles(whole) in joined


def test_a_double_bond_marked_e_or_z_is_not_cut():
    pieces = operators._pieces("CNC(=O)/C=C/c1ccccc1")
    assert (1, "[*:1]C(=O)/C=C/c1ccccc1") in pieces
    assert 7 not in {kind for kind, _ in pieces}
    assert 7 in {kind for kind, _ in operators._pieces("CNC(=O)C=Cc1ccccc1")}


def test_size_is_bounded():
    small = proposals(30, most_atoms=14)
    assert small
    assert max(Chem.MolFromSmiles(p.smiles).GetNumHeavyAtoms() for p in small) <= 14


def test_few_or_poor_parents_give_fewer_proposals():
    alone = proposals(10, PARENTS[:1])
    assert {proposal.origin for proposal in alone} <= {"mutation", "neighbour"}
    assert len(alone) == 10
    for origin in ("crossover", "fragments"):
        assert proposals(3, PARENTS[:1], shares={origin: 1.0}) == []
    assert proposals(3, ["CC", "CCC"], shares={"fragments": 1.0}) == []  # no bond to cut
    assert len(proposals(500, ["C"], shares={"mutation": 1.0})) < 500


def test_salts_have_pieces_without_counterions():
    salts = ["CNC(=O)c1ccccc1.Cl", "CCOC(=O)c1ccncc1.[Na+]"]
    children = proposals(5, salts, shares={"fragments": 1.0})
    assert children
    assert not any("." in proposal.smiles for proposal in children)


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        (["CC", "c1ccc"], r"parent 1, 'c1ccc', is not a molecule: "),
        ([], "propose: no parents"),
        (["CC"], r"need the package mol_ga: pip install"),
    ],
)
def test_bad_parents_and_a_missing_package_are_refused(monkeypatch, parents, message):
    graph_ga.cache_clear()
    monkeypatch.setitem(sys.modules, "mol_ga.graph_ga.crossover", None)
    with pytest.raises(InputError, match=message):
        proposals(3, parents)
