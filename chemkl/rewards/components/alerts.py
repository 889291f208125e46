"""Components that look for structural alerts: RDKit's catalogs of unwanted substructures."""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

from pydantic import Field
from rdkit.Chem import Mol
from rdkit.Chem.rdfiltercatalog import FilterCatalog, FilterCatalogParams

from chemkl.rewards.registry import Score, component

CatalogName = Literal[
    "PAINS",
    "PAINS_A",
    "PAINS_B",
    "PAINS_C",
    "BRENK",
    "NIH",
    "ZINC",
    "CHEMBL",
    "CHEMBL_BMS",
    "CHEMBL_Dundee",
    "CHEMBL_Glaxo",
    "CHEMBL_Inpharmatica",
    "CHEMBL_LINT",
    "CHEMBL_MLSMR",
    "CHEMBL_SureChEMBL",
    "ALL",
]
"""RDKit's catalogs, by RDKit's names."""

_PAINS = ("PAINS_A", "PAINS_B", "PAINS_C")
_CHEMBL = (
    "CHEMBL_Glaxo",
    "CHEMBL_Dundee",
    "CHEMBL_BMS",
    "CHEMBL_SureChEMBL",
    "CHEMBL_MLSMR",
    "CHEMBL_Inpharmatica",
    "CHEMBL_LINT",
)
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

_SOURCE = (
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


def find_alerts(catalogs: Iterable[str]) -> Callable[[Mol], list[str]]:
    """Give the function that names a molecule's alerts, as ``catalog: alert``."""
    catalog = _catalog(catalogs)

    def alerts(mol: Mol) -> list[str]:
        entries = catalog.GetMatches(mol)
        return [f"{each.GetProp('FilterSet')}: {each.GetDescription()}" for each in entries]

    return alerts


@component("alert_count", unit="alerts", range=(0, math.inf), source=_SOURCE)
def alert_count(catalogs: Catalogs) -> Score:
    """Number of structural alerts that a molecule sets off: high is bad.

    An alert counts once however often its pattern occurs, but several catalogs know some of the
    same patterns, and those count in each. A molecule costs 2 ms with PAINS, 3 ms with CHEMBL, up
    to 1 ms with any other.
    """
    catalog = _catalog(catalogs)
    return lambda mol: float(len(catalog.GetMatches(mol)))


@component("no_alerts", range=(0, 1), source=_SOURCE)
def no_alerts(catalogs: Catalogs) -> Score:
    """1 when a molecule sets off no structural alert of these catalogs, else 0.

    Made for a filter. A clean molecule costs 2 ms with PAINS, 3 ms with CHEMBL, up to 1 ms with any
    other; the first alert ends the search.
    """
    catalog = _catalog(catalogs)
    return lambda mol: float(not catalog.HasMatch(mol))
