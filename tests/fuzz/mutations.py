"""Changed input: SMILES, configs and files that are nearly right, the same ones for a seed."""

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

SMILES = [
    "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1",
    "CC(C)(C)NC[C@H](O)c1ccc(O)c(CO)c1",
    "O=C(N[C@@H](Cc1ccccc1)C(=O)O)/C=C/c1ccc2nc[nH]c2c1",
    "C[N+](C)(C)CC([O-])=O.[Na+].[Cl-]",
    "CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O",
    "OC[C@H]1O[C@@H](n2cnc3c(N)ncnc32)[C@H](O)[C@@H]1O",
    "C1CC2CCC1(C2)N=[N+]=[N-]",
    "[2H]C([2H])([2H])Oc1ccc2[nH]cc(CCN)c2c1",
    "c1ccc2c(c1)[nH]c1ccccc12",
    "O=c1[nH]c(=O)c2[nH]cnc2[nH]1",
    "CC1=CC2=C(C=C1)N=C(C)N2C",
    "Cc1ccc2nc(C)=n(C)c12",
    "C12C3C4C1C5C2C3C45",
    "*c1ccc(*)cc1",
    "CN1CCC[C@H]1c1cccnc1",
    "[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1",
    "F[P-](F)(F)(F)(F)F.CCn1cc[n+](C)c1",
    "CC(=O)OB(O)c1ccc([Si](C)(C)C)s1",
    "C[S@@](=O)c1ccccc1",
    "FC(F)(Cl)C(Br)I",
]
"""Molecules with what SMILES have to offer: stereo, charges, isotopes, cages, metals, dummies."""

PIECES = [
    *"()[]=#$:/\\.%@+-*~>|{}<&!;,?^ \t\n\0é\ud800",
    *"CNOPSFIBcnops0123456789H",
    *("[#119]", "[#6]", "[999C]", "[65536C]", "[C+300]", "[C-15]", "[CH9]", "[Xx]", "[U]", "[Og]"),
    *("[C@@H]", "[C@SP1]", "[C@OH99]", "[nH]", "[n+]", "[o+]", "[se]", "[te]", "[si]", "[b-]"),
    *("[*:999999999999]", "[$(CC)]", "[R]", "[C,N]", "[H]", "[2H]", "[HH]", "[]", "[C", "->", "<-"),
    *("%99", "%(123)", "%(99999999)", ">>", "|$x$|", "=n(C)", "=C1", "c1ccccc1", "N(C)(C)(C)C"),
]
"""What is put into a SMILES: every character of the language, and words that parsers trip over."""


def mutated_smiles(rng: random.Random, seeds: Sequence[str] = SMILES) -> str:
    """Change a molecule by one to six edits: pieces put in, cut, doubled, exchanged, joined."""
    text = rng.choice(seeds)
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        text = _edited(text, rng, rng.choice(PIECES), rng.choice(seeds))
    return text


def _edited(text: str, rng: random.Random, piece: str, other: str) -> str:
    """Make one edit at a random place."""
    a, b = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    kind = rng.randrange(7)
    if kind == 0:
        return text[:a] + text[min(b, a + 3) :]
    if kind == 1:
        return text[:a] + piece + text[a:]
    if kind == 2:
        return text[:a] + piece + text[a + 1 :]
    if kind == 3:
        return text[:a] + text[a:b] * rng.choice([2, 2, 3, 40]) + text[b:]
    if kind == 4:
        return text[:a] + other[rng.randint(0, len(other)) :]
    if kind == 5:
        return text[:a] + text[b:] + text[a:b]
    return text[:a].swapcase() + text[a:]


VALUES = [
    *("null", "true", "''", "[]", "{}", "-1", "0", "1e400", ".nan", ".inf", "9" * 400, "x" * 5000),
    *("[1, [2, {a: 3}]]", "{kind: x}", "!!binary aGk=", "!x 1", "*a", "&a [*a]", "2024-01-31"),
    *(
        "/dev/zero",
        "/",
        "nowhere.yaml",
        "'\\0'",
        '"\\0"',
        '"\\ud800"',
        "[*]",
        "${x}",
        "é",
        "~nobody",
    ),
    *(
        "|\n  text",
        "[" * 40 + "]" * 40,
        "{{{}: 1}: 2}",
        "99999999999999999999",
        "-0.0",
        "1_000",
        "%",
    ),
]
"""Values of every type, and of none, that stand where something else is wanted."""


CHARACTERS = "\t\0 :-[]{}&*!|>'\"%@`#,?é\x85\ufeff\ud800"
"""Characters that mean something in YAML, or must not stand there."""


def mutated_config(rng: random.Random, text: str) -> str:
    """Change the text of a config by one to three edits: characters, lines, keys and values."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        line = lines[at]
        kind = rng.randrange(8)
        if kind == 0:
            cut = rng.randint(0, len(line))
            lines[at] = line[:cut] + rng.choice(CHARACTERS) + line[cut:]
        elif kind == 1:
            lines[at] = " " * rng.choice([1, 2, 4, 60]) + line
        elif kind == 2:
            lines[at] = line.lstrip(" ")
        elif kind == 3:
            lines.insert(rng.randint(0, len(lines)), line)
        elif kind == 4:
            del lines[at]
        elif kind == 5:
            lines[at] = re.sub(r"(: *)[^ ].*", lambda m: m[1] + rng.choice(VALUES), line)
        elif kind == 6:
            lines[at] = re.sub(r"\w+:", rng.choice(["kind:", "1:", "null:", "[a]:", "<<:"]), line)
        else:
            text = _nested_elsewhere(rng, text)
            continue
        text = "\n".join(lines)
    return text


def _nested_elsewhere(rng: random.Random, text: str) -> str:
    """Exchange one value of the data for another part of it, or for one of the wrong type."""
    try:
        data = yaml.safe_load(text)
        places = list(_places(data))
    except (yaml.YAMLError, ValueError, LookupError, OverflowError, RecursionError, TypeError):
        return text  # changed before so that it cannot be read, or holds itself
    if not places:
        return text
    holder, key = rng.choice(places)
    other, other_key = rng.choice(places)
    holder[key] = rng.choice(
        [other[other_key], None, 0, -1, 1.5, "x", [], {}, [None], {"": 1}, True]
    )
    try:
        return yaml.safe_dump(data, sort_keys=False)
    except RecursionError:
        return text


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of the data that can be given another value."""
    if isinstance(data, dict):
        pairs = list(data.items())
    else:
        pairs = list(enumerate(data)) if isinstance(data, list) else []
    for key, value in pairs:
        yield data, key
        yield from _places(value)


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """Change a file by one to eight edits: bits turned, bytes cut out, put in, doubled, zeroed."""
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        a = rng.randint(0, max(0, len(data) - 1))
        b = min(len(data), a + rng.choice([1, 1, 2, 8, 64, 1024]))
        kind = rng.randrange(6)
        if kind == 0:
            data = (
                data[:a] + bytes([data[a] ^ 1 << rng.randrange(8)] if data else []) + data[a + 1 :]
            )
        elif kind == 1:
            data = data[:a] + data[b:]
        elif kind == 2:
            data = data[:a] + rng.randbytes(b - a) + data[a:]
        elif kind == 3:
            data = data[:b] + data[a:b] + data[b:]
        elif kind == 4:
            data = data[:a] + bytes(b - a) + data[b:]
        else:
            data = data[:a]
    return data
