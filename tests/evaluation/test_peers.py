"""Metrics compared with those of other packages on the same molecules.

The packages are wheels pinned by their sha256, which are not installed: see peer_programs.py.

Where conventions differ, the metrics have different names, and a test shows the difference:

- IntDiv: `int_div_moses_1` and `_2` count each molecule with itself, on 1024 bits (molsets,
  molecule-benchmarks); `int_div_pairs` uses pairs of different molecules, on 2048 bits (PyTDC).
- Uniqueness: `uniqueness_at_1000` covers the first 1000 *valid* samples (molsets; in
  molecule-benchmarks `unique_fraction_of_valids_at_1000`), `uniqueness` all valid ones.
  molecule-benchmarks' `unique_fraction` is per *sample*, with all invalid ones as one more
  molecule; it is not offered, as n_sampled, validity and uniqueness contain the information.
- FCD: fcd_torch (whose activations are used here), fcd, molsets and molecule-benchmarks compute the
  same distance. GuacaMol's score is exp(-0.2 FCD) (molecule-benchmarks: `fcd_normalized`).
- Repeats: molsets and molecule-benchmarks keep them in IntDiv, SNN, Scaf, Frag and FCD; here a
  molecule counts once, and `uniqueness` measures repeats.
"""

import csv
import gzip
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from chemkl.config.evaluate import MetricOptions, MosesReference
from chemkl.evaluation import Comparisons, evaluate, from_smiles, reference
from chemkl.evaluation.reference import ChemNet, read_statistics
from chemkl.evaluation.samples import moses_bits
from chemkl.results.external import MOLSETS, Wheel, fetch_wheel, open_member

PROGRAMS = Path(__file__).with_name("peer_programs.py")
CACHE = MosesReference(kind="moses_test").cache
SHA256 = {
    "molecule_benchmarks": "29f55ae5eb0bf0994067ca8aa94298a8acc5736a1212eefbb7bdc4db2803c333",
    "fcd": "9d8284a4d886778db787bc2653678bd050b358bc0a9c4ff835721edf301facda",
    "scikit_fingerprints": "731865c70e8845a4945f3720d657cf5f0c6770f5dca0cc9900163321947a2ebd",
}
MOLECULE_BENCHMARKS, FCD_WHEEL, SKFP = (
    Wheel(name, version, SHA256[name])
    for name, version in zip(SHA256, ("0.1.14", "1.2.2", "2.1.0"), strict=True)
)
FLOAT32 = 1e-6
"""Tolerance of similarities in float32, rounded at 6e-8, and of their means."""
EXACT = 1e-12
"""Tolerance of equal sums in float64 in another order."""
ROOT = 1e-3
"""Relative tolerance of FCD: other packages have float32 means, and take the root of a product of
covariances by a Schur decomposition, which is inexact for singular ones (few molecules)."""

needs_fcd_torch = pytest.mark.skipif(
    importlib.util.find_spec("fcd_torch") is None, reason="fcd_torch is not installed"
)


def run_peer(name, packages, sets_path, out):
    """Run a program of peer_programs.py with packages from a folder or wheel."""
    command = [sys.executable, "-W", "ignore", PROGRAMS, name, packages, sets_path, out]
    environment = os.environ | {"PYTHONPATH": str(packages)}
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert process.returncode == 0, process.stderr


@pytest.fixture(scope="module")
def sets(real_smiles):
    """Molecules under test, an overlapping reference, and samples with repeats."""
    canonical = [Chem.CanonSmiles(s) for s in real_smiles]
    sampled = random.Random(0).choices([*canonical[:300], None], k=1300)
    return {"ours": canonical[:150], "theirs": canonical[100:400], "sampled": sampled}


@pytest.fixture(scope="module")
def sets_path(sets, tmp_path_factory):
    path = tmp_path_factory.mktemp("peers") / "in.json"
    path.write_text(json.dumps(sets))
    return path


def row_of(smiles, **comparisons):
    (row,) = evaluate(from_smiles("x", smiles), [], MetricOptions(), Comparisons(**comparisons))
    return row


@pytest.fixture(scope="module")
def benchmarked(sets_path, tmp_path_factory):
    unpacked = tmp_path_factory.mktemp("wheels")
    for wheel in (MOLECULE_BENCHMARKS, FCD_WHEEL):
        with zipfile.ZipFile(fetch_wheel(wheel, CACHE)) as archive:
            archive.extractall(unpacked)  # they read their data files by path
    path = sets_path.with_name("benchmarked.json")
    run_peer("molecule_benchmarks", unpacked, sets_path, path)
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def row(sets):
    """Our metrics, including those with a reference."""
    chemnet = ChemNet()
    theirs = reference.from_smiles("theirs", sets["theirs"], chemnet)
    return row_of(sets["ours"], references=[theirs], chemnet=chemnet)


