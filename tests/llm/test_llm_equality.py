"""One rollout through the path of SMILES generators and that of language models: the same loss."""

import numpy as np
import pandas as pd
import pytest
import torch

from chemkl.config.llm_reward import SmilesReward
from chemkl.llm.ledger import TextLedger
from chemkl.llm.molecule_reward import PaidByMolecule
from chemkl.losses import build_objective
from chemkl.policies.base import Rollout, SequenceModel, sequence_logp
from chemkl.rewards import RewardModel
from chemkl.training.diversity_filter import MurckoBucket, NoFilter
from chemkl.training.inputs import InputBuilder
from chemkl.training.ledger import Ledger

END = 1
REWARD = {
    "components": [{"kind": "tpsa", "transform": {"kind": "sigmoid", "low": 0, "high": 60}}],
}
OBJECTIVES = {
    "gibbs reinvent": {"target": "gibbs", "sigma": 20.0, "estimator": "reinvent"},
    "gibbs rloo": {"target": "gibbs", "sigma": 20.0, "estimator": "rloo"},
    "mara rloo": {"target": "mara", "sigma": 20.0, "tau": 0.1, "estimator": "rloo"},
    "mara log_variance": {"target": "mara", "beta": 0.1, "tau": 0.1, "estimator": "log_variance"},
    "mara drop": {
        "target": "mara", "beta": 0.1, "tau": 0.1, "estimator": "grpo", "duplicates": "drop",
    },
    "filter snis": {"target": "filter", "tau": 0.1, "estimator": "snis"},
}  # fmt: skip


class PlainModel(SequenceModel):
    """The same network as a generator of SMILES is one: rows of ids, one pass, no prompt groups."""

    def __init__(self, network, prompt_ids, rollout):
        super().__init__()
        self.network = network
        self.prompt_ids = prompt_ids
        self.rollout = rollout

    def sample(self, n, generator=None):
        del n, generator  # it is one rollout that both paths are given
        r = self.rollout
        return Rollout(r.smiles, r.tokens, r.logp, r.truncated, end_id=END)

    def logp_tokens(self, token_BT):
        read = torch.tensor([self.prompt_ids]).expand(len(token_BT), -1)
        whole = torch.cat([read, token_BT[:, 1:]], dim=1)
        logits = self.network(whole, use_cache=False).logits
        return sequence_logp(logits[:, read.shape[1] - 1 : -1], token_BT, END)


@pytest.fixture
def both(make_policy, tiny):
    """Policy and prior by either path, and the SMILES that the policy sampled after "pick"."""

    def network(seed):
        model = tiny.llama(seed, sharpness=4.0).double()
        with torch.no_grad():  # C, O, N, = and the end are likely, so that there are molecules
            favoured = [tiny.vocabulary[word] for word in ("C", "O", "N")]
            model.lm_head.weight *= 0.2
            bias = torch.nn.Parameter(torch.zeros(len(tiny.vocabulary), dtype=torch.float64))
            bias[favoured] += 4.0
            bias[END] += 4.0
            model.lm_head.bias = bias
        return model

    policy = make_policy("pick", model=network(0), max_new_tokens=5, micro_batch=3)
    prior = make_policy("pick", model=network(1), max_new_tokens=5)
    rollout = policy.sample(24, torch.Generator().manual_seed(1))
    rollout = Rollout(
        [text.replace(" ", "") for text in rollout.smiles], rollout.tokens, rollout.logp,
        rollout.truncated, rollout.group, END,
    )  # fmt: skip
    plain = [PlainModel(network(seed), policy.prompts[0].token_ids, rollout) for seed in (0, 1)]
    return policy, prior, plain, rollout


def learnt(policy, prior, ledger, objective, rollout, diversity_filter):
    objective = build_objective(**objective)
    rows = ledger.enter(0, rollout)
    inputs = InputBuilder(policy, prior, objective, 0).build(rollout, rows, 0, 0)
    output = objective(inputs)
    output.loss.backward()
    return rows, inputs, output


@pytest.mark.parametrize("bucket", [None, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradient_are_the_same_to_1e_6(both, name, bucket):
    policy, prior, plain, rollout = both
    filters = [NoFilter() if bucket is None else MurckoBucket(bucket, 0.1) for _ in range(2)]
    by_clm = learnt(
        *plain, Ledger(RewardModel.from_config(REWARD), filters[0], 1000), OBJECTIVES[name],
        plain[0].sample(24), filters[0],
    )  # fmt: skip
    reward = PaidByMolecule(SmilesReward(kind="smiles", reward=REWARD, parse="strict"))
    by_llm = learnt(
        policy, prior, TextLedger(reward, policy.prompts, filters[1], 1000), OBJECTIVES[name],
        rollout, filters[1],
    )  # fmt: skip
    assert by_llm[1].group.tolist() == [0] * 24
    assert by_clm[1].group is None
    assert by_llm[0]["valid"].sum() > 5
    assert by_llm[0]["reward"].nunique() > 3
    if "mara" in name:
        assert 0 < by_llm[2].target.hit.sum() < 24
    shared = ["call", "repeat", "valid", "canonical_smiles", "scaffold", "n_tokens", "reward",
              "reward_filtered", "raw_tpsa", "score_tpsa"]  # fmt: skip
    for column in shared:
        a, b = by_clm[0][column], by_llm[0][column]
        assert a[a.notna()].tolist() == b[b.notna()].tolist()
        assert a.isna().tolist() == b.isna().tolist()
    torch.testing.assert_close(by_llm[2].loss, by_clm[2].loss, rtol=1e-6, atol=1e-6)
    assert by_llm[2].metrics.keys() == by_clm[2].metrics.keys()
    ours, theirs = dict(policy.model.named_parameters()), dict(plain[0].network.named_parameters())
    assert ours.keys() == theirs.keys()
    largest = max(float(weight.grad.abs().max()) for weight in theirs.values())
    assert largest > 0
    for key, weight in theirs.items():
        np.testing.assert_allclose(ours[key].grad, weight.grad, rtol=0, atol=1e-6 * max(1, largest))


def test_a_step_with_two_prompts_has_the_loss_of_either_alone(make_policy, tiny):
    # with rloo and mara every row's part of the loss is that of its own prompt's rows
    objective = build_objective(target="mara", beta=0.1, tau=0.5, estimator="rloo")
    policy = make_policy("pick", "a b", model=tiny.llama(0, 4.0).double(), max_new_tokens=3)
    prior = make_policy("pick", "a b", model=tiny.llama(1, 4.0).double(), max_new_tokens=3)
    drawn = policy.sample(20, torch.Generator().manual_seed(0))
    reward = torch.tensor([0.2 * (len(text) % 6) for text in drawn.smiles], dtype=torch.float64)

    def loss_of(some):
        rows = pd.DataFrame({"reward_filtered": reward[some].numpy()})
        part = Rollout(
            [drawn.smiles[i] for i in some], drawn.tokens[some], drawn.logp[some],
            drawn.truncated[some], drawn.group[some], END,
        )  # fmt: skip
        return objective(InputBuilder(policy, prior, objective, 0).build(part, rows, 0, 0)).loss

    both = loss_of(list(range(20)))
    halves = (loss_of(list(range(10))) + loss_of(list(range(10, 20)))) / 2
    torch.testing.assert_close(both, halves, rtol=1e-6, atol=1e-6)


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
