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
    with silenced():  # RDKit logs that this function is deprecated
        fingerprints = [
            AllChem.GetMorganFingerprintAsBitVect(mol(text), radius, nBits=n_bits)
            for text in (smiles, reference)
        ]
    return DataStructs.TanimotoSimilarity(*fingerprints)


@pytest.mark.parametrize("smiles", MOLECULES)
def test_similarities_to_references_are_combined(smiles):
    values = [similarity(smiles, reference) for reference in REFERENCES]
    by_name = {"max": max(values), "mean": sum(values) / 3, "min": min(values)}
    for combine, expected in by_name.items():
        score = tanimoto(references=REFERENCES, combine=combine)
        assert score(mol(smiles)) == pytest.approx(expected, abs=1e-15)
    assert tanimoto(references=REFERENCES)(mol(smiles)) == max(values)


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
    both, only_a, only_b = ((a & b).total(), (a - b).total(), (b - a).total())
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
    chiral = tanimoto(references=right, chirality=True)
    assert chiral(mol(left)) < 1.0 == chiral(mol(right))
    for radius, n_bits in [(1, 2048), (3, 256)]:
        score = tanimoto(references="Cc1ccccc1", radius=radius, n_bits=n_bits)
        assert score(mol(CELECOXIB)) == similarity(CELECOXIB, "Cc1ccccc1", radius, n_bits)


def test_references_of_a_file(tmp_path):
    smi, sdf = tmp_path / "actives.smi", tmp_path / "actives.sdf"
    smi.write_text(f"CCO ethanol\n\n{CELECOXIB}\tcelecoxib\n")
    with Chem.SDWriter(str(sdf)) as writer:
        for smiles in ("CCO", CELECOXIB):
            writer.write(mol(smiles))
    for inline in ({}, {"references": ["c1ccccc1"]}):
        every = [*inline.get("references", []), "CCO", CELECOXIB]
        expected = tanimoto(references=every, combine="mean")(mol(ASPIRIN))
        for file in (smi, sdf):
            score = tanimoto(references_file=file, combine="mean", **inline)
            assert score(mol(ASPIRIN)) == expected


@pytest.mark.parametrize("inline", [{}, {"references": ["CCO"]}])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.smi", None, "references_file: no such file or folder"),
        ("empty.smi", "\n", "no reference in it"),
        ("two.csv", "id,structure\n1,CCO\n", "no column .* smiles; rename that .* Known: id"),
        ("a.sdf", "", r"a\.sdf: the file is empty"),
        ("bad.smi", "CCO\n\nC1 x\n", r"bad\.smi:3 = 'C1' is not a molecule: not parsable"),
        ("many.smi", "C1\n" * 25, "and 15 more like these"),
    ],
)
def test_bad_files_of_references_are_named(tmp_path, inline, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        tanimoto(references_file=tmp_path / name, **inline)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"references": ["CCO", "C1"]}, r"references\[1\] = 'C1' is not a molecule: not parsable"),
        ({"references": []}, "references: should have at least 1 entry"),
        ({"references": "C", "alpha": 0, "beta": 0}, "alpha = beta = 0 makes every similarity 1"),
        ({}, "references: required: give references or references_file"),
        ({"combine": "median"}, "combine: 'median' is not allowed.*Known: max, mean, min"),
        ({"radius": -1}, "radius: should be greater than or equal to 0"),
        ({"radius": True}, r"radius: should be a whole number \(got 'true'\)"),
        ({"references": "C", "fingerprint": "maccs", "radius": 3, "counts": True},
         "tanimoto: radius = 3: the fingerprint maccs has no such setting; it takes none\n"
         "tanimoto: counts = True: the fingerprint maccs has no such setting; it takes none$"),
        ({"fingerprint": "pharmacophore", "references": "[O]" * 130},
         "too many pharmacophore features: 128"),
    ],
)  # fmt: skip
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        build("tversky" if "alpha" in settings else "tanimoto", **settings)


def test_a_molecule_with_too_many_pharmacophore_features_fails_alone():
    rows = reward_of(part("tanimoto", references=ASPIRIN, fingerprint="pharmacophore")).score(
        [ASPIRIN, "[O]" * 103]
    )
    assert rows["raw_tanimoto"][0] == 1
    assert rows["valid"].all()
    assert "too many pharmacophore features: 101, at most 100" in rows["reason"][1]


# ---- scaffolds

