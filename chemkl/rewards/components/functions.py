"""The component for a user's Python function, found by module or file."""

import inspect
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from inspect import Parameter
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from rdkit.Chem import Mol, MolToSmiles

from chemkl.chem.molecules import one_line
from chemkl.config import Config, InputError, did_you_mean
from chemkl.config.loading import Document, render
from chemkl.processes import StoppedBySignal
from chemkl.results.provenance import sha256_of
from chemkl.rewards.registry import (
    REAL,
    BatchScore,
    Failure,
    Identified,
    InputFile,
    TransientError,
    component,
)

Takes = Literal["smiles", "mol", "list"]
FORMS = "package.module:name, package.module.name or path/to/file.py:name"

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


class CallError(RuntimeError):
    """A user's function failed; the message has one line."""


@dataclass(frozen=True)
class UserFunction:
    """A user's function, whose first argument is a molecule or a list of molecules."""

    reference: str  # its name, independent of the working directory
    function: Callable[..., Any]
    identity: str  # sha256 of the file with its code; empty if there is none
    file: Path | None = None  # the file with its code

    def __call__(self, *arguments: Any, **parameters: Any) -> Any:
        """Call the function; raise a CallError if it fails."""
        try:
            return self.function(*arguments, **parameters)
        except (TransientError, StoppedBySignal):
            raise
        except SystemExit as error:
            text = f"it raised SystemExit ({error})"
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            text = _described(error)
            for frame in reversed(traceback.extract_tb(error.__traceback__)):
                if self.file is not None and frame.filename == str(self.file):
                    text += f" ({self.file.name}:{frame.lineno})"
                    break
        raise CallError(text)

    def form(self, takes: Takes | None) -> tuple[bool, type]:
        """Return whether it is called with a list, and the type of a molecule: str or Mol.

        `takes` is the config's setting; None: the annotation of the first parameter decides.
        """
        parameters = self._signature.parameters.values() if self._signature else ()
        first = next(iter(parameters), None)
        annotated = _form(self._hints.get(first.name)) if first is not None else None
        if self._signature is not None and (first is None or first.kind not in _POSITIONAL):
            problem = "cannot be called with a molecule as its first argument"
        elif takes == "list":
            return True, annotated[1] if annotated else str
        elif takes is not None:
            return False, Mol if takes == "mol" else str
        elif annotated is not None:
            return annotated
        else:
            problem = (
                "has no annotation for its molecules: annotate its first parameter (smiles: str, "
                "mol: Mol, smiles: list[str] or mols: list[Mol]), or set takes to one of "
                f"{', '.join(get_args(Takes))}"
            )
        raise InputError(f"{self} {problem}")

    def checked(
        self, parameters: Mapping[str, Any], *, positional: Sequence[str] = ("the molecule",)
    ) -> dict[str, Any]:
        """Check parameters against the signature and convert them to the annotated types.

        `positional` describes the arguments that precede them.
        """
        if self._signature is None:  # a compiled function checks its parameters at each call
            return dict(parameters)
        signature = [*self._signature.parameters.values()]
        fields: dict[str, Any] = {
            parameter.name: (
                _usable(self._hints.get(parameter.name, Any)),
                ... if parameter.default is Parameter.empty else parameter.default,
            )
            for place, parameter in enumerate(signature)
            if (place >= len(positional) or parameter.kind not in _POSITIONAL)
            and parameter.kind in _BY_NAME
            and not parameter.name.startswith("_")
        }
        takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in signature)
        if parameters and not fields and not takes_any:
            names = ", ".join(map(str, parameters))
            raise InputError(
                f"parameters: {self} takes nothing but {' and '.join(positional)} (got {names})"
            )
        config = ConfigDict(
            extra="allow" if takes_any else "forbid",
            protected_namespaces=(),
            arbitrary_types_allowed=True,
            allow_inf_nan=True,
            validate_default=False,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a parameter called copy, json, schema
            model = cast(type[Config], type("parameters", (Config,), {"model_config": config}))
            model = model.with_fields("parameters", fields)
        try:
            checked = model.model_validate(dict(parameters))
        except ValidationError as error:
            document = Document(dict(parameters), "", prefix=("parameters",))
            InputError.refuse(text for _, text in render(error, document))
        return {name: getattr(checked, name) for name in parameters}

    def __str__(self) -> str:
        signature = "" if self._signature is None else str(self._signature)
        return f"{self.reference}{signature}"

    @cached_property
    def _signature(self) -> inspect.Signature | None:
        try:
            return inspect.signature(self.function)
        except (TypeError, ValueError):  # compiled functions, such as many of RDKit's
            return None

    @cached_property
    def _hints(self) -> dict[str, Any]:
        is_plain = inspect.isroutine(self.function)
        try:
            return get_type_hints(self.function if is_plain else type(self.function).__call__)
        except (AttributeError, NameError, TypeError):  # names only defined for type checkers
            return {}


def load_function(reference: str, folder: Path | None = None) -> UserFunction:
    """Find a function by one of `FORMS`; its module is run once per process.

    A relative path is looked up in the folder, then in the working directory.
    """
    place, colon, name = reference.rpartition(":")
    if not colon:
        place, _, name = reference.rpartition(".")
    if not place or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name) or name == "py":
        raise InputError(f"{reference!r} names no function; write {FORMS}")
    path: Path | None = None
    if place.endswith(".py"):
        try:
            path = TypeAdapter(InputFile).validate_python(place, context={"folder": folder})
        except ValidationError as error:
            raise InputError(str(error.errors()[0]["ctx"]["error"])) from None
        place = str(path)
    value: Any = _module(place, path)
    source, defined_in = getattr(value, "__file__", None), value.__name__ if path else None
    for part in name.split("."):
        if not hasattr(value, part):
            names = [
                name
                for name, member in getattr(value, "__dict__", {}).items()
                if inspect.isroutine(member)
                and not name.startswith("_")
                and defined_in in (None, getattr(member, "__module__", None))
            ]
            raise InputError(f"{place} has no {part!r}{did_you_mean(part, names)}")
        value = getattr(value, part)
    if inspect.isclass(value) or not callable(value):
        kind = "a class" if inspect.isclass(value) else f"of type {type(value).__name__}"
        raise InputError(f"{reference} is {kind}, not a function")
    file = Path(source) if source else None
    return UserFunction(f"{place}:{name}", value, sha256_of(file) if file else "", file)


