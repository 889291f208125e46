"""The sample stage: molecules of a policy or a mixture with their log-probabilities, as Parquet."""

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
from chemkl.processes import adopt, follow_parent, shielded, without_script
from chemkl.results.atomic import atomic_file
from chemkl.results.columns import described_schema
from chemkl.results.provenance import current_sha256, sha256_of
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import Start
from chemkl.training.generators import build_constraint, check_generator, files_of

FILE_NAME = "samples.parquet"
MEMBER_PREFIX = "logp_"
ALONE = 16_384
"""Up to this many samples one process is faster than starting workers."""
GROUP = 65_536
"""Rows of a Parquet row group; many small groups cost time and space."""
CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
"""Environment variables for the number of programs that oneDNN caches (default 1,024), one of up to
2 MiB for each number of rows of a product. Large batches hardly use one again."""
Drawn = tuple[dict[str, Any], float]
"""The columns of a batch, and the processor time of sampling it in seconds."""
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
_PART_COLUMNS = {
    "group": (pa.int32(), "number of the part that the molecule must hold, from 0"),
    "prompt": (pa.string(), "the part, as in the config"),
    "completion": (pa.string(), "what the policy wrote, of several rounds joined by |"),
    "problem": (pa.string(), "why the part is not in the molecule; null: it is, or no molecule is"),
}


run = STAGES["sample"].run


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Check the models' headers, their vocabularies and the device."""
    mixture, prior = view.get("mixture"), view.get(PRIOR)
    models = _models(mixture, view.get(POLICY), prior)
    existing = {*view.existing(models.values())}
    headers: dict[str, Mapping[str, Any]] = {}

    def read(name: str) -> None:
        headers[name] = read_header(models[name])

    for name, path in models.items():
        lines = complaints((read, name)) if path in existing else []
        yield name if name in (POLICY, PRIOR) else "mixture", lines
    vocabularies = {f"{n} ({models[n]})": header["vocabulary"] for n, header in headers.items()}
    lines = complaints((check_vocabularies, vocabularies))
    if prior is not None and PRIOR in headers:
        lines += _wrong_priors(models, headers)
    yield POLICY if mixture is None else "mixture", lines
    model = models.get(POLICY) if POLICY in headers else None
    yield "", complaints((check_generator, view.get("generator"), model, None, ()))
    yield "device", complaints((check_device, view.get("device")))
    if view.get("precision") == "bf16-mixed":
        yield "precision", complaints((_uses_bf16, view.get("precision"), view.get("device")))


def work(config: SampleConfig, start: Start) -> None:
    """Write ``samples.parquet``, with a column ``logp_<name>`` for each member of a mixture."""
    models = _models(config.mixture, config.policy, config.prior)
    policy = _policy(config)
    schema = _schema(policy)
    operations = (policy.base if isinstance(policy, ConstrainedPolicy) else policy).operations
    bf16 = _uses_bf16(config.precision, config.device)
    n_workers = torch.get_num_threads() if config.device == "cpu" and config.n >= ALONE else 0
    with start.claim(models | files_of(config.generator)) as manifest:
        n_truncated = n_tokens = n_lost = 0
        busy = 0.0  # seconds of processor time of all threads and workers
        batches: list[pa.Table] = []
        with (
            atomic_file(start.out / FILE_NAME, sealed=True) as part,
            pq.ParquetWriter(part, schema, compression="zstd") as writer,
        ):
            for columns, seconds in _batches(config, policy, n_workers, bf16=bf16):
                busy += seconds
                batches.append(pa.table(columns, schema=schema))
                n_truncated += int(columns["truncated"].sum())
                n_tokens += int(columns["n_tokens"].sum())
                problems = zip(columns["truncated"], columns.get("problem", ()), strict=False)
                n_lost += sum(cut or problem is not None for cut, problem in problems)
                if sum(map(len, batches)) >= GROUP:
                    writer.write_table(pa.concat_tables(batches))
                    batches.clear()
            if batches:
                writer.write_table(pa.concat_tables(batches))
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
                "no sample is valid and holds its part (the column problem says why): choose a "
                "smaller part (keep), more choices, or a prior that writes such molecules"
            )
        how = {"workers": n_workers or 1, "precision": "bf16-mixed" if bf16 else "32-true"}
        manifest.finish(results={"samples": config.n, "truncated": n_truncated, **how, **cost})


def _policy(config: SampleConfig) -> Policy | ConstrainedPolicy:
    """Load the policy, constrained policy or mixture on its device."""
    models = _models(config.mixture, config.policy, config.prior)
    loaded = {name: load_policy(path, key=name) for name, path in models.items()}
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


