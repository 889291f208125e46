"""A Hugging Face causal language model as a policy: completions of prompts, sampled and scored.

A row of ids is [number of the prompt, ids of the completion, end token, end tokens as padding].

Shape legend: B rows, U distinct rows of one prompt, A rows that have not ended yet, D distinct
prefixes of these; T ids of a row, L = T - 1 of them after the prompt's number; G prompts, P tokens
of a prompt (in sampling of the longest, later 1, the one just drawn); S ids read so far; V
vocabulary.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import groupby
from operator import call
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chemkl.llm.extra import package
from chemkl.llm.prompts import Prompt
from chemkl.policies.base import ALL, Rollout, SequenceModel, counted, draw, sequence_logp, stream


class HfPolicy(SequenceModel):
    """The distribution over completions of some prompts under a causal language model.

    `sample` draws completions of several prompts in one batch, `logp` returns the log-probability
    of texts, and `without_adapter` is the model before training: see the example in `chemkl.llm`.
    `logp_tokens` reads each prompt once for all its rows, with gradient, and each distinct
    completion once. There is no dropout: the network stays in evaluation mode. The state holds
    the trainable weights only: frozen ones are neither saved nor expected on loading.

    Args:
        model: a causal LM of transformers, or a PeftModel around one.
        tokenizer: of the model.
        prompts: numbered from 0.
        end_id: the token that ends a completion, and pads the rows.
        max_new_tokens: maximum length of a completion, end token included.
        prompts_per_step: prompts of one rollout, drawn at random; None: all.
        micro_batch: distinct completions whose activations are held at a time.
        sample_batch: maximum number of completions that are drawn in one batch.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        prompts: Sequence[Prompt],
        *,
        end_id: int,
        max_new_tokens: int,
        prompts_per_step: int | None = None,
        micro_batch: int = 16,
        sample_batch: int = 256,
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.prompts = tuple(prompts)
        self.end_id = end_id
        self.max_new_tokens = max_new_tokens
        self.prompts_per_step = prompts_per_step or len(self.prompts)
        self.micro_batch = micro_batch
        self.sample_batch = sample_batch
        transformers = package("transformers")
        self._new_cache = transformers.DynamicCache
        plain = transformers.cache_utils.DynamicLayer
        layers = self._new_cache(config=model.config).layers
        self.rewinds: bool = all(type(layer) is plain for layer in layers)
        """Whether rows can continue from the cached keys and values of their prompt, with gradient.
        Sliding windows and recurrent layers do not cache all of it: with them the prompt is read
        again with each completion."""
        self.register_state_dict_post_hook(_drop_frozen)  # type: ignore[no-untyped-call]  # torch's
        self.register_load_state_dict_post_hook(_forgive_frozen)  # type: ignore[no-untyped-call]  # torch's

    def train(self, mode: bool = True) -> Self:
        """Set the mode of this module; that of the network stays evaluation."""
        super().train(mode)
        self.model.eval()
        return self

    @property
    def has_adapter(self) -> bool:
        """Whether adapters are trained, not the whole model."""
        return hasattr(self.model, "disable_adapter")

    def without_adapter(self) -> AbstractContextManager[Any]:
        """Switch the adapters off in this scope: the policy is the model before training.

        Without adapters the scope has no effect.
        """
        model: Any = self.model
        return model.disable_adapter() if self.has_adapter else nullcontext()

    # ---- text

    def decode(self, token_BT: Tensor) -> list[str]:
        """Return the completion of each row as text, without its end token."""
        text_BL = counted(token_BT, self.end_id) & (token_BT[:, 1:] != self.end_id)
        return [
            self.tokenizer.decode(row[1:][is_text], clean_up_tokenization_spaces=False)
            for row, is_text in zip(token_BT.cpu(), text_BL.cpu(), strict=True)
        ]

    def encode(self, completions: Sequence[str], prompt: int = 0) -> Tensor:
        """Return token_BT of complete texts, as the tokenizer splits them."""
        if isinstance(completions, str):
            raise TypeError(f"expected several texts: write [{completions!r}]")
        if not 0 <= prompt < len(self.prompts):
            last = len(self.prompts) - 1
            raise ValueError(f"prompt = {prompt}, but prompts are numbered from 0 to {last}")
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in completions]
        width = 1 + max(map(len, rows), default=0)
        padded = [[prompt, *ids, *[self.end_id] * (width - len(ids))] for ids in rows]
        return torch.tensor(padded, dtype=torch.long).view(len(rows), 1 + width).to(self.device)

    def logp(self, completions: Sequence[str], prompt: int = 0) -> Tensor:
        """Return log p of complete texts after a prompt: float32_B, nats, end token included.

        Of the possible token sequences of a text, the tokenizer's own counts.

        Raises:
            TypeError: one string instead of several.
            ValueError: there is no such prompt.
        """
        return self.logp_tokens(self.encode(completions, prompt))

    # ---- sampling

    @torch.no_grad()
    def sample(
        self, n: int, generator: torch.Generator | None = None, part: slice = ALL
    ) -> Rollout:
        """Draw n completions, equally many of each prompt, in the order of the prompts; or a part.

        A row depends on the generator (on the CPU; None: torch's global one), on its prompt and on
        its index among that prompt's rows; the other prompts change no more than the last digits of
        a batched pass. The rollout has `texts`, `logp`, `group` (the prompt's number) and
        `truncated` (cut off at max_new_tokens).

        Raises:
            ValueError: n is no multiple of the prompts of a step.
        """
        if n < 0 or n % self.prompts_per_step:
            raise ValueError(
                f"{n} completions cannot be dealt evenly to {self.prompts_per_step} prompts; give "
                f"a multiple of {self.prompts_per_step}"
            )
        seed = int(torch.randint(2**62, (1,), generator=generator))
        order = torch.randperm(len(self.prompts), generator=generator)
        chosen = sorted(order[: self.prompts_per_step].tolist())
        n_per_prompt = n // self.prompts_per_step
        rows = range(n)[part]
        rows_of: dict[int, list[int]] = {i: [] for i in range(self.prompts_per_step)}
        for row in rows:
            rows_of[row // n_per_prompt].append(row)
        row_order: list[int] = []
        passes = []
        # prompts with equally many rows go through the model together
        for n_rows in {len(own) for own in rows_of.values() if own or not rows}:
            indices = [i for i, own in rows_of.items() if len(own) == n_rows]
            prompts = [self.prompts[chosen[i]] for i in indices]
            uniform = [
                torch.rand(n_per_prompt, self.max_new_tokens, generator=stream(seed, chosen[i]))[
                    [row % n_per_prompt for row in rows_of[i]]
                ]
                for i in indices
            ]
            n_prompts = max(1, self.sample_batch // max(1, n_rows))
            for batch in _batches(prompts, n_prompts, pads=self.rewinds):
                uniform_BL = torch.cat([uniform[i] for i in batch])
                passes.append(self.complete([prompts[i] for i in batch], uniform_BL))
                row_order += [row for i in batch for row in rows_of[indices[i]]]
        order_B = torch.tensor(row_order).long().argsort()
        columns = [torch.cat(column)[order_B] for column in zip(*passes, strict=True)]
        token_BL, logp_B, truncated_B = columns
        group_B = torch.tensor(chosen).repeat_interleave(n_per_prompt)[part]
        token_BT = torch.cat([group_B[:, None], token_BL], dim=1)
        width = 1 + int(counted(token_BT, self.end_id).sum(dim=1).max()) if rows else 2
        token_BT = token_BT[:, :width]
        return Rollout(
            self.decode(token_BT),
            token_BT.to(self.device),
            logp_B.float().to(self.device),
            truncated_B.to(self.device),
            group=group_B.to(self.device),
            end_id=self.end_id,
        )

    # ---- log-probabilities

    def logp_tokens(self, token_BT: Tensor) -> Tensor:
        """Return log p of each row of ids: float32_B, nats, end token included, differentiable.

        Equal rows are evaluated once; their gradients add up. If there are several micro-batches,
        their activations are recomputed in the backward pass.
        """
        if not len(token_BT):
            return torch.zeros(0, device=self.device)
        row_UT, index_B = torch.unique(token_BT.to(self.device), dim=0, return_inverse=True)
        numbers, sizes = torch.unique_consecutive(row_UT[:, 0], return_counts=True)
        is_split = int(torch.ceil(sizes / self.micro_batch).sum()) > 1
        # nothing in the passes is random
        recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        evaluate: Any = recompute if is_split and torch.is_grad_enabled() else call
        logps = []
        for number, part_UT in zip(numbers, torch.split(row_UT, sizes.tolist()), strict=True):
            ids = self.prompts[number].token_ids
            past = evaluate(self.read_prompt, ids, row_UT.device) if self.rewinds else ()
            length_U = counted(part_UT, self.end_id).sum(dim=1)
            by_length_U = length_U.argsort(stable=True)
            parts = []
            for batch_U in torch.split(by_length_U, self.micro_batch):
                rows_UT = part_UT[batch_U, : 1 + int(length_U[batch_U].max())]
                parts.append(evaluate(self.logp_after, ids, rows_UT, *past))
            logps.append(torch.cat(parts)[by_length_U.argsort()])
        return torch.cat(logps)[index_B]

    # ---- the network

    def read(
        self,
        token_UT: Tensor,
        cache: Any = None,
        n_cached: int = 0,
        mask_US: Tensor | None = None,
        *,
        last_only: bool = False,
    ) -> Tensor:
        """Return the logits_UTV after each id, or after the last one only.

        Args:
            token_UT: ids.
            cache: holds the n_cached ids before these, and is extended by these.
            n_cached: ids in the cache.
            mask_US: 1 for each id so far that is no padding; None: there is no padding.
            last_only: whether the logits after the last id are enough.
        """
        end = n_cached + token_UT.shape[1]
        position_UT = torch.arange(n_cached, end, device=token_UT.device).expand_as(token_UT)
        if mask_US is not None:
            position_UT = (mask_US.cumsum(dim=1) - 1).clamp_min(0)[:, n_cached:]
        output: Any = self.model(
            input_ids=token_UT,
            past_key_values=cache,
            attention_mask=mask_US,
            position_ids=position_UT,
            use_cache=cache is not None,
            logits_to_keep=1 if last_only else 0,
        )
        return output.logits  # type: ignore[no-any-return]  # transformers'

    def read_prompt(self, prompt_ids: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
        """Return the logits_11V after a prompt, and the keys and values of each layer in turn."""
        cache = self._new_cache(config=self.model.config)
        prompt_1P = torch.tensor([prompt_ids], device=device)
        logits_11V = self.read(prompt_1P, cache, last_only=True)
        return logits_11V, *(t for layer in cache.layers for t in (layer.keys, layer.values))

    def logp_after(self, prompt_ids: Sequence[int], row_UT: Tensor, *past: Tensor) -> Tensor:
        """Return logp_U of rows, from the result of `read_prompt`; without it from whole texts."""
        n, input_UL, n_prompt = len(row_UT), row_UT[:, 1:-1], len(prompt_ids)
        if not past:
            prompt_UP = torch.tensor([prompt_ids], device=row_UT.device).expand(n, -1)
            logits_ULV = self.read(torch.cat([prompt_UP, input_UL], dim=1))[:, n_prompt - 1 :]
        else:
            logits_ULV = past[0].expand(n, -1, -1)
            if input_UL.shape[1]:
                wide = [tensor.expand(n, -1, -1, -1) for tensor in past[1:]]
                cache = self._new_cache(list(zip(wide[::2], wide[1::2], strict=True)))
                logits_ULV = torch.cat([logits_ULV, self.read(input_UL, cache, n_prompt)], dim=1)
        return sequence_logp(logits_ULV, row_UT, self.end_id)

    def complete(
        self, prompts: Sequence[Prompt], uniform_BL: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw completions, equally many of each prompt: ids (B, L), log p (B,), truncated (B,).

        Rows with the same prefix share one pass. Shorter prompts are padded on the left, with
        tokens that are masked. Each token is drawn by inverting the cumulative distribution at the
        number in uniform_BL, from [0, 1).
        """
        (n, n_steps), device = uniform_BL.shape, self.device
        token_BL = torch.full((n, n_steps), self.end_id)
        logp_B = torch.zeros(n, dtype=torch.float64)
        active_A = torch.arange(n)
        start_A = torch.arange(len(prompts)).repeat_interleave(n // len(prompts))
        width = max(len(prompt.token_ids) for prompt in prompts)
        pads = [[self.end_id] * (width - len(prompt.token_ids)) for prompt in prompts]
        rows = list(zip(pads, (prompt.token_ids for prompt in prompts), strict=True))
        next_DP = torch.tensor([[*pad, *ids] for pad, ids in rows], device=device)
        mask_DS: Tensor | None = None
        if any(pads):
            mask = [[0] * len(pad) + [1] * len(ids) for pad, ids in rows]
            mask_DS = torch.tensor(mask, device=device)
        cache, n_cached = self._new_cache(config=self.model.config), 0
        for t in range(n_steps):
            logits_DV = self.read(next_DP, cache, n_cached, mask_DS, last_only=True)[:, -1]
            n_cached += next_DP.shape[1]
            logp_DV = logits_DV.float().log_softmax(dim=-1)
            logp_AV = logp_DV[start_A.to(device)]
            token_A = draw(logp_AV, uniform_BL[active_A, t].to(device))
            logp_B[active_A] += logp_AV.gather(1, token_A[:, None]).squeeze(1).cpu().double()
            token_A = token_A.cpu()
            token_BL[active_A, t] = token_A
            going_A = token_A != self.end_id
            active_A = active_A[going_A]
            if not len(active_A):
                break
            pair_A2 = torch.stack([start_A[going_A], token_A[going_A]], dim=1)
            pair_D2, start_A = torch.unique(pair_A2, dim=0, return_inverse=True)
            parent_D, next_DP = pair_D2[:, 0].to(device), pair_D2[:, 1:].to(device)
            if pair_D2[:, 0].tolist() != list(range(len(logp_DV))):  # copying the cache costs time
                cache.reorder_cache(parent_D)
            if mask_DS is not None:
                mask_DS = torch.cat([mask_DS[parent_D], torch.ones_like(next_DP)], dim=1)
        truncated_B = torch.zeros(n, dtype=torch.bool)
        truncated_B[active_A] = True
        return token_BL, logp_B, truncated_B


# ---- the state


def _frozen(module: nn.Module) -> Iterator[str]:
    """Yield the names of weights that are not trained, and of buffers."""
    weights = list(module.named_parameters(remove_duplicate=False))
    yield from (name for name, weight in weights if not weight.requires_grad)
    yield from (name for name, _ in module.named_buffers())


def _drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name in _frozen(module):
        state.pop(prefix + name, None)


def _forgive_frozen(module: nn.Module, incompatible: Any) -> None:
    frozen = {*_frozen(module)}
    suffixes = tuple(f".{name}" for name in frozen)  # the module may be part of another one
    incompatible.missing_keys[:] = [
        key for key in incompatible.missing_keys if key not in frozen and not key.endswith(suffixes)
    ]


def _batches(prompts: Sequence[Prompt], size: int, *, pads: bool) -> Iterator[list[int]]:
    """Yield the indices of prompts of similar length that go through the model together.

    Where shorter prompts cannot be padded, all prompts of a batch have the same length.
    """
    lengths = [len(prompt.token_ids) for prompt in prompts]
    by_length = sorted(range(len(prompts)), key=lengths.__getitem__)
    for _, group in groupby(by_length, lambda i: pads or lengths[i]):
        indices = list(group)
        yield from (indices[start : start + size] for start in range(0, len(indices), size))


class Reference(SequenceModel):
    """The language model before training; caches the log-probabilities of rows.

    A policy with adapters is its own reference, with the adapters switched off: the weights are in
    memory once, and are no part of this module. A policy without adapters is frozen and used as it
    is.

    The cache is a part of the checkpoint (``memory``): the last digits of a value depend on the
    batch in which it was computed, so a resumed run would otherwise differ from an uninterrupted
    one.

    Args:
        policy: the policy in training if it has adapters, else a copy of the original model.
        cache_size: rows; the least recently used ones are dropped.
    """

    def __init__(self, policy: HfPolicy, cache_size: int = 10_000) -> None:
        super().__init__()
        if policy.has_adapter:
            self._shared = (policy,)  # in a tuple it is no submodule: not saved, not moved twice
        else:
            self.copy = policy.requires_grad_(requires_grad=False)
            self._shared = (self.copy,)
        self._cache_size = cache_size
        self._logps: OrderedDict[tuple[int, ...], float] = OrderedDict()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._shared[0].device

    @torch.no_grad()
    def sample(
        self, n: int, generator: torch.Generator | None = None, part: slice = ALL
    ) -> Rollout:
        """Draw n completions, as the policy does."""
        with self._shared[0].without_adapter():
            return self._shared[0].sample(n, generator, part)

    @torch.no_grad()
    def logp_tokens(self, token_BT: Tensor) -> Tensor:
        """Return log p of each row of ids: float32_B, nats, end token included; no graph."""
        # a key is the prompt's number and the ids up to the end
        length_B = 1 + counted(token_BT, self._shared[0].end_id).sum(dim=1)
        pairs = zip(token_BT.tolist(), length_B.tolist(), strict=True)
        keys = [tuple(row[:length]) for row, length in pairs]
        new = {key: row for row, key in enumerate(keys) if key not in self._logps}
        if new:
            with self._shared[0].without_adapter():
                computed = self._shared[0].logp_tokens(token_BT[list(new.values())])
            self._logps |= zip(new, computed.tolist(), strict=True)
        logp_B = torch.tensor([self._logps[key] for key in keys])
        for key in keys:
            self._logps.move_to_end(key)
        while len(self._logps) > self._cache_size:
            self._logps.popitem(last=False)
        return logp_B.to(token_BT.device)

    def memory(self) -> dict[str, Tensor]:
        """Return the cached rows, the oldest first."""
        tokens = [token for key in self._logps for token in key]
        return {
            "length": torch.tensor([len(key) for key in self._logps], dtype=torch.int32),
            "tokens": torch.tensor(tokens, dtype=torch.int32),
            "logp": torch.tensor(list(self._logps.values()), dtype=torch.float32),
        }

    def restore_memory(self, memory: Mapping[str, Tensor]) -> None:
        """Continue from the result of ``memory``."""
        rows = torch.split(memory["tokens"], memory["length"].tolist())
        keys = (tuple(row.tolist()) for row in rows)
        self._logps = OrderedDict(zip(keys, memory["logp"].tolist(), strict=True))
