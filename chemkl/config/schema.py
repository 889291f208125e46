"""The keys of a model in plain words: type, range, default and meaning of each."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_WORDS = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    NoneType: "null",
    Any: "anything",
}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


class Key(NamedTuple):
    """One key in words; an empty default: it must be given."""

    name: str
    type: str
    default: str
    meaning: str

    @property
    def brief(self) -> str:
        """The whole of it in one line."""
        default = f" = {self.default}" if self.default else " (required)"
        return f"{self.name}: {self.type}{default}. {self.meaning}"


def keys_of(model: type[BaseModel]) -> list[Key]:
    """Say of each key of a model what it takes."""
    return [
        Key(
            field.alias or name,
            _with_bounds(field.annotation, field.metadata),
            "" if field.is_required() else _default(field),
            " ".join((field.description or "").split()),
        )
        for name, field in model.model_fields.items()
    ]


def _default(field: FieldInfo) -> str:
    """A default as it would stand in a YAML file."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, bool):
        return "true" if default else "false"
    return "null" if default is None else str(default)


def _with_bounds(annotation: Any, metadata: list[Any]) -> str:
    bounds = [
        f"{sign} {getattr(constraint, bound):g}"
        for constraint in metadata
        for bound, sign in _BOUNDS.items()
        if isinstance(getattr(constraint, bound, None), int | float)
    ]
    return " ".join([_type(annotation), *bounds])


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _with_bounds(inner[0], list(inner[1:]))
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(_type(member) for member in inner)
    if origin in (list, tuple, set):
        members = [_type(member) for member in inner if member is not Ellipsis]
        return f"list of {', '.join(dict.fromkeys(members))}"
    if origin is dict or annotation is dict:
        return "mapping"
    return _WORDS.get(annotation) or str(getattr(annotation, "__name__", annotation))
