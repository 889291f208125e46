"""Settings of the sample stage: how many molecules, and of which policy or mixture of policies."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from chemkl.config.base import Config, InputPath, did_you_mean
from chemkl.config.errors import InputError

POLICY = "policy"
"""What a single policy is called beside its prior."""

PRIOR = "prior"
"""What the prior is called among the members of a mixture."""

Kind = Literal["product", "harmonic"]
SLACK = 1e-6
"""Weights may miss a sum of 1 by so much: seven digits of 1/3 are enough."""


def _as_column(name: str) -> str:
    """Refuse a name that a column cannot be called after."""
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ValueError(f"{name!r} is no name for a policy: use letters, digits and _ only")
    return name


MemberName = Annotated[str, AfterValidator(_as_column)]


class MemberConfig(Config):
    """One policy of a mixture."""

    policy: InputPath
    """Model file; all of a mixture speak the same vocabulary."""
    weight: float = Field(ge=0, le=1)
    """Its part, 0 to 1; the weights sum to 1. Above 0 where the kind is harmonic."""


class MixtureConfig(Config):
    """Several policies decoded as one, for a weighted sum of their rewards (arXiv 2406.18853)."""

    kind: Kind = "product"
    """How the next token's probabilities are combined: product, their weighted geometric mean, for
    policies trained under the reverse KL (gibbs); harmonic, their weighted harmonic mean, for the
    forward KL. Token by token, which is not the same as for whole sequences."""
    policies: dict[MemberName, MemberConfig] = Field(min_length=2)
    """The policies, two or more, by names of yours (letters, digits and _); each one gets a column
    logp_<name>."""

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        check_weights(self.kind, self.weights)
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Name and weight of each policy."""
        return {name: member.weight for name, member in self.policies.items()}

    @property
    def models(self) -> dict[str, Path]:
        """Name and model file of each policy."""
        return {name: member.policy for name, member in self.policies.items()}


class SampleConfig(Config):
    """Draw SMILES from a policy, or from several at once, and write them with their log p."""

    policy: InputPath | None = None
    """Model file: a prior or a post-trained policy. Give this or mixture."""
    mixture: MixtureConfig | None = None
    """Several policies decoded as one. Give this or policy."""
    prior: InputPath | None = None
    """Model file that the policies were post-trained from; with beta_scale, else null."""
    beta_scale: float | None = Field(None, gt=0)
    """Sample as if the policy had been trained with so many times its beta (arXiv 2402.02992);
    above 0. 1 changes nothing, larger values lead back to the prior, values below 1 lead away from
    it. Approximate (token by token), and meant for policies with a gibbs target. null: off."""
    n: int = Field(10_000, ge=1)
    """Sequences to draw."""
    batch_size: int = Field(512, ge=1)
    """Sequences drawn at once; more is faster and takes more memory. Another size draws others."""
    seed: int = Field(0, ge=0)
    """Decides the samples, together with batch_size; at least 0."""
    device: str = "cpu"
    """Where the network runs: cpu, cuda, cuda:1, ..."""

    @model_validator(mode="after")
    def _names_one_thing_to_sample(self) -> Self:
        if (self.policy is None) == (self.mixture is None):
            which = "neither is given" if self.policy is None else "both are given"
            raise ValueError(
                f"give policy (one model file) or mixture (several, with weights): {which}"
            )
        kind, weights = self.combination
        check_beta_scale(
            kind, weights, has_prior=self.prior is not None, beta_scale=self.beta_scale
        )
        return self

    @property
    def combination(self) -> tuple[Kind, dict[str, float]]:
        """Kind and weights of the mixture; a single policy is a product with the weight 1."""
        if self.mixture is None:
            return "product", {POLICY: 1.0}
        return self.mixture.kind, self.mixture.weights


def check_weights(kind: str, weights: Mapping[str, float]) -> None:
    """Check the weights of a mixture.

    Args:
        kind: product or harmonic.
        weights: name and weight of each policy.

    Raises:
        InputError: an unknown kind, no weights, a weight out of range, or a sum that is not 1.
    """
    if kind not in get_args(Kind):
        raise InputError(f"kind: {kind!r} is not known{did_you_mean(str(kind), get_args(Kind))}")
    if not weights:
        raise InputError("a mixture needs at least one policy")
    low = {name: w for name, w in weights.items() if not (math.isfinite(w) and w >= 0)}
    if low:
        raise InputError(
            f"weights must be finite and at least 0; got {_listed(low)}. To move away from a "
            "prior, set prior and a beta_scale below 1"
        )
    zero = [name for name, w in weights.items() if w == 0]
    if zero and kind == "harmonic":
        raise InputError(
            f"the weights of a harmonic mixture must be above 0; got 0 for {', '.join(zero)}. "
            "Leave that policy out"
        )
    total = math.fsum(weights.values())
    if total == 0:
        raise InputError(f"the weights must sum to 1, and all are 0: {_listed(weights)}")
    if abs(total - 1) > SLACK:
        fixed = {name: w / total for name, w in weights.items()}
        raise InputError(
            f"the weights must sum to 1, and sum to {total:.7g}; divided by that they are "
            f"{_listed(fixed)}"
        )


def check_beta_scale(
    kind: str, weights: Mapping[str, float], *, has_prior: bool, beta_scale: float | None
) -> None:
    """Check that a prior and a beta scale come together, and fit the mixture.

    Raises:
        InputError: one without the other, a scale that is not above 0, a harmonic mixture, or a
            policy that is called prior.
    """
    if beta_scale is None and not has_prior:
        return
    if beta_scale is None:
        raise InputError("prior is used with beta_scale only: set beta_scale, or leave prior out")
    if not (math.isfinite(beta_scale) and beta_scale > 0):
        raise InputError(f"beta_scale must be finite and above 0, got {beta_scale}")
    if not has_prior:
        raise InputError(
            "beta_scale needs prior: add the model file that the policy was post-trained from"
        )
    if kind != "product":
        raise InputError(
            f"beta_scale belongs to the reverse KL and needs a product mixture, not a {kind} one: "
            "set kind: product, or leave beta_scale and prior out"
        )
    if PRIOR in weights:
        raise InputError(
            f"a policy of the mixture is called {PRIOR!r}, which is what the prior of beta_scale "
            "is called: choose another name"
        )


def _listed(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {w:.7g}" for name, w in weights.items())
