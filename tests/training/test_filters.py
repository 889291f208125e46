"""Diversity filters: what they pay, exactly, and in which order."""

import math
import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from scipy import special

from chemkl.config import InputError, load_config
from chemkl.config.objective import FILTERS
from chemkl.config.posttrain import PosttrainConfig
from chemkl.training import filters as filters_module
from chemkl.training.filters import BUCKETS, Spheres, build_filter

SAMPLE = Path(__file__).parents[2] / "data/moses_sample.smi"


def scaffold_rows(pairs):
    """Rows of (scaffold, reward); None stands for an invalid row."""
    rows = pd.DataFrame(pairs, columns=["scaffold", "reward"])
    return rows.assign(canonical_smiles=rows["scaffold"].replace({"": "C"}))


def rows_of(smiles, rewards=0.9):
    """Rows of molecules, with their scaffolds as RDKit gives them."""
    mols = [Chem.MolFromSmiles(text) for text in smiles]
    columns = {
        "canonical_smiles": [Chem.MolToSmiles(mol) for mol in mols],
        "scaffold": [MurckoScaffold.MurckoScaffoldSmiles(mol=mol) for mol in mols],
        "reward": rewards,
    }
    return pd.DataFrame(columns)


def the_filter(kind, **settings):
    return build_filter(FILTERS[kind](kind=kind, **settings))


def murcko(bucket, min_score):
    return the_filter("murcko", bucket=bucket, min_score=min_score)


@pytest.mark.parametrize(
    ("bucket", "min_score", "pairs", "paid"),
    [
        # a bucket of 10 pays exactly 10 of 40 molecules in one batch
        (10, 0.4, [("c1ccccc1", 0.9)] * 40, [0.9] * 10 + [0.0] * 30),
        # each scaffold has its bucket, and the acyclic molecules share one
        (1, 0.4, [("C1CC1", 0.8), ("", 0.8), ("C1CCC1", 0.8), ("", 0.7), ("C1CC1", 0.6)],
         [0.8, 0.8, 0.8, 0.0, 0.0]),
        # rewards below the minimum are neither counted nor changed
        (1, 0.4, [("C1CC1", 0.39), ("C1CC1", 0.4), ("C1CC1", 0.39), ("C1CC1", 0.4)],
         [0.39, 0.4, 0.39, 0.0]),
        # rows without a scaffold have no bucket
        (1, 0.0, [(None, 0.0), (np.nan, 0.0), ("C1CC1", 0.9), (None, 0.0)], [0.0, 0.0, 0.9, 0.0]),
        # the same molecule again counts again
        (2, 0.4, [("C1CC1", 0.9)] * 3, [0.9, 0.9, 0.0]),
    ],
)  # fmt: skip
def test_a_bucket_pays_so_many_molecules(bucket, min_score, pairs, paid):
    batch = scaffold_rows(pairs)
    assert murcko(bucket, min_score)(batch).tolist() == paid
    assert batch["reward"].tolist() == [reward for _, reward in pairs]  # raw rewards stay


def test_without_repeats_a_molecule_is_paid_and_counted_once():
    smiles = [BENZENE, BENZENE, "CCc1ccccc1", "CCC", BENZENE, "CCC", "CCCc1ccccc1"]
    batch = rows_of(smiles, [0.9, 0.9, 0.8, 0.1, 0.9, 0.1, 0.7])
    batch["repeat"] = batch["canonical_smiles"].duplicated()  # as the ledger says
    once = the_filter("murcko", bucket=2, min_score=0.4, floor=0.5, repeats=False)
    assert once(batch).tolist() == [0.9, 0.0, 0.8, 0.1, 0.0, 0.0, 0.35]
    assert once(batch.assign(repeat=True)).tolist() == [0.0] * 7


