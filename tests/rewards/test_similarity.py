"""Similarity to references: oracles are RDKit's legacy functions and plain counting of features."""

from collections import Counter

import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import AllChem, MACCSkeys
from rdkit.Chem.Pharm2D import Generate, Gobbi_Pharm2D

from chemkl.chem.fingerprints import build_fingerprint
from chemkl.chem.molecules import silenced
from chemkl.config import InputError
from chemkl.rewards import RewardModel
from chemkl.rewards.registry import find_component

CELECOXIB = "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1"
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
MOLECULES = [
    ASPIRIN,
    CELECOXIB,
    "C[C@H]1CC[C@@H](O)C1=O",
    "C[N+](C)(C)CC(=O)[O-]",
    "C",
    "[2H]O[2H]",
]
REFERENCES = ["CCO", CELECOXIB, "c1ccccc1"]


def mol(smiles):
    return Chem.MolFromSmiles(smiles)


def build(kind="tanimoto", **parameters):
    return find_component(kind).build(parameters)


def morgan(smiles, radius=2, n_bits=2048):
    with silenced():  # RDKit calls these functions deprecated in its log
        return AllChem.GetMorganFingerprintAsBitVect(mol(smiles), radius, nBits=n_bits)


def similarity(smiles, reference, *settings):
    return DataStructs.TanimotoSimilarity(morgan(smiles, *settings), morgan(reference, *settings))


@pytest.mark.parametrize("smiles", MOLECULES)
def test_all_references_count(smiles):
    each = [similarity(smiles, reference) for reference in REFERENCES]
    by_name = {"max": max(each), "mean": sum(each) / 3, "min": min(each)}
    for combine, expected in by_name.items():
        score = build(references=REFERENCES, combine=combine)
        assert score(mol(smiles)) == pytest.approx(expected, abs=1e-15)
    assert build(references=REFERENCES)(mol(smiles)) == max(each)


def test_the_nearest_reference_need_not_be_the_first():
    score = build(references=["CCO", CELECOXIB])
    assert score(mol(CELECOXIB)) == 1.0
    assert similarity(CELECOXIB, "CCO") < 0.1


def test_radius_and_length_are_settings():
    for radius, n_bits in [(1, 2048), (3, 256)]:
        score = build(references="Cc1ccccc1", radius=radius, n_bits=n_bits)
        assert score(mol(CELECOXIB)) == similarity(CELECOXIB, "Cc1ccccc1", radius, n_bits)


# GuacaMol's fingerprints as its paper's code makes them, by RDKit's legacy functions
GUACAMOL = {
    "ECFP4": ({"n_bits": None, "counts": True}, lambda m: AllChem.GetMorganFingerprint(m, 2)),
    "ECFP6": (
        {"radius": 3, "n_bits": None, "counts": True},
        lambda m: AllChem.GetMorganFingerprint(m, 3),
    ),
    "FCFP4": (
        {"fingerprint": "feature_morgan", "n_bits": None, "counts": True},
        lambda m: AllChem.GetMorganFingerprint(m, 2, useFeatures=True),
    ),
    "AP": (
        {"fingerprint": "atom_pairs", "n_bits": None, "counts": True, "max_distance": 10},
        lambda m: AllChem.GetAtomPairFingerprint(m, maxLength=10),
    ),
    "PHCO": (
        {"fingerprint": "pharmacophore"},
        lambda m: Generate.Gen2DFingerprint(m, Gobbi_Pharm2D.factory),
    ),
}
OSIMERTINIB = "COc1cc(N(C)CCN(C)C)c(NC(=O)C=C)cc1Nc2nccc(n2)c3cn(C)c4ccccc34"
RANOLAZINE = "COc1ccccc1OCC(O)CN2CCN(CC(=O)Nc3c(C)cccc3C)CC2"


