"""Settings of the posttrain stage: fixed parts, trainer, callbacks, stages."""

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
    BeforeValidator(lambda given: given.split("|") if isinstance(given, str) else given),
    Field(min_length=1),
]
"""A list of fragments, or a text ``a|b`` of them."""


class _Generator(Config):
    choices: int = Field(8, ge=1)
    """Spellings (or places to join a fragment at) that are drawn at a time; the one that the prior
    finds most probable is taken. 1: the first is."""
    per_step: int | None = Field(None, ge=1)
    """Parts that a step takes, drawn at random; null: all of them."""

    @property
    def parts(self) -> Path | list[Any]:
        """What the user gave: a file, or the parts themselves."""
        given: Path | list[Any] = getattr(self, self.key)
        return given

    @property
    def key(self) -> str:
        """The key of the parts."""
        return next(name for name in ("scaffolds", "fragments", "molecules") if hasattr(self, name))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse more parts a step than there are."""
        parts = self.parts
        if isinstance(parts, list) and self.per_step and self.per_step > len(parts):
            yield "per_step", f"{self.per_step} is more than there are parts: {len(parts)}"


class DecorateConfig(_Generator):
    """Decorates scaffolds at their attachment points."""

    kind: Literal["decorate"]
    """Scaffolds, each decorated at all of its attachment points, one after another."""
    scaffolds: Annotated[list[str], Field(min_length=1)] | DataPath
    """SMILES with * where decorations sit, as in *c1ccccc1, or a file of such."""


class LinkConfig(_Generator):
    """Links pairs of fragments."""

    kind: Literal["link"]
    """Pairs of fragments: the model writes on from one of them, and the other is joined where the
    prior finds it most probable."""
    fragments: Annotated[list[Fragments], Field(min_length=1)] | DataPath
    """Pairs of SMILES with one * each: [a, b] or a|b, or a file with a|b in each line."""


class AnaloguesConfig(_Generator):
    """Writes analogues of molecules."""

    kind: Literal["analogues"]
    """Molecules: the beginning of a random spelling is kept, and the model ends it anew."""
    molecules: Annotated[list[str], Field(min_length=1)] | DataPath
    """SMILES, or a file of such."""
    keep: tuple[float, float] = (0.5, 0.9)
    """The least and the largest share of the SMILES that is kept, above 0 and below 1."""
    mutants: int = added_later(0, ge=0, le=1000)
    """So many neighbours of each molecule (one mutation of graph GA, Tanimoto similarity 0.5 or
    more) whose spellings are begun with too; 0: none, 1000 at most. Needs the extra genetic."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for shares in order."""
        yield from super().problems()
        if not 0 < self.keep[0] <= self.keep[1] < 1:
            low, high = self.keep
            yield "keep", f"[{low:g}, {high:g}] is not 0 < least <= largest < 1"


Generator = Annotated[
    DecorateConfig | LinkConfig | AnaloguesConfig,
    by_kind(DecorateConfig, LinkConfig, AnaloguesConfig),
]


