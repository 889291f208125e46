"""The columns of a trace: name, type and meaning, which every file stores in its schema."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import pyarrow as pa

TRACE_FORMAT = "chemkl-trace-1"
_CALL: dict[str, str | None] = {"name": "call", "field_name": "call"}
_CALL |= {"pandas_type": "int64", "numpy_type": "Int64", "metadata": None}
FOR_PANDAS = json.dumps({"index_columns": [], "column_indexes": [], "columns": [_CALL]})
"""Metadata of every part under the key `pandas`; without it pandas reads calls as floats."""
RAW_PREFIX = "raw_"
SCORE_PREFIX = "score_"
_CUT_OFF = "truncated: no end"


def _field(name: str, kind: str, meaning: str) -> pa.Field:
    """Make a column; it is nullable if its meaning explains `Null: `."""
    description = {"description": meaning}
    return pa.field(name, pa.type_for_alias(kind), "Null: " in meaning, metadata=description)


def _in_words(text: str) -> list[tuple[str, str, str]]:
    """Parse lines of name, optional type and meaning; indented lines continue a meaning."""
    columns = re.findall(r"(?m)^(\w+) ?(\w*): (.*(?:\n +.*)*)", text)
    return [(name, kind, " ".join(meaning.split())) for name, kind, meaning in columns]


def _fields(text: str) -> list[pa.Field]:
    return [_field(*column) for column in _in_words(text)]


def columns_of(text: str) -> dict[str, tuple[pa.DataType, str]]:
    """Parse columns for `described_schema`, to be combined with other ones."""
    return {name: (pa.type_for_alias(kind), meaning) for name, kind, meaning in _in_words(text)}


_HEAD = _fields("""
step int32: Step (one batch, and the updates of the policy by it) that sampled this row.
row int32: Position of the row within its step, from 0.
call int64: 1-based index of the oracle call that this row spent: the first scoring of a valid
  canonical SMILES in the run. Null: no call spent (invalid, or a repeat).
smiles string: SMILES string exactly as sampled.
canonical_smiles string: RDKit canonical SMILES. Null: invalid.
valid bool: Whether RDKit parses and sanitises the string.
reason string: Why the row is invalid or which component failed. Null: nothing went wrong.
repeat bool: Valid, and its canonical SMILES was seen earlier in the run or in this batch, or is
  replayed.
scaffold string: Bemis-Murcko scaffold as canonical SMILES; empty for an acyclic molecule. Null:
  invalid.
n_tokens int32: Length of the sampled sequence in tokens, end token included.
logp_policy float32: log pi_theta of the sequence when it was sampled, or replayed, in nats, summed
  over tokens.
logp_ref float32: log pi_ref (the frozen prior) of the sequence, in nats, summed over tokens; with
  the setting augment that of the molecule's canonical SMILES.
""")
_TAIL = _fields("""
reward float64: Raw reward R: the aggregate of the component scores, before the diversity filter
  and before any anchoring; 0 when invalid or failed.
reward_filtered float64: Reward after the diversity filter; equals reward without one.
log_target float32: Unnormalised log-probability of the sequence under the target distribution, in
  nats. Null: the row took no part in an update.
hit bool: Whether the target counted the row as a hit (filtered reward >= tau).
anchor bool: Whether the row was the anchor z of its batch.
is_replay bool: Whether the row comes from the memory (replayed, or a seed), and was not sampled.
""")
_TEXT = _fields("""
group int32: Number of the prompt, from 0; its rows share anchor and baseline.
prompt string: The prompt's last message; all of it where that is not unique. With a generator the
  part that the molecule holds, as in the config.
completion string: What the model wrote, without the end token; rounds of a generator joined by |.
answer string: What was read out of the completion: an answer, or a SMILES as it is written there.
  Null: no valid one in it.
""")
"""Additional columns of a language model's run, after n_tokens."""
_OPTIONAL = {field.name: field for field in _fields("""
stage int32: Stage of the run that sampled this row, from 1.
final_reward bool: Whether the reward is that of the last stage, by which the run is evaluated.
tau float64: Reward from which on a row was a hit in this step. Null: none, or a batch's quantile.
beta float64: The target's beta in this step.
origin string: Who proposed the molecule: policy (sampled), crossover, mutation, neighbour,
  fragments or prior (exploration) or seed; of a replayed one, who did so first.
""")}  # fmt: skip
"""Additional columns of runs with several stages, a moving target or exploration."""

