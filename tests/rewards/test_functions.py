"""User functions: found by name, called with SMILES or molecules, checked, isolated failures."""

import re
import sys
import textwrap

import pytest
from building import build, mol, part, reward_of
from rdkit.Chem import Descriptors

from chemkl.config import InputError
from chemkl.processes import StoppedBySignal
from chemkl.rewards.components.functions import load_function
from chemkl.rewards.registry import find_component


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file of functions into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="mine.py"):
        (tmp_path / name).write_text(textwrap.dedent(text))

    return write


def reward(function, **parameters):
    own = part("python_function", 0, 100, function=function, **parameters)
    return reward_of({**own, "name": "mine"})


def score(function, smiles, **parameters):
    return reward(function, **parameters).score(smiles)


@pytest.mark.parametrize(
    ("code", "values"),
    [
        ("def f(smiles: str): return len(smiles)", [3, 8]),  # CCO, c1ccccc1
        ("def f(mol: Chem.Mol): return mol.GetNumAtoms()", [3, 6]),
        ("def f(mol: 'Chem.Mol'): return mol.GetNumAtoms()", [3, 6]),
        ("def f(mols: list[Chem.Mol]): return [mol.GetNumAtoms() for mol in mols]", [3, 6]),
        ("def f(x: list[str]): return [Chem.MolFromSmiles(s).GetNumAtoms() for s in x]", [3, 6]),
        ("from collections.abc import Sequence\n"
         "def f(xs: Sequence[str]): return (Chem.MolFromSmiles(s).GetNumAtoms() for s in xs)",
         [3, 6]),
        ("import numpy\n"
         "def f(mols: list[Chem.Mol]): return numpy.array([mol.GetNumAtoms() for mol in mols])",
         [3, 6]),
        ("class F:\n    def __call__(self, mol: Chem.Mol): return mol.GetNumAtoms()\nf = F()",
         [3, 6]),
    ],
)  # fmt: skip
def test_annotations_decide_the_type_of_a_molecule(write, code, values):
    write(f"from rdkit import Chem\n{code}\n")
    assert score("mine.py:f", ["OCC", "x", "c1ccccc1"])["raw_mine"].tolist()[::2] == values


@pytest.mark.parametrize(("takes", "value"), [("smiles", "str"), ("mol", "Mol"), ("list", "list")])
def test_takes_decides_without_annotations(write, takes, value):
    code = "def f(x):\n    n = float(type(x).__name__ == '{}')\n    return {}\n"
    write(code.format(value, "[n] * len(x)" if takes == "list" else "n"))
    assert score("mine.py:f", ["CCO", "C"], takes=takes)["raw_mine"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("rdkit.Chem.Descriptors:MolWt", Descriptors.MolWt),
        ("rdkit.Chem.Descriptors.MolWt", Descriptors.MolWt),
        ("rdkit.Chem.rdMolDescriptors:CalcTPSA", Descriptors.TPSA),  # compiled
    ],
)
def test_a_function_of_an_installed_module_has_dots_or_a_colon(name, oracle):
    values = build("python_function", function=name, takes="mol")([mol("CCO")])
    assert values == [oracle(mol("CCO"))]


def test_a_file_imports_from_its_folder_and_is_found_from_the_config(write, tmp_path, monkeypatch):
    write("FACTOR = 2\n", "beside_mine.py")
    write("from beside_mine import FACTOR\ndef f(s: str): return FACTOR * len(s)\n")
    monkeypatch.chdir("/")
    own = load_function("mine.py:f", tmp_path)
    assert own.function("CC") == 4
    assert own.reference == f"{tmp_path}/mine.py:f"
    assert str(tmp_path) not in sys.path
    assert load_function(own.reference).function is own.function  # run once
    schema = find_component("python_function").parameter_model
    checked = schema.model_validate({"function": "mine.py:f"}, context={"folder": tmp_path})
    assert checked.function == own.reference


