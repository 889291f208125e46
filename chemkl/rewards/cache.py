"""A file of raw values by component and canonical SMILES, shared by runs; nothing is asked twice.

One row for each molecule and one column for each component configuration: of the layouts of an
SQLite table that were tried, this one is the smallest and answers fastest.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Self

from chemkl.config import InputError
from chemkl.config.paths import at_home

Value = float | str
"""A raw value, or a scaffold."""

SIGNATURE = 0x43484B4C
"""SQLite's application_id of these files: the letters CHKL."""

FORMAT = 1
"""SQLite's user_version: the layout of the tables."""

PATIENCE = 60.0
"""Seconds to wait for another run that is writing; it takes a few thousandths."""

PAGES = 64 * 2**20
"""Bytes of the file that a process keeps in memory."""

_MAGIC = b"SQLite format 3\0"
_TABLES = (
    "create table component (id integer primary key, key text not null unique)",
    "create table molecule (smiles text primary key not null) without rowid",
)


class ScoreCache:
    """Raw values on the disk; several processes may read and write the file at the same time.

    The file must lie on a disk of this machine: SQLite's write-ahead log does not work over a
    network file system. What is stored is kept for ever; a component whose configuration or code
    changes gets another key, and a column of its own; SQLite allows 2,000 of them in one file.

    Args:
        path: of the file; made if there is none.
        keys: by name of a component, what decides its values (`chemkl.rewards.keys`).

    Raises:
        InputError: the file is no such cache, is damaged, or cannot be written.
    """

    def __init__(self, path: str | Path, keys: Mapping[str, str]) -> None:
        self.path = at_home(path).absolute()
        with self._explained():
            self._connection = self._opened()
            self._columns = {name: self._column(key) for name, key in keys.items()}
        self._names = list(keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the file; the last to do so folds the log into it."""
        self._connection.close()

    def look_up(self, smiles: Sequence[str]) -> dict[str, dict[str, Value]]:
        """Find what is known of molecules.

        Args:
            smiles: canonical SMILES.

        Returns:
            By SMILES, the values by component; nothing for what is not known.
        """
        columns = "".join(f", m.{self._columns[name]}" for name in self._names)
        query = (
            f"select m.smiles{columns} "
            "from json_each(?) as given cross join molecule as m on m.smiles = given.value"
        )
        with self._explained():
            found = self._connection.execute(query, (json.dumps(list(smiles)),)).fetchall()
        names = self._names
        return {
            row[0]: {
                name: value for name, value in zip(names, row[1:], strict=True) if value is not None
            }
            for row in found
        }

    def store(self, known: Mapping[str, Mapping[str, Value]]) -> None:
        """Add values, by SMILES and component; a value that is there already stays."""
        by_columns: dict[tuple[str, ...], list[tuple[Value, ...]]] = {}
        for smiles, values in known.items():
            stored = {self._columns[name]: value for name, value in values.items()}
            if stored:
                rows = by_columns.setdefault(tuple(stored), [])
                rows.append((smiles, *stored.values()))
        with self._explained(), self._writing():
            for columns, rows in by_columns.items():
                new = ", ".join(f"{each} = coalesce({each}, excluded.{each})" for each in columns)
                self._connection.executemany(
                    f"insert into molecule (smiles, {', '.join(columns)}) "
                    f"values (?{', ?' * len(columns)}) on conflict (smiles) do update set {new}",
                    rows,
                )

    def __len__(self) -> int:
        """Molecules of which something is known."""
        with self._explained():
            return int(self._connection.execute("select count(*) from molecule").fetchone()[0])

    def _opened(self) -> sqlite3.Connection:
        """Open the file; make the tables in a new one, and leave a foreign one alone."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            with self.path.open("rb") as file:
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
        if not _signature(connection)[2]:
            # the signature is in the file before its log is: whoever comes next finds both
            connection.execute("begin exclusive")
            if not any(_signature(connection)):  # no other run was faster
                connection.execute(f"pragma application_id = {SIGNATURE}")
                connection.execute(f"pragma user_version = {FORMAT}")
                for table in _TABLES:
                    connection.execute(table)
            connection.execute("commit")
        signature, version, _ = _signature(connection)
        if signature != SIGNATURE:
            raise self._foreign("a database of something else")
        if version != FORMAT:
            raise self._foreign(f"of format {version}, and this chemkl reads format {FORMAT}")
        _keep_a_log(connection)
        connection.execute(f"pragma cache_size = -{PAGES // 1024}")
        connection.execute("pragma synchronous = normal")  # a power cut may cost the last values

    def _column(self, key: str) -> str:
        """The column of a component; a new one for a key that is new."""
        number = self._number(key)
        if number is None:
            with self._writing():
                number = self._number(key)  # another run may have been faster
                if number is None:
                    insert = "insert into component (key) values (?)"
                    number = self._connection.execute(insert, (key,)).lastrowid
                    # without a type SQLite keeps a number as it is given, -0.0 too
                    self._connection.execute(f"alter table molecule add column c{number}")
        return f"c{number}"

    def _number(self, key: str) -> int | None:
        query = "select id from component where key = ?"
        found = self._connection.execute(query, (key,)).fetchone()
        return None if found is None else int(found[0])

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


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """Let readers and one writer work at once; the file remembers it."""
    end = monotonic() + PATIENCE
    while connection.execute("pragma journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("pragma journal_mode = wal")
        except sqlite3.OperationalError:  # it does not wait by itself for a run that is writing
            if monotonic() > end:
                raise
            sleep(0.01)


def _signature(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """What the file says it is, its format, and how many tables it has."""
    queries = ("pragma application_id", "pragma user_version", "select count(*) from sqlite_master")
    signature, version, tables = (connection.execute(each).fetchone()[0] for each in queries)
    return int(signature), int(version), int(tables)
