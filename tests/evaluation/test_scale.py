import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from rdkit.DataStructs import ExplicitBitVect

from chemkl.chem import fingerprints
from chemkl.chem import scaffolds as scaffolds_module
from chemkl.chem.fingerprints import tanimoto_sums, unpacked
from chemkl.config import InputError, load_config
from chemkl.config.evaluate import MetricOptions
from chemkl.evaluation import evaluate, from_smiles, from_trace
from chemkl.evaluation import samples as samples_module
from chemkl.evaluation.samples import in_order, moses_bits, read_structures
from chemkl.results import Manifest
from chemkl.rewards.pool import Lost


@pytest.fixture
def pooled(monkeypatch):
    """Let other processes read even few molecules, a few at a time."""
    monkeypatch.setattr(samples_module, "MIN_POOLED", 1)
    monkeypatch.setattr(samples_module, "UNIT", 7)


@pytest.fixture
def steps(real_smiles):
    rewards = np.random.default_rng(0).random(150).tolist()
    scored = list(zip(real_smiles[:150], rewards, strict=True))
    return [*(scored[i : i + 30] for i in range(0, 150, 30)), [("C1CC", 0.0), *scored[:3]]]


def morgan(smiles, n_bits):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=n_bits)
    return [generator.GetFingerprint(Chem.MolFromSmiles(each)) for each in smiles]


def test_several_processes_and_threads_give_exactly_what_one_gives(
    make_trace, steps, real_smiles, pooled, monkeypatch
):
    monkeypatch.setattr(fingerprints, "BLOCK", 32)
    trace = make_trace(steps)
    alone, together = (from_trace("x", trace, workers) for workers in (1, 2))
    assert alone == together
    rows = [
        evaluate(samples, [0.5], MetricOptions(workers=workers))
        for workers, samples in ((1, alone), (2, together))
    ]
    assert rows[0] == rows[1]
    texts = [*real_smiles[:40], "nonsense", *real_smiles[:5]]
    assert from_smiles("x", texts, workers=1) == from_smiles("x", texts, workers=2)
    # what RDKit cannot read is skipped by several, too
    trace.loc[40, "canonical_smiles"] = "C1CC"
    samples = from_trace("x", trace, 2)
    assert samples.skipped == {"C1CC"}
    assert samples == from_trace("x", trace, 1)


def test_few_molecules_start_no_process(real_smiles, monkeypatch):
    monkeypatch.setattr(samples_module, "Pool", None)  # calling it would fail
    assert len(read_structures(real_smiles, workers=2)) == 400
    assert in_order("canonical", ["OCC", "nonsense"], workers=2) == ["CCO", None]


def test_a_worker_that_dies_is_an_error_that_says_what_to_do(real_smiles, pooled, monkeypatch):
    lost = Lost("the worker died (SIGKILL)", -1)
    dying = SimpleNamespace(run=lambda _job, units: [(len(units) - 1, lost)])
    monkeypatch.setattr(samples_module, "Pool", lambda *_, **__: nullcontext(dying))
    message = r"molecules 15 to 20: the worker died \(SIGKILL\).*metrics.workers: 1"
    with pytest.raises(RuntimeError, match=message):
        read_structures(real_smiles[:20], workers=2)


def test_recorded_scaffolds_are_used_where_there_are_many_and_they_are_right(
    real_smiles, monkeypatch
):
    computed = read_structures(real_smiles)
    right = [each.scaffold for each in computed]
    assert read_structures(real_smiles, right) == computed
    monkeypatch.setattr(samples_module, "CHECKED", 3)  # looks at molecules 0, 199 and 399
    marked = [*right[:10], "C1CC1", *right[11:]]
    assert read_structures(real_smiles, marked)[10].scaffold == "C1CC1"
    assert read_structures(real_smiles, [*right[:10], None, *right[11:]]) == computed
    for wrong in ([*right[:199], "C1CC1", *right[200:]], ["C1CC1"] * 400):
        assert read_structures(real_smiles, wrong) == computed
    monkeypatch.setattr(samples_module, "CHECKED", 400)  # not more than are checked: none is used
    assert read_structures(real_smiles, marked) == computed


