"""Settings of a shaper: an outside signal, such as the diversity of the hits, in the advantage."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from chemkl.config.base import Config, did_you_mean

ShaperKind = Literal["set_diversity", "differential_smoothing", "ucpo", "ips"]

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(gt=0, le=1)]


class _ShaperBase(Config):
    """What all shapers have."""

    @property
    def options(self) -> dict[str, float]:
        """The settings without the kind, by their names in the loss core."""
        return self.model_dump(exclude={"kind"})


class SetDiversityConfig(_ShaperBase):
    """SetPO (arXiv 2602.01062): hits gain what they add to the diversity of the batch's hits."""

    kind: Literal["set_diversity"]
    """Adds weight x (diversity of the hits - diversity without this one); Tanimoto similarity."""
    weight: _Positive = 1.0
    """Weight of the gain, above 0, in units of the advantage; the gain itself is of the order of
    one over the number of hits in the batch."""


class DifferentialSmoothingConfig(_ShaperBase):
    """Differential smoothing (arXiv 2511.19942): hits that the policy makes rare gain more."""

    kind: Literal["differential_smoothing"]
    """Subtracts gamma x log policy from the advantage of the hits."""
    gamma: _Positive = 0.01
    """Reward units per nat, above 0; a molecule has tens of nats, so 0.01 moves an advantage by
    some tenths."""


class UcpoConfig(_ShaperBase):
    """UCPO (arXiv 2605.00365): hits share their advantage by how rare the policy makes them."""

    kind: Literal["ucpo"]
    """Multiplies the advantage of the hits; the factors have mean 1."""
    strength: _Share = 0.2
    """Share of the advantage that goes by rarity, above 0, at most 1; 0.2 is the authors'."""
    temperature: _Positive = 1.0
    """Nats by which log-probabilities are divided before they are compared, above 0; at 1 the
    rarest hit has nearly all of that share, at about the mean number of tokens it is spread."""


class IpsConfig(_ShaperBase):
    """Inverse probability scaling (arXiv 2601.21669): frequent scaffolds weigh less."""

    kind: Literal["ips"]
    """Divides the advantage by the share of the batch that has the molecule's scaffold. All acyclic
    molecules count as one scaffold; invalid strings keep their advantage."""
    eps: _Share = 0.01
    """Smallest share to divide by, above 0, at most 1; the factor is never above 1/eps."""


def _known_shaper(value: Any) -> Any:
    """Let a bare name stand for its kind, and name the near kind on a misspelt one."""
    section = {"kind": value} if isinstance(value, str) else value
    if isinstance(section, Mapping) and "kind" in section:
        kind, known = section["kind"], get_args(ShaperKind)
        if kind not in known:
            raise ValueError(f"shaper {kind!r} is not known{did_you_mean(str(kind), known)}")
    return section


ShaperConfig = Annotated[
    SetDiversityConfig | DifferentialSmoothingConfig | UcpoConfig | IpsConfig,
    Field(discriminator="kind"),
    BeforeValidator(_known_shaper),
]
"""The outside signal in the advantage; a bare name stands for its kind with the defaults."""
