"""Measurements to run by hand, on an idle machine: `python -m chemkl.bench NAME`.

devices    seconds a step on one process and on two
executors  what a process or Parsl adds to a costly reward
filters    processor time of a diversity filter per hit, in the course of a run
jobs       what `chemkl run --jobs 2` gains over one job at a time
memory     what memory and exploration add to a step
storage    what checkpoints and trace cost, and how long a long run takes to resume
"""

import argparse
import ctypes
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch

from chemkl.bench.measure import Used, run_command, run_quickstart
from chemkl.bench.steps import prior_path, reward_model
from chemkl.chem.scaffolds import murcko_scaffold
from chemkl.config import load_config
from chemkl.config.objective import FILTERS, ExplorationConfig, MemoryConfig
from chemkl.config.paths import shipped_root
from chemkl.config.posttrain import PosttrainConfig
from chemkl.losses import build_objective
from chemkl.policies import Policy, UnknownTokenError, freeze, load_policy
from chemkl.policies.base import stream
from chemkl.processes import n_cores
from chemkl.results import Manifest, TraceWriter, read_trace, trace_components
from chemkl.results.atomic import json_of
from chemkl.results.manifest import LAST_CHECKPOINT
from chemkl.results.trace import FOLDER
from chemkl.rewards import RewardModel
from chemkl.stages import posttrain
from chemkl.stages.registry import STAGES
from chemkl.training.exploration import Explorer, fit_forest
from chemkl.training.filters import build_filter
from chemkl.training.ledger import Ledger
from chemkl.training.memory import Memory, Molecule
from chemkl.training.posttrain import Phase, Posttrain, Spell, StepLoader
from chemkl.training.trainer import Checkpoint, build_trainer, quiet, reopen

SIZES = (1_000, 10_000, 30_000, 100_000)
"""Numbers of molecules after which the costs of filters and memories are printed."""
QUICKSTART = shipped_root() / "configs/posttrain/quickstart.yaml"

# ---- devices


def devices(batch: int, steps: int, turns: int = 3) -> None:
    """Print seconds a step on one and on two processes.

    Whole runs of the command alternate, by the wall clock; a run of one step measures the start,
    which is subtracted. The machine needs two free cores.
    """

    def seconds(n: int, steps: int) -> float:
        settings = [f"batch_size={batch}", f"max_samples={batch * steps}", "budget=1000000"]
        settings += ["trainer.accelerator=cpu", f"trainer.devices={n}", "precision=32-true"]
        settings += ["learning_rate=1e-4", "--fresh"]
        return run_quickstart(Path(folder, f"{n}-{steps}"), *settings).seconds

    per_step: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(turns):
            for n, times in per_step.items():
                start = seconds(n, 1)
                times.append((seconds(n, steps) - start) / (steps - 1))
    single, double = map(median, per_step.values())
    ratio = single / double
    print(f"batch {batch}: {single:.3f} s a step on one, {double:.3f} s on two: {ratio:.2f} times")


# ---- executors

ORACLE = """import time


def score(smiles: str) -> float:
    time.sleep({seconds})
    return 1.0
"""
PROCESS_MARK = "CHEMKL_BENCH"
"""The environment variable that marks the processes started by this one."""


def _cpu_seconds() -> float:
    """Return the processor time of this process and of all processes that it started."""
    import psutil  # which Parsl brings

    seconds: float = sum(psutil.Process().cpu_times()[:2])
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(PROCESS_MARK) == str(os.getpid()):
                seconds += sum(process.cpu_times()[:2])
    return seconds


