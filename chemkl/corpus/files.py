"""A prepared corpus on disk: molecules by split, what was dropped and why, and the tokens."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.policies.tokenizer import Vocabulary
from chemkl.results.atomic import rename_in

MOLECULES = "corpus.parquet"
DROPPED = "dropped.parquet"
TOKENS = "tokens.json"

ROWS_A_GROUP = 65_536
"""Rows of a Parquet row group: many small ones cost time, space and a long footer."""

MOLECULE_SCHEMA = pa.schema(
    [
        pa.field("smiles", pa.string(), metadata={"description": "canonical SMILES"}),
        pa.field("split", pa.string(), metadata={"description": "train, valid, test, ..."}),
        pa.field("line", pa.int64(), metadata={"description": "1-based line of the source"}),
        pa.field("n_tokens", pa.int32(), metadata={"description": "tokens of the SMILES"}),
    ]
)
NAME = pa.field(
    "name", pa.string(), metadata={"description": "what the source calls the molecule, or null"}
)
"""A further column of the molecules, where the source has names."""

DROPPED_SCHEMA = pa.schema(
    [
        pa.field("line", pa.int64(), metadata={"description": "1-based line of the source"}),
        pa.field("split", pa.string(), metadata={"description": "the source's split"}),
        pa.field("text", pa.string(), metadata={"description": "the SMILES as it stood there"}),
        pa.field("reason", pa.string(), metadata={"description": "why it was dropped"}),
    ]
)


class TableWriter:
    """Rows to one Parquet file, which appears at the end of a scope that ends without an error.

    Args:
        path: of the file; its folder is there.
        schema: of the rows.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._aside = path.with_name(f".{path.name}.tmp")
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(self._aside, self._schema, compression="zstd")
        return self

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows; they are written as soon as there are enough for a row group."""
        if not rows:
            return
        self._waiting.append(pa.Table.from_pylist(rows, self._schema))
        self._n_waiting += len(rows)
        if self._n_waiting >= ROWS_A_GROUP:
            self._flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._flush()
            self._writer.close()
            if kind is None:
                rename_in(self._aside, self._path)
        finally:
            self._aside.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting), ROWS_A_GROUP)
        self._waiting, self._n_waiting = [], 0


def read_split(folder: Path, split: str, limit: int | None = None) -> list[str]:
    """Return the SMILES of one split of a prepared corpus, in file order.

    Args:
        folder: the output folder of the prepare stage.
        split: its name.
        limit: at most so many.

    Raises:
        InputError: the folder holds no prepared corpus, or the split is empty or unknown.
    """
    path = folder / MOLECULES
    smiles: list[str] = []
    known: set[str] = set()
    try:
        file = pq.ParquetFile(path)
        for name in ("smiles", "split"):
            kind = file.schema_arrow.field(name).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise TypeError(f"column {name} is not text")  # noqa: TRY301 - one message for all
        for batch in file.iter_batches(columns=["smiles", "split"]):
            known.update(batch["split"].unique().drop_null().to_pylist())
            smiles += batch.filter(pc.equal(batch["split"], split))["smiles"].to_pylist()
            if limit is not None and len(smiles) >= limit:
                return smiles[:limit]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise _no_corpus(path, error) from None
    if not smiles:
        raise InputError(
            f"{path}: no molecule in split {split!r}. Known: {', '.join(sorted(known)) or 'none'}"
        )
    return smiles


def read_vocabulary(folder: Path) -> Vocabulary:
    """Return the vocabulary of a prepared corpus: all of its tokens.

    Raises:
        InputError: the folder holds no prepared corpus.
    """
    path = folder / TOKENS
    try:
        counts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(counts, dict) or not counts:
            raise TypeError("expected a mapping of tokens to counts")  # noqa: TRY301 - one message
        return Vocabulary.of(counts)
    except (OSError, TypeError, ValueError) as error:
        raise _no_corpus(path, error) from None


def _no_corpus(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: no prepared corpus ({error}). Make one with `chemkl prepare`.")
