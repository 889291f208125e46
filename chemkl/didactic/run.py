"""The didactic stage: Figs 1-5 of arXiv 2510.20817 from closed forms and from training.

A figure is drawn from tables of distributions; it has the same bytes every time.
"""

import math
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from chemkl.didactic.config import DidacticConfig
from chemkl.didactic.experiments import Policy, experiments, learn
from chemkl.didactic.quantities import distribution_table, quantity_table, sweep_table
from chemkl.display import Bar, Column, cell, table
from chemkl.policies.base import stream
from chemkl.reports.figures import INK, PALETTE, STYLE, write_figure
from chemkl.results import write_parquet

CONVERGED = 0.02
"""Total variation distance within which a trained policy counts as at its optimum."""

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
        trained, settings = [], config.learning
        with Bar("", len(chosen) * settings.steps, "steps") as bar:
            for number, one in enumerate(chosen):
                label = f"fig {one.figure}: {one.name}"
                bar.at(number * settings.steps, label=label)
                generator = stream(config.seed, 0, purpose=label)  # one of its own for each
                policy = Policy(one.family, one.world.reward_V.numel())
                parts = (policy, one.world, one.objective(settings))
                trained.append(learn(*parts, settings, generator, bar.advance))
        tables = {
            "quantities": quantity_table(chosen, trained),
            "distributions": distribution_table(chosen, trained),
        }
        if 2 in config.figures:
            tables["sweep"] = sweep_table()
        for name, rows in tables.items():
            write_parquet(start.out / f"{name}.parquet", rows)
        frames = {name: rows.to_pandas() for name, rows in tables.items()}
        for number in config.figures:
            figure = draw(number, frames["distributions"], frames.get("sweep"))
            write_figure(start.out, f"fig{number}", figure)
        worst = float(frames["quantities"]["tv"].max())
        manifest.finish(results={"figures": list(config.figures), "largest_tv": worst})
    shown: list[Any] = []
    for row in frames["quantities"].to_dict("records"):
        digits = max(0, math.ceil(-math.log10(2 * row["tolerance"]) - 1e-9))  # as it is stated
        mean, least, most = (cell(row[f"trained{end}"], ".4f") for end in ("", "_min", "_max"))
        spread = mean if least == most else f"{mean} ({least} to {most})"
        shown.append({**row, "value": f"{row['value']:.{digits}f}", "trained": spread})
    lines = [table("Figures of arXiv 2510.20817", _COLUMNS, shown, group=True), _NOTE]
    if worst > CONVERGED:
        lines.append(f"largest TV {worst:.4f}: not converged, take more steps (learning.steps)")
    for line in lines:
        start.console.print(line, highlight=False)


# ---- the figures

_KL_COLOURS = {"reverse": PALETTE[0], "forward": PALETTE[1]}
_FIGURES = {
    1: ("Fitting a fixed distribution: the family decides, not the direction of the KL", 7.4, 2.9),
    2: ("Unequal rewards: beta decides which mode is covered", 11.5, 4.6),
    3: ("Rewards 0, 0.9 and 1 under a uniform reference: a small beta keeps one", 8.6, 2.9),
    4: ("Equal rewards: the reference's ratio of 15 is kept", 8.6, 2.9),
    5: ("MARA: every hit equally likely, under either KL", 9.6, 4.6),
}
"""Title, width and height in inches."""


def draw(number: int, distributions: pd.DataFrame, sweep: pd.DataFrame | None = None) -> Figure:
    """Draw a figure of the paper: lines and bars are closed forms, dots are trained policies.

    Args:
        number: 1 to 5.
        distributions: rows of tokens: figure, experiment, family, target, kl, beta, token, reward,
            p_ref, closed_form, trained; those of other figures are ignored.
        sweep: kl, beta, mode_1, mode_2 of the optima; needed for Fig. 2.
    """
    if number == 2 and sweep is None:
        raise ValueError("Fig. 2 needs the table of both modes over beta: draw(2, ..., sweep)")
    title, width, height = _FIGURES[number]
    tokens = distributions[distributions["figure"] == number]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        if number == 1:
            _families(figure, tokens)
        elif number in (3, 4):
            _bars(figure, tokens, logarithmic=number == 4)
        else:
            _curves(figure, tokens, sweep if number == 2 else None)
        figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=10)
        return figure


