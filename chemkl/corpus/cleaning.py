"""Clean lines of text in parallel: parse, standardise, canonicalise, count tokens, split."""

import hashlib
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

from chemkl.chem.molecules import MoleculeError, read_molecule
from chemkl.chem.scaffolds import murcko_scaffold
from chemkl.chem.standardise import Standardiser
from chemkl.config.prepare import GivenSplit, HashSplit, PrepareConfig, Split
from chemkl.files.molecules import NO_CELL, Line
from chemkl.policies.tokenizer import END, START, tokenize
from chemkl.processes import adopt, follow_parent, n_cores, shielded

CHUNK = 4_000  # lines per task: about 0.7 s of work, so that the overhead is small


class Clean(NamedTuple):
    """The result of a line: a molecule with its split and tokens, or a reason."""

    line: Line  # of the source, with the source's own split
    smiles: str | None = None  # canonical; None if the line has no usable molecule
    split: str = ""  # to which the molecule belongs
    n_tokens: int = 0  # of the SMILES
    reason: str | None = None  # why there is no molecule: a category, optionally with details


@dataclass
class Cleaner:
    """Turns lines into clean molecules; every worker process has a copy."""

    config: PrepareConfig

    def __post_init__(self) -> None:
        self.standardiser = Standardiser([f.model_dump() for f in self.config.standardise])

    def __call__(self, lines: list[Line]) -> list[Clean]:
        """Clean a chunk of lines, in order."""
        return [self._clean(line) for line in lines]

    def _clean(self, line: Line) -> Clean:
        text = line.smiles
        reason: str | None = line.reason or NO_CELL
        if text is not None and self.config.standardise:
            text, reason = self.standardiser(text)
        if text is None:
            return Clean(line, reason=reason)
        molecule = read_molecule(text)
        smiles, setting = molecule.canonical_smiles, self.config.split
        if molecule.mol is None or smiles is None:
            return Clean(line, reason=molecule.reason)
        tokens, allowed = tokenize(smiles), self.config.tokens
        reserved = [mark for mark in (END, START) if mark in tokens]  # $ is a quadruple bond
        if len(tokens) > self.config.max_tokens:
            reason = f"too many tokens: {len(tokens)}, at most {self.config.max_tokens}"
        elif unknown := sorted({*tokens} - {*allowed}) if allowed is not None else []:
            reason = f"rare token: {' '.join(unknown)}"
        elif reserved:
            reason = f"reserved token: {' '.join(reserved)} marks where a sequence ends"
        else:
            by_scaffold = isinstance(setting, HashSplit) and setting.kind == "scaffold"
            try:
                key = murcko_scaffold(molecule.mol) if by_scaffold else smiles
                return Clean(line, smiles, assign_split(line.split, key, setting), len(tokens))
            except MoleculeError as error:
                reason = str(error)
        return Clean(line, reason=reason)


def clean_lines(
    lines: Iterable[Line], cleaner: Cleaner, peaks: dict[int, int] | None = None
) -> Iterator[list[Clean]]:
    """Clean lines in parallel; yield the results chunk by chunk, in the order of the source.

    `peaks` is filled with the peak memory of each worker process, bytes, by process id.
    """
    n_workers = cleaner.config.n_workers or n_cores()
    lines = iter(lines)
    chunks = iter(lambda: list(islice(lines, CHUNK)), [])
    if n_workers == 1:
        yield from map(cleaner, chunks)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, not once in every worker
    with ProcessPoolExecutor(
        n_workers, context, _start_worker, (dict(os.environ), cleaner)
    ) as pool:
        futures: deque[tuple[list[Line], Future[tuple[list[Any], int, int]]]] = deque()
        number = 0
        try:
            for chunk in chain(chunks, [[]]):
                if chunk:
                    number = chunk[0].number
                    with shielded():
                        futures.append((chunk, pool.submit(_work, chunk)))
                # bounded, so that a large source is never in memory
                while futures and (not chunk or len(futures) > 2 * n_workers):
                    done, future = futures.popleft()
                    number = done[0].number
                    fields, process, memory = future.result()
                    if peaks is not None:
                        peaks[process] = memory
                    yield [Clean(line, *rest) for line, rest in zip(done, fields, strict=True)]
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"a worker process died at or shortly after line {number}: killed, perhaps for "
                "lack of memory, or crashed on a molecule. Try fewer workers; n_workers=1 needs "
                "none and shows the line. (A script of yours that calls prepare must do so under "
                "`if __name__ == '__main__':`.)"
            ) from error


def peak_memory() -> int | None:
    """Return the peak memory of this process, bytes; None if the system does not report it."""
    if sys.platform == "win32":
        return None
    import resource  # Unix only

    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_cleaner: Cleaner


def _start_worker(environment: Mapping[str, str], cleaner: Cleaner) -> None:
    """Store the cleaner in the worker process, so that it is not sent with every chunk."""
    global _cleaner
    adopt(environment)
    _cleaner = cleaner
    follow_parent(signal.SIG_DFL)


def _work(lines: list[Line]) -> tuple[list[Any], int, int]:
    """Clean lines; return plain tuples of all fields but the line, to send less back."""
    return [tuple(clean)[1:] for clean in _cleaner(lines)], os.getpid(), peak_memory() or 0


def assign_split(source_split: str, key: str, split: Split) -> str:
    """Return the split of a molecule: the source's, or by the hash of its SMILES or scaffold."""
    if isinstance(split, GivenSplit):
        return source_split
    digest = hashlib.blake2b(f"{split.seed}:{key}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    if position < split.test:
        return "test"
    return "valid" if position < split.test + split.valid else "train"