def test_a_repeat_belongs_to_its_bucket_without_counting():
    once = the_filter("murcko", bucket=1, repeats=False)
    once(rows_of([BENZENE, "CCc1ccccc1"]).assign(repeat=False))
    assert once.bucket_number("CCCc1ccccc1") == 0
    assert once(rows_of(["CCCc1ccccc1"]).assign(repeat=True)).tolist() == [0.0]
    numbers = [once.bucket_number(smiles) for smiles in (BENZENE, "CCCc1ccccc1")]
    assert once.shares(np.array(numbers)).tolist() == [0.0, 0.0]
    assert once(rows_of([PYRIDINE]).assign(repeat=True)).tolist() == [0.0]
    number = np.array([once.bucket_number(PYRIDINE)])
    assert once.shares(number).tolist() == [1.0]  # its bucket is as good as new
    assert once(rows_of(["CCc1ccccn1"]).assign(repeat=False)).tolist() == [0.9]  # not counted
    once(rows_of(["CCCc1ccccn1"]).assign(repeat=False))
    assert once.shares(number).tolist() == [0.0]


# ---- each kind


PYRIDINE, BENZENE, CYCLOHEXANE = "Cc1ccccn1", "Cc1ccccc1", "CC1CCCCC1"
KINDS = [
    # the filter, molecules in order, and which of them it pays
    ("murcko", {"bucket": 1}, [BENZENE, PYRIDINE, "CCc1ccccc1", "CCO", "CCN"], [1, 1, 0, 1, 0]),
    ("generic", {"bucket": 1}, [BENZENE, PYRIDINE, CYCLOHEXANE, "CCO", "CCN"], [1, 0, 0, 1, 0]),
    ("generic", {"bucket": 2}, ["O=C1CCCCC1", BENZENE, PYRIDINE, "C1CC1"], [1, 1, 0, 1]),
    ("scaffold_similarity", {"bucket": 1}, ["Cc1ccc2ccccc2c1", "Cc1ccc2ncccc2c1", "C1CC1", "CCO",
                                            "CCN"], [1, 0, 1, 1, 0]),
    ("scaffold_similarity", {"bucket": 1, "distance": 0.1}, [BENZENE, PYRIDINE, "Oc1ccccc1"],
     [1, 1, 0]),
    ("molecule_similarity", {}, ["CCCCCCO", "CCCCCCCO", "c1ccncc1", "CCCCCCO"], [1, 0, 1, 0]),
    ("molecule_similarity", {"bucket": 2}, ["CCCCCCO", "CCCCCCCO", "c1ccncc1", "CCCCCCO"],
     [1, 1, 1, 0]),
    ("molecule_similarity", {"distance": 0.1}, ["CCCCCCO", "CCCCCCO", "OCCCCCC", "CCO"],
     [1, 0, 0, 1]),
    ("same_smiles", {}, ["CCO", "OCC", "CCN", "C[C@H](F)O", "C[C@@H](F)O"], [1, 0, 1, 1, 1]),
    ("same_smiles", {"bucket": 2, "floor": 0.5}, ["CCO", "OCC", "CCO", "C(O)C"], [1, 1, 0.5, 0.5]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "smiles", "paid"), KINDS)
def test_each_kind_pays_a_bucket_of_similar_molecules(kind, settings, smiles, paid):
    rows = rows_of(smiles)
    assert the_filter(kind, **settings)(rows).tolist() == [0.9 * share for share in paid]
    assert rows["reward"].tolist() == [0.9] * len(smiles)


@pytest.mark.parametrize(("kind", "settings", "smiles", "paid"), KINDS)
def test_the_next_share_is_what_will_be_paid_and_counts_nothing(kind, settings, smiles, paid):
    diversity_filter, shares = the_filter(kind, **settings), []
    for text in smiles:
        canonical = Chem.CanonSmiles(text)
        shares.append([diversity_filter.next_share(canonical) for _ in range(3)])
        diversity_filter(rows_of([text]))
    assert shares == [[pytest.approx(share)] * 3 for share in paid]


