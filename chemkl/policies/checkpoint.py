"""Model files: safetensors with a JSON header (vocabulary, architecture, provenance).

REINVENT's own files are read wherever a model file is; see `chemkl.policies.reinvent`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from chemkl.config import Config, InputError, did_you_mean, load_config
from chemkl.config.pretrain import RnnConfig
from chemkl.policies.base import Policy
from chemkl.policies.reinvent import is_reinvent, read_reinvent
from chemkl.policies.rnn import RnnPolicy
from chemkl.policies.tokenizer import Vocabulary
from chemkl.results.atomic import atomic_file
from chemkl.results.seal import SEAL, check_seal

FORMAT = "chemkl-policy"
VERSION = 1
WEIGHT_LIMIT = 1e4
"""Largest size of a weight that is taken for one: trained ones stay below 100."""


class Kind(NamedTuple):
    """A kind of policy: its class, and the settings that its constructor takes."""

    policy: type[Policy]
    settings: type[Config]


KINDS = {RnnPolicy.kind: Kind(RnnPolicy, RnnConfig)}

_PARTS: dict[str, type] = {"architecture": dict, "vocabulary": list, "provenance": dict}
_MODEL_PLACES = ("checkpoints/policy.safetensors", "*.safetensors")
"""Where a folder that is given in place of a model file may hold one."""
_EXPECTED = "Expected a model written by `chemkl pretrain` or `chemkl posttrain`."
_LANGUAGE_MODEL = ("config.json", "adapter_config.json")
"""What a folder holds that is a language model, or adapters of one."""
_NOT_FOR_TEXT = (
    "What is wanted here is a SMILES model, a file written by `chemkl pretrain` or `chemkl "
    "posttrain`; for language models there is `chemkl posttrain_llm`, and chemkl.llm.load samples "
    "from what it wrote"
)


def save_policy(policy: Policy, path: str | Path, provenance: dict[str, Any]) -> None:
    """Write a policy to one file, replacing an older one in a single step.

    Args:
        policy: the network.
        path: ends in .safetensors.
        provenance: where the weights come from (corpus, config, numbers); JSON values. Numbers
            that JSON cannot hold (NaN, infinities) become null.
    """
    header = header_of(policy, provenance)
    weights = {k: v.detach().cpu().contiguous() for k, v in policy.state_dict().items()}
    path = Path(path)
    metadata = {"header": json.dumps(header, allow_nan=False), "sha256": SEAL.decode()}
    with atomic_file(path, sealed=True, parents=True) as aside:
        # not save_file: it makes the file readable for its owner alone
        aside.write_bytes(save(weights, metadata=metadata))


def header_of(policy: Policy, provenance: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON header of a policy's model file; see `save_policy`."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "architecture": policy.architecture,
        "vocabulary": list(policy.vocabulary.tokens),
        "provenance": json.loads(json.dumps(provenance), parse_constant=lambda _: None),
    }


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the JSON header of a model file without reading its weights.

    For a file of REINVENT it is the one that it would have.

    Raises:
        InputError: the file is missing, damaged, a folder, not a chemkl model, or of another
            version; or its vocabulary or architecture cannot be used.
    """
    if Path(path).is_dir():
        raise InputError(f"{path}: {_folder_problem(Path(path))}")
    if Path(path).exists() and not Path(path).is_file():  # a pipe may wait for ever
        raise InputError(f"{path}: a device, pipe or socket. {_EXPECTED}")
    if is_reinvent(path):
        return header_of(read_reinvent(path), {"source": "REINVENT"})
    metadata = _metadata(path)
    check_seal(Path(path))
    header = _parsed(metadata.get("header", ""))
    if header is None and any((Path(path).parent / name).exists() for name in _LANGUAGE_MODEL):
        raise InputError(f"{path}: weights of a language model. {_NOT_FOR_TEXT}")
    if header is None:
        raise InputError(f"{path}: a safetensors file without chemkl's header. {_EXPECTED}")
    if header.get("version") != VERSION:
        raise InputError(
            f"{path}: model file version {header.get('version')!r}; this chemkl reads version "
            f"{VERSION}. Use the chemkl that wrote it, or train the model again."
        )
    wrong = [
        f"{path}: header: {name} should be a {kind.__name__}, not {header.get(name)!r}"
        for name, kind in _PARTS.items()
        if not isinstance(header.get(name), kind)
    ]
    if wrong:
        raise InputError("\n".join(wrong))
    try:
        _built(header)
    except InputError as error:
        raise InputError(f"{path}: header: {error}") from None
    return header


