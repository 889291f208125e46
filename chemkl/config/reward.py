"""Settings of a reward: components, transforms, aggregate, and where molecules are scored.

A transform is a function from a component's raw value to a score between 0 and 1. Its options are
the keyword-only parameters of the function: type, range and default come from the signature, the
meaning from the docstring.

The formulas are REINVENT4's (reinvent/scoring/transforms), the gaussians and the line GuacaMol's
(Brown et al., J. Chem. Inf. Model. 59, 1096 (2019); score_modifier.py), with these deviations:

1. ``step`` may be open at one end, like left_step and right_step.
2. ``low`` must be below ``high`` in the sigmoids; REINVENT4 turns equal ends into a hard step.
3. float64 throughout; REINVENT4 rounds to float32.
4. ``value_map`` compares numbers (REINVENT4: their text) and may have a score for all others.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_type_hints,
)

from pydantic import BeforeValidator, Field, FiniteFloat, TypeAdapter, ValidationInfo

from chemkl.config.base import Config, NamedByKind, by_kind, repeated
from chemkl.config.loading import load_config
from chemkl.config.paths import Folder, InputPath

Positive = Annotated[FiniteFloat, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Low = Annotated[FiniteFloat, Field(description="Lower end of the step, in the component's unit.")]
High = Annotated[
    FiniteFloat, Field(description="Upper end of the step, in the component's unit; above `low`.")
]
Steepness = Annotated[
    FiniteFloat,
    Field(
        gt=0,
        description="Steepness, no unit, above 0; at 0.25 the score is .05 at one end and .95 at "
        "the other.",
    ),
]
Mu = Annotated[
    FiniteFloat, Field(description="Where the curve has its top, 1, in the component's unit.")
]
Sigma = Annotated[
    FiniteFloat,
    Field(
        gt=0,
        description="Its width, above 0, in the component's unit: the score is .61 at one sigma "
        "from `mu`, .14 at two.",
    ),
]
Function = TypeVar("Function", bound=Callable[..., float])

SETTINGS: "dict[str, type[TransformSettings]]" = {}
"""Settings of every transform by kind."""
Check = Callable[..., str]
"""Returns the problem of settings, given by name; empty if there is none."""


class TransformSettings(Config):
    """Settings of one transform: its kind, and the parameters of its function."""

    kind: str
    """Name of the transform."""
    check: ClassVar[Check] = staticmethod(lambda **_: "")
    function: ClassVar[Callable[..., float]]

    @classmethod
    def listed(cls) -> tuple[str, ...]:
        """Return its kind, which `chemkl show transforms` lists with its keys."""
        return get_args(cls.model_fields["kind"].annotation)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check the settings together."""
        if text := type(self).check(**self.model_dump(exclude={"kind"})):
            yield "", text

    def build(self) -> Callable[[float], float]:
        """Return the function from a raw value to a score."""
        return partial(type(self).function, **self.model_dump(exclude={"kind"}))

    def __reduce__(self) -> tuple[Any, ...]:  # the class is made on demand: pickle cannot find it
        return _unpickled, (self.model_dump(),)


def _unpickled(values: dict[str, Any]) -> TransformSettings:
    return SETTINGS[values["kind"]].model_validate(values)


