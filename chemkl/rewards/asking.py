"""Components are asked about molecules: the cheap first, the costly only where it can matter."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Self

from rdkit.Chem import Mol

from chemkl.chem.molecules import MoleculeError, one_line, parse, silenced
from chemkl.chem.scaffolds import murcko_scaffold
from chemkl.config.reward import ComponentConfig, Role
from chemkl.rewards.registry import BatchScore, Failure, Score, find_component
from chemkl.rewards.transforms import build_transform

Answer = float | Failure
"""What a component says of a molecule: a finite number, or why there is none."""

Known = Mapping[str, float | str]
"""What is known of a molecule before anything is asked: raw values, and its scaffold."""

SCAFFOLD = "(scaffold)"
"""The scaffold's place among what is known; no component can be called so."""

PASSING = 0.5
"""The lowest score with which a molecule passes a filter."""

LONGEST_VALUE = 60
"""A wrong value is shown in a reason up to this many characters."""


class Term(NamedTuple):
    """One part of the reward, ready to use."""

    name: str
    weight: float
    score: Callable[[Any], Any]  # a BatchScore where batched, else a Score
    transform: Callable[[float], float]
    role: Role = "scorer"
    batched: bool = False
    costly: bool = False

    @classmethod
    def of(cls, part: ComponentConfig, score: Score | BatchScore) -> Self:
        """Join a component's settings and its score function."""
        kind, transform = find_component(part.kind), build_transform(part.transform)
        return cls(part.name, part.weight, score, transform, part.role, kind.batched, kind.costly)

    def to_score(self, raw: float) -> float:
        """Transform a raw value; NaN where the outcome is no score between 0 and 1."""
        score = self.transform(raw)
        return score if 0 <= score <= 1 else math.nan

    def lets_pass(self, raw: float) -> bool:
        """Whether a molecule with this raw value goes on to the costly components."""
        return self.role != "filter" or self.to_score(raw) >= PASSING


class Failed(NamedTuple):
    """What went wrong with a molecule.

    Attributes:
        component: Name of the component at fault; None where it was none of them.
        reason: Why, in words.
    """

    component: str | None
    reason: str

    def __str__(self) -> str:
        """The whole of it, as it stands in a row of the trace."""
        return (
            f"component {self.component} failed: {self.reason}" if self.component else self.reason
        )


@dataclass(frozen=True, slots=True)
class RawScores:
    """What the components said of one molecule: the same for every spelling of it.

    Attributes:
        values: Raw value by component name; NaN where the component failed or, being costly, was
            not asked.
        scaffold: Bemis-Murcko scaffold; None where that failed.
        failures: What failed and why; empty when nothing did.
    """

    values: Mapping[str, float]
    scaffold: str | None
    failures: tuple[Failed, ...]


_NOTHING: Mapping[str, Any] = {}


@dataclass
class _Case:
    """One molecule while it is being asked about."""

    smiles: str
    max_atoms: int
    known: Known
    passes: bool = True
    answers: dict[str, Answer] = field(default_factory=dict)

    @cached_property
    def mol(self) -> Mol | None:
        """The molecule, read only if there is something to ask."""
        return parse(self.smiles, max_atoms=self.max_atoms)

    def lacks(self, term: Term) -> bool:
        """Take over what is known of a component; whether it must be asked."""
        if term.costly and not self.passes:
            return False
        known = self.known.get(term.name)
        if known is None:
            return True
        self.take(term, float(known))
        return False

    def take(self, term: Term, answer: Answer) -> None:
        self.answers[term.name] = answer
        raw = math.nan if isinstance(answer, Failure) else answer
        self.passes = self.passes and term.lets_pass(raw)

    def result(self, names: Iterable[str]) -> RawScores:
        values: dict[str, float] = {}
        failures: list[Failed] = []
        for name in names:
            answer = self.answers.get(name, math.nan)
            if isinstance(answer, Failure):
                failures.append(Failed(name, " ".join(answer.reason.split())))
                answer = math.nan
            values[name] = answer
        known = self.known.get(SCAFFOLD)
        scaffold, problem = _scaffold(self.mol) if known is None else (str(known), None)
        failures += [problem] if problem else []
        return RawScores(values, scaffold, tuple(failures))


