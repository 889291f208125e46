"""The recipe for verl in chemkl/llm/README.md, on a record of the same fields."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

README = Path(__file__).parents[2] / "chemkl" / "llm" / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
(RECIPE,) = (block for block in BLOCKS if "def anchored_kl_penalty" in block)
WORLD: dict = {}
exec(RECIPE, WORLD)
anchored_kl_penalty = WORLD["anchored_kl_penalty"]


class FixedController:
    value = 0.1

    def update(self, current_kl, n_steps):
        pass


def apply_kl_penalty(data, kl_ctrl, kl_penalty="kl"):
    """The arithmetic of verl 0.9: scores - beta (old - ref), token by token."""
    batch = data.batch
    kl = (batch["old_log_probs"] - batch["ref_log_prob"]) * batch["response_mask"]
    batch["token_level_rewards"] = batch["token_level_scores"] - kl_ctrl.value * kl
    return data, {"actor/reward_kl_penalty": float(kl.mean())}


@pytest.fixture
def data():
    """Two prompts, interleaved; answers of 2, 3, 1 and 4 tokens, the last one cut off."""
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]])
    scores = torch.zeros(5, 4)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        scores[row, length - 1] = 1.0
    return SimpleNamespace(
        batch={
            "response_mask": mask,
            "token_level_scores": scores,
            "old_log_probs": torch.full((5, 4), -1.0),
            # padding holds rubbish, as it may
            "ref_log_prob": torch.tensor(
                [
                    [-1.0, -1.0, 9.0, 9.0],
                    [-2.0, -2.0, -2.0, 9.0],
                    [-3.0, 9.0, 9.0, 9.0],
                    [-0.1, -0.1, -0.1, -0.1],
                    [-1.0, -2.0, -1.0, 9.0],
                ]
            ),
        },
        non_tensor_batch={"uid": np.array(["b", "a", "a", "b", "b"], dtype=object)},
    )


def test_the_bonus_goes_on_the_last_token(data):
    plain, _ = apply_kl_penalty(data, FixedController())
    before = plain.batch["token_level_rewards"].clone()
    scores = data.batch["token_level_scores"].clone()

    wrapped = anchored_kl_penalty(apply_kl_penalty, tau=1.0, max_response_length=4)
    out, metrics = wrapped(data, kl_ctrl=FixedController(), kl_penalty="kl")

    # log pi_ref: b: -2 (row 0), -4 (row 4), row 3 is cut off; a: -6 (row 1), -3 (row 2)
    # bonus = .1 (lr(z) - lr): row 4: .1 (-2 + 4) = .2, at token 2; row 1: .1 (-3 + 6) = .3, token 2
    bonus = torch.zeros(5, 4)
    bonus[4, 2], bonus[1, 2] = 0.2, 0.3
    torch.testing.assert_close(out.batch["token_level_rewards"] - before, bonus)
    torch.testing.assert_close(out.batch["token_level_scores"], scores)
    assert metrics["mara/hit_rate"] == pytest.approx(4 / 5)
    assert metrics["mara/bonus_mean"] == pytest.approx(0.5 / 4)
    assert "actor/reward_kl_penalty" in metrics


def test_hits_at_the_target_have_one_total(data):
    # policy = target: equal probability for the hits of a prompt; then reward - KL + bonus, summed
    # over the tokens as rloo does, is one number for them, and the advantage 0
    mask = data.batch["response_mask"]
    data.batch["old_log_probs"] = -6.0 * mask / mask.sum(dim=1, keepdim=True)
    wrapped = anchored_kl_penalty(apply_kl_penalty, tau=1.0, max_response_length=4)
    out, _ = wrapped(data, FixedController())
    total = (out.batch["token_level_rewards"] * mask).sum(dim=1)
    assert total[0].item() == pytest.approx(total[4].item(), abs=1e-6)
    assert total[1].item() == pytest.approx(total[2].item(), abs=1e-6)


def test_another_kl_is_refused(data):
    wrapped = anchored_kl_penalty(apply_kl_penalty, tau=1.0, max_response_length=4)
    with pytest.raises(ValueError, match=r"kl_penalty is 'low_var_kl': MARA needs 'kl'"):
        wrapped(data, FixedController(), kl_penalty="low_var_kl")
