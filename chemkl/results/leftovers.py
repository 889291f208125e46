"""What an attempt leaves in its folder when it ends before it has found anything out."""

from fnmatch import fnmatch
from pathlib import Path

from chemkl.results.parts import ASIDE, READY
from chemkl.results.trace import ORPHANS

OF_THE_ATTEMPT = ("prompts.json", "answers.parquet")
"""What a run writes before its first result, and another attempt may not write again."""

WITHOUT_RESULTS = ("manifest.json", "logs/*", *OF_THE_ATTEMPT)
"""All that a run writes before its first result."""

OF_THE_USER = ("*.yaml", "*.yml", "*.py", "*.txt", "*.log")
"""What users keep in an output folder beside the output; no stage touches it."""


def holds_results(folder: Path) -> bool:
    """Whether a folder holds anything that an attempt to run has computed.

    A file that is not known counts as a result. Hidden files do not, but for the rows of a trace
    among them: those that a resumed run set aside, and those of a swap that a kill cut off.
    """
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
    return any(_is_result(name) for name in names)


def outputs_in(folder: Path) -> list[str]:
    """What a finished stage has written, by name: no logs, hidden files or those of the user."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    left_out = ("manifest.json", "logs/*", *OF_THE_USER)
    return sorted(
        name
        for name in names
        if not any(part.startswith(".") for part in name.split("/"))
        and not any(fnmatch(name, each) for each in left_out)
    )


def clear(folder: Path) -> None:
    """Remove what an attempt without results has left and would pass for the next one's."""
    for name in OF_THE_ATTEMPT:
        (folder / name).unlink(missing_ok=True)


def _is_result(name: str) -> bool:
    if name.startswith((f"{ORPHANS}/", f"{ASIDE}/{READY}/")):
        return True
    if any(part.startswith(".") for part in name.split("/")):
        return False
    return not any(fnmatch(name, each) for each in (*WITHOUT_RESULTS, *OF_THE_USER))