def executors(seconds: float = 0.05, n: int = 40, turns: int = 9) -> None:
    """Print what each executor adds to a molecule of an oracle that only waits, with one worker.

    The executors score the same molecules in turn; the median turn counts.
    """
    os.environ[PROCESS_MARK] = str(os.getpid())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        Path(folder, "oracle.py").write_text(ORACLE.format(seconds=seconds))
        component = {
            "kind": "python_function",
            "parameters": {"function": f"{folder}/oracle.py:score"},
            "transform": {"kind": "linear_clip", "low": 0, "high": 1},
        }
        parsl = {"kind": "parsl", "provider": "local", "folder": folder}
        settings: dict[str, dict[str, Any]] = {
            "none": {},
            "process": {"timeout": 60},
            "parsl": {"timeout": 60, "executor": parsl},
        }
        models: dict[str, RewardModel] = {}
        for name, options in settings.items():
            model = RewardModel.from_config({"components": [component], **options})
            models[name] = stack.enter_context(model)
            model.score(["C"])  # starts it
        molecules = (shipped_root() / "data/moses_sample.smi").read_text().split()
        wall: dict[str, list[float]] = {name: [] for name in models}
        cpu: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(turns):
            smiles = molecules[1 + turn * n : 1 + (turn + 1) * n]
            for name, model in models.items():
                start, cpu_start = time.perf_counter(), _cpu_seconds()
                model.score(smiles)
                wall[name].append((time.perf_counter() - start) / n)
                cpu[name].append((_cpu_seconds() - cpu_start) / n)
    for name in ("process", "parsl"):
        added = [
            1e3 * median(b - a for a, b in zip(times["none"], times[name], strict=True))
            for times in (wall, cpu)
        ]
        print(
            f"{name:>12}: {added[0]:.2f} ms a molecule (goal: at most 5 ms), of which "
            f"{added[1]:.2f} ms of processor time"
        )


# ---- filters

FILTER_STEP = 1000
"""The cost of so many hits is averaged."""


def filters(file: Path) -> None:
    """Print microseconds of processor time a hit, after so many hits.

    All molecules of the file are hits, and new: a repeat costs next to nothing. The last row is
    the worst case: at a distance of almost 0 every hit starts a sphere of its own.
    """
    smiles = file.read_text().split()[: max(SIZES)]
    rows = pd.DataFrame({"canonical_smiles": smiles, "scaffold": [*map(murcko_scaffold, smiles)]})
    rows["reward"] = 1.0
    kinds = ("molecule_similarity", "scaffold_similarity", "murcko", "same_smiles", "generic")
    settings: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in kinds}
    settings["spheres of one"] = {"kind": "molecule_similarity", "distance": 1e-6}
    print(f"{'µs a hit, after':<22}" + "".join(f"{n:>9,}" for n in SIZES if n <= len(rows)))
    for name, options in settings.items():
        withdraws = build_filter(FILTERS[options["kind"]](min_score=0.0, **options))
        costs = []
        for first in range(0, len(rows), FILTER_STEP):
            start = time.process_time()
            withdraws(rows[first : first + FILTER_STEP])
            if first + FILTER_STEP in SIZES:
                costs.append((time.process_time() - start) / FILTER_STEP * 1e6)
        print(f"{name:<22}" + "".join(f"{cost:>9.0f}" for cost in costs), flush=True)


# ---- jobs

PRODUCTS = """
import time
import torch
from chemkl.policies.lstm import Matrix
multiply, rows = Matrix(torch.ones(2048, 1024), torch.float32), torch.ones(64, 1024)
until, n = time.perf_counter() + 0.3, 0
while time.perf_counter() < until:
    multiply(rows)
print(flush=True)
input()
until = time.perf_counter() + 3
while time.perf_counter() < until:
    multiply(rows)
    n += 1
print(n)
"""
"""Counts the matrix products of three seconds; a line on standard input starts them."""
SUBREAPER = 36
"""Linux's PR_SET_CHILD_SUBREAPER: makes the server of the jobs a child of this process."""


