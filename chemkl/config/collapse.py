"""Settings of the collapse alarm: what of the newest samples is watched, and what then happens."""

from typing import Literal, Self

from pydantic import Field, model_validator

from chemkl.config.base import Config


class CollapseLimits(Config):
    """When the newest samples are called collapsed: as soon as one of these limits is reached."""

    top_share: float | None = Field(0.3, gt=0, le=1)
    """Alarm when the most frequent scaffold has at least this share of the window's molecules with
    a scaffold; 0 to 1. A broad prior is below a tenth. null: not watched."""
    duplicate_rate: float | None = Field(0.5, gt=0, le=1)
    """Alarm when at least this share of the window repeats another molecule of the window; 0 to 1.
    null: not watched."""
    effective_scaffolds: float | None = Field(None, ge=1)
    """Alarm when exp of the entropy over the window's scaffolds is this or less; at least 1. It
    grows with the window, so there is no value for all. null: not watched."""
    with_scaffold: float = Field(0.5, ge=0, le=1)
    """top_share and effective_scaffolds are looked at only while at least this share of the window
    has a scaffold; 0 to 1. Among mostly acyclic molecules the few rings say nothing of a
    collapse."""

    @model_validator(mode="after")
    def _watches_something(self) -> Self:
        limits = (self.top_share, self.duplicate_rate, self.effective_scaffolds)
        if all(limit is None for limit in limits):
            raise ValueError(
                "top_share, duplicate_rate and effective_scaffolds are all null, so nothing would "
                "be watched: set one of them, or write collapse: null"
            )
        return self


class CollapseConfig(CollapseLimits):
    """Watches the newest valid samples of a run for a policy that repeats itself."""

    action: Literal["warn", "stop"] = "warn"
    """warn: say so, and go on; the samples are the same as without. stop: end the run there, with
    ended_by collapse. Only stop is part of the run's identity."""
    window: int = Field(1000, ge=2)
    """How many of the newest valid samples are looked at, repeats included; there is no alarm
    before there are so many. 1000 as in the late_ metrics of evaluate."""
    margin: float = Field(0.1, ge=0, lt=1)
    """The collapse is over when every value is back by more than this, relative to its limit; 0 to
    less than 1. So a value that hovers about its limit is told once."""
