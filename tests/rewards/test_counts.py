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


@pytest.mark.parametrize(
    ("kind", "smiles", "n"),
    [(kind, smiles, n) for kind, counts in BY_HAND.items() for smiles, n in counts.items()],
)
def test_counts_by_hand(kind, smiles, n):
    assert value(kind, smiles) == n


@pytest.mark.parametrize(
    ("elements", "smiles", "n"),
    [
        ("H", ASPIRIN, 8),
        ("H", HEAVY_WATER, 2),  # atoms of their own in the SMILES
        ("H", "[H][H]", 2),
        ("C", ASPIRIN, 9),
        ("C", "[13CH4]", 1),
        (["F", "Cl"], "OC(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1", 2),  # and a "C" is no "Cl"
        ("Na", SALT, 1),
        ("N", CHOLINE, 1),
        ("B", CAFFEINE, 0),
    ],
)
def test_atoms_of_an_element(elements, smiles, n):
    assert value("element_count", smiles, elements=elements) == n


@pytest.mark.parametrize(
    ("order", "aspirin", "caffeine", "heavy_water"),
    [
        ("any", 13, 15, 0),  # atoms + rings - 1; bonds to hydrogen do not count
        ("single", 5, 3, 0),
        ("double", 2, 2, 0),
        ("triple", 0, 0, 0),
        ("aromatic", 6, 10, 0),  # a five and a six that share a bond
    ],
)
def test_bonds(order, aspirin, caffeine, heavy_water):
    for smiles, n in ((ASPIRIN, aspirin), (CAFFEINE, caffeine), (HEAVY_WATER, heavy_water)):
        assert value("bond_count", smiles, order=order) == n
    assert value("bond_count", "CC#N", order="triple") == 1


def test_functional_groups_by_name():
    assert value("functional_group_count", ASPIRIN, groups="fr_ester") == 1
    # one ester, one acid on an arene, one benzene
    groups = ["fr_ester", "fr_Ar_COO", "fr_benzene"]
    assert value("functional_group_count", ASPIRIN, groups=groups) == 3
    assert value("functional_group_count", CUBANE, groups=groups) == 0


def test_macrocycles_start_at_twelve():
    assert value("macrocycles", CYCLODODECANE) == 1
    assert value("macrocycles", "C1CCCCCCCCCC1") == 0
    assert value("macrocycles", "C1CCCCCCCCCC1", smallest=11) == 1
    assert value("macrocycles", "C1CCCCc2ccc(cc2)CCCC1") == 2  # thirteen atoms on either side


def test_ring_sizes():
    three_four_six = "C1CC1C1CCC1c1ccccc1"
    assert value("rings_of_size", three_four_six, sizes=[3, 4]) == 2
    assert value("rings_of_size", three_four_six, sizes=[5]) == 0
    assert value("rings_outside_sizes", three_four_six, allowed=[5, 6]) == 2
    assert value("rings_outside_sizes", three_four_six, allowed=[3, 4, 6]) == 0
    assert value("rings_outside_sizes", CHOLINE, allowed=[6]) == 0


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("element_count", {"elements": ["C", "Xx"]}, r"elements\.1: 'Xx' is not an element"),
        (
            "element_count",
            {"elements": "D"},
            r"elements\.0: 'D' is not an element; give symbols.*Known: ",
        ),
        ("element_count", {"elements": []}, "should have at least 1"),
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
