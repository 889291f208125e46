"""The table of stages: a stage is a row here and a module with the function that does its work.

To add a stage, write a row and a module; for pipelines add its name to
`chemkl.config.pipeline.StageName` too. The module has

    work(config, start)       Read inputs, claim the folder with `start.claim` and write outputs;
                              see `chemkl.stages.runner.Start`.
    problems(view)            Optional. Yield keys and, for each, lines about what the schema cannot
                              check.
    read(path)                Optional. Turn the path of the result into what `run` returns. Without
                              it `run` returns the path, or the table if the row says so.
    check_spent(config, out)  Refuse limits below what a run has spent; for stages with `limits`.
    run = STAGES[name].run    For callers in Python.

This module imports no more than the base of the settings, so that `chemkl --help` is fast.
"""

import gc
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from chemkl.config import Config, InputError, load_config
from chemkl.config.loading import Draft, Override
from chemkl.processes import StoppedBySignal, deferred, handled

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def few_collections() -> Iterator[None]:
    """Collect garbage rarely in this scope: it adds a second to the imports of a stage."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@dataclass(frozen=True)
class Stage:
    """One stage of the table."""

    CHECKPOINT: ClassVar[str] = "checkpoints/last.ckpt"
    """What an interrupted training stage resumes from."""

    name: str  # in commands and pipelines
    model_path: str  # of its config model: ``module:class``
    help: str  # what it does, for the command line
    _: KW_ONLY
    outputs: tuple[str, ...] = ()
    """Patterns of the files that it writes into its folder; empty: not known in advance."""
    result: str | Callable[[Any], str] = ""
    """Which of them `run` returns, or a function from config to its name; empty: the folder."""
    gives_table: bool = False
    """Whether `run` returns the result as a table."""
    code: str = ""
    """The module of its work; default: the one with its name in `chemkl.stages`."""
    suffix: str = ""
    """Suffix of its default output folder, where two stages take the same config files."""
    limits: Mapping[str, str] = field(default_factory=dict)
    """Settings that say when a run ends, and why a run cannot continue with other values; an empty
    reason: it can, and equals a run that had them from the start."""

    @property
    def model(self) -> type[Config]:
        """The config model; importing it loads no torch."""
        module, _, name = self.model_path.partition(":")
        model: type[Config] = getattr(import_module(module), name)
        return model

    @property
    def module_name(self) -> str:
        """Name of the module with the stage's code."""
        return self.code or f"chemkl.stages.{self.name}"

    @property
    def module(self) -> ModuleType:
        """The stage's code; importing it may take seconds (torch, lightning)."""
        with deferred(), few_collections():
            return import_module(self.module_name)

    @few_collections()
    def load(
        self, source: object, overrides: Iterable[str | Override] = (), **places: Any
    ) -> Config:
        """Read a config; the arguments are those of `load_config`, which calls `more_problems`."""

        def more_problems(draft: Draft) -> list[str]:
            problems = self._problems(View(self.model, draft=draft))
            return [
                text
                for key, lines in problems
                for text in (draft.placed(key, lines) if key else lines)
            ]

        kinds = [f"configs/{self.name}"]
        return load_config(
            self.model, source, overrides, more_problems=more_problems, kinds=kinds, **places
        )

    @few_collections()
    def check(
        self,
        config: Config,
        what: str = "",
        pending: Collection[Path] = (),
        *,
        starts: bool = False,
        copies: Mapping[Path, Path] = MappingProxyType({}),
        placed: Callable[[str, Sequence[str]], list[str]] | None = None,
    ) -> None:
        """Check what the schema cannot.

        Args:
            config: the settings.
            what: written before each problem.
            pending: paths in the config that do not exist yet.
            starts: whether the stage starts now.
            copies: copies of model files that have been deleted.
            placed: adds the place of a key to the lines about it, instead of `what`.

        Raises:
            InputError: a line for each problem.
        """
        view = View(self.model, config, pending=pending, starts=starts, copies=copies)
        problems: dict[str, None] = {}
        for key, lines in self._problems(view):
            if key and placed is not None:
                problems |= dict.fromkeys(placed(key, lines))
            else:
                problems |= dict.fromkeys(f"{what}: {line}" if what else line for line in lines)
        InputError.refuse(problems)

    def _problems(self, view: "View") -> Iterator[tuple[str, list[str]]]:
        """Yield the problems by key, each line with its key in front."""
        find = getattr(self.module, "problems", None)
        for key, lines in find(view) if find else ():
            starts = (f"{key}:", f"{key}.") if key else ("",)
            yield key, [line if line.startswith(starts) else f"{key}: {line}" for line in lines]

    def run(self, config: object, out_dir: str | Path, *, console: "Console | None" = None) -> Any:
        """Run the stage, resume an interrupted run, or skip a complete one.

        Args:
            config: a config, a mapping, or the path of a YAML file.
            out_dir: the output folder.
            console: where results are printed; default: standard output.

        Returns:
            The path of the result, or its table: see the stage's module.

        Raises:
            InputError: the config or an input is wrong, or the folder holds something else.
        """
        with few_collections():
            from chemkl.stages import runner  # it reads manifests: slow for chemkl --help

        return runner.run(self, config, Path(out_dir), console)


