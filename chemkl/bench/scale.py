"""Costs that may grow with size: calls of a run, rows of an evaluation, runs side by side."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch

from chemkl.bench import measure
from chemkl.chem.molecules import canonicalise, silenced
from chemkl.config.objective import MurckoFilterConfig
from chemkl.config.paths import shipped_root
from chemkl.evaluation.samples import read_structures
from chemkl.policies.base import Rollout
from chemkl.processes import n_cores
from chemkl.results import Manifest, TraceWriter, trace_schema
from chemkl.rewards import RewardModel
from chemkl.training.filters import build_filter
from chemkl.training.ledger import Ledger

BATCH = 128
WINDOW = 1024
"""The last calls of each size, which are timed."""
PER_STEP, PER_PART = 1000, 50
VALID, HIT = 0.97, 0.8
CHEAP = {"components": [{"kind": "hbd", "transform": {"kind": "step", "high": 3}}]}
"""A reward that costs almost nothing."""


def distinct_molecules(n: int) -> list[str]:
    """Return a sample of MOSES, then the same molecules, each with a labelled methane."""
    smiles = (shipped_root() / "data/moses_sample.smi").read_text().split()[1:]
    canonical = [text for text in map(canonicalise, smiles) if text is not None]
    rounds = -(-n // len(canonical))
    methanes = ["", *(f".[{i}CH4]" for i in range(1, rounds))]  # one atom, whatever the label
    return [text + methane for methane in methanes for text in canonical][:n]


def growth(sizes: tuple[int, ...]) -> dict[str, Any]:
    """Return milliseconds a call and total MiB of ledger, filter, score cache and trace, by size.

    With a cheap reward and no network, the rest is what may grow with the number of calls.
    """
    reward = RewardModel.from_config(CHEAP)
    schema = trace_schema(reward.component_names)
    smiles = distinct_molecules(max(sizes))
    costs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        trace = TraceWriter(name, reward.component_names, "bench", "0" * 64)
        ledger = Ledger(reward, build_filter(MurckoFilterConfig(kind="murcko")), 10**9)
        times: list[float] = []
        for step, at in enumerate(range(0, len(smiles), BATCH)):
            batch = smiles[at : at + BATCH]
            n = len(batch)
            tokens = torch.zeros(n, 2, dtype=torch.long)
            rollout = Rollout(batch, tokens, torch.zeros(n), torch.zeros(n, dtype=torch.bool))
            start = measure.clock()
            rows = ledger.enter(step, rollout)
            fill = dict.fromkeys(("logp_policy", "logp_ref", "log_target"), -30.0)
            rows = rows.assign(**fill, hit=False, anchor=False, is_replay=False)
            trace.append(rows[schema.names])
            if step % 10 == 9:
                trace.cut()
            times.append((measure.clock() - start) / n)
            for size in sizes:
                if at < size <= at + BATCH:
                    last = times[-max(1, WINDOW // BATCH) :]
                    costs[str(size)] = {
                        "ms_per_call": sum(last) / len(last) * 1e3,
                        "memory_mib": measure.memory_mib(),
                    }
    return costs


# ---- evaluation of many rows


def evaluation(n: int) -> dict[str, Any]:
    """Evaluate a run of so many rows, almost all different, with the command."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name, "run")
        n_distinct = write_run(run, n)
        used = measure.run_command("evaluate", str(run), "--out", str(Path(name, "out")))
    usage = {"seconds": used.seconds, "peak_rss_mib": used.peak_mib}
    return {"rows": n, "molecules": n_distinct, **usage}


def write_run(folder: Path, n: int) -> int:
    """Write the trace of a run: 97 % valid rows, of which 1 % repeat one of the last 500."""
    rng = np.random.default_rng(0)
    valid, new = rng.random(n) < VALID, rng.random(n) < 0.99
    valid[0] = new[0] = True
    newest = np.cumsum(valid & new) - 1
    which = np.where(new, newest, newest - np.minimum(rng.integers(0, 500, n), newest))
    smiles = distinct_molecules(int(newest[-1]) + 1)
    structures = read_structures(smiles)
    scaffolds = [structure.scaffold if structure else None for structure in structures]
    first = valid & new
    reward = np.where(valid, rng.random(len(smiles))[which] * 8 / 9, 0.0)
    score = pd.Series(reward).where(valid)
    sampled = pd.DataFrame({"smiles": smiles, "scaffold": scaffolds}).iloc[which]
    sampled = sampled.reset_index(drop=True)
    number = np.arange(n)
    columns: dict[str, Any] = {
        **{"step": number // PER_STEP, "row": number % PER_STEP, "n_tokens": 40},
        "call": pd.Series(np.cumsum(first), dtype="Int64").where(first),
        "smiles": sampled["smiles"].where(valid, "C1CC"),
        "canonical_smiles": sampled["smiles"].where(valid),
        "scaffold": sampled["scaffold"].where(valid),
        "reason": pd.Series("not parsable: unclosed ring 1", index=sampled.index).where(~valid),
        **{"valid": valid, "repeat": valid & ~first, "anchor": False, "is_replay": False},
        **{"logp_policy": -20.0, "logp_ref": -30.0, "log_target": -25.0},
        **{"raw_made_up": score, "score_made_up": score},
        **{"reward": reward, "reward_filtered": reward, "hit": reward >= HIT},
    }
    frame = pd.DataFrame(columns, columns=trace_schema(["made_up"]).names)
    with Manifest.start(folder, stage="posttrain", config={"n": n}, seed=0) as manifest:
        writer = TraceWriter(folder, ["made_up"], manifest.run_id, manifest.config_hash)
        for start in range(0, n, PER_STEP * PER_PART):
            writer.append(frame.iloc[start : start + PER_STEP * PER_PART])
            writer.cut()
        manifest.finish()
    return int(first.sum())


# ---- two runs at once


def side_by_side(turns: int) -> dict[str, Any]:
    """Return how much longer a run takes next to another one than alone, one thread each."""
    if n_cores() < 2:
        return {"ratio": None, "why_not": "this machine has one core"}
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        numbers = count()  # a folder for each run

        def run(_: int = 0) -> float:
            settings = ("budget=512", "max_samples=1024", "precision=32-true")
            out = Path(name, str(next(numbers)))
            return measure.run_quickstart(out, *settings, threads=1).seconds

        with ThreadPoolExecutor(2) as pool:
            for _ in range(turns):
                alone = run()
                ratios.append(max(pool.map(run, range(2))) / alone)
    return {"ratio": median(ratios), "spread": measure.Spread.of(ratios)[1:]}


def bare_rdkit(smiles: list[str]) -> None:
    """Compute what RDKit must compute for the quickstart's reward: descriptors and scaffold."""
    from rdkit import Chem
    from rdkit.Chem import QED, rdMolDescriptors
    from rdkit.Chem.Scaffolds import MurckoScaffold

    from chemkl.rewards.components.descriptors import sascorer

    synthesis = sascorer()
    qed: Any = QED.qed
    murcko: Any = MurckoScaffold.GetScaffoldForMol
    with silenced():
        for text in smiles:
            mol = Chem.MolFromSmiles(text)
            if mol is None:
                continue
            mol = Chem.MolFromSmiles(Chem.MolToSmiles(mol))
            qed(mol)
            synthesis(mol)
            rdMolDescriptors.CalcNumHBD(mol)
            rdMolDescriptors.CalcCrippenDescriptors(mol)
            Chem.MolToSmiles(murcko(mol))
