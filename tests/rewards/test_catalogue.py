"""The tables of components and transforms: nothing that is registered is left out of them."""

import inspect
import math
from typing import Literal

import pytest
from rich.console import Console

from chemkl.config import InputError
from chemkl.config.schema import Key, keys_of
from chemkl.config.transforms import TRANSFORMS
from chemkl.rewards import catalogue
from chemkl.rewards.registry import COMPONENTS, find_component


def shown(parts):
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - as long as the test
    for part in parts:
        console.print(part, highlight=False)
    return console.export_text()


def test_every_component_is_there_with_all_its_parameters():
    text = shown(catalogue.rewards())
    for kind, each in COMPONENTS.items():
        assert f"│ {kind} " in text
        told = [one.name for one in keys_of(each.parameter_model)]
        assert told == list(inspect.signature(each.factory).parameters)


def test_every_parameter_of_a_shipped_component_says_what_it_means():
    without = [
        f"{kind}.{one.name}"
        for kind, each in COMPONENTS.items()
        if each.factory.__module__.startswith("chemkl.")
        for one in keys_of(each.parameter_model)
        if not one.meaning
    ]
    assert without == []


def test_one_component_in_detail():
    text = shown(catalogue.rewards("external_program"))
    for said in (
        "unit    as answered",
        "range   -inf to inf",
        "source  a program of yours",
        "costly  asked last",
        "│ command   │ list of text │ required │",
        "│ timeout   │ number > 0   │ 60.0     │",
        '{"id": 7, "smiles": "CCO"}',
    ):
        assert said in text
    assert "takes no parameters" in shown(catalogue.rewards("qed"))


def test_types_and_defaults_in_words():
    def factory(
        needed: list[str], mode: Literal["a", "b"] = "a", flag: bool = True, most: int | None = None
    ) -> None:
        """Do something.

        Args:
            needed: the first
                of them.
            mode: which.

        Raises:
            InputError: never.
        """

    made = type(find_component("qed"))("demo", factory, "", (0, math.inf), "this test")
    assert keys_of(made.parameter_model) == [
        Key("needed", "list of text", "", "the first of them."),
        Key("mode", "a | b", "a", "which."),
        Key("flag", "true or false", "true", ""),
        Key("most", "whole number or null", "null", ""),
    ]


def test_every_transform_is_there():
    text = shown(catalogue.transforms())
    assert all(f"│ {kind} " in text for kind in TRANSFORMS)
    one = shown(catalogue.transforms("sigmoid"))
    assert "k: number > 0 = 0.25. Steepness" in one
    assert "double_sigmoid" not in one


def test_unknown_names_are_met_with_the_nearest():
    with pytest.raises(InputError, match="unknown component 'tanimto'; did you mean 'tanimoto'"):
        shown(catalogue.rewards("tanimto"))
    with pytest.raises(InputError, match="unknown transform 'sigmod'; did you mean 'sigmoid'"):
        shown(catalogue.transforms("sigmod"))
