"""Why a model could not be loaded: what its folder lacks or holds that is no such thing, in words.

Asked only after transformers has refused a model, whose own messages seldom name a file.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from chemkl.llm.extra import package

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
