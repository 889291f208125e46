"""`chemkl bench`: tables and a JSON file of the costs of training, sampling and scoring."""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from torch import Tensor

from chemkl.bench import measure, steps
from chemkl.bench.measure import Parts, alternate, by_part, product_rate, timed, total
from chemkl.chem.molecules import canonicalise, silenced
from chemkl.config import InputError
from chemkl.config.objective import MurckoFilterConfig
from chemkl.config.paths import shipped_root
from chemkl.display import Column, table
from chemkl.evaluation.samples import read_structures
from chemkl.policies import load_policy
from chemkl.policies.base import Rollout, stream
from chemkl.processes import n_cores
from chemkl.results import Manifest, TraceWriter, trace_schema
from chemkl.results.atomic import atomic_file
from chemkl.rewards import RewardModel
from chemkl.training.filters import build_filter
from chemkl.training.ledger import Ledger
from chemkl.training.precision import missing

CALLS = 10_000
PASSES = {"sample": 1, "prior": 1, "gradient": 2}
"""Passes over the network in each part of a step."""
USUAL_PASSES = 5
"""Passes in the usual way: sample, agent, prior, and two for the gradient."""


class Sizes(NamedTuple):
    """How much is measured."""

    turns: Mapping[int, int]  # turns by batch size; the first batch is that of the summary
    sampled: int
    pretrained: int
    scored: int
    growth: tuple[int, ...] = ()  # calls of a run after which the cost of a call is measured
    evaluated: int = 0  # rows of the run that is evaluated; 0: no evaluation
    side_by_side: int = 0  # turns of runs side by side
    whole_run: bool = False


QUICK = Sizes({64: 5}, sampled=512, pretrained=128, scored=250)
FULL = Sizes(
    {64: 7, 128: 5, 512: 5},
    sampled=1024,
    pretrained=128,
    scored=1000,
    growth=(1_000, 10_000, 100_000),
    evaluated=100_000,
    side_by_side=5,
    whole_run=True,
)
ONLY_FULL = "only with --full"


def bench(
    sizes: Sizes = QUICK,
    *,
    out: Path | None = None,
    force: bool = False,
    console: Console | None = None,
) -> None:
    """Measure, print the tables, and write the JSON file.

    A line on standard error names each measurement when it starts.

    Args:
        sizes: how much is measured.
        out: the JSON file; None for none.
        force: whether an existing file is replaced.
        console: where the tables are printed.

    Raises:
        InputError: the JSON file cannot be written, or exists.
    """
    if out is not None and not out.parent.is_dir():
        raise InputError(f"--json {out}: the folder {out.parent} does not exist. Create it first.")
    if out is not None and (out.is_dir() or (out.exists() and not force)):
        raise InputError(f"--json {out}: exists. Choose another name, or replace it with --force.")
    if out is not None:
        try:
            TemporaryFile(dir=out.parent).close()
        except OSError as error:
            raise InputError(f"--json {out}: cannot be written ({error.strerror}).") from error
    # processes first: the peak memory of a new process starts with that of its parent
    figures: dict[str, Any] = runs(whole=sizes.whole_run)
    figures["evaluate_many"] = figures["side_by_side"] = figures["growth"] = None
    if sizes.evaluated:
        _announce(f"the evaluation of {sizes.evaluated:,} rows")
        figures["evaluate_many"] = evaluation(sizes.evaluated)
    if sizes.side_by_side:
        _announce("two runs side by side")
        figures["side_by_side"] = side_by_side(sizes.side_by_side)
    first, repeats = next(iter(sizes.turns.items()))
    with measure.threads(1):
        _announce("matrix products")
        figures["machine"] = measure.machine()
        if sizes.growth:
            _announce(f"the cost of a call after up to {max(sizes.growth):,} calls")
            figures["growth"] = growth(sizes.growth)
        by_batch = {str(batch): rl_step(batch, turns) for batch, turns in sizes.turns.items()}
        step = by_batch[str(first)]
        figures["rl_step"] = {**step, "logp_error_bf16": logp_error(), "by_batch": by_batch}
        samples = {
            str(batch): sampling(batch, max(batch, sizes.sampled), turns)
            for batch, turns in sizes.turns.items()
        }
        figures["sample"] = {**samples[str(first)], "by_batch": samples}
        figures["logp"], figures["pretrain"] = passes(sizes.pretrained, repeats)
        figures["score"] = scoring(sizes.scored, repeats)
    figures["trace"] = {"share": step["parts"]["trace"] / step["ours_s"]}
    for block in _tables(figures):
        (console or Console()).print(block)
    if out is not None:
        with atomic_file(out) as draft:
            draft.write_text(json.dumps(figures, indent=2) + "\n")


