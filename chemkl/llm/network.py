"""A causal language model of transformers as it is called here: prompts, caches, log-probabilities.

Shape legend: U rows, in `logp_after` different ones of one prompt; T ids of a row, L = T - 1 of
them behind the prompt's number; S ids up to the last one read; P tokens of a prompt, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chemkl.llm.extra import package
from chemkl.policies.base import sequence_logp


class Network:
    """Calls a model.

    Args:
        model: a causal LM of transformers, or a PeftModel around one.
        end_id: the token that ends a completion.
    """

    def __init__(self, model: nn.Module, end_id: int) -> None:
        transformers = package("transformers")
        self._model = model
        self._end_id = end_id
        self._cache_kind = transformers.DynamicCache
        plain = transformers.cache_utils.DynamicLayer
        self.rewinds: bool = all(type(layer) is plain for layer in self.new_cache().layers)
        """Whether rows can go on from what the model keeps of their prompt, with gradient. Sliding
        windows and recurrent layers do not keep all of it: there the prompt is read again with
        each completion."""

    def new_cache(self) -> Any:
        """An empty cache of the model's kind."""
        return self._cache_kind(config=self._model.config)

    def read(
        self,
        token_UT: Tensor,
        cache: Any,
        seen: int,
        real_US: Tensor | None = None,
        *,
        last_alone: bool = False,
    ) -> Tensor:
        """Return logits_UTV behind ids.

        Args:
            token_UT: ids that follow those which the cache has seen.
            cache: what it keeps of them is added; None: nothing was seen, and nothing is kept.
            seen: how many those were.
            real_US: 1 for each id up to the last of these that is no padding; None: all are real.
            last_alone: return the logits behind the last id only.
        """
        if real_US is None:
            end = seen + token_UT.shape[1]
            position_UT = torch.arange(seen, end, device=token_UT.device).expand_as(token_UT)
        else:
            position_UT = (real_US.cumsum(dim=1) - 1).clamp_min(0)[:, seen:]
        output = self._model(
            input_ids=token_UT,
            past_key_values=cache,
            attention_mask=real_US,
            position_ids=position_UT,
            use_cache=cache is not None,
            logits_to_keep=1 if last_alone else 0,
        )
        logits_UTV: Tensor = output.logits
        return logits_UTV

    def read_prompt(self, prompt_ids: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
        """Return the logits_11V behind a prompt, and the keys and values of each layer in turn."""
        cache = self.new_cache()
        prompt_1P = torch.tensor([prompt_ids], device=device)
        logits_11V = self.read(prompt_1P, cache, 0, last_alone=True)
        return logits_11V, *(each for layer in cache.layers for each in (layer.keys, layer.values))

    def logp_after(self, prompt_ids: Sequence[int], row_UT: Tensor, *past: Tensor) -> Tensor:
        """Return logp_U of rows, given what `read_prompt` returned.

        Without that the prompt is read with each of them.
        """
        n, behind_UL, n_read = len(row_UT), row_UT[:, 1:-1], len(prompt_ids)
        if not past:
            prompt_UP = torch.tensor([prompt_ids], device=row_UT.device).expand(n, -1)
            whole_UT = torch.cat([prompt_UP, behind_UL], dim=1)
            logits_ULV = self.read(whole_UT, None, 0)[:, n_read - 1 :]
            return sequence_logp(logits_ULV, row_UT, self._end_id)
        first_11V, *layers = past
        logits_ULV = first_11V.expand(n, -1, -1)
        if behind_UL.shape[1]:
            wide = [each.expand(n, -1, -1, -1) for each in layers]
            cache = self._cache_kind(list(zip(wide[::2], wide[1::2], strict=True)))
            logits_ULV = torch.cat([logits_ULV, self.read(behind_UL, cache, n_read)], dim=1)
        return sequence_logp(logits_ULV, row_UT, self._end_id)
