"""Standardisation filters, reinvent-chemistry's and two of RDKit's, checked when named."""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions
from rdkit.Chem.MolStandardize import rdMolStandardize
from reinvent_chemistry.enums import FilterTypesEnum
from reinvent_chemistry.standardization.filter_registry import FilterRegistry

from chemkl.chem.molecules import MoleculeError, parse, read_molecule, step
from chemkl.config import InputError, did_you_mean

PARAMETER_TYPES: dict[str, Any] = {
    "min_heavy_atoms": int,
    "max_heavy_atoms": int,
    "element_list": list[int],
    "remove_long_side_chains": bool,
    "neutralise_charges": bool,
    "vocabulary": list[str],
    "seed": Annotated[int, Field(ge=0, lt=2**63)],
    "share": Annotated[float, Field(ge=0, le=1)],
}
"""Types of the filters' parameters, which reinvent-chemistry does not declare. Its parameter
``reactions`` (pairs of molecules) cannot be written in a config and is not offered."""

FILTER_NAMES = tuple(sorted(v for k, v in vars(FilterTypesEnum).items() if k.isupper()))
"""The filters of reinvent-chemistry's registry, by name."""

_CLEANUP = rdMolStandardize.CleanupParameters()
_CLEANUP.preferOrganic = True  # type: ignore[assignment]  # RDKit's stubs are wrong
_STRAINED = Chem.MolFromSmarts("[R2;r3,r4]")
_TO_CLEAN = Chem.MolFromSmarts(
    "[!+0,!0*,$([#16X3]=O),!#1&!#5&!#6&!#7&!#8&!#9&!#14&!#15&!#16&!#17&!#34&!#35&!#53]"
)
"""Charges, isotopes, sulfoxides, metals: a molecule of one fragment without is its own parent."""


def parent(mol: Chem.Mol) -> Chem.Mol:
    """The largest organic fragment, uncharged, without isotopes; stereochemistry stays.

    RDKit's rdMolStandardize: metals are cut off, groups normalised (sulfoxides and nitro groups
    are charge-separated), acids and bases neutral. Charges that no proton makes stay.
    """
    if not mol.HasSubstructMatch(_TO_CLEAN) and len(Chem.GetMolFrags(mol)) == 1:
        return mol
    mol = Chem.Mol(mol)
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)
    return rdMolStandardize.ChargeParent(mol, _CLEANUP)


def assign_stereo(mol: Chem.Mol, share: float = 1.0, seed: int = 0) -> Chem.Mol:
    """Set every centre and double bond that is open to a configuration at random.

    So in a `share` of the molecules; the others stay open, and so does one with a bridge or with a
    ring of three or four atoms fused to another: its shape forbids some configurations. A hash of
    the molecule and `seed` decide, so that every spelling becomes the same isomer.
    """
    flat, salt = Chem.MolToSmiles(mol, isomericSmiles=False), seed.to_bytes(8, "little")
    digest = hashlib.blake2b(flat.encode(), digest_size=16, salt=salt).digest()
    chosen = int.from_bytes(digest[:8], "big") < share * 2**64
    if (
        not chosen
        or rdMolDescriptors.CalcNumBridgeheadAtoms(mol)
        or mol.HasSubstructMatch(_STRAINED)
    ):
        return mol
    number = int.from_bytes(digest[8:], "big")
    options = StereoEnumerationOptions(maxIsomers=1, rand=number)  # type: ignore[no-untyped-call]
    mol = parse(Chem.MolToSmiles(mol)) or mol  # RDKit goes by the order of the atoms
    isomers: Iterator[Chem.Mol] = EnumerateStereoisomers(mol, options)  # type: ignore[no-untyped-call]
    return next(isomers)


OWN_FILTERS: dict[str, Callable[..., Chem.Mol]] = {
    "parent": parent,
    "assign_stereo": assign_stereo,
}
"""Filters beside reinvent-chemistry's; these keep stereochemistry."""