SCAFFOLD_KINDS = ["scaffold_match", "contains_scaffold", "scaffold_similarity"]
DIPHENYLPYRAZOLE = "c1ccc(-c2ccnn2-c2ccccc2)cc1"  # celecoxib without its side chains
TOLUENE, TWO = {"references": "Cc1ccccc1"}, {"references": ["Cc1ccccc1", "c1ccsc1CC"]}
SMALL = ["c1ccccc1O", "Cc1cccs1", "c1ccccc1-c1cccs1", "CC"]
RINGS = [
    "CCc1ccccc1",
    "c1ccncc1",  # pyridine: a six-ring of other elements
    "C1CCCCC1",
    "O=C1CCCCC1",  # murcko keeps C=O, generic removes it
    "c1ccc2ccccc2c1",  # fused rings contain their parts
    "C1CCCCC1c1ccsc1",
    "c1ccsc1",
    "CCO",
]
GENERIC = {"form": "generic"}


@pytest.mark.parametrize(
    ("kind", "settings", "molecules", "expected"),
    [
        ("scaffold_match", TOLUENE, RINGS, [1, 0, 0, 0, 0, 0, 0, 0]),
        ("scaffold_match", TOLUENE | GENERIC, RINGS, [1, 1, 1, 1, 0, 0, 0, 0]),
        ("contains_scaffold", TOLUENE, RINGS, [1, 0, 0, 0, 1, 0, 0, 0]),
        ("contains_scaffold", TOLUENE | GENERIC, RINGS, [1, 1, 1, 1, 1, 1, 0, 0]),
        ("scaffold_match", TWO, ["c1ccccc1O", "Cc1cccs1", "c1ccc[nH]1"], [1, 1, 0]),
        ("contains_scaffold", TWO, SMALL, [1, 1, 1, 0]),
        ("contains_scaffold", TWO | {"combine": "all"}, SMALL, [0, 0, 1, 0]),
        # a scaffold is a reference, too, and a chain has none
        ("scaffold_match", {"references": DIPHENYLPYRAZOLE}, [CELECOXIB], [1]),
        ("scaffold_match", {"references": CELECOXIB}, [DIPHENYLPYRAZOLE], [1]),
        ("scaffold_similarity", {"references": "c1ccccc1"}, ["CCCC"], [0]),
        # side chains do not matter
        ("scaffold_similarity", {"references": ["CCc1ccccc1", CELECOXIB]},
         [CELECOXIB, DIPHENYLPYRAZOLE], [1, 1]),
    ],
)  # fmt: skip
def test_scaffolds_by_hand(kind, settings, molecules, expected):
    score = build(kind, **settings)
    assert [score(mol(smiles)) for smiles in molecules] == expected


def test_similarities_of_scaffolds_are_combined():
    # phenylpyridine with a side chain, against benzene and diphenylpyrazole
    phenylpyridine = "c1ccc(-c2ccncc2)cc1"
    a, b = (similarity(phenylpyridine, smiles) for smiles in ("c1ccccc1", DIPHENYLPYRAZOLE))
    assert 0 < min(a, b) < max(a, b) < 1
    for combine, expected in [("max", max(a, b)), ("mean", (a + b) / 2), ("min", min(a, b))]:
        references = ["CCc1ccccc1", CELECOXIB]
        score = build("scaffold_similarity", references=references, combine=combine)
        assert score(mol("CCOc1ccc(-c2ccncc2)cc1")) == pytest.approx(expected, abs=1e-15)


def test_a_molecule_without_generic_scaffold_fails_alone():
    score = build("scaffold_similarity", references="c1ccccc1", form="generic")
    with pytest.raises(ValueError, match="its generic scaffold is not a molecule"):
        score(mol("C1CCS2(C1)(CCCC2)C1CCCC1"))  # a ring sulfur of five bonds


@pytest.mark.parametrize("kind", SCAFFOLD_KINDS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"references": ["c1ccccc1", "OCC", "CC"]},
         "^{0}: reference 'CCO' has no murcko scaffold: it has no ring\n"
         "{0}: reference 'CC' has no murcko scaffold: it has no ring$"),
        ({"references": ["c1ccccc1", "C1"]}, r"references\[1\] = 'C1' is not a molecule"),
        ({"references": ["c1ccccc1"], "form": "bare"},
         "form: 'bare' is not allowed.*Known: generic, murcko"),
    ],
)  # fmt: skip
def test_bad_references_of_scaffolds_are_named(kind, settings, message):
    with pytest.raises(InputError, match=message.replace("{0}", kind)):
        build(kind, **settings)
