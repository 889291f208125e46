"""Capture without graph breaks, which GPUs need (checked anywhere), and tests on a GPU."""

import time

import pytest
import torch
from torch import _dynamo

from chemkl.bench.measure import threads
from chemkl.policies import RnnPolicy, Vocabulary, load_policy
from chemkl.policies.base import END_ID, draw, sequence_logp, stream
from chemkl.results import read_trace
from chemkl.stages import posttrain

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_sampling_step_and_log_probabilities_capture_without_a_graph_break(cell):
    """As CUDA graphs need it; for the objective see tests/losses/test_loss_objective.py."""
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_size": 16, "n_layers": 2, "max_length": 12}
    policy = RnnPolicy(Vocabulary.of("CNO1"), cell=cell, **sizes)
    token_BT = policy.sample(6, stream(0, 0)).tokens

    def logp(token_BT):
        return sequence_logp(policy(token_BT[:, :-1])[0], token_BT)

    def step(last_A, state, uniform_A, ended_A):
        logits_A1V, state = policy(last_A[:, None], state)
        logp_AV = logits_A1V[:, 0].float().log_softmax(dim=-1)
        return draw(logp_AV, uniform_A).masked_fill(ended_A, END_ID), state

    zeros = torch.zeros(2, 6, 16)
    given = token_BT[:, 0], zeros if cell == "gru" else (zeros, zeros), torch.rand(6)
    ended_A = torch.tensor([True, False] * 3)
    with _dynamo.config.patch(allow_rnn=True):
        captured = torch.compile(logp, fullgraph=True, backend="eager")
        torch.testing.assert_close(captured(token_BT), logp(token_BT))
        captured = torch.compile(step, fullgraph=True, backend="eager")
        assert torch.equal(captured(*given, ended_A)[0], step(*given, ended_A)[0])


class TestOnAGpu:
    """None of these has run yet."""

    pytestmark = on_gpu

    def test_the_trace_is_that_of_the_processor_up_to_rounding(
        self, tiny_prior, tmp_path, monkeypatch
    ):
        # cuDNN's LSTM rounds to TF32 (10 bits) unless it is told not to
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        config = {
            "prior": str(tiny_prior),
            "reward": {"components": [{"kind": "qed"}]},
            "target": {"kind": "mara", "beta": 0.05, "tau": 0.45},
            "estimator": "rloo",
            "precision": "32-true",
            "batch_size": 16,
            "max_samples": 48,
            "callbacks": {"progress_bar": False},
        }
        for name in ("cpu", "gpu"):
            posttrain.run(config | {"trainer": {"accelerator": name}}, tmp_path / name)
        cpu, gpu = (read_trace(tmp_path / name) for name in ("cpu", "gpu"))
        assert gpu["smiles"].tolist() == cpu["smiles"].tolist()
        for column in ("logp_policy", "logp_ref"):
            assert (gpu[column] - cpu[column]).abs().max() < 1e-3

    def test_bfloat16_is_a_tenth_of_a_nat_off_in_the_mean(self):
        policy = load_policy("data/priors/moses.safetensors").cuda()
        token_BT = policy.sample(256, stream(0, 0)).tokens
        with torch.no_grad():
            exact_B = policy.logp_tokens(token_BT)
            with torch.autocast("cuda", torch.bfloat16):
                rough_B = policy.logp_tokens(token_BT)
        assert rough_B.dtype == torch.float32
        assert (rough_B - exact_B).abs().mean() < 0.1

    def test_the_gradient_of_a_small_loss_does_not_underflow_in_bfloat16(self):
        policy = load_policy("data/priors/moses.safetensors").cuda().train()
        token_BT = policy.sample(64, stream(0, 0)).tokens
        slopes = []
        for rough in (False, True):
            policy.zero_grad()
            with torch.autocast("cuda", torch.bfloat16, enabled=rough):
                loss = policy.logp_tokens(token_BT).mean()
            (1e-6 * loss).backward()
            slopes.append(torch.cat([w.grad.flatten() for w in policy.parameters()]))
        exact, rough = slopes
        assert (rough - exact).norm() < 0.05 * exact.norm()

    @pytest.mark.parametrize("batch", [64, 256, 1024])
    def test_it_samples_faster_than_one_thread(self, batch, record_property):
        policy = load_policy("data/priors/moses.safetensors")
        rates = {}
        with threads(1):
            for device in ("cpu", "cuda"):
                policy.to(device).sample(batch, stream(0, 0))
                torch.cuda.synchronize()
                begin = time.perf_counter()
                policy.sample(batch, stream(0, 1))  # its texts are on the processor at the end
                rates[device] = batch / (time.perf_counter() - begin)
                record_property(f"{device}, molecules a second", rates[device])
        assert rates["cuda"] > rates["cpu"]