@dataclass(frozen=True)
class View:
    """The settings that a stage's `problems` inspects, whether they fit the schema or not.

    A value is None if it cannot be read or is the path of a file that does not exist yet:
    `complaints` skips these.
    """

    model: type[Config]
    config: Config | None = None  # settings that fit the schema
    draft: Draft | None = None  # settings that do not
    pending: Collection[Path] = ()  # paths in the config that do not exist yet
    starts: bool = False  # whether the stage starts now: runs that it reads must be complete
    copies: Mapping[Path, Path] = field(default_factory=dict)  # of files that have been deleted

    def get(self, key: str) -> Any:
        """Return a setting in the type of the schema."""
        if self.draft is not None:
            return self.draft.get(key)
        value = getattr(self.config, key)
        if isinstance(value, Path):
            return None if value in self.pending else self.copies.get(value, value)
        return value

    def existing(self, paths: Iterable[Path] | None) -> list[Path]:
        """Return those of several paths that exist already."""
        if self.draft is not None:
            return [path for path in paths or () if path.exists()]
        return [path for path in paths or () if path not in self.pending]

    def mapping(self, key: str) -> dict[str, Any] | None:
        """Return a setting as a plain mapping."""
        return self.get(key) if self.draft is None else self.draft.mapping(key)

    def section(self, key: str) -> Any:
        """Return a section, with the line numbers of its file if it does not fit the schema."""
        return self.get(key) if self.draft is None else self.draft.section(key)


STOPS = (KeyboardInterrupt, StoppedBySignal)
"""The exceptions by which a user or a scheduler ends a stage."""

MODELS = (".safetensors", ".prior", ".model", ".agent", ".chkpt")
"""Endings of model files: first that of chemkl, then those of REINVENT."""
LAST = Stage.CHECKPOINT
POLICY = "checkpoints/policy.safetensors"
DECAYS = {
    "epochs": " (the learning rate falls to 0 at the last epoch: a run of another length is "
    "another one from its first step on)"
}
"""Why maximum-likelihood training cannot be extended."""


def _files(patterns: str) -> tuple[str, ...]:
    """Split patterns of files at blanks and add the files of every stage."""
    return (*patterns.split(), "manifest.json", "log.jsonl")


