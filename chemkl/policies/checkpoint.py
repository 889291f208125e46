"""Model files: safetensors with a JSON header (vocabulary, architecture, provenance).

REINVENT's files are accepted in place of a model file; see `chemkl.policies.reinvent`.
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
"""Largest magnitude of a plausible weight; trained ones stay below 100."""
NEW_MASS = 1e-4
"""Upper bound of the total probability of a policy's new tokens before they are learnt."""

KINDS: dict[str, tuple[type[Policy], type[Config]]] = {
    RnnPolicy.kind: (RnnPolicy, RnnConfig),
    TransformerPolicy.kind: (TransformerPolicy, TransformerConfig),
    MinGruPolicy.kind: (MinGruPolicy, MinGruConfig),
}
"""The class of each kind of policy, and the config model of its constructor's arguments."""

_PARTS: dict[str, type] = {"architecture": dict, "vocabulary": list, "provenance": dict}
_MODEL_PLACES = ("checkpoints/policy.safetensors", "*.safetensors")
"""Where to look for a model file if a folder is given instead."""
_EXPECTED = "Expected a model written by `chemkl pretrain` or `chemkl posttrain`."
_LANGUAGE_MODEL = ("config.json", "adapter_config.json")
"""Files by which to recognise the folder of a language model or of its adapters."""
_NOT_FOR_TEXT = (
    "Expected a SMILES model, a file written by `chemkl pretrain` or `chemkl posttrain`; "
    "language models are for `chemkl posttrain_llm`, and chemkl.llm.load samples from its results"
)


def save_policy(policy: Policy, path: str | Path, provenance: dict[str, Any]) -> None:
    """Write a policy to a file, atomically.

    Args:
        policy: the network.
        path: ends in .safetensors; an existing file is replaced.
        provenance: where the weights come from (corpus, config, numbers); JSON values. Numbers
            that JSON does not have (NaN, infinities) become null.
    """
    weights = {k: v.detach().cpu().contiguous() for k, v in policy.state_dict().items()}
    path = Path(path)
    header = json.dumps(header_of(policy, provenance), allow_nan=False)
    metadata = {"header": header, "sha256": SEAL.decode()}
    with atomic_file(path, sealed=True, parents=True) as draft:
        # not save_file: it makes the file readable for its owner only
        draft.write_bytes(save(weights, metadata=metadata))


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
    """Return the JSON header of a model file without loading its weights.

    For a file of REINVENT the header is made from its contents.

    Raises:
        InputError: the file is missing, damaged, a folder, not a chemkl model, or of another
            version; or its vocabulary or architecture is not valid.
    """
    header = _header_or_problem(Path(path))
    if isinstance(header, str):
        raise InputError("\n".join(f"{path}: {line}" for line in header.split("\n")))
    try:
        _from_header(header)
    except InputError as error:
        raise InputError(f"{path}: header: {error}") from None
    return header


def _header_or_problem(path: Path) -> dict[str, Any] | str:
    """Return the header of a model file, or why it is not valid."""
    if path.is_dir():
        return _folder_problem(path)
    if path.exists() and not path.is_file():  # reading a pipe may block for ever
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
            "Use the version of chemkl that wrote it, or train the model again."
        )
    problems = [
        f"header: {name} should be a {kind.__name__}, not {header.get(name)!r}"
        for name, kind in _PARTS.items()
        if not isinstance(header.get(name), kind)
    ]
    return "\n".join(problems) or header


def _folder_problem(folder: Path) -> str:
    """Explain that a folder is no model file, and name the model file in it."""
    name = next((name for name in _LANGUAGE_MODEL if (folder / name).exists()), None)
    if name is not None:
        return f"a language model's folder ({name}). {_NOT_FOR_TEXT}"
    models = [path for pattern in _MODEL_PLACES for path in sorted(folder.glob(pattern))]
    if models:
        return f"a folder, not a model file. A model file in it is {models[0]}"
    names = (f"checkpoints/*/{name}" for name in _LANGUAGE_MODEL)
    language_models = [path for name in names for path in sorted(folder.glob(name))]
    if language_models:
        return f"a folder with a language model ({language_models[0].parent}). {_NOT_FOR_TEXT}"
    return f"a folder, not a model file, and there is none in it. {_EXPECTED}"