def _described(error: BaseException) -> str:
    return ": ".join(filter(None, [type(error).__name__, " ".join(str(error).split())]))


def _usable(annotation: Any) -> Any:
    """Return the annotation if pydantic can validate it, else Any."""
    try:
        TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, TypeError):
        return Any
    except PydanticUserError:
        pass  # BaseModels refuse a config, but can be validated
    return annotation


def _form(annotation: Any) -> tuple[bool, type] | None:
    """Return whether an annotation is a list, and of which type; None if not of str or Mol."""
    if annotation in (str, Mol):
        return False, annotation
    origin, inner = get_origin(annotation), get_args(annotation)
    if not inspect.isclass(origin) or not issubclass(list, origin) or not inner:
        return None
    return (True, inner[0]) if inner[0] in (str, Mol) else None


def _module(place: str, path: Path | None) -> ModuleType:
    """Import a module by its dotted name, or run a file as one, once for the same content.

    A file can import modules from its own folder.
    """
    name = ""
    try:
        if path is None:
            return import_module(place)
        stem = re.sub(r"\W", "_", path.stem)
        name = f"chemkl_own_{stem}_{sha256_of(path)[:12]}"
        loaded = sys.modules.get(name)
        if loaded is not None and loaded.__file__ == str(path):
            return loaded
        loader = SourceFileLoader(name, str(path))
        module = module_from_spec(spec_from_loader(name, loader))  # type: ignore[arg-type] # a file
        sys.modules[name] = module  # dataclasses and pickle look up the module of a class
        sys.path.insert(0, str(path.parent))  # as for a script in that folder
        try:
            loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        missing = error.name if isinstance(error, ModuleNotFoundError) and path is None else None
        text = f"{place} cannot be imported: {_described(error)}"
        if missing and f"{place}.".startswith(f"{missing}."):
            text = (
                f"no module {missing!r} is installed; name a function in a file as "
                "path/to/file.py:name"
            )
        raise InputError(text) from error
    else:
        return module


# ---- the component


@component(
    "python_function",
    unit="as returned",
    range=REAL,
    source="your function",
    batched=True,
    costly=True,
)
def python_function(
    function: Annotated[
        str,
        AfterValidator(
            lambda name, info: load_function(name, (info.context or {}).get("folder")).reference
        ),
        Field(
            description=f"The function: {FORMS}; a path is relative to the config file or to the "
            "working directory. Its module is run as soon as the config is checked."
        ),
    ],
    *,
    parameters: dict[str, Any] | None = None,
    takes: Takes | None = None,
) -> BatchScore:
    """Value of your Python function for a molecule; you decide what high values mean.

    The function may modify its molecule. After an exception, or a value that is not a finite
    number, only that molecule fails (after a chemkl.rewards.TransientError it is scored again
    later). A function of lists that fails, or returns a list of another length, is called again
    with each molecule alone.

    Args:
        function: The function.
        parameters: Its other parameters by name; checked against its signature. null: its defaults.
        takes: What it is called with: a canonical SMILES (smiles), an RDKit Mol (mol), or a list of
            either (list), for which it returns a list of equal length. null: the annotation of its
            first parameter decides (str, Mol, list[str], list[Mol]).
    """
    user = load_function(function)
    checked = user.checked(parameters or {})
    is_list, kind = user.form(takes)

    def score(mols: Sequence[Mol]) -> Sequence[float | Failure]:
        molecules = [MolToSmiles(mol) if kind is str else Mol(mol) for mol in mols]
        if is_list:
            together: Sequence[float | Failure] = user(molecules, **checked)
            return together
        answers: list[float | Failure] = []
        for molecule in molecules:
            try:
                answers.append(user(molecule, **checked))
            except CallError as error:  # only this molecule fails
                answers.append(Failure(str(error)))
            except TransientError as error:
                answers.append(Failure(one_line(error), transient=True))
        return answers

    return Identified(score, user.identity)
