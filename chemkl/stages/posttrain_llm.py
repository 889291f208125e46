"""The posttrain_llm stage: a language model is walked to a target; every completion is kept."""

import math
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemkl.config import InputError, complaints
from chemkl.config.llm import LlmPosttrainConfig, TextRewardConfig
from chemkl.config.loading import Draft
from chemkl.config.posttrain import objective_of
from chemkl.llm.extra import PACKAGES, check_installed
from chemkl.llm.ledger import AnswerTracker, TextLedger, describe_cut_off
from chemkl.llm.models import ADAPTER, MODEL, build_policy, read_prompts, save
from chemkl.llm.policy import HfPolicy
from chemkl.llm.prompts import Prompt, keep_prompts, kept_prompts
from chemkl.llm.reference import Reference
from chemkl.llm.rewards import ASKED, TextReward, build_reward
from chemkl.llm.sources import is_here
from chemkl.results.manifest import Manifest
from chemkl.results.provenance import installed_versions
from chemkl.results.trace import read_trace
from chemkl.rewards.model import describe_failures
from chemkl.stages.finished import once
from chemkl.stages.posttrain_config import build_objective
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
from chemkl.training.posttrain import Posttrain
from chemkl.training.precision import check_precision, precision_problems
from chemkl.training.trainer import CHECKPOINTS, CallsBar, check_trainer_here

if TYPE_CHECKING:
    from lightning import Callback

__all__ = ["check", "check_spent", "problems_beside", "run"]

STAGE = "posttrain_llm"


def _weights(config: LlmPosttrainConfig, out: Path) -> Path:
    """The folder of what is trained."""
    return out / CHECKPOINTS / (ADAPTER if config.adapter.kind == "lora" else MODEL)


@once("posttrain_llm", _weights)
def run(config: LlmPosttrainConfig, out_dir: Path) -> Path:
    """Post-train a language model, or continue where a killed run stopped.

    Returns:
        The folder with the trained adapter, or model, in Hugging Face's format.

    Raises:
        InputError: the config, the model, or a folder that holds another run.
    """
    check(config)
    plain = config.model_dump(mode="json")
    folder = _weights(config, out_dir)
    _check_apart(config, out_dir)
    # what can go wrong with the model and the trainer does so before the folder is claimed
    policy = build_policy(config)
    precision = settled(config, out_dir)
    with (
        closing(build_reward(config.reward)) as reward,
        Manifest.start(
            out_dir,
            stage=STAGE,
            config=plain,
            seed=config.seed,
            inputs=_inputs(config, reward),
            precision=precision,
            rank=0,  # it runs on one device: a second process is never a rank of this run
            limits=STAGES[STAGE].limits,
        ) as manifest,
    ):
        policy.prompts = _as_begun(out_dir, manifest, policy.prompts)
        alarm = build_alarm(config, lambda line: say(f"{out_dir}: {line}"))
        module, reference = _module(config, out_dir, manifest, policy, reward, alarm)
        say(f"{out_dir}: {precision}")
        callbacks = _callbacks(config, out_dir, module, policy, reference)
        make_steps(config, out_dir, module, alarm, callbacks, precision)
        module.trace.compact()
        counts = counts_of(module)
        save(policy, out_dir / CHECKPOINTS, config, _provenance(manifest) | counts)
        collapse = alarm.results if alarm else {}
        manifest.finish(ended_by=ended_by(module, "max_steps"), results=counts | collapse)
    tell_end(out_dir, manifest, _failures(config, out_dir, reward))
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
        (check_installed, PACKAGES[:2]),
        (_check_reward, config.reward, config.objective),
        (check_trainer_here, config.trainer),
        (check_precision, config.precision, config.trainer),
    )
    if not problems and config.model.name not in awaited and is_here(config.model):
        problems = complaints((read_prompts, config))
    if problems:
        raise InputError("\n".join(problems))


