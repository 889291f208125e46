"""The component for a Python function of the user: named by module or file, checked, called."""

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
    """A function of the user has failed; the message says how, in one line."""


@dataclass(frozen=True)
class UserFunction:
    """A function of the user; the molecule, or the list of them, is its first argument."""

    reference: str  # how it is found, whatever the working directory
    function: Callable[..., Any]  # the function itself
    identity: str  # sha256 of the file that its code stands in; empty where there is none
    file: Path | None = None  # that file; None where there is none

    def __call__(self, *arguments: Any, **parameters: Any) -> Any:
        """Call it; a CallError where it fails."""
        try:
            return self.function(*arguments, **parameters)
        except (TransientError, StoppedBySignal):
            raise
        except SystemExit as error:
            text = f"it wants to end the program ({error})"
        except Exception as error:  # noqa: BLE001 - the user's own may be any
            text = _described(error)
            for frame in reversed(traceback.extract_tb(error.__traceback__)):
                if self.file is not None and frame.filename == str(self.file):
                    text += f" ({self.file.name}:{frame.lineno})"
                    break
        raise CallError(text)

    def form(self, takes: Takes | None) -> tuple[bool, type]:
        """Say whether it is called with a list, and as what a molecule comes: str or Mol.

        `takes` is what the config says; None: what the first parameter is annotated with.
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
                "does not say what it is called with: annotate its first parameter (smiles: str, "
                "mol: Mol, smiles: list[str] or mols: list[Mol]), or set takes to one of "
                f"{', '.join(get_args(Takes))}"
            )
        raise InputError(f"{self} {problem}")

    def checked(
        self, parameters: Mapping[str, Any], *, given: Sequence[str] = ("the molecule",)
    ) -> dict[str, Any]:
        """Check parameters against the signature, and give them in the annotated types.

        `given` says in words what it is given before them, by position.
        """
        if self._signature is None:  # compiled: it says itself what it dislikes, at each molecule
            return dict(parameters)
        takes = [*self._signature.parameters.values()]
        fields: dict[str, Any] = {
            taken.name: (
                _usable(self._hints.get(taken.name, Any)),
                ... if taken.default is Parameter.empty else taken.default,
            )
            for place, taken in enumerate(takes)
            if (place >= len(given) or taken.kind not in _POSITIONAL)
            and taken.kind in _BY_NAME
            and not taken.name.startswith("_")
        }
        anything = any(taken.kind is Parameter.VAR_KEYWORD for taken in takes)
        names = ", ".join(map(str, parameters))
        lines = [f"parameters: {self} takes nothing but {' and '.join(given)} (got {names})"]
        InputError.refuse(lines if parameters and not fields and not anything else [])
        config = ConfigDict(
            extra="allow" if anything else "forbid",
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
        except (TypeError, ValueError):  # compiled functions, such as many of RDKit's, have none
            return None

    @cached_property
    def _hints(self) -> dict[str, Any]:
        is_plain = inspect.isroutine(self.function)
        try:
            return get_type_hints(self.function if is_plain else type(self.function).__call__)
        except (AttributeError, NameError, TypeError):  # names that only a type checker knows
            return {}


def load_function(reference: str, folder: Path | None = None) -> UserFunction:
    """Find a function by one of `FORMS`; the code around it is run, once in a process.

    A relative path is looked up in the folder before the working directory.
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
                for name, one in getattr(value, "__dict__", {}).items()
                if inspect.isroutine(one)
                and not name.startswith("_")
                and defined_in in (None, getattr(one, "__module__", None))
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
    """An annotation that values can be checked against; Any where it cannot be read."""
    try:
        TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, TypeError):
        return Any
    except PydanticUserError:
        pass  # BaseModels refuse a config; they can be checked against
    return annotation


def _form(annotation: Any) -> tuple[bool, type] | None:
    """Read an annotation: a list or not, of SMILES or of molecules; None for anything else."""
    if annotation in (str, Mol):
        return False, annotation
    origin, inner = get_origin(annotation), get_args(annotation)
    if not inspect.isclass(origin) or not issubclass(list, origin) or not inner:
        return None
    return (True, inner[0]) if inner[0] in (str, Mol) else None


def _module(place: str, path: Path | None) -> ModuleType:
    """Import a module by its dotted name, or run a file as one, which finds the files beside it.

    The same text is run once.
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
        sys.modules[name] = module  # dataclasses and pickle look a class's module up there
        sys.path.insert(0, str(path.parent))  # as for a script that stands there
        try:
            loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        lacking = error.name if isinstance(error, ModuleNotFoundError) and path is None else None
        text = f"{place} cannot be imported: {_described(error)}"
        if lacking and f"{place}.".startswith(f"{lacking}."):
            text = (
                f"no module {lacking!r} is installed; a function in a file of yours is named as "
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
    source="a function of yours",
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
            description=f"Where it is: {FORMS}; the path beside the config file, or in the working "
            "directory. That code is run as soon as the config is checked."
        ),
    ],
    *,
    parameters: dict[str, Any] | None = None,
    takes: Takes | None = None,
) -> BatchScore:
    """What a Python function of yours says of a molecule; you decide what high means.

    The function may change the molecule that it is given. An exception, or anything else than a
    finite number, costs that molecule only (chemkl.rewards.TransientError: it is asked about again
    later); where a list of molecules makes it fail, or gives a
    list of another length, it is asked again with each of them alone.

    Args:
        function: Where it is.
        parameters: What it takes beside the molecule, by name; checked against its signature. null:
            its defaults.
        takes: What it is called with: a canonical SMILES (smiles), an RDKit Mol (mol), or a list of
            either (list), for which it returns a list as long. null: what its first parameter is
            annotated with (str, Mol, list[str], list[Mol]).
    """
    user = load_function(function)
    given = user.checked(parameters or {})
    is_list, kind = user.form(takes)

    def score(mols: Sequence[Mol]) -> Sequence[float | Failure]:
        molecules = [MolToSmiles(mol) if kind is str else Mol(mol) for mol in mols]
        if is_list:
            together: Sequence[float | Failure] = user(molecules, **given)
            return together
        answers: list[float | Failure] = []
        for molecule in molecules:
            try:
                answers.append(user(molecule, **given))
            except CallError as error:  # what it cannot score fails alone
                answers.append(Failure(str(error)))
            except TransientError as error:
                answers.append(Failure(one_line(error), transient=True))
        return answers

    return Identified(score, user.identity)
