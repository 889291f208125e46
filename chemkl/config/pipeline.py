"""Settings of a pipeline: stages in order, as data."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from chemkl.config.base import Config, InputPath

StageName = Literal[
    "prepare",
    "pretrain",
    "pretrain_llm",
    "forecast",
    "posttrain",
    "posttrain_llm",
    "sample",
    "score",
    "evaluate",
    "evaluate_text",
    "compare",
    "report",
    "didactic",
]


def _names_a_folder(name: str) -> str:
    """Refuse names that trouble a shell or a file system."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]*", name):
        raise ValueError(
            f"{name!r} cannot name a folder here: letters, digits and . _ = + - only, the first "
            "one a letter or a digit"
        )
    return name


FolderName = Annotated[str, AfterValidator(_names_a_folder)]
"""The name of an output folder: letters, digits, . _ = + -; it begins with a letter or digit."""


class StageEntry(Config):
    """One line of a pipeline: a stage with its settings, once or over a grid."""

    stage: StageName
    """Which stage runs: the same names as the commands of chemkl."""
    name: FolderName | None = None
    """What its output folder is called and how later entries refer to it, ${name}; letters,
    digits, . _ = + - only. Default: the name of the stage."""
    config: InputPath | dict[str, Any] = Field(default_factory=dict)
    """The stage's settings: a config file, looked up beside the pipeline file and then in the
    working directory, or the settings themselves."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings changed from the config: dotted key and value, as target.beta: 0.1."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Settings to vary: dotted key and list of values; one job for every combination."""

    @property
    def label(self) -> str:
        """Its name, or that of its stage."""
        return self.name or self.stage


class PipelineConfig(Config):
    """Stages in the order in which they run; a later one may read what earlier ones wrote."""

    name: FolderName
    """What the pipeline's output folder is called: runs/<name>."""
    stages: list[StageEntry] = Field(min_length=1)
    """The entries, in order. ${name} in their settings stands for the output folder of an earlier
    entry; where that one has a grid, for the folders of all its jobs."""
