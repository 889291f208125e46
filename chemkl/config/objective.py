"""Settings of what a run learns from: target, estimator, shaper, diversity filter and memory.

The options of targets, estimators and shapers are defined by the signatures and docstrings of the
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

# ---- target, estimator, shaper

Part = Literal["target", "estimator", "shaper"]


class _Settings(Config):
    """Settings of one kind, with the options of its function as attributes."""

    part: ClassVar[Part]

    if TYPE_CHECKING:
        kind: str

        def __getattr__(self, name: str) -> Any: ...

    @classmethod
    def listed(cls) -> list[str]:
        """Return the kinds, which `chemkl show` lists with their keys."""
        return sorted(models_of(cls.part))

    @property
    def options(self) -> dict[str, Any]:
        """The options of the function in the loss core that are not None."""
        return self.model_dump(exclude={"kind", "duplicates", "schedule"}, exclude_none=True)

    def __reduce__(self) -> tuple[Any, ...]:  # the class is made on demand: pickle cannot find it
        return _unpickled, (self.part, self.model_dump())


def _unpickled(part: Part, values: dict[str, Any]) -> Any:
    return choose_kind(models_of(part), values, None)


class StaircaseSchedule(Config):
    """Changes a value at given numbers of calls or steps."""

    kind: Literal["staircase"]
    """Changes the value at given numbers of calls or steps."""
    by: Literal["calls", "steps"] = "calls"
    """What to count, from the start of the run, or of the first stage with this objective."""
    at: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    """Numbers of calls or steps at which the values start to hold, in rising order; before the
    first, the value of the target holds."""
    values: list[FiniteFloat] = Field(min_length=1)
    """The values, one for each of at."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require one value for each number, and rising numbers."""
        if len(self.values) != len(self.at):
            yield "values", f"{len(self.values)} values for {len(self.at)} in at: give one for each"
        if sorted({*self.at}) != self.at:
            yield "at", "must be in rising order"


class QuantileSchedule(Config):
    """Raises tau to a quantile of the paid rewards."""

    kind: Literal["quantile"]
    """tau is a quantile of the paid rewards; it starts at the tau of the target and never falls."""
    quantile: FiniteFloat = Field(0.9, gt=0, lt=1)
    """Which quantile, above 0 and below 1."""
    over: Literal["steps", "hits"] = "steps"
    """Quantile over the samples of the last steps, or over the distinct hits of the run, or stage,
    so far."""
    steps: int = Field(20, ge=1)
    """Number of last steps, at least 1; for over: steps."""
    most: FiniteFloat | None = None
    """Upper bound of tau, for example the threshold of a later screen; null: no bound."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse a number of steps that would have no effect."""
        if self.over == "hits" and self.steps != type(self).model_fields["steps"].default:
            yield (
                "steps",
                "has no effect with over: hits, which takes all of them: leave it out",
            )


class ScheduleConfig(Config):
    """Changes tau or beta of a target during the run."""

    tau: (
        Annotated[
            StaircaseSchedule | QuantileSchedule, by_kind(StaircaseSchedule, QuantileSchedule)
        ]
        | None
    ) = None
    """Kind staircase or quantile; null: tau is constant."""
    beta: Annotated[StaircaseSchedule, by_kind(StaircaseSchedule)] | None = None
    """Kind staircase; null: beta is constant."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require a schedule for tau or beta."""
        if self.tau is None and self.beta is None:
            yield "", "empty: give tau or beta, or leave schedule out"


