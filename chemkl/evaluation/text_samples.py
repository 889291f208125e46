"""Texts to be evaluated: the last samples of a run, its exact answers, or a file of texts."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from chemkl.config import InputError, did_you_mean
from chemkl.config.text_evaluate import TextFile
from chemkl.results import Manifest, find_trace, read_trace
from chemkl.results.parts import read_part

COMPLETION, PROMPT, ANSWER, REWARD = "completion", "prompt", "answer", "reward"
TEXT_COLUMNS = (COMPLETION, "text", "response", "output")
NEEDED = ("step", "row", PROMPT, COMPLETION, REWARD, "is_replay")
ANSWERS_FILE = "answers.parquet"
EXACT_COLUMNS = ("step", PROMPT, ANSWER, "logp_policy", "logp_ref")
ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet", ".txt")


@dataclass(frozen=True)
class TextSamples:
    """What one run or file wrote.

    Attributes:
        name: of the run or file.
        texts: a row for each text, in order: prompt, completion, and where the source has them
            answer (None: no valid one) and reward.
        exact: of a run that records them: step, prompt, answer, logp_policy, logp_ref of each valid
            answer.
        method: to which it belongs; None: to none.
        seed: of the run; None for a file.
    """

    name: str
    texts: pd.DataFrame
    exact: pd.DataFrame | None = None
    method: str | None = None
    seed: int | None = None


def read_text_run(
    name: str, folder: Path, late_samples: int, method: str | None = None
) -> TextSamples:
    """Read the last samples of a run, and its exact answers if it has written any.

    Args:
        name: what the run is called.
        folder: of the run.
        late_samples: how many to take: as many of each prompt, its own last ones. Within a step
            the rows of a trace stand prompt by prompt, so that the last rows would leave prompts
            out.
        method: to which it belongs.

    Raises:
        InputError: no trace, no text in it, or a file with missing columns.
    """
    has_answers = ANSWER in check_text_run(folder)
    columns = [PROMPT, COMPLETION, *([ANSWER] if has_answers else []), REWARD]
    trace = read_trace(folder, [*columns, "is_replay"])  # in the order of step and row
    sampled = trace[~trace["is_replay"].astype(bool)]
    by_prompt = sampled.groupby(PROMPT, sort=False)
    late = by_prompt.tail(max(1, late_samples // by_prompt.ngroups)).reset_index(drop=True)
    manifest = Manifest.load(folder)
    return TextSamples(
        name,
        _tidied(late[columns], str(folder)),
        read_exact(folder),
        method,
        manifest.seed if manifest else None,
    )


def check_text_run(folder: Path) -> list[str]:
    """Look whether the trace of a run holds texts, without reading it.

    Returns:
        The columns of the trace.

    Raises:
        InputError: it does not.
    """
    names = pq.read_schema(find_trace(folder)[0].path).names
    missing = [each for each in NEEDED if each not in names]
    if COMPLETION in missing and "smiles" in names:
        raise InputError(
            f"{folder}: its trace has SMILES and no completions: a run of the posttrain stage, "
            "which `chemkl evaluate` evaluates. evaluate_text takes runs of posttrain_llm."
        )
    if missing:
        raise InputError(
            f"{folder}: its trace lacks {', '.join(missing)}; expected the trace of a run of "
            f"posttrain_llm. It has: {', '.join(names)}"
        )
    return list(names)


def read_exact(folder: Path) -> pd.DataFrame | None:
    """Read the exact log-probabilities of the valid answers; None where a run has none.

    Raises:
        InputError: the file is damaged, or lacks columns.
    """
    path = folder / ANSWERS_FILE
    if not path.exists():
        return None
    table = read_part(path)
    missing = [each for each in EXACT_COLUMNS if each not in table.column_names]
    if missing or not table.num_rows:
        wrong = f"lacks {', '.join(missing)}" if missing else "has no rows"
        raise InputError(
            f"{path}: {wrong}; expected {', '.join(EXACT_COLUMNS)}, as posttrain_llm writes them. "
            "Run it again, or move the file away to evaluate the samples alone."
        )
    frame: pd.DataFrame = table.select(list(EXACT_COLUMNS)).to_pandas()
    frame[PROMPT] = frame[PROMPT].astype(str)
    return frame


def read_text_file(name: str, file: TextFile) -> TextSamples:
    """Read a file of texts.

    Raises:
        InputError: an unknown ending, a damaged file, no such column, or no text in it.
    """
    frame = _frame(file.path)
    if frame.empty:
        raise InputError(f"{file.path}: no texts in it; expected at least one.")
    column = file.column or _default_column(frame, file.path)
    prompt = file.prompt_column or (PROMPT if PROMPT in frame.columns else None)
    for wanted in filter(None, (column, prompt)):
        if wanted not in frame.columns:
            known = did_you_mean(wanted, map(str, frame.columns))
            raise InputError(f"{file.path}: no column {wanted!r}{known}")
    chosen = {PROMPT: frame[prompt] if prompt else "", COMPLETION: frame[column]}
    if ANSWER in frame.columns:
        chosen[ANSWER] = frame[ANSWER]
    if REWARD in frame.columns:
        chosen[REWARD] = pd.to_numeric(frame[REWARD], errors="coerce")
    return TextSamples(name, _tidied(pd.DataFrame(chosen), str(file.path)))


def _tidied(texts: pd.DataFrame, where: str) -> pd.DataFrame:
    """Texts, prompts and answers as plain str, None for a missing answer.

    Raises:
        InputError: there is no text but empty ones.
    """
    plain = pd.DataFrame(index=texts.index)
    for column in (PROMPT, COMPLETION):
        plain[column] = pd.Series(
            ["" if pd.isna(each) else str(each) for each in texts[column]],
            index=texts.index,
            dtype=object,
        )
    if ANSWER in texts.columns:
        answers = [None if pd.isna(each) else str(each) for each in texts[ANSWER]]
        plain[ANSWER] = pd.Series(answers, index=texts.index, dtype=object)
    if REWARD in texts.columns:
        plain[REWARD] = texts[REWARD].astype(float)
    if not any(text.strip() for text in plain[COMPLETION]):
        raise InputError(f"{where}: no completions: all {len(plain)} texts are empty.")
    return plain


def _frame(path: Path) -> pd.DataFrame:
    ending = path.suffix.lower()
    if path.is_dir() or ending not in ENDINGS:
        raise InputError(
            f"{path}: cannot be read as texts. Give a file that ends in {', '.join(ENDINGS)}; the "
            "folder of a run belongs under `runs`."
        )
    try:
        if ending == ".parquet":
            frame: pd.DataFrame = pq.read_table(path).to_pandas()
            return frame
        if ending == ".jsonl":
            return pd.DataFrame(_json_lines(path))
        if ending == ".txt":
            lines = path.read_text(encoding="utf-8").splitlines()
            return pd.DataFrame({COMPLETION: [line for line in lines if line.strip()]})
        delimiter = "\t" if ending == ".tsv" else ","
        return pd.read_csv(
            path, sep=delimiter, dtype=str, keep_default_na=False, skip_blank_lines=False
        )
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, UnicodeDecodeError, pa.ArrowException, pd.errors.ParserError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}).") from error


def _json_lines(path: Path) -> Iterator[dict[str, object]]:
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
            yield row


def _default_column(frame: pd.DataFrame, path: Path) -> str:
    for name in TEXT_COLUMNS:
        if name in frame.columns:
            return name
    if len(frame.columns) == 1:
        return str(frame.columns[0])
    raise InputError(
        f"{path}: no column is called {' or '.join(TEXT_COLUMNS)}; say which one it is with "
        f"`column`. Known: {', '.join(map(str, frame.columns))}"
    )


def chosen_texts(texts: pd.DataFrame, size: int, seed: int) -> pd.DataFrame:
    """The texts that are not empty; beyond `size`, so many at random, their order kept."""
    full = texts[[bool(text.strip()) for text in texts[COMPLETION]]]
    if len(full) <= size:
        return full
    rows = np.random.default_rng(seed).choice(len(full), size, replace=False)
    return full.iloc[np.sort(rows)]


def prompts_of(texts: pd.DataFrame) -> Sequence[str]:
    """The prompts in the order in which they appear."""
    return list(dict.fromkeys(texts[PROMPT]))
