"""Settings of the compare stage: which runs belong to which method, and what is compared."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chemkl.config.base import Config, InputPath, did_you_mean
from chemkl.config.evaluate import MethodName, MetricOptions, RunFolders


class CompareConfig(Config):
    """From runs of several methods, paired by seed, to the differences and how sure they are."""

    methods: dict[MethodName, Annotated[RunFolders, Field(min_length=1)]] = Field(min_length=2)
    """The methods by a name of yours, at least two: for each the folders of its posttrain runs, one
    a seed, as paths or glob patterns such as out/mara-*. All must have the same prior, reward and
    budget; the runs of one method may differ in nothing but the seed."""
    baseline: str
    """The method that every other one is compared with: one of the names under methods."""
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "yield",
        "scaffold_yield",
        "ob100",
        "effective_scaffolds",
        "top_share",
    )
    """Columns of the evaluate stage's diversity.parquet. Each metric at each threshold is one test
    a method, and Holm's correction is for all of them: name what you want to know, not everything.
    An oracle burden (ob1, ob10, ...) that was not reached enters as budget + 1, its lower bound."""
    thresholds: Annotated[tuple[float | None, ...], Field(min_length=1)] = (0.8,)
    """Hits are molecules with raw reward of at least this; each metric is compared at each. null:
    all distinct molecules. Validity, uniqueness and the late_ metrics are of the run and need
    none."""
    direction: dict[str, Literal["higher", "lower"]] = Field({})
    """What is better, higher or lower, for metrics for which chemkl does not know it (acyclic,
    n_valid, ...) or where you see it otherwise."""
    table: InputPath | None = None
    """The diversity.parquet in the output folder of an evaluate stage over these runs, to take the
    values from; needed for metrics that compare with a corpus, a reference or the prior (novelty,
    fcd, snn, ...). null: the traces are evaluated anew."""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """A method is called better where its p value, corrected by Holm, is below this."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the bootstrap interval of the difference, per comparison, not corrected."""
    n_resamples: int = Field(9999, ge=100)
    """Bootstrap samples; the ends of the interval move by a percent or so from seed to seed."""
    seed: int = Field(0, ge=0)
    """Seed of the bootstrap."""
    options: MetricOptions = MetricOptions()
    """How the metrics are computed, as in the evaluate stage; not where a table is given."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.baseline not in self.methods:
            raise ValueError(
                f"baseline: {self.baseline!r} is no method"
                f"{did_you_mean(self.baseline, self.methods)}"
            )
        for name, given in {"metrics": self.metrics, "thresholds": self.thresholds}.items():
            if len(set(given)) < len(given):
                raise ValueError(f"{name}: each once, please; a test twice would count twice")
        if self.table is not None and self.options != MetricOptions():
            raise ValueError(
                "options are for evaluating the traces, and the table holds values already: remove "
                "options or table"
            )
        return self
