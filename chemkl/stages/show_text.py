"""How a language model's run without molecules looks in a terminal: counts, frequent answers."""

from collections.abc import Iterator

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from chemkl.display import MISSING, cell
from chemkl.results.inspection import RunTrace, TextCounts, count_text, frequent_answers
from chemkl.stages import show_tables

MOST_PROMPTS = 10
"""Prompts whose answers are shown at most."""

_NUMBERS_WIDTH = 28
"""What the columns beside prompt and answer take."""

_LEAST_ROOM = 8
"""What an answer has in any case."""


def tables(
    run: RunTrace, threshold: float | None, top: int, width: int
) -> Iterator[RenderableType]:
    """Counts, and the most frequent answers to each prompt.

    Args:
        run: of a language model, without a molecule.
        threshold: answers with a raw reward R of at least this are hits.
        top: how many answers to each prompt.
        width: of the terminal.
    """
    yield _counts_table(count_text(run.frame, threshold), run, threshold)
    yield ""
    yield from _answers_tables(frequent_answers(run.frame, top), width)


def _counts_table(counts: TextCounts, run: RunTrace, threshold: float | None) -> RenderableType:
    """How much was written, scored and found."""
    n = max(counts.completions, 1)
    table = show_tables.table_of_counts()
    prompts = f"to {counts.prompts:,} prompt{'' if counts.prompts == 1 else 's'}"
    table.add_row("completions", f"{counts.completions:,}", f"sampled, {prompts}")
    table.add_row("valid", f"{counts.valid:,}", f"{counts.valid / n:.1%} of them have an answer")
    if counts.truncated:
        share = f"{counts.truncated / n:.1%} of them had no end, and failed"
        table.add_row("truncated", f"{counts.truncated:,}", share)
    each = "answers" if counts.prompts == 1 else "answers, each counted for each prompt"
    table.add_row("distinct", f"{counts.distinct:,}", each)
    table.add_row("calls", f"{counts.calls:,}", show_tables.of_budget(run))
    if counts.failed:
        table.add_row("failed", f"{counts.failed:,}", "valid completions that could not be scored")
    if threshold is None:
        table.add_row("hits", MISSING, show_tables.no_tau(run))
    else:
        found = f"answers with R >= {threshold:g}, in {counts.hit_completions or 0:,} completions"
        table.add_row("hits", f"{counts.hits or 0:,}", found)
    if counts.best is not None:
        table.add_row("best R", f"{counts.best:.4g}", "the largest raw reward")
    return show_tables.titled("Counts", table)


def _answers_tables(answers: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    """The most frequent answers; how many prompts there are beside those that are shown."""
    groups = answers["group"].unique()
    shown = answers[answers["group"].isin(groups[:MOST_PROMPTS])]
    prompts = [show_tables.prompt_cell(prompt) for prompt in shown["prompt"]]
    room = max(_LEAST_ROOM, width - _NUMBERS_WIDTH - max(map(len, ("prompt", *prompts)), default=0))
    table = show_tables.plain_table()
    for name in ("prompt", "answer", "valid"):
        table.add_column(name, no_wrap=True)
    for name in ("share", "mean R"):
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for prompt, (_, row) in zip(prompts, shown.iterrows(), strict=True):
        table.add_row(
            Text(prompt if row["group"] != before else ""),
            Text(_on_one_line(row["text"], room)),
            "yes" if row["valid"] else "no",
            cell(row["share"], ".2%"),
            cell(row["mean_reward"], ".4g"),
        )
        before = row["group"]
    title = "Most frequent answers to each prompt; where none is valid, the completion"
    yield show_tables.titled(title, table)
    if len(groups) > MOST_PROMPTS:
        yield f"{MOST_PROMPTS} of {len(groups):,} prompts; --sql answers for the others"


def _on_one_line(text: str, room: int) -> str:
    """A text in so many characters; in quotes where white space would not be seen."""
    shown = text if text.isprintable() and text and text == text.strip() else repr(text)
    return shown if len(shown) <= room else f"{shown[: room - 1]}…"
