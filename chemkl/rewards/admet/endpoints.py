"""What ADMET-AI's networks predict: the endpoints of TDC's ADMET data sets, with their units."""

from typing import Literal, NamedTuple

Kind = Literal["classification", "regression"]


class Endpoint(NamedTuple):
    """One property.

    Attributes:
        kind: classification: a probability; regression: a value.
        unit: Of the value; empty for probabilities.
    """

    kind: Kind
    unit: str = ""


_PROBABILITIES = """
    HIA_Hou Bioavailability_Ma PAMPA_NCATS Pgp_Broccatelli BBB_Martins CYP1A2_Veith
    CYP2C19_Veith CYP2C9_Veith CYP2D6_Veith CYP3A4_Veith CYP2C9_Substrate_CarbonMangels
    CYP2D6_Substrate_CarbonMangels CYP3A4_Substrate_CarbonMangels hERG ClinTox AMES DILI
    Carcinogens_Lagunin Skin_Reaction NR-AR NR-AR-LBD NR-AhR NR-Aromatase NR-ER NR-ER-LBD
    NR-PPAR-gamma SR-ARE SR-ATAD5 SR-HSE SR-MMP SR-p53
"""
_VALUES = {
    "Solubility_AqSolDB": "log(mol/L)",
    "Lipophilicity_AstraZeneca": "log-ratio",
    "HydrationFreeEnergy_FreeSolv": "kcal/mol",
    "Caco2_Wang": "log(10^-6 cm/s)",
    "PPBR_AZ": "%",
    "VDss_Lombardo": "L/kg",
    "Half_Life_Obach": "hr",
    "Clearance_Hepatocyte_AZ": "uL/min/10^6 cells",
    "Clearance_Microsome_AZ": "uL/min/mg",
    "LD50_Zhu": "log(1/(mol/kg))",
}

ENDPOINTS = {
    **{name: Endpoint("classification") for name in _PROBABILITIES.split()},
    **{name: Endpoint("regression", unit) for name, unit in _VALUES.items()},
}
"""Every endpoint, by TDC's name."""
