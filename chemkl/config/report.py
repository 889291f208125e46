"""Settings of the report stage: which runs, at which threshold, how many molecules are drawn."""

from typing import Annotated

from pydantic import Field

from chemkl.config.base import Config
from chemkl.config.evaluate import MetricOptions, RunFolders


class ReportConfig(Config):
    """From the traces of runs to one self-contained HTML page."""

    runs: Annotated[RunFolders, Field(min_length=1)]
    """Folders of posttrain runs, each a path or a glob pattern such as out/*; in the order given,
    the first one first."""
    title: str = "Post-training report"
    """Heading of the page."""
    threshold: float = 0.8
    """Hits are molecules with raw reward of at least this: the screen that every table, curve and
    molecule of the page refers to."""
    n_molecules: int = Field(default=12, ge=0, le=200)
    """Molecules drawn per run: the best one of each scaffold, best scaffolds first. Each adds some
    6 kB to the page."""
    smoothing: int = Field(default=9, ge=1)
    """Width, in steps, of the centred running mean drawn over the raw learning curves; 1: none."""
    metrics: MetricOptions = MetricOptions()
    """How the metrics of the table are computed."""