def transform(check: Check | None = None) -> Callable[[Function], Function]:
    """Register a function of a raw value and keyword-only settings under its name.

    Args:
        check: returns the problem of the settings, if there is one.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Function) -> Function:
        kind = function.__name__
        if kind in SETTINGS:
            raise ValueError(f"transform {kind!r} is registered already")
        summary = documented(function)[0]
        of_kind = Literal[kind]  # type: ignore[valid-type] # known at run time
        default = kind if kind == "none" else ...
        fields: dict[str, Any] = {"kind": (of_kind, Field(default, description=summary))}
        fields |= fields_of(function, skip=1)
        model = SETTINGS[kind] = TransformSettings.with_fields(kind, fields, summary)
        model.function, model.check = function, check or TransformSettings.check
        return function

    return register


def fields_of(function: Callable[..., Any], skip: int = 0) -> dict[str, Any]:
    """Turn the parameters of a function, after the first ones, into fields of a pydantic model.

    Types, ranges and defaults come from its signature, meanings from there or from its docstring. A
    parameter whose type is a NamedTuple stands for its fields.
    """
    meanings = documented(function)[1]
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in [*inspect.signature(function).parameters.items()][skip:]:
        if is_group(hints[name]):
            fields |= fields_of(hints[name])
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        in_signature = any(getattr(m, "description", "") for m in get_args(hints[name])[1:])
        meaning: dict[str, Any] = {} if in_signature else {"description": meanings.get(name)}
        fields[name] = (hints[name], Field(default, **meaning))
    return fields


def is_group(kind: Any) -> bool:
    """Return whether a type is a NamedTuple: settings that several functions share."""
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def documented(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Split a docstring into its text before the sections, and the entries of its Args."""
    text = inspect.getdoc(function) or "-"
    before, *sections = re.split(r"\n+(Args|Returns|Raises):\n", text)
    entries = dict(zip(sections[::2], sections[1::2], strict=True)).get("Args", "")
    pairs = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", entries, re.MULTILINE)
    return before.strip(), {name: " ".join(meaning.split()) for name, meaning in pairs}


def _ordered(low: float, high: float, **_: float) -> str:
    text = f"low = {low:g} must be below high = {high:g}; for a hard edge use step"
    return text if low >= high else ""