def test_what_this_rdkit_wrote_is_read_in_less_time_to_the_same_result(real_smiles, monkeypatch):
    monkeypatch.setattr(samples_module, "CHECKED", 3)
    salts = ["[Na+].CC(=O)[O-]", "[2H]C", "C[N+](=O)[O-]", "C[C@H](N)C(=O)O", "[nH]1cccc1"]
    smiles = [Chem.CanonSmiles(text) for text in [*real_smiles, *salts]]
    plain = read_structures(smiles)
    scaffolds = [one.scaffold for one in plain]
    monkeypatch.setattr(scaffolds_module, "parse", lambda _: pytest.fail("read with all there is"))
    reader = scaffolds_module.StructureReader()
    assert reader("C1CCCCC1", "", is_canonical=True) is not None
    monkeypatch.undo()
    monkeypatch.setattr(samples_module, "CHECKED", 3)
    assert read_structures(smiles, scaffolds, are_canonical=True) == plain
    assert read_structures(["C1C", *smiles], [*scaffolds[:1], *scaffolds], are_canonical=True) == [
        None, *plain,
    ]  # fmt: skip


def test_a_run_of_another_rdkit_is_read_with_all_there_is(tmp_path):
    with Manifest.start(tmp_path, stage="posttrain", config={}, seed=0) as manifest:
        manifest.finish()
    assert samples_module.written_by_this_rdkit(manifest)
    other = manifest.model_copy(update={"versions": {"rdkit": "2020.03.1"}})
    assert not samples_module.written_by_this_rdkit(other)


def test_a_trace_may_lack_its_scaffolds_or_have_gaps_in_them(make_trace, steps, monkeypatch):
    monkeypatch.setattr(samples_module, "CHECKED", 2)
    trace = make_trace(steps)
    whole = from_trace("x", trace)
    assert from_trace("x", trace.drop(columns="scaffold")) == whole
    trace.loc[5:9, "scaffold"] = None
    assert from_trace("x", trace) == whole


@pytest.mark.parametrize("block", [1, 7, 40, 64, 1000])
@pytest.mark.parametrize("workers", [1, 3])
def test_sums_of_similarities_against_loops(real_smiles, monkeypatch, block, workers):
    monkeypatch.setattr(fingerprints, "BLOCK", block)
    some = morgan(real_smiles[:64], 1024)
    on = [set(each.GetOnBits()) for each in some]
    lower = np.zeros((64, 64))
    for i, j in itertools.combinations(range(64), 2):
        lower[j, i] = len(on[i] & on[j]) / len(on[i] | on[j])
    below, above = tanimoto_sums(some, (1, 2), workers=workers)
    for row, p in enumerate((1, 2)):
        np.testing.assert_allclose(below[row], (lower**p).sum(axis=1), rtol=1e-12)
        np.testing.assert_allclose(above[row], (lower**p).sum(axis=0), rtol=1e-12)


def test_sums_of_fingerprints_with_very_many_bits_and_with_none():
    many, half, none = (ExplicitBitVect(1024) for _ in range(3))
    many.SetBitsFromList(list(range(1000)))  # more than a byte can count
    half.SetBitsFromList(list(range(500)))
    below, above = tanimoto_sums([many, half, none, none, many])
    # RDKit: nothing is similar to a fingerprint without bits, not even another one
    assert below.tolist() == [[0, 0.5, 0, 0, 1.5]]
    assert above.tolist() == [[1.5, 0.5, 0, 0, 0]]
    assert tanimoto_sums([])[0].shape == (1, 0)


def test_the_fingerprints_of_a_molecule_are_rdkits(real_smiles):
    molecules = from_smiles("x", real_smiles[:20]).molecules
    canonical = [molecule.smiles for molecule in molecules]
    moses = [unpacked(row.tobytes()) for row in moses_bits(molecules)]
    assert moses == morgan(canonical, 1024)
    assert [unpacked(molecule.packed) for molecule in molecules] == morgan(canonical, 2048)


def test_workers_are_no_part_of_a_runs_identity():
    assert MetricOptions(workers=3).model_dump() == MetricOptions().model_dump()
    with pytest.raises(InputError, match=r"workers"):
        load_config(MetricOptions, {"workers": 0})
