"""`chemkl bench`: one table and one JSON of what a step of training costs, and all around it."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from rich.console import Console

from chemkl.bench import measure, steps
from chemkl.bench.measure import Parts, Watch, alternate, by_part, product_rate, total
from chemkl.config import InputError
from chemkl.display import Column, table
from chemkl.policies import load_policy
from chemkl.policies.base import stream
from chemkl.results.atomic import atomic_file
from chemkl.training.precision import missing

CALLS = 10_000
PASSES = {"sample": 1, "prior": 1, "gradient": 2}
"""Passes over the network that a part of a step makes."""
USUAL_PASSES = 5
"""Those of the usual way: sample, agent, prior, and two for the gradient."""


class Sizes(NamedTuple):
    """How much is measured."""

    turns: Mapping[int, int]
    """Batch of a step -> turns of the alternation; the first one is that of the summary."""
    sampled: int
    pretrained: int
    scored: int
    turns_of_others: int
    whole_run: bool


QUICK = Sizes({64: 5}, sampled=512, pretrained=128, scored=250, turns_of_others=3, whole_run=False)
FULL = Sizes(
    {64: 7, 128: 3, 512: 2},
    sampled=1024,
    pretrained=128,
    scored=1000,
    turns_of_others=5,
    whole_run=True,
)


def bench(
    sizes: Sizes = QUICK,
    *,
    out: Path | None = None,
    force: bool = False,
    console: Console | None = None,
) -> None:
    """Measure, print the table, and write the JSON.

    Args:
        sizes: how much is measured.
        out: the JSON file; None: none.
        force: whether a file that is there is replaced.
        console: where the table is printed.

    Raises:
        InputError: the JSON file cannot be written, or is there already.
    """
    if out is not None and not out.parent.is_dir():
        raise InputError(f"--json {out}: the folder {out.parent} is not there. Make it first.")
    if out is not None and (out.is_dir() or (out.exists() and not force)):
        raise InputError(f"--json {out}: is there already. Give another name, or --force a file.")
    # first: a process that is started begins with the peak of the memory of the one that starts it
    of_runs = runs(whole=sizes.whole_run)
    with measure.threads(1):
        found: dict[str, Any] = {"machine": measure.machine()}
        by_batch = {batch: rl_step(batch, turns) for batch, turns in sizes.turns.items()}
        first = next(iter(sizes.turns))
        step = by_batch[first]
        found["rl_step"] = {
            **step,
            **two_threads(first, sizes.turns[first]),
            "logp_error_bf16": logp_error(),
            "by_batch": {str(batch): values for batch, values in by_batch.items()},
        }
        found["sample"] = sampling(sizes.sampled, sizes.turns_of_others)
        found["pretrain"] = pretraining(sizes.pretrained, sizes.turns_of_others)
        found["score"] = scoring(sizes.scored)
    found["trace"] = {"share": step["parts"]["trace"] / step["ours_s"]}
    found |= of_runs
    (console or Console()).print(_table(found))
    if out is not None:
        with atomic_file(out) as draft:
            draft.write_text(json.dumps(found, indent=2) + "\n")


def rl_step(batch: int, repeats: int) -> dict[str, Any]:
    """A step in both ways, and in bfloat16 where the processor has units for it; A B A B."""
    lacks = missing(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        ours = steps.OurStep(batch, Path(folder, "float32"))
        ways: dict[str, Callable[[], Parts]] = {"reference": steps.UsualStep(batch), "ours": ours}
        if not lacks:
            ways["bfloat16"] = steps.OurStep(batch, Path(folder, "bfloat16"), rough=True)
        rates: list[float] = []
        tokens: list[int] = []

        def products() -> Parts:
            """Matrix products alone: what the parts are held against."""
            rates.append(product_rate(batch))
            tokens.append(ours.n_tokens)
            return {}

        taken = alternate({**ways, "products": products}, repeats)
    costs = steps.operations(load_policy(steps.prior_path()), int(median(tokens[1:])))
    one_pass = costs["ours"] / median(rates[1:])
    parts, reference = by_part(taken["ours"]), by_part(taken["reference"])
    neural = sum(parts[name] for name in steps.NEURAL if name in parts)
    ours_s, reference_s = total(taken["ours"]), total(taken["reference"])
    rough = total(taken["bfloat16"]).median if not lacks else None
    return {
        "batch": batch,
        "reference_s": reference_s.median,
        "ours_s": ours_s.median,
        "bf16_s": rough,
        "spread": {"reference": reference_s[1:], "ours": ours_s[1:]},
        "speedup_fp32": _ratio(taken["reference"], taken["ours"]),
        "speedup_bf16": _ratio(taken["reference"], taken["bfloat16"]) if not lacks else None,
        "speedup_bf16_why_not": lacks or None,
        "over_floor": neural / (one_pass * sum(PASSES.values())),
        "over_usual_floor": neural * median(rates[1:]) / (costs["usual"] * USUAL_PASSES),
        "floor_s": {name: one_pass * n for name, n in PASSES.items()},
        "parts": parts,
        "reference_parts": reference,
    }


def _ratio(slow: list[Parts], fast: list[Parts]) -> float:
    """The median over the turns of how many times as fast one way is."""
    pairs = zip(slow, fast, strict=True)
    return median(sum(one.values()) / sum(other.values()) for one, other in pairs)


def two_threads(batch: int, repeats: int) -> dict[str, Any]:
    """How many times as fast two threads make a step as one, by the clock on the wall."""
    if (os.cpu_count() or 1) < 2:
        why = "this machine has one core"
        return {"two_threads": None, "two_threads_s": None, "two_threads_why_not": why}
    with tempfile.TemporaryDirectory() as folder:
        made = {n: steps.OurStep(batch, Path(folder, str(n))) for n in (1, 2)}

        def way(n: int) -> Parts:
            with measure.threads(n):
                return {"step": measure.on_the_wall(made[n])}

        taken = alternate({str(n): partial(way, n) for n in made}, repeats)
    return {
        "two_threads": _ratio(taken["1"], taken["2"]),
        "two_threads_s": total(taken["2"]).median,
    }


def logp_error() -> float | None:
    """Mean distance, in nats, of log p in bfloat16 from that in float32; None: no such units."""
    if missing(torch.device("cpu")):
        return None
    policy = load_policy(steps.prior_path())
    tokens = policy.sample(256, stream(0, 0)).tokens
    with torch.no_grad():
        exact = policy.logp_tokens(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            return float((policy.logp_tokens(tokens) - exact).abs().mean())


def sampling(n: int, repeats: int) -> dict[str, Any]:
    """Molecules a second, without chemistry, in both ways."""
    policy = load_policy(steps.prior_path())

    def way(draw: Callable[..., object]) -> Parts:
        watch = Watch()
        draw(n, stream(0, 0))
        watch.lap("sample")
        return watch.parts

    usual = partial(steps.padded_sample, policy)
    ways = {"reference": partial(way, usual), "ours": partial(way, policy.sample)}
    taken = alternate(ways, repeats)
    return _rates(n, taken)


def pretraining(batch: int, repeats: int) -> dict[str, Any]:
    """Molecules a second of maximum likelihood, forward, backward and the update."""
    token_BT = load_policy(steps.prior_path()).sample(batch, stream(0, 0)).tokens
    ours = steps.pretrain_step(token_BT, lambda policy, tokens: policy.logp_tokens(tokens))
    usual = steps.pretrain_step(token_BT, steps.padded_logp)
    return _rates(batch, alternate({"reference": usual, "ours": ours}, repeats))


def _rates(n: int, taken: Mapping[str, list[Parts]]) -> dict[str, Any]:
    return {
        "molecules_per_s": n / total(taken["ours"]).median,
        "reference_molecules_per_s": n / total(taken["reference"]).median,
        "speedup": _ratio(taken["reference"], taken["ours"]),
    }


def scoring(n: int) -> dict[str, Any]:
    """Molecules a second of the quickstart's reward, in one process."""
    smiles = load_policy(steps.prior_path()).sample(n, stream(1, 0)).smiles
    reward = steps.reward_model()
    reward.score(["CCO"])  # loads the tables
    watch = Watch()
    reward.score(smiles)
    watch.lap("score")
    return {"molecules_per_s": n / watch.parts["score"]}


