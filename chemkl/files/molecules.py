"""Read files of molecules line by line: SMILES in text, tables and Parquet, and SD files.

The rules are the same for every stage and every setting that names such a file:

1. Compressed files (.gz, .bz2, .xz, .zst) are decompressed, `-` is standard input, and a file
   whose name does not show its format is recognised by its content.
2. In a table the SMILES are in the column with that name, or in the one given by name or, from 0,
   by number. A table has no header if its first line contains a molecule.
3. The first word of a cell is the SMILES, a CXSMILES extension after it is dropped, and the rest
   is a name, in tables as in .smi files.
4. A line that cannot be read has a reason instead of a SMILES; the other lines are read.

Every assumption about a file beyond its name is reported in a line on standard error.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count, islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import pyarrow as pa
from rdkit import Chem

from chemkl.chem.molecules import DEFAULT_MAX_ATOMS, insanity, one_line, parse, silenced
from chemkl.config import InputError
from chemkl.config.base import say_once
from chemkl.files.tables import (
    BLANKS,
    TABLES,
    Row,
    Rules,
    Table,
    decompressed,
    find_column,
    open_table,
    text_table,
)

SMILES_NAMES = ("smiles", "canonical_smiles", "isomeric_smiles", "smiles_string", "cxsmiles")
"""Names of a column of SMILES, in order of preference, ignoring case; words may also be joined by
blanks or hyphens."""

NAME_NAMES = ("name", "_name", "title", "id", "molecule_name", "compound_name", "mol_id",
    "molecule_id", "compound_id", "chembl_id", "molecule_chembl_id", "zinc_id", "cid")  # fmt: skip
"""Names of a column of molecule names, likewise."""

HEADER_WORDS = {*SMILES_NAMES, *NAME_NAMES, "mol", "molecule", "structure", "compound", "smi",
    "split", "reward", "score", "value", "activity", "label", "index"}  # fmt: skip
"""Words of a header; none of them is a molecule or the name of one."""

_PROPERTY = re.compile(r"^>.*<(.+)>.*\n?", re.MULTILINE)
"""The line before a value in a record of an SD file: `> 25 <MELTING.POINT>`."""

NO_CELL = "missing: the line has no such column"
NULL = "missing: the cell is null"
EMPTY = "the file is empty; expected a line for each molecule"
CHOOSE_COLUMN = "choose one with `column`"
"""The fix where no column, or several, could hold the SMILES."""
HEADER_ONLY = "the file has a header but no rows; expected a row for each molecule"

ENDINGS = {
    **dict.fromkeys((".smi", ".smiles", ".txt"), BLANKS),
    **TABLES,
    **dict.fromkeys((".sdf", ".sd", ".mol"), "sdf"),
}
"""Format by file ending; all but Parquet may be compressed."""


class Line(NamedTuple):
    """One SMILES of a file."""

    number: int  # 1-based line of the file (row of a Parquet file, record of an SD file)
    smiles: str | None  # empty for an empty line or cell; None without a cell
    split: str = "train"  # the split of the source
    name: str | None = None  # of the molecule; None without a name
    values: Mapping[str, Any] = {}  # cells of the selected columns; None: missing
    reason: str | None = None  # why there is no SMILES; None if there is one


@dataclass(frozen=True)
class _Layout:
    """Where to find what in a row: numbers of cells, or names if cells have names."""

    smiles: int | str | None  # None in an SD file, where it is the record itself
    name: int | str | None  # None if it can only follow the SMILES in its cell
    values: Mapping[str, int | str]  # selected cells, by column name
    header: bool  # whether the first row is a header
    columns: Sequence[str]  # the names of all columns


class MoleculeFile:
    """A file of molecules; iterating reads it again, line by line.

    Args:
        path: the file; - is standard input.
        column: column of the SMILES, by name or by number from 0; None: the one with such a name
            (`SMILES_NAMES`), the only one, or in a file without a header the one with molecules.
        keep: further columns to read: their names, or True for all.

    Attributes:
        columns: the names of its columns; of JSON lines and SD files those in the first rows.
        types: type of each further column, in order; text if the file has no types.
        has_names: whether molecules in the first lines have names.
    """

    def __init__(
        self, path: Path, column: str | int | None = None, keep: Literal[True] | Sequence[str] = ()
    ) -> None:
        self.path = path
        self._rules = _rules(column)
        with open_table(path, self._rules) as table:
            self._layout = _layout(table, column, keep)
            first = table.sample[self._layout.header :]
            has_names = any(_line(table, self._layout, row).name for row in first)
            types = {field.name: field.type for field in table.types or ()}
        self.columns = tuple(self._layout.columns)
        self.types = {name: types.get(name, pa.string()) for name in self._layout.values}
        self.has_names = has_names or self._layout.name is not None

    def __iter__(self) -> Iterator[Line]:
        """Yield the lines in order."""
        with open_table(self.path, self._rules) as table:
            yield from _lines(table, self._layout)


def read_member(stream: IO[bytes], name: str, column: str | int, split: str) -> Iterator[Line]:
    """Yield the lines of an open text file of a known layout."""
    with decompressed(stream, name, name) as source:
        table = text_table(source, _rules(column))
        for line in _lines(table, _layout(table, column, ())):
            yield line._replace(split=split)


def split_cell(cell: str) -> tuple[str, str | None]:
    """Split a cell into a SMILES and the name after it.

    A CXSMILES extension (`CCO |$;;R1$|`) and quotes around the SMILES are dropped.
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
    cells = [layout.smiles, layout.name, *layout.values.values()]
    rows = table.read(list(dict.fromkeys(str(key) for key in cells if key is not None)))
    row = None
    for row in islice(rows, int(layout.header), None):
        yield _line(table, layout, row)
    if row is None:
        raise InputError(f"{table.place}: {HEADER_ONLY if table.sample or table.types else EMPTY}")


