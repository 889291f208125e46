"""YAML as people write it: numbers, words, SMILES, and files that are not configs."""

import json
import math
import os
import re
from pathlib import Path

import pytest

from chemkl.config import InputError
from chemkl.config.loading import Document, parse

NESTED = {"a": [1, 2.5, {"b": None}], "c": "text", "d": True}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),  # text in YAML 1.1 (PyYAML's default): it wants a dot and a signed exponent
        *(("5e4", 5e4), ("-2.5E+3", -2500.0), (".5", 0.5), ("3.", 3.0), ("1.0e6", 1e6)),
        *(("10_000", 10000), ("-7", -7), ("true", True), ("False", False), ("null", None)),
        *(("~", None), ("-.inf", -math.inf), (".nan", math.nan)),
        ("010", 10),  # eight in YAML 1.1
        *((text, "1") for text in ("!!str &a 1", "&a !!str 1", "!!str 1", "'1'", "&a '1'")),
        (json.dumps(NESTED, indent=2), NESTED),
    ],
)
def test_values_have_the_type_that_they_look_like_or_are_tagged_with(text, value):
    assert repr(parse(text, "name").data) == repr(value)


@pytest.mark.parametrize(
    "text",
    [
        *("no", "yes", "on", "off", "No", "N", "n", "y", "O", "F"),
        *("1:30", "2024-01-31", "1e", "e5", "1.2.3", "0x1f", "0o7", "0b1", "._5", "+_1", "="),
        *("C#N", "c1ccccc1", "FC(F)F", "C[N+](C)C"),
    ],
)
def test_words_and_smiles_stay_text(text):
    assert parse(text, "name").data == text


LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
LEVELS = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 2, "while parsing a flow sequence"),
        ("a: 1\n\tb: 2\n", 2, "found character '\\t'"),
        ("a: *C\n", 1, "found undefined alias"),
        ("a: &x 1\nb: 2\nc: &x 3\n", 3, "found duplicate anchor 'x', first in line 1"),
        ("smarts: [#6]~[#7]\n", 1, "while parsing a flow node"),
        ("a: 1\n---\nb: 2\n", 2, "expected a single document"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "unknown tag '!!python/object"),
        ("? [1]\n: 2\n", 1, "a key must be a name or a number, not null, a list or a mapping"),
        ("a: 1\n? \n: 2\n", 2, "a key must be a name or a number"),
        ("a: 1\nb: x\x00y\n", 2, "character 0x0000 is not allowed"),
        ("", 1, "expected settings, one 'key: value' a line; found nothing"),
        ("# only a comment\n", 1, "found nothing"),
        ("- a\n- b\n", 1, "found a list"),
        ("[1]\n", 1, "expected settings, one 'key: value' a line"),
        ("just words\n", 1, "found a str"),
        ("a: " + "[" * 5000, 1, "nested too deeply"),
        ("a: 1\nb: !!int x\n", 2, "'x' cannot be read"),
        ("a: !!bool maybe\n", 1, "'maybe' cannot be read"),
        ("a: 1\nb: !!binary aGVsbG8=\n", 2, "unknown tag '!!binary'"),
        ("a: !!set {x}\n", 1, "unknown tag '!!set'"),
        ("a: !!timestamp 2001-01-01\n", 1, "unknown tag '!!timestamp'"),
        ("a: !mine 1\n", 1, "unknown tag '!mine'; leave it out (text that begins"),
        ("a: 1\nb: " + "9" * 400, 2, "a whole number may have at most 18 digits"),
        ("a: -" + "9" * 5000, 1, "a whole number may have at most 18 digits"),
        ("a: 1\nb: 1e400\n", 2, "'1e400' cannot be read: numbers go up to 1.7e308"),
        ('a: "\\0"\n', 1, "must not contain zero bytes"),
        ('a: "\\ud800"\n', 1, "surrogates not allowed"),
        ('a: 1\nb: "\\Uffffffff"\n', 2, "not valid YAML"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n", 3, "merge keys (<<) are not supported: write"),
        ("a: &a\n  b: [*a]\n", 2, "an alias (*name) stands inside the value that it repeats"),
        ("a: 1\nb: " + "[" * 51 + "]" * 51, 2, "nested too deeply: at most 50 levels"),
        (LEVELS, 50, "at most 50 levels"),
        ("a: [" + "1," * 20_000 + "]", 1, "more than 20,000 values"),
        ("a: " + "x" * 100_000, None, "larger than 100,000 characters"),
        ("a: 1\n" + "é" * 300_000, None, "larger than 100,000 characters"),
        (LAUGHS, 6, "more than 20,000 values, counting those that aliases (*name) repeat"),
        ("{rows: 3\n", 1, "not valid YAML: while parsing a flow mapping"),
        ('{"a": 1,,}', 1, "not valid JSON: while parsing a flow node"),
    ],
)
def test_invalid_yaml_is_one_error_with_its_line(tmp_path, content, line, problem):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=re.escape(problem)) as caught:
        Document.read(path)
    assert str(caught.value).startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("value", ["*C", "[#6", "@C", "!@C", "%10", "{a", "b: c"])
