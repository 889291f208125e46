"""What post-training runs of molecules and of texts have in common: going on, and making steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from chemkl.config import InputError
from chemkl.config.llm import LlmPosttrainConfig
from chemkl.config.posttrain import PosttrainConfig
from chemkl.results.trace import read_orphans, read_trace
from chemkl.training.posttrain import Posttrain, StepLoader
from chemkl.training.trainer import Checkpoint, build_trainer, quiet

if TYPE_CHECKING:
    from lightning import Callback, Trainer

AnyConfig = PosttrainConfig | LlmPosttrainConfig


def trainer_of(config: AnyConfig, out: Path, callbacks: "Sequence[Callback]") -> "Trainer":
    """Build the trainer of a run.

    Raises:
        InputError: Lightning refuses the settings.
    """
    with quiet():
        return build_trainer(
            out,
            {"devices": 1, **config.trainer},
            callbacks,
            max_epochs=1,
            precision=config.precision,
            enable_progress_bar=False,  # Lightning's counts steps, and it is calls that end a run
        )


def bring_back(start: Path | None, module: Posttrain, out: Path) -> pd.DataFrame | None:
    """Bring trace and ledger to the step of a checkpoint; what was paid beyond is kept.

    Args:
        start: the checkpoint; None: there is none yet.
        module: as it is at the beginning of a run.
        out: folder of the run.

    Returns:
        The rows of the trace up to there; None at the beginning.

    Raises:
        InputError: another stage wrote the checkpoint, or the trace is not as long as it says.
    """
    if start is not None:
        saved = _read_checkpoint(start)
        module.load_state_dict(saved["state_dict"])
        module.on_load_checkpoint(saved)
    module.trace.resume(module.next_step)
    paid = read_orphans(out)
    if paid is not None:
        module.ledger.remember(paid)
    last = module.trace.last_step
    if module.next_step != (0 if last is None else last + 1):
        raise InputError(
            f"{out}: the trace ends with step {last}, but the checkpoint goes on with step "
            f"{module.next_step}. Restore the missing part of the trace from a copy, or run again "
            "with --fresh."
        )
    if not module.next_step:
        return None
    past = read_trace(out)
    module.ledger.restore(past)
    return past


def fit(
    config: AnyConfig,
    out: Path,
    module: Posttrain,
    callbacks: "Sequence[Callback]",
    start: Path | None,
) -> None:
    """Make the steps that are left, from the state that the checkpoint holds."""
    saving = Checkpoint(out, config.callbacks.checkpoint_every, before=module.trace.cut)
    loader = StepLoader(-(-config.most_samples // config.batch_size))
    trainer = trainer_of(config, out, [saving, *callbacks])
    with quiet():
        trainer.fit(module, loader, ckpt_path=start, weights_only=True)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing but tensors and plain values is unpickled.

    Raises:
        InputError: another stage wrote it.
    """
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if "next_step" not in saved:
        raise InputError(
            f"{path}: a checkpoint, but not of a posttrain run. Delete it to begin the run anew, "
            "or put back a good copy."
        )
    return saved
