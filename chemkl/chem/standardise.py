"""Standardisation filters: those of reinvent-chemistry, and two based on RDKit."""

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
``reactions`` (pairs of molecules) cannot be written in a config and is left out."""

FILTER_NAMES = tuple(sorted(v for k, v in vars(FilterTypesEnum).items() if k.isupper()))
"""The filters of reinvent-chemistry's registry, by name."""

_CLEANUP = rdMolStandardize.CleanupParameters()
_CLEANUP.preferOrganic = True  # type: ignore[assignment]  # RDKit's stubs are wrong
_STRAINED = Chem.MolFromSmarts("[R2;r3,r4]")
_TO_CLEAN = Chem.MolFromSmarts(
    "[!+0,!0*,$([#16X3]=O),!#1&!#5&!#6&!#7&!#8&!#9&!#14&!#15&!#16&!#17&!#34&!#35&!#53]"
)
"""Charges, isotopes, sulfoxides, metals: a single fragment without these is its own parent."""


def parent(mol: Chem.Mol) -> Chem.Mol:
    """Return the largest organic fragment, uncharged, without isotopes, with its stereochemistry.

    RDKit's rdMolStandardize disconnects metals, normalises groups (sulfoxides and nitro groups are
    charge-separated) and neutralises acids and bases. Charges that no proton can remove stay.
    """
    if not mol.HasSubstructMatch(_TO_CLEAN) and len(Chem.GetMolFrags(mol)) == 1:
        return mol
    mol = Chem.Mol(mol)
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)
    return rdMolStandardize.ChargeParent(mol, _CLEANUP)


def assign_stereo(mol: Chem.Mol, share: float = 1.0, seed: int = 0) -> Chem.Mol:
    """Assign a random configuration to every unspecified stereocentre and double bond.

    This is done for a `share` of the molecules, and never for one with a bridge or with a ring of
    three or four atoms fused to another ring, whose geometry forbids some configurations. A hash of
    the molecule and `seed` decide, so every spelling becomes the same isomer.
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
    mol = parse(Chem.MolToSmiles(mol)) or mol  # the isomer depends on the order of the atoms
    isomers: Iterator[Chem.Mol] = EnumerateStereoisomers(mol, options)  # type: ignore[no-untyped-call]
    return next(isomers)


OWN_FILTERS: dict[str, Callable[..., Chem.Mol]] = {
    "parent": parent,
    "assign_stereo": assign_stereo,
}
"""The RDKit filters, which keep stereochemistry."""


class Standardiser:
    """Applies named filters to a SMILES, in order: ``(smiles, None)`` or ``(None, reason)``.

    Behaviour of reinvent-chemistry 0.0.51 that may surprise:

    1. Any of its filters drops stereochemistry and isotopes. Its own standardiser writes flat
       SMILES, and must: ``neutralise_charges`` inverts some stereocentres and forgets E/Z. Without
       filters this is `read_molecule`, which keeps both; `OWN_FILTERS` keep stereochemistry.
    2. ``min_heavy_atoms < n < max_heavy_atoms``: both limits are exclusive.
    3. ``default`` (and ``valid_size``) refuses chains of five carbons outside rings unless
       ``remove_long_side_chains`` is false, and elements other than C N O F S Cl Br unless
       ``element_list`` lists them; ``default`` also refuses ``[SH]``, that is every thiol.
    4. ``vocabulary_filter`` needs the parameter ``vocabulary``, a list of tokens.

    Filters are mappings with the key ``name`` and, optionally, ``parameters``. A standardiser can
    be pickled and sent to worker processes.
    """

    def __init__(self, filters: Sequence[Mapping[str, Any]] = ()) -> None:
        self.filters = [dict(settings) for settings in filters]
        registry = FilterRegistry()
        functions = {name: registry.get_filter(name) for name in FILTER_NAMES} | OWN_FILTERS
        problems: list[str] = []
        self._steps: list[tuple[str, Callable[..., Chem.Mol | None]]] = []
        for index, settings in enumerate(self.filters):
            name, parameters, faults = _check_filter(settings, functions)
            problems += [f"filters[{index}]: {fault}" for fault in faults]
            if not faults:
                self._steps.append((name, partial(functions[name], **parameters)))
        InputError.refuse(problems)

    def __reduce__(self) -> tuple[type["Standardiser"], tuple[list[dict[str, Any]]]]:
        """Pickle only names and parameters; the filters are looked up again."""
        return Standardiser, (self.filters,)

    def __call__(self, smiles: str) -> tuple[str | None, str | None]:
        """Return the standardised canonical SMILES and None, or None and the reason."""
        molecule = read_molecule(smiles)
        if not self._steps or molecule.mol is None:
            return molecule.canonical_smiles, molecule.reason
        mol: Chem.Mol | None = molecule.mol
        try:
            for name, function in self._steps:
                with step(f"filter {name}"):
                    mol = function(mol)
                if mol is None or mol.GetNumAtoms() == 0:
                    return None, f"dropped by filter {name}"
            with step("writing the filtered molecule"):
                keeps_stereo = all(name in OWN_FILTERS for name, _ in self._steps)
                result = read_molecule(Chem.MolToSmiles(mol, isomericSmiles=keeps_stereo))
        except MoleculeError as error:
            return None, str(error)
        if result.canonical_smiles is None:
            return None, f"not a molecule after the filters: {result.reason}"
        return result.canonical_smiles, None


def _check_filter(
    settings: Mapping[str, Any], functions: Mapping[str, Callable[..., Chem.Mol | None]]
) -> tuple[str, dict[str, Any], list[str]]:
    """Return a filter's name, its parameters with the right types, and the problems."""
    name = settings.get("name")
    if not isinstance(name, str) or name not in functions:
        return "", {}, [f"unknown filter {name!r}{did_you_mean(str(name), [*functions])}"]
    problems = [
        f"unknown key {key!r}; a filter has a name and parameters"
        for key in settings
        if key not in {"name", "parameters"}
    ]
    signature = inspect.signature(functions[name]).parameters
    allowed = [parameter for parameter in signature if parameter in PARAMETER_TYPES]
    parameters: dict[str, Any] = {}
    for key, value in (settings.get("parameters") or {}).items():
        if key not in allowed:
            choice = did_you_mean(key, allowed) if allowed else "; it takes none"
            problems.append(f"{name}: unknown parameter {key!r}{choice}")
            continue
        try:
            parameters[key] = TypeAdapter(PARAMETER_TYPES[key]).validate_python(value)
        except ValidationError as error:
            detail = "; ".join(problem["msg"] for problem in error.errors())
            problems.append(f"{name}: {key} = {value!r}: {detail}")
    if "vocabulary" in allowed and "vocabulary" not in (settings.get("parameters") or {}):
        problems.append(f"{name}: the parameter 'vocabulary' (a list of tokens) is missing")
    return name, parameters, problems
