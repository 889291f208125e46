"""The didactic stage: the paper's Figs 1-5 from closed forms and from training, with their numbers.

Source: GX-Chen et al., arXiv 2510.20817.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table
from torch import Tensor

from chemkl.didactic.config import DidacticConfig
from chemkl.didactic.experiments import Experiment, experiments
from chemkl.didactic.figures import draw
from chemkl.didactic.learning import learn, policy_of
from chemkl.didactic.quantities import distribution_table, quantity_table, sweep_table
from chemkl.display import Bar, Column, cell, table
from chemkl.policies.base import stream
from chemkl.reports.figures import to_png, to_svg
from chemkl.results import write_bytes, write_parquet

CONVERGED = 0.02
"""Total variation distance within which a trained policy counts as at its optimum."""
SWEPT = 2
"""The figure that shows both modes over beta."""

_COLUMNS = (
    Column("figure", "fig"),
    Column("experiment", "policy"),
    Column("quantity", "number"),
    Column("source", "source"),
    Column("value", "value", str),
    Column("closed_form", "closed form", ".4f"),
    Column("trained", "trained", str),
    Column("tv", "TV", ".4f"),
)
_NOTE = (
    "trained: of several values that are to be equal, their mean and (least to most). TV: total "
    "variation distance of the trained policy to the exact optimum. formula: worked out from the "
    "paper's formulas apart from the code."
)


def work(config: DidacticConfig, start: Any) -> None:
    """Train, compare, draw: ``fig<N>.png`` and ``.svg``, ``quantities.parquet`` and the curves.

    Args:
        config: the settings.
        start: of the stage, see `chemkl.stages.runner.Start`.

    Raises:
        InputError: the folder holds the output of others.
    """
    with start.claim() as manifest:
        chosen = [one for one in experiments() if one.figure in config.figures]
        trained = _train(chosen, config)
        tables = {
            "quantities": quantity_table(chosen, trained),
            "distributions": distribution_table(chosen, trained),
        }
        if SWEPT in config.figures:
            tables["sweep"] = sweep_table()
        for name, rows in tables.items():
            write_parquet(start.out / f"{name}.parquet", rows)
        frames = {name: rows.to_pandas() for name, rows in tables.items()}
        for number in config.figures:
            figure = draw(number, frames["distributions"], frames.get("sweep"))
            write_bytes(start.out / f"fig{number}.png", to_png(figure))
            write_bytes(start.out / f"fig{number}.svg", to_svg(figure))
        worst = float(frames["quantities"]["tv"].max())
        manifest.finish(results={"figures": list(config.figures), "largest_tv": worst})
    start.console.print(_comparison(frames["quantities"]), highlight=False)
    start.console.print(_NOTE, highlight=False)
    if worst > CONVERGED:
        start.console.print(
            f"largest TV {worst:.4f}: not converged, take more steps (learning.steps)",
            highlight=False,
        )


def _train(chosen: Sequence[Experiment], config: DidacticConfig) -> list[Tensor]:
    """The distribution (V,) that each ends with; every one has a random stream of its own."""
    trained = []
    with Bar("", len(chosen) * config.learning.steps, "steps") as bar:
        for number, experiment in enumerate(chosen):
            label = f"fig {experiment.figure}: {experiment.name}"
            bar.at(number * config.learning.steps, label=label)
            trained.append(
                learn(
                    policy_of(experiment.family, experiment.world.n_tokens),
                    experiment.world,
                    experiment.objective(config.learning),
                    config.learning,
                    stream(config.seed, 0, purpose=label),
                    on_step=bar.advance,
                )
            )
    return trained


def _comparison(frame: pd.DataFrame) -> Table:
    """The comparison for the terminal; each figure's number once."""
    rows: list[Any] = [
        {**row, "value": _as_stated(row), "trained": _spread(row)}
        for row in frame.to_dict("records")
    ]
    return table("Figures of arXiv 2510.20817", _COLUMNS, rows, group=True)


def _as_stated(row: Mapping[Any, Any]) -> str:
    """A stated value with the digits that its tolerance leaves it."""
    digits = math.ceil(-math.log10(2 * row["tolerance"]) - 1e-9)
    return format(row["value"], f".{max(digits, 0)}f")


def _spread(row: Mapping[Any, Any]) -> str:
    mean, least, most = (cell(row[f"trained{end}"], ".4f") for end in ("", "_min", "_max"))
    return mean if least == most else f"{mean} ({least} to {most})"
