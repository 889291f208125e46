"""Wheels are downloaded once and checked; pickles are read by an allow-list."""

import io
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from chemkl.config import InputError
from chemkl.results import external
from chemkl.results.external import (
    ARRAYS,
    AllowedUnpickler,
    fetch_wheel,
    open_member,
    read_pickled,
)


@pytest.fixture
def wheel_file(tmp_path):
    """The file that the index serves."""
    path = tmp_path / "served" / "molsets-0.3.1-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("molscore/data/sample.smi", "CCO\nC\nN\n")
    return path


def test_a_wheel_is_downloaded_once_and_never_installed(tmp_path, wheel, wheel_file, pip):
    cache = tmp_path / "deep" / "cache"
    path = fetch_wheel(wheel, cache)
    assert path == cache / wheel_file.name
    assert path.read_bytes() == wheel_file.read_bytes()
    assert pip[0][1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "molsets==0.3.1"} <= set(pip[0])
    assert fetch_wheel(wheel, cache) == path
    assert len(pip) == 1
    assert [p.name for p in cache.iterdir()] == [wheel_file.name]


def test_a_wheel_in_the_cache_needs_no_network(wheel, wheel_file, monkeypatch):
    monkeypatch.setattr(external.subprocess, "run", None)
    monkeypatch.setenv("HOME", str(wheel_file.parent))
    for cache in (wheel_file.parent, Path("~")):
        assert fetch_wheel(wheel, cache).samefile(wheel_file)
    with open_member(wheel_file, "molscore/data/sample.smi") as stream:
        assert stream.read() == b"CCO\nC\nN\n"
    wheel_file.write_bytes(wheel_file.read_bytes()[:-5])
    with pytest.raises(InputError, match=rf"{wheel_file.name}: sha256 is .* Delete the file and"):
        fetch_wheel(wheel, wheel_file.parent)


def test_a_download_with_a_wrong_hash_is_refused_and_deleted(tmp_path, wheel, wheel_file, pip):
    wheel_file.write_bytes(wheel_file.read_bytes() + b"x")
    with pytest.raises(InputError, match=rf"sha256 is [0-9a-f]{{64}}, expected {wheel.sha256}"):
        fetch_wheel(wheel, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("code", "error", "why"), [(1, "ERROR: no route\n", "ERROR: no"), (0, "", "it downloaded an")]
)
def test_a_failed_download_says_what_to_do(tmp_path, wheel, monkeypatch, code, error, why):
    ended = subprocess.CompletedProcess([], code, "", error)
    monkeypatch.setattr(external.subprocess, "run", lambda *_, **__: ended)
    message = rf"(?s)molsets==0\.3\.1: pip could not download it: {why}.*ad {wheel.file_name} elsew"
    with pytest.raises(InputError, match=message):
        fetch_wheel(wheel, tmp_path)
    assert list(tmp_path.glob("*.whl")) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot store the wheel there .* Set `cache` to another"):
        fetch_wheel(wheel, tmp_path / "file" / "cache")


# ---- pickles


def unpickled(content, kind=np.ndarray):
    return read_pickled(AllowedUnpickler(io.BytesIO(content), ARRAYS).load, kind, "a.pkl", "arrays")


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("core", [b"numpy.core.", b"numpy._core."])  # of numpy 1, of numpy 2
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([1.5, -2], dtype=">f8"),
        np.array([(1, 2.5), (3, -1)], dtype=[("left", "<i8"), ("threshold", "<f8")]),
    ],
    ids=["int", "fortran", "big-endian", "records"],
)
def test_arrays_round_trip(array, core, protocol):
    copy = unpickled(pickle.dumps(array, protocol).replace(b"numpy._core.", core))
    assert copy.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(copy, array)


@pytest.mark.parametrize("name", ["numpy._core.multiarray\n_reconstruct", "_codecs\nencode"])
def test_a_pickle_cannot_change_a_stand_in(name):
    # BUILD with (None, {"a": 1}) sets attributes of the object on the stack
    pickled = b"\x80\x02c" + name.encode() + b"\nN}X\x01\x00\x00\x00aI1\ns\x86b."
    stand_in = unpickled(pickled, object)
    assert stand_in is ARRAYS[tuple(name.split("\n"))]
    assert not hasattr(stand_in, "a")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (pickle.dumps([1]), r"^a\.pkl: not arrays \(a list\)\.$"),
        (b"cbuiltins\neval\n.", r"a\.pkl: not arrays \(the pickle asks for builtins\.eval, which"),
    ],
)
def test_other_pickles_are_refused(content, why):
    with pytest.raises(InputError, match=why):
        unpickled(content)
