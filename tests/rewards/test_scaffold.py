"""Scaffold components: the scaffolds are drawn by hand in the comments."""

import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from chemkl.config import InputError
from chemkl.rewards.registry import find_component

CELECOXIB = "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1"
DIPHENYLPYRAZOLE = "c1ccc(-c2ccnn2-c2ccccc2)cc1"  # celecoxib without its side chains
KINDS = ["scaffold_match", "contains_scaffold", "scaffold_similarity"]


def mol(smiles):
    return Chem.MolFromSmiles(smiles)


def build(kind, **parameters):
    return find_component(kind).build(parameters)


@pytest.mark.parametrize(
    ("smiles", "murcko", "generic"),
    [
        ("CCc1ccccc1", 1, 1),
        ("c1ccncc1", 0, 1),  # pyridine: a six-ring of other elements
        ("C1CCCCC1", 0, 1),
        ("O=C1CCCCC1", 0, 1),  # murcko keeps C=O, generic cuts it
        ("c1ccc2ccccc2c1", 0, 0),
        ("c1ccsc1", 0, 0),
        ("CCO", 0, 0),
    ],
)
def test_the_same_scaffold_as_toluene(smiles, murcko, generic):
    assert build("scaffold_match", references="Cc1ccccc1")(mol(smiles)) == murcko
    assert build("scaffold_match", references="Cc1ccccc1", form="generic")(mol(smiles)) == generic


@pytest.mark.parametrize(
    ("smiles", "murcko", "generic"),
    [
        ("CCc1ccccc1", 1, 1),
        ("c1ccncc1", 0, 1),
        ("c1ccc2ccccc2c1", 1, 1),  # fused rings contain their parts
        ("C1CCCCC1c1ccsc1", 0, 1),
        ("c1ccsc1", 0, 0),
        ("CCO", 0, 0),
    ],
)
def test_containing_toluenes_scaffold(smiles, murcko, generic):
    score = build("contains_scaffold", references="Cc1ccccc1")
    assert score(mol(smiles)) == murcko
    score = build("contains_scaffold", references="Cc1ccccc1", form="generic")
    assert score(mol(smiles)) == generic


def test_every_reference_counts():
    references = ["Cc1ccccc1", "c1ccsc1CC"]
    match = build("scaffold_match", references=references)
    assert [match(mol(each)) for each in ("c1ccccc1O", "Cc1cccs1", "c1ccc[nH]1")] == [1, 1, 0]
    molecules = [mol(each) for each in ("c1ccccc1O", "Cc1cccs1", "c1ccccc1-c1cccs1", "CC")]
    any_ = build("contains_scaffold", references=references)
    all_ = build("contains_scaffold", references=references, combine="all")
    assert [any_(each) for each in molecules] == [1, 1, 1, 0]
    assert [all_(each) for each in molecules] == [0, 0, 1, 0]


def test_a_scaffold_is_a_reference_too():
    assert build("scaffold_match", references=DIPHENYLPYRAZOLE)(mol(CELECOXIB)) == 1
    assert build("scaffold_match", references=CELECOXIB)(mol(DIPHENYLPYRAZOLE)) == 1


def similarity(left, right):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    return DataStructs.TanimotoSimilarity(
        *(generator.GetFingerprint(mol(s)) for s in (left, right))
    )


def test_similarity_of_scaffolds_forgets_side_chains():
    score = build("scaffold_similarity", references=["CCc1ccccc1", CELECOXIB])
    assert score(mol(CELECOXIB)) == 1.0
    assert score(mol(DIPHENYLPYRAZOLE)) == 1.0
    # phenylpyridine with and without a side chain, against benzene and diphenylpyrazole
    phenylpyridine = "c1ccc(-c2ccncc2)cc1"
    each = [similarity(phenylpyridine, "c1ccccc1"), similarity(phenylpyridine, DIPHENYLPYRAZOLE)]
    assert score(mol("CCOc1ccc(-c2ccncc2)cc1")) == max(each)
    assert 0 < min(each) < max(each) < 1
    for combine, expected in [("mean", sum(each) / 2), ("min", min(each))]:
        other = build("scaffold_similarity", references=["CCc1ccccc1", CELECOXIB], combine=combine)
        assert other(mol(phenylpyridine)) == pytest.approx(expected, abs=1e-15)


def test_without_a_ring_there_is_no_scaffold():
    for kind in KINDS:
        assert build(kind, references="c1ccccc1")(mol("CCCC")) == 0


def test_similarity_of_generic_scaffolds():
    score = build("scaffold_similarity", references="c1ccccc1", form="generic")
    assert score(mol("O=C1CCNCC1")) == 1.0  # a six-ring once elements and C=O are forgotten
    assert score(mol("C1CCCC1")) == similarity("C1CCCC1", "C1CCCCC1")


def test_a_molecule_without_generic_scaffold_fails_alone():
    score = build("scaffold_similarity", references="c1ccccc1", form="generic")
    with pytest.raises(ValueError, match="its generic scaffold is not a molecule"):
        score(mol("C1CCS2(C1)(CCCC2)C1CCCC1"))  # a ring sulfur of five bonds


@pytest.mark.parametrize("kind", KINDS)
def test_references_without_scaffold_or_sense_are_named(kind):
    with pytest.raises(InputError) as caught:
        build(kind, references=["c1ccccc1", "OCC", "CC"])
    assert str(caught.value).splitlines() == [
        f"{kind}: reference 'CCO' has no murcko scaffold: it has no ring",
        f"{kind}: reference 'CC' has no murcko scaffold: it has no ring",
    ]
    with pytest.raises(InputError, match=r"references\[1\] = 'C1' is not a molecule"):
        build(kind, references=["c1ccccc1", "C1"])
    with pytest.raises(InputError, match=r"form: 'bare' is not allowed.*Known: generic, murcko"):
        build(kind, references=["c1ccccc1"], form="bare")
