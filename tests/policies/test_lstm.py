"""The arithmetic of LSTM cells without padding, against torch's own layers and their gradient."""

import pytest
import torch

from chemkl.policies import RnnPolicy, Vocabulary, freeze, lstm
from chemkl.policies.base import counted
from chemkl.policies.rnn import _SPARE, weights_stay

pytestmark = pytest.mark.numerics

MATRIX = lstm.Matrix

ROWS = torch.tensor(
    [
        [1, 2, 3, 4, 5, 0, 0],
        [1, 2, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0],
        [1, 2, 1, 5, 4, 3, 2],  # cut off, with a start token in the middle
        [1, 2, 3, 4, 5, 2, 0],
        [1, 2, 3, 4, 5, 0, 0],  # the first one again
    ]
)
WEIGHT = torch.tensor([0.5, -1.0, 2.0, 0.25, 3.0, -0.75])  # of each row in the loss


def small(n_layers=2, dtype=torch.float64):
    torch.manual_seed(n_layers)
    sizes = {"embedding_size": 5, "hidden_size": 12, "n_layers": n_layers, "max_length": 9}
    return RnnPolicy(Vocabulary.of("CNOc"), **sizes).to(dtype)


def by_layers(policy, token_BT):
    """Padded, by torch's own embedding, LSTM and linear layer, in the weights' own precision."""
    logits_BTV, _ = policy(token_BT[:, :-1])
    logp_BT = logits_BTV.log_softmax(-1).gather(2, token_BT[:, 1:, None])[..., 0]
    return (logp_BT * counted(token_BT)).sum(dim=1)


