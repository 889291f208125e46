"""Samples of runs and files: which rows count, parsing in several processes, columns of rewards."""

import itertools
import math
import re
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from rdkit.DataStructs import ExplicitBitVect

from chemkl.chem import fingerprints, scaffolds
from chemkl.chem.fingerprints import packed_morgan, tanimoto_sums, unpacked
from chemkl.chem.molecules import MoleculeError
from chemkl.config import InputError, load_config
from chemkl.config.evaluate import MetricOptions, SampledFile
from chemkl.evaluation import evaluate, from_smiles, from_trace
from chemkl.evaluation import samples as samples_module
from chemkl.evaluation.breakdown import family_rows, over_time
from chemkl.evaluation.samples import in_order, moses_bits, read_samples, read_structures, sample
from chemkl.results import Manifest
from chemkl.rewards.pool import Lost


def molecules_of(samples):
    return [(m.smiles, m.call, m.reward) for m in samples.molecules]


# ---- which rows count


def test_trace_has_each_molecule_once_at_its_first_scoring(make_trace):
    trace = make_trace([[("OCC", 0.5), ("C1CC", 0.0)], [("CCO", 0.5), ("CCN", 0.7)]])
    for rows in (trace, trace.iloc[::-1]):  # the calls order the molecules
        samples = from_trace("x", rows)
        assert (samples.n_sampled, sorted(samples.valid)) == (4, ["CCN", "CCO", "CCO"])
        assert molecules_of(samples) == [("CCO", 1, 0.5), ("CCN", 2, 0.7)]
    assert from_trace("x", trace).valid == ["CCO", "CCO", "CCN"]


def test_replayed_and_unscored_rows_do_not_count(make_trace):
    trace = make_trace([[("CCO", 0.5)], [("CCO", 0.5), ("CCN", 0.9)]])
    trace.loc[1, "is_replay"] = True
    samples = from_trace("x", trace)
    assert (samples.n_sampled, samples.valid) == (2, ["CCO", "CCN"])
    trace.loc[2, "call"] = None  # the budget ended within the batch
    samples = from_trace("x", trace)
    assert molecules_of(samples) == [("CCO", 1, 0.5)]
    assert samples.hits(0.8) == []


def test_sampled_seed_of_the_memory_was_not_found_by_the_run(make_trace):
    trace = make_trace([[("Cc1ccccc1", 0.9)], [("CCO", 0.2), ("c1ccccc1C", 0.9), ("CCO", 0.2)]])
    trace.loc[0, "is_replay"] = True  # scored, and in the memory before the first sample
    samples = from_trace("x", trace)
    assert [m.smiles for m in samples.molecules] == ["CCO"]
    assert samples.valid == ["CCO", "Cc1ccccc1", "CCO"]
    whole, hits = evaluate(samples, [0.8], MetricOptions())
    assert (whole["n_valid"], whole["n_molecules"], hits["yield"]) == (3, 1, 0)
    assert (whole["late_scaffolds"], whole["late_top_share"]) == (1, 1.0)
    rows = over_time(samples, [], MetricOptions(), every=1)
    assert [row["late_scaffolds"] for row in rows] == [0, 1]
    (family,) = family_rows(samples, from_smiles("prior", []), 10)
    assert (family["policy_share"], family["n_molecules"]) == (1, 0)


def test_file_has_distinct_molecules_and_a_run_of_texts_is_refused(make_text_trace):
    samples = from_smiles("x", ["OCC", "not a molecule", None, "CCO", "CCN"])
    assert (samples.n_sampled, samples.valid) == (5, ["CCO", "CCO", "CCN"])
    assert molecules_of(samples) == [("CCO", 1, None), ("CCN", 2, None)]
    assert not samples.is_scored
    assert samples.hits(0.0) == []
    trace = make_text_trace([[("1 or 2?", "1", "1", 1.0), ("1 or 2?", "3", None, 0.0)]])
    with pytest.raises(InputError, match=r"run x: 1 valid rows .* `chemkl evaluate_text`"):
        from_trace("x", trace)


