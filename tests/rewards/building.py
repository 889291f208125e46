"""Builders of components and rewards, and checks of processes, for the tests of this folder."""

import time
from pathlib import Path

from rdkit import Chem

from chemkl.rewards import RewardModel
from chemkl.rewards.registry import find_component

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
CAFFEINE = "Cn1cnc2c1c(=O)n(C)c(=O)n2C"
CELECOXIB = "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1"
CUBANE = "C12C3C4C1C5C2C3C45"
CYCLODODECANE = "C1CCCCCCCCCCC1"
SALT = "CC(=O)[O-].[Na+]"
HEAVY_WATER = "[2H]O[2H]"


def mol(smiles):
    return Chem.MolFromSmiles(smiles)


def build(kind, **parameters):
    """The score function of a component."""
    return find_component(kind).build(parameters)


def value(kind, smiles, **parameters):
    return build(kind, **parameters)(mol(smiles))


def part(kind, low=None, high=None, **parameters):
    """A component's config, with a linear transform if `low` and `high` are set."""
    settings = {"kind": kind, "parameters": parameters}
    if low is not None:
        settings["transform"] = {"kind": "linear_clip", "low": low, "high": high}
    return settings


def reward_of(*parts, **settings):
    """A reward of components, each a config or just a kind."""
    components = [{"kind": part} if isinstance(part, str) else part for part in parts]
    return RewardModel.from_config({"components": components, **settings})


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def soon(condition, seconds=10.0):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()
