"""Properties and counts against RDKit, data sheets, and derivations and counts by hand."""

import math
import os
import sys
from functools import partial
from pathlib import Path

import pytest
from building import (
    ASPIRIN,
    CAFFEINE,
    CELECOXIB,
    CUBANE,
    CYCLODODECANE,
    HEAVY_WATER,
    SALT,
    build,
    mol,
    part,
    reward_of,
    value,
)
from rdkit import RDConfig
from rdkit.Chem import QED, Crippen, Descriptors, Lipinski

from chemkl.config import InputError
from chemkl.rewards.registry import COMPONENTS

HALOPERIDOL = "OC(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1"
CHOLINE, TETRALIN, INDOLINE = "C[N+](C)(C)CCO", "c1ccc2c(c1)CCCC2", "c1ccc2c(c1)CCN2"
THREE_FOUR_SIX = "C1CC1C1CCC1c1ccccc1"
MOLECULES = [
    *(ASPIRIN, CELECOXIB, HALOPERIDOL, "C[C@H]1CC[C@@H](O)C1=O", "C[N+](C)(C)CC(=O)[O-]"),
    *("O=S(=O)(O)c1ccccc1.[Na+]", "C", "C" * 300, "[CH3]", HEAVY_WATER),
    "C1CC2(C1)CC1CC2CCCCCCC1",  # spiro, bridged, macrocycle
]


def sascorer():
    sys.path.append(os.path.join(RDConfig.RDContribDir, "SA_Score"))
    try:
        import sascorer as module
    finally:
        sys.path.pop()
    return module


ORACLES = {
    **{"qed": QED.qed, "mol_wt": Descriptors.MolWt, "logp": Crippen.MolLogP},
    **{"tpsa": Descriptors.TPSA, "hbd": Lipinski.NumHDonors, "hba": Lipinski.NumHAcceptors},
    **{"rotatable_bonds": Lipinski.NumRotatableBonds, "rings": Lipinski.RingCount},
    "sa_score": lambda mol: sascorer().calculateScore(mol),
}


@pytest.mark.parametrize("kind", ORACLES)
def test_properties_are_rdkits(kind):
    low, high = COMPONENTS[kind].range
    for smiles in MOLECULES:
        assert low <= value(kind, smiles) == ORACLES[kind](mol(smiles)) <= high


def test_every_component_is_named_in_a_test():
    texts = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    shipped = {
        kind
        for kind, entry in COMPONENTS.items()
        if entry.factory.__module__.startswith("chemkl.rewards.components.")
    }
    assert len(shipped) > 10
    assert sorted(kind for kind in shipped if f'"{kind}"' not in texts) == []


def labute_methane():
    """Labute's formula with RDKit's radii (C 0.77, H 0.33 Å) and its one H a heavy atom."""
    carbon, hydrogen = 0.77, 0.33
    length = carbon + hydrogen
    of_carbon = hydrogen**2 - hydrogen**2 / length
    of_hydrogen = carbon**2 - carbon**2 / length
    return math.pi * (4 * carbon**2 - carbon * of_carbon + 4 * hydrogen**2 - hydrogen * of_hydrogen)


