"""What is said about packages that are not installed: what pyproject.toml asks for, by name."""

import ast
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from chemkl.config import base

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TEXTS = [
    *ROOT.glob("chemkl/**/*.py"),
    *ROOT.glob("configs/**/*"),
    *ROOT.glob("pipelines/*"),
    *ROOT.glob("*.md"),
    *ROOT.glob("data/*.md"),
]


@pytest.mark.parametrize("extra", ["fcd", "llm", "docking", "sql", "sklearn", "onnx", "trl"])
def test_a_command_names_the_packages_of_an_extra(extra):
    begin, *asked = base.install_command(extra).replace("'", "").split(" ")[1:]
    assert begin == "install"
    assert {Requirement(a).name for a in asked} == {Requirement(a).name for a in EXTRAS[extra]}


def test_from_a_source_tree_the_command_names_the_extra_there(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(base, "requires", absent)
    assert base.install_command("fcd") == "pip install -e '.[fcd]'"


def test_no_text_sends_the_user_to_an_index_for_chemkl():
    for file in filter(Path.is_file, TEXTS):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"chemkl\[|pip install '?chemkl\b", text), file


def test_every_extra_that_is_spoken_of_exists():
    spoken = {
        name
        for file in filter(Path.is_file, TEXTS)
        for names in re.findall(r"'\.\[([\w,]+)\]'", file.read_text(encoding="utf-8"))
        for name in names.split(",")
    }
    called = {
        node.args[0].value
        for file in ROOT.glob("chemkl/**/*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "install_command"
        and isinstance(node.args[0], ast.Constant)
    }
    assert {"fcd", "docking", "sql", "trl"} <= called
    assert spoken | called <= set(EXTRAS)