def _has_an_end(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "a step needs low, high or both" if low is high else ""
    return f"low = {low:g} must not be above high = {high:g}" if low > high else ""


def _differ(low: float, high: float) -> str:
    text = f"low and high must differ (both are {low:g}); for a hard edge use step"
    return text if low == high else ""


def _logistic10(exponent: float) -> float:
    """1 / (1 + 10^-exponent), without overflow on either side."""
    if exponent >= 0:
        return 1 / (1 + math.exp(-exponent * math.log(10)))
    odds = math.exp(exponent * math.log(10))
    return odds / (1 + odds)


@transform()
def none(x: float) -> float:
    """The raw value is the score; only for components that lie between 0 and 1."""
    return x


@transform(_ordered)
def sigmoid(x: float, *, low: Low, high: High, k: Steepness = 0.25) -> float:
    """More is better: 1 / (1 + 10^(-10 k (x - (high + low)/2) / (high - low)))."""
    return _logistic10(10 * k * (x - (high + low) / 2) / (high - low))


@transform(_ordered)
def reverse_sigmoid(x: float, *, low: Low, high: High, k: Steepness = 0.25) -> float:
    """Less is better: one minus the sigmoid."""
    return 1 - sigmoid(x, low=low, high=high, k=k)


@transform(_ordered)
def double_sigmoid(
    x: float,
    *,
    low: FiniteFloat,
    high: FiniteFloat,
    coef_div: Positive = 100.0,
    coef_si: Positive = 150.0,
    coef_se: Positive = 150.0,
) -> float:
    """A window: rises at `low`, falls at `high`; REINVENT4's formula and defaults.

    Below the middle 1 / (1 + 10^(-(x - low) coef_si / coef_div)), from the middle on
    1 - 1 / (1 + 10^(-(x - high) coef_se / coef_div)). The halves meet in the middle when the two
    coefficients are equal; otherwise there is a jump.

    Args:
        x: the raw value.
        low: Where the rising side is 0.5, in the component's unit.
        high: Where the falling side is 0.5, in the component's unit; above `low`.
        coef_div: Divides both steepnesses, in the component's unit, above 0.
        coef_si: Steepness of the rising side before division, above 0.
        coef_se: Steepness of the falling side before division, above 0.
    """
    if x < (low + high) / 2:
        return _logistic10((x - low) * coef_si / coef_div)
    return 1 - _logistic10((x - high) * coef_se / coef_div)


@transform(_has_an_end)
def step(x: float, *, low: FiniteFloat | None = None, high: FiniteFloat | None = None) -> float:
    """All or nothing: 1 from `low` to `high`, both included, else 0.

    Args:
        x: the raw value.
        low: Smallest value that scores 1, in the component's unit; null: no lower end.
        high: Largest value that scores 1, in the component's unit; null: no upper end.
    """
    if math.isnan(x):
        return math.nan
    return float((low is None or low <= x) and (high is None or x <= high))


@transform()
def left_step(x: float, *, low: FiniteFloat) -> float:
    """All or nothing, small is good: 1 up to `low`, `low` included, else 0; REINVENT4's.

    Args:
        x: the raw value.
        low: Largest value that scores 1, in the component's unit (the name is REINVENT4's).
    """
    return step(x, high=low)


@transform()
def right_step(x: float, *, high: FiniteFloat) -> float:
    """All or nothing, large is good: 1 from `high` on, `high` included, else 0; REINVENT4's.

    Args:
        x: the raw value.
        high: Smallest value that scores 1, in the component's unit (the name is REINVENT4's).
    """
    return step(x, low=high)


@transform()
def exponential_decay(x: float, *, k: Positive) -> float:
    """Less is better: exp(-k x), and 1 for every x below 0; REINVENT4's formula.

    Args:
        x: the raw value.
        k: Rate of the decay, above 0, one over the component's unit: the score halves every
            .69 / k.
    """
    return 1.0 if x < 0 else math.exp(-k * x)


@transform()
def gaussian(x: float, *, mu: Mu, sigma: Sigma) -> float:
    """The nearer to `mu` the better: exp(-((x - mu) / sigma)^2 / 2)."""
    z = (x - mu) / sigma
    return math.exp(-z * z / 2)  # z**2 would overflow far away, z * z becomes infinite


@transform()
def min_gaussian(x: float, *, mu: Mu, sigma: Sigma) -> float:
    """Less is better: 1 up to `mu`, a gaussian's right half above; GuacaMol's MinGaussian."""
    return 1.0 if x < mu else gaussian(x, mu=mu, sigma=sigma)


@transform()
def max_gaussian(x: float, *, mu: Mu, sigma: Sigma) -> float:
    """More is better: 1 from `mu` on, a gaussian's left half below; GuacaMol's MaxGaussian."""
    return 1.0 if x > mu else gaussian(x, mu=mu, sigma=sigma)


@transform(_differ)
def linear_clip(x: float, *, low: FiniteFloat, high: FiniteFloat) -> float:
    """A straight line from 0 at `low` to 1 at `high`, level beyond; GuacaMol's Clipped.

    Args:
        x: the raw value.
        low: Where the score becomes 0, in the component's unit.
        high: Where the score becomes 1, in the component's unit; below `low` the line falls.
    """
    share = (x - low) / (high - low)
    return share if math.isnan(share) else min(max(share, 0.0), 1.0)


@transform()
def value_map(
    x: float,
    *,
    values: Annotated[dict[FiniteFloat, Share], Field(min_length=1)],
    otherwise: Share | None = None,
) -> float:
    """A table, for components of few values such as counts; like REINVENT4's value_mapping.

    Args:
        x: the raw value.
        values: Score by value, for example {0: 1, 1: 0.5}; the value must be met exactly.
        otherwise: Score of every value that is not in the table; null: such a molecule has no
            score, a reason and reward 0.
    """
    if math.isnan(x):
        return math.nan
    return values.get(x, math.nan if otherwise is None else otherwise)


if TYPE_CHECKING:
    Transform = TransformSettings
else:
    Transform = Annotated[Union[*SETTINGS.values()], by_kind(*SETTINGS.values())]


Role = Literal["scorer", "filter", "penalty"]
"""How the score of a component is used."""

Aggregate = Literal["geometric_mean", "arithmetic_mean", "product", "minimum"]
"""The ways to combine the scores."""


class ComponentConfig(Config):
    """One part of a reward."""

    kind: str
    """The component: a name that `chemkl show rewards` lists, for example qed or tanimoto."""
    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]*)?$"), NamedByKind] = ""
    """Name of its columns (raw_<name>, score_<name>), in letters, digits and _ - or dots; default:
    its kind. Two components of one kind need two names."""
    role: Role = "scorer"
    """scorer: its score enters the aggregate; filter: a score below 0.5 makes the reward 0, and the
    expensive components are skipped; penalty: its score multiplies the aggregate."""
    weight: FiniteFloat = Field(1.0, gt=0)
    """Its weight in the aggregate, relative to the others, above 0 (for product: its exponent); for
    scorers only, and not for minimum."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the kind, for example references for tanimoto; empty: its defaults."""
    transform: Transform = SETTINGS["none"](kind="none")
    """Maps the raw value to a score between 0 and 1: kind none, sigmoid, reverse_sigmoid,
    double_sigmoid, step, left_step, right_step, exponential_decay, gaussian, min_gaussian,
    max_gaussian, linear_clip or value_map. none is for components that already lie
    between 0 and 1."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse weights of other components than scorers."""
        if self.role != "scorer" and self.weight != 1:
            yield "weight", f"is for scorers; a {self.role} has none: leave it out"


