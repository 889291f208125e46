"""Parsing and writing of SMILES: canonical SMILES, and a reason for every string that fails."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor

from chemkl.config import InputError

DEFAULT_MAX_ATOMS = 500
"""Default limit on atoms. RDKit's time grows faster than linearly with the size of a molecule, and
one line of garbage must not stop a run."""
CHARACTERS_PER_ATOM = 10
"""A SMILES longer than this times ``max_atoms`` is not parsed. A bracket atom takes about ten."""
MOST_ATOMS = 5_000
"""The largest ``max_atoms`` a config may set. RDKit takes a second for a ring of this size, and its
recursion along a chain of this length still fits on a stack of 8 MB."""

_OUT_OF_RANGE = re.compile(r"\[(?:\d{5}|\d*#(?!(?:10\d|11[0-8])\D)\d{3}|[^\[\]]*[-+H]\d{3})")
"""Numbers in brackets that RDKit reads modulo 65,536 (isotopes) or 256 (charges, hydrogens): it
reads [C+256] as [C]. An element number above 118 makes it raise."""

ELEMENTS = frozenset(Chem.GetPeriodicTable().GetElementSymbol(n) for n in range(1, 119))
"""Symbols of all elements, H to Og."""

LARGEST_COUNT = 1_000_000
"""Limit on the atoms of one element in a formula; a larger number is a typing error."""

MOST_RINGS_ON_ONE = 16
"""Limit on the rings that share bonds with one large ring. Each can double the number of shortest
paths around it, and RDKit enumerates them all (16 rings: a second, 40: over half a minute)."""


class MoleculeError(ValueError):
    """RDKit cannot process a valid molecule; only this molecule fails."""


silenced = rdBase.BlockLogs
"""Silences RDKit's log inside a scope; scopes may be nested."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Silence RDKit's log and turn any exception in the scope into a `MoleculeError`.

    RDKit documents no set of exceptions: failed invariants are RuntimeErrors, sanitisation raises
    ValueErrors, its Python parts raise anything. An `InputError` passes through. Also usable as a
    decorator.
    """
    try:
        with silenced():
            yield
    except (InputError, MoleculeError):
        raise
    except Exception as error:
        raise MoleculeError(f"{name} failed: {one_line(error)}") from error


@dataclass(frozen=True, slots=True)
class Molecule:
    """The result of parsing a SMILES: a molecule, or the reason (`category: detail`) for none."""

    smiles: str
    canonical_smiles: str | None = None
    mol: Chem.Mol | None = None
    reason: str | None = None

    @property
    def valid(self) -> bool:
        """Whether the string is a valid molecule."""
        return self.reason is None


def read_molecule(smiles: str, *, max_atoms: int = DEFAULT_MAX_ATOMS) -> Molecule:
    """Parse one SMILES; never raises for a string, never logs.

    Valid means that RDKit parses and sanitises the string to at least one and at most
    ``max_atoms`` atoms, and can read its own canonical SMILES back, which is therefore valid too.
    Salts (several fragments), radicals, isotopes, stereochemistry and dummy atoms are kept. Text
    that RDKit would read as a name or an extension (anything after a blank) is an error here.

    Categories of ``reason``: ``empty``, ``not ASCII``, ``whitespace``, ``too long``,
    ``not parsable``, ``not sane`` (valence, aromaticity), ``too many atoms``, ``too many rings``
    (around one), ``not writable``, ``not readable again`` (the canonical SMILES).
    """
    with silenced():
        mol, reason = _parsed(smiles, max_atoms)
        if mol is None:
            return Molecule(smiles, reason=reason)
        try:
            canonical = Chem.MolToSmiles(mol)
        except Exception as error:  # noqa: BLE001 - RDKit's invariants, kekulisation, anything
            return Molecule(smiles, reason=f"not writable: {one_line(error)}")
        if canonical != smiles:
            again, reason = _parsed(canonical, max_atoms)
            if again is None:
                return Molecule(
                    smiles, reason=f"not readable again: RDKit writes {canonical}, {reason}"
                )
    return Molecule(smiles, canonical, mol)


def parse(smiles: str, *, max_atoms: int = MOST_ATOMS) -> Chem.Mol | None:
    """Parse a canonical SMILES from `read_molecule`, in less time; None if that fails.

    For strings of other origin use `read_molecule`, which also checks that the molecule can be
    written.
    """
    with silenced():
        return _parsed(smiles, max_atoms)[0]


def sketch(canonical_smiles: str) -> Chem.Mol | None:
    """Parse only what a Morgan fingerprint needs, in a quarter of the time of `parse`.

    Only for SMILES written by the installed RDKit: aromaticity is taken from the text, and nothing
    is kekulised. None if that fails.
    """
    with silenced():
        try:
            mol = Chem.MolFromSmiles(canonical_smiles, sanitize=False)
            if mol is not None:
                mol.UpdatePropertyCache(strict=True)
                Chem.FastFindRings(mol)
        except Exception:  # noqa: BLE001 - RDKit's valence errors, anything: the caller uses `parse`
            return None
    return mol


def canonicalise(smiles: str, *, max_atoms: int = DEFAULT_MAX_ATOMS) -> str | None:
    """Return the canonical isomeric SMILES, or None if the SMILES is invalid."""
    return read_molecule(smiles, max_atoms=max_atoms).canonical_smiles


def as_mol(molecule: Chem.Mol | str, what: str = "") -> Chem.Mol:
    """Parse a SMILES that must be valid; a molecule is returned unchanged.

    Raises:
        InputError: The SMILES is invalid; the message calls it `what`.
    """
    if not isinstance(molecule, str):
        return molecule
    parsed = read_molecule(molecule)
    if parsed.mol is None:
        raise InputError(f"{what} {molecule!r} is not a molecule: {parsed.reason}".lstrip())
    return parsed.mol


def one_line(error: BaseException) -> str:
    """Return an exception's message without RDKit's lines about its source code, or its type."""
    text = " ".join(str(error).split())
    return text.partition(" Violation occurred on line")[0] or type(error).__name__


def _parsed(smiles: str, max_atoms: int) -> tuple[Chem.Mol | None, str | None]:
    """Return the molecule, or None and the reason."""
    try:
        reason = _refused_unparsed(smiles, max_atoms) or _too_costly(smiles, max_atoms)
        if reason is not None:
            return None, reason
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            unsanitised = Chem.MolFromSmiles(smiles, sanitize=False)
            return None, insanity(unsanitised) or f"not parsable: {_syntax_problem(smiles)}"
    except Exception as error:  # noqa: BLE001 - RDKit's invariants, anything
        return None, f"not parsable: {one_line(error)}"
    n_atoms = mol.GetNumAtoms()
    if n_atoms > max_atoms:
        return None, f"too many atoms: {n_atoms}, at most {max_atoms}"
    return mol, None


def _too_costly(smiles: str, max_atoms: int) -> str | None:
    """Return why a string is too costly to sanitise (that may take minutes), or None."""
    many_rings = sum(map(smiles.count, "0123456789")) > 2 * MOST_RINGS_ON_ONE
    if len(smiles) <= max_atoms and not many_rings:
        return None
    graph = Chem.MolFromSmiles(smiles, sanitize=False)
    if graph is not None and graph.GetNumHeavyAtoms() > max_atoms:
        return f"too many atoms: {graph.GetNumHeavyAtoms()}, at most {max_atoms}"
    if graph is None or graph.GetNumBonds() - graph.GetNumAtoms() < MOST_RINGS_ON_ONE:
        return None
    rings = [set(ring) for ring in Chem.GetSSSR(graph)]
    for large in (ring for ring in rings if len(ring) > MOST_RINGS_ON_ONE):
        n_rings = sum(len(large & ring) > 1 for ring in rings) - 1
        if n_rings > MOST_RINGS_ON_ONE:
            return f"too many rings: {n_rings} on one large ring, at most {MOST_RINGS_ON_ONE}"
    return None


def _refused_unparsed(smiles: str, max_atoms: int) -> str | None:
    """Return why a string is refused before RDKit parses it, or None."""
    longest = CHARACTERS_PER_ATOM * max_atoms
    if not smiles:
        return "empty"
    if len(smiles) > longest:
        return f"too long: {len(smiles)} characters, at most {longest}"
    if not smiles.isascii() and (foreign := re.search(r"[^\x00-\x7f]", smiles)):
        return f"not ASCII: {foreign.group()!r} at position {foreign.start() + 1}"
    if blank := re.search(r"[\x00-\x20\x7f]", smiles):
        return f"whitespace: {blank.group()!r} at position {blank.start() + 1}"
    if misread := _OUT_OF_RANGE.search(smiles):
        return (
            f"not parsable: a number too large in the bracket at position {misread.start() + 1}; "
            "elements go to 118, isotopes have at most 4 digits, charges and hydrogens 2"
        )
    return None


SMILES_TOKEN = re.compile(
    r"(?P<bracket>\[[^\[\]]*\])|(?P<atom>Br|Cl|[BCNOPSFIbcnops*])"
    r"|(?P<ring>%\d\d|%\(\d+\)|\d)|(?P<open>\()|(?P<close>\))|(?P<bond>[-=#$:/\\~.]|->|<-)"
)


def insanity(unsanitised: Chem.Mol | None) -> str:
    """Return why RDKit refuses a molecule, which it only logs; empty for None."""
    if unsanitised is None:
        return ""
    problems = Chem.DetectChemistryProblems(unsanitised)
    message = problems[0].Message() if problems else "RDKit cannot sanitise it"
    return f"not sane: {' '.join(message.split())}"


def _syntax_problem(smiles: str) -> str:
    """Name the first error found by a scan from left to right; positions count from 1."""
    branches: list[int] = []
    rings: dict[int, int] = {}
    at = 0
    while token := SMILES_TOKEN.match(smiles, at):
        position = at + 1
        at = token.end()
        match token.lastgroup:
            case "bracket" if Chem.AtomFromSmiles(token.group()) is None:
                return f"unknown atom {token.group()} at position {position}"
            case "open":
                branches.append(position)
            case "close" if not branches:
                return f"')' without '(' at position {position}"
            case "close":
                branches.pop()
            case "ring":
                number = int(token.group().strip("%()"))
                if rings.pop(number, None) is None:
                    rings[number] = position
    if at < len(smiles):
        what = "unclosed bracket" if smiles[at] == "[" else f"unexpected {smiles[at]!r}"
        return f"{what} at position {at + 1}"
    unclosed = [f"unclosed branch at position {place}" for place in branches[-1:]]
    unclosed += [f"unclosed ring {n} opened at position {place}" for n, place in rings.items()]
    return unclosed[0] if unclosed else "syntax error"


# ---- formulas, other spellings, SD records


def element_counts(mol: Chem.Mol) -> Counter[str]:
    """Count the atoms of each element, hydrogens included; isotopes count as their element."""
    counts: Counter[str] = Counter()
    for atom in mol.GetAtoms():
        counts[atom.GetSymbol()] += 1
        counts["H"] += atom.GetTotalNumHs()  # without explicit hydrogen atoms
    return +counts


def parse_formula(formula: str) -> Counter[str]:
    """Parse a molecular formula such as C7H8N2O2; repeated elements are added up."""
    counts: Counter[str] = Counter()
    if not re.fullmatch(r"([A-Z][a-z]?\d*)+", formula, flags=re.ASCII):
        raise InputError(
            f"{formula!r} is not a molecular formula: write element symbols with numbers, for "
            "example C7H8N2O2; no charge, isotope, bracket or blank"
        )
    for symbol, number in re.findall(r"([A-Z][a-z]?)(\d*)", formula):
        if symbol not in ELEMENTS:
            raise InputError(f"{formula!r}: {symbol} is not the symbol of an element")
        n_atoms = int(number[:8] or 1)
        if not 1 <= n_atoms <= LARGEST_COUNT:
            raise InputError(f"{formula!r}: {symbol}{number} should be between 1 and a million")
        counts[symbol] += n_atoms
    return counts


@step("random spelling")
def randomise(molecule: Chem.Mol | str, generator: np.random.Generator) -> str:
    """Write a molecule as a random SMILES; stereochemistry is kept.

    The atoms are renumbered by one permutation from ``generator`` and written without
    canonicalisation (the restricted randomisation of Arus-Pous et al., J. Cheminform. 11, 71
    (2019)). RDKit's ``doRandom`` is not used because its random state is shared by the whole
    process.
    """
    mol = as_mol(molecule)
    order = generator.permutation(mol.GetNumAtoms()).tolist()
    return Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False)


@step("SD record")
def sdf_record(molecule: Chem.Mol | str, title: str, properties: Mapping[str, str]) -> str:
    """Write a molecule with 2D coordinates as V2000, or as V3000 where V2000 cannot hold it.

    Unspecified stereochemistry stays unspecified (a crossed double bond). Line breaks in the title
    and in properties become blanks, because a blank line would end a value.
    """
    mol = Chem.Mol(as_mol(molecule))
    rdDepictor.Compute2DCoords(mol)
    for name, value in {"_Name": title, **properties}.items():
        mol.SetProp(name, " ".join(value.split()))
    return Chem.SDWriter.GetText(mol)
