import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdBase

from chemkl.chem.molecules import MoleculeError, randomise
from chemkl.config import InputError

CELECOXIB = "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1"


@pytest.mark.parametrize(
    "smiles",
    [
        CELECOXIB,
        "C[C@H](N)C(=O)O",
        "F/C=C/[C@@H]1CC[C@H](O)C1",
        "[Na+].[O-]C(=O)c1ccccc1",
        "[2H]C([13CH3])O",
        "C",
    ],
)
def test_another_spelling_of_the_same_molecule(smiles):
    generator = np.random.default_rng(1)
    for _ in range(50):
        assert Chem.CanonSmiles(randomise(smiles, generator)) == Chem.CanonSmiles(smiles)


def test_the_generator_decides():
    draw = [randomise(CELECOXIB, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert draw[0] == draw[1] != draw[2]
    generator = np.random.default_rng(0)
    assert (
        len({randomise(CELECOXIB, generator) for _ in range(100)}) > 50
    )  # of the many spellings, one is often drawn twice


def test_rdkits_shared_seed_plays_no_part():
    rdBase.SeedRandomNumberGenerator(1)
    first = randomise(CELECOXIB, np.random.default_rng(0))
    Chem.MolToSmiles(Chem.MolFromSmiles(CELECOXIB), doRandom=True)
    assert randomise(Chem.MolFromSmiles(CELECOXIB), np.random.default_rng(0)) == first


def test_a_string_that_is_no_molecule_is_named():
    with pytest.raises(InputError, match="'C1' is not a molecule"):
        randomise("C1", np.random.default_rng(0))


def test_a_molecule_that_cannot_be_written_is_told_apart(monkeypatch):
    def fails(*_):
        raise RuntimeError("made up")

    mol = Chem.MolFromSmiles("CCO")
    monkeypatch.setattr(Chem, "RenumberAtoms", fails)
    with pytest.raises(MoleculeError, match=r"^random spelling failed: made up$"):
        randomise(mol, np.random.default_rng(0))
