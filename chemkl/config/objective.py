"""Settings of target, estimator and shaper, whose keys are options of the loss core's functions.

What a target, estimator or shaper takes stands in its signature and docstring in `chemkl.losses`
alone; the models here are made of these when settings are checked, as only then torch is loaded.
"""

from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    SerializeAsAny,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_validator,
)

from chemkl.config.base import BESIDE, Config, by_kind, choose_kind, complain, later
from chemkl.config.memory import MemoryConfig

Part = Literal["target", "estimator", "shaper"]


class _Settings(Config):
    """Settings of one kind, with its options as attributes."""

    part: ClassVar[Part]

    if TYPE_CHECKING:
        kind: str

        def __getattr__(self, name: str) -> Any: ...

    @classmethod
    def listed(cls) -> list[str]:
        """The kinds, which `chemkl show` lists with their keys."""
        return sorted(models_of(cls.part))

    @property
    def options(self) -> dict[str, Any]:
        """The settings by their names in the loss core, without those left open."""
        return self.model_dump(exclude={"kind", "duplicates", "schedule"}, exclude_none=True)

    def __reduce__(self) -> tuple[Any, ...]:  # pickle finds no class that is made when needed
        return _unpickled, (self.part, self.model_dump())


def _unpickled(part: Part, values: dict[str, Any]) -> Any:
    return choose_kind(models_of(part), values, None)


class StaircaseSchedule(Config):
    """Other values from given calls or steps on."""

    kind: Literal["staircase"]
    """At given calls or steps there is another value."""
    by: Literal["calls", "steps"] = "calls"
    """What is counted, from the beginning of the run, or of the first stage with this objective."""
    at: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    """So many calls, or steps, are made when each of the values begins; rising. Until the first
    there is the target's own."""
    values: list[FiniteFloat] = Field(min_length=1)
    """The values, one for each of at."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for as many values as there are places, in order."""
        if len(self.values) != len(self.at):
            yield "values", f"{len(self.values)} values for {len(self.at)} of at: give one for each"
        if sorted({*self.at}) != self.at:
            yield "at", "should rise from one to the next"


class QuantileSchedule(Config):
    """A quantile of the rewards as they are paid, never falling."""

    kind: Literal["quantile"]
    """tau is a quantile of what was paid, and never falls; it begins at the target's own."""
    quantile: FiniteFloat = Field(0.9, gt=0, lt=1)
    """Which one, above 0 and below 1."""
    over: Literal["steps", "hits"] = "steps"
    """Of the samples of the last steps, or of the distinct hits of the run, or stage, so far."""
    steps: int = Field(20, ge=1)
    """How many steps are the last ones, at least 1; for over: steps."""
    most: FiniteFloat | None = None
    """tau rises to this at most, for example the threshold that you will screen with; null: no
    bound."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse a number of steps where none are counted."""
        if self.over == "hits" and self.steps != type(self).model_fields["steps"].default:
            yield "steps", "with over: hits all hits so far count: leave steps out"


class ScheduleConfig(Config):
    """What of a target moves along a run."""

    tau: (
        Annotated[
            StaircaseSchedule | QuantileSchedule, by_kind(StaircaseSchedule, QuantileSchedule)
        ]
        | None
    ) = None
    """tau: kind staircase or quantile; null: it stays."""
    beta: Annotated[StaircaseSchedule, by_kind(StaircaseSchedule)] | None = None
    """beta: kind staircase; null: it stays."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for something that moves."""
        if self.tau is None and self.beta is None:
            yield "", "nothing moves: give tau or beta, or leave schedule out"


