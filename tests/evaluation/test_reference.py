import codecs
import importlib.util
import math
import os
import zipfile
from collections import Counter

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from scipy import linalg

from chemkl.config import InputError
from chemkl.evaluation import from_smiles as samples_of
from chemkl.evaluation import reference as reference_module
from chemkl.evaluation.reference import (
    ChemNet,
    Gaussian,
    compare,
    cosine_similarity,
    frechet_distance,
    from_smiles,
    from_statistics,
    read_statistics,
    snn,
)
from chemkl.evaluation.samples import moses_bits


@pytest.fixture
def halves(real_smiles):
    return real_smiles[:80], real_smiles[80:200]


def bits_of(smiles):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    return [generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in smiles]


def molsets_scaffolds(smiles):
    """compute_scaffolds of molsets 0.3.1, written out."""
    counts = Counter()
    for text in smiles:
        scaffold = MurckoScaffold.GetScaffoldForMol(Chem.MolFromSmiles(text))
        if scaffold.GetRingInfo().NumRings() >= 2:
            counts[Chem.MolToSmiles(scaffold)] += 1
    return counts


def plain_cosine(u, v):
    dot = sum(u[k] * v[k] for k in u)
    return dot / math.sqrt(sum(x * x for x in u.values()) * sum(x * x for x in v.values()))


def statistics_of(smiles):
    """The statistics that molsets would ship for these molecules."""
    return {
        "FCD": {"mu": np.zeros(3, np.float32), "sigma": np.eye(3)},
        "SNN": {"fps": np.array([list(b) for b in bits_of(smiles)], dtype=np.uint8)},
        "Frag": {"frag": Counter({"[4*]C": 2})},
        "Scaf": {"scaf": molsets_scaffolds(smiles)},
    }


def save(path, statistics):
    np.savez(path, stats=np.array(statistics, dtype=object))
    return path


@pytest.mark.parametrize(("block", "query"), [(8192, 1024), (7, 11)])
def test_snn_is_the_mean_similarity_to_the_nearest(halves, monkeypatch, block, query):
    monkeypatch.setattr("chemkl.evaluation.reference.REFERENCE_BLOCK", block)
    monkeypatch.setattr("chemkl.evaluation.reference.QUERY_BLOCK", query)
    ours, theirs = halves
    reference = from_smiles("r", theirs, None)
    best = [max(DataStructs.BulkTanimotoSimilarity(b, bits_of(theirs))) for b in bits_of(ours)]
    assert snn(ours, bits_of(ours), reference) == pytest.approx(np.mean(best), abs=1e-6)
    part = snn(ours[:10], bits_of(ours[:10]), reference)  # from what is known by now
    assert part == pytest.approx(np.mean(best[:10]), abs=1e-6)


def test_snn_of_a_part_of_the_reference_is_one(real_smiles):
    reference = from_smiles("r", real_smiles, None)
    assert snn(real_smiles[:90], bits_of(real_smiles[:90]), reference) == 1
    assert set(reference.nearest.values()) == {1.0}  # whatever block a molecule is in
    assert snn([], [], reference) is None


def test_scaf_and_frag_are_cosines_of_counts(halves):
    ours, theirs = halves
    chosen = samples_of("x", ours).molecules
    values = compare(
        [m.smiles for m in chosen], moses_bits(chosen), from_smiles("r", theirs, None), None
    )
    expected = plain_cosine(molsets_scaffolds(ours), molsets_scaffolds(theirs))
    assert values["scaf"] == pytest.approx(expected)
    counts = [
        Counter(
            fragment
            for s in part
            for fragment in Chem.MolToSmiles(
                Chem.FragmentOnBRICSBonds(Chem.MolFromSmiles(s))
            ).split(".")
        )
        for part in (ours, theirs)
    ]
    assert values["frag"] == pytest.approx(plain_cosine(*counts))
    assert values["fcd"] is None


def test_cosine_by_hand_and_of_nothing():
    assert cosine_similarity({"a": 3, "b": 4}, {"a": 4, "c": 3}) == pytest.approx(12 / 25)
    assert cosine_similarity({"a": 2}, {"a": 9}) == pytest.approx(1)
    assert cosine_similarity({}, {"a": 1}) is None


def test_a_statistics_file_gives_what_the_molecules_give(halves, tmp_path):
    ours, theirs = halves
    path = save(tmp_path / "stats.npz", statistics_of(theirs))
    reference = from_statistics("r", read_statistics(path, "stats"))
    direct = from_smiles("r", theirs, None)
    assert np.array_equal(reference.packed_bits, direct.packed_bits)
    assert reference.scaffolds == direct.scaffolds
    assert reference.fragments == Counter({"[4*]C": 2})
    assert reference.activations.covariance.shape == (3, 3)
    assert snn(ours, bits_of(ours), reference) == snn(ours, bits_of(ours), direct)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def test_a_pickle_that_asks_for_anything_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "stats.npz", {"FCD": Hostile()})
    with pytest.raises(InputError, match=r"asks for (posix|nt)\.system, which is not allowed"):
        read_statistics(path, "stats.npz")
    assert not (tmp_path / "hacked").exists()