def test_unreadable_molecules_are_skipped_and_counted(make_trace, monkeypatch):
    bad = "Cc1ccc2nc(C)=n(C)c12"  # RDKit 2026.09 cannot read what it writes for it
    trace = make_trace([[("CCO", 0.5), (bad, 0.9)], [(bad, 0.9), ("CCN", 0.7), ("CCO", 0.5)]])
    canonical = trace.loc[1, "canonical_smiles"]
    assert Chem.MolFromSmiles(canonical) is None
    samples = from_trace("x", trace)
    assert (samples.n_sampled, samples.valid) == (5, ["CCO", "CCN", "CCO"])
    assert molecules_of(samples) == [("CCO", 1, 0.5), ("CCN", 3, 0.7)]
    assert samples.skipped == {canonical}
    assert samples.note == (
        "x: 1 molecules recorded as valid are counted as invalid, because RDKit cannot process "
        f"them: {canonical}"
    )
    assert from_smiles("x", ["CCO", bad]).skipped == frozenset()  # plainly invalid in a file

    # a molecule without a fingerprint is skipped too
    def fails(mol, **settings):
        if mol.GetNumAtoms() == 2:
            raise MoleculeError("made up")
        return packed_morgan(mol, **settings)

    monkeypatch.setattr(scaffolds, "packed_morgan", fails)  # no other test reads PP
    samples = from_trace("x", make_trace([[("PP", 0.5), ("CCC", 0.5)]]))
    assert (samples.valid, samples.skipped, samples.n_sampled) == (["CCC"], {"PP"}, 2)


def test_sample_is_seeded_and_keeps_the_order(real_smiles):
    molecules = from_smiles("x", real_smiles[:60]).molecules
    assert sample(molecules, 60, seed=0) is molecules
    first, again, different = (sample(molecules, 20, seed) for seed in (0, 0, 1))
    assert first == again != different
    assert len(first) == 20
    calls = [m.call for m in first]
    assert calls == sorted(set(calls))


# ---- parsing many molecules in parallel


@pytest.fixture
def steps(real_smiles):
    rewards = np.random.default_rng(0).random(150).tolist()
    scored = list(zip(real_smiles[:150], rewards, strict=True))
    return [*(scored[i : i + 30] for i in range(0, 150, 30)), [("C1CC", 0.0), *scored[:3]]]


def morgan(smiles, n_bits):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=n_bits)
    return [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in smiles]


def test_results_do_not_depend_on_the_number_of_workers(
    make_trace, steps, real_smiles, monkeypatch
):
    monkeypatch.setattr(samples_module, "MIN_POOLED", 1)
    monkeypatch.setattr(samples_module, "UNIT", 7)
    monkeypatch.setattr(fingerprints, "BLOCK", 32)
    trace = make_trace(steps)
    alone, together = (from_trace("x", trace, workers) for workers in (1, 2))
    assert alone == together
    assert evaluate(alone, [0.5], MetricOptions(workers=1)) == evaluate(
        together, [0.5], MetricOptions(workers=2)
    )
    texts = [*real_smiles[:40], "nonsense", *real_smiles[:5]]
    assert from_smiles("x", texts, workers=1) == from_smiles("x", texts, workers=2)
    trace.loc[40, "canonical_smiles"] = "C1CC"  # unreadable
    samples = from_trace("x", trace, 2)
    assert samples.skipped == {"C1CC"}
    assert samples == from_trace("x", trace, 1)


def test_few_molecules_start_no_process_and_a_dead_one_is_an_error(real_smiles, monkeypatch):
    monkeypatch.setattr(samples_module, "Pool", None)  # calling it would fail
    assert len(read_structures(real_smiles, workers=2)) == 400
    assert in_order("canonical", ["OCC", "nonsense"], workers=2) == ["CCO", None]
    monkeypatch.setattr(samples_module, "MIN_POOLED", 1)
    monkeypatch.setattr(samples_module, "UNIT", 7)
    lost = Lost("the worker died (SIGKILL)", -1)
    dying = SimpleNamespace(run=lambda _job, units: [(len(units) - 1, lost)])
    monkeypatch.setattr(samples_module, "Pool", lambda *_, **__: nullcontext(dying))
    message = r"molecules 15 to 20: the worker died \(SIGKILL\).*metrics.workers: 1"
    with pytest.raises(RuntimeError, match=message):
        read_structures(real_smiles[:20], workers=2)


def test_recorded_scaffolds_are_used_only_if_the_checked_ones_are_right(real_smiles, monkeypatch):
    computed = read_structures(real_smiles)
    right = [structure.scaffold for structure in computed]
    assert read_structures(real_smiles, right) == computed
    monkeypatch.setattr(samples_module, "CHECKED", 3)  # checks molecules 0, 199 and 399
    marked = [*right[:10], "C1CC1", *right[11:]]
    assert read_structures(real_smiles, marked)[10].scaffold == "C1CC1"
    assert read_structures(real_smiles, [*right[:10], None, *right[11:]]) == computed
    for wrong in ([*right[:199], "C1CC1", *right[200:]], ["C1CC1"] * 400):
        assert read_structures(real_smiles, wrong) == computed
    monkeypatch.setattr(samples_module, "CHECKED", 400)  # no more than are checked: none is used
    assert read_structures(real_smiles, marked) == computed