def test_unquoted_smarts_and_nothing_else_should_be_quoted(value):
    with pytest.raises(InputError) as caught:
        parse(f"smarts: {value}\n", "name")
    assert ("must be quoted" in str(caught.value)) == (value != "b: c")


def test_utf16_and_a_byte_order_mark_are_read_and_latin1_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    for encoding in ("utf-16", "utf-8-sig"):
        path.write_bytes("a: Ångström\r\nb: 2\r\n".encode(encoding))
        assert Document.read(path).data == {"a": "Ångström", "b": 2}
    path.write_bytes("a: 1\nb: Ångström\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.yaml:2: not UTF-8 text \(byte 0xc5\)"):
        Document.read(path)
    path.write_text("a: " + "é" * 99_997)  # the longest that is allowed
    assert Document.read(path).data == {"a": "é" * 99_997}


PIPE = "a device, pipe or socket; settings are read from a regular file of at most 100,000 char"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("HERE/plane.yaml", "no such file; did you mean 'HERE/plain.yaml'?"),
        ("HERE/plain", "no such file; did you mean 'HERE/plain.yaml'?"),
        ("nofile.yaml", "no such file; looked in HERE"),
        ("configs/my_reward.yaml", "no such file; there is no folder HERE/configs"),
        *((path, PIPE) for path in ("pipe.yaml", "/dev/zero", "/dev/null")),  # does not wait
        (".", "cannot be read: Is a directory"),
        ("a\0.yaml", "cannot be read: embedded null byte"),
        ("a" * 5000, "cannot be read: File name too long"),
    ],
)
def test_a_path_that_is_no_file_of_settings_is_refused(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.yaml")
    for name in ("plain.yaml", "rest.yml", "my_reward.yaml"):
        Path(name).write_text("a: 1")
    path, message = (text.replace("HERE", str(tmp_path)) for text in (path, message))
    with pytest.raises(InputError) as caught:
        Document.read(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_other_types_are_refused():
    with pytest.raises(InputError, match="expected a mapping or the path of a YAML file, got int"):
        Document.of(3, "reward")


def test_lines_of_nested_keys(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# head\na: 1\nb:\n  c:\n    - x: 1\n    - y: 2\n      z: 3\n")
    document = Document.read(path)
    for keys, line in [
        (("a",), 2),
        (("b", "c", 1), 6),
        (("b", "c", 1, "z"), 7),
        (("b", "c", 1, "missing"), 6),  # the line of the mapping
        (("missing",), 2),
    ]:
        assert document.nearest(keys)[1] == line
    assert document.at(("b", "c", 1), {"y": 2, "z": 3}).where(("z",)) == f"{path}:7"
    assert Document.of({"a": 1}, "reward").where(("a",)) == "reward"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.toml", "run_type = 'staged_learning'\n", "a TOML file, not a YAML config"),
        ("run.yaml", "[parameters]\nprior_file = 'x'\n", "a TOML file, not a YAML config"),
        ("a.toml", "", "a TOML file, not a YAML config. Convert a config of REINVENT4 with: "),
        ("run.yaml", "run_type: scoring\nparameters: {}\n", "run.yaml: a config of REINVENT4; "),
        ("run.json", '{"version": 3, "run_type": "x"}', "a JSON file, not a YAML config"),
    ],
)
def test_other_formats_are_named_in_one_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Document.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        *(
            (f"1: a\n{second}: b\n", [((second.strip("'"),), 2, 1)])
            for second in ("1", "1.0", "'1'")
        ),
        # three levels of nine references each: 9^3 paths, but four nodes
        (
            "a0: &a0 {k: 1, k: 2}\n"
            + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 4)),
            [(("a0", "k"), 1, 1)],
        ),
    ],
)
def test_repeated_keys_are_found_once_in_any_spelling_and_at_any_depth(text, repeated):
    assert parse(text, "name").repeated == repeated
