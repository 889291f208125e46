"""Counts of atoms, bonds, stereo, groups and rings, each against a count by hand."""

import pytest
from building import ASPIRIN, CAFFEINE, CUBANE, CYCLODODECANE, HEAVY_WATER, SALT, build, value

from chemkl.config import InputError

TETRALIN = "c1ccc2c(c1)CCCC2"
INDOLINE = "c1ccc2c(c1)CCN2"
CHOLINE = "C[N+](C)(C)CCO"
BY_HAND = {
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
    "largest_ring_system": {
        "c1ccc(-c2ccc3ccccc3c2)cc1": 2,  # phenylnaphthalene: one ring, and two fused
        CUBANE: 6,
        CHOLINE: 0,
    },
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_counts_by_hand(kind):
    assert {smiles: value(kind, smiles) for smiles in BY_HAND[kind]} == BY_HAND[kind]


HALOPERIDOL, THREE_FOUR_SIX = "OC(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1", "C1CC1C1CCC1c1ccccc1"
GROUPS = ["fr_ester", "fr_Ar_COO", "fr_benzene"]


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        # heavy water's hydrogens are atoms of their own in the SMILES
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
    ],
)
def test_counts_of_what_is_asked_for(kind, settings, expected):
    assert {smiles: value(kind, smiles, **settings) for smiles in expected} == expected


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (
            "element_count",
            {"elements": ["C", "Xx"]},
            r"elements\.1: 'Xx' is not an element; give symbols.*Known: ",
        ),
        ("bond_count", {"order": "quadruple"}, "'quadruple' is not allowed"),
        (
            "functional_group_count",
            {"groups": ["fr_ester", "fr_estr"]},
            r"groups\.1: 'fr_estr' is not a counter.*did you mean 'fr_ester'",
        ),
        ("macrocycles", {"smallest": 2}, "smallest: should be greater than or equal to 3"),
        ("rings_of_size", {"sizes": []}, "sizes: should have at least 1"),
        ("rings_outside_sizes", {"allowed": [6, 2]}, r"allowed.*1.*greater than or equal to 3"),
    ],
)
def test_unfit_parameters_are_named(kind, parameters, message):
    with pytest.raises(InputError, match=message):
        build(kind, **parameters)