BY_HAND = {
    # PubChem CID 2244; an acid donates one H, the ester's ether O accepts nothing in RDKit
    **{"mol_wt": {ASPIRIN: 180.159}, "tpsa": {ASPIRIN: 63.6}, "rings": {ASPIRIN: 1}},
    **{"hbd": {ASPIRIN: 1}, "hba": {ASPIRIN: 3}},
    "exact_mass": {  # PubChem CID 2244, CID 2519
        **{ASPIRIN: 180.042259, CAFFEINE: 194.080376},
        HEAVY_WATER: 2 * 2.014102 + 15.994915,
    },
    "heavy_atom_mol_wt": {ASPIRIN: 9 * 12.011 + 4 * 15.999},
    # Wildman and Crippen's table: C1 2.503, its H1 1.057 each
    "molar_refractivity": {"C": 2.503 + 4 * 1.057, "CC": 2 * 2.503 + 6 * 1.057},
    "labute_asa": {"C": labute_methane()},
    "csp3_fraction": {ASPIRIN: 1 / 9, CAFFEINE: 3 / 8, "O": 0},
    "formal_charge": {SALT: 0, CHOLINE: 1, "[O-]C(=O)C(=O)[O-]": -2, "C[N+](C)(C)CC(=O)[O-]": 0},
    # aspirin: methyl to the far acid O; cyclododecane: to the opposite atom; a salt: within acetate
    "graph_length": {ASPIRIN: 6, CYCLODODECANE: 6, SALT: 2, HEAVY_WATER: 0, "C" * 300: 299},
    "rotatable_chain": {
        "CCCCCC": 3,  # the ends do not count
        "CCCC(=O)NCCCC": 3,  # two, a stiff amide, three
        "C(CCC)(CCC)CCC": 4,  # through the centre, not all six
        **{"c1ccccc1-c1ccccc1": 1, CYCLODODECANE: 0},
    },
    # pairs of neighbouring bonds: butane 2 alike; hexane 4, two of each of two sorts; ethanol two
    # carbons and an oxygen
    "bertz_ct": {
        **{"CCCC": 2 * 2 * 1 - 2 * 1, "CCCCCC": 2 * 4 * 2 - 2 * (2 * 1)},
        **{"CCO": 3 * math.log2(3) - 2, HEAVY_WATER: 0},
    },
    "balaban_j": {  # distance sums of hexane's atoms: 15, 11, 9, 9, 11, 15
        "CCCCCC": 5 * (2 / math.sqrt(165) + 2 / math.sqrt(99) + 1 / 9),
        "C1CCCCC1": 6 / 2 * 6 / 9,
    },
    "heavy_atoms": {ASPIRIN: 13, CAFFEINE: 14, CUBANE: 8, HEAVY_WATER: 1, SALT: 5, "C" * 300: 300},
    "hetero_atoms": {ASPIRIN: 4, CAFFEINE: 6, CUBANE: 0, HEAVY_WATER: 1, SALT: 3},
    # sp: both carbons of propyne's triple bond, and the N and C of a nitrile
    "sp_atoms": {"CC#C": 2, "CC#N": 2, ASPIRIN: 0},
    # aspirin: six of the ring, two C=O with their two O, and the two O beside a pi system
    "sp2_atoms": {ASPIRIN: 12, CAFFEINE: 11, CUBANE: 0, "[CH3]": 0},
    "sp3_atoms": {ASPIRIN: 1, CAFFEINE: 3, CUBANE: 8, CHOLINE: 7, "[CH3]": 1},
    "stereo_centres": {"C[C@H](N)C(=O)O": 1, "CC(N)C(=O)O": 1, "CC(C)C": 0, ASPIRIN: 0},
    "unspecified_stereo_centres": {"C[C@H](N)C(=O)O": 0, "CC(N)C(=O)O": 1, "CC(C)C": 0},
    # a ring of six can hold its double bond in one form only
    "stereo_double_bonds": {"C/C=C/C": 1, "CC=CC": 1, "C1=CCCCC1": 0, "C=C": 0, "C/C=C/C=CC": 2},
    "unspecified_stereo_double_bonds": {"C/C=C/C": 0, "CC=CC": 1, "C/C=C/C=CC": 1, "C=C": 0},
    "amide_bonds": {"CC(=O)NC": 1, "CC(=O)NCC(=O)NC": 2, ASPIRIN: 0},
    "radical_electrons": {"[CH3]": 1, "[CH2]": 2, "C": 0, CHOLINE: 0},
    "fragments": {SALT: 2, ASPIRIN: 1, "O.O.O": 3},
    "aromatic_rings": {ASPIRIN: 1, CAFFEINE: 2, CUBANE: 0, TETRALIN: 1},
    "aromatic_heterocycles": {ASPIRIN: 0, CAFFEINE: 2, INDOLINE: 0, "c1ccncc1": 1},
    "aromatic_carbocycles": {ASPIRIN: 1, CAFFEINE: 0, INDOLINE: 1},
    "aliphatic_rings": {TETRALIN: 1, CUBANE: 6, "C1=CCCCC1": 1, CAFFEINE: 0},
    "aliphatic_heterocycles": {INDOLINE: 1, TETRALIN: 0, "C1CCNCC1": 1},
    "aliphatic_carbocycles": {INDOLINE: 0, TETRALIN: 1, CYCLODODECANE: 1},
    # tetralin's second ring holds an aromatic bond
    "saturated_rings": {TETRALIN: 0, CUBANE: 6, "C1=CCCCC1": 0, "C1CCNCC1": 1},
    "saturated_heterocycles": {"C1CCNCC1": 1, "C1CCCCC1": 0, INDOLINE: 0},
    "saturated_carbocycles": {"C1CCNCC1": 0, "C1CCCCC1": 1, CUBANE: 6},
    "heterocycles": {CAFFEINE: 2, INDOLINE: 1, "C1CCNCC1": 1, CUBANE: 0},
    "spiro_atoms": {"C1CCC2(C1)CCCCC2": 1, CUBANE: 0, TETRALIN: 0},
    "bridgehead_atoms": {"C1CC2CCC1C2": 2, "C1C2CC3CC1CC(C2)C3": 4, TETRALIN: 0},  # adamantane
    # cubane has six faces; caffeine a ring of five and one of six
    "largest_ring": {CUBANE: 4, CAFFEINE: 6, CYCLODODECANE: 12, CHOLINE: 0},
    "ring_systems": {"c1ccc(-c2ccccc2)cc1": 2, TETRALIN: 1, "C1CCC2(C1)CCCCC2": 1, CHOLINE: 0},
    # phenylnaphthalene: one ring, and two fused
    "largest_ring_system": {"c1ccc(-c2ccc3ccccc3c2)cc1": 2, CUBANE: 6, CHOLINE: 0},
}
GROUPS = ["fr_ester", "fr_Ar_COO", "fr_benzene"]
WITH_SETTINGS = [
    # heavy water's hydrogens are explicit atoms
    ("element_count", {"elements": "H"}, {ASPIRIN: 8, HEAVY_WATER: 2, "[H][H]": 2}),
    ("element_count", {"elements": "C"}, {ASPIRIN: 9, "[13CH4]": 1}),
    ("element_count", {"elements": ["F", "Cl"]}, {HALOPERIDOL: 2}),  # and a "C" is no "Cl"
    ("element_count", {"elements": "N"}, {CHOLINE: 1, SALT: 0}),
    ("element_count", {"elements": "Na"}, {CHOLINE: 0, SALT: 1}),
    # atoms + rings - 1; bonds to hydrogen do not count
    ("bond_count", {}, {ASPIRIN: 13, CAFFEINE: 15, HEAVY_WATER: 0}),
    ("bond_count", {"order": "single"}, {ASPIRIN: 5, CAFFEINE: 3, HEAVY_WATER: 0}),
    ("bond_count", {"order": "double"}, {ASPIRIN: 2, CAFFEINE: 2}),
    ("bond_count", {"order": "triple"}, {ASPIRIN: 0, "CC#N": 1}),
    # caffeine: a five and a six that share a bond
    ("bond_count", {"order": "aromatic"}, {ASPIRIN: 6, CAFFEINE: 10}),
    # one ester, one acid on an arene, one benzene
    ("functional_group_count", {"groups": "fr_ester"}, {ASPIRIN: 1}),
    ("functional_group_count", {"groups": GROUPS}, {ASPIRIN: 3, CUBANE: 0}),
    # thirteen atoms on either side
    ("macrocycles", {}, {CYCLODODECANE: 1, "C1CCCCCCCCCC1": 0, "C1CCCCc2ccc(cc2)CCCC1": 2}),
    ("macrocycles", {"smallest": 11}, {"C1CCCCCCCCCC1": 1}),
    ("rings_of_size", {"sizes": [3, 4]}, {THREE_FOUR_SIX: 2}),
    ("rings_of_size", {"sizes": [5]}, {THREE_FOUR_SIX: 0}),
    ("rings_outside_sizes", {"allowed": [5, 6]}, {THREE_FOUR_SIX: 2, CHOLINE: 0}),
    ("rings_outside_sizes", {"allowed": [3, 4, 6]}, {THREE_FOUR_SIX: 0}),
]


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [*((kind, {}, expected) for kind, expected in BY_HAND.items()), *WITH_SETTINGS],
)
def test_values_by_hand(kind, settings, expected):
    values = {smiles: value(kind, smiles, **settings) for smiles in expected}
    assert values == pytest.approx(expected, abs=2e-6)


