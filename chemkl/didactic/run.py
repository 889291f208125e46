"""The didactic stage: numbers, tables and Figs 1-5 of GX-Chen et al., arXiv 2510.20817.

Each number comes from a closed form and from training. A number of the source "paper" is printed in
the paper; one of the source "formula" was computed from its formulas independently of this code,
and rounded to the digits shown. Figures are drawn from the tables, with the same bytes every time.

Legend: V tokens.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import matplotlib as mpl
import pandas as pd
import pyarrow as pa
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from torch import Tensor

from chemkl.didactic.config import DidacticConfig
from chemkl.didactic.experiments import (
    HITS,
    MODES,
    Experiment,
    Policy,
    experiments,
    learn,
    places,
    worlds,
)
from chemkl.display import Bar, Column, cell, table
from chemkl.losses.exact import forward_kl_optimum, reverse_kl_optimum
from chemkl.policies.base import stream
from chemkl.reports.figures import INK, PALETTE, STYLE, write_figure
from chemkl.results import write_parquet
from chemkl.results.columns import described_schema

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
    "trained: of several values that should be equal, their mean and (least to most). TV: total "
    "variation distance of the trained policy to the exact optimum. formula: computed from the "
    "paper's formulas, independently of the code."
)


def work(config: DidacticConfig, start: Any) -> None:
    """Train, compare, draw: ``fig<N>.png`` and ``.svg``, ``quantities.parquet`` and the curves.

    Args:
        config: the settings.
        start: see `chemkl.stages.runner.Start`.

    Raises:
        InputError: the folder holds other output.
    """
    with start.claim() as manifest:
        chosen = [e for e in experiments() if e.figure in config.figures]
        trained, settings = [], config.learning
        with Bar("", len(chosen) * settings.steps, "steps") as bar:
            for number, experiment in enumerate(chosen):
                label = f"fig {experiment.figure}: {experiment.name}"
                bar.at(number * settings.steps, label=label)
                generator = stream(config.seed, 0, purpose=label)
                policy = Policy(experiment.family, experiment.world.reward_V.numel())
                parts = (policy, experiment.world, experiment.objective(settings))
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
    printed: list[Any] = []
    for row in frames["quantities"].to_dict("records"):
        digits = max(0, math.ceil(-math.log10(2 * row["tolerance"]) - 1e-9))  # as stated
        mean, least, most = (cell(row[f"trained{end}"], ".4f") for end in ("", "_min", "_max"))
        spread = mean if least == most else f"{mean} ({least} to {most})"
        printed.append({**row, "value": f"{row['value']:.{digits}f}", "trained": spread})
    lines = [table("Figures of arXiv 2510.20817", _COLUMNS, printed, group=True), _NOTE]
    if worst > CONVERGED:
        lines.append(f"largest TV {worst:.4f}: not converged, take more steps (learning.steps)")
    for line in lines:
        start.console.print(line, highlight=False)


# ---- the numbers

LEFT, SWAP, RARER = "share of the left mode", "beta where the modes swap", "log10 of p(1) : p(0.9)"
M1, M2 = "p of mode 1", "p of mode 2"
STATED: tuple[tuple[int, str | None, dict[str, str]], ...] = (
    # The forward KL to a Gaussian keeps mean and variance: 0.6 x 0.3 + 0.4 x 0.7 = 0.46, and
    # 0.06^2 + 0.6 x 0.4 x 0.4^2 = 0.042 = 0.205^2. The reverse KL takes the heavier mode as it is,
    # 6.7 deviations from the other one. Without the restriction both have the target's 0.6.
    (1, "gaussian, reverse KL", {"mean": "0.300", "deviation": "0.060", LEFT: "1.00"}),
    (1, "gaussian, forward KL", {"mean": "0.460", "deviation": "0.205"}),
    (1, "categorical, reverse KL", {"mean": "0.460", "deviation": "0.205", LEFT: "0.60"}),
    (1, "categorical, forward KL", {"mean": "0.460", "deviation": "0.205", LEFT: "0.60"}),
    (2, None, {"log pi_ref at mode 1": "-4.055", "log pi_ref at mode 2": "-5.955"}),
    # section 4.3 has 0.25/1.90 with the rewards of the peaks, which lie between two tokens
    (2, None, {SWAP: "0.132"}),
    (2, None, {SWAP: "0.131"}),
    (2, "gibbs, reverse KL, beta 0.1", {M1: "0.133", M2: "0.241"}),
    (2, "gibbs, reverse KL, beta 0.132", {M1: "0.154", M2: "0.152"}),
    (2, "gibbs, reverse KL, beta 0.15", {M1: "0.153", M2: "0.121"}),
    (2, "gibbs, forward KL, beta 0.1", {M1: "0.0069", M2: "0.861", "L": "0.9980"}),
    (2, "gibbs, forward KL, beta 1", {M1: "0.0377", M2: "0.0123", "L": "1.208"}),
    # the weights exp(R/0.5) are 1, 6.04965 and 7.38906; their sum is 14.43871
    (3, "gibbs, reverse KL, beta 0.5", {"p of R = 0": "0.0693", "p of R = 0.9": "0.4190"}),
    (3, "gibbs, reverse KL, beta 0.5", {"p of R = 1": "0.5118"}),
    (3, "gibbs, reverse KL, beta 0.001", {"p of R = 0": "0.000", "p of R = 0.9": "0.000"}),
    # the paper prints 2.6e43, exp(100) cut after two digits; so rare a token is never sampled
    (3, "gibbs, reverse KL, beta 0.001", {"p of R = 1": "1.000", RARER: "43.4"}),
    (4, "gibbs, reverse KL, beta 0.01", {"p of the likely answer": "0.9375"}),
    (4, "gibbs, reverse KL, beta 0.01", {"p of the rare answer": "0.0625"}),
    (4, "gibbs, reverse KL, beta 1", {"likely : rare": "15"}),
    (4, "gibbs, reverse KL, beta 0.01", {"likely : rare": "15"}),
    (4, "gibbs, forward KL, beta 0.1", {"likely : rare": "15"}),
    (5, "gibbs, reverse KL, beta 0.01", {"p of token 0": "0.0616", "p of token 24": "0.0206"}),
    (5, "gibbs, reverse KL, beta 0.01", {"p of token 50": "0.0039"}),
    (5, "gibbs, forward KL, beta 1", {"p of token 0": "0.0548", "p of token 25": "0.0082"}),
    (5, "gibbs, forward KL, beta 1", {"L": "1.890"}),
    (5, "mara, reverse KL, beta 0.01", {"p of each hit": "0.0200"}),
    (5, "mara, reverse KL, beta 1", {"p of each hit": "0.0194", "p of token 25": "0.0023"}),
    (5, "mara, forward KL, beta 1", {"p of each hit": "0.0188", "p of token 25": "0.0043"}),
    (5, "mara, forward KL, beta 1", {"L": "3.589"}),
)
"""The stated numbers of each figure, as (figure, experiment, values by name).