_ROWS = (
    Stage(
        "prepare",
        "chemkl.config.prepare:PrepareConfig",
        "Clean, de-duplicate and split a set of molecules.",
        outputs=_files("corpus.parquet dropped.parquet tokens.json"),
    ),
    Stage(
        "pretrain",
        "chemkl.config.pretrain:PretrainConfig",
        "Train a prior: a model that writes SMILES like those of a prepared set.",
        outputs=_files(f"{POLICY} {LAST} logs/*"),
        result=POLICY,
        limits=DECAYS,
    ),
    Stage(
        "pretrain_llm",
        "chemkl.config.pretrain:PretrainLlmConfig",
        "Train a small language model that writes the SMILES that a property tag asks for.",
        outputs=_files(f"checkpoints/model/* {LAST} logs/*"),
        result="checkpoints/model",
        code="chemkl.stages.pretrain",
        limits=DECAYS,
    ),
    Stage(
        "forecast",
        "chemkl.config.evaluate:ForecastConfig",
        "Forecast from samples of the prior what a posttrain config asks for; train nothing.",
        outputs=_files("forecast.parquet forecast.json samples.parquet"),
        result="forecast.parquet",
        suffix="-forecast",  # it takes the config file of posttrain
    ),
    Stage(
        "posttrain",
        "chemkl.config.posttrain:PosttrainConfig",
        "Train a prior toward molecules with a high reward; record every molecule.",
        outputs=_files(
            f"{POLICY} {LAST} logs/* trace/part-*.parquet evaluation/diversity.parquet "
            "evaluation/metrics.json"
        ),
        result=POLICY,
        limits={"budget": "", "max_samples": ""},
    ),
    Stage(
        "posttrain_llm",
        "chemkl.config.llm:LlmPosttrainConfig",
        "Steer a language model toward answers with a high reward; keep all that it writes.",
        outputs=_files(
            f"checkpoints/adapter/* checkpoints/model/* {LAST} logs/* trace/part-*.parquet "
            "answers.parquet prompts.json"
        ),
        result=lambda config: (
            "checkpoints/" + ("adapter" if config.adapter.kind == "lora" else "model")
        ),
        code="chemkl.stages.posttrain",
        limits={"budget": "", "max_steps": ""},
    ),
    Stage(
        "sample",
        "chemkl.config.prepare:SampleConfig",
        "Write new molecules with a trained model.",
        outputs=_files("samples.parquet"),
        result="samples.parquet",
    ),
    Stage(
        "score",
        "chemkl.config.prepare:ScoreConfig",
        "Score the molecules of a file: every component, and the reward.",
        outputs=_files("scores.parquet scores.csv"),
        result=lambda config: f"scores.{config.format}",
        suffix="-scores",
    ),
    Stage(
        "evaluate",
        "chemkl.config.evaluate:EvaluateConfig",
        "Measure runs: validity, yield of good molecules, and how many scaffolds they cover.",
        outputs=_files("diversity.parquet metrics.json"),
        result="diversity.parquet",
    ),
    Stage(
        "evaluate_text",
        "chemkl.config.evaluate:EvaluateTextConfig",
        "Measure texts: distinct n-grams, semantic diversity, clusters, entropy of answers.",
        outputs=_files(
            "text_diversity.parquet text_metrics.json entropy_over_steps.parquet methods.parquet "
            "entropy.svg entropy.png"
        ),
        result="text_diversity.parquet",
        code="chemkl.stages.evaluate",
    ),
    Stage(
        "compare",
        "chemkl.config.evaluate:CompareConfig",
        "Compare methods over several seeds: differences, intervals, tests, a forest plot.",
        outputs=_files(
            "comparison.parquet values.parquet comparison.md comparison.tex forest.svg forest.png"
        ),
        result="comparison.parquet",
        gives_table=True,
        suffix="-compared",
    ),
    Stage(
        "report",
        "chemkl.config.evaluate:ReportConfig",
        "Show runs in one HTML page: table, learning curves, scaffolds, best molecules.",
        outputs=_files("report.html"),
        result="report.html",
    ),
    Stage(
        "didactic",
        "chemkl.didactic.config:DidacticConfig",
        "Reproduce the figures of arXiv 2510.20817, from closed forms and by training.",
        code="chemkl.didactic.run",
        outputs=_files("fig*.png fig*.svg quantities.parquet distributions.parquet sweep.parquet"),
        result="quantities.parquet",
        gives_table=True,
    ),
)
STAGES: dict[str, Stage] = {stage.name: stage for stage in _ROWS}


@contextmanager
def interruptible(message: Callable[[], str]) -> Iterator[None]:
    """Print a message after Ctrl-C or a signal: see `interrupted`."""
    try:
        yield
    except STOPS as stop:
        if getattr(stop, "code", 1):  # another rank of a run exits with 0 and prints nothing
            sys.stderr.write(f"{message()}\n")
        raise


def interrupted(stage: Stage, folder: Path, *, fresh: bool = False) -> str:
    """Say what an interrupted run has saved and how to continue."""
    again = f"the same command{' without --fresh' if fresh else ''}"
    if (folder / LAST).exists():
        saved = f"{folder} keeps everything up to the last checkpoint; {again} continues from there"
    elif LAST in stage.outputs:
        saved = f"no checkpoint had been written yet; {again} starts again"
    else:
        saved = f"{again} starts again"
    return f"interrupted: {saved}."


def take_part() -> None:
    """Run a stage as another process of a training; the first one tells it through its stdin."""
    from chemkl.display import standard_output
    from chemkl.stages.runner import Start, model_copies
    from chemkl.training.ranks import read_task

    task = read_task()
    stage, out = STAGES[task["stage"]], Path(task["out"])
    with handled():
        config = stage.model.model_validate(task["config"], context={"kept": model_copies(out)})
        stage.module.work(config, Start(stage, config, out, standard_output()))


if __name__ == "__main__":  # of each other process of a training on several devices
    take_part()
