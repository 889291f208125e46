"""Settings of the posttrain stage: generator, trainer, callbacks and stages of a run."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    PlainSerializer,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from chemkl.config.base import Config, added_later, by_kind, raise_problems
from chemkl.config.objective import (
    RLOO,
    DiversityFilter,
    EstimatorConfig,
    ExplorationConfig,
    MemoryConfig,
    ObjectiveConfig,
    ShaperConfig,
    TargetConfig,
    misfits,
    replay_problems,
    update_problems,
)
from chemkl.config.paths import DataPath, ModelPath
from chemkl.config.reward import RewardConfig, RewardSource

Fragments = Annotated[
    list[str],
    BeforeValidator(lambda value: value.split("|") if isinstance(value, str) else value),
    Field(min_length=1),
]
"""A list of fragments, or a text such as ``a|b``."""


class _Generator(Config):
    choices: int = Field(8, ge=1)
    """Number of random spellings (or places to join a fragment) from which the most probable one
    under the prior is chosen. 1: the first."""
    per_step: int | None = Field(None, ge=1)
    """Number of parts drawn at random for each step; null: all of them."""

    @property
    def parts(self) -> Path | list[Any]:
        """The parts themselves, or the file that holds them."""
        parts: Path | list[Any] = getattr(self, self.key)
        return parts

    @property
    def key(self) -> str:
        """The key of the parts."""
        return next(name for name in ("scaffolds", "fragments", "molecules") if hasattr(self, name))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse more parts per step than there are."""
        parts = self.parts
        if isinstance(parts, list) and self.per_step and self.per_step > len(parts):
            yield "per_step", f"{self.per_step} is more than the number of parts, {len(parts)}"


class DecorateConfig(_Generator):
    """Decorates scaffolds at their attachment points."""

    kind: Literal["decorate"]
    """Decorates each scaffold at all of its attachment points, one after another."""
    scaffolds: Annotated[list[str], Field(min_length=1)] | DataPath
    """SMILES with * at the attachment points, as in *c1ccccc1, or a file of such SMILES."""


class LinkConfig(_Generator):
    """Links pairs of fragments."""

    kind: Literal["link"]
    """Links pairs of fragments: the model continues one of them, and the other is joined where the
    prior finds it most probable."""
    fragments: Annotated[list[Fragments], Field(min_length=1)] | DataPath
    """Pairs of SMILES with one * each: [a, b] or a|b, or a file with a|b in each line."""


class AnaloguesConfig(_Generator):
    """Writes analogues of molecules."""

    kind: Literal["analogues"]
    """Keeps the beginning of a random spelling of a molecule; the model completes it."""
    molecules: Annotated[list[str], Field(min_length=1)] | DataPath
    """SMILES, or a file of SMILES."""
    keep: tuple[float, float] = (0.5, 0.9)
    """Smallest and largest share of the SMILES to keep, above 0 and below 1."""
    mutants: int = added_later(0, ge=0, le=1000)
    """Neighbours of each molecule (one mutation of graph GA, Tanimoto similarity of 0.5 or more)
    whose spellings are used too; 0 to 1000. Needs the extra genetic."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require shares in order."""
        yield from super().problems()
        if not 0 < self.keep[0] <= self.keep[1] < 1:
            low, high = self.keep
            yield "keep", f"[{low:g}, {high:g}] is not 0 < smallest <= largest < 1"


Generator = Annotated[
    DecorateConfig | LinkConfig | AnaloguesConfig,
    by_kind(DecorateConfig, LinkConfig, AnaloguesConfig),
]


Precision = Annotated[
    Literal["auto", "32-true", "bf16-mixed"],
    Field(
        description="32-true (float32 throughout); bf16-mixed (matrix products in bfloat16, all "
        "from the log-softmax on in float32); or auto: bf16-mixed where a short measurement at the "
        "start shows that the device supports it and is faster. A resumed run keeps its precision."
    ),
]
OURS = {
    "callbacks": "use the callbacks section",
    "default_root_dir": "the output folder is given with --out",
    "enable_checkpointing": "checkpoints are always written",
    "max_epochs": "use epochs (pretrain) or budget and max_samples (posttrain)",
    "precision": "use the key precision at the top level",
    "use_distributed_sampler": "each process gets its own rows already",
}
"""Arguments of the trainer that the stages set themselves, and what to use instead."""


