"""A file of raw values by component and canonical SMILES, shared by runs; nothing is asked twice.

One row for each molecule and one column for each component configuration: of the layouts of an
SQLite table that were tried, this one is the smallest and answers fastest.
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

PATIENCE = 60.0  # seconds to wait for another run that is writing; it takes a few thousandths

PAGES = 64 * 2**20  # bytes of the file that a process keeps in memory

_MAGIC = b"SQLite format 3\0"


class ScoreCache:
    """Raw values on the disk; several processes may read and write the file at the same time.

    The file must lie on a disk of this machine: SQLite's write-ahead log does not work over a
    network file system. What is stored is kept for ever; a component whose configuration or code
    changes gets another key, and a column of its own; SQLite allows 2,000 of them in one file.
    `keys` are, by name of a component, what decides its values (`component_key`). The last process
    to `close` it folds the log into the file.
    """

    def __init__(self, path: str | Path, keys: Mapping[str, str]) -> None:
        self.path = expand_home(path).absolute()
        with self._explained():
            self._connection = self._opened()
            self._columns = {name: self._column(key) for name, key in keys.items()}
        self.close = self._connection.close

    def look_up(self, smiles: Sequence[str]) -> dict[str, dict[str, Value]]:
        """Give what is cached of molecules: by canonical SMILES, the values by component."""
        columns = "".join(f", m.{column}" for column in self._columns.values())
        query = (
            f"select m.smiles{columns} "
            "from json_each(?) as given cross join molecule as m on m.smiles = given.value"
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
        """Add values, by SMILES and component; a value that is there already stays."""
        by_columns: dict[tuple[str, ...], list[tuple[Value, ...]]] = {}
        for smiles, values in new.items():
            stored = {self._columns[name]: value for name, value in values.items()}
            if stored:
                rows = by_columns.setdefault(tuple(stored), [])
                rows.append((smiles, *stored.values()))
        with self._explained(), self._writing():
            for columns, rows in by_columns.items():
                kept = ", ".join(f"{c} = coalesce({c}, excluded.{c})" for c in columns)
                self._connection.executemany(
                    f"insert into molecule (smiles, {', '.join(columns)}) "
                    f"values (?{', ?' * len(columns)}) on conflict (smiles) do update set {kept}",
                    rows,
                )

    def _opened(self) -> sqlite3.Connection:
        """Open the file; make the tables in a new one, and leave a foreign one alone."""
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
            self._claim(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _claim(self, connection: sqlite3.Connection) -> None:
        """Make the tables in a file that has none; then make sure that they are ours."""
        execute = connection.execute

        def contents() -> list[int]:
            """What the file says it is, its format, and how many tables it has."""
            count = "select count(*) from sqlite_master"
            queries = ("pragma application_id", "pragma user_version", count)
            return [int(execute(query).fetchone()[0]) for query in queries]

        if not contents()[2]:
            # the signature is in the file before its log is: whoever comes next reads both
            execute("begin exclusive")
            if not any(contents()):  # no other run was faster
                execute(f"pragma application_id = {SIGNATURE}")
                execute(f"pragma user_version = {FORMAT}")
                execute("create table component (id integer primary key, key text not null unique)")
                execute("create table molecule (smiles text primary key not null) without rowid")
            execute("commit")
        signature, version, _ = contents()
        if (signature, version) != (SIGNATURE, FORMAT):
            ours = f"of format {version}, and this chemkl reads format {FORMAT}"
            raise self._foreign(ours if signature == SIGNATURE else "a database of something else")
        # let readers and one writer work at once; the file remembers it
        end = monotonic() + PATIENCE
        while execute("pragma journal_mode").fetchone()[0] != "wal":
            try:
                execute("pragma journal_mode = wal")
            except sqlite3.OperationalError:  # it does not wait by itself for a run that is writing
                if monotonic() > end:
                    raise
                sleep(0.01)
        execute(f"pragma cache_size = -{PAGES // 1024}")
        execute("pragma synchronous = normal")  # a power cut may cost the last values

    def _column(self, key: str) -> str:
        """The column of a component; a new one for a key that is new."""
        execute, query = self._connection.execute, "select id from component where key = ?"
        row = execute(query, (key,)).fetchone()
        if row is None:
            with self._writing():
                row = execute(query, (key,)).fetchone()  # another run may have been faster
                if row is None:
                    row = [execute("insert into component (key) values (?)", (key,)).lastrowid]
                    # without a type SQLite keeps a number as it is given, -0.0 too
                    execute(f"alter table molecule add column c{row[0]}")
        return f"c{row[0]}"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """All or nothing; one process at a time."""
        self._connection.execute("begin immediate")
        try:
            yield
            self._connection.execute("commit")
        except BaseException:
            self._connection.rollback()  # also where the disk was too full to commit
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what to do about a file that cannot be used."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            text = " ".join(str(error).split())
            raise InputError(
                f"cache {self.path} cannot be used: {text}. Move it away or give another path; "
                "what is in it was left as it is, and a new cache fills itself."
            ) from error

    def _foreign(self, what: str) -> InputError:
        return InputError(
            f"cache {self.path} is {what}: it was left as it is. Give the path of a cache of "
            "chemkl, or of a file that does not exist yet."
        )


# ---- keys: what decides the values of a component

DECISIVE = ("rdkit", "reinvent-chemistry", "numpy", "scipy")
"""Packages whose version may change a value."""

SCAFFOLD_KEY = f"Bemis-Murcko scaffold, version 1, RDKit {rdkit.__version__}"
"""The key of scaffolds, which are kept beside the values; its version is as that of a component."""


def component_key(
    part: ComponentConfig, score: Callable[[Any], Any], folder: Path | None = None
) -> str:
    """Tell component configurations apart: equal keys mean equal values for every molecule.

    In it are the kind, the version that the component was registered with, the parameters with the
    defaults of those not given, the content of every file that they name, what its score function
    has as ``identity`` (a component that depends on anything else must have one), and the versions
    of what it computes with. Of a component that is not chemkl's own, the text of its module is in
    it too. What a module of the user's imports is not looked into: after a change there the version
    has to be raised, or the cache given up. Name, weight, role and transform are not in the key:
    they come after the raw value.
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
    """Every file that a reward's parameters name, by its role: inputs for a manifest."""
    return {
        f"reward.{part.name}.{number}": file
        for part in config.components
        for number, file in enumerate(named_files(part.parameters, config.folder))
    }


def _source(factory: Callable[..., Any]) -> str:
    """What the code of a user's factory is: the text of its module, or its own, or its name.

    It is the module that the factory says it belongs to: the code object of a row of a table
    stands in the table's maker, which is the same for all of them.
    """
    if factory.__module__.startswith("chemkl."):
        return ""  # of chemkl's own components the version tells when their values change
    file = getattr(sys.modules.get(factory.__module__), "__file__", None)
    if file is not None and os.path.isfile(file):
        return sha256_of(Path(file))
    try:
        return inspect.getsource(factory)
    except (TypeError, OSError):
        return f"{factory.__module__}.{factory.__qualname__}"


def named_files(value: Any, folder: Path | None) -> Iterator[Path]:
    """Find every file that is named somewhere in parameters, also as ``file.py:function``.

    A name is looked up as `chemkl.config.InputPath` does it.
    """
    if isinstance(value, dict):
        for _, part in sorted(value.items(), key=str):  # the order that the user wrote is of no use
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
        # unlike Path.is_file it is False for a SMARTS that is no path
        yield from [place for place in places if os.path.isfile(place)][:1]