class Standardiser:
    """Takes one SMILES through named filters, in order: ``(smiles, None)`` or ``(None, reason)``.

    What reinvent-chemistry 0.0.51 does, so that nobody is surprised:

    1. Stereochemistry and isotopes are dropped as soon as there is one of its filters. Its own
       standardiser writes flat SMILES, and must: ``neutralise_charges`` inverts some stereocentres
       and forgets E/Z. Without filters this is `read_molecule`, which keeps both; `OWN_FILTERS`
       keep stereochemistry.
    2. ``min_heavy_atoms < n < max_heavy_atoms``: both limits are themselves refused.
    3. ``default`` (and ``valid_size``) refuses chains of five carbons outside rings unless
       ``remove_long_side_chains`` is false, and elements other than C N O F S Cl Br unless
       ``element_list`` says otherwise; ``default`` also refuses ``[SH]``, that is every thiol.
    4. ``vocabulary_filter`` needs the parameter ``vocabulary``, a list of tokens.

    Filters are mappings with the keys ``name`` and, if it takes any, ``parameters``. An object can
    be pickled and sent to worker processes.
    """

    def __init__(self, filters: Sequence[Mapping[str, Any]] = ()) -> None:
        self.filters = [dict(given) for given in filters]
        registry = FilterRegistry()
        works = {name: registry.get_filter(name) for name in FILTER_NAMES} | OWN_FILTERS
        problems: list[str] = []
        self._steps: list[tuple[str, Callable[..., Chem.Mol | None]]] = []
        for index, given in enumerate(self.filters):
            name, parameters, wrong = _check_filter(given, works)
            problems += [f"filters[{index}]: {problem}" for problem in wrong]
            if not wrong:
                self._steps.append((name, partial(works[name], **parameters)))
        InputError.refuse(problems)

    def __reduce__(self) -> tuple[type["Standardiser"], tuple[list[dict[str, Any]]]]:
        """Pickle the names and parameters only; the filters are looked up again."""
        return Standardiser, (self.filters,)

    def __call__(self, smiles: str) -> tuple[str | None, str | None]:
        """The standardised canonical SMILES, or None and the reason why there is none."""
        molecule = read_molecule(smiles)
        if not self._steps or molecule.mol is None:
            return molecule.canonical_smiles, molecule.reason
        mol: Chem.Mol | None = molecule.mol
        try:
            for name, work in self._steps:
                with step(f"filter {name}"):
                    mol = work(mol)
                if mol is None or mol.GetNumAtoms() == 0:
                    return None, f"dropped by filter {name}"
            with step("writing what the filters left"):
                keeps_stereo = all(name in OWN_FILTERS for name, _ in self._steps)
                found = read_molecule(Chem.MolToSmiles(mol, isomericSmiles=keeps_stereo))
        except MoleculeError as error:
            return None, str(error)
        if found.canonical_smiles is None:
            return None, f"not a molecule after the filters: {found.reason}"
        return found.canonical_smiles, None


def _check_filter(
    given: Mapping[str, Any], works: Mapping[str, Callable[..., Chem.Mol | None]]
) -> tuple[str, dict[str, Any], list[str]]:
    """A filter's name, its parameters in their right types, and what is wrong with them."""
    name = given.get("name")
    if not isinstance(name, str) or name not in works:
        return "", {}, [f"unknown filter {name!r}{did_you_mean(str(name), [*works])}"]
    problems = [
        f"unknown key {key!r}; a filter has a name and parameters"
        for key in given
        if key not in {"name", "parameters"}
    ]
    signature = inspect.signature(works[name]).parameters
    allowed = [parameter for parameter in signature if parameter in PARAMETER_TYPES]
    parameters: dict[str, Any] = {}
    for key, value in (given.get("parameters") or {}).items():
        if key not in allowed:
            choice = did_you_mean(key, allowed) if allowed else "; it takes none"
            problems.append(f"{name}: unknown parameter {key!r}{choice}")
            continue
        try:
            parameters[key] = TypeAdapter(PARAMETER_TYPES[key]).validate_python(value)
        except ValidationError as error:
            detail = "; ".join(problem["msg"] for problem in error.errors())
            problems.append(f"{name}: {key} = {value!r}: {detail}")
    if "vocabulary" in allowed and "vocabulary" not in (given.get("parameters") or {}):
        problems.append(f"{name}: the parameter 'vocabulary' (a list of tokens) is missing")
    return name, parameters, problems
