"""The components and transforms as tables: what each is, what it takes, where it comes from."""

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from chemkl.config import InputError, did_you_mean
from chemkl.config.schema import keys_of
from chemkl.config.transforms import SETTINGS, documented
from chemkl.rewards import components  # noqa: F401 - importing it registers the components
from chemkl.rewards.registry import COMPONENTS, Component, find_component


def rewards(kind: str | None = None) -> Iterator[RenderableType]:
    """Give a table of all components by family, or everything about one.

    Raises:
        InputError: there is no such component.
    """
    if kind is not None:
        yield from _component(find_component(kind))
        return
    by_family = sorted(COMPONENTS.values(), key=lambda one: (_family(one), one.kind))
    for family, members in groupby(by_family, key=_family):
        headings = ("kind", "what it is", "parameters", "unit", "range", "source")
        table = Table(*headings, title=family, title_justify="left", expand=True, show_lines=True)
        for one in members:
            table.add_row(
                one.kind + (" *" if one.costly else ""),
                escape(_paragraphs(one.factory)[0]),
                "\n".join(escape(key.brief) for key in keys_of(one.parameter_model)) or "-",
                escape(one.unit) or "-",
                _range(one),
                escape(one.source),
            )
        yield table
    yield "* costly: asked last, and only about molecules that passed every filter."
    yield "One of them in detail: chemkl show rewards KIND"


def transforms(kind: str | None = None) -> Iterator[RenderableType]:
    """Give a table of all transforms, or of one.

    Raises:
        InputError: there is no such transform.
    """
    if kind is not None and kind not in SETTINGS:
        raise InputError(f"unknown transform {kind!r}{did_you_mean(kind, SETTINGS)}")
    table = Table("kind", "what it is", "parameters", show_lines=True, expand=True)
    for name, model in SETTINGS.items():
        if kind in (None, name):
            keys = "\n".join(escape(key.brief) for key in keys_of(model) if key.name != "kind")
            table.add_row(name, escape(_paragraphs(model)[0]), keys or "-")
    yield table


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
    keys = keys_of(one.parameter_model)
    if not keys:
        yield "\nIt takes no parameters."
        return
    table = Table("parameter", "type", "default", "meaning", show_lines=True)
    for key in keys:
        table.add_row(*map(escape, key._replace(default=key.default or "required")))
    yield ""
    yield table


def _family(component: Component) -> str:
    return component.factory.__module__.rpartition(".")[2]


def _range(component: Component) -> str:
    low, high = component.range
    return f"{low:g} to {high:g}"


def _paragraphs(function: Callable[..., Any]) -> list[str]:
    """What a docstring says before its sections."""
    return [" ".join(paragraph.split()) for paragraph in documented(function)[0].split("\n\n")]
