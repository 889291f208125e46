"""Lines of text to clean molecules, in parallel: parse, standardise, canonicalise, count tokens."""

import hashlib
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

from chemkl.chem.molecules import Molecule, MoleculeError, read_molecule
from chemkl.chem.scaffolds import murcko_scaffold
from chemkl.chem.standardise import Standardiser
from chemkl.config.prepare import GivenSplit, HashSplit, PrepareConfig, Split
from chemkl.files.molecules import NO_CELL, Line
from chemkl.policies.tokenizer import END, START, tokenize
from chemkl.signals import follow_parent, shielded

CHUNK = 4_000  # lines a task: some 0.7 s of work, so that passing them on costs nothing


class Clean(NamedTuple):
    """What became of one line: a molecule with its split and tokens, or a reason."""

    line: Line  # as it stood in the source, with the source's own split
    smiles: str | None = None  # canonical; None where the line holds no usable molecule
    split: str = ""  # to which the molecule belongs
    tokens: tuple[str, ...] = ()  # of the SMILES
    # why there is no molecule, as ``category: detail`` or the category alone
    reason: str | None = None


@dataclass(frozen=True)
class Cleaner:
    """Turns lines into clean molecules; one copy lives in every worker process."""

    config: PrepareConfig
    standardiser: Standardiser

    @classmethod
    def from_config(cls, config: PrepareConfig) -> "Cleaner":
        """Build the cleaner of a prepare config.

        Raises:
            InputError: an unknown standardisation filter.
        """
        return cls(config, Standardiser([f.model_dump() for f in config.standardise]))

    def __call__(self, lines: list[Line]) -> list[Clean]:
        """Clean one chunk of lines, in order."""
        return [self._clean(line) for line in lines]

    def _clean(self, line: Line) -> Clean:
        if line.smiles is None:
            return Clean(line, reason=line.reason or NO_CELL)
        molecule = self._read(line.smiles)
        smiles = molecule.canonical_smiles
        if molecule.mol is None or smiles is None:
            return Clean(line, reason=molecule.reason)
        tokens = tokenize(smiles)
        reason = self._refused(tokens)
        if reason is not None:
            return Clean(line, reason=reason)
        setting = self.config.split
        by_scaffold = isinstance(setting, HashSplit) and setting.kind == "scaffold"
        try:
            key = murcko_scaffold(molecule.mol) if by_scaffold else smiles
        except MoleculeError as error:
            return Clean(line, reason=str(error))
        split = assign_split(line.split, key, setting)
        return Clean(line, smiles, split, tuple(tokens))

    def _read(self, text: str) -> Molecule:
        if not self.config.standardise:
            return read_molecule(text)
        smiles, reason = self.standardiser(text)
        return Molecule(text, reason=reason) if smiles is None else read_molecule(smiles)

    def _refused(self, tokens: list[str]) -> str | None:
        """Say why a valid molecule cannot be learnt from; None if it can."""
        if len(tokens) > self.config.max_tokens:
            return f"too many tokens: {len(tokens)}, at most {self.config.max_tokens}"
        reserved = {END, START} & set(tokens)
        if reserved:  # a quadruple bond is written $
            return f"reserved token: {' '.join(sorted(reserved))} marks where a sequence ends"
        return None


def clean_lines(
    lines: Iterable[Line], cleaner: Cleaner, peaks: dict[int, int] | None = None
) -> Iterator[list[Clean]]:
    """Clean lines in parallel and yield them chunk by chunk, in the order of the source.

    `peaks` is filled with the peak memory of each worker process so far, bytes, by process id.

    Raises:
        RuntimeError: a worker process died.
    """
    n_workers = cleaner.config.n_workers or _n_cores()
    lines = iter(lines)
    chunks = iter(lambda: list(islice(lines, CHUNK)), [])
    if n_workers == 1:
        yield from map(cleaner, chunks)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, not once in every worker
    with ProcessPoolExecutor(n_workers, context, _start_worker, (cleaner,)) as pool:
        futures: deque[tuple[int, Future[tuple[list[Clean], int, int]]]] = deque()
        at = 0
        try:
            for chunk in chain(chunks, [[]]):
                if chunk:
                    at = chunk[0].number
                    with shielded():
                        futures.append((at, pool.submit(_work, chunk)))
                # bounded, so that a large source is never in memory
                while futures and (not chunk or len(futures) > 2 * n_workers):
                    at, future = futures.popleft()
                    cleaned, process, memory = future.result()
                    if peaks is not None:
                        peaks[process] = memory
                    yield cleaned
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"a worker process died at or shortly after line {at}: killed, perhaps for want of "
                "memory, or crashed on a molecule. Try fewer workers; n_workers=1 needs none and "
                "shows the line. (A script of yours that calls prepare must do so under "
                "`if __name__ == '__main__':`.)"
            ) from error


def _n_cores() -> int:
    """Count the cores that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory() -> int | None:
    """Return the memory of this process at its peak, bytes; None where no system call tells."""
    if sys.platform == "win32":
        return None
    import resource  # Unix only

    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_cleaner: Cleaner


def _start_worker(cleaner: Cleaner) -> None:
    """Keep the cleaner in the worker process, so that it travels once and not with every chunk."""
    global _cleaner
    _cleaner = cleaner
    follow_parent(signal.SIG_DFL)


def _work(lines: list[Line]) -> tuple[list[Clean], int, int]:
    return _cleaner(lines), os.getpid(), peak_memory() or 0


def assign_split(given: str, key: str, split: Split) -> str:
    """Return "train", "valid" or "test" for one molecule (or the source's own split).

    Args:
        given: the split that the source gives.
        key: what is hashed: the canonical SMILES (random) or the scaffold (scaffold).
        split: the setting.
    """
    if isinstance(split, GivenSplit):
        return given
    digest = hashlib.blake2b(f"{split.seed}:{key}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    if position < split.test:
        return "test"
    if position < split.test + split.valid:
        return "valid"
    return "train"
