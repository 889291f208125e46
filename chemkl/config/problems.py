"""The one renderer of config problems: pydantic's errors as lines that a chemist can act on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from chemkl.config.base import did_you_mean
from chemkl.config.document import QUOTE_HINT, Document, Keys
from chemkl.config.errors import cut, shown
from chemkl.config.expected import (
    allowed_values,
    is_model,
    kinds_of,
    meaning_of,
    member_of,
    members_of,
    type_inside,
)
from chemkl.config.origin import REQUIRED, UNKNOWN, origin
from chemkl.config.overrides import Override

_MAPPING = "should be a mapping, one 'key: value' a line"
_LIST = "should be a list, one '- item' a line, or [a, b]"
_INTEGER = "should be a whole number"
_NUMBER = "should be a number"
_SWITCH = "should be true or false"
PLAIN_WORDS = {
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "int_type": _INTEGER,
    "int_parsing": _INTEGER,
    "int_from_float": _INTEGER,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "bool_type": _SWITCH,
    "bool_parsing": _SWITCH,
    "string_type": "should be text",
    "path_type": "should be a path",
}
"""What pydantic's kinds of error mean, in plain words."""

WITHOUT_VALUE = {"missing", "extra_forbidden", "union_tag_not_found", "union_tag_invalid"}
"""Kinds of error that the value at the place does not explain."""


@dataclass(frozen=True)
class _Problem:
    """One error of pydantic, placed in what the user wrote."""

    error: ErrorDetails
    keys: Keys
    """The keys as the user wrote them, without pydantic's labels for the members of a union."""
    owner: Any
    """The type in which the last key stands."""
    expected: Any
    """The type wanted at the keys."""
    choice: Keys | None
    """Where the user may choose between types that have no `kind`; None: nowhere on the way."""


def render(
    error: ValidationError,
    model: type[BaseModel],
    document: Document,
    overrides: Sequence[Override] = (),
) -> list[tuple[int, str]]:
    """Describe each problem as ``file:line: key.path: problem``, with its line for sorting."""
    placed = [_place(model, details) for details in error.errors(include_url=False)]
    lines = []
    for keys, text in _settled(_without_echoes(placed)):
        where, order, inside = origin(keys, document, overrides, text)
        path = document.prefix + keys if inside else keys
        prefix = ": ".join(filter(None, [where, ".".join(map(cut, path))]))
        lines += [(order, f"{prefix}: {part}") for part in text.splitlines()]
    return lines


def _place(model: type[BaseModel], error: ErrorDetails) -> _Problem:
    """Follow pydantic's location through the types of the model."""
    keys: Keys = ()
    owner: Any = None
    expected: Any = model
    choice: Keys | None = None
    for step in error["loc"]:
        members = members_of(expected)
        if len(members) > 1:  # the step is pydantic's label of one member
            expected, by_kind = member_of(members, str(step))
            choice = keys if choice is None and not by_kind else choice
        elif step != "[key]":
            owner, expected = members[0], type_inside(members[0], step)
            keys = (*keys, step)
    if error["type"] == "union_tag_invalid":
        keys = (*keys, error["ctx"]["discriminator"].strip("'"))
    return _Problem(error, keys, owner, expected, choice)


def _without_echoes(problems: list[_Problem]) -> list[_Problem]:
    """Leave out that a value is too short where pydantic only missed the items that are wrong.

    It does not count these, and then complains of [6] that there should be at least 1 entry.
    """
    return [
        problem
        for problem in problems
        if problem.error["type"] != "too_short"
        or len(problem.error["input"]) < problem.error["ctx"]["min_length"]
        or not any(_is_inside(other, problem) for other in problems)
    ]


def _is_inside(inner: _Problem, outer: _Problem) -> bool:
    return len(inner.keys) > len(outer.keys) and inner.keys[: len(outer.keys)] == outer.keys


def _settled(problems: list[_Problem]) -> Iterator[tuple[Keys, str]]:
    """Texts by place; where any of several types would do, only what the nearest one lacks."""
    choices: dict[Keys, list[_Problem]] = {}
    for problem in problems:
        if problem.choice is None:
            yield problem.keys, _text([problem])
        else:
            choices.setdefault(problem.choice, []).append(problem)
    for choice, rivals in choices.items():
        deeper = [p for p in rivals if p.keys != choice]
        right_type = [p for p in rivals if not p.error["type"].endswith("_type")]
        places: dict[Keys, list[_Problem]] = {}
        for problem in deeper or right_type or rivals:
            places.setdefault(problem.keys, []).append(problem)
        for keys, same_place in places.items():
            yield keys, _text(same_place)


def _text(same_place: list[_Problem]) -> str:
    """What is wrong at one place, and the value unless the text has it already."""
    text = ", or ".join(dict.fromkeys(_phrase(problem) for problem in same_place))
    kinds = {problem.error["type"] for problem in same_place}
    given = same_place[0].error["input"]
    whole = isinstance(given, dict | BaseModel)
    own_words = kinds & {"value_error", "assertion_error", "literal_error"}
    if kinds & WITHOUT_VALUE or (own_words and (whole or repr(given).strip("'") in text)):
        return text
    return f"{text} (got {shown(given)})"


def _phrase(problem: _Problem) -> str:
    error, context = problem.error, problem.error.get("ctx", {})
    name = str(problem.keys[-1]) if problem.keys else ""
    match error["type"]:
        case "missing":
            return f"{REQUIRED}, and not given{meaning_of(problem.owner, name)}"
        case "extra_forbidden":
            known = problem.owner.model_fields if is_model(problem.owner) else ()
            return f"{UNKNOWN}{did_you_mean(name, known)}"
        case "union_tag_invalid" | "union_tag_not_found":
            return _tag_phrase(problem, context)
        case "literal_error" | "enum":
            allowed = allowed_values(problem.expected)
            hint = did_you_mean(str(error["input"]), allowed) if allowed else ""
            return f"{shown(error['input'])} is not allowed{hint or ': ' + error['msg']}"
        case "value_error" | "assertion_error":
            return str(context["error"])
        case "string_type" if isinstance(error["input"], list):
            return f"should be text{QUOTE_HINT}"
        case "too_short" | "too_long" | "string_too_short" | "string_too_long":
            return _length_phrase(error["type"], context)
        case "string_pattern_mismatch":
            return f"has not the form that is wanted here{meaning_of(problem.owner, name)}"
        case kind if kind in PLAIN_WORDS:
            return PLAIN_WORDS[kind]
        case _:
            return error["msg"].replace("Input should be", "should be", 1)


def _length_phrase(kind: str, context: dict[str, Any]) -> str:
    bound, limit = (
        ("at least", "min_length") if kind.endswith("short") else ("at most", "max_length")
    )
    thing = ("character", "characters") if kind.startswith("string") else ("entry", "entries")
    number = context[limit]
    return f"should have {bound} {number} {thing[number != 1]}"


def _tag_phrase(problem: _Problem, context: dict[str, Any]) -> str:
    kinds = {str(kind) for member in members_of(problem.expected) for kind in kinds_of(member)}
    if problem.error["type"] == "union_tag_not_found":
        known = ", ".join(sorted(kinds))
        return f"required key {context['discriminator']} is not given. Known: {known}"
    return f"{shown(context['tag'])} is not known{did_you_mean(str(context['tag']), kinds)}"
