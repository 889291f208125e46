"""A Hugging Face causal language model as a policy: completions of prompts, sampled and scored.

A row of ids is [number of the prompt, ids of the completion, end token, end tokens as padding].

Shape legend: B rows, U different rows of one prompt; T ids of a row, L = T - 1 of them behind the
prompt's number.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chemkl.llm.network import Network
from chemkl.llm.prompts import Prompt
from chemkl.llm.sampling import complete
from chemkl.llm.weights import keep_trained_alone
from chemkl.policies.base import Rollout, SequenceModel, counted
from chemkl.training.seeds import stream


class HfPolicy(SequenceModel):
    """The distribution over completions of some prompts under a causal language model.

    Completions of several prompts are drawn side by side. Where they are scored, every prompt has
    a pass of its own: it is read once for all its rows, with gradient, and each different
    completion once. Units are never dropped: the network stays in evaluation mode.

    `sample` draws completions, `logp` says how probable given texts are, and `without_adapter` is
    the model as it was: see the example in `chemkl.llm`.

    Its state is what is trained: frozen weights are neither saved nor asked for on loading.

    Args:
        model: a causal LM of transformers, or a PeftModel around one.
        tokenizer: of the model.
        prompts: numbered from 0.
        end_id: the token that ends a completion; the rows are padded with it too.
        max_new_tokens: most tokens of a completion, end token included.
        prompts_per_step: prompts of one rollout, drawn at random; None: all.
        micro_batch: different completions whose activations are kept at a time.
        sample_batch: completions that are drawn side by side, of as many prompts as this allows.
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
        self._network = Network(model, end_id)
        keep_trained_alone(self)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of this module; that of the network stays evaluation."""
        super().train(mode)
        self.model.eval()
        return self

    @property
    def has_adapter(self) -> bool:
        """Whether it is adapters that are trained."""
        return hasattr(self.model, "disable_adapter")

    def without_adapter(self) -> AbstractContextManager[Any]:
        """Be the model underneath in this scope: that before training, where adapters are trained.

        A model that is trained whole has none underneath, and stays as it is.
        """
        context: AbstractContextManager[Any] = (
            self.model.disable_adapter() if self.has_adapter else nullcontext()  # type: ignore[operator]  # peft's
        )
        return context

    # ---- text

    def decode(self, token_BT: Tensor) -> list[str]:
        """Return the completion of each row as text, without its end token."""
        kept_BL = counted(token_BT, self.end_id) & (token_BT[:, 1:] != self.end_id)
        return [
            self.tokenizer.decode(row[1:][kept], clean_up_tokenization_spaces=False)
            for row, kept in zip(token_BT.cpu(), kept_BL.cpu(), strict=True)
        ]

    def encode(self, completions: Sequence[str], prompt: int = 0) -> Tensor:
        """Return token_BT of complete texts, each as the tokenizer itself would cut it.

        Raises:
            TypeError: one string instead of several.
            ValueError: there is no such prompt.
        """
        if isinstance(completions, str):
            raise TypeError(f"expected several texts: write [{completions!r}]")
        if not 0 <= prompt < len(self.prompts):
            there_is = (
                f"prompts are numbered from 0 to {len(self.prompts) - 1}"
                if len(self.prompts) > 1
                else "there is one prompt, number 0"
            )
            raise ValueError(f"prompt = {prompt}, but {there_is}")
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in completions]
        width = 2 + max(map(len, rows), default=0)
        token_BT = torch.full((len(rows), width), self.end_id, dtype=torch.long)
        token_BT[:, 0] = prompt
        for row, ids in zip(token_BT, rows, strict=True):
            row[1 : 1 + len(ids)] = torch.tensor(ids, dtype=torch.long)
        return token_BT.to(self.device)

    def logp(self, completions: Sequence[str], prompt: int = 0) -> Tensor:
        """Return log p of complete texts after a prompt: float32_B, nats, end token included.

        A text that can be cut into tokens in several ways counts as the tokenizer cuts it.

        Args:
            completions: the texts.
            prompt: the number of the prompt that they answer, its place in `prompts`.

        Raises:
            TypeError: one string instead of several.
            ValueError: there is no such prompt.
        """
        return self.logp_tokens(self.encode(completions, prompt))

    # ---- sampling

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Rollout:
        """Draw n completions, as many of each prompt, in the order of the prompts.

        A row depends on the generator, on its prompt and on its place among that prompt's rows; on
        the other prompts only as far as they change the last digits of a pass over all of them.

        Args:
            n: how many; 0 or a multiple of the prompts of a step.
            generator: a CPU generator; None uses torch's global one.

        Returns:
            Row by row the text (`texts`), its log p in nats (`logp`), the number of the prompt that
            it answers (`group`), and whether it was cut off at max_new_tokens (`truncated`).

        Raises:
            ValueError: so many cannot be drawn.
        """
        if n < 0 or n % self.prompts_per_step:
            raise ValueError(
                f"{n} completions cannot be dealt evenly to {self.prompts_per_step} prompts; give "
                f"a multiple of {self.prompts_per_step}"
            )
        seed = int(torch.randint(2**62, (1,), generator=generator))
        order = torch.randperm(len(self.prompts), generator=generator)
        chosen = sorted(order[: self.prompts_per_step].tolist())
        each = n // self.prompts_per_step
        drawn = complete(
            self._network,
            [self.prompts[number] for number in chosen],
            torch.cat(
                [
                    torch.rand(each, self.max_new_tokens, generator=stream(seed, number))
                    for number in chosen
                ]
            ),
            end_id=self.end_id,
            most_rows=self.sample_batch,
            device=self.device,
        )
        group_B = torch.tensor(chosen).repeat_interleave(each)
        token_BT = torch.cat([group_B[:, None], drawn.tokens], dim=1)
        width = 1 + int(counted(token_BT, self.end_id).sum(dim=1).max()) if n else 2
        token_BT = token_BT[:, :width]
        device = self.device
        return Rollout(
            self.decode(token_BT),
            token_BT.to(device),
            drawn.logp.float().to(device),
            drawn.truncated.to(device),
            group=group_B.to(device),
            end_id=self.end_id,
        )

    # ---- log-probabilities

    def logp_tokens(self, token_BT: Tensor) -> Tensor:
        """Return log p of each row of ids: float32_B, nats, end token included, differentiable.

        Equal rows are evaluated once; their gradients add up.
        """
        if not len(token_BT):
            return torch.zeros(0, device=self.device)
        row_UT, index_B = torch.unique(token_BT.to(self.device), dim=0, return_inverse=True)
        numbers, sizes = torch.unique_consecutive(row_UT[:, 0], return_counts=True)
        parts = torch.split(row_UT, sizes.tolist())
        several = sum(-(-len(part) // self.micro_batch) for part in parts) > 1
        logps = [
            self._logp_of_prompt(self.prompts[number], part_UT, several=several)
            for number, part_UT in zip(numbers.tolist(), parts, strict=True)
        ]
        return torch.cat(logps)[index_B]

    def _logp_of_prompt(self, prompt: Prompt, row_UT: Tensor, *, several: bool) -> Tensor:
        """Return logp_U of different completions of one prompt.

        With several micro-batches in all, their activations are computed anew in the backward pass.
        """
        length_U = counted(row_UT, self.end_id).sum(dim=1)
        by_length_U = length_U.argsort(stable=True)
        read = _recomputed if several and torch.is_grad_enabled() else _called
        ids, network = prompt.token_ids, self._network
        past = read(network.read_prompt, ids, row_UT.device) if network.rewinds else ()
        logps = [
            read(network.logp_after, ids, row_UT[some][:, : 1 + int(length_U[some].max())], *past)
            for some in torch.split(by_length_U, self.micro_batch)
        ]
        return torch.cat(logps)[by_length_U.argsort()]


def _called(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


def _recomputed(function: Any, *arguments: Any) -> Any:
    """Call without keeping activations for the backward pass; nothing in there is random."""
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
