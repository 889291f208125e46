"""The stages by name: where their code and their settings are, imported only when called."""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from chemkl.config import Config, InputError, load_config
from chemkl.config.loading import Draft, Override
from chemkl.signals import StoppedBySignal, deferred


@dataclass(frozen=True)
class Stage:
    """One stage: a module with ``run(config, out_dir)``, and the model of its settings."""

    name: str
    """Its name, in commands and pipelines."""
    model_path: str
    """Where its config model is: ``module:class``."""
    help: str
    """What it does, for the command line."""
    outputs: tuple[str, ...] = field(default=(), kw_only=True)
    """Patterns of the files that it writes into its folder, for those who read them; none: not
    known beforehand."""
    suffix: str = field(default="", kw_only=True)
    """What its default output folder ends with, where two stages take the same config files."""
    limits: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """Settings that say when a run ends, and why a run cannot go on with others; an empty text: it
    can, and equals one that had them from the start."""

    @property
    def model(self) -> type[Config]:
        """The config model; importing it loads no torch."""
        module, _, name = self.model_path.partition(":")
        model: type[Config] = getattr(import_module(module), name)
        return model

    @property
    def module(self) -> ModuleType:
        """The stage's code; importing it may take seconds (torch, lightning).

        Raises:
            StoppedBySignal: a signal came meanwhile; raised in the middle of an import it could be
                lost, or leave half a module.
        """
        with deferred():
            return import_module(f"chemkl.stages.{self.name}")

    def load(
        self,
        source: object,
        overrides: Iterable[str | Override] = (),
        *,
        also: Iterable[Path] = (),
        promised: Iterable[Path] = (),
        earlier: Mapping[Path, Sequence[str]] | None = None,
    ) -> Config:
        """Read a config; the arguments are those of `load_config`.

        Raises:
            InputError: the settings do not fit the schema; with every problem, those included
                that the schema cannot see, where the stage looks for them.
        """
        return load_config(
            self.model,
            source,
            overrides,
            also=also,
            promised=promised,
            earlier=earlier,
            beside=self._problems_beside,
            kinds=[f"configs/{self.name}"],
        )

    def _problems_beside(self, draft: Draft) -> list[str]:
        look = getattr(self.module, "problems_beside", None)
        return list(look(draft)) if look else []

    def check(self, config: Config, what: str, awaited: Collection[Path] = ()) -> None:
        """Look for what the schema cannot see, where the stage offers it.

        Args:
            config: settings that fit the schema.
            what: where they come from, put in front of each problem.
            awaited: paths among them that are not to be looked into: they are yet to be made.

        Raises:
            InputError: with every problem.
        """
        deeper = getattr(self.module, "check", None)
        if deeper is None:
            return
        try:
            deeper(config, awaited)
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


STOPS = (KeyboardInterrupt, StoppedBySignal)
"""What a user, or a scheduler, ends a stage with."""

