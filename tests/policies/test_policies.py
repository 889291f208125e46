"""Every kind of policy: log-probabilities, sampling, and that the two agree; names of devices."""

import itertools
import math

import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from chemkl.config import InputError
from chemkl.policies import (
    RnnPolicy,
    UnknownTokenError,
    Vocabulary,
    build_policy,
    check_device,
    tokenize,
)
from chemkl.policies import base as policies_base
from chemkl.policies.base import draw, pad, sequence_logp, stream
from chemkl.policies.checkpoint import KINDS
from chemkl.policies.lstm import Trail
from chemkl.policies.tokenizer import END_ID

TOKENS = [*"CNOcn1()=", "[nH]", "Br"]
ONE_ROUNDING = 1.2e-7  # of float32, relative
FRAGMENTS = ["CC", "c1cc", "C(", "(=O)", "NC(=O)"]
RNN = {"kind": "rnn", "embedding_size": 8}
NETWORKS = {
    "lstm": RNN,
    "gru": RNN | {"cell": "gru"},
    "projected": RNN | {"projection_size": 16},
    "fragments": RNN,
    "transformer": {"kind": "transformer", "n_heads": 2, "inner_size": 20},
    "mingru": {"kind": "mingru", "n_units": 20, "inner_size": 20},
}
all_kinds = pytest.mark.parametrize("kind", NETWORKS)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def small(kind="lstm", tokens=TOKENS, seed=0, **sizes):
    torch.manual_seed(seed)
    vocabulary = Vocabulary.of(tokens)
    if kind == "fragments":
        single = {*vocabulary.tokens}
        fragments = [text for text in FRAGMENTS if {*tokenize(text)} <= single]
        vocabulary = Vocabulary((*vocabulary.tokens, *fragments))
    settings = NETWORKS[kind] | {"hidden_size": 24, "n_layers": 2, "max_length": 30} | sizes
    policy = build_policy(vocabulary, KINDS[settings["kind"]][1](**settings))
    with torch.no_grad():  # far from uniform, so that every token matters
        if isinstance(policy, RnnPolicy):
            policy.linear.weight.mul_(6)
        else:
            for weight in policy.parameters():
                weight.normal_(std=3 * weight.shape[-1] ** -0.5 if weight.dim() == 2 else 0.3)
    return policy.eval()


@pytest.fixture(params=NETWORKS)
def policy(request):
    return small(request.param)


def by_hand(policy, smiles):
    """Feed token after token, look up each next one, add up in float64."""
    total, state = 0.0, None
    for token, following in itertools.pairwise(policy.vocabulary.encode(smiles)):
        logits, state = policy(torch.tensor([[token]]), state)
        logits = logits[0, 0].double()
        total += float(logits[following] - logits.exp().sum().log())
    return total


@torch.no_grad()
def test_logp_is_the_sum_over_tokens_with_the_end_token(policy):
    for smiles in ["C", "c1cc[nH]c1", "BrCC(=O)N", ""]:
        assert policy.logp([smiles]).item() == pytest.approx(by_hand(policy, smiles), abs=1e-5)
    # the end token is in: over all continuations of a prefix, the end among them, p sums to one
    logits, _ = policy(torch.tensor([[1]]))
    first = [policy.logp([""]).item(), *logits[0, 0].log_softmax(0)[1:].tolist()]
    assert math.fsum(map(math.exp, first)) == pytest.approx(1, abs=1e-6)


@torch.no_grad()
@all_kinds
@pytest.mark.parametrize("size", [24, 512])
def test_logp_does_not_depend_on_the_rest_of_the_batch(kind, size):
    policy = small(kind, hidden_size=size)
    molecules = ["C", "CCO", "c1cc[nH]c1", "BrCC(=O)N", "C" * 20]
    alone = torch.cat([policy.logp([smiles]) for smiles in molecules])
    assert (alone < -1).all()
    assert alone.unique().numel() == len(molecules)
    with_long = policy.logp([*molecules, "N(C)" * 60])[: len(molecules)]
    reversed_order = policy.logp(molecules[::-1]).flip(0)
    for logp in (policy.logp(molecules), with_long, reversed_order):
        torch.testing.assert_close(logp, alone, atol=1e-5, rtol=ONE_ROUNDING)


