"""How molecules get to the components: past the cache, in this process or in worker processes."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any

from chemkl.chem.molecules import read_molecule, silenced
from chemkl.config import InputError
from chemkl.config.document import Document
from chemkl.config.loading import load_config
from chemkl.config.paths import at_home
from chemkl.config.reward import RewardConfig
from chemkl.display import Bar
from chemkl.rewards import components  # noqa: F401 - importing it registers the components
from chemkl.rewards.cache import SCAFFOLD_KEY, ScoreCache, component_key
from chemkl.rewards.pool import Jobs, Lost, Mark, Pool
from chemkl.rewards.registry import Component, find_component, placed
from chemkl.rewards.scoring import SCAFFOLD, Cached, Failed, RawScores, Term, evaluate, is_settled

UNIT = 16
"""Molecules that a batched component is asked about at once, here and in a worker alike; and
strings that a worker reads at once."""
KEEP_EVERY = 2.0
"""Seconds after which new values are written to the cache while others are still awaited."""
PATIENCE = 2.0
"""Seconds of scoring before a progress bar is shown."""

Showing = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""How progress is shown: given the number of molecules, a function to call with how many more of
them are done, for as long as the context lasts."""


def build_terms(
    source: RewardConfig | Mapping[str, Any] | str | Path | Document,
) -> tuple[RewardConfig, list[Term]]:
    """Check a reward's schema and its components together, and build the components.

    Raises:
        InputError: one line for every problem of either sort.
    """
    config: RewardConfig | None = None
    problems: list[str] = []
    scores: list[Any] = []
    if isinstance(source, RewardConfig):  # whose dump lacks what is no part of a run's identity
        config, source = source, source.model_dump()
    document = Document.of(source, "reward", None if config is None else config.folder)
    try:
        config = config or load_config(RewardConfig, document)
    except InputError as error:
        problems += str(error).splitlines()
    parts = document.data.get("components")
    for index, part in enumerate(parts if isinstance(parts, list | tuple) else ()):
        # whatever else stands there, the schema complains of
        if isinstance(part, Mapping) and isinstance(part.get("kind"), str):
            scores.append(_built(document.at(("components", index), part), problems))
    if config is None or problems:
        raise InputError("\n".join(problems))
    return config, [Term.of(*pair) for pair in zip(config.components, scores, strict=True)]


def _built(part: Document, problems: list[str]) -> Any:
    """Build one component's score function; None where something is wrong, which is added."""
    try:
        component = find_component(part.data["kind"])
    except InputError as error:
        problems.append(placed(part, ("kind",), error))
        return None
    untransformed = _untransformed(part.data, component)
    if untransformed:
        problems.append(placed(part, ("transform",), untransformed))
    parameters = part.data.get("parameters", {})
    if isinstance(parameters, Mapping):
        try:
            return component.build(parameters, part.at(("parameters",), parameters))
        except InputError as error:
            problems += str(error).splitlines()
    return None


def _untransformed(part: Mapping[str, Any], component: Component) -> str | None:
    """Say so when raw values that may leave 0 to 1 are to be used as scores."""
    transform = part.get("transform", "none")
    kind = transform.get("kind") if isinstance(transform, Mapping) else transform
    low, high = component.range
    if kind != "none" or (low >= 0 and high <= 1):
        return None
    unit = f" {component.unit}" if component.unit else ""
    return (
        f"{component.kind} lies between {low:g} and {high:g}{unit}, and a score between 0 and 1: "
        "give it a transform, for example {kind: sigmoid, low: ..., high: ...}"
    )


