from pathlib import Path

import pytest

from chemkl.rewards import RewardModel

PRESETS = sorted(Path(__file__).parents[2].glob("configs/rewards/*.yaml"))
CELECOXIB = "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1"


def test_there_are_presets():
    assert {"qed_sa", "celecoxib_like", "lead_like"} <= {file.stem for file in PRESETS}


def slow_if_it_docks(file):
    """A docking takes a minute a molecule, or more."""
    return pytest.param(file, marks=pytest.mark.slow if file.stem.startswith("docking") else ())


@pytest.mark.parametrize("file", map(slow_if_it_docks, PRESETS), ids=lambda file: file.stem)
def test_a_shipped_reward_loads_and_pays(file):
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
