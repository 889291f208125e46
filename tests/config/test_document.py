"""YAML as people write it: numbers, words, SMILES, and files that are not what they should be."""

import json
import math
import os
import re
from pathlib import Path

import pytest

from chemkl.config import InputError
from chemkl.config.loading import Document, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),  # text in YAML 1.1 (PyYAML's default): it wants a dot and a signed exponent
        ("5e4", 5e4),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("1.0e6", 1e6),
        ("10_000", 10000),
        ("010", 10),  # eight in YAML 1.1
        ("-7", -7),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("-.inf", -math.inf),
        (".nan", math.nan),
        *((text, "1") for text in ("!!str &a 1", "&a !!str 1", "!!str 1", "'1'", "&a '1'")),
    ],
)
def test_scalars_have_the_type_that_they_look_like_or_are_tagged_with(text, value):
    found = parse(text, "here").data
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    "text",
    [
        *("no", "yes", "on", "off", "No", "N", "n", "y", "O", "F"),
        *("1:30", "2024-01-31", "1e", "e5", "1.2.3", "0x1f", "0o7", "0b1", "._5", "+_1", "="),
        *("C#N", "c1ccccc1", "FC(F)F", "C[N+](C)C"),
    ],
)
def test_words_and_smiles_stay_text(text):
    assert parse(text, "here").data == text


LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 2, "while parsing a flow sequence"),
        ("a: 1\n\tb: 2\n", 2, "found character '\\t'"),
        ("a: *C\n", 1, "found undefined alias"),
        ("a: &x 1\nb: 2\nc: &x 3\n", 3, "found duplicate anchor 'x', first in line 1"),
        ("smarts: [#6]~[#7]\n", 1, "while parsing a flow node"),
        ("a: 1\n---\nb: 2\n", 2, "expected a single document"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "could not determine a constructor"),
        ("? [1]\n: 2\n", 1, "a key is a name or a number, not null, a list or a mapping"),
        ("a: 1\n? \n: 2\n", 2, "a key is a name or a number, not null, a list or a mapping"),
        ("a: 1\nb: x\x00y\n", 2, "character 0x0000 is not allowed"),
        ("", 1, "found nothing"),
        ("# only a comment\n", 1, "found nothing"),
        ("- a\n- b\n", 1, "found a list"),
        ("just words\n", 1, "found a str"),
        ("a: " + "[" * 5000, 1, "nested too deeply"),
        ("a: 1\nb: !!int x\n", 2, "'x' cannot be read"),
        ("a: !!bool maybe\n", 1, "'maybe' cannot be read"),
        ("a: 1\nb: !!binary aGVsbG8=\n", 2, "constructor for the tag '!!binary'"),
        ("a: !!set {x}\n", 1, "constructor for the tag '!!set'"),
        ("a: !!timestamp 2001-01-01\n", 1, "constructor for the tag '!!timestamp'"),
        ("a: !mine 1\n", 1, "the tag '!mine'; leave it out (text that begins"),
        ("a: 1\nb: " + "9" * 400, 2, "a whole number has at most 18 digits here"),
        ("a: -" + "9" * 5000, 1, "a whole number has at most 18 digits here"),
        ("a: 1\nb: 1e400\n", 2, "'1e400' cannot be read: a number goes up to 1.7e308"),
        ('a: "\\0"\n', 1, "without zero bytes"),
        ('a: "\\ud800"\n', 1, "surrogates not allowed"),
        ('a: 1\nb: "\\Uffffffff"\n', 2, "not valid YAML"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n", 3, "<< is no key here: write out what it would take"),
        ("a: &a\n  b: [*a]\n", 2, "an alias (*name) stands inside of what it repeats"),
        ("a: 1\nb: " + "[" * 51 + "]" * 51, 2, "nested too deeply: at most 50 levels"),
        (
            "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60)),
            50,
            "at most 50 levels",
        ),
        ("a: [" + "1," * 20_000 + "]", 1, "more than 20,000 values"),
        ("a: " + "x" * 100_000, None, "larger than 100,000 characters"),
        ("a: 1\n" + "é" * 300_000, None, "larger than 100,000 characters"),
        (LAUGHS, 6, "more than 20,000 values, with what aliases (*name) repeat"),
    ],
)
def test_a_file_that_is_not_a_config_is_one_error_with_its_line(tmp_path, content, line, problem):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=re.escape(problem)) as caught:
        Document.read(path)
    assert str(caught.value).startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("value", ["*C", "[#6", "@C", "!@C", "%10", "{a"])
def test_unquoted_smarts_are_told_to_be_quoted(value):
    with pytest.raises(InputError, match="must be quoted"):
        parse(f"smarts: {value}\n", "here")