The digits of a value give its tolerance. Without an experiment a number belongs to several, or to
the world.
"""
_PAPER = {(SWAP, "0.132"), (RARER, "43.4"), ("likely : rare", "15")}
"""The numbers printed in the paper."""
_LOOSE = {(SWAP, "0.132"): 1e-3}
"""Tolerances of closed forms for numbers that the paper computed from rounded ones."""
_EXACT_ONLY = {"log pi_ref at mode 1", "log pi_ref at mode 2", RARER}
"""Properties of the world, and numbers that sampling cannot reach."""


def _swap(p: Mapping[str, Tensor]) -> Tensor:
    """Interpolate the beta at which log p(mode 1)/p(mode 2), linear in 1/beta, is 0."""
    first, second = MODES
    below, above = 1 / 0.10, 1 / 0.15
    low, high = (
        (p_V[first] / p_V[second]).log()
        for p_V in (p["gibbs, reverse KL, beta 0.1"], p["gibbs, reverse KL, beta 0.15"])
    )
    return 1 / (below + (above - below) * low / (low - high))


def _normaliser(p_V: Tensor, experiment: Experiment) -> Tensor:
    """Return L of beta pi_ref / (L - R), from p (L - R) = beta pi_ref summed over all tokens.

    It is E_p[R] + beta times the mass of the reference: 1, or that of the anchored one with MARA.
    """
    reward_V, logp_V = experiment.world.reward_V, experiment.world.logp_ref_V
    mass = 1.0
    if experiment.target == "mara":
        hit_V = reward_V >= experiment.world.tau
        mass = float(torch.where(hit_V, logp_V[hit_V].max(), logp_V).exp().sum())
    return (p_V * reward_V).sum() + experiment.beta * mass


_PLACE_V = places(100, torch.float64)
_READ: dict[str, Callable[[Any, Experiment], Tensor]] = {
    "mean": lambda p_V, _: (p_V * _PLACE_V).sum(),
    "deviation": lambda p_V, _: (p_V * (_PLACE_V - (p_V * _PLACE_V).sum()) ** 2).sum().sqrt(),
    LEFT: lambda p_V, _: p_V[: p_V.numel() // 2].sum(),
    "log pi_ref at mode 1": lambda _, of: of.world.logp_ref_V[MODES[0]],
    "log pi_ref at mode 2": lambda _, of: of.world.logp_ref_V[MODES[1]],
    SWAP: lambda p, _: _swap(p),
    M1: lambda p_V, _: p_V[MODES[0]],
    M2: lambda p_V, _: p_V[MODES[1]],
    "L": _normaliser,
    "p of R = 0": lambda p_V, _: p_V[0],
    "p of R = 0.9": lambda p_V, _: p_V[1],
    "p of R = 1": lambda p_V, _: p_V[2],
    RARER: lambda p_V, _: (p_V[2] / p_V[1]).log10(),
    "p of the likely answer": lambda p_V, _: p_V[1],
    "p of the rare answer": lambda p_V, _: p_V[2],
    "likely : rare": lambda p_V, _: p_V[1] / p_V[2],
    "p of token 0": lambda p_V, _: p_V[0],
    "p of token 24": lambda p_V, _: p_V[24],
    "p of token 25": lambda p_V, _: p_V[25],
    "p of token 50": lambda p_V, _: p_V[50],
    "p of each hit": lambda p_V, _: p_V[list(HITS)],
}
"""Functions that compute a number from the probabilities (V,) of its experiment.

