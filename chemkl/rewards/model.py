"""Rewards: one row for each SMILES, every distinct molecule scored once.

Molecules that are not in the cache are scored in this process, in worker processes or on other
machines.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from operator import call
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self

import numpy as np
import pandas as pd

from chemkl.chem.molecules import read_molecule, silenced
from chemkl.config import InputError
from chemkl.config.loading import Document, load_config
from chemkl.config.paths import expand_home
from chemkl.config.reward import RewardConfig
from chemkl.display import Bar
from chemkl.results.columns import RAW_PREFIX, SCORE_PREFIX
from chemkl.rewards import components  # noqa: F401 - importing it registers the components
from chemkl.rewards.cache import SCAFFOLD_KEY, ScoreCache, component_key
from chemkl.rewards.executors import ParslPool
from chemkl.rewards.pool import Jobs, Lost, Mark, Pool
from chemkl.rewards.registry import find_component, placed
from chemkl.rewards.scoring import (
    AGGREGATES,
    PASSING,
    SCAFFOLD,
    Cached,
    Failed,
    RawScores,
    Term,
    evaluate,
    is_complete,
)

TEXT = pd.StringDtype(na_value=np.nan)
"""Text with NaN for missing: pandas 3's str, also under pandas 2."""
UNIT = 16
"""Molecules that a batched component scores at once, and strings that a worker parses at once."""
KEEP_EVERY = 2.0
"""Seconds between writes of new values to the cache during scoring."""
PAUSE = 0.5  # seconds before the first retry, doubled for each further one
PATIENCE = 2.0  # seconds of scoring before a progress bar appears
LEAST_ATTEMPTS = 100  # molecules before the failure rate of a component can end the run
LEAST_OF_ALL = 20  # the same for a component that fails on every molecule
MOST_REASONS = 1000
"""Limit on distinct failure reasons, because a reason may contain the molecule."""

Showing = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Shows progress: takes the number of molecules and opens a context with a function to call with
the number of further finished molecules."""


# ---- failures


@dataclass
class FailureCount:
    """Number of molecules a component scored and failed on, and the reasons by frequency."""

    attempts: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class Failures(dict[str, FailureCount]):
    """Failures by component; too many of them end the run.

    Args:
        names: Names of the components.
        most: Largest share of molecules a component may fail on.
        items: What messages call the molecules.
        kind: What messages call a component.
    """

    def __init__(
        self,
        names: Sequence[str],
        most: float = 1.0,
        items: str = "molecules",
        kind: str = "component",
    ) -> None:
        super().__init__({name: FailureCount() for name in names})
        self._most, self._items, self._kind = most, items, kind

    def add(self, names: Iterable[str], failed: Sequence[Failed]) -> None:
        """Count one molecule, scored by the components of these names, and its failures."""
        reasons = {failure.component: failure.reason for failure in failed}
        for name in names:
            count, reason = self[name], reasons.get(name)
            count.attempts += 1
            if reason is not None:
                count.failed += 1
                if reason in count.reasons or len(count.reasons) < MOST_REASONS:
                    count.reasons[reason] += 1

    def check(self) -> None:
        """Raise an InputError with a line for each component that fails too often."""
        lines: list[str] = []
        for name, count in self.items():
            least = LEAST_OF_ALL if count.failed == count.attempts else LEAST_ATTEMPTS
            if count.attempts < least or count.failed <= self._most * count.attempts:
                continue
            reason, n = count.reasons.most_common(1)[0]
            lines.append(
                f"{self._kind} {name} failed on {count.failed} of {count.attempts} {self._items} "
                f"({count.failed / count.attempts:.1%}), more than most_failures = {self._most:g} "
                f"allows. Most frequent reason ({n} times): {reason}. Fix the {self._kind}, or "
                "raise most_failures."
            )
        InputError.refuse(lines)

    def describe(self) -> list[str]:
        """Return a line for each component that failed, with the most frequent reason."""
        return [
            f"{self._kind} {name} failed on {count.failed:,} of {count.attempts:,} {self._items}, "
            f"most often: {count.reasons.most_common(1)[0][0]}"
            for name, count in self.items()
            if count.failed
        ]


# ---- building components from a config


def build_terms(
    source: RewardConfig | Mapping[str, Any] | str | Path | Document,
) -> tuple[RewardConfig, list[Term]]:
    """Check a reward's schema and its components together, and build the components."""
    config: RewardConfig | None = None
    problems: list[str] = []
    scores: list[Any] = []
    if isinstance(source, RewardConfig):  # its dump lacks settings outside a run's identity
        config, source = source, source.model_dump()
    document = Document.of(source, "reward", None if config is None else config.folder)
    try:
        config = config or load_config(RewardConfig, document)
    except InputError as error:
        problems += str(error).splitlines()
    parts = document.data.get("components")
    for index, part in enumerate(parts if isinstance(parts, list | tuple) else ()):
        # the schema reports anything else
        if isinstance(part, Mapping) and isinstance(part.get("kind"), str):
            scores.append(_score_function(document.at(("components", index), part), problems))
    if config is None or problems:
        raise InputError("\n".join(problems))
    terms = []
    for part, score in zip(config.components, scores, strict=True):
        kind, transform = find_component(part.kind), part.transform.build()
        row = (part.name, part.weight, score, transform, part.role, kind.batched, kind.costly)
        terms.append(Term(*row))
    return config, terms