def evaluate(
    terms: Sequence[Term],
    smiles: Iterable[str],
    *,
    max_atoms: int,
    known: Mapping[str, Known] = _NOTHING,
    mark: Callable[[str], None] = lambda _name: None,
) -> list[RawScores]:
    """Ask every component about molecules, given as canonical SMILES; nothing is remembered.

    The components that are not costly come first, then the costly filters, then the other costly
    ones. A costly component is asked only about molecules that passed every filter before it.

    Args:
        terms: the components.
        smiles: the molecules.
        max_atoms: larger ones are not read.
        known: by SMILES, what need not be asked.
        mark: called with a component's name before it is asked.

    Returns:
        One for each molecule, in order.
    """
    with silenced():
        cases = [_Case(each, max_atoms, known.get(each, _NOTHING)) for each in smiles]
        for term in _in_order(terms):
            asked = [case for case in cases if case.lacks(term) and case.mol is not None]
            mols = [case.mol for case in asked if case.mol is not None]
            mark(term.name)
            for case, answer in zip(asked, ask(term, mols), strict=True):
                case.take(term, answer)
        names = [term.name for term in terms]
        return [case.result(names) for case in cases]


def is_settled(terms: Sequence[Term], known: Known) -> bool:
    """Whether what is known of a molecule leaves nothing to ask."""
    case = _Case("", 0, known)
    return SCAFFOLD in known and not any(case.lacks(term) for term in _in_order(terms))


def _in_order(terms: Sequence[Term]) -> list[Term]:
    """Components in the order in which they are asked."""
    return sorted(terms, key=lambda term: (term.costly, term.costly and term.role != "filter"))


def ask(term: Term, mols: Sequence[Mol]) -> list[Answer]:
    """Ask one component about molecules: one answer each, whatever the component does."""
    if not term.batched:
        return [_answer(term.score, mol) for mol in mols]
    together = _together(term.score, mols) if mols else []
    if not isinstance(together, Failure):
        return together
    if len(mols) == 1:
        return [together]
    # one molecule spoils the answers of all: asked one by one, only the guilty fail
    return [answer for mol in mols for answer in ask(term, [mol])]


def _answer(score: Callable[[Mol], Any], mol: Mol) -> Answer:
    try:
        return as_number(score(mol))
    except Exception as error:  # noqa: BLE001 - any failure of a component costs this molecule only
        return Failure(one_line(error))


def _together(score: Callable[[list[Mol]], Any], mols: Sequence[Mol]) -> list[Answer] | Failure:
    """Ask a batched component once; a Failure where the answers cannot be told apart."""
    try:
        given = score(list(mols))
        if isinstance(given, str | bytes | Mapping | AbstractSet):  # none has one value a molecule
            return Failure(f"it returned {_shown(given)}, not a list of numbers")
        values = list(given)
    except Exception as error:  # noqa: BLE001 - any failure of a component costs its molecules only
        return Failure(one_line(error))
    if len(values) != len(mols):
        return Failure(f"it returned {len(values)} values for {len(mols)} molecules")
    return [as_number(value) for value in values]


def as_number(value: Any) -> Answer:
    """Take a value as a finite number; text is none, even where it reads like one."""
    if isinstance(value, Failure):
        return value
    if isinstance(value, str | bytes):
        return Failure(f"it returned {_shown(value)}, not a number")
    try:
        number = float(value)
    except Exception:  # noqa: BLE001 - a value of the user's own type may raise anything
        return Failure(f"it returned {_shown(value)}, not a number")
    return number if math.isfinite(number) else Failure(f"it returned {number}")


def _shown(value: object) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - it may raise here too
        text = f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _scaffold(mol: Mol | None) -> tuple[str | None, Failed | None]:
    if mol is None:  # RDKit wrote a SMILES that it cannot read
        return None, Failed(None, "canonical SMILES cannot be read back")
    try:
        return murcko_scaffold(mol), None
    except MoleculeError as error:
        return None, Failed(None, str(error))
