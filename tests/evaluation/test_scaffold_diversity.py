import math

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.evaluation import from_smiles
from chemkl.evaluation.scaffolds import gini, scaffold_counts, scaffold_diversity

BENZENES = ["Cc1ccccc1", "CCc1ccccc1"]  # one scaffold, twice
OTHERS = ["Cc1ccccn1", "CC1CCCCC1"]  # pyridine, cyclohexane
ACYCLIC = ["CCO", "CCN"]


def described(smiles):
    return scaffold_diversity(from_smiles("x", smiles).molecules)


def test_counts_entropy_and_concentration_by_hand():
    values = described(BENZENES + OTHERS)
    entropy = 1.5 * math.log(2)  # shares 1/2, 1/4, 1/4
    assert values["murcko"] == 3
    assert values["generic"] == 1  # all are a six-membered carbon ring
    assert values["acyclic"] == 0
    assert values["scaffold_entropy"] == pytest.approx(entropy)
    assert values["scaffold_evenness"] == pytest.approx(entropy / math.log(3))
    assert values["effective_scaffolds"] == pytest.approx(2 * math.sqrt(2))
    assert values["top_share"] == 0.5
    # sizes 1, 1, 2: sum_i (2i - 4) x_i = -2 + 0 + 4 = 2, over n sum x = 12
    assert values["gini"] == pytest.approx(1 / 6)


def test_the_empty_scaffold_is_counted_apart_and_enters_nothing():
    values, without = described(BENZENES + OTHERS + ACYCLIC), described(BENZENES + OTHERS)
    assert values.pop("acyclic") == 2
    without.pop("acyclic")
    assert values == without
    assert "" not in scaffold_counts(from_smiles("x", ACYCLIC).molecules)


def test_acyclic_molecules_alone_have_no_scaffold_metrics():
    values = described(ACYCLIC)
    assert (values["murcko"], values["generic"], values["acyclic"]) == (0, 0, 2)
    for name in ("scaffold_entropy", "scaffold_evenness", "effective_scaffolds", "top_share"):
        assert values[name] is None
    assert values["gini"] is None


def test_one_scaffold_is_one_effective_scaffold():
    values = described(BENZENES)
    assert values["scaffold_entropy"] == 0
    assert values["scaffold_evenness"] is None
    assert values["effective_scaffolds"] == 1
    assert values["top_share"] == 1
    assert values["gini"] == 0


def test_scaffolds_of_real_molecules_against_rdkit(real_smiles):
    values = described(real_smiles)
    murcko, generic = set(), set()
    for mol in map(Chem.MolFromSmiles, real_smiles):
        scaffold = MurckoScaffold.GetScaffoldForMol(mol)
        murcko.add(Chem.MolToSmiles(scaffold))
        again = MurckoScaffold.GetScaffoldForMol(MurckoScaffold.MakeScaffoldGeneric(scaffold))
        generic.add(Chem.MolToSmiles(again))
    assert values["murcko"] == len(murcko - {""})
    assert values["generic"] == len(generic - {""})


def test_gini_against_the_mean_absolute_difference():
    sizes = np.random.default_rng(0).integers(1, 50, size=30).astype(float)
    differences = np.abs(sizes[:, None] - sizes[None, :]).mean()
    assert gini(sizes) == pytest.approx(differences / (2 * sizes.mean()))
