"""The texts to evaluate: the last samples of a run and its exact answers, or a file of texts.

Files are opened, decompressed, decoded and split into rows like files of molecules. Only the choice
of the column differs, and a .txt has one text per line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.config.evaluate import TextFile
from chemkl.config.paths import label_of
from chemkl.display import is_missing
from chemkl.evaluation.samples import refuse_cells
from chemkl.files.tables import (
    DELIMITERS,
    LINES,
    TABLES,
    Row,
    Rules,
    Table,
    check_column_names,
    find_column,
    open_table,
)
from chemkl.results import Manifest, find_trace, read_trace
from chemkl.results.inspection import sampled_rows
from chemkl.results.trace import read_part

COMPLETION, PROMPT, ANSWER, REWARD = "completion", "prompt", "answer", "reward"
REQUIRED = ("step", "row", PROMPT, COMPLETION, REWARD, "is_replay")
ANSWERS_FILE = "answers.parquet"
EXACT_COLUMNS = ("step", PROMPT, ANSWER, "logp_policy", "logp_ref")
TEXT_COLUMNS = (COMPLETION, "text", "response", "output")
HEADER_WORDS = {*TEXT_COLUMNS, PROMPT, ANSWER, REWARD}
ENDINGS = {**TABLES, ".txt": LINES}
MAX_LISTED = 3
"""Invalid cells listed in an error message."""


@dataclass(frozen=True)
class TextSamples:
    """The texts of one run or file."""

    name: str
    # columns prompt, completion, and if available answer (None: no valid one) and reward
    texts: pd.DataFrame
    # columns step, prompt, answer, logp_policy, logp_ref, if the run records them
    exact: pd.DataFrame | None = None
    method: str | None = None
    seed: int | None = None
    n_missing: int = 0  # null texts of the source, which count as empty
    molecules: bool = False  # the texts are bare SMILES, so measures of text do not apply


def read_text_run(
    name: str, folder: Path, late_samples: int, method: str | None = None
) -> TextSamples:
    """Read the last samples of a run, and its exact answers if it has recorded any.

    The same number is read of each prompt: within a step the rows of a trace are grouped by prompt,
    so the last rows of the trace would omit prompts.
    """
    names = check_text_run(folder)
    columns = [PROMPT, COMPLETION, *([ANSWER] if ANSWER in names else []), REWARD]
    sampled = sampled_rows(read_trace(folder, [*columns, "is_replay"]))  # by step and row
    by_prompt = sampled.groupby(PROMPT, sort=False)
    late = by_prompt.tail(max(1, late_samples // max(1, by_prompt.ngroups))).reset_index(drop=True)
    texts = _clean(late[columns], str(folder))
    n_words = [len(text.split()) for text in texts[COMPLETION]]
    manifest = Manifest.load(folder)
    reward = manifest.config.get("reward") if manifest else None
    scores_smiles = isinstance(reward, dict) and reward.get("kind") == "smiles"
    molecules = scores_smiles and n_words.count(1) > sum(n > 1 for n in n_words)
    seed = manifest.seed if manifest else None
    return TextSamples(name, texts, read_exact(folder), method, seed, molecules=molecules)


def check_text_run(folder: Path) -> list[str]:
    """Check that the trace of a run has texts, without reading rows; return its columns."""
    names = list(pq.read_schema(find_trace(folder)[0].path).names)
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        problem = f"lacks {', '.join(missing)}; expected the trace of a run of posttrain_llm"
        if COMPLETION in missing and "smiles" in names:
            problem = "has SMILES and no completions; `chemkl evaluate` takes runs of posttrain"
        raise InputError(f"{folder}: its trace {problem}. It has: {', '.join(names)}")
    return names


def read_exact(folder: Path) -> pd.DataFrame | None:
    """Read the exact log-probabilities of the valid answers; None if the run has no such file."""
    path = folder / ANSWERS_FILE
    if not path.exists():
        return None
    table = read_part(path)
    missing = [name for name in EXACT_COLUMNS if name not in table.column_names]
    if missing or not table.num_rows:
        problem = f"lacks {', '.join(missing)}" if missing else "has no rows"
        raise InputError(
            f"{path}: {problem}; expected {', '.join(EXACT_COLUMNS)}, as written by posttrain_llm. "
            "Run it again, or move the file away to evaluate the samples alone."
        )
    frame: pd.DataFrame = table.select(list(EXACT_COLUMNS)).to_pandas()
    frame[PROMPT] = frame[PROMPT].astype(str)
    return frame


def _clean(texts: pd.DataFrame, where: str) -> pd.DataFrame:
    """Convert texts, prompts and answers to str, with None for a missing answer."""
    plain = pd.DataFrame(index=texts.index)
    for column, missing in ((PROMPT, ""), (COMPLETION, ""), (ANSWER, None)):
        if column in texts.columns:
            cells = [missing if is_missing(cell) else str(cell) for cell in texts[column]]
            plain[column] = pd.Series(cells, index=texts.index, dtype=object)
    if REWARD in texts.columns:
        plain[REWARD] = texts[REWARD].astype(float)
    if not any(text.strip() for text in plain[COMPLETION]):
        raise InputError(f"{where}: no completions: all {len(plain)} texts are empty.")
    return plain


def left_out(samples: TextSamples, max_texts: int) -> Iterator[str]:
    """Yield messages about texts and rewards that the measures of text exclude, and why."""
    if samples.molecules:
        yield (
            f"{samples.name}: its texts are SMILES, one word each, so measures of text do not "
            "apply. `chemkl evaluate` measures molecules."
        )
        return
    texts = samples.texts
    n, blank = len(texts), sum(not text.strip() for text in texts[COMPLETION])
    kinds = {"missing (null)": samples.n_missing, "empty": blank - samples.n_missing}
    parts = [
        f"{count:,} {'is' if count == 1 else 'are'} {kind}"
        for kind, count in kinds.items()
        if count
    ]
    if parts:
        yield f"{samples.name}: of {n:,} texts {' and '.join(parts)}: left out of the measures."
    if n - blank > max_texts:
        yield (
            f"{samples.name}: a random {max_texts:,} of its {n - blank:,} texts are measured "
            "(options.max_texts)."
        )
    no_reward = int(texts[REWARD].isna().sum()) if REWARD in texts.columns else 0
    if no_reward:
        yield (
            f"{samples.name}: {no_reward:,} of {n:,} texts have no reward; the mean excludes them."
        )


# ---- files


def read_text_file(name: str, file: TextFile) -> TextSamples:
    """Read a file of texts.

    Raises:
        InputError: the format is unknown, the file is damaged or empty, the column is missing or
            holds other values than text, or rewards are not numbers.
    """
    place = label_of(file.path)
    frame = _read_columns(file)
    if frame.empty:
        raise InputError(f"{place}: no texts in it; expected at least one.")
    unit = "row" if file.path.suffix.lower() == ".parquet" else "line"
    texts = frame[COMPLETION]
    refuse_cells(
        [
            f"{cell!r} ({type(cell).__name__}) in {unit} {number}"
            for number, cell in texts.items()
            if not (isinstance(cell, str) or is_missing(cell))
        ],
        f"{place}: the column {frame.attrs['column']!r} must hold text, but holds",
        "Write texts in quotes, or name another column with `column`.",
        MAX_LISTED,
    )
    if PROMPT not in frame:
        frame[PROMPT] = ""
    if ANSWER in frame:
        frame[ANSWER] = frame[ANSWER].replace("", None)  # in a .csv an empty cell is the only null
    if REWARD in frame:
        numbers = pd.to_numeric(frame[REWARD], errors="coerce")
        refuse_cells(
            [
                f"{cell!r} in {unit} {row}"
                for (row, cell), number in zip(frame[REWARD].items(), numbers, strict=True)
                if is_missing(number) and not is_missing(cell) and cell != ""
            ],
            f"{place}: the column {REWARD!r} must hold numbers, or nothing, but holds",
            "Correct them, or rename the column to use the file without rewards.",
            MAX_LISTED,
        )
        frame[REWARD] = numbers
    missing = sum(map(is_missing, texts))
    return TextSamples(name, _clean(frame.reset_index(drop=True), place), n_missing=missing)


def _read_columns(file: TextFile) -> pd.DataFrame:
    """Read the used columns, named as in a trace and indexed by line number."""
    text_names = {file.column, *TEXT_COLUMNS}  # only its header identifies a table of texts
    rules = Rules(
        ENDINGS,
        lambda rows: float(not text_names.isdisjoint(cell.strip() for cell in rows[0])),
        lambda line: line,
        tidy=False,
    )
    with open_table(file.path, rules) as table:
        rows: list[Row] | None = None
        if table.types is not None:
            names = list(table.types.names)
        else:
            names, rows = _named_rows(table, file.column)
            if not rows:
                return pd.DataFrame()
        column = next((name for name in TEXT_COLUMNS if name in names), None)
        if file.column is not None:
            column = find_column(names, file.column, table.place)
        if column is None:
            header = ". The first line is read as the header" if table.is_delimited else ""
            raise InputError(
                f"{table.place}: no column is called {' or '.join(TEXT_COLUMNS)}; set `column` to "
                f"the one with the texts. Known: {', '.join(names)}{header}"
            )
        prompt = PROMPT if PROMPT in names else None
        if file.prompt_column is not None:
            prompt = find_column(names, file.prompt_column, table.place)
        chosen = {COMPLETION: column, **({PROMPT: prompt} if prompt else {})}
        chosen |= {name: name for name in (ANSWER, REWARD) if name in names}
        if rows is None:
            rows = list(table.read(list(dict.fromkeys(chosen.values()))))
    columns = {key: [row.cells.get(name) for row in rows] for key, name in chosen.items()}
    frame = pd.DataFrame(columns, index=[row.number for row in rows], dtype=object)
    frame.attrs["column"] = column
    return frame


def _named_rows(table: Table, column: str | int | None) -> tuple[list[str], list[Row]]:
    """Read all rows of a text file, and the names of its columns."""
    rows = list(table.read(()))
    if not rows:
        return [], []
    first: Sequence[str] = []
    if not table.is_delimited:
        names = list(dict.fromkeys(name for row in rows for name in row.cells or ()))
    elif table.form == LINES:
        names = [COMPLETION]
        rows = [row for row in rows if row.cells or row.reason]
    else:
        first = rows[0].cells
        names = [str(i) for i in range(len(first))]
        if not isinstance(column, int) or not HEADER_WORDS.isdisjoint(first):
            names, rows = [name.strip() for name in first], rows[1:]
            check_column_names(names, table.place)
    for row in rows:
        reason = row.reason
        if first and len(row.cells) > len(names):
            reason = (
                "its rows have more fields than its header has names; quote texts that contain "
                f"{DELIMITERS[table.form]}"
            )
        if reason is not None:
            raise InputError(f"{table.place}:{row.number}: {reason}.")
    if table.is_delimited:
        rows = [Row(row.number, dict(zip(names, row.cells, strict=False))) for row in rows]
    return names, rows
