"""Whatever stands in a list of SMILES: a row each, beside its own scores, never a crash."""

import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors

from chemkl.rewards import RewardModel

REWARD = {
    "components": [
        {"kind": "mol_wt", "transform": {"kind": "linear_clip", "low": 0, "high": 10_000}},
        {"kind": "forbidden_smarts", "role": "filter", "parameters": {"smarts": "[#35]"}},
    ]
}
GOOD = {
    "300 atoms": "C" * 300,
    "salt": "CC(=O)[O-].[Na+]",
    "radical": "C[CH]C",
    "isotope": "[13CH3][2H]",
    "stereo": "N[C@@H](C)C(=O)O",
    "other enantiomer": "N[C@H](C)C(=O)O",
    "cis": "F/C=C\\F",
    "charge": "C[N+](C)(C)C",
    "metal": "[Cu+2]",
    "dummy": "*C",
    "hydrogen": "[H][H]",
    "last element": "[#118]",
    "map number": "C[CH3:999]",
}
BAD = {
    "empty": ("", "empty"),
    "blank": (" ", "whitespace: ' ' at position 1"),
    "non-ASCII": ("CCé", "not ASCII: 'é' at position 3"),
    "text behind": ("CC ethane", "whitespace: ' ' at position 3"),
    "valence": ("C(C)(C)(C)(C)C", "not sane"),
    "aromaticity": ("c1cccc1", "not sane"),
    "syntax": ("C1CC", "not parsable: unclosed ring 1 opened at position 2"),
    "501 atoms": ("C" * 501, "too many atoms: 501, at most 500"),
    "endless": ("C" * 100_000, "too long: 100000 characters, at most 5000"),
    "reaction": ("CC>>CO", "not parsable"),
    "no element": ("[#119]", "not parsable: a number too large in the bracket at position 1"),
    "no way back": ("Cc1ccc2nc(C)=n(C)c12", "not readable again: RDKit writes CC1=c2c(nc(C)n2C)"),
    "NUL": ("C\0C", "whitespace: '\\x00' at position 2"),
}


@pytest.mark.parametrize("smiles", GOOD.values(), ids=GOOD)
def test_unusual_molecules_are_molecules(smiles):
    row = RewardModel.from_config(REWARD).score([smiles]).loc[0]
    mol = Chem.MolFromSmiles(smiles)
    assert row["valid"]
    assert row["canonical_smiles"] == Chem.MolToSmiles(mol)  # with isotopes, charges and stereo
    assert row["raw_mol_wt"] == Descriptors.MolWt(mol)
    assert row["reward"] == pytest.approx(Descriptors.MolWt(mol) / 10_000, abs=1e-12)


def test_enantiomers_and_isotopologues_are_molecules_of_their_own():
    frame = RewardModel.from_config(REWARD).score([GOOD["stereo"], GOOD["other enantiomer"]])
    assert frame["canonical_smiles"].nunique() == 2


@pytest.mark.parametrize(("smiles", "reason"), BAD.values(), ids=BAD)
def test_bad_strings_are_rows_with_a_reason(smiles, reason):
    row = RewardModel.from_config(REWARD).score([smiles]).loc[0]
    assert not row["valid"]
    assert row["reason"].startswith(reason)
    assert row["reward"] == 0.0


def test_rows_never_shift_whatever_stands_between_them():
    """Scores beside the wrong molecule come from filtering one list and not its neighbour."""
    bad = [smiles for smiles, _ in BAD.values()]
    mixed = [s for pair in zip(bad, GOOD.values(), strict=True) for s in (*pair, "CBr", *pair)]
    frame = RewardModel.from_config(REWARD).score(mixed)
    assert frame["smiles"].tolist() == mixed
    for row in frame.itertuples():
        expected = 0.0
        if row.smiles in GOOD.values():
            expected = Descriptors.MolWt(Chem.MolFromSmiles(row.smiles)) / 10_000
        assert row.reward == pytest.approx(expected, abs=1e-12), row.smiles


@pytest.mark.parametrize("batch", [[], [""], ["", "C1CC", "é"]])
def test_a_batch_without_one_molecule(batch):
    frame = RewardModel.from_config(REWARD).score(batch)
    assert len(frame) == len(batch)
    assert (frame["reward"] == 0).all()
