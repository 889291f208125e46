import math
import re

import pandas as pd
import pytest
from rdkit import Chem

from chemkl.chem import scaffolds as structures
from chemkl.chem.fingerprints import packed_morgan
from chemkl.chem.molecules import MoleculeError
from chemkl.config import InputError
from chemkl.config.evaluate import MetricOptions, SampledFile
from chemkl.evaluation import evaluate, from_smiles, from_trace
from chemkl.evaluation.breakdown import family_rows, over_time
from chemkl.evaluation.samples import read_samples, sample


def test_a_trace_gives_each_molecule_once_at_its_first_scoring(make_trace):
    trace = make_trace([[("OCC", 0.5), ("C1CC", 0.0)], [("CCO", 0.5), ("CCN", 0.7)]])
    samples = from_trace("x", trace)
    assert samples.n_sampled == 4
    assert list(samples.valid) == ["CCO", "CCO", "CCN"]
    assert [(m.smiles, m.call, m.reward) for m in samples.molecules] == [
        ("CCO", 1, 0.5),
        ("CCN", 2, 0.7),
    ]


def test_rows_from_a_replay_buffer_were_not_sampled(make_trace):
    trace = make_trace([[("CCO", 0.5)], [("CCO", 0.5), ("CCN", 0.1)]])
    trace.loc[1, "is_replay"] = True
    samples = from_trace("x", trace)
    assert samples.n_sampled == 2
    assert list(samples.valid) == ["CCO", "CCN"]


def test_calls_order_molecules_and_one_that_was_never_scored_is_not_counted(make_trace):
    trace = make_trace([[("CCO", 0.5), ("CCN", 0.9)]])
    assert [m.call for m in from_trace("x", trace.iloc[::-1]).molecules] == [1, 2]
    trace.loc[1, "call"] = None  # the budget ended within the batch
    samples = from_trace("x", trace)
    assert [m.smiles for m in samples.molecules] == ["CCO"]
    assert samples.hits(0.8) == []


def test_a_seed_of_the_memory_that_is_sampled_was_not_found_and_has_its_scaffold(make_trace):
    trace = make_trace([[("Cc1ccccc1", 0.9)], [("CCO", 0.2), ("c1ccccc1C", 0.9), ("CCO", 0.2)]])
    trace.loc[0, "is_replay"] = True  # paid for, and in the memory before the first sample
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


def test_a_file_gives_distinct_molecules_in_order_without_rewards():
    samples = from_smiles("x", ["OCC", "not a molecule", None, "CCO", "CCN"])
    assert samples.n_sampled == 5
    assert list(samples.valid) == ["CCO", "CCO", "CCN"]
    assert [(m.smiles, m.call) for m in samples.molecules] == [("CCO", 1), ("CCN", 2)]
    assert not samples.is_scored
    assert samples.hits(0.0) == []


def test_what_rdkit_cannot_read_back_is_skipped_and_counted(make_trace):
    bad = "Cc1ccc2nc(C)=n(C)c12"  # RDKit 2026.09 cannot read what it writes for it
    trace = make_trace([[("CCO", 0.5), (bad, 0.9)], [(bad, 0.9), ("CCN", 0.7), ("CCO", 0.5)]])
    written = trace.loc[1, "canonical_smiles"]
    assert Chem.MolFromSmiles(written) is None
    samples = from_trace("x", trace)
    assert samples.n_sampled == 5
    assert samples.valid == ["CCO", "CCN", "CCO"]
    assert [(m.smiles, m.call) for m in samples.molecules] == [("CCO", 1), ("CCN", 3)]
    assert samples.skipped == {written}
    assert samples.note == (
        "x: 1 molecules recorded as valid are counted as invalid: RDKit cannot read or take apart "
        f"{written}"
    )
    assert from_smiles("x", ["CCO", bad]).skipped == frozenset()  # plainly invalid in a file


def test_a_molecule_without_a_fingerprint_is_skipped_too(make_trace, monkeypatch):
    def fails(mol, **settings):
        if mol.GetNumAtoms() == 2:
            raise MoleculeError("made up")
        return packed_morgan(mol, **settings)

    monkeypatch.setattr(structures, "packed_morgan", fails)  # no other test reads PP
    samples = from_trace("x", make_trace([[("PP", 0.5), ("CCC", 0.5)]]))
    assert (samples.valid, samples.skipped, samples.n_sampled) == (["CCC"], {"PP"}, 2)


