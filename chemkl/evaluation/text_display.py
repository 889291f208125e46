"""The measures of texts as tables for the terminal: one row per run, one per method."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from chemkl.evaluation.text_metrics import ALL, PROMPTS
from chemkl.results.cells import cell

_TEXTS = {
    "n_texts": ("texts", ",.0f"),
    "reward": ("reward", ".3f"),
    "tokens": ("tokens", ".1f"),
    "distinct_texts": ("distinct", ".1%"),
    "distinct": ("dist-n", ".3f"),
    "ead": ("EAD", ".3f"),
    "semantic_diversity": ("semantic", ".3f"),
    "clusters": ("clusters", ".1f"),
    "top_cluster_share": ("top", ".1%"),
    "text_vendi": ("Vendi", ".1f"),
}
_ANSWERS = {
    "reward": ("reward", ".3f"),
    "validity": ("valid", ".1%"),
    "distinct_answers": ("answers", ".1f"),
    "answer_entropy": ("entropy", ".3f"),
    "effective_answers": ("eff.", ".2f"),
    "answer_top_share": ("top", ".1%"),
    "exact_entropy": ("exact", ".3f"),
    "exact_entropy_ref": ("ref.", ".3f"),
    "exact_mass": ("mass", ".1%"),
    "exact_kl_from_ref": ("KL", ".3f"),
}
_OF_TEXT = ("distinct", "ead", "semantic_diversity")
_OF_ANSWERS = ("answer_entropy", "exact_entropy")


def text_tables(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[Mapping[str, Any]]
) -> Iterator[Table | str]:
    """A table of the texts as a whole, per prompt, of the answers and the methods, and a key."""
    whole = [row for row in rows if row["scope"] == ALL]
    mean = [row for row in rows if row["scope"] == PROMPTS]
    several = [row for row in mean if row["n_prompts"] > 1]
    has_text = any(row[name] is not None for row in whole for name in _OF_TEXT)
    if has_text:
        yield _table("All texts", whole, _TEXTS)
    if has_text and several:
        yield _table("Per prompt: the mean over the prompts", several, _TEXTS)
    answered = [row for row in mean if any(row[name] is not None for name in _OF_ANSWERS)]
    if answered:
        yield _table("Answers, per prompt", answered, _ANSWERS)
    for scope, title, columns, wanted in (
        (ALL, "Methods, all texts: ± sd", _TEXTS, has_text),
        (PROMPTS, "Methods, answers: ± sd", _ANSWERS, bool(answered)),
    ):
        own = [row for row in methods if row["scope"] == scope and row["metric"] in columns]
        if own and wanted:
            yield _methods(title, own, columns)
    yield _key(has_text=has_text, answered=bool(answered))


def _table(
    title: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]
) -> Table:
    """One row per run; columns that are empty for all runs are left out."""
    shown = {
        name: how for name, how in columns.items() if any(row[name] is not None for row in rows)
    }
    table = _empty(title, "run", [label for label, _ in shown.values()])
    for row in rows:
        values = [cell(row[name], how) for name, (_, how) in shown.items()]
        table.add_row(Text(str(row["run"])), *values)
    return table


def _methods(
    title: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]
) -> Table:
    """One row per measure, one column per method: means with their spread are wide."""
    by_place = {(row["method"], row["metric"]): row for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    runs = {name: max(row["n"] for row in rows if row["method"] == name) for name in methods}
    table = _empty(title, "", [Text(f"{name}, n = {runs[name]}") for name in methods])
    for metric, (label, how) in columns.items():
        found = [by_place.get((method, metric)) for method in methods]
        if metric != "n_texts" and any(found):
            table.add_row(label, *(_mean(row, how) for row in found))
    return table


def _mean(row: Mapping[str, Any] | None, how: str) -> str:
    if row is None:
        return cell(None, how)
    spread = "" if row["sd"] is None else f" ± {cell(row['sd'], how)}"
    return f"{cell(row['mean'], how)}{spread}"


def _empty(title: str, first: str, labels: Sequence[str | Text]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    table.add_column(first, overflow="fold", min_width=6)
    for label in labels:
        table.add_column(label, justify="right", no_wrap=isinstance(label, str))
    return table


def _key(*, has_text: bool, answered: bool) -> str:
    text = (
        "dist-n, EAD: distinct n-grams, plain and expectation-adjusted, mean over n; semantic: "
        "mean cosine distance of sentence embeddings; top: share of the largest cluster. All "
        "depend on the number of texts: compare them at equal numbers. "
    )
    answers = (
        "entropy: of the sampled answers, in nats; exact, ref.: of the policy's and the "
        "reference's probabilities of the bare answers, as the tokenizer cuts them; mass: their "
        "sum; KL: from the reference, over these answers."
    )
    return ((text if has_text else "") + (answers if answered else "")).strip()
