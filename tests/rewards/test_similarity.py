"""Similarity to references, of molecules and of scaffolds, against RDKit's legacy functions."""

from collections import Counter

import pytest
from building import ASPIRIN, CELECOXIB, build, mol, part, reward_of
from rdkit import Chem, DataStructs
from rdkit.Chem import AllChem, MACCSkeys
from rdkit.Chem.Pharm2D import Generate, Gobbi_Pharm2D

from chemkl.chem.fingerprints import build_fingerprint
from chemkl.chem.molecules import silenced
from chemkl.config import InputError

MOLECULES = [
    *(ASPIRIN, CELECOXIB, "C[C@H]1CC[C@@H](O)C1=O", "C[N+](C)(C)CC(=O)[O-]", "C", "[2H]O[2H]")
]
REFERENCES = ["CCO", CELECOXIB, "c1ccccc1"]


def tanimoto(**parameters):
    return build("tanimoto", **parameters)


def similarity(smiles, reference, radius=2, n_bits=2048):
    with silenced():  # RDKit calls this function deprecated in its log
        fingerprints = [
            AllChem.GetMorganFingerprintAsBitVect(mol(text), radius, nBits=n_bits)
            for text in (smiles, reference)
        ]
    return DataStructs.TanimotoSimilarity(*fingerprints)


@pytest.mark.parametrize("smiles", MOLECULES)
def test_all_references_count(smiles):
    values = [similarity(smiles, reference) for reference in REFERENCES]
    by_name = {"max": max(values), "mean": sum(values) / 3, "min": min(values)}
    for combine, expected in by_name.items():
        score = tanimoto(references=REFERENCES, combine=combine)
        assert score(mol(smiles)) == pytest.approx(expected, abs=1e-15)
    assert tanimoto(references=REFERENCES)(mol(smiles)) == max(values)


def test_radius_and_length_are_settings():
    for radius, n_bits in [(1, 2048), (3, 256)]:
        score = tanimoto(references="Cc1ccccc1", radius=radius, n_bits=n_bits)
        assert score(mol(CELECOXIB)) == similarity(CELECOXIB, "Cc1ccccc1", radius, n_bits)


# GuacaMol's fingerprints as its paper's code makes them, by RDKit's legacy functions
COUNTED = {"n_bits": None, "counts": True}
FINGERPRINTS = {
    "ECFP4": (COUNTED, lambda m: AllChem.GetMorganFingerprint(m, 2)),
    "ECFP6": ({"radius": 3, **COUNTED}, lambda m: AllChem.GetMorganFingerprint(m, 3)),
    "FCFP4": (
        {"fingerprint": "feature_morgan", **COUNTED},
        lambda m: AllChem.GetMorganFingerprint(m, 2, useFeatures=True),
    ),
    "AP": (
        {"fingerprint": "atom_pairs", "max_distance": 10, **COUNTED},
        lambda m: AllChem.GetAtomPairFingerprint(m, maxLength=10),
    ),
    "PHCO": (
        {"fingerprint": "pharmacophore"},
        lambda m: Generate.Gen2DFingerprint(m, Gobbi_Pharm2D.factory),
    ),
    # others that RDKit has
    "maccs": ({"fingerprint": "maccs"}, MACCSkeys.GenMACCSKeys),
    "rdkit_path": ({"fingerprint": "rdkit_path"}, Chem.RDKFingerprint),
    "torsions": (
        {"fingerprint": "torsions"},
        AllChem.GetHashedTopologicalTorsionFingerprintAsBitVect,
    ),
}
OSIMERTINIB = "COc1cc(N(C)CCN(C)C)c(NC(=O)C=C)cc1Nc2nccc(n2)c3cn(C)c4ccccc34"
RANOLAZINE = "COc1ccccc1OCC(O)CN2CCN(CC(=O)Nc3c(C)cccc3C)CC2"