def test_a_sample_is_seeded_keeps_the_order_and_leaves_small_sets_alone(real_smiles):
    molecules = from_smiles("x", real_smiles[:60]).molecules
    assert sample(molecules, 60, seed=0) is molecules
    first, again, other = (sample(molecules, 20, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 20
    calls = [m.call for m in first]
    assert calls == sorted(set(calls))


def test_a_run_that_is_paid_for_texts_is_refused(make_text_trace):
    trace = make_text_trace([[("1 or 2?", "1", "1", 1.0), ("1 or 2?", "3", None, 0.0)]])
    with pytest.raises(InputError, match=r"run x: 1 valid rows .* `chemkl evaluate_text`"):
        from_trace("x", trace)


# ---- out of files


@pytest.fixture(params=["samples.parquet", "samples.csv"])
def scored(request, tmp_path):
    columns = {
        "smiles": ["OCC", "CCO", "CCN", "nonsense", "CCC"],
        "reward": [0.5, 0.9, None, 0.0, 0.7],
        "truncated": [False, False, False, False, True],
    }
    path, frame = tmp_path / request.param, pd.DataFrame(columns)
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return SampledFile(path=path)


def test_rewards_go_with_the_first_of_each_molecule(scored):
    samples = read_samples("prior", scored)
    assert (samples.n_sampled, samples.valid) == (5, ["CCO", "CCO", "CCN"])
    assert [(m.smiles, m.call) for m in samples.molecules] == [("CCO", 1), ("CCN", 2)]
    ethanol, amine = samples.molecules
    assert ethanol.reward == 0.5
    assert math.isnan(amine.reward)
    assert samples.is_scored
    assert [m.smiles for m in samples.hits(0.4)] == ["CCO"]
    unscored = read_samples("x", scored.model_copy(update={"reward_column": False}))
    assert not unscored.is_scored
    assert unscored.hits(0) == []


@pytest.mark.parametrize(
    ("name", "text", "column"),
    [
        ("prior.smi", "CCO\nCCN\n", None),
        ("prior.csv", "smiles,name\nCCO,a\nCCN,b\n", None),
        ("prior.csv", "CCO,0.5\nCCN,0.7\n", 0),
    ],
)
def test_a_file_without_rewards_is_not_scored(tmp_path, name, text, column):
    (tmp_path / name).write_text(text)
    samples = read_samples("prior", SampledFile(path=tmp_path / name, column=column))
    assert samples.valid == ["CCO", "CCN"]
    assert not samples.is_scored


def scored_text(path, rows):
    path.write_text("smiles,name,reward\n" + "".join(f"{row}\n" for row in rows))
    return SampledFile(path=path)


def test_rewards_of_a_text_file(tmp_path):
    rows = ["OCC,a,0.5", "CCO,b,0.9", "CCN,c,", "nonsense,d,0", "CCC,e,1e-1", "CO", ""]
    samples = read_samples("prior", scored_text(tmp_path / "prior.csv", rows))
    assert (samples.n_sampled, len(samples.valid)) == (7, 5)
    rewards = {m.smiles: m.reward for m in samples.molecules}
    assert (rewards["CCO"], rewards["CCC"]) == (0.5, 0.1)
    assert math.isnan(rewards["CCN"])  # an empty cell, and a line that is too short
    assert math.isnan(rewards["CO"])


def test_lines_that_hold_no_number_are_named(tmp_path):
    path = tmp_path / "prior.parquet"
    pd.DataFrame({"smiles": ["CCO"], "reward": ["high"]}).to_parquet(path)
    message = r"prior\.parquet: the column 'reward' must hold rewards.* line 1 holds 'high'"
    with pytest.raises(InputError, match=message):
        read_samples("prior", SampledFile(path=path))
    file = scored_text(tmp_path / "p.csv", ["CCO,a,0.5", "CCN,b,high", 'CCC,c,"0,5"'])
    with pytest.raises(
        InputError, match=r"p\.csv: .*numbers.* line 3 holds 'high', line 4 holds '0"
    ):
        read_samples("prior", file)
    file = scored_text(tmp_path / "p.csv", [f"CCO,a,{n}?" for n in range(8)])
    with pytest.raises(InputError, match=r"line 6 holds '4\?', and 3 more\. Correct them, name"):
        read_samples("prior", file)


@pytest.mark.parametrize("cell", ["1.01", "-0.1", "inf", "-inf", "true", "0.5 0.6"])
def test_a_reward_lies_from_0_to_1(tmp_path, cell):
    file = scored_text(tmp_path / "p.csv", ["CCO,a,0", "CCN,b,1", "CCC,c,nan", f"CO,d,{cell}"])
    with pytest.raises(InputError, match=rf"from 0 to 1 .* line 5 holds '{re.escape(cell)}'\. "):
        read_samples("p", file)


@pytest.mark.parametrize(
    ("header", "given", "taken"),
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
def test_the_column_of_rewards_is_found_by_name_and_said(tmp_path, capsys, header, given, taken):
    columns = header.split(",")
    place = columns.index(taken) if taken else None
    cells = ["CCO" if name.lower() == "smiles" else "0.25" for name in columns]
    if place is not None:
        cells[place] = "0.75"
    path = tmp_path / "p.csv"
    path.write_text(f"{header}\n{','.join(cells)}\n")
    (molecule,) = read_samples("p", SampledFile(path=path, reward_column=given)).molecules
    assert molecule.reward == (None if taken is None else 0.75)
    message = f"p.csv: takes the rewards from column {taken!r} and the order of calls"
    assert (message in capsys.readouterr().err) == (taken is not None and given is None)


def test_a_column_that_is_not_there_is_named(tmp_path):
    file = scored_text(tmp_path / "p.csv", ["CCO,a,0.5"])
    with pytest.raises(InputError, match=r"p\.csv: no column 'rewards'; did you mean 'reward'\?"):
        read_samples("p", file.model_copy(update={"reward_column": "rewards"}))
    file.path.write_text("text,reward\nCCO,1\n")
    with pytest.raises(InputError, match="no column is called smiles"):
        read_samples("p", file)