def test_a_foreign_file_and_a_truncated_pickle_are_refused(tmp_path):
    for content in (b"", b"PK\x03\x04 not really", b"\x93NUMPY"):
        (tmp_path / "stats.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"stats\.npz: not a molsets statistics file"):
            read_statistics(tmp_path / "stats.npz", "stats.npz")
    path = save(tmp_path / "a.npz", {"FCD": 1})
    with zipfile.ZipFile(path) as archive:
        body = archive.read("stats.npy")
    for cut in (10, 128, len(body) - 5):
        with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
            archive.writestr("stats.npy", body[:cut])
        with pytest.raises(InputError, match="not a molsets statistics file"):
            read_statistics(tmp_path / "b.npz", "b.npz")


class Utf8Text:
    def __reduce__(self):
        return codecs.encode, ("x", "utf-8")


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        (np.zeros(3), "holds float64, not objects"),
        (np.array([None, {}]), r"stats\.npy holds no table of statistics"),
        (np.array(Utf8Text(), dtype=object), r"\(text in encoding 'utf-8'\)"),
    ],
)
def test_arrays_of_something_else_are_no_statistics(tmp_path, stats, message):
    np.savez(tmp_path / "a.npz", stats=stats)
    with pytest.raises(InputError, match=message):
        read_statistics(tmp_path / "a.npz", "a.npz")


def test_statistics_that_are_missing_or_of_another_length_are_refused(halves):
    for missing in ("SNN", "Scaf", "Frag", "FCD"):
        statistics = statistics_of(halves[0])
        del statistics[missing]
        with pytest.raises(InputError, match=f"lack '{missing}'"):
            from_statistics("r", statistics)
    statistics = statistics_of(halves[0])
    statistics["SNN"]["fps"] = statistics["SNN"]["fps"][:, :512]
    with pytest.raises(InputError, match=r"shape \(80, 512\); expected 1024"):
        from_statistics("r", statistics)


def test_a_reference_without_molecules_is_refused():
    with pytest.raises(InputError, match="no valid SMILES"):
        from_smiles("r", ["nonsense"], None)


# ---- Frechet ChemNet Distance

needs_fcd_torch = pytest.mark.skipif(
    importlib.util.find_spec("fcd_torch") is None, reason="fcd_torch is not installed"
)


def gaussian(seed, dimension=6, n=40):
    points = np.random.default_rng(seed).normal(size=(n, dimension)) * (1 + seed)
    return Gaussian(points.mean(0), np.cov(points.T))


def test_frechet_distance_against_the_matrix_square_root():
    one, other = gaussian(1), gaussian(2)
    root = linalg.sqrtm(one.covariance @ other.covariance).real
    expected = np.sum((one.mean - other.mean) ** 2) + np.trace(
        one.covariance + other.covariance - 2 * root
    )
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_by_hand_and_of_singular_covariances_to_themselves():
    one = Gaussian(np.array([1.0]), np.array([[4.0]]))
    other = Gaussian(np.array([4.0]), np.array([[9.0]]))
    assert frechet_distance(one, other) == pytest.approx(9 + (2 - 3) ** 2)
    few = gaussian(3, dimension=20, n=5)  # rank 4 of 20
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(reference_module, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'fcd_torch>=1.0.7', or set fcd: false"):
        ChemNet()


@needs_fcd_torch
def test_activations_do_not_depend_on_the_batch_and_are_kept(real_smiles):
    network = ChemNet()
    together = network.activations(real_smiles[:12])
    assert together.shape == (12, 512)
    alone = ChemNet().activations(real_smiles[3:4])
    assert np.allclose(together[3], alone[0], atol=1e-5)
    assert np.array_equal(network.activations(real_smiles[5:7]), together[5:7])


@needs_fcd_torch
def test_distance_agrees_with_the_package(real_smiles):
    from fcd_torch import FCD

    ours, theirs = real_smiles[:150], real_smiles[150:300]
    network = ChemNet()
    value = frechet_distance(network.gaussian(ours), network.gaussian(theirs))
    # its means are float32 and its root of the product is taken by a Schur decomposition
    expected = FCD(device="cpu", n_jobs=1)(ours, theirs)
    assert value == pytest.approx(expected, rel=1e-3)
    assert network.gaussian(ours[:1]) is None
