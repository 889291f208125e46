"""Settings of the pretrain_llm stage: corpus and conditions to a language model that takes tags."""

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from chemkl.config.base import Config
from chemkl.config.pretrain import MaximumLikelihood

_WORD = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"


class LlamaConfig(Config):
    """A small decoder with Llama's layers, made anew; the defaults have 0.8 million weights."""

    kind: Literal["llama"] = "llama"
    """Llama's layers, in Hugging Face's format."""
    hidden_size: int = Field(128, ge=2, le=65_536)
    """Numbers that stand for a token within the network; a multiple of twice n_heads."""
    n_layers: int = Field(4, ge=1, le=256)
    """Stacked layers, 1 to 256."""
    n_heads: int = Field(4, ge=1, le=1_024)
    """Attention heads of a layer, 1 to 1,024."""
    inner_size: int | None = Field(None, ge=1)
    """Units within a layer's feed-forward part; null: 8/3 of hidden_size, rounded up to a multiple
    of 32."""
    max_length: int = Field(128, ge=4, le=65_536)
    """Tokens that it can read: tags, molecule and end token together."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden_size % (2 * self.n_heads):
            raise ValueError(
                f"hidden_size = {self.hidden_size} should be a multiple of {2 * self.n_heads}: "
                f"n_heads = {self.n_heads} heads share it, and a head's positions come in pairs"
            )
        return self


class ConditionConfig(Config):
    """A property of the molecule, told as a tag in front of it: <name_level>."""

    kind: str
    """Which property: a reward component, for example logp or tpsa; its raw value counts."""
    name: Annotated[str, Field(pattern=rf"^({_WORD})?$")] = ""
    """What its tags begin with: letters, digits, _ . + - only; default: its kind."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """What the component takes; empty: its defaults. A relative path is looked up in the
    working directory."""
    cuts: list[FiniteFloat] = Field(min_length=1)
    """Values that divide the levels, in the component's unit, rising; a value at a cut belongs to
    the level above."""
    names: list[Annotated[str, Field(pattern=rf"^{_WORD}$")]]
    """The levels, from the lowest: one more than there are cuts, for example [low, mid, high]."""

    @model_validator(mode="before")
    @classmethod
    def _called_by_its_kind(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("kind"), str):
            return {**given, "name": given.get("name") or given["kind"]}
        return given

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        problems = []
        if any(low >= high for low, high in pairwise(self.cuts)):
            problems.append(f"cuts should rise, but are {self.cuts}")
        if len(self.names) != len(self.cuts) + 1:
            problems.append(
                f"{len(self.cuts)} cuts make {len(self.cuts) + 1} levels, but names has "
                f"{len(self.names)}"
            )
        if len(set(self.names)) < len(self.names):
            problems.append(f"names should differ, but are {', '.join(self.names)}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def tags(self) -> list[str]:
        """Its tags, from the lowest level: <logp_low>, <logp_mid>, ..."""
        return [f"<{self.name}_{level}>" for level in self.names]

    def level(self, value: float) -> int:
        """The level of a value, from 0."""
        return sum(value >= cut for cut in self.cuts)

    def band(self, level: int) -> str:
        """What values a level has, in words."""
        ends = ["", *(f"{cut:g}" for cut in self.cuts), ""]
        low, high = ends[level], ends[level + 1]
        parts = [f"{low} <=" if low else "", self.kind, f"< {high}" if high else ""]
        return " ".join(filter(None, parts))


class PretrainLlmConfig(MaximumLikelihood):
    """Maximum-likelihood training of a small language model on "<tag> SMILES"."""

    model: LlamaConfig = LlamaConfig()
    """The network."""
    conditions: list[ConditionConfig] = Field(min_length=1)
    """Properties that are told in front of the molecule, in this order, one tag each: a prompt is
    one tag of each condition."""
    train_molecules: int | None = Field(None, ge=1)
    """At most so many molecules of the training split, the first ones, are used: the properties of
    each are computed before the training. null: all."""

    @model_validator(mode="after")
    def _tags_differ(self) -> Self:
        tags = [tag for each in self.conditions for tag in each.tags]
        twice = sorted({tag for tag in tags if tags.count(tag) > 1})
        if twice:
            raise ValueError(
                f"conditions: two levels have the tag {', '.join(twice)}: give one of the "
                "conditions another name"
            )
        return self
