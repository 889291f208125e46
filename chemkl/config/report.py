"""Settings of the report stage: which runs, at which threshold, how much of them is shown."""

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from chemkl.config.base import Config, InputPath
from chemkl.config.evaluate import MethodName, MetricOptions, RunFolders, SampledFile, as_file


class ReportConfig(Config):
    """From the traces of runs to one self-contained HTML page."""

    runs: RunFolders = Field(default_factory=list)
    """Folders of posttrain runs, each a path or a glob pattern such as out/*; in the order given,
    the first one first. Each is shown as a method of its own; for several seeds of a method, give
    `methods` instead."""
    methods: dict[MethodName, Annotated[RunFolders, Field(min_length=1)]] = Field(
        default_factory=dict
    )
    """Methods by a name of yours, instead of `runs`: for each the folders of its runs, one a seed,
    as paths or glob patterns such as out/mara-*. A method has one colour; curves and tables show
    the mean over its runs and how far they spread."""
    title: str = "Post-training report"
    """Heading of the page."""
    threshold: float | None = None
    """Hits are molecules with raw reward of at least this: the screen that every table, curve and
    molecule of the page refers to. Null: the tau of the runs, the highest where they differ, or 0.8
    where none has one; the page says which."""
    prior: Annotated[SampledFile, BeforeValidator(as_file)] | None = None
    """A sample of the prior that the runs started from: a path, or {path, column}. The shares of
    scaffold families are then compared with it, it is the ground of the map, and the tables say how
    many of its families the runs still make. Null: the beginning of each run stands for it."""
    comparison: InputPath | None = None
    """comparison.parquet of a compare stage over methods of the same names, the first one its
    baseline; the summary then says which differences are more than chance. Null: it says that this
    is not tested."""
    n_scaffolds: int = Field(default=5, ge=0, le=50)
    """Scaffolds drawn of each method, those with most hits first; three families more are shown."""
    n_molecules: int = Field(default=4, ge=0, le=50)
    """Molecules drawn of each of these scaffolds, best first. Each adds some 6 kB to the page."""
    n_top: int = Field(default=100, ge=0, le=2000)
    """Rows of the table of the top molecules, each with a drawing."""
    n_map: int = Field(default=1500, ge=0, le=20_000)
    """Molecules on the map of chemical space."""
    smoothing: int = Field(default=9, ge=1)
    """Width, in steps, of the centred running mean drawn over the raw learning curves; 1: none."""
    metrics: MetricOptions = MetricOptions()
    """How the metrics of the tables are computed. late_samples is also what stands for the
    beginning and the end of a run."""

    @model_validator(mode="after")
    def _has_runs_once(self) -> Self:
        if bool(self.runs) == bool(self.methods):
            what = "both `runs` and `methods`" if self.runs else "neither `runs` nor `methods`"
            raise ValueError(
                f"{what} given: name run folders under `runs`, or several seeds of named methods "
                "under `methods`"
            )
        folders = [*self.runs, *(each for own in self.methods.values() for each in own)]
        twice = sorted({str(folder) for folder in folders if folders.count(folder) > 1})
        if twice:
            raise ValueError(f"each run once, please; given twice: {', '.join(twice)}")
        return self