def test_a_chain_does_not_depend_on_earlier_components():
    parts = part("rotatable_chain", 1, 3), part("graph_length", 1, 3)
    for order in (parts, parts[::-1]):
        assert reward_of(*order).score(["CCCCCCCC"])["raw_rotatable_chain"].tolist() == [5]


def test_an_undefined_index_is_a_failure():
    row = reward_of(part("balaban_j", 1, 3)).score([SALT]).loc[0]
    assert math.isnan(row["raw_balaban_j"])
    assert "needs one connected molecule, not 2 fragments" in row["reason"]
    assert row["reward"] == 0


def test_penalized_logp_and_any_descriptor_of_rdkit():
    for smiles, atoms_beyond_six in [(CYCLODODECANE, 6), (CAFFEINE, 0), ("CCO", 0)]:
        expected = Crippen.MolLogP(mol(smiles)) - value("sa_score", smiles) - atoms_beyond_six
        assert value("penalized_logp", smiles) == pytest.approx(expected, abs=1e-12)
    for name in ("MolWt", "Kappa2", "BCUT2D_MWHI"):
        expected = getattr(Descriptors, name)(mol(ASPIRIN))
        assert value("rdkit_descriptor", ASPIRIN, descriptor=name) == expected


@pytest.mark.parametrize(
    ("formula", "smiles"),
    [
        ("C7H8N2O2", "NNC(=O)c1ccccc1O"),
        ("C9H10N2O2PF2Cl", "NC1=CC=C(C(F)=C1)C(F)(Cl)P(=O)(O)CC=N"),
        ("C11H24", "CCCC(C)(C)CCCCC"),
        ("H2O", "[2H]O[2H]"),
        ("CH3", "[CH3]"),
        ("C2H3O2Na", "CC(=O)[O-].[Na+]"),
        ("C2H5OH", "CCO"),  # H comes twice
    ],
)
def test_an_isomer_scores_one(formula, smiles):
    assert value("isomer_score", smiles, formula=formula) == 1.0
    assert value("isomer_score", smiles, formula=formula, mean="arithmetic") == 1.0
    assert value("formula_match", smiles, formula=formula) == 1.0