@pytest.mark.parametrize("name", FINGERPRINTS)
@pytest.mark.parametrize("target", [OSIMERTINIB, RANOLAZINE])
def test_fingerprints_are_guacamols_and_rdkits(name, target):
    parameters, fingerprint = FINGERPRINTS[name]
    score = tanimoto(references=target, **parameters)
    for smiles in (ASPIRIN, CELECOXIB, OSIMERTINIB, RANOLAZINE):
        with silenced():
            pair = fingerprint(mol(smiles)), fingerprint(mol(target))
        expected = DataStructs.TanimotoSimilarity(*pair)
        assert score(mol(smiles)) == pytest.approx(expected, abs=1e-12)
        assert 0 < expected <= 1


def feature_counts(smiles, *, counts):
    fingerprint = build_fingerprint("morgan", n_bits=None, counts=True)(mol(smiles))
    found = Counter(fingerprint.GetNonzeroElements())
    return found if counts else Counter(set(found))


@pytest.mark.parametrize("counts", [False, True])
def test_metrics_are_set_arithmetic(counts):
    query, reference = "CCCC(C)CCO", "CCCCCCN(C)CCCO"
    a, b = feature_counts(query, counts=counts), feature_counts(reference, counts=counts)
    both, only_a, only_b = (sum(each.values()) for each in (a & b, a - b, b - a))
    assert min(both, only_a, only_b) > 0
    assert only_a != only_b
    settings = {"references": reference, "n_bits": None, "counts": counts}
    expected = {
        "tanimoto": both / (both + only_a + only_b),
        "dice": both / (both + (only_a + only_b) / 2),
    }
    for kind, value in expected.items():
        assert build(kind, **settings)(mol(query)) == pytest.approx(value, abs=1e-12)
    for alpha, beta in [(0, 1), (1, 0), (0.9, 0.1), (1, 1)]:
        value = both / (both + alpha * only_a + beta * only_b)
        score = build("tversky", alpha=alpha, beta=beta, **settings)
        assert score(mol(query)) == pytest.approx(value, abs=1e-12)


def test_small_cases():
    assert tanimoto(references="C", fingerprint="atom_pairs")(mol("C")) == 0.0  # no pair
    right, left = "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"
    assert tanimoto(references=right)(mol(left)) == 1.0
    hands = tanimoto(references=right, chirality=True)
    assert hands(mol(left)) < 1.0 == hands(mol(right))


def test_references_of_a_file(tmp_path):
    smi = tmp_path / "actives.smi"
    smi.write_text(f"CCO ethanol\n\n{CELECOXIB}\tcelecoxib\n")
    sdf = tmp_path / "actives.sdf"
    with Chem.SDWriter(str(sdf)) as writer:
        for each in ("CCO", CELECOXIB):
            writer.write(mol(each))
    for inline in ({}, {"references": ["c1ccccc1"]}):
        every = [*inline.get("references", []), "CCO", CELECOXIB]
        expected = tanimoto(references=every, combine="mean")(mol(ASPIRIN))
        for file in (smi, sdf):
            score = tanimoto(references_file=file, combine="mean", **inline)
            assert score(mol(ASPIRIN)) == expected


def test_files_of_references_that_cannot_be_used(tmp_path):
    for name, content, message in [
        ("none.smi", None, "references_file: no such file or folder"),
        ("empty.smi", "\n", "no reference in it"),
        ("two.csv", "id,structure\n1,CCO\n", "no column .* smiles; rename that .* Known: id"),
        ("a.sdf", "", r"a\.sdf: the file is empty"),
        ("bad.smi", "CCO\n\nC1 x\n", r"bad\.smi:3 = 'C1' is not a molecule: not parsable"),
        ("many.smi", "C1\n" * 25, "and 15 more like these"),
    ]:
        if content is not None:
            (tmp_path / name).write_text(content)
        for inline in ({}, {"references": ["CCO"]}):
            with pytest.raises(InputError, match=message):
                tanimoto(references_file=tmp_path / name, **inline)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"references": ["CCO", "C1"]}, r"references\[1\] = 'C1' is not a molecule: not parsable"),
        ({"references": []}, "references: should have at least 1 entry"),
        ({"references": "C", "alpha": 0, "beta": 0}, "alpha = beta = 0 makes every similarity 1"),
        ({}, "references: required, and not given"),
        ({"combine": "median"}, "combine: 'median' is not allowed.*Known: max, mean, min"),
        ({"radius": -1}, "radius: should be greater than or equal to 0"),
        ({"radius": True}, r"radius: should be a whole number \(got 'true'\)"),
        (
            {"references": "C", "fingerprint": "maccs", "radius": 3, "counts": True},
            "tanimoto: radius = 3: the fingerprint maccs has no such setting; it takes none\n"
            "tanimoto: counts = True: the fingerprint maccs has no such setting; it takes none$",
        ),
    ],
)
def test_bad_settings(settings, message):
    kind = "tversky" if "alpha" in settings else "tanimoto"
    with pytest.raises(InputError, match=message):
        build(kind, **settings)


