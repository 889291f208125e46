"""Bulk properties and graph indices against published values and derivations by hand."""

import math

import pytest
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors

from chemkl.config import InputError
from chemkl.rewards import RewardModel
from chemkl.rewards.registry import find_component

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
CAFFEINE = "Cn1cnc2c1c(=O)n(C)c(=O)n2C"
CYCLODODECANE = "C1CCCCCCCCCCC1"
SALT = "CC(=O)[O-].[Na+]"
HEAVY_WATER = "[2H]O[2H]"


def value(kind, smiles, **parameters):
    return find_component(kind).build(parameters)(Chem.MolFromSmiles(smiles))


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
        ("exact_mass", ASPIRIN, 180.042259),  # PubChem CID 2244
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


def test_what_an_index_cannot_be_for_is_a_reason_and_not_a_number():
    transform = {"kind": "sigmoid", "low": 1, "high": 3}
    model = RewardModel.from_config({"components": [{"kind": "balaban_j", "transform": transform}]})
    (row,) = model.score([SALT]).to_dict("records")
    assert math.isnan(row["raw_balaban_j"])
    assert "needs one connected molecule, not 2 fragments" in row["reason"]
    assert row["reward"] == 0


def test_penalized_logp_takes_off_large_rings():
    sa_score = find_component("sa_score").build({})
    for smiles, atoms_beyond_six in [(CYCLODODECANE, 6), (CAFFEINE, 0), ("CCO", 0)]:
        mol = Chem.MolFromSmiles(smiles)
        expected = Crippen.MolLogP(mol) - sa_score(mol) - atoms_beyond_six
        assert value("penalized_logp", smiles) == pytest.approx(expected, abs=1e-12)


def test_any_descriptor_of_rdkit():
    for name in ("MolWt", "Kappa2", "BCUT2D_MWHI"):
        expected = getattr(Descriptors, name)(Chem.MolFromSmiles(ASPIRIN))
        assert value("rdkit_descriptor", ASPIRIN, descriptor=name) == expected
    with pytest.raises(InputError, match="RDKit has no descriptor 'Kapa2'; did you mean 'Kappa2'"):
        find_component("rdkit_descriptor").build({"descriptor": "Kapa2"})


def test_each_row_of_a_table_is_a_component_of_its_module():
    component = find_component("exact_mass")
    assert component.factory.__doc__.startswith("Mass of the molecule")
    assert component.factory.__module__ == "chemkl.rewards.components.physchem"
    with pytest.raises(InputError, match="exact_mass takes no parameters"):
        component.build({"hydrogens": True})