def _score_function(part: Document, problems: list[str]) -> Any:
    """Build a component's score function; add problems and return None if there are any."""
    transform, parameters = part.data.get("transform", "none"), part.data.get("parameters", {})
    kind = transform.get("kind") if isinstance(transform, Mapping) else transform
    try:
        component = find_component(part.data["kind"], part)
        low, high = component.range
        if kind == "none" and (low < 0 or high > 1):  # the raw value would be the score
            unit = f" {component.unit}" if component.unit else ""
            text = (
                f"{component.kind} lies between {low:g} and {high:g}{unit}, and a score between 0 "
                "and 1: give it a transform, for example {kind: sigmoid, low: ..., high: ...}"
            )
            problems.append(placed(part, ("transform",), text))
        if isinstance(parameters, Mapping):
            return component.build(parameters, part.at(("parameters",), parameters))
    except InputError as error:
        problems += str(error).splitlines()
    return None


def jobs_of(terms: Sequence[Term], max_atoms: int, mark: Callable[[str], None]) -> Jobs:
    """Return the jobs of this process and of workers: parsing and scoring."""

    def read(smiles: Sequence[str]) -> list[tuple[str | None, str | None]]:
        with silenced():
            molecules = (read_molecule(text, max_atoms=max_atoms) for text in smiles)
            return [(molecule.canonical_smiles, molecule.reason) for molecule in molecules]

    def scored(unit: Sequence[tuple[str, Cached]]) -> list[RawScores]:
        smiles = [text for text, _ in unit]
        return evaluate(terms, smiles, max_atoms=max_atoms, cached=dict(unit), mark=mark)

    return {"read": read, "evaluate": scored}


def _jobs_of_worker(
    mark: Mark, data: Mapping[str, Any], folder: Path | None, modules: Sequence[str]
) -> Jobs:
    for module in modules:  # registers the user's components
        import_module(module)
    config, terms = build_terms(Document(dict(data), "reward", folder))
    numbers = {term.name: number for number, term in enumerate(terms)}
    return jobs_of(terms, config.max_atoms, lambda name: mark(numbers[name]))