def _announce(what: str) -> None:
    print(f"measuring {what}", file=sys.stderr, flush=True)


def rl_step(batch: int, repeats: int) -> dict[str, Any]:
    """Measure steps in both ways in turn, and in bfloat16 if the processor supports it."""
    _announce(f"training steps of batch {batch}")
    no_bfloat16 = missing(torch.device("cpu"))
    usual = steps.UsualStep(batch)
    with tempfile.TemporaryDirectory() as folder:
        times, rates, tokens, threads = _in_float32(usual, batch, repeats, Path(folder, "float32"))
        if not no_bfloat16:  # after the other, so that no more than two models are in memory
            bfloat16 = steps.OurStep(batch, Path(folder, "bfloat16"), bfloat16=True)
            pair = alternate({"reference": usual, "bfloat16": bfloat16}, repeats)
            bf16_s, ratio = total(pair["bfloat16"]), _ratio(pair["reference"], pair["bfloat16"])
    costs = steps.operations(load_policy(steps.prior_path()), int(median(tokens[1:])))
    one_pass = costs["ours"] / median(rates[1:])
    parts, reference = by_part(times["ours"]), by_part(times["reference"])
    neural = sum(parts[name] for name in steps.NEURAL if name in parts)
    ours_s, reference_s = total(times["ours"]), total(times["reference"])
    spread = {"reference": reference_s[1:], "ours": ours_s[1:]}
    return {
        "batch": batch,
        "turns": repeats,
        "reference_s": reference_s.median,
        "ours_s": ours_s.median,
        "bf16_s": None if no_bfloat16 else bf16_s.median,
        "spread": spread if no_bfloat16 else {**spread, "bf16": bf16_s[1:]},
        "speedup_fp32": _ratio(times["reference"], times["ours"]),
        "speedup_bf16": None if no_bfloat16 else ratio,
        "speedup_bf16_why_not": no_bfloat16 or None,
        "over_floor": neural / (one_pass * sum(PASSES.values())),
        "over_usual_floor": neural * median(rates[1:]) / (costs["usual"] * USUAL_PASSES),
        "floor_s": {name: one_pass * n for name, n in PASSES.items()},
        "parts": parts,
        "reference_parts": reference,
        **threads,
    }


def _in_float32(
    usual: Callable[[], Parts], batch: int, repeats: int, folder: Path
) -> tuple[dict[str, list[Parts]], list[float], list[int], dict[str, Any]]:
    """Measure both ways in turn; also each turn's rate of products and tokens, and two threads."""
    ours = steps.OurStep(batch, folder)
    rates: list[float] = []
    tokens: list[int] = []

    def products() -> Parts:
        """Measure matrix products alone, the floor of the parts."""
        rates.append(product_rate(batch))
        tokens.append(ours.n_tokens)
        return {}

    times = alternate({"reference": usual, "ours": ours, "products": products}, repeats)
    return times, rates, tokens, two_threads(ours, repeats)


def _ratio(slow: list[Parts], fast: list[Parts]) -> float:
    """Return the median over the turns of how many times as fast one variant is."""
    turns = zip(slow, fast, strict=True)
    return median(sum(before.values()) / sum(after.values()) for before, after in turns)


def two_threads(step: Callable[[], object], repeats: int) -> dict[str, Any]:
    """Measure how many times as fast two threads are as one, by the wall clock."""
    if n_cores() < 2:
        why = "this machine has one core"
        return {"two_threads": None, "two_threads_s": None, "two_threads_why_not": why}

    def timed_step(n: int) -> Parts:
        with measure.threads(n):
            start = time.perf_counter()
            step()
            return {"step": time.perf_counter() - start}

    times = alternate({"1": partial(timed_step, 1), "2": partial(timed_step, 2)}, repeats)
    ratio = _ratio(times["1"], times["2"])
    return {"two_threads": ratio, "two_threads_s": total(times["2"]).median}