@pytest.mark.slow
@needs_fcd_torch
def test_diversity_and_likeness_agree_with_molecule_benchmarks(row, benchmarked):
    assert row["int_div_moses_1"] == pytest.approx(benchmarked["int_div"], abs=FLOAT32)
    assert row["int_div_moses_2"] == pytest.approx(benchmarked["int_div_2"], abs=FLOAT32)
    assert row["snn"] == pytest.approx(benchmarked["snn"], abs=FLOAT32)
    assert row["scaf"] == pytest.approx(benchmarked["scaf"], abs=EXACT)
    assert row["frag"] == pytest.approx(benchmarked["frag"], abs=EXACT)


@pytest.mark.slow
@needs_fcd_torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning:fcd_torch")
def test_fcd_is_one_distance_in_four_packages(sets, row, benchmarked):
    from fcd_torch import FCD

    distances = {
        "molecule-benchmarks": benchmarked["fcd"]["fcd_valid"],
        "fcd": benchmarked["fcd_package"],
        "fcd_torch": FCD(device="cpu", n_jobs=1)(sets["ours"], sets["theirs"]),
    }
    assert distances == pytest.approx(dict.fromkeys(distances, row["fcd"]), rel=ROOT)
    score = benchmarked["fcd"]["fcd_valid_normalized"]
    assert score == pytest.approx(math.exp(-0.2 * row["fcd"]), rel=5 * ROOT)


@pytest.mark.slow
def test_quality_agrees_with_molecule_benchmarks_under_other_names(sets, benchmarked):
    ours, theirs = row_of(sets["sampled"], corpus={*sets["theirs"]}), benchmarked["quality"]
    valid, distinct = ours["n_valid"], ours["n_molecules"]
    assert ours["n_sampled"] == theirs["num_molecules_generated"] == 1300
    assert ours["validity"] == theirs["valid_fraction"] < 1
    assert ours["uniqueness"] == theirs["unique_fraction_of_valids"] == distinct / valid
    assert ours["uniqueness_at_1000"] == theirs["unique_fraction_of_valids_at_1000"]
    novel = theirs["valid_and_unique_and_novel_fraction_of_valid_and_uniques"]
    assert ours["novelty"] == novel
    # per sample, not per valid one; and None, the invalid one, counts as a molecule
    assert theirs["unique_fraction"] == (distinct + 1) / 1300
    assert theirs["unique_fraction"] != ours["uniqueness"]
    assert theirs["unique_fraction_at_1000"] != ours["uniqueness_at_1000"]
    assert ours["uniqueness_at_10000"] is None
    assert theirs["unique_fraction_at_10000"] == -1


@pytest.mark.slow
@needs_fcd_torch
def test_a_repeat_changes_their_diversity_and_not_ours(sets, row, benchmarked):
    # one molecule is half of the samples: a quarter of their pairs is that molecule with itself
    repeated = row_of([*sets["ours"], *sets["ours"][:1] * len(sets["ours"])])
    assert repeated["int_div_moses_1"] == row["int_div_moses_1"]
    assert benchmarked["int_div_with_repeats"] == pytest.approx(0.75 * 0.85, abs=0.02)


@pytest.fixture(scope="module")
def skfp(sets_path):
    path = sets_path.with_name("skfp.npz")
    run_peer("skfp", fetch_wheel(SKFP, CACHE), sets_path, path)
    return np.load(path)


@pytest.mark.slow
def test_similarities_and_scaffolds_are_those_of_scikit_fingerprints(sets, skfp):
    molecules = from_smiles("x", sets["ours"]).molecules
    ours = np.unpackbits(moses_bits(molecules), axis=1, bitorder="little")
    assert np.array_equal(skfp["bits_moses"], ours)
    row = row_of(sets["ours"], references=[reference.from_smiles("r", sets["theirs"], None)])
    n, moses, pairs = len(molecules), skfp["moses"], skfp["pairs"]
    assert row["int_div_moses_1"] == pytest.approx(1 - moses.mean(), abs=EXACT)
    squared = np.sqrt((moses**2).mean(axis=1)).mean()
    assert row["int_div_moses_2"] == pytest.approx(1 - squared, abs=EXACT)
    of_pairs = (pairs.sum() - n) / (n * (n - 1))
    assert row["int_div_pairs"] == pytest.approx(1 - of_pairs, abs=EXACT)
    assert row["snn"] == pytest.approx(skfp["across"].max(axis=1).mean(), abs=FLOAT32)
    sizes = skfp["scaffold_sizes"]  # one more set if there are molecules without a scaffold
    assert row["murcko"] + (row["acyclic"] > 0) == len(sizes)
    if not row["acyclic"]:
        shares = sizes / sizes.sum()
        assert row["top_share"] == shares.max()
        assert row["scaffold_entropy"] == pytest.approx(-(shares * np.log(shares)).sum())


