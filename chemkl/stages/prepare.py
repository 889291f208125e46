"""The prepare stage: a source of SMILES becomes a clean, de-duplicated, split corpus."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa
from rich.table import Table

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
    """Find what only shows when the parts are built: unknown filters, an unreadable file."""
    filters: Iterable[FilterConfig] = view.get("standardise") or ()
    yield "standardise", complaints((Standardiser, [one.model_dump() for one in filters]))
    source = view.get("source") if view.config is not None else None
    if isinstance(source, FileSource) and view.there([source.path]):
        yield "source", complaints((_first_line, source))


def _first_line(source: FileSource) -> Line:
    keep = [] if source.weight is None else [source.weight]
    return next(iter(MoleculeFile(source.path, source.column, keep)))


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
        lines = read_source(config.source, config.cache)
        peaks: dict[int, int] = {}
        cleaned = clean_lines(islice(lines, config.limit), Cleaner(config), peaks)
        totals = [n for n in (config.limit, N_LINES.get(config.source.kind)) if n is not None]
        total = min(totals, default=None)
        began = perf_counter()
        tally = _write(cleaned, start.out, schema, total)
        peak = peak_memory()  # the workers tell theirs: the system counts no grandchildren
        memory = None if peak is None else (peak + sum(peaks.values())) / 2**20
        tally |= {"seconds": perf_counter() - began, "peak_memory_mib": memory}
        manifest.finish(results=tally)
    for shown in _shown(tally, start.out):
        start.console.print(shown, highlight=False, markup=False, soft_wrap=isinstance(shown, str))


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
    """The weight of a line, the one column that is kept; NaN: no number; None: there is none."""
    for value in line.values.values():
        try:
            return float(value)
        except (TypeError, ValueError):
            return math.nan
    return None


class _Rows:
    """Divides lines into kept and dropped rows and counts both."""

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._seen: dict[str, dict[str, int]] = {}  # by the source's split: molecule to its line

    def divide(self, chunk: list[Clean]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the rows of both tables; the first line with a molecule keeps it."""
        kept, lost = [], []
        for clean in chunk:
            line, smiles = clean.line, clean.smiles
            weight = _weight(line)
            reason = clean.reason
            if smiles is not None and weight is not None and not 0 < weight < math.inf:
                reason = "weight: missing, or no number above 0"
            elif smiles is not None:
                reason = self._duplicate(smiles, line)
            if smiles is None or reason is not None:
                lost.append(self._lose(line, reason or "empty"))
                continue
            self.kept[clean.split] += 1
            self.tokens.update(tokenize(smiles))
            place = {"split": clean.split, "line": line.number}
            row = {"smiles": smiles, **place, "n_tokens": clean.n_tokens, "name": line.name}
            kept.append(row | {"weight": weight})
        return kept, lost

    def reasons(self) -> str:
        """Return the commonest reasons, each with its first line."""
        return "; ".join(
            f"{n:,} x {name} (first {self._examples[name]})"
            for name, n in self.dropped.most_common(5)
        )

    def _duplicate(self, smiles: str, line: Line) -> str | None:
        """Name the earlier line with the same molecule; None, and remember it, if there is none."""
        for split, lines in self._seen.items():
            if smiles in lines:
                where = "" if split == line.split else f" of {split}"
                return f"duplicate: of line {lines[smiles]}{where}"
        self._seen.setdefault(line.split, {})[smiles] = line.number
        return None

    def _lose(self, line: Line, reason: str) -> dict[str, Any]:
        name = reason.split(":")[0]
        self.dropped[name] += 1
        self._examples.setdefault(name, f"line {line.number}: {(line.smiles or '')[:80]!r}")
        return {
            "line": line.number,
            "split": line.split,
            "text": line.smiles or "",
            "reason": reason,
        }


def _shown(tally: dict[str, Any], out: Path) -> Iterator[str | Table]:
    """What was kept and what was dropped and why."""
    yield f"{tally['molecules']:,} molecules, {tally['n_tokens']} tokens: {out}"
    rows = [{"what": f"kept in {split}", "lines": n} for split, n in tally["splits"].items()]
    rows += [{"what": f"dropped: {reason}", "lines": n} for reason, n in tally["dropped"].items()]
    yield table("", [Column("what", ""), Column("lines", "lines", ",d")], rows)
    memory = tally["peak_memory_mib"]
    cost = f", at most {memory:,.0f} MiB" if memory is not None else ""
    yield f"{tally['seconds']:.0f} s{cost}"