def test_a_changed_file_is_another_function(write):
    write("def f(s: str): return 1\n")
    first = load_function("mine.py:f")
    write("def f(s: str): return 2\n")
    second = load_function("mine.py:f")
    assert (first.function("C"), second.function("C")) == (1, 2)
    assert first.identity != second.identity


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere.py:f", r"no such file or folder: .*nowhere\.py"),
        ("mine.py", "'mine.py' names no function; write package.module:name"),
        ("mine.py:", "names no function"),
        ("mine.py:f g", "names no function"),
        ("length", "names no function"),
        ("mine.py:lenght", r"has no 'lenght'; did you mean 'length'\? Known: bare, length, none"),
        ("mine.py:textwrapp", r"mine.py has no 'textwrapp'\. Known: bare, length, none \("),
        ("rdkit.Chem.rdMolDescriptors:CalcTPS", "did you mean 'CalcTPSA'"),
        ("mine.py:Thing", "is a class, not a function"),
        ("mine.py:NUMBER", "is of type int, not a function"),
        ("mine.py:none", r"mine.py:none\(\) cannot be called with a molecule"),
        ("mine.py:bare", r"mine.py:bare\(x\) has no annotation .* set takes to one of smi"),
        ("no_such_package.sub:f", "no module 'no_such_package' is installed; name a function in"),
        ("rdkit.Chem.Descriptor.MolWt", "no module 'rdkit.Chem.Descriptor' is installed"),
        ("broken.py:f", "broken.py cannot be imported: ZeroDivisionError: division by zero"),
        ("wrong.py:f", "wrong.py cannot be imported: SyntaxError"),
        ("leaves.py:f", "leaves.py cannot be imported: SystemExit: 3"),
        ("lacks.py:f", "lacks.py cannot be imported: ModuleNotFoundError: .*no_such_package"),
        ("", "names no function"),
        (":", "names no function"),
        (".py:f", "no such file or folder"),
    ],
)
def test_a_bad_reference_is_refused(write, reference, message):
    write(
        """
        from textwrap import wrap as textwrap
        NUMBER = 1
        def length(s: str): return 1
        class Thing: pass
        def none(): return 1
        def bare(x): return 1
        """
    )
    write("1 / 0\n", "broken.py")
    write("def f(:\n", "wrong.py")
    write("raise SystemExit(3)\n", "leaves.py")
    write("import no_such_package\n", "lacks.py")
    with pytest.raises(InputError, match=message):
        reward(reference)


def test_parameters_are_checked_against_the_signature(write):
    write(
        """
        def f(smiles: str, target: str, weight: float = 1.0, *, copies: int = 2, _private=0):
            return len(target) * weight * copies
        def anything(smiles: str, **options):
            return len(options)
        def alone(smiles: str):
            return 1
        """
    )
    parameters = {"target": "abc", "weight": "2.5"}
    assert score("mine.py:f", ["C"], parameters=parameters)["raw_mine"].tolist() == [15.0]
    assert score("mine.py:anything", ["C"], parameters={"a": 1, "b": 2})["raw_mine"].tolist() == [2]
    with pytest.raises(InputError) as caught:
        reward("mine.py:f", parameters={"wieght": 1, "copies": "x", "_private": 1})
    expected = [
        "target: required, and not given",
        "copies: should be a whole number (got 'x')",
        "wieght: not a known key; did you mean 'weight'? Known: copies, target, weight",
        "_private: not a known key",
    ]
    for line, start in zip(str(caught.value).splitlines(), expected, strict=True):
        assert f"components.0.parameters: parameters.{start}" in line
    with pytest.raises(InputError, match=r"alone\(.*takes nothing but the molecule \(got weight\)"):
        reward("mine.py:alone", parameters={"weight": 1})


def test_a_failure_costs_its_molecule_and_names_its_line(write):
    write("def deep(text):\n    raise ValueError('too\\n  deep')\n", "its_depths.py")
    write(
        """
        import json
        from its_depths import deep
        class Odd:
            def __float__(self): raise RuntimeError("no")
            def __repr__(self): return "Odd()"
        def f(smiles: str):
            if smiles == "C": raise KeyError("methane")
            if smiles == "N": raise SystemExit(1)
            if smiles == "P": return Odd()
            if smiles == "CC": return deep(smiles)
            if smiles == "CN": return json.loads("{")
            return 50
        """
    )
    frame = score("mine.py:f", ["C", "N", "P", "CC", "CN", "CCO"])
    assert frame["raw_mine"].isna().tolist() == [True] * 5 + [False]
    assert frame["reward"].tolist() == [0.0] * 5 + [0.5]
    assert frame["valid"].all()
    # the file begins with an empty line; the line is the last one in the user's own file
    reasons = frame["reason"].str.removeprefix("component mine failed: ").tolist()
    assert reasons[:4] == [
        "KeyError: 'methane' (mine.py:8)",
        "it raised SystemExit (1)",
        "it returned Odd(), not a number",
        "ValueError: too deep (mine.py:11)",
    ]
    assert re.fullmatch(r"JSONDecodeError: Expecting property name.* \(mine.py:12\)", reasons[4])


def test_a_function_may_change_its_molecule(write):
    write(
        """
        from rdkit import Chem
        def f(mol: Chem.Mol):
            Chem.Kekulize(mol, clearAromaticFlags=True)
            return 1
        """
    )
    own, aromatic = part("python_function", 0, 1, function="mine.py:f"), "c1ccccc1"
    frame = reward_of(own, part("required_smarts", smarts=aromatic)).score([aromatic])
    assert frame["raw_required_smarts"].tolist() == frame["raw_python_function"].tolist() == [1.0]


def test_a_signal_is_not_a_failure_of_a_molecule(write):
    write("from chemkl.processes import StoppedBySignal\ndef f(s: str): raise StoppedBySignal(2)")
    with pytest.raises(StoppedBySignal):
        build("python_function", function="mine.py:f")([mol("C")])