def _check_apart(config: LlmPosttrainConfig, out: Path) -> None:
    """Refuse to write into the model, which is an input and may not change.

    Raises:
        InputError: the output is the model's folder, or lies in it.
    """
    model = config.model.name
    if isinstance(model, Path) and out.resolve().is_relative_to(model.resolve()):
        raise InputError(
            f"{out}: is the folder of the model {model}, or lies in it; a run would change the "
            "model that it starts from. Choose another folder with --out."
        )


def problems_beside(draft: Draft) -> list[str]:
    """Find what the schema cannot see in settings that do not fit it.

    Returns:
        A line for every problem of reward, objective and trainer, in so far as these can be read.
    """
    target, estimator = draft.get("target"), draft.get("estimator")
    pair = target and estimator and objective_of(target, estimator, draft.get("shaper"))
    return [
        *draft.placed("reward", complaints((_check_reward, draft.get("reward"), pair))),
        *draft.placed("trainer", complaints((check_trainer_here, draft.mapping("trainer")))),
        *draft.placed("precision", precision_problems(draft)),
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


def _inputs(config: LlmPosttrainConfig, reward: TextReward) -> Mapping[str, str | Path]:
    """The files and folders that a run reads, by role."""
    own = {"model": config.model.name, "template": config.template}
    return {role: path for role, path in own.items() if isinstance(path, Path)} | dict(reward.files)


def _as_begun(out: Path, manifest: Manifest, prompts: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
    """The prompts of a run: those that it kept when it was begun, or these, which it keeps now.

    A template that inserts the date renders others on another day, and then rows of two prompts
    would have the same number: in the ledger, and in what the reference remembers.
    """
    kept = kept_prompts(out, len(prompts)) if manifest.was_resumed else None
    if kept is None:
        keep_prompts(prompts, out)
    return kept or prompts


def _module(
    config: LlmPosttrainConfig,
    out: Path,
    manifest: Manifest,
    policy: HfPolicy,
    reward: TextReward,
    alarm: CollapseAlarm | None,
) -> tuple[Posttrain, Reference]:
    """Put the parts of a run together."""
    frozen = policy
    if not policy.has_adapter:
        frozen = build_policy(config, trained=False, prompts=policy.prompts)
    reference = Reference(frozen, config.reference_memory)
    budget = math.inf if config.budget is None else config.budget
    module = Posttrain(
        policy,
        reference,
        TextLedger(reward, policy.prompts, build_filter(config.diversity_filter), budget),
        build_objective(config.objective, reward.bounds),
        trace_of(out, reward.component_names, manifest, alarm, text=True),
        batch_size=config.batch_size,
        most_samples=config.most_samples,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
    return module, reference


def _callbacks(
    config: LlmPosttrainConfig, out: Path, module: Posttrain, policy: HfPolicy, reference: Reference
) -> "list[Callback]":
    """What happens beside the steps, but for checkpoints and the alarm."""
    found: list[Callback] = []
    if config.track is not None:
        found.append(AnswerTracker(out, policy, reference, config.tracked, config.track.every))
    if config.callbacks.progress_bar:
        found.append(CallsBar(module.ledger, config.budget, config.most_samples))
    return found


def _provenance(manifest: Manifest) -> dict[str, Any]:
    """Where the weights come from; it is kept beside them."""
    return {
        "stage": STAGE,
        "run_id": manifest.run_id,
        "config_hash": manifest.config_hash,
        "versions": {**manifest.versions, **installed_versions(PACKAGES)},
    }


def _failures(config: LlmPosttrainConfig, out: Path, reward: TextReward) -> list[str]:
    """A line for each kind of failure of the reward, and one where many completions had no end."""
    is_molecule = config.reward.kind == "smiles"
    asked = ("molecules", "component") if is_molecule else ("completions", ASKED)
    reasons = read_trace(out, ["reason"])["reason"].astype(object)
    return [
        *describe_failures(reward.failures, *asked),
        *describe_cut_off(reasons.where(reasons.notna(), None).tolist(), config.max_new_tokens),
    ]
