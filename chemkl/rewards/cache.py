"""An SQLite cache of raw component values by canonical SMILES, shared by runs.

The table has one row per molecule and one column per component configuration, the smallest and
fastest of several layouts that were tried.
"""

import hashlib
import inspect
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import rdkit

from chemkl.config import InputError
from chemkl.config.paths import expand_home
from chemkl.config.reward import ComponentConfig, RewardConfig
from chemkl.results.provenance import sha256_of
from chemkl.rewards.registry import find_component

Value = float | str  # a raw value, or a scaffold

SIGNATURE = 0x43484B4C  # SQLite's application_id of these files: the letters CHKL

FORMAT = 1  # SQLite's user_version: the layout of the tables

PATIENCE = 60.0  # seconds to wait while another run writes, which takes milliseconds

PAGES = 64 * 2**20  # bytes of the file to hold in memory

_MAGIC = b"SQLite format 3\0"


class ScoreCache:
    """Raw values in a file that several processes may read and write at the same time.

    The file must be on a local disk: SQLite's write-ahead log does not work on a network file
    system. Values are never deleted. A component whose configuration or code changes gets another
    key and thus another column; SQLite allows 2,000 columns. The last process to close the cache
    merges the log into the file.

    Args:
        path: The file; created if it does not exist.
        keys: Key of each component by name, see `component_key`.
    """

    def __init__(self, path: str | Path, keys: Mapping[str, str]) -> None:
        self.path = expand_home(path).absolute()
        with self._explained():
            self._connection = self._connect()
            self._columns = {name: self._column(key) for name, key in keys.items()}
        self.close = self._connection.close

    def look_up(self, smiles: Sequence[str]) -> dict[str, dict[str, Value]]:
        """Return the cached values by canonical SMILES and component; unknown SMILES are absent."""
        columns = "".join(f", m.{column}" for column in self._columns.values())
        query = (
            f"select m.smiles{columns} "
            "from json_each(?) as item cross join molecule as m on m.smiles = item.value"
        )
        with self._explained():
            rows = self._connection.execute(query, (json.dumps(list(smiles)),)).fetchall()
        return {
            text: {
                n: value
                for n, value in zip(self._columns, values, strict=True)
                if value is not None
            }
            for text, *values in rows
        }

    def store(self, new: Mapping[str, Mapping[str, Value]]) -> None:
        """Add values by SMILES and component; existing values are never replaced."""
        by_columns: dict[tuple[str, ...], list[tuple[Value, ...]]] = {}
        for smiles, values in new.items():
            stored = {self._columns[name]: value for name, value in values.items()}
            if stored:
                rows = by_columns.setdefault(tuple(stored), [])
                rows.append((smiles, *stored.values()))
        with self._explained(), self._writing():
            for columns, rows in by_columns.items():
                updates = ", ".join(f"{c} = coalesce({c}, excluded.{c})" for c in columns)
                self._connection.executemany(
                    f"insert into molecule (smiles, {', '.join(columns)}) values "
                    f"(?{', ?' * len(columns)}) on conflict (smiles) do update set {updates}",
                    rows,
                )

    def _connect(self) -> sqlite3.Connection:
        """Open the file, creating the tables in a new one; refuse a file that is no cache."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        start = b""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            start = file.read(len(_MAGIC))
        if start and start != _MAGIC:
            raise self._foreign("no SQLite database")
        connection = sqlite3.connect(
            self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        """Create the tables in an empty file, check the signature and set the modes."""
        execute = connection.execute

        def contents() -> list[int]:
            """Return the file's application id, its format and the number of its tables."""
            count = "select count(*) from sqlite_master"
            queries = ("pragma application_id", "pragma user_version", count)
            return [int(execute(query).fetchone()[0]) for query in queries]

        if not contents()[2]:
            # write the signature before switching to the log, so that other processes see both
            execute("begin exclusive")
            if not any(contents()):  # another run may have been faster
                execute(f"pragma application_id = {SIGNATURE}")
                execute(f"pragma user_version = {FORMAT}")
                execute("create table component (id integer primary key, key text not null unique)")
                execute("create table molecule (smiles text primary key not null) without rowid")
            execute("commit")
        signature, version, _ = contents()
        if (signature, version) != (SIGNATURE, FORMAT):
            ours = f"of format {version}, and this chemkl reads format {FORMAT}"
            raise self._foreign(ours if signature == SIGNATURE else "a database of something else")
        # allow readers beside a writer; the setting is stored in the file
        end = monotonic() + PATIENCE
        while execute("pragma journal_mode").fetchone()[0] != "wal":
            try:
                execute("pragma journal_mode = wal")
            except sqlite3.OperationalError:  # this pragma does not wait while another run writes
                if monotonic() > end:
                    raise
                sleep(0.01)
        execute(f"pragma cache_size = -{PAGES // 1024}")
        execute("pragma synchronous = normal")  # a power cut may lose the last values

    def _column(self, key: str) -> str:
        """Return the column of a component key, adding one for a new key."""
        execute, query = self._connection.execute, "select id from component where key = ?"
        row = execute(query, (key,)).fetchone()
        if row is None:
            with self._writing():
                row = execute(query, (key,)).fetchone()  # another run may have been faster
                if row is None:
                    row = [execute("insert into component (key) values (?)", (key,)).lastrowid]
                    # without a type SQLite stores numbers exactly, -0.0 too
                    execute(f"alter table molecule add column c{row[0]}")
        return f"c{row[0]}"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Run the scope as one exclusive transaction."""
        self._connection.execute("begin immediate")
        try:
            yield
            self._connection.execute("commit")
        except BaseException:
            self._connection.rollback()  # also if the disk was too full to commit
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the file into an InputError that says what to do."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            text = " ".join(str(error).split())
            raise InputError(
                f"cache {self.path} cannot be used: {text}. Move it away or give another path; "
                "the file was not changed, and a new cache is filled by the next run."
            ) from error

    def _foreign(self, what: str) -> InputError:
        return InputError(
            f"cache {self.path} is {what}: it was not changed. Give the path of a cache of "
            "chemkl, or of a file that does not exist yet."
        )


# ---- keys of components

DECISIVE = ("rdkit", "reinvent-chemistry", "numpy", "scipy")
"""Packages whose version may change a value."""

SCAFFOLD_KEY = f"Bemis-Murcko scaffold, version 1, RDKit {rdkit.__version__}"
"""The key of scaffolds, which are cached like values; the version is like a component's."""


