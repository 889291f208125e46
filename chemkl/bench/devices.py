"""Two processes against one: `python -m chemkl.bench.devices [BATCH] [STEPS]` prints the ratio.

Whole runs of the command, one after the other in turns A B A B, by the clock on the wall; the start
is taken out by a run of one step. Two free cores are needed for it to mean anything.
"""

import sys
import tempfile
from pathlib import Path
from statistics import median

from chemkl.bench.measure import run_quickstart


def seconds(devices: int, batch: int, steps: int, folder: Path) -> float:
    """Seconds of a run of so many steps on so many processes of the processor."""
    settings = [f"batch_size={batch}", f"max_samples={batch * steps}", "budget=1000000"]
    settings += ["trainer.accelerator=cpu", f"trainer.devices={devices}", "precision=32-true"]
    settings += ["learning_rate=1e-4", "--fresh"]
    return run_quickstart(folder / f"{devices}-{steps}", *settings).seconds


def main(batch: int = 256, steps: int = 12, turns: int = 3) -> None:
    """Print seconds a step on one and on two processes, and how many times as fast two are."""
    per_step: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(turns):
            for devices, taken in per_step.items():
                start = seconds(devices, batch, 1, Path(name))
                taken.append((seconds(devices, batch, steps, Path(name)) - start) / (steps - 1))
    one, two = (median(taken) for taken in per_step.values())
    print(f"batch {batch}: {one:.3f} s a step on one, {two:.3f} s on two: {one / two:.2f} times")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
