"""Settings of the diversity filters."""

from typing import Annotated, Literal

from pydantic import Field

from chemkl.config.base import Config, by_kind


class MurckoFilterConfig(Config):
    """Pay each Bemis-Murcko scaffold a limited number of times, so that the policy must move on."""

    kind: Literal["murcko"]
    """Identical Bemis-Murcko scaffold."""
    bucket: int = Field(25, ge=1)
    """How many sampled molecules of one scaffold are paid; all later ones get 0. Exact, also
    within a batch: rows are taken in order. A molecule that is sampled again counts again."""
    min_score: float = Field(0.4, ge=0, le=1)
    """Rewards below this neither fill a bucket nor are touched."""


DiversityFilter = Annotated[MurckoFilterConfig, by_kind(MurckoFilterConfig)]