A number of several experiments gets them by name. Several values (the hits of MARA) should be
equal, and are shown by mean, minimum and maximum.
"""

# ---- tables

N_BETAS = 81
"""Points of the curves over beta, evenly spaced on a log scale from 0.03 to 10."""

_KL = """
kl string: Direction of the KL: reverse or forward.
beta double: Coefficient of the KL, reward units per nat.
"""
_QUANTITIES = described_schema("""
figure int32: Figure of arXiv 2510.20817.
experiment string: Which policy: family or target, direction of the KL, beta. Null: the number
  belongs to several, or to the world alone.
quantity string: What the number is; p is a probability, places run 0 to 1.
source string: Who states the value: paper (printed there) or formula (worked out from the paper's
  formulas apart from the code, rounded).
value double: The stated value.
tolerance double: How far the closed form may be off: half a unit of the value's last digit, or more
  where the paper itself rounded on the way.
closed_form double: The same from the exact optimum; of several values that are to be equal, their
  mean.
trained double: The same from the trained policy. Null: a property of the world alone, or out of
  reach of sampling.
trained_min double: Least of the values that trained is the mean of.
trained_max double: Greatest of the values that trained is the mean of.
tv double: Total variation distance of the experiment's trained policy to its exact optimum, 0 to 1.
  Null: no single experiment.