class Engine:
    """Parses and scores molecules in this process, in workers, or from the cache."""

    def __init__(self, config: RewardConfig, terms: Sequence[Term]) -> None:
        self.showing: Showing = slow_bar
        self._config = config
        self._terms = terms
        self._jobs = jobs_of(terms, config.max_atoms, lambda _name: None)
        self._cache: ScoreCache | None = None
        self.pool: Pool | ParslPool | None = None
        kinds = (find_component(part.kind) for part in config.components)
        modules = sorted({kind.factory.__module__ for kind in kinds} - {"__main__"})
        data, folder = config.model_dump(), config.folder
        build = partial(_jobs_of_worker, data=data, folder=folder, modules=modules)
        if config.executor.kind == "parsl":
            self.pool = ParslPool(build, config.workers, config.executor, config.retries)
        elif config.workers > 1 or config.timeout:
            self.pool = Pool(build, config.workers, preload=[__name__])
        if config.cache is not None and expand_home(config.cache).exists():
            self._open(config.cache)  # refuse a file that is no cache now, not after hours

    def close(self) -> None:
        """End the workers and close the cache."""
        if self.pool is not None:
            self.pool.close()
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def read(self, smiles: Sequence[str]) -> list[tuple[str | None, str | None]]:
        """Parse SMILES; return the canonical form and the reason of each, as `read_molecule`."""
        pairs: dict[str, tuple[str | None, str | None]] = {}
        for unit, outcome in self._run("read", smiles, UNIT):
            if isinstance(outcome, Lost):
                outcome = [(None, outcome.reason)] * len(unit)
            pairs |= zip(unit, outcome, strict=True)
        return [pairs[text] for text in smiles]

    def evaluate(self, smiles: Sequence[str]) -> list[RawScores]:
        """Score distinct canonical SMILES; return one result each, in order."""
        cached: Mapping[str, Cached] = {}
        if self._config.cache is not None:
            cached = self._open(self._config.cache).look_up(smiles)
        results: dict[str, RawScores] = {}
        complete = {text: item for text, item in cached.items() if is_complete(self._terms, item)}
        if complete:
            results |= zip(complete, self._jobs["evaluate"](complete.items()), strict=True)
        pending = [text for text in smiles if text not in results]
        if not pending:
            return [results[text] for text in smiles]
        new: dict[str, RawScores] = {}
        last_write = monotonic()
        with self.showing(len(pending)) as advance:
            try:
                for part in self._scored(pending, cached):
                    results |= part
                    new |= part
                    advance(len(part))
                    if monotonic() > last_write + KEEP_EVERY:
                        self._write(new)
                        new, last_write = {}, monotonic()
            finally:
                self._write(new)  # also after an exception
        return [results[text] for text in smiles]

    def _scored(
        self, smiles: Sequence[str], cached: Mapping[str, Cached]
    ) -> Iterator[dict[str, RawScores]]:
        """Score unit by unit, then retry molecules with a transient failure."""
        for attempt in range(self._config.retries + 1):
            again: dict[str, RawScores] = {}
            for part in self._scored_once(smiles, cached):
                if attempt < self._config.retries:
                    again |= {
                        text: raw
                        for text, raw in part.items()
                        if any(failure.transient for failure in raw.failures)
                    }
                yield {text: raw for text, raw in part.items() if text not in again}
            if not again:
                return
            # values of the other components are not computed again
            smiles, cached = list(again), {text: _cacheable(raw) for text, raw in again.items()}
            sleep(PAUSE * 2**attempt)

    def _scored_once(
        self, smiles: Sequence[str], cached: Mapping[str, Cached]
    ) -> Iterator[dict[str, RawScores]]:
        names = [term.name for term in self._terms]
        batched = any(term.batched for term in self._terms) and not self._config.timeout
        items = [(text, cached.get(text, {})) for text in smiles]
        for unit, outcome in self._run("evaluate", items, UNIT if batched else 1):
            if isinstance(outcome, Lost):
                failed = Failed(names[outcome.at] if outcome.at >= 0 else None, outcome.reason)
                outcome = [RawScores(dict.fromkeys(names, math.nan), None, (failed,))] * len(unit)
            yield {text: raw for (text, _), raw in zip(unit, outcome, strict=True)}

    def _run(
        self, job: str, items: Sequence[Any], size: int
    ) -> Iterator[tuple[Sequence[Any], Any]]:
        """Apply a job to units of items; the items of a lost unit are repeated one by one."""
        units = [items[start : start + size] for start in range(0, len(items), size)]
        pool = self.pool
        if pool is None or (job == "read" and isinstance(pool, ParslPool)):  # too quick to send
            yield from ((unit, self._jobs[job](unit)) for unit in units)
            return
        singles: list[Any] = []
        for number, outcome in pool.run(job, units, self._config.timeout):
            if isinstance(outcome, Lost) and len(units[number]) > 1:
                singles += units[number]
            else:
                yield units[number], outcome
        if singles:
            yield from self._run(job, singles, 1)

    def _write(self, new: Mapping[str, RawScores]) -> None:
        if self._config.cache is not None and new:
            values = {text: _cacheable(raw) for text, raw in new.items()}
            self._open(self._config.cache).store(values)

    def _open(self, path: Path) -> ScoreCache:
        if self._cache is None:
            keys = {
                term.name: component_key(part, term.score, self._config.folder)
                for part, term in zip(self._config.components, self._terms, strict=True)
            }
            self._cache = ScoreCache(path, {**keys, SCAFFOLD: SCAFFOLD_KEY})
        return self._cache


def _cacheable(raw: RawScores) -> Cached:
    """Return values and scaffold without failures, which the next run may not meet again."""
    values: dict[str, float | str] = {n: x for n, x in raw.values.items() if math.isfinite(x)}
    return values if raw.scaffold is None else values | {SCAFFOLD: raw.scaffold}


@contextmanager
def slow_bar(total: int) -> Iterator[Callable[[int], None]]:
    """Show a temporary progress bar on a terminal once scoring takes longer than `PATIENCE`."""
    with Bar("scoring", total, delay=PATIENCE) as bar:
        yield bar.advance


