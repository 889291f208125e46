"""MARA as a reward, by hand; and the recipe that puts it into verl."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from chemkl.llm.anchored import anchor_rewards
from chemkl.losses import Mara

NAN = float("nan")


def rows(*values):
    return torch.tensor(values)


def anchored(reward, logp_ref, group=None, complete=None, **options):
    """Rbar of Algorithm 1, and what else there is."""
    output = anchor_rewards(Mara(**options), reward, logp_ref, group, complete)
    return reward.double() + output.bonus, output


def test_algorithm_1_by_hand():
    # prompt 0: hits are rows 0, 1, 3; the likeliest of them is row 0 (lr -2, R 1.0).
    #   row 1: 1.0 + .1 (-2 - -5) = 1.3; row 3: 1.0 + .1 (-2 - -3) = 1.1 (its own R, 2, is gone)
    # prompt 1: row 5 is likelier but no hit, so row 4 is alone and keeps its reward
    reward = rows(1.0, 1.0, 0.0, 2.0, 1.0, 0.5)
    logp_ref, group = rows(-2.0, -5.0, -1.0, -3.0, -7.0, -1.0), rows(0, 0, 0, 0, 1, 1)
    rbar, _ = anchored(reward, logp_ref, group, beta=0.1, tau=1.0)
    torch.testing.assert_close(rbar, rows(1.0, 1.3, 0.0, 1.1, 1.0, 0.5).double())
    # without groups all rows share an anchor
    rbar, _ = anchored(rows(1.0, 1.0), rows(-2.0, -4.0), beta=0.5, tau=1.0)
    torch.testing.assert_close(rbar, rows(1.0, 2.0).double())
    # log-probabilities of hundreds of nats
    # in fp32 alone 700 + 1e-4 would be off by 6e-5
    logp_ref = torch.tensor([-700.0, -700.0001], dtype=torch.float64)
    rbar, _ = anchored(rows(1.0, 1.0), logp_ref, beta=0.05, tau=1.0)
    assert rbar[1].item() == pytest.approx(1 + 0.05 * 1e-4, abs=1e-10)


# row 0 has no token left in its mask: a log-probability of 0, the likeliest that there is; or no
# reward
@pytest.mark.parametrize(("reward", "complete"), [(1.0, rows(False, True, True)), (NAN, None)])
def test_a_row_that_cannot_be_a_hit_is_no_anchor_and_gets_no_bonus(reward, complete):
    rewards = rows(reward, 1.0, 1.0)
    _, output = anchored(rewards, rows(0.0, -3.0, -4.0), None, complete, beta=0.1, tau=1.0)
    assert output.hit.tolist() == [False, True, True]
    assert output.anchor.tolist() == [False, True, False]
    torch.testing.assert_close(output.bonus, rows(0.0, 0.0, 0.1).double())
    assert output.anchor_logp_ref[1:].tolist() == [-3.0, -3.0]


def test_rows_that_cannot_be_hits_have_no_part_in_the_quantile():
    # the median of the three others, .8, .6 and .65, is .65: rows 0 and 4 are hits, row 0 is the
    # anchor; with the 3.0 of the row cut off it would be .725, and row 4 no hit
    reward, logp_ref = rows(0.8, 0.6, 3.0, NAN, 0.65), rows(-3.0, -4.0, -1.0, -1.0, -5.0)
    options = {"beta": 0.1, "tau_quantile": 0.5, "tau_floor": 0.1}
    complete = rows(True, True, False, True, True)
    rbar, _ = anchored(reward, logp_ref, complete=complete, **options)
    torch.testing.assert_close(rbar[[0, 1, 2, 4]], rows(0.8, 0.6, 3.0, 1.0).double())
    # without scored rows nothing changes
    _, output = anchored(rows(NAN, NAN), rows(-1.0, -2.0), beta=0.1, tau=1.0)
    assert output.bonus.tolist() == [0.0, 0.0]
    assert output.hit.tolist() == [False, False]
    assert output.anchor_logp_ref.isnan().all()


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
    # another KL is refused
    wrapped = anchored_kl_penalty(apply_kl_penalty, tau=1.0, max_response_length=4)
    with pytest.raises(ValueError, match=r"kl_penalty is 'low_var_kl': MARA needs 'kl'"):
        wrapped(data, FixedController(), kl_penalty="low_var_kl")
