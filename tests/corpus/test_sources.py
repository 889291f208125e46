import gzip
import zipfile
from pathlib import Path

import pytest

from chemkl.config.prepare import ChemblSampleSource, FileSource, MosesSource
from chemkl.corpus import files as sources
from chemkl.corpus.files import read_source
from chemkl.files.molecules import Line

SPLITS = {
    "train": ["SMILES,SPLIT", "CCO,train", "CC,train"],
    "test": ["SMILES", "CCN"],
    "test_scaffolds": ["SMILES", "C1CC1"],
}


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
    return path


def test_moses_comes_in_its_three_splits(tmp_path, wheel, pip, monkeypatch):
    _, members = sources._MEMBERS["moses"]
    monkeypatch.setitem(sources._MEMBERS, "moses", (wheel, members))
    assert list(read_source(MosesSource(kind="moses"), tmp_path / "cache")) == [
        Line(2, "CCO", "train"),
        Line(3, "CC", "train"),
        Line(2, "CCN", "test"),
        Line(2, "C1CC1", "test_scaffolds"),
    ]


def test_the_chembl_sample_is_one_list(tmp_path, wheel, pip, monkeypatch):
    _, members = sources._MEMBERS["chembl_sample"]
    monkeypatch.setitem(sources._MEMBERS, "chembl_sample", (wheel, members))
    source = ChemblSampleSource(kind="chembl_sample")
    lines = list(read_source(source, tmp_path / "cache"))
    assert lines == [Line(1, "CCO", "train"), Line(2, "C", "train"), Line(3, "N", "train")]


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
    ],
    ids=["moses", "chembl_sample"],
)  # fmt: skip
def test_the_real_wheels_hold_what_is_said_of_them(source, first, splits):
    found = dict.fromkeys(splits, 0)
    lines = read_source(source, Path("~/.cache/chemkl"))
    start = next(lines)
    assert first is None or start.smiles == first
    found[start.split] += 1
    for line in lines:
        found[line.split] += 1
        assert line.smiles
    assert found == splits
    assert sum(splits.values()) == sources.N_LINES[source.kind]
