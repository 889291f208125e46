"""The precision of a training run, asked for or for ``auto`` the faster one here, and its threads.

A device does bf16-mixed if an LSTM, forward and backward, and a matrix product run on it under
autocast to bfloat16. Processors with AVX2 only have no such LSTM; on those with AVX-512 but without
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
"""`auto` takes bf16-mixed if it is at least so many times as fast as 32-true: where both are about
as fast, two starts on one machine should not differ, and float32 is the more exact."""
REPEATS = 5
"""How often the probe does its work in each precision, in turn; the fastest of each counts."""
LEAST_CAPABILITY = (8, 0)
"""CUDA's compute capability from which on a GPU has bfloat16 units."""
WORK = {"cpu": (16, 16, 256, 512)}
"""The probe's work on a kind of device: batch, length, units of the LSTM, side of the matrices."""
WORK_OF_OTHERS = (512, 32, 1024, 4096)
"""That of a GPU, which shows what it can on large matrices only."""
KEPT = "as this run began; "
"""Stands before the reason of a resumed run's precision."""

_NOT_DONE = (RuntimeError, AssertionError, TypeError, ValueError)
"""What torch raises for an operation that a device does not have."""


def check_precision(asked: Precision, trainer: Mapping[str, Any]) -> None:
    """Find out whether the trainer's device does the precision that is asked for.

    Raises:
        InputError: the device cannot do bf16-mixed, or is not there.
    """
    if asked == "bf16-mixed":
        fix = "Take precision: auto, which uses it where the device does it faster, or 32-true."
        _need_bf16(devices_of(trainer)[0], "precision: bf16-mixed", fix)


def _need_bf16(device: torch.device, what: str, fix: str) -> None:
    """Refuse what is in bf16-mixed on a device that lacks something for it."""
    if lacks := missing(device):
        raise InputError(f"{what} cannot be used on this device ({device.type}): {lacks}. {fix}")


def settle(
    asked: Precision, trainer: Mapping[str, Any], out_dir: Path, config: Mapping[str, Any]
) -> UsedPrecision:
    """Decide precision and threads of a run that is about to start; a resumed one keeps its own.

    torch takes a thread for each core, or as many as OMP_NUM_THREADS says. Workers that score take
    none of them away: they work while the training waits for them. Threads that wait do not spin
    (see `chemkl.cli.main`), so that two runs side by side do not hold each other up.

    Args:
        asked: the setting.
        trainer: the user's arguments of Lightning's trainer.
        out_dir: folder of the run.
        config: the resolved config, as JSON types.

    Raises:
        InputError: the device is not there, or cannot do what is asked for, or what the run began
            with.
    """
    check_precision(asked, trainer)
    device, n_devices = devices_of(trainer)
    manifest = Manifest.load(out_dir)
    if manifest is None or manifest.precision is None or not manifest.continues_with(config):
        # processes that this one starts share its threads. Setting the number ends MKL's own choice
        # of it too, for good: every start does it, not the probe
        sharing = 1 if is_launched() else n_devices
        torch.set_num_threads(max(1, torch.get_num_threads() // sharing))
        chosen = _choose(asked, device, n_devices)
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
            "A run does not change its precision on the way. Go on with it on a device like the "
            "first, choose another folder with --out, or begin anew with --fresh."
        )
        _need_bf16(device, f"{out_dir}: this run began in bf16-mixed, which", fix)
    return begun


def _choose(asked: Precision, device: torch.device, n_devices: int) -> UsedPrecision:
    """Choose for a new run."""
    ratio = None
    if asked != "auto":
        used, why = asked, "as asked for"
    elif lacks := missing(device):
        used, why = "32-true", f"auto: bf16-mixed cannot be used on this device: {lacks}"
    elif n_devices > 1:  # their processes would measure each for itself, and might not agree
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
    """Say in words what a device, which is there, lacks for bf16-mixed; empty: nothing."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < LEAST_CAPABILITY:
            has, needs = (".".join(map(str, version)) for version in (capability, LEAST_CAPABILITY))
            return f"its compute capability is {has}, and bfloat16 needs {needs}"
    try:
        with torch.autocast(device.type, torch.bfloat16):
            _work(device, 2, 2, 16, 16)()
    except _NOT_DONE as error:
        reason = str(error).split("\n", maxsplit=1)[0].split(". ", maxsplit=1)[0]
        return f"an LSTM or a matrix product in bfloat16 does not run on it ({reason})"
    return ""


@cache
def speedup(device: torch.device) -> float:
    """Measure how many times as fast as 32-true bf16-mixed is on a device that does it.

    On a processor it is the time of one thread that counts, without what other programs take.
    """
    on_processor = device.type == "cpu"
    clock = thread_time if on_processor else perf_counter
    fastest = {True: float("inf"), False: float("inf")}
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other on a busy machine
    try:
        work = _work(device, *WORK.get(device.type, WORK_OF_OTHERS))
        for repeat in range(1 + REPEATS):
            for rough in fastest:
                began = clock()
                with torch.autocast(device.type, torch.bfloat16, enabled=rough):
                    work()
                if repeat:  # the first one makes what the others use again
                    fastest[rough] = min(fastest[rough], clock() - began)
    finally:
        torch.set_num_threads(n_threads)
    return fastest[False] / fastest[True]


def _work(
    device: torch.device, batch: int, length: int, units: int, side: int
) -> Callable[[], object]:
    """Make the probe's work; what is called ends when the device has done it."""
    with torch.random.fork_rng(devices=[]):  # the weights are drawn on the processor
        lstm = nn.LSTM(units, units)
    lstm.to(device)
    given = torch.ones(length, batch, units, device=device)
    matrix = torch.ones(side, side, device=device)

    def work() -> float:
        lstm.zero_grad()
        with in_float32(device):
            hidden, _ = lstm(given)
        hidden.float().sum().backward()
        return (matrix @ matrix).float().sum().item()

    return work
