"""Files of texts, whatever wrote them: a column of texts, and where there are any of answers.

They are opened, unpacked, decoded and divided into rows as files of molecules are; what differs is
which column is taken, and that a .txt has a text on each line.
"""

from collections.abc import Sequence
from functools import partial

import pandas as pd

from chemkl.config import InputError
from chemkl.config.evaluate import TextFile
from chemkl.config.paths import label_of
from chemkl.display import is_missing
from chemkl.evaluation.text_samples import (
    ANSWER,
    COMPLETION,
    PROMPT,
    REWARD,
    TextSamples,
    tidied,
)
from chemkl.files.tables import (
    DELIMITERS,
    LINES,
    TABLES,
    Row,
    Rules,
    Table,
    find_column,
    open_table,
    refuse_same_names,
)

TEXT_COLUMNS = (COMPLETION, "text", "response", "output")
HEADER_WORDS = {*TEXT_COLUMNS, PROMPT, ANSWER, REWARD}
ENDINGS = {**TABLES, ".txt": LINES}
NAMED = 3
"""So many of the cells that cannot be used are named in a message."""


def read_text_file(name: str, file: TextFile) -> TextSamples:
    """Read a file of texts.

    Raises:
        InputError: an unknown format, a damaged file, no such column, no text in it, something
            else than text, or rewards that are no numbers.
    """
    place = label_of(file.path)
    frame = _frame(file)
    if frame.empty:
        raise InputError(f"{place}: no texts in it; expected at least one.")
    of = "row" if file.path.suffix.lower() == ".parquet" else "line"
    _require_text(frame[COMPLETION], frame.attrs["column"], of, place)
    if PROMPT not in frame:
        frame[PROMPT] = ""
    if ANSWER in frame:
        frame[ANSWER] = frame[ANSWER].replace("", None)  # a .csv has no other way to say: none
    if REWARD in frame:
        frame[REWARD] = _numbers(frame[REWARD], of, place)
    missing = sum(map(is_missing, frame[COMPLETION]))
    plain = tidied(frame.reset_index(drop=True), place)
    return TextSamples(name, plain, n_missing=missing)


def _require_text(texts: pd.Series, column: str, of: str, place: str) -> None:
    """Refuse a column with something else than text in it; where there is nothing, that is fine.

    Raises:
        InputError: naming the first such cells.
    """
    wrong = [
        f"{each!r} ({type(each).__name__}) in {of} {number}"
        for number, each in texts.items()
        if not (isinstance(each, str) or is_missing(each))
    ]
    if wrong:
        raise InputError(
            f"{place}: the column {column!r} must hold text, but holds {_few(wrong)}. "
            "Write texts in quotes, or name another column with `column`."
        )


def _numbers(cells: pd.Series, of: str, place: str) -> pd.Series:
    """The cells as numbers; an empty one is a reward that is missing.

    Raises:
        InputError: naming the first cells that hold something else.
    """
    numbers = pd.to_numeric(cells, errors="coerce")
    wrong = [
        f"{each!r} in {of} {row}"
        for (row, each), number in zip(cells.items(), numbers, strict=True)
        if is_missing(number) and not is_missing(each) and each != ""
    ]
    if wrong:
        raise InputError(
            f"{place}: the column {REWARD!r} must hold numbers, or nothing, but holds "
            f"{_few(wrong)}. Correct them, or rename the column to use the file without rewards."
        )
    return numbers


def _few(places: list[str]) -> str:
    more = f", and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return ", ".join(places[:NAMED]) + more


# ---- rows


def _frame(file: TextFile) -> pd.DataFrame:
    """The columns that are used, by their names in a trace; the index is the line of each row.

    Raises:
        InputError: the file cannot be read, or a column is not there.
    """
    rules = Rules(ENDINGS, partial(_judge, file.column), lambda line: line, tidy=False)
    with open_table(file.path, rules) as table:
        if table.types is not None:
            names, rows = list(table.types.names), None
        else:
            names, rows = _named_rows(table, file.column)
            if not rows:
                return pd.DataFrame()
        column = _column(names, file.column, table.place) or _default_column(names, table)
        prompt = _column(names, file.prompt_column, table.place)
        prompt = prompt or (PROMPT if PROMPT in names else None)
        chosen = {COMPLETION: column, **({PROMPT: prompt} if prompt else {})}
        chosen |= {each: each for each in (ANSWER, REWARD) if each in names}
        if rows is None:
            rows = list(table.read(list(dict.fromkeys(chosen.values()))))
    frame = pd.DataFrame(
        {key: [row.cells.get(name) for row in rows] for key, name in chosen.items()},
        index=[row.number for row in rows],
        dtype=object,
    )
    frame.attrs["column"] = column
    return frame


def _named_rows(table: Table, column: str | int | None) -> tuple[list[str], list[Row]]:
    """All rows of a text file, and the names of their cells.

    Raises:
        InputError: a row cannot be read, or has more cells than there are names.
    """
    rows = list(table.read(()))
    bad = next((row for row in rows if row.reason is not None), None)
    if bad is not None:
        raise InputError(f"{table.place}:{bad.number}: {bad.reason}.")
    if not table.is_delimited:
        return list(dict.fromkeys(name for row in rows for name in row.cells)), rows
    if table.form == LINES:
        texts = [row for row in rows if row.cells]
        return [COMPLETION], [Row(row.number, {COMPLETION: row.cells[0]}) for row in texts]
    first = rows[0].cells if rows else []
    if isinstance(column, int) and HEADER_WORDS.isdisjoint(first):
        names = [str(i) for i in range(len(first))]
    else:
        names, rows = [name.strip() for name in first], rows[1:]
        refuse_same_names(names, table.place)
    wide = next((row for row in rows if len(row.cells) > len(names)), None)
    if wide is not None and len(first):
        raise InputError(
            f"{table.place}:{wide.number}: its rows have more fields than its header has names; "
            f"put quotes around texts that hold {DELIMITERS[table.form]}."
        )
    return names, [Row(row.number, dict(zip(names, row.cells, strict=False))) for row in rows]


def _column(names: Sequence[str], wanted: str | int | None, place: str) -> str | None:
    if isinstance(wanted, int):
        if wanted >= len(names):
            raise InputError(
                f"{place}: no column {wanted}: there are {len(names)}, counted from 0. Known: "
                f"{', '.join(names)}"
            )
        return names[wanted]
    return None if wanted is None else find_column(names, wanted, place)


def _default_column(names: Sequence[str], table: Table) -> str:
    for name in TEXT_COLUMNS:
        if name in names:
            return name
    header = ". The first line is taken for the header" if table.is_delimited else ""
    raise InputError(
        f"{table.place}: no column is called {' or '.join(TEXT_COLUMNS)}; say which one holds the "
        f"texts with `column`. Known: {', '.join(names)}{header}"
    )


def _judge(column: str | int | None, rows: Sequence[Sequence[str]]) -> float:
    """Say how much cells look like a table of texts: by its header alone."""
    words = {cell.strip() for cell in rows[0]}
    return 1.0 if column in words or not words.isdisjoint(TEXT_COLUMNS) else 0.0
