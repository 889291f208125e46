"""Read and write REINVENT's model files: ``.prior`` and the checkpoints of its runs.

The format (REINVENT 2, 3 and 4) is a dict saved by torch with ``vocabulary``, ``network_params``,
``network`` (a state dict) and ``max_sequence_length``. Older files hold objects of REINVENT's own
classes; they are loaded as inert stubs, so that no code of a file runs.

Shape legend: B sequences, T tokens, V vocabulary, H hidden units, E numbers per embedded token.
"""

import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from chemkl.config import InputError, load_config
from chemkl.config.pretrain import RnnConfig
from chemkl.policies.base import Policy
from chemkl.policies.rnn import RnnPolicy, State
from chemkl.policies.tokenizer import END, END_ID, START, Vocabulary, tokenize
from chemkl.results.atomic import atomic_file

SUFFIXES = (".prior", ".model", ".agent", ".chkpt")
"""Suffixes of REINVENT's model files."""
MAGIC = (b"PK\x03\x04", b"\x80\x02")
"""First bytes of a file of torch: a zip archive, or before torch 1.6 a pickle."""
PARTS = {"_embedding.": "embedding.", "_rnn.": "rnn.", "_linear.": "linear."}
"""REINVENT's names of the layers, and ours."""

PADDING = 90
"""End tokens after a molecule that should cost next to nothing: the length of a batch."""
FIT = ((8, 128, 200, 0.05), (32, 64, 200, 0.03), (PADDING, 32, 200, 0.01))
"""Positions, molecules per step, steps and first learning rate of each stage of `fit_end_row`."""
GRADIENT_CLIP = 0.05
"""Maximum norm of the gradient, as a diverging state would make it explode."""
TARGET_NATS = 0.1
"""The fit ends if `PADDING` end tokens cost less than this on average."""

_STAND_IN = re.compile(r"(?:reinvent|reinvent_models|models)\.[\w.]*[A-Z]\w*")
"""Classes of REINVENT whose objects may be in a file."""
_BLOCKED = re.compile(r"GLOBAL ([\w.]+)")
_KEYS = ("vocabulary", "network_params", "network")
_FIX = "Expected a model file of REINVENT 2, 3 or 4 (a .prior, or a checkpoint of a run)"


class _StandIn:
    """Holds the attributes of an object of REINVENT, without its code."""

    def __new__(cls, *_: Any) -> "_StandIn":
        return super().__new__(cls)


def is_reinvent(path: str | Path) -> bool:
    """Whether a file has a suffix of REINVENT's, or the first bytes of a file of torch."""
    path = Path(path)
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.suffix.lower() in (".safetensors", ".ckpt"):  # ours
        return False
    try:
        with path.open("rb") as file:
            return file.read(4).startswith(MAGIC)
    except OSError:  # reported when the file is read
        return False


def read_reinvent(path: str | Path) -> RnnPolicy:
    """Load a prior or an agent of REINVENT, in evaluation mode, on the CPU, in float32.

    Args:
        path: of the file. The ids of its vocabulary may be in any order.

    Raises:
        InputError: the file is missing or damaged, holds code, is another kind of model, or its
            weights do not fit its ``network_params``.
    """
    content = _unpickled(Path(path))
    kind, weights = content.get("model_type", "Reinvent"), content["network"]
    problem = ""
    if kind != "Reinvent":
        problem = (
            f"a model of type {kind!r}; expected 'Reinvent'. Conditional generators "
            "(Libinvent, Linkinvent, Mol2Mol, Pepinvent) are not supported; with the key "
            "generator, of kind decorate, link or analogues, a prior of whole molecules completes "
            "your parts"
        )
    elif not isinstance(weights, Mapping) or not all(map(_is_plain, weights.values())):
        problem = f"network: expected plain tensors of numbers, by name. {_FIX}"
    if problem:
        raise InputError(f"{path}: {problem}")
    tokens = _tokens(content["vocabulary"], path)
    policy = _network(content, tokens, path)
    ours = {_renamed(str(name)): value.to(torch.float32) for name, value in weights.items()}
    expected = policy.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in ours]
    problems += [f"{name} is not of this network" for name in ours if name not in expected]
    problems += [
        f"{name} is {tuple(ours[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in ours and ours[name].shape != value.shape
    ]
    if len(ours) != len(weights):
        problems.append("a weight is given under two names")
    if problems:
        listed = "; ".join(problems[:10])
        raise InputError(f"{path}: the weights do not fit network_params and vocabulary: {listed}")
    rows_V = torch.tensor(list(tokens.values()))  # their rows in our order
    for name in ("embedding.weight", "linear.weight", "linear.bias"):
        ours[name] = ours[name][rows_V]
    policy.load_state_dict(ours, assign=True)
    return policy.eval()


def read_origin(path: str | Path) -> dict[str, Any]:
    """Return the provenance in a file of REINVENT, as JSON values.

    Raises:
        InputError: see `read_reinvent`.
    """
    content = _unpickled(Path(path))
    raw = content.get("metadata")
    fields = raw if isinstance(raw, Mapping) else getattr(raw, "__dict__", {})
    metadata = {str(key): value for key, value in fields.items() if value not in (None, "", [])}
    origin = {"source": "REINVENT", "version": content.get("version"), "metadata": metadata}
    origin["of_a_run"] = "staged_learning" in content
    plain: dict[str, Any] = json.loads(json.dumps(origin, default=str))
    return plain