def _families(figure: Figure, tokens: pd.DataFrame) -> None:
    """A panel a family: the target, and what either direction of the KL makes of it."""
    target = tokens[tokens["family"] == "categorical"].drop_duplicates("token")
    panels = {"gaussian": "two-parameter Gaussian", "categorical": "a logit for every token"}
    left, right = figure.subplots(1, 2)
    for axes, (family, title) in zip((left, right), panels.items(), strict=True):
        axes.fill_between(target["token"], target["closed_form"], color="#dfe3e8", label="target")
        for kl in _KL_COLOURS:
            rows = tokens[(tokens["family"] == family) & (tokens["kl"] == kl)]
            _curve(axes, title, rows, f"{kl} KL")
        axes.set_ylim(0, 1.12 * tokens["closed_form"].max())
        axes.set_xlabel("token")
    left.set_ylabel("probability")
    right.legend(frameon=False, fontsize=8, loc="upper right")


def _bars(figure: Figure, tokens: pd.DataFrame, *, logarithmic: bool) -> None:
    """A panel an experiment over three answers: reference, closed form, trained."""
    panels = tokens.groupby("experiment", sort=False)
    grid = figure.subplots(1, len(panels))
    for axes, (name, rows) in zip(grid, panels, strict=True):
        token, colour = rows["token"].to_numpy(), _KL_COLOURS[rows["kl"].iloc[0]]
        axes.bar(token - 0.2, rows["p_ref"], 0.36, color="#c9cfd7", label="reference")
        axes.bar(token + 0.2, rows["closed_form"], 0.36, color=colour, label="closed form")
        axes.plot(token + 0.2, rows["trained"], "o", color=INK, markersize=4, label="trained")
        axes.set_xticks(token, [f"R = {reward:g}" for reward in rows["reward"]])
        axes.set_title(str(name), loc="left", fontsize=9, color=INK)
        if logarithmic:
            axes.set_yscale("log")
        axes.set_ylim(*((1e-6, 2) if logarithmic else (0, 1.1)))
    grid[0].set_ylabel("probability")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=3, frameon=False, fontsize=8)


def _curves(figure: Figure, tokens: pd.DataFrame, sweep: pd.DataFrame | None) -> None:
    """A row a direction of the KL, led by both modes over beta (Fig. 2), or a target (Fig. 5)."""
    lines = [
        (name, rows, rows.groupby("experiment", sort=False))
        for name, rows in tokens.groupby("target" if sweep is None else "kl", sort=False)
    ]
    n_before = 0 if sweep is None else 1
    grid = figure.subplots(len(lines), n_before + len(lines[0][2]), squeeze=False)
    for line, (name, of_line, panels) in zip(grid, lines, strict=True):
        if sweep is not None:
            _modes(line[0], f"{name} KL: both modes", sweep[sweep["kl"] == name], of_line)
        for axes, (experiment, rows) in zip(line[n_before:], panels, strict=True):
            behind = axes.twinx()  # the reward, on a scale of its own without ticks
            behind.fill_between(rows["token"], rows["reward"], color="#eef0f3", step="mid")
            behind.set_ylim(0, 1.02)
            behind.set_axis_off()
            axes.set_zorder(behind.get_zorder() + 1)
            axes.patch.set_visible(False)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            if sweep is None:
                axes.plot(rows["token"], rows["p_ref"], color="#9aa3ae", ls="--", linewidth=1)
                _curve(axes, str(experiment), rows)
                axes.set_ylim(0, 1.1 * tokens["closed_form"].max())
            else:
                _curve(axes, f"beta {rows['beta'].iloc[0]:g}", rows)
                axes.set_ylim(bottom=0)
        line[0].set_ylabel("probability")
    for axes in grid[-1][n_before:]:
        axes.set_xlabel("token")


def _modes(axes: Axes, title: str, curve: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Probabilities of the lower and the higher mode, as curves over beta and as trained."""
    for column, reward, colour in (("mode_1", 0.75, PALETTE[2]), ("mode_2", 1.0, PALETTE[3])):
        axes.plot(curve["beta"], curve[column], color=colour, label=f"R = {reward:g}")
        # a mode is the token whose reward is nearest to that of the peak
        peak = rows.loc[(rows["reward"] - reward).abs().groupby(rows["experiment"]).idxmin()]
        axes.plot(peak["beta"], peak["trained"], "o", color=colour, markersize=3.5)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1)
    axes.set_xlabel("beta")
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=8)


def _curve(axes: Axes, title: str, rows: pd.DataFrame, label: str | None = None) -> None:
    """The closed form as a line, the trained policy as dots."""
    colour = _KL_COLOURS[rows["kl"].iloc[0]]
    axes.plot(rows["token"], rows["closed_form"], color=colour, linewidth=1.2, label=label)
    axes.plot(rows["token"], rows["trained"], "o", color=colour, markersize=1.8, alpha=0.7)
    axes.set_title(title, loc="left", fontsize=9, color=INK)
