"""The sample stage: molecules of a policy or of a mixture, and how likely each is, as Parquet."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain
from pathlib import Path
from time import process_time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from chemkl.config import InputError, complaints
from chemkl.config.posttrain import Precision
from chemkl.config.prepare import POLICY, PRIOR, MixtureConfig, SampleConfig
from chemkl.policies import (
    ConstrainedPolicy,
    Mixture,
    Policy,
    Rollout,
    check_device,
    check_vocabularies,
    freeze,
    load_policy,
    read_header,
)
from chemkl.policies.base import stream
from chemkl.processes import adopt, follow_parent, shielded
from chemkl.results.atomic import atomic_file
from chemkl.results.columns import described_schema
from chemkl.results.provenance import current_sha256, sha256_of
from chemkl.stages.jobs import without_script
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import Start
from chemkl.training.generators import build_constraint, check_generator, files_of

FILE_NAME = "samples.parquet"
MEMBER_PREFIX = "logp_"
ALONE = 16_384
"""Fewer samples are drawn by this process alone, in the time that it takes to start others."""
GROUP = 65_536
"""Rows of a Parquet row group: many small ones cost time, space and a long footer."""
CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
"""Environment variables that say how many of its programs oneDNN keeps, or else 1,024: one for each
number of rows that a product has had, of up to 2 MiB. Large batches hardly use one again."""
Drawn = tuple[dict[str, Any], float]
"""A batch as the columns of the table, and the processor time that sampling took, seconds."""
_COLUMNS = {
    "smiles": (pa.string(), "SMILES as sampled"),
    "logp": (
        pa.float32(),
        "log p of the sequence under what was sampled from (of a mixture, as decoded token by "
        "token), nats, end token included",
    ),
    "n_tokens": (pa.int32(), "tokens, end token included"),
    "truncated": (
        pa.bool_(),
        "reached the maximum length before its end token: invalid whatever its text",
    ),
}
_OF_PARTS = {
    "group": (pa.int32(), "number of the part that the molecule must hold, from 0"),
    "prompt": (pa.string(), "the part, as in the config"),
    "completion": (pa.string(), "what the policy wrote, of several rounds joined by |"),
    "problem": (pa.string(), "why the part is not in the molecule; null: it is, or no molecule is"),
}


run = STAGES["sample"].run


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Read the models' headers, compare their vocabularies, and look for the device."""
    mixture, prior = view.get("mixture"), view.get(PRIOR)
    models = _models(mixture, view.get(POLICY), prior)
    there = {*view.there(models.values())}
    headers: dict[str, Mapping[str, Any]] = {}

    def read(name: str) -> None:
        headers[name] = read_header(models[name])

    for name, path in models.items():
        lines = complaints((read, name)) if path in there else []
        yield name if name in (POLICY, PRIOR) else "mixture", lines
    vocabularies = {f"{n} ({models[n]})": header["vocabulary"] for n, header in headers.items()}
    lines = complaints((check_vocabularies, vocabularies))
    if prior is not None and PRIOR in headers:
        lines += _of_another_prior(models, headers)
    yield POLICY if mixture is None else "mixture", lines
    model = models.get(POLICY) if POLICY in headers else None
    yield "", complaints((check_generator, view.get("generator"), model, None, ()))
    yield "device", complaints((check_device, view.get("device")))
    if view.get("precision") == "bf16-mixed":
        yield "precision", complaints((_is_rough, view.get("precision"), view.get("device")))