def test_smiles_of_the_same_rdkit_are_parsed_faster(real_smiles, monkeypatch, tmp_path):
    with Manifest.start(tmp_path, stage="posttrain", config={}, seed=0) as manifest:
        manifest.finish()
    assert samples_module.written_by_this_rdkit(manifest)
    old = manifest.model_copy(update={"versions": {"rdkit": "2020.03.1"}})
    assert not samples_module.written_by_this_rdkit(old)
    monkeypatch.setattr(samples_module, "CHECKED", 3)
    salts = ["[Na+].CC(=O)[O-]", "[2H]C", "C[N+](=O)[O-]", "C[C@H](N)C(=O)O", "[nH]1cccc1"]
    smiles = [Chem.CanonSmiles(text) for text in [*real_smiles, *salts]]
    structures = read_structures(smiles)
    recorded = [structure.scaffold for structure in structures]
    with monkeypatch.context() as patch:
        patch.setattr(scaffolds, "parse", lambda _: pytest.fail("parsed in full"))
        assert scaffolds.StructureReader()("C1CCCCC1", "", is_canonical=True) is not None
    assert read_structures(smiles, recorded, are_canonical=True) == structures
    damaged, recorded = ["C1C", *smiles], [recorded[0], *recorded]
    assert read_structures(damaged, recorded, are_canonical=True) == [None, *structures]


def test_trace_may_lack_scaffolds(make_trace, steps, monkeypatch):
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
    prints = morgan(real_smiles[:64], 1024)
    on = [set(bits.GetOnBits()) for bits in prints]
    lower = np.zeros((64, 64))
    for i, j in itertools.combinations(range(64), 2):
        lower[j, i] = len(on[i] & on[j]) / len(on[i] | on[j])
    below, above = tanimoto_sums(prints, (1, 2), workers=workers)
    for row, p in enumerate((1, 2)):
        np.testing.assert_allclose(below[row], (lower**p).sum(axis=1), rtol=1e-12)
        np.testing.assert_allclose(above[row], (lower**p).sum(axis=0), rtol=1e-12)


def test_fingerprints_are_rdkits_and_may_have_many_bits_or_none(real_smiles):
    many, half, none = (ExplicitBitVect(1024) for _ in range(3))
    many.SetBitsFromList(list(range(1000)))  # more than a byte can count
    half.SetBitsFromList(list(range(500)))
    below, above = tanimoto_sums([many, half, none, none, many])
    # RDKit: nothing is similar to a fingerprint without bits, not even another one
    assert below.tolist() == [[0, 0.5, 0, 0, 1.5]]
    assert above.tolist() == [[1.5, 0.5, 0, 0, 0]]
    assert tanimoto_sums([])[0].shape == (1, 0)
    molecules = from_smiles("x", real_smiles[:20]).molecules
    canonical = [molecule.smiles for molecule in molecules]
    moses = [unpacked(row.tobytes()) for row in moses_bits(molecules)]
    assert moses == morgan(canonical, 1024)
    assert [unpacked(molecule.packed) for molecule in molecules] == morgan(canonical, 2048)


def test_workers_are_not_part_of_a_runs_identity():
    assert MetricOptions(workers=3).model_dump() == MetricOptions().model_dump()
    with pytest.raises(InputError, match=r"workers"):
        load_config(MetricOptions, {"workers": 0})


# ---- files


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_molecules_have_the_reward_of_their_first_row(tmp_path, suffix):
    columns = {
        "smiles": ["OCC", "CCO", "CCN", "nonsense", "CCC"],
        "reward": [0.5, 0.9, None, 0.0, 0.7],
        "truncated": [False, False, False, False, True],
    }
    path, frame = tmp_path / f"samples.{suffix}", pd.DataFrame(columns)
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    samples = read_samples("prior", SampledFile(path=path))
    assert (samples.n_sampled, samples.valid) == (5, ["CCO", "CCO", "CCN"])
    nan = pytest.approx(math.nan, nan_ok=True)
    assert molecules_of(samples) == [("CCO", 1, 0.5), ("CCN", 2, nan)]
    assert samples.is_scored
    assert [m.smiles for m in samples.hits(0.4)] == ["CCO"]
    unscored = read_samples("x", SampledFile(path=path, reward_column=False))
    assert not unscored.is_scored
    assert unscored.hits(0) == []