class TargetSettings(_Settings):
    """The distribution to walk to."""

    part = "target"

    schedule: ScheduleConfig | None = later()
    """Moves tau or beta along the run: {tau: {kind: staircase, at: [2000], values: [0.8]}} or
    {tau: {kind: quantile}}; null: they stay."""

    @model_validator(mode="after")
    def _fits_together(self) -> "TargetSettings":
        from chemkl.losses import TARGETS

        TARGETS[self.kind](**self.options)
        moves = self.schedule.model_fields_set if self.schedule is not None else set()
        if "tau" in moves and getattr(self, "tau", None) is None:
            text = f"the target {self.kind} has no tau here that could move: give it one, or leave"
            complain([("schedule.tau", f"{text} schedule.tau out")])
        most = getattr(getattr(self.schedule, "tau", None), "most", None)
        if most is not None and most <= self.tau:
            text = f"{most:g}: the target's own tau is {self.tau:g}, and would never rise"
            complain([("schedule.tau.most", text)])
        for key, options in self.scheduled:
            try:
                TARGETS[self.kind](**options)
            except ValueError as error:
                complain([(key, str(error))])
        return self

    @property
    def scheduled(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The options that the target has at each stair, and the key that says so."""
        for name in ("tau", "beta"):
            stairs = getattr(self.schedule, name, None)
            for value in getattr(stairs, "values", ()):
                others = {k: v for k, v in self.options.items() if k != "sigma" or name == "tau"}
                yield f"schedule.{name}", others | {name: value}

    @property
    def has_hits(self) -> bool:
        """Whether it tells hits from other rows."""
        from chemkl.losses import TARGETS

        return TARGETS[self.kind](**self.options).has_hits

    @property
    def resolved_beta(self) -> float:
        """Beta, whether it or sigma was given."""
        return beta_of(self.model_dump())


class EstimatorSettings(_Settings):
    """The loss that walks there."""

    part = "estimator"

    duplicates: Literal["keep", "drop"] = "keep"
    """Strings that occur several times in a batch: keep counts each, drop only the first."""


class ShaperSettings(_Settings):
    """An outside signal in the advantage."""

    part = "shaper"


def beta_of(target: Mapping[str, Any]) -> float:
    """The beta of a target's settings as plain values; 1 where none was given."""
    if target.get("beta") is not None:
        return float(target["beta"])
    return 1.0 if target.get("sigma") is None else 1 / float(target["sigma"])


def models_of(part: Part) -> dict[str, Any]:
    """Every kind of a part, with a function that gives its model."""
    from chemkl.losses import ESTIMATORS, SHAPERS, TARGETS

    if part == "target":
        return {kind: partial(_model, TargetSettings, kind, TARGETS[kind]) for kind in TARGETS}
    base: Any = EstimatorSettings if part == "estimator" else ShaperSettings
    registry: Any = ESTIMATORS if part == "estimator" else SHAPERS
    return {kind: partial(_model, base, kind, registry[kind].function) for kind in registry}


@cache
def _model(base: type[_Settings], kind: str, function: Any) -> type[Config]:
    """Make the model of one kind from the signature of its function."""
    from chemkl.losses.registry import REQUIRED, options_of

    fields: dict[str, Any] = {}
    for name, option in options_of(function).items():
        wanted = option.type if option.default is not None else option.type | None
        limits: dict[str, Any] = {} if option.range is None else dict(option.range.bounds)
        if option.range is not None and option.range.hint:
            wanted = Annotated[wanted, BeforeValidator(partial(_hinted, option))]
        default: Any = ... if option.default is REQUIRED else option.default
        fields[name] = (wanted, Field(default, description=option.meaning, **limits))
    scale = {name: fields.pop(name) for name in ("beta", "sigma") if name in fields}
    fields = scale | {"kind": (Literal[kind], ...)} | fields
    meaning = " ".join((function.__doc__ or "").partition("\n\n")[0].split())
    return base.with_fields(f"{kind} {base.part}", fields, meaning)


def _hinted(option: Any, value: Any) -> Any:
    """Refuse a number out of range with the hint that goes with the range."""
    if isinstance(value, int | float) and (problem := option.problem(value)):
        raise ValueError(problem)
    return value


def _chosen(part: Part) -> WrapValidator:
    def choose(value: Any, _handler: Any, info: ValidationInfo) -> Any:
        return choose_kind(models_of(part), value, info.context, part)

    return WrapValidator(choose)


TargetConfig = Annotated[SerializeAsAny[TargetSettings], _chosen("target")]
"""The distribution that the policy is trained towards."""
EstimatorConfig = Annotated[SerializeAsAny[EstimatorSettings], _chosen("estimator")]
"""The loss that walks to the target; a bare name stands for its kind with the defaults."""
RLOO: Any = "rloo"
"""The estimator where none is given."""
ShaperConfig = Annotated[SerializeAsAny[ShaperSettings], _chosen("shaper")]
"""The outside signal in the advantage; a bare name stands for its kind with the defaults."""


class ObjectiveConfig(Config):
    """What every config of post-training shares; it has the fields below in its own order."""

    if TYPE_CHECKING:
        target: TargetSettings
        estimator: EstimatorSettings
        shaper: ShaperSettings | None

    unread_bounds: ClassVar[tuple[float, float] | None] = None
    """The range of a reward that cannot be read; None: it may be any."""

    @field_validator("shaper", check_fields=False)
    @classmethod
    def _go_together(cls, shaper: Any, info: ValidationInfo) -> Any:
        """Refuse parts that do not go together; the shaper is the last of them."""
        target, reward, estimator = map(info.data.get, ("target", "reward", "estimator"))
        bounds = cls.unread_bounds if reward is None else reward.bounds
        if target is not None and bounds is not None:
            problems = misfits(target, estimator, shaper, bounds)
            complain((f"{BESIDE}.{key}", text) for key, text in problems)
        return shaper

    @property
    def objective(self) -> Mapping[str, Any]:
        """Target, estimator and shaper as plain values, for the loss core."""
        return {
            "target": self.target.model_dump(exclude={"schedule"}),
            "estimator": self.estimator.model_dump(),
            "shaper": None if self.shaper is None else self.shaper.model_dump(),
        }

    @property
    def in_stages(self) -> list[Self]:
        """The settings of each stage of the run; these alone where it has none."""
        return [
            self.model_copy(update={**stage.given, "stages": None})
            for stage in getattr(self, "stages", None) or ()
        ] or [self]


def misfits(
    target: TargetSettings,
    estimator: EstimatorSettings | None,
    shaper: ShaperSettings | None,
    bounds: tuple[float, float],
) -> list[tuple[str, str]]:
    """What of an objective does not go together: dotted keys and texts."""
    from chemkl.losses import ESTIMATORS, TARGETS, build_shaper
    from chemkl.losses.objective import objective_problems

    problems = objective_problems(
        TARGETS[target.kind](**target.options),
        None if estimator is None else ESTIMATORS[estimator.kind],
        None if estimator is None else estimator.options,
        None if shaper is None else build_shaper(shaper.kind, **shaper.options),
        bounds,
    )
    for key, options in target.scheduled:
        moved = objective_problems(TARGETS[target.kind](**options), reward_range=bounds)
        problems += [(f"target.{key}", text) for _, text in moved]
    return problems


def replay_problems(
    target: TargetSettings,
    estimator: EstimatorSettings,
    shaper: ShaperSettings | None,
    memory: MemoryConfig,
    *,
    seeded: bool,
    explores: bool,
) -> Iterator[tuple[str, str]]:
    """Say why rows of a memory cannot be learnt from, as pairs (key, what is wrong)."""
    from chemkl.losses import ESTIMATORS, SHAPERS

    why = "cannot learn from replayed rows, which the policy of today did not sample"
    if text := _on_policy(estimator, why, weighing=not (seeded or explores)):
        yield "estimator", f"{text}, or no memory"
    elif not ESTIMATORS[estimator.kind].off_policy:
        able = ", ".join(name for name in ESTIMATORS if ESTIMATORS[name].off_policy)
        text = f"no policy sampled its molecules, and {estimator.kind!r} weighs by one that did"
        for key, is_given in (("memory.seed", seeded), ("exploration", explores)):
            if is_given:
                yield key, f"{text}: take the estimator {able}, or no {key.rpartition('.')[2]}"
    described = {"kernel_BB", "outcome_B", "features_BF"}  # of sampled rows alone
    free = [name for name in SHAPERS if described.isdisjoint(SHAPERS[name].wanted.required)]
    if shaper is not None and shaper.kind not in free:
        text = f"{shaper.kind!r} shapes what is sampled, and a memory replays other rows too"
        yield "shaper", f"{text}: take no shaper (null), {', '.join(free)}, or no memory"
    if memory.draw == "hits" and not target.has_hits:
        text = f"'hits', but the target {target.kind!r} has none: take reward, rank, scaffolds or"
        yield "memory.draw", f"{text} uniform, or the target mara"


def update_problems(estimator: EstimatorSettings, *, augment: bool) -> Iterator[tuple[str, str]]:
    """Say why a batch cannot be learnt from several times, as pairs (key, what is wrong)."""
    from chemkl.losses import ESTIMATORS

    text = "" if augment else _on_policy(estimator, "can use a batch for one update only")
    # of a random spelling nobody knows how probable it was to be proposed
    free = [n for n in ESTIMATORS if ESTIMATORS[n].off_policy and not ESTIMATORS[n].weighs]
    if augment and estimator.kind not in free:
        text = f"{estimator.kind!r} cannot learn from random spellings: take {', '.join(free)}"
    if text:
        yield "estimator", text


def _on_policy(estimator: EstimatorSettings, why: str, *, weighing: bool = True) -> str:
    """Why an estimator cannot learn from rows of older policies, and which can; empty: it can.

    Those that weigh rows by the policy that sampled them are named if `weighing` can be.
    """
    from chemkl.losses import ESTIMATORS

    chosen = ESTIMATORS[estimator.kind]
    clips = getattr(estimator, "clip", True) is not None
    if chosen.off_policy or (chosen.weighs_old and clips):
        return ""
    able = [name for name in ESTIMATORS if ESTIMATORS[name].off_policy]
    others = [name for name in ESTIMATORS if weighing and ESTIMATORS[name].weighs_old]
    clipped = [name for name in others if "clip" in ESTIMATORS[name].wanted.options]
    able += [name for name in others if name not in clipped]
    able += [f"{name} with clip" for name in clipped]
    return f"{estimator.kind!r} {why}: take {', '.join(able)}"
