"""Where a network can run on this machine."""

import torch

from chemkl.config import InputError


def check_device(device: str) -> None:
    """Put something on a device and read it back.

    Raises:
        InputError: there is no such device here, or it cannot be used.
    """
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device: {device!r} cannot be used here: {reason}") from None