def component_key(
    part: ComponentConfig, score: Callable[[Any], Any], folder: Path | None = None
) -> str:
    """Return the key of a component configuration; equal keys mean equal values for every molecule.

    The key covers the kind, the component's version, the parameters with their defaults, the
    contents of all files they name, the score function's ``identity`` (required if values depend on
    anything else), and the versions of the packages in `DECISIVE`. For a user's component it also
    covers the source of its module, but not of the modules imported there: after a change in those,
    raise the version or start a new cache. Name, weight, role and transform do not affect raw
    values and are left out.
    """
    component = find_component(part.kind)
    fields = component.parameter_model.model_fields
    defaults = {name: field.default for name, field in fields.items() if not field.is_required()}
    decisive = {
        "kind": part.kind,
        "version": component.version,
        "parameters": defaults | part.parameters,
        "files": [sha256_of(file) for file in named_files(part.parameters, folder)],
        "source": _source(component.factory),
        "identity": str(getattr(score, "identity", "")),
        "versions": {name: version(name) for name in DECISIVE},
    }
    text = json.dumps(decisive, sort_keys=True, default=str)
    return f"{part.kind} {hashlib.sha256(text.encode()).hexdigest()}"


def reward_files(config: RewardConfig) -> dict[str, Path]:
    """Return the files named in a reward's parameters by role, as inputs for a manifest."""
    return {
        f"reward.{part.name}.{number}": file
        for part in config.components
        for number, file in enumerate(named_files(part.parameters, config.folder))
    }


def _source(factory: Callable[..., Any]) -> str:
    """Identify the code of a user's factory: by its module's file, its own source, or its name.

    The module is the factory's ``__module__``, because the code object of a table row belongs to
    `register_table`.
    """
    if factory.__module__.startswith("chemkl."):
        return ""  # chemkl's own components change their version when values change
    file = getattr(sys.modules.get(factory.__module__), "__file__", None)
    if file is not None and os.path.isfile(file):
        return sha256_of(Path(file))
    try:
        return inspect.getsource(factory)
    except (TypeError, OSError):
        return f"{factory.__module__}.{factory.__qualname__}"


def named_files(value: Any, folder: Path | None) -> Iterator[Path]:
    """Find every file named anywhere in parameters, also as ``file.py:function``.

    Names are looked up as by `chemkl.config.InputPath`.
    """
    if isinstance(value, dict):
        for _, part in sorted(value.items(), key=str):  # the order in the config does not matter
            yield from named_files(part, folder)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from named_files(part, folder)
    elif isinstance(value, str | Path):
        places = []
        for text in (str(value), str(value).rpartition(":")[0]):
            with suppress(RuntimeError):  # ~nobody
                path = Path(text).expanduser()
                places += [place / path for place in (folder or Path.cwd(), Path.cwd())]
        # unlike Path.is_file, isfile is False for a SMARTS that is not a valid path
        yield from [place for place in places if os.path.isfile(place)][:1]
