"""A small language model made anew: its tokenizer, its prompts, and the rows that it learns from.

A row of ids is [number of the prompt, ids of the SMILES, end token, end tokens as padding], as in
`HfPolicy`; all prompts have as many tags.

Shape legend: B rows, T ids (of a row, or of its tags); N prompts of K tags each; V vocabulary.
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
"""The prompt of a molecule that a property could not be computed of."""
AT_A_TIME = 1_000
"""Molecules in memory at a time."""


class Conditions:
    """Conditions, at least one, ready to be computed.

    Raises:
        InputError: with every problem of the components.
    """

    def __init__(self, configs: Sequence[ConditionConfig]) -> None:
        self.configs = tuple(configs)
        self.tags = [tag for config in configs for tag in config.tags]
        self.prompts = [" ".join(tags) for tags in product(*(config.tags for config in configs))]
        """Every combination of tags, one of each condition, the last one changing fastest."""
        self._terms: list[Term] = []
        problems: list[str] = []
        for place, config in enumerate(configs):
            part = Document({}, "").at(("conditions", place), {})
            try:
                component = find_component(config.kind, part)
                score = component.build(config.parameters, part.at(("parameters",), {}))
                self._terms.append(Term(config.kind, 1.0, score, float, batched=component.batched))
            except InputError as error:
                problems += str(error).splitlines()
        InputError.refuse(problems)

    def prompts_of(self, smiles: Sequence[str]) -> np.ndarray:
        """Return each molecule's prompt by its number; NO_PROMPT: no molecule, or no value."""
        number = np.full(len(smiles), NO_PROMPT)
        for start in range(0, len(smiles), AT_A_TIME):
            mols = {
                i: mol
                for i, text in enumerate(smiles[start : start + AT_A_TIME], start)
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

    def without(self, number: np.ndarray) -> list[str]:
        """Say which levels no molecule has, by what `prompts_of` gave; a line for each."""
        shape = [len(config.names) for config in self.configs]
        levels = np.unravel_index(number[number != NO_PROMPT], shape)
        return [
            f"conditions.{place}: no molecule is {tag} ({config.band(level)})"
            for place, (config, seen) in enumerate(zip(self.configs, levels, strict=True))
            for level, tag in enumerate(config.tags)
            if level not in seen
        ]


END = "<end>"
UNKNOWN = "<unk>"
"""Names in the tokenizer of ids 0 and 1: no condition has such tags, as theirs have an underscore.
Id 1 stands for what is neither tag nor token of the corpus; no row to learn from has it."""
INNER_FACTOR = 8 / 3
INNER_MULTIPLE = 32


class TaggedPolicy(HfPolicy):
    """A language model whose prompts are all of the same length: one pass reads any rows.

    For training from scratch, where nearly all rows differ and no two batches have the same ones.
    """

    def logp_tokens(self, token_BT: Tensor) -> Tensor:
        """Return log p of each row of ids: float32_B, nats, end token included, differentiable."""
        token_BT = token_BT.to(self.device)
        tags = [prompt.token_ids for prompt in self.prompts]
        tags_BT = torch.tensor(tags, device=self.device)[token_BT[:, 0]]
        whole_BT = torch.cat([tags_BT, token_BT[:, 1:-1]], dim=1)
        # no mask: the padding comes last, where no token that counts can see it
        logits_BTV = self.model(input_ids=whole_BT, use_cache=False).logits
        return sequence_logp(logits_BTV[:, tags_BT.shape[1] - 1 :], token_BT, self.end_id)


class TaggedDataset(TokenDataset):
    """Molecules as rows of ids, each with the number of its prompt in front."""

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
        """Return the row of a molecule at its n-th presentation."""
        return [int(self._prompts[item[0]]), *super().__getitem__(item)[1:]]


def build_tokenizer(vocabulary: Vocabulary, tags: Sequence[str]) -> Any:
    """Build a tokenizer of SMILES tokens, with the vocabulary's ids, and tags, with those behind.

    Blanks between them are dropped.
    """
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
    """Build the network with new weights, from torch's own generator."""
    n_tags = len(conditions.configs)
    if n_tags + 2 > config.max_length:
        raise InputError(
            f"model.max_length = {config.max_length}: {n_tags} tags, a token and the end token do "
            "not fit in"
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
    room = config.max_length - n_tags
    return TaggedPolicy(network, tokenizer, prompts, end_id=END_ID, max_new_tokens=room)