class TargetSettings(_Settings):
    """The distribution that the policy is trained towards."""

    part = "target"

    schedule: ScheduleConfig | None = added_later()
    """Changes tau or beta during the run: {tau: {kind: staircase, at: [2000], values: [0.8]}} or
    {tau: {kind: quantile}}; null: they are constant."""

    @model_validator(mode="after")
    def _fits_together(self) -> "TargetSettings":
        from chemkl.losses import TARGETS

        TARGETS[self.kind](**self.options)
        scheduled = self.schedule.model_fields_set if self.schedule is not None else set()
        if "tau" in scheduled and getattr(self, "tau", None) is None:
            text = f"the target {self.kind} has no tau: give it one, or leave schedule.tau out"
            raise_problems([("schedule.tau", text)])
        most = getattr(getattr(self.schedule, "tau", None), "most", None)
        if most is not None and most <= self.tau:
            text = f"{most:g} is not above tau = {self.tau:g} of the target: tau would never rise"
            raise_problems([("schedule.tau.most", text)])
        for key, options in self.scheduled:
            try:
                TARGETS[self.kind](**options)
            except ValueError as error:
                raise_problems([(key, str(error))])
        return self

    @property
    def scheduled(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The options of the target at each value of a staircase, with the key of the schedule."""
        for name in ("tau", "beta"):
            schedule = getattr(self.schedule, name, None)
            for value in getattr(schedule, "values", ()):
                options = {k: v for k, v in self.options.items() if k != "sigma" or name == "tau"}
                yield f"schedule.{name}", options | {name: value}

    @property
    def has_hits(self) -> bool:
        """Whether the target distinguishes hits from other rows."""
        from chemkl.losses import TARGETS

        return TARGETS[self.kind](**self.options).has_hits

    @property
    def resolved_beta(self) -> float:
        """Beta, also if sigma was given."""
        return beta_of(self.model_dump())


class EstimatorSettings(_Settings):
    """The loss that trains the policy towards the target."""

    part = "estimator"

    duplicates: Literal["keep", "drop"] = "keep"
    """Strings that occur more than once in a batch: keep counts each, drop only the first."""


class ShaperSettings(_Settings):
    """An additional signal in the advantage."""

    part = "shaper"


def beta_of(target: Mapping[str, Any]) -> float:
    """Return the beta of a target's settings as plain values; 1 without beta and sigma."""
    if target.get("beta") is not None:
        return float(target["beta"])
    return 1.0 if target.get("sigma") is None else 1 / float(target["sigma"])


def models_of(part: Part) -> dict[str, Any]:
    """Return the kinds of a part, each with a function that makes its model."""
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
        annotation = option.type if option.default is not None else option.type | None
        limits: dict[str, Any] = {} if option.range is None else dict(option.range.bounds)
        if option.range is not None and option.range.hint:
            annotation = Annotated[annotation, BeforeValidator(partial(_check_range, option))]
        default: Any = ... if option.default is REQUIRED else option.default
        fields[name] = (annotation, Field(default, description=option.meaning, **limits))
    scale = {name: fields.pop(name) for name in ("beta", "sigma") if name in fields}
    fields = scale | {"kind": (Literal[kind], ...)} | fields
    meaning = " ".join((function.__doc__ or "").partition("\n\n")[0].split())
    return base.with_fields(f"{kind} {base.part}", fields, meaning)


def _check_range(option: Any, value: Any) -> Any:
    """Refuse a number out of range with the hint of the range."""
    if isinstance(value, int | float) and (problem := option.problem(value)):
        raise ValueError(problem)
    return value


def _by_kind(part: Part) -> WrapValidator:
    def choose(value: Any, _handler: Any, info: ValidationInfo) -> Any:
        return choose_kind(models_of(part), value, info.context, part)

    return WrapValidator(choose)


TargetConfig = Annotated[SerializeAsAny[TargetSettings], _by_kind("target")]
EstimatorConfig = Annotated[SerializeAsAny[EstimatorSettings], _by_kind("estimator")]
RLOO: Any = "rloo"
"""The default estimator, for a field whose default is validated."""
ShaperConfig = Annotated[SerializeAsAny[ShaperSettings], _by_kind("shaper")]


class ObjectiveConfig(Config):
    """Base of the configs of post-training; each declares the fields below in its own order."""

    if TYPE_CHECKING:
        target: TargetSettings
        estimator: EstimatorSettings
        shaper: ShaperSettings | None

    unread_bounds: ClassVar[tuple[float, float] | None] = None
    """Range of the reward if its settings are invalid; None: unknown."""

    @field_validator("shaper", check_fields=False)
    @classmethod
    def _go_together(cls, shaper: Any, info: ValidationInfo) -> Any:
        """Refuse parts that do not fit together; the shaper is the last of them to be validated."""
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
        """The settings of each stage of the run; only these if it has no stages."""
        return [
            self.model_copy(update={**stage.changes, "stages": None})
            for stage in getattr(self, "stages", None) or ()
        ] or [self]


def misfits(
    target: TargetSettings,
    estimator: EstimatorSettings | None,
    shaper: ShaperSettings | None,
    bounds: tuple[float, float],
) -> list[tuple[str, str]]:
    """List contradictions within an objective, as (dotted key, message)."""
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
        later = objective_problems(TARGETS[target.kind](**options), reward_range=bounds)
        problems += [(f"target.{key}", text) for _, text in later]
    return problems


# ---- diversity filter

Penalty = Literal["step", "linear", "sigmoid", "tanh", "erf"]
BitFingerprint = Literal["morgan", "feature_morgan", "atom_pairs", "torsions", "rdkit_path"]
Fingerprint = Annotated[
    BitFingerprint,
    Field(
        description="Fingerprint for the distances, 2048 bits: morgan (ECFP4), feature_morgan "
        "(FCFP4), atom_pairs, torsions or rdkit_path."
    ),
]
Distance = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="Tanimoto distance (1 - similarity, no unit, above 0 to 1). A hit closer than "
        "this to the first hit of a bucket belongs to it (to the oldest of several); any other hit "
        "starts a new bucket.",
    ),
]


