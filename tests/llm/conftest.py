"""A tiny random Llama with a tokenizer of a few words, made on the spot."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from chemkl.llm.policy import HfPolicy
from chemkl.llm.prompts import Prompt

WORDS = ["<s>", "</s>", "<unk>", *"0123456789abc", "pick", "C", "O", "N", "1", "(", ")", "="]
VOCABULARY = {word: i for i, word in enumerate(dict.fromkeys(WORDS))}
END = VOCABULARY["</s>"]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<s> {{ m['content'] }} {% if m['role'] == 'assistant' %}</s> {% endif %}"
    "{% endfor %}"
)


def make_tokenizer(template=TEMPLATE, eos="</s>", around=None):
    """A tokenizer of words; around: what it puts before and behind a text, such as "<s> $A"."""
    plain = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    if around is not None:
        special = [(word, VOCABULARY[word]) for word in ("<s>", "</s>")]
        plain.post_processor = processors.TemplateProcessing(single=around, special_tokens=special)
    special = {"eos_token": eos} if eos else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", unk_token="<unk>", **special
    )
    tokenizer.chat_template = template
    return tokenizer


def make_llama(seed=0, sharpness=12.0, **changes):
    """A random Llama of two layers, float32; its output is sharpened so that answers differ."""
    settings = {
        "vocab_size": len(VOCABULARY), "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": END,
        "tie_word_embeddings": False,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**settings | changes))
    with torch.no_grad():
        model.lm_head.weight *= sharpness
    return model.eval()


def make_prompts(*texts):
    return tuple(
        Prompt(i, text, text, tuple(VOCABULARY[word] for word in text.split()))
        for i, text in enumerate(texts)
    )


@pytest.fixture(scope="session")
def tiny():
    """What the tiny model is made of."""
    return SimpleNamespace(
        end=END,
        vocabulary=VOCABULARY,
        llama=make_llama,
        tokenizer=make_tokenizer,
        prompts=make_prompts,
    )


@pytest.fixture
def make_policy():
    """A policy over some prompts; by default the whole tiny model is trained."""

    def make(*texts, model=None, dtype=torch.float32, **settings):
        network = (model or make_llama()).to(dtype)
        return HfPolicy(
            network,
            make_tokenizer(),
            make_prompts(*(texts or ("pick 1 2",))),
            **{"end_id": END, "max_new_tokens": 4, **settings},
        )

    return make


TAUGHT = {"1": 0.7, "2": 0.2, "3": 0.1}
"""What the taught model answers to "pick"; to anything else the untaught words."""


def teach(folder, shares):
    """Write a tiny model that answers "pick" with these words, as save_pretrained writes it."""
    model = make_llama(sharpness=1.0)
    prompt = make_tokenizer().apply_chat_template(
        [{"role": "user", "content": "pick"}], tokenize=False
    )
    ids = make_tokenizer()(prompt, add_special_tokens=False)["input_ids"]
    rows = torch.tensor([[*ids, VOCABULARY[answer], END] for answer in shares])
    share_B = torch.tensor(list(shares.values()))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        logp_BTV = model(rows[:, :-1]).logits.log_softmax(-1)[:, len(ids) - 1 :]
        logp_B = logp_BTV.gather(2, rows[:, len(ids) :, None]).sum(dim=(1, 2))
        optimizer.zero_grad()
        (-(share_B * logp_B).sum()).backward()
        optimizer.step()
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def taught_model(tmp_path_factory):
    """A folder with a tiny model that answers 1, 2 or 3, unequally."""
    return teach(tmp_path_factory.mktemp("taught"), TAUGHT)


@pytest.fixture(scope="session")
def taught_chemist(tmp_path_factory):
    """The same that answers with a molecule of one atom."""
    return teach(tmp_path_factory.mktemp("chemist"), {"C": 0.5, "O": 0.3, "N": 0.2})


@pytest.fixture(scope="session")
def short_run(taught_model):
    """Settings of a short run on the taught model: a function of what is to differ."""

    def settings(**changes):
        return {
            "model": str(taught_model),
            "adapter": {"kind": "lora", "r": 4},
            "prompts": ["pick"],
            "max_new_tokens": 3,
            "reward": {"kind": "answers", "valid": ["1", "2", "3"]},
            "target": {"kind": "gibbs", "beta": 0.1},
            "precision": "32-true",
            "batch_size": 16,
            "max_steps": 2,
            "trainer": {"accelerator": "cpu"},
            "callbacks": {"progress_bar": False},
        } | changes

    return settings


@pytest.fixture(scope="session")
def tracked_run(short_run):
    """The same of a run to equal shares of the answers, which are looked at on the way."""

    def settings(**changes):
        plain = {
            "target": {"kind": "mara", "beta": 0.1, "tau": 1},
            "learning_rate": 1e-2,
            "track": {"every": 4},
            "callbacks": {"checkpoint_every": 3, "progress_bar": False},
        }
        return short_run(**plain | changes)

    return settings
