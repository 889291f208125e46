"""Prompts side by side in a step: none feels what the others' completions are, or are worth."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from chemkl.losses import ESTIMATORS, SHAPERS, build_objective
from chemkl.policies.base import Rollout
from chemkl.training.posttrain import InputBuilder

END = 1
TARGETS = {
    "tau": {"target": "mara", "beta": 0.1, "tau": 0.5},
    "tau_quantile": {"target": "mara", "beta": 0.1, "tau_quantile": 0.6, "tau_floor": 0.1},
    "filter": {"target": "filter", "beta": 0.1, "tau": 0.5},
}
SEVERAL_GROUPS = [name for name in ESTIMATORS if name != "trajectory_balance"]
OBJECTIVES = [
    *(
        (name, target, None, "keep")
        for name in SEVERAL_GROUPS
        for target in ("tau", "tau_quantile")
    ),
    *((name, "filter", None, "keep") for name in ("f_dpg", "snis", "msc")),
    *((name, "tau", shaper, "keep") for name in ("rloo", "grpo") for shaper in SHAPERS),
    *(("f_dpg", "tau_quantile", shaper, "keep") for shaper in SHAPERS),
    *((name, "tau_quantile", None, "drop") for name in ("rloo", "log_variance", "snis")),
]
MOLECULES = ["CCO", "CCN", "c1ccccc1", "CC(C)O", "CCOC", "c1ccccc1O", None]


@pytest.fixture(scope="module")
def world(tiny):
    """Policy and prior of two prompts, in float64."""
    from chemkl.llm.policy import HfPolicy

    prompts = tiny.prompts("pick", "a b")
    return SimpleNamespace(
        policy=HfPolicy(
            tiny.llama(0, 4.0).double(), tiny.tokenizer(), prompts, end_id=END, max_new_tokens=3
        ),
        prior=HfPolicy(
            tiny.llama(1, 4.0).double(), tiny.tokenizer(), prompts, end_id=END, max_new_tokens=3
        ),
    )


def written(world, prompt, n, seed):
    """Completions of one prompt with rewards, molecules and answers; some of them twice."""
    drawn = world.policy.sample(4 * n, torch.Generator().manual_seed(seed))
    mine = torch.nonzero(drawn.group == prompt).squeeze(1)[: n - 2]
    mine = torch.cat([mine, mine[:2]])
    generator = torch.Generator().manual_seed(100 + seed)
    molecule = torch.randint(len(MOLECULES), (n,), generator=generator).tolist()
    rows = pd.DataFrame(
        {
            "reward_filtered": torch.rand(n, generator=generator, dtype=torch.float64).numpy(),
            "canonical_smiles": [MOLECULES[i] for i in molecule],
            "scaffold": [None] * n,
            "answer": [MOLECULES[i] for i in molecule],  # the prompts have answers in common
        }
    )
    return drawn.tokens[mine], rows


def gradient(world, objective, *parts, grouped=True):
    """d loss / d log p of the rows of prompt 0, times the rows that count; by the text's path."""
    width = max(token_BT.shape[1] for token_BT, _ in parts)
    token_BT = torch.cat(
        [torch.nn.functional.pad(t, (0, width - t.shape[1]), value=END) for t, _ in parts]
    )
    n = len(token_BT)
    rollout = Rollout(
        [""] * n, token_BT, torch.zeros(n), torch.zeros(n).bool(), token_BT[:, 0], END
    )
    rows = pd.concat([rows for _, rows in parts], ignore_index=True)
    inputs = InputBuilder(world.policy, world.prior, objective, 0).build(rollout, rows, 0, 0)
    inputs.logp_policy.retain_grad()
    objective(inputs if grouped else replace(inputs, group=None)).loss.backward()
    counted = n if objective.duplicates == "keep" else int((~inputs.duplicate).sum())
    return inputs.logp_policy.grad[token_BT[:, 0] == 0] * counted


@pytest.mark.parametrize(("estimator", "target", "shaper", "duplicates"), OBJECTIVES)
def test_a_prompt_does_not_feel_the_other_prompts_rows(
    world, estimator, target, shaper, duplicates
):
    mine, before = written(world, 0, 12, seed=0), written(world, 1, 12, seed=0)
    # the other prompt has other completions, rewards and answers, more of them, and comes first
    after = written(world, 1, 16, seed=1)
    after[1]["reward_filtered"] *= 1.5

    def of_mine(*parts, **options):
        objective = build_objective(
            estimator=estimator, shaper=shaper, duplicates=duplicates, **TARGETS[target]
        )
        return gradient(world, objective, *parts, **options)

    found = of_mine(mine, before)
    assert float(found.abs().max()) > 1e-3
    torch.testing.assert_close(of_mine(after, mine), found, rtol=1e-5, atol=1e-7)
    # were they one group, it would
    apart = of_mine(after, mine, grouped=False) - of_mine(mine, before, grouped=False)
    assert float(apart.abs().max()) > 1e-3


def test_an_estimator_with_one_constant_for_all_prompts_is_refused(world):
    objective = build_objective(estimator="trajectory_balance", **TARGETS["tau"])
    parts = [written(world, prompt, 8, seed=0) for prompt in (0, 1)]
    with pytest.raises(ValueError, match=r"trajectory_balance learns one log Z.* 2 groups"):
        gradient(world, objective, *parts)


def test_one_text_in_other_tokens_or_to_another_prompt_is_another_sequence(make_policy):
    policy = make_policy("pick", "a b")
    token_BT = torch.tensor([[0, 5, 6, END], [0, 7, END, END], [0, 5, 6, END], [1, 5, 6, END]])
    rollout = Rollout(
        ["12"] * 4, token_BT, torch.zeros(4), torch.zeros(4).bool(), token_BT[:, 0], END
    )
    objective = build_objective(target="gibbs", beta=0.1, estimator="rloo", duplicates="drop")
    rows = pd.DataFrame({"reward_filtered": [1.0, 0.0, 1.0, 0.5]})
    inputs = InputBuilder(policy, policy, objective, 0).build(rollout, rows, 0, 0)
    assert inputs.duplicate.tolist() == [False, False, True, False]