def test_every_kind_has_a_row_above():
    assert {kind for kind, *_ in KINDS} == set(FILTERS) == set(BUCKETS)


@pytest.fixture(scope="module")
def molecules():
    """300 molecules in a drawn order, 30 of them about five times, with rewards."""
    rng = random.Random(1)
    smiles = rng.sample(SAMPLE.read_text().split()[1:], 180)
    smiles = [*smiles, *rng.choices(smiles[:30], k=120)]
    rng.shuffle(smiles)
    return rows_of([text for text in smiles if Chem.MolFromSmiles(text)]).assign(
        reward=lambda rows: [rng.random() for _ in range(len(rows))]
    )


@pytest.mark.parametrize("block", [7, 4096])
@pytest.mark.parametrize("distance", [0.4, 0.7, 0.85])
def test_sphere_exclusion_by_hand(molecules, monkeypatch, block, distance):
    """Renz et al. 2024: a hit nearer than D to a paid one gets 0, so paid ones are D apart."""
    monkeypatch.setattr(Spheres, "BLOCK", block)
    filtered = the_filter("molecule_similarity", distance=distance, min_score=0.3)(molecules)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    centres, expected = [], []
    for smiles, reward in zip(molecules["canonical_smiles"], molecules["reward"], strict=True):
        bits = generator.GetFingerprint(Chem.MolFromSmiles(smiles))
        near = [1 - DataStructs.TanimotoSimilarity(bits, other) < distance for other in centres]
        pays = reward < 0.3 or not any(near)
        expected.append(reward if pays else 0.0)
        if reward >= 0.3 and pays:
            centres.append(bits)
    assert filtered.tolist() == expected
    assert 5 < len(centres) < (molecules["reward"] >= 0.3).sum() - 50
    similarities = [DataStructs.TanimotoSimilarity(*pair) for pair in combinations(centres, 2)]
    assert 1 - max(similarities) >= distance


@pytest.mark.parametrize("penalty", ["step", "tanh"])
@pytest.mark.parametrize(("kind", "settings"), [(kind, settings) for kind, settings, *_ in KINDS])
def test_rows_in_batches_are_paid_as_in_one(molecules, kind, settings, penalty):
    given = {"bucket": 3, **settings, "penalty": penalty, "min_score": 0.3}
    whole = the_filter(kind, **given)(molecules)
    parts = the_filter(kind, **given)
    paid = [*parts(molecules[:1]), *parts(molecules[1:140]), *parts(molecules[140:])]
    assert paid == whole.tolist()
    assert (whole < molecules["reward"]).sum() > 5


def test_a_molecule_without_a_fingerprint_has_its_own_sphere(monkeypatch):
    def fails(_):
        raise RuntimeError("made up")

    monkeypatch.setattr(filters_module, "build_fingerprint", lambda _: fails)
    rows = rows_of(["CCO", "CCO", "CCCO"])
    assert the_filter("molecule_similarity")(rows).tolist() == [0.9, 0.0, 0.9]
    rows["scaffold"] = ["c1cc", "c1cc", "c1ccc"]  # scaffolds that are no molecules
    assert the_filter("scaffold_similarity", bucket=1)(rows).tolist() == [0.9, 0.0, 0.9]


def test_the_scaffold_replaces_a_generic_one_that_rdkit_cannot_make():
    hypervalent = "C1CCS12(=O)CCC2"  # five neighbours: it cannot become a carbon
    rows = rows_of([hypervalent, hypervalent, "CC1CCC1"])
    assert the_filter("generic", bucket=1)(rows).tolist() == [0.9, 0.0, 0.9]


