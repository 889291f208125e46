"""A reward: SMILES in, one row each out, every distinct molecule scored once.

Molecules get to the components past the cache, in this process or in worker processes.
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
    is_settled,
)

TEXT = pd.StringDtype(na_value=np.nan)
"""Text with NaN for missing: what pandas 3 calls str, also under pandas 2."""
UNIT = 16
"""Molecules that a batched component is asked about at once, here and in a worker alike; and
strings that a worker reads at once."""
KEEP_EVERY = 2.0
"""Seconds after which new values are written to the cache while others are still awaited."""
PAUSE = 0.5  # seconds before molecules are asked about again, doubled each time
PATIENCE = 2.0  # seconds of scoring before a progress bar is shown
LEAST_ASKED = 100  # no component is judged by fewer molecules, but one that fails on all of them
LEAST_OF_ALL = 20  # a component that fails on every molecule is judged from so many on
MOST_REASONS = 1000
"""As many different reasons are told apart: one that names the molecule is new every time."""

Showing = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""How progress is shown: given the number of molecules, a function to call with how many more of
them are done, for as long as the context lasts."""


# ---- failures


@dataclass
class FailureCount:
    """How often one component was asked, how often it failed, and how often for which reason."""

    asked: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class Failures(dict[str, FailureCount]):
    """The failures of each component; too many end the run.

    Args:
        names: of the components.
        most: share of what a component is asked about that it may fail on.
        asked_about: what messages call that.
        asked: what they call a component.
    """

    def __init__(
        self,
        names: Sequence[str],
        most: float = 1.0,
        asked_about: str = "molecules",
        asked: str = "component",
    ) -> None:
        super().__init__({name: FailureCount() for name in names})
        self._most, self._asked_about, self._asked = most, asked_about, asked

    def add(self, asked: Iterable[str], failed: Sequence[Failed]) -> None:
        """Count one molecule: the components asked about it, and what went wrong."""
        reasons = {failure.component: failure.reason for failure in failed}
        for name in asked:
            count, reason = self[name], reasons.get(name)
            count.asked += 1
            if reason is not None:
                count.failed += 1
                if reason in count.reasons or len(count.reasons) < MOST_REASONS:
                    count.reasons[reason] += 1

    def check(self) -> None:
        """Raise an InputError with a line for each component that fails too often."""
        lines: list[str] = []
        for name, count in self.items():
            least = LEAST_OF_ALL if count.failed == count.asked else LEAST_ASKED
            if count.asked < least or count.failed <= self._most * count.asked:
                continue
            reason, n = count.reasons.most_common(1)[0]
            lines.append(
                f"{self._asked} {name} failed on {count.failed} of {count.asked} "
                f"{self._asked_about} ({count.failed / count.asked:.1%}), more than most_failures "
                f"= {self._most:g} allows. Most frequent reason ({n} times): {reason}. Mend the "
                f"{self._asked}, or allow more."
            )
        InputError.refuse(lines)

    def describe(self) -> list[str]:
        """Say of each component that failed how often it did, and what it said most often."""
        return [
            f"{self._asked} {name} failed on {count.failed:,} of {count.asked:,} "
            f"{self._asked_about}, most often: {count.reasons.most_common(1)[0][0]}"
            for name, count in self.items()
            if count.failed
        ]


# ---- from a config to components, and to what workers do


def build_terms(
    source: RewardConfig | Mapping[str, Any] | str | Path | Document,
) -> tuple[RewardConfig, list[Term]]:
    """Check a reward's schema and its components together, and build the components."""
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
    """Build one component's score function; None where something is wrong, which is added."""
    transform, parameters = part.data.get("transform", "none"), part.data.get("parameters", {})
    kind = transform.get("kind") if isinstance(transform, Mapping) else transform
    try:
        component = find_component(part.data["kind"], part)
        low, high = component.range
        if kind == "none" and (low < 0 or high > 1):  # raw values that are to be used as scores
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
    """What is done with molecules, here and in workers: they are read, and they are scored."""

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
    for module in modules:  # where components of the user's own are registered
        import_module(module)
    config, terms = build_terms(Document(dict(data), "reward", folder))
    numbers = {term.name: number for number, term in enumerate(terms)}
    return jobs_of(terms, config.max_atoms, lambda name: mark(numbers[name]))


