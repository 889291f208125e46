import pytest
import torch

from chemkl.losses import Gibbs, Mara

NAN = float("nan")


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def same(got, *expected):
    torch.testing.assert_close(got, rows(*expected), atol=1e-12, rtol=0, equal_nan=True)


@pytest.mark.parametrize("anchor", ["batch", "running"])
def test_copies_do_not_move_the_anchor(batch, anchor):
    order = [0, 1, 2, 3, 4, 5, 1, 1, 1, 4, 4, 2, 1, 1]
    alone = Mara(beta=0.5, tau=0.8, anchor=anchor)(batch.logp_ref, batch.reward)
    copied = Mara(beta=0.5, tau=0.8, anchor=anchor)(batch.logp_ref[order], batch.reward[order])
    same(copied.log_target, *alone.log_target[order].tolist())
    assert copied.anchor.sum() == alone.anchor.sum()


def test_running_anchor_is_a_quantile_of_the_distinct_hits_and_never_the_likeliest():
    target = Mara(beta=1.0, tau=0.8, anchor="running", anchor_quantile=0.5)
    # one hit so far: itself
    same(target(rows(-4.0, -1.0), rows(0.9, 0.1)).log_target, -3.1, -0.9)
    # hits -6, -4, -2: number floor(.5 * 2) = 1 from below is -4, with its reward .9
    out = target(rows(-2.0, -6.0), rows(0.8, 1.0))
    same(out.log_target, -3.1, -3.1)
    same(out.anchor_logp_ref, -4.0, -4.0)
    assert out.hit.all()
    assert not out.anchor.any()  # the anchor is not a row of this batch
    # two more, -1 and -0.5: floor(.5 * 4) = 2 is still below the top of -6 -4 -2 -1 -.5
    same(target(rows(-1.0, -0.5), rows(1.0, 1.0)).anchor_logp_ref, -2.0, -2.0)


def test_running_anchor_is_never_the_all_time_maximum():
    for n in range(2, 40):
        target = Mara(beta=1.0, tau=0.5, anchor="running", anchor_quantile=0.99)
        logp_ref = -torch.arange(1.0, n + 1)
        out = target(logp_ref, torch.ones(n))
        assert out.anchor_logp_ref[0] == -2.0


def test_running_anchor_serves_a_batch_that_has_a_single_hit():
    target = Mara(beta=1.0, tau=0.8, anchor="running")
    target(rows(-3.0, -2.0), rows(1.0, 1.0))
    # the hits so far are -9, -3, -2: floor(.95 * 2) = 1 is -3
    same(target(rows(-9.0, -1.0), rows(0.8, 0.0)).log_target, -2.0, -1.0)


def test_running_anchor_keeps_groups_apart():
    target = Mara(beta=1.0, tau=0.8, anchor="running", anchor_quantile=0.5)
    target(rows(-3.0, -5.0), rows(0.9, 1.0), torch.tensor([0, 1]))
    out = target(rows(-8.0, -9.0, -7.0), rows(0.1, 0.1, 0.1), torch.tensor([1, 0, 2]))
    same(out.anchor_logp_ref, -5.0, -3.0, NAN)
    same(out.log_target, -7.9, -8.9, -6.9)


def test_a_resumed_running_anchor_is_identical(batch):
    generator = torch.Generator().manual_seed(3)
    batches = [
        (-torch.rand(32, generator=generator) * 40, torch.rand(32, generator=generator))
        for _ in range(6)
    ]
    groups = torch.arange(32) % 3
    through = Mara(sigma=10.0, tau=0.6, anchor="running")
    expected = [through(*one, groups).log_target for one in batches]

    first = Mara(sigma=10.0, tau=0.6, anchor="running")
    for one in batches[:3]:
        first(*one, groups)
    second = Mara(sigma=10.0, tau=0.6, anchor="running")
    second.load_state_dict(first.state_dict())
    for one, target in zip(batches[3:], expected[3:], strict=True):
        assert torch.equal(second(*one, groups).log_target, target)
    # without the memory the target is another one
    fresh = Mara(sigma=10.0, tau=0.6, anchor="running")
    assert not torch.equal(fresh(*batches[3], groups).log_target, expected[3])


def test_the_state_says_when_it_does_not_fit():
    running = Mara(beta=1.0, tau=0.8, anchor="running")
    running(rows(-3.0), rows(1.0))
    with pytest.raises(ValueError, match="lacks reward"):
        running.load_state_dict({"group": rows(0), "logp_ref": rows(-1)})
    for stateless in (Gibbs(beta=1.0), Mara(beta=1.0, tau=0.8)):
        assert stateless.state_dict() == {}
        stateless.load_state_dict({})
        with pytest.raises(ValueError, match=r"remembers nothing.*saved with another target"):
            stateless.load_state_dict(running.state_dict())
