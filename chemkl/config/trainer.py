"""Settings that every training stage passes on to Lightning's trainer."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

Precision = Literal["auto", "32-true", "bf16-mixed"]
"""32-true: float32 throughout; bf16-mixed: matrix products in bfloat16, everything from the
log-softmax on in float32; auto: bf16-mixed where a short measurement at the start shows that the
device does it, and faster."""

OURS = {
    "callbacks": "use the callbacks section",
    "default_root_dir": "the output folder is given with --out",
    "enable_checkpointing": "checkpoints are always written",
    "logger": "logs are always written to the output folder",
    "max_epochs": "use epochs (pretrain) or budget and max_samples (posttrain)",
    "precision": "use the key precision at the top level",
    "use_distributed_sampler": "each process gets its own rows already",
}
"""Arguments of the trainer that a stage itself gives, and what the user takes instead."""


def refuse(settings: dict[str, Any], taken: Mapping[str, str]) -> dict[str, Any]:
    """Refuse arguments of the trainer that are not the user's to set.

    Args:
        settings: what the user gave.
        taken: what is not to be given, and what to take instead.

    Returns:
        The settings as they are.

    Raises:
        ValueError: naming every one of them.
    """
    wrong = [f"{key}: {taken[key]}" for key in settings if key in taken]
    if wrong:
        raise ValueError(f"these are not set here: {'; '.join(wrong)}")
    return settings


def _not_ours(settings: dict[str, Any]) -> dict[str, Any]:
    return refuse(settings, OURS)


TrainerSettings = Annotated[dict[str, Any], AfterValidator(_not_ours)]
"""Further arguments of lightning.Trainer by name, for example log_every_n_steps (0: no logs)."""