def _uses_bf16(precision: Precision, device: str) -> bool:
    """Tell whether to sample in bfloat16; InputError if it is required and the device lacks it."""
    if precision == "32-true":
        return False
    from chemkl.training.precision import FASTER, missing, speedup  # it imports lightning

    lacks = missing(torch.device(device))
    if lacks and precision == "bf16-mixed":
        raise InputError(f"precision: bf16-mixed cannot be used on {device}: {lacks}. Use auto.")
    return not lacks and (precision == "bf16-mixed" or speedup(torch.device(device)) >= FASTER)


def _batches(
    config: SampleConfig, policy: Policy | ConstrainedPolicy, n_workers: int, *, bf16: bool
) -> Iterator[Drawn]:
    """Yield the batches in order; workers draw whole batches and keep `CACHES` small.

    Each batch has its own random stream, so the result does not depend on the worker.
    """
    firsts = range(0, config.n, config.batch_size)
    draw = partial(_draw, config.seed, bf16)
    batches = ((step, min(config.batch_size, config.n - at)) for step, at in enumerate(firsts))
    if not n_workers:
        yield from (draw(policy, *batch) for batch in batches)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # import once for all workers
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
                        "a worker process has died: is there enough memory? Choose a "
                        f"batch_size below {config.batch_size:,}, or fewer processes "
                        "(OMP_NUM_THREADS)"
                    ) from None


_worker_policy: Policy | ConstrainedPolicy


def _start_worker(environment: Mapping[str, str], config: SampleConfig) -> None:
    global _worker_policy
    adopt(environment)
    follow_parent(signal.SIG_DFL)
    torch.set_num_threads(1)
    for cache in CACHES:
        os.environ.setdefault(cache, "16")
    _worker_policy = _policy(config)


@torch.no_grad()
def _draw(
    seed: int, bf16: bool, policy: Policy | ConstrainedPolicy | None, step: int, n: int
) -> Drawn:
    began, policy = process_time(), _worker_policy if policy is None else policy
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=bf16):
        rollout = policy.sample(n, stream(seed, step))
        seconds = process_time() - began
        return _columns(rollout, policy), seconds


def _models(
    mixture: MixtureConfig | None, policy: Path | None, prior: Path | None
) -> dict[str, Path]:
    """Return the model files by name: policy or the members of a mixture, and prior."""
    models = dict(mixture.models) if mixture is not None else {}
    models |= {POLICY: policy} if policy is not None else {}
    return models | ({PRIOR: prior} if prior is not None else {})


def _wrong_priors(
    models: Mapping[str, Path], headers: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return a line for each policy that was post-trained from another prior."""
    recorded = {name: header["provenance"].get("prior_sha256") for name, header in headers.items()}
    prior_sha256 = current_sha256(sha256_of(models[PRIOR]))
    reinvent_sha256 = headers[PRIOR]["provenance"].get("sha256")  # of the file before conversion
    return [
        f"prior: {models[PRIOR]} is not the one that {name} ({models[name]}) was post-trained from "
        f"(sha256 {prior_sha256[:12]}..., recorded {str(sha256)[:12]}...); beta_scale needs the "
        "original. To blend a policy with another model, use a product mixture."
        for name, sha256 in recorded.items()
        if name != PRIOR
        and sha256
        and current_sha256(sha256) not in (prior_sha256, reinvent_sha256)
    ]


def _schema(policy: Policy | ConstrainedPolicy) -> pa.Schema:
    """Return the schema of the samples; a mixture has one more column for each member."""
    columns = _COLUMNS | (_PART_COLUMNS if isinstance(policy, ConstrainedPolicy) else {})
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
    """Return the columns of a batch."""
    columns = {
        "smiles": rollout.smiles,
        "logp": rollout.logp.cpu().numpy(),
        "n_tokens": rollout.n_tokens.cpu().numpy(),
        "truncated": rollout.truncated.cpu().numpy(),
    }
    if isinstance(policy, Mixture):
        logp_of = policy.logp_of_members(rollout.tokens)
        columns |= {f"{MEMBER_PREFIX}{name}": lp.cpu().numpy() for name, lp in logp_of.items()}
    if isinstance(policy, ConstrainedPolicy) and rollout.written and rollout.group is not None:
        groups = rollout.group.tolist()
        columns |= {"group": groups, "prompt": [policy.constraint.names[g] for g in groups]}
        columns["completion"] = [row.completion for row in rollout.written]
        columns["problem"] = [row.problem for row in rollout.written]
    return columns
