"""Settings of a reward: its components, how each becomes a score, how the scores are joined."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, TypeAdapter, ValidationInfo

from chemkl.config.base import CalledByKind, Config, by_kind, twice_in
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


# ---- where molecules are scored

SLACK = 60
"""Seconds before the end of a block, besides the timeout, in which no molecule is begun there."""


class ProcessExecutor(Config):
    """Worker processes of this machine."""

    kind: Literal["process"]
    """On this machine, in as many processes as workers says."""


class ParslExecutor(Config):
    """Worker processes on blocks of nodes, which Parsl asks for, replaces and gives back."""

    kind: Literal["parsl"]
    """On other machines, through Parsl: workers is for each node."""
    provider: Literal["slurm", "local"] = "slurm"
    """slurm: a block is a job that sbatch submits; local: a block is processes of this machine, for
    trying a config out."""
    blocks: int = Field(1, ge=1, le=1000)
    """Blocks at once, 1 to 1,000: all are asked for at the first molecule, and anew as long as
    there is work for them. A run on several devices has as many for each."""
    nodes: int = Field(1, ge=1, le=1000)
    """Nodes of a block, 1 to 1,000."""
    cores: int | None = Field(None, ge=1)
    """Cores of each node that are asked for, at least 1; null: the whole node, with nobody else."""
    walltime: str = Field("01:00:00", pattern=r"^\d{1,3}:[0-5]\d:[0-5]\d$")
    """How long a block may last, in hours:minutes:seconds; then it is replaced. No molecule is
    begun that its timeout would let last longer."""
    partition: str | None = None
    """Partition of the blocks; null: the cluster's default."""
    account: str | None = None
    """Account that pays; null: your default."""
    options: tuple[Annotated[str, Field(pattern=r"^-")], ...] = ()
    """Further options of sbatch, such as --mem=16G or --qos=low."""
    setup: str = ""
    """Lines of shell that are run on a node first, such as module load. The workers run the Python
    of this process, which must lie at the same path there."""
    idle: float = Field(300, ge=1)
    """Seconds without work, at least 1, after which a block is given back."""
    lost_after: int = Field(60, ge=5, le=3600)
    """Seconds of silence, 5 to 3,600, after which a node is given up, and what it was at is handed
    out again. The scheduler is asked about the blocks every half of it."""
    folder: Path = Path("runs/parsl")
    """Where Parsl keeps its scripts, keys and logs while it runs, and after a failure; on a disk
    that all nodes see. Relative to the working directory."""

    @property
    def seconds(self) -> int:
        """How long a block may last."""
        hours, minutes, seconds = map(int, self.walltime.split(":"))
        return 3600 * hours + 60 * minutes + seconds

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse what this machine has no use for."""
        if self.provider == "local":
            for name in ("nodes", "cores", "partition", "account", "options"):
                if name in self.model_fields_set:
                    yield name, "belongs to provider: slurm; leave it out"


Executor = Annotated[ProcessExecutor | ParslExecutor, by_kind(ProcessExecutor, ParslExecutor)]
"""Where molecules are scored; a bare name stands for its kind with the defaults."""


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
    """Processes that score molecules, under executor parsl on each node. 1: this process, without
    any other (unless there is a timeout). More than the cores that are free do not help. The scores
    do not depend on it; no part of the run's identity."""
    timeout: FiniteFloat | None = Field(None, gt=0, exclude=True)
    """Seconds that one molecule may take; then the worker process that is stuck is killed, and the
    molecule has failed. The components are then asked in worker processes, about one molecule at a
    time. null: no limit. No part of the run's identity."""
    retries: int = Field(2, ge=0, le=100, exclude=True)
    """How often a molecule is asked about again that failed for a passing reason: a component that
    raised TransientError, or a node that was lost. 0 to 100. Any other failure is final: a molecule
    that fails, hangs or crashes costs one call. No part of the run's identity."""
    executor: Executor = Field(ProcessExecutor(kind="process"), exclude=True)
    """Where molecules are scored: kind process or parsl; the scores do not depend on it. No part of
    the run's identity."""
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
        if self.executor.kind == "parsl" and (self.timeout or 0) + SLACK >= self.executor.seconds:
            text = f"should be longer by {SLACK} s than the timeout of one molecule"
            yield "executor.walltime", f"{text} (got {self.executor.walltime})"
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
