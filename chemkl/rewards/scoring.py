"""Scoring of molecules by components, the costly ones last, and aggregation of several scores."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from rdkit.Chem import Mol

from chemkl.chem.molecules import MoleculeError, one_line, parse, silenced
from chemkl.chem.scaffolds import murcko_scaffold
from chemkl.config.base import shortened
from chemkl.config.reward import Role
from chemkl.rewards.registry import Failure, TransientError

Answer = float | Failure
"""A component's result for a molecule: a finite number or a failure."""

Cached = Mapping[str, float | str]
"""Cached results of a molecule: raw values by component, and its scaffold."""

SCAFFOLD = "(scaffold)"  # the scaffold's key among cached values, not a valid component name

PASSING = 0.5  # least score to pass a filter


class Term(NamedTuple):
    """A component of the reward with its score function and transform."""

    name: str
    weight: float
    score: Callable[[Any], Any]  # a BatchScore where batched, else a Score
    transform: Callable[[float], float]
    role: Role = "scorer"
    batched: bool = False
    costly: bool = False


class Failed(NamedTuple):
    """A failure for a molecule; `component` is None if no component caused it."""

    component: str | None
    reason: str
    transient: bool = False

    def __str__(self) -> str:
        """Format the failure as in the trace's column `reason`."""
        prefix = f"component {self.component} failed: " if self.component else ""
        return prefix + self.reason


@dataclass(frozen=True, slots=True)
class RawScores:
    """The components' results for one molecule, the same for every spelling of it.

    Attributes:
        values: Raw value by component name; NaN if the component failed or, being costly, was
            skipped.
        scaffold: Bemis-Murcko scaffold; None if it could not be computed.
        failures: Failures with reasons.
    """

    values: Mapping[str, float]
    scaffold: str | None
    failures: tuple[Failed, ...]


@dataclass
class _Case:
    """A molecule that is being scored."""

    smiles: str
    max_atoms: int
    cached: Cached
    passes: bool = True
    answers: dict[str, Answer] = field(default_factory=dict)

    @cached_property
    def mol(self) -> Mol | None:
        """The molecule, parsed only if something must be computed."""
        return parse(self.smiles, max_atoms=self.max_atoms)

    def needs(self, term: Term) -> bool:
        """Use a component's cached value if there is one; return whether it must be computed."""
        if term.costly and not self.passes:
            return False
        value = self.cached.get(term.name)
        if value is not None:
            self.record(term, float(value))
        return value is None

    def record(self, term: Term, answer: Answer) -> None:
        self.answers[term.name] = answer
        if term.role == "filter":
            raw = math.nan if isinstance(answer, Failure) else answer
            self.passes = self.passes and PASSING <= term.transform(raw) <= 1

    def result(self, names: Iterable[str]) -> RawScores:
        values: dict[str, float] = {}
        failures: list[Failed] = []
        for name in names:
            answer = self.answers.get(name, math.nan)
            if isinstance(answer, Failure):
                reason = " ".join(answer.reason.split())
                failures.append(Failed(name, reason, answer.transient))
                answer = math.nan
            values[name] = answer
        scaffold: str | None = None
        if SCAFFOLD in self.cached:
            scaffold = str(self.cached[SCAFFOLD])
        elif self.mol is None:  # RDKit cannot read its own SMILES
            failures.append(Failed(None, "canonical SMILES cannot be read back"))
        else:
            try:
                scaffold = murcko_scaffold(self.mol)
            except MoleculeError as error:
                failures.append(Failed(None, str(error)))
        return RawScores(values, scaffold, tuple(failures))