@pytest.mark.parametrize("name", GUACAMOL)
@pytest.mark.parametrize("target", [OSIMERTINIB, RANOLAZINE])
def test_guacamols_similarities(name, target):
    parameters, fingerprint = GUACAMOL[name]
    score = build(references=target, **parameters)
    for smiles in (ASPIRIN, CELECOXIB, OSIMERTINIB, RANOLAZINE):
        with silenced():
            ours, theirs = fingerprint(mol(smiles)), fingerprint(mol(target))
        expected = DataStructs.TanimotoSimilarity(ours, theirs)
        assert score(mol(smiles)) == pytest.approx(expected, abs=1e-12)
        assert 0 < expected <= 1


def test_counts_by_hand():
    # radius 0 knows atoms only: propane has 2 CH3 and 1 CH2, butane 2 and 2
    score = build(references="CCCC", radius=0, counts=True, n_bits=None)
    assert score(mol("CCC")) == 3 / 4
    assert build(references="CCCC", radius=0)(mol("CCC")) == 1.0  # as sets they are equal
    pairs = build(references="CCO", fingerprint="atom_pairs", counts=True, n_bits=None)
    # ethanol and propane have two pairs of neighbours and one at distance 2: none is of equal atoms
    # except CH3-CH2; shared 1, all 3 + 3 - 1
    assert pairs(mol("CCC")) == 1 / 5


def test_other_fingerprints_are_rdkits():
    a, b = mol(ASPIRIN), mol("OC(=O)c1ccccc1O")
    with silenced():
        oracles = {
            "maccs": [MACCSkeys.GenMACCSKeys(each) for each in (a, b)],
            "rdkit_path": [Chem.RDKFingerprint(each) for each in (a, b)],
            "torsions": [
                AllChem.GetHashedTopologicalTorsionFingerprintAsBitVect(each) for each in (a, b)
            ],
        }
    for kind, (left, right) in oracles.items():
        expected = DataStructs.TanimotoSimilarity(left, right)
        assert build(references=ASPIRIN, fingerprint=kind)(b) == pytest.approx(expected, abs=1e-12)
        assert 0.3 < expected < 0.9


def features(smiles, *, counts):
    fingerprint = build_fingerprint("morgan", n_bits=None, counts=True)(mol(smiles))
    found = Counter(fingerprint.GetNonzeroElements())
    return found if counts else Counter(set(found))


@pytest.mark.parametrize("counts", [False, True])
def test_metrics_are_set_arithmetic(counts):
    query, reference = "CCCC(C)CCO", "CCCCCCN(C)CCCO"
    a, b = features(query, counts=counts), features(reference, counts=counts)
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


def test_a_part_of_the_reference_and_the_whole():
    contained = build("tversky", references="CCCC", radius=0, alpha=0, beta=1)
    assert contained(mol("CCCCO")) == 1.0  # CH3 and CH2: everything that butane has
    with pytest.raises(InputError, match="alpha = beta = 0 makes every similarity 1"):
        build("tversky", references="CCCC", alpha=0, beta=0)


def test_hands_differ_on_demand():
    right, left = "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"
    assert build(references=right)(mol(left)) == 1.0
    assert build(references=right, chirality=True)(mol(left)) < 1.0
    assert build(references=right, chirality=True)(mol(right)) == 1.0


def test_nothing_is_unlike_nothing():
    assert build(references="C", fingerprint="atom_pairs")(mol("C")) == 0.0  # no pair


def test_references_of_a_file(tmp_path):
    smi = tmp_path / "actives.smi"
    smi.write_text(f"CCO ethanol\n\n{CELECOXIB}\tcelecoxib\n")
    csv = tmp_path / "actives.csv"
    csv.write_text(f'name,SMILES\n"a, b",CCO\n\ncelecoxib,{CELECOXIB}\n')
    inline = build(references=["CCO", CELECOXIB], combine="mean")
    bare = tmp_path / "bare.csv"
    bare.write_text(f"CCO\n{CELECOXIB}\n")  # its first molecule is no header
    sdf = tmp_path / "actives.sdf"
    with Chem.SDWriter(str(sdf)) as writer:
        for each in ("CCO", CELECOXIB):
            writer.write(mol(each))
    for file in (smi, csv, bare, sdf):
        score = build(references_file=file, combine="mean")
        assert score(mol(ASPIRIN)) == inline(mol(ASPIRIN))
    both = build(references="c1ccccc1", references_file=smi, combine="mean")
    three = build(references=["c1ccccc1", "CCO", CELECOXIB], combine="mean")
    assert both(mol(ASPIRIN)) == three(mol(ASPIRIN))


