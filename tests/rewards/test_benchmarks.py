"""Shipped rewards: presets load and score, benchmark tasks score like the benchmarks' own code.

The golden values come from guacamol 0.5.5: standard_benchmarks.py and what it imports, run under
RDKit 2026.09.1 on the canonical SMILES. The oracles of PyTDC 1.1.15 gave the same numbers for every
task of PMO.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from building import CELECOXIB, mol, value
from rdkit import Chem
from rdkit.Chem import QED, Lipinski

from chemkl.rewards import RewardModel
from chemkl.rewards.components import published_models

FOLDER = Path(__file__).parents[2] / "configs" / "rewards"
TARGETS = ["drd2", "gsk3b", "jnk3"]
# the tasks of arXiv 2206.12411
_PMO = """
    albuterol_similarity amlodipine_mpo celecoxib_rediscovery deco_hop drd2 fexofenadine_mpo gsk3b
    isomers_c7h8n2o2 isomers_c9h10n2o2pf2cl jnk3 median1 median2 mestranol_similarity
    osimertinib_mpo perindopril_mpo qed ranolazine_mpo scaffold_hop sitagliptin_mpo
    thiothixene_rediscovery troglitazone_rediscovery valsartan_smarts zaleplon_mpo
"""
# GuacaMol's goal-directed tasks, version 2
_GUACAMOL = """
    celecoxib_rediscovery troglitazone_rediscovery thiothixene_rediscovery aripiprazole_similarity
    albuterol_similarity mestranol_similarity isomers_c11h24 isomers_c9h10n2o2pf2cl median1 median2
    osimertinib_mpo fexofenadine_mpo ranolazine_mpo perindopril_mpo amlodipine_mpo sitagliptin_mpo
    zaleplon_mpo valsartan_smarts deco_hop scaffold_hop
"""
PMO, GUACAMOL = _PMO.split(), _GUACAMOL.split()
GOLDEN = dict(list(pd.read_csv(Path(__file__).with_name("golden_molecules.csv")).groupby("task")))
TASKS = [(folder, task) for folder, tasks in [("pmo", PMO), ("guacamol", GUACAMOL)]
         for task in tasks if task in GOLDEN]  # fmt: skip


def content(folder, task):
    return yaml.safe_load((FOLDER / folder / f"{task}.yaml").read_text())


def test_each_benchmark_is_complete_and_both_define_a_task_alike():
    assert (len(PMO), len(GUACAMOL)) == (23, 20)
    for folder, tasks in [("pmo", PMO), ("guacamol", GUACAMOL), ("synth", TARGETS)]:
        assert {file.stem for file in (FOLDER / folder).iterdir()} == set(tasks)
    assert set(GOLDEN) == {*PMO, *GUACAMOL} - {"qed", *TARGETS}
    for task in {*PMO} & {*GUACAMOL}:
        assert content("pmo", task) == content("guacamol", task)


@pytest.mark.parametrize(("folder", "task"), TASKS)
def test_golden_molecules_score_as_in_guacamol(folder, task):
    smiles, rewards = GOLDEN[task]["smiles"].tolist(), GOLDEN[task]["reward"].tolist()
    frame = RewardModel.from_config(FOLDER / folder / f"{task}.yaml").score(smiles)
    assert frame["reward"].tolist() == pytest.approx(rewards, abs=1e-6)
    assert frame["reason"].isna().all()
    assert max(rewards) > 0.3  # some molecule meets all parts of the task
    parts = content(folder, task)["components"]
    patterns = [smarts for part in parts for smarts in part.get("parameters", {}).get("smarts", [])]
    assert bool(patterns) == (task in {"deco_hop", "scaffold_hop", "valsartan_smarts"})
    for smarts in patterns:
        assert smarts.isascii()
        pattern = Chem.MolFromSmarts(smarts)
        assert {mol(text).HasSubstructMatch(pattern) for text in smiles} == {True, False}


class Even:
    """A classifier with the same probability for every molecule."""

    def probability(self, mols):
        return np.full(len(mols), 0.49)


@pytest.mark.parametrize("target", TARGETS)
def test_synth_by_hand_and_pmo_is_the_probability_itself(target, monkeypatch):
    targets = []
    monkeypatch.setattr(
        published_models, "load_classifier", lambda name, _: targets.append(name) or Even()
    )
    easy = 1 / (1 + 10 ** (10 * 0.25 * (value("sa_score", CELECOXIB) - 3.5) / 2))
    synth = RewardModel.from_config(FOLDER / "synth" / f"{target}.yaml")
    rewards = synth.score([CELECOXIB, "OCC(O)C(O)CO"])["reward"].tolist()  # one donor, and four
    expected = (0.49 * QED.qed(mol(CELECOXIB)) * 1 * easy) ** (1 / 4)
    assert rewards == pytest.approx([expected, 0.0], abs=1e-12)
    pmo = RewardModel.from_config(FOLDER / "pmo" / f"{target}.yaml")
    assert pmo.score(["CCO"]).loc[0, "reward"] == 0.49
    assert targets == [target, target]


# ---- presets


def slow_if_it_docks(file):
    """A docking takes a minute a molecule, or more."""
    return pytest.param(file, marks=pytest.mark.slow if file.stem.startswith("docking") else ())


@pytest.mark.parametrize(
    "file", [*map(slow_if_it_docks, sorted(FOLDER.glob("*.yaml")))], ids=lambda file: file.stem
)
def test_a_preset_loads_and_scores(file):
    settings = yaml.safe_load(file.read_text())
    if "executor" in settings:  # of a cluster: scored in this process
        settings |= {"executor": {"kind": "process"}, "workers": 1, "cache": None}
        file = settings
    frame = RewardModel.from_config(file).score([CELECOXIB, "C1CC", "O=C(Nc1ccccc1)N1CCOCC1"])
    assert frame["valid"].tolist() == [True, False, True]
    assert frame.loc[1, "reward"] == 0.0
    assert frame.loc[[0, 2], "reward"].between(0.01, 1).all()


def test_celecoxib_is_like_celecoxib():
    reward = RewardModel.from_config(FOLDER / "celecoxib_like.yaml")
    frame = reward.score([CELECOXIB, "NC(=O)c1ccccc1", "OCC(O)C(O)CO"])
    assert frame.loc[0, "raw_celecoxib"] == 1.0
    assert frame["reward"].tolist() == sorted(frame["reward"], reverse=True)
    assert frame.loc[2, "reward"] == 0.0  # four donors


def test_screened_lead_has_filters_and_a_penalty():
    chains = [f"c1ccccc1{'C' * n}" for n in (6, 9, 11, 14)]
    reward = RewardModel.from_config(FOLDER / "screened_lead.yaml")
    frame = reward.score([*chains, "O=Cc1ccccc1", "CCC", "CC=O"])
    joined = (frame["score_qed"] ** 2 * frame["score_sa_score"]) ** (1 / 3)
    # a chain of n carbons on benzene has n - 1 rotatable bonds: the last one only turns a methyl
    assert [Lipinski.NumRotatableBonds(mol(smiles)) for smiles in chains] == [5, 8, 10, 13]
    expected = joined[:4] * [1, 4 / 6, 2 / 6, 0]
    assert frame["reward"][:4].tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    assert frame["reason"].fillna("").tolist()[4:] == [
        "filter reactive failed",
        "filter rings failed",
        "filter reactive failed; filter rings failed",
    ]
