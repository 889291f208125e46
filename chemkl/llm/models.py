"""Language models as policies: given adapters, put together with prompts, and checked."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from chemkl.chem.molecules import one_line
from chemkl.config import InputError
from chemkl.config.llm import AdapterConfig, AnswersReward, LlmPosttrainConfig, LoraConfig
from chemkl.llm.answers import check_answers
from chemkl.llm.extra import package, quiet
from chemkl.llm.policy import HfPolicy
from chemkl.llm.prompts import Prompt, check_ids, render_prompts
from chemkl.llm.sources import (
    UNUSABLE,
    context_of,
    load_network,
    load_tokenizer,
    vocabulary_of,
)


def adapted(
    network: nn.Module, config: AdapterConfig, seed: int, revision: str | None = None
) -> nn.Module:
    """Decide what of a model is trained: adapters, drawn from a seed, or all of it.

    Args:
        network: the model.
        config: what is trained.
        seed: of the adapters' first weights.
        revision: of the model; peft keeps it with the adapters, to load the same one again.

    Raises:
        InputError: peft refuses the settings, for example names of layers that there are not.
    """
    if not isinstance(config, LoraConfig):
        return network.requires_grad_(requires_grad=True)
    peft = package("peft")
    settings = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        target_modules=config.targets,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        revision=revision,
    )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        try:
            tuned: nn.Module = peft.get_peft_model(network, settings)
        except UNUSABLE as error:
            linear = {
                name.rpartition(".")[2]
                for name, module in network.named_modules()
                if isinstance(module, nn.Linear)
            }
            raise InputError(
                f"adapter.targets: {one_line(error)} Linear layers of this model end "
                f"in {', '.join(sorted(linear))}; or take all-linear"
            ) from error
    return tuned.eval()


def read_prompts(config: LlmPosttrainConfig) -> tuple[Prompt, ...]:
    """Render the prompts of a config, without the model's weights, and look at its answers.

    Raises:
        InputError: the tokenizer is not there, the prompts cannot be used, or the model can never
            give an answer that counts as valid.
    """
    tokenizer, end_id = load_tokenizer(config.model)
    _check_answers(config, tokenizer, end_id)
    prompts = _rendered(config, tokenizer)
    _check_ids(config, tokenizer, end_id, prompts)
    return prompts


def build_policy(
    config: LlmPosttrainConfig, *, trained: bool = True, prompts: Sequence[Prompt] | None = None
) -> HfPolicy:
    """Build the policy of a config: what is trained, or the model as it was.

    Args:
        config: of the run.
        trained: whether there is something to train.
        prompts: what the model reads; None: rendered from the config.

    Raises:
        InputError: the model, the adapter or the prompts cannot be used, or the model can never
            give an answer that counts as valid.
    """
    tokenizer, end_id = load_tokenizer(config.model)
    if trained:
        _check_answers(config, tokenizer, end_id)
    if prompts is None:
        prompts = _rendered(config, tokenizer)
    _check_ids(config, tokenizer, end_id, prompts)
    network = load_network(config.model)
    if trained:
        network = adapted(network, config.adapter, config.seed, config.model.revision)
    return policy_of(network, tokenizer, prompts, config, end_id)


def policy_of(
    network: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    config: LlmPosttrainConfig,
    end_id: int,
) -> HfPolicy:
    """Put a network and its prompts together as the config has it."""
    return HfPolicy(
        network,
        tokenizer,
        prompts,
        end_id=end_id,
        max_new_tokens=config.max_new_tokens,
        prompts_per_step=config.prompts_per_step,
        micro_batch=config.micro_batch,
        sample_batch=config.sample_batch,
    )


def _rendered(config: LlmPosttrainConfig, tokenizer: Any) -> tuple[Prompt, ...]:
    return render_prompts(
        config.prompts,
        tokenizer,
        template=config.template,
        context=context_of(config.model),
        max_new_tokens=config.max_new_tokens,
    )


def _check_answers(config: LlmPosttrainConfig, tokenizer: Any, end_id: int) -> None:
    """Refuse valid answers, and tracked ones, that the model can never give.

    Raises:
        InputError: with a line for each.
    """
    asked = []
    if isinstance(config.reward, AnswersReward):
        asked.append(("reward.valid", config.reward.valid, config.reward.parse))
    if config.track is not None and config.track.answers:
        asked.append(("track.answers", config.track.answers, "strict"))  # whole completions
    problems = [
        f"{key}: {problem}"
        for key, answers, parse in asked
        for problem in check_answers(
            answers, tokenizer, max_new_tokens=config.max_new_tokens, end_id=end_id, parse=parse
        )
    ]
    if problems:
        raise InputError("\n".join(problems))


def _check_ids(
    config: LlmPosttrainConfig, tokenizer: Any, end_id: int, prompts: Sequence[Prompt]
) -> None:
    """Refuse a tokenizer that writes ids which the model does not read.

    Raises:
        InputError: saying how many ids the two have.
    """
    n_read = vocabulary_of(config.model)
    if n_read is not None:
        answers = [*getattr(config.reward, "valid", ()), *config.tracked]
        check_ids(tokenizer, n_read, prompts=prompts, answers=answers, end_id=end_id)