class FilterConfig(Config):
    """Pays each bucket of similar molecules a limited number of times, so that the policy moves on.

    `chemkl.training.filters` assigns molecules to buckets.
    """

    kind: str
    """Which molecules share a bucket."""
    bucket: int = Field(25, ge=1)
    """Number of sampled molecules per bucket that get their reward; later ones get 0, also within a
    batch, whose rows are taken in order. A molecule that is sampled again counts again if
    `repeats` is true."""
    min_score: float = Field(0.4, ge=0, le=1)
    """Rewards below this are not filtered and do not fill a bucket."""
    penalty: Penalty = "step"
    """Share of its reward that the n-th molecule of a bucket gets. step: all up to bucket, then
    nothing; linear, sigmoid, tanh and erf fall with n / bucket to 0 or nearly 0."""
    floor: float = Field(0.0, ge=0, lt=1)
    """Share of the reward that is always paid, however full the bucket; 0 to less than 1."""
    repeats: bool = True
    """Whether a molecule that was scored before still gets its reward and counts in its bucket.
    false: its reward is 0, whatever min_score and floor, and it does not count; a memory may still
    replay it until its bucket is full."""

    @model_serializer(mode="wrap")
    def _without_defaults(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Leave keys that were added later out of the JSON, which identifies a run, at defaults."""
        values: dict[str, Any] = handler(self)
        for name in ("penalty", "floor", "repeats") if info.mode == "json" else ():
            if values[name] == FilterConfig.model_fields[name].default:
                del values[name]
        return values


class MurckoFilterConfig(FilterConfig):
    """Identical Bemis-Murcko scaffolds share a bucket; all acyclic molecules share one."""

    kind: Literal["murcko"]
    """Identical Bemis-Murcko scaffold."""


class GenericFilterConfig(FilterConfig):
    """Identical generic (topological) scaffolds share a bucket: no elements, no bond orders."""

    kind: Literal["generic"]
    """Identical generic scaffold."""


class ScaffoldSimilarityFilterConfig(FilterConfig):
    """Similar Bemis-Murcko scaffolds share a bucket; all acyclic molecules share one."""

    kind: Literal["scaffold_similarity"]
    """Bemis-Murcko scaffolds closer than `distance`."""
    distance: Distance = 0.5
    fingerprint: Fingerprint = "atom_pairs"


class MoleculeSimilarityFilterConfig(FilterConfig):
    """Similar molecules share a bucket; with bucket 1 a hit near a paid one is worth 0."""

    kind: Literal["molecule_similarity"]
    """Molecules closer than `distance` (sphere exclusion)."""
    bucket: int = Field(1, ge=1)
    """Number of sampled molecules per sphere that are paid; all later ones get 0. 1 as in Renz et
    al., J. Chem. Inf. Model. 2024 (PMC11323242)."""
    distance: Distance = 0.7
    fingerprint: Fingerprint = "morgan"


class SameSmilesFilterConfig(FilterConfig):
    """Each molecule has its own bucket, however its SMILES is written."""

    kind: Literal["same_smiles"]
    """Identical canonical SMILES."""
    bucket: int = Field(1, ge=1)
    """How often a molecule gets its reward when it is sampled repeatedly; later it gets 0."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse `repeats: false`, which would leave nothing to count."""
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

if TYPE_CHECKING:
    DiversityFilter = FilterConfig
else:
    DiversityFilter = Annotated[Union[*FILTERS.values()], by_kind(*FILTERS.values())]


# ---- memory and exploration

Draw = Literal["reward", "rank", "hits", "scaffolds", "uniform"]
Purge = Literal["worst", "oldest", "scaffold", "none"]
Screen = Literal["none", "prior", "surrogate"]


class MemorySeed(Config):
    """Molecules that a memory starts with; their origin is seed, and no metric counts them."""

    path: DataPath
    """The molecules: a file as for `source.path` of prepare. Those that the prior cannot write are
    left out and listed at the start; of a repeated molecule the first row counts."""
    column: str | int | None = None
    """Column of the SMILES: its name, or its number from 0; null: a column called smiles or a
    similar name."""
    reward: str | None = None
    """Name of the column of the rewards, 0 to 1; these cost no call. null: they are scored at the
    start, one call of the budget each."""


class MemoryConfig(Config):
    """Stores the molecules that a run has found, and replays some of them at each step.

    A molecule is stored once, by its canonical SMILES, with its raw reward and log pi_ref. Target
    and diversity filter are applied again whenever it is replayed; it costs no call.
    """

    capacity: int = Field(1000, ge=1)
    """Most molecules to store, 1 or more. 100 in Augmented Memory."""
    rows: int | None = Field(None, ge=1)
    """Molecules that join each sampled batch, at most capacity; null: half of batch_size. Fewer
    join if fewer can be drawn."""
    draw: Draw = "reward"
    """How to draw them, without replacement. reward: in proportion to what the filter pays for them
    now; rank: in proportion to 1 / rank by that; hits: uniformly from the present hits; scaffolds:
    uniformly over the scaffolds of the present hits (of all molecules if the target has no hits);
    uniform: uniformly from all molecules (REINVENT's inception)."""
    purge: Purge = "worst"
    """What to remove when the memory is full. worst: the lowest reward; oldest; scaffold: the
    lowest reward of the scaffold with the most molecules; none: nothing, and new molecules are not
    stored."""
    selective: bool = True
    """Remove at once, full or not, molecules for which the diversity filter no longer pays (the
    selective memory purge of Augmented Memory); false: rank and uniform still draw them."""
    repeats: bool = Field(True, exclude_if=lambda repeats: repeats)
    """Whether molecules that the policy samples again are still replayed. false: such a molecule is
    removed for good, as the policy already knows it."""
    seed: MemorySeed | None = Field(None, exclude_if=lambda seed: seed is None)
    """Molecules to start with, in a run of stages for the first one only; null: none."""


class Shares(Config):
    """How often each operator is tried; they need not sum to 1. Omitted ones get 0."""

    crossover: float = Field(0.25, ge=0)
    """Joins a part of one molecule with a part of another."""
    mutation: float = Field(0.125, ge=0)
    """Inserts, deletes or changes an atom, a bond or a ring of a molecule."""
    neighbour: float = Field(0.125, ge=0)
    """A mutation that stays similar to its parent: Tanimoto similarity of 0.5 or more."""
    fragments: float = Field(0.5, ge=0)
    """Joins a fragment of one molecule with a fragment of another at synthetically feasible bonds
    (BRICS)."""
    prior: float = Field(0, ge=0, exclude_if=lambda share: not share)
    """Samples the prior; there is no parent."""

    @model_validator(mode="before")
    @classmethod
    def _omitted_are_0(cls, shares: Any) -> Any:
        is_partial = isinstance(shares, dict) and shares
        return dict.fromkeys(cls.model_fields, 0) | shares if is_partial else shares

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require at least one operator."""
        if not any(self.model_dump().values()):
            names = ", ".join(type(self).model_fields)
            yield "", f"all are 0 ({names}; omitted ones are): give one of them a share"


class ExplorationConfig(Config):
    """Spends some calls on molecules made from the best ones of the memory.

    They are children of the molecules that the diversity filter pays most for now, by the genetic
    operators of graph GA or by BRICS, or samples of the prior. Each costs a call, joins the batch
    of its step, and enters the memory. A child has at most 70 heavy atoms (fewer if the reward's
    `max_atoms` is lower).
    """

    calls: int = Field(16, ge=1, le=1_000)
    """Calls per exploration, 1 to 1,000; fewer if not enough new molecules are found, or at the end
    of the budget."""
    every: int = Field(12, ge=1)
    """Steps between explorations: many calls at once take less time than the same number spread
    over as many steps."""
    proposals_per_call: int = Field(2, ge=1, le=1_000)
    """Molecules made for each of these calls, of which the screen chooses one; 1 to 1,000. One
    takes about 3 ms, or 1 ms by fragments."""
    screen: Screen = "surrogate"
    """Which ones to choose. none: the first; prior: the most likely under the prior; surrogate:
    those with the highest reward predicted by a random forest (50 trees on Morgan bits, trained on
    the 500 best and the 500 latest molecules that cost a call), times the share that the diversity
    filter would pay (extra sklearn). Molecules that it would pay nothing for are never chosen."""
    parents: int = Field(100, ge=1)
    """Number of molecules of the memory that are parents, with equal chances: those that are paid
    most now."""
    shares: Shares = Shares()
    """How often each operator is tried: crossover, mutation, neighbour, fragments, prior; omitted
    ones never."""
    optimism: float = Field(1.0, ge=0)
    """Raises the expectation of the forest by this many standard deviations between its trees."""
    refit: int = Field(48, ge=1)
    """Steps after which the forest is trained again, which takes about half a second."""
    start: int = Field(0, ge=0)
    """Calls of the run after which exploration starts; 0: as soon as the memory holds a
    molecule."""


def replay_problems(
    target: TargetSettings,
    estimator: EstimatorSettings,
    shaper: ShaperSettings | None,
    memory: MemoryConfig,
    *,
    seeded: bool,
    explores: bool,
) -> Iterator[tuple[str, str]]:
    """Yield why the policy cannot learn from rows of a memory, as (key, message)."""
    from chemkl.losses import ESTIMATORS, SHAPERS

    why = "cannot learn from replayed rows, which the present policy did not sample"
    if text := _on_policy(estimator, why, weighing=not (seeded or explores)):
        yield "estimator", f"{text}, or no memory"
    elif not ESTIMATORS[estimator.kind].off_policy:
        off_policy = ", ".join(name for name in ESTIMATORS if ESTIMATORS[name].off_policy)
        text = f"no policy sampled its molecules, but {estimator.kind!r} weighs rows by one"
        for key, is_set in (("memory.seed", seeded), ("exploration", explores)):
            if is_set:
                name = key.rpartition(".")[2]
                yield key, f"{text}: take the estimator {off_policy}, or no {name}"
    of_samples = {"kernel_BB", "outcome_B", "features_BF"}  # known for sampled rows only
    usable = [name for name in SHAPERS if of_samples.isdisjoint(SHAPERS[name].signature.required)]
    if shaper is not None and shaper.kind not in usable:
        text = f"{shaper.kind!r} needs sampled rows, but a memory also replays other rows"
        yield "shaper", f"{text}: take no shaper (null), {', '.join(usable)}, or no memory"
    if memory.draw == "hits" and not target.has_hits:
        text = f"'hits', but the target {target.kind!r} has none: take reward, rank, scaffolds or"
        yield "memory.draw", f"{text} uniform, or the target mara"


def update_problems(estimator: EstimatorSettings, *, augment: bool) -> Iterator[tuple[str, str]]:
    """Yield why a batch cannot be used for several updates, as (key, message)."""
    from chemkl.losses import ESTIMATORS

    text = "" if augment else _on_policy(estimator, "can use a batch for one update only")
    # the probability that a random spelling is proposed is unknown, so weights are too
    usable = [n for n in ESTIMATORS if ESTIMATORS[n].off_policy and not ESTIMATORS[n].weighs]
    if augment and estimator.kind not in usable:
        text = f"{estimator.kind!r} cannot learn from random spellings: take {', '.join(usable)}"
    if text:
        yield "estimator", text


def _on_policy(estimator: EstimatorSettings, why: str, *, weighing: bool = True) -> str:
    """Say why an estimator cannot learn from rows of older policies, and which can; or "".

    With `weighing`, estimators that weigh rows by the policy that sampled them are suggested too.
    """
    from chemkl.losses import ESTIMATORS

    chosen = ESTIMATORS[estimator.kind]
    clips = getattr(estimator, "clip", True) is not None
    if chosen.off_policy or (chosen.weighs_old and clips):
        return ""
    usable = [name for name in ESTIMATORS if ESTIMATORS[name].off_policy]
    weighs = [name for name in ESTIMATORS if weighing and ESTIMATORS[name].weighs_old]
    clipped = [name for name in weighs if "clip" in ESTIMATORS[name].signature.options]
    usable += [name for name in weighs if name not in clipped]
    usable += [f"{name} with clip" for name in clipped]
    return f"{estimator.kind!r} {why}: take {', '.join(usable)}"
