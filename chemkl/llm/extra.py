"""The packages of the extra llm: imported on first use, and silenced."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from chemkl.config import InputError
from chemkl.config.base import install_command
from chemkl.display import listed

PACKAGES = ("transformers", "peft", "gguf")


def package(name: str, extra: str = "llm") -> ModuleType:
    """Import a package of an extra; see `check_installed`."""
    check_installed([name], extra)
    return import_module(name)


def check_installed(names: Iterable[str], extra: str = "llm") -> None:
    """Import several packages of an extra.

    Raises:
        InputError: names all packages that are not installed, and the extra.
    """
    missing: dict[str, None] = {}
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            missing[error.name or name] = None
    if missing:
        raise InputError(
            f"language models need {listed(list(missing))}, not installed here: "
            f"{install_command(extra)}"
        )


@contextmanager
def quiet() -> Iterator[Any]:
    """Yield transformers, with its progress bars and notes switched off in this scope."""
    transformers = package("transformers")
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft calls deprecated parts of it
            yield transformers
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
