import gzip
import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from chemkl.config import InputError
from chemkl.config.prepare import ChemblSampleSource, FileSource, MosesSource
from chemkl.corpus import sources
from chemkl.corpus.reading import Line
from chemkl.corpus.sources import Wheel, fetch_wheel, open_member, read_source

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


@pytest.fixture
def wheel(wheel_file):
    return Wheel("molsets", "0.3.1", hashlib.sha256(wheel_file.read_bytes()).hexdigest())


@pytest.fixture
def pip(wheel_file, monkeypatch):
    """Stand in for pip: copies the served wheel, and remembers how it was called."""
    calls = []

    def run(command, **_):
        calls.append(command)
        target = Path(command[command.index("--dest") + 1]) / wheel_file.name
        target.write_bytes(wheel_file.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sources.subprocess, "run", run)
    return calls


def test_a_wheel_is_downloaded_once_and_never_installed(tmp_path, wheel, wheel_file, pip):
    cache = tmp_path / "deep" / "cache"
    path = fetch_wheel(wheel, cache)
    assert path == cache / wheel_file.name
    assert path.read_bytes() == wheel_file.read_bytes()
    assert pip[0][1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "molsets==0.3.1"} <= set(pip[0])
    assert fetch_wheel(wheel, cache) == path
    assert len(pip) == 1
    assert [p.name for p in cache.iterdir()] == [wheel_file.name]  # nothing left beside it


def test_a_wheel_in_the_cache_needs_no_network(tmp_path, wheel, wheel_file, monkeypatch):
    monkeypatch.setattr(sources.subprocess, "run", None)
    assert fetch_wheel(wheel, wheel_file.parent) == wheel_file


def test_a_download_with_a_wrong_hash_is_refused_and_not_kept(tmp_path, wheel, wheel_file, pip):
    wheel_file.write_bytes(wheel_file.read_bytes() + b"x")
    with pytest.raises(InputError, match=rf"sha256 is [0-9a-f]{{64}}, expected {wheel.sha256}"):
        fetch_wheel(wheel, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_wheel_in_the_cache_is_named(wheel, wheel_file):
    wheel_file.write_bytes(wheel_file.read_bytes()[:-5])
    with pytest.raises(InputError, match=rf"{wheel_file.name}: sha256 is .* Delete the file and"):
        fetch_wheel(wheel, wheel_file.parent)


def test_a_failure_of_pip_says_what_to_do(tmp_path, wheel, monkeypatch):
    ended = subprocess.CompletedProcess([], 1, "", "ERROR: no route to host\n")
    monkeypatch.setattr(sources.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(InputError, match=r"molsets==0\.3\.1: pip could not download it: ERROR: no"):
        fetch_wheel(wheel, tmp_path)
    with pytest.raises(InputError, match=rf"Get {wheel.file_name} elsewhere and put it into"):
        fetch_wheel(wheel, tmp_path)
    assert list(tmp_path.glob("*.whl")) == []


def test_pip_that_brings_another_file(tmp_path, wheel, monkeypatch):
    ended = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(sources.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(InputError, match=r"pip could not download it: it got another file"):
        fetch_wheel(wheel, tmp_path)


def test_a_cache_that_cannot_be_made(tmp_path, wheel):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot keep the wheel there .* Set `cache` to another"):
        fetch_wheel(wheel, tmp_path / "file" / "cache")


def test_a_home_in_the_cache_is_expanded(tmp_path, wheel, wheel_file, monkeypatch):
    monkeypatch.setenv("HOME", str(wheel_file.parent))
    assert fetch_wheel(wheel, Path("~")) == wheel_file


def test_a_member_is_read_without_unpacking(wheel_file):
    with open_member(wheel_file, "molscore/data/sample.smi") as stream:
        assert stream.read() == b"CCO\nC\nN\n"


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
    assert list(read_source(source, tmp_path / "none")) == [Line(2, "CC", "train")]


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