def test_a_wrong_formula_by_hand():
    # C9H8O4 has 21 atoms; caffeine: C -1, O -2, H +2 (sigma 1), all atoms +3 (sigma 2)
    parts = [math.exp(-0.5), math.exp(-2), math.exp(-2), math.exp(-1.125)]
    score = partial(value, "isomer_score", CAFFEINE, formula="C9H8O4")
    assert score() == pytest.approx(math.prod(parts) ** 0.25, abs=1e-12)
    assert score(mean="arithmetic") == pytest.approx(sum(parts) / 4, abs=1e-12)
    # C2H6O for C2H6: an element that the formula lacks counts in the total; sigma 2; three parts
    ethane = value("isomer_score", "CCO", formula="C2H6")
    assert ethane == pytest.approx(math.exp(-1 / 8 / 3), abs=1e-12)
    assert value("formula_match", "CCO", formula="C2H6") == 0


BAD_FORMULAS = {
    "": "is not a molecular formula",
    "C7 H8": "is not a molecular formula",
    "C5H12NO+": "no charge, isotope, bracket or blank",
    "c6h6": "is not a molecular formula",
    "C\uff16": "is not a molecular formula",  # a full-width digit
    "C6H6Xx": "'C6H6Xx': Xx is not the symbol of an element",
    "D2O": "D is not the symbol of an element",
    "C0H4": "C0 should be between 1 and a million",
    "C99999999999999999999": "should be between 1 and a million",
}


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("element_count", {"elements": ["C", "Xx"]},
         r"elements\.1: 'Xx' is not an element; give symbols.*Known: "),
        ("bond_count", {"order": "quadruple"}, "'quadruple' is not allowed"),
        ("functional_group_count", {"groups": ["fr_ester", "fr_estr"]},
         r"groups\.1: 'fr_estr' is not a counter.*did you mean 'fr_ester'"),
        ("macrocycles", {"smallest": 2}, "smallest: should be greater than or equal to 3"),
        ("rings_of_size", {"sizes": []}, "sizes: should have at least 1"),
        ("rings_outside_sizes", {"allowed": [6, 2]}, r"allowed.*1.*greater than or equal to 3"),
        ("rdkit_descriptor", {"descriptor": "Kapa2"},
         r"'Kapa2' is not a descriptor.*did you mean 'Kappa2'"),
        *((kind, {"formula": formula}, message)
          for formula, message in BAD_FORMULAS.items()
          for kind in ("isomer_score", "formula_match")),
    ],
)  # fmt: skip
def test_bad_parameters_are_named(kind, parameters, message):
    with pytest.raises(InputError, match=message):
        build(kind, **parameters)