# ---- penalties


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        ("step", [1, 1, 1, 1, 0, 0]),
        ("linear", [3 / 4, 2 / 4, 1 / 4, 0, 0, 0]),
        ("sigmoid", [special.expit((1 - n / 2) / 0.15) for n in range(1, 7)]),
        ("tanh", [2 / (1 + math.exp(1.5 * (n - 1))) for n in range(1, 7)]),  # 1 - tanh(x / 2)
        ("erf", [1 - special.erf(math.pi**0.5 * n / 4) + special.erf(math.pi**0.5 / 4)
                 for n in range(1, 7)]),
    ],
)  # fmt: skip
def test_penalties_by_the_published_formulas(penalty, expected):
    rows = rows_of([f"c1ccccc1{'C' * n}" for n in range(6)], 0.8)
    paid = the_filter("murcko", bucket=4, penalty=penalty)(rows)
    assert paid.tolist() == pytest.approx([0.8 * share for share in expected], abs=1e-12)
    floored = the_filter("murcko", bucket=4, penalty=penalty, floor=0.3)(rows)
    assert floored.tolist() == pytest.approx([0.8 * max(s, 0.3) for s in expected], abs=1e-12)


def test_the_minimum_applies_to_the_raw_reward():
    rows = rows_of(["CCO"] * 4, [0.8, 0.8, 0.8, 0.3])  # .6, .4, .2 are paid
    paid = the_filter("same_smiles", bucket=4, penalty="linear", min_score=0.5)(rows)
    assert paid.tolist() == pytest.approx([0.6, 0.4, 0.2, 0.3])


# ---- batches and settings


@pytest.mark.parametrize("cut", [1, 17, 50, 99])
def test_rows_in_two_batches_are_paid_as_in_one(cut):
    rng = random.Random(cut)
    whole = scaffold_rows([(rng.choice(["", "C1CC1", None]), rng.random()) for _ in range(100)])
    parts = murcko(5, 0.3)
    paid = [*parts(whole[:cut]), *parts(whole[cut:])]
    assert paid == murcko(5, 0.3)(whole).tolist()
    assert sum(p == 0.0 for p in paid) > 10


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kind": "murko"}, "'murko' is not known; did you mean 'murcko'? Known: generic, mol"),
        ("bitbirch", "'bitbirch' is not known. Known: generic, "),
        ({"kind": "same_smiles", "bucket": 0}, "bucket: should be greater than or equal to 1"),
        ({"kind": "generic", "min_score": 2}, "min_score: should be less than or equal to 1"),
        ({"kind": "molecule_similarity", "distance": 0}, "distance: should be greater than 0"),
        ({"kind": "scaffold_similarity", "distance": 1.2}, "distance: should be less than or equ"),
        ({"kind": "murcko", "penalty": "soft"}, "penalty: 'soft' is not allowed"),
        ({"kind": "murcko", "floor": 1}, "floor: should be less than 1"),
        ({"kind": "same_smiles", "repeats": False}, "repeats: false pays a molecule once"),
        ({"kind": "murcko", "distance": 0.5}, "distance: not a known key"),
    ],
)
def test_each_mistake_is_one_clear_line(tmp_path, given, says):
    (tmp_path / "prior").write_text("")
    reward, target = {"components": [{"kind": "qed"}]}, {"kind": "gibbs", "beta": 1}
    config = {"prior": str(tmp_path / "prior"), "reward": reward, "target": target}
    with pytest.raises(InputError) as caught:
        load_config(PosttrainConfig, config | {"diversity_filter": given})
    (line,) = str(caught.value).splitlines()
    assert "diversity_filter" in line
    assert says in line


def test_the_identity_of_a_run_has_only_changed_options():
    """Runs of earlier versions, which had no penalty, floor or repeats, go on."""
    plain = FILTERS["murcko"](kind="murcko")
    assert plain.model_dump(mode="json") == {"kind": "murcko", "bucket": 25, "min_score": 0.4}
    soft = FILTERS["murcko"](kind="murcko", penalty="tanh", floor=0.1, repeats=False)
    assert soft.model_dump(mode="json") == soft.model_dump()
    assert FILTERS["murcko"].model_validate(soft.model_dump(mode="json")) == soft
