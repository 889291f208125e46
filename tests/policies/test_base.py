"""What all policies have: sampling in parts, without waiting for a GPU; names of devices."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from chemkl.config import InputError
from chemkl.policies import RnnPolicy, Vocabulary, check_device
from chemkl.policies import base as policies_base
from chemkl.policies.base import stream
from chemkl.policies.tokenizer import END_ID

SIZES = {"embedding_size": 8, "hidden_size": 16, "n_layers": 2, "max_length": 40}


@pytest.fixture(params=["lstm", "gru"])
def policy(request):
    torch.manual_seed(0)
    return RnnPolicy(Vocabulary.of("CNO1"), cell=request.param, **SIZES)


# ---- sampling


def test_the_parts_of_a_batch_are_its_rows(policy):
    whole = policy.sample(24, stream(3, 1))
    parts = [policy.sample(24, stream(3, 1), slice(8 * n, 8 * n + 8)) for n in range(3)]
    assert [text for part in parts for text in part.smiles] == whole.smiles
    truncated = torch.cat([part.truncated for part in parts])
    assert truncated.tolist() == whole.truncated.tolist()
    torch.testing.assert_close(torch.cat([p.logp for p in parts]), whole.logp, rtol=0, atol=1e-5)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: numbers that it reads, sizes that it must know."""

    def __init__(self):
        super().__init__()
        self.at = []
        self.n_steps = 0

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        self.n_steps += operation is torch.ops.aten.searchsorted.Tensor
        name = operation.overloadpacket.__name__
        masks = name == "index" and any(
            one is not None and one.dtype == torch.bool for one in arguments[1]
        )
        if masks or name in ("_local_scalar_dense", "nonzero", "masked_select", "unique_dim"):
            self.at.append(self.n_steps)
        return operation(*arguments, **(named or {}))


def test_a_gpu_is_asked_every_16_tokens_which_rows_have_ended(monkeypatch):
    torch.manual_seed(0)
    policy = RnnPolicy(Vocabulary.of("CNO1"), cell="gru", **SIZES)
    policy.linear.bias.data[END_ID] -= 1.5
    by_token = policy.sample(64, stream(0, 0))
    assert by_token.truncated.any()
    assert (by_token.n_tokens < 16).any()
    monkeypatch.setitem(policies_base.CHECK_EVERY, "cpu", 16)
    uniform_TB = torch.rand(SIZES["max_length"], 64, generator=stream(0, 0))
    with torch.no_grad(), Waits() as waits:
        token_BT, logp_B, truncated_B = policy._sample(uniform_TB)
    assert waits.n_steps == 40
    assert set(waits.at) == {16, 32}
    assert torch.equal(token_BT[:, : by_token.tokens.shape[1]], by_token.tokens)
    torch.testing.assert_close(logp_B, by_token.logp, rtol=0, atol=1e-5)
    assert torch.equal(truncated_B, by_token.truncated)


# ---- names of devices


def test_the_cpu_is_always_there():
    check_device("cpu")


@pytest.mark.parametrize(
    ("device", "near"),
    [
        ("gpu", "cuda"),
        ("GPU:0", "cuda"),
        ("nvidia", "cuda"),
        ("cdua:1", "cuda"),
        ("CPU", "cpu"),
        ("metal", "mps"),
    ],
)
def test_an_unknown_device_is_answered_with_the_few_that_are_common(device, near):
    with pytest.raises(InputError) as caught:
        check_device(device)
    assert str(caught.value) == (
        f"device: {device!r} cannot be used here: no such device; did you mean {near!r}? "
        "Known: cpu, cuda, mps"
    )


def test_a_device_that_cannot_be_used_says_why():
    with pytest.raises(InputError, match=r"^device: 'meta' cannot be used here: [^\n]*meta"):
        check_device("meta")
