"""Figures 1-5 of arXiv 2510.20817 from tables of distributions; the same bytes every time."""

from collections.abc import Iterator

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from chemkl.reports.figures import INK, PALETTE, STYLE

FOLDS = 6
"""The probability axes of Fig. 4 reach this many powers of ten down."""

_BLUE, _ORANGE = PALETTE[0], PALETTE[1]
_KL_COLOURS = {"reverse": _BLUE, "forward": _ORANGE}
_TITLES = {
    1: "Fitting a fixed distribution: the family decides, not the direction of the KL",
    2: "Unequal rewards: beta decides which mode is covered",
    3: "Rewards 0, 0.9 and 1 under a uniform reference: a small beta keeps one",
    4: "Equal rewards: the reference's ratio of 15 is kept",
    5: "MARA: every hit equally likely, under either KL",
}


def draw(number: int, distributions: pd.DataFrame, sweep: pd.DataFrame | None = None) -> Figure:
    """Draw a figure of the paper.

    Args:
        number: 1 to 5.
        distributions: rows of tokens: figure, experiment, family, target, kl, beta, token, reward,
            p_ref, closed_form, trained; those of other figures are ignored.
        sweep: kl, beta, mode_1, mode_2 of the optima; needed for Fig. 2.

    Returns:
        Lines and bars are closed forms, dots are trained policies.
    """
    tokens = distributions[distributions["figure"] == number]
    with mpl.rc_context(STYLE):
        if number == 1:
            figure = _figure_1(tokens)
        elif number == 2:
            figure = _figure_2(tokens, sweep)
        elif number == 5:
            figure = _figure_5(tokens)
        else:
            figure = _bars(tokens, logarithmic=number == 4)
        figure.suptitle(_TITLES[number], x=0.01, ha="left", color=INK, fontsize=10)
        return figure


def _figure_1(tokens: pd.DataFrame) -> Figure:
    """A panel a family: the target, and what either direction of the KL makes of it."""
    figure, grid = _grid(1, 2, (7.4, 2.9))
    target = tokens[tokens["family"] == "categorical"].drop_duplicates("token")
    families = {"gaussian": "two-parameter Gaussian", "categorical": "a logit for every token"}
    for axes, (family, title) in zip(grid[0], families.items(), strict=True):
        axes.fill_between(target["token"], target["closed_form"], color="#dfe3e8", label="target")
        for kl, colour in _KL_COLOURS.items():
            rows = tokens[(tokens["family"] == family) & (tokens["kl"] == kl)]
            _curve(axes, rows, colour, f"{kl} KL")
        axes.set_ylim(0, 1.12 * tokens["closed_form"].max())
        _name(axes, title)
        axes.set_xlabel("token")
    grid[0][0].set_ylabel("probability")
    grid[0][1].legend(frameon=False, fontsize=8, loc="upper right")
    return figure


def _figure_2(tokens: pd.DataFrame, sweep: pd.DataFrame | None) -> Figure:
    """A row a direction of the KL: both modes over beta, then the distributions at some."""
    if sweep is None:
        raise ValueError("Fig. 2 needs the table of both modes over beta: draw(2, ..., sweep)")
    kinds = list(_KL_COLOURS)
    n_betas = max(tokens.loc[tokens["kl"] == kl, "beta"].nunique() for kl in kinds)
    figure, grid = _grid(2, 1 + n_betas, (11.5, 4.6))
    for line, kl in zip(grid, kinds, strict=True):
        mine = tokens[tokens["kl"] == kl]
        _modes_over_beta(line[0], sweep[sweep["kl"] == kl], mine)
        _name(line[0], f"{kl} KL: both modes")
        for axes, (_, rows) in zip(line[1:], _by_experiment(mine), strict=False):
            _with_reward(axes, rows)
            _curve(axes, rows, _KL_COLOURS[kl])
            _name(axes, f"beta {rows['beta'].iloc[0]:g}")
            axes.set_ylim(bottom=0)
        line[0].set_ylabel("probability")
    for axes in grid[-1][1:]:
        axes.set_xlabel("token")
    return figure