class Engine:
    """Asks the components of a reward about molecules; remembers what the cache does, no more."""

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
            self._open(config.cache)  # a file that is no cache is refused now, not hours later

    def close(self) -> None:
        """End the workers and leave the cache."""
        if self.pool is not None:
            self.pool.close()
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def read(self, smiles: Sequence[str]) -> list[tuple[str | None, str | None]]:
        """Read SMILES: canonical form and reason of each, in order, as `read_molecule` has them."""
        pairs: dict[str, tuple[str | None, str | None]] = {}
        for unit, outcome in self._run("read", smiles, UNIT):
            if isinstance(outcome, Lost):
                outcome = [(None, outcome.reason)] * len(unit)
            pairs |= zip(unit, outcome, strict=True)
        return [pairs[text] for text in smiles]

    def evaluate(self, smiles: Sequence[str]) -> list[RawScores]:
        """Score molecules, given as canonical SMILES, each once: one answer each, in order."""
        cached: Mapping[str, Cached] = {}
        if self._config.cache is not None:
            cached = self._open(self._config.cache).look_up(smiles)
        answers: dict[str, RawScores] = {}
        settled = {text: held for text, held in cached.items() if is_settled(self._terms, held)}
        if settled:
            answers |= zip(settled, self._jobs["evaluate"](settled.items()), strict=True)
        lacking = [text for text in smiles if text not in answers]
        if not lacking:
            return [answers[text] for text in smiles]
        new: dict[str, RawScores] = {}
        kept = monotonic()
        with self.showing(len(lacking)) as advance:
            try:
                for part in self._scored(lacking, cached):
                    answers |= part
                    new |= part
                    advance(len(part))
                    if monotonic() > kept + KEEP_EVERY:
                        self._keep(new)
                        new, kept = {}, monotonic()
            finally:
                self._keep(new)  # what was paid for is kept, whatever ended this
        return [answers[text] for text in smiles]

    def _scored(
        self, smiles: Sequence[str], cached: Mapping[str, Cached]
    ) -> Iterator[dict[str, RawScores]]:
        """Score unit by unit; then once more what failed for a passing reason, and again."""
        for left in range(self._config.retries, -1, -1):
            again: dict[str, RawScores] = {}
            for part in self._scored_once(smiles, cached):
                again |= {
                    text: raw
                    for text, raw in part.items()
                    if left and any(failure.transient for failure in raw.failures)
                }
                yield {text: raw for text, raw in part.items() if text not in again}
            if not again:
                return
            # what is known of them is not asked for again
            smiles, cached = list(again), {text: _known(raw) for text, raw in again.items()}
            sleep(PAUSE * 2 ** (self._config.retries - left))

    def _scored_once(
        self, smiles: Sequence[str], cached: Mapping[str, Cached]
    ) -> Iterator[dict[str, RawScores]]:
        names = [term.name for term in self._terms]
        batched = any(term.batched for term in self._terms) and not self._config.timeout
        questions = [(text, cached.get(text, {})) for text in smiles]
        for unit, outcome in self._run("evaluate", questions, UNIT if batched else 1):
            if isinstance(outcome, Lost):
                failed = Failed(names[outcome.at] if outcome.at >= 0 else None, outcome.reason)
                outcome = [RawScores(dict.fromkeys(names, math.nan), None, (failed,))] * len(unit)
            yield {text: raw for (text, _), raw in zip(unit, outcome, strict=True)}

    def _run(
        self, job: str, items: Sequence[Any], size: int
    ) -> Iterator[tuple[Sequence[Any], Any]]:
        """Have units of items done; where one of several is lost, find out which it was."""
        units = [items[start : start + size] for start in range(0, len(items), size)]
        pool = self.pool
        if pool is None or (job == "read" and isinstance(pool, ParslPool)):  # not worth the way
            yield from ((unit, self._jobs[job](unit)) for unit in units)
            return
        alone: list[Any] = []
        for number, outcome in pool.run(job, units, self._config.timeout):
            if isinstance(outcome, Lost) and len(units[number]) > 1:
                alone += units[number]
            else:
                yield units[number], outcome
        if alone:
            yield from self._run(job, alone, 1)

    def _keep(self, new: Mapping[str, RawScores]) -> None:
        """Write values to the cache, not failures: they may pass, so the next run asks again."""
        if self._config.cache is not None and new:
            self._open(self._config.cache).store({text: _known(raw) for text, raw in new.items()})

    def _open(self, path: Path) -> ScoreCache:
        if self._cache is None:
            keys = {
                term.name: component_key(part, term.score, self._config.folder)
                for part, term in zip(self._config.components, self._terms, strict=True)
            }
            self._cache = ScoreCache(path, {**keys, SCAFFOLD: SCAFFOLD_KEY})
        return self._cache


