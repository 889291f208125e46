"""Functions of the user: found by name or in a file, and checked against what they take."""

import inspect
import re
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
    create_model,
)
from rdkit.Chem import Mol

from chemkl.config import InputError, did_you_mean
from chemkl.config.document import Document
from chemkl.config.loading import render
from chemkl.results.provenance import sha256_of
from chemkl.rewards.modules import (
    existing_file,
    installed_module,
    module_of_file,
)

Takes = Literal["smiles", "mol", "list"]
FORMS = "package.module:name, package.module.name or path/to/file.py:name"

_SCHEMA = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


class CallError(RuntimeError):
    """A function of the user has failed; the message says how, in one line."""


@dataclass(frozen=True)
class OwnFunction:
    """A function of the user; the molecule, or the list of them, is its first argument.

    Attributes:
        reference: How it is found, whatever the working directory.
        function: The function itself.
        identity: sha256 of the file that its code stands in; empty where there is none.
        file: That file; None where there is none.
    """

    reference: str
    function: Callable[..., Any]
    identity: str
    file: Path | None = None

    def __call__(self, *arguments: Any, **parameters: Any) -> Any:
        """Call it.

        Raises:
            CallError: it raised an exception, of which this names type, message and line, or wants
                to end the program.
        """
        try:
            return self.function(*arguments, **parameters)
        except SystemExit as error:
            raise CallError(f"it wants to end the program ({error})") from error
        except Exception as error:
            raise CallError(self._told(error)) from error

    def form(self, takes: Takes | None) -> tuple[bool, type]:
        """Say how it is called.

        Args:
            takes: what the config says; None: what the first parameter is annotated with.

        Returns:
            Whether it is called with a list, and as what a molecule comes: str or Mol.

        Raises:
            InputError: it cannot be called with a molecule, or nothing says in what form.
        """
        first = next(iter(self._parameters), None)
        if self._signature is not None and (first is None or first.kind not in _POSITIONAL):
            raise InputError(f"{self} cannot be called with a molecule as its first argument")
        annotated = _form(self._hints.get(first.name)) if first is not None else None
        if takes == "list":
            return True, annotated[1] if annotated else str
        if takes is not None:
            return False, Mol if takes == "mol" else str
        if annotated is None:
            raise InputError(
                f"{self} does not say what it is called with: annotate its first parameter "
                "(smiles: str, mol: Mol, smiles: list[str] or mols: list[Mol]), or set takes to "
                f"one of {', '.join(get_args(Takes))}"
            )
        return annotated

    def checked(
        self, parameters: Mapping[str, Any], *, given: Sequence[str] = ("the molecule",)
    ) -> dict[str, Any]:
        """Check parameters against the signature: names, those without a default, types.

        Args:
            parameters: what it takes by name.
            given: what it is given before them, by position; in words.

        Returns:
            The parameters, in the annotated types.

        Raises:
            InputError: a line for each that does not fit.
        """
        if self._signature is None:  # compiled: it says itself what it dislikes, at each molecule
            return dict(parameters)
        model = self._schema(len(given))
        if parameters and not model.model_fields and model.model_config.get("extra") == "forbid":
            raise InputError(
                f"parameters: {self} takes nothing but {' and '.join(given)} (got "
                f"{', '.join(map(str, parameters))})"
            )
        try:
            checked = model.model_validate(dict(parameters))
        except ValidationError as error:
            document = Document(dict(parameters), "", prefix=("parameters",))
            lines = [text for _, text in render(error, model, document)]
            raise InputError("\n".join(lines)) from None
        return {name: getattr(checked, name) for name in parameters}

    def __str__(self) -> str:
        signature = "" if self._signature is None else str(self._signature)
        return f"{self.reference}{signature}"

    @cached_property
    def _signature(self) -> inspect.Signature | None:
        try:
            return inspect.signature(self.function)
        except (TypeError, ValueError):  # compiled functions, such as many of RDKit's, have none
            return None

    @property
    def _parameters(self) -> Sequence[Parameter]:
        return list(self._signature.parameters.values()) if self._signature else []

    @cached_property
    def _hints(self) -> dict[str, Any]:
        is_plain = inspect.isroutine(self.function)
        try:
            return get_type_hints(self.function if is_plain else type(self.function).__call__)
        except (AttributeError, NameError, TypeError):  # names that only a type checker knows
            return {}

    def _told(self, error: Exception) -> str:
        """Type and message of an exception, and the last line of the user's file on its way."""
        said = ": ".join(filter(None, [type(error).__name__, " ".join(str(error).split())]))
        frames = reversed(traceback.extract_tb(error.__traceback__))
        lines = (each.lineno for each in frames if each.filename == str(self.file))
        line = next(lines, None)
        return said if self.file is None or line is None else f"{said} ({self.file.name}:{line})"

    def _schema(self, n_given: int) -> type[BaseModel]:
        """What it takes by name beside the first arguments, which it is given by position."""
        fields: dict[str, Any] = {
            each.name: (
                _usable(self._hints.get(each.name, Any)),
                ... if each.default is Parameter.empty else each.default,
            )
            for place, each in enumerate(self._parameters)
            if (place >= n_given or each.kind not in _POSITIONAL)
            and each.kind in _BY_NAME
            and not each.name.startswith("_")
        }
        anything = any(each.kind is Parameter.VAR_KEYWORD for each in self._parameters)
        config = ConfigDict(**{**_SCHEMA, "extra": "allow" if anything else "forbid"})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a parameter called copy, json, schema
            model: type[BaseModel] = create_model("parameters", __config__=config, **fields)
        return model


