"""Components that look for substructures: SMARTS of the user, and RDKit's structural alerts.

Patterns are compiled when the reward is built, never per molecule.
"""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

from pydantic import Field
from rdkit import Chem
from rdkit.Chem import Mol
from rdkit.Chem.rdfiltercatalog import FilterCatalog, FilterCatalogParams

from chemkl.chem.molecules import silenced
from chemkl.config import InputError
from chemkl.rewards.registry import MANY, OneOrMore, Score, component, refuse

MOST_MATCHES = 100_000
"""The search for one pattern in one molecule ends here (RDKit's own limit is 1,000)."""

Smarts = Annotated[OneOrMore, Field(description="SMARTS patterns")]
Chirality = Annotated[
    bool, Field(description="let the stereo marks of a pattern count; else they match either hand")
]
Unique = Annotated[
    bool, Field(description="matches on the same atoms, in whatever order, are one match")
]


def compile_smarts(smarts: list[str]) -> list[Mol]:
    """Compile the patterns of a component, once.

    Raises:
        InputError: patterns that RDKit cannot parse; each is named with its place in the list.
    """
    with silenced():
        patterns = [Chem.MolFromSmarts(text) if text.isascii() else None for text in smarts]
    refuse(
        [
            f"smarts[{index}] = {text!r} is not a SMARTS pattern"
            for index, (text, pattern) in enumerate(zip(smarts, patterns, strict=True))
            if pattern is None or pattern.GetNumAtoms() == 0
        ]
    )
    return [pattern for pattern in patterns if pattern is not None]


def _counter(*, unique: bool, use_chirality: bool) -> Callable[[Mol, Mol], int]:
    """Give the function that counts how often a pattern occurs in a molecule."""
    settings = Chem.SubstructMatchParameters()
    settings.uniquify = unique  # type: ignore[assignment] # RDKit's stubs
    settings.useChirality = use_chirality  # type: ignore[assignment] # RDKit's stubs
    settings.maxMatches = MOST_MATCHES  # type: ignore[assignment] # RDKit's stubs
    return lambda mol, pattern: len(mol.GetSubstructMatches(pattern, settings))


@component("required_smarts", range=(0, 1), source="RDKit substructure search")
def required_smarts(
    smarts: Smarts,
    *,
    combine: Annotated[
        Literal["all", "any"], Field(description="whether every pattern must be there, or any one")
    ] = "all",
    min_matches: Annotated[
        int, Field(ge=0, description="a pattern is there when it occurs at least so often")
    ] = 1,
    max_matches: Annotated[
        int | None, Field(ge=0, description="and at most so often; null: no limit")
    ] = None,
    unique: Unique = True,
    use_chirality: Chirality = False,
) -> Score:
    """1 when the molecule has the wanted substructures, else 0.

    A molecule costs a few µs a pattern.
    """
    patterns = compile_smarts(smarts)
    if max_matches is not None and max_matches < min_matches:
        raise InputError(
            f"max_matches = {max_matches} is below min_matches = {min_matches}: nothing can pass"
        )
    enough = all if combine == "all" else any
    if (min_matches, max_matches) == (1, None):  # the first match settles it
        return lambda mol: float(
            enough(
                mol.HasSubstructMatch(pattern, useChirality=use_chirality) for pattern in patterns
            )
        )
    count = _counter(unique=unique, use_chirality=use_chirality)
    most = math.inf if max_matches is None else max_matches
    return lambda mol: float(
        enough(min_matches <= count(mol, pattern) <= most for pattern in patterns)
    )


@component("forbidden_smarts", range=(0, 1), source="RDKit substructure search")
def forbidden_smarts(smarts: Smarts, *, use_chirality: Chirality = False) -> Score:
    """1 when the molecule has none of the unwanted substructures, else 0.

    A molecule costs a few µs a pattern.
    """
    patterns = compile_smarts(smarts)
    return lambda mol: float(
        not any(mol.HasSubstructMatch(pattern, useChirality=use_chirality) for pattern in patterns)
    )


