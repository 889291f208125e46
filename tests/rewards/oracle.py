"""A costly reward that fails: of 20 molecules one is bad, one hangs, one crashes, one has bad luck.

Which does what is decided by the molecule alone, so that the same ones fail wherever it runs.
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
    """Take some seconds; write down what was asked, a line a call."""
    file = Path(notes, hashlib.sha256(smiles.encode()).hexdigest())
    asked_before = file.exists()
    with file.open("a") as note:
        note.write(smiles + "\n")
    time.sleep(seconds)
    match fate(smiles):
        case "bad":
            raise ValueError("cannot be docked")
        case "hang":
            sum(range(10**15))  # compiled code: no handler of a signal is run
        case "crash":
            ctypes.string_at(0)
        case "unlucky" if not asked_before:
            raise TransientError("no licence is free")
    return len(smiles) / 7
