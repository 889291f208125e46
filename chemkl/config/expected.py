"""What a schema wants at a place: the types in it, read without any value."""

import inspect
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel


def members_of(expected: Any) -> list[Any]:
    """The types that a union allows beside None; one for everything else."""
    while get_origin(expected) is Annotated:
        expected = get_args(expected)[0]
    if get_origin(expected) in (Union, UnionType):
        allowed = [member for member in get_args(expected) if member is not NoneType]
        return members_of(allowed[0]) if len(allowed) == 1 else allowed
    return [expected]


def member_of(members: list[Any], label: str) -> tuple[Any, bool]:
    """The member with that label, and whether the user named it by its `kind`."""
    for member in members:
        if label in map(str, kinds_of(member)):
            return member, True
    for member in members:
        nested = len(members_of(member)) > 1 and "union[" in label
        literal = get_origin(members_of(member)[0]) is Literal and label.startswith("literal[")
        named = inspect.isclass(member) and label in (member.__name__, member.__name__.lower())
        if nested or literal or named:
            return member, False
    return Any, False


def kinds_of(member: Any) -> tuple[Any, ...]:
    """The values of `kind` by which a config is chosen in a tagged union."""
    kind = member.model_fields.get("kind") if is_model(member) else None
    return get_args(kind.annotation) if kind is not None else ()


def type_inside(expected: Any, step: str | int) -> Any:
    """The type wanted at a key or position of something of the expected type."""
    if is_model(expected):
        field = expected.model_fields.get(step)
        return Any if field is None else field.annotation
    inner = get_args(expected)
    if not inner or not inspect.isclass(origin := get_origin(expected)):
        return Any
    if issubclass(origin, Mapping):
        return inner[1]
    if origin is tuple and Ellipsis not in inner:
        return inner[step] if isinstance(step, int) and step < len(inner) else Any
    return inner[0]


def is_model(expected: Any) -> bool:
    """Whether a mapping with known keys is wanted."""
    return inspect.isclass(expected) and issubclass(expected, BaseModel)


def allowed_values(expected: Any) -> list[str]:
    """The values of a Literal or of an enumeration."""
    members = members_of(expected)
    values = [value for m in members if get_origin(m) is Literal for value in get_args(m)]
    return ["null" if value is None else str(value) for value in values]


def meaning_of(owner: Any, name: str) -> str:
    """The first sentence of a field's description."""
    field = owner.model_fields.get(name) if is_model(owner) else None
    if field is None or not field.description:
        return ""
    sentence = " ".join(field.description.split()).split(". ")[0].rstrip(".")
    return f" ({sentence})"
