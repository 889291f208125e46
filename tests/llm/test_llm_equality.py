"""One run through the path of SMILES generators and that of language models: the same to 1e-6."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from transformers import MistralConfig

from chemkl.config.llm import SmilesReward
from chemkl.config.objective import MurckoFilterConfig
from chemkl.llm.ledger import TextLedger
from chemkl.llm.policy import HfPolicy, Reference
from chemkl.llm.pretrain import build_tokenizer
from chemkl.llm.prompts import Prompt
from chemkl.llm.rewards import MoleculeScorer
from chemkl.losses import build_objective
from chemkl.policies import Policy, Vocabulary, freeze, load_policy
from chemkl.policies.tokenizer import END_ID, START_ID
from chemkl.results import TraceWriter, read_trace
from chemkl.rewards import RewardModel
from chemkl.training.filters import build_filter
from chemkl.training.ledger import Ledger
from chemkl.training.posttrain import Phase, Posttrain, StepLoader
from chemkl.training.trainer import quiet

REWARD = {"components": [{"kind": "tpsa", "transform": {"kind": "sigmoid", "low": 0, "high": 60}}]}
GIBBS = {"target": "gibbs", "sigma": 20.0}
MARA = {"target": "mara", "beta": 0.1, "tau": 0.1}
OBJECTIVES = {
    "gibbs reinvent": GIBBS | {"estimator": "reinvent"},
    "gibbs rloo": GIBBS | {"estimator": "rloo"},
    "mara rloo": {"target": "mara", "sigma": 20.0, "tau": 0.1, "estimator": "rloo"},
    "mara log_variance": MARA | {"estimator": "log_variance"},
    "mara drop": MARA | {"estimator": "grpo", "duplicates": "drop"},
    "mara msc": MARA | {"estimator": "msc"},
    "filter snis": {"target": "filter", "tau": 0.1, "estimator": "snis"},
    "gibbs prior": GIBBS
    | {"sigma": 10.0, "estimator": "forward_kl", "estimator_options": {"reference": "prior"}},
}
BATCH, STEPS, SEED = 24, 2, 3
VOCABULARY = Vocabulary.of("CNO1")


class LlamaPolicy(Policy):
    """A Llama as a generator of SMILES: one pass over whole rows, as the recurrent one makes it.

    It reads a prompt that never changes in front of the start token.
    """

    def __init__(self, network, before):
        super().__init__(VOCABULARY, max_length=8)
        self.network = network
        self.before = before

    @property
    def architecture(self):
        raise NotImplementedError  # it is never saved

    def forward(self, token_BT, state=None):
        first = torch.tensor([self.before]).expand(len(token_BT), -1) if state is None else state
        seen_BT = torch.cat([first, token_BT], dim=1)
        logits = self.network(input_ids=seen_BT, use_cache=False).logits
        return logits[:, -token_BT.shape[1] :], seen_BT

    def select(self, state, keep_A):
        return state[keep_A]


class RnnAsCausalLM(nn.Module):
    """A recurrent generator of SMILES, called as the causal LMs of transformers are."""

    # of a model with a sliding window no prompt is kept: it is read again with each completion
    config = MistralConfig(num_hidden_layers=1, sliding_window=1)

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, input_ids, **_options):
        return SimpleNamespace(logits=self.network(input_ids)[0])


def make_llama(tiny, seed):
    """A Llama and the ids of its prompt; C, N, O and the end are likely: there are molecules."""
    network = tiny.llama(seed, sharpness=2.0, vocab_size=len(VOCABULARY)).double()
    bias = torch.tensor([2.0, -2.0, -1.0, 2.0, 2.0, 2.0], dtype=torch.float64)  # end, start, 1, CNO
    network.lm_head.bias = nn.Parameter(bias)
    return LlamaPolicy(network, (3, 5, 2))


def make_rnn(path, seed):
    """The tiny prior, or one that is a little off it."""
    network = load_policy(path).double()
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * seed * torch.randn_like(weight)
    return network


@pytest.fixture(params=["llama", "rnn"])
def networks(request, tiny, tiny_prior):
    """Policy and prior as either path takes them, and the weights of both policies by name."""
    if request.param == "llama":
        plain = [make_llama(tiny, seed) for seed in (1, 0)]
        prompt_ids, models = (*plain[0].before, START_ID), [policy.network for policy in plain]
    else:
        plain = [make_rnn(tiny_prior, seed) for seed in (1, 0)]
        prompt_ids, models = (START_ID,), [RnnAsCausalLM(policy) for policy in plain]
    by_llm = [
        HfPolicy(
            copy.deepcopy(model),
            build_tokenizer(VOCABULARY, []),
            [Prompt(0, "Write a molecule", "Write a molecule", prompt_ids)],
            end_id=END_ID,
            max_new_tokens=plain[0].max_length,
            micro_batch=7,
        )
        for model in models
    ]
    assert by_llm[0].rewinds is (request.param == "llama")
    return plain, by_llm


class Watch(lightning.Callback):
    """Keeps the loss and the gradients of every step."""

    def __init__(self):
        self.losses, self.gradients = [], []

    def on_before_optimizer_step(self, _trainer, module, _optimizer):
        weights = module.policy.parameters()
        self.gradients.append([weight.grad.clone() for weight in weights])

    def on_train_batch_end(self, _trainer, _module, outputs, *_):
        self.losses.append(float(outputs["loss"]))


def post_trained(policy, reference, ledger, objective, folder, *, text):
    """Train for some steps, as the stages do; the trace, and what was watched."""
    writer = TraceWriter(folder, ["tpsa"], "run", "hash", text=text)
    module = Posttrain(
        policy, reference, ledger, [Phase(build_objective(**objective), 1e-3)], writer,
        batch_size=BATCH, most_samples=10_000, seed=SEED,
    )  # fmt: skip
    watch = Watch()
    with quiet():
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", callbacks=[watch], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, StepLoader(STEPS))
    writer.cut()
    return read_trace(folder), watch


def recorded(model, drawn, monkeypatch, name="sample"):
    """Keep what a model samples."""
    sample = getattr(model, name)

    def keeping(n, generator=None, part=slice(None)):
        drawn.append(sample(n, generator, part))
        return drawn[-1]

    monkeypatch.setattr(model, name, keeping)


def replayed(model, drawn, decode, monkeypatch):
    """Let a model say what another one sampled: the same ids, in the place of the prompt a 0."""
    remaining = iter(drawn)

    def say(*_):
        rollout = next(remaining)
        group_B = torch.zeros(len(rollout), dtype=torch.int64)
        token_BT = torch.cat([group_B[:, None], rollout.tokens[:, 1:]], dim=1)
        logp_B = rollout.logp.detach()  # the other one learns from passes of its own
        texts = decode(token_BT)
        return replace(rollout, smiles=texts, tokens=token_BT, logp=logp_B, group=group_B)

    monkeypatch.setattr(model, "sample", say)


@pytest.fixture
def both_paths(networks, tmp_path, monkeypatch):
    """Post-train by either path; (trace, watch) of each."""
    (policy, prior), (llm, copied) = networks

    def train(objective, bucket=None):
        def new_filter():
            if bucket is None:
                return build_filter(None)
            return build_filter(MurckoFilterConfig(kind="murcko", bucket=bucket, min_score=0.1))

        prior_of_smiles, reference = freeze(prior), Reference(copied)
        drawn, of_prior = [], []
        recorded(policy, drawn, monkeypatch, "sample_to_learn")
        recorded(prior_of_smiles, of_prior, monkeypatch)
        ledger = Ledger(RewardModel.from_config(REWARD), new_filter(), 1000)
        paths = tmp_path / "smiles", tmp_path / "text"
        smiles = post_trained(policy, prior_of_smiles, ledger, objective, paths[0], text=False)
        replayed(llm, drawn, llm.decode, monkeypatch)
        replayed(reference, of_prior, llm.decode, monkeypatch)
        reward = MoleculeScorer(SmilesReward(kind="smiles", reward=REWARD, parse="strict"))
        ledger = TextLedger(reward, llm.prompts, new_filter(), 1000)
        text = post_trained(llm, reference, ledger, objective, paths[1], text=True)
        return smiles, text

    return train


@pytest.mark.parametrize(
    ("name", "bucket"), [*((name, None) for name in OBJECTIVES), ("mara rloo", 2)]
)
def test_loss_and_gradient_are_the_same_to_1e_6(both_paths, name, bucket):
    (by_smiles, smiles), (by_text, text) = both_paths(OBJECTIVES[name], bucket)
    assert len(by_smiles) == len(by_text) == STEPS * BATCH
    assert by_text["group"].tolist() == [0] * len(by_text)
    assert by_smiles["valid"].sum() > 10
    assert by_smiles["reward_filtered"].nunique() > 3
    if bucket is not None:
        assert (by_smiles["reward_filtered"] < by_smiles["reward"]).any()
    if "mara" in name:
        assert 0 < by_smiles["hit"].sum() < len(by_smiles)
        assert by_smiles["anchor"].any()
    same = ["step", "row", "call", "repeat", "valid", "canonical_smiles", "scaffold", "n_tokens",
            "hit", "anchor", "is_replay"]  # fmt: skip
    pd.testing.assert_frame_equal(by_smiles[same], by_text[same])
    close = ["logp_policy", "logp_ref", "raw_tpsa", "score_tpsa", "reward", "reward_filtered"]
    np.testing.assert_allclose(by_smiles[close], by_text[close], rtol=1e-6, atol=1e-6)
    # logp_ref plus a term that cancels most of it: its digits are those of logp_ref
    off = 1e-6 * (1 + by_smiles["logp_ref"].abs())
    assert np.isclose(by_smiles["log_target"], by_text["log_target"], rtol=0, atol=off).all()
    assert len(smiles.losses) == STEPS
    np.testing.assert_allclose(text.losses, smiles.losses, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(text.gradients, smiles.gradients, strict=True):
        largest = max(float(gradient.abs().max()) for gradient in theirs)
        assert largest > 0
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1, largest))
