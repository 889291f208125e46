import dataclasses

import pytest
import torch

from chemkl.losses import METRICS, Gibbs, LossInputs, Mara, build_objective, rloo

NAMES = ("reinvent", "rloo", "log_variance")


def slope(objective, inputs):
    return torch.autograd.grad(objective(inputs).loss, inputs.logp_policy)[0]


def test_an_instance_and_a_name_make_one_objective(batch):
    by_instance = build_objective(target=Mara(beta=0.1, tau=0.8), estimator="rloo")
    for by_name in (
        build_objective("mara", "rloo", beta=0.1, tau=0.8),
        build_objective("mara", "rloo", sigma=10, tau=0.8),
        build_objective(target=Mara(sigma=10, tau=0.8), beta=0.1),
        build_objective(target=Mara(beta=0.1, tau=0.8), sigma=10),
    ):
        assert by_name.beta == by_instance.beta == 0.1
        assert torch.equal(slope(by_name, batch), slope(by_instance, batch))


def test_the_objective_is_the_estimator_on_the_target(batch):
    output = build_objective(Mara(beta=0.2, tau=0.8), "rloo")(batch)
    target = Mara(beta=0.2, tau=0.8)(batch.logp_ref, batch.reward)
    expected, _ = rloo(batch.logp_policy, target.log_target, 0.2)
    assert output.loss.item() == expected.item()
    for field in ("log_target", "hit", "anchor", "anchor_logp_ref"):
        assert torch.equal(getattr(output.target, field), getattr(target, field))
    assert not output.target.log_target.requires_grad


def test_a_target_of_ones_own(batch):
    class Flat:
        beta = 2.0
        full_support = True

        def __call__(self, logp_ref_B, reward_B, group_B=None):
            assert group_B is None
            return dataclasses.replace(
                Gibbs(beta=2.0)(logp_ref_B, reward_B), log_target=torch.zeros_like(logp_ref_B)
            )

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    loss = build_objective(Flat(), "reinvent")(batch).loss
    assert loss.item() == pytest.approx((16 + 36 + 25 + 81 + 49 + 9) / 6)


def test_metrics_by_hand(batch):
    output = build_objective(Mara(beta=0.5, tau=0.8), "reinvent")(batch)
    assert set(output.metrics) == set(METRICS)
    got = {name: value.item() for name, value in output.metrics.items()}
    # the target is -1.8, -3.4, -3.4, -1.42, -3.4, -4 (see the test of the target)
    ratio = torch.tensor([-1.8 + 4, -3.4 + 6, -3.4 + 5, -1.42 + 9, -3.4 + 7, -4.0 + 3])
    # bonus of the hits: .8 + .5 (lr(z) - lr) - R = 1.4, 0, 2.8
    expected = {
        "loss": (ratio**2).mean().item(),
        "reward_mean": 3.59 / 6,
        "hit_rate": 0.5,
        "logp_policy_mean": -34 / 6,
        "logp_ref_mean": -33 / 6,
        "logp_ref_hits_mean": -8.0,
        "anchor_logp_ref": -5.0,
        "log_target_mean": -17.42 / 6,
        "log_ratio_mean": ratio.mean().item(),
        "log_ratio_std": ratio.std(correction=0).item(),
        "kl": -1 / 6,
        "mara_bonus_mean": 1.4,
        "mara_bonus_std": (2 * 1.4**2 / 3) ** 0.5,
    }
    assert got == pytest.approx(expected, abs=1e-6)
    assert all(value.ndim == 0 for value in output.metrics.values())
    assert not any(value.requires_grad for value in output.metrics.values())


@pytest.mark.parametrize("name", NAMES)
def test_metrics_have_the_same_names_with_and_without_hits(batch, name):
    own = {"advantage_std", "weight"} if name == "rloo" else set()
    for target in (Mara(beta=0.5, tau=0.8), Mara(beta=0.5, tau=2.0), Gibbs(beta=0.5)):
        output = build_objective(target, name)(batch)
        assert set(output.metrics) == set(METRICS) | own
        without_hits = not output.target.hit.any()
        for metric in ("logp_ref_hits_mean", "anchor_logp_ref"):
            assert output.metrics[metric].isnan().item() == without_hits
        for metric in ("mara_bonus_mean", "mara_bonus_std"):
            assert output.metrics[metric].isnan().item() == without_hits
        assert output.metrics["hit_rate"].item() == (0 if without_hits else 0.5)


def test_dropping_in_a_group_of_copies_is_a_normal_step():
    """A collapsed policy samples one sequence only: no error, no gradient."""
    inputs = LossInputs(
        logp_policy=torch.tensor([-1.5, -1.5, -1.5], requires_grad=True),
        logp_ref=torch.tensor([-2.5, -2.5, -2.5]),
        reward=torch.ones(3),
        duplicate=torch.tensor([False, True, True]),
    )
    for name in ("rloo", "log_variance"):
        objective = build_objective("mara", name, beta=0.1, tau=0.8, duplicates="drop")
        assert slope(objective, inputs).tolist() == [0, 0, 0]


def test_dropping_needs_to_know_the_copies(batch):
    with pytest.raises(ValueError, match=r"needs LossInputs\(duplicate=\.\.\.\)"):
        build_objective("gibbs", beta=0.1, duplicates="drop")(batch)


def test_no_gradient_through_the_target(batch):
    reward = batch.reward.clone().requires_grad_()
    logp_ref = batch.logp_ref.clone().requires_grad_()
    inputs = LossInputs(logp_policy=batch.logp_policy, logp_ref=logp_ref, reward=reward)
    build_objective(Mara(beta=0.2, tau=0.8), "log_variance")(inputs).loss.backward()
    assert reward.grad is None
    assert logp_ref.grad is None


def test_the_state_of_an_objective_is_that_of_its_target(batch):
    def fresh():
        return build_objective("mara", "log_variance", beta=0.1, tau=0.8, anchor="running")

    first, second = fresh(), fresh()
    first(batch)
    second.load_state_dict(first.state_dict())
    later = dataclasses.replace(batch, logp_ref=batch.logp_ref - 3)
    assert torch.equal(first(later).target.log_target, second(later).target.log_target)
    assert not torch.equal(first(later).target.log_target, fresh()(later).target.log_target)
