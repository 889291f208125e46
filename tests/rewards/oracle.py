"""A costly function that fails for one molecule in five, in one of four ways.

The molecule alone decides how, so that the same ones fail wherever the function runs.
"""

import ctypes
import hashlib
import time
from pathlib import Path

from chemkl.rewards import TransientError

FATES = ("bad", "hang", "crash", "unlucky")


def fate(smiles: str) -> str:
    number = int(hashlib.sha256(smiles.encode()).hexdigest(), 16) % 20
    return FATES[number] if number < len(FATES) else "fine"


def score(smiles: str, seconds: float, notes: str) -> float:
    """Take some seconds, and write down the molecule, one line per call."""
    file = Path(notes, hashlib.sha256(smiles.encode()).hexdigest())
    is_repeat = file.exists()
    with file.open("a") as note:
        note.write(smiles + "\n")
    time.sleep(seconds)
    match fate(smiles):
        case "bad":
            raise ValueError("cannot be docked")
        case "hang":
            sum(range(10**15))  # compiled code, which runs no signal handler
        case "crash":
            ctypes.string_at(0)
        case "unlucky" if not is_repeat:
            raise TransientError("no licence is free")
    return len(smiles) / 7
