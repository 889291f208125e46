"""Files of texts, whatever wrote them: a column of texts, and where there are any of answers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError, did_you_mean
from chemkl.config.text_evaluate import TextFile
from chemkl.evaluation.text_samples import (
    ANSWER,
    COMPLETION,
    PROMPT,
    REWARD,
    TextSamples,
    tidied,
)
from chemkl.results.cells import is_missing

TEXT_COLUMNS = (COMPLETION, "text", "response", "output")
ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet", ".txt")
NAMED = 3
"""So many of the cells that cannot be used are named in a message."""


def read_text_file(name: str, file: TextFile) -> TextSamples:
    """Read a file of texts.

    Raises:
        InputError: an unknown ending, a damaged file, no such column, no text in it, something
            else than text, or rewards that are no numbers.
    """
    path = file.path
    frame = _frame(path)
    if frame.empty:
        raise InputError(f"{path}: no texts in it; expected at least one.")
    column = file.column or _default_column(frame, path)
    prompt = file.prompt_column or (PROMPT if PROMPT in frame.columns else None)
    for wanted in filter(None, (column, prompt)):
        if wanted not in frame.columns:
            known = did_you_mean(wanted, map(str, frame.columns))
            raise InputError(f"{path}: no column {wanted!r}{known}")
    texts = frame[column]
    _require_text(texts, path)
    chosen = {PROMPT: frame[prompt] if prompt else "", COMPLETION: texts}
    if ANSWER in frame.columns:
        chosen[ANSWER] = frame[ANSWER].replace("", None)  # a .csv has no other way to say: none
    if REWARD in frame.columns:
        chosen[REWARD] = _numbers(frame[REWARD], path)
    missing = sum(map(is_missing, texts))
    plain = tidied(pd.DataFrame(chosen).reset_index(drop=True), str(path))
    return TextSamples(name, plain, n_missing=missing)


def _require_text(texts: pd.Series, path: Path) -> None:
    """Refuse a column with something else than text in it; where there is nothing, that is fine.

    Raises:
        InputError: naming the first such cells.
    """
    wrong = [
        f"{each!r} ({type(each).__name__}) in {_place(path, row)}"
        for row, each in texts.items()
        if not (isinstance(each, str) or is_missing(each))
    ]
    if wrong:
        raise InputError(
            f"{path}: the column {texts.name!r} must hold text, but holds {_few(wrong)}. Write "
            "texts in quotes, or name another column with `column`."
        )


def _is_empty(cell: object) -> bool:
    return isinstance(cell, str) and not cell


def _numbers(cells: pd.Series, path: Path) -> pd.Series:
    """The cells as numbers; an empty one is a reward that is missing.

    Raises:
        InputError: naming the first cells that hold something else.
    """
    numbers = pd.to_numeric(cells, errors="coerce")
    wrong = [
        f"{each!r} in {_place(path, row)}"
        for (row, each), number in zip(cells.items(), numbers, strict=True)
        if is_missing(number) and not is_missing(each) and not _is_empty(each)
    ]
    if wrong:
        raise InputError(
            f"{path}: the column {REWARD!r} must hold numbers, or nothing, but holds "
            f"{_few(wrong)}. Correct them, or rename the column to use the file without rewards."
        )
    return numbers


def _few(places: list[str]) -> str:
    more = f", and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return ", ".join(places[:NAMED]) + more


def _place(path: Path, row: object) -> str:
    """Where a row stands: the line of a .jsonl, of other files the number of the row, from 1."""
    assert isinstance(row, int)  # as the frames here are numbered
    return f"line {row}" if path.suffix.lower() == ".jsonl" else f"row {row + 1}"


def _default_column(frame: pd.DataFrame, path: Path) -> str:
    for name in TEXT_COLUMNS:
        if name in frame.columns:
            return name
    header = ""
    if path.suffix.lower() in (".csv", ".tsv"):
        header = ". The first line is taken for the header"
    raise InputError(
        f"{path}: no column is called {' or '.join(TEXT_COLUMNS)}; say which one holds the texts "
        f"with `column`. Known: {', '.join(map(str, frame.columns))}{header}"
    )


def _frame(path: Path) -> pd.DataFrame:
    """The file as it is; the index of a .jsonl are its lines, that of others counts from 0.

    Raises:
        InputError: it cannot be read.
    """
    ending = path.suffix.lower()
    if path.is_dir() or ending not in ENDINGS:
        raise InputError(
            f"{path}: cannot be read as texts. Give a file that ends in {', '.join(ENDINGS)}; the "
            "folder of a run belongs under `runs`."
        )
    try:
        if ending == ".parquet":
            frame: pd.DataFrame = pq.read_table(path).to_pandas().reset_index(drop=True)
            return frame
        if ending == ".jsonl":
            rows = dict(_json_lines(path))
            return pd.DataFrame(list(rows.values()), index=list(rows), dtype=object)
        if ending == ".txt":
            lines = path.read_text(encoding="utf-8").splitlines()
            return pd.DataFrame({COMPLETION: [line for line in lines if line.strip()]})
        return _table(path, "\t" if ending == ".tsv" else ",")
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, UnicodeDecodeError, pa.ArrowException, pd.errors.ParserError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}).") from error


def _table(path: Path, delimiter: str) -> pd.DataFrame:
    frame = pd.read_csv(
        path, sep=delimiter, dtype=str, keep_default_na=False, skip_blank_lines=False
    )
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes what is too many for an index
        raise InputError(
            f"{path}: its rows have more fields than its header has names; put quotes around "
            f"texts that hold {'a tab' if delimiter != ',' else 'a comma'}."
        )
    return frame


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """The lines that are not blank, numbered from 1.

    Raises:
        InputError: one is no JSON object.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}:{number}: not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise InputError(
                    f'{path}:{number}: expected an object such as {{"completion": "..."}}, got '
                    f"a {type(row).__name__}."
                )
            yield number, row