def jobs(budget: int, n_jobs: int, repeats: int) -> None:
    """Print what several jobs at a time gain over one, with one thread a job, in turns.

    The runs are equal but for one sample at their end, so that no core is idle for long. On a busy
    machine the wall clock says little; the processor time shows the gain with a core for each job,
    including what more processes cost. The gain of matrix products alone is the upper limit.
    """
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    gain = _products(n_jobs) / _products(1)
    print(f"matrix products alone: {gain:.2f} times as many in {n_jobs}")
    entry = {
        "stage": "posttrain",
        "config": str(QUICKSTART),
        "set": {"budget": budget},
        "grid": {"max_samples": [2 * budget - n for n in range(n_jobs)]},
    }
    usage: dict[int, list[Used]] = {1: [], n_jobs: []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "bench.yaml")
        file.write_bytes(json_of({"name": "bench", "stages": [entry]}))
        for turn in range(repeats):
            for n, runs in usage.items():
                options = ("--jobs", str(n), "--out", f"{folder}/{turn}-{n}")
                before = _children_seconds()
                used = run_command("run", str(file), *options, threads=1)
                with suppress(ChildProcessError):
                    while True:
                        os.wait()
                runs.append(used._replace(processor=_children_seconds() - before))
    wall = {n: median(used.seconds for used in runs) for n, runs in usage.items()}
    cpu = {n: median(used.processor for used in runs) for n, runs in usage.items()}
    for n in usage:
        print(f"--jobs {n}: {wall[n]:7.1f} s, {cpu[n]:7.1f} s of processor time")
    print(f"by the clock {wall[1] / wall[n_jobs]:.2f} times as fast on {n_cores()} cores")
    print(f"by processor time {n_jobs * cpu[1] / cpu[n_jobs]:.2f}, with a core for each job")


def _products(n: int) -> int:
    """Return how many matrix products n processes, a thread each, make in the same 3 seconds."""
    command = [sys.executable, "-c", PRODUCTS]
    pipe, environment = subprocess.PIPE, os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) for _ in range(n)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # it has warmed up
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    return sum(int(process.communicate()[0]) for process in processes)