class Engine:
    """Asks the components of a reward about molecules; remembers nothing but what the cache does.

    Args:
        config: the reward, with the settings of the engine.
        terms: its components, ready to use in this process.
    """

    def __init__(self, config: RewardConfig, terms: Sequence[Term]) -> None:
        self.showing: Showing = slow_bar
        self._config = config
        self._terms = terms
        self._read = partial(_read, max_atoms=config.max_atoms)
        batched = any(term.batched for term in terms) and not config.timeout
        self._size = UNIT if batched else 1
        self._pool: Pool | None = None
        if config.workers > 1 or config.timeout:
            kinds = (find_component(part.kind) for part in config.components)
            modules = sorted({kind.factory.__module__ for kind in kinds} - {"__main__"})
            build = partial(_jobs, data=config.model_dump(), folder=config.folder, modules=modules)
            self._pool = Pool(build, config.workers, preload=[__name__])
        self._cache: ScoreCache | None = None
        if config.cache is not None and at_home(config.cache).exists():
            self._open(config.cache)  # a file that is no cache is found now, not hours later

    def close(self) -> None:
        """End the workers and leave the cache."""
        if self._pool is not None:
            self._pool.close()
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def read(self, smiles: Sequence[str]) -> list[tuple[str | None, str | None]]:
        """Read SMILES: canonical form and reason of each, in order, as `read_molecule` has them."""
        if self._pool is None:
            return self._read(smiles)
        read: list[tuple[str | None, str | None]] = [(None, None)] * len(smiles)
        units = _units(range(len(smiles)), UNIT)
        for places, outcome in self._run("read", units, smiles.__getitem__):
            if isinstance(outcome, Lost):
                outcome = [(None, outcome.reason)] * len(places)
            for place, pair in zip(places, outcome, strict=True):
                read[place] = pair
        return read

    def evaluate(self, smiles: Sequence[str]) -> list[RawScores]:
        """Score molecules, given as canonical SMILES, each once: one answer each, in order."""
        cached: Mapping[str, Cached] = {}
        if self._config.cache is not None:
            cached = self._open(self._config.cache).look_up(smiles)
        settled = [text for text, values in cached.items() if is_settled(self._terms, values)]
        answers = dict(zip(settled, self._evaluate(settled, cached), strict=True))
        lacking = [text for text in smiles if text not in answers]
        if not lacking:
            return [answers[text] for text in smiles]
        new: dict[str, RawScores] = {}
        kept = monotonic()
        with self.showing(len(lacking)) as advance:
            try:
                for part in self._parts(lacking, cached):
                    answers |= part
                    new |= part
                    advance(len(part))
                    if monotonic() > kept + KEEP_EVERY:
                        self._keep(new)
                        new, kept = {}, monotonic()
            finally:
                self._keep(new)  # what was paid for is kept, whatever ended this
        return [answers[text] for text in smiles]

    def _parts(
        self, smiles: Sequence[str], cached: Mapping[str, Cached]
    ) -> Iterator[dict[str, RawScores]]:
        """Score unit by unit."""
        units = _units(smiles, self._size)
        if self._pool is None:
            for unit in units:
                yield dict(zip(unit, self._evaluate(unit, cached), strict=True))
            return
        names = [term.name for term in self._terms]

        def question(text: str) -> tuple[str, Cached]:
            return text, cached.get(text, {})

        for unit, outcome in self._run("evaluate", units, question):
            if isinstance(outcome, Lost):
                failed = Failed(names[outcome.at] if outcome.at >= 0 else None, outcome.reason)
                outcome = [RawScores(dict.fromkeys(names, math.nan), None, (failed,))] * len(unit)
            yield dict(zip(unit, outcome, strict=True))

    def _run(
        self, job: str, units: Sequence[Sequence[Any]], question: Callable[[Any], Any]
    ) -> Iterator[tuple[Sequence[Any], Any]]:
        """Have the workers do units; where one of several is lost, find out which it was."""
        assert self._pool is not None
        alone: list[Sequence[Any]] = []
        questions = [[question(item) for item in unit] for unit in units]
        for number, outcome in self._pool.run(job, questions, self._config.timeout):
            if isinstance(outcome, Lost) and len(units[number]) > 1:
                alone += _units(units[number], 1)
            else:
                yield units[number], outcome
        if alone:
            yield from self._run(job, alone, question)

    def _evaluate(self, smiles: Sequence[str], cached: Mapping[str, Cached]) -> list[RawScores]:
        if not smiles:
            return []
        return evaluate(self._terms, smiles, max_atoms=self._config.max_atoms, cached=cached)

    def _keep(self, new: Mapping[str, RawScores]) -> None:
        """Write values to the cache, not failures: they may pass, so the next run asks again."""
        if self._config.cache is None or not new:
            return
        values: dict[str, dict[str, float | str]] = {}
        for smiles, raw in new.items():
            values[smiles] = {name: x for name, x in raw.values.items() if math.isfinite(x)}
            if raw.scaffold is not None:
                values[smiles][SCAFFOLD] = raw.scaffold
        self._open(self._config.cache).store(values)

    def _open(self, path: Path) -> ScoreCache:
        if self._cache is None:
            keys = {
                term.name: component_key(part, term.score, self._config.folder)
                for part, term in zip(self._config.components, self._terms, strict=True)
            }
            self._cache = ScoreCache(path, {**keys, SCAFFOLD: SCAFFOLD_KEY})
        return self._cache


def _units(items: Iterable[Any], size: int) -> list[Sequence[Any]]:
    everything = list(items)
    return [everything[start : start + size] for start in range(0, len(everything), size)]


def _read(smiles: Sequence[str], max_atoms: int) -> list[tuple[str | None, str | None]]:
    with silenced():
        molecules = (read_molecule(text, max_atoms=max_atoms) for text in smiles)
        return [(molecule.canonical_smiles, molecule.reason) for molecule in molecules]


def _jobs(mark: Mark, data: Mapping[str, Any], folder: Path | None, modules: Sequence[str]) -> Jobs:
    """Build a reward's components in a worker: what it can be asked to do."""
    for module in modules:  # where components of the user's own are registered
        import_module(module)
    config, terms = build_terms(Document(dict(data), "reward", folder))
    numbers = {term.name: number for number, term in enumerate(terms)}

    def evaluated(unit: Sequence[tuple[str, Cached]]) -> list[RawScores]:
        smiles = [text for text, _ in unit]
        return evaluate(
            terms,
            smiles,
            max_atoms=config.max_atoms,
            cached=dict(unit),
            mark=lambda name: mark(numbers[name]),
        )

    return {"read": partial(_read, max_atoms=config.max_atoms), "evaluate": evaluated}


@contextmanager
def slow_bar(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar once the molecules have taken longer than two seconds; it goes when they are done.

    Nothing is shown where standard error is no terminal.
    """
    with Bar("scoring", total, delay=PATIENCE) as bar:
        yield bar.advance


@contextmanager
def nothing_shown(_total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing: for a caller that has a bar of its own."""
    yield lambda _n: None
