"""The didactic stage: the paper's Figs 1-5 from closed forms and from training, with their numbers.

Source: GX-Chen et al., arXiv 2510.20817.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor

from chemkl.didactic.config import DidacticConfig
from chemkl.didactic.experiments import Experiment, experiments
from chemkl.didactic.figures import draw
from chemkl.didactic.learning import learn, policy_of
from chemkl.didactic.tables import distribution_table, quantity_table, sweep_table
from chemkl.policies.base import stream
from chemkl.reports.figures import to_png, to_svg
from chemkl.results import write_bytes, write_parquet

QUANTITIES = "quantities.parquet"
DISTRIBUTIONS = "distributions.parquet"
SWEEP = "sweep.parquet"
CONVERGED = 0.02
"""Total variation distance within which a trained policy counts as at its optimum."""
SWEPT = 2
"""The figure that shows both modes over beta."""
MISSING = "-"


def work(config: DidacticConfig, start: Any) -> None:
    """Train, compare, draw: ``fig<N>.png`` and ``.svg``, ``quantities.parquet`` and the curves.

    Args:
        config: the settings.
        start: of the stage, see `chemkl.stages.runner.Start`.

    Raises:
        InputError: the folder holds the output of others.
    """
    out_dir = start.out
    with start.claim() as manifest:
        ran = [each for each in experiments() if each.figure in config.figures]
        trained = _train(ran, config)
        numbers = quantity_table(ran, trained)
        curves = distribution_table(ran, trained)
        sweep = sweep_table() if SWEPT in config.figures else None
        write_parquet(out_dir / QUANTITIES, numbers)
        write_parquet(out_dir / DISTRIBUTIONS, curves)
        if sweep is not None:
            write_parquet(out_dir / SWEEP, sweep)
        _draw(out_dir, config.figures, curves, sweep)
        frame: pd.DataFrame = numbers.to_pandas()
        worst = frame["tv"].max()
        manifest.finish(results={"figures": list(config.figures), "largest_tv": float(worst)})
    console = start.console
    console.print(_shown(frame), highlight=False)
    console.print(_NOTE, highlight=False)
    if worst > CONVERGED:
        console.print(
            f"largest TV {worst:.4f}: not converged, take more steps (learning.steps)",
            highlight=False,
        )


_NOTE = (
    "trained: of several values that are to be equal, their mean and (least to most). TV: total "
    "variation distance of the trained policy to the exact optimum. formula: worked out from the "
    "paper's formulas apart from the code."
)


def _train(ran: Sequence[Experiment], settings: DidacticConfig) -> list[Tensor]:
    """The distribution (V,) that each ends with; every one has a random stream of its own."""
    trained = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        refresh_per_second=2,
    ) as progress:
        task = progress.add_task("", total=len(ran) * settings.learning.steps)
        for experiment in ran:
            label = f"fig {experiment.figure}: {experiment.name}"
            progress.update(task, description=label)
            trained.append(
                learn(
                    policy_of(experiment.family, experiment.world.n_tokens),
                    experiment.world,
                    experiment.objective(settings.learning),
                    settings.learning,
                    stream(settings.seed, 0, purpose=label),
                    on_step=lambda: progress.advance(task),
                )
            )
    return trained


def _draw(out: Path, figures: Sequence[int], curves: pa.Table, sweep: pa.Table | None) -> None:
    distributions = curves.to_pandas()
    over_beta = None if sweep is None else sweep.to_pandas()
    for number in figures:
        figure = draw(number, distributions, over_beta)
        write_bytes(out / f"fig{number}.png", to_png(figure))
        write_bytes(out / f"fig{number}.svg", to_svg(figure))


def _shown(frame: pd.DataFrame) -> Table:
    """The comparison for the terminal; a blank line between figures."""
    table = Table(box=box.SIMPLE_HEAD, title="Figures of arXiv 2510.20817", title_justify="left")
    table.padding = (0, 1, 0, 0)
    for label in ("fig", "policy", "number", "source"):
        table.add_column(label, overflow="fold")
    for label in ("value", "closed form", "trained", "TV"):
        table.add_column(label, justify="right", no_wrap=True)
    previous = None
    for row in frame.to_dict("records"):
        if previous not in (None, row["figure"]):
            table.add_section()
        previous = row["figure"]
        table.add_row(
            str(row["figure"]),
            MISSING if pd.isna(row["experiment"]) else row["experiment"],
            row["quantity"],
            row["source"],
            _as_stated(row["value"], row["tolerance"]),
            _cell(row["closed_form"]),
            _spread(row),
            _cell(row["tv"], ".4f"),
        )
    return table


def _as_stated(value: float, tolerance: float) -> str:
    """A stated value with the digits that its tolerance leaves it."""
    digits = math.ceil(-math.log10(2 * tolerance) - 1e-9)
    return format(value, f".{max(digits, 0)}f")


def _spread(row: Mapping[Any, Any]) -> str:
    text = _cell(row["trained"])
    if pd.isna(row["trained"]) or row["trained_min"] == row["trained_max"]:
        return text
    return f"{text} ({_cell(row['trained_min'])} to {_cell(row['trained_max'])})"


def _cell(value: float, how: str = ".4f") -> str:
    return MISSING if pd.isna(value) else format(value, how)