def test_other_mistakes_say_nothing_of_quotes():
    with pytest.raises(InputError, match=r"not valid YAML: (?!.*quoted)"):
        parse("a: b: c\n", "here")


def test_the_encodings_of_windows_are_read_but_for_latin_1(tmp_path):
    path = tmp_path / "a.yaml"
    for encoding in ("utf-16", "utf-8-sig"):
        path.write_bytes("a: Ångström\r\nb: 2\r\n".encode(encoding))
        assert Document.read(path).data == {"a": "Ångström", "b": 2}
    path.write_bytes("a: 1\nb: Ångström\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.yaml:2: not UTF-8 text \(byte 0xc5\)"):
        Document.read(path)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("HERE/plane.yaml", "did you mean 'HERE/plain.yaml'?"),
        ("HERE/plain", "did you mean 'HERE/plain.yaml'?"),
        ("nofile.yaml", "looked in HERE"),
        ("configs/my_reward.yaml", "there is no folder HERE/configs"),
    ],
)
def test_a_missing_file_names_the_near_one_or_where_it_was_looked_for(
    tmp_path, monkeypatch, path, says
):
    monkeypatch.chdir(tmp_path)
    for name in ("plain.yaml", "rest.yml", "my_reward.yaml"):
        Path(name).write_text("a: 1")
    path, says = (text.replace("HERE", str(tmp_path)) for text in (path, says))
    with pytest.raises(InputError) as caught:
        Document.read(path)
    assert str(caught.value) == f"{path}: no such file; {says}"


PIPE = "a device, pipe or socket; settings are read from a"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        *((place, PIPE) for place in ("pipe.yaml", "/dev/zero", "/dev/null")),
        (".", "cannot be read: Is a directory"),
        ("a\0.yaml", "cannot be read: embedded null byte"),
        ("a" * 5000, "cannot be read: File name too long"),
    ],
)
def test_what_is_no_file_of_settings_is_refused_and_not_waited_for(
    tmp_path, monkeypatch, place, says
):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.yaml")
    with pytest.raises(InputError, match=says):
        Document.read(place)


def test_json_is_yaml():
    data = {"a": [1, 2.5, {"b": None}], "c": "text", "d": True}
    assert parse(json.dumps(data, indent=2), "here").data == data


def test_the_longest_settings_are_read(tmp_path):
    path = tmp_path / "long.yaml"
    path.write_text("a: " + "é" * 99_997)
    assert Document.read(path).data == {"a": "é" * 99_997}


def test_other_types_are_refused():
    with pytest.raises(InputError, match="expected a mapping or the path of a YAML file, got int"):
        Document.of(3, "reward")


def test_lines_of_nested_keys(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# head\na: 1\nb:\n  c:\n    - x: 1\n    - y: 2\n      z: 3\n")
    document = Document.read(path)
    assert document.nearest(("a",))[1] == 2
    assert document.nearest(("b", "c", 1))[1] == 6
    assert document.nearest(("b", "c", 1, "z"))[1] == 7
    assert document.nearest(("b", "c", 1, "missing"))[1] == 6  # where it ought to be
    assert document.nearest(("missing",))[1] == 2  # the mapping begins there
    inner = document.at(("b", "c", 1), {"y": 2, "z": 3})
    assert inner.where(("z",)) == f"{path}:7"
    assert Document.of({"a": 1}, "reward").where(("a",)) == "reward"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.toml", "run_type = 'staged_learning'\n", "a TOML file, not a YAML config"),
        ("run.yaml", "[parameters]\nprior_file = 'x'\n", "a TOML file, not a YAML config"),
        ("a.toml", "", "a TOML file, not a YAML config. A config of REINVENT4 becomes one with: "),
        (
            "run.yaml",
            "run_type: scoring\nparameters: {}\n",
            "run.yaml: a config of another program",
        ),
        ("run.json", '{"version": 3, "run_type": "x"}', "a JSON file, not a YAML config"),
        ("list.yaml", "[1]\n", "the file should hold settings, one 'key: value' a line"),
        ("run.json", '{"a": 1,,}', ":1: JSON, and no YAML config: write YAML"),
    ],
)
def test_other_formats_are_told_in_one_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Document.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("second", ["1", "1.0", "'1'"])
def test_a_key_is_the_same_however_it_is_spelled(second):
    repeated = parse(f"1: a\n{second}: b\n", "here").repeated
    assert [(line, first) for _, line, first in repeated] == [(2, 1)]


def test_repeated_keys_are_found_at_every_depth_and_aliases_cost_nothing():
    # three levels of nine references each: 9^3 paths, but four nodes
    levels = ["a0: &a0 {k: 1, k: 2}"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 4)]
    assert parse("\n".join(levels), "here").repeated == [(("a0", "k"), 1, 1)]
