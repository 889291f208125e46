"""The columns of a trace: name, type and meaning, kept inside every file that holds them."""

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

TRACE_FORMAT = "chemkl-trace-1"
RAW_PREFIX = "raw_"
SCORE_PREFIX = "score_"


def _field(name: str, kind: pa.DataType, meaning: str, null: str = "") -> pa.Field:
    """One column; `null` says what a missing value means, and without it none is allowed."""
    text = f"{meaning} Null: {null}" if null else meaning
    return pa.field(name, kind, nullable=bool(null), metadata={"description": text})


_HEAD = [
    _field("step", pa.int32(), "Optimiser step (one update of the policy) that sampled this row."),
    _field("row", pa.int32(), "Position of the row within its step, from 0."),
    _field(
        "call",
        pa.int64(),
        "1-based index of the oracle call that this row spent: the first scoring of a valid "
        "canonical SMILES in the run.",
        null="no call spent (invalid, or a repeat).",
    ),
    _field("smiles", pa.string(), "SMILES string exactly as sampled."),
    _field("canonical_smiles", pa.string(), "RDKit canonical SMILES.", null="invalid."),
    _field("valid", pa.bool_(), "Whether RDKit parses and sanitises the string."),
    _field(
        "reason",
        pa.string(),
        "Why the row is invalid or which component failed.",
        null="nothing went wrong.",
    ),
    _field(
        "repeat",
        pa.bool_(),
        "Valid, and its canonical SMILES was seen earlier in the run or in this batch.",
    ),
    _field(
        "scaffold",
        pa.string(),
        "Bemis-Murcko scaffold as canonical SMILES; empty for an acyclic molecule.",
        null="invalid.",
    ),
    _field("n_tokens", pa.int32(), "Length of the sampled sequence in tokens, end token included."),
    _field(
        "logp_policy",
        pa.float32(),
        "log pi_theta of the sequence when it was sampled, in nats, summed over tokens.",
    ),
    _field(
        "logp_ref",
        pa.float32(),
        "log pi_ref (the frozen prior) of the sequence, in nats, summed over tokens.",
    ),
]

_TAIL = [
    _field(
        "reward",
        pa.float64(),
        "Raw reward R: the aggregate of the component scores, before the diversity filter and "
        "before any anchoring; 0 when invalid or failed.",
    ),
    _field(
        "reward_filtered",
        pa.float64(),
        "Reward after the diversity filter; equals reward without one.",
    ),
    _field(
        "log_target",
        pa.float32(),
        "Unnormalised log-probability of the sequence under the target distribution, in nats.",
        null="the row took no part in an update.",
    ),
    _field(
        "hit", pa.bool_(), "Whether the target counted the row as a hit (filtered reward >= tau)."
    ),
    _field("anchor", pa.bool_(), "Whether the row was the anchor z of its batch."),
    _field(
        "is_replay", pa.bool_(), "Whether the row was drawn from the replay buffer, not sampled."
    ),
]


def trace_schema(component_names: Sequence[str]) -> pa.Schema:
    """The schema of a trace whose reward has the given components, in column order.

    Returns:
        A schema whose fields carry their meaning in the metadata key `description`.
    """
    raw = [
        _field(
            f"{RAW_PREFIX}{name}",
            pa.float64(),
            f"Reward component {name} in its own unit, before its transform.",
            null="invalid, or the component failed.",
        )
        for name in component_names
    ]
    score = [
        _field(
            f"{SCORE_PREFIX}{name}",
            pa.float64(),
            f"Reward component {name} after its transform, 0 (bad) to 1 (good).",
            null="invalid, or the component failed.",
        )
        for name in component_names
    ]
    interleaved = [field for pair in zip(raw, score, strict=True) for field in pair]
    return pa.schema([*_HEAD, *interleaved, *_TAIL])


def trace_components(columns: Iterable[str]) -> list[str]:
    """Names of the reward components among the column names of a trace, in order."""
    return [name.removeprefix(RAW_PREFIX) for name in columns if name.startswith(RAW_PREFIX)]


def described_schema(fields: Mapping[str, tuple[pa.DataType, str]]) -> pa.Schema:
    """A schema from name -> (type, meaning): what every table that chemkl writes is built with."""
    return pa.schema(
        [
            pa.field(name, kind, metadata={"description": text})
            for name, (kind, text) in fields.items()
        ]
    )


def description_of(field: pa.Field) -> str:
    """The meaning of a column, or an empty string for a column that carries none."""
    metadata = field.metadata or {}
    return str(metadata.get(b"description", b"").decode())