def test_a_reference_that_is_no_molecule_is_named(tmp_path):
    with pytest.raises(InputError, match=r"references\[1\] = 'C1' is not a molecule: not parsable"):
        build(references=["CCO", "C1"])
    file = tmp_path / "actives.smi"
    file.write_text("CCO\n\nC1 broken\n")
    with pytest.raises(InputError, match=r"actives\.smi:3 = 'C1' is not a molecule: not parsable"):
        build(references_file=file)
    file.write_text("C1\n" * 25)
    with pytest.raises(InputError, match="and 15 more like these"):
        build(references_file=file)


def test_bad_references_files(tmp_path):
    (tmp_path / "empty.smi").write_text("\n")
    (tmp_path / "two.csv").write_text("id,structure\n1,CCO\n")
    (tmp_path / "a.sdf").write_text("")
    for name, message in [
        ("none.smi", "references_file: no such file or folder"),
        ("empty.smi", "no reference in it"),
        ("two.csv", "no column is called smiles; rename that .* Known: id, structure"),
        ("a.sdf", r"a\.sdf: the file is empty"),
    ]:
        with pytest.raises(InputError, match=message):
            build(references_file=tmp_path / name)


def test_bad_settings():
    with pytest.raises(InputError, match=r"references: should have at least 1 entry"):
        build(references=[])
    with pytest.raises(InputError, match="references: required, and not given"):
        build()
    with pytest.raises(
        InputError, match=r"combine: 'median' is not allowed.*Known: max, mean, min"
    ):
        build(references=["C"], combine="median")
    with pytest.raises(InputError, match="radius: should be greater than or equal to 0"):
        build(references=["C"], radius=-1)
    with pytest.raises(InputError) as caught:
        build(references=["C"], fingerprint="maccs", radius=3, counts=True)
    assert str(caught.value).splitlines() == [
        "tanimoto: radius = 3: the fingerprint maccs has no such setting; it takes none",
        "tanimoto: counts = True: the fingerprint maccs has no such setting; it takes none",
    ]


def test_reference_fingerprints_are_made_once(monkeypatch):
    read = []
    parse_one = Chem.MolFromSmiles
    score = build(references=REFERENCES)
    monkeypatch.setattr(Chem, "MolFromSmiles", lambda text: read.append(text) or parse_one(text))
    assert score(parse_one(ASPIRIN)) > 0
    assert read == []


def test_in_a_reward():
    reward = RewardModel.from_config(
        {
            "components": [
                {"kind": "tanimoto", "parameters": {"references": ["CCO", CELECOXIB]}},
                {"kind": "dice", "parameters": {"references": ["CCO", CELECOXIB]}},
            ]
        }
    )
    frame = reward.score([CELECOXIB, "C1CC", "CCO"])
    assert frame["raw_tanimoto"].fillna(-1).tolist() == [1.0, -1.0, 1.0]
    assert frame["reward"].tolist() == [1.0, 0.0, 1.0]


def test_a_molecule_with_too_many_pharmacophore_features_fails_alone():
    settings = {"references": ASPIRIN, "fingerprint": "pharmacophore"}
    part = {"kind": "tanimoto", "parameters": settings}
    with RewardModel.from_config({"components": [part]}) as model:
        rows = model.score([ASPIRIN, "[O]" * 103])
    assert rows["raw_tanimoto"][0] == 1
    assert rows["valid"].all()
    assert "too many pharmacophore features: 101, at most 100" in rows["reason"][1]
    with pytest.raises(InputError, match="too many pharmacophore features: 128"):
        build(fingerprint="pharmacophore", references="[O]" * 130)


def test_a_switch_is_no_radius():
    with pytest.raises(InputError, match=r"radius: should be a whole number \(got 'true'\)"):
        build(references=ASPIRIN, radius=True)