@contextmanager
def nothing_shown(_total: int) -> Iterator[Callable[[int], None]]:
    """Show no progress, for a caller with its own progress bar."""
    yield lambda _n: None


# ---- the reward

Spread = Callable[[Callable[[Sequence[Any]], Sequence[Any]], Sequence[Any]], Sequence[Any]]
"""Applies a function to items, possibly in several processes; returns the results in order."""


class RewardModel(AbstractContextManager["RewardModel"]):
    """Scores molecules; built by `from_config`.

    Raw values are remembered by canonical SMILES, so a molecule is scored once, however often and
    in whatever spelling it occurs. Nothing here depends on the run (such as a diversity filter).
    Components get the molecule parsed from its canonical SMILES, so equal molecules have bit-equal
    rewards in every order and every run.

    Attributes:
        component_names: Names of the components, in the order of the config.
        columns: Columns of the frame returned by `score`, in order.
        has_workers: Whether molecules are scored in other processes.
        failures: Numbers of scored and failed molecules by component, with reasons.
    """

    FAILED = 0.0
    """The reward of an invalid molecule, or of one that could not be scored; the lowest reward."""
    MOST = 1.0
    """The highest possible reward."""

    def __init__(self, config: RewardConfig, terms: list[Term]) -> None:
        self.config = config
        self.component_names = [term.name for term in terms]
        self._engine = Engine(config, terms)
        self.has_workers = self._engine.pool is not None
        self._terms = terms
        self._weights = [term.weight for term in terms if term.role == "scorer"]
        prefixes = RAW_PREFIX, SCORE_PREFIX
        numbers = [prefix + name for name in self.component_names for prefix in prefixes]
        self._dtypes: dict[str, Any] = {
            **{"smiles": TEXT, "canonical_smiles": TEXT, "valid": bool, "reason": TEXT},
            **{"scaffold": TEXT, **dict.fromkeys(numbers, float), "reward": float},
        }
        self.columns = list(self._dtypes)
        self._spread: Spread = call
        self._read: dict[str, tuple[str | None, str | None]] = {}
        self._raw: dict[str, RawScores] = {}
        self.failures = Failures(self.component_names, config.most_failures)

    @classmethod
    def from_config(cls, source: RewardConfig | Mapping[str, Any] | str | Path | Document) -> Self:
        """Build the reward from a mapping, a YAML file or a config.

        Raises:
            InputError: One line for every problem of the schema and of the components.
        """
        return cls(*build_terms(source))

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes and close the cache; nothing can be scored any more."""
        self._engine.close()

    def show_progress(self, showing: Showing) -> None:
        """Replace the progress bar of slow components."""
        self._engine.showing = showing

    def spread_over(self, spread: Spread) -> None:
        """Share parsing and scoring among several processes that all score the same molecules."""
        self._spread = spread

    def score(self, smiles: Iterable[str]) -> pd.DataFrame:
        """Score SMILES; return one row for each, in order.

        Returns:
            A frame with a fresh index and the columns ``smiles, canonical_smiles, valid, reason,
            scaffold``, for each component ``raw_<name>`` (in its unit) and ``score_<name>``
            (0 to 1), and ``reward`` (0 to 1). An invalid string has missing values, a reason and
            reward 0. A molecule for which a component failed has the same, with missing values for
            that component. A molecule that fails a filter has a reason, reward 0, and missing
            values for the costly components, which are skipped.

        Raises:
            InputError: An item is not a string, or a component failed on more molecules than
                `most_failures` allows.
        """
        if isinstance(smiles, str):
            raise InputError(f"score takes a list of SMILES, not one string: [{smiles!r}]")
        strings = list(smiles)
        for index, text in enumerate(strings):
            if not isinstance(text, str):
                raise InputError(f"SMILES {index} is not a string: {text!r}")
        new = list(dict.fromkeys(text for text in strings if text not in self._read))
        for text, (canonical, reason) in zip(
            new, self._spread(self._engine.read, new), strict=True
        ):
            # many strings are canonical: store such a text once
            self._read[text] = text if canonical == text else canonical, reason
        molecules = dict.fromkeys(self._read[text][0] for text in strings)
        unscored = [smi for smi in molecules if smi is not None and smi not in self._raw]
        if unscored:
            results = self._spread(self._engine.evaluate, unscored)
            for canonical, raw in zip(unscored, results, strict=True):
                self._add(canonical, raw)
            self.failures.check()
        rows = [self._row(text) for text in strings]
        return pd.DataFrame(
            {
                column: pd.Series([row.get(column) for row in rows], dtype=dtype)
                for column, dtype in self._dtypes.items()
            }
        )

    def remember(self, rows: pd.DataFrame) -> None:
        """Take over raw values from rows of ``score`` or of a trace.

        Missing values stay missing: a failed component is not called again for the molecule, nor is
        a costly one that a filter skipped. Failures are counted as if they occurred here. A row
        with missing values but no reason is ignored.
        """
        names = self.component_names
        valid = rows[rows["valid"]]
        raw = valid[[RAW_PREFIX + name for name in names]].to_numpy(dtype=float)
        columns = (valid["canonical_smiles"], valid["scaffold"], valid["reason"], raw.tolist())
        for smiles, scaffold, reason, values in zip(*columns, strict=True):
            by_name = dict(zip(names, values, strict=True))
            missing = [name for name, value in by_name.items() if math.isnan(value)]
            reason = reason if isinstance(reason, str) else ""
            if smiles in self._raw or (missing and not reason):
                continue
            # remove the part of the reason that `_rewarded` will add again
            added = self._rewarded(RawScores(by_name, None, ())).get("reason", "")
            failures = _failures_in(reason.removesuffix(added).removesuffix("; "), missing)
            scaffold = scaffold if isinstance(scaffold, str) else None
            self._add(smiles, RawScores(by_name, scaffold, failures))

    def _add(self, canonical_smiles: str, raw: RawScores) -> None:
        """Store a molecule's raw values and count its failures."""
        self._raw[canonical_smiles] = raw
        failed = [*raw.failures, *self._scores(raw.values)[1]]
        failed_names = {failure.component for failure in failed}
        # a value that is missing without a failure was skipped
        scored = (n for n, x in raw.values.items() if n in failed_names or not math.isnan(x))
        self.failures.add(scored, failed)

    def _row(self, smiles: str) -> dict[str, Any]:
        canonical, reason = self._read[smiles]
        text = smiles.encode(errors="backslashreplace").decode()  # no file can hold a surrogate
        row = {"smiles": text, "valid": canonical is not None, "reason": reason, "reward": 0.0}
        if canonical is None:
            return row
        raw = self._raw[canonical]
        row |= {"canonical_smiles": canonical, "scaffold": raw.scaffold}
        return row | self._rewarded(raw)

    def _rewarded(self, raw: RawScores) -> dict[str, Any]:
        """Transform and aggregate raw values; return a row's numbers, and the reason for a 0."""
        scores, failures = self._scores(raw.values)
        row: dict[str, Any] = {RAW_PREFIX + name: value for name, value in raw.values.items()}
        row |= {SCORE_PREFIX + name: score for name, score in scores.items()}
        scorers, filters, penalties = (
            {term.name: scores[term.name] for term in self._terms if term.role == role}
            for role in ("scorer", "filter", "penalty")
        )
        reasons = [*map(str, raw.failures), *map(str, failures)]
        reasons += [f"filter {n} failed" for n, x in filters.items() if x < PASSING]
        if reasons:
            return row | {"reason": "; ".join(reasons), "reward": 0.0}
        reward = AGGREGATES[self.config.aggregate]([*scorers.values()], self._weights)
        return row | {"reward": reward * math.prod(penalties.values())}

    def _scores(self, raw: Mapping[str, float]) -> tuple[dict[str, float], list[Failed]]:
        """Transform raw values; a result outside 0 to 1 becomes NaN and a failure."""
        scores, failures = {}, []
        for term in self._terms:
            value = raw[term.name]
            score = term.transform(value)
            scores[term.name] = score if 0 <= score <= 1 else math.nan
            if math.isnan(scores[term.name]) and not math.isnan(value):
                reason = f"score {score:g} is not between 0 and 1"
                if math.isnan(score):
                    reason = f"its transform has no score for the value {value:g}"
                failures.append(Failed(term.name, reason))
        return scores, failures


def _failures_in(text: str, names: Sequence[str]) -> tuple[Failed, ...]:
    """Parse the failures of components from a row's reason."""
    if not text:
        return ()
    at = "|".join(map(re.escape, names))
    lead, *rest = re.split(rf"(?:^|; )component ({at}) failed: ", text) if at else [text]
    failed = [Failed(None, lead)] if lead else []
    failed += [Failed(name, why) for name, why in zip(rest[::2], rest[1::2], strict=True)]
    # a reason may itself contain such a phrase: then keep it as one text
    return tuple(failed) if "; ".join(map(str, failed)) == text else (Failed(None, text),)
