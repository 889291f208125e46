"""`chemkl bench`: one table and one JSON of what a step of training costs, and all around it."""

import json
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
"""Passes over the network that a part of a step makes."""
USUAL_PASSES = 5
"""Those of the usual way: sample, agent, prior, and two for the gradient."""


class Sizes(NamedTuple):
    """How much is measured."""

    turns: Mapping[int, int]
    """Batch -> turns of the alternation; the first one is that of the summary."""
    sampled: int
    pretrained: int
    scored: int
    growth: tuple[int, ...] = ()
    """Calls of a run after which the cost of a call is measured; none: not at all."""
    evaluated: int = 0
    """Rows of a run that is evaluated; 0: none is."""
    side_by_side: int = 0
    """Turns of runs side by side."""
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
    """Measure, print the tables, and write the JSON.

    Args:
        sizes: how much is measured.
        out: the JSON file; None: none.
        force: whether a file that is there is replaced.
        console: where the tables are printed.

    Raises:
        InputError: the JSON file cannot be written, or is there already.
    """
    if out is not None and not out.parent.is_dir():
        raise InputError(f"--json {out}: the folder {out.parent} is not there. Make it first.")
    if out is not None and (out.is_dir() or (out.exists() and not force)):
        raise InputError(f"--json {out}: is there already. Give another name, or --force a file.")
    if out is not None:
        try:
            TemporaryFile(dir=out.parent).close()
        except OSError as error:
            raise InputError(f"--json {out}: cannot be written ({error.strerror}).") from error
    # first: a process that is started begins with the peak of the memory of the one that starts it
    figures: dict[str, Any] = runs(whole=sizes.whole_run)
    figures["evaluate_many"] = scale.evaluation(sizes.evaluated) if sizes.evaluated else None
    figures["side_by_side"] = scale.side_by_side(sizes.side_by_side) if sizes.side_by_side else None
    first, repeats = next(iter(sizes.turns.items()))
    with measure.threads(1):
        figures["machine"] = measure.machine()
        figures["growth"] = scale.growth(sizes.growth) if sizes.growth else None
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
    for shown in _tables(figures):
        (console or Console()).print(shown)
    if out is not None:
        with atomic_file(out) as draft:
            draft.write_text(json.dumps(figures, indent=2) + "\n")


