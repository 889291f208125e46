"""One of two processes of test_ranks.py: compares gradients of two ranks with those of one.

Usage: ``ranks_program.py PRIOR EVERY`` (one in EVERY combinations), with RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT set. Prints JSON.
"""

import itertools
import json
import sys

import torch
from torch import distributed

from chemkl.losses import ESTIMATORS, build_objective
from chemkl.losses.shapers import SHAPERS
from chemkl.policies import freeze, load_policy
from chemkl.policies.base import stream
from chemkl.rewards import RewardModel
from chemkl.training.filters import NoFilter
from chemkl.training.ledger import Ledger
from chemkl.training.posttrain import InputBuilder
from chemkl.training.ranks import ALONE, Ranks

REWARD = {
    "components": [{"kind": "tpsa", "transform": {"kind": "sigmoid", "low": 0, "high": 60}}],
}
N = 12
TARGETS = {
    "gibbs": {"target": "gibbs", "sigma": 5.0},
    "mara": {"target": "mara", "sigma": 5.0, "tau": 0.5},
    "mara quantile": {"target": "mara", "sigma": 5.0, "tau_quantile": 0.7, "tau_floor": 0.1},
    "mara running": {"target": "mara", "sigma": 5.0, "tau": 0.5, "anchor": "running"},
    "filter": {"target": "filter", "tau": 0.5, "sigma": 5.0},
}
OPTIONS = [
    *((name, {}) for name in ESTIMATORS),
    ("forward_kl", {"reference": "prior"}),
    *(("f_dpg", {"divergence": which}) for which in ("reverse_kl", "js", "tv")),
    ("grpo", {"clip": 0.2}),
]


def objectives():
    """Every valid combination of target, estimator and shaper: its name and its settings."""
    shapers = [None, *SHAPERS]
    for target, (name, options), shaper in itertools.product(TARGETS, OPTIONS, shapers):
        for duplicates in ("keep", "drop") if shaper is None else ("keep",):
            settings = TARGETS[target] | {
                "estimator": name,
                "estimator_options": options,
                "shaper": shaper,
                "duplicates": duplicates,
            }
            try:
                build_objective(**settings)
            except ValueError:
                continue
            yield f"{target}, {name} {options or ''}, {shaper}, {duplicates}", settings


def gradients(settings, ranks, prior, reward):
    """The gradient of each weight, and of log Z, after each of two steps without an update."""
    policy = load_policy(prior).double()
    with torch.no_grad():
        policy.linear.bias += 0.05 * torch.arange(len(policy.linear.bias))
    objective = build_objective(**settings)
    builder = InputBuilder(policy.train(), freeze(load_policy(prior).double()), objective, 3)
    ledger = Ledger(reward, NoFilter(), 1000)
    slopes = []
    for step in range(2):
        policy.zero_grad()
        rollout = ranks.rollout(policy.sample_to_learn(N, stream(3, step), ranks.part(N)))
        inputs = builder.build(rollout, ledger.enter(step, rollout), step, ranks)
        output = objective(inputs)
        loss = output.loss + 0.0 * sum(weight.sum() for weight in policy.parameters())
        builder.carry(output.carry, rollout, inputs)
        loss.backward()
        for weight in policy.parameters():  # as DDP does
            if ranks.world > 1:
                distributed.all_reduce(weight.grad)
                weight.grad /= ranks.world
            slopes.append(weight.grad.clone())
        for log_z in objective.parameters():
            slopes.append(log_z.grad.clone())
            log_z.grad = None
    return slopes


def main(prior, every):
    """Print the largest difference of each combination, relative to its largest gradient."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    both = Ranks(distributed.get_rank(), distributed.get_world_size())
    alone, together = (RewardModel.from_config(REWARD) for _ in range(2))
    together.spread_over(both.spread)
    off = {}
    for name, settings in itertools.islice(objectives(), None, None, every):
        one = gradients(settings, ALONE, prior, alone)
        two = gradients(settings, both, prior, together)
        largest = max(float(value.abs().max()) for value in one)
        apart = max(float((a - b).abs().max()) for a, b in zip(one, two, strict=True))
        off[name] = apart / max(1.0, largest), largest
    if both.rank == 0:
        sys.stdout.write(json.dumps(off))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
