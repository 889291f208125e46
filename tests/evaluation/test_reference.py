"""Likeness to reference sets: against RDKit, molsets and fcd_torch; statistics files of molsets."""

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
    scaffolds = (MurckoScaffold.GetScaffoldForMol(Chem.MolFromSmiles(s)) for s in smiles)
    return Counter(Chem.MolToSmiles(s) for s in scaffolds if s.GetRingInfo().NumRings() >= 2)


def fragments(smiles):
    broken = (Chem.FragmentOnBRICSBonds(Chem.MolFromSmiles(s)) for s in smiles)
    return Counter(fragment for mol in broken for fragment in Chem.MolToSmiles(mol).split("."))


def plain_cosine(u, v):
    dot = sum(u[k] * v[k] for k in u)
    return dot / math.sqrt(sum(x * x for x in u.values()) * sum(x * x for x in v.values()))


# ---- SNN, Scaf and Frag


@pytest.mark.parametrize(("block", "query"), [(8192, 1024), (7, 11)])
def test_snn_is_the_mean_similarity_to_the_nearest(real_smiles, halves, monkeypatch, block, query):
    monkeypatch.setattr(reference_module, "REFERENCE_BLOCK", block)
    monkeypatch.setattr(reference_module, "QUERY_BLOCK", query)
    ours, theirs = halves
    reference = from_smiles("r", theirs, None)
    best = [max(DataStructs.BulkTanimotoSimilarity(b, bits_of(theirs))) for b in bits_of(ours)]
    assert snn(ours, bits_of(ours), reference) == pytest.approx(np.mean(best), abs=1e-6)
    part = snn(ours[:10], bits_of(ours[:10]), reference)  # from the cache
    assert part == pytest.approx(np.mean(best[:10]), abs=1e-6)
    reference = from_smiles("r", real_smiles, None)
    assert snn(real_smiles[:90], bits_of(real_smiles[:90]), reference) == 1
    assert set(reference.nearest.values()) == {1.0}  # in every block
    assert snn([], [], reference) is None


def test_scaf_and_frag_are_cosines_of_counts(halves):
    ours, theirs = halves
    molecules = samples_of("x", ours).molecules
    smiles = [m.smiles for m in molecules]
    values = compare(smiles, moses_bits(molecules), from_smiles("r", theirs, None), None)
    for name, count in (("scaf", molsets_scaffolds), ("frag", fragments)):
        assert values[name] == pytest.approx(plain_cosine(count(ours), count(theirs)))
    assert values["fcd"] is None
    assert cosine_similarity({"a": 3, "b": 4}, {"a": 4, "c": 3}) == pytest.approx(12 / 25)
    assert cosine_similarity({"a": 2}, {"a": 9}) == pytest.approx(1)
    assert cosine_similarity({}, {"a": 1}) is None
    with pytest.raises(InputError, match="no valid SMILES"):
        from_smiles("r", ["nonsense"], None)


# ---- statistics files of molsets


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


def test_statistics_file_and_molecules_give_the_same_reference(halves, tmp_path):
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


class Utf8Text:
    def __reduce__(self):
        return codecs.encode, ("x", "utf-8")


def test_hostile_pickle_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "stats.npz", {"FCD": Hostile()})
    with pytest.raises(InputError, match=r"asks for (posix|nt)\.system, which is not allowed"):
        read_statistics(path, "stats.npz")
    assert not (tmp_path / "hacked").exists()


def test_other_files_and_truncated_pickles_are_refused(tmp_path):
    path = tmp_path / "stats.npz"
    with zipfile.ZipFile(save(tmp_path / "a.npz", {"FCD": 1})) as archive:
        body = archive.read("stats.npy")
    contents = [b"", b"PK\x03\x04 not really", b"\x93NUMPY"]
    for content in (*contents, *(body[:cut] for cut in (10, 128, len(body) - 5))):
        if content in contents:
            path.write_bytes(content)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("stats.npy", content)
        with pytest.raises(InputError, match=r"stats\.npz: not a molsets statistics file"):
            read_statistics(path, "stats.npz")


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        (np.zeros(3), "holds float64, not objects"),
        (np.array([None, {}]), r"stats\.npy holds no table of statistics"),
        (np.array(Utf8Text(), dtype=object), r"\(text in encoding 'utf-8'\)"),
    ],
)
def test_other_arrays_are_refused(tmp_path, stats, message):
    np.savez(tmp_path / "a.npz", stats=stats)
    with pytest.raises(InputError, match=message):
        read_statistics(tmp_path / "a.npz", "a.npz")


def test_missing_statistics_and_other_lengths_are_refused(halves):
    for missing in ("SNN", "Scaf", "Frag", "FCD"):
        statistics = statistics_of(halves[0])
        del statistics[missing]
        with pytest.raises(InputError, match=f"lack '{missing}'"):
            from_statistics("r", statistics)
    statistics = statistics_of(halves[0])
    statistics["SNN"]["fps"] = statistics["SNN"]["fps"][:, :512]
    with pytest.raises(InputError, match=r"shape \(80, 512\); expected 1024"):
        from_statistics("r", statistics)


# ---- Frechet ChemNet Distance

needs_fcd_torch = pytest.mark.skipif(
    importlib.util.find_spec("fcd_torch") is None, reason="fcd_torch is not installed"
)


def gaussian(seed, dimension=6, n=40):
    points = np.random.default_rng(seed).normal(size=(n, dimension)) * (1 + seed)
    return Gaussian(points.mean(0), np.cov(points.T))


def test_frechet_distance_by_hand_and_against_the_matrix_square_root(monkeypatch):
    a, b = gaussian(1), gaussian(2)
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)
    a = Gaussian(np.array([1.0]), np.array([[4.0]]))
    b = Gaussian(np.array([4.0]), np.array([[9.0]]))
    assert frechet_distance(a, b) == pytest.approx(9 + (2 - 3) ** 2)
    few = gaussian(3, dimension=20, n=5)  # rank 4 of 20
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    # without the package the error names the extra
    monkeypatch.setattr(reference_module, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'fcd_torch>=1.0.7', or set fcd: false"):
        ChemNet()


@needs_fcd_torch
def test_activations_are_independent_of_the_batch_and_give_the_packages_fcd(real_smiles):
    from fcd_torch import FCD

    network = ChemNet()
    together = network.activations(real_smiles[:12])
    assert together.shape == (12, 512)
    alone = ChemNet().activations(real_smiles[3:4])
    assert np.allclose(together[3], alone[0], atol=1e-5)
    assert np.array_equal(network.activations(real_smiles[5:7]), together[5:7])  # cached
    ours, theirs = real_smiles[:150], real_smiles[150:300]
    value = frechet_distance(network.gaussian(ours), network.gaussian(theirs))
    # its means are float32 and its root of the product is taken by a Schur decomposition
    expected = FCD(device="cpu", n_jobs=1)(ours, theirs)
    assert value == pytest.approx(expected, rel=1e-3)
    assert network.gaussian(ours[:1]) is None
