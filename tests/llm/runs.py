"""What the tests of whole runs share."""

import pandas as pd
import torch
from safetensors.torch import load_file

from chemkl.results import read_trace


class KilledError(BaseException):
    """Stands for a SIGKILL: nothing after it runs in the stage."""


def assert_same_run(first, second, *, exactly=True):
    """The trace, what is tracked of the answers, and the weights: to the bit or to rounding."""
    off = 0 if exactly else 1e-3
    tables = [
        [read_trace(out), pd.read_parquet(out / "answers.parquet")] for out in (first, second)
    ]
    for pair in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(*pair, check_exact=exactly, rtol=0, atol=off)
    files = [next((out / "checkpoints").rglob("*.safetensors")) for out in (first, second)]
    torch.testing.assert_close(*map(load_file, files), rtol=0, atol=off)