def logp_error() -> float | None:
    """Return the mean error of log p in bfloat16, in nats; None without such a processor."""
    if missing(torch.device("cpu")):
        return None
    policy = load_policy(steps.prior_path())
    tokens = policy.sample(256, stream(0, 0)).tokens
    with torch.no_grad():
        exact = policy.logp_tokens(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            return float((policy.logp_tokens(tokens) - exact).abs().mean())


def sampling(batch: int, n: int, repeats: int) -> dict[str, Any]:
    """Measure sampled molecules a second in both ways, without chemistry."""
    _announce(f"sampling in batches of {batch}")
    policy = load_policy(steps.prior_path())

    def sample(draw: Callable[..., object]) -> None:
        for number in range(n // batch):
            draw(batch, stream(0, number))

    draws = {"reference": partial(steps.padded_sample, policy), "ours": policy.sample}
    variants = {name: partial(timed, "sample", sample, draw) for name, draw in draws.items()}
    figures = _rates(n // batch * batch, alternate(variants, repeats))
    return {**figures, **two_threads(variants["ours"], repeats)}


def passes(batch: int, repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure molecules a second of log p, and of a whole step of maximum likelihood."""
    _announce("log p and pre-training")
    policy = load_policy(steps.prior_path())
    token_BT = policy.sample(batch, stream(0, 0)).tokens
    functions: dict[str, Callable[[Any, Tensor], Tensor]] = {
        "reference": steps.padded_logp,
        "ours": lambda policy, tokens: policy.logp_tokens(tokens),
    }
    scores = {
        name: partial(timed, "logp", torch.no_grad()(logp), policy, token_BT)
        for name, logp in functions.items()
    }
    updates = {
        name: partial(timed, "pretrain", steps.pretrain_step(token_BT, logp))
        for name, logp in functions.items()
    }
    return _rates(batch, alternate(scores, repeats)), _rates(batch, alternate(updates, repeats))


def _rates(n: int, times: Mapping[str, list[Parts]]) -> dict[str, Any]:
    ours = total(times["ours"])
    return {
        "molecules_per_s": n / ours.median,
        "spread": (n / ours.high, n / ours.low),
        "reference_molecules_per_s": n / total(times["reference"]).median,
        "speedup": _ratio(times["reference"], times["ours"]),
    }


def scoring(n: int, repeats: int) -> dict[str, Any]:
    """Measure molecules a second of the quickstart's reward, against RDKit alone.

    Each turn scores other molecules, because the reward caches its scores.
    """
    _announce("scoring")
    smiles = load_policy(steps.prior_path()).sample(n, stream(1, 0)).smiles
    reward, size = steps.reward_model(), max(1, n // (1 + repeats))
    reward.score(["CCO"])  # loads the tables
    batches = iter([smiles[i : i + size] for i in range(0, n, size) for _ in range(2)])

    def timed_batch(score: Callable[[list[str]], object]) -> Parts:
        return timed("score", score, next(batches, smiles[:size]))

    functions = {"reference": bare_rdkit, "ours": reward.score}
    variants = {name: partial(timed_batch, score) for name, score in functions.items()}
    figures = _rates(size, alternate(variants, repeats))
    return {**figures, "over_rdkit": 1 / figures["speedup"]}


def runs(*, whole: bool) -> dict[str, Any]:
    """Measure runs in processes of their own: to the first step, of 10,000 calls, evaluated."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = ("batch_size=64", "precision=auto")
        _announce("a run up to its first step")
        start = measure.run_quickstart(folder / "first", *common, "max_samples=64", "budget=64")
        figures: dict[str, Any] = {"start": {"first_step_s": start.seconds}}
        if not whole:
            figures["run_10k"] = {"seconds": None, "peak_rss_mib": None, "why_not": ONLY_FULL}
            return figures | {"evaluate": {"seconds": None, "why_not": ONLY_FULL}}
        _announce(f"a run of {CALLS:,} calls")
        # at REINVENT4's rate: at the quickstart's the policy collapses and finds nothing new
        limits = (f"budget={CALLS}", f"max_samples={2 * CALLS}", "learning_rate=1e-4")
        used = measure.run_quickstart(folder / "run", *common, *limits)
        figures["run_10k"] = {"seconds": used.seconds, "peak_rss_mib": used.peak_mib}
        _announce("its evaluation")
        out = str(folder / "evaluation")
        seconds = measure.run_command("evaluate", str(folder / "run"), "--out", out).seconds
        return figures | {"evaluate": {"seconds": seconds, "rows": "those of run_10k"}}


# ---- costs that may grow with size

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


# ---- the tables

PARTS = ("sample", "score", "agent", "prior", "objective", "gradient", "adam", "trace")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _tables(figures: Mapping[str, Any]) -> Iterator[Any]:
    machine = figures["machine"]
    rates = machine["gflops_one_thread"]
    bfloat16 = f", {rates['bfloat16']:.0f} in bfloat16" if rates["bfloat16"] else ""
    yield (
        f"{machine['processor']}, {machine['cores']} cores, {machine['instructions']}; products of "
        f"one thread: {rates['float32']:.0f} GFLOP/s{bfloat16}"
    )
    for values in figures["rl_step"]["by_batch"].values():
        yield _step_table(values)
    yield _rate_table(figures)
    yield _run_table(figures)
    yield (
        "Medians of alternating turns; between: the middle half. Usual: padded, float32, nothing "
        "reused (for score: RDKit alone). Floor: the matrix products alone."
    )


def _step_table(values: Mapping[str, Any]) -> Any:
    """Make the table of the seconds of a step and its parts in both ways."""
    spread, floor = values["spread"], values["floor_s"]
    step = (values["reference_s"], values["ours_s"], sum(floor.values()), values["speedup_fp32"])
    rows = [("step", *step, spread["ours"])]
    for part in PARTS:
        usual, ours = values["reference_parts"].get(part), values["parts"].get(part)
        ratio = usual / ours if usual and ours else None
        rows.append((f"  {part}", usual, ours, floor.get(part), ratio, None))
    if values["bf16_s"]:
        bf16 = (values["bf16_s"], None, values["speedup_bf16"], spread["bf16"])
        rows.append(("step in bfloat16", None, *bf16))
    if values["two_threads_s"]:
        rows.append(("step, 2 threads", None, values["two_threads_s"], None, None, None))
    return _table(f"Batch {values['batch']}, seconds", rows)


def _rate_table(figures: Mapping[str, Any]) -> Any:
    """Make the table of molecules a second."""
    entries = {f"sample, batch {n}": values for n, values in figures["sample"]["by_batch"].items()}
    entries |= {name: figures[name] for name in ("logp", "pretrain", "score")}
    keys = ("reference_molecules_per_s", "molecules_per_s", "floor", "speedup", "spread")
    rows = [(name, *map(values.get, keys)) for name, values in entries.items()]
    return _table("Molecules a second", rows)


def _run_table(figures: Mapping[str, Any]) -> Any:
    """Make the table of whole commands, and of what grows with their size."""
    whole, many, pair = (figures[k] for k in ("run_10k", "evaluate_many", "side_by_side"))
    costs = [("start to the first step, s", figures["start"]["first_step_s"])]
    if whole["seconds"]:
        costs.append((f"run of {CALLS:,} calls, s", whole["seconds"]))
        costs.append(("  its memory, MiB", whole["peak_rss_mib"]))
        costs.append(("  its evaluation, s", figures["evaluate"]["seconds"]))
    if many:
        costs.append((f"evaluation of {many['rows']:,} rows, s", many["seconds"]))
        costs.append(("  its memory, MiB", many["peak_rss_mib"]))
    if pair and pair["ratio"]:
        costs.append(("two runs at once, by one alone", pair["ratio"]))
    for size, values in (figures["growth"] or {}).items():
        costs.append((f"call {int(size):,}, ms without network", values["ms_per_call"]))
        costs.append(("  memory, MiB", values["memory_mib"]))
    return _table("Whole commands", [(what, None, cost, None, None, None) for what, cost in costs])


def _table(title: str, rows: Sequence[tuple[Any, ...]]) -> Any:
    """Make a table of rows (what, usual, chemkl, floor, ratio, (low, high)); None: no value."""
    labels = {"usual": "usual", "ours": "chemkl", "floor": "floor", "ratio": "times as fast"}
    records = [dict(zip(("what", *labels, "between"), row, strict=True)) for row in rows]
    for record in records:
        limits = record["between"]
        record["between"] = " to ".join(map(_number, limits)) if limits else None
    columns = [Column("what", ""), *(Column(key, labels[key], _number) for key in labels)]
    columns += [Column("between", "between")] if any(row["between"] for row in records) else []
    return table(title, columns, records)