def load_policy(path: str | Path, *, key: str = "") -> Policy:
    """Load a policy from its file, in evaluation mode, on the CPU, in float32.

    Args:
        path: of the file.
        key: the config key of the path, for messages about the weights.

    Raises:
        InputError: the file is missing, damaged, foreign, or its weights do not fit its header.
    """
    where = f"{key}: {path}" if key else str(path)
    if Path(path).is_file() and is_reinvent(path):
        policy: Policy = read_reinvent(path)
        check_weights(policy.state_dict().items(), where)
        return policy
    policy = _from_header(read_header(path))
    with safe_open(path, framework="pt") as file:
        weights = {  # copies: the file's tensors are views of the file
            name: file.get_tensor(name).to(torch.float32, copy=True)
            for name in file.keys()  # noqa: SIM118 - no mapping
        }
    try:
        policy.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise InputError(f"{where}: the weights do not fit the header: {error}") from None
    check_weights(weights.items(), where)
    return policy.eval()


def convert_reinvent(source: Path, target: Path) -> None:
    """Convert a model file of REINVENT to one of chemkl, with its origin as provenance.

    Raises:
        InputError: see `load_policy`.
    """
    origin = {"file": source.name, "sha256": sha256_of_file(source)}
    save_policy(load_policy(source), target, read_origin(source) | origin)


def check_weights(
    weights: Iterable[tuple[str, torch.Tensor]], where: str, limit: float = WEIGHT_LIMIT
) -> None:
    """Refuse weights that no training leaves.

    Raises:
        InputError: a tensor holds NaN, an infinity, or a number beyond the limit.
    """
    for name, weight in weights:
        if not weight.is_floating_point() or not weight.numel():
            continue
        least, most = (float(bound) for bound in torch.aminmax(weight.detach()))
        if not max(-least, most) <= limit:  # NaN is not
            raise InputError(
                f"{where}: the weights {name} range from {least:g} to {most:g}; expected finite "
                f"numbers of magnitude {limit:g} at most. The training has diverged, or the "
                "file is damaged: take an earlier model, or train again with a lower learning rate."
            )


def freeze(policy: Policy) -> Policy:
    """Turn a policy into a reference: evaluation mode, no gradients."""
    return policy.eval().requires_grad_(requires_grad=False)


def _from_header(header: dict[str, Any]) -> Policy:
    """Build the network of a header, without allocating its weights.

    Raises:
        InputError: an unknown kind, wrong settings, or an invalid vocabulary.
    """
    name = header["architecture"].get("kind")
    if not isinstance(name, str) or name not in KINDS:
        raise InputError(f"unknown kind of policy {name!r}{did_you_mean(str(name), KINDS)}")
    settings = load_config(KINDS[name][1], header["architecture"])
    with torch.device("meta"):
        return build_policy(Vocabulary(tuple(header["vocabulary"])), settings)


def build_policy(vocabulary: Vocabulary, settings: Config) -> Policy:
    """Build a network with new weights from the settings of its kind."""
    sizes = settings.model_dump()
    policy, _ = KINDS[sizes.pop("kind")]
    return policy(vocabulary, **sizes)


def with_tokens(policy: Policy, tokens: Iterable[str]) -> Policy:
    """Return a policy whose vocabulary has further tokens, after its own.

    A new token starts as a copy of a similar one (its first letter that is a token, n for [nH+]),
    in the embedding and in the output layer, with a bias that is lower by log(n / NEW_MASS) for n
    new tokens. So the new tokens have a total probability below NEW_MASS at every position, and log
    p of a molecule of old tokens falls by less than NEW_MASS per token. If no token is new, the
    policy itself is returned.
    """
    old = policy.vocabulary.tokens
    new = sorted({*tokens} - {*old})
    if not new:
        return policy
    row_of = {token: row for row, token in enumerate(old)}
    similar = torch.tensor([
        next((row_of[c] for c in [*filter(str.isalpha, token), *token, "C"] if c in row_of), 2)
        for token in new
    ])  # fmt: skip
    weights = dict(policy.state_dict())
    for name in ("embedding.weight", "linear.weight", "linear.bias"):
        rows = weights[name][similar]
        if name == "linear.bias":
            rows = rows - math.log(len(new) / NEW_MASS)
        weights[name] = torch.cat([weights[name], rows])
    grown = _from_header(header_of(policy, {}) | {"vocabulary": [*old, *new]})
    grown.load_state_dict(weights, assign=True)
    return grown.eval()
