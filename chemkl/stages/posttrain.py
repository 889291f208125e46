"""The posttrain stage: a prior is walked to a target distribution, and every molecule is kept."""

from pathlib import Path
from typing import Any

from chemkl.config.posttrain import PosttrainConfig
from chemkl.policies import Policy, freeze, load_policy, save_policy
from chemkl.results.manifest import Manifest
from chemkl.rewards import RewardModel
from chemkl.rewards.cache import reward_files
from chemkl.rewards.engine import nothing_shown
from chemkl.rewards.model import describe_failures
from chemkl.stages.finished import once
from chemkl.stages.posttrain_config import build_objective, check, problems_beside
from chemkl.stages.posttrain_run import (
    check_spent,
    counts_of,
    ended_by,
    make_steps,
    settled,
    tell_end,
    trace_of,
)
from chemkl.stages.registry import STAGES
from chemkl.stages.terminal import say
from chemkl.training.collapse import CollapseAlarm, build_alarm
from chemkl.training.diversity_filter import build_filter
from chemkl.training.ledger import Ledger
from chemkl.training.posttrain import Posttrain
from chemkl.training.trainer import CHECKPOINTS, POLICY, CallsBar

__all__ = ["check", "check_spent", "problems_beside", "run"]


@once("posttrain", lambda _config, out: out / CHECKPOINTS / POLICY)
def run(config: PosttrainConfig, out_dir: Path) -> Path:
    """Post-train a policy, or continue where a killed run stopped.

    Returns:
        The path of the policy's model file.

    Raises:
        InputError: the config, a model file, or a folder that holds another run.
    """
    check(config)
    model_file, plain = out_dir / CHECKPOINTS / POLICY, config.model_dump(mode="json")
    # what can go wrong with the models and the trainer does so before the folder is claimed
    policy, reference = load_policy(config.agent or config.prior), load_policy(config.prior)
    precision = settled(config, out_dir)
    models = {"prior": config.prior, "agent": config.agent}
    with (
        RewardModel.from_config(config.reward) as reward,
        Manifest.start(
            out_dir,
            stage="posttrain",
            config=plain,
            seed=config.seed,
            inputs={role: path for role, path in models.items() if path is not None}
            | reward_files(config.reward),
            precision=precision,
            rank=0,  # it runs on one device: a second process is never a rank of this run
            limits=STAGES["posttrain"].limits,
        ) as manifest,
    ):
        alarm = build_alarm(config, lambda line: say(f"{out_dir}: {line}"))
        module = _module(config, out_dir, manifest, policy, reference, reward, alarm)
        bar = config.callbacks.progress_bar
        callbacks = [CallsBar(module.ledger, config.budget)] if bar else []
        say(f"{out_dir}: {precision}")
        make_steps(config, out_dir, module, alarm, callbacks, precision)
        module.trace.compact()
        counts = counts_of(module)
        save_policy(policy, model_file, _provenance(manifest) | counts)
        collapse = alarm.results if alarm else {}
        manifest.finish(ended_by=ended_by(module, "max_samples"), results=counts | collapse)
    tell_end(out_dir, manifest, describe_failures(reward.failures))
    return model_file


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
        trace_of(out, reward.component_names, manifest, alarm),
        batch_size=config.batch_size,
        most_samples=config.most_samples,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
