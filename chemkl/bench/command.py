"""`chemkl bench`: tables and a JSON file of the costs of training, sampling and scoring."""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from chemkl.bench import measure, scale, steps
from chemkl.bench.measure import Parts, alternate, by_part, product_rate, timed, total
from chemkl.config import InputError
from chemkl.display import Column, table
from chemkl.policies import load_policy
from chemkl.policies.base import stream
from chemkl.processes import n_cores
from chemkl.results.atomic import atomic_file
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
        figures["evaluate_many"] = scale.evaluation(sizes.evaluated)
    if sizes.side_by_side:
        _announce("two runs side by side")
        figures["side_by_side"] = scale.side_by_side(sizes.side_by_side)
    first, repeats = next(iter(sizes.turns.items()))
    with measure.threads(1):
        _announce("matrix products")
        figures["machine"] = measure.machine()
        if sizes.growth:
            _announce(f"the cost of a call after up to {max(sizes.growth):,} calls")
            figures["growth"] = scale.growth(sizes.growth)
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

    functions = {"reference": scale.bare_rdkit, "ours": reward.score}
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