def test_the_gradient_does_not_depend_on_padding(policy):
    def gradient(molecules):
        policy.zero_grad()
        policy.logp(molecules)[0].backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters()])

    alone = gradient(["CCO"])
    assert alone.norm() > 1
    torch.testing.assert_close(gradient(["CCO", "N" * 200]), alone, atol=1e-5, rtol=1e-5)


def test_sequence_logp_of_a_uniform_model_counts_tokens():
    token_BT = torch.tensor([[1, 2, 3, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 2, 2, 2, 2, 2]])
    logp_B = sequence_logp(torch.zeros(3, 5, 4), token_BT)
    # 3, 1 and 5 tokens (the last row is cut off: it has no end), each with p = 1/4
    torch.testing.assert_close(logp_B, -torch.tensor([3.0, 1.0, 5.0]) * math.log(4))
    with pytest.raises(ValueError, match=r"\(3, 6, 4\) do not predict tokens of shape \(3, 6\)"):
        sequence_logp(torch.zeros(3, 6, 4), torch.ones(3, 6, dtype=torch.long))
    # in bfloat16 (8 bits) log_softmax is off by up to 1 %; rounded logits alone must be exact
    logits_BTV = (torch.randn(2, 3, 50, generator=generator(0)) * 9).bfloat16()
    token_BT = torch.tensor([[1, 7, 9, 0], [1, 3, 2, 4]])
    logp_B = sequence_logp(logits_BTV, token_BT)
    logp_BTV = logits_BTV.double().log_softmax(dim=-1)
    exact = [sum(logp_BTV[b, t, token_BT[b, t + 1]] for t in range(3)) for b in range(2)]
    assert logp_B.dtype == torch.float32
    torch.testing.assert_close(logp_B.double(), torch.stack(exact), atol=1e-5, rtol=1e-6)


@pytest.mark.bf16
def test_under_autocast_only_the_matrix_products_are_rounded(policy):
    token_BT = torch.tensor([policy.vocabulary.encode("CC(=O)N")])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = policy(token_BT)
        logp = policy.logp(["CC(=O)N"])
        rollout = policy.sample(5, generator(0))
    assert logits.dtype == torch.bfloat16
    assert logp.dtype == rollout.logp.dtype == torch.float32
    assert logp.item() != policy.logp(["CC(=O)N"]).item()
    exact = sequence_logp(logits[:, :-1].double().float(), token_BT)
    # without padding an LSTM's logits are not rounded, and the gates at other places: 8 bits each
    walks = policy.kind == "rnn" and policy._cells() is not None
    assert logp.item() == pytest.approx(exact.item(), abs=2**-8 if walks else 1e-5)


def test_logp_takes_any_sequence_of_smiles_but_not_one_string(policy):
    column = pd.Series(["CC", "N"], index=[7, 3])
    assert torch.equal(policy.logp(column), policy.logp(["CC", "N"]))
    assert policy.logp([]).shape == policy.logp_tokens(pad([])).shape == (0,)
    with pytest.raises(TypeError, match=r"write \['CCO'\]"):
        policy.logp("CCO")
    with pytest.raises(UnknownTokenError, match=r"'CCI': token 'I' at position 3"):
        policy.logp(["CC", "CCI"])


