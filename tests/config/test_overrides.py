"""key=value on the command line."""

import pytest
from pydantic import BaseModel

from chemkl.config import InputError, load_config
from chemkl.config.loading import Override


class Anything(BaseModel, extra="allow"):
    """A config of any keys."""


def changed(data, *texts):
    return load_config(Anything, data, texts).model_dump()


@pytest.mark.parametrize(
    ("text", "keys", "value"),
    [
        ("seed=1", ("seed",), 1),
        ("target.beta=1e-4", ("target", "beta"), 1e-4),
        ("estimator=rloo", ("estimator",), "rloo"),
        ("thresholds=[0.8, 0.85]", ("thresholds",), [0.8, 0.85]),
        ("filter={kind: murcko}", ("filter",), {"kind": "murcko"}),
        ("reward.components.0.weight=2", ("reward", "components", 0, "weight"), 2),
        ("a=null", ("a",), None),
        ("a=''", ("a",), ""),
        ("smiles=C=C", ("smiles",), "C=C"),  # only the first equals sign divides
        ("smiles=C#N", ("smiles",), "C#N"),
    ],
)
def test_keys_and_values(text, keys, value):
    override = Override.parse(text)
    assert (override.keys, override.value) == (keys, value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed", "override 'seed': expected key=value"),
        ("seed=", "no value after '='"),
        ("smarts=#6", "no value after '='.*in quotes"),
        ("=1", "'' is not a key"),
        ("a..b=1", r"'a\.\.b' is not a key"),
        ("a=[1", "override 'a=\\[1'.*not valid YAML"),
        ("a=!!binary aGVsbG8=", "override 'a=.*the tag '!!binary'; leave it out"),
        ("a=&a [*a]", "stands inside of what it repeats"),
        ("a=" + "9" * 400, "a whole number has at most 18 digits"),
        ("a=1e400", "a number goes up to 1.7e308"),
        ("a=" + "[" * 60 + "]" * 60, "nested too deeply"),
        ("a=" + "x" * 1_000_000, "larger than 100,000 characters"),
        ("a=\udc80", "character 0xdc80 is not allowed"),
        ("a" + ".a" * 5000 + "=1", "is not a key; expected names joined by dots, at most 50"),
    ],
)
def test_what_is_not_an_override_is_refused(text, problem):
    with pytest.raises(InputError, match=problem) as caught:
        Override.parse(text)
    assert len(str(caught.value)) < 500


def test_a_key_of_many_digits_is_a_name_not_a_position():
    assert Override.parse("a." + "9" * 5000 + "=1").keys == ("a", "9" * 5000)


def test_the_data_given_stays_as_it_is():
    shared = {"weight": 1}
    data = {"parts": [shared, shared]}  # what an alias in YAML gives
    assert changed(data, "parts.0.weight=2") == {"parts": [{"weight": 2}, {"weight": 1}]}
    assert data == {"parts": [{"weight": 1}, {"weight": 1}]}


def test_sections_that_are_not_there_are_made_and_the_last_word_counts():
    assert changed({"a": None}, "a.b.c=1", "a.b.c=2", "d=3") == {"a": {"b": {"c": 2}}, "d": 3}


def test_a_number_is_a_key_where_there_is_no_list():
    assert changed({"by_size": {"10": 1}}, "by_size.10=2") == {"by_size": {"10": 2}}
    assert changed({"by_size": {10: 1}}, "by_size.10=2") == {"by_size": {10: 2}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("parts.2=x", r"parts is a list of 2; 2 is not one of its positions 0 to 1"),
        ("parts.first=x", r"parts is a list of 2; 'first' is not one of its positions"),
        ("seed.more=1", r"seed is 5, which has no keys inside it\.$"),
        (
            "estimator.top_k=0.3",
            r"is 'ahc', which has no keys inside it; with keys write estimator='\{kind: ahc, top_k",
        ),
        ("prior.x=1", r"prior is 'a\.prior', which has no keys inside it\.$"),
    ],
)
def test_an_override_without_a_place_says_what_is_there(text, problem):
    data = {"parts": [1, 2], "seed": 5, "estimator": "ahc", "prior": "a.prior"}
    before = dict(data)
    with pytest.raises(InputError, match=problem):
        changed(data, text)
    assert data == before
