"""What one batch gives to the objective: log-probabilities, rewards, and whatever else it asks for.

Legend: B rows of the batch, C rows carried over from the batch before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from chemkl.chem.fingerprints import tanimoto_kernel
from chemkl.losses import LossInputs, Objective
from chemkl.policies.base import Rollout, SequenceModel, joined
from chemkl.training.seeds import stream


@dataclass(frozen=True)
class Carried:
    """Sequences that the next batch has again, with the rewards that they had (msc).

    Attributes:
        tokens: token_CT.
        reward: reward_C, float64.
        group: group_C; None: the rows of a batch are one group.
    """

    tokens: Tensor
    reward: Tensor
    group: Tensor | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return what there is, on the CPU."""
        group = {} if self.group is None else {"group": self.group}
        return {"tokens": self.tokens.cpu(), "reward": self.reward, **group}


class InputBuilder:
    """Builds the inputs of an objective, and keeps the rows that it carries from batch to batch.

    Args:
        policy: the network to train.
        reference: the frozen prior.
        objective: what it needs beyond the usual is made only if it asks.
        seed: of the fresh samples of the prior.
    """

    def __init__(
        self, policy: SequenceModel, reference: SequenceModel, objective: Objective, seed: int
    ) -> None:
        self._policy = policy
        self._reference = reference
        self._objective = objective
        self._seed = seed
        self._carried: Carried | None = None

    def build(
        self, rollout: Rollout, rows: pd.DataFrame, step: int, rank: int, *, learns: bool = True
    ) -> LossInputs:
        """Return the inputs of a batch, rows carried from the batch before at its end.

        Everything is on the CPU: a few numbers a row, rewards in float64.

        Args:
            rollout: the batch.
            rows: its rewards.
            step: of the training.
            rank: of the process.
            learns: whether there is an update; without one no fresh samples of the prior are drawn.
        """
        tokens, reward_B = rollout.tokens, _rewards(rows)
        group_B = None if rollout.group is None else rollout.group.cpu()
        duplicate_B = torch.tensor(_sequences(rollout).duplicated().to_numpy())
        retained_B = None
        if self._carried is not None:
            carried = self._carried
            tokens = joined(tokens, carried.tokens.to(tokens.device), rollout.end_id)
            if group_B is not None and carried.group is not None:
                group_B = torch.cat([group_B, carried.group])
            reward_B = torch.cat([reward_B, carried.reward])
            retained_B = torch.arange(len(reward_B)) >= len(rows)
            duplicate_B = torch.cat([duplicate_B, torch.zeros(len(carried.reward)).bool()])
        with torch.no_grad():
            logp_ref_B = self._reference.logp_tokens(tokens).cpu()
        return LossInputs(
            logp_policy=self._policy.logp_tokens(tokens).cpu(),
            logp_ref=logp_ref_B,
            reward=reward_B,
            group=group_B,
            duplicate=duplicate_B,
            retained=retained_B,
            logp_policy_of_prior=self._of_prior(len(rows), step, rank) if learns else None,
            **self._for_shaper(rows),
        )

    def carry(self, carry_B: Tensor | None, rollout: Rollout, inputs: LossInputs) -> None:
        """Keep the rows that the objective wants to have again; None: none."""
        if carry_B is None:
            return
        tokens = rollout.tokens
        if self._carried is not None:
            tokens = joined(tokens, self._carried.tokens.to(tokens.device), rollout.end_id)
        group_B = inputs.group
        self._carried = Carried(
            tokens[carry_B.to(tokens.device)],
            inputs.reward[carry_B],
            None if group_B is None else group_B[carry_B],
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the carried rows, for a checkpoint."""
        return {} if self._carried is None else self._carried.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the carried rows of a checkpoint."""
        self._carried = Carried(**state) if state else None

    def _of_prior(self, n: int, step: int, rank: int) -> Tensor | None:
        """Log-probabilities, with graph, of as many fresh samples of the prior, if wanted."""
        if not self._objective.needs_prior_samples:
            return None
        drawn = self._reference.sample(n, stream(self._seed, step, rank, "prior"))
        torch.clear_autocast_cache()  # sampling is without grad: see Posttrain.training_step
        return self._policy.logp_tokens(drawn.tokens).cpu()

    def _for_shaper(self, rows: pd.DataFrame) -> dict[str, Tensor]:
        """The similarity and the scaffold (or answer) numbers of the rows, if a shaper asks."""
        shaper = self._objective.shaper
        found = {}
        if shaper is not None and shaper.needs_kernel:
            smiles = [s if isinstance(s, str) else None for s in rows["canonical_smiles"]]
            found["kernel"] = torch.from_numpy(tanimoto_kernel(smiles))
        if shaper is not None and shaper.needs_outcome:
            named = rows["scaffold"]
            if "answer" in rows and named.isna().all():  # a text without molecules
                named = rows["answer"]
            found["outcome"] = torch.tensor(pd.factorize(named)[0], dtype=torch.int64)
        return found


def _sequences(rollout: Rollout) -> pd.Series:
    """What two rows have in common that are the same sequence: prompt and ids, not the text.

    A language model writes one text in several ways, each with a probability of its own.
    """
    groups = [0] * len(rollout) if rollout.group is None else rollout.group.tolist()
    ids = map(tuple, rollout.tokens[:, 1:].tolist())
    return pd.Series(list(zip(groups, ids, strict=True)), dtype=object)


def _rewards(rows: pd.DataFrame) -> Tensor:
    return torch.tensor(rows["reward_filtered"].to_numpy(), dtype=torch.float64)