_IN_TEXT = _in_words("""
call: 1-based index of the oracle call that this row spent: the first scoring of an answer to its
  prompt, or of a valid canonical SMILES, in the run. Null: no call spent (invalid, or a repeat).
smiles: SMILES as the completion has it; empty where none was found or looked for. With a generator
  the whole molecule.
canonical_smiles: RDKit canonical SMILES. Null: invalid, or none was looked for.
valid: Whether the completion has an end and a valid answer, or a SMILES that RDKit reads.
reason: Why the row is invalid or what could not be scored. Null: nothing went wrong.
repeat: Valid, and its answer to this prompt, or its canonical SMILES, was seen earlier in the run
  or in this batch.
scaffold: Bemis-Murcko scaffold as canonical SMILES; empty for an acyclic molecule. Null: no valid
  molecule.
n_tokens: Length of the completion in tokens, end token included.
logp_policy: log pi_theta of the completion given the prompt when it was sampled, in nats, summed
  over tokens.
logp_ref: log pi_ref (the model before training) of the completion given the prompt, in nats,
  summed over tokens.
reward: Raw reward R, before the diversity filter and before any anchoring; that of a failure when
  invalid or failed.
log_target: Unnormalised log-probability of the completion under the target distribution of its
  prompt, in nats. Null: the row took no part in an update.
anchor: Whether the row was the anchor z of its prompt in its batch.
""")
"""Meanings that differ in a language model's run."""


def optional_columns(columns: Iterable[str]) -> list[str]:
    """Select the optional columns among the column names of a trace."""
    return [name for name in columns if name in _OPTIONAL]


def trace_schema(
    component_names: Sequence[str], *, text: bool = False, further: Sequence[str] = ()
) -> pa.Schema:
    """Return the schema of a trace.

    Args:
        component_names: names of the reward's components.
        text: whether a language model writes the rows: prompt, completion and answer are added.
        further: the optional columns of this trace, see `optional_columns`.

    Returns:
        A schema whose fields have their meaning in the metadata key `description`.
    """
    template = "Reward component {} {} Null: invalid, replayed, or the component failed."
    kinds = {
        RAW_PREFIX: "in its own unit, before its transform.",
        SCORE_PREFIX: "after its transform, 0 (bad) to 1 (good).",
    }
    components = [
        _field(f"{prefix}{name}", "float64", template.format(name, what))
        for name in component_names
        for prefix, what in kinds.items()
    ]
    head = [*_HEAD[:2], *(_OPTIONAL[name] for name in further), *_HEAD[2:]]
    if not text:
        return pa.schema([*head, *components, *_TAIL])
    fields = [*head, *_TEXT, *components, *_TAIL]
    meanings = {name: {"description": meaning} for name, _, meaning in _IN_TEXT}
    return pa.schema([f.with_metadata(meanings.get(f.name, f.metadata)) for f in fields])


def has_prompts(columns: Iterable[str]) -> bool:
    """Whether the column names of a trace are those of a language model's run."""
    return {field.name for field in _TEXT} <= {*columns}


def is_text(trace: pd.DataFrame) -> bool:
    """Whether a language model wrote the rows of a trace and none of them is a valid molecule.

    This is always so for rewards of answers and for functions of the user.
    """
    return has_prompts(trace.columns) and bool(trace["canonical_smiles"].isna().all())


def trace_components(columns: Iterable[str]) -> list[str]:
    """Extract the names of the reward components from the column names of a trace, in order."""
    return [name.removeprefix(RAW_PREFIX) for name in columns if name.startswith(RAW_PREFIX)]


def described_schema(
    fields: Mapping[str, tuple[pa.DataType, str]] | str, **options: object
) -> pa.Schema:
    """Build the schema of a table from names, types and meanings.

    Args:
        fields: name -> (type, meaning), or text for `columns_of`.
        **options: values for `{option}` in the meanings; without any the meanings stay as they are.
    """
    columns = columns_of(fields) if isinstance(fields, str) else fields
    meanings = {n: text.format(**options) if options else text for n, (_, text) in columns.items()}
    return pa.schema(
        [pa.field(n, columns[n][0], metadata={"description": meanings[n]}) for n in columns]
    )


def description_of(field: pa.Field) -> str:
    """Return the meaning of a column; empty if it has none."""
    metadata = field.metadata or {}
    return str(metadata.get(b"description", b"").decode())


def truncation_reason(n_tokens: int) -> str:
    """Say why a sequence without an end token is invalid."""
    return f"{_CUT_OFF} after {n_tokens} tokens"


def is_truncated(reason: object) -> bool:
    """Whether a row's reason, which may be missing, is a truncation."""
    return isinstance(reason, str) and reason.startswith(_CUT_OFF)
