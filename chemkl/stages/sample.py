"""The sample stage: molecules of a policy or of a mixture, and how likely each is, as Parquet."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from chemkl.config import InputError, complaints
from chemkl.config.prepare import POLICY, PRIOR, SampleConfig
from chemkl.policies import (
    Mixture,
    Policy,
    Rollout,
    check_device,
    check_vocabularies,
    load_policy,
    read_header,
)
from chemkl.policies.base import stream
from chemkl.results.atomic import atomic_file
from chemkl.results.columns import described_schema
from chemkl.results.provenance import current_sha256, sha256_of
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import Start

FILE_NAME = "samples.parquet"
MEMBER_PREFIX = "logp_"
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


run = STAGES["sample"].run


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Read the models' headers, compare their vocabularies, and look for the device."""
    mixture, prior = view.get("mixture"), view.get(PRIOR)
    models: dict[str, Path] = dict(mixture.models) if mixture is not None else {}
    models |= {name: path for name in (POLICY, PRIOR) if (path := view.get(name)) is not None}
    there = set(view.there(models.values()))
    files = {name: path for name, path in models.items() if path in there}
    bad = {name: complaints((read_header, path)) for name, path in files.items()}
    for name, lines in bad.items():
        yield name if name in (POLICY, PRIOR) else "mixture", lines
    good = {name: path for name, path in files.items() if not bad[name]}
    yield POLICY if mixture is None else "mixture", complaints((_check_models, good, prior))
    yield "device", complaints((check_device, view.get("device")))


def work(config: SampleConfig, start: Start) -> None:
    """Write ``samples.parquet``; of a mixture, with a column ``logp_<name>`` for each member."""
    policy = _policy(config).to(config.device)
    schema = _schema(policy)
    with start.claim(_models(config)) as manifest:
        n_truncated = 0
        with (
            atomic_file(start.out / FILE_NAME, sealed=True) as aside,
            pq.ParquetWriter(aside, schema, compression="zstd") as writer,
        ):
            for rollout in _rollouts(policy, config):
                columns = _columns(rollout, policy)
                writer.write_table(pa.table(columns, schema=schema))
                n_truncated += int(rollout.truncated.sum())
        manifest.finish(results={"samples": config.n, "truncated": n_truncated})


def _models(config: SampleConfig) -> dict[str, Path]:
    """The model files by name: policy, or the names of a mixture; and prior."""
    members = config.mixture.models if config.mixture is not None else {}
    given = {POLICY: config.policy, PRIOR: config.prior}
    return {**members, **{name: path for name, path in given.items() if path is not None}}


def _check_models(models: Mapping[str, Path], prior: Path | None) -> None:
    """Compare the headers of model files; no weights are read."""
    headers = {name: read_header(path) for name, path in models.items()}
    spoken = {f"{name} ({models[name]})": h["vocabulary"] for name, h in headers.items()}
    problems = complaints((check_vocabularies, spoken))
    if prior is not None and PRIOR in headers:
        problems += complaints((_check_prior, models, headers))
    InputError.refuse(problems)


def _check_prior(models: Mapping[str, Path], headers: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare the prior with the one that each policy says it was post-trained from."""
    recorded = {name: header["provenance"].get("prior_sha256") for name, header in headers.items()}
    given = current_sha256(sha256_of(models[PRIOR]))
    lines = [
        f"prior: {models[PRIOR]} is not the one that {name} ({models[name]}) was post-trained from "
        f"(sha256 {given[:12]}..., recorded {str(sha256)[:12]}...); beta_scale needs that one. To "
        "blend a policy with another model, use a product mixture."
        for name, sha256 in recorded.items()
        if name != PRIOR and sha256 is not None and current_sha256(sha256) != given
    ]
    InputError.refuse(lines)


def _policy(config: SampleConfig) -> Policy:
    """Load what is to be sampled."""
    loaded = {name: load_policy(path) for name, path in _models(config).items()}
    prior = loaded.pop(PRIOR) if config.prior is not None else None
    if config.mixture is None and prior is None:
        return loaded[POLICY]
    kind, weights = config.combination
    return Mixture(loaded, weights, kind=kind, prior=prior, beta_scale=config.beta_scale)


def _schema(policy: Policy) -> pa.Schema:
    """The columns of a table of samples; a mixture has one more for each member."""
    columns = dict(_COLUMNS)
    if isinstance(policy, Mixture):
        for name, exponent in zip(policy.names, policy.exponents, strict=True):
            columns[f"{MEMBER_PREFIX}{name}"] = (
                pa.float32(),
                f"log p of the sequence under {name} alone, whose weight in the {policy.kind} "
                f"is {exponent:.6g}, nats, end token included",
            )
    return described_schema(columns)


@torch.no_grad()
def _columns(rollout: Rollout, policy: Policy) -> dict[str, Any]:
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
    return columns


def _rollouts(policy: Policy, config: SampleConfig) -> Iterator[Rollout]:
    """Draw batch by batch, each from a stream of its own."""
    for step, start in enumerate(range(0, config.n, config.batch_size)):
        n = min(config.batch_size, config.n - start)
        yield policy.sample(n, stream(config.seed, step))
