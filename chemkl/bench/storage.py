"""What it costs to keep a run: ``python -m chemkl.bench.storage [--budget N] [--rows N]``.

Checkpoints and trace as a share of a quickstart run's processor time, bytes a row of its trace, and
the seconds after which a run of many rows makes its next step when it goes on.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from chemkl.config.paths import shipped_root
from chemkl.results import Manifest, TraceWriter, read_trace, trace_components
from chemkl.results.manifest import LAST_CHECKPOINT
from chemkl.results.trace import FOLDER
from chemkl.stages import posttrain
from chemkl.stages.registry import STAGES
from chemkl.training.posttrain import Posttrain
from chemkl.training.trainer import Checkpoint, reopen

BATCH = 100
"""Rows of a step of the long run."""


class Reached(BaseException):
    """Ends a run where its next step begins."""


@contextmanager
def wrapped(owner: type, name: str, around: Callable[..., Any]) -> Iterator[None]:
    """Have a method called through a function in this scope."""
    whole = getattr(owner, name)
    setattr(owner, name, wraps(whole)(lambda *args, **kwargs: around(whole, *args, **kwargs)))
    try:
        yield
    finally:
        setattr(owner, name, whole)


def share_of_keeping(settings: Any, out: Path) -> float:
    """Make a run; the share of its processor time that checkpoints and trace take."""
    spent = 0.0

    def clocked(whole: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal spent
        begin = time.process_time()
        result = whole(*args, **kwargs)
        spent += time.process_time() - begin
        return result

    begin = time.process_time()
    with (
        wrapped(Checkpoint, "save", clocked),  # it cuts the trace first
        wrapped(TraceWriter, "append", clocked),
        wrapped(TraceWriter, "compact", clocked),
    ):
        posttrain.run(settings, out)
    return spent / (time.process_time() - begin)


def lengthen(settings: Any, out: Path, n_rows: int) -> Any:
    """Make a run of a few steps look like a killed one of so many rows; the settings of that."""
    settings = settings | {"batch_size": BATCH, "max_samples": None}
    posttrain.run(settings | {"budget": 3 * BATCH}, out)
    manifest, rows = Manifest.load(out), read_trace(out)
    assert manifest is not None
    rows = rows[rows["step"] == 0].reset_index(drop=True)
    for path in (out / FOLDER).iterdir():
        path.unlink()
    components = trace_components(rows.columns)
    trace = TraceWriter(out, components, manifest.run_id, manifest.config_hash)
    n_steps = n_rows // BATCH
    for step in range(n_steps):  # molecules of their own, as a run that has found so many
        names = rows["canonical_smiles"] + "." + "C" * (step % 50) + "N" * (step // 50)
        calls = (rows.index + 1 + step * BATCH).to_series(index=rows.index).astype("Int64")
        repeats = rows["canonical_smiles"].isna()
        trace.append(
            rows.assign(step=step, canonical_smiles=names, call=calls.mask(repeats), repeat=False)
        )
        if step % 50 == 49 or step == n_steps - 1:
            trace.cut()
    checkpoint = out / LAST_CHECKPOINT
    reopen(checkpoint, torch.load(checkpoint, weights_only=True), n_steps)
    return settings | {"budget": 2 * n_rows}


def seconds_to_resume(settings: Any, out: Path) -> tuple[float, float]:
    """Go on with a run up to its next step: seconds of the processor, and by the clock."""

    def stop(*_: Any) -> None:
        raise Reached

    begin = time.process_time(), time.perf_counter()
    with wrapped(Posttrain, "training_step", stop), suppress(Reached):
        posttrain.run(settings, out)
    return time.process_time() - begin[0], time.perf_counter() - begin[1]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    calls = "calls of the quickstart run, at most"
    parser.add_argument("--budget", type=int, default=3000, help=calls)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the run that goes on")
    asked = parser.parse_args()
    source = shipped_root() / "configs/posttrain/quickstart.yaml"
    given = STAGES["posttrain"].load(source, [f"budget={asked.budget}"])
    settings = given.model_dump() | {"callbacks": {"progress_bar": False}}
    with tempfile.TemporaryDirectory() as folder:
        quick, long = Path(folder, "quickstart"), Path(folder, "long")
        share = share_of_keeping(settings, quick)
        paid = read_trace(quick, ["call"])["call"]
        row = sum(path.stat().st_size for path in (quick / FOLDER).iterdir()) / len(paid)
        n_calls = int(paid.count())  # max_samples may end it before
        longer = lengthen(settings, long, asked.rows)
        processor, wall = seconds_to_resume(longer, long)
    print(f"checkpoints and trace: {share:.2%} of a run of {n_calls:,} calls (at most 3 %)")
    print(f"trace: {row:.1f} bytes a row (at most 90)")
    print(
        f"going on with {asked.rows:,} rows: {processor:.1f} s of the processor, {wall:.1f} s by "
        "the clock (at most 10)"
    )


if __name__ == "__main__":
    main()