def write_reinvent(
    policy: Policy, path: str | Path, seed: int = 0, metadata: Mapping[str, Any] | None = None
) -> float:
    """Write a policy as a file of REINVENT4: plain dicts and tensors, no objects.

    REINVENT4 sums the log-probabilities of the end tokens after a sequence too, and samples until
    every row of a batch has ended. So the end token's embedding, on which no molecule's
    log-probability depends, is fitted until another end token follows (`fit_end_row`).

    Args:
        policy: an LSTM or GRU.
        path: of the file; an existing one is replaced.
        seed: of the samples on which the end token's embedding is fitted.
        metadata: where the model comes from: the fields of REINVENT4's `ModelMetaData`.

    Returns:
        The mean cost of `PADDING` end tokens after a molecule, nats.

    Raises:
        InputError: another kind of policy, or one with fragments for tokens.
    """
    policy = as_reinvents(policy, path)
    sizes = policy.architecture
    weights = {k: v.detach().cpu().clone() for k, v in policy.state_dict().items()}
    row_E, nats = fit_end_row(policy, torch.Generator().manual_seed(seed))
    weights["embedding.weight"][END_ID] = row_E
    theirs = {new: old for old, new in PARTS.items()}
    content = {
        "model_type": "Reinvent",
        "version": 1,
        "metadata": None if metadata is None else dict(metadata),
        "vocabulary": {
            "tokens": {token: i for i, token in enumerate(policy.vocabulary.tokens)},
            "pad_token": 0,
            "bos_token": 1,
            "eos_token": 2,  # what REINVENT4 writes; the end token is 0
            "unk_token": None,
        },
        "max_sequence_length": sizes["max_length"],
        "network": {_renamed(name, theirs): value for name, value in weights.items()},
        "network_params": {
            "dropout": sizes["dropout"],
            "layer_size": sizes["hidden_size"],
            "num_layers": sizes["n_layers"],
            "cell_type": sizes["cell"],
            "embedding_layer_size": sizes["embedding_size"],
            "layer_normalization": False,
        },
    }
    with atomic_file(Path(path), parents=True) as draft:
        torch.save(content, draft)
    return nats


def as_reinvents(policy: Policy, path: str | Path) -> RnnPolicy:
    """Return the policy if REINVENT supports its network and tokens; refuse it otherwise."""
    sizes = policy.architecture
    problem = ""
    if not isinstance(policy, RnnPolicy) or "projection_size" in sizes:
        kind = sizes["kind"] if sizes["kind"] != RnnPolicy.kind else "one with a projection"
        problem = f"REINVENT has plain LSTM and GRU models only, not {kind}"
    elif policy.vocabulary.has_fragments:
        problem = (
            "the model's tokens are fragments (tokens.merges), which REINVENT would split."
            " Take a model of single tokens: train one on the same corpus, or on samples of this "
            "model (chemkl sample, prepare), with chemkl pretrain and tokens.merges=0, and convert "
            "that"
        )
    if problem:
        raise InputError(f"{path}: {problem}")
    return cast("RnnPolicy", policy)


def fit_end_row(
    policy: RnnPolicy, generator: torch.Generator, n_molecules: int = 2000
) -> tuple[Tensor, float]:
    """Fit the end token's embedding so that another end token follows it.

    Adam on the mean -log p(end | end) after the last states of sampled molecules, over a few
    positions; then over more positions, until `PADDING` end tokens cost less than `TARGET_NATS`
    after other molecules.

    Args:
        policy: stays unchanged.
        generator: of the samples.
        n_molecules: to fit on; a quarter as many are held out.

    Returns:
        row_E, float32; and the mean cost of `PADDING` end tokens after a held-out molecule, nats.
    """
    n_held = n_molecules // 4
    sampled = policy.sample(n_molecules + n_held, generator)
    # the states before the first end token of each row
    is_end_BT = sampled.tokens == END_ID
    length_B = torch.where(is_end_BT.any(1), is_end_BT.int().argmax(1), is_end_BT.shape[1])
    with torch.no_grad():
        packed = pack_padded_sequence(
            policy.embedding(sampled.tokens), length_B, batch_first=True, enforce_sorted=False
        )
        state: State = policy.rnn(packed)[1]
    held = policy.select(state, torch.arange(n_molecules, n_molecules + n_held))
    row_E = torch.zeros_like(policy.embedding.weight[END_ID]).requires_grad_()
    optimizer = torch.optim.Adam([row_E])

    def cost(start: State, n_rows: int, length: int) -> Tensor:
        hidden_BTH, _state = policy.rnn(row_E.expand(n_rows, length, -1), start)
        logp_BTV = functional.log_softmax(policy.linear(hidden_BTH), dim=-1)
        return -logp_BTV[..., END_ID].mean()

    fits = list[tuple[float, Tensor]]()
    for length, n_rows, n_steps, rate in FIT:
        for step in range(n_steps):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / n_steps)
            batch = torch.randperm(n_molecules, generator=generator)[:n_rows]
            (row_E.grad,) = torch.autograd.grad(
                cost(policy.select(state, batch), n_rows, length), [row_E]
            )
            nn.utils.clip_grad_norm_([row_E], GRADIENT_CLIP)
            optimizer.step()
        with torch.no_grad():
            nats = PADDING * cost(held, n_held, PADDING).item()
        fits.append((nats, row_E.detach().clone()))
        if nats < TARGET_NATS:
            break
    nats, row_E = min(fits, key=lambda fit: fit[0])
    return row_E, nats


