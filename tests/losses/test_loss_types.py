import pytest
import torch

from chemkl.losses import LossInputs

GOOD = {
    "logp_policy": torch.tensor([-1.0, -2.0, -3.0]),
    "logp_ref": torch.tensor([-3.0, -2.0, -1.0]),
    "reward": torch.tensor([0.0, 0.5, 1.0]),
}


def changed(**tensors):
    return LossInputs(**{**GOOD, **tensors})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"reward": torch.zeros(2)}, r"got logp_policy \(3,\), logp_ref \(3,\), reward \(2,\)"),
        (
            {"reward": torch.zeros(3, 1)},
            r"got logp_policy \(3,\), logp_ref \(3,\), reward \(3, 1\)",
        ),
        ({"group": torch.zeros(4).long()}, r"got logp_policy \(3,\).*, group \(4,\)"),
        ({"duplicate": torch.zeros(())}, r"got logp_policy \(3,\).*, duplicate \(\)"),
        (
            {"logp_policy": torch.tensor([-1.0, torch.nan, -torch.inf])},
            "logp_policy is not finite in 2 of 3 rows .first: row 1, nan.: .*mask padding with 0",
        ),
        (
            {"logp_ref": torch.tensor([-1.0, -2.0, -torch.inf])},
            "logp_ref is not finite in 1 of 3 rows .first: row 2, -inf",
        ),
        (
            {"reward": torch.tensor([torch.nan, 1.0, 0.0])},
            "reward is not finite in 1 of 3 rows .first: row 0, nan.: .*has reward 0",
        ),
        (
            {"logp_behaviour": torch.tensor([-1.0, torch.inf, -1.0])},
            "logp_behaviour is not finite in 1 of 3 rows .first: row 1, inf",
        ),
        (
            {"logp_policy_of_prior": torch.tensor([-1.0, torch.nan])},
            "logp_policy_of_prior is not finite in 1 of 2 rows .first: row 1, nan",
        ),
        ({"reward": torch.tensor([0, 1, 1])}, "reward is int64, and must be float32 or float64"),
        (
            {"logp_policy": torch.zeros(3, dtype=torch.bfloat16)},
            "logp_policy is bfloat16, and must be float32 or float64: take log-softmax .* in fp32",
        ),
        ({"group": torch.zeros(3)}, "group is float32, and must be a tensor of whole numbers"),
        ({"duplicate": torch.zeros(3)}, "duplicate is float32, and must be a bool tensor"),
    ],
)
def test_bad_rows(tensors, message):
    with pytest.raises(ValueError, match=message):
        changed(**tensors)


def test_an_empty_batch():
    empty = torch.zeros(0)
    with pytest.raises(
        ValueError, match="the batch is empty: logp_policy, logp_ref, reward have 0 rows"
    ):
        LossInputs(logp_policy=empty, logp_ref=empty, reward=empty)


def test_a_list_is_not_a_tensor():
    with pytest.raises(TypeError, match=r"reward must be a torch\.Tensor, got list"):
        changed(reward=[0.0, 1.0, 1.0])


def test_shapes_are_named_before_values():
    with pytest.raises(ValueError, match=r"got .*reward \(2,\)"):
        changed(reward=torch.full((2,), torch.nan))


def test_good_rows_pass():
    inputs = changed(group=torch.tensor([0, 1, 0]), duplicate=torch.tensor([False, False, True]))
    assert inputs.reward is GOOD["reward"]
