"""The frozen reference of a language model: the model without its adapters, or a second copy.

Shape legend: B rows, M of them not known yet, T ids of a row (see `HfPolicy`).
"""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from chemkl.llm.policy import HfPolicy
from chemkl.policies.base import Rollout, SequenceModel, counted


class Reference(SequenceModel):
    """What a language model was before it was trained; it remembers what it was asked.

    A policy with adapters is its own reference, with these switched off: its weights are in memory
    once, and they are no part of this module. A policy without any is taken as it is, frozen.

    Log-probabilities are remembered by row, the latest asked for longest. They are part of a
    checkpoint (``memory``), for the last digits of a value depend on the batch that it was
    computed in: a resumed run would otherwise differ from an uninterrupted one.

    Args:
        policy: with adapters; or a copy that nothing trains.
        remembered: rows whose log-probability is kept.
    """

    def __init__(self, policy: HfPolicy, remembered: int = 10_000) -> None:
        super().__init__()
        if policy.has_adapter:
            self._shared = (policy,)  # in a tuple it is no submodule: not saved, not moved twice
        else:
            self.copy = policy.requires_grad_(requires_grad=False)
            self._shared = (self.copy,)
        self._remembered = remembered
        self._known: OrderedDict[tuple[int, ...], float] = OrderedDict()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._shared[0].device

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Rollout:
        """Draw n completions, as the policy does."""
        with self._shared[0].without_adapter():
            return self._shared[0].sample(n, generator)

    @torch.no_grad()
    def logp_tokens(self, token_BT: Tensor) -> Tensor:
        """Return log p of each row of ids: float32_B, nats, end token included; no graph."""
        # what tells rows apart: the prompt's number and the ids up to the end
        length_B = 1 + counted(token_BT, self._shared[0].end_id).sum(dim=1)
        pairs = zip(token_BT.tolist(), length_B.tolist(), strict=True)
        keys = [tuple(row[:length]) for row, length in pairs]
        new = {key: row for row, key in enumerate(keys) if key not in self._known}
        found = {}
        if new:
            token_MT = token_BT[list(new.values())]
            with self._shared[0].without_adapter():
                found = dict(zip(new, self._shared[0].logp_tokens(token_MT).tolist(), strict=True))
        logp_B = torch.tensor([found[k] if k in found else self._known[k] for k in keys])
        for key, value in zip(keys, logp_B.tolist(), strict=True):
            self._known[key] = value
            self._known.move_to_end(key)
        while len(self._known) > self._remembered:
            self._known.popitem(last=False)
        return logp_B.to(token_BT.device)

    def memory(self) -> dict[str, Tensor]:
        """Return the remembered rows, the oldest first."""
        lengths = [len(key) for key in self._known]
        flat = [each for key in self._known for each in key]
        return {
            "length": torch.tensor(lengths, dtype=torch.int32),
            "tokens": torch.tensor(flat, dtype=torch.int32),
            "logp": torch.tensor(list(self._known.values()), dtype=torch.float32),
        }

    def restore_memory(self, memory: Mapping[str, Tensor]) -> None:
        """Continue from the result of ``memory``."""
        rows = torch.split(memory["tokens"], memory["length"].tolist())
        keys = [tuple(row.tolist()) for row in rows]
        self._known = OrderedDict(zip(keys, memory["logp"].tolist(), strict=True))
