"""Python modules of the user: installed ones by name, and files that are run as modules."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from pydantic import TypeAdapter, ValidationError

from chemkl.config import InputError, InputPath
from chemkl.results.provenance import sha256_of


def installed_module(name: str) -> ModuleType:
    """Import a module by its dotted name.

    Raises:
        InputError: it is not installed, or its code cannot be run.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise InputError(
                f"no module {error.name!r} is installed; a function in a file of yours is named "
                "as path/to/file.py:name"
            ) from None
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def module_of_file(path: Path) -> ModuleType:
    """Run a file as a module; the same text is run once, and finds the files beside it.

    Raises:
        InputError: it is no Python file, or its code cannot be run.
    """
    stem = re.sub(r"\W", "_", path.stem)
    name = f"chemkl_own_{stem}_{sha256_of(path)[:12]}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _broken(str(path), error) from error
    return module


def existing_file(place: str, folder: Path | None) -> Path:
    """Find a file beside the config file or in the working directory.

    Raises:
        InputError: there is none.
    """
    try:
        path = TypeAdapter(InputPath).validate_python(place, context={"folder": folder})
    except ValidationError as error:
        raise InputError(str(error.errors()[0]["ctx"]["error"])) from None
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    return Path(path)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let imports find what is in a folder, as for a script that stands there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _broken(place: str, error: BaseException) -> InputError:
    return InputError(
        f"{place} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
    )
