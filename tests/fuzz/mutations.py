"""Mutated input: SMILES, configs and files that are almost valid, reproducible by seed."""

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

_SMILES = """
    Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1 CC(C)(C)NC[C@H](O)c1ccc(O)c(CO)c1
    O=C(N[C@@H](Cc1ccccc1)C(=O)O)/C=C/c1ccc2nc[nH]c2c1 C[N+](C)(C)CC([O-])=O.[Na+].[Cl-]
    CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O
    OC[C@H]1O[C@@H](n2cnc3c(N)ncnc32)[C@H](O)[C@@H]1O C1CC2CCC1(C2)N=[N+]=[N-]
    [2H]C([2H])([2H])Oc1ccc2[nH]cc(CCN)c2c1 c1ccc2c(c1)[nH]c1ccccc12 O=c1[nH]c(=O)c2[nH]cnc2[nH]1
    CC1=CC2=C(C=C1)N=C(C)N2C Cc1ccc2nc(C)=n(C)c12 C12C3C4C1C5C2C3C45 *c1ccc(*)cc1
    CN1CCC[C@H]1c1cccnc1 [Fe+2].c1cc[cH-]c1.c1cc[cH-]c1 F[P-](F)(F)(F)(F)F.CCn1cc[n+](C)c1
    CC(=O)OB(O)c1ccc([Si](C)(C)C)s1 C[S@@](=O)c1ccccc1 FC(F)(Cl)C(Br)I
"""
SMILES = _SMILES.split()
"""Molecules with all features of SMILES: stereo, charges, isotopes, cages, metals, dummies."""

PIECES = [
    *"()[]=#$:/\\.%@+-*~>|{}<&!;,?^ \t\n\0é\ud800",
    *"CNOPSFIBcnops0123456789H",
    *("[#119]", "[#6]", "[999C]", "[65536C]", "[C+300]", "[C-15]", "[CH9]", "[Xx]", "[U]", "[Og]"),
    *("[C@@H]", "[C@SP1]", "[C@OH99]", "[nH]", "[n+]", "[o+]", "[se]", "[te]", "[si]", "[b-]"),
    *("[*:999999999999]", "[$(CC)]", "[R]", "[C,N]", "[H]", "[2H]", "[HH]", "[]", "[C", "->", "<-"),
    *("%99", "%(123)", "%(99999999)", ">>", "|$x$|", "=n(C)", "=C1", "c1ccccc1", "N(C)(C)(C)C"),
]
"""Insertions into a SMILES: every character of the language, and difficult tokens."""


def mutated_smiles(rng: random.Random, seeds: Sequence[str] = SMILES) -> str:
    """Change a molecule by one to six edits: pieces inserted, cut, doubled, exchanged, joined."""
    text = rng.choice(seeds)
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        text = _edited(text, rng, rng.choice(PIECES), rng.choice(seeds))
    return text


def _edited(text: str, rng: random.Random, piece: str, other: str) -> str:
    """Make one edit at a random place."""
    a, b = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    edits = (
        lambda: text[:a] + text[min(b, a + 3) :],
        lambda: text[:a] + piece + text[a:],
        lambda: text[:a] + piece + text[a + 1 :],
        lambda: text[:a] + text[a:b] * rng.choice([2, 2, 3, 40]) + text[b:],
        lambda: text[:a] + other[rng.randint(0, len(other)) :],
        lambda: text[:a] + text[b:] + text[a:b],
        lambda: text[:a].swapcase() + text[a:],
    )
    return edits[rng.randrange(7)]()


VALUES = [
    *("null", "true", "''", "[]", "{}", "-1", "0", "1e400", ".nan", ".inf", "9" * 400, "x" * 5000),
    *("[1, [2, {a: 3}]]", "{kind: x}", "!!binary aGk=", "!x 1", "*a", "&a [*a]", "2024-01-31"),
    *("/dev/zero", "/", "nowhere.yaml", "'\\0'", '"\\0"', '"\\ud800"', "[*]", "${x}", "é"),
    *("~nobody", "|\n  text", "[" * 40 + "]" * 40, "{{{}: 1}: 2}", "99999999999999999999"),
    *("-0.0", "1_000", "%"),
]
"""Values of every type, and of none, in places of values of another type."""

CHARACTERS = "\t\0 :-[]{}&*!|>'\"%@`#,?é\x85\ufeff\ud800"
"""Characters with a meaning in YAML, and forbidden ones."""


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
    """Replace a value of the data by another part of it, or by one of the wrong type."""
    try:
        data = yaml.safe_load(text)
        places = list(_places(data))
    except (yaml.YAMLError, ValueError, LookupError, OverflowError, RecursionError, TypeError):
        return text  # an earlier edit made it unreadable or recursive
    if not places:
        return text
    (holder, key), (other, other_key) = rng.choice(places), rng.choice(places)
    wrong = [None, 0, -1, 1.5, "x", [], {}, [None], {"": 1}, True]
    holder[key] = rng.choice([other[other_key], *wrong])
    try:
        return yaml.safe_dump(data, sort_keys=False)
    except RecursionError:
        return text


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield container and key of every value in the data."""
    keys = list(data) if isinstance(data, dict) else []
    for key in range(len(data)) if isinstance(data, list) else keys:
        yield data, key
        yield from _places(data[key])


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """Change a file by one to eight edits: bits flipped, bytes cut, inserted, doubled, zeroed."""
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        data = _edited_bytes(data, rng)
    return data


def _edited_bytes(data: bytes, rng: random.Random) -> bytes:
    a = rng.randint(0, max(0, len(data) - 1))
    b = min(len(data), a + rng.choice([1, 1, 2, 8, 64, 1024]))
    edits = (
        lambda: (
            data[:a] + bytes(x ^ 1 << rng.randrange(8) for x in data[a : a + 1]) + data[a + 1 :]
        ),
        lambda: data[:a] + data[b:],
        lambda: data[:a] + rng.randbytes(b - a) + data[a:],
        lambda: data[:b] + data[a:b] + data[b:],
        lambda: data[:a] + bytes(b - a) + data[b:],
        lambda: data[:a],
    )
    return edits[rng.randrange(6)]()
