"""The sample stage: molecules drawn from a policy, with their log-probabilities, as Parquet."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from chemkl.config import InputError
from chemkl.config.loading import load_config
from chemkl.config.sample import SampleConfig
from chemkl.policies import Policy, Rollout, load_policy, read_header
from chemkl.results.atomic import rename_in
from chemkl.results.columns import described_schema
from chemkl.results.manifest import Manifest
from chemkl.training.seeds import stream

FILE_NAME = "samples.parquet"
SCHEMA = described_schema(
    {
        "smiles": (pa.string(), "SMILES as sampled"),
        "logp": (pa.float32(), "log p of the sequence, nats, end token included"),
        "n_tokens": (pa.int32(), "tokens, end token included"),
        "truncated": (
            pa.bool_(),
            "reached the maximum length before its end token: invalid whatever its text",
        ),
    }
)


def check(config: SampleConfig) -> None:
    """Read the model's header and look for the device.

    Raises:
        InputError: not a model file, or no such device here; one line each.
    """
    problems = []
    try:
        read_header(config.policy)
    except InputError as error:
        problems.append(str(error))
    try:
        torch.zeros(1, device=config.device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        problems.append(
            f"device: {config.device!r} cannot be used here: {str(error).splitlines()[0]}"
        )
    if problems:
        raise InputError("\n".join(problems))


def run(config: SampleConfig | Mapping[str, Any] | str | Path, out_dir: str | Path) -> Path:
    """Write ``samples.parquet``.

    Returns:
        Its path.

    Raises:
        InputError: the config, the model file, or a folder that holds other samples.
    """
    config = load_config(SampleConfig, config)
    check(config)
    out = Path(out_dir)
    policy = load_policy(config.policy).to(config.device)
    with Manifest.start(
        out,
        stage="sample",
        config=config.model_dump(mode="json"),
        seed=config.seed,
        inputs={"policy": config.policy},
    ) as manifest:
        aside = out / f".{FILE_NAME}.tmp"
        n_truncated = 0
        with pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
            for rollout in _rollouts(policy, config):
                columns = {
                    "smiles": rollout.smiles,
                    "logp": rollout.logp.cpu().numpy(),
                    "n_tokens": rollout.n_tokens.cpu().numpy(),
                    "truncated": rollout.truncated.cpu().numpy(),
                }
                writer.write_table(pa.table(columns, schema=SCHEMA))
                n_truncated += int(rollout.truncated.sum())
        rename_in(aside, out / FILE_NAME)
        manifest.finish(results={"samples": config.n, "truncated": n_truncated})
    return out / FILE_NAME


def _rollouts(policy: Policy, config: SampleConfig) -> Iterator[Rollout]:
    """Draw batch by batch, each from a stream of its own."""
    for step, start in enumerate(range(0, config.n, config.batch_size)):
        n = min(config.batch_size, config.n - start)
        yield policy.sample(n, stream(config.seed, step))