def test_a_sample_carries_its_own_logp_three_ways(policy):
    rollout = policy.sample(200, generator(1))
    assert rollout.logp.dtype == torch.float32
    with torch.no_grad():
        logp_B = policy.logp_tokens(rollout.tokens)
        torch.testing.assert_close(logp_B, rollout.logp, atol=1e-5, rtol=1e-6)
        # a SMILES has one encoding; with fragments a row may be another one
        whole = [
            i
            for i, (s, cut) in enumerate(zip(rollout.smiles, rollout.truncated, strict=True))
            if not cut
            and "^" not in s
            and policy.vocabulary.encode(s) == rollout.tokens[i, : rollout.n_tokens[i] + 1].tolist()
        ]
        assert len(whole) > 30
        again = policy.logp([rollout.smiles[i] for i in whole])
    torch.testing.assert_close(again, rollout.logp[whole], atol=1e-5, rtol=1e-6)
    # the layout of the rows
    assert (len(rollout), len(rollout.head(3))) == (200, 3)
    assert rollout.head(3).smiles == rollout.smiles[:3]
    columns = (rollout.tokens.tolist(), rollout.smiles, rollout.n_tokens, rollout.truncated)
    for (start, *ids), smiles, n, cut in zip(*columns, strict=True):
        end = ids.index(0) + 1 if 0 in ids else len(ids)
        assert (start, n, bool(cut)) == (1, end, 0 not in ids)
        assert not any(ids[end:])
        assert policy.vocabulary.decode([start, *ids]) == smiles


@all_kinds
def test_sampling_frequencies_are_the_exact_probabilities(kind):
    policy = small(kind, tokens="CN", max_length=3, seed=3)
    # every sequence of up to three tokens, with its probability; truncated ones too
    inner = range(1, len(policy.vocabulary))
    middles = [middle for n in range(3) for middle in itertools.product(inner, repeat=n)]
    rows = [(1, *middle, 0) for middle in middles]
    rows += [(1, *middle) for middle in itertools.product(inner, repeat=3)]
    with torch.no_grad():
        exact = {row: policy.logp_tokens(torch.tensor([row])).exp().item() for row in rows}
    assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
    n = 20_000
    rollout = policy.sample(n, generator(0))
    counts = dict.fromkeys(exact, 0)
    for row, length in zip(rollout.tokens.tolist(), rollout.n_tokens.tolist(), strict=True):
        counts[tuple(row[: length + 1])] += 1
    # rare sequences share one bin, so that every bin expects at least five
    rare = [row for row, p in exact.items() if p * n < 5]
    bins = [[row] for row in exact if row not in rare] + ([rare] if rare else [])
    assert len(bins) > 10
    observed = [sum(counts[row] for row in rows) for rows in bins]
    expected = [n * sum(exact[row] for row in rows) / sum(exact.values()) for rows in bins]
    assert stats.chisquare(observed, expected).pvalue > 0.001


@all_kinds
def test_rows_depend_on_the_generator_and_their_index_alone(kind):
    policy = small(kind, max_length=12)
    first = policy.sample(40, generator(5))
    torch.manual_seed(99)  # the global generator plays no part
    again = policy.sample(40, generator(5))
    assert again.smiles == first.smiles
    assert torch.equal(again.tokens, first.tokens)
    assert torch.equal(again.logp, first.logp)
    assert policy.sample(40, generator(6)).smiles != first.smiles
    # each row takes its own uniform number at every step, whichever rows have ended
    assert first.n_tokens.unique().numel() > 3
    numbers = generator(5)
    uniform = torch.stack([torch.rand(40, generator=numbers) for _ in range(12)])
    for i in range(40):  # every row alone, by inverting the cumulative distribution
        row, state = [1], None
        while len(row) <= 12 and row[-1] != 0:
            with torch.no_grad():
                logits, state = policy(torch.tensor([row[-1:]]), state)
            cumulative = logits[0, 0].double().softmax(0).cumsum(0)
            row.append(int((cumulative <= uniform[len(row) - 1, i].double()).sum()))
        assert first.tokens[i, : len(row)].tolist() == row
    torch.manual_seed(1)  # without a generator it is torch's own
    first = policy.sample(5)
    torch.manual_seed(1)
    assert policy.sample(5).smiles == first.smiles
    assert policy.sample(5).smiles != first.smiles


