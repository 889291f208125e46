"""The tables of the didactic stage: numbers, distributions, and modes over beta, as Parquet."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from chemkl.didactic import worlds
from chemkl.didactic.experiments import Experiment
from chemkl.didactic.quantities import quantities
from chemkl.losses.exact import forward_kl_optimum, reverse_kl_optimum
from chemkl.results.columns import described_schema

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
    exact = {(each.figure, each.name): each.optimum() for each in chosen}
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
