"""What memory and exploration add to a step: `python -m chemkl.bench memory [STEPS]`."""

import math
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from chemkl.bench.steps import prior_path, reward_model
from chemkl.config import load_config
from chemkl.config.objective import FILTERS, ExplorationConfig, MemoryConfig
from chemkl.config.paths import shipped_root
from chemkl.config.posttrain import PosttrainConfig
from chemkl.losses import build_objective
from chemkl.policies import Policy, UnknownTokenError, freeze, load_policy
from chemkl.policies.base import stream
from chemkl.results import TraceWriter
from chemkl.training.exploration import Explorer, fit_forest
from chemkl.training.filters import build_filter
from chemkl.training.ledger import Ledger
from chemkl.training.memory import Memory, Molecule
from chemkl.training.posttrain import Phase, Posttrain, Spell, StepLoader
from chemkl.training.trainer import build_trainer, quiet

BATCH, TAU = 64, 0.5
HALF = MemoryConfig(draw="hits")
FOREST = "training the forest"
SIZES = (1_000, 10_000, 30_000, 100_000)
"""Molecules after which the cost of the memory is printed."""


class Run:
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


def report(n_steps: int) -> None:
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
            "without": Run(Path(folder, "a"), None),
            "default's memory": Run(Path(folder, "b"), default.memory),
            "and its updates": Run(
                Path(folder, "c"),
                default.memory,
                updates=default.updates_per_batch,
                augment=default.augment,
            ),
            "memory": Run(Path(folder, "d")),
            "memory, augment": Run(Path(folder, "e"), updates=2, augment=True),
            "explore's memory": Run(Path(folder, "f"), explore.memory),
            **{
                f"explores, {screen}": Run(
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
