"""The rewards that come with chemkl: presets load and pay, benchmarks pay as their papers' code."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from building import CELECOXIB, mol, value
from golden_molecules import GOLDEN
from rdkit import Chem
from rdkit.Chem import QED

from chemkl.rewards import RewardModel
from chemkl.rewards.components import published_models as activity_room

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
TASKS = [("pmo", task) for task in PMO] + [("guacamol", task) for task in GUACAMOL]


def content(folder, task):
    return yaml.safe_load((FOLDER / folder / f"{task}.yaml").read_text())


def test_each_benchmark_is_complete():
    assert (len(PMO), len(GUACAMOL)) == (23, 20)
    for folder, tasks in [("pmo", PMO), ("guacamol", GUACAMOL), ("synth", TARGETS)]:
        assert {file.stem for file in (FOLDER / folder).iterdir()} == set(tasks)
    assert set(GOLDEN) == {*PMO, *GUACAMOL} - {"qed", *TARGETS}


@pytest.mark.parametrize("task", sorted({*PMO} & {*GUACAMOL}))
def test_both_benchmarks_mean_the_same_by_a_task(task):
    assert content("pmo", task) == content("guacamol", task)


@pytest.mark.parametrize(("folder", "task"), [each for each in TASKS if each[1] in GOLDEN])
def test_golden_molecules_are_paid_as_guacamol_pays_them(folder, task):
    frame = RewardModel.from_config(FOLDER / folder / f"{task}.yaml").score(GOLDEN[task])
    assert frame["reward"].tolist() == pytest.approx(list(GOLDEN[task].values()), abs=1e-6)
    assert frame["reason"].isna().all()
    assert max(GOLDEN[task].values()) > 0.3  # somewhere all parts of the task are met


@pytest.mark.parametrize("task", GOLDEN)
def test_some_golden_molecule_matches_every_pattern(task):
    folder = "pmo" if task in PMO else "guacamol"
    patterns = [
        smarts
        for part in content(folder, task)["components"]
        for smarts in part.get("parameters", {}).get("smarts", [])
    ]
    assert bool(patterns) == (task in {"deco_hop", "scaffold_hop", "valsartan_smarts"})
    mols = [mol(smiles) for smiles in GOLDEN[task]]
    for smarts in patterns:
        assert smarts.isascii()
        found = [one.HasSubstructMatch(Chem.MolFromSmarts(smarts)) for one in mols]
        assert set(found) == {True, False}, smarts


class Even:
    """A classifier that gives every molecule the same chance."""

    def probability(self, mols):
        return np.full(len(mols), 0.49)


@pytest.mark.parametrize("target", TARGETS)
def test_synth_by_hand_and_pmo_pays_the_probability_itself(target, monkeypatch):
    asked = []
    monkeypatch.setattr(
        activity_room, "load_classifier", lambda *given: asked.append(given[0]) or Even()
    )
    celecoxib = mol(CELECOXIB)  # one donor
    easy = 1 / (1 + 10 ** (10 * 0.25 * (value("sa_score", CELECOXIB) - 3.5) / 2))
    synth = RewardModel.from_config(FOLDER / "synth" / f"{target}.yaml")
    rewards = synth.score([CELECOXIB, "OCC(O)C(O)CO"])["reward"].tolist()  # four donors
    expected = (0.49 * QED.qed(celecoxib) * 1 * easy) ** (1 / 4)
    assert rewards == pytest.approx([expected, 0.0], abs=1e-12)
    pmo = RewardModel.from_config(FOLDER / "pmo" / f"{target}.yaml")
    assert pmo.score(["CCO"]).loc[0, "reward"] == 0.49
    assert asked == [target, target]


# ---- presets


PRESETS = sorted(Path(__file__).parents[2].glob("configs/rewards/*.yaml"))


def slow_if_it_docks(file):
    """A docking takes a minute a molecule, or more."""
    return pytest.param(file, marks=pytest.mark.slow if file.stem.startswith("docking") else ())


@pytest.mark.parametrize("file", [*map(slow_if_it_docks, PRESETS)], ids=lambda file: file.stem)
def test_a_shipped_reward_loads_and_pays(file):
    settings = yaml.safe_load(file.read_text())
    if "executor" in settings:  # of a cluster: scored in this process
        settings |= {"executor": {"kind": "process"}, "workers": 1, "cache": None}
        file = settings
    frame = RewardModel.from_config(file).score([CELECOXIB, "C1CC", "O=C(Nc1ccccc1)N1CCOCC1"])
    assert frame["valid"].tolist() == [True, False, True]
    assert frame.loc[1, "reward"] == 0.0
    assert frame.loc[[0, 2], "reward"].between(0.01, 1).all()


def test_celecoxib_is_like_celecoxib():
    reward = RewardModel.from_config(PRESETS[0].with_name("celecoxib_like.yaml"))
    frame = reward.score([CELECOXIB, "NC(=O)c1ccccc1", "OCC(O)C(O)CO"])
    assert frame.loc[0, "raw_celecoxib"] == 1.0
    assert frame["reward"].tolist() == sorted(frame["reward"], reverse=True)
    assert frame.loc[2, "reward"] == 0.0  # four donors
