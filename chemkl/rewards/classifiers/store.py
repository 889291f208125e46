"""Where the classifiers come from: a pinned wheel, converted once, kept as arrays in an npz."""

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from chemkl.config import InputError, did_you_mean
from chemkl.config.paths import at_home
from chemkl.results.atomic import write_bytes
from chemkl.results.wheels import MOLSCORE, fetch_wheel, open_member
from chemkl.rewards.classifiers.inert import DAMAGES, read_model
from chemkl.rewards.classifiers.models import Classifier, Forest, SupportVectors


@dataclass(frozen=True)
class Source:
    """A pickled classifier inside the wheel.

    Attributes:
        model: What it becomes.
        member: Its name in the wheel.
        sha256: Of the pickle.
    """

    model: type[Classifier]
    member: str
    sha256: str


CLASSIFIERS = {
    "drd2": Source(
        SupportVectors,
        "molscore/data/models/molopt/drd2_current.pkl",
        "ef1f00e47d5e4670a45b0a4178db3c41b2e1aa9dad7113ac9d0f58e3f9d67532",
    ),
    "gsk3b": Source(
        Forest,
        "molscore/data/models/molopt/gsk3b_current.pkl",
        "d3a20701b80e5179c88c3ad4dc3483dd7ab35c50dc055c6773a7f5b63e89b6d5",
    ),
    "jnk3": Source(
        Forest,
        "molscore/data/models/molopt/jnk3_current.pkl",
        "cde8576fb4fa3f60b9f258ff9cf1b9ff346eb50d196d5cbbe25965efc1864889",
    ),
}
"""The classifiers, by target."""


@cache
def load_classifier(target: str, folder: Path) -> Classifier:
    """Give a classifier: from its npz in a folder, or made from the wheel, which pip may fetch.

    Raises:
        InputError: no such target, or the wheel cannot be had.
    """
    if target not in CLASSIFIERS:
        raise InputError(f"unknown target {target!r}{did_you_mean(target, CLASSIFIERS)}")
    source = CLASSIFIERS[target]
    kept = at_home(folder) / f"activity-{target}-{source.sha256[:16]}.npz"
    found = _read_kept(kept, source)
    if found is None:
        found = _read_wheel(fetch_wheel(MOLSCORE, folder), source)
        _keep(found, kept, source)
    return found


def _read_kept(path: Path, source: Source) -> Classifier | None:
    """Read an npz of `_keep`; None when it is not there, damaged, or of another source."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if arrays["sha256"] != source.sha256:
                return None
            return source.model.from_arrays(arrays)
    except (OSError, EOFError, LookupError, ValueError, zipfile.BadZipFile):
        return None


def _read_wheel(wheel: Path, source: Source) -> Classifier:
    """Read the pickle in the wheel, if it is the very one that is known, behind the allow-list."""
    name = f"{wheel}:{source.member}"
    with open_member(wheel, source.member) as stream:
        pickled = stream.read()
    found = hashlib.sha256(pickled).hexdigest()
    if found != source.sha256:
        raise InputError(f"{name}: sha256 is {found}, expected {source.sha256}.")
    model = read_model(io.BytesIO(pickled), name)
    try:
        return source.model.from_pickle(model)
    except DAMAGES as error:
        raise InputError(f"{name}: not a classifier of the known form ({error}).") from error


def _keep(classifier: Classifier, path: Path, source: Source) -> None:
    """Write an npz; two that do so at once write the same."""
    packed = io.BytesIO()
    arrays: dict[str, Any] = {"sha256": np.array(source.sha256), **classifier.arrays}
    np.savez_compressed(packed, **arrays)
    try:
        write_bytes(path, packed.getvalue(), parents=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot keep the classifier there ({error}). Set `cache` to another folder."
        ) from None