MANIFEST = "manifest.json"
LAST = "checkpoints/last.ckpt"
TRAINING = ("checkpoints/policy.safetensors", LAST, "logs/*")
"""What every training stage writes."""
DECAYS = {
    "epochs": " (the learning rate falls to 0 at the last epoch: a run of another length is "
    "another one from its first step on)"
}
"""Why maximum-likelihood training cannot be made longer."""

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "prepare",
            "chemkl.config.prepare:PrepareConfig",
            "Clean, de-duplicate and split a set of molecules.",
            outputs=("corpus.parquet", "dropped.parquet", "tokens.json", MANIFEST),
        ),
        Stage(
            "pretrain",
            "chemkl.config.pretrain:PretrainConfig",
            "Train a prior: a model that writes SMILES like those of a prepared set.",
            outputs=(*TRAINING, MANIFEST),
            limits=DECAYS,
        ),
        Stage(
            "pretrain_llm",
            "chemkl.config.pretrain:PretrainLlmConfig",
            "Train a small language model that writes the SMILES that a property tag asks for.",
            outputs=("checkpoints/model/*", LAST, "logs/*", MANIFEST),
            limits=DECAYS,
        ),
        Stage(
            "forecast",
            "chemkl.config.evaluate:ForecastConfig",
            "Foretell from samples of the prior what a posttrain config asks for; train nothing.",
            outputs=("forecast.parquet", "forecast.json", "samples.parquet", MANIFEST),
            suffix="-forecast",  # it takes the very file that posttrain will be given
        ),
        Stage(
            "posttrain",
            "chemkl.config.posttrain:PosttrainConfig",
            "Steer a prior toward molecules with a high reward; keep every molecule it proposes.",
            outputs=(
                *TRAINING,
                "trace/part-*.parquet",
                "evaluation/diversity.parquet",
                "evaluation/metrics.json",
                MANIFEST,
            ),
            limits={"budget": "", "max_samples": ""},
        ),
        Stage(
            "posttrain_llm",
            "chemkl.config.llm:LlmPosttrainConfig",
            "Steer a language model toward answers with a high reward; keep all that it writes.",
            outputs=(
                "checkpoints/adapter/*",
                "checkpoints/model/*",
                LAST,
                "logs/*",
                "trace/part-*.parquet",
                "answers.parquet",
                "prompts.json",
                MANIFEST,
            ),
            limits={"budget": "", "max_steps": ""},
        ),
        Stage(
            "sample",
            "chemkl.config.prepare:SampleConfig",
            "Write new molecules with a trained model.",
            outputs=("samples.parquet", MANIFEST),
        ),
        Stage(
            "score",
            "chemkl.config.prepare:ScoreConfig",
            "Score the molecules of a file: every component, and the reward.",
            outputs=("scores.parquet", "scores.csv", MANIFEST),
            suffix="-scores",
        ),
        Stage(
            "evaluate",
            "chemkl.config.evaluate:EvaluateConfig",
            "Measure runs: validity, yield of good molecules, and how many scaffolds they cover.",
            outputs=("diversity.parquet", "metrics.json", MANIFEST),
        ),
        Stage(
            "evaluate_text",
            "chemkl.config.evaluate:EvaluateTextConfig",
            "Measure texts: distinct n-grams, semantic diversity, clusters, entropy of answers.",
            outputs=(
                "text_diversity.parquet",
                "text_metrics.json",
                "entropy_over_steps.parquet",
                "methods.parquet",
                "entropy.svg",
                "entropy.png",
                MANIFEST,
            ),
        ),
        Stage(
            "compare",
            "chemkl.config.evaluate:CompareConfig",
            "Compare methods over several seeds: differences, intervals, tests, a forest plot.",
            outputs=(
                "comparison.parquet",
                "values.parquet",
                "comparison.md",
                "comparison.tex",
                "forest.svg",
                "forest.png",
                MANIFEST,
            ),
            suffix="-compared",
        ),
        Stage(
            "report",
            "chemkl.config.evaluate:ReportConfig",
            "Show runs in one HTML page: table, learning curves, scaffolds, best molecules.",
            outputs=("report.html", MANIFEST),
        ),
        Stage(
            "didactic",
            "chemkl.didactic.config:DidacticConfig",
            "Reproduce the figures of arXiv 2510.20817, from closed forms and by training.",
            outputs=(
                "fig*.png",
                "fig*.svg",
                "quantities.parquet",
                "distributions.parquet",
                "sweep.parquet",
                MANIFEST,
            ),
        ),
    )
}


@contextmanager
def interruptible(told: Callable[[], str]) -> Iterator[None]:
    """Say after Ctrl-C or a signal what is kept, and how to go on: see `interrupted`."""
    try:
        yield
    except STOPS as stop:
        if getattr(stop, "code", 1):  # a process that helps another is silent, as its code is 0
            sys.stderr.write(f"{told()}\n")
        raise


def interrupted(stage: Stage, folder: Path, *, fresh: bool = False) -> str:
    """Say after Ctrl-C or a signal what is kept of a run, and how to go on."""
    again = f"the same command{' without --fresh' if fresh else ''}"
    if (folder / LAST).exists():
        kept = f"{folder} keeps everything up to the last checkpoint; {again} continues from there"
    elif LAST in stage.outputs:
        kept = f"no checkpoint had been written yet; {again} begins anew"
    else:
        kept = f"{again} begins anew"
    return f"interrupted: {kept}."