def runs(*, whole: bool) -> dict[str, Any]:
    """Whole runs in processes of their own: to the first step, 10,000 calls, their evaluation."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = ["posttrain", "configs/posttrain/quickstart.yaml", "batch_size=64"]
        common += ["precision=auto", "callbacks.progress_bar=false"]
        first = (*common, "max_samples=64", "budget=64", "--out", str(folder / "first"))
        started, _ = measure.run_command(*first)
        found: dict[str, Any] = {"start": {"first_step_s": started}}
        if not whole:
            why = "only with --full"
            found["run_10k"] = {"seconds": None, "peak_rss_mib": None, "why_not": why}
            return found | {"evaluate": {"seconds": None, "why_not": why}}
        limits = [f"budget={CALLS}", f"max_samples={2 * CALLS}"]
        # at REINVENT4's rate: at the quickstart's the policy collapses, and finds nothing new
        limits += ["learning_rate=1e-4", "--out", str(folder / "run")]
        seconds, peak = measure.run_command(*common, *limits)
        found["run_10k"] = {"seconds": seconds, "peak_rss_mib": peak}
        out = str(folder / "evaluation")
        seconds, _ = measure.run_command("evaluate", str(folder / "run"), "--out", out)
        return found | {"evaluate": {"seconds": seconds, "rows": "those of run_10k"}}


# ---- the table


def _table(found: Mapping[str, Any]) -> Any:
    machine, step = found["machine"], found["rl_step"]
    rates = machine["gflops_one_thread"]
    rough = f", {rates['bfloat16']:.0f} in bfloat16" if rates["bfloat16"] else ""
    title = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['instructions']}; products of "
        f"one thread: {rates['float32']:.0f} GFLOP/s{rough}. Usual: padded, float32, nothing reused"
    )
    rows: list[dict[str, Any]] = []

    def add(
        what: str, unit: str, usual: Any, ours: Any, *, floor: Any = None, up: bool = True
    ) -> None:
        ratio = None if not usual or not ours else (ours / usual if up else usual / ours)
        values = {"usual": usual, "ours": ours, "floor": floor, "ratio": ratio}
        rows.append({"what": what, "unit": unit, **values})

    for batch, values in step["by_batch"].items():
        add(
            f"step, batch {batch}", "s", values["reference_s"], values["ours_s"], up=False,
            floor=sum(values["floor_s"].values()),
        )  # fmt: skip
        names = ("sample", "score", "agent", "prior", "objective", "gradient", "adam", "trace")
        for part in names:
            usual, ours = values["reference_parts"].get(part), values["parts"].get(part)
            add(f"  {part}", "s", usual, ours, floor=values["floor_s"].get(part), up=False)
        if values["bf16_s"]:
            add("  in bfloat16", "s", values["reference_s"], values["bf16_s"], up=False)
    add(f"step, batch {step['batch']}, 2 threads", "s", None, step["two_threads_s"])
    for what in ("sample", "pretrain"):
        values = found[what]
        add(what, "1/s", values["reference_molecules_per_s"], values["molecules_per_s"])
    add("score", "1/s", None, found["score"]["molecules_per_s"])
    add("start to the first step", "s", None, found["start"]["first_step_s"])
    add("run of 10,000 calls", "s", None, found["run_10k"]["seconds"])
    add("  memory", "MiB", None, found["run_10k"]["peak_rss_mib"])
    add("  its evaluation", "s", None, found["evaluate"]["seconds"])

    def number(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    columns = [
        Column("what", ""),
        Column("unit", ""),
        *(Column(key, key, number) for key in ("usual", "ours", "floor")),
        Column("ratio", "times as fast", number),
    ]
    return table(title, columns, rows, keep_empty=True)
