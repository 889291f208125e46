"""Functions of the user as components: found, checked, called, and kept from doing harm."""

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
        return name

    return write


def reward(function, **parameters):
    own = part("python_function", 0, 100, function=function, **parameters)
    return reward_of({**own, "name": "mine"})


def score(function, smiles, **parameters):
    return reward(function, **parameters).score(smiles)


def test_it_is_called_with_the_canonical_smiles(write):
    write("def length(smiles: str) -> float:\n    return len(smiles)\n")
    frame = score("mine.py:length", ["OCC", "C(C)O", "c1ccccc1"])
    assert frame["raw_mine"].tolist() == [3.0, 3.0, 8.0]  # CCO, CCO, c1ccccc1


@pytest.mark.parametrize(
    "code",
    [
        "def f(mol: Chem.Mol): return mol.GetNumAtoms()",
        "def f(mol: 'Chem.Mol'): return mol.GetNumAtoms()",
        "def f(mols: list[Chem.Mol]): return [mol.GetNumAtoms() for mol in mols]",
        "def f(smiles: list[str]): return [Chem.MolFromSmiles(s).GetNumAtoms() for s in smiles]",
        "from collections.abc import Sequence\n"
        "def f(xs: Sequence[str]): return (Chem.MolFromSmiles(s).GetNumAtoms() for s in xs)",
        "import numpy\n"
        "def f(mols: list[Chem.Mol]): return numpy.array([mol.GetNumAtoms() for mol in mols])",
        "class F:\n    def __call__(self, mol: Chem.Mol): return mol.GetNumAtoms()\nf = F()",
    ],
)
def test_annotations_say_what_it_is_called_with(write, code):
    write(f"from rdkit import Chem\n{code}\n")
    assert score("mine.py:f", ["CCO", "x", "c1ccccc1"])["raw_mine"].tolist()[::2] == [3.0, 6.0]


@pytest.mark.parametrize(("takes", "value"), [("smiles", "str"), ("mol", "Mol"), ("list", "list")])
def test_takes_says_it_where_nothing_is_annotated(write, takes, value):
    code = "def f(x):\n    n = float(type(x).__name__ == '{}')\n    return {}\n"
    write(code.format(value, "[n] * len(x)" if takes == "list" else "n"))
    assert score("mine.py:f", ["CCO", "C"], takes=takes)["raw_mine"].tolist() == [1.0, 1.0]


def test_a_function_of_an_installed_module_is_named_by_dots_or_colon():
    ethanol = mol("CCO")
    for name in ("rdkit.Chem.Descriptors:MolWt", "rdkit.Chem.Descriptors.MolWt"):
        got = build("python_function", function=name, takes="mol")([ethanol])
        assert got == [Descriptors.MolWt(ethanol)]
    compiled = "rdkit.Chem.rdMolDescriptors:CalcTPSA"
    got = build("python_function", function=compiled, takes="mol")([ethanol])
    assert got == [Descriptors.TPSA(ethanol)]


def test_a_file_finds_what_is_beside_it_and_beside_the_config(write, tmp_path, monkeypatch):
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
    ("reference", "says"),
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
        (
            "no_such_package.sub:f",
            "no module 'no_such_package' is installed; name a function in a file",
        ),
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
def test_what_cannot_be_found_is_explained(write, reference, says):
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
    with pytest.raises(InputError, match=says):
        reward(reference)


CODE = """
    def f(smiles: str, target: str, weight: float = 1.0, *, copies: int = 2, _private=0):
        return len(target) * weight * copies
    def anything(smiles: str, **options):
        return len(options)
    def alone(smiles: str):
        return 1
    """


def test_parameters_reach_it_with_their_types(write):
    write(CODE)
    given = {"target": "abc", "weight": "2.5"}
    assert score("mine.py:f", ["C"], parameters=given)["raw_mine"].tolist() == [15.0]
    assert score("mine.py:anything", ["C"], parameters={"a": 1, "b": 2})["raw_mine"].tolist() == [2]


def test_parameters_are_checked_against_its_signature(write):
    write(CODE)
    with pytest.raises(InputError) as caught:
        reward("mine.py:f", parameters={"wieght": 1, "copies": "x", "_private": 1})
    says = [
        "target: required, and not given",
        "copies: should be a whole number (got 'x')",
        "wieght: not a known key; did you mean 'weight'? Known: copies, target, weight",
        "_private: not a known key",
    ]
    for line, start in zip(str(caught.value).splitlines(), says, strict=True):
        assert f"components.0.parameters: parameters.{start}" in line
    with pytest.raises(InputError, match=r"alone\(.*takes nothing but the molecule \(got weight\)"):
        reward("mine.py:alone", parameters={"weight": 1})


def test_what_fails_costs_its_molecule_only_and_says_where(write):
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
    # the file begins with an empty line; the last line of the user's own file is told
    reasons = frame["reason"].str.removeprefix("component mine failed: ").tolist()
    assert reasons[:4] == [
        "KeyError: 'methane' (mine.py:8)",
        "it raised SystemExit (1)",
        "it returned Odd(), not a number",
        "ValueError: too deep (mine.py:11)",
    ]
    assert re.fullmatch(r"JSONDecodeError: Expecting property name.* \(mine.py:12\)", reasons[4])
    assert frame["valid"].all()


def test_what_it_does_to_its_molecule_stays_there(write):
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
    assert frame["raw_required_smarts"].tolist() == [1.0]
    assert frame["raw_python_function"].tolist() == [1.0]


def test_a_signal_that_ends_the_process_is_no_failure_of_a_molecule(write):
    write(
        "from chemkl.processes import StoppedBySignal\ndef f(s: str): raise StoppedBySignal(15)\n"
    )
    with pytest.raises(StoppedBySignal):
        build("python_function", function="mine.py:f")([mol("C")])
