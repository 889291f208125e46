"""The components and transforms as tables: what each is, what it takes, where it comes from."""

import inspect
import re
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from chemkl.config import InputError, did_you_mean
from chemkl.config.reward import Transform
from chemkl.rewards import components  # noqa: F401 - importing it registers the components
from chemkl.rewards.registry import COMPONENTS, Component, find_component

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
_ARGUMENT = re.compile(r"^(\w+): ")


class Parameter(NamedTuple):
    """One setting of a component or a transform, in words; an empty default: it must be given."""

    name: str
    type: str
    default: str
    meaning: str

    @property
    def brief(self) -> str:
        """The whole of it in one line."""
        default = f" = {self.default}" if self.default else " (required)"
        return f"{self.name}: {self.type}{default}. {self.meaning}"


def rewards(kind: str | None = None) -> Iterator[RenderableType]:
    """Give a table of all components by family, or everything about one.

    Raises:
        InputError: there is no such component.
    """
    if kind is not None:
        yield from _component(find_component(kind))
        return
    by_family = sorted(COMPONENTS.values(), key=lambda each: (_family(each), each.kind))
    for family, members in groupby(by_family, key=_family):
        headings = ("kind", "what it is", "parameters", "unit", "range", "source")
        table = Table(*headings, title=family, title_justify="left", expand=True, show_lines=True)
        for each in members:
            table.add_row(
                each.kind + (" *" if each.costly else ""),
                escape(_paragraphs(each.factory)[0]),
                "\n".join(escape(one.brief) for one in component_parameters(each)) or "-",
                escape(each.unit) or "-",
                _range(each),
                escape(each.source),
            )
        yield table
    yield "* costly: asked last, and only about molecules that passed every filter."
    yield "One of them in detail: chemkl show rewards KIND"


def transforms(kind: str | None = None) -> Iterator[RenderableType]:
    """Give a table of all transforms, or of one.

    Raises:
        InputError: there is no such transform.
    """
    models = {_kind(model): model for model in get_args(get_args(Transform)[0])}
    if kind is not None and kind not in models:
        raise InputError(f"unknown transform {kind!r}{did_you_mean(kind, models)}")
    table = Table("kind", "what it is", "parameters", show_lines=True, expand=True)
    for name, model in models.items():
        if kind in (None, name):
            settings = [one.brief for one in _parameters(model, {}) if one.name != "kind"]
            what = _paragraphs(model)[0]
            table.add_row(name, escape(what), "\n".join(map(escape, settings)) or "-")
    yield table


def component_parameters(component: Component) -> list[Parameter]:
    """The parameters of a component, as its factory declares and describes them."""
    return _parameters(component.parameter_model, _arguments(component.factory))


def _component(one: Component) -> Iterator[RenderableType]:
    facts = Table(show_header=False, box=None)
    facts.add_row("kind", one.kind)
    facts.add_row("unit", escape(one.unit) or "-")
    facts.add_row("range", _range(one))
    facts.add_row("source", escape(one.source))
    if one.costly:
        facts.add_row("costly", "asked last, and only about molecules that passed every filter")
    yield facts
    for paragraph in _paragraphs(one.factory):
        yield f"\n{escape(paragraph)}"
    settings = component_parameters(one)
    if not settings:
        yield "\nIt takes no parameters."
        return
    table = Table("parameter", "type", "default", "meaning", show_lines=True)
    for each in settings:
        table.add_row(*(escape(text) for text in each._replace(default=each.default or "required")))
    yield ""
    yield table


def _parameters(model: type[BaseModel], meanings: dict[str, str]) -> list[Parameter]:
    return [
        Parameter(
            field.alias or name,
            _with_bounds(field.annotation, field.metadata),
            "" if field.is_required() else _shown(field),
            " ".join((field.description or meanings.get(name, "")).split()),
        )
        for name, field in model.model_fields.items()
    ]


def _shown(field: FieldInfo) -> str:
    """A default as it would stand in a YAML file."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, bool):
        return "true" if default else "false"
    return "null" if default is None else str(default)


def _with_bounds(annotation: Any, metadata: list[Any]) -> str:
    bounds = [
        f"{sign} {getattr(each, bound):g}"
        for each in metadata
        for bound, sign in _BOUNDS.items()
        if isinstance(getattr(each, bound, None), int | float)
    ]
    return " ".join([_type(annotation), *bounds])


def _type(annotation: Any) -> str:
    """A type in plain words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _with_bounds(inner[0], list(inner[1:]))
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(_type(each) for each in inner)
    if origin in (list, tuple, set):
        of = [_type(each) for each in inner if each is not Ellipsis]
        return f"list of {', '.join(dict.fromkeys(of))}"
    if origin is dict or annotation is dict:
        return "mapping"
    return _WORDS.get(annotation) or str(getattr(annotation, "__name__", annotation))


def _kind(model: type[BaseModel]) -> str:
    return str(get_args(model.model_fields["kind"].annotation)[0])


def _family(component: Component) -> str:
    return component.factory.__module__.rpartition(".")[2]


def _range(component: Component) -> str:
    low, high = component.range
    return f"{low:g} to {high:g}"


def _paragraphs(documented: Callable[..., Any]) -> list[str]:
    """What a docstring says before its sections."""
    text = re.split(r"\n(?:Args|Returns|Raises):\n", inspect.getdoc(documented) or "-")[0]
    return [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]


def _arguments(documented: Callable[..., Any]) -> dict[str, str]:
    """What a docstring says of each argument."""
    _, _, section = (inspect.getdoc(documented) or "").partition("\nArgs:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        text = line.strip()
        if line.startswith("    ") and not line.startswith("     ") and _ARGUMENT.match(text):
            name, _, text = text.partition(": ")
        if name:
            found[name] = f"{found.get(name, '')} {text}".strip()
    return found