def load_function(reference: str, folder: Path | None = None) -> OwnFunction:
    """Find a function of the user; the code around it is run, once in a process.

    Args:
        reference: one of `FORMS`.
        folder: where a relative path is looked up before the working directory.

    Raises:
        InputError: no such file, module or name, code that cannot be run, or not a function.
    """
    place, colon, name = reference.rpartition(":")
    if not colon:
        place, _, name = reference.rpartition(".")
    if not place or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name) or name == "py":
        raise InputError(f"{reference!r} names no function; write {FORMS}")
    if place.endswith(".py"):
        path = existing_file(place, folder)
        place, module = str(path), module_of_file(path)
    else:
        module = installed_module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = _functions_in(found, module.__name__ if place.endswith(".py") else None)
            raise InputError(f"{place} has no {part!r}{did_you_mean(part, known)}")
        found = getattr(found, part)
    if inspect.isclass(found) or not callable(found):
        kind = "a class" if inspect.isclass(found) else f"of type {type(found).__name__}"
        raise InputError(f"{reference} is {kind}, not a function")
    source = getattr(module, "__file__", None)
    file = Path(source) if source else None
    return OwnFunction(f"{place}:{name}", found, sha256_of(file) if file else "", file)


def _functions_in(found: Any, module: str | None) -> list[str]:
    """Names of the functions in a module or class; module: that must have defined them."""
    return [
        name
        for name, value in vars(found).items()
        if callable(value)
        and not inspect.isclass(value)
        and not name.startswith("_")
        and (module is None or getattr(value, "__module__", None) == module)
    ]


def _usable(annotation: Any) -> Any:
    """An annotation that values can be checked against; Any where it cannot be read."""
    try:
        TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, TypeError):
        return Any
    except PydanticUserError:  # BaseModels refuse a config; they can be checked against
        return annotation
    return annotation


def _form(annotation: Any) -> tuple[bool, type] | None:
    """Read an annotation: a list or not, of SMILES or of molecules; None for anything else."""
    if annotation in (str, Mol):
        return False, annotation
    origin, inner = get_origin(annotation), get_args(annotation)
    if not inspect.isclass(origin) or not issubclass(list, origin) or not inner:
        return None
    return (True, inner[0]) if inner[0] in (str, Mol) else None