def work(config: SampleConfig, start: Start) -> None:
    """Write ``samples.parquet``; of a mixture, with a column ``logp_<name>`` for each member."""
    models = _models(config.mixture, config.policy, config.prior)
    policy = _policy(config)
    schema = _schema(policy)
    operations = (policy.base if isinstance(policy, ConstrainedPolicy) else policy).operations
    rough = _is_rough(config.precision, config.device)
    n_workers = torch.get_num_threads() if config.device == "cpu" and config.n >= ALONE else 0
    with start.claim(models | files_of(config.generator)) as manifest:
        n_truncated = n_tokens = n_lost = 0
        busy = 0.0  # seconds of processor time, all threads and workers together
        waiting: list[pa.Table] = []
        with (
            atomic_file(start.out / FILE_NAME, sealed=True) as aside,
            pq.ParquetWriter(aside, schema, compression="zstd") as writer,
        ):
            for columns, seconds in _drawn(config, policy, n_workers, rough=rough):
                busy += seconds
                waiting.append(pa.table(columns, schema=schema))
                n_truncated += int(columns["truncated"].sum())
                n_tokens += int(columns["n_tokens"].sum())
                problems = zip(columns["truncated"], columns.get("problem", ()), strict=False)
                n_lost += sum(cut or problem is not None for cut, problem in problems)
                if sum(map(len, waiting)) >= GROUP:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting.clear()
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
        tokens = n_tokens / config.n
        cost = {
            "tokens_a_molecule": tokens,
            "operations_a_molecule": operations(tokens),
            "molecules_a_processor_second": config.n / busy,
        }
        start.say(
            f"a molecule takes {tokens:.1f} tokens and {operations(tokens) / 1e6:,.0f} "
            f"million operations; {config.n / busy:,.0f} molecules a second of processor time"
        )
        if n_lost == config.n:
            start.say(
                "no sample is valid and holds its part (the column problem says why): take a "
                "smaller part (keep), more choices, or a prior that writes such molecules"
            )
        how = {"workers": n_workers or 1, "precision": "bf16-mixed" if rough else "32-true"}
        manifest.finish(results={"samples": config.n, "truncated": n_truncated, **how, **cost})


def _policy(config: SampleConfig) -> Policy | ConstrainedPolicy:
    """What is sampled from, on its device."""
    models = _models(config.mixture, config.policy, config.prior)
    loaded = {name: load_policy(path) for name, path in models.items()}
    prior = loaded.pop(PRIOR) if config.prior is not None else None
    policy: Policy = next(iter(loaded.values()))
    if config.generator is not None:
        chooser = freeze(prior or policy)
        constraint = build_constraint(config.generator, chooser, config.seed)
        chooser.to(config.device)
        return ConstrainedPolicy(policy, constraint).to(config.device)
    if config.mixture is not None or prior is not None:
        kind, weights = config.combination
        policy = Mixture(loaded, weights, kind=kind, prior=prior, beta_scale=config.beta_scale)
    return policy.to(config.device)


def _is_rough(precision: Precision, device: str) -> bool:
    """Whether products are in bfloat16; InputError: as asked for, and the device cannot do it."""
    if precision == "32-true":
        return False
    from chemkl.training.precision import FASTER, missing, speedup  # it imports lightning

    lacks = missing(torch.device(device))
    if lacks and precision == "bf16-mixed":
        raise InputError(f"precision: bf16-mixed cannot be used on {device}: {lacks}. Take auto.")
    return not lacks and (precision == "bf16-mixed" or speedup(torch.device(device)) >= FASTER)


def _drawn(
    config: SampleConfig, policy: Policy | ConstrainedPolicy, n_workers: int, *, rough: bool
) -> Iterator[Drawn]:
    """Yield the batches in order; with workers, which hold `CACHES` small, each draws whole ones.

    A batch has a random stream of its own, so that it does not matter who draws it.
    """
    firsts = range(0, config.n, config.batch_size)
    draw = partial(_draw, config.seed, rough)
    batches = ((step, min(config.batch_size, config.n - at)) for step, at in enumerate(firsts))
    if not n_workers:
        yield from (draw(policy, *batch) for batch in batches)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, not once in every worker
    with ProcessPoolExecutor(n_workers, context, _start_worker, (dict(os.environ), config)) as pool:
        futures: deque[Future[Drawn]] = deque()
        for batch in chain(batches, [None]):
            if batch is not None:
                with shielded(), without_script():
                    futures.append(pool.submit(draw, None, *batch))
            while futures and (batch is None or len(futures) > 2 * n_workers):
                try:
                    yield futures.popleft().result()
                except BrokenProcessPool:
                    raise InputError(
                        "a process that draws samples has died: is there enough memory? Take a "
                        f"batch_size below {config.batch_size:,}, or fewer processes "
                        "(OMP_NUM_THREADS)"
                    ) from None


