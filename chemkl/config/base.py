"""The base of every config model, and the types that several of them share."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo


class Config(BaseModel):
    """A frozen config: unknown keys are errors, and the text under a field is its description."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Say which names are allowed, the nearest one first: the tail of a 'not known' message.

    Returns:
        For example ``"; did you mean 'qed'? Known: logp, qed, tpsa"``.
    """
    names = sorted(allowed)
    if not names:
        return ": there is none."
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} Known: {', '.join(names)}"


def _find(path: Path, info: ValidationInfo) -> Path:
    """Resolve a relative path: beside the config file first, then in the working directory.

    The validation context may hold ``folder`` (of the config file), ``also`` (further folders to
    look in) and ``promised`` (output folders that an earlier job will have made by then).
    """
    context = info.context or {}
    try:
        path = path.expanduser()
        folders: list[Path] = [*context.get("also", ()), Path.cwd()]
        if context.get("folder"):
            folders.insert(0, context["folder"])
        places = [(folder / path).resolve() for folder in folders]
        for place in places:
            if place.exists():
                return place
    except (OSError, RuntimeError) as error:  # a name too long, a folder closed to us, ~nobody
        raise ValueError(f"no such file or folder: {path} ({error})") from error
    for place in places:
        if any(place.is_relative_to(folder) for folder in context.get("promised", ())):
            return place
    looked = " nor ".join(str(place) for place in dict.fromkeys(places))
    raise ValueError(f"no such file or folder: {looked}")


InputPath = Annotated[Path, AfterValidator(_find)]
"""A file or folder that must exist; relative paths are looked up beside the config file first,
then in the working directory. Within a pipeline, what an earlier job will write counts as there."""
