"""The prepare stage: clean, de-duplicate and split a source of SMILES into a corpus."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa

from chemkl.chem.standardise import Standardiser
from chemkl.config import InputError, complaints
from chemkl.config.prepare import FileSource, FilterConfig, PrepareConfig
from chemkl.corpus import files
from chemkl.corpus.cleaning import Clean, Cleaner, clean_lines, peak_memory
from chemkl.corpus.files import N_LINES, read_source
from chemkl.display import Bar, Column, table
from chemkl.files.molecules import Line, MoleculeFile
from chemkl.policies.tokenizer import tokenize
from chemkl.results.atomic import json_of, write_bytes
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import Start

run = STAGES["prepare"].run


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Check the filters and that the source can be read."""
    filters: Iterable[FilterConfig] = view.get("standardise") or ()
    yield "standardise", complaints((Standardiser, [each.model_dump() for each in filters]))
    source = view.get("source") if view.config is not None else None
    if isinstance(source, FileSource) and view.existing([source.path]):
        columns = [] if source.weight is None else [source.weight]
        file = partial(MoleculeFile, source.path, source.column, columns)
        yield "source", complaints((lambda: next(iter(file())),))


def work(config: PrepareConfig, start: Start) -> None:
    """Write ``corpus.parquet``, ``dropped.parquet`` and ``tokens.json``."""
    source = config.source
    inputs, schema = {}, files.MOLECULE_SCHEMA
    if isinstance(source, FileSource):
        inputs = {"source": source.path}
        if MoleculeFile(source.path, source.column).has_names:
            schema = schema.append(files.NAME)
        if source.weight is not None:
            schema = schema.append(files.WEIGHT)
    with start.claim(inputs) as manifest:
        lines = read_source(source, config.cache)
        peaks: dict[int, int] = {}
        cleaned = clean_lines(islice(lines, config.limit), Cleaner(config), peaks)
        totals = [n for n in (config.limit, N_LINES.get(source.kind)) if n is not None]
        began = perf_counter()
        tally = _write(cleaned, start.out, schema, min(totals, default=None))
        peak = peak_memory()  # workers report theirs: the system does not count grandchildren
        memory = None if peak is None else (peak + sum(peaks.values())) / 2**20
        tally |= {"seconds": perf_counter() - began, "peak_memory_mib": memory}
        manifest.finish(results=tally)
    rows = [{"what": f"kept in {split}", "lines": n} for split, n in tally["splits"].items()]
    rows += [{"what": f"dropped: {reason}", "lines": n} for reason, n in tally["dropped"].items()]
    cost = "" if memory is None else f", at most {memory:,.0f} MiB"
    for part in (
        f"{tally['molecules']:,} molecules, {tally['n_tokens']} tokens: {start.out}",
        table("", [Column("what", ""), Column("lines", "lines", ",d")], rows),
        f"{tally['seconds']:.0f} s{cost}",
    ):
        start.console.print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))


def _write(
    cleaned: Iterable[list[Clean]], out: Path, schema: pa.Schema, total: int | None
) -> dict[str, Any]:
    """Drop duplicates and write both tables; return the counts."""
    rows = _Rows()
    with (
        Bar("reading molecules", total, "lines", lines=10) as bar,
        files.write_table(out / files.MOLECULES, schema) as molecules,
        files.write_table(out / files.DROPPED, files.DROPPED_SCHEMA) as dropped,
    ):
        for chunk in cleaned:
            kept, lost = rows.divide(chunk)
            molecules.append(kept)
            dropped.append(lost)
            bar.advance(len(chunk))
        if not rows.kept:
            raise InputError(f"no line holds a usable molecule. Reasons: {rows.reasons()}")
        tokens = json_of(dict(sorted(rows.tokens.items())))
        molecules.describe({files.TOKENS_SHA256: hashlib.sha256(tokens).hexdigest()})
    write_bytes(out / files.TOKENS, tokens)
    return {
        "molecules": rows.kept.total(),
        "splits": dict(rows.kept),
        "dropped": dict(rows.dropped.most_common()),
        "n_tokens": len(rows.tokens),
    }


def _weight(line: Line) -> float | None:
    """Return a line's weight, its only extra column: NaN if it is no number, None without it."""
    for value in line.values.values():
        try:
            return float(value)
        except (TypeError, ValueError):
            return math.nan
    return None


class _Rows:
    """Sorts lines into kept and dropped rows and counts both."""

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._seen: dict[str, dict[str, int]] = {}  # per split of the source: molecule to line

    def divide(self, chunk: list[Clean]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the rows of both tables; of duplicates the first line is kept."""
        kept, lost = [], []
        for clean in chunk:
            line, smiles, reason = clean.line, clean.smiles, clean.reason
            weight = _weight(line)
            if smiles is not None and weight is not None and not 0 < weight < math.inf:
                reason = "weight: missing, or no number above 0"
            elif smiles is not None:
                reason = self._duplicate(smiles, line)
            if smiles is None or reason is not None:
                reason, text = reason or "empty", line.smiles or ""
                name, place = reason.split(":")[0], {"line": line.number, "split": line.split}
                self.dropped[name] += 1
                self._examples.setdefault(name, f"line {line.number}: {text[:80]!r}")
                lost.append(place | {"text": text, "reason": reason})
                continue
            self.kept[clean.split] += 1
            self.tokens.update(tokenize(smiles))
            place = {"split": clean.split, "line": line.number}
            row = {"smiles": smiles, **place, "n_tokens": clean.n_tokens, "name": line.name}
            kept.append(row | {"weight": weight})
        return kept, lost

    def reasons(self) -> str:
        """Return the most frequent reasons, each with its first line."""
        return "; ".join(
            f"{n:,} x {name} (first {self._examples[name]})"
            for name, n in self.dropped.most_common(5)
        )

    def _duplicate(self, smiles: str, line: Line) -> str | None:
        """Name the earlier line with the same molecule; if there is none remember this one."""
        for split, lines in self._seen.items():
            if smiles in lines:
                where = "" if split == line.split else f" of {split}"
                return f"duplicate: of line {lines[smiles]}{where}"
        self._seen.setdefault(line.split, {})[smiles] = line.number
        return None
