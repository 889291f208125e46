"""What `chemkl show` prints: a run, a Parquet file, the answer to a query, a table of choices."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console, RenderableType
from rich.text import Text

from chemkl.config import InputError, did_you_mean
from chemkl.display import standard_output
from chemkl.evaluation.tables import metric_catalogue
from chemkl.results.inspection import count, open_run, read_head, run_sql, tables_of
from chemkl.results.trace import list_parts, read_part_schema
from chemkl.rewards import catalogue
from chemkl.stages import show_tables, show_text
from chemkl.stages.export import select
from chemkl.stages.output_files import check_outputs, write_csv, written_out

N_BEST = 10
N_ROWS_OF_FILE = 5
N_ROWS_OF_ANSWER = 30
ENDINGS = {"--csv": (".csv", ".csv.gz"), "--parquet": (".parquet",)}
"""How the file of each option may end."""

SHOWN: dict[str, Callable[[str | None], Iterable[RenderableType]]] = {
    "rewards": catalogue.rewards,
    "transforms": catalogue.transforms,
    "metrics": metric_catalogue,
    "configs": show_tables.configs,
}
"""What can be shown by name; each gives all of it, or one part in detail."""


@dataclass(frozen=True)
class Asked:
    """What else is wanted of a run, a file or a query; None: the default.

    Attributes:
        threshold: molecules with a raw reward R of at least this are hits; default: the run's tau.
        top: how many of the best molecules; of a run of text, of the most frequent answers to each
            prompt.
        per_scaffold: at most so many of each scaffold, 0: however many; default 1.
        rows: how many rows of a file or an answer.
        sql: a query over the tables of a run, or over one file.
        csv: where all rows of the answer are written as CSV.
        parquet: the same as Parquet.
        force: replace such a file that is there.
    """

    threshold: float | None = None
    top: int | None = None
    per_scaffold: int | None = None
    rows: int | None = None
    sql: str | None = None
    csv: Path | None = None
    parquet: Path | None = None
    force: bool = False

    def refuse(self, what: str, *names: str) -> None:
        """Refuse options that mean nothing here.

        Raises:
            InputError: with all of them.
        """
        given = [
            f"--{field.name.replace('_', '-')}"
            for field in fields(self)
            if field.name in names and getattr(self, field.name) is not field.default
        ]
        if given:
            raise InputError(f"{', '.join(given)}: means nothing for {what}")


_OF_A_RUN = ("threshold", "top", "per_scaffold")
_OF_A_QUERY = ("csv", "parquet", "force")


def show(
    what: str,
    name: str | None = None,
    asked: Asked | None = None,
    *,
    console: Console | None = None,
) -> None:
    """Print a run, a Parquet file, the answer to a query, or what there is of a sort.

    Args:
        what: a run folder, a Parquet file, or one of `SHOWN`.
        name: of `SHOWN`: one of these, in detail; None: all of them.
        asked: what else is wanted of a run, a file or a query.
        console: where it is printed; standard output when not given.

    Raises:
        InputError: no such path or name, or one that cannot be read; an option that does not fit.
    """
    asked = asked or Asked()
    console = console or standard_output()
    for part in _parts(what, name, asked, console.width):
        console.print(part, highlight=False)


def _parts(what: str, name: str | None, asked: Asked, width: int) -> Iterable[RenderableType]:
    path = Path(what)
    if what in SHOWN and (name is not None or not list_parts(path)):  # a run may be called so
        asked.refuse(f"chemkl show {what}", *(field.name for field in fields(asked)))
        return SHOWN[what](name)
    if not _is_there(path):
        raise InputError(
            f"cannot show {what!r}: no such run folder or Parquet file{did_you_mean(what, SHOWN)}"
        )
    if name is not None:
        raise InputError(f"chemkl show {what} {name}: a path takes no name after it")
    if path.is_file() and path.suffix.lower() != ".parquet":
        raise InputError(f"{path}: expected a run folder or a file that ends in .parquet")
    if asked.sql is not None:
        asked.refuse("a query (--sql)", *_OF_A_RUN)
        return _answer(path, asked.sql, asked, width)
    asked.refuse("a table without a query (--sql)", *_OF_A_QUERY)
    if path.is_file():
        asked.refuse("one file", *_OF_A_RUN)
        return _file(path, asked, width)
    asked.refuse("a run", "rows")
    return _run(path, asked, width)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _run(folder: Path, asked: Asked, width: int) -> Iterator[RenderableType]:
    run = open_run(folder)
    threshold = run.threshold if asked.threshold is None else asked.threshold
    if run.is_text:
        asked.refuse("a run of a language model without a molecule", "per_scaffold")
    yield from show_tables.heading(run)
    yield ""
    yield show_tables.columns_table(run.schema)
    if run.is_text:
        yield from show_text.tables(run, threshold, asked.top or N_BEST, width)
        return
    per_scaffold = (1 if asked.per_scaffold is None else asked.per_scaffold) or None
    best = select(run.frame, top=asked.top or N_BEST, per_scaffold=per_scaffold)
    yield show_tables.counts_table(count(run.frame, threshold), run, threshold)
    yield ""
    yield show_tables.best_table(best, per_scaffold, width)


def _file(path: Path, asked: Asked, width: int) -> Iterator[RenderableType]:
    schema = read_part_schema(path)
    n_wanted = N_ROWS_OF_FILE if asked.rows is None else asked.rows
    head, n_rows = read_head(path, n_wanted)
    facts = show_tables.table_of_facts()
    facts.add_row("rows", f"{n_rows:,}")
    facts.add_row("columns", f"{len(schema.names):,}")
    for key, value in (schema.metadata or {}).items():
        if key not in (b"pandas", b"ARROW:schema"):
            facts.add_row(Text(key.decode()), Text(value.decode(errors="replace")))
    yield Text(str(path), style="bold")
    yield facts
    yield ""
    yield show_tables.columns_table(schema)
    if len(head):
        yield Text("First rows", style="bold")
        yield show_tables.rows_table(head, width)


def _answer(place: Path, sql: str, asked: Asked, width: int) -> Iterator[RenderableType]:
    given = {"--csv": asked.csv, "--parquet": asked.parquet}
    outputs = {option: path for option, path in given.items() if path is not None}
    check_outputs(outputs, ENDINGS, force=asked.force)
    answer = run_sql(tables_of(place), sql)
    if outputs:
        _check_names(answer.schema.names)
        for option, path in outputs.items():
            with written_out(path) as stream:
                if option == "--csv":
                    write_csv(answer, stream)
                else:
                    described = answer.replace_schema_metadata({"from": str(place), "sql": sql})
                    pq.write_table(described, pa.PythonFile(stream), compression="zstd")
            yield Text(f"output: {path} ({len(answer):,} rows)")
        return
    n_wanted = N_ROWS_OF_ANSWER if asked.rows is None else asked.rows
    yield show_tables.rows_table(answer.slice(0, n_wanted), width)
    if not len(answer):
        yield "0 rows"
    if len(answer) > n_wanted:
        yield show_tables.more(
            n_wanted, len(answer), ["--rows N shows more", "--csv FILE writes all"]
        )


def _check_names(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"--sql: several columns are called {', '.join(twice)}: name them apart with AS, for a "
            "file needs names that differ"
        )