def corpus_of_molsets(name):
    with (
        open_member(fetch_wheel(MOLSETS, CACHE), f"moses/dataset/data/{name}.csv.gz") as stream,
        gzip.open(stream, "rt") as text,
    ):
        return [line["SMILES"] for line in csv.DictReader(text)]


@pytest.fixture(scope="module", params=["test", "test_scaffolds"])
def molsets(request):
    """A test set of MOSES: its name, the statistics shipped in molsets, and its molecules."""
    member = f"moses/dataset/data/{request.param}_stats.npz"
    with open_member(fetch_wheel(MOLSETS, CACHE), member) as stream:
        statistics = read_statistics(stream, member)
    shipped = reference.from_statistics(request.param, statistics)
    return request.param, shipped, corpus_of_molsets(request.param)


@pytest.mark.slow
def test_the_statistics_shipped_in_molsets_are_what_we_compute(molsets):
    name, shipped, smiles = molsets
    assert len(shipped.packed_bits) == len(smiles) == {"test": 176_074}.get(name, 176_225)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    bits = [generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(s)) for s in smiles[:500]]
    assert np.array_equal(np.unpackbits(shipped.packed_bits[:500], axis=1, bitorder="little"), bits)
    ours = reference.from_smiles("ours", smiles[::200], None)
    # RDKit of 2019 wrote one SMILES in a thousand differently
    for mine, theirs in ((ours.scaffolds, shipped.scaffolds), (ours.fragments, shipped.fragments)):
        assert sum((mine - theirs).values()) <= 2e-3 * mine.total()
    # BRICS makes equally many fragments per molecule, within 3 standard deviations of a mean of 880
    # counts with a spread of about 1.5
    scale = len(smiles) / len(smiles[::200])
    assert ours.fragments.total() * scale == pytest.approx(shipped.fragments.total(), rel=0.03)


@pytest.mark.slow
@needs_fcd_torch
def test_the_activations_shipped_in_molsets_are_what_we_compute(molsets):
    _, shipped, smiles = molsets
    activations = ChemNet().activations([Chem.CanonSmiles(s) for s in smiles[::400]])
    n = len(activations)
    deviation = np.sqrt(np.diag(shipped.activations.covariance) / n)
    apart = np.abs(activations.mean(axis=0) - shipped.activations.mean) / (deviation + 1e-6)
    # of 512 means 0.3 % lie beyond 3 standard deviations; 2 % leaves room for their correlation
    assert (apart > 3).mean() < 0.02
    assert apart.max() < 6
    spread = np.trace(np.cov(activations.T)) / np.trace(shipped.activations.covariance)
    assert spread == pytest.approx(1, abs=0.1)


PUBLISHED = {
    "test": {"snn": 0.6419, "frag": 1.0},
    "test_scaffolds": {"snn": 0.5859, "frag": 0.9986},
}
"""The row "Train" in the table of arXiv 1811.12823."""


@pytest.mark.slow
def test_the_training_set_of_moses_has_the_published_numbers(molsets):
    name, shipped, _ = molsets
    train = random.Random(0).sample(corpus_of_molsets("train"), 1500)
    row = row_of(train, references=[shipped])
    # SNN: nearest similarities vary by 0.11, their mean over 1,500 by 0.003: three of these
    assert row["snn"] == pytest.approx(PUBLISHED[name]["snn"], abs=0.009)
    # noise in the counts of 1,500 molecules lowers the cosine
    assert PUBLISHED[name]["frag"] - 0.006 < row["frag"] < PUBLISHED[name]["frag"] + 1e-3
    # the pairs (i, i) lower IntDiv by 0.86 / n = 0.0006, IntDiv2 by 1 / (2 n x 0.15) = 0.0022
    assert row["int_div_moses_1"] == pytest.approx(0.8567 - 0.0006, abs=0.002)
    assert row["int_div_moses_2"] == pytest.approx(0.8508 - 0.0022, abs=0.002)
    if name == "test_scaffolds":
        assert row["scaf"] == 0  # its scaffolds are not in the training set
