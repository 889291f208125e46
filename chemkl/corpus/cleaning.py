"""Lines of text to clean molecules, in parallel: parse, standardise, canonicalise, count tokens."""

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

CHUNK = 4_000  # lines a task: some 0.7 s of work, so that passing them on costs nothing


class Clean(NamedTuple):
    """What became of one line: a molecule with its split and tokens, or a reason."""

    line: Line  # as it stood in the source, with the source's own split
    smiles: str | None = None  # canonical; None where the line holds no usable molecule
    split: str = ""  # to which the molecule belongs
    n_tokens: int = 0  # of the SMILES
    reason: str | None = None  # why there is no molecule: its category, perhaps with a detail


@dataclass
class Cleaner:
    """Turns lines into clean molecules; one copy lives in every worker process."""

    config: PrepareConfig

    def __post_init__(self) -> None:
        self.standardiser = Standardiser([f.model_dump() for f in self.config.standardise])

    def __call__(self, lines: list[Line]) -> list[Clean]:
        """Clean one chunk of lines, in order."""
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
        tokens, kept = tokenize(smiles), self.config.tokens
        reserved = [mark for mark in (END, START) if mark in tokens]  # a quadruple bond is $
        if len(tokens) > self.config.max_tokens:
            reason = f"too many tokens: {len(tokens)}, at most {self.config.max_tokens}"
        elif unknown := sorted({*tokens} - {*kept}) if kept is not None else []:
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
    """Clean lines in parallel and yield them chunk by chunk, in the order of the source.

    `peaks` is filled with the peak memory of each worker process so far, bytes, by process id.
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
        at = 0
        try:
            for chunk in chain(chunks, [[]]):
                if chunk:
                    at = chunk[0].number
                    with shielded():
                        futures.append((chunk, pool.submit(_work, chunk)))
                # bounded, so that a large source is never in memory
                while futures and (not chunk or len(futures) > 2 * n_workers):
                    done, future = futures.popleft()
                    at = done[0].number
                    fields, process, memory = future.result()
                    if peaks is not None:
                        peaks[process] = memory
                    yield [Clean(line, *rest) for line, rest in zip(done, fields, strict=True)]
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"a worker process died at or shortly after line {at}: killed, perhaps for want of "
                "memory, or crashed on a molecule. Try fewer workers; n_workers=1 needs none and "
                "shows the line. (A script of yours that calls prepare must do so under "
                "`if __name__ == '__main__':`.)"
            ) from error


def peak_memory() -> int | None:
    """The memory of this process at its peak, bytes; None where no system call tells."""
    if sys.platform == "win32":
        return None
    import resource  # Unix only

    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_cleaner: Cleaner


def _start_worker(environment: Mapping[str, str], cleaner: Cleaner) -> None:
    """Keep the cleaner in the worker process, so that it travels once and not with every chunk."""
    global _cleaner
    adopt(environment)
    _cleaner = cleaner
    follow_parent(signal.SIG_DFL)


def _work(lines: list[Line]) -> tuple[list[Any], int, int]:
    """Clean lines, and leave them out of what travels back: plain tuples of all other fields."""
    return [tuple(clean)[1:] for clean in _cleaner(lines)], os.getpid(), peak_memory() or 0


def assign_split(given: str, key: str, split: Split) -> str:
    """The split of one molecule: the source's own, or by the hash of a key (SMILES or scaffold)."""
    if isinstance(split, GivenSplit):
        return given
    digest = hashlib.blake2b(f"{split.seed}:{key}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    if position < split.test:
        return "test"
    return "valid" if position < split.test + split.valid else "train"
