"""Components score molecules: the cheap ones first, the costly ones only where it can matter."""

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
"""What a component gives for a molecule: a finite number, or why there is none."""

Cached = Mapping[str, float | str]
"""What a cache has of a molecule: raw values by component, and its scaffold."""

SCAFFOLD = "(scaffold)"  # the scaffold's place among cached values; no component can be called so

PASSING = 0.5  # the lowest score with which a molecule passes a filter


class Term(NamedTuple):
    """One part of the reward, ready to use."""

    name: str
    weight: float
    score: Callable[[Any], Any]  # a BatchScore where batched, else a Score
    transform: Callable[[float], float]
    role: Role = "scorer"
    batched: bool = False
    costly: bool = False


class Failed(NamedTuple):
    """What went wrong with a molecule; `component` is None where it was none of them."""

    component: str | None
    reason: str
    transient: bool = False

    def __str__(self) -> str:
        """The whole of it, as it stands in a row of the trace."""
        who = f"component {self.component} failed: " if self.component else ""
        return who + self.reason


@dataclass(frozen=True, slots=True)
class RawScores:
    """What the components give for one molecule, the same for every spelling of it.

    Attributes:
        values: Raw value by component name; NaN where the component failed or, being costly, was
            not asked.
        scaffold: Bemis-Murcko scaffold; None where that failed.
        failures: What failed and why.
    """

    values: Mapping[str, float]
    scaffold: str | None
    failures: tuple[Failed, ...]


@dataclass
class _Case:
    """One molecule while it is scored."""

    smiles: str
    max_atoms: int
    cached: Cached
    passes: bool = True
    answers: dict[str, Answer] = field(default_factory=dict)

    @cached_property
    def mol(self) -> Mol | None:
        """The molecule, read only if something must be computed."""
        return parse(self.smiles, max_atoms=self.max_atoms)

    def lacks(self, term: Term) -> bool:
        """Take over a component's cached value; whether it must be computed."""
        if term.costly and not self.passes:
            return False
        value = self.cached.get(term.name)
        if value is not None:
            self.take(term, float(value))
        return value is None

    def take(self, term: Term, answer: Answer) -> None:
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
        elif self.mol is None:  # RDKit wrote a SMILES that it cannot read
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
    """Score molecules, given as canonical SMILES, by every component: one answer each, in order.

    The components that are not costly come first, then the costly filters, then the other costly
    ones. A costly component is asked only about molecules that passed every filter before it.
    Larger molecules than `max_atoms` are not read, what is `cached` is not computed, and `mark` is
    called with a component's name before it is asked.
    """
    with silenced():
        cases = [_Case(text, max_atoms, cached.get(text, {})) for text in smiles]
        for term in _in_order(terms):
            lacking = [case for case in cases if case.lacks(term) and case.mol is not None]
            mark(term.name)
            answers = values_of(term, [case.mol for case in lacking if case.mol is not None])
            for case, answer in zip(lacking, answers, strict=True):
                case.take(term, answer)
        names = [term.name for term in terms]
        return [case.result(names) for case in cases]


def is_settled(terms: Sequence[Term], cached: Cached) -> bool:
    """Whether cached values leave nothing to compute."""
    case = _Case("", 0, cached)
    return SCAFFOLD in cached and not any(case.lacks(term) for term in _in_order(terms))


def _in_order(terms: Sequence[Term]) -> list[Term]:
    return sorted(terms, key=lambda term: (term.costly, term.costly and term.role != "filter"))


def values_of(term: Term, mols: Sequence[Mol]) -> list[Answer]:
    """Ask one component about molecules: one answer each, whatever the component does.

    Where a batched one cannot be understood, one molecule spoils the answers of all: asked one by
    one, only the guilty fail.
    """
    if mols and (term.batched or len(mols) == 1):
        answers = _answers(term, mols)
        if not isinstance(answers, Failure):
            return answers
        if answers.transient or len(mols) == 1:
            return [answers] * len(mols)
    return [answer for mol in mols for answer in values_of(term, [mol])]


def _answers(term: Term, mols: Sequence[Mol]) -> list[Answer] | Failure:
    """Ask a component once; a Failure where the answers cannot be told apart."""
    try:
        returned = term.score(list(mols)) if term.batched else [term.score(mols[0])]
        if isinstance(returned, str | bytes | Mapping | AbstractSet):  # not one value a molecule
            return Failure(f"it returned {_shown(returned)}, not a list of numbers")
        values = list(returned)
    except Exception as error:  # noqa: BLE001 - any failure of a component costs its molecules only
        return Failure(one_line(error), isinstance(error, TransientError))
    if len(values) != len(mols):
        return Failure(f"it returned {len(values)} values for {len(mols)} molecules")
    return [as_number(value) for value in values]


def as_number(value: Any) -> Answer:
    """Take a value as a finite number; text is none, even where it reads like one."""
    if isinstance(value, Failure):
        return value
    try:
        number = None if isinstance(value, str | bytes) else float(value)
    except Exception:  # noqa: BLE001 - a value of the user's own type may raise anything
        number = None
    if number is None:
        return Failure(f"it returned {_shown(value)}, not a number")
    return number if math.isfinite(number) else Failure(f"it returned {number}")


def _shown(value: object) -> str:
    try:
        return shortened(" ".join(repr(value).split()))
    except Exception:  # noqa: BLE001 - it may raise here too
        return f"a {type(value).__name__}"


# ---- several scores to one reward


def arithmetic_mean(scores: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted arithmetic mean, sum w_i s_i / sum w_i."""
    paid = math.fsum(score * weight for score, weight in zip(scores, weights, strict=True))
    return paid / math.fsum(weights)


def geometric_mean(scores: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted geometric mean, (prod s_i^w_i)^(1 / sum w_i): 0 as soon as one score is 0."""
    total = math.fsum(weights)
    return product(scores, [weight / total for weight in weights])


def minimum(scores: Sequence[float], weights: Sequence[float]) -> float:
    """The smallest score; NaN if one is NaN. Weights, one for each score, change nothing."""
    same = [score for score, _ in zip(scores, weights, strict=True)]
    return math.nan if any(map(math.isnan, same)) else min(same)


def product(scores: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted product, prod s_i^w_i; with weights of 1 the plain product."""
    joined: float = math.prod(score**weight for score, weight in zip(scores, weights, strict=True))
    return joined


AGGREGATES = {join.__name__: join for join in (arithmetic_mean, geometric_mean, minimum, product)}
"""The ways to join scores, by their name in configs."""
