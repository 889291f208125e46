"""Type, range, default and meaning of each key of a config, as `chemkl show config` prints them."""

from collections.abc import Iterator
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
    """One key; an empty default means that it is required."""

    name: str
    type: str
    default: str
    meaning: str

    @property
    def brief(self) -> str:
        """Everything in one line."""
        default = f" = {self.default}" if self.default else " (required)"
        return f"{self.name}: {self.type}{default}. {self.meaning}"


def keys_of(model: type[BaseModel], *, inside: bool = False, above: str = "") -> list[Key]:
    """Describe each key of a model.

    Args:
        model: the config.
        inside: also describe the keys of sections, by their dotted names:
            ``callbacks.collapse.window`` or ``stages.0.set``; a section of several kinds has those
            of each.
        above: prefix of all names.
    """
    keys = []
    for name, field in model.model_fields.items():
        key = f"{above}{field.alias or name}"
        default = "" if field.is_required() else _default(field)
        meaning = " ".join((field.description or "").split())
        keys.append(Key(key, _with_bounds(field.annotation, field.metadata), default, meaning))
        if not inside:
            continue
        sections = list(_sections(field.annotation, key))
        for place, section in sections:
            of_kind = " | ".join(map(str, kinds_of(section))) if len(sections) > 1 else ""
            note = f"({of_kind}) " if of_kind else ""
            keys += [
                below._replace(meaning=note + below.meaning)
                for below in keys_of(section, inside=True, above=f"{place}.")
                if not (of_kind and below.name == f"{place}.kind")
            ]
    return keys


def kinds_of(model: Any) -> tuple[Any, ...]:
    """Return the values of `kind` that select a model."""
    kind = model.model_fields.get("kind") if _is_model(model) else None
    return get_args(kind.annotation) if kind is not None else ()


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _sections(annotation: Any, place: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the models of the sections at a key, and their places; not those in `chemkl show`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if _is_model(annotation):
        if not hasattr(annotation, "listed"):
            yield place, annotation
    elif origin in (list, tuple):
        yield from _sections(inner[0], f"{place}.0")
    elif origin is dict:
        yield from _sections(inner[1], f"{place}.NAME")
    elif origin in (Annotated, Union, UnionType):
        for member in inner[:1] if origin is Annotated else inner:
            yield from _sections(member, place)


def _default(field: FieldInfo) -> str:
    """Write a default as in a YAML file."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, BaseModel):
        return str(getattr(default, "kind", "its defaults"))
    if isinstance(default, list | tuple):
        return f"[{', '.join(map(str, default))}]"
    return "null" if default is None else str(default) or "''"


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
    if _is_model(annotation):
        kinds = getattr(annotation, "listed", None) or kinds_of(annotation)
        return " | ".join(map(str, kinds() if callable(kinds) else kinds)) or "mapping"
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
