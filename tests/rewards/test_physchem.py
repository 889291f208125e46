"""Properties of the whole molecule against RDKit, data sheets and derivations by hand."""

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

MOLECULES = [
    *(ASPIRIN, CELECOXIB, "OC(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1", "C[C@H]1CC[C@@H](O)C1=O"),
    *("C[N+](C)(C)CC(=O)[O-]", "O=S(=O)(O)c1ccccc1.[Na+]", "C", "C" * 300, "[CH3]", HEAVY_WATER),
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
}


@pytest.mark.parametrize("kind", [*ORACLES, "sa_score"])
def test_properties_are_rdkits(kind):
    low, high = COMPONENTS[kind].range
    oracle = ORACLES.get(kind) or sascorer().calculateScore
    for smiles in MOLECULES:
        assert low <= value(kind, smiles) == oracle(mol(smiles)) <= high


def test_every_component_is_named_in_a_test():
    texts = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    shipped = {
        kind
        for kind, each in COMPONENTS.items()
        if each.factory.__module__.startswith("chemkl.rewards.components.")
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


@pytest.mark.parametrize(
    ("kind", "smiles", "expected"),
    [
        # PubChem CID 2244; an acid donates one H, the ester's ether O accepts nothing to RDKit
        *(("mol_wt", ASPIRIN, 180.159), ("tpsa", ASPIRIN, 63.6), ("rings", ASPIRIN, 1)),
        *(("hbd", ASPIRIN, 1), ("hba", ASPIRIN, 3), ("exact_mass", ASPIRIN, 180.042259)),
        ("exact_mass", CAFFEINE, 194.080376),  # PubChem CID 2519
        ("exact_mass", HEAVY_WATER, 2 * 2.014102 + 15.994915),
        ("heavy_atom_mol_wt", ASPIRIN, 9 * 12.011 + 4 * 15.999),
        # Wildman and Crippen's table: C1 2.503, its H1 1.057 each
        ("molar_refractivity", "C", 2.503 + 4 * 1.057),
        ("molar_refractivity", "CC", 2 * 2.503 + 6 * 1.057),
        ("labute_asa", "C", labute_methane()),
        ("csp3_fraction", ASPIRIN, 1 / 9),
        ("csp3_fraction", CAFFEINE, 3 / 8),
        ("csp3_fraction", "O", 0),
        ("formal_charge", SALT, 0),
        ("formal_charge", "C[N+](C)(C)CCO", 1),
        ("formal_charge", "[O-]C(=O)C(=O)[O-]", -2),
        ("formal_charge", "C[N+](C)(C)CC(=O)[O-]", 0),
        # methyl to the far acid O, or to the ring atom across
        ("graph_length", ASPIRIN, 6),
        ("graph_length", CYCLODODECANE, 6),
        ("graph_length", SALT, 2),  # within acetate; not 10^8
        ("graph_length", HEAVY_WATER, 0),
        ("graph_length", "C" * 300, 299),
        ("rotatable_chain", "CCCCCC", 3),  # the ends do not count
        ("rotatable_chain", "CCCC(=O)NCCCC", 3),  # two, a stiff amide, three
        ("rotatable_chain", "C(CCC)(CCC)CCC", 4),  # in and out again, not all six
        ("rotatable_chain", "c1ccccc1-c1ccccc1", 1),
        ("rotatable_chain", CYCLODODECANE, 0),
        # pairs of neighbouring bonds: butane 2 alike; hexane 4, two of each of two sorts
        ("bertz_ct", "CCCC", 2 * 2 * 1 - 2 * 1),
        ("bertz_ct", "CCCCCC", 2 * 4 * 2 - 2 * (2 * 1)),
        ("bertz_ct", "CCO", 3 * math.log2(3) - 2),  # two carbons and an oxygen
        ("bertz_ct", HEAVY_WATER, 0),
        # distance sums of hexane's atoms: 15, 11, 9, 9, 11, 15
        ("balaban_j", "CCCCCC", 5 * (2 / math.sqrt(165) + 2 / math.sqrt(99) + 1 / 9)),
        ("balaban_j", "C1CCCCC1", 6 / 2 * 6 / 9),
    ],
)
def test_values_by_hand(kind, smiles, expected):
    assert value(kind, smiles) == pytest.approx(expected, abs=2e-6)


def test_a_chain_does_not_depend_on_what_was_asked_before():
    parts = part("rotatable_chain", 1, 3), part("graph_length", 1, 3)
    for order in (parts, parts[::-1]):
        assert reward_of(*order).score(["CCCCCCCC"])["raw_rotatable_chain"].tolist() == [5]


def test_what_an_index_cannot_be_for_is_a_reason_and_not_a_number():
    row = reward_of(part("balaban_j", 1, 3)).score([SALT]).loc[0]
    assert math.isnan(row["raw_balaban_j"])
    assert "needs one connected molecule, not 2 fragments" in row["reason"]
    assert row["reward"] == 0


def test_penalized_logp_takes_off_large_rings():
    for smiles, atoms_beyond_six in [(CYCLODODECANE, 6), (CAFFEINE, 0), ("CCO", 0)]:
        expected = Crippen.MolLogP(mol(smiles)) - value("sa_score", smiles) - atoms_beyond_six
        assert value("penalized_logp", smiles) == pytest.approx(expected, abs=1e-12)


def test_any_descriptor_of_rdkit():
    for name in ("MolWt", "Kappa2", "BCUT2D_MWHI"):
        expected = getattr(Descriptors, name)(mol(ASPIRIN))
        assert value("rdkit_descriptor", ASPIRIN, descriptor=name) == expected
    with pytest.raises(InputError, match=r"'Kapa2' is not a descriptor.*did you mean 'Kappa2'"):
        build("rdkit_descriptor", descriptor="Kapa2")


# ---- formula


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


def test_a_wrong_molecule_by_hand():
    # C9H8O4 has 21 atoms; caffeine: C -1, O -2, H +2 (sigma 1), all atoms +3 (sigma 2)
    parts = [math.exp(-0.5), math.exp(-2), math.exp(-2), math.exp(-1.125)]
    score = partial(value, "isomer_score", CAFFEINE, formula="C9H8O4")
    assert score() == pytest.approx(math.prod(parts) ** 0.25, abs=1e-12)
    assert score(mean="arithmetic") == pytest.approx(sum(parts) / 4, abs=1e-12)
    # C2H6O for C2H6: an element that the formula lacks counts in the total; sigma 2; three parts
    ethane = value("isomer_score", "CCO", formula="C2H6")
    assert ethane == pytest.approx(math.exp(-1 / 8 / 3), abs=1e-12)
    assert value("formula_match", "CCO", formula="C2H6") == 0


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("", "is not a molecular formula"),
        ("C7 H8", "is not a molecular formula"),
        ("C5H12NO+", "no charge, isotope, bracket or blank"),
        ("c6h6", "is not a molecular formula"),
        ("C\uff16", "is not a molecular formula"),  # a full-width digit
        ("C6H6Xx", "'C6H6Xx': Xx is not the symbol of an element"),
        ("D2O", "D is not the symbol of an element"),
        ("C0H4", "C0 should be between 1 and a million"),
        ("C99999999999999999999", "should be between 1 and a million"),
    ],
)
@pytest.mark.parametrize("kind", ["isomer_score", "formula_match"])
def test_a_formula_that_is_none_is_refused(kind, formula, message):
    with pytest.raises(InputError, match=message):
        build(kind, formula=formula)
