"""Where a network can run on this machine."""

import torch

from chemkl.config import InputError, did_you_mean

KNOWN = ("cpu", "cuda", "mps")
"""Kinds of device that are offered; another one of torch's may do as well."""
CALLED = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps"}
"""What people call them."""


def check_device(device: str) -> None:
    """Put something on a device and read it back.

    Raises:
        InputError: there is no such device here, or it cannot be used.
    """
    try:
        torch.device(device)
    except (RuntimeError, ValueError):
        name = device.partition(":")[0].strip().lower()
        hint = did_you_mean(CALLED.get(name, name), KNOWN)
        raise InputError(f"device: {device!r} cannot be used here: no such device{hint}") from None
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device: {device!r} cannot be used here: {reason}") from None
