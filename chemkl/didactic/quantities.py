"""The numbers of the figures, where to read them off a distribution, and the tables of the stage.

Legend: V tokens. "paper": printed in GX-Chen et al., arXiv 2510.20817. "formula": worked out from
the paper's formulas apart from this code, rounded to the digits shown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor

from chemkl.didactic import worlds
from chemkl.didactic.experiments import Experiment
from chemkl.didactic.worlds import MODES, World, places
from chemkl.losses.exact import forward_kl_optimum, reverse_kl_optimum
from chemkl.results.columns import described_schema

Source = Literal["paper", "formula"]
Distributions = Mapping[str, Tensor]
"""Probabilities (V,) of each experiment of a figure, by its name."""


@dataclass(frozen=True)
class Quantity:
    """One number of one figure.

    Attributes:
        figure: the figure.
        name: what it is.
        stated: its value as it is printed: the digits say how exact it is.
        source: who states it.
        read: reads it off the distributions of the figure's experiments; several values are to be
            equal to one another (the hits of MARA), and are shown by mean, least and most.
        experiment: the experiment it belongs to; None: to several, or to the world alone.
        trained: whether training gives it too: not a property of the world, nor what is out of
            reach of sampling.
        within: how far the closed form may be off; None: half a unit of the last digit.
    """

    figure: int
    name: str
    stated: str
    source: Source
    read: Callable[[Distributions], Tensor]
    experiment: str | None = None
    trained: bool = True
    within: float | None = None

    @property
    def value(self) -> float:
        """The stated value."""
        return float(self.stated)

    @property
    def tolerance(self) -> float:
        """How far the closed form may be off, half a unit of the last digit where not said."""
        if self.within is not None:
            return self.within
        exponent = Decimal(self.stated).as_tuple().exponent
        return 0.5 * 10.0 ** int(exponent)


def quantities() -> list[Quantity]:
    """Every number, figure by figure."""
    return [*_figure_1(), *_figure_2(), *_figure_3(), *_figure_4(), *_figure_5()]


def _of(
    figure: int, experiment: str, rows: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]]
) -> list[Quantity]:
    """Golden values read off one experiment: name -> (value, how to read it off p (V,))."""

    def reader(read: Callable[[Tensor], Tensor]) -> Callable[[Distributions], Tensor]:
        return lambda by_name: read(by_name[experiment])

    return [
        Quantity(figure, name, stated, "formula", reader(read), experiment)
        for name, (stated, read) in rows.items()
    ]


def _p(*tokens: int) -> Callable[[Tensor], Tensor]:
    return lambda p_V: p_V[list(tokens)]


def _mean(p_V: Tensor) -> Tensor:
    return (p_V * places(p_V.numel(), p_V.dtype)).sum()[None]


def _deviation(p_V: Tensor) -> Tensor:
    distance_V = places(p_V.numel(), p_V.dtype) - _mean(p_V)
    return (p_V * distance_V**2).sum().sqrt()[None]


def _left_half(p_V: Tensor) -> Tensor:
    return p_V[: p_V.numel() // 2].sum()[None]


def _figure_1() -> list[Quantity]:
    # The forward KL to a Gaussian keeps mean and variance: 0.6 x 0.3 + 0.4 x 0.7 = 0.46, and
    # 0.06^2 + 0.6 x 0.4 x 0.4^2 = 0.042 = 0.205^2. The reverse KL takes the heavier mode as it is,
    # 6.7 deviations from the other one. Without the restriction both have the target's 0.6.
    gaussian, categorical = "gaussian, {} KL", "categorical, {} KL"
    shape = {"mean": _mean, "deviation": _deviation}
    stated = {
        gaussian.format("reverse"): ("0.300", "0.060", "1.00"),
        gaussian.format("forward"): ("0.460", "0.205", None),
        categorical.format("reverse"): ("0.460", "0.205", "0.60"),
        categorical.format("forward"): ("0.460", "0.205", "0.60"),
    }
    rows: list[Quantity] = []
    for experiment, (mean, deviation, left) in stated.items():
        values = dict(zip(shape, (mean, deviation), strict=True))
        rows += _of(1, experiment, {name: (values[name], shape[name]) for name in shape})
        if left is not None:
            rows += _of(1, experiment, {"share of the left mode": (left, _left_half)})
    return rows


def _figure_2() -> list[Quantity]:
    world = worlds.two_modes()
    first, second = MODES
    rows = [
        _of_world(2, "log pi_ref at mode 1", "-4.055", world.logp_ref_V[first]),
        _of_world(2, "log pi_ref at mode 2", "-5.955", world.logp_ref_V[second]),
    ]
    # section 4.3 has 0.25/1.90 with the rewards of the peaks, which lie between two tokens
    swap = "beta where the modes swap"
    rows.append(Quantity(2, swap, "0.132", "paper", _crossover, within=1e-3))
    rows.append(Quantity(2, swap, "0.131", "formula", _crossover))
    for beta, one, two in (
        ("0.1", "0.133", "0.241"),
        ("0.132", "0.154", "0.152"),
        ("0.15", "0.153", "0.121"),
    ):
        rows += _modes(f"gibbs, reverse KL, beta {beta}", one, two)
    for strength, one, two, constant in (
        (0.1, "0.0069", "0.861", "0.9980"),
        (1.0, "0.0377", "0.0123", "1.208"),
    ):
        experiment = f"gibbs, forward KL, beta {strength:g}"
        rows += _modes(experiment, one, two)
        rows += _of(2, experiment, {"L": (constant, _normaliser(world, strength))})
    return rows


def _modes(experiment: str, one: str, two: str) -> list[Quantity]:
    first, second = MODES
    return _of(2, experiment, {"p of mode 1": (one, _p(first)), "p of mode 2": (two, _p(second))})


def _of_world(figure: int, name: str, stated: str, value: Tensor) -> Quantity:
    return Quantity(figure, name, stated, "formula", lambda _: value[None], trained=False)


def _crossover(by_name: Distributions) -> Tensor:
    """Where log p(mode 1)/p(mode 2), which is linear in 1/beta, is 0: from its values about it."""
    first, second = MODES
    (below, low), (above, high) = (
        (1 / beta, (p_V[first] / p_V[second]).log())
        for beta, p_V in (
            (0.10, by_name["gibbs, reverse KL, beta 0.1"]),
            (0.15, by_name["gibbs, reverse KL, beta 0.15"]),
        )
    )
    return (1 / (below + (above - below) * low / (low - high)))[None]


def _normaliser(world: World, beta: float, *, anchored: bool = False) -> Callable[[Tensor], Tensor]:
    """L of beta pi_ref / (L - R): p (L - R) = beta pi_ref summed over all tokens gives L.

    That is E_p[R] + beta times the mass of the reference, 1, or with MARA that of the anchored one.
    """
    mass = 1.0
    if anchored:
        hit_V = world.hit_V
        anchor = world.logp_ref_V[hit_V].max()
        mass = float(torch.where(hit_V, anchor, world.logp_ref_V).exp().sum())
    return lambda p_V: ((p_V * world.reward_V).sum() + beta * mass)[None]


def _figure_3() -> list[Quantity]:
    rewards = ("0", "0.9", "1")
    # weights exp(R/0.5) are 1, 6.04965 and 7.38906; their sum is 14.43871
    stated = {"0.5": ("0.0693", "0.4190", "0.5118"), "0.001": ("0.000", "0.000", "1.000")}
    rows: list[Quantity] = []
    for beta, values in stated.items():
        named = {
            f"p of R = {reward}": (value, _p(token))
            for token, (reward, value) in enumerate(zip(rewards, values, strict=True))
        }
        rows += _of(3, f"gibbs, reverse KL, beta {beta}", named)
    # the paper prints 2.6e43, exp(100) cut after two digits; so rare a token is never sampled
    ratio = _of(
        3, "gibbs, reverse KL, beta 0.001", {"log10 of p(1) : p(0.9)": ("43.4", _log_ratio)}
    )
    return [*rows, *(replace(row, source="paper", trained=False) for row in ratio)]


def _log_ratio(p_V: Tensor) -> Tensor:
    return (p_V[2] / p_V[1]).log10()[None]


def _figure_4() -> list[Quantity]:
    rows: list[Quantity] = []
    small = "gibbs, reverse KL, beta 0.01"
    answers = {
        "p of the likely answer": ("0.9375", _p(1)),
        "p of the rare answer": ("0.0625", _p(2)),
    }
    rows += _of(4, small, answers)
    for experiment in ("gibbs, reverse KL, beta 1", small, "gibbs, forward KL, beta 0.1"):
        ratio = _of(4, experiment, {"likely : rare": ("15", lambda p_V: (p_V[1] / p_V[2])[None])})
        rows += [replace(row, source="paper") for row in ratio]
    return rows


def _figure_5() -> list[Quantity]:
    world = worlds.two_blocks()
    hits = tuple(int(token) for token in world.hit_V.nonzero().flatten())
    stated = {
        "gibbs, reverse KL, beta 0.01": {
            "p of token 0": ("0.0616", _p(0)),
            "p of token 24": ("0.0206", _p(24)),
            "p of token 50": ("0.0039", _p(50)),
        },
        "gibbs, forward KL, beta 1": {
            "p of token 0": ("0.0548", _p(0)),
            "p of token 25": ("0.0082", _p(25)),
            "L": ("1.890", _normaliser(world, 1.0)),
        },
        "mara, reverse KL, beta 0.01": {"p of each hit": ("0.0200", _p(*hits))},
        "mara, reverse KL, beta 1": {
            "p of each hit": ("0.0194", _p(*hits)),
            "p of token 25": ("0.0023", _p(25)),
        },
        "mara, forward KL, beta 1": {
            "p of each hit": ("0.0188", _p(*hits)),
            "p of token 25": ("0.0043", _p(25)),
            "L": ("3.589", _normaliser(world, 1.0, anchored=True)),
        },
    }
    return [row for experiment, rows in stated.items() for row in _of(5, experiment, rows)]


N_BETAS = 81
"""Points of the curves over beta, evenly on a log scale from 0.03 to 10."""

_QUANTITIES = described_schema(
    {
        "figure": (pa.int32(), "Figure of arXiv 2510.20817."),
        "experiment": (
            pa.string(),
            "Which policy: family or target, direction of the KL, beta. Null: the number belongs "
            "to several, or to the world alone.",
        ),
        "quantity": (pa.string(), "What the number is; p is a probability, places run 0 to 1."),
        "source": (
            pa.string(),
            "Who states the value: paper (printed there) or formula (worked out from the paper's "
            "formulas apart from the code, rounded).",
        ),
        "value": (pa.float64(), "The stated value."),
        "tolerance": (
            pa.float64(),
            "How far the closed form may be off: half a unit of the value's last digit, or more "
            "where the paper itself rounded on the way.",
        ),
        "closed_form": (
            pa.float64(),
            "The same from the exact optimum; of several values that are to be equal, their mean.",
        ),
        "trained": (
            pa.float64(),
            "The same from the trained policy. Null: a property of the world alone, or out of "
            "reach of sampling.",
        ),
        "trained_min": (pa.float64(), "Least of the values that trained is the mean of."),
        "trained_max": (pa.float64(), "Greatest of the values that trained is the mean of."),
        "tv": (
            pa.float64(),
            "Total variation distance of the experiment's trained policy to its exact optimum, 0 "
            "to 1. Null: no single experiment.",
        ),
    }
)
_DISTRIBUTIONS = described_schema(
    {
        "figure": (pa.int32(), "Figure of arXiv 2510.20817."),
        "experiment": (pa.string(), "Which policy: family or target, direction of the KL, beta."),
        "family": (
            pa.string(),
            "What the policy can be: categorical (anything) or gaussian (mean and deviation).",
        ),
        "target": (pa.string(), "fixed (a given distribution), gibbs or mara."),
        "kl": (pa.string(), "Direction of the KL: reverse or forward."),
        "beta": (pa.float64(), "Coefficient of the KL, reward units per nat."),
        "token": (pa.int32(), "Token, from 0."),
        "reward": (pa.float64(), "Its reward."),
        "p_ref": (pa.float64(), "Its probability under the reference."),
        "closed_form": (pa.float64(), "Its probability under the exact optimum."),
        "trained": (pa.float64(), "Its probability under the trained policy."),
    }
)
_SWEEP = described_schema(
    {
        "kl": (pa.string(), "Direction of the KL: reverse or forward."),
        "beta": (pa.float64(), "Coefficient of the KL, reward units per nat."),
        "mode_1": (pa.float64(), "Probability of the mode of reward 0.75 at the exact optimum."),
        "mode_2": (pa.float64(), "Probability of the mode of reward 1 at the exact optimum."),
    }
)


def distance(p_V: Tensor, q_V: Tensor) -> float:
    """Total variation distance of two distributions, 0 to 1."""
    return 0.5 * float((p_V - q_V).abs().sum())


def quantity_table(chosen: Sequence[Experiment], trained: Sequence[Tensor]) -> pa.Table:
    """Compare what is stated, what is exact and what training gave.

    Args:
        chosen: experiments, all those of each figure that is among them.
        trained: the probabilities (V,) that each ended with.
    """
    rows: list[dict[str, Any]] = []
    exact = {(one.figure, one.name): one.optimum() for one in chosen}
    sampled = dict(zip(exact, trained, strict=True))
    for quantity in quantities():
        if quantity.figure not in {figure for figure, _ in exact}:
            continue
        by_name, trained_by_name = (
            {name: p_V for (figure, name), p_V in p.items() if figure == quantity.figure}
            for p in (exact, sampled)
        )
        row: dict[str, Any] = {
            "figure": quantity.figure,
            "experiment": quantity.experiment,
            "quantity": quantity.name,
            "source": quantity.source,
            "value": quantity.value,
            "tolerance": quantity.tolerance,
            "closed_form": float(quantity.read(by_name).mean()),
        }
        if quantity.trained:
            values = quantity.read(trained_by_name)
            row["trained"] = float(values.mean())
            row["trained_min"], row["trained_max"] = float(values.min()), float(values.max())
        if quantity.experiment is not None:
            name = quantity.experiment
            row["tv"] = distance(trained_by_name[name], by_name[name])
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=_QUANTITIES)


def distribution_table(chosen: Sequence[Experiment], trained: Sequence[Tensor]) -> pa.Table:
    """Every token of every experiment; the arguments are those of `quantity_table`."""
    rows: list[dict[str, Any]] = []
    for experiment, p_V in zip(chosen, trained, strict=True):
        world = experiment.world
        columns = {
            "reward": world.reward_V.tolist(),
            "p_ref": world.logp_ref_V.exp().tolist(),
            "closed_form": experiment.optimum().tolist(),
            "trained": p_V.tolist(),
        }
        about = {
            "figure": experiment.figure,
            "experiment": experiment.name,
            "family": experiment.family,
            "target": experiment.target,
            "kl": experiment.kl,
            "beta": experiment.beta,
        }
        rows += [
            {**about, "token": token, **{name: values[token] for name, values in columns.items()}}
            for token in range(world.n_tokens)
        ]
    return pa.Table.from_pylist(rows, schema=_DISTRIBUTIONS)


def sweep_table() -> pa.Table:
    """Both modes of Fig. 2 at the exact optimum, over beta."""
    world = worlds.two_modes()
    first, second = worlds.MODES
    rows = []
    for kl, formula in (("reverse", reverse_kl_optimum), ("forward", forward_kl_optimum)):
        for beta in torch.logspace(-1.523, 1, N_BETAS, dtype=torch.float64).tolist():
            p_V = formula(world.reward_V, world.logp_ref_V, beta)
            modes = {"mode_1": float(p_V[first]), "mode_2": float(p_V[second])}
            rows.append({"kl": kl, "beta": beta, **modes})
    return pa.Table.from_pylist(rows, schema=_SWEEP)
