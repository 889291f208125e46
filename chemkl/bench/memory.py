"""What a memory costs: a step with and without replay, and the memory itself as it fills.

python -m chemkl.bench.memory [STEPS]

Steps of batch 64 from the embedded prior with the quickstart's reward, alternating, in processor
time; with a memory half a batch is replayed at each, `augment` makes a second update in random
spellings. Below it the time of a step's draw and its additions alone, after so many hits, all new.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from chemkl.bench.steps import prior_path, reward_model
from chemkl.config.filters import FILTERS
from chemkl.config.memory import MemoryConfig
from chemkl.losses import build_objective
from chemkl.policies import freeze, load_policy
from chemkl.results import TraceWriter
from chemkl.training.filters import build_filter
from chemkl.training.ledger import Ledger
from chemkl.training.memory import Memory, Molecule
from chemkl.training.posttrain import Posttrain, StepLoader
from chemkl.training.trainer import build_trainer, quiet

BATCH, TAU = 64, 0.5
SHOWN = (1_000, 10_000, 30_000, 100_000)
"""Molecules after which the memory's cost is looked at."""


class Run:
    """A run that makes a few steps when it is called, and goes on with the next ones.

    Args:
        folder: where the trace is written.
        replays: whether it has a memory.
        updates: a batch; further ones are in random spellings.
    """

    def __init__(self, folder: Path, *, replays: bool, updates: int = 1) -> None:
        policy, reward = load_policy(prior_path()), reward_model()
        withdraws = build_filter(FILTERS["murcko"](kind="murcko"))
        memory = Memory(MemoryConfig(draw="hits"), withdraws, rows=BATCH // 2, tau=TAU)
        self._folder, self._updates, self._n_made = folder, updates, 0
        self._module = Posttrain(
            policy,
            freeze(load_policy(prior_path())),
            Ledger(reward, withdraws, 10**9),
            build_objective("mara", "log_variance", sigma=128.0, tau=TAU),
            TraceWriter(folder, reward.component_names, "bench", "0" * 64),
            batch_size=BATCH,
            most_samples=10**9,
            learning_rate=1e-4,
            seed=0,
            memory=memory if replays else None,
            updates=updates,
            spell=policy.vocabulary.encode if updates > 1 else None,
        )

    def __call__(self, n_steps: int) -> float:
        """Make steps; processor seconds of one."""
        loader = StepLoader(self._n_made + n_steps, self._updates)
        loader.load_state_dict({"next": self._n_made * self._updates})
        self._n_made += n_steps
        settings = {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 0}
        with quiet():
            trainer = build_trainer(self._folder, settings, (), max_epochs=1, logger=False)
            began = time.process_time()
            trainer.fit(self._module, loader)
        return (time.process_time() - began) / n_steps


def filling(draw: str, purge: str) -> list[float]:
    """Milliseconds of a step's draw and additions, after each of `SHOWN` molecules, all hits."""
    withdraws = build_filter(FILTERS["murcko"](kind="murcko", bucket=10**6))
    config = MemoryConfig(capacity=SHOWN[-1], draw=draw, purge=purge)
    memory = Memory(config, withdraws, rows=BATCH // 2, tau=TAU)
    rng, found = np.random.default_rng(0), []
    for step in range(SHOWN[-1] // BATCH + 20):
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
        began = time.process_time()
        memory.draw(step, names, sampled)
        memory.add(new)
        found.append((time.process_time() - began) * 1e3)
    looked = [min(n // BATCH, len(found)) for n in SHOWN]
    return [float(np.median(found[at - 10 : at + 10])) for at in looked]


if __name__ == "__main__":
    n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{'ms a step, after':<22}" + "".join(f"{n:>9,}" for n in SHOWN))
    for draw, purge in (("hits", "worst"), ("scaffolds", "scaffold"), ("rank", "oldest")):
        row = "".join(f"{value:>9.2f}" for value in filling(draw, purge))
        print(f"{f'{draw}, {purge}':<22}{row}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            "without": Run(Path(folder, "a"), replays=False),
            "memory": Run(Path(folder, "b"), replays=True),
            "memory, augment": Run(Path(folder, "c"), replays=True, updates=2),
        }
        turns = [{name: run(n_steps) for name, run in runs.items()} for _ in range(5)][1:]
    for name in runs:
        seconds, ratio = (
            np.median([t[name] / t[of] if of else t[name] for t in turns]) for of in ("", "without")
        )
        print(f"{name:<22}{seconds:9.3f} s a step, {ratio:.2f} times")
