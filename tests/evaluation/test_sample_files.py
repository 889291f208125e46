import gzip
import math
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemkl.config import InputError
from chemkl.config.evaluate import SampledFile
from chemkl.evaluation.sample_files import read_samples


@pytest.fixture
def scored(tmp_path):
    path = tmp_path / "samples.parquet"
    columns = {
        "smiles": ["OCC", "CCO", "CCN", "nonsense", "CCC"],
        "reward": [0.5, 0.9, None, 0.0, 0.7],
        "truncated": [False, False, False, False, True],
    }
    pq.write_table(pa.table(columns), path)
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


def test_rewards_are_left_alone_where_they_are_not_asked_for(scored):
    samples = read_samples("x", scored.model_copy(update={"reward_column": False}))
    assert not samples.is_scored
    assert samples.hits(0) == []


def test_a_file_without_rewards_is_not_scored(tmp_path):
    (tmp_path / "prior.smi").write_text("CCO\nCCN\n")
    samples = read_samples("prior", SampledFile(path=tmp_path / "prior.smi"))
    assert samples.valid == ["CCO", "CCN"]
    assert not samples.is_scored


def test_rewards_that_are_no_numbers_are_refused(tmp_path):
    path = tmp_path / "prior.parquet"
    pq.write_table(pa.table({"smiles": ["CCO"], "reward": ["high"]}), path)
    with pytest.raises(
        InputError,
        match=r"prior\.parquet: the column 'reward' must hold rewards.* line 1 holds 'high'",
    ):
        read_samples("prior", SampledFile(path=path))


def scored_text(path, rows, tab=False):
    text = "smiles,name,reward\n" + "".join(f"{row}\n" for row in rows)
    path.write_bytes((text.replace(",", "\t") if tab else text).encode())
    return SampledFile(path=path)


@pytest.mark.parametrize("name", ["prior.csv", "prior.tsv", "prior.csv.gz"])
def test_rewards_of_a_text_file(tmp_path, name):
    rows = ["OCC,a,0.5", "CCO,b,0.9", "CCN,c,", "nonsense,d,0", "CCC,e,1e-1", "CO", ""]
    path = tmp_path / name
    if name.endswith(".gz"):
        plain = scored_text(tmp_path / "plain", rows).path.read_bytes()
        path.write_bytes(gzip.compress(plain))
    else:
        scored_text(path, rows, tab=name.endswith(".tsv"))
    samples = read_samples("prior", SampledFile(path=path))
    assert (samples.n_sampled, len(samples.valid)) == (7, 5)
    rewards = {m.smiles: m.reward for m in samples.molecules}
    assert (rewards["CCO"], rewards["CCC"]) == (0.5, 0.1)
    assert math.isnan(rewards["CCN"])  # an empty cell, and a line that is too short
    assert math.isnan(rewards["CO"])
    assert [m.smiles for m in samples.hits(0.05)] == ["CCO", "CCC"]
    assert not read_samples("x", SampledFile(path=path, reward_column=False)).is_scored


def test_text_and_parquet_give_the_same(scored, tmp_path):
    table = pq.read_table(scored.path)
    table.to_pandas().to_csv(tmp_path / "samples.csv", index=False)
    one, other = (
        read_samples("x", file) for file in (scored, SampledFile(path=tmp_path / "samples.csv"))
    )
    assert (one.n_sampled, one.valid) == (other.n_sampled, other.valid)  # `truncated` counts too
    for ours, theirs in zip(one.molecules, other.molecules, strict=True):
        assert (ours.smiles, ours.call) == (theirs.smiles, theirs.call)
        assert ours.reward == pytest.approx(theirs.reward, nan_ok=True)


def test_a_table_without_rewards_is_not_scored(tmp_path):
    (tmp_path / "prior.csv").write_text("smiles,name\nCCO,a\n")
    assert not read_samples("prior", SampledFile(path=tmp_path / "prior.csv")).is_scored


def test_a_table_without_a_header_is_not_scored(tmp_path):
    (tmp_path / "prior.csv").write_text("CCO,0.5\nCCN,0.7\n")
    samples = read_samples("prior", SampledFile(path=tmp_path / "prior.csv", column=0))
    assert samples.valid == ["CCO", "CCN"]
    assert not samples.is_scored


def test_lines_that_hold_no_number_are_named(tmp_path):
    file = scored_text(tmp_path / "p.csv", ["CCO,a,0.5", "CCN,b,high", 'CCC,c,"0,5"'])
    with pytest.raises(
        InputError, match=r"p\.csv: .*numbers.* line 3 holds 'high', line 4 holds '0"
    ):
        read_samples("prior", file)
    file = scored_text(tmp_path / "p.csv", [f"CCO,a,{n}?" for n in range(8)])
    with pytest.raises(InputError, match=r"line 6 holds '4\?', and 3 more\. Correct them, name"):
        read_samples("prior", file)


def test_a_missing_column_of_smiles_is_named_as_before(tmp_path):
    (tmp_path / "prior.csv").write_text("text,reward\nCCO,1\n")
    with pytest.raises(InputError, match="no column is called smiles"):
        read_samples("prior", SampledFile(path=tmp_path / "prior.csv"))


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
    said = f"p.csv: takes column {taken!r} for the rewards, and the order of the rows"
    assert (said in capsys.readouterr().err) == (taken is not None and given is None)


def test_a_column_of_rewards_that_is_not_there_is_named(tmp_path):
    file = scored_text(tmp_path / "p.csv", ["CCO,a,0.5"])
    with pytest.raises(InputError, match=r"p\.csv: no column 'rewards'; did you mean 'reward'\?"):
        read_samples("p", file.model_copy(update={"reward_column": "rewards"}))
