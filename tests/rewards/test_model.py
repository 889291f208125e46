"""A reward from end to end: whatever stands in a list of SMILES is a row beside its own scores."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from building import mol, reward_of
from rdkit import Chem
from rdkit.Chem import QED, Crippen
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.chem import scaffolds
from chemkl.config import InputError
from chemkl.rewards import RewardModel, scoring
from chemkl.rewards.scoring import AGGREGATES

QED_LOGP = {
    "components": [
        {"kind": "qed", "weight": 2},
        {"kind": "logp", "transform": {"kind": "sigmoid", "low": 0, "high": 4, "k": 0.4}},
    ]
}
COLUMNS = [
    *("smiles", "canonical_smiles", "valid", "reason", "scaffold"),
    *("raw_qed", "score_qed", "raw_logp", "score_logp", "reward"),
]
GOOD = [
    *("OCC", "c1ccccc1C(=O)O", "CCO", "[Na+].[Cl-]", "N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O"),
    *("[2H]C([2H])[2H]", "[CH2]C", "C" * 300, "*CC", "CC(=O)[O-].[Na+]", "C[CH]C", "[13CH3][2H]"),
    *("F/C=C\\F", "C[N+](C)(C)C", "[Cu+2]", "[H][H]", "[#118]", "C[CH3:999]"),
]
BAD = {
    "": "empty",
    " ": "whitespace: ' ' at position 1",
    "CCé": "not ASCII: 'é' at position 3",
    "CC ethane": "whitespace: ' ' at position 3",
    "C(C)(C)(C)(C)C": "not sane",
    "c1cccc1": "not sane",
    "C1CC": "not parsable: unclosed ring 1 opened at position 2",
    "C" * 501: "too many atoms: 501, at most 500",
    "C" * 100_000: "too long: 100000 characters, at most 5000",
    "CC>>CO": "not parsable",
    "[#119]": "not parsable: a number too large in the bracket at position 1",
    "Cc1ccc2nc(C)=n(C)c12": "not readable again: RDKit writes CC1=c2c(nc(C)n2C)",
    "C\0C": "whitespace: '\\x00' at position 2",
}
BATCH = [smiles for pair in zip([*BAD, *BAD], GOOD, strict=False) for smiles in pair]


def by_hand(smiles):
    """The reward of QED_LOGP, written out."""
    logp_score = 1 / (1 + 10 ** (-10 * 0.4 * (Crippen.MolLogP(mol(smiles)) - 2) / 4))
    return (QED.qed(mol(smiles)) ** 2 * logp_score) ** (1 / 3)


def test_every_row_against_rdkit():
    frame = RewardModel.from_config(QED_LOGP).score(BATCH)
    assert frame.columns.tolist() == COLUMNS
    assert frame["smiles"].tolist() == BATCH  # rows in input order, none shifted
    for row in frame.itertuples():
        if row.smiles in BAD:
            assert row.reason.startswith(BAD[row.smiles])
            assert (row.valid, row.reward) == (False, 0.0)
            missing = [*("canonical_smiles", "scaffold"), *COLUMNS[5:9]]
            assert all(pd.isna(getattr(row, column)) for column in missing)
            continue
        assert row.valid
        assert pd.isna(row.reason)
        read = mol(row.smiles)
        assert row.canonical_smiles == Chem.MolToSmiles(read)  # with isotopes, charges, stereo
        assert row.scaffold == MurckoScaffold.MurckoScaffoldSmiles(mol=read)
        assert row.raw_qed == pytest.approx(QED.qed(read), abs=1e-12)
        assert row.raw_logp == pytest.approx(Crippen.MolLogP(read), abs=1e-9)
        assert row.reward == pytest.approx(by_hand(row.smiles), abs=1e-9)


@pytest.mark.parametrize("batch", [[], ["C1CC", "", "x"], ["CCO"], ["CCO", "x"]])
def test_types_do_not_depend_on_the_batch(batch):
    reward = RewardModel.from_config(QED_LOGP)
    frame = reward.score(batch)
    assert frame.columns.tolist() == reward.columns == COLUMNS
    assert frame.dtypes.equals(reward.score(["CCO", "x"]).dtypes)
    assert frame.dtypes["valid"] == np.dtype(bool)
    assert frame.dtypes["reward"] == frame.dtypes["raw_qed"] == np.dtype("float64")
    assert frame.dtypes["smiles"] == frame.dtypes["reason"] == "str"
    assert frame.index.tolist() == list(range(len(batch)))


def test_what_a_caller_does_to_a_frame_is_not_remembered():
    reward = RewardModel.from_config(QED_LOGP)
    frame = reward.score(["CCO"])
    paid = frame.loc[0, "reward"]
    frame["reward"] = frame["raw_qed"] = 0.0  # a penalty of some filter
    assert reward.score(["CCO"]).loc[0, "reward"] == paid > 0


def test_bit_equal_in_any_order_spelling_and_history():
    spellings = ["c1ccc(cc1)C(=O)NCCN(CC)CC", "CCN(CC)CCNC(=O)c1ccccc1", "O=C(c1ccccc1)NCCN(CC)CC"]
    rewards = set()
    for start in range(3):
        reward = RewardModel.from_config(QED_LOGP)
        rewards |= set(reward.score(spellings[start:] + spellings[:start])["reward"])
    assert len(rewards) == 1
    forward = RewardModel.from_config(QED_LOGP).score(BATCH)
    backward = RewardModel.from_config(QED_LOGP).score(BATCH[::-1])[::-1].reset_index(drop=True)
    pd.testing.assert_frame_equal(forward, backward, check_exact=True)


def fails_on_oxygen(mol):
    if mol.HasSubstructMatch(Chem.MolFromSmarts("[#8]")):
        raise RuntimeError("no\noxygen, please")
    return 0.25


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_all_components_failed_is_never_a_reward(register, aggregate):
    wrong = {"nothing": math.nan, "endless": math.inf, "none": None}
    for kind, answer in wrong.items():
        register(kind, lambda _, answer=answer: answer)
    register("picky", fails_on_oxygen)
    kinds = ["picky", *wrong]
    row = reward_of(*kinds, aggregate=aggregate).score(["CCO"]).loc[0]
    assert row["valid"]
    assert row["reward"] == 0.0
    assert all(math.isnan(row[f"{part}_{kind}"]) for kind in kinds for part in ("raw", "score"))
    assert row["reason"].split("; ") == [
        "component picky failed: no oxygen, please",
        "component nothing failed: it returned nan",
        "component endless failed: it returned inf",
        "component none failed: it returned None, not a number",
    ]


@pytest.mark.parametrize("value", [-0.001, 1.001, 7.0])
def test_a_score_outside_0_and_1_is_a_failure_not_a_reward(register, value):
    register("liar", lambda _: value)  # it promised 0 to 1
    row = reward_of("liar").score(["CCO"]).loc[0]
    assert (row["raw_liar"], row["reward"]) == (value, 0.0)
    assert math.isnan(row["score_liar"])
    assert row["reason"] == f"component liar failed: score {value:g} is not between 0 and 1"


@pytest.mark.parametrize(
    ("place", "name", "reason"),
    [
        (scaffolds, "_murcko", "scaffold failed: Invariant"),
        (scoring, "parse", "canonical SMILES cannot be read back"),
    ],
)
def test_what_rdkit_cannot_do_costs_its_molecule_only(monkeypatch, place, name, reason):
    def refuse(_mol, **_options):
        if name == "_murcko":
            raise RuntimeError("Invariant")

    monkeypatch.setattr(place, name, refuse)
    row = reward_of("qed").score(["CCO"]).loc[0]
    assert (row["reason"], row["reward"]) == (reason, 0.0)
    assert pd.isna(row["scaffold"])


def test_size_limit_is_a_setting():
    frame = reward_of("qed", max_atoms=3).score(["CCO", "CCCO"])
    assert frame["valid"].tolist() == [True, False]
    assert frame.loc[1, "reason"] == "too many atoms: 4, at most 3"


def test_any_iterable_of_strings_but_nothing_else():
    reward = RewardModel.from_config(QED_LOGP)
    expected = reward.score(["CCO", "CC"])
    for batch in (("CCO", "CC"), iter(["CCO", "CC"]), pd.Series(["CCO", "CC"], index=[7, 3])):
        pd.testing.assert_frame_equal(reward.score(batch), expected)
    with pytest.raises(InputError, match="a list of SMILES, not one string"):
        reward.score("CCO")
    with pytest.raises(InputError, match="SMILES 1 is not a string: None"):
        reward.score(["CCO", None])


def test_text_that_no_file_can_hold_is_one_invalid_row():
    frame = RewardModel.from_config(QED_LOGP).score(["CCO", "C\udc80"])
    assert frame["smiles"].tolist() == ["CCO", r"C\udc80"]
    assert frame["valid"].tolist() == [True, False]
    assert frame.loc[1, "reason"] == r"not ASCII: '\udc80' at position 2"


def test_nothing_is_logged_and_torch_stays_away():
    program = """
import sys
from chemkl.rewards import RewardModel
every = [
    {"kind": "qed"},
    {"kind": "sa_score", "transform": {"kind": "reverse_sigmoid", "low": 1, "high": 9}},
    {"kind": "tanimoto", "parameters": {"references": ["CCO"]}},
    {"kind": "required_smarts", "parameters": {"smarts": ["C"]}},
]
batch = ["CCO", "C1CC", "[H]", "c1cccc1", "CN(C)(C)C"]
frame = RewardModel.from_config({"components": every}).score(batch)
assert frame["valid"].sum() == 2, frame
assert not {"torch", "lightning", "sklearn", "skops", "onnxruntime"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