def _known(raw: RawScores) -> Cached:
    """What a cache keeps of a molecule: values, and no failures."""
    values: dict[str, float | str] = {n: x for n, x in raw.values.items() if math.isfinite(x)}
    return values if raw.scaffold is None else values | {SCAFFOLD: raw.scaffold}


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


# ---- the reward

Spread = Callable[[Callable[[Sequence[Any]], Sequence[Any]], Sequence[Any]], Sequence[Any]]
"""Has a function answer items, and returns the answers in order."""


class RewardModel(AbstractContextManager["RewardModel"]):
    """Scores molecules; built by `from_config`.

    Raw values are kept by canonical SMILES for the life of the object, so a molecule is scored
    once however often and in whatever spelling it comes back. Nothing that depends on the run
    (a penalty, a filter) ever enters here. The components see the molecule as its canonical SMILES
    gives it, so equal molecules have bit-equal rewards in every order and every run.

    Attributes:
        component_names: names of the components, in the order of the config.
        columns: of the frame that `score` gives, in order.
        has_workers: whether molecules are scored in other processes than this one.
        failures: by component, how many molecules it was asked about and failed on, and why.
    """

    FAILED = 0.0
    """The reward of an invalid molecule, or of one that could not be scored; the lowest."""
    MOST = 1.0
    """The highest reward that there can be."""

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
        """Build the reward that a config describes: a mapping, a YAML file, or the config itself.

        Raises:
            InputError: one line for every problem, of the schema and of the components alike.
        """
        return cls(*build_terms(source))

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes and leave the cache; nothing can be scored any more."""
        self._engine.close()

    def show_progress(self, showing: Showing) -> None:
        """Show the progress of slow components in another way than by a bar of their own."""
        self._engine.showing = showing

    def spread_over(self, spread: Spread) -> None:
        """Have new molecules read and scored by several processes, which all ask for the same."""
        self._spread = spread

    def score(self, smiles: Iterable[str]) -> pd.DataFrame:
        """Score SMILES: one row for each, in the order given; valid or not, new or not.

        Returns:
            A frame with a fresh index and the columns ``smiles, canonical_smiles, valid, reason,
            scaffold``, for each component ``raw_<name>`` (its own unit) and ``score_<name>``
            (0 to 1), and ``reward`` (0 to 1). An invalid string has missing values, a reason and
            reward 0. So has a molecule for which a component failed, for that component. A molecule
            that fails a filter has a reason and reward 0, and missing values for the costly
            components, which were not asked.

        Raises:
            InputError: something among them is not a string, or a component failed on more
                molecules than the config's `most_failures` allows.
        """
        if isinstance(smiles, str):
            raise InputError(f"score takes a list of SMILES, not one string: [{smiles!r}]")
        strings = list(smiles)
        for index, text in enumerate(strings):
            if not isinstance(text, str):
                raise InputError(f"SMILES {index} is not a string: {text!r}")
        new = list(dict.fromkeys(text for text in strings if text not in self._read))
        read = self._spread(self._engine.read, new)
        for text, (canonical, reason) in zip(new, read, strict=True):
            # of equal texts one is enough: most strings come again, and many are canonical
            self._read[text] = text if canonical == text else canonical, reason
        molecules = dict.fromkeys(self._read[text][0] for text in strings)
        unknown = [smi for smi in molecules if smi is not None and smi not in self._raw]
        if unknown:
            answers = self._spread(self._engine.evaluate, unknown)
            for canonical, raw in zip(unknown, answers, strict=True):
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
        """Take over raw values that were computed before: rows that ``score`` gave, or a trace.

        A component that failed counts as asked: it is not asked again about this molecule. Nor is
        a costly one that a filter kept from being asked. A row that does not explain its missing
        values is not taken over. Failures count as if they had been met here.
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
            # what `_paid` would add to the reason once more is left out
            added = self._paid(RawScores(by_name, None, ())).get("reason", "")
            failures = _failures_in(reason.removesuffix(added).removesuffix("; "), missing)
            scaffold = scaffold if isinstance(scaffold, str) else None
            self._add(smiles, RawScores(by_name, scaffold, failures))

    def _add(self, canonical_smiles: str, raw: RawScores) -> None:
        """Remember what the components gave for a molecule, and count their failures."""
        self._raw[canonical_smiles] = raw
        failed = [*raw.failures, *self._scores(raw.values)[1]]
        names = {failure.component for failure in failed}
        # a value that is missing without a failure is one that nobody asked for
        asked = (n for n, x in raw.values.items() if n in names or not math.isnan(x))
        self.failures.add(asked, failed)

    def _row(self, smiles: str) -> dict[str, Any]:
        canonical, reason = self._read[smiles]
        # a lone surrogate, which no file can hold, stands escaped in the frame
        shown = smiles.encode(errors="backslashreplace").decode()
        row = {"smiles": shown, "valid": canonical is not None, "reason": reason, "reward": 0.0}
        if canonical is None:
            return row
        raw = self._raw[canonical]
        row |= {"canonical_smiles": canonical, "scaffold": raw.scaffold}
        return row | self._paid(raw)

    def _paid(self, raw: RawScores) -> dict[str, Any]:
        """Transform and join raw values: the columns of one row that hold numbers, and why 0."""
        scores, wrong = self._scores(raw.values)
        row: dict[str, Any] = {RAW_PREFIX + name: value for name, value in raw.values.items()}
        row |= {SCORE_PREFIX + name: score for name, score in scores.items()}
        earned, filters, penalties = (
            {term.name: scores[term.name] for term in self._terms if term.role == role}
            for role in ("scorer", "filter", "penalty")
        )
        reasons = [*map(str, raw.failures), *map(str, wrong)]
        reasons += [f"filter {n} failed" for n, x in filters.items() if x < PASSING]
        if reasons:
            return row | {"reason": "; ".join(reasons), "reward": 0.0}
        paid = AGGREGATES[self.config.aggregate]([*earned.values()], self._weights)
        return row | {"reward": paid * math.prod(penalties.values())}

    def _scores(self, raw: Mapping[str, float]) -> tuple[dict[str, float], list[Failed]]:
        """Transform raw values; what is no score becomes NaN and one more failure."""
        scores, wrong = {}, []
        for term in self._terms:
            value = raw[term.name]
            score = term.transform(value)
            scores[term.name] = score if 0 <= score <= 1 else math.nan
            if math.isnan(scores[term.name]) and not math.isnan(value):
                reason = f"score {score:g} is not between 0 and 1"
                if math.isnan(score):
                    reason = f"its transform has no score for the value {value:g}"
                wrong.append(Failed(term.name, reason))
        return scores, wrong


def _failures_in(text: str, names: Sequence[str]) -> tuple[Failed, ...]:
    """Which of some components failed and why, out of the text that a row has about it."""
    if not text:
        return ()
    at = "|".join(map(re.escape, names))
    lead, *rest = re.split(rf"(?:^|; )component ({at}) failed: ", text) if at else [text]
    failed = [Failed(None, lead)] if lead else []
    failed += [Failed(name, why) for name, why in zip(rest[::2], rest[1::2], strict=True)]
    # a reason may itself read like this: then it stays one text
    return tuple(failed) if "; ".join(map(str, failed)) == text else (Failed(None, text),)