""")
_DISTRIBUTIONS = described_schema(f"""
figure int32: Figure of arXiv 2510.20817.
experiment string: Which policy: family or target, direction of the KL, beta.
family string: What the policy can be: categorical (anything) or gaussian (mean and deviation).
target string: fixed (a given distribution), gibbs or mara.
{_KL}token int32: Token, from 0.
reward double: Its reward.
p_ref double: Its probability under the reference.
closed_form double: Its probability under the exact optimum.
trained double: Its probability under the trained policy.
""")
_SWEEP = described_schema(f"""{_KL}
mode_1 double: Probability of the mode of reward 0.75 at the exact optimum.
mode_2 double: Probability of the mode of reward 1 at the exact optimum.
""")


def quantity_table(chosen: Sequence[Experiment], trained: Sequence[Tensor]) -> pa.Table:
    """Compare stated numbers with closed forms and with trained policies.

    Args:
        chosen: experiments; all of a figure, or none.
        trained: final probabilities (V,) of each.
    """
    exact: dict[int, dict[str, Tensor]] = {}
    sampled: dict[int, dict[str, Tensor]] = {}
    for experiment, p_V in zip(chosen, trained, strict=True):
        exact.setdefault(experiment.figure, {})[experiment.name] = experiment.optimum()
        sampled.setdefault(experiment.figure, {})[experiment.name] = p_V
    rows: list[dict[str, Any]] = []
    for figure, name, numbers in STATED:
        if figure not in exact:
            continue
        experiment = next(e for e in chosen if e.figure == figure and name in (None, e.name))
        p, q = (ps[figure] if name is None else ps[figure][name] for ps in (exact, sampled))
        for quantity, stated in numbers.items():
            half = 0.5 * 10.0 ** int(Decimal(stated).as_tuple().exponent)
            row: dict[str, Any] = {
                "figure": figure,
                "experiment": name,
                "quantity": quantity,
                "source": "paper" if (quantity, stated) in _PAPER else "formula",
                "value": float(stated),
                "tolerance": _LOOSE.get((quantity, stated), half),
                "closed_form": float(_READ[quantity](p, experiment).mean()),
            }
            if quantity not in _EXACT_ONLY:
                values = _READ[quantity](q, experiment)
                row["trained"] = float(values.mean())
                row["trained_min"], row["trained_max"] = float(values.min()), float(values.max())
            if isinstance(p, Tensor) and isinstance(q, Tensor):  # a single experiment
                row["tv"] = 0.5 * float((q - p).abs().sum())
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=_QUANTITIES)


def distribution_table(chosen: Sequence[Experiment], trained: Sequence[Tensor]) -> pa.Table:
    """Return one row for each token of each experiment; arguments as in `quantity_table`."""
    rows: list[dict[str, Any]] = []
    for experiment, p_V in zip(chosen, trained, strict=True):
        world, names = experiment.world, ("figure", "family", "target", "kl", "beta")
        settings = {name: getattr(experiment, name) for name in names}
        columns = (world.reward_V, world.logp_ref_V.exp(), experiment.optimum(), p_V)
        rows += [
            {**settings, "experiment": experiment.name, "token": token}
            | dict(zip(("reward", "p_ref", "closed_form", "trained"), values, strict=True))
            for token, values in enumerate(zip(*(c.tolist() for c in columns), strict=True))
        ]
    return pa.Table.from_pylist(rows, schema=_DISTRIBUTIONS)


def sweep_table() -> pa.Table:
    """Return both modes of Fig. 2 at the exact optimum, over beta."""
    world = worlds()[2]
    rows = []
    for kl, formula in (("reverse", reverse_kl_optimum), ("forward", forward_kl_optimum)):
        for beta in torch.logspace(-1.523, 1, N_BETAS, dtype=torch.float64).tolist():
            low, high = formula(world.reward_V, world.logp_ref_V, beta)[list(MODES)].tolist()
            rows.append({"kl": kl, "beta": beta, "mode_1": low, "mode_2": high})
    return pa.Table.from_pylist(rows, schema=_SWEEP)


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
        number: number of the figure, 1 to 5.
        distributions: the table of `distribution_table`; rows of other figures are ignored.
        sweep: the table of `sweep_table`; needed for Fig. 2.
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
    """Draw a panel for each family: the target, and the fits of both directions of the KL."""
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
    """Draw a panel for each experiment: reference, closed form and trained, by answer."""
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
    """Draw a row for each KL, led by both modes over beta (Fig. 2), or for each target (Fig. 5)."""
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
            reward = axes.twinx()  # behind the curves, on its own scale without ticks
            reward.fill_between(rows["token"], rows["reward"], color="#eef0f3", step="mid")
            reward.set_ylim(0, 1.02)
            reward.set_axis_off()
            axes.set_zorder(reward.get_zorder() + 1)
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
    """Draw the probabilities of both modes, as curves over beta and as trained."""
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
    """Draw the closed form as a line and the trained policy as dots."""
    colour = _KL_COLOURS[rows["kl"].iloc[0]]
    axes.plot(rows["token"], rows["closed_form"], color=colour, linewidth=1.2, label=label)
    axes.plot(rows["token"], rows["trained"], "o", color=colour, markersize=1.8, alpha=0.7)
    axes.set_title(title, loc="left", fontsize=9, color=INK)
