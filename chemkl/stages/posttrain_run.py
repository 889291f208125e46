"""What post-training runs of molecules and of texts have in common: going on, and making steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from chemkl.config import InputError
from chemkl.config.llm import LlmPosttrainConfig
from chemkl.config.posttrain import PosttrainConfig
from chemkl.results.manifest import Manifest
from chemkl.results.outcome import read_outcome
from chemkl.results.provenance import UsedPrecision
from chemkl.results.seal import check_seal
from chemkl.results.trace import TraceWriter, list_parts, read_orphans, read_part, read_trace
from chemkl.stages.aside import free_name
from chemkl.stages.terminal import say
from chemkl.training.collapse import ENDED_BY, CollapseAlarm
from chemkl.training.posttrain import Posttrain, StepLoader
from chemkl.training.precision import settle
from chemkl.training.trainer import Checkpoint, build_trainer, fit, last_checkpoint, quiet, reopen

if TYPE_CHECKING:
    from lightning import Callback, Trainer

AnyConfig = PosttrainConfig | LlmPosttrainConfig
EVALUATION = "evaluation"
_SAMPLES = {PosttrainConfig: "max_samples", LlmPosttrainConfig: "max_steps"}
"""What each calls the limit of samples."""


def trainer_settings(config: AnyConfig) -> dict[str, Any]:
    """The user's arguments of the trainer: of one device, whatever there are."""
    return {"devices": 1, **config.trainer}


def trainer_of(
    config: AnyConfig, out: Path, callbacks: "Sequence[Callback]", precision: UsedPrecision
) -> "Trainer":
    """Build the trainer of a run.

    Args:
        config: the settings.
        out: folder of the run.
        callbacks: what the stage brings.
        precision: that is used.

    Raises:
        InputError: Lightning refuses the settings.
    """
    with quiet():
        return build_trainer(
            out,
            trainer_settings(config),
            callbacks,
            max_epochs=1,
            precision=precision.used,
        )


def trace_of(
    out: Path,
    component_names: Sequence[str],
    manifest: Manifest,
    alarm: CollapseAlarm | None,
    *,
    text: bool = False,
) -> TraceWriter:
    """Open the trace of a run.

    Args:
        out: folder of the run.
        component_names: of the reward.
        manifest: of the run.
        alarm: watches for a collapse; None: nothing does.
        text: whether a language model writes the rows.

    Raises:
        InputError: the folder holds the trace of another config.
    """
    if alarm is not None:
        manifest.beside = {"collapse": alarm.settings}
        manifest.save()
    earlier = [each["config_hash"] for each in manifest.extended]
    ids = (manifest.run_id, manifest.config_hash)
    return TraceWriter(out, component_names, *ids, earlier=earlier, text=text)


def check_spent(config: AnyConfig, out: Path) -> None:
    """Refuse limits below what the run in a folder has spent.

    Raises:
        InputError: with each.
    """
    if not list_parts(out):
        return
    call = read_trace(out, ["call"])["call"]
    limits = [
        ("budget", config.budget, int(call.count()), "oracle calls"),
        (_SAMPLES[type(config)], config.most_samples, len(call), "samples"),
    ]
    problems = [
        f"{out}: the run has spent {spent:,} {what}, more than {key} allows ({limit:,}): it can be "
        "made longer, not shorter. Choose another folder with --out, or begin anew with --fresh."
        for key, limit, spent, what in limits
        if limit is not None and spent > limit
    ]
    if problems:
        raise InputError("\n".join(problems))


def make_steps(
    config: AnyConfig,
    out: Path,
    module: Posttrain,
    alarm: CollapseAlarm | None,
    callbacks: "Sequence[Callback]",
    precision: UsedPrecision,
) -> None:
    """Go on from the last checkpoint to the end of the run, unless it has come to that already.

    Args:
        config: the settings.
        out: folder of the run.
        module: as it is at the beginning of a run.
        alarm: watches for a collapse; None: nothing does.
        callbacks: beside alarm and checkpoints.
        precision: that is used.

    Raises:
        InputError: see `bring_back`; or the policy has diverged.
    """
    start = last_checkpoint(out)
    if start is not None:
        start = _reopened(start, out, config.batch_size)
    past = bring_back(start, module, out)
    if alarm is not None and past is not None:
        alarm.restore(past)
    if start is not None:
        say(f"{out}: resumes at step {module.next_step}")
    if module.is_finished or (alarm is not None and alarm.ends_the_run):
        return
    if (out / EVALUATION).is_dir():  # of a trace that grows now
        (out / EVALUATION).rename(free_name(out / EVALUATION))
    own = [] if alarm is None else [alarm]
    saving = Checkpoint(out, config.callbacks.checkpoint_every, before=module.trace.cut)
    loader = StepLoader(-(-config.most_samples // config.batch_size))
    trainer = trainer_of(config, out, [saving, *own, *callbacks], precision)
    fit(trainer, module, loader, start)


def settled(config: AnyConfig, out: Path) -> UsedPrecision:
    """Settle the precision, while the folder is untouched, and look at trainer and past of a run.

    Raises:
        InputError: the device, or Lightning, refuses the settings; or the checkpoint or a part of
            the trace, which the run would go on from, is damaged.
    """
    plain = config.model_dump(mode="json")
    precision = settle(config.precision, trainer_settings(config), out, plain)
    trainer_of(config, out, [], precision)
    last_checkpoint(out)
    for part in list_parts(out):
        check_seal(part.path, "Restore it from a copy, or run again with --fresh.")
    return precision


def ended_by(module: Posttrain, limit: str) -> str:
    """Name what ended a run; a collapse is the end of one that had more to spend.

    Args:
        module: after its last step.
        limit: what the config calls the limit of samples.
    """
    if module.ledger.spent:
        return "budget"
    return limit if module.is_finished else ENDED_BY


def counts_of(module: Posttrain) -> dict[str, int]:
    """What a run has spent."""
    ledger = module.ledger
    return {"calls": ledger.n_calls, "samples": ledger.n_samples, "steps": module.next_step}


def tell_end(out: Path, manifest: Manifest, failures: Sequence[str]) -> None:
    """Say what ended a run, what it found, whether it collapsed, and what failed.

    Args:
        out: folder of the run.
        manifest: finished, with the counts among its results.
        failures: a line for each kind.
    """
    calls, samples = manifest.results["calls"], manifest.results["samples"]
    say(f"{out}: ended by {manifest.ended_by}: {calls:,} calls, {samples:,} samples")
    for line in [*read_outcome(out, manifest).lines(), *failures]:
        say(f"{out}: {line}")


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


def _reopened(start: Path, out: Path, batch_size: int) -> Path | None:
    """Let a run that came to its end go on from there, if its limits have been raised.

    A step that the end cut short was not learnt from: it is made again, whole where the limits
    allow it, and what was paid for its rows is read back.

    Returns:
        The checkpoint; None where the first step was cut short.
    """
    saved = _read_checkpoint(start)
    parts, step = list_parts(out), saved["next_step"]
    if parts and parts[-1].last == step - 1:
        steps = read_part(parts[-1].path, ["step"])["step"].to_pylist()
        step -= steps.count(step - 1) < batch_size
    if not step:
        start.unlink()
        return None
    if step < saved["next_step"] or saved["epoch"]:
        reopen(start, saved, step)
    return start


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
