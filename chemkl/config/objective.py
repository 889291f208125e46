"""Settings of what a run learns from: target, estimator, shaper, diversity filter and memory.

The options of targets, estimators and shapers stand in the signatures and docstrings of the
functions in `chemkl.losses`. The models are built from these when settings are checked, because
torch is imported only then.
"""

from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, Union

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    SerializationInfo,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_serializer,
    model_validator,
)

from chemkl.config.base import SIBLING, Config, added_later, by_kind, choose_kind, raise_problems
from chemkl.config.paths import DataPath

Penalty = Literal["step", "linear", "sigmoid", "tanh", "erf"]
BitFingerprint = Literal["morgan", "feature_morgan", "atom_pairs", "torsions", "rdkit_path"]
Fingerprint = Annotated[
    BitFingerprint,
    Field(
        description="The fingerprint by which distances are measured, 2048 bits: morgan (ECFP4), "
        "feature_morgan (FCFP4), atom_pairs, torsions or rdkit_path."
    ),
]
Distance = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="Tanimoto distance (1 - similarity, no unit, above 0 to 1). A hit nearer than "
        "this to the first one of a bucket belongs to it (of several, to the oldest); any other "
        "begins a bucket.",
    ),
]


class FilterConfig(Config):
    """Pay each bucket of alike molecules a limited number of times, so that the policy moves on."""

    kind: str
    """Which molecules share a bucket."""
    bucket: int = Field(25, ge=1)
    """How many sampled molecules of one bucket are paid; all later ones get 0. Exact, also
    within a batch: rows are taken in order. A molecule that is sampled again counts again, if
    repeats do."""
    min_score: float = Field(0.4, ge=0, le=1)
    """Rewards below this neither fill a bucket nor are touched by it."""
    penalty: Penalty = "step"
    """What share of its reward the n-th molecule of a bucket is paid. step: all up to bucket, then
    none; linear, sigmoid, tanh and erf fall with n / bucket to 0 or nearly so."""
    floor: float = Field(0.0, ge=0, lt=1)
    """Share of the reward that is always paid, however full the bucket; 0 to less than 1."""
    repeats: bool = True
    """Whether a molecule that a call was spent on before counts and is paid as a new one would be;
    false: it gets 0, whatever its reward, min_score and floor, and takes no place in a bucket. A
    memory replays it all the same, as long as its bucket is paid."""

    @model_serializer(mode="wrap")
    def _without_defaults(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Leave later keys at their defaults out of the JSON that tells runs from each other."""
        values: dict[str, Any] = handler(self)
        later = ("penalty", "floor", "repeats") if info.mode == "json" else ()
        for name in later:
            if values[name] == FilterConfig.model_fields[name].default:
                del values[name]
        return values


class MurckoFilterConfig(FilterConfig):
    """Identical Bemis-Murcko scaffolds share a bucket, all acyclic molecules too."""

    kind: Literal["murcko"]
    """Identical Bemis-Murcko scaffold."""


class GenericFilterConfig(FilterConfig):
    """Identical generic (topological) scaffolds share a bucket: no elements, no bond orders."""

    kind: Literal["generic"]
    """Identical generic scaffold."""


class ScaffoldSimilarityFilterConfig(FilterConfig):
    """Similar Bemis-Murcko scaffolds share a bucket, all acyclic molecules too."""

    kind: Literal["scaffold_similarity"]
    """Bemis-Murcko scaffolds nearer than distance."""
    distance: Distance = 0.5
    fingerprint: Fingerprint = "atom_pairs"


class MoleculeSimilarityFilterConfig(FilterConfig):
    """Similar molecules share a bucket; with bucket 1 a hit near a paid one is worth 0."""

    kind: Literal["molecule_similarity"]
    """Molecules nearer than distance (sphere exclusion)."""
    bucket: int = Field(1, ge=1)
    """How many sampled molecules of one sphere are paid; all later ones get 0. 1 as in Renz et al.,
    J. Chem. Inf. Model. 2024 (PMC11323242)."""
    distance: Distance = 0.7
    fingerprint: Fingerprint = "morgan"


class SameSmilesFilterConfig(FilterConfig):
    """A molecule shares a bucket with itself alone, however its SMILES is written."""

    kind: Literal["same_smiles"]
    """Identical canonical SMILES."""
    bucket: int = Field(1, ge=1)
    """How often a molecule is paid when it is sampled again and again; later it gets 0."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse what would leave the bucket nothing to count."""
        if not self.repeats:
            text = "false pays a molecule once, as bucket: 1 does with this kind: leave it out"
            yield "repeats", text


FILTERS: dict[str, type[FilterConfig]] = {
    "murcko": MurckoFilterConfig,
    "generic": GenericFilterConfig,
    "scaffold_similarity": ScaffoldSimilarityFilterConfig,
    "molecule_similarity": MoleculeSimilarityFilterConfig,
    "same_smiles": SameSmilesFilterConfig,
}
"""The settings of every filter, by kind; `chemkl.training.filters` says what each does."""

if TYPE_CHECKING:
    DiversityFilter = FilterConfig
else:
    DiversityFilter = Annotated[Union[*FILTERS.values()], by_kind(*FILTERS.values())]
"""The settings of any filter, told apart by its kind."""


Draw = Literal["reward", "rank", "hits", "scaffolds", "uniform"]
Purge = Literal["worst", "oldest", "scaffold", "none"]
Screen = Literal["none", "prior", "surrogate"]


class MemorySeed(Config):
    """Molecules that a memory begins with; their origin is seed, and no metric counts them."""

    path: DataPath
    """The molecules: a file as `source.path` of prepare. Those that the prior cannot write
    are left out, and named at the start; of one that stands twice the first row counts."""
    column: str | int | None = None
    """Where the SMILES stand: a column's name, or its number from 0; null: the column called smiles
    or the like."""
    reward: str | None = None
    """Name of the column of their rewards, 0 to 1; these cost no call. null: they are scored when
    the run begins, a call of the budget each."""


class MemoryConfig(Config):
    """Remembers the molecules that a run has found, and replays some of them at each step.

    A molecule is kept once, by its canonical SMILES, with its raw reward and log pi_ref; target and
    diversity filter are asked anew whenever it is replayed, and it costs no call.
    """

    capacity: int = Field(1000, ge=1)
    """Molecules that it keeps at most, 1 or more. 100 in Augmented Memory."""
    rows: int | None = Field(None, ge=1)
    """Molecules that join each sampled batch, at most capacity; null: half of batch_size. Fewer
    join while there are fewer to draw."""
    draw: Draw = "reward"
    """Which ones, none twice in a batch. reward: with a chance in proportion to what the filter
    pays for them today; rank: in proportion to 1 / rank by that; hits: each hit of today alike;
    scaffolds: each scaffold of today's hits alike (of all molecules for a target without hits);
    uniform: each molecule alike, hit or not (REINVENT's inception)."""
    purge: Purge = "worst"
    """What leaves when it is full. worst: the lowest reward; oldest; scaffold: the lowest reward of
    the scaffold with the most molecules; none: nothing, and what comes later is not kept."""
    selective: bool = True
    """Molecules for which the diversity filter no longer pays anything leave at once, full or not
    (the selective memory purge of Augmented Memory); false: rank and uniform still draw them."""
    repeats: bool = Field(True, exclude_if=lambda repeats: repeats)
    """Whether molecules that a sample repeats are still replayed. false: such a one leaves for
    good, since the policy needs no reminder of it."""
    seed: MemorySeed | None = Field(None, exclude_if=lambda seed: seed is None)
    """Molecules that it begins with, in a run of stages that of the first one alone; null: none."""


class Shares(Config):
    """How often each operator is tried; they need not sum to 1. Those that are not named get 0."""

    crossover: float = Field(0.25, ge=0)
    """A part of one molecule joined with a part of another one."""
    mutation: float = Field(0.125, ge=0)
    """An atom, a bond or a ring of one inserted, deleted or changed."""
    neighbour: float = Field(0.125, ge=0)
    """A mutation that stays similar to its parent: Tanimoto similarity of 0.5 or more."""
    fragments: float = Field(0.5, ge=0)
    """A piece of one molecule joined with a piece of another one, at bonds that chemists can make
    (BRICS)."""
    prior: float = Field(0, ge=0, exclude_if=lambda share: not share)
    """A sample of the prior, which has no parent."""

    @model_validator(mode="before")
    @classmethod
    def _unnamed_get_0(cls, given: Any) -> Any:
        is_some = isinstance(given, dict) and given
        return dict.fromkeys(cls.model_fields, 0) | given if is_some else given

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for one operator at least."""
        if not any(self.model_dump().values()):
            names = ", ".join(type(self).model_fields)
            yield "", f"all are 0 ({names}; those that are not named are): give one of them a share"


class ExplorationConfig(Config):
    """Spends some calls on molecules made of the memory's best.

    They are children of the molecules that the diversity filter pays most for today, by the genetic
    operators of graph GA or by BRICS, or samples of the prior. Each costs its call, joins the batch
    of its step, and enters the memory.
    """

    calls: int = Field(16, ge=1, le=1_000)
    """Calls each time, 1 to 1,000; fewer where not so many new molecules are found, and where the
    budget ends."""
    every: int = Field(12, ge=1)
    """It explores every so many steps: many calls at once take less time than as many in as many
    steps."""
    proposals_per_call: int = Field(2, ge=1, le=1_000)
    """Molecules made for each of these calls, of which the screen chooses one; 1 to 1,000. One
    takes about 3 ms, of fragments 1."""
    screen: Screen = "surrogate"
    """Which ones. none: as they come; prior: the likeliest under the prior; surrogate: those for
    which a random forest on what was paid so far expects most, times the share that the diversity
    filter would pay (extra sklearn). What it would pay nothing for is never chosen."""
    parents: int = Field(100, ge=1)
    """So many molecules of the memory are parents, alike: those that are paid most today."""
    shares: Shares = Shares()
    """How often each operator is tried: crossover, mutation, neighbour, fragments, prior; those
    that are not named, never."""
    optimism: float = Field(1.0, ge=0)
    """The forest's expectation is raised by so many standard deviations between its trees."""
    refit: int = Field(48, ge=1)
    """The forest is trained anew after so many steps; once takes about half a second."""
    start: int = Field(0, ge=0)
    """Calls of the run after which it begins; 0: as soon as the memory holds a molecule."""


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

    schedule: ScheduleConfig | None = added_later()
    """Moves tau or beta along the run: {tau: {kind: staircase, at: [2000], values: [0.8]}} or
    {tau: {kind: quantile}}; null: they stay."""

    @model_validator(mode="after")
    def _fits_together(self) -> "TargetSettings":
        from chemkl.losses import TARGETS

        TARGETS[self.kind](**self.options)
        moves = self.schedule.model_fields_set if self.schedule is not None else set()
        if "tau" in moves and getattr(self, "tau", None) is None:
            text = f"the target {self.kind} has no tau here that could move: give it one, or leave"
            raise_problems([("schedule.tau", f"{text} schedule.tau out")])
        most = getattr(getattr(self.schedule, "tau", None), "most", None)
        if most is not None and most <= self.tau:
            text = f"{most:g}: the target's own tau is {self.tau:g}, and would never rise"
            raise_problems([("schedule.tau.most", text)])
        for key, options in self.scheduled:
            try:
                TARGETS[self.kind](**options)
            except ValueError as error:
                raise_problems([(key, str(error))])
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
            raise_problems((f"{SIBLING}.{key}", text) for key, text in problems)
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
