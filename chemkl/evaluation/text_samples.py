"""Texts to be evaluated: the last samples of a run, its exact answers; what of them counts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.display import is_missing
from chemkl.results import Manifest, find_trace, read_trace
from chemkl.results.trace import read_part

COMPLETION, PROMPT, ANSWER, REWARD = "completion", "prompt", "answer", "reward"
NEEDED = ("step", "row", PROMPT, COMPLETION, REWARD, "is_replay")
ANSWERS_FILE = "answers.parquet"
EXACT_COLUMNS = ("step", PROMPT, ANSWER, "logp_policy", "logp_ref")


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
        n_missing: texts that the source has no value for; they stand as empty ones.
        molecules: the texts of a run are SMILES and nothing around them, each one word: measures
            of text say nothing about them.
    """

    name: str
    texts: pd.DataFrame
    exact: pd.DataFrame | None = None
    method: str | None = None
    seed: int | None = None
    n_missing: int = 0
    molecules: bool = False


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
    late = by_prompt.tail(max(1, late_samples // max(1, by_prompt.ngroups))).reset_index(drop=True)
    manifest = Manifest.load(folder)
    texts = tidied(late[columns], str(folder))
    return TextSamples(
        name,
        texts,
        read_exact(folder),
        method,
        manifest.seed if manifest else None,
        molecules=_is_of_molecules(manifest) and _is_of_single_words(texts),
    )


def _is_of_molecules(manifest: Manifest | None) -> bool:
    reward = manifest.config.get("reward") if manifest else None
    return isinstance(reward, dict) and reward.get("kind") == "smiles"


def _is_of_single_words(texts: pd.DataFrame) -> bool:
    """Whether more than half of the texts that are not empty have no blank inside."""
    words = [len(text.split()) for text in texts[COMPLETION]]
    return words.count(1) > sum(n > 1 for n in words)


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


def tidied(texts: pd.DataFrame, where: str) -> pd.DataFrame:
    """Texts, prompts and answers as plain str, None for a missing answer.

    Raises:
        InputError: there is no text but empty ones.
    """
    plain = pd.DataFrame(index=texts.index)
    for column in (PROMPT, COMPLETION):
        plain[column] = pd.Series(
            ["" if is_missing(each) else str(each) for each in texts[column]],
            index=texts.index,
            dtype=object,
        )
    if ANSWER in texts.columns:
        answers = [None if is_missing(each) else str(each) for each in texts[ANSWER]]
        plain[ANSWER] = pd.Series(answers, index=texts.index, dtype=object)
    if REWARD in texts.columns:
        plain[REWARD] = texts[REWARD].astype(float)
    if not any(text.strip() for text in plain[COMPLETION]):
        raise InputError(f"{where}: no completions: all {len(plain)} texts are empty.")
    return plain


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


def left_out(samples: TextSamples, max_texts: int) -> Iterator[str]:
    """Say which texts and rewards are not in the measures of text, and why; nothing: all are."""
    if samples.molecules:
        yield (
            f"{samples.name}: it writes SMILES, of which measures of text say nothing (each is one "
            "word): left out of them. `chemkl evaluate` measures molecules."
        )
        return
    texts = samples.texts
    n, blank = len(texts), sum(not text.strip() for text in texts[COMPLETION])
    kinds = {"missing (null)": samples.n_missing, "empty": blank - samples.n_missing}
    parts = [
        f"{count:,} {'is' if count == 1 else 'are'} {why}" for why, count in kinds.items() if count
    ]
    if parts:
        yield f"{samples.name}: of {n:,} texts {' and '.join(parts)}: left out of what is measured."
    if n - blank > max_texts:
        yield (
            f"{samples.name}: a random {max_texts:,} of its {n - blank:,} texts are measured "
            "(options.max_texts)."
        )
    no_reward = int(texts[REWARD].isna().sum()) if REWARD in texts.columns else 0
    if no_reward:
        yield f"{samples.name}: {no_reward:,} of {n:,} texts have no reward; the mean is without."