def test_tokens_without_probability_are_never_drawn():
    logp = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).log()
    numbers = {0.0: 1, 0.2499: 1, 0.2501: 3, 0.5: 3, 1 - 2**-24: 3}  # float32 ends below one
    for uniform, token in numbers.items():
        assert draw(logp, torch.tensor([uniform])).tolist() == [token]


def test_finished_rows_leave_the_batch(policy, monkeypatch):
    sizes, step = [], Trail.step
    policy.register_forward_hook(lambda _m, inputs, _out: sizes.append(len(inputs[0])))
    monkeypatch.setattr(Trail, "step", lambda trail, n: sizes.append(n) or step(trail, n))
    lengths = policy.sample(64, generator(0)).n_tokens.tolist()
    # step t is computed for the rows with at least t tokens and for no other
    assert sizes == [sum(n >= t for n in lengths) for t in range(1, max(lengths) + 1)]
    assert sizes[0] == 64
    assert sizes[-1] < 20


def test_rows_that_reach_the_maximum_length_are_flagged():
    rollout = small(tokens="CO", max_length=4, seed=2).sample(300, generator(0))
    cut = rollout.truncated
    assert 0 < cut.sum() < 300
    assert (rollout.n_tokens[cut] == 4).all()
    assert (rollout.tokens[cut][:, 1:] != 0).all()
    assert rollout.tokens.shape == (300, 5)
    assert (rollout.tokens[~cut] == 0).any(dim=1).all()
    # four tokens, the last one the end, are not cut off
    assert ((rollout.n_tokens == 4) & ~cut).any()
    assert all(len(s) == 4 for s, c in zip(rollout.smiles, cut, strict=True) if c)


@all_kinds
def test_sampling_never_drops_units_and_leaves_the_mode_alone(kind):
    policy = small(kind, dropout=0.5)
    quiet = policy.sample(30, generator(0))
    policy.train()
    assert policy.logp(["CC"]).item() != policy.logp(["CC"]).item()  # dropout is at work
    assert policy.sample(30, generator(0)).smiles == quiet.smiles
    assert all(module.training for module in policy.modules())
    policy.eval()
    policy.sample(1)
    assert not policy.training


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3)])
def test_the_defaults_are_reinvents_network(cell, gates):
    policy = RnnPolicy(Vocabulary.of(TOKENS), cell=cell)
    n = len(TOKENS) + 2
    expected = {"embedding.weight": (n, 256), "linear.weight": (n, 512), "linear.bias": (n,)}
    for layer, inputs in enumerate((256, 512, 512)):
        for name, n_inputs in (("ih", inputs), ("hh", 512)):
            expected[f"rnn.weight_{name}_l{layer}"] = (gates * 512, n_inputs)
            expected[f"rnn.bias_{name}_l{layer}"] = (gates * 512,)
    assert {name: tuple(p.shape) for name, p in policy.named_parameters()} == expected
    assert policy.state_dict().keys() == expected.keys()
    assert isinstance(policy.rnn, nn.LSTM if cell == "lstm" else nn.GRU)
    assert policy.rnn.dropout == 0
    assert policy.architecture == {
        "kind": "rnn", "cell": cell, "embedding_size": 256, "hidden_size": 512, "n_layers": 3,
        "dropout": 0.0, "max_length": 256,
    }  # fmt: skip
    with pytest.raises(InputError, match=r"'lstmm' is not known; did you mean 'lstm'\? Known: gru"):
        RnnPolicy(Vocabulary.of("C"), cell="lstmm")


def test_the_architecture_builds_the_same_network(policy):
    settings = KINDS[policy.kind][1](**policy.architecture)
    twin = build_policy(policy.vocabulary, settings).eval()
    twin.load_state_dict(policy.state_dict())
    assert twin.architecture == policy.architecture
    assert torch.equal(twin.logp(["CCO"]), policy.logp(["CCO"]))
    # sampling none, and without a graph
    rollout = policy.sample(0)
    assert (rollout.smiles, rollout.tokens.shape) == ([], (0, 2))
    assert rollout.n_tokens.shape == rollout.logp.shape == (0,)
    assert not policy.sample(3).logp.requires_grad
    assert policy.logp(["C"]).requires_grad


