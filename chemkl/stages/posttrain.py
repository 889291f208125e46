"""The posttrain stage: a prior is walked to a target distribution, and every molecule is kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemkl.config import load_config
from chemkl.config.posttrain import PosttrainConfig
from chemkl.policies import Policy, freeze, load_policy, save_policy
from chemkl.results.manifest import Manifest
from chemkl.results.trace import TraceWriter
from chemkl.rewards import RewardModel
from chemkl.rewards.failures import describe_failures
from chemkl.rewards.keys import reward_files
from chemkl.rewards.waiting import nothing_shown
from chemkl.stages.posttrain_config import build_objective, check, problems_beside
from chemkl.stages.posttrain_run import bring_back, fit, trainer_of
from chemkl.stages.terminal import say
from chemkl.training.collapse import ENDED_BY, CollapseAlarm, WatchedTrace, build_alarm
from chemkl.training.diversity_filter import build_filter
from chemkl.training.ledger import Ledger
from chemkl.training.posttrain import Posttrain
from chemkl.training.progress import CallsBar
from chemkl.training.trainer import CHECKPOINTS, POLICY, last_checkpoint

if TYPE_CHECKING:
    from lightning import Callback

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
        say(f"{out}: complete; --fresh makes it anew")
        return model_file
    # what can go wrong with the models and the trainer does so before the folder is claimed
    policy, reference = load_policy(config.agent or config.prior), load_policy(config.prior)
    trainer_of(config, out, [])
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
        alarm = build_alarm(config, lambda line: say(f"{out}: {line}"))
        module = _module(config, out, manifest, policy, reference, reward, alarm)
        start = last_checkpoint(out)
        past = bring_back(start, module, out)
        if alarm is not None and past is not None:
            alarm.restore(past)
        if start is not None:
            say(f"{out}: resumes at step {module.next_step}")
        if not (module.is_finished or (alarm and alarm.ends_the_run)):
            _fit(config, out, module, alarm, start)
        module.trace.compact()
        counts = _counts(module)
        save_policy(policy, model_file, _provenance(manifest) | counts)
        collapse = alarm.results if alarm else {}
        manifest.finish(ended_by=_ended_by(module), results=counts | collapse)
    ended = f"{counts['calls']:,} calls, {counts['samples']:,} samples"
    say(f"{out}: ended by {manifest.ended_by}: {ended}")
    if alarm and alarm.turns:
        say(f"{out}: {alarm.summary}")
    for line in describe_failures(reward.failures):
        say(f"{out}: {line}")
    return model_file


def _counts(module: Posttrain) -> dict[str, int]:
    """What a run has spent."""
    ledger = module.ledger
    return {"calls": ledger.n_calls, "samples": ledger.n_samples, "steps": module.next_step}


def _provenance(manifest: Manifest) -> dict[str, Any]:
    """Where the policy comes from; it is kept in its model file."""
    return {
        "stage": "posttrain",
        "run_id": manifest.run_id,
        "config_hash": manifest.config_hash,
        "prior_sha256": manifest.inputs["prior"].sha256,
        "versions": manifest.versions,
    }


def _module(
    config: PosttrainConfig,
    out: Path,
    manifest: Manifest,
    policy: Policy,
    reference: Policy,
    reward: RewardModel,
    alarm: CollapseAlarm | None,
) -> Posttrain:
    """Put the parts of a run together."""
    if config.callbacks.progress_bar:
        reward.show_progress(nothing_shown)  # a second bar in the same place would fight the first
    return Posttrain(
        policy,
        freeze(reference),
        Ledger(reward, build_filter(config.diversity_filter), config.budget),
        build_objective(config.objective),
        _trace(out, reward.component_names, manifest, alarm),
        batch_size=config.batch_size,
        most_samples=config.most_samples,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )


def _trace(
    out: Path, component_names: Sequence[str], manifest: Manifest, alarm: CollapseAlarm | None
) -> TraceWriter:
    own = (out, component_names, manifest.run_id, manifest.config_hash)
    return TraceWriter(*own) if alarm is None else WatchedTrace(*own, alarm.watch)


def _ended_by(module: Posttrain) -> str:
    """Name the limit that was reached; a collapse is the end of a run that had more to spend."""
    if module.ledger.spent:
        return "budget"
    return "max_samples" if module.is_finished else ENDED_BY


def _fit(
    config: PosttrainConfig,
    out: Path,
    module: Posttrain,
    alarm: CollapseAlarm | None,
    start: Path | None,
) -> None:
    """Make the steps that are left, from the state that the checkpoint holds."""
    callbacks: list[Callback] = []
    if alarm is not None:
        callbacks.append(alarm)
    if config.callbacks.progress_bar:
        callbacks.append(CallsBar(module.ledger, config.budget))
    fit(config, out, module, callbacks, start)