Precision = Annotated[
    Literal["auto", "32-true", "bf16-mixed"],
    Field(
        description="32-true (float32 throughout); bf16-mixed (matrix products in bfloat16, all "
        "from the log-softmax on in float32); or auto: bf16-mixed where a short measurement at the "
        "start shows that the device does it, and faster. A resumed run keeps what it began with."
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
"""Arguments of the trainer that a stage itself gives, and what the user takes instead."""


def _check(taken: Mapping[str, str], settings: dict[str, Any]) -> dict[str, Any]:
    """Check that no argument of the trainer is ``taken``, by what to take instead of it."""
    wrong = [f"{key}: {taken[key]}" for key in settings if key in taken]
    problems = [f"these are not set here: {'; '.join(wrong)}"] if wrong else []
    logger = settings.get("logger")
    kind = logger.get("kind", logger) if isinstance(logger, dict) else logger
    if kind not in (None, *LOGGERS):
        allowed = ", ".join(LOGGERS)
        problems.append(f"logger: {logger!r} is not one of {allowed}, or {{kind: one of them}}")
    raise_problems(("", text) for text in problems)
    return settings


LOGGERS = ("mlflow", "wandb")
"""Where metrics can go beside TensorBoard and CSV."""
_CHANGES_NOTHING = PlainSerializer(
    lambda settings: {key: value for key, value in settings.items() if key != "logger"},
    when_used="json",
)
"""The logger is no part of the JSON by which a run is known, and may hold the name of a server."""


TrainerSettings = Annotated[
    dict[str, Any],
    AfterValidator(partial(_check, OURS | {"gradient_clip_val": "use gradient_clip"})),
    _CHANGES_NOTHING,
]
"""Further arguments of lightning.Trainer by name, for example log_every_n_steps (0: no logs).

logger: mlflow or wandb, or a mapping of kind and the arguments of Lightning's logger of that name,
sends the metrics there too.
"""


class CollapseLimits(Config):
    """When the newest samples are called collapsed: as soon as one of these limits is reached."""

    top_share: float | None = Field(0.3, gt=0, le=1)
    """Alarm when the most frequent scaffold has at least this share of the window's molecules with
    a scaffold; 0 to 1. A broad prior is below a tenth. null: not watched."""
    duplicate_rate: float | None = Field(0.5, gt=0, le=1)
    """Alarm when at least this share of the window repeats another molecule of the window; 0 to 1.
    null: not watched."""
    effective_scaffolds: float | None = Field(None, ge=1)
    """Alarm when exp of the entropy over the window's scaffolds is this or less; at least 1. It
    grows with the window, so there is no value for all. null: not watched."""
    with_scaffold: float = Field(0.5, ge=0, le=1)
    """top_share and effective_scaffolds are looked at only while at least this share of the window
    has a scaffold; 0 to 1. Among mostly acyclic molecules the few rings say nothing of a
    collapse."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for one limit at least."""
        if self.top_share is self.duplicate_rate is self.effective_scaffolds is None:
            names = "top_share, duplicate_rate and effective_scaffolds"
            text = "set one of them, or write collapse: null"
            yield "", f"{names} are all null, so nothing would be watched: {text}"


class CollapseWindow(CollapseLimits):
    """How many of the newest samples are looked at, and when they are called collapsed."""

    window: int = Field(1000, ge=2)
    """How many of the newest valid samples are looked at, repeats included; there is no alarm
    before there are so many. 1000 as in the late_ metrics of evaluate."""


class CollapseConfig(CollapseWindow):
    """Watches the newest valid samples of a run for a policy that repeats itself."""

    action: Literal["warn", "stop"] = "warn"
    """warn: say so, and go on; the samples are the same as without. stop: end the run there, with
    ended_by collapse. Only stop is part of the run's identity."""
    margin: float = Field(0.1, ge=0, lt=1)
    """The collapse is over when every value is back by more than this, relative to its limit; 0 to
    less than 1. So a value that hovers about its limit is told once."""


_BUDGETED = "the run ends by budget and max_samples"
_NOT_HERE = {
    **OURS,
    "accumulate_grad_batches": "one step is one update; use batch_size",
    "enable_progress_bar": "use callbacks.progress_bar",
    **dict.fromkeys(["fast_dev_run", "limit_train_batches", "overfit_batches"], _BUDGETED),
    **dict.fromkeys(["max_steps", "max_time", "min_epochs", "min_steps"], _BUDGETED),
    "strategy": "several devices take part by DDP; use devices and num_nodes",
}

PosttrainTrainer = Annotated[
    dict[str, Any], AfterValidator(partial(_check, _NOT_HERE)), _CHANGES_NOTHING
]
"""Further arguments of lightning.Trainer by name, for post-training."""


class PlateauConfig(Config):
    """When the mean reward has stopped rising."""

    steps: int = Field(50, ge=1)
    """The mean over the newest so many steps is compared with that over as many before them; at
    least 1."""
    gain: FiniteFloat = Field(0.01, ge=0)
    """It has stopped where it is not higher by more than this; at least 0, in units of reward."""


class TerminationConfig(Config):
    """Ends a run with the first step at which one of these is reached."""

    mean_reward: float | None = Field(None, ge=0, le=1)
    """The samples of the step are paid at least this on the average, invalid ones and rewards
    withdrawn by the diversity filter as 0; 0 to 1. null: does not end it."""
    min_steps: int = Field(50, ge=0)
    """mean_reward and plateau wait for so many steps."""
    plateau: PlateauConfig | None = None
    """The mean reward has stopped rising: {} or {steps: ..., gain: ...}. null: does not end it."""
    calls: int | None = Field(None, ge=1)
    """So many oracle calls are spent, some more perhaps in the last step; budget alone is exact.
    null: does not end it."""
    samples: int | None = Field(None, ge=1)
    """So many sequences are sampled; n steps are n times batch_size. null: does not end it."""
    hits: int | None = Field(None, ge=1)
    """So many distinct hits are found, as the target counts them (mara and filter do). null: does
    not end it."""
    collapse: CollapseWindow | None = None
    """The samples have collapsed: {} or the limits of callbacks.collapse. null: does not end it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for something that ends it."""
        if not {*self.model_dump(exclude_none=True)} - {"min_steps"}:
            names = ", ".join(name for name in type(self).model_fields if name != "min_steps")
            yield "", f"nothing ends it: give one or more of {names}"

    @model_serializer(mode="wrap")
    def _without_null(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class CallbacksConfig(Config):
    """What happens beside the training itself."""

    checkpoint_every: int = Field(50, ge=1)
    """Steps between two checkpoints (and parts of the trace). A killed run repeats at most so many
    steps, identically."""
    progress_bar: bool = Field(True, exclude=True)
    """Show a progress bar; no part of the run's identity."""
    collapse: CollapseConfig | None = CollapseConfig()
    """Watches the newest valid samples for a collapse, and warns of it or ends the run there; a
    warning is no part of the run's identity. null: nothing is watched."""
    terminate: TerminationConfig | None = None
    """Ends the run by its mean reward, a plateau, hits or others, with ended_by as the key is
    called; null: it goes on until its budget or its samples are spent."""

    @model_serializer(mode="wrap")
    def _without_what_changes_nothing(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Leave out of the JSON by which a run is known a mere warning, and an end that is none."""
        values: dict[str, Any] = handler(self)
        if info.mode == "json" and (self.collapse is None or self.collapse.action == "warn"):
            values.pop("collapse", None)
        if info.mode == "json" and self.terminate is None:
            values.pop("terminate", None)
        return values


_MAY_BE_NONE = {"shaper", "diversity_filter"}
_OBJECTIVE = {"reward", "target", "estimator", "shaper"}
_OF_A_STAGE = {"reward", "target", "estimator", "learning_rate", *_MAY_BE_NONE}


class StageConfig(Config):
    """One stage of a run; what it does not set is as at the top of the config."""

    name: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")
    """What it is called, in letters, digits and any of _.-; default: its number, from 1."""
    reward: RewardSource | None = None
    """What a molecule is paid in this stage. One that another reward has scored before is scored
    anew, and costs another call. null: as at the top."""
    target: TargetConfig | None = None
    """The distribution to walk to; null: as at the top."""
    estimator: EstimatorConfig | None = None
    """The loss that walks there; null: as at the top."""
    shaper: ShaperConfig | None = None
    """The outside signal in the advantage; null: none. Left out: as at the top."""
    diversity_filter: DiversityFilter | None = None
    """The diversity filter; null: none. Left out: as at the top."""
    keep_filter: bool = False
    """The filter goes on with what it has counted in the stage before; false: it begins empty."""
    learning_rate: float | None = Field(None, gt=0)
    """Rate of the Adam optimiser, whose moments go on; null: as at the top."""
    until: TerminationConfig | None = None
    """What ends the stage, counted from its beginning: with the step that reaches it, which is made
    whole. The next one begins with the next step. null: the end of the run does, in the last stage
    only."""

    @property
    def given(self) -> dict[str, Any]:
        """What is other than at the top of the config."""
        own = {key: getattr(self, key) for key in self.model_fields_set & _OF_A_STAGE}
        return {k: value for k, value in own.items() if value is not None or k in _MAY_BE_NONE}

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is left out: in some keys null is something else."""
        return {key: value for key, value in handler(self).items() if key in self.model_fields_set}


class PosttrainConfig(ObjectiveConfig):
    """KL-regularised reinforcement learning of a SMILES generator (arXiv 2510.20817)."""

    prior: ModelPath
    """Model file of the reference policy pi_ref; it stays as it is."""
    agent: ModelPath | None = None
    """Model file of the policy to start from, with the prior's vocabulary; null: the prior."""
    generator: Generator | None = added_later()
    """What all molecules hold: kind decorate (scaffolds), link (pairs of fragments) or analogues
    (molecules). Each of these is a group with an anchor and a baseline of its own, and log p is
    that of what is added. null: whole molecules, and nothing is fixed."""
    reward: RewardSource
    """What a molecule is paid: components and aggregate, or the path of a file that holds them."""
    target: TargetConfig
    """The distribution to walk to: kind gibbs, mara or filter, with beta (or sigma = 1/beta)."""
    estimator: EstimatorConfig = RLOO
    """The loss that walks there, by its name or with options, for example rloo, log_variance or
    {kind: f_dpg, divergence: js}; README.md tells them apart."""
    shaper: ShaperConfig | None = None
    """Adds an outside signal to the advantage, for estimators that have one (rloo, grpo,
    forward_kl, f_dpg, alpha_dpg): set_diversity, differential_smoothing, ucpo or ips; null: none.
    It moves the policy off the target."""
    diversity_filter: DiversityFilter | None = None
    """Withdraws the reward of over-used scaffolds or molecules before the target sees it: murcko,
    generic, scaffold_similarity, molecule_similarity or same_smiles; null: none."""
    memory: MemoryConfig | None = added_later()
    """Replays molecules that the run has found; for estimators that are right on rows which
    another policy sampled (log_variance, reinvent, snis, trajectory_balance, dpo; ahc and
    hill_climbing, which have other ends), or that weigh them by that policy (rloo, ppo, grpo with
    clip), without a shaper that compares molecules. null: none."""
    exploration: ExplorationConfig | None = added_later()
    """Spends some calls on children of the memory's best molecules (crossover, mutation, close
    neighbours, fragments), from which the policy learns as from replayed ones; needs a memory, and
    an estimator that does not weigh old rows (as rloo, ppo and grpo do). null: all calls are for
    the policy's samples."""
    batch_size: int = Field(64, ge=2)
    """Molecules sampled at each step."""
    updates_per_batch: int = added_later(1, ge=1)
    """Updates of the policy a step, all on the rows of that step (sampled and replayed), by the
    target of today; 1 or more. More than 1 takes an estimator as memory does."""
    augment: bool = added_later(False)
    """Further updates have the molecules in random spellings (Augmented Memory, Guo and Schwaller
    2024), each with the log pi_ref of its canonical SMILES, by which the first update goes too."""
    learning_rate: float = Field(1e-4, gt=0)
    """Rate of the Adam optimiser, constant."""
    budget: int = Field(10_000, ge=1)
    """Oracle calls: first scorings of a valid canonical SMILES. Repeats and invalid strings are
    free. The run ends with exactly so many, unless max_samples ends it before."""
    max_samples: int | None = Field(None, ge=1)
    """The run also ends after so many sampled sequences: a collapsed policy finds nothing new and
    would never spend its calls. null: ten times the budget."""
    seed: int = Field(0, ge=0)
    """Decides every sample; the same seed on the same machine gives the same run."""
    precision: Precision = "auto"
    trainer: PosttrainTrainer = Field(default_factory=dict)
    """Further arguments of lightning.Trainer, for example accelerator, devices (default 1) and
    num_nodes, gradient_clip_val (0 or null: no clipping), log_every_n_steps (default 10; 0: no
    logs) or logger (mlflow or wandb, or {kind: mlflow, tracking_uri: ...}: metrics go there too; no
    part of the run's identity)."""
    callbacks: CallbacksConfig = CallbacksConfig()
    """Checkpoints, the progress bar, the alarm for a collapse, and an end by what is reached."""

    stages: Annotated[list[StageConfig], Field(min_length=1)] | None = added_later()
    """A curriculum: the stages of the run, in order, each with what is other in it than at the top,
    and with until. Policy and optimiser go on; budget and max_samples are for all together. What
    the last stage is paid is what the run is evaluated by. null: there is one alone."""

    unread_bounds: ClassVar[tuple[float, float] | None] = RewardConfig.bounds

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for enough samples to make an update, and for stages that end."""
        yield from self._problems_of_stages()
        if self.most_samples < self.batch_size:
            given = "max_samples" if self.max_samples else f"ten times budget = {self.budget}"
            fewer = f"{self.most_samples} samples, fewer than batch_size = {self.batch_size}"
            text = "not one update would be made; take a smaller batch_size"
            yield "", f"{given} allows {fewer}: {text}"
        if self.updates_per_batch > 1:
            yield from update_problems(self.estimator, augment=self.augment)
            if self.generator is not None:
                yield "updates_per_batch", "with generator a batch is used for one update: set 1"
        elif self.augment:
            text = "spells further updates at random, and there are none: set updates_per_batch to"
            yield "augment", f"{text} 2 or more"
        if self.memory is None:
            if self.exploration is not None:
                text = "makes new molecules of those that a memory holds: give one, memory: {}"
                yield "exploration", f"{text}, or leave it out"
            return
        if self.generator is not None:
            yield (
                "memory",
                "replays whole molecules, not parts that are held: leave out one of both",
            )
        if self.exploration is not None and self.exploration.start >= self.budget:
            text = f"begins after {self.exploration.start:,} calls, and the run ends with"
            yield "exploration.start", f"{text} budget = {self.budget:,}: take fewer"
        if self.replayed > self.memory.capacity:
            text = "take fewer rows, or a larger capacity"
            drawn = f"{self.replayed} rows a step{'' if self.memory.rows else ' (half a batch)'}"
            yield "memory.rows", f"{drawn}, but a capacity of {self.memory.capacity}: {text}"
        yield from self._problems_of_replay(self.memory)

    @property
    def replayed(self) -> int:
        """The number of molecules of the memory that join each batch."""
        return 0 if self.memory is None else self.memory.rows or self.batch_size // 2

    def _problems_of_replay(self, memory: MemoryConfig) -> Iterator[tuple[str, str]]:
        """Each key once: where a stage does not give it, with the first stage that it harms."""
        found: dict[str, str] = {}
        for n, settings in enumerate(self.in_stages):
            for key, text in replay_problems(
                settings.target,
                settings.estimator,
                settings.shaper,
                memory,
                seeded=memory.seed is not None and n == 0,
                explores=self.exploration is not None,
            ):
                if self.stages and key in self.stages[n].given:
                    found[f"stages.{n}.{key}"] = text
                else:
                    found.setdefault(key, f"in stages.{n}: {text}" if self.stages else text)
        yield from found.items()

    def _problems_of_stages(self) -> Iterator[tuple[str, str]]:
        stages = self.stages or []
        if stages and self.callbacks.terminate is not None:
            yield "callbacks.terminate", "with stages, the until of the last one ends the run"
        whole = self.in_stages
        names = [stage.name or str(n) for n, stage in enumerate(stages, 1)]
        for n, (stage, settings) in enumerate(zip(stages, whole, strict=False)):
            at = f"stages.{n}"
            if names[n] in names[:n]:
                text = f"what stages.{names.index(names[n])} is called: take another name"
                yield f"{at}.name", f"{names[n]!r} is {text}"
            if stage.until is None and n + 1 < len(stages):
                text = "required, and not given (What ends the stage); only the last may go without"
                yield f"{at}.until", text
            if stage.keep_filter and (
                not n or settings.diversity_filter != whole[n - 1].diversity_filter
            ):
                yield f"{at}.keep_filter", "there is no such filter in the stage before to go on"
            parts = settings.target, settings.estimator, settings.shaper
            own = misfits(*parts, settings.reward.bounds)
            if self.updates_per_batch > 1:
                own += update_problems(settings.estimator, augment=self.augment)
            yield from ((f"{at}.{key}", text) for key, text in own if {*stage.given} & _OBJECTIVE)
        ends = [(f"stages.{n}.until", s.until) for n, s in enumerate(stages)]
        for (key, until), settings in zip(
            ends or [("callbacks.terminate", self.callbacks.terminate)], whole, strict=True
        ):
            if until is not None and until.hits and not settings.target.has_hits:
                text = f"the target {settings.target.kind} tells no hits: take mara or filter"
                yield f"{key}.hits", text

    @property
    def most_samples(self) -> int:
        """The number of samples that ends the run."""
        return self.max_samples or 10 * self.budget