_of_worker: Policy | ConstrainedPolicy


def _start_worker(environment: Mapping[str, str], config: SampleConfig) -> None:
    global _of_worker
    adopt(environment)
    follow_parent(signal.SIG_DFL)
    torch.set_num_threads(1)
    for cache in CACHES:
        os.environ.setdefault(cache, "16")
    _of_worker = _policy(config)


@torch.no_grad()
def _draw(
    seed: int, rough: bool, policy: Policy | ConstrainedPolicy | None, step: int, n: int
) -> Drawn:
    began, policy = process_time(), _of_worker if policy is None else policy
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=rough):
        rollout = policy.sample(n, stream(seed, step))
        seconds = process_time() - began
        return _columns(rollout, policy), seconds


def _models(
    mixture: MixtureConfig | None, policy: Path | None, prior: Path | None
) -> dict[str, Path]:
    """The model files by name: policy, or the names of a mixture; and prior."""
    given = {POLICY: policy, PRIOR: prior}
    members = dict(mixture.models) if mixture is not None else {}
    return members | {name: path for name, path in given.items() if path is not None}


def _of_another_prior(
    models: Mapping[str, Path], headers: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """A line for each policy that was post-trained from another prior than the one given."""
    recorded = {name: header["provenance"].get("prior_sha256") for name, header in headers.items()}
    given = current_sha256(sha256_of(models[PRIOR]))
    original = headers[PRIOR]["provenance"].get("sha256")  # of REINVENT's file that it was made of
    return [
        f"prior: {models[PRIOR]} is not the one that {name} ({models[name]}) was post-trained from "
        f"(sha256 {given[:12]}..., recorded {str(sha256)[:12]}...); beta_scale needs that one. To "
        "blend a policy with another model, use a product mixture."
        for name, sha256 in recorded.items()
        if name != PRIOR and sha256 and current_sha256(sha256) not in (given, original)
    ]


def _schema(policy: Policy | ConstrainedPolicy) -> pa.Schema:
    """The columns of a table of samples; a mixture has one more for each member."""
    columns = _COLUMNS | (_OF_PARTS if isinstance(policy, ConstrainedPolicy) else {})
    if isinstance(policy, Mixture):
        for name, exponent in zip(policy.names, policy.exponents, strict=True):
            columns[f"{MEMBER_PREFIX}{name}"] = (
                pa.float32(),
                f"log p of the sequence under {name} alone, whose weight in the {policy.kind} "
                f"is {exponent:.6g}, nats, end token included",
            )
    return described_schema(columns)


@torch.no_grad()
def _columns(rollout: Rollout, policy: Policy | ConstrainedPolicy) -> dict[str, Any]:
    """A batch of samples as the columns of the table."""
    columns = {
        "smiles": rollout.smiles,
        "logp": rollout.logp.cpu().numpy(),
        "n_tokens": rollout.n_tokens.cpu().numpy(),
        "truncated": rollout.truncated.cpu().numpy(),
    }
    if isinstance(policy, Mixture):
        alone = policy.logp_of_members(rollout.tokens)
        columns |= {f"{MEMBER_PREFIX}{name}": lp.cpu().numpy() for name, lp in alone.items()}
    if isinstance(policy, ConstrainedPolicy) and rollout.written and rollout.group is not None:
        groups = rollout.group.tolist()
        columns |= {"group": groups, "prompt": [policy.constraint.names[g] for g in groups]}
        columns["completion"] = [row.completion for row in rollout.written]
        columns["problem"] = [row.problem for row in rollout.written]
    return columns
