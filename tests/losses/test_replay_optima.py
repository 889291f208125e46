"""Replayed rows leave the optimum where it is, for estimators that take them.

Half as many rows as are sampled are drawn from a memory with chances that have nothing to do with
the policy; reinvent is the exception, and why is tested. The bounds are those of
test_estimator_optima.py; the policy starts .3 to .8 away.
"""

import numpy as np
import pytest
import torch
from test_estimator_optima import (
    BETA,
    ELSEWHERE,
    N_ROWS,
    TAU,
    WORLD,
    Pair,
    distance,
    optimum,
    train,
)

from chemkl.losses import ESTIMATORS, LossInputs
from chemkl.training.memory import inclusion_chances, log_mixture

OFF_POLICY = [name for name in ESTIMATORS if ESTIMATORS[name].off_policy]
WEIGHING = [name for name in ESTIMATORS if ESTIMATORS[name].weighs_old]


START = WORLD.logp(torch.zeros(WORLD.shape, dtype=torch.float64))


class Replay:
    """A memory of some of the sequences, of which each is drawn with a fixed chance."""

    def __init__(self, seed):
        numbers = np.random.default_rng(seed)
        weight = numbers.random(len(WORLD.sequences)) * (numbers.random(15) < 0.7)
        self.chance = torch.from_numpy(inclusion_chances(weight, 5))
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self):
        """N_ROWS / 2 rows: as often as 5 of 15 are drawn, each with its own chance."""
        n = N_ROWS // 2
        rows = torch.multinomial(self.chance, n, replacement=True, generator=self.generator)
        return rows, self.chance * n / self.chance.sum()


def trained(target, name, log_z=0.0):
    """The policy at the end, trained on rows of its own and half as many of a memory."""
    replay = Replay(0)

    def with_replayed(_objective, logits, rows, _n_carried, _generator):
        replayed, chance = replay.draw()
        rows = torch.cat([rows, replayed])
        logp = WORLD.logp(logits)[rows]
        behaviour = log_mixture(logp.detach(), Drawn(chance[rows], len(replayed)))
        if name in WEIGHING:  # as if the policy of the beginning had sampled what is replayed
            behaviour = torch.cat([logp.detach()[:N_ROWS], START[replayed]])
        return LossInputs(
            logp_policy=logp,
            logp_ref=WORLD.logp_ref[rows] - log_z,
            reward=WORLD.reward[rows],
            retained=torch.arange(len(rows)) >= N_ROWS,
            logp_behaviour=behaviour,
        )

    options = {"clip": 0.2} if name == "grpo" else {}
    return train(Pair(target, name, options), 0, with_replayed)[0]


class Drawn:
    """As much of drawn molecules as the mixture asks for."""

    def __init__(self, chance, n):
        self.chance, self._n = chance, n

    def __len__(self):
        return self._n


@pytest.mark.parametrize("target", ["gibbs", "mara"])
@pytest.mark.parametrize("name", sorted({*OFF_POLICY, *WEIGHING} - {"reinvent"} - ELSEWHERE))
def test_with_replay_the_optimum_is_the_same(target, name):
    pair = Pair(target, name)
    assert distance(trained(target, name), optimum(pair)) < pair.within


def test_reinvent_is_right_on_replayed_rows_where_the_target_sums_to_1():
    """It takes log Z for 0. On the policy's own rows that cancels out, on others it does not."""
    pair = Pair("gibbs", "reinvent")
    log_z = torch.logsumexp(WORLD.logp_ref + WORLD.reward / BETA, 0).item()
    assert distance(trained("gibbs", "reinvent", log_z=log_z), optimum(pair)) < pair.within
    assert distance(trained("gibbs", "reinvent"), optimum(pair)) > 0.05


def test_what_weighs_by_the_policy_alone_would_end_elsewhere(monkeypatch):
    """The weights of snis are right for the mixture of policy and memory only."""
    monkeypatch.setitem(globals(), "log_mixture", lambda logp, _drawn: logp)
    assert distance(trained("gibbs", "snis"), optimum(Pair("gibbs", "snis"))) > 0.05


def test_the_memory_has_sequences_on_both_sides_of_tau():
    chance = Replay(0).chance
    assert (chance[WORLD.reward >= TAU] > 0).any()
    assert (chance[WORLD.reward < TAU] > 0).any()
    assert (chance == 0).any()