def evaluate(
    terms: Sequence[Term],
    smiles: Iterable[str],
    *,
    max_atoms: int,
    cached: Mapping[str, Cached],
    mark: Callable[[str], None] = lambda _name: None,
) -> list[RawScores]:
    """Score molecules by every component; return one result for each, in order.

    Components that are not costly come first, then the costly filters, then the other costly ones.
    A costly component scores only molecules that passed every filter before it.

    Args:
        terms: The components.
        smiles: Canonical SMILES.
        max_atoms: Larger molecules are not parsed.
        cached: Cached results by SMILES, which are not computed again.
        mark: Called with a component's name before it scores.
    """
    with silenced():
        cases = [_Case(text, max_atoms, cached.get(text, {})) for text in smiles]
        for term in _in_order(terms):
            pending = [case for case in cases if case.needs(term) and case.mol is not None]
            mark(term.name)
            answers = values_of(term, [case.mol for case in pending if case.mol is not None])
            for case, answer in zip(pending, answers, strict=True):
                case.record(term, answer)
        names = [term.name for term in terms]
        return [case.result(names) for case in cases]


def is_complete(terms: Sequence[Term], cached: Cached) -> bool:
    """Return whether the cached results leave nothing to compute."""
    case = _Case("", 0, cached)
    return SCAFFOLD in cached and not any(case.needs(term) for term in _in_order(terms))


def _in_order(terms: Sequence[Term]) -> list[Term]:
    return sorted(terms, key=lambda term: (term.costly, term.costly and term.role != "filter"))


def values_of(term: Term, mols: Sequence[Mol]) -> list[Answer]:
    """Score molecules by one component; return one answer each, whatever the component does.

    If a batched component fails or returns something unusable, its molecules are scored one by one,
    so that only those that cause the failure fail.
    """
    if mols and (term.batched or len(mols) == 1):
        answers = _answers(term, mols)
        if not isinstance(answers, Failure):
            return answers
        if answers.transient or len(mols) == 1:
            return [answers] * len(mols)
    return [answer for mol in mols for answer in values_of(term, [mol])]


def _answers(term: Term, mols: Sequence[Mol]) -> list[Answer] | Failure:
    """Call a component once; return a Failure if there is not one value per molecule."""
    try:
        returned = term.score(list(mols)) if term.batched else [term.score(mols[0])]
        if isinstance(returned, str | bytes | Mapping | AbstractSet):
            return Failure(f"it returned {_shown(returned)}, not a list of numbers")
        values = list(returned)
    except Exception as error:  # noqa: BLE001 - a component may raise anything; its molecules fail
        return Failure(one_line(error), isinstance(error, TransientError))
    if len(values) != len(mols):
        return Failure(f"it returned {len(values)} values for {len(mols)} molecules")
    return [as_number(value) for value in values]


def as_number(value: Any) -> Answer:
    """Convert a component's value to a finite number or a Failure; text is never a number."""
    if isinstance(value, Failure):
        return value
    try:
        number = None if isinstance(value, str | bytes) else float(value)
    except Exception:  # noqa: BLE001 - a value of a user's type may raise anything
        number = None
    if number is None:
        return Failure(f"it returned {_shown(value)}, not a number")
    return number if math.isfinite(number) else Failure(f"it returned {number}")


def _shown(value: object) -> str:
    try:
        return shortened(" ".join(repr(value).split()))
    except Exception:  # noqa: BLE001 - a user's type may raise here too
        return f"a {type(value).__name__}"


# ---- aggregation


def arithmetic_mean(scores: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted arithmetic mean, sum w_i s_i / sum w_i."""
    total = math.fsum(score * weight for score, weight in zip(scores, weights, strict=True))
    return total / math.fsum(weights)


def geometric_mean(scores: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted geometric mean, (prod s_i^w_i)^(1 / sum w_i): 0 as soon as one score is 0."""
    total = math.fsum(weights)
    return product(scores, [weight / total for weight in weights])


def minimum(scores: Sequence[float], weights: Sequence[float]) -> float:
    """The smallest score; NaN if any is NaN. The weights have no effect."""
    unweighted = [score for score, _ in zip(scores, weights, strict=True)]
    return math.nan if any(map(math.isnan, unweighted)) else min(unweighted)


def product(scores: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted product, prod s_i^w_i; the plain product if all weights are 1."""
    result: float = math.prod(score**weight for score, weight in zip(scores, weights, strict=True))
    return result


AGGREGATES = {
    function.__name__: function for function in (arithmetic_mean, geometric_mean, minimum, product)
}
"""The aggregates by their names in configs."""
