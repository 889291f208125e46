"""What a checksum costs a checkpoint: `python tests/results/bench_seal.py`."""

import tempfile
import time
from pathlib import Path

import torch

from chemkl.results.atomic import atomic_file
from chemkl.results.seal import check_seal

N_WEIGHTS = 5_000_000


def seconds(work):
    """The shortest of seven times, of the wall and of the processor."""
    times = []
    for _ in range(7):
        wall, own = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - wall, time.process_time() - own))
    return tuple(min(column) for column in zip(*times, strict=True))


def main():
    weights = torch.randn(N_WEIGHTS)
    state = {
        "state_dict": {"w": weights},
        "optimizer_states": [{"m": weights + 1, "v": weights**2}],
    }

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.ckpt"

        def write(sealed):
            with atomic_file(path, sealed=sealed, note="step 1") as aside:
                torch.save(state, aside)

        for name, work in (
            ("written without a checksum", lambda: write(False)),
            ("written with one", lambda: write(True)),
            ("checked", lambda: check_seal(path)),
        ):
            wall, own = seconds(work)
            size = path.stat().st_size / 1e6
            print(f"{name:28} {size:.0f} MB: {wall:.3f} s, {own:.3f} s of the processor")


if __name__ == "__main__":
    main()
