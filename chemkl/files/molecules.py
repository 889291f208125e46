"""Files of molecules, line by line: SMILES in text, tables and Parquet, and SD files.

One set of rules for every stage and every setting that names such a file:

1. Compressed files (.gz, .bz2, .xz, .zst) are unpacked, `-` is standard input, and a file whose
   name does not say what it is is read by its content.
2. In a table the SMILES stand in the column that is called so, or that is given by name or, from 0,
   by number. A table without a header is recognised by its first line being a molecule.
3. The first word of a cell is the SMILES, a CXSMILES extension behind it is dropped, and the rest
   is a name, in a table as in a .smi file.
4. What cannot be read costs its own line, which then has a reason in place of a SMILES.

What is taken for granted about a file beyond its name is said in one line on the error output.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import pyarrow as pa
from rdkit import Chem

from chemkl.chem.molecules import DEFAULT_MAX_ATOMS, one_line, parse, silenced
from chemkl.config import InputError
from chemkl.config.base import say_once
from chemkl.files.streams import unpacked
from chemkl.files.tables import (
    BLANKS,
    TABLES,
    Row,
    Rules,
    Table,
    find_column,
    open_table,
    text_table,
)

SMILES_NAMES = ("smiles", "canonical_smiles", "isomeric_smiles", "smiles_string", "cxsmiles")
"""What a column of SMILES is called, the first of these that there is; case does not matter, nor
whether the words are joined by blanks or hyphens."""

NAME_NAMES = ("name", "_name", "title", "id", "molecule_name", "compound_name", "mol_id",
    "molecule_id", "compound_id", "chembl_id", "molecule_chembl_id", "zinc_id", "cid")  # fmt: skip
"""What a column of names is called, likewise."""

HEADER_WORDS = {*SMILES_NAMES, *NAME_NAMES, "mol", "molecule", "structure", "compound", "smi",
    "split", "reward", "score", "value", "activity", "label", "index"}  # fmt: skip
"""Words of a header: none of them is a molecule or a name of one."""

_PROPERTY = re.compile(r"^>.*<(.+)>.*\n?", re.MULTILINE)
"""Begins a value in a record of an SD file: `> 25 <MELTING.POINT>`."""

NO_CELL = "missing: the line has no such column"
NULL = "missing: the cell is null"

ENDINGS = {
    **dict.fromkeys((".smi", ".smiles", ".txt"), BLANKS),
    **TABLES,
    **dict.fromkeys((".sdf", ".sd", ".mol"), "sdf"),
}
"""How the rows of a file are told apart, by its ending; all but Parquet may be compressed."""


class Line(NamedTuple):
    """One SMILES as it stands in its file.

    Attributes:
        number: 1-based line of the file (row of a Parquet file, record of an SD file).
        smiles: the text, empty for an empty line or cell; None where the line has no such cell.
        split: the split that the source gives it.
        name: what the file calls the molecule; None where it has no name.
        values: cells of the columns that are kept, by name; None where a cell is missing.
        reason: why there is no SMILES; None where there is one.
    """

    number: int
    smiles: str | None
    split: str = "train"
    name: str | None = None
    values: Mapping[str, Any] = {}
    reason: str | None = None


@dataclass(frozen=True)
class _Layout:
    """Where in a row things stand: numbers of cells, or names where cells have these.

    Attributes:
        smiles: the cell with the SMILES; None in an SD file, where it is the record itself.
        name: the cell with the name; None where it can only stand behind the SMILES.
        kept: cells that are handed on, by the name that they get.
        header: whether the first row is one.
        types: of what is kept.
        columns: the names of all columns.
    """

    smiles: int | str | None
    name: int | str | None = None
    kept: Mapping[str, int | str] = field(default_factory=dict)
    header: bool = False
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    columns: Sequence[str] = ()


class MoleculeFile:
    """A file of molecules: iterating reads it anew, line by line.

    Args:
        path: the file; - is standard input.
        column: where the SMILES stand, by name or by number from 0; None: in the column that is
            called so (`SMILES_NAMES`), or in the only one there is, or in a file without a header
            in the one that holds molecules.
        keep: further columns that are handed on: their names, or True for all.

    Attributes:
        path: the file.
        columns: the names of its columns; of JSON lines and SD files those in the first rows.
        types: type of each column that is kept, in order; text where the file has no types.
        has_names: whether the file gives names to molecules, as far as its first lines show.

    Raises:
        InputError: the file cannot be read, or there is no such column; while it is read, also a
            file without lines and one that is damaged.
    """

    def __init__(
        self,
        path: Path,
        column: str | int | None = None,
        keep: Literal[True] | Sequence[str] = (),
    ) -> None:
        self.path = path
        self._column = column
        with self._opened() as table:
            self._layout = _layout(table, column, keep)
            first = table.sample[self._layout.header :]
            named = any(_line(table, self._layout, row).name for row in first)
        self.columns = tuple(self._layout.columns)
        self.types = dict(self._layout.types)
        self.has_names = named or self._layout.name is not None

    def __iter__(self) -> Iterator[Line]:
        """Yield the lines in order."""
        with self._opened() as table:
            yield from _lines(table, self._layout)

    def _opened(self) -> Any:
        return open_table(self.path, _rules(self._column))


def read_molecules(path: Path, column: str | int | None = None) -> Iterator[Line]:
    """Yield the lines of a file, see `MoleculeFile`.

    Raises:
        InputError: see `MoleculeFile`.
    """
    yield from MoleculeFile(path, column)


def read_member(stream: IO[bytes], name: str, column: str | int, split: str) -> Iterator[Line]:
    """Yield the lines of an open text file of a known layout.

    Args:
        stream: the file, at its beginning.
        name: its name, which says how it is compressed.
        column: where the SMILES stand.
        split: the split that its molecules belong to.

    Raises:
        InputError: no such column, or a damaged file.
    """
    with unpacked(stream, name, name) as source:
        table = text_table(source, _rules(column))
        for line in _lines(table, _layout(table, column, ())):
            yield line._replace(split=split)


def divided(cell: str) -> tuple[str, str | None]:
    """Divide a cell into a SMILES and what it is called: the words behind it.

    A CXSMILES extension (`CCO |$;;R1$|`) is dropped, and quotes around the SMILES, which are none
    of its characters.
    """
    words = cell.split(None, 1) or [""]
    smiles, rest = words[0], "".join(words[1:])
    if smiles.startswith('"'):
        smiles, rest = smiles.strip('"'), rest.strip(' "')
    if rest.startswith("|") and "|" in rest[1:]:
        rest = rest[rest.index("|", 1) + 1 :]
    return smiles, rest.strip() or None


# ---- rows to lines


def _lines(table: Table, layout: _Layout) -> Iterator[Line]:
    cells = [layout.smiles, layout.name, *layout.kept.values()]
    rows = table.read(list(dict.fromkeys(str(each) for each in cells if each is not None)))
    number = None
    if layout.header:
        next(rows, None)
    for row in rows:
        number = row.number
        yield _line(table, layout, row)
    if number is None:
        raise InputError(_empty(table))


def _empty(table: Table) -> str:
    return f"{table.place}: the file is empty; expected a line for each molecule"


def _line(table: Table, layout: _Layout, row: Row) -> Line:
    if row.reason is not None:
        return Line(row.number, None, reason=row.reason)
    number, cells = row.number, row.cells
    reason = name = None
    if table.form == "sdf":
        name = cells.partition("\n")[0].strip() or None
        block, cells = cells, _properties(cells)
        if layout.smiles is None:
            cell, reason = _molecule(block)
        else:
            cell = _cell(cells, layout.smiles)
    elif isinstance(layout.smiles, int) and table.form == BLANKS:
        at = layout.smiles
        cell = " ".join(cells[at:]) if at < len(cells) or not cells else None
    else:
        cell = _cell(cells, layout.smiles)
    values = {each: _cell(cells, key) for each, key in layout.kept.items()}
    if layout.name is not None and table.form != BLANKS:
        name = _text(_cell(cells, layout.name)) or name
    if cell is None:
        without = NO_CELL if table.types is None else NULL
        return Line(number, None, name=name, values=values, reason=reason or without)
    smiles, rest = divided(str(cell))
    return Line(number, smiles, name=name or rest, values=values)


def _cell(cells: Any, key: Any) -> Any:
    """A cell by number or name; None where there is none. An empty line has empty cells."""
    if isinstance(key, int):
        return cells[key] if key < len(cells) else None if cells else ""
    cell = cells.get(key)
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell


def _text(cell: Any) -> str | None:
    return None if cell is None else str(cell).strip() or None


def _properties(record: str) -> dict[str, str]:
    """The data of a record of an SD file by name, as text.

    A value goes on to the next name, also over blank lines, at which RDKit ends it.
    """
    _, *parts = _PROPERTY.split(record.partition("M  END")[2])
    return {name: text.strip("\n") for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _molecule(record: str) -> tuple[str | None, str | None]:
    """The SMILES of a record of an SD file, or why there is none."""
    try:
        with silenced():
            mol = Chem.MolFromMolBlock(record)
            if mol is not None:
                return Chem.MolToSmiles(mol), None
            plain = Chem.MolFromMolBlock(record, sanitize=False)
            if plain is None:
                return None, "not parsable: RDKit cannot read this record"
            problems = Chem.DetectChemistryProblems(plain)
    except Exception as error:  # noqa: BLE001 - RDKit raises many kinds; this record alone is lost
        return None, f"not parsable: {one_line(error)}"
    what = " ".join(problems[0].Message().split()) if problems else "RDKit cannot sanitise it"
    return None, f"not sane: {what}"


# ---- where things stand


def _layout(table: Table, column: str | int | None, keep: Literal[True] | Sequence[str]) -> _Layout:
    if table.is_delimited:
        return _delimited_layout(table, column, keep)
    names = _names(table, everything=bool(keep))
    if table.form == "sdf" and column is None:
        smiles = None
    elif isinstance(column, int):
        if table.form == "sdf" or column >= len(names):
            raise InputError(
                f"{table.place}: no column {column}: there are {len(names)}, counted from 0. "
                f"Known: {', '.join(names)}"
            )
        smiles = names[column]
    else:
        smiles = find_column(names, column, table.place) if column else _by_name(names, table)
    types = {} if table.types is None else {each.name: each.type for each in table.types}
    if smiles is not None and pa.types.is_nested(types.get(smiles, pa.string())):
        raise InputError(
            f"{table.place}: the column {smiles!r} holds {types[smiles]}; expected SMILES as text"
        )
    name = first_named(NAME_NAMES, [each for each in names if each != smiles])
    kept = _kept(names, keep, smiles, table.place)
    return _Layout(
        smiles,
        name,
        {each: each for each in kept},
        types={each: types.get(each, pa.string()) for each in kept},
        columns=names,
    )


def _names(table: Table, *, everything: bool) -> list[str]:
    """The names of cells in the order in which they appear."""
    if table.types is not None:
        return list(table.types.names)
    names: dict[str, None] = {}
    for row in table.read(()) if everything else table.sample:
        if row.reason is None:
            names |= dict.fromkeys(_properties(row.cells) if table.form == "sdf" else row.cells)
    return list(names)


def _kept(
    names: Sequence[str],
    keep: Literal[True] | Sequence[str],
    smiles: int | str | None,
    place: str,
) -> list[str]:
    if keep is True:
        return [name for name in dict.fromkeys(names) if name != smiles]
    return list(dict.fromkeys(find_column(names, each, place) for each in keep))


def first_named(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    """The name that comes first among those that are wanted."""
    found = {_word(name): name for name in reversed(names)}
    return next((found[each] for each in wanted if each in found), None)


def _by_name(names: Sequence[str], table: Table) -> str:
    """The column of SMILES of a table with a header."""
    if not names:
        raise InputError(_empty(table))
    found = first_named(SMILES_NAMES, names)
    if found is None and len(names) != 1:
        raise InputError(
            f"{table.place}: no column is called smiles; say which one it is with `column`. "
            f"Known: {', '.join(names)}"
        )
    same = [name for name in names if found is not None and _word(name) == _word(found)]
    if len(same) > 1:
        raise InputError(
            f"{table.place}: several columns are called {found}; say which one it is with "
            f"`column`, by its number from 0. Known: {', '.join(names)}"
        )
    return found or names[0]


def _delimited_layout(
    table: Table, column: str | int | None, keep: Literal[True] | Sequence[str]
) -> _Layout:
    first = list(table.sample[0].cells) if table.sample else []
    at, header = _place(table, column, first)
    width = max((len(row.cells) for row in table.sample), default=0)
    if header:
        names = _unique(first)
    else:
        names = [f"column_{i}" for i in range(width)] if table.form != BLANKS else []
    kept = _kept(names, keep, names[at] if at < len(names) else None, table.place)
    name: int | None = None
    if header:
        found = first_named(NAME_NAMES, [each for i, each in enumerate(names) if i != at])
        name = names.index(found) if found else None
    elif at + 1 < width and table.form != BLANKS:
        name = at + 1
    return _Layout(
        at,
        name,
        {each: names.index(each) for each in kept},
        header,
        dict.fromkeys(kept, pa.string()),
        names,
    )


def _place(table: Table, column: str | int | None, first: Sequence[str]) -> tuple[int, bool]:
    """Find the column of SMILES of delimited text, and whether the first line is a header."""
    place, words = table.place, [_word(cell) for cell in first]
    if isinstance(column, int):
        header = column < len(first) and words[column] in HEADER_WORDS
        if header:
            say_once(f"{place}: line 1 is taken for the header, for it has {first[column]!r}")
        return column, header
    if not first and not table.bare and table.sample:
        raise InputError(f"{place}: the first line is empty; expected the columns' names")
    if table.bare:
        return _place_in_bare(table, column, first)
    if column is not None:
        return first.index(find_column(first, column, place)), True
    if not first or not {*words}.isdisjoint(SMILES_NAMES):
        return (first.index(_by_name(first, table)) if first else 0), True
    found = [i for i, cell in enumerate(first) if is_molecule(cell)]
    known = not HEADER_WORDS.isdisjoint(words)
    if found and not known:
        return _place_by_molecules(table, first, found), False
    at = first.index(_by_name(first, table))  # the only one there is
    if not known:
        say_once(f"{place}: line 1, {first[0][:60]!r}, is taken for the header")
    return at, True


def _place_by_molecules(table: Table, first: Sequence[str], found: Sequence[int]) -> int:
    """Find the column of SMILES of a table without a header."""
    rows = [row.cells for row in table.sample if row.cells]
    full = [i for i in range(len(first)) if 2 * _count(rows, i) > len(rows)]
    places = full or found
    if len(places) > 1:
        raise InputError(
            f"{table.place}: line 1 is no header, and {len(places)} columns hold molecules; say "
            f"which one it is with `column`, by its number from 0: {', '.join(map(str, places))}"
        )
    say_once(
        f"{table.place}: line 1 has a molecule, {first[places[0]][:60]!r}, so the file is taken to "
        f"have no header, and its column {places[0]} to be the SMILES; if it is the header, name "
        "it with `column`"
    )
    return places[0]


def _place_in_bare(table: Table, column: str | None, first: Sequence[str]) -> tuple[int, bool]:
    """The same of a file that mostly has no header: .smi, .smiles, .txt."""
    place = table.place
    words = [_word(cell) for cell in first]
    wanted = SMILES_NAMES if column is None else [_word(column)]
    at = next((words.index(each) for each in wanted if each in words), None)
    if at is None and column is not None:
        raise InputError(
            f"{place}: column {column!r}: this format has no header; give a column number from 0"
        )
    if at is None:
        rows = [row.cells for row in table.sample if row.cells]
        full = [i for i in range(1, len(first)) if 2 * _count(rows, i) > len(rows)]
        at = full[0] if len(full) == 1 and not _count(rows, 0) else 0
        if at:
            say_once(f"{place}: its column {at} holds the molecules, and is taken for the SMILES")
    header = column is not None or (at < len(first) and words[at] in HEADER_WORDS)
    if header:
        say_once(f"{place}: line 1 is taken for the header, for it has {first[at]!r}")
    return at, header


def _count(rows: Iterable[Sequence[str]], at: int) -> int:
    return sum(at < len(cells) and is_molecule(cells[at]) for cells in rows)


@lru_cache(4096)
def is_molecule(cell: str) -> bool:
    """Whether a cell has a SMILES that RDKit can read, and is no word of a header."""
    smiles = divided(cell)[0]
    if _word(cell) in HEADER_WORDS:
        return False
    return parse(smiles, max_atoms=DEFAULT_MAX_ATOMS) is not None


def _rules(column: str | int | None) -> Rules:
    return Rules(ENDINGS, partial(_judge, column), _comment, tidy=True)


def _judge(column: str | int | None, rows: Sequence[Sequence[str]]) -> float:
    """Say how much cells look like a table of molecules: by the header, else by the molecules."""
    words = {_word(cell) for cell in rows[0]}
    if not words.isdisjoint(SMILES_NAMES) or (isinstance(column, str) and _word(column) in words):
        return 2.0
    return sum(any(map(is_molecule, cells)) for cells in rows) / len(rows)


def _comment(text: str) -> str | None:
    """A line above the rows that begins with #: the header, if it has one of its words."""
    plain = text.lstrip("# \t")
    words = plain.replace(",", " ").replace(";", " ").replace("|", " ").split()
    return plain if any(_word(each) in SMILES_NAMES for each in words) else None


def _word(cell: str) -> str:
    return "_".join(cell.strip(" \t\"'").casefold().replace("-", " ").split())


def _unique(names: Sequence[str]) -> list[str]:
    """Names of a header, each different and none empty."""
    found: list[str] = []
    for i, name in enumerate(names):
        own, n = name or f"column_{i}", 1
        while own in found:
            n += 1
            own = f"{name or f'column_{i}'}_{n}"
        found.append(own)
    return found
