"""What executors add to a costly reward: `python -m chemkl.bench.executors`, on an idle machine.

Speeds that are compared are measured turn by turn on the same molecules; the median turn counts.
"""

import os
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any

from chemkl.config.paths import shipped_root
from chemkl.rewards import RewardModel

TURNS = 9

ORACLE = """import time


def score(smiles: str) -> float:
    time.sleep({seconds})
    return 1.0
"""


MARK = "CHEMKL_BENCH"  # an environment variable, by which processes are known as started here


def cpu_seconds() -> float:
    """Processor time of this process and of all that it has started, by whatever way."""
    import psutil  # which Parsl brings

    total: float = sum(psutil.Process().cpu_times()[:2])
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(os.getpid()):
                total += sum(process.cpu_times()[:2])
    return total


def executors(seconds: float = 0.05, n: int = 40) -> None:
    """What each executor adds to a molecule of an oracle that only waits, with one worker."""
    os.environ[MARK] = str(os.getpid())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        Path(folder, "oracle.py").write_text(ORACLE.format(seconds=seconds))
        part = {
            "kind": "python_function",
            "parameters": {"function": f"{folder}/oracle.py:score"},
            "transform": {"kind": "linear_clip", "low": 0, "high": 1},
        }
        ways: dict[str, dict[str, Any]] = {
            "none": {},
            "process": {"timeout": 60},
            "parsl": {
                "timeout": 60,
                "executor": {"kind": "parsl", "provider": "local", "folder": folder},
            },
        }
        models: dict[str, RewardModel] = {}
        for name, way in ways.items():
            model = RewardModel.from_config({"components": [part], **way})
            models[name] = stack.enter_context(model)
            model.score(["C"])  # starts it
        molecules = (shipped_root() / "data/moses_sample.smi").read_text().split()
        wall: dict[str, list[float]] = {name: [] for name in models}
        cpu: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(TURNS):
            smiles = molecules[1 + turn * n : 1 + (turn + 1) * n]
            for name, model in models.items():
                start, cpu_start = time.perf_counter(), cpu_seconds()
                model.score(smiles)
                wall[name].append((time.perf_counter() - start) / n)
                cpu[name].append((cpu_seconds() - cpu_start) / n)
        for name in ("process", "parsl"):
            added = [
                1e3 * median(b - a for a, b in zip(each["none"], each[name], strict=True))
                for each in (wall, cpu)
            ]
            print(
                f"{name:>12}: {added[0]:.2f} ms a molecule (wanted: at most 5 ms), of which "
                f"{added[1]:.2f} ms are a processor's"
            )


if __name__ == "__main__":
    executors()
