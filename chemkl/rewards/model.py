"""A reward: SMILES in, one row each out, every distinct molecule scored once."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from chemkl.config import InputError
from chemkl.config.document import Document
from chemkl.config.reward import RewardConfig
from chemkl.results.columns import RAW_PREFIX, SCORE_PREFIX
from chemkl.rewards.aggregate import AGGREGATES
from chemkl.rewards.asking import PASSING, Failed, RawScores, Term
from chemkl.rewards.checks import checked_reward
from chemkl.rewards.engine import Engine
from chemkl.rewards.failures import FailureCount, Failures
from chemkl.rewards.waiting import Showing

TEXT = pd.StringDtype(na_value=np.nan)
"""Text with NaN for missing: what pandas 3 calls str, also under pandas 2."""


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

    def __init__(self, config: RewardConfig, terms: list[Term], folder: Path | None = None) -> None:
        self.config = config
        self._engine = Engine(config, terms, folder)
        self._terms = terms
        self._scorers = [term for term in terms if term.role == "scorer"]
        self._filters = [term for term in terms if term.role == "filter"]
        self._penalties = [term for term in terms if term.role == "penalty"]
        self._weights = [term.weight for term in self._scorers]
        self._aggregate = AGGREGATES[config.aggregate]
        self._read: dict[str, tuple[str | None, str | None]] = {}
        self._known: dict[str, RawScores] = {}
        self._failures = Failures(self.component_names, config.most_failures)

    @classmethod
    def from_config(cls, source: RewardConfig | Mapping[str, Any] | str | Path | Document) -> Self:
        """Build the reward that a config describes: a mapping, a YAML file, or the config itself.

        Raises:
            InputError: one line for every problem, of the schema and of the components alike.
        """
        config, scores = checked_reward(source)
        parts = zip(config.components, scores, strict=True)
        return cls(config, [Term.of(part, score) for part, score in parts], config.folder)

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
        strings = _strings(smiles)
        self._read_new(strings)
        given = (self._read[each][0] for each in strings)
        self._learn(dict.fromkeys(each for each in given if each is not None))
        rows = [self._row(each) for each in strings]
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
            if smiles not in self._known:
                known = RawScores(by_name, scaffold, self._failures_in(reason, by_name))
                self._take_in(smiles, known)

    def score_molecule(self, canonical_smiles: str) -> RawScores:
        """Ask every component about one molecule; neither reads nor fills the memory."""
        return self._evaluate([canonical_smiles])[0]

    def _evaluate(self, smiles: list[str]) -> list[RawScores]:
        """Ask the components about molecules that are not known; one answer each, in order."""
        return self._engine.evaluate(smiles)

    def _learn(self, canonical_smiles: Iterable[str]) -> None:
        """Have the molecules evaluated that are not known yet, all of them at once."""
        unknown = [smiles for smiles in canonical_smiles if smiles not in self._known]
        if not unknown:
            return
        for smiles, raw in zip(unknown, self._evaluate(unknown), strict=True):
            self._take_in(smiles, raw)
        self._failures.check()

    def _take_in(self, canonical_smiles: str, raw: RawScores) -> None:
        """Remember what the components said of a molecule, and count their failures."""
        self._known[canonical_smiles] = raw
        failed = [*raw.failures, *self._scores(raw.values)[1]]
        silent = {name for name, value in raw.values.items() if math.isnan(value)}
        not_asked = silent - {each.component for each in failed}
        self._failures.add((name for name in raw.values if name not in not_asked), failed)

    def _read_new(self, strings: list[str]) -> None:
        """Read the strings that were not read before."""
        new = list(dict.fromkeys(each for each in strings if each not in self._read))
        for smiles, (canonical, reason) in zip(new, self._engine.read(new), strict=True):
            # of equal texts one is enough: most strings come again, and many are canonical
            self._read[smiles] = smiles if canonical == smiles else canonical, reason

    def _row(self, smiles: str) -> dict[str, Any]:
        canonical, reason = self._read[smiles]
        # a lone surrogate, which no file can hold, stands escaped in the frame
        shown = smiles.encode(errors="backslashreplace").decode()
        row = {"smiles": shown, "valid": canonical is not None, "reason": reason, "reward": 0.0}
        if canonical is None:
            return row
        raw = self._known[canonical]
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
    found = [Failed(None, lead)] if lead else []
    found += [Failed(name, why) for name, why in zip(rest[::2], rest[1::2], strict=True)]
    # a reason may itself read like this: then it stays one text
    return tuple(found) if "; ".join(map(str, found)) == text else (Failed(None, text),)


def _strings(smiles: Iterable[str]) -> list[str]:
    strings = list(smiles)
    for index, each in enumerate(strings):
        if not isinstance(each, str):
            raise InputError(f"SMILES {index} is not a string: {each!r}")
    return strings


def _no_score(term: Term, raw: float) -> str:
    """Say why a raw value has no score."""
    score = term.transform(raw)
    if math.isnan(score):
        return f"its transform has no score for the value {raw:g}"
    return f"score {score:g} is not between 0 and 1"