def _line(table: Table, layout: _Layout, row: Row) -> Line:
    number, cells = row.number, row.cells
    if row.reason is not None:
        return Line(number, None, reason=row.reason)
    is_null = table.types is not None or (isinstance(cells, dict) and layout.smiles in cells)
    reason = NULL if is_null else NO_CELL
    name = None
    if table.form == "sdf":
        name, cells = cells.partition("\n")[0].strip() or None, _properties(cells)
    if layout.smiles is None:
        cell, reason = _molecule(row.cells)
    elif isinstance(layout.smiles, int) and table.form == BLANKS:
        at = layout.smiles
        cell = " ".join(cells[at:]) if at < len(cells) or not cells else None
    else:
        cell = _cell(cells, layout.smiles)
    values = {column: _cell(cells, key) for column, key in layout.values.items()}
    if layout.name is not None and table.form != BLANKS:
        name_cell = _cell(cells, layout.name)
        name = (None if name_cell is None else str(name_cell).strip()) or name
    if cell is None:
        return Line(number, None, name=name, values=values, reason=reason)
    smiles, rest = split_cell(str(cell))
    return Line(number, smiles, name=name or rest, values=values)


def _cell(cells: Any, key: Any) -> Any:
    """Return a cell by number or name, or None; an empty line has empty cells."""
    if isinstance(key, int):
        return cells[key] if key < len(cells) else None if cells else ""
    cell = cells.get(key)
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell


