"""What target and estimator cost beside the policy's forward pass, side by side in one process.

python -m chemkl.bench.objective [--rows 4096] [--model data/priors/moses.safetensors]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from chemkl.config import shipped
from chemkl.losses import ESTIMATORS, LossInputs, Objective, build_objective
from chemkl.policies import load_policy

ROOT = shipped.root()
REPEATS = 7


def seconds(call: Callable[[], object]) -> float:
    """The median of some runs, after one that does not count."""
    call()
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def update(objective: Objective, inputs: LossInputs) -> None:
    """Target, estimator and the gradient with respect to the log-probabilities."""
    objective(inputs).loss.backward()


def main() -> None:
    """Measure and print all estimators."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4096, help="rows of the batch")
    parser.add_argument("--model", type=Path, default=ROOT / "data/priors/moses.safetensors")
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    policy = load_policy(arguments.model)
    drawn = policy.sample(min(512, arguments.rows), generator)
    times = -(-arguments.rows // len(drawn))
    tokens = drawn.tokens.repeat(times, 1)[: arguments.rows]
    logp_ref = drawn.logp.repeat(times)[: arguments.rows]
    reward = torch.rand(arguments.rows, generator=generator, dtype=torch.float64)
    logp = (logp_ref + torch.randn(arguments.rows, generator=generator)).requires_grad_()

    with torch.no_grad():
        forward = seconds(lambda: policy.logp_tokens(tokens))
    print(f"forward pass of {arguments.rows} rows, {tokens.shape[1]} tokens wide: 100 %")
    groups = {"one group": None, "groups of 16": torch.arange(arguments.rows) // 16}
    print(f"{'estimator on the mara target':30s}" + "".join(f"{name:>16s}" for name in groups))
    for name in ESTIMATORS:
        cells = []
        for group in groups.values():
            inputs = LossInputs(logp_policy=logp, logp_ref=logp_ref, reward=reward, group=group)
            objective = build_objective("mara", name, sigma=128, tau=0.5)
            if name == "trajectory_balance" and group is not None:
                cells.append("-")
            else:
                share = seconds(lambda o=objective, i=inputs: update(o, i)) / forward
                cells.append(f"{share:.3%}")
        print(f"{name:30s}" + "".join(f"{cell:>16s}" for cell in cells))


if __name__ == "__main__":
    main()
