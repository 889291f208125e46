"""Settings of the forecast stage: those of the run that is to be forecast, and a few of its own."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from chemkl.config.evaluate import RunFolders
from chemkl.config.posttrain import PosttrainConfig

BETA_FACTORS = (16.0, 4.0, 1.0, 0.25)
"""The betas looked at by default, as multiples of the run's own."""
DEFAULT_TAU = 0.8
"""tau by default where the run's target has none: the threshold of the evaluate stage."""


def _one_alone(value: Any) -> Any:
    """Let ``taus: 0.9`` stand for ``taus: [0.9]``."""
    return value if value is None or isinstance(value, list | tuple) else [value]


_Coefficients = Annotated[
    tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...],
    Field(min_length=1),
    BeforeValidator(_one_alone),
]
_Taus = Annotated[
    tuple[Annotated[float, Field(allow_inf_nan=False)], ...],
    Field(min_length=1),
    BeforeValidator(_one_alone),
]


class ForecastConfig(PosttrainConfig):
    """A posttrain config, as it will be trained with, and how its targets are to be forecast."""

    n: int = Field(10_000, ge=2)
    """Sequences to draw from the prior. Each new molecule among them is scored, as one oracle call:
    the forecast's own cost, beside the budget of the run."""
    betas: _Coefficients | None = None
    """Betas to forecast for, beside the run's own. null: 16, 4, 1 and 1/4 times that. Give betas or
    sigmas."""
    sigmas: _Coefficients | None = None
    """The same as sigma = 1/beta, for example [32, 128]. Give betas or sigmas."""
    taus: _Taus | None = None
    """Rewards from which on a molecule is a hit, to forecast for, beside the run's own; above 0, at
    most 1. null: that alone, or 0.8 where its target has none; a tau_quantile is taken of the
    prior's samples."""
    families: int = Field(5, ge=2, le=50)
    """So many main scaffold families: those with the largest share under the prior or any gibbs
    target of the list. The crossover betas are found for each pair of them."""
    min_ess: float = Field(100, ge=1)
    """A prediction from a smaller effective sample size is marked as not trustworthy. At 100 the
    standard error of a share is at most about 5 points. Crossovers have a rule of their own."""
    runs: RunFolders = Field(default_factory=list)
    """Folders of finished posttrain runs with the same prior and reward, each a path or a glob
    pattern: what training gave is shown beside the prediction for the run's own target."""
    late_samples: int = Field(1000, ge=1)
    """What training gave is read off so many last valid samples of each run; where a run has fewer,
    off as many of all, so that they can be compared."""
    sample_batch: int = Field(512, ge=1)
    """Sequences drawn at once; more is faster and takes more memory. Another size draws others."""
    device: str = "cpu"
    """Where the prior runs: cpu, cuda, cuda:1, ..."""

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        if self.betas is not None and self.sigmas is not None:
            raise ValueError(
                "betas and sigmas are both given; sigma is 1/beta: remove one of the two"
            )
        return self

    @property
    def resolved_betas(self) -> tuple[float, ...]:
        """The betas to forecast for, the largest first, each once."""
        if self.betas is not None:
            chosen = self.betas
        elif self.sigmas is not None:
            chosen = tuple(1 / sigma for sigma in self.sigmas)
        else:
            chosen = tuple(factor * self.target.resolved_beta for factor in BETA_FACTORS)
        return tuple(sorted(set(chosen), reverse=True))
