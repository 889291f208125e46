"""Did-you-mean, and the commands that install missing packages."""

import ast
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from chemkl.config import base, did_you_mean

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SOURCES = [*ROOT.glob("chemkl/**/*.py")]
GLOBS = ("configs/**/*", "pipelines/*", "*.md", "data/*.md")
TEXTS = [
    file.read_text(encoding="utf-8")
    for file in [*SOURCES, *(path for glob in GLOBS for path in ROOT.glob(glob))]
    if file.is_file()
]
ALSO = {"mol_wt": ["MolecularWeight", "MW"], "tpsa": ["PSA"], "hbd": ["HBondDonors"]}
MEANINGS = {
    "mol_wt": "Average molecular weight",
    "tpsa": "Topological polar surface area",
    "hbd": "Number of hydrogen-bond donors",
}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("tpas", ["tpsa"]), ("TPSA", ["tpsa"]), ("mw", ["mol_wt"])),
        *(("molecular_weight", ["mol_wt"]), ("h_bond_donor", ["hbd"])),
        *(("donors_of_hydrogen", ["hbd"]), ("surfaceArea", ["tpsa"])),
        ("number_of_molecules", []),  # words that occur in every meaning
        ("zzz", []),
    ],
)
def test_a_name_is_found_by_spelling_synonym_or_meaning(name, meant):
    assert base.nearest(name, MEANINGS, ALSO, MEANINGS) == meant


def test_few_names_are_all_listed_and_of_many_the_nearest():
    assert did_you_mean("x", ["b", "a", "c"]) == ". Known: a, b, c"
    assert did_you_mean("x", []) == ": there is none."
    text = did_you_mean("column_19x", [f"column_{n}" for n in range(200)])
    assert text.startswith("; did you mean 'column_19'? Known: ")
    assert text.endswith(" and 192 more")
    assert len(text) < 200


@pytest.mark.parametrize("extra", ["fcd", "llm", "docking", "sql", "sklearn", "onnx", "trl"])
def test_the_command_names_the_packages_of_an_extra(extra):
    verb, *packages = base.install_command(extra).replace("'", "").split(" ")[1:]
    assert verb == "install"
    names = {Requirement(package).name for package in EXTRAS[extra]}
    assert {Requirement(package).name for package in packages} == names


def test_from_a_source_tree_the_command_names_the_extra(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(base, "requires", absent)
    assert base.install_command("fcd") == "pip install -e '.[fcd]'"


def test_no_text_names_a_package_index_or_an_unknown_extra():
    assert not [text for text in TEXTS if re.search(r"chemkl\[|pip install '?chemkl\b", text)]
    lists = [names for text in TEXTS for names in re.findall(r"'\.\[([\w,]+)\]'", text)]
    in_texts = {name for names in lists for name in names.split(",")}
    in_calls = {
        node.args[0].value
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "install_command"
        and isinstance(node.args[0], ast.Constant)
    }
    assert {"fcd", "docking", "sql", "trl"} <= in_calls
    assert in_texts | in_calls <= set(EXTRAS)
