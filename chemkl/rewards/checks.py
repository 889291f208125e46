"""Checks of a reward that the schema alone cannot make: kinds, parameters, ranges."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chemkl.config import InputError
from chemkl.config.document import Document
from chemkl.config.loading import load_config
from chemkl.config.reward import RewardConfig
from chemkl.rewards import components  # noqa: F401 - importing it registers the components
from chemkl.rewards.registry import BatchScore, Component, Score, find_component, placed


def checked_reward(
    source: RewardConfig | Mapping[str, Any] | str | Path | Document,
) -> tuple[RewardConfig, list[Score | BatchScore]]:
    """Check a reward's schema and its components together.

    Returns:
        The config, and the score function of each of its components in order.

    Raises:
        InputError: one line for every problem of either sort.
    """
    config: RewardConfig | None = None
    problems: list[str] = []
    scores: list[Score | BatchScore] = []
    if isinstance(source, RewardConfig):  # whose dump lacks what is no part of a run's identity
        config, source = source, source.model_dump()
    document = Document.of(source, "reward", None if config is None else config.folder)
    try:
        config = config or load_config(RewardConfig, document)
    except InputError as error:
        problems += str(error).splitlines()
    for part in _parts(document):
        score, wrong = _built(part)
        problems += wrong
        scores += [score] if score is not None else []
    if config is None or problems:
        raise InputError("\n".join(problems))
    return config, scores


def _parts(document: Document) -> Iterator[Document]:
    """The components that name their kind; whatever else stands there, the schema complains of."""
    given = document.data.get("components")
    for index, part in enumerate(given if isinstance(given, list | tuple) else ()):
        if isinstance(part, Mapping) and isinstance(part.get("kind"), str):
            yield document.at(("components", index), part)


def _built(part: Document) -> tuple[Score | BatchScore | None, list[str]]:
    """Build one component: its score function, and what is wrong with it."""
    problems: list[str] = []
    score: Score | BatchScore | None = None
    try:
        component = find_component(part.data["kind"])
    except InputError as error:
        return None, [placed(part, ("kind",), error)]
    untransformed = _untransformed(part.data, component)
    if untransformed:
        problems.append(placed(part, ("transform",), untransformed))
    parameters = part.data.get("parameters", {})
    if isinstance(parameters, Mapping):
        try:
            score = component.build(parameters, part.at(("parameters",), parameters))
        except InputError as error:
            problems += str(error).splitlines()
    return score, problems


def _untransformed(part: Mapping[str, Any], component: Component) -> str | None:
    """Say so when raw values that may leave 0 to 1 are to be used as scores."""
    given = part.get("transform", "none")
    kind = given.get("kind") if isinstance(given, Mapping) else given
    low, high = component.range
    if kind != "none" or (low >= 0 and high <= 1):
        return None
    unit = f" {component.unit}" if component.unit else ""
    return (
        f"{component.kind} lies between {low:g} and {high:g}{unit}, and a score between 0 and 1: "
        "give it a transform, for example {kind: sigmoid, low: ..., high: ...}"
    )
