"""What an attempt leaves in its folder when it ends before it has found anything out."""

from fnmatch import fnmatch
from pathlib import Path

from chemkl.results.parts import ASIDE, READY
from chemkl.results.trace import ORPHANS

WITHOUT_RESULTS = ("manifest.json", "prompts.json", "answers.parquet", "logs/*")
"""What a run writes before its first result, and would write again."""

OF_THE_USER = ("*.yaml", "*.yml", "*.py", "*.txt", "*.log")
"""What users keep in an output folder beside the output; no stage touches it."""


def holds_results(folder: Path) -> bool:
    """Whether a folder holds anything that an attempt to run has computed.

    A file that is not known counts as a result. Hidden files do not, but for the rows of a trace
    among them: those that a resumed run set aside, and those of a swap that a kill cut off.
    """
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
    return any(_is_result(name) for name in names)


def _is_result(name: str) -> bool:
    if name.startswith((f"{ORPHANS}/", f"{ASIDE}/{READY}/")):
        return True
    if any(part.startswith(".") for part in name.split("/")):
        return False
    return not any(fnmatch(name, each) for each in (*WITHOUT_RESULTS, *OF_THE_USER))