def load_policy(path: str | Path) -> Policy:
    """Read a policy from its file, in evaluation mode, on the CPU, in float32.

    Raises:
        InputError: the file is missing, damaged, foreign, or its weights do not fit its header.
    """
    if is_reinvent(path):
        policy: Policy = read_reinvent(path)
        check_weights(policy.state_dict().items(), str(path))
        return policy
    policy = _built(read_header(path))
    with safe_open(path, framework="pt") as file:
        weights = {  # copies: the file's own tensors are a view of the file
            name: file.get_tensor(name).to(torch.float32, copy=True)
            for name in file.keys()  # noqa: SIM118 - no mapping
        }
    try:
        policy.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise InputError(f"{path}: the weights do not fit the header: {error}") from None
    check_weights(weights.items(), str(path))
    return policy.eval()


def check_weights(
    weights: Iterable[tuple[str, torch.Tensor]], where: str, limit: float = WEIGHT_LIMIT
) -> None:
    """Refuse weights with which a model cannot have been trained, by a named tensor.

    Raises:
        InputError: one holds NaN, an infinity, or a number beyond the limit.
    """
    for name, weight in weights:
        if not weight.is_floating_point() or not weight.numel():
            continue
        least, most = (float(each) for each in torch.aminmax(weight.detach()))
        if not max(-least, most) <= limit:  # NaN is not
            raise InputError(
                f"{where}: the weights {name} reach from {least:g} to {most:g}; expected finite "
                f"numbers of at most {limit:g} in size. The training has diverged, or the "
                "file is damaged: take an earlier model, or train again with a lower learning rate."
            )


def freeze(policy: Policy) -> Policy:
    """Turn a policy into a reference: evaluation mode, no gradients."""
    return policy.eval().requires_grad_(requires_grad=False)


def _folder_problem(folder: Path) -> str:
    """Say which model file of a folder may have been meant."""
    inside = next((name for name in _LANGUAGE_MODEL if (folder / name).exists()), None)
    if inside is not None:
        return f"a language model's folder ({inside}). {_NOT_FOR_TEXT}"
    models = [path for inner in _MODEL_PLACES for path in sorted(folder.glob(inner))]
    if models:
        return f"a folder, not a model file. A model file in it is {models[0]}"
    texts = [
        path for name in _LANGUAGE_MODEL for path in sorted(folder.glob(f"checkpoints/*/{name}"))
    ]
    if texts:
        return f"a folder with a language model ({texts[0].parent}). {_NOT_FOR_TEXT}"
    return f"a folder, not a model file, and there is none in it. {_EXPECTED}"


def _metadata(path: str | Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise InputError(f"{path}: no such model file. {_EXPECTED}") from None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a readable safetensors file ({error}). {_EXPECTED}"
        ) from None


def _parsed(text: str) -> dict[str, Any] | None:
    """Read a header; None where it is not chemkl's."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return None
    ours = isinstance(header, dict) and header.get("format") == FORMAT
    return header if ours else None


def _built(header: dict[str, Any]) -> Policy:
    """Build the network of a header, without memory for its weights.

    Raises:
        InputError: an unknown kind, settings it does not take, or an impossible vocabulary.
    """
    name = header["architecture"].get("kind")
    if not isinstance(name, str) or name not in KINDS:
        raise InputError(f"unknown kind of policy {name!r}{did_you_mean(str(name), KINDS)}")
    kind = KINDS[name]
    settings = load_config(kind.settings, header["architecture"]).model_dump(exclude={"kind"})
    with torch.device("meta"):
        return kind.policy(Vocabulary(tuple(header["vocabulary"])), **settings)