def test_a_molecule_with_too_many_pharmacophore_features_fails_alone():
    own = part("tanimoto", references=ASPIRIN, fingerprint="pharmacophore")
    rows = reward_of(own).score([ASPIRIN, "[O]" * 103])
    assert rows["raw_tanimoto"][0] == 1
    assert rows["valid"].all()
    assert "too many pharmacophore features: 101, at most 100" in rows["reason"][1]
    with pytest.raises(InputError, match="too many pharmacophore features: 128"):
        tanimoto(fingerprint="pharmacophore", references="[O]" * 130)


# ---- scaffolds


SCAFFOLD_KINDS = ["scaffold_match", "contains_scaffold", "scaffold_similarity"]
DIPHENYLPYRAZOLE = "c1ccc(-c2ccnn2-c2ccccc2)cc1"  # celecoxib without its side chains


@pytest.mark.parametrize(
    ("smiles", "same", "same_generic", "contains", "contains_generic"),
    [
        ("CCc1ccccc1", 1, 1, 1, 1),
        ("c1ccncc1", 0, 1, 0, 1),  # pyridine: a six-ring of other elements
        ("C1CCCCC1", 0, 1, 0, 1),
        ("O=C1CCCCC1", 0, 1, 0, 1),  # murcko keeps C=O, generic cuts it
        ("c1ccc2ccccc2c1", 0, 0, 1, 1),  # fused rings contain their parts
        ("C1CCCCC1c1ccsc1", 0, 0, 0, 1),
        ("c1ccsc1", 0, 0, 0, 0),
        ("CCO", 0, 0, 0, 0),
    ],
)
def test_toluenes_scaffold(smiles, same, same_generic, contains, contains_generic):
    for kind, plain, generic in [
        ("scaffold_match", same, same_generic),
        ("contains_scaffold", contains, contains_generic),
    ]:
        assert build(kind, references="Cc1ccccc1")(mol(smiles)) == plain
        assert build(kind, references="Cc1ccccc1", form="generic")(mol(smiles)) == generic


def test_every_reference_counts():
    references = ["Cc1ccccc1", "c1ccsc1CC"]
    match = build("scaffold_match", references=references)
    assert [match(mol(each)) for each in ("c1ccccc1O", "Cc1cccs1", "c1ccc[nH]1")] == [1, 1, 0]
    molecules = [mol(each) for each in ("c1ccccc1O", "Cc1cccs1", "c1ccccc1-c1cccs1", "CC")]
    any_ = build("contains_scaffold", references=references)
    all_ = build("contains_scaffold", references=references, combine="all")
    assert [any_(each) for each in molecules] == [1, 1, 1, 0]
    assert [all_(each) for each in molecules] == [0, 0, 1, 0]


def test_a_scaffold_is_a_reference_too_and_a_chain_has_none():
    assert build("scaffold_match", references=DIPHENYLPYRAZOLE)(mol(CELECOXIB)) == 1
    assert build("scaffold_match", references=CELECOXIB)(mol(DIPHENYLPYRAZOLE)) == 1
    assert build("scaffold_similarity", references="c1ccccc1")(mol("CCCC")) == 0


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


def test_a_molecule_without_generic_scaffold_fails_alone():
    score = build("scaffold_similarity", references="c1ccccc1", form="generic")
    with pytest.raises(ValueError, match="its generic scaffold is not a molecule"):
        score(mol("C1CCS2(C1)(CCCC2)C1CCCC1"))  # a ring sulfur of five bonds


@pytest.mark.parametrize("kind", SCAFFOLD_KINDS)
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
