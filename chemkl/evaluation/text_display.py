"""The measures of texts as tables for the terminal: one row per run, one per method."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from chemkl.config.evaluate import EvaluateTextConfig
from chemkl.display import cell
from chemkl.evaluation.text_metrics import ALL, OF_TEXT, PROMPTS

_OF_ANSWERS = ("validity", "exact_k")


class _Column(NamedTuple):
    """A column as it is shown: its label, its format, and what the key says of it."""

    label: str
    how: str
    meaning: str


_TEXTS = {
    "n_texts": _Column("texts", ",.0f", "those that are not empty and were measured"),
    "reward": _Column("reward", ".3f", "mean raw reward"),
    "tokens": _Column("tokens", ".1f", "mean number of a text"),
    "distinct_texts": _Column("distinct", ".1%", "different texts / texts"),
    "distinct": _Column("dist-n", ".3f", "distinct n-grams, mean over n"),
    "ead": _Column("EAD", ".3f", "the same, expectation-adjusted"),
    "semantic_diversity": _Column("semantic", ".3f", "mean cosine distance of sentence embeddings"),
    "clusters": _Column("clusters", ".1f", "of the embeddings"),
    "top_cluster_share": _Column("top", ".1%", "share of the largest cluster"),
    "text_vendi": _Column("Vendi", ".1f", "effective number of different texts"),
}
_ANSWERS = {
    "reward": _Column("reward", ".3f", "mean raw reward"),
    "validity": _Column("valid", ".1%", "share of samples with a valid answer"),
    "distinct_answers": _Column("answers", ".1f", "different valid ones"),
    "answer_entropy": _Column("entropy", ".3f", "of the sampled valid answers, in nats"),
    "effective_answers": _Column("eff.", ".2f", "exp of it, the effective number of answers"),
    "answer_top_share": _Column("top", ".1%", "share of the commonest valid answer"),
    "exact_entropy": _Column(
        "exact",
        ".3f",
        "entropy of the policy's probabilities of the bare answers, as the tokenizer cuts them",
    ),
    "exact_entropy_ref": _Column("ref.", ".3f", "the same of the reference"),
    "exact_mass": _Column("mass", ".1%", "sum of the policy's probabilities"),
    "exact_kl_from_ref": _Column("KL", ".3f", "from the reference, over these answers"),
}
_Columns = Mapping[str, _Column]
_Row = Mapping[str, Any]
_NUMBERED = "Measures of diversity depend on the number of texts: compare them at equal numbers."


def text_tables(
    rows: Sequence[_Row], methods: Sequence[_Row], settings: EvaluateTextConfig
) -> Iterator[Table | str]:
    """The tables of texts as a whole, per prompt, of the answers and the methods; then a key.

    What is wanted and not defined for a run is said in a line, with the reason.

    Args:
        rows: of all runs and files.
        methods: means over runs.
        settings: which measures are wanted, and how they were computed.
    """
    wanted = set(OF_TEXT) & set(settings.measures)
    whole = [row for row in rows if row["scope"] == ALL and wanted and row["tokens"] is not None]
    names = {row["run"] for row in whole}
    mean = [row for row in rows if row["scope"] == PROMPTS]
    several = [row for row in mean if row["n_prompts"] > 1 and row["run"] in names]
    answered = [row for row in mean if any(row[name] is not None for name in _OF_ANSWERS)]
    if whole:
        yield _table("All texts", whole, _TEXTS)
    if several:
        yield _table("Per prompt: the mean over the prompts", several, _TEXTS)
    if answered:
        yield _table("Answers, per prompt", answered, _ANSWERS)
    for scope, title, columns, own in (
        (ALL, "Methods, all texts: ± sd", _TEXTS, whole),
        (PROMPTS, "Methods, answers: ± sd", _ANSWERS, answered),
    ):
        of_these = {row["method"] for row in own}
        means = [
            row
            for row in methods
            if row["scope"] == scope and row["metric"] in columns and row["method"] in of_these
        ]
        if means:
            yield _methods(title, means, columns)
    if whole:
        yield f"{_key('Texts', [*whole, *several], _TEXTS)} {_NUMBERED}"
    if answered:
        yield _key("Answers", answered, _ANSWERS)
    yield from _undefined(whole, answered, settings)


def _shown(rows: Sequence[_Row], columns: _Columns) -> dict[str, _Column]:
    """The columns that are not empty for all runs."""
    return {
        name: column
        for name, column in columns.items()
        if any(row[name] is not None for row in rows)
    }


def _key(about: str, rows: Sequence[_Row], columns: _Columns) -> str:
    """Explain the columns that are shown, and no others."""
    parts = [f"{each.label}: {each.meaning}" for each in _shown(rows, columns).values()]
    return f"{about}. {'; '.join(parts)}."


def _undefined(
    whole: Sequence[_Row], answered: Sequence[_Row], settings: EvaluateTextConfig
) -> Iterator[str]:
    """Say which measures have no value for which runs, and why."""
    longest = max(settings.options.ngrams)
    for measure, rows, name, without, reason in (
        (
            "ngrams",
            whole,
            "distinct",
            "dist-n and EAD",
            f"no text has {longest} tokens, which the "
            "longest of options.ngrams needs; text_diversity.parquet has them for each n alone",
        ),
        ("embedding", whole, "semantic_diversity", "semantic", "it takes at least 2 texts"),
        (
            "answers",
            [row for row in answered if row["validity"] is not None],
            "answer_entropy",
            "entropy, eff. and top",
            "no sample has a valid answer",
        ),
        (
            "answers",
            [row for row in answered if row["exact_k"] is not None],
            "exact_entropy",
            "exact and KL",
            "the policy gives these answers no probability",
        ),
    ):
        runs = [str(row["run"]) for row in rows if row[name] is None]
        if measure in settings.measures and runs:
            yield f"{', '.join(runs)}: {without} not defined: {reason}."


def _table(title: str, rows: Sequence[_Row], columns: _Columns) -> Table:
    """One row per run; columns that are empty for all runs are left out."""
    shown = _shown(rows, columns)
    table = _empty(title, "run", [column.label for column in shown.values()])
    for row in rows:
        values = [cell(row[name], column.how) for name, column in shown.items()]
        table.add_row(Text(str(row["run"])), *values)
    return table


def _methods(title: str, rows: Sequence[_Row], columns: _Columns) -> Table:
    """One row per measure, one column per method: means with their spread are wide."""
    by_place = {(row["method"], row["metric"]): row for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    runs = {name: max(row["n"] for row in rows if row["method"] == name) for name in methods}
    table = _empty(title, "", [Text(f"{name}, n = {runs[name]}") for name in methods])
    for metric, column in columns.items():
        found = [by_place.get((method, metric)) for method in methods]
        if metric != "n_texts" and any(found):
            table.add_row(column.label, *(_mean(row, column.how) for row in found))
    return table


def _mean(row: _Row | None, how: str) -> str:
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
