"""A forecast as tables for the terminal, with its sentences."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from chemkl.display import MISSING, cell, short
from chemkl.evaluation.crossovers import FAMILY_ESS, Family
from chemkl.evaluation.forecast_rows import Foretold
from chemkl.evaluation.forecast_words import MOVED, number
from chemkl.evaluation.tables import SHOWN_SCAFFOLD

MARK = "?"
MOST_TAUS = 4
"""Up to so many, each tau has a column of its own for the hits; more do not fit a line."""

_Columns = Mapping[str, tuple[str, str | Callable[[float], str]]]

_TARGET_COLUMNS: _Columns = {
    "sigma": ("sigma", ".4g"),
    "tau": ("tau", ".3g"),
    "top_share": ("top", ".1%"),
    "top_share_error": ("+-", ".1%"),
    "effective_scaffolds": ("eff.", ",.0f"),
    "acyclic_share": ("acyclic", ".1%"),
    "hit_share": ("hits", ".1%"),
    "mean_reward": ("mean R", ".3f"),
    "kl_to_prior": ("KL", ".1f"),
    "ess": ("ESS", number),
    "bonus_mean": ("bonus", ".3f"),
    "bonus_std": ("+-", ".3f"),
}
_RUN_COLUMNS: _Columns = {
    "top_share": ("top", ".1%"),
    "effective_scaffolds": ("eff.", ",.0f"),
    "acyclic_share": ("acyclic", ".1%"),
    "tau": ("tau", ".3g"),
    "hit_share": ("hits", ".1%"),
    "mean_reward": ("mean R", ".3f"),
    "ess": ("ESS", number),
}


def target_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each target: what it asks for, and from how many samples that is known.

    Prior and gibbs have no tau: they stand there once, with a column of hits for each tau.
    """
    shown, columns = rows, _TARGET_COLUMNS
    taus = list(dict.fromkeys(row["tau"] for row in rows))
    if len(taus) <= MOST_TAUS:
        shown, columns = _with_hits_by_tau(rows), _hits_by_tau(columns, taus)
    table = _table("The targets, foretold from the prior", ["target"], columns)
    for row in shown:
        name = f"{row['target']} *" if row["own"] else str(row["target"])
        table.add_row(name, *_cells(row, columns), "" if row["trusted"] else MARK)
    return table


def family_table(families: Sequence[Family]) -> Table:
    """The main scaffold families."""
    columns: _Columns = {name: (name, "") for name in ("prior", "largest", "at sigma", "best R")}
    table = _table("The main scaffold families under gibbs", ["scaffold"], columns)
    for family in families:
        sigma = "prior" if family.beta is None else f"{1 / family.beta:.4g}"
        shares = (f"{family.prior_share:.2%}", f"{family.largest_share:.2%}")
        table.add_row(
            Text(short(family.scaffold, SHOWN_SCAFFOLD)),
            *shares,
            sigma,
            f"{family.best_reward:.3f}",
        )
    return table


def run_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """For each run what was predicted for its own target and what training gave."""
    n = rows[0]["n"]
    title = f"What was foretold, and what training gave: {n:,} valid samples each"
    shortest = list(dict.fromkeys(row["run"] for row in rows if row["n_valid"] == n))
    if shortest:
        title = f"{title} (all that there are of {', '.join(shortest)})"
    table = _table(title, ["run", "target", ""], _RUN_COLUMNS)
    for column in table.columns[:2]:
        column.no_wrap, column.overflow = False, "fold"
    for row in rows:
        run = (row["run"], row["label"]) if row["source"] == "prior" else ("", "")
        mark = MARK if row["trusted"] is False else ""
        if row["source"] == "trained" and row["moved"]:
            mark = MOVED
        table.add_row(*map(Text, run), str(row["source"]), *_cells(row, _RUN_COLUMNS), mark)
    return table


def legend(min_ess: float, *, with_runs: bool) -> str:
    """How the tables are to be read."""
    runs = (
        " Of each run the last samples are counted; prior and forecast are what as many of theirs "
        f"show on average. {MOVED}: not trained towards the target that is forecast, see below."
    )
    return (
        "*: the target of this config. top: share of the largest Bemis-Murcko scaffold, with its "
        "standard error; eff.: exp of the entropy over scaffolds; hits, >=: share with R >= tau; "
        "KL: to the prior, nats; ESS: effective sample size; bonus: what MARA adds to R on hits. "
        f"{MARK}: not trustworthy, ESS below {min_ess:g} or a target of hits without a hit."
        f"{runs if with_runs else ''} A crossover of two families is stated where the standard "
        "error of its sigma is below half of sigma, for which fewer samples do than for shares: "
        f"each family has an ESS of at least {FAMILY_ESS} there."
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
    yield legend(min_ess, with_runs=bool(runs))
    yield "\n".join(["", *found.sentences])


def _with_hits_by_tau(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows, those without a tau of their own joined, each with the hits at its taus."""
    joined: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        tau = None if row["target"] in ("prior", "gibbs") else row["tau"]
        own = {"tau": tau, _hits_at(row["tau"]): row.get("hit_share")}
        one = joined.setdefault((row["target"], row["beta"], tau), {**row})
        one |= {**own, "own": one["own"] or row["own"]}
    return list(joined.values())


def _hits_by_tau(columns: _Columns, taus: Sequence[float]) -> _Columns:
    """The columns with one for the hits at each tau."""
    hits: _Columns = {_hits_at(tau): (f">={tau:.3g}", ".1%") for tau in taus}
    return {
        name: how
        for given in columns.items()
        for name, how in (hits.items() if given[0] == "hit_share" else (given,))
    }


def _hits_at(tau: float) -> str:
    return f"hits at {tau!r}"


def _table(title: str, texts: Sequence[str], columns: _Columns) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    for label in texts:
        table.add_column(label, no_wrap=True)
    for label, _ in columns.values():
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


def _cells(row: Mapping[str, Any], columns: _Columns) -> list[str]:
    return [_cell(row.get(name), how) for name, (_, how) in columns.items()]


def _cell(value: Any, how: str | Callable[[float], str]) -> str:
    if isinstance(how, str):
        return cell(value, how)
    return MISSING if value is None else how(value)