def test_the_operations_are_those_of_the_products():
    projection = 4 * 24 * (8 + 16) + 24 * 16 + 4 * 24 * (16 + 16) + 24 * 16 - 8 * 13
    for kind, weights in {
        "lstm": 4 * 24 * (8 + 24) + 4 * 24 * (24 + 24),
        "gru": 3 * 24 * (8 + 24) + 3 * 24 * (24 + 24),
        "projected": projection,
        "transformer": 2 * (24 * 24 * 4 + 3 * 24 * 20),
        "mingru": 2 * (24 * 20 * 4 + 3 * 24 * 20),
    }.items():
        attention = 4 * 2 * 24 * (1 + 2 + 3 + 4 + 5) if kind == "transformer" else 0
        expected = 2 * 5 * (weights + 24 * (len(TOKENS) + 2)) + attention
        assert small(kind).operations(5) == expected


def test_the_parts_of_a_batch_are_its_rows(policy):
    whole = policy.sample(24, stream(3, 1))
    parts = [policy.sample(24, stream(3, 1), slice(8 * n, 8 * n + 8)) for n in range(3)]
    assert [text for part in parts for text in part.smiles] == whole.smiles
    assert torch.equal(torch.cat([part.truncated for part in parts]), whole.truncated)
    torch.testing.assert_close(torch.cat([p.logp for p in parts]), whole.logp, rtol=0, atol=1e-5)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: numbers that it reads, sizes that it must know."""

    def __init__(self):
        super().__init__()
        self.at = []
        self.n_steps = 0

    def __torch_dispatch__(self, operation, types, arguments=(), kwargs=None):
        self.n_steps += operation is torch.ops.aten.searchsorted.Tensor
        name = operation.overloadpacket.__name__
        masks = name == "index" and any(
            index is not None and index.dtype == torch.bool for index in arguments[1]
        )
        if masks or name in ("_local_scalar_dense", "nonzero", "masked_select", "unique_dim"):
            self.at.append(self.n_steps)
        return operation(*arguments, **(kwargs or {}))


def test_a_gpu_is_asked_every_16_tokens_which_rows_have_ended(monkeypatch):
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_size": 16, "n_layers": 2, "max_length": 40}
    policy = RnnPolicy(Vocabulary.of("CNO1"), cell="gru", **sizes)
    policy.linear.bias.data[END_ID] -= 1.5
    by_token = policy.sample(64, stream(0, 0))
    assert by_token.truncated.any()
    assert (by_token.n_tokens < 16).any()
    monkeypatch.setitem(policies_base.CHECK_EVERY, "cpu", 16)
    uniform_TB = torch.rand(40, 64, generator=stream(0, 0))
    with torch.no_grad(), Waits() as waits:
        token_BT, logp_B, truncated_B = policy._sample(uniform_TB)
    assert waits.n_steps == 40
    assert set(waits.at) == {16, 32}
    assert torch.equal(token_BT[:, : by_token.tokens.shape[1]], by_token.tokens)
    torch.testing.assert_close(logp_B, by_token.logp, rtol=0, atol=1e-5)
    assert torch.equal(truncated_B, by_token.truncated)


def test_devices_are_checked():
    check_device("cpu")
    near = {"gpu": "cuda", "GPU:0": "cuda", "nvidia": "cuda", "cdua:1": "cuda", "CPU": "cpu"}
    for device, suggestion in (near | {"metal": "mps"}).items():
        with pytest.raises(InputError) as caught:
            check_device(device)
        assert str(caught.value) == (
            f"device: {device!r} cannot be used here: no such device; did you mean "
            f"{suggestion!r}? Known: cpu, cuda, mps"
        )
    with pytest.raises(InputError, match=r"^device: 'meta' cannot be used here: [^\n]*meta"):
        check_device("meta")