@component("smarts_count", unit="matches", range=MANY, source="RDKit substructure search")
def smarts_count(
    smarts: Smarts, *, unique: Unique = True, use_chirality: Chirality = False
) -> Score:
    """How often the substructures occur in the molecule, added up over the patterns.

    A molecule costs a few µs a pattern.
    """
    patterns = compile_smarts(smarts)
    count = _counter(unique=unique, use_chirality=use_chirality)
    return lambda mol: float(sum(count(mol, pattern) for pattern in patterns))


# ---- structural alerts

CatalogName = Literal[
    "PAINS", "PAINS_A", "PAINS_B", "PAINS_C", "BRENK", "NIH", "ZINC", "CHEMBL", "CHEMBL_BMS",
    "CHEMBL_Dundee", "CHEMBL_Glaxo", "CHEMBL_Inpharmatica", "CHEMBL_LINT", "CHEMBL_MLSMR",
    "CHEMBL_SureChEMBL", "ALL",
]  # fmt: skip
"""RDKit's catalogs, by RDKit's names."""

_PAINS = ("PAINS_A", "PAINS_B", "PAINS_C")
_CHEMBL = (
    "CHEMBL_Glaxo", "CHEMBL_Dundee", "CHEMBL_BMS", "CHEMBL_SureChEMBL", "CHEMBL_MLSMR",
    "CHEMBL_Inpharmatica", "CHEMBL_LINT",
)  # fmt: skip
_PARTS: dict[str, tuple[str, ...]] = {
    "PAINS": _PAINS,
    "CHEMBL": _CHEMBL,
    "ALL": (*_PAINS, "BRENK", "NIH", "ZINC", *_CHEMBL),
}

Catalogs = Annotated[
    list[CatalogName],
    Field(
        min_length=1,
        description="PAINS (480 alerts; PAINS_A, _B, _C), BRENK (105), NIH (180), ZINC (50), "
        "CHEMBL (770 of seven companies and institutes; each alone as CHEMBL_<name>), ALL",
    ),
]

_ALERTS_SOURCE = (
    "RDKit FilterCatalog: PAINS, Baell and Holloway, J. Med. Chem. 53, 2719 (2010); BRENK, Brenk "
    "et al., ChemMedChem 3, 435 (2008); NIH, Jadhav et al., J. Med. Chem. 53, 37 (2010) and "
    "Doveston et al., Org. Biomol. Chem. 13, 859 (2015); ZINC; CHEMBL, the sets of ChEMBL 23"
)


def _catalog(names: Iterable[str]) -> FilterCatalog:
    """Join catalogs, each part once however often it is named."""
    parts = [part for name in names for part in _PARTS.get(name, (name,))]
    parameters = FilterCatalogParams()
    for part in dict.fromkeys(parts):
        parameters.AddCatalog(FilterCatalogParams.FilterCatalogs.names[part])
    return FilterCatalog(parameters)


@component("alert_count", unit="alerts", range=MANY, source=_ALERTS_SOURCE)
def alert_count(catalogs: Catalogs) -> Score:
    """Number of structural alerts that a molecule sets off: high is bad.

    An alert counts once however often its pattern occurs, but several catalogs know some of the
    same patterns, and those count in each. A molecule costs 2 ms with PAINS, 3 ms with CHEMBL, up
    to 1 ms with any other.
    """
    catalog = _catalog(catalogs)
    return lambda mol: float(len(catalog.GetMatches(mol)))


@component("no_alerts", range=(0, 1), source=_ALERTS_SOURCE)
def no_alerts(catalogs: Catalogs) -> Score:
    """1 when a molecule sets off no structural alert of these catalogs, else 0.

    Made for a filter. A clean molecule costs 2 ms with PAINS, 3 ms with CHEMBL, up to 1 ms with any
    other; the first alert ends the search.
    """
    catalog = _catalog(catalogs)
    return lambda mol: float(not catalog.HasMatch(mol))
