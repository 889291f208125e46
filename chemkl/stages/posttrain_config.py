"""The settings of the posttrain stage, checked as a whole: the schema, and what it cannot see."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from chemkl.config import InputError, InputPath, load_config
from chemkl.config.document import Document
from chemkl.config.overrides import Override, apply
from chemkl.config.posttrain import PosttrainConfig
from chemkl.policies import read_header
from chemkl.rewards import RewardModel
from chemkl.training.trainer import check_trainer


def check(config: PosttrainConfig) -> None:
    """Look into reward, model files and trainer, without training.

    Raises:
        InputError: with every problem.
    """
    problems = _found(
        (RewardModel.from_config, config.reward),
        (_check_models, config.prior, config.agent),
        (check_trainer, config.trainer),
    )
    if problems:
        raise InputError("\n".join(problems))


def load(source: object, overrides: Sequence[str] = ()) -> PosttrainConfig:
    """Read the settings; where they do not fit the schema, say what else is wrong with them too.

    Args:
        source: a config, a mapping, or the path of a YAML file.
        overrides: settings to change, as ``dotted.key=value``.

    Raises:
        InputError: with every problem, those that `check` would find included.
    """
    if isinstance(source, PosttrainConfig) and not overrides:
        return source
    document = Document.of(source, PosttrainConfig.__name__)
    try:
        return load_config(PosttrainConfig, document, overrides)
    except InputError as error:
        problems = str(error).splitlines()
    data = _changed(document.data, overrides)
    for line in problems_beside(data, document, {"folder": document.folder}):
        if not any(line in known for known in problems):  # the schema has complained of it already
            problems.append(line)
    raise InputError("\n".join(problems))


def problems_beside(
    data: Mapping[str, Any], document: Document, context: Mapping[str, Any]
) -> list[str]:
    """Find what the schema cannot see in settings that do not fit it.

    Args:
        data: the settings, as plain data.
        document: where they stand.
        context: for paths, see `InputPath`.

    Returns:
        A line for every problem of reward, models and trainer, in so far as these can be read.
    """
    reward, trainer = data.get("reward"), data.get("trainer")
    if isinstance(reward, Mapping):
        reward = document.at(("reward",), reward)
    elif reward is not None:
        reward = _existing(reward, context)
    prior, agent = (_existing(data.get(role), context) for role in ("prior", "agent"))
    trainer = trainer if isinstance(trainer, Mapping) else None
    return [
        *_found((RewardModel.from_config, reward)),
        *_placed(document, "prior", _found((_check_models, prior, agent))),
        *_placed(document, "trainer", _found((check_trainer, trainer))),
    ]


def _changed(data: Any, overrides: Sequence[str]) -> Mapping[str, Any]:
    """Apply those overrides that can be read; the schema has complained of the others."""
    readable = []
    for override in overrides:
        try:
            readable.append(Override.parse(override))
        except InputError:
            continue
    changed = apply(data, readable)[0]
    return changed if isinstance(changed, Mapping) else {}


def _placed(document: Document, key: str, lines: list[str]) -> list[str]:
    """Say where the key stands that the lines are about."""
    return [f"{document.where((key,))}: {line}" for line in lines]


def _found(*checks: tuple[Callable[..., object], *tuple[Any, ...]]) -> list[str]:
    """Make the checks whose first argument is there, and return the lines of their complaints."""
    lines: list[str] = []
    for complain, *arguments in checks:
        if arguments[0] is None:
            continue
        try:
            complain(*arguments)
        except InputError as error:
            lines += str(error).splitlines()
    return lines


def _check_models(prior: Path, agent: Path | None) -> None:
    """Compare the headers of prior and agent, without reading weights."""
    known = read_header(prior)["vocabulary"]
    if agent is None:
        return
    spoken = read_header(agent)["vocabulary"]
    if spoken != known:
        differing = sorted(set(spoken) ^ set(known))
        raise InputError(
            f"agent: {agent} speaks another vocabulary than the prior {prior} (tokens of one only: "
            f"{' '.join(differing) or 'none, but in another order'}). Start from the prior itself, "
            "or from a policy that was post-trained from it."
        )


def _existing(path: object, context: Mapping[str, Any]) -> Path | None:
    """Return the path of an input if there is such a file, as the schema would find it."""
    try:
        found: Path = TypeAdapter(InputPath).validate_python(path, context=dict(context))
    except ValidationError:
        return None
    return found
