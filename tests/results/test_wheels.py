import subprocess
import zipfile
from pathlib import Path

import pytest

from chemkl.config import InputError
from chemkl.results import wheels
from chemkl.results.wheels import fetch_wheel, open_member


@pytest.fixture
def wheel_file(tmp_path):
    """What the index serves."""
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
    assert [p.name for p in cache.iterdir()] == [wheel_file.name]  # nothing left beside it


def test_a_wheel_in_the_cache_needs_no_network(wheel, wheel_file, monkeypatch):
    monkeypatch.setattr(wheels.subprocess, "run", None)
    monkeypatch.setenv("HOME", str(wheel_file.parent))
    for cache in (wheel_file.parent, Path("~")):
        assert fetch_wheel(wheel, cache).samefile(wheel_file)
    with open_member(wheel_file, "molscore/data/sample.smi") as stream:
        assert stream.read() == b"CCO\nC\nN\n"
    wheel_file.write_bytes(wheel_file.read_bytes()[:-5])
    with pytest.raises(InputError, match=rf"{wheel_file.name}: sha256 is .* Delete the file and"):
        fetch_wheel(wheel, wheel_file.parent)


def test_a_download_with_a_wrong_hash_is_refused_and_not_kept(tmp_path, wheel, wheel_file, pip):
    wheel_file.write_bytes(wheel_file.read_bytes() + b"x")
    with pytest.raises(InputError, match=rf"sha256 is [0-9a-f]{{64}}, expected {wheel.sha256}"):
        fetch_wheel(wheel, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("code", "error", "why"), [(1, "ERROR: no route\n", "ERROR: no"), (0, "", "it got another")]
)
def test_a_failure_of_pip_says_what_to_do(tmp_path, wheel, monkeypatch, code, error, why):
    ended = subprocess.CompletedProcess([], code, "", error)
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: ended)
    told = rf"(?s)molsets==0\.3\.1: pip could not download it: {why}.*Get {wheel.file_name} elsewh"
    with pytest.raises(InputError, match=told):
        fetch_wheel(wheel, tmp_path)
    assert list(tmp_path.glob("*.whl")) == []


def test_a_cache_that_cannot_be_made(tmp_path, wheel):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot keep the wheel there .* Set `cache` to another"):
        fetch_wheel(wheel, tmp_path / "file" / "cache")