def gradient(policy, logp):
    return torch.autograd.grad((logp * WEIGHT[: len(logp)]).sum(), list(policy.parameters()))


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize(("unit", "per_product"), [(1, 1), (4, 9), (64, 2048)])
def test_values_and_gradient_are_those_of_torchs_layers(n_layers, unit, per_product, monkeypatch):
    monkeypatch.setattr(lstm, "UNIT", unit)
    for name in ("PER_PRODUCT", "PER_LAYER"):
        monkeypatch.setattr(lstm, name, per_product)
    policy = small(n_layers)
    logp, expected = policy.logp_tokens(ROWS), by_layers(policy, ROWS)
    torch.testing.assert_close(logp, expected.float(), rtol=1e-6, atol=0)
    assert logp[0] == logp[-1]
    pairs = zip(gradient(policy, logp), gradient(policy, expected), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        assert (theirs != 0).any()


def test_in_float32_too_and_whoever_is_beside(monkeypatch):
    policy, wide = small(dtype=torch.float32), small()
    expected = by_layers(wide, ROWS)
    logp = policy.logp_tokens(ROWS)
    torch.testing.assert_close(logp.double(), expected, rtol=1e-6, atol=1e-6)
    for row, value in zip(ROWS, logp, strict=True):
        assert policy.logp_tokens(row[None]).item() == pytest.approx(value.item(), rel=1e-6)
    together = gradient(policy, logp)
    for ours, theirs in zip(together, gradient(wide, expected), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
    # without oneDNN's products the same comes out
    monkeypatch.setattr(lstm, "packs", lambda _kind: False)
    torch.testing.assert_close(policy.logp_tokens(ROWS), logp, rtol=1e-6, atol=1e-6)


def test_what_was_sampled_to_learn_needs_no_second_pass():
    policy = small()
    drawn = policy.sample_to_learn(6, torch.Generator().manual_seed(3))
    assert drawn.smiles == policy.sample(6, torch.Generator().manual_seed(3)).smiles
    again = policy.logp_tokens(drawn.tokens)
    torch.testing.assert_close(drawn.logp, again, rtol=1e-6, atol=0)
    first, second = gradient(policy, drawn.head(4).logp), gradient(policy, again[:4])
    for ours, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    # no rows
    policy = small(dtype=torch.float32)
    logp = policy.logp_tokens(ROWS[:0])
    assert logp.shape == (0,)
    assert not any(values.any() for values in gradient(policy, logp))


def test_walks_that_live_at_the_same_time_share_no_memory(monkeypatch):
    monkeypatch.setattr(lstm, "STEPS", 1)  # so that memory has to grow on the way
    policy = small()
    expected = [gradient(policy, by_layers(policy, rows)) for rows in (ROWS, ROWS[3:])]
    for _ in range(3):  # from the second time on in memory that an earlier walk has left
        both = [policy.logp_tokens(rows) for rows in (ROWS, ROWS[3:])]
        assert len(_SPARE[policy]) <= lstm.SPARE
        policy.sample(50)
        for logp, theirs in zip(both, expected, strict=True):
            loss = (logp * WEIGHT[: len(logp)]).sum()
            loss.backward(retain_graph=True)
            policy.zero_grad()
            loss.backward()  # what a walk has kept is not used up
            for weight, value in zip(policy.parameters(), theirs, strict=True):
                torch.testing.assert_close(weight.grad, value, rtol=1e-9, atol=1e-12)
            policy.zero_grad()


def test_weights_that_do_not_learn_may_still_be_replaced():
    policy, other = freeze(small(1)), small(1)
    before = policy.logp_tokens(ROWS)
    assert policy.logp_tokens(ROWS).tolist() == before.tolist()
    policy.load_state_dict({k: v * 2 for k, v in other.state_dict().items()})
    torch.testing.assert_close(
        policy.logp_tokens(ROWS), by_layers(policy, ROWS).float(), rtol=1e-6, atol=0
    )
    assert policy.logp_tokens(ROWS).tolist() != before.tolist()
    # only trainable weights get a gradient
    policy = small()
    policy.embedding.requires_grad_(requires_grad=False)
    policy.logp_tokens(ROWS).sum().backward()
    assert policy.embedding.weight.grad is None
    assert policy.linear.weight.grad is not None
    assert policy.rnn.weight_ih_l0.grad is not None


def test_weights_are_laid_out_once_for_what_is_learnt_in_one_step(monkeypatch):
    matrices = []
    monkeypatch.setattr(lstm, "Matrix", lambda *given: matrices.append(given) or MATRIX(*given))
    policy = small().train()
    adam = torch.optim.Adam(policy.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        matrices.clear()
        with weights_stay():
            sampled = policy.sample_to_learn(50, torch.Generator().manual_seed(0))
            laid_out = len(matrices)
            read = policy.logp_tokens(ROWS)
        torch.testing.assert_close(read, by_layers(policy, ROWS).float(), rtol=1e-6, atol=0)
        loss = sampled.logp.sum() + read.sum()
        loss.backward()
        assert len(matrices) == laid_out + 3  # turned, for the way back of both
        theirs = by_layers(policy, sampled.tokens).sum() + by_layers(policy, ROWS).sum()
        for weight, value in zip(
            policy.parameters(), torch.autograd.grad(theirs, list(policy.parameters())), strict=True
        ):
            torch.testing.assert_close(weight.grad, value, rtol=1e-9, atol=1e-12)
        adam.step()  # while the graph of the step is still there
        adam.zero_grad()
    matrices.clear()
    for _ in range(2):  # nobody says that they stay
        policy.logp_tokens(ROWS)
    assert len(matrices) == 2 * laid_out


@pytest.mark.bf16
def test_under_autocast_products_are_rounded_and_all_else_is_not():
    policy, wide = small(dtype=torch.float32), small()
    exact = by_layers(wide, ROWS)
    with torch.autocast("cpu", torch.bfloat16):
        logp = policy.logp_tokens(ROWS)
    assert logp.dtype == torch.float32
    torch.testing.assert_close(logp.double(), exact, rtol=0.02, atol=0)
    assert logp.tolist() != policy.logp_tokens(ROWS).tolist()
    for ours, theirs in zip(gradient(policy, logp), gradient(wide, exact), strict=True):
        assert (ours.double() - theirs).abs().max() < 0.05 * theirs.abs().max()
