"""Model files: safetensors with a JSON header (vocabulary, architecture, provenance).

REINVENT's own files are read wherever a model file is; see `chemkl.policies.reinvent`.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from chemkl.config import Config, InputError, did_you_mean, load_config
from chemkl.config.pretrain import MinGruConfig, RnnConfig, TransformerConfig
from chemkl.policies.base import Policy
from chemkl.policies.decoder import MinGruPolicy, TransformerPolicy
from chemkl.policies.reinvent import is_reinvent, read_origin, read_reinvent
from chemkl.policies.rnn import RnnPolicy
from chemkl.policies.tokenizer import Vocabulary
from chemkl.results.atomic import atomic_file
from chemkl.results.seal import SEAL, check_seal, sha256_of_file

FORMAT = "chemkl-policy"
VERSION = 1
WEIGHT_LIMIT = 1e4
"""Largest size of a weight that is taken for one: trained ones stay below 100."""

NEW_MASS = 1e-4
"""What new tokens of a policy have of the mass together, at most, before they are learnt."""


KINDS: dict[str, tuple[type[Policy], type[Config]]] = {
    RnnPolicy.kind: (RnnPolicy, RnnConfig),
    TransformerPolicy.kind: (TransformerPolicy, TransformerConfig),
    MinGruPolicy.kind: (MinGruPolicy, MinGruConfig),
}
"""The class of each kind of policy, and the settings that its constructor takes."""

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
    weights = {k: v.detach().cpu().contiguous() for k, v in policy.state_dict().items()}
    path = Path(path)
    header = json.dumps(header_of(policy, provenance), allow_nan=False)
    metadata = {"header": header, "sha256": SEAL.decode()}
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
    header = _header_or_problem(Path(path))
    if isinstance(header, str):
        raise InputError("\n".join(f"{path}: {line}" for line in header.split("\n")))
    try:
        _built(header)
    except InputError as error:
        raise InputError(f"{path}: header: {error}") from None
    return header


def _header_or_problem(path: Path) -> dict[str, Any] | str:
    """The header of a model file, or why there is none that can be used."""
    if path.is_dir():
        return _folder_problem(path)
    if path.exists() and not path.is_file():  # a pipe may wait for ever
        return f"a device, pipe or socket. {_EXPECTED}"
    if is_reinvent(path):
        return header_of(read_reinvent(path), read_origin(path))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        return f"no such model file. {_EXPECTED}"
    except (SafetensorError, OSError) as error:
        return f"not a readable safetensors file ({error}). {_EXPECTED}"
    check_seal(path)
    try:
        header = json.loads(metadata.get("header", ""))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        if any((path.parent / name).exists() for name in _LANGUAGE_MODEL):
            return f"weights of a language model. {_NOT_FOR_TEXT}"
        return f"a safetensors file without chemkl's header. {_EXPECTED}"
    if header.get("version") != VERSION:
        return (
            f"model file version {header.get('version')!r}; this chemkl reads version {VERSION}. "
            "Use the chemkl that wrote it, or train the model again."
        )
    wrong = [
        f"header: {name} should be a {kind.__name__}, not {header.get(name)!r}"
        for name, kind in _PARTS.items()
        if not isinstance(header.get(name), kind)
    ]
    return "\n".join(wrong) or header


def _folder_problem(folder: Path) -> str:
    """Say which model file of a folder may have been meant."""
    inside = next((name for name in _LANGUAGE_MODEL if (folder / name).exists()), None)
    if inside is not None:
        return f"a language model's folder ({inside}). {_NOT_FOR_TEXT}"
    models = [path for inner in _MODEL_PLACES for path in sorted(folder.glob(inner))]
    if models:
        return f"a folder, not a model file. A model file in it is {models[0]}"
    names = (f"checkpoints/*/{name}" for name in _LANGUAGE_MODEL)
    texts = [path for name in names for path in sorted(folder.glob(name))]
    if texts:
        return f"a folder with a language model ({texts[0].parent}). {_NOT_FOR_TEXT}"
    return f"a folder, not a model file, and there is none in it. {_EXPECTED}"


def load_policy(path: str | Path) -> Policy:
    """Read a policy from its file, in evaluation mode, on the CPU, in float32.

    Raises:
        InputError: the file is missing, damaged, foreign, or its weights do not fit its header.
    """
    if Path(path).is_file() and is_reinvent(path):
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


def convert_reinvent(source: Path, target: Path) -> None:
    """Write a model of REINVENT as one of ours, which tells where it comes from.

    Raises:
        InputError: see `load_policy`.
    """
    origin = {"file": source.name, "sha256": sha256_of_file(source)}
    save_policy(load_policy(source), target, read_origin(source) | origin)


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
        least, most = (float(bound) for bound in torch.aminmax(weight.detach()))
        if not max(-least, most) <= limit:  # NaN is not
            raise InputError(
                f"{where}: the weights {name} reach from {least:g} to {most:g}; expected finite "
                f"numbers of at most {limit:g} in size. The training has diverged, or the "
                "file is damaged: take an earlier model, or train again with a lower learning rate."
            )


def freeze(policy: Policy) -> Policy:
    """Turn a policy into a reference: evaluation mode, no gradients."""
    return policy.eval().requires_grad_(requires_grad=False)


def _built(header: dict[str, Any]) -> Policy:
    """Build the network of a header, without memory for its weights.

    Raises:
        InputError: an unknown kind, settings it does not take, or an impossible vocabulary.
    """
    name = header["architecture"].get("kind")
    if not isinstance(name, str) or name not in KINDS:
        raise InputError(f"unknown kind of policy {name!r}{did_you_mean(str(name), KINDS)}")
    settings = load_config(KINDS[name][1], header["architecture"])
    with torch.device("meta"):
        return build_policy(Vocabulary(tuple(header["vocabulary"])), settings)


def build_policy(vocabulary: Vocabulary, settings: Config) -> Policy:
    """Make the network that the settings of a kind ask for, with new weights."""
    sizes = settings.model_dump()
    policy, _ = KINDS[sizes.pop("kind")]
    return policy(vocabulary, **sizes)


def with_tokens(policy: Policy, tokens: Iterable[str]) -> Policy:
    """Make a policy that knows further tokens, behind its own; it is returned where none is new.

    Each new token begins as a copy of one that it resembles (its first letter that is a token, for
    [nH+] n), both where it is read and where it is written, but for a bias that is lower by log(n /
    NEW_MASS), n new tokens. So these have less than NEW_MASS of the mass together wherever they
    stand, and log p of a molecule of old tokens falls by less than NEW_MASS a token.
    """
    known = policy.vocabulary.tokens
    new = sorted({*tokens} - {*known})
    if not new:
        return policy
    row_of = {token: row for row, token in enumerate(known)}
    kin = torch.tensor([
        next((row_of[c] for c in [*filter(str.isalpha, token), *token, "C"] if c in row_of), 2)
        for token in new
    ])  # fmt: skip
    weights = dict(policy.state_dict())
    for name in ("embedding.weight", "linear.weight", "linear.bias"):
        rows = weights[name][kin]
        if name == "linear.bias":
            rows = rows - math.log(len(new) / NEW_MASS)
        weights[name] = torch.cat([weights[name], rows])
    header = header_of(policy, {}) | {"vocabulary": [*known, *new]}
    grown = _built(header)
    grown.load_state_dict(weights, assign=True)
    return grown.eval()
