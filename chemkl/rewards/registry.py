"""Where reward components are known by name: one decorated function each, checked before use."""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, NamedTuple, TypeVar, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)
from rdkit.Chem import Mol

from chemkl.chem.molecules import MoleculeError
from chemkl.config import Config, InputError, did_you_mean
from chemkl.config.base import Keys
from chemkl.config.document import Document
from chemkl.config.loading import render
from chemkl.config.transforms import documented, fields_of, is_group
from chemkl.rewards.synonyms import SYNONYMS

MANY = (0, math.inf)
"""The range of what is counted or measured from 0 on."""
REAL = (-math.inf, math.inf)
"""The range of any number."""

OneOrMore = Annotated[
    list[str],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Field(min_length=1),
]
"""The type of a parameter: a list of strings that is not empty; one string stands for itself."""

MOST_PROBLEMS = 10
"""As many bad values of a list are named; of the rest the message says how many they are."""

Score = Callable[[Mol], float]
"""What a component's factory returns: one molecule to one number."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a batched component gives for a molecule that it cannot score, with the reason."""

    reason: str


BatchScore = Callable[[Sequence[Mol]], Sequence[float | Failure]]
"""What a batched component's factory returns: molecules to as many numbers, in their order."""


class _Parameters(Config):
    model_config = ConfigDict(allow_inf_nan=True, validate_default=False, protected_namespaces=())


@dataclass(frozen=True)
class Component:
    """A kind of reward component.

    Attributes:
        kind: Its name in configs.
        factory: Takes the parameters, does all costly set-up once, returns the score function.
        unit: Of the raw value; empty for a pure number.
        range: Smallest and largest raw value possible.
        source: Paper or program that defines it.
        batched: Its score function takes a list of molecules (BatchScore), not one (Score).
        costly: It is asked only about molecules that passed every filter, after all others.
        version: Of its values, from 1; kept values of another version are not read.
    """

    kind: str
    factory: Callable[..., Score | BatchScore]
    unit: str
    range: tuple[float, float]
    source: str
    batched: bool = False
    costly: bool = False
    version: int = 1

    @cached_property
    def parameter_model(self) -> type[BaseModel]:
        """The schema of the parameters, read off the factory's signature."""
        return create_model(self.kind, __base__=_Parameters, **fields_of(self.factory))

    @property
    def meaning(self) -> str:
        """What it is, in the first sentences of its factory's docstring."""
        return " ".join(documented(self.factory)[0].partition("\n\n")[0].split())

    def build(self, parameters: Mapping[str, Any], document: Document | None = None) -> Any:
        """Check the parameters and give the score function; `document` is where they stand.

        Raises:
            InputError: unknown, missing or unfit parameters; one line each.
        """
        document = document or Document(parameters, self.kind)
        if parameters and not self.parameter_model.model_fields:
            given = ", ".join(map(str, parameters))
            raise InputError(placed(document, (), f"{self.kind} takes no parameters (got {given})"))
        try:
            checked = self.parameter_model.model_validate(
                dict(parameters), context={"folder": document.folder}
            )
        except ValidationError as error:
            problems = render(error, replace(document, data=parameters))
            raise InputError("\n".join(text for _, text in problems)) from None
        values = {}
        for name, kind in get_type_hints(self.factory).items():
            if is_group(kind):
                values[name] = kind(*(getattr(checked, key) for key in kind._fields))
            elif name != "return":
                values[name] = getattr(checked, name)
        try:
            return self.factory(**values)
        except (InputError, MoleculeError) as error:  # the latter of a reference
            lines = [placed(document, (), line) for line in str(error).splitlines()]
            raise InputError("\n".join(lines)) from None


COMPONENTS: dict[str, Component] = {}
"""Every component, by kind."""


Factory = TypeVar("Factory", bound=Callable[..., Score | BatchScore])


def component(
    kind: str,
    *,
    unit: str = "",
    range: tuple[float, float],
    source: str,
    batched: bool = False,
    costly: bool = False,
    version: int = 1,
) -> Callable[[Factory], Factory]:
    """Register a component: decorate a factory whose typed signature is its parameter schema.

    For example::

        @component("heavy_atoms", unit="atoms", range=(0, math.inf), source="RDKit")
        def heavy_atoms() -> Score:
            return lambda mol: mol.GetNumHeavyAtoms()

    Settings that several components share are one parameter, whose type is a NamedTuple of them.
    The score function may raise for a molecule: that molecule gets NaN, the exception's text as
    its reason, and reward 0. An InputError from the factory is a mistake in the config. With
    ``batched=True`` the score function takes a list of molecules and gives as many numbers, a
    Failure in place of a number that it cannot give. With ``costly=True`` it is asked last, and
    only about molecules that passed every filter. ``version`` is part of the key under which a
    cache keeps the values: raise it when the value of any molecule changes, be it by the component
    itself or by what it uses of chemkl, and leave it when only text or speed does.

    Raises:
        ValueError: the kind is taken or no lower-case name, or a parameter has no type.
    """

    def register(factory: Factory) -> Factory:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
            raise ValueError(f"component kind {kind!r}: use lower-case letters, digits and _")
        if kind in COMPONENTS:
            taken = COMPONENTS[kind].factory
            raise ValueError(
                f"component {kind!r} is registered already, by {taken.__module__}.{taken.__name__}"
            )
        for name, parameter in inspect.signature(factory).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise ValueError(f"component {kind!r}: *args and **kwargs have no schema")
            if parameter.annotation is parameter.empty:
                raise ValueError(f"component {kind!r}: parameter {name!r} needs a type")
        COMPONENTS[kind] = Component(kind, factory, unit, range, source, batched, costly, version)
        return factory

    return register


class Row(NamedTuple):
    """A component without parameters, a function of the molecule alone, as a row of a table.

    An empty source stands for RDKit's function of that name. The rest is as in `component`.
    """

    kind: str
    score: Score
    unit: str
    range: tuple[float, float]
    source: str
    meaning: str
    version: int = 1


def register_table(module: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Register components without parameters; `module` is the name of the caller's module."""
    for values in rows:
        _register_row(module, Row(*values))


def _register_row(module: str, row: Row) -> None:
    def factory() -> Score:
        return row.score

    factory.__name__ = factory.__qualname__ = row.kind
    factory.__doc__ = row.meaning
    factory.__module__ = module
    source = row.source or f"RDKit {row.score.__name__}"
    component(row.kind, unit=row.unit, range=row.range, source=source, version=row.version)(factory)


def find_component(kind: str) -> Component:
    """Look a component up.

    Raises:
        InputError: there is none of this name; the message has the nearest, and how to list all.
    """
    if kind not in COMPONENTS:
        meanings = {name: component.meaning for name, component in COMPONENTS.items()}
        hint = did_you_mean(
            kind, COMPONENTS, also=SYNONYMS, meanings=meanings, listed="chemkl show rewards"
        )
        raise InputError(f"unknown component {kind!r}{hint}")
    return COMPONENTS[kind]


def placed(document: Document, keys: Keys, problem: object) -> str:
    """Say where a problem stands: ``file:line: key.path: problem``."""
    path = ".".join(str(key) for key in (*document.prefix, *keys))
    return ": ".join(filter(None, [document.where(keys), path, str(problem)]))


def refuse(problems: Sequence[str]) -> None:
    """Raise an InputError with one line for each problem, the first ones in full; none: pass."""
    if len(problems) > MOST_PROBLEMS:
        problems = [
            *problems[:MOST_PROBLEMS],
            f"and {len(problems) - MOST_PROBLEMS} more like these",
        ]
    if problems:
        raise InputError("\n".join(problems))
