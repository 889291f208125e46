"""The posttrain settings beyond their schema: reward, objective, model files, trainer."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from chemkl.config import InputError, complaints
from chemkl.config.loading import Draft
from chemkl.config.posttrain import PosttrainConfig, objective_of
from chemkl.losses import Objective, objective_from_config
from chemkl.policies import check_vocabularies, read_header
from chemkl.rewards import RewardModel
from chemkl.training.precision import check_precision, precision_problems
from chemkl.training.trainer import check_trainer_here


def check(config: PosttrainConfig, awaited: Collection[Path] = ()) -> None:
    """Look into reward, objective, model files and trainer, without training.

    Args:
        config: the settings.
        awaited: model files that are yet to be made.

    Raises:
        InputError: with every problem.
    """
    prior = None if config.prior in awaited else config.prior
    agent = None if config.agent in awaited else config.agent
    problems = complaints(
        (RewardModel.from_config, config.reward),
        (build_objective, config.objective),
        (read_header, prior),
        (_check_agent, agent, prior),
        (check_trainer_here, config.trainer),
        (check_precision, config.precision, config.trainer),
    )
    if problems:
        raise InputError("\n".join(problems))


def problems_beside(draft: Draft) -> list[str]:
    """Find what the schema cannot see in settings that do not fit it.

    Returns:
        A line for every problem of reward, objective, models and trainer, in so far as these can
        be read.
    """
    prior, agent = draft.get("prior"), draft.get("agent")
    unusable = complaints((read_header, prior))
    target, estimator = draft.get("target"), draft.get("estimator")
    pair = target and estimator and objective_of(target, estimator, draft.get("shaper"))
    return [
        *complaints((RewardModel.from_config, draft.section("reward"))),
        *draft.placed("target", complaints((build_objective, pair))),
        *draft.placed("prior", unusable),
        *draft.placed("agent", complaints((_check_agent, agent, None if unusable else prior))),
        *draft.placed("trainer", complaints((check_trainer_here, draft.mapping("trainer")))),
        *draft.placed("precision", precision_problems(draft)),
    ]


def build_objective(
    objective: Mapping[str, Any],
    bounds: tuple[float, float] = (RewardModel.FAILED, RewardModel.MOST),
) -> Objective:
    """Put target, estimator and shaper together.

    Args:
        objective: their settings.
        bounds: the reward of a failure, and the highest that there can be.

    Raises:
        InputError: they do not go together, or tau is above every reward.
    """
    try:
        return objective_from_config(objective, bounds)
    except ValueError as error:
        lines = [f"target, estimator, shaper: {line}." for line in str(error).splitlines()]
        raise InputError("\n".join(lines)) from error


def _check_agent(agent: Path, prior: Path | None) -> None:
    """Read the agent's header, and compare it with the prior's where that is there."""
    files = {"prior": prior, "agent": agent}
    headers = {role: read_header(path) for role, path in files.items() if path is not None}
    check_vocabularies({role: header["vocabulary"] for role, header in headers.items()})
