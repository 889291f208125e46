"""The table of stages: a stage is a row here, and a module with the function that does its work.

A stage of one's own is one row and one file; for pipelines its name also goes into
`chemkl.config.pipeline.StageName`. The module of a row has

    work(config, start)     what the stage does: it reads, claims its folder with `start.claim`,
                            and writes there; see `chemkl.stages.runner.Start`
    problems(view)          what its schema cannot see, a key and lines for each; may be left out
    read(path)              turns the path of the result into what `run` returns; without it `run`
                            returns the path, or the table where its row says so
    check_spent(config, out)  refuses limits below what a run has spent; for stages with `limits`
    run = STAGES[name].run  for those who call it from Python

Nothing here imports more than the settings' base: `chemkl --help` is to be quick.
"""

import gc
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from chemkl.config import Config, InputError, load_config
from chemkl.config.loading import Draft, Override
from chemkl.processes import StoppedBySignal, deferred

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def few_collections() -> Iterator[None]:
    """Look for garbage less often in this scope: in the imports of a stage it takes a second."""
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
    """What a training stage that was cut off goes on from."""

    name: str  # in commands and pipelines
    model_path: str  # where its config model is: ``module:class``
    help: str  # what it does, for the command line
    _: KW_ONLY
    outputs: tuple[str, ...] = ()
    """Patterns of the files that it writes into its folder; none: not known beforehand."""
    result: str | Callable[[Any], str] = ""
    """Which of them `run` returns, or how that follows from the config; none: the folder."""
    gives_table: bool = False
    """Whether `run` returns the table that the result is."""
    code: str = ""
    """The module of its work; none: that of its name in `chemkl.stages`."""
    suffix: str = ""
    """What its default output folder ends with, where two stages take the same config files."""
    limits: Mapping[str, str] = field(default_factory=dict)
    """Settings that say when a run ends, and why a run cannot go on with others; an empty text: it
    can, and equals one that had them from the start."""

    @property
    def model(self) -> type[Config]:
        """The config model; importing it loads no torch."""
        module, _, name = self.model_path.partition(":")
        model: type[Config] = getattr(import_module(module), name)
        return model

    @property
    def module_name(self) -> str:
        """Where the stage's code is."""
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
        """Read a config; the arguments are those of `load_config`."""

        def more_problems(draft: Draft) -> list[str]:
            lines: list[str] = []
            for key, problems in self._problems(View(self.model, draft=draft)):
                lines += draft.placed(key, problems) if key else problems
            return lines

        kinds = [f"configs/{self.name}"]
        return load_config(
            self.model, source, overrides, more_problems=more_problems, kinds=kinds, **places
        )

    @few_collections()
    def check(
        self,
        config: Config,
        what: str = "",
        awaited: Collection[Path] = (),
        *,
        starts: bool = False,
        kept: Mapping[Path, Path] = MappingProxyType({}),
    ) -> None:
        """Look for what the schema cannot see; `what` stands in front of each problem."""
        view = View(self.model, config, awaited=awaited, starts=starts, kept=kept)
        lines = dict.fromkeys(line for _, lines in self._problems(view) for line in lines)
        InputError.refuse(f"{what}: {line}" if what else line for line in lines)

    def _problems(self, view: "View") -> Iterator[tuple[str, list[str]]]:
        look = getattr(self.module, "problems", None)
        return look(view) if look else iter(())

    def run(self, config: object, out_dir: str | Path, *, console: "Console | None" = None) -> Any:
        """Run the stage, go on with a run that was cut off, or skip what is done already.

        Args:
            config: a config, a mapping, or the path of a YAML file.
            out_dir: the output folder.
            console: where results are printed; standard output when not given.

        Returns:
            The path of the result, or the table in it: see the stage's own module.

        Raises:
            InputError: the config, an input, or a folder that holds something else.
        """
        with few_collections():
            from chemkl.stages import runner  # it reads manifests: not for chemkl --help

        return runner.run(self, config, Path(out_dir), console)


@dataclass(frozen=True)
class View:
    """The settings that a stage's `problems` look into, whether they fit its schema or not.

    None stands for what cannot be read, and for files that are yet to be made: `complaints` leaves
    them out.
    """

    model: type[Config]
    config: Config | None = None  # the settings where they fit
    draft: Draft | None = None  # the settings where they do not
    awaited: Collection[Path] = ()  # paths in the config that are yet to be made
    starts: bool = False  # whether the stage starts now: runs which it reads must have ended
    kept: Mapping[Path, Path] = field(default_factory=dict)  # copies of files that are gone

    def get(self, key: str) -> Any:
        """One setting as the schema has it."""
        if self.draft is not None:
            return self.draft.get(key)
        value = getattr(self.config, key)
        if isinstance(value, Path):
            return None if value in self.awaited else self.kept.get(value, value)
        return value

    def there(self, paths: Iterable[Path] | None) -> list[Path]:
        """Those of several paths that are not yet to be made."""
        if self.draft is not None:
            return [path for path in paths or () if path.exists()]
        return [path for path in paths or () if path not in self.awaited]

    def mapping(self, key: str) -> dict[str, Any] | None:
        """One setting as a plain mapping."""
        return self.get(key) if self.draft is None else self.draft.mapping(key)

    def section(self, key: str) -> Any:
        """A section, with the lines of its file where it does not fit."""
        return self.get(key) if self.draft is None else self.draft.section(key)


STOPS = (KeyboardInterrupt, StoppedBySignal)
"""What a user, or a scheduler, ends a stage with."""

MODELS = (".safetensors", ".prior", ".model", ".agent", ".chkpt")
"""How the files of models end: those of chemkl, then those of REINVENT."""
LAST = Stage.CHECKPOINT
POLICY = "checkpoints/policy.safetensors"
DECAYS = {
    "epochs": " (the learning rate falls to 0 at the last epoch: a run of another length is "
    "another one from its first step on)"
}
"""Why maximum-likelihood training cannot be made longer."""


def _files(patterns: str) -> tuple[str, ...]:
    """Patterns of files with blanks between them, and what every stage writes."""
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
        "Foretell from samples of the prior what a posttrain config asks for; train nothing.",
        outputs=_files("forecast.parquet forecast.json samples.parquet"),
        result="forecast.parquet",
        suffix="-forecast",  # it takes the very file that posttrain will be given
    ),
    Stage(
        "posttrain",
        "chemkl.config.posttrain:PosttrainConfig",
        "Steer a prior toward molecules with a high reward; keep every molecule it proposes.",
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
        outputs=_files("fig*.png fig*.svg quantities.parquet distributions.parquet sweep.parquet"),
        result="quantities.parquet",
        gives_table=True,
    ),
)
STAGES: dict[str, Stage] = {stage.name: stage for stage in _ROWS}


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
