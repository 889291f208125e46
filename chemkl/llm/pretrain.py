"""A small language model trained from scratch on tagged molecules: tokenizer, prompts, data set.

A row of ids is [number of the prompt, ids of the SMILES, end token, end tokens as padding], as in
`HfPolicy`; all prompts have the same number of tags.

Shape legend: B rows, T ids (of a row, or of its tags); V vocabulary.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chemkl.chem.molecules import read_molecule, silenced
from chemkl.config import InputError
from chemkl.config.loading import Document
from chemkl.config.pretrain import ConditionConfig, LlamaConfig
from chemkl.corpus.batches import TokenDataset
from chemkl.llm.extra import package, quiet
from chemkl.llm.policy import HfPolicy
from chemkl.llm.prompts import Prompt
from chemkl.policies.base import sequence_logp
from chemkl.policies.tokenizer import END_ID, START_ID, TOKEN_PATTERN, Vocabulary
from chemkl.rewards import components  # noqa: F401 - importing it registers the components
from chemkl.rewards.registry import Failure, find_component
from chemkl.rewards.scoring import Term, values_of

NO_PROMPT = -1
"""Stands for the prompt of a molecule if one of its properties could not be computed."""
CHUNK = 1_000
"""Parsed molecules in memory at a time."""


class Conditions:
    """Assigns molecules to prompts by their properties; one condition or more.

    Raises:
        InputError: with every problem of the components.
    """

    def __init__(self, configs: Sequence[ConditionConfig]) -> None:
        self.configs = tuple(configs)
        self.tags = [tag for config in configs for tag in config.tags]
        self.prompts = [" ".join(tags) for tags in product(*(config.tags for config in configs))]
        """Every combination of tags, one of each condition; the last condition varies fastest."""
        self._terms: list[Term] = []
        problems: list[str] = []
        for i, config in enumerate(configs):
            part = Document({}, "").at(("conditions", i), {})
            try:
                component = find_component(config.kind, part)
                score = component.build(config.parameters, part.at(("parameters",), {}))
                self._terms.append(Term(config.kind, 1.0, score, float, batched=component.batched))
            except InputError as error:
                problems += str(error).splitlines()
        InputError.refuse(problems)

    def prompts_of(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the number of each molecule's prompt; NO_PROMPT: no molecule, or no value."""
        number = np.full(len(smiles), NO_PROMPT)
        for start in range(0, len(smiles), CHUNK):
            mols = {
                i: mol
                for i, text in enumerate(smiles[start : start + CHUNK], start)
                if (mol := read_molecule(text).mol) is not None
            }
            number[[*mols]] = 0
            with silenced():
                for condition, term in zip(self.configs, self._terms, strict=True):
                    for i, value in zip(mols, values_of(term, [*mols.values()]), strict=True):
                        if isinstance(value, Failure) or number[i] == NO_PROMPT:
                            number[i] = NO_PROMPT
                        else:
                            number[i] = number[i] * len(condition.names) + condition.level(value)
        return number

    def empty_levels(self, number: np.ndarray) -> list[str]:
        """List the levels without molecules, from the result of `prompts_of`; one line each."""
        shape = [len(config.names) for config in self.configs]
        levels = np.unravel_index(number[number != NO_PROMPT], shape)
        return [
            f"conditions.{i}: no molecule is {tag} ({config.band(level)})"
            for i, (config, present) in enumerate(zip(self.configs, levels, strict=True))
            for level, tag in enumerate(config.tags)
            if level not in present
        ]


END = "<end>"
UNKNOWN = "<unk>"
"""Names of ids 0 and 1 in the tokenizer; tags differ from them, as they contain an underscore.
Id 1 stands for text that is neither a tag nor a token; no training row has it."""
INNER_FACTOR = 8 / 3
INNER_MULTIPLE = 32


class TaggedPolicy(HfPolicy):
    """A language model whose prompts have the same length: one pass reads rows of all prompts.

    For training from scratch, where rows are distinct, so that caching prompts would not help.
    """

    def logp_tokens(self, token_BT: Tensor) -> Tensor:
        """Return log p of each row of ids: float32_B, nats, end token included, differentiable."""
        token_BT = token_BT.to(self.device)
        tags = [prompt.token_ids for prompt in self.prompts]
        tags_BT = torch.tensor(tags, device=self.device)[token_BT[:, 0]]
        whole_BT = torch.cat([tags_BT, token_BT[:, 1:-1]], dim=1)
        # no mask: the padding comes last, and no token attends to later ones
        logits_BTV = self.model(input_ids=whole_BT, use_cache=False).logits
        return sequence_logp(logits_BTV[:, tags_BT.shape[1] - 1 :], token_BT, self.end_id)


class TaggedDataset(TokenDataset):
    """Molecules as rows of ids that begin with the number of the prompt."""

    def __init__(
        self,
        smiles: Sequence[str],
        vocabulary: Vocabulary,
        prompts: np.ndarray,
        randomise_seed: int | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        super().__init__(smiles, vocabulary, randomise_seed, weights)
        self._prompts = prompts

    def __getitem__(self, item: tuple[int, int]) -> list[int]:
        """Return the row of a molecule in its n-th presentation."""
        return [int(self._prompts[item[0]]), *super().__getitem__(item)[1:]]


def build_tokenizer(vocabulary: Vocabulary, tags: Sequence[str]) -> Any:
    """Build a tokenizer of SMILES tokens, with the vocabulary's ids, and tags, with the next ids.

    White space between tokens is dropped.
    """
    transformers, tokenizers = package("transformers"), package("tokenizers")
    names = {START_ID: UNKNOWN, END_ID: END}
    id_of = {names.get(i, token): i for i, token in enumerate(vocabulary.tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(id_of, unk_token=UNKNOWN))
    split = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = split.Sequence(
        [split.WhitespaceSplit(), split.Split(tokenizers.Regex(TOKEN_PATTERN), "isolated")]
    )
    tokenizer.decoder = tokenizers.decoders.Fuse()  # nothing between the tokens of a SMILES
    tokenizer.add_special_tokens([tokenizers.AddedToken(tag, normalized=False) for tag in tags])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def build_tagged(
    config: LlamaConfig, vocabulary: Vocabulary, conditions: Conditions
) -> TaggedPolicy:
    """Build a network with new weights, drawn from torch's global generator."""
    n_tags = len(conditions.configs)
    if n_tags + 2 > config.max_length:
        raise InputError(
            f"model.max_length = {config.max_length}: {n_tags} tags, a token and the end token do "
            "not fit"
        )
    tokenizer = build_tokenizer(vocabulary, conditions.tags)
    inner = -(-round(INNER_FACTOR * config.hidden_size) // INNER_MULTIPLE) * INNER_MULTIPLE
    with quiet() as transformers:
        settings = transformers.LlamaConfig(
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
        network = transformers.LlamaForCausalLM(settings)
    prompts = [
        Prompt(number, text, text, tuple(tokenizer(text)["input_ids"]))
        for number, text in enumerate(conditions.prompts)
    ]
    longest = config.max_length - n_tags
    return TaggedPolicy(network, tokenizer, prompts, end_id=END_ID, max_new_tokens=longest)
