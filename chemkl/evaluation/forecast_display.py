"""A forecast as tables for the terminal, with its sentences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from chemkl.evaluation.crossovers import Crossover, Family
from chemkl.evaluation.display import cell
from chemkl.evaluation.forecast_rows import Foretold
from chemkl.evaluation.forecast_words import crossover_sentence, short

MARK = "?"

_TARGET_COLUMNS = {
    "sigma": ("sigma", ".4g"),
    "tau": ("tau", ".3g"),
    "top_share": ("top", ".1%"),
    "top_share_error": ("+-", ".1%"),
    "effective_scaffolds": ("eff.", ",.0f"),
    "acyclic_share": ("acyclic", ".1%"),
    "hit_share": ("hits", ".1%"),
    "mean_reward": ("mean R", ".3f"),
    "kl_to_prior": ("KL", ".1f"),
    "ess": ("ESS", ",.1f"),
    "bonus_mean": ("bonus", ".3f"),
    "bonus_std": ("+-", ".3f"),
}
_RUN_COLUMNS = {
    "top_share": ("top", ".1%"),
    "effective_scaffolds": ("eff.", ",.0f"),
    "acyclic_share": ("acyclic", ".1%"),
    "hit_share": ("hits", ".1%"),
    "mean_reward": ("mean R", ".3f"),
    "ess": ("ESS", ",.1f"),
}


def target_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each target: what it asks for, and from how many samples that is known."""
    table = _table("The targets, foretold from the prior", ["target"], _TARGET_COLUMNS)
    for row in rows:
        name = f"{row['target']} *" if row["own"] else str(row["target"])
        table.add_row(name, *_cells(row, _TARGET_COLUMNS), "" if row["trusted"] else MARK)
    return table


def family_table(families: Sequence[Family]) -> Table:
    """The main scaffold families."""
    columns = {name: (name, "") for name in ("prior", "largest", "at sigma", "best R")}
    table = _table("The main scaffold families under gibbs", ["scaffold"], columns)
    for family in families:
        sigma = "prior" if family.beta is None else f"{1 / family.beta:.4g}"
        shares = (f"{family.prior_share:.2%}", f"{family.largest_share:.2%}")
        table.add_row(Text(short(family.scaffold)), *shares, sigma, f"{family.best_reward:.3f}")
    return table


def run_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """For each run what was predicted for its own target and what training gave."""
    n = max(row["n"] for row in rows)
    title = f"What was foretold, and what training gave: {n:,} valid samples each"
    table = _table(title, ["run", "target", ""], _RUN_COLUMNS)
    for row in rows:
        first = row["source"] == "prior"
        target = (
            f"{row['target']} {row['sigma']:.4g}{' + filter' if row['diversity_filter'] else ''}"
        )
        run = (Text(row["run"]), Text(target)) if first else ("", "")
        texts = (*run, str(row["source"]))
        table.add_row(*texts, *_cells(row, _RUN_COLUMNS), MARK if row["trusted"] is False else "")
    return table


def legend(min_ess: float) -> str:
    """How the tables are to be read."""
    return (
        "*: the target of this config. top: share of the largest Bemis-Murcko scaffold, with its "
        "standard error; eff.: exp of the entropy over scaffolds; hits: share with R >= tau; KL: "
        "to the prior, nats; ESS: effective sample size; bonus: what MARA adds to R on hits. "
        f"{MARK}: not trustworthy, ESS below {min_ess:g}."
    )


def page(
    found: Foretold,
    runs: Sequence[Mapping[str, Any]],
    counts: Mapping[str, int],
    *,
    min_ess: float,
) -> Iterator[Table | str]:
    """Everything, in the order in which it is to be read: tables, how to read them, sentences."""
    yield (
        f"{counts['samples']:,} samples of the prior, {counts['valid']:,} valid, for "
        f"{counts['calls']:,} oracle calls"
    )
    yield target_table(found.rows)
    yield family_table(found.families)
    if runs:
        yield run_table(runs)
    yield legend(min_ess)
    yield "\n".join(["", *found.sentences, *crossover_lines(found.crossovers)])


def crossover_lines(found: Sequence[Crossover]) -> Iterator[str]:
    """The crossovers that are known well, as sentences, and how many are not."""
    if not found:
        yield "No crossover among the main families: their order is the same at every beta."
    yield from (crossover_sentence(crossing) for crossing in found if crossing.trusted)
    unsure = sum(not crossing.trusted for crossing in found)
    if unsure:
        yield f"Crossovers that too few molecules tell: {unsure}; they are in the JSON file."


def _table(title: str, texts: Sequence[str], columns: Mapping[str, tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    for label in texts:
        table.add_column(label, no_wrap=True)
    for label, _ in columns.values():
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


def _cells(row: Mapping[str, Any], columns: Mapping[str, tuple[str, str]]) -> list[str]:
    return [cell(row.get(name), how) for name, (_, how) in columns.items()]
