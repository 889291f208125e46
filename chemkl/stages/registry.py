"""The stages by name: where their code and their settings are, imported only when called."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from chemkl.config import Config, InputError, load_config


@dataclass(frozen=True)
class Stage:
    """One stage: a module with ``run(config, out_dir)``, and the model of its settings."""

    name: str
    """Its name, in commands and pipelines."""
    model_path: str
    """Where its config model is: ``module:class``."""
    help: str
    """What it does, for the command line."""

    @property
    def model(self) -> type[Config]:
        """The config model; importing it loads no torch."""
        module, _, name = self.model_path.partition(":")
        model: type[Config] = getattr(import_module(module), name)
        return model

    @property
    def module(self) -> ModuleType:
        """The stage's code; importing it may take seconds (torch, lightning)."""
        return import_module(f"chemkl.stages.{self.name}")

    def load(self, source: object, overrides: Sequence[str] = ()) -> Config:
        """Read a config, with every problem at once: the stage's own way, where it has one.

        Raises:
            InputError: with every problem.
        """
        own = getattr(self.module, "load", None)
        if own is None:
            return load_config(self.model, source, overrides)
        config: Config = own(source, overrides)
        return config

    def check(self, config: Config, what: str) -> None:
        """Look for what the schema cannot see, where the stage offers it.

        Args:
            config: the settings.
            what: where they come from, put in front of each problem.

        Raises:
            InputError: with every problem.
        """
        deeper = getattr(self.module, "check", None)
        if deeper is None:
            return
        try:
            deeper(config)
        except InputError as error:
            lines = str(error).splitlines()
            raise InputError("\n".join(f"{what}: {line}" for line in lines)) from error

    def run(self, config: Config, out_dir: Path) -> Any:
        """Run the stage; Ctrl-C arrives as the KeyboardInterrupt that it was."""
        try:
            return self.module.run(config, out_dir)
        except SystemExit as end:  # what Lightning's trainer makes of Ctrl-C
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from end
            raise


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "prepare",
            "chemkl.config.prepare:PrepareConfig",
            "Clean, de-duplicate and split a set of molecules.",
        ),
        Stage(
            "pretrain",
            "chemkl.config.pretrain:PretrainConfig",
            "Train a prior: a model that writes SMILES like those of a prepared set.",
        ),
        Stage(
            "posttrain",
            "chemkl.config.posttrain:PosttrainConfig",
            "Steer a prior toward molecules with a high reward; keep every molecule it proposes.",
        ),
        Stage(
            "sample",
            "chemkl.config.sample:SampleConfig",
            "Write new molecules with a trained model.",
        ),
        Stage(
            "evaluate",
            "chemkl.config.evaluate:EvaluateConfig",
            "Measure runs: validity, yield of good molecules, and how many scaffolds they cover.",
        ),
        Stage(
            "report",
            "chemkl.config.report:ReportConfig",
            "Show runs in one HTML page: table, learning curves, scaffolds, best molecules.",
        ),
    )
}


def set_aside(folder: Path) -> Path | None:
    """Rename a folder to the first free ``<folder>.old-N``; nothing is ever deleted.

    Returns:
        Where it is now; None where there was no such folder.
    """
    if not folder.exists():
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    return folder.rename(aside)
