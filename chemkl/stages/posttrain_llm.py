"""The posttrain_llm stage: a language model is walked to a target; every completion is kept."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemkl.config import InputError, complaints, load_config
from chemkl.config.draft import Draft
from chemkl.config.llm import LlmPosttrainConfig
from chemkl.config.llm_reward import TextRewardConfig
from chemkl.config.posttrain import objective_of
from chemkl.llm.extra import PACKAGES, package
from chemkl.llm.ledger import TextLedger, describe_cut_off
from chemkl.llm.models import ADAPTER, MODEL, build_policy, read_prompts, save
from chemkl.llm.policy import HfPolicy
from chemkl.llm.reference import Reference
from chemkl.llm.rewards import build_reward
from chemkl.llm.sources import is_here
from chemkl.llm.tracking import AnswerTracker
from chemkl.llm.written import TextReward
from chemkl.results.manifest import Manifest
from chemkl.results.provenance import installed_versions
from chemkl.results.trace import TraceWriter, read_trace
from chemkl.rewards.failures import describe_failures
from chemkl.stages.posttrain_config import build_objective
from chemkl.stages.posttrain_run import bring_back, fit, trainer_of
from chemkl.stages.terminal import say
from chemkl.training.collapse import ENDED_BY, CollapseAlarm, WatchedTrace, build_text_alarm
from chemkl.training.diversity_filter import build_filter
from chemkl.training.posttrain import Posttrain
from chemkl.training.progress import CallsBar
from chemkl.training.trainer import CHECKPOINTS, check_trainer, last_checkpoint

if TYPE_CHECKING:
    from lightning import Callback

STAGE = "posttrain_llm"


def run(config: LlmPosttrainConfig | Mapping[str, Any] | str | Path, out_dir: str | Path) -> Path:
    """Post-train a language model, or continue where a killed run stopped.

    Returns:
        The folder with the trained adapter, or model, in Hugging Face's format.

    Raises:
        InputError: the config, the model, or a folder that holds another run.
    """
    config = load_config(LlmPosttrainConfig, config, beside=problems_beside)
    check(config)
    out = Path(out_dir)
    plain = config.model_dump(mode="json")
    folder = out / CHECKPOINTS / (ADAPTER if config.adapter.kind == "lora" else MODEL)
    if Manifest.is_finished(out, STAGE, plain) and folder.exists():
        say(f"{out}: complete; --fresh makes it anew")
        return folder
    # what can go wrong with the model and the trainer does so before the folder is claimed
    reward = build_reward(config.reward)
    policy = build_policy(config)
    trainer_of(config, out, [])
    inputs = {"model": config.model.name} if isinstance(config.model.name, Path) else {}
    with Manifest.start(
        out, stage=STAGE, config=plain, seed=config.seed, inputs=inputs | dict(reward.files)
    ) as manifest:
        try:
            alarm = build_text_alarm(config, lambda line: say(f"{out}: {line}"))
            module, reference = _module(config, out, manifest, policy, reward, alarm)
            _make_steps(config, out, module, policy, reference, alarm)
        finally:
            reward.close()
        module.trace.compact()
        ledger = module.ledger
        counts = {"calls": ledger.n_calls, "samples": ledger.n_samples, "steps": module.next_step}
        about = {
            "stage": STAGE,
            "run_id": manifest.run_id,
            "config_hash": manifest.config_hash,
            "versions": {**manifest.versions, **installed_versions(PACKAGES)},
            **counts,
        }
        save(policy, out / CHECKPOINTS, config, about)
        collapse = alarm.results if alarm else {}
        manifest.finish(ended_by=_ended_by(module), results=counts | collapse)
    say(
        f"{out}: ended by {manifest.ended_by}: {ledger.n_calls:,} calls, "
        f"{ledger.n_samples:,} samples"
    )
    if alarm and alarm.turns:
        say(f"{out}: {alarm.summary}")
    asked_about = "molecules" if config.reward.kind == "smiles" else "completions"
    reasons = read_trace(out, ["reason"])["reason"].astype(object)
    told = [
        *describe_failures(reward.failures, asked_about),
        *describe_cut_off(reasons.where(reasons.notna(), None).tolist(), config.max_new_tokens),
    ]
    for line in told:
        say(f"{out}: {line}")
    return folder


def check(config: LlmPosttrainConfig, awaited: Collection[Path] = ()) -> None:
    """Look into packages, reward, objective, trainer and prompts, without training.

    A model in a wheel that was never used is not fetched for this; its prompts are checked when
    the run starts.

    Args:
        config: the settings.
        awaited: folders that are yet to be made.

    Raises:
        InputError: with every problem.
    """
    problems = complaints(
        *((package, each) for each in PACKAGES[:2]),
        (_check_reward, config.reward, config.objective),
        (check_trainer, config.trainer),
    )
    if not problems and config.model.name not in awaited and is_here(config.model):
        problems = complaints((read_prompts, config))
    if problems:
        raise InputError("\n".join(problems))


def problems_beside(draft: Draft) -> list[str]:
    """Find what the schema cannot see in settings that do not fit it.

    Returns:
        A line for every problem of reward, objective and trainer, in so far as these can be read.
    """
    target, estimator = draft.get("target"), draft.get("estimator")
    pair = target and estimator and objective_of(target, estimator, draft.get("shaper"))
    return [
        *draft.placed("reward", complaints((_check_reward, draft.get("reward"), pair))),
        *draft.placed("trainer", complaints((check_trainer, draft.mapping("trainer")))),
    ]


def _check_reward(reward: TextRewardConfig, objective: Mapping[str, Any] | None) -> None:
    """Build the reward, and the objective with its range.

    Raises:
        InputError: with every problem.
    """
    built = build_reward(reward)
    built.close()
    if objective:
        build_objective(objective, built.bounds)


def _module(
    config: LlmPosttrainConfig,
    out: Path,
    manifest: Manifest,
    policy: HfPolicy,
    reward: TextReward,
    alarm: CollapseAlarm | None,
) -> tuple[Posttrain, Reference]:
    """Put the parts of a run together."""
    frozen = policy if policy.has_adapter else build_policy(config, trained=False)
    reference = Reference(frozen, config.reference_memory)
    budget = math.inf if config.budget is None else config.budget
    own = (out, reward.component_names, manifest.run_id, manifest.config_hash)
    module = Posttrain(
        policy,
        reference,
        TextLedger(reward, policy.prompts, build_filter(config.diversity_filter), budget),
        build_objective(config.objective, reward.bounds),
        TraceWriter(*own, text=True)
        if alarm is None
        else WatchedTrace(*own, alarm.watch, text=True),
        batch_size=config.batch_size,
        most_samples=config.most_samples,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
    return module, reference


def _make_steps(
    config: LlmPosttrainConfig,
    out: Path,
    module: Posttrain,
    policy: HfPolicy,
    reference: Reference,
    alarm: CollapseAlarm | None,
) -> None:
    """Go on from the last checkpoint to the end of the run."""
    start = last_checkpoint(out)
    past = bring_back(start, module, out)
    if alarm is not None and past is not None:
        alarm.restore(past)
    if start is not None:
        say(f"{out}: resumes at step {module.next_step}")
    if module.is_finished or (alarm and alarm.ends_the_run):
        return
    callbacks: list[Callback] = [] if alarm is None else [alarm]
    if config.track is not None:
        callbacks.append(AnswerTracker(out, policy, reference, config.tracked, config.track.every))
    if config.callbacks.progress_bar:
        callbacks.append(CallsBar(module.ledger, config.budget, config.most_samples))
    fit(config, out, module, callbacks, start)


def _ended_by(module: Posttrain) -> str:
    """Name the limit that was reached; a collapse is the end of a run that had more to do."""
    if module.ledger.spent:
        return "budget"
    return "max_steps" if module.is_finished else ENDED_BY
