"""The posttrain stage: a prior is walked to a target distribution, and every molecule is kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from chemkl.config import InputError, load_config
from chemkl.config.posttrain import PosttrainConfig
from chemkl.policies import Policy, freeze, load_policy, save_policy
from chemkl.results.manifest import Manifest
from chemkl.results.trace import TraceWriter, read_orphans, read_trace
from chemkl.rewards import RewardModel
from chemkl.rewards.failures import describe_failures
from chemkl.rewards.keys import reward_files
from chemkl.rewards.waiting import nothing_shown
from chemkl.stages.posttrain_config import build_objective, check, problems_beside
from chemkl.training.diversity_filter import build_filter
from chemkl.training.ledger import Ledger
from chemkl.training.posttrain import Posttrain, StepLoader
from chemkl.training.progress import CallsBar
from chemkl.training.trainer import (
    CHECKPOINTS,
    POLICY,
    Checkpoint,
    build_trainer,
    last_checkpoint,
    quiet,
)

if TYPE_CHECKING:
    from lightning import Callback, Trainer

__all__ = ["check", "problems_beside", "run"]


def run(config: PosttrainConfig | Mapping[str, Any] | str | Path, out_dir: str | Path) -> Path:
    """Post-train a policy, or continue where a killed run stopped.

    Returns:
        The path of the policy's model file.

    Raises:
        InputError: the config, a model file, or a folder that holds another run.
    """
    config = load_config(PosttrainConfig, config, beside=problems_beside)
    check(config)
    out = Path(out_dir)
    model_file, plain = out / CHECKPOINTS / POLICY, config.model_dump(mode="json")
    if Manifest.is_finished(out, "posttrain", plain) and model_file.exists():
        Console(stderr=True, soft_wrap=True).print(f"{out}: complete; --fresh makes it anew")
        return model_file
    # what can go wrong with the models and the trainer does so before the folder is claimed
    policy, reference = load_policy(config.agent or config.prior), load_policy(config.prior)
    _trainer(config, out, [])
    models = {"prior": config.prior, "agent": config.agent}
    with (
        RewardModel.from_config(config.reward) as reward,
        Manifest.start(
            out,
            stage="posttrain",
            config=plain,
            seed=config.seed,
            inputs={role: path for role, path in models.items() if path is not None}
            | reward_files(config.reward),
        ) as manifest,
    ):
        module = _module(config, out, manifest, policy, reference, reward)
        start = last_checkpoint(out)
        _continue(start, module, out)
        if start is not None:
            say = Console(stderr=True, soft_wrap=True, highlight=False)
            say.print(f"{out}: resumes at step {module.next_step}", markup=False)
        if not module.is_finished:
            _fit(config, out, module, start)
        module.trace.compact()
        ledger = module.ledger
        counts = {
            "calls": ledger.n_calls,
            "samples": ledger.n_samples,
            "steps": module.next_step,
        }
        provenance = {
            "stage": "posttrain",
            "run_id": manifest.run_id,
            "config_hash": manifest.config_hash,
            "prior_sha256": manifest.inputs["prior"].sha256,
            "versions": manifest.versions,
            **counts,
        }
        save_policy(module.policy, model_file, provenance)
        manifest.finish(ended_by="budget" if ledger.spent else "max_samples", results=counts)
    ended = f"ended by {manifest.ended_by}: {ledger.n_calls:,} calls, {ledger.n_samples:,} samples"
    say = Console(stderr=True, soft_wrap=True, highlight=False)
    say.print(f"{out}: {ended}", markup=False)
    for line in describe_failures(reward.failures):
        say.print(f"{out}: {line}", markup=False)
    return model_file


def _module(
    config: PosttrainConfig,
    out: Path,
    manifest: Manifest,
    policy: Policy,
    reference: Policy,
    reward: RewardModel,
) -> Posttrain:
    """Put the parts of a run together."""
    if config.callbacks.progress_bar:
        reward.show_progress(nothing_shown)  # a second bar in the same place would fight the first
    return Posttrain(
        policy,
        freeze(reference),
        Ledger(reward, build_filter(config.diversity_filter), config.budget),
        build_objective(config.objective),
        TraceWriter(out, reward.component_names, manifest.run_id, manifest.config_hash),
        batch_size=config.batch_size,
        most_samples=config.most_samples,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )


def _trainer(config: PosttrainConfig, out: Path, callbacks: "list[Callback]") -> "Trainer":
    with quiet():
        return build_trainer(
            out,
            {"devices": 1, **config.trainer},
            callbacks,
            max_epochs=1,
            precision=config.precision,
            enable_progress_bar=False,  # Lightning's counts steps, and it is calls that end a run
        )


def _fit(config: PosttrainConfig, out: Path, module: Posttrain, start: Path | None) -> None:
    """Make the steps that are left, from the state that the checkpoint holds."""
    callbacks: list[Callback] = [
        Checkpoint(out, config.callbacks.checkpoint_every, before=module.trace.cut)
    ]
    if config.callbacks.progress_bar:
        callbacks.append(CallsBar(module.ledger, config.budget))
    loader = StepLoader(-(-config.most_samples // config.batch_size))
    trainer = _trainer(config, out, callbacks)
    with quiet():
        trainer.fit(module, loader, ckpt_path=start, weights_only=True)


def _continue(start: Path | None, module: Posttrain, out: Path) -> None:
    """Bring trace and ledger to the step of the checkpoint; rewards paid beyond it stay known."""
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
    if module.next_step:
        module.ledger.restore(read_trace(out))


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
