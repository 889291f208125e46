"""The precision of a training run (for ``auto`` the faster one on this device), and its threads.

A device supports bf16-mixed if an LSTM, forward and backward, and a matrix product run on it under
autocast to bfloat16. CPUs with AVX2 only have no such LSTM; on those with AVX-512 but without
bfloat16 units it runs, slower than in float32.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import torch
from torch import nn

from chemkl.config import InputError
from chemkl.config.posttrain import Precision
from chemkl.policies.rnn import in_float32
from chemkl.results.manifest import Manifest
from chemkl.results.provenance import UsedPrecision
from chemkl.training.ranks import is_launched
from chemkl.training.trainer import devices_of

FASTER = 1.15
"""The least speedup at which `auto` takes bf16-mixed: if both are about as fast, float32 is more
exact, and two runs on one machine should not differ."""
REPEATS = 5
"""How often the probe runs in each precision, in turn; the fastest of each counts."""
LEAST_CAPABILITY = (8, 0)
"""The lowest CUDA compute capability with bfloat16 units."""
CPU_WORK = (16, 16, 256, 512)
"""The size of the probe on a CPU: batch, length, units of the LSTM, side of the matrices."""
GPU_WORK = (512, 32, 1024, 4096)
"""The same on other devices, which are fast on large matrices only."""
KEPT = "as this run began; "
"""Prefix of the reason for a resumed run's precision."""

_UNSUPPORTED = (RuntimeError, AssertionError, TypeError, ValueError)
"""What torch raises for an operation that a device lacks."""


def check_precision(precision: Precision, trainer: Mapping[str, Any]) -> None:
    """Check that the trainer's device supports a precision.

    Raises:
        InputError: the device does not support bf16-mixed, or does not exist.
    """
    if precision == "bf16-mixed":
        fix = "Take precision: auto, which uses it where the device does it faster, or 32-true."
        _require_bf16(devices_of(trainer)[0], "precision: bf16-mixed", fix)


def _require_bf16(device: torch.device, what: str, fix: str) -> None:
    if lacks := missing(device):
        raise InputError(f"{what} cannot be used on this device ({device.type}): {lacks}. {fix}")


def settle(
    precision: Precision, trainer: Mapping[str, Any], out_dir: Path, config: Mapping[str, Any]
) -> UsedPrecision:
    """Choose precision and threads of a run, and set the threads; a resumed run keeps its own.

    torch uses a thread for each core, or OMP_NUM_THREADS. Scoring workers do not reduce the number,
    since training waits while they score. Waiting threads do not spin (see `chemkl.cli.main`), so
    two runs on one machine do not slow each other down.

    Args:
        precision: the setting.
        trainer: the user's arguments of Lightning's trainer.
        out_dir: folder of the run.
        config: the resolved config, as JSON types.

    Raises:
        InputError: the device does not exist, or does not support the precision.
    """
    check_precision(precision, trainer)
    device, n_devices = devices_of(trainer)
    manifest = Manifest.load(out_dir)
    if manifest is None or manifest.precision is None or not manifest.continues_with(config):
        # processes that this one starts share its threads. Setting the number also switches off
        # MKL's dynamic choice, so every start sets it, not the probe alone
        sharing = 1 if is_launched() else n_devices
        torch.set_num_threads(max(1, torch.get_num_threads() // sharing))
        chosen = _choose(precision, device, n_devices)
        used = {"threads": torch.get_num_threads(), "devices": n_devices}
        return chosen.model_copy(update=used)
    # with other threads a resumed run would round differently
    torch.set_num_threads(manifest.precision.threads or torch.get_num_threads())
    why = f"{KEPT}{manifest.precision.why.removeprefix(KEPT)}"
    begun: UsedPrecision = manifest.precision.model_copy(
        update={"why": why, "threads": torch.get_num_threads()}
    )
    if begun.used == "bf16-mixed":
        fix = (
            "A run keeps its precision. Continue it on a device like the first, choose another "
            "folder with --out, or start again with --fresh."
        )
        _require_bf16(device, f"{out_dir}: this run began in bf16-mixed, which", fix)
    return begun


def _choose(precision: Precision, device: torch.device, n_devices: int) -> UsedPrecision:
    """Choose the precision of a new run."""
    ratio = None
    if precision != "auto":
        used, why = precision, "as asked for"
    elif lacks := missing(device):
        used, why = "32-true", f"auto: bf16-mixed cannot be used on this device: {lacks}"
    elif n_devices > 1:  # each process would measure for itself, and they might disagree
        used = "bf16-mixed" if device.type == "cuda" else "32-true"
        why = "auto: not measured on several devices"
    else:
        ratio = speedup(device)
        used = "bf16-mixed" if ratio >= FASTER else "32-true"
        why = f"auto: bf16-mixed is {ratio:.2g} times as fast as 32-true on this device"
        ratio = round(ratio, 2)
    return UsedPrecision(used=used, why=why, device=device.type, speedup=ratio)


@cache
def missing(device: torch.device) -> str:
    """Return the reason why a device does not support bf16-mixed; empty if it does."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < LEAST_CAPABILITY:
            has, needs = (".".join(map(str, version)) for version in (capability, LEAST_CAPABILITY))
            return f"its compute capability is {has}, and bfloat16 needs {needs}"
    try:
        with torch.autocast(device.type, torch.bfloat16):
            _work(device, 2, 2, 16, 16)()
    except _UNSUPPORTED as error:
        reason = str(error).split("\n", maxsplit=1)[0].split(". ", maxsplit=1)[0]
        return f"an LSTM or a matrix product in bfloat16 does not run on it ({reason})"
    return ""


@cache
def speedup(device: torch.device) -> float:
    """Measure how many times as fast as 32-true bf16-mixed is on a device that supports it.

    On a CPU the processor time of one thread counts, so other programs do not matter.
    """
    is_cpu = device.type == "cpu"
    clock = thread_time if is_cpu else perf_counter
    fastest = {True: float("inf"), False: float("inf")}
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a busy machine
    try:
        work = _work(device, *(CPU_WORK if is_cpu else GPU_WORK))
        for repeat in range(1 + REPEATS):
            for is_bf16 in fastest:
                began = clock()
                with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
                    work()
                if repeat:  # the first run warms up
                    fastest[is_bf16] = min(fastest[is_bf16], clock() - began)
    finally:
        torch.set_num_threads(n_threads)
    return fastest[False] / fastest[True]


def _work(
    device: torch.device, batch: int, length: int, units: int, side: int
) -> Callable[[], object]:
    """Return a function that runs the probe once and waits for the device."""
    with torch.random.fork_rng(devices=[]):  # the weights are drawn on the CPU
        lstm = nn.LSTM(units, units)
    lstm.to(device)
    inputs = torch.ones(length, batch, units, device=device)
    matrix = torch.ones(side, side, device=device)

    def work() -> float:
        lstm.zero_grad()
        with in_float32(device):
            hidden, _ = lstm(inputs)
        hidden.float().sum().backward()
        return (matrix @ matrix).float().sum().item()

    return work