def _check(reserved: Mapping[str, str], settings: dict[str, Any]) -> dict[str, Any]:
    """Refuse reserved arguments, each with what to use instead, and unknown loggers."""
    wrong = [f"{key}: {reserved[key]}" for key in settings if key in reserved]
    problems = [f"these are not set here: {'; '.join(wrong)}"] if wrong else []
    logger = settings.get("logger")
    kind = logger.get("kind", logger) if isinstance(logger, dict) else logger
    if kind not in (None, *LOGGERS):
        allowed = ", ".join(LOGGERS)
        problems.append(f"logger: {logger!r} is not one of {allowed}, or {{kind: one of them}}")
    raise_problems(("", text) for text in problems)
    return settings


LOGGERS = ("mlflow", "wandb")
"""Loggers that are available in addition to TensorBoard and CSV."""
_WITHOUT_LOGGER = PlainSerializer(
    lambda settings: {key: value for key, value in settings.items() if key != "logger"},
    when_used="json",
)
"""The logger is no part of the JSON that identifies a run, and may name a server."""


TrainerSettings = Annotated[
    dict[str, Any],
    AfterValidator(partial(_check, OURS | {"gradient_clip_val": "use gradient_clip"})),
    _WITHOUT_LOGGER,
]
"""Further arguments of lightning.Trainer by name, for example log_every_n_steps (0: no logs).

logger: mlflow or wandb, or a mapping of kind and the arguments of Lightning's logger, sends the
metrics there too.
"""


class CollapseLimits(Config):
    """Limits of a collapse: the newest samples have collapsed as soon as one is reached."""

    top_share: float | None = Field(0.3, gt=0, le=1)
    """Alarm when the most frequent scaffold has at least this share of the molecules in the window
    that have a scaffold; 0 to 1. A broad prior is below a tenth. null: not watched."""
    duplicate_rate: float | None = Field(0.5, gt=0, le=1)
    """Alarm when at least this share of the window repeats another molecule of the window; 0 to 1.
    null: not watched."""
    effective_scaffolds: float | None = Field(None, ge=1)
    """Alarm when exp of the entropy over the scaffolds of a window is this or less; at least 1. It
    grows with the window, so there is no universal value. null: not watched."""
    with_scaffold: float = Field(0.5, ge=0, le=1)
    """top_share and effective_scaffolds apply only while at least this share of the window has a
    scaffold; 0 to 1. If most molecules are acyclic, their few scaffolds indicate no collapse."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require at least one limit."""
        if self.top_share is self.duplicate_rate is self.effective_scaffolds is None:
            names = "top_share, duplicate_rate and effective_scaffolds"
            text = "set one of them, or write collapse: null"
            yield "", f"{names} are all null, so nothing would be watched: {text}"


class CollapseWindow(CollapseLimits):
    """The window of newest samples to look at, and the limits of a collapse."""

    window: int = Field(1000, ge=2)
    """Number of newest valid samples to look at, repeats included; there is no alarm before that
    many exist. 1000 as in the late_ metrics of evaluate."""


class CollapseConfig(CollapseWindow):
    """Watches the newest valid samples of a run for a collapse of the policy."""

    action: Literal["warn", "stop"] = "warn"
    """warn: print a warning and continue; the samples do not change. stop: end the run, with
    ended_by collapse. Only stop is part of the run's identity."""
    margin: float = Field(0.1, ge=0, lt=1)
    """The collapse is over when every value has recovered by more than this, relative to its limit;
    0 to less than 1. A value that hovers around its limit thus causes one warning."""


_BUDGETED = "budget and max_samples end the run"
_RESERVED = {
    **OURS,
    "accumulate_grad_batches": "one step is one update; use batch_size",
    "enable_progress_bar": "use callbacks.progress_bar",
    **dict.fromkeys(["fast_dev_run", "limit_train_batches", "overfit_batches"], _BUDGETED),
    **dict.fromkeys(["max_steps", "max_time", "min_epochs", "min_steps"], _BUDGETED),
    "strategy": "several devices always use DDP; use devices and num_nodes",
}

PosttrainTrainer = Annotated[
    dict[str, Any], AfterValidator(partial(_check, _RESERVED)), _WITHOUT_LOGGER
]


class PlateauConfig(Config):
    """When the mean reward has stopped rising."""

    steps: int = Field(50, ge=1)
    """The mean over this many newest steps is compared with the mean over as many steps before; at
    least 1."""
    gain: FiniteFloat = Field(0.01, ge=0)
    """It has stopped rising if it is not higher by more than this; at least 0, in units of
    reward."""