def _properties(record: str) -> dict[str, str]:
    """Return the data of a record of an SD file by name, as text.

    A value ends at the next name; RDKit would end it at a blank line.
    """
    _, *parts = _PROPERTY.split(record.partition("M  END")[2])
    return {name: text.strip("\n") for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _molecule(record: str) -> tuple[str | None, str]:
    """Return the SMILES of a record of an SD file, or None and the reason."""
    try:
        with silenced():
            mol = Chem.MolFromMolBlock(record)
            if mol is not None:
                return Chem.MolToSmiles(mol), ""
            plain = Chem.MolFromMolBlock(record, sanitize=False)
            return None, insanity(plain) or "not parsable: RDKit cannot read this record"
    except Exception as error:  # noqa: BLE001 - RDKit raises many kinds; only this record is lost
        return None, f"not parsable: {one_line(error)}"


# ---- layout of a table


def _layout(table: Table, column: str | int | None, keep: Literal[True] | Sequence[str]) -> _Layout:
    """Find the columns of a table."""
    if isinstance(column, int) and column < 0:
        raise InputError(f"{table.place}: no column {column}: columns are counted from 0")
    key: Mapping[str, int | str]
    smiles: int | str | None
    header = False
    if table.is_delimited:
        first = list(table.sample[0].cells) if table.sample else []
        smiles, header = _place(table, column, first)
        width = max((len(row.cells) for row in table.sample), default=0)
        names = [f"column_{i}" for i in range(width)] if table.form != BLANKS else []
        names = _unique(first) if header else names
        if isinstance(column, int) and names and width <= column:
            find_column(_unique(first), column, table.place)
        key = {name: i for i, name in enumerate(names)}
    else:
        smiles, names = _named_cell(table, column, everything=bool(keep))
        key = {name: name for name in names}
    selected = others = [name for name in names if key[name] != smiles]
    if keep is not True:
        selected = list(dict.fromkeys(find_column(names, name, table.place) for name in keep))
    name = first_named(NAME_NAMES, others)
    at_name = None if name is None else key[name]
    if isinstance(smiles, int) and not header:
        at_name = smiles + 1 if smiles + 1 < len(names) else None
    return _Layout(smiles, at_name, {column: key[column] for column in selected}, header, names)


def _named_cell(
    table: Table, column: str | int | None, *, everything: bool
) -> tuple[str | None, list[str]]:
    """Find the cell of the SMILES if cells have names; also return all names in order."""
    is_sdf = table.form == "sdf"
    found: dict[str, None] = {}
    if table.types is None:
        for row in table.read(()) if everything else table.sample:
            if row.reason is None:
                found |= dict.fromkeys(_properties(row.cells) if is_sdf else row.cells)
    names, problem = list(found if table.types is None else table.types.names), ""
    smiles = None
    if is_sdf and isinstance(column, int):
        problem = (
            f"an SD file has no column {column}: leave `column` out to read its records, or name a "
            f"property. Known: {', '.join(names)}"
        )
    elif column is not None:
        smiles = find_column(names, column, table.place)
    elif not is_sdf:
        smiles = _by_name(names, table)
    if table.types is not None and pa.types.is_nested(kind := table.types.field(smiles).type):
        problem = f"the column {smiles!r} holds {kind}; expected SMILES as text"
    if problem:
        raise InputError(f"{table.place}: {problem}")
    return smiles, names


def first_named(candidates: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the name that matches the first candidate, or None."""
    by_word = {_word(name): name for name in reversed(names)}
    return next((by_word[word] for word in candidates if word in by_word), None)


def _by_name(names: Sequence[str], table: Table) -> str:
    """Find the column of SMILES in a table with a header."""
    name = first_named(SMILES_NAMES, names)
    if name is None and len(names) == 1:
        return names[0]
    if name is not None and sum(_word(n) == _word(name) for n in names) == 1:
        return name
    problem = f"several columns are called {name}" if name else "no column is called smiles"
    number = ", by its number from 0" if name else ""
    problem += f"; {CHOOSE_COLUMN}{number}. Known: {', '.join(names)}"
    raise InputError(f"{table.place}: {problem if names else EMPTY}")


def _place(table: Table, column: str | int | None, first: Sequence[str]) -> tuple[int, bool]:
    """Find the column of SMILES of delimited text, and whether the first line is a header."""
    place, words = table.place, [_word(cell) for cell in first]
    if table.bare or isinstance(column, int):
        return _place_in_bare(table, column, first)
    if not first:
        if table.sample:
            raise InputError(f"{place}: the first line is empty; expected the columns' names")
        return 0, True
    if column is not None:
        return first.index(find_column(first, column, place)), True
    is_header = not HEADER_WORDS.isdisjoint(words)
    with_molecule = [i for i, cell in enumerate(first) if is_molecule(cell)]
    if is_header or not with_molecule:
        at = first.index(_by_name(first, table))
        if not is_header:
            say_once(f"{place}: line 1, {first[0][:60]!r}, is read as the header")
        return at, True
    places = _columns_of_molecules(table, range(len(first))) or with_molecule
    if len(places) > 1:
        raise InputError(
            f"{place}: line 1 is not a header, and {len(places)} columns hold molecules; choose "
            f"one with `column`, by its number from 0: {', '.join(map(str, places))}"
        )
    say_once(
        f"{place}: line 1 has a molecule, {first[places[0]][:60]!r}, so the file is read without a "
        f"header, with the SMILES in column {places[0]}; if line 1 is a header, name the column "
        "with `column`"
    )
    return places[0], False


def _place_in_bare(
    table: Table, column: str | int | None, first: Sequence[str]
) -> tuple[int, bool]:
    """Like `_place`, by a number or in a format that usually has no header: .smi, .smiles, .txt."""
    place, words = table.place, [_word(cell) for cell in first]
    at = column
    if not isinstance(at, int):
        candidates = SMILES_NAMES if column is None else [_word(str(column))]
        at = next((words.index(word) for word in candidates if word in words), None)
    if at is None and column is not None:
        raise InputError(
            f"{place}: column {column!r}: this format has no header; give a column number from 0"
        )
    if at is None:
        places = _columns_of_molecules(table, range(1, len(first)))
        at = places[0] if len(places) == 1 and not _columns_of_molecules(table, [0], 0) else 0
        if at:
            say_once(f"{place}: the SMILES are read from column {at}, which holds the molecules")
    header = isinstance(column, str) or (at < len(first) and words[at] in HEADER_WORDS)
    if header:
        say_once(f"{place}: line 1 is read as the header, because it has {first[at]!r}")
    return at, header


def _columns_of_molecules(table: Table, places: Iterable[int], share: float = 0.5) -> list[int]:
    """Select the columns in which more than a share of the first rows have a molecule."""
    rows = [row.cells for row in table.sample if row.cells]
    return [
        at
        for at in places
        if sum(at < len(cells) and is_molecule(cells[at]) for cells in rows) > share * len(rows)
    ]


@lru_cache(4096)
def is_molecule(cell: str) -> bool:
    """Whether a cell has a SMILES that RDKit can read and is not a word of a header."""
    if _word(cell) in HEADER_WORDS:
        return False
    return parse(split_cell(cell)[0], max_atoms=DEFAULT_MAX_ATOMS) is not None


def _rules(column: str | int | None) -> Rules:
    def judge(rows: Sequence[Sequence[str]]) -> float:
        """Rate how much cells look like a table of molecules, by the header or the molecules."""
        words = {_word(cell) for cell in rows[0]}
        if not words.isdisjoint(SMILES_NAMES) or (
            isinstance(column, str) and _word(column) in words
        ):
            return 2.0
        return sum(any(map(is_molecule, cells)) for cells in rows) / len(rows)

    def comment(text: str) -> str | None:
        """Return a line that starts with # as a header if it has a word of one; else None."""
        plain = text.lstrip("# \t")
        words = re.split(r"[,;|\s]+", plain)
        return plain if any(_word(word) in SMILES_NAMES for word in words) else None

    return Rules(ENDINGS, judge, comment, tidy=True)


def _word(cell: str) -> str:
    return "_".join(cell.strip(" \t\"'").casefold().replace("-", " ").split())


def _unique(names: Sequence[str]) -> list[str]:
    """Make the names of a header unique and not empty."""
    unique: list[str] = []
    for i, name in enumerate(names):
        plain = name or f"column_{i}"
        numbered = chain([plain], (f"{plain}_{n}" for n in count(2)))
        unique.append(next(candidate for candidate in numbered if candidate not in unique))
    return unique
