"""The built package: every module and every shipped file, and that it works alone."""

import os
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

import chemkl
from chemkl.config.paths import shipped_names

ROOT = Path(__file__).parents[1]
PRIOR = "data/priors/moses.safetensors"


def shipped_files():
    """The files of the three folders, by looking at them."""
    names = {
        file.relative_to(ROOT).as_posix()
        for folder in ("configs", "data", "pipelines")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix != ".pyc" and not file.name.startswith(".")
    }
    return {name for name in names if not name.startswith(("data/cache/", "data/corpora/"))}


def test_everything_is_built(tmp_path):
    expected = shipped_files()
    assert {PRIOR, "pipelines/quickstart.yaml", "configs/rewards/qed_sa.yaml"} <= expected
    assert expected == set(shipped_names())
    expected = {f"shipped/{name}" for name in expected}
    for kind in ("*.py", "*.j2"):
        expected |= {
            p.relative_to(ROOT / "chemkl").as_posix() for p in ROOT.glob(f"chemkl/**/{kind}")
        }
    run(ROOT, sys.executable, "setup.py", "-q", "build", "-b", tmp_path, "egg_info", "-e", tmp_path)
    package = tmp_path / "lib/chemkl"
    assert {
        p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file()
    } == expected


def test_a_clone_in_the_working_directory_is_not_taken_for_the_package(tmp_path):
    (tmp_path / "chemkl/chemkl").mkdir(parents=True)
    where = run(tmp_path, sys.executable, "-c", "import chemkl; print(chemkl.__file__)")
    assert where.strip() == chemkl.__file__


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the source: the build leaves folders in it."""
    copy = tmp_path_factory.mktemp("source")
    names = [*shipped_files(), "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"]
    names += [p.relative_to(ROOT).as_posix() for p in ROOT.glob("chemkl/**/*") if p.is_file()]
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy


@pytest.fixture(scope="module")
def installed(source, tmp_path_factory):
    """An environment with the built wheel, and the packages of this one."""
    place = tmp_path_factory.mktemp("wheel")
    run(source, sys.executable, "-m", "pip", "wheel", *ALONE, "-w", str(place), ".")
    run(place, sys.executable, "-m", "venv", "--without-pip", "venv")
    python = place / "venv/bin/python"
    site = sysconfig.get_path("purelib", vars={"base": str(place / "venv")})
    with ZipFile(next(place.glob("chemkl-*.whl"))) as wheel:
        wheel.extractall(site)  # what pip does with a pure wheel, but for its script
    shared = [path for path in sys.path if path.endswith("-packages")]
    Path(site, "shared.pth").write_text("\n".join(shared))
    return python


ALONE = ("-q", "--no-build-isolation", "--no-deps", "--disable-pip-version-check")


def run(folder, *command):
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.mark.slow
def test_an_installed_wheel_works_from_any_folder(installed, tmp_path):
    def chemkl(*arguments):
        return run(tmp_path, installed, "-m", "chemkl", *arguments)

    where = run(tmp_path, installed, "-c", "import chemkl; print(chemkl.__file__)")
    assert where.startswith(str(installed.parents[1]))
    assert "ok quickstart (pipeline)" in chemkl("check", "quickstart")
    assert "plain_filter" in chemkl("run", "quickstart", "--dry-run")
    assert "output: runs/quickstart" in chemkl("posttrain", "quickstart", "budget=100")
    manifest = (tmp_path / "runs/quickstart/manifest.json").read_text()
    assert f'"prior": "{PRIOR}"' in manifest
    assert str(installed.parents[1]) not in manifest
    assert "chemkl/shipped" not in manifest
    ended = subprocess.run(  # the same run from this checkout: finished
        [sys.executable, "-m", "chemkl", "posttrain", "quickstart", "budget=100"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "runs/quickstart/manifest.json").read_text() == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.slow
def test_a_source_distribution_has_everything(source, tmp_path):
    code = "import sys; from setuptools import build_meta as b; print(b.build_sdist(sys.argv[1]))"
    run(source, sys.executable, "-c", code, str(tmp_path))
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
    assert shipped_files() <= members
    assert {"chemkl/cli.py", "chemkl/reports/templates/report.html.j2"} <= members