def rl_step(batch: int, repeats: int) -> dict[str, Any]:
    """A step in both ways, and in bfloat16 where the processor has units for it; A B A B."""
    lacks = missing(torch.device("cpu"))
    usual = steps.UsualStep(batch)
    with tempfile.TemporaryDirectory() as folder:
        taken, rates, tokens, threads = _in_float32(usual, batch, repeats, Path(folder, "float32"))
        if not lacks:  # beside the usual way again, so that the memory of two ways is enough
            rough = steps.OurStep(batch, Path(folder, "bfloat16"), rough=True)
            pair = alternate({"reference": usual, "bfloat16": rough}, repeats)
            rough_s, ratio = total(pair["bfloat16"]), _ratio(pair["reference"], pair["bfloat16"])
    costs = steps.operations(load_policy(steps.prior_path()), int(median(tokens[1:])))
    one_pass = costs["ours"] / median(rates[1:])
    parts, reference = by_part(taken["ours"]), by_part(taken["reference"])
    neural = sum(parts[name] for name in steps.NEURAL if name in parts)
    ours_s, reference_s = total(taken["ours"]), total(taken["reference"])
    spread = {"reference": reference_s[1:], "ours": ours_s[1:]}
    return {
        "batch": batch,
        "turns": repeats,
        "reference_s": reference_s.median,
        "ours_s": ours_s.median,
        "bf16_s": None if lacks else rough_s.median,
        "spread": spread if lacks else {**spread, "bf16": rough_s[1:]},
        "speedup_fp32": _ratio(taken["reference"], taken["ours"]),
        "speedup_bf16": None if lacks else ratio,
        "speedup_bf16_why_not": lacks or None,
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
    """Both ways by turns, the rates of products and the tokens of each turn, and two threads."""
    ours = steps.OurStep(batch, folder)
    rates: list[float] = []
    tokens: list[int] = []

    def products() -> Parts:
        """Matrix products alone: what the parts are held against."""
        rates.append(product_rate(batch))
        tokens.append(ours.n_tokens)
        return {}

    taken = alternate({"reference": usual, "ours": ours, "products": products}, repeats)
    return taken, rates, tokens, two_threads(ours, repeats)


def _ratio(slow: list[Parts], fast: list[Parts]) -> float:
    """The median over the turns of how many times as fast one way is."""
    pairs = zip(slow, fast, strict=True)
    return median(sum(one.values()) / sum(other.values()) for one, other in pairs)


def two_threads(step: Callable[[], object], repeats: int) -> dict[str, Any]:
    """How many times as fast two threads make something as one, by the clock on the wall."""
    if n_cores() < 2:
        why = "this machine has one core"
        return {"two_threads": None, "two_threads_s": None, "two_threads_why_not": why}

    def way(n: int) -> Parts:
        with measure.threads(n):
            begin = time.perf_counter()
            step()
            return {"step": time.perf_counter() - begin}

    taken = alternate({"1": partial(way, 1), "2": partial(way, 2)}, repeats)
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


def sampling(batch: int, n: int, repeats: int) -> dict[str, Any]:
    """Molecules a second, without chemistry, in both ways."""
    policy = load_policy(steps.prior_path())

    def sample(draw: Callable[..., object]) -> None:
        for number in range(n // batch):
            draw(batch, stream(0, number))

    draws = {"reference": partial(steps.padded_sample, policy), "ours": policy.sample}
    ways = {name: partial(timed, "sample", sample, draw) for name, draw in draws.items()}
    figures = _rates(n // batch * batch, alternate(ways, repeats))
    return {**figures, **two_threads(ways["ours"], repeats)}


def passes(batch: int, repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Molecules a second of log p, and of maximum likelihood: forward, backward and update."""
    policy = load_policy(steps.prior_path())
    token_BT = policy.sample(batch, stream(0, 0)).tokens
    kinds: dict[str, Callable[[Any, Tensor], Tensor]] = {
        "reference": steps.padded_logp,
        "ours": lambda policy, tokens: policy.logp_tokens(tokens),
    }
    scores = {
        k: partial(timed, "logp", torch.no_grad()(logp), policy, token_BT)
        for k, logp in kinds.items()
    }
    learns = {
        k: partial(timed, "pretrain", steps.pretrain_step(token_BT, logp))
        for k, logp in kinds.items()
    }
    return _rates(batch, alternate(scores, repeats)), _rates(batch, alternate(learns, repeats))


def _rates(n: int, taken: Mapping[str, list[Parts]]) -> dict[str, Any]:
    ours = total(taken["ours"])
    return {
        "molecules_per_s": n / ours.median,
        "spread": (n / ours.high, n / ours.low),
        "reference_molecules_per_s": n / total(taken["reference"]).median,
        "speedup": _ratio(taken["reference"], taken["ours"]),
    }


def scoring(n: int, repeats: int) -> dict[str, Any]:
    """Molecules a second of the quickstart's reward beside what RDKit alone takes for it.

    Each turn scores other molecules: those that were scored before cost nothing.
    """
    smiles = load_policy(steps.prior_path()).sample(n, stream(1, 0)).smiles
    reward, size = steps.reward_model(), max(1, n // (1 + repeats))
    reward.score(["CCO"])  # loads the tables
    parts = iter([smiles[i : i + size] for i in range(0, n, size) for _ in range(2)])

    def way(score: Callable[[list[str]], object]) -> Parts:
        return timed("score", score, next(parts, smiles[:size]))

    ways = {"reference": partial(way, scale.bare_rdkit), "ours": partial(way, reward.score)}
    figures = _rates(size, alternate(ways, repeats))
    return {**figures, "over_rdkit": 1 / figures["speedup"]}


def runs(*, whole: bool) -> dict[str, Any]:
    """Whole runs in processes of their own: to the first step, 10,000 calls, their evaluation."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = ("batch_size=64", "precision=auto")
        first = (*common, "max_samples=64", "budget=64")
        started = measure.run_quickstart(folder / "first", *first).seconds
        figures: dict[str, Any] = {"start": {"first_step_s": started}}
        if not whole:
            figures["run_10k"] = {"seconds": None, "peak_rss_mib": None, "why_not": ONLY_FULL}
            return figures | {"evaluate": {"seconds": None, "why_not": ONLY_FULL}}
        # at REINVENT4's rate: at the quickstart's the policy collapses, and finds nothing new
        limits = (f"budget={CALLS}", f"max_samples={2 * CALLS}", "learning_rate=1e-4")
        used = measure.run_quickstart(folder / "run", *common, *limits)
        figures["run_10k"] = {"seconds": used.seconds, "peak_rss_mib": used.peak_mib}
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
    rough = f", {rates['bfloat16']:.0f} in bfloat16" if rates["bfloat16"] else ""
    yield (
        f"{machine['processor']}, {machine['cores']} cores, {machine['instructions']}; products of "
        f"one thread: {rates['float32']:.0f} GFLOP/s{rough}"
    )
    for values in figures["rl_step"]["by_batch"].values():
        yield _step_table(values)
    yield _rate_table(figures)
    yield _run_table(figures)
    yield (
        "Medians of turns taken by turns; between: the middle half. Usual: padded, float32, "
        "nothing reused (of score: RDKit alone). Floor: the matrix products alone."
    )


def _step_table(values: Mapping[str, Any]) -> Any:
    """Seconds of a step and its parts, in the usual way and in chemkl's."""
    spread, floor = values["spread"], values["floor_s"]
    step = (values["reference_s"], values["ours_s"], sum(floor.values()), values["speedup_fp32"])
    rows = [("step", *step, spread["ours"])]
    for part in PARTS:
        usual, ours = values["reference_parts"].get(part), values["parts"].get(part)
        ratio = usual / ours if usual and ours else None
        rows.append((f"  {part}", usual, ours, floor.get(part), ratio, None))
    if values["bf16_s"]:
        rough = (values["bf16_s"], None, values["speedup_bf16"], spread["bf16"])
        rows.append(("step in bfloat16", None, *rough))
    if values["two_threads_s"]:
        rows.append(("step, 2 threads", None, values["two_threads_s"], None, None, None))
    return _table(f"Batch {values['batch']}, seconds", rows)


def _rate_table(figures: Mapping[str, Any]) -> Any:
    """Molecules a second of all else that a process computes."""
    named = {f"sample, batch {n}": values for n, values in figures["sample"]["by_batch"].items()}
    named |= {name: figures[name] for name in ("logp", "pretrain", "score")}
    keys = ("reference_molecules_per_s", "molecules_per_s", "floor", "speedup", "spread")
    rows = [(name, *map(values.get, keys)) for name, values in named.items()]
    return _table("Molecules a second", rows)


def _run_table(figures: Mapping[str, Any]) -> Any:
    """What whole commands take, and how it grows."""
    whole, many, beside = (figures[k] for k in ("run_10k", "evaluate_many", "side_by_side"))
    taken = [("start to the first step, s", figures["start"]["first_step_s"])]
    if whole["seconds"]:
        taken.append((f"run of {CALLS:,} calls, s", whole["seconds"]))
        taken.append(("  its memory, MiB", whole["peak_rss_mib"]))
        taken.append(("  its evaluation, s", figures["evaluate"]["seconds"]))
    if many:
        taken.append((f"evaluation of {many['rows']:,} rows, s", many["seconds"]))
        taken.append(("  its memory, MiB", many["peak_rss_mib"]))
    if beside and beside["ratio"]:
        taken.append(("two runs at once, by one alone", beside["ratio"]))
    for size, values in (figures["growth"] or {}).items():
        taken.append((f"call {int(size):,}, ms without network", values["ms_per_call"]))
        taken.append(("  memory, MiB", values["memory_mib"]))
    return _table("Whole commands", [(what, None, one, None, None, None) for what, one in taken])


def _table(title: str, rows: Sequence[tuple[Any, ...]]) -> Any:
    """A table of rows: what is measured, usual, chemkl's, floor, ratio and (low, high), or None."""
    labels = {"usual": "usual", "ours": "chemkl", "floor": "floor", "ratio": "times as fast"}
    named = [dict(zip(("what", *labels, "between"), row, strict=True)) for row in rows]
    for row in named:
        row["between"] = " to ".join(map(_number, row["between"])) if row["between"] else None
    columns = [Column("what", ""), *(Column(key, labels[key], _number) for key in labels)]
    columns += [Column("between", "between")] if any(row["between"] for row in named) else []
    return table(title, columns, named)