def test_file_without_rewards_is_not_scored(tmp_path):
    for name, text, column in (
        ("prior.smi", "CCO\nCCN\n", None),
        ("prior.csv", "smiles,name\nCCO,a\nCCN,b\n", None),
        ("prior.csv", "CCO,0.5\nCCN,0.7\n", 0),
    ):
        (tmp_path / name).write_text(text)
        samples = read_samples("prior", SampledFile(path=tmp_path / name, column=column))
        assert samples.valid == ["CCO", "CCN"]
        assert not samples.is_scored


@pytest.fixture
def scored(tmp_path):
    def write(*rows):
        path = tmp_path / "p.csv"
        path.write_text("smiles,name,reward\n" + "".join(f"{row}\n" for row in rows))
        return SampledFile(path=path)

    return write


def test_rewards_of_a_text_file(scored):
    file = scored("OCC,a,0.5", "CCO,b,0.9", "CCN,c,", "nonsense,d,0", "CCC,e,1e-1", "CO", "")
    samples = read_samples("prior", file)
    assert (samples.n_sampled, len(samples.valid)) == (7, 5)
    nan = pytest.approx(math.nan, nan_ok=True)  # an empty cell, and a line that is too short
    rewards = {m.smiles: m.reward for m in samples.molecules}
    assert rewards == {"CCO": 0.5, "CCN": nan, "CCC": 0.1, "CO": nan}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["CCO,a,0.5", "CCN,b,high", 'CCC,c,"0,5"'], "line 3 holds 'high', line 4 holds '0"),
        ([f"CCO,a,{n}?" for n in range(8)], r"line 6 holds '4\?', and 3 more\. Correct them, name"),
        *(
            (
                ["CCO,a,0", "CCN,b,1", "CCC,c,nan", f"CO,d,{cell}"],
                rf"line 5 holds '{re.escape(cell)}'\. ",
            )
            for cell in ("1.01", "-0.1", "inf", "-inf", "true", "0.5 0.6")
        ),
    ],
)
def test_invalid_rewards_are_listed(scored, rows, message):
    with pytest.raises(InputError, match=rf"p\.csv: .* from 0 to 1 .*{message}"):
        read_samples("prior", scored(*rows))


def test_invalid_rewards_of_parquet_are_listed(tmp_path):
    path = tmp_path / "prior.parquet"
    pd.DataFrame({"smiles": ["CCO"], "reward": ["high"]}).to_parquet(path)
    message = r"prior\.parquet: the column 'reward' must hold rewards.* line 1 holds 'high'"
    with pytest.raises(InputError, match=message):
        read_samples("prior", SampledFile(path=path))


@pytest.mark.parametrize(
    ("header", "setting", "column"),
    [
        ("SMILES,Score,SMILES_state", None, "Score"),  # the CSV of REINVENT 4
        ("Total_Score,smiles,score", None, "score"),
        ("smiles,total_score,mol_wt", None, "total_score"),
        ("score,REWARD,smiles", None, "REWARD"),
        ("smiles,reward,other", "other", "other"),
        ("smiles,reward,Other", "other", "Other"),
        ("smiles,score_qed,raw_reward", None, None),
        ("smiles,score,other", False, None),
    ],
)
def test_column_of_rewards_is_found_by_name_and_reported(tmp_path, capsys, header, setting, column):
    rewards = {"smiles": "CCO"} | ({column.lower(): "0.75"} if column else {})
    cells = [rewards.get(name.lower(), "0.25") for name in header.split(",")]
    path = tmp_path / "p.csv"
    path.write_text(f"{header}\n{','.join(cells)}\n")
    (molecule,) = read_samples("p", SampledFile(path=path, reward_column=setting)).molecules
    assert molecule.reward == (None if column is None else 0.75)
    message = f"p.csv: takes the rewards from column {column!r} and the order of calls"
    assert (message in capsys.readouterr().err) == (column is not None and setting is None)


def test_missing_column_is_named(scored):
    file = scored("CCO,a,0.5")
    with pytest.raises(InputError, match=r"p\.csv: no column 'rewards'; did you mean 'reward'\?"):
        read_samples("p", file.model_copy(update={"reward_column": "rewards"}))
    file.path.write_text("text,reward\nCCO,1\n")
    with pytest.raises(InputError, match="no column is called smiles"):
        read_samples("p", file)
