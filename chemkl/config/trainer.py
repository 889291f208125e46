"""Settings that every training stage passes on to Lightning's trainer."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator

Precision = Literal["32-true", "bf16-mixed"]
"""32-true: float32 throughout; bf16-mixed: matrix products in bfloat16, everything from the
log-softmax on in float32."""

_OURS = {
    "callbacks": "use the callbacks section",
    "default_root_dir": "the output folder is given with --out",
    "enable_checkpointing": "checkpoints are always written",
    "logger": "logs are always written to the output folder",
    "max_epochs": "use epochs (pretrain) or budget and max_samples (posttrain)",
    "precision": "use the key precision at the top level",
    "use_distributed_sampler": "each process gets its own rows already",
}


def _not_ours(settings: dict[str, Any]) -> dict[str, Any]:
    """Refuse arguments that the stage itself gives to the trainer."""
    taken = [f"{key}: {_OURS[key]}" for key in settings if key in _OURS]
    if taken:
        raise ValueError(f"these are not set here: {'; '.join(taken)}")
    return settings


TrainerSettings = Annotated[dict[str, Any], AfterValidator(_not_ours)]
"""Further arguments of lightning.Trainer by name."""
