"""How molecules get to the components: past the cache, in this process or in worker processes."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any

from chemkl.chem.molecules import Molecule, read_molecule, silenced
from chemkl.config.document import Document
from chemkl.config.paths import at_home
from chemkl.config.reward import RewardConfig
from chemkl.rewards.asking import SCAFFOLD, Failed, Known, RawScores, Term, evaluate, is_settled
from chemkl.rewards.cache import ScoreCache
from chemkl.rewards.checks import checked_reward
from chemkl.rewards.keys import SCAFFOLD_KEY, component_key
from chemkl.rewards.pool import Pool
from chemkl.rewards.registry import find_component
from chemkl.rewards.waiting import Showing, slow_bar
from chemkl.rewards.worker import Jobs, Lost, Mark

UNIT = 16
"""Molecules that a batched component is asked about at once, here and in a worker alike; and
strings that a worker reads at once."""

KEEP_EVERY = 2.0
"""Seconds after which new values are written to the cache while others are still awaited."""


class Engine:
    """Asks the components of a reward about molecules; remembers nothing but what the cache does.

    Args:
        config: the reward, with the settings of the engine.
        terms: its components, ready to use in this process.
        folder: where the config's relative paths are looked up first.
    """

    def __init__(self, config: RewardConfig, terms: Sequence[Term], folder: Path | None) -> None:
        self.showing: Showing = slow_bar
        self._config = config
        self._terms = terms
        self._folder = folder
        self._is_batched = any(term.batched for term in terms)
        self._pool = self._built_pool() if config.workers > 1 or config.timeout else None
        self._cache: ScoreCache | None = None
        if config.cache is not None and at_home(config.cache).exists():
            self._opened(config.cache)  # a file that is no cache is found now, not hours later

    def close(self) -> None:
        """End the workers and leave the cache."""
        if self._pool is not None:
            self._pool.close()
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def read(self, smiles: Sequence[str]) -> list[tuple[str | None, str | None]]:
        """Read SMILES: canonical form and reason of each, in order, as `read_molecule` has them."""
        read = partial(_read, max_atoms=self._config.max_atoms)
        if self._pool is None:
            return read(smiles)
        found: list[tuple[str | None, str | None]] = [(None, None)] * len(smiles)
        units = _units(range(len(smiles)), UNIT)
        for places, outcome in self._done("read", units, smiles.__getitem__):
            lost = isinstance(outcome, Lost)
            for each, place in enumerate(places):
                found[place] = (None, outcome.reason) if lost else outcome[each]
        return found

    def evaluate(self, smiles: Sequence[str]) -> list[RawScores]:
        """Ask about molecules that are given as canonical SMILES, each once: one answer each."""
        known = self._known(smiles)
        settled = [each for each, has in known.items() if is_settled(self._terms, has)]
        answers = dict(zip(settled, self._asked_here(settled, known), strict=True))
        open_ = [each for each in smiles if each not in answers]
        if open_:
            answers |= self._asked(open_, known)
        return [answers[each] for each in smiles]

    def _asked(self, smiles: Sequence[str], known: Mapping[str, Known]) -> dict[str, RawScores]:
        """Ask about molecules of which something is not known; keep it."""
        answers: dict[str, RawScores] = {}
        new: dict[str, RawScores] = {}
        kept = monotonic()
        with self.showing(len(smiles)) as advance:
            try:
                for part in self._parts(smiles, known):
                    answers |= part
                    new |= part
                    advance(len(part))
                    if monotonic() > kept + KEEP_EVERY:
                        self._keep(new)
                        new, kept = {}, monotonic()
            finally:
                self._keep(new)  # what was paid for is kept, whatever ended this
        return answers

    def _parts(
        self, smiles: Sequence[str], known: Mapping[str, Known]
    ) -> Iterator[dict[str, RawScores]]:
        """Ask unit by unit."""
        size = UNIT if self._is_batched and not self._config.timeout else 1
        units = _units(smiles, size)
        if self._pool is None:
            for unit in units:
                yield dict(zip(unit, self._asked_here(unit, known), strict=True))
            return
        names = [term.name for term in self._terms]

        def question(each: str) -> tuple[str, Known]:
            return each, known.get(each, {})

        for unit, outcome in self._done("evaluate", units, question):
            if isinstance(outcome, Lost):
                at = names[outcome.at] if outcome.at >= 0 else None
                failed = Failed(at, outcome.reason)
                nothing = dict.fromkeys(names, math.nan)
                outcome = [RawScores(nothing, None, (failed,)) for _ in unit]
            yield dict(zip(unit, outcome, strict=True))

    def _done(
        self, job: str, units: Sequence[Sequence[Any]], question: Callable[[Any], Any]
    ) -> Iterator[tuple[Sequence[Any], Any]]:
        """Have the workers do units; where one of several is lost, find out which it was."""
        assert self._pool is not None
        alone: list[Sequence[Any]] = []
        limits = [self._config.timeout] * len(units) if self._config.timeout else None
        asked = [[question(each) for each in unit] for unit in units]
        for number, outcome in self._pool.run(job, asked, limits):
            if isinstance(outcome, Lost) and len(units[number]) > 1:
                alone += _units(units[number], 1)
            else:
                yield units[number], outcome
        if alone:
            yield from self._done(job, alone, question)

    def _asked_here(self, smiles: Sequence[str], known: Mapping[str, Known]) -> list[RawScores]:
        if not smiles:
            return []
        return evaluate(self._terms, smiles, max_atoms=self._config.max_atoms, known=known)

    def _known(self, smiles: Sequence[str]) -> Mapping[str, Known]:
        if self._config.cache is None:
            return {}
        return self._opened(self._config.cache).look_up(smiles)

    def _keep(self, new: Mapping[str, RawScores]) -> None:
        """Write values to the cache, not failures: they may pass, so the next run asks again."""
        if self._config.cache is None or not new:
            return
        self._opened(self._config.cache).store(
            {
                smiles: {
                    **{name: raw for name, raw in each.values.items() if math.isfinite(raw)},
                    **({SCAFFOLD: each.scaffold} if each.scaffold is not None else {}),
                }
                for smiles, each in new.items()
            }
        )

    def _opened(self, path: Path) -> ScoreCache:
        if self._cache is None:
            keys = {
                term.name: component_key(part, term.score, self._folder)
                for part, term in zip(self._config.components, self._terms, strict=True)
            }
            self._cache = ScoreCache(path, {**keys, SCAFFOLD: SCAFFOLD_KEY})
        return self._cache

    def _built_pool(self) -> Pool:
        kinds = (find_component(part.kind) for part in self._config.components)
        modules = sorted({kind.factory.__module__ for kind in kinds} - {"__main__"})
        data = self._config.model_dump()
        build = partial(_jobs, data=data, folder=self._folder, modules=modules)
        return Pool(build, self._config.workers, preload=["chemkl.rewards.engine"])


def _units(items: Iterable[Any], size: int) -> list[Sequence[Any]]:
    everything = list(items)
    return [everything[start : start + size] for start in range(0, len(everything), size)]


def _read(smiles: Sequence[str], max_atoms: int) -> list[tuple[str | None, str | None]]:
    with silenced():
        read: Iterator[Molecule] = (read_molecule(each, max_atoms=max_atoms) for each in smiles)
        return [(each.canonical_smiles, each.reason) for each in read]


def _jobs(mark: Mark, data: Mapping[str, Any], folder: Path | None, modules: Sequence[str]) -> Jobs:
    """Build a reward's components in a worker: what it can be asked to do."""
    for module in modules:  # where components of the user's own are registered
        import_module(module)
    config, scores = checked_reward(Document(dict(data), "reward", folder))
    parts = zip(config.components, scores, strict=True)
    terms = [Term.of(part, score) for part, score in parts]
    numbers = {term.name: number for number, term in enumerate(terms)}

    def evaluated(unit: Sequence[tuple[str, Known]]) -> list[RawScores]:
        smiles = [each for each, _ in unit]
        return evaluate(
            terms,
            smiles,
            max_atoms=config.max_atoms,
            known=dict(unit),
            mark=lambda name: mark(numbers[name]),
        )

    return {"read": partial(_read, max_atoms=config.max_atoms), "evaluate": evaluated}
