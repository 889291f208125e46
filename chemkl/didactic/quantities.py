"""The numbers of the figures, where to read them off a distribution, and the tables of the stage.

Legend: V tokens. "paper": printed in GX-Chen et al., arXiv 2510.20817. "formula": worked out from
the paper's formulas apart from this code, rounded to the digits shown.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from chemkl.didactic.experiments import HITS, MODES, Experiment, places, worlds
from chemkl.losses.exact import forward_kl_optimum, reverse_kl_optimum
from chemkl.results.columns import described_schema

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
"""Every number of every figure: its experiment (None: several, or the world alone) and its value.

The digits of a value say how exact it is.
"""
_PAPER = {(SWAP, "0.132"), (RARER, "43.4"), ("likely : rare", "15")}
"""What is printed in the paper."""
_LOOSE = {(SWAP, "0.132"): 1e-3}
"""How far a closed form may be off where the paper rounded on its way."""
_EXACT_ONLY = {"log pi_ref at mode 1", "log pi_ref at mode 2", RARER}
"""Properties of the world, and what is out of reach of sampling."""


def _swap(p: Mapping[str, Tensor]) -> Tensor:
    """Where log p(mode 1)/p(mode 2), which is linear in 1/beta, is 0: from its values about it."""
    first, second = MODES
    below, above = 1 / 0.10, 1 / 0.15
    low, high = (
        (p_V[first] / p_V[second]).log()
        for p_V in (p["gibbs, reverse KL, beta 0.1"], p["gibbs, reverse KL, beta 0.15"])
    )
    return 1 / (below + (above - below) * low / (low - high))


def _normaliser(p_V: Tensor, one: Experiment) -> Tensor:
    """L of beta pi_ref / (L - R): p (L - R) = beta pi_ref summed over all tokens gives L.

    That is E_p[R] + beta times the mass of the reference, 1, or with MARA that of the anchored one.
    """
    reward_V, logp_V = one.world.reward_V, one.world.logp_ref_V
    mass = 1.0
    if one.target == "mara":
        hit_V = reward_V >= one.world.tau
        mass = float(torch.where(hit_V, logp_V[hit_V].max(), logp_V).exp().sum())
    return (p_V * reward_V).sum() + one.beta * mass


_PLACE_V = places(100, torch.float64)
_READ: dict[str, Callable[[Any, Experiment], Tensor]] = {
    "mean": lambda p_V, _: (p_V * _PLACE_V).sum(),
    "deviation": lambda p_V, _: (p_V * (_PLACE_V - (p_V * _PLACE_V).sum()) ** 2).sum().sqrt(),
    LEFT: lambda p_V, _: p_V[: p_V.numel() // 2].sum(),
    "log pi_ref at mode 1": lambda _, one: one.world.logp_ref_V[MODES[0]],
    "log pi_ref at mode 2": lambda _, one: one.world.logp_ref_V[MODES[1]],
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
"""How to read a number off the probabilities (V,) of its experiment.

Where it belongs to several, these are given by name. Several values are to be equal to one another
(the hits of MARA), and are shown by mean, least and most.
"""

# ---- tables

N_BETAS = 81
"""Points of the curves over beta, evenly on a log scale from 0.03 to 10."""

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
    """Compare what is stated, what is exact and what training gave.

    Args:
        chosen: experiments, all those of each figure that is among them.
        trained: the probabilities (V,) that each ended with.
    """
    exact: dict[int, dict[str, Tensor]] = {}
    sampled: dict[int, dict[str, Tensor]] = {}
    for one, p_V in zip(chosen, trained, strict=True):
        exact.setdefault(one.figure, {})[one.name] = one.optimum()
        sampled.setdefault(one.figure, {})[one.name] = p_V
    rows: list[dict[str, Any]] = []
    for figure, name, numbers in STATED:
        if figure not in exact:
            continue
        one = next(one for one in chosen if one.figure == figure and name in (None, one.name))
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
                "closed_form": float(_READ[quantity](p, one).mean()),
            }
            if quantity not in _EXACT_ONLY:
                values = _READ[quantity](q, one)
                row["trained"] = float(values.mean())
                row["trained_min"], row["trained_max"] = float(values.min()), float(values.max())
            if isinstance(p, Tensor) and isinstance(q, Tensor):  # a single experiment
                row["tv"] = 0.5 * float((q - p).abs().sum())
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=_QUANTITIES)


def distribution_table(chosen: Sequence[Experiment], trained: Sequence[Tensor]) -> pa.Table:
    """Every token of every experiment; the arguments are those of `quantity_table`."""
    rows: list[dict[str, Any]] = []
    for one, p_V in zip(chosen, trained, strict=True):
        about = {name: getattr(one, name) for name in ("figure", "family", "target", "kl", "beta")}
        columns = (one.world.reward_V, one.world.logp_ref_V.exp(), one.optimum(), p_V)
        rows += [
            {**about, "experiment": one.name, "token": token}
            | dict(zip(("reward", "p_ref", "closed_form", "trained"), values, strict=True))
            for token, values in enumerate(zip(*(c.tolist() for c in columns), strict=True))
        ]
    return pa.Table.from_pylist(rows, schema=_DISTRIBUTIONS)


def sweep_table() -> pa.Table:
    """Both modes of Fig. 2 at the exact optimum, over beta."""
    world = worlds()[2]
    rows = []
    for kl, formula in (("reverse", reverse_kl_optimum), ("forward", forward_kl_optimum)):
        for beta in torch.logspace(-1.523, 1, N_BETAS, dtype=torch.float64).tolist():
            low, high = formula(world.reward_V, world.logp_ref_V, beta)[list(MODES)].tolist()
            rows.append({"kl": kl, "beta": beta, "mode_1": low, "mode_2": high})
    return pa.Table.from_pylist(rows, schema=_SWEEP)
