"""Standardisation filters of reinvent-chemistry, checked when named and reported when they drop."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rdkit import Chem
from reinvent_chemistry.enums import FilterTypesEnum
from reinvent_chemistry.standardization.filter_registry import FilterRegistry

from chemkl.chem.molecules import MoleculeError, read_molecule, step
from chemkl.config import InputError, did_you_mean

PARAMETER_TYPES: dict[str, Any] = {
    "min_heavy_atoms": int,
    "max_heavy_atoms": int,
    "element_list": list[int],
    "remove_long_side_chains": bool,
    "neutralise_charges": bool,
    "vocabulary": list[str],
}
"""Types of the filters' parameters, which reinvent-chemistry does not declare. Its parameter
``reactions`` (pairs of molecules) cannot be written in a config and is not offered."""

FILTER_NAMES = tuple(sorted(v for k, v in vars(FilterTypesEnum).items() if k.isupper()))
"""The filters of reinvent-chemistry's registry, by name."""


class Standardiser:
    """Takes one SMILES through named filters, in order: ``(smiles, None)`` or ``(None, reason)``.

    What reinvent-chemistry 0.0.51 does, so that nobody is surprised:

    1. Stereochemistry and isotopes are dropped as soon as there is one filter. Its own
       standardiser writes flat SMILES, and must: ``neutralise_charges`` inverts some stereocentres
       and forgets E/Z. Without filters this is `read_molecule`, which keeps both.
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
        problems: list[str] = []
        self._steps: list[tuple[str, Callable[..., Chem.Mol | None]]] = []
        for index, given in enumerate(self.filters):
            name, parameters, wrong = _check_filter(given, registry)
            problems += [f"filters[{index}]: {problem}" for problem in wrong]
            if not wrong:
                self._steps.append((name, partial(registry.get_filter(name), **parameters)))
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
            with step("writing without stereochemistry"):
                flat = read_molecule(Chem.MolToSmiles(mol, isomericSmiles=False))
        except MoleculeError as error:
            return None, str(error)
        if flat.canonical_smiles is None:
            return None, f"not a molecule after the filters: {flat.reason}"
        return flat.canonical_smiles, None


def _check_filter(
    given: Mapping[str, Any], registry: FilterRegistry
) -> tuple[str, dict[str, Any], list[str]]:
    """A filter's name, its parameters in their right types, and what is wrong with them."""
    name = given.get("name")
    if not isinstance(name, str) or name not in FILTER_NAMES:
        return "", {}, [f"unknown filter {name!r}{did_you_mean(str(name), FILTER_NAMES)}"]
    problems = [
        f"unknown key {key!r}; a filter has a name and parameters"
        for key in given
        if key not in {"name", "parameters"}
    ]
    signature = inspect.signature(registry.get_filter(name)).parameters
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
