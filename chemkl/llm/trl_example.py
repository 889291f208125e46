"""Run me: RLOO of TRL with and without MARA on a tiny language model; offline, in seconds.

    python -m chemkl.llm.trl_example

The model is asked for 1 or 2 and says 1 nine times in ten; both answers are paid 1. RLOO keeps
that ratio, for KL-regularised RL keeps the ratio of equally good answers; with MARA (mode-anchored
reward augmentation, arXiv 2510.20817) both become equally likely. For a model of your own paste
``train``: MaraRLOOTrainer takes what ``trl.RLOOTrainer`` takes, and a tau.
"""

import math
import tempfile
from pathlib import Path
from typing import Any

from chemkl.llm.trl import MaraRLOOTrainer  # first: it names the extra where that is missing

# isort: split
import torch
from datasets import Dataset  # type: ignore[import-untyped]  # it brings no types
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar
from trl import RLOOConfig, RLOOTrainer  # type: ignore[attr-defined]  # it exports lazily

PROMPT = "1 or 2: "
REFERENCE = {"1": 0.9, "2": 0.1}


def one_or_two(completions: list[str], **_columns: Any) -> list[float | None]:
    """Pay 1 for either answer; the argument names are those of trl."""
    return [float(completion in REFERENCE) for completion in completions]


def train(model: str, out: Path, *, mara: bool, steps: int = 50) -> Any:
    """Train a copy of the model; return it."""
    args = RLOOConfig(
        output_dir=str(out),
        beta=0.1,  # above 0: the weight of the KL to the reference
        num_generations=16,  # completions of a prompt that share an anchor; 4 at the least
        per_device_train_batch_size=64,
        max_completion_length=4,
        learning_rate=2e-3,
        lr_scheduler_type="constant",
        max_steps=steps,
        logging_strategy="no",
        mask_truncated_completions=True,
        # the rest suits a tiny model on a CPU
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    data = Dataset.from_dict({"prompt": [PROMPT] * 64})
    trainer = (
        MaraRLOOTrainer(model, one_or_two, args, train_dataset=data, tau=1.0)
        if mara
        else RLOOTrainer(model, one_or_two, args, train_dataset=data)
    )
    trainer.train()
    return trainer.model


def byte_tokenizer() -> Any:
    """A token a byte, and one for the end."""
    tokens = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    plain = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    plain.add_special_tokens(["<end>"])
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    make: Any = PreTrainedTokenizerFast  # which transformers leaves without types
    return make(tokenizer_object=plain, eos_token="<end>", pad_token="<end>")


def save_reference(folder: Path) -> None:
    """Make a random Llama of two layers, teach it the reference's answers, and save it."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        logp = torch.stack([answer_logp(model, tokenizer, answer) for answer in REFERENCE])
        loss = -(logp * torch.tensor(list(REFERENCE.values()))).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def answer_logp(model: Any, tokenizer: Any, answer: str) -> torch.Tensor:
    """Return log p(answer, end | prompt) in nats."""
    prompt, reply = (tokenizer(text)["input_ids"] for text in (PROMPT, answer))
    tokens = torch.tensor([[*prompt, *reply, tokenizer.eos_token_id]])
    logits = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1].float()
    logp: torch.Tensor = logits.log_softmax(dim=-1).gather(1, tokens[0, len(prompt) :, None])
    return logp.sum()


@torch.no_grad()
def answer_shares(model: Any) -> dict[str, float]:
    """The exact probability of each answer."""
    tokenizer = byte_tokenizer()
    return {answer: float(answer_logp(model, tokenizer, answer).exp()) for answer in REFERENCE}


def entropy(shares: dict[str, float]) -> float:
    """Entropy in nats of the answer, given that it is one of the two; ln 2 = 0.693 at most."""
    total = sum(shares.values())
    return -sum(share / total * math.log(share / total) for share in shares.values())


def main() -> None:
    """Train both and say what came of it."""
    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers'
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_reference(folder / "reference")
        model = str(folder / "reference")
        rows = {
            "reference": AutoModelForCausalLM.from_pretrained(model),
            "RLOO": train(model, folder / "rloo", mara=False),
            "RLOO with MARA": train(model, folder / "mara", mara=True),
        }
    for label, trained in rows.items():
        shares = answer_shares(trained)
        line = f"{label:16}p(1) = {shares['1']:.3f}  p(2) = {shares['2']:.3f}"
        print(f"{line}  entropy {entropy(shares):.3f} nats")  # noqa: T201 - what an example is for


if __name__ == "__main__":
    main()
