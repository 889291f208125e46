"""`chemkl show`: the tables reach the screen, and mistakes are exit code 2."""

import sys

import pytest

from chemkl import cli


@pytest.fixture
def chemkl(monkeypatch):
    """Run the command line in this process and give its exit code."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["chemkl", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            return end.code or 0
        return 0

    return call


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rewards"], ["python_function *", "external_program *", "qed", "Angstrom", "Bickerton"]),
        (["rewards", "tanimoto"], ["Rogers and Hahn", "radius", "whole number ≥ 0"]),
        (["transforms"], ["reverse_sigmoid", "value_map"]),
        (["transforms", "step"], ["All or nothing"]),
    ],
)
def test_tables_are_shown(chemkl, capsys, arguments, says):
    assert chemkl("show", *arguments) == 0
    out = capsys.readouterr().out.replace("Å", "Angstrom")
    assert [text for text in says if text not in out] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["reward"], "cannot show 'reward'; did you mean 'rewards'? Known: rewards, transforms"),
        (["rewards", "qedd"], "unknown component 'qedd'; did you mean 'qed'?"),
        (["transforms", "sigmod"], "unknown transform 'sigmod'; did you mean 'sigmoid'?"),
    ],
)
def test_mistakes_are_exit_code_2(chemkl, capsys, arguments, says):
    assert chemkl("show", *arguments) == 2
    assert says in capsys.readouterr().err