def _modes_over_beta(axes: Axes, curve: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Probabilities of the lower and the higher mode, as curves over beta and as trained."""
    shown = {"mode_1": ("R = 0.75", PALETTE[2], 0.75), "mode_2": ("R = 1", PALETTE[3], 1.0)}
    for column, (label, colour, reward) in shown.items():
        axes.plot(curve["beta"], curve[column], color=colour, label=label)
        # a mode is the token whose reward is nearest to that of the peak
        peak = rows.loc[(rows["reward"] - reward).abs().groupby(rows["experiment"]).idxmin()]
        axes.plot(peak["beta"], peak["trained"], "o", color=colour, markersize=3.5)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1)
    axes.set_xlabel("beta")
    axes.legend(frameon=False, fontsize=8)


def _figure_5(tokens: pd.DataFrame) -> Figure:
    """A row a target, a column a direction of the KL and beta."""
    targets = list(tokens["target"].unique())
    n_columns = tokens["experiment"].nunique() // len(targets)
    figure, grid = _grid(len(targets), n_columns, (9.6, 4.6))
    for line, target in zip(grid, targets, strict=True):
        panels = _by_experiment(tokens[tokens["target"] == target])
        for axes, (name, rows) in zip(line, panels, strict=True):
            _with_reward(axes, rows)
            axes.plot(rows["token"], rows["p_ref"], color="#9aa3ae", linestyle="--", linewidth=1)
            _curve(axes, rows, _KL_COLOURS[rows["kl"].iloc[0]])
            axes.set_ylim(0, 1.1 * tokens["closed_form"].max())
            _name(axes, name)
        line[0].set_ylabel("probability")
    for axes in grid[-1]:
        axes.set_xlabel("token")
    return figure


def _bars(tokens: pd.DataFrame, *, logarithmic: bool) -> Figure:
    """A panel an experiment over three answers: reference, closed form, trained."""
    figure, grid = _grid(1, tokens["experiment"].nunique(), (8.6, 2.9))
    for axes, (name, rows) in zip(grid[0], _by_experiment(tokens), strict=True):
        token = rows["token"].to_numpy()
        axes.bar(token - 0.2, rows["p_ref"], 0.36, color="#c9cfd7", label="reference")
        colour = _KL_COLOURS[rows["kl"].iloc[0]]
        axes.bar(token + 0.2, rows["closed_form"], 0.36, color=colour, label="closed form")
        axes.plot(token + 0.2, rows["trained"], "o", color=INK, markersize=4, label="trained")
        axes.set_xticks(token, [f"R = {reward:g}" for reward in rows["reward"]])
        if logarithmic:
            axes.set_yscale("log")
            axes.set_ylim(10.0**-FOLDS, 2)
        else:
            axes.set_ylim(0, 1.1)
        _name(axes, name)
    grid[0][0].set_ylabel("probability")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=3, frameon=False, fontsize=8)
    return figure


def _grid(
    n_rows: int, n_columns: int, size: tuple[float, float]
) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False).tolist()


def _by_experiment(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for name, group in rows.groupby("experiment", sort=False):
        yield str(name), group


def _curve(axes: Axes, rows: pd.DataFrame, colour: str, label: str | None = None) -> None:
    """The closed form as a line, the trained policy as dots."""
    axes.plot(rows["token"], rows["closed_form"], color=colour, linewidth=1.2, label=label)
    axes.plot(rows["token"], rows["trained"], "o", color=colour, markersize=1.8, alpha=0.7)


def _with_reward(axes: Axes, rows: pd.DataFrame) -> None:
    """The reward behind the curves, on a scale of its tokens without ticks."""
    behind = axes.twinx()
    behind.fill_between(rows["token"], rows["reward"], color="#eef0f3", step="mid")
    behind.set_ylim(0, 1.02)
    behind.set_axis_off()
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _name(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=9, color=INK)