def _renamed(name: str, parts: Mapping[str, str] = PARTS) -> str:
    start = next((start for start in parts if name.startswith(start)), "")
    return parts.get(start, "") + name.removeprefix(start)


def _unpickled(path: Path) -> Mapping[str, Any]:
    """Load the dict of a file; only tensors, plain values and placeholders are unpickled."""
    stand_ins: list[tuple[type, str]] = []
    content: Any = None
    problem = "refused: its records are compressed" if _is_compressed(path) else ""
    tries_again = not problem
    while tries_again:
        tries_again = False
        try:
            with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
                content = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            problem = "no such model file"
        except PermissionError as error:
            problem = f"cannot be read ({error.strerror})"
        except pickle.UnpicklingError as error:
            blocked = _BLOCKED.search(str(error))
            name = blocked[1] if blocked else ""
            if _STAND_IN.fullmatch(name) and name not in [allowed for _, allowed in stand_ins]:
                stand_ins.append((_StandIn, name))
                tries_again = True
            else:
                code = f"it holds {name}, which could run code"
                problem = f"refused: {code if name else 'not a torch file, or cut short'}"
        except Exception as error:  # noqa: BLE001 - torch raises exceptions of many kinds
            state = f"damaged or incomplete ({type(error).__name__})"
            problem = f"{state if path.stat().st_size else 'empty'}: download it again"
    missing = [key for key in _KEYS if not isinstance(content, Mapping) or key not in content]
    if missing:
        problem = problem or f"has no {', '.join(missing)}"
        raise InputError(f"{path}: {problem}. {_FIX}")
    return cast("Mapping[str, Any]", content)


def _is_compressed(path: Path) -> bool:
    """Whether an archive is compressed, so that it may unpack to more than its size."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist())
    except Exception:  # noqa: BLE001 - not an archive, or a damaged one, which torch reports
        return False


def _tokens(vocabulary: Any, path: str | Path) -> dict[str, int]:
    """Return REINVENT's id of each token: end, start, then the others by id."""
    table = (
        vocabulary.get("tokens")
        if isinstance(vocabulary, Mapping)
        else getattr(vocabulary, "_tokens", None)
    )
    table = table if isinstance(table, Mapping) else {}
    # the old class has ids by token and tokens by id in the same dict
    tokens = {token: i for token, i in table.items() if isinstance(token, str)}
    problem = ""
    if not tokens:
        problem = f"no tokens in it. {_FIX}"
    elif sorted(map(repr, tokens.values())) != sorted(map(repr, range(len(tokens)))):
        problem = f"the ids of {len(tokens)} tokens are not 0, 1, 2, ..."
    elif END not in tokens or START not in tokens:
        problem = f"lacks the end token {END!r} or the start {START!r}"
    elif any(len(tokenize(token)) > 1 for token in tokens):
        problem = "has tokens that REINVENT's tokenizer would split"
    if problem:
        raise InputError(f"{path}: vocabulary: {problem}")
    first = {END: tokens[END], START: tokens[START]}
    return first | dict(sorted(tokens.items(), key=lambda item: item[1]))


def _is_plain(value: Any) -> bool:
    """Whether a value is a dense tensor of real numbers with storage for each of them."""
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.layout == torch.strided
        and value.device.type == "cpu"
        # otherwise a file of a few bytes could claim terabytes of memory
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _network(content: Mapping[str, Any], tokens: Iterable[str], path: str | Path) -> RnnPolicy:
    """Build the network of ``network_params``, without allocating its weights."""
    params = content["network_params"]
    if not isinstance(params, Mapping):
        raise InputError(f"{path}: network_params: expected names and values. {_FIX}")
    if params.get("layer_normalization"):
        raise InputError(f"{path}: network_params: layer_normalization: not supported")
    try:
        settings = load_config(
            RnnConfig,
            {
                "cell": params.get("cell_type", "lstm"),
                "embedding_size": params.get("embedding_layer_size", 256),
                "hidden_size": params.get("layer_size", 512),
                "n_layers": params.get("num_layers", 3),
                "dropout": params.get("dropout", 0.0),
                "max_length": content.get("max_sequence_length", 256),
            },
        )
        vocabulary = Vocabulary(tuple(tokens))
    except InputError as error:
        raise InputError(f"{path}: network_params or vocabulary: {error}") from None
    with torch.device("meta"):
        return RnnPolicy(vocabulary, **settings.model_dump(exclude={"kind"}))