class TerminationConfig(Config):
    """Ends a run with the first step that reaches one of these conditions."""

    mean_reward: float | None = Field(None, ge=0, le=1)
    """Mean reward of the samples of a step, where invalid ones and rewards withdrawn by the
    diversity filter count as 0; 0 to 1. null: no condition."""
    min_steps: int = Field(50, ge=0)
    """mean_reward and plateau apply only after this many steps."""
    plateau: PlateauConfig | None = None
    """The mean reward has stopped rising: {} or {steps: ..., gain: ...}. null: no condition."""
    calls: int | None = Field(None, ge=1)
    """Number of oracle calls; the last step may spend some more (only budget is exact). null: no
    condition."""
    samples: int | None = Field(None, ge=1)
    """Number of sampled sequences; n steps are n times batch_size. null: no condition."""
    hits: int | None = Field(None, ge=1)
    """Number of distinct hits of the target (mara or filter). null: no condition."""
    collapse: CollapseWindow | None = None
    """The samples have collapsed: {} or limits as in callbacks.collapse. null: no condition."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require a condition."""
        if not {*self.model_dump(exclude_none=True)} - {"min_steps"}:
            names = ", ".join(name for name in type(self).model_fields if name != "min_steps")
            yield "", f"nothing ends it: give one or more of {names}"

    @model_serializer(mode="wrap")
    def _without_null(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class CallbacksConfig(Config):
    """Checkpoints, progress, the alarm for a collapse, and conditions that end a run."""

    checkpoint_every: int = Field(50, ge=1)
    """Steps between two checkpoints (and parts of the trace). A killed run repeats at most so many
    steps, identically."""
    progress_bar: bool = Field(True, exclude=True)
    """Show a progress bar; no part of the run's identity."""
    collapse: CollapseConfig | None = CollapseConfig()
    """Watches the newest valid samples for a collapse, and warns or ends the run; a warning is no
    part of the run's identity. null: nothing is watched."""
    terminate: TerminationConfig | None = None
    """Ends the run by mean reward, plateau, hits and others, with the name of the key as ended_by;
    null: it ends when its budget or its samples are spent."""

    @model_serializer(mode="wrap")
    def _without_passive_settings(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Leave a mere warning, and no termination, out of the JSON that identifies a run."""
        values: dict[str, Any] = handler(self)
        if info.mode == "json" and (self.collapse is None or self.collapse.action == "warn"):
            values.pop("collapse", None)
        if info.mode == "json" and self.terminate is None:
            values.pop("terminate", None)
        return values


_NULLABLE = {"shaper", "diversity_filter"}
_OBJECTIVE = {"reward", "target", "estimator", "shaper"}
_STAGE_KEYS = {"reward", "target", "estimator", "learning_rate", *_NULLABLE}


class StageConfig(Config):
    """One stage of a run; settings that it omits are as at the top level of the config."""

    name: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")
    """Its name, in letters, digits and any of _.-; default: its number, from 1."""
    reward: RewardSource | None = None
    """The reward in this stage. A molecule that another reward has scored is scored again and costs
    another call. null: as at the top level."""
    target: TargetConfig | None = None
    """The distribution to train towards; null: as at the top level."""
    estimator: EstimatorConfig | None = None
    """The loss; null: as at the top level."""
    shaper: ShaperConfig | None = None
    """The additional signal in the advantage; null: none. Omitted: as at the top level."""
    diversity_filter: DiversityFilter | None = None
    """The diversity filter; null: none. Omitted: as at the top level."""
    keep_filter: bool = False
    """Keep the buckets of the previous stage; false: the filter starts empty."""
    learning_rate: float | None = Field(None, gt=0)
    """Learning rate of the stage, above 0; Adam keeps its moments. null: as at the top level."""
    until: TerminationConfig | None = None
    """What ends the stage, counted from its start; the step that reaches it is completed. null: the
    end of the run, for the last stage only."""

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that differ from the top level of the config."""
        settings = {key: getattr(self, key) for key in self.model_fields_set & _STAGE_KEYS}
        return {k: value for k, value in settings.items() if value is not None or k in _NULLABLE}

    @model_serializer(mode="wrap")
    def _without_omitted(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what the user omitted: for some keys null has another meaning."""
        return {key: value for key, value in handler(self).items() if key in self.model_fields_set}


class PosttrainConfig(ObjectiveConfig):
    """KL-regularised reinforcement learning of a SMILES generator (arXiv 2510.20817)."""

    prior: ModelPath
    """The prior (pi_ref), which stays fixed: moses, chembl, or a .safetensors or .prior file."""
    agent: ModelPath | None = None
    """Model file of the policy to start from, with the prior's vocabulary; null: the prior."""
    generator: Generator | None = added_later()
    """A fixed part of all molecules: kind decorate (scaffolds), link (pairs of fragments) or
    analogues (molecules). Each part is a group with its own anchor and baseline, and only the added
    tokens count in log p. null: whole molecules without a fixed part."""
    reward: RewardSource
    """The reward of a molecule: components and aggregate, or the path of a file with them."""
    target: TargetConfig
    """The distribution to train towards: kind gibbs, mara or filter, with beta (or sigma =
    1/beta)."""
    estimator: EstimatorConfig = RLOO
    """The loss, by its name or with options, for example rloo, log_variance or {kind: f_dpg,
    divergence: js}; chemkl/losses/README.md compares them."""
    shaper: ShaperConfig | None = None
    """Adds another signal to the advantage, for estimators that have one (rloo, grpo, forward_kl,
    f_dpg, alpha_dpg): set_diversity, differential_smoothing, ucpo, ips, entropy or rnd; null: none.
    It moves the policy off the target."""
    diversity_filter: DiversityFilter | None = None
    """Withdraws the reward of overused scaffolds or molecules before the target is computed:
    murcko, generic, scaffold_similarity, molecule_similarity or same_smiles; null: none."""
    memory: MemoryConfig | None = added_later()
    """Replays molecules that the run has found; for estimators that are correct on rows sampled by
    another policy (log_variance, reinvent, snis, trajectory_balance, dpo; ahc and hill_climbing,
    which have other optima), or that weigh rows by the policy that sampled them (rloo, ppo, grpo
    with clip), without a shaper that compares molecules. null: none."""
    exploration: ExplorationConfig | None = added_later()
    """Spends some calls on children of the memory's best molecules (crossover, mutation, close
    neighbours, fragments), from which the policy learns as from replayed ones; needs a memory, and
    an estimator that does not weigh rows (as rloo, ppo and grpo do). null: all calls are for
    samples of the policy."""
    batch_size: int = Field(64, ge=2)
    """Molecules sampled at each step."""
    updates_per_batch: int = added_later(1, ge=1)
    """Updates of the policy per step, all on the rows of that step (sampled and replayed) and with
    its target; 1 or more. More than 1 needs an estimator that supports a memory."""
    augment: bool = added_later(False)
    """Use random spellings of the molecules in further updates (Augmented Memory, Guo and Schwaller
    2024), each with the log pi_ref of the canonical SMILES, which the first update uses too."""
    learning_rate: float = Field(1e-4, gt=0)
    """Learning rate of Adam, constant."""
    budget: int = Field(10_000, ge=1)
    """Number of oracle calls: first scorings of a valid canonical SMILES. Repeats and invalid
    strings are free. The run ends with exactly this many, unless max_samples ends it earlier."""
    max_samples: int | None = Field(None, ge=1)
    """The run also ends after this many sampled sequences: a collapsed policy finds nothing new and
    would never spend its calls. null: ten times the budget."""
    seed: int = Field(0, ge=0)
    """Seed of every sample; the same seed on the same machine gives the same run."""
    precision: Precision = "auto"
    trainer: PosttrainTrainer = Field(default_factory=dict)
    """Further arguments of lightning.Trainer, for example accelerator, devices (default 1) and
    num_nodes, gradient_clip_val (0 or null: no clipping), log_every_n_steps (default 10; 0: no
    logs) or logger (mlflow or wandb, or {kind: mlflow, tracking_uri: ...}: metrics go there too; no
    part of the run's identity)."""
    callbacks: CallbacksConfig = CallbacksConfig()
    """Checkpoints, the progress bar, the alarm for a collapse, and conditions that end the run."""

    stages: Annotated[list[StageConfig], Field(min_length=1)] | None = added_later()
    """A curriculum: the stages of the run in order, each with the settings that differ from the top
    level, and with until. Policy and optimiser continue; budget and max_samples hold for all stages
    together. The run is evaluated by the reward of the last stage. null: a single stage."""

    unread_bounds: ClassVar[tuple[float, float] | None] = RewardConfig.bounds

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require samples for an update, stages that end, and parts that fit together."""
        yield from self._problems_of_stages()
        if self.most_samples < self.batch_size:
            limit = "max_samples" if self.max_samples else f"ten times budget = {self.budget}"
            few = f"{self.most_samples} samples, fewer than batch_size = {self.batch_size}"
            yield "", f"{limit} allows {few}, so there would be no update; lower batch_size"
        if self.updates_per_batch > 1:
            yield from update_problems(self.estimator, augment=self.augment)
            if self.generator is not None:
                yield "updates_per_batch", "with generator a batch is used for one update: set 1"
        elif self.augment:
            text = "applies to further updates, but there are none: set updates_per_batch to"
            yield "augment", f"{text} 2 or more"
        if self.memory is not None:
            yield from self._problems_of_memory(self.memory)
        elif self.exploration is not None:
            text = "starts from the molecules of a memory: add one, memory: {}"
            yield "exploration", f"{text}, or leave exploration out"

    @property
    def replayed(self) -> int:
        """Number of molecules of the memory that join each batch."""
        return 0 if self.memory is None else self.memory.rows or self.batch_size // 2

    def _problems_of_memory(self, memory: MemoryConfig) -> Iterator[tuple[str, str]]:
        """Yield each key once: if stages do not set it, with the first stage that has a problem."""
        if self.generator is not None:
            yield (
                "memory",
                "replays whole molecules, not parts: leave out memory or generator",
            )
        if self.exploration is not None and self.exploration.start >= self.budget:
            text = f"begins after {self.exploration.start:,} calls, and the run ends with"
            yield "exploration.start", f"{text} budget = {self.budget:,}: lower it"
        if self.replayed > memory.capacity:
            text = "lower rows or raise capacity"
            rows = f"{self.replayed} rows a step{'' if memory.rows else ' (half a batch)'}"
            yield "memory.rows", f"{rows}, but a capacity of {memory.capacity}: {text}"
        problems: dict[str, str] = {}
        for n, settings in enumerate(self.in_stages):
            for key, text in replay_problems(
                settings.target,
                settings.estimator,
                settings.shaper,
                memory,
                seeded=memory.seed is not None and n == 0,
                explores=self.exploration is not None,
            ):
                if self.stages and key in self.stages[n].changes:
                    problems[f"stages.{n}.{key}"] = text
                else:
                    problems.setdefault(key, f"in stages.{n}: {text}" if self.stages else text)
        yield from problems.items()

    def _problems_of_stages(self) -> Iterator[tuple[str, str]]:
        stages = self.stages or []
        if stages and self.callbacks.terminate is not None:
            yield "callbacks.terminate", "with stages, until of the last stage ends the run"
        in_stages = self.in_stages
        names = [stage.name or str(n) for n, stage in enumerate(stages, 1)]
        for n, (stage, settings) in enumerate(zip(stages, in_stages, strict=False)):
            at = f"stages.{n}"
            if names[n] in names[:n]:
                text = f"is the name of stages.{names.index(names[n])}: choose another name"
                yield f"{at}.name", f"{names[n]!r} {text}"
            if stage.until is None and n + 1 < len(stages):
                text = "required, and not given (What ends the stage); only the last may omit it"
                yield f"{at}.until", text
            if stage.keep_filter and (
                not n or settings.diversity_filter != in_stages[n - 1].diversity_filter
            ):
                yield f"{at}.keep_filter", "the previous stage does not have this filter"
            parts = settings.target, settings.estimator, settings.shaper
            problems = misfits(*parts, settings.reward.bounds)
            if self.updates_per_batch > 1:
                problems += update_problems(settings.estimator, augment=self.augment)
            if {*stage.changes} & _OBJECTIVE:
                yield from ((f"{at}.{key}", text) for key, text in problems)
        ends = [(f"stages.{n}.until", stage.until) for n, stage in enumerate(stages)]
        for (key, until), settings in zip(
            ends or [("callbacks.terminate", self.callbacks.terminate)], in_stages, strict=True
        ):
            if until is not None and until.hits and not settings.target.has_hits:
                text = f"the target {settings.target.kind} has no hits: use mara or filter"
                yield f"{key}.hits", text

    @property
    def most_samples(self) -> int:
        """Number of samples that ends the run."""
        return self.max_samples or 10 * self.budget