def _children_seconds() -> float:
    """Return the processor time of all child processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


# ---- memory

BATCH, TAU = 64, 0.5
HALF = MemoryConfig(draw="hits")
FOREST = "training the forest"


class MemoryRun:
    """A run that makes the next steps at each call.

    Args:
        folder: where the trace is written.
        config: the memory; None for a run without one.
        updates: a batch.
        augment: whether further updates are in random spellings.
        exploration: None for a run without it.
    """

    def __init__(
        self,
        folder: Path,
        config: MemoryConfig | None = HALF,
        *,
        updates: int = 1,
        augment: bool = False,
        exploration: ExplorationConfig | None = None,
    ) -> None:
        policy, reward = load_policy(prior_path()), reward_model()
        withdraws = build_filter(FILTERS["murcko"](kind="murcko"))
        rows = (config and config.rows) or BATCH // 2
        memory = Memory(config or HALF, withdraws, rows=rows, tau=TAU)
        self._folder, self._updates, self._n_steps = folder, updates, 0
        ledger, prior = Ledger(reward, withdraws, 10**9), freeze(load_policy(prior_path()))
        explorer = None
        if exploration is not None:
            explorer = Explorer(exploration, memory, ledger, prior, spelling(policy))
        further = ["origin"] if exploration else []
        objective = build_objective("mara", "log_variance", sigma=128.0, tau=TAU)
        self._module = Posttrain(
            policy,
            prior,
            ledger,
            [Phase(objective, 1e-4, memory if config else None, explorer=explorer)],
            TraceWriter(folder, reward.component_names, "bench", "0" * 64, further=further),
            batch_size=BATCH,
            most_samples=10**9,
            seed=0,
            updates=updates,
            spell=policy.vocabulary.encode if augment else None,
        )

    def __call__(self, n_steps: int) -> float:
        """Make steps; return the processor seconds of one."""
        loader = StepLoader(self._n_steps + n_steps, self._updates)
        loader.load_state_dict({"next": self._n_steps * self._updates})
        self._n_steps += n_steps
        settings = {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 0}
        with quiet():
            trainer = build_trainer(self._folder, settings, (), max_epochs=1, logger=False)
            start = time.process_time()
            trainer.fit(self._module, loader)
        return (time.process_time() - start) / n_steps


def spelling(policy: Policy) -> Spell:
    """Return a function from a SMILES to its token ids; None for one that the policy lacks."""

    def spell(smiles: str) -> list[int] | None:
        try:
            return policy.vocabulary.encode(smiles)
        except UnknownTokenError:
            return None

    return spell


def choosing(exploration: ExplorationConfig) -> dict[str, list[float]]:
    """Return milliseconds of choosing a step's molecules and of training the forest, by `SIZES`.

    The forest sees as many calls: a thousand molecules, each with different helium atoms.
    """
    policy, withdraws = freeze(load_policy(prior_path())), build_filter(None)
    smiles = policy.sample(SIZES[0], stream(0, 0)).smiles
    scored = reward_model().score(smiles)
    scored = scored[scored["valid"].astype(bool)].drop_duplicates("canonical_smiles")
    rng = np.random.default_rng(0)
    costs: dict[str, list[float]] = {"choosing": [], FOREST: []}
    ledger = Ledger(reward_model(), withdraws, 10**9)
    memory = Memory(MemoryConfig(), withdraws, rows=BATCH // 2, tau=TAU)
    names = ["canonical_smiles", "scaffold", "reward"]
    memory.add(
        Molecule(text, text, frame, value, -30.0, "policy", (1,))
        for text, frame, value in zip(*(scored[name] for name in names), strict=True)
    )
    for n in SIZES:
        explorer = Explorer(exploration, memory, ledger, policy, spelling(policy))
        copies = -(-n // len(scored))
        atoms = [f".[{copy}He]" for copy in range(copies)]
        smiles = [text + atom for atom in atoms for text in scored["canonical_smiles"]][:n]
        rows = pd.DataFrame({"canonical_smiles": smiles, "call": 1, "origin": "policy", "hit": 0})
        rows["reward"] = rng.uniform(0, 1, len(rows))
        explorer.observe(rows)
        explorer.choose(0)  # trains its forest
        paid = dict(zip(rows["canonical_smiles"], rows["reward"], strict=True))
        start = time.process_time()
        explorer.choose(1)
        chosen = time.process_time()
        fit_forest(paid, rng)
        costs["choosing"].append((chosen - start) * 1e3)
        costs[FOREST].append((time.process_time() - chosen) * 1e3)
    return costs


def filling(draw: str, purge: str) -> list[float]:
    """Return milliseconds of a step's draw and additions after `SIZES` molecules, all hits."""
    withdraws = build_filter(FILTERS["murcko"](kind="murcko", bucket=10**6))
    config = MemoryConfig(capacity=SIZES[-1], draw=draw, purge=purge)
    memory = Memory(config, withdraws, rows=BATCH // 2, tau=TAU)
    rng, costs = np.random.default_rng(0), []
    for step in range(SIZES[-1] // BATCH + 20):
        names = [f"{step}-{n}" for n in range(BATCH)]
        scaffolds = [str(n) for n in rng.integers(20_000, size=BATCH)]
        rewards = rng.uniform(TAU, 1, BATCH)
        columns = {"canonical_smiles": names, "scaffold": scaffolds, "reward": rewards}
        rows = pd.DataFrame(columns)
        withdraws(rows)
        tokens = (1,) * 40
        new = [
            Molecule(name, name, scaffold, reward, -30.0, "policy", tokens)
            for name, scaffold, reward in zip(names, scaffolds, rewards.tolist(), strict=True)
        ]
        sampled = torch.ones(BATCH, 40, dtype=torch.int64)
        start = time.process_time()
        memory.draw(step, names, sampled)
        memory.add(new)
        costs.append((time.process_time() - start) * 1e3)
    steps = [min(n // BATCH, len(costs)) for n in SIZES]
    return [float(np.median(costs[at - 10 : at + 10])) for at in steps]


def memory(n_steps: int) -> None:
    """Print what memory and exploration add to steps of batch 64, in processor time.

    First a step's draw and additions alone after so many hits, all new. Then whole steps of the
    embedded prior with the quickstart's reward, in turn: with the memory of
    `configs/posttrain/default.yaml`, also with its updates; with half a batch replayed at each;
    with `augment`, a second update in random spellings; with memory and exploration of
    `configs/posttrain/explore.yaml`, by each screen. Last, choosing molecules and training the
    forest after so many calls, and what this adds to a step on average. The number of steps is a
    multiple of `exploration.every`.
    """
    print(f"{'ms a step, after':<22}" + "".join(f"{n:>9,}" for n in SIZES))
    for draw, purge in (("hits", "worst"), ("scaffolds", "scaffold"), ("rank", "oldest")):
        row = "".join(f"{value:>9.2f}" for value in filling(draw, purge))
        print(f"{f'{draw}, {purge}':<22}{row}", flush=True)
    examples = shipped_root() / "configs/posttrain"
    default = load_config(PosttrainConfig, examples / "default.yaml")
    explore = load_config(PosttrainConfig, examples / "explore.yaml")
    exploration = explore.exploration
    assert exploration is not None
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            "without": MemoryRun(Path(folder, "a"), None),
            "default's memory": MemoryRun(Path(folder, "b"), default.memory),
            "and its updates": MemoryRun(
                Path(folder, "c"),
                default.memory,
                updates=default.updates_per_batch,
                augment=default.augment,
            ),
            "memory": MemoryRun(Path(folder, "d")),
            "memory, augment": MemoryRun(Path(folder, "e"), updates=2, augment=True),
            "explore's memory": MemoryRun(Path(folder, "f"), explore.memory),
            **{
                f"explores, {screen}": MemoryRun(
                    Path(folder, screen),
                    explore.memory,
                    exploration=exploration.model_copy(update={"screen": screen}),
                )
                for screen in ("none", "prior", "surrogate")
            },
        }
        turns = [{name: run(n_steps) for name, run in runs.items()} for _ in range(5)][1:]
    medians = {name: float(np.median([turn[name] for turn in turns])) for name in runs}
    for name, seconds in medians.items():
        ratio = np.median([turn[name] / turn["without"] for turn in turns])
        print(f"{name:<22}{seconds:9.3f} s a step, {ratio:.2f} times")
    costs = choosing(exploration)
    for name, values in costs.items():
        print(f"{name:<22}" + "".join(f"{value:>9.1f}" for value in values))
    apart = exploration.every * math.ceil(exploration.refit / exploration.every)
    forest = [value / 1e3 / apart / medians["without"] for value in costs[FOREST]]
    print(f"{'that, times a step':<22}" + "".join(f"{part:>9.3f}" for part in forest))


# ---- storage

ROWS = 100
"""Rows in a step of the long run."""


class NextStepReached(BaseException):
    """Ends a run at the start of its next step."""


@contextmanager
def _patched(owner: type, name: str, around: Callable[..., Any]) -> Iterator[None]:
    """Call a method through a function in this scope."""
    method = getattr(owner, name)
    setattr(owner, name, wraps(method)(lambda *args, **kwargs: around(method, *args, **kwargs)))
    try:
        yield
    finally:
        setattr(owner, name, method)


def storage(budget: int, n_rows: int) -> None:
    """Print the costs of checkpoints and trace.

    Their share of a quickstart run's processor time, bytes a row of its trace, and the time in
    which a run of many rows resumes, up to its next step.
    """
    config = STAGES["posttrain"].load(QUICKSTART, [f"budget={budget}"])
    settings = config.model_dump() | {"callbacks": {"progress_bar": False}}
    with tempfile.TemporaryDirectory() as folder:
        quick, long = Path(folder, "quickstart"), Path(folder, "long")
        share = _storage_share(settings, quick)
        calls = read_trace(quick, ["call"])["call"]
        row = sum(path.stat().st_size for path in (quick / FOLDER).iterdir()) / len(calls)
        n_calls = int(calls.count())  # max_samples may end the run before its budget is spent
        longer = _lengthen(settings, long, n_rows)
        processor, wall = _seconds_to_resume(longer, long)
    print(f"checkpoints and trace: {share:.2%} of a run of {n_calls:,} calls (goal: at most 3 %)")
    print(f"trace: {row:.1f} bytes a row (goal: at most 90)")
    print(
        f"resuming {n_rows:,} rows: {processor:.1f} s of processor time, {wall:.1f} s by the clock "
        "(goal: at most 10)"
    )


def _storage_share(settings: Any, out: Path) -> float:
    """Make a run and return the share of its processor time that checkpoints and trace take."""
    seconds = 0.0

    def timed(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal seconds
        start = time.process_time()
        result = method(*args, **kwargs)
        seconds += time.process_time() - start
        return result

    start = time.process_time()
    with (
        _patched(Checkpoint, "save", timed),  # which cuts the trace first
        _patched(TraceWriter, "append", timed),
        _patched(TraceWriter, "compact", timed),
    ):
        posttrain.run(settings, out)
    return seconds / (time.process_time() - start)


def _lengthen(settings: Any, out: Path, n_rows: int) -> Any:
    """Make a short run look like a killed one of so many rows; return the settings of that run."""
    settings = settings | {"batch_size": ROWS, "max_samples": None}
    posttrain.run(settings | {"budget": 3 * ROWS}, out)
    manifest, rows = Manifest.load(out), read_trace(out)
    assert manifest is not None
    rows = rows[rows["step"] == 0].reset_index(drop=True)
    for path in (out / FOLDER).iterdir():
        path.unlink()
    components = trace_components(rows.columns)
    trace = TraceWriter(out, components, manifest.run_id, manifest.config_hash)
    n_steps = n_rows // ROWS
    for step in range(n_steps):  # different molecules in every step
        smiles = rows["canonical_smiles"] + "." + "C" * (step % 50) + "N" * (step // 50)
        calls = (rows.index + 1 + step * ROWS).to_series(index=rows.index).astype("Int64")
        calls = calls.mask(rows["canonical_smiles"].isna())
        trace.append(rows.assign(step=step, canonical_smiles=smiles, call=calls, repeat=False))
        if step % 50 == 49 or step == n_steps - 1:
            trace.cut()
    checkpoint = out / LAST_CHECKPOINT
    reopen(checkpoint, torch.load(checkpoint, weights_only=True), n_steps)
    return settings | {"budget": 2 * n_rows}


def _seconds_to_resume(settings: Any, out: Path) -> tuple[float, float]:
    """Resume a run up to its next step; return processor seconds and wall seconds."""

    def stop(*_: Any) -> None:
        raise NextStepReached

    start = time.process_time(), time.perf_counter()
    with _patched(Posttrain, "training_step", stop), suppress(NextStepReached):
        posttrain.run(settings, out)
    return time.process_time() - start[0], time.perf_counter() - start[1]


def main() -> None:
    """Run the measurement that the command line names."""
    summary, _, names = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser("python -m chemkl.bench", description=summary)
    commands = parser.add_subparsers(required=True, metavar="NAME")
    helps = dict(line.split(None, 1) for line in names.strip().splitlines())
    parsers = {}
    for name, function in {
        "devices": devices, "executors": executors, "filters": filters, "jobs": jobs,
        "memory": memory, "storage": storage,
    }.items():  # fmt: skip
        parsers[name] = commands.add_parser(name, help=helps[name], description=function.__doc__)
        parsers[name].set_defaults(function=function)
    parsers["devices"].add_argument("batch", type=int, nargs="?", default=256)
    parsers["devices"].add_argument("steps", type=int, nargs="?", default=12)
    parsers["filters"].add_argument("file", type=Path, help="canonical SMILES, one a line")
    add = parsers["jobs"].add_argument
    add("--budget", type=int, default=3000, help="calls of each run")
    add("--jobs", type=int, default=2, dest="n_jobs", help="runs, and how many at a time")
    add("--repeats", type=int, default=1)
    parsers["memory"].add_argument("n_steps", type=int, nargs="?", default=12, metavar="steps")
    add = parsers["storage"].add_argument
    add("--budget", type=int, default=3000, help="calls of the quickstart run, at most")
    add("--rows", type=int, default=100_000, dest="n_rows", help="rows of the run that resumes")
    options = vars(parser.parse_args())
    options.pop("function")(**options)


if __name__ == "__main__":
    main()
