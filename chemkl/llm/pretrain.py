"""A small language model made anew: its tokenizer, its prompts, and the rows that it learns from.

A row of ids is [number of the prompt, ids of the SMILES, end token, end tokens as padding], as in
`HfPolicy`; all prompts have as many tags.

Shape legend: B rows, T ids (of a row, or of its tags); N prompts of K tags each; V vocabulary.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chemkl.config import InputError
from chemkl.config.pretrain import LlamaConfig
from chemkl.corpus.batches import TokenDataset
from chemkl.llm.checkpoint import PROVENANCE
from chemkl.llm.conditions import Conditions
from chemkl.llm.extra import package, quiet
from chemkl.llm.policy import HfPolicy
from chemkl.llm.prompts import Prompt
from chemkl.policies.base import sequence_logp
from chemkl.policies.tokenizer import END_ID, START_ID, TOKEN_PATTERN, Vocabulary
from chemkl.results.atomic import folder_written_aside, write_json

END = "<end>"
UNKNOWN = "<unk>"
"""Names in the tokenizer of ids 0 and 1: no condition has such tags, as theirs have an underscore.
Id 1 stands for what is neither tag nor token of the corpus; no row to learn from has it."""
INNER_FACTOR = 8 / 3
INNER_MULTIPLE = 32


class TaggedPolicy(HfPolicy):
    """A language model whose prompts are all of the same length: one pass reads any rows.

    For training from scratch, where nearly all rows differ and no two batches have the same ones.

    Args:
        model: a causal LM of transformers.
        tokenizer: of the model.
        prompts: numbered from 0.
        max_new_tokens: most tokens of a completion, end token included.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, prompts: Sequence[Prompt], *, max_new_tokens: int
    ) -> None:
        super().__init__(model, tokenizer, prompts, end_id=END_ID, max_new_tokens=max_new_tokens)
        self._prompt_NK = torch.tensor([prompt.token_ids for prompt in prompts])

    def logp_tokens(self, token_BT: Tensor) -> Tensor:
        """Return log p of each row of ids: float32_B, nats, end token included, differentiable."""
        token_BT = token_BT.to(self.device)
        tags_BT = self._prompt_NK.to(self.device)[token_BT[:, 0]]
        whole_BT = torch.cat([tags_BT, token_BT[:, 1:-1]], dim=1)
        # no mask: the padding comes last, where no token that counts can see it
        logits_BTV = self.model(input_ids=whole_BT, use_cache=False).logits
        return sequence_logp(logits_BTV[:, tags_BT.shape[1] - 1 :], token_BT, self.end_id)


class TaggedDataset(TokenDataset):
    """Molecules as rows of ids, each with the number of its prompt in front.

    Args:
        smiles: the molecules.
        vocabulary: what they are encoded with.
        prompts: the number of each molecule's prompt.
        randomise_seed: None for the SMILES as they stand, otherwise the seed of the spellings.

    Raises:
        InputError: no molecule, or a token that the vocabulary does not know, with its line.
    """

    def __init__(
        self,
        smiles: Sequence[str],
        vocabulary: Vocabulary,
        prompts: np.ndarray,
        randomise_seed: int | None = None,
    ) -> None:
        super().__init__(smiles, vocabulary, randomise_seed)
        self._prompts = prompts

    def __getitem__(self, item: tuple[int, int]) -> list[int]:
        """Return the row of a molecule at its n-th presentation."""
        return [int(self._prompts[item[0]]), *super().__getitem__(item)[1:]]


def build_tokenizer(vocabulary: Vocabulary, tags: Sequence[str]) -> Any:
    """Build a tokenizer of SMILES tokens and tags; blanks between them are dropped.

    The SMILES tokens have the vocabulary's ids, the tags those that follow.

    Raises:
        InputError: a tag is a token of the vocabulary too.
    """
    taken = sorted({END, UNKNOWN, *vocabulary.tokens} & set(tags))
    if taken:
        raise InputError(
            f"conditions: {', '.join(taken)} is a token of the corpus, or of the model itself: "
            "give the condition another name"
        )
    transformers, tokenizers = package("transformers"), package("tokenizers")
    names = {START_ID: UNKNOWN, END_ID: END}
    id_of = {names.get(i, token): i for i, token in enumerate(vocabulary.tokens)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(id_of, unk_token=UNKNOWN))
    before = tokenizers.pre_tokenizers
    made.pre_tokenizer = before.Sequence(
        [before.WhitespaceSplit(), before.Split(tokenizers.Regex(TOKEN_PATTERN), "isolated")]
    )
    made.decoder = tokenizers.decoders.Fuse()  # nothing between the tokens of a SMILES
    made.add_special_tokens([tokenizers.AddedToken(tag, normalized=False) for tag in tags])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def build_tagged(
    config: LlamaConfig, vocabulary: Vocabulary, conditions: Conditions
) -> TaggedPolicy:
    """Build the network with new weights, from torch's own generator.

    Raises:
        InputError: a tag is a token of the corpus, or tags alone fill all that it can read.
    """
    n_tags = len(conditions.configs)
    if n_tags + 2 > config.max_length:
        raise InputError(
            f"model.max_length = {config.max_length}: {n_tags} tags, a token and the end token do "
            "not fit in"
        )
    tokenizer = build_tokenizer(vocabulary, conditions.tags)
    inner = -(-round(INNER_FACTOR * config.hidden_size) // INNER_MULTIPLE) * INNER_MULTIPLE
    with quiet() as transformers:
        network = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=config.hidden_size,
                intermediate_size=config.inner_size or inner,
                num_hidden_layers=config.n_layers,
                num_attention_heads=config.n_heads,
                num_key_value_heads=config.n_heads,
                max_position_embeddings=config.max_length,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=END_ID,
                pad_token_id=END_ID,
            )
        )
    prompts = [
        Prompt(number, text, text, tuple(tokenizer(text)["input_ids"]))
        for number, text in enumerate(conditions.prompts)
    ]
    return TaggedPolicy(network, tokenizer, prompts, max_new_tokens=config.max_length - n_tags)


def save_model(policy: HfPolicy, final: Path, about: Mapping[str, Any]) -> Path:
    """Write model and tokenizer in Hugging Face's format, in one step of the file system.

    Args:
        policy: the network.
        final: the folder; what was there is replaced.
        about: prompts, and where the weights come from; JSON values.
    """
    with folder_written_aside(final) as aside, quiet():
        policy.model.save_pretrained(aside)  # type: ignore[operator]  # transformers'
        policy.tokenizer.save_pretrained(aside)
        write_json(aside / PROVENANCE, dict(about), sealed=True)
    return final
