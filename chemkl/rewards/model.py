"""A reward: SMILES in, one row each out, every distinct molecule scored once."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from chemkl.config import InputError
from chemkl.config.document import Document
from chemkl.config.reward import RewardConfig
from chemkl.results.columns import RAW_PREFIX, SCORE_PREFIX
from chemkl.rewards.engine import Engine, Showing, build_terms
from chemkl.rewards.scoring import AGGREGATES, PASSING, Failed, RawScores, Term

TEXT = pd.StringDtype(na_value=np.nan)
"""Text with NaN for missing: what pandas 3 calls str, also under pandas 2."""


LEAST_ASKED = 100
"""No component is judged by fewer molecules, but one that fails on all of them."""
LEAST_OF_ALL = 20
"""A component that fails on every molecule is judged from so many on."""
MOST_REASONS = 1000
"""As many different reasons are told apart: one that names the molecule is new every time."""


@dataclass
class FailureCount:
    """How often one component was asked, how often it failed, and how often for which reason."""

    asked: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str | None) -> None:
        """Count one molecule; no reason: it got a score."""
        self.asked += 1
        if reason is not None:
            self.failed += 1
            if reason in self.reasons or len(self.reasons) < MOST_REASONS:
                self.reasons[reason] += 1


def describe_failures(
    counts: Mapping[str, FailureCount], asked_about: str = "molecules", asked: str = "component"
) -> list[str]:
    """Say of each component that failed how often it did, and what it said most often.

    Args:
        counts: by component.
        asked_about: what they were asked about, in the plural.
        asked: what they are.
    """
    return [
        f"{asked} {name} failed on {count.failed:,} of {count.asked:,} {asked_about}, most "
        f"often: {count.reasons.most_common(1)[0][0]}"
        for name, count in counts.items()
        if count.failed
    ]


class Failures:
    """Counts failures, and ends the run when a component fails too often.

    Args:
        names: The components.
        most: The share of failures that is still borne.
        asked_about: What they are asked about, in the plural.
        asked: What they are.
    """

    def __init__(
        self,
        names: Sequence[str],
        most: float,
        asked_about: str = "molecules",
        asked: str = "component",
    ) -> None:
        self.counts = {name: FailureCount() for name in names}
        self._most = most
        self._asked_about = asked_about
        self._asked = asked

    def add(self, asked: Iterable[str], failed: Sequence[Failed]) -> None:
        """Count one molecule: the components asked about it, and what went wrong."""
        reasons = {failure.component: failure.reason for failure in failed}
        for name in asked:
            self.counts[name].add(reasons.get(name))

    def check(self) -> None:
        """End the run if a component fails too often.

        Raises:
            InputError: with a line for each such component.
        """
        lines: list[str] = []
        for name, count in self.counts.items():
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
        if lines:
            raise InputError("\n".join(lines))


class RewardModel:
    """Scores molecules; built by `from_config`.

    Raw values are kept by canonical SMILES for the life of the object, so a molecule is scored
    once however often and in whatever spelling it comes back. Nothing that depends on the run
    (a penalty, a filter) ever enters here. The components see the molecule as its canonical SMILES
    gives it, so equal molecules have bit-equal rewards in every order and every run.
    """

    FAILED = 0.0
    """The reward of an invalid molecule, or of one that could not be scored; the lowest."""
    MOST = 1.0
    """The highest reward that there can be."""

    def __init__(self, config: RewardConfig, terms: list[Term]) -> None:
        self.config = config
        self._engine = Engine(config, terms)
        self._terms = terms
        self._scorers = [term for term in terms if term.role == "scorer"]
        self._filters = [term for term in terms if term.role == "filter"]
        self._penalties = [term for term in terms if term.role == "penalty"]
        self._weights = [term.weight for term in self._scorers]
        self._aggregate = AGGREGATES[config.aggregate]
        self._read: dict[str, tuple[str | None, str | None]] = {}
        self._raw: dict[str, RawScores] = {}
        self._failures = Failures(self.component_names, config.most_failures)

    @classmethod
    def from_config(cls, source: RewardConfig | Mapping[str, Any] | str | Path | Document) -> Self:
        """Build the reward that a config describes: a mapping, a YAML file, or the config itself.

        Raises:
            InputError: one line for every problem, of the schema and of the components alike.
        """
        return cls(*build_terms(source))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes and leave the cache; nothing can be scored any more."""
        self._engine.close()

    def show_progress(self, showing: Showing) -> None:
        """Show the progress of slow components in another way than by a bar of their own."""
        self._engine.showing = showing

    @property
    def component_names(self) -> list[str]:
        """Names of the components, in the order of the config."""
        return [term.name for term in self._terms]

    @property
    def failures(self) -> Mapping[str, FailureCount]:
        """By component: how many molecules it was asked about, how many it failed on, and why."""
        return self._failures.counts

    @property
    def columns(self) -> list[str]:
        """Columns of the frame that `score` gives, in order."""
        return list(self._dtypes)

    @property
    def _dtypes(self) -> dict[str, Any]:
        dtypes = {
            "smiles": TEXT,
            "canonical_smiles": TEXT,
            "valid": bool,
            "reason": TEXT,
            "scaffold": TEXT,
        }
        for name in self.component_names:
            dtypes |= {RAW_PREFIX + name: float, SCORE_PREFIX + name: float}
        return {**dtypes, "reward": float}

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
        for text, (canonical, reason) in zip(new, self._engine.read(new), strict=True):
            # of equal texts one is enough: most strings come again, and many are canonical
            self._read[text] = text if canonical == text else canonical, reason
        molecules = dict.fromkeys(self._read[text][0] for text in strings)
        unknown = [smi for smi in molecules if smi is not None and smi not in self._raw]
        if unknown:
            for canonical, raw in zip(unknown, self._engine.evaluate(unknown), strict=True):
                self._add(canonical, raw)
            self._failures.check()
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
            if not isinstance(reason, str) and any(map(math.isnan, values)):
                continue
            scaffold = scaffold if isinstance(scaffold, str) else None
            if smiles not in self._raw:
                self._add(smiles, RawScores(by_name, scaffold, self._failures_in(reason, by_name)))

    def _add(self, canonical_smiles: str, raw: RawScores) -> None:
        """Remember what the components gave for a molecule, and count their failures."""
        self._raw[canonical_smiles] = raw
        failed = [*raw.failures, *self._scores(raw.values)[1]]
        components = {failure.component for failure in failed}
        # a value that is missing without a failure is one that nobody asked for
        asked = (n for n, x in raw.values.items() if n in components or not math.isnan(x))
        self._failures.add(asked, failed)

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
        reasons = [*map(str, raw.failures), *map(str, wrong)]
        reasons += [
            f"filter {term.name} failed" for term in self._filters if scores[term.name] < PASSING
        ]
        if reasons:
            return row | {"reason": "; ".join(reasons), "reward": 0.0}
        paid = self._aggregate([scores[term.name] for term in self._scorers], self._weights)
        return row | {"reward": paid * math.prod(scores[term.name] for term in self._penalties)}

    def _scores(self, raw: Mapping[str, float]) -> tuple[dict[str, float], list[Failed]]:
        """Transform raw values; what is no score becomes NaN and one more failure."""
        scores = {term.name: term.to_score(raw[term.name]) for term in self._terms}
        wrong = [
            Failed(term.name, _no_score(term, raw[term.name]))
            for term in self._terms
            if math.isnan(scores[term.name]) and not math.isnan(raw[term.name])
        ]
        return scores, wrong

    def _failures_in(self, reason: object, raw: Mapping[str, float]) -> tuple[Failed, ...]:
        """Take out of a row's reason what `_paid` would add to it once more."""
        if not isinstance(reason, str):
            return ()
        added = self._paid(RawScores(raw, None, ())).get("reason", "")
        failures = reason.removesuffix(added).removesuffix("; ")
        return _told_apart(failures, [name for name in raw if math.isnan(raw[name])])


def _told_apart(text: str, names: Sequence[str]) -> tuple[Failed, ...]:
    """Which of some components failed and why, out of the text that a row has about it."""
    if not text:
        return ()
    at = "|".join(map(re.escape, names))
    lead, *rest = re.split(rf"(?:^|; )component ({at}) failed: ", text) if at else [text]
    failed = [Failed(None, lead)] if lead else []
    failed += [Failed(name, why) for name, why in zip(rest[::2], rest[1::2], strict=True)]
    # a reason may itself read like this: then it stays one text
    return tuple(failed) if "; ".join(map(str, failed)) == text else (Failed(None, text),)


def _no_score(term: Term, raw: float) -> str:
    """Say why a raw value has no score."""
    score = term.transform(raw)
    if math.isnan(score):
        return f"its transform has no score for the value {raw:g}"
    return f"score {score:g} is not between 0 and 1"
