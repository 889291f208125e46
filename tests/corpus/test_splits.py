import hashlib
from collections import defaultdict

import pytest
from pydantic import ValidationError
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.config.prepare import GivenSplit, HashSplit, PrepareConfig
from chemkl.corpus.cleaning import Cleaner, assign_split
from chemkl.files.molecules import Line

RANDOM = HashSplit(kind="random", test=0.2, valid=0.1, seed=3)
KEYS = [f"molecule {i}" for i in range(20_000)]


def test_the_given_split_is_kept():
    assert assign_split("test_scaffolds", "CC", GivenSplit(kind="given")) == "test_scaffolds"


def test_the_split_is_the_place_of_a_hash_on_the_unit_interval():
    for key in KEYS[:200]:
        digest = hashlib.blake2b(f"3:{key}".encode(), digest_size=8).hexdigest()
        place = int(digest, 16) / 16**16
        expected = "test" if place < 0.2 else "valid" if place < 0.2 + 0.1 else "train"
        assert assign_split("ignored", key, RANDOM) == expected


def test_shares_are_as_asked_for():
    splits = [assign_split("train", key, RANDOM) for key in KEYS]
    # binomial: three standard deviations of 20,000 draws are 0.0085 at p = 0.2
    assert splits.count("test") / len(KEYS) == pytest.approx(0.2, abs=0.0085)
    assert splits.count("valid") / len(KEYS) == pytest.approx(0.1, abs=0.0085)


def test_a_molecule_keeps_its_split_from_version_to_version():
    # places of BLAKE2b("3:<key>"), computed once by hand: .006, .257, .335 and .735
    found = {key: assign_split("train", key, RANDOM) for key in ("CO", "C", "N", "CCO")}
    assert found == {"CO": "test", "C": "valid", "N": "train", "CCO": "train"}


def test_a_larger_share_only_adds_to_a_split():
    larger = HashSplit(kind="random", test=0.3, valid=0.1, seed=3)
    test = {key for key in KEYS if assign_split("", key, RANDOM) == "test"}
    assert test < {key for key in KEYS if assign_split("", key, larger) == "test"}


def test_another_seed_is_another_split():
    other = RANDOM.model_copy(update={"seed": 4})
    moved = [k for k in KEYS if assign_split("", k, RANDOM) != assign_split("", k, other)]
    # two independent draws differ with probability 1 - (.2^2 + .1^2 + .7^2) = .46
    assert len(moved) / len(KEYS) == pytest.approx(0.46, abs=0.011)


@pytest.mark.parametrize(("test", "valid"), [(0, 0), (0.5, 0), (0, 0.5)])
def test_a_share_of_nothing_is_empty(test, valid):
    split = HashSplit(kind="random", test=test, valid=valid)
    found = {assign_split("", key, split) for key in KEYS}
    assert found == {"train"} | ({"test"} if test else set()) | ({"valid"} if valid else set())


@pytest.mark.parametrize(("test", "valid"), [(0.5, 0.5), (0.9, 0.2), (0.99, 0.01)])
def test_shares_that_leave_nothing_to_train_on_are_refused(test, valid):
    with pytest.raises(ValidationError, match=r"leave nothing to train on: together .* below 1"):
        HashSplit(kind="random", test=test, valid=valid)


def cleaned(smiles, kind):
    split = {"kind": kind, "test": 0.3, "valid": 0.2}
    cleaner = Cleaner.from_config(PrepareConfig(source="moses", split=split))
    return cleaner([Line(i, s, "train") for i, s in enumerate(smiles, 1)])


def test_no_scaffold_is_in_two_splits(real_smiles):
    splits = defaultdict(set)
    for clean in cleaned(real_smiles, "scaffold"):
        mol = Chem.MolFromSmiles(clean.smiles)
        Chem.RemoveStereochemistry(mol)
        splits[MurckoScaffold.MurckoScaffoldSmiles(mol=mol)].add(clean.split)
    assert len(splits) > 200
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "valid", "test"}


def test_enantiomers_and_molecules_without_rings_stay_together():
    pairs = ["C[C@H]1CC[C@@H](N)O1", "C[C@@H]1CC[C@H](N)O1"]
    assert len({clean.split for clean in cleaned(pairs, "scaffold")}) == 1
    assert len({clean.split for clean in cleaned(["CCO", "CCN", "CCF", "CC=O"], "scaffold")}) == 1


def test_a_random_split_goes_by_the_canonical_smiles(real_smiles):
    one, other = cleaned(["OCC"], "random") + cleaned(["C(O)C"], "random")
    assert one.split == other.split
    splits = [clean.split for clean in cleaned(real_smiles, "random")]
    assert set(splits) == {"train", "valid", "test"}
