"""A reward: SMILES in, one row each out, every distinct molecule scored once."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from rdkit.Chem import Mol

from chemkl.chem.molecules import one_line, parse, read_molecule, silenced
from chemkl.chem.scaffolds import murcko_scaffold
from chemkl.config import InputError
from chemkl.config.document import Document
from chemkl.config.reward import RewardConfig
from chemkl.results.columns import RAW_PREFIX, SCORE_PREFIX
from chemkl.rewards.aggregate import AGGREGATES
from chemkl.rewards.checks import checked_reward
from chemkl.rewards.registry import Score
from chemkl.rewards.transforms import build_transform

TEXT = pd.StringDtype(na_value=np.nan)
"""Text with NaN for missing: what pandas 3 calls str, also under pandas 2."""


class Term(NamedTuple):
    """One part of the reward, ready to use."""

    name: str
    weight: float
    score: Score
    transform: Callable[[float], float]


@dataclass(frozen=True, slots=True)
class RawScores:
    """What the components said of one molecule: the same for every spelling of it.

    Attributes:
        values: Raw value by component name; NaN where the component failed.
        scaffold: Bemis-Murcko scaffold; None where that failed.
        failures: What failed and why; empty when nothing did.
    """

    values: Mapping[str, float]
    scaffold: str | None
    failures: tuple[str, ...]


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
        self._terms = terms
        self._weights = [term.weight for term in terms]
        self._aggregate = AGGREGATES[config.aggregate]
        self._known: dict[str, RawScores] = {}

    @classmethod
    def from_config(cls, source: RewardConfig | Mapping[str, Any] | str | Path | Document) -> Self:
        """Build the reward that a config describes: a mapping, a YAML file, or the config itself.

        Raises:
            InputError: one line for every problem, of the schema and of the components alike.
        """
        config, scores = checked_reward(source)
        terms = [
            Term(part.name, part.weight, score, build_transform(part.transform))
            for part, score in zip(config.components, scores, strict=True)
        ]
        return cls(config, terms)

    @property
    def component_names(self) -> list[str]:
        """Names of the components, in the order of the config."""
        return [term.name for term in self._terms]

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
            reward 0. So has a molecule for which a component failed, for that component.

        Raises:
            InputError: something among them is not a string.
        """
        if isinstance(smiles, str):
            raise InputError(f"score takes a list of SMILES, not one string: [{smiles!r}]")
        with silenced():
            rows = [self._row(index, each) for index, each in enumerate(smiles)]
        return pd.DataFrame(
            {
                column: pd.Series([row.get(column) for row in rows], dtype=dtype)
                for column, dtype in self._dtypes.items()
            }
        )

    def remember(self, rows: pd.DataFrame) -> None:
        """Take over raw values that were computed before: rows that ``score`` gave, or a trace.

        A component that failed counts as asked: it is not asked again about this molecule.
        """
        names = self.component_names
        valid = rows[rows["valid"]]
        raw = valid[[RAW_PREFIX + name for name in names]].to_numpy(dtype=float)
        columns = (valid["canonical_smiles"], valid["scaffold"], valid["reason"], raw.tolist())
        for smiles, scaffold, reason, values in zip(*columns, strict=True):
            by_name = dict(zip(names, values, strict=True))
            scaffold = scaffold if isinstance(scaffold, str) else None
            known = RawScores(by_name, scaffold, self._failures(by_name, reason))
            self._known.setdefault(smiles, known)

    def score_molecule(self, canonical_smiles: str) -> RawScores:
        """Ask every component about one molecule; neither reads nor fills the memory."""
        mol = parse(canonical_smiles, max_atoms=self.config.max_atoms)
        if mol is None:  # RDKit wrote a SMILES that it cannot read
            nothing = dict.fromkeys(self.component_names, math.nan)
            return RawScores(nothing, None, ("canonical SMILES cannot be read back",))
        failures: list[str] = []
        values = {term.name: _raw(term, mol, failures) for term in self._terms}
        try:
            scaffold = murcko_scaffold(mol)
        except Exception as error:  # noqa: BLE001 - RDKit's own; it costs this molecule only
            scaffold = None
            failures.append(f"scaffold failed: {one_line(error)}")
        return RawScores(values, scaffold, tuple(failures))

    def _row(self, index: int, smiles: str) -> dict[str, Any]:
        if not isinstance(smiles, str):
            raise InputError(f"SMILES {index} is not a string: {smiles!r}")
        molecule = read_molecule(smiles, max_atoms=self.config.max_atoms)
        # a lone surrogate, which no file can hold, stands escaped in the frame
        shown = smiles.encode(errors="backslashreplace").decode()
        row = {"smiles": shown, "valid": molecule.valid, "reason": molecule.reason, "reward": 0.0}
        if molecule.canonical_smiles is None:
            return row
        raw = self._known.get(molecule.canonical_smiles)
        if raw is None:
            raw = self.score_molecule(molecule.canonical_smiles)
            self._known[molecule.canonical_smiles] = raw
        row |= {"canonical_smiles": molecule.canonical_smiles, "scaffold": raw.scaffold}
        return row | self._paid(raw)

    def _paid(self, raw: RawScores) -> dict[str, Any]:
        """Transform and join raw values: the columns of one row that hold numbers, and why 0."""
        scores = {term.name: term.transform(raw.values[term.name]) for term in self._terms}
        failures = list(raw.failures)
        for name, score in scores.items():
            if score < 0 or score > 1:
                failures.append(f"component {name}: score {score:g} is not between 0 and 1")
                scores[name] = math.nan
        row: dict[str, Any] = {RAW_PREFIX + name: value for name, value in raw.values.items()}
        row |= {SCORE_PREFIX + name: score for name, score in scores.items()}
        if failures:
            return row | {"reason": "; ".join(failures), "reward": 0.0}
        return row | {"reward": self._aggregate(list(scores.values()), self._weights)}

    def _failures(self, raw: Mapping[str, float], reason: object) -> tuple[str, ...]:
        """Take out of a row's reason what `_paid` would add to it once more."""
        if not isinstance(reason, str):
            return ()
        added = self._paid(RawScores(raw, None, ())).get("reason", "")
        failures = reason.removesuffix(added).removesuffix("; ")
        return (failures,) if failures else ()


def _raw(term: Term, mol: Mol, failures: list[str]) -> float:
    """Ask one component; a failure becomes NaN and one more line of reasons."""
    try:
        value = float(term.score(mol))
    except Exception as error:  # noqa: BLE001 - any failure of a component costs this molecule only
        failures.append(f"component {term.name} failed: {one_line(error)}")
        return math.nan
    if not math.isfinite(value):
        failures.append(f"component {term.name} failed: it returned {value}")
        return math.nan
    return value
