"""Random streams that depend on (seed, step, rank) alone, so that nothing random need be saved."""

import hashlib

import torch


def stream(seed: int, step: int, rank: int = 0, purpose: str = "") -> torch.Generator:
    """Return a CPU generator for one step of one process.

    Args:
        seed: of the run.
        step: of the training, from 0.
        rank: of the process.
        purpose: what else is drawn at the same step gets another stream.
    """
    name = f"{seed}/{step}/{rank}{purpose}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big", signed=True))