# ---- executors

SLACK = 60
"""Seconds before the end of a block, in addition to the timeout, when no molecule is started."""


class ProcessExecutor(Config):
    """Worker processes on this machine."""

    kind: Literal["process"]
    """On this machine, in `workers` processes."""


class ParslExecutor(Config):
    """Worker processes on blocks of nodes, which Parsl requests, replaces and releases."""

    kind: Literal["parsl"]
    """On other machines through Parsl; `workers` is per node."""
    provider: Literal["slurm", "local"] = "slurm"
    """slurm: a block is a job submitted by sbatch; local: a block is processes on this machine, for
    testing a config."""
    blocks: int = Field(1, ge=1, le=1000)
    """Blocks at a time, 1 to 1,000: all are requested at the first molecule, and again while there
    is work for them. A run on several devices has as many for each."""
    nodes: int = Field(1, ge=1, le=1000)
    """Nodes of a block, 1 to 1,000."""
    cores: int | None = Field(None, ge=1)
    """Cores requested on each node, at least 1; null: the whole node, exclusively."""
    walltime: str = Field("01:00:00", pattern=r"^\d{1,3}:[0-5]\d:[0-5]\d$")
    """Time limit of a block, as hours:minutes:seconds; then it is replaced. No molecule is started
    whose timeout would exceed it."""
    partition: str | None = None
    """Partition of the blocks; null: the cluster's default."""
    account: str | None = None
    """Account to charge; null: your default."""
    options: tuple[Annotated[str, Field(pattern=r"^-")], ...] = ()
    """Further options of sbatch, such as --mem=16G or --qos=low."""
    setup: str = ""
    """Shell commands to run first on a node, such as module load. The workers use the Python of
    this process, which must exist at the same path there."""
    idle: float = Field(300, ge=1)
    """Seconds without work, at least 1, after which a block is released."""
    lost_after: int = Field(60, ge=5, le=3600)
    """Seconds without a message, 5 to 3,600, after which a node counts as lost and its molecules go
    to other nodes. The scheduler is polled at half this interval."""
    folder: Path = Path("runs/parsl")
    """Folder for scripts, keys and logs of Parsl while it runs, and after a failure; on a disk that
    all nodes share. Relative to the working directory."""

    @property
    def seconds(self) -> int:
        """Time limit of a block in seconds."""
        hours, minutes, seconds = map(int, self.walltime.split(":"))
        return 3600 * hours + 60 * minutes + seconds

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse settings that have no effect on this machine."""
        if self.provider == "local":
            for name in ("nodes", "cores", "partition", "account", "options"):
                if name in self.model_fields_set:
                    yield name, "is for provider: slurm; leave it out"


Executor = Annotated[ProcessExecutor | ParslExecutor, by_kind(ProcessExecutor, ParslExecutor)]


class RewardConfig(Config):
    """The reward of a molecule: a number between 0 and 1."""

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    components: list[ComponentConfig] = Field(min_length=1)
    """The components, at least one, with distinct names."""
    aggregate: Aggregate = "geometric_mean"
    """How to combine the scores of the scorers. The geometric mean is 0 if any score is; in the
    arithmetic mean one component can compensate for another; the product penalises every imperfect
    component; the minimum counts only the worst one."""
    max_atoms: int = Field(500, ge=1, le=5000)
    """Molecules with more explicit atoms are invalid, so very long strings cost little time. 1 to
    5,000, beyond which RDKit takes seconds per molecule."""
    most_failures: float = Field(0.5, ge=0, le=1, exclude=True)
    """A component that fails on more than this share of at least 100 molecules ends the run with
    the reason: the component is broken, not the molecules. 0 to 1; 1: never. No part of the run's
    identity: a run that ended so may continue with another share."""
    workers: int = Field(1, ge=1, exclude=True)
    """Processes that score molecules, with executor parsl on each node. 1: this process only
    (unless there is a timeout). More than the free cores do not help. The scores do not depend on
    it; no part of the run's identity."""
    timeout: FiniteFloat | None = Field(None, gt=0, exclude=True)
    """Time limit for one molecule in seconds; the stuck worker process is then killed, and the
    molecule has failed. With a limit, worker processes run the components on one molecule at a
    time. null: no limit. No part of the run's identity."""
    retries: int = Field(2, ge=0, le=100, exclude=True)
    """How often to score a molecule again after a temporary failure: a component that raised
    TransientError, or a lost node. 0 to 100. Any other failure is final: a molecule that fails,
    hangs or crashes costs one call. No part of the run's identity."""
    executor: Executor = Field(ProcessExecutor(kind="process"), exclude=True)
    """Where to score molecules: kind process or parsl; the scores do not depend on it. No part of
    the run's identity."""
    cache: Path | None = Field(None, exclude=True)
    """File that stores raw values by component and molecule, for this run and all others that use
    it, also at the same time; created if it does not exist. On a local disk: it is not safe on a
    network file system. Relative to the working directory. null: none. No part of the run's
    identity."""

    folder: Folder = Field(None, exclude=True)
    """Where relative paths in the parameters are looked up before the working directory; null: the
    folder of the file with the reward. No part of the run's identity."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require scorers, distinct names, and settings that fit together."""
        if names := repeated(component.name for component in self.components):
            text = f"component names must differ, but several are called {names}"
            yield "", f"{text}: give each its own name"
        weights = [part.weight for part in self.components if part.role == "scorer"]
        if not weights:
            text = "give one of them role scorer"
            yield "", f"no component is a scorer, so there is no reward: {text}"
        if self.executor.kind == "parsl" and (self.timeout or 0) + SLACK >= self.executor.seconds:
            text = f"should be longer by {SLACK} s than the timeout of one molecule"
            yield "executor.walltime", f"{text} (got {self.executor.walltime})"
        if self.aggregate == "minimum" and any(weight != 1 for weight in weights):
            yield "", "the minimum has no weights: leave weight out of the components"


def _from_file(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str | Path):
        context = {**(info.context or {}), "kind": "configs/rewards"}
        path = TypeAdapter(InputPath).validate_python(value, context=context)
        return load_config(RewardConfig, path)
    return value


RewardSource = Annotated[RewardConfig, BeforeValidator(_from_file)]
"""Settings of a reward, or the path of a file with them."""
