"""Settings of a reward: its components, how each becomes a score, how the scores are joined."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, TypeAdapter, ValidationInfo

from chemkl.config.base import CalledByKind, Config, twice_in
from chemkl.config.loading import load_config
from chemkl.config.paths import Folder, InputPath
from chemkl.config.transforms import SETTINGS, Transform

Role = Literal["scorer", "filter", "penalty"]
"""What a component's score is used for."""

Aggregate = Literal["geometric_mean", "arithmetic_mean", "product", "minimum"]
"""The ways to join the scores."""


class ComponentConfig(Config):
    """One part of a reward."""

    kind: str
    """Which component: a name in the registry of rewards, for example qed or tanimoto."""
    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]*)?$"), CalledByKind] = ""
    """What its columns are called (raw_<name>, score_<name>), in letters, digits and _ - or dots;
    default: its kind. Two components of one kind need two names."""
    role: Role = "scorer"
    """scorer: its score enters the aggregate; filter: a score below 0.5 makes the reward 0, and
    spares the costly components; penalty: its score multiplies the aggregate."""
    weight: FiniteFloat = Field(1.0, gt=0)
    """Its share in the aggregate, relative to the others, above 0 (under product: its exponent);
    for scorers only, and not under minimum."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """What the component's kind takes, for example references for tanimoto; empty: its defaults."""
    transform: Transform = SETTINGS["none"](kind="none")
    """From the raw value to a score between 0 and 1: kind none, sigmoid, reverse_sigmoid,
    double_sigmoid, step, left_step, right_step, exponential_decay, gaussian, min_gaussian,
    max_gaussian, linear_clip or value_map. none is for components that lie between 0 and 1
    already."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Take weights of scorers only."""
        if self.role != "scorer" and self.weight != 1:
            yield "weight", f"belongs to scorers; a {self.role} has none: leave it out"


class RewardConfig(Config):
    """How a molecule is paid: a number between 0 and 1."""

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    components: list[ComponentConfig] = Field(min_length=1)
    """The parts, at least one; each name once."""
    aggregate: Aggregate = "geometric_mean"
    """How the scorers' scores become one. The geometric mean is 0 as soon as one score is; the
    arithmetic mean lets one part make up for another; the product punishes every part that is not
    perfect; the minimum pays for the worst part alone."""
    max_atoms: int = Field(500, ge=1, le=5000)
    """Molecules with more atoms are invalid (explicit atoms); keeps a runaway string cheap. 1 to
    5,000, beyond which RDKit takes seconds for one."""
    most_failures: float = Field(0.5, ge=0, le=1, exclude=True)
    """A component that failed on more than this share of the molecules that it was asked about, at
    least 100, ends the run with the reason: it is broken, not they. 0 to 1; 1: never. No part of
    the run's identity: a run that ended so may continue with another share."""
    workers: int = Field(1, ge=1, exclude=True)
    """Processes that score molecules. 1: this process, without any other (unless there is a
    timeout). More than the cores that are free do not help. The scores do not depend on it; no part
    of the run's identity."""
    timeout: FiniteFloat | None = Field(None, gt=0, exclude=True)
    """Seconds that one molecule may take; then the worker process that is stuck is killed, and the
    molecule has failed. The components are then asked in worker processes, about one molecule at a
    time. null: no limit. No part of the run's identity."""
    cache: Path | None = Field(None, exclude=True)
    """A file in which raw values are kept by component and molecule, for this run and all others
    that name it, at the same time too; made if there is none. On a disk of this machine: it is not
    safe on a network file system. Relative to the working directory. null: none. No part of the
    run's identity."""

    folder: Folder = Field(None, exclude=True)
    """Where relative paths in the parameters are looked up, before the working directory; null: the
    folder of the file that the reward stands in. No part of the run's identity."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for scorers, and names that differ."""
        twice = twice_in(component.name for component in self.components)
        if twice:
            text = "give each a name of its own"
            yield "", f"component names must differ, but several are called {twice}: {text}"
        weights = [part.weight for part in self.components if part.role == "scorer"]
        if not weights:
            text = "give one of them role scorer"
            yield "", f"no component is a scorer, so there is nothing to pay for: {text}"
        if self.aggregate == "minimum" and any(weight != 1 for weight in weights):
            yield "", "the minimum takes no weights: leave weight out of the components"


def _from_file(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str | Path):
        context = {**(info.context or {}), "kind": "configs/rewards"}
        path = TypeAdapter(InputPath).validate_python(value, context=context)
        return load_config(RewardConfig, path)
    return value


RewardSource = Annotated[RewardConfig, BeforeValidator(_from_file)]
"""A reward's settings, or the path of the file that holds them."""
