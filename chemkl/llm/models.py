"""Language models as policies: given adapters, put together with prompts, saved, loaded again."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chemkl.config import InputError
from chemkl.config.llm import LlmPosttrainConfig
from chemkl.config.llm_model import AdapterConfig, LoraConfig
from chemkl.llm.extra import package, quiet
from chemkl.llm.policy import HfPolicy
from chemkl.llm.prompts import Prompt, render_prompts
from chemkl.llm.sources import (
    UNUSABLE,
    context_of,
    load_network,
    load_tokenizer,
    move_in,
    one_line,
)
from chemkl.results.atomic import write_json

ADAPTER = "adapter"
MODEL = "model"
PROVENANCE = "chemkl.json"


def adapted(network: nn.Module, config: AdapterConfig, seed: int) -> nn.Module:
    """Decide what of a model is trained: adapters, drawn from a seed, or all of it.

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
    """Render the prompts of a config, without the model's weights.

    Raises:
        InputError: the tokenizer is not there, or the prompts cannot be used.
    """
    tokenizer, _ = load_tokenizer(config.model)
    return _rendered(config, tokenizer)


def build_policy(config: LlmPosttrainConfig, *, trained: bool = True) -> HfPolicy:
    """Build the policy of a config: what is trained, or the model as it was.

    Raises:
        InputError: the model, the adapter or the prompts cannot be used.
    """
    tokenizer, end_id = load_tokenizer(config.model)
    prompts = _rendered(config, tokenizer)
    network = load_network(config.model)
    if trained:
        network = adapted(network, config.adapter, config.seed)
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


def save(
    policy: HfPolicy, folder: Path, config: LlmPosttrainConfig, about: Mapping[str, Any]
) -> Path:
    """Write what was trained in Hugging Face's format, in one step of the file system.

    Args:
        policy: the network.
        folder: gets a folder ``adapter`` or ``model``.
        config: of the run; kept beside the weights, so that `load` finds model and prompts.
        about: where the weights come from; JSON values.

    Returns:
        The folder that was written.
    """
    final = folder / (ADAPTER if policy.has_adapter else MODEL)
    aside = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=folder))
    with quiet():
        policy.model.save_pretrained(aside)  # type: ignore[operator]  # transformers'
        if not policy.has_adapter:
            policy.tokenizer.save_pretrained(aside)
    (aside / "README.md").unlink(missing_ok=True)  # a form of peft's that nobody has filled in
    kept = {"config": config.model_dump(mode="json"), "provenance": dict(about)}
    write_json(aside / PROVENANCE, kept)
    move_in(aside, final)
    return final


def load(path: str | Path) -> HfPolicy:
    """Load what a run has trained, with its prompts; in evaluation mode, on the CPU.

    Args:
        path: the folder ``checkpoints/adapter`` or ``checkpoints/model`` of a run.

    Raises:
        InputError: no such folder, not one of these, or the model under the adapters is gone.
    """
    path = Path(path)
    try:
        kept = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
        is_whole = not (path / "adapter_config.json").exists()
        if is_whole:  # then it needs nothing of the model that it comes from
            kept["config"]["model"] |= {"name": str(path.resolve()), "wheel": None}
        config = LlmPosttrainConfig.model_validate(kept["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a language model of chemkl ({one_line(error)}). Give the "
            f"folder checkpoints/{ADAPTER} or checkpoints/{MODEL} of a posttrain_llm run."
        ) from error
    policy = build_policy(config, trained=False)
    if is_whole:
        return policy
    try:
        with quiet():
            tuned = package("peft").PeftModel.from_pretrained(policy.model, path)
    except UNUSABLE as error:
        raise InputError(f"{path}: cannot be loaded: {one_line(error)}") from error
    return HfPolicy(
        tuned,
        policy.tokenizer,
        policy.prompts,
        end_id=policy.end_id,
        max_new_tokens=policy.max_new_tokens,
        prompts_per_step=config.prompts_per_step,
        micro_batch=policy.micro_batch,
        sample_batch=policy.sample_batch,
    )


def _rendered(config: LlmPosttrainConfig, tokenizer: Any) -> tuple[Prompt, ...]:
    return render_prompts(
        config.prompts,
        tokenizer,
        template=config.template,
        context=context_of(config.model),
        max_new_tokens=config.max_new_tokens,
    )
