"""`chemkl convert`: models from and to REINVENT, Parquet files; and `chemkl show` of a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from chemkl import __version__
from chemkl.config import InputError
from chemkl.display import facts, plain_table, say
from chemkl.policies import load_policy, read_header, save_policy
from chemkl.policies.reinvent import is_reinvent, write_reinvent
from chemkl.results.provenance import sha256_of
from chemkl.stages import export
from chemkl.stages.output_files import check_outputs
from chemkl.stages.registry import MODELS
from chemkl.stages.runner import free_name


def convert(
    source: str | Path,
    target: str | Path,
    *,
    column: str | None = None,
    lenient: bool = False,
    force: bool = False,
    fresh: bool = False,
) -> str:
    """Write a file in another format, which the ending of the target says.

    Args:
        source: a model, or a Parquet file.
        target: the file to write.
        column: of a Parquet file, see `chemkl.stages.export.convert`.
        lenient: of a config: leave out what has no counterpart.
        force: replace the target if it is there.
        fresh: move the target aside if it is there.

    Returns:
        What was written, in words.

    Raises:
        InputError: one of the files, or an option that does not fit; then nothing was written.
    """
    source, target = Path(source), Path(target)
    is_model = target.suffix.lower() in MODELS or source.suffix.lower() in MODELS
    options = {"--column": column is not None and is_model, "--lenient": lenient}
    InputError.refuse(f"{option}: means nothing here" for option in options if options[option])
    if is_model:
        check_outputs({"OUT": target}, {"OUT": MODELS}, force=force or fresh)
    with _moved_aside(target, fresh=fresh):
        if is_model:
            return _convert_model(source, target)
        return export.convert(source, target, column=column, force=force)


@contextmanager
def _moved_aside(target: Path, *, fresh: bool) -> Iterator[None]:
    """Move a file that is there aside, where that is wanted, and back if none takes its place."""
    if not (fresh and target.is_file()):
        yield
        return
    aside = free_name(target)
    target.rename(aside)
    try:
        yield
        say(f"moved {target} aside, to {aside}")
    finally:
        if not target.exists():
            aside.rename(target)


# ---- models


def _convert_model(source: Path, target: Path) -> str:
    to_reinvent = target.suffix.lower() != ".safetensors"
    header, policy = read_header(source), load_policy(source)
    if is_reinvent(source) == to_reinvent:
        raise InputError(
            f"{source}: is a model of {'REINVENT' if to_reinvent else 'chemkl'} already; expected "
            f"OUT to end in {'.safetensors' if to_reinvent else '.prior'}"
        )
    sha256 = sha256_of(source)
    if not to_reinvent:
        origin = header["provenance"] | {"file": source.name, "sha256": sha256}
        save_policy(policy, target, origin)
    else:
        metadata = {
            "hash_id": None,
            "hash_id_format": "",
            "model_id": sha256[:32],
            "origina_data_source": f"{source.name}, sha256 {sha256}",  # REINVENT4 spells it so
            "creation_date": source.stat().st_mtime,
            "comments": [f"converted by chemkl {__version__}"],
        }
        write_reinvent(policy, target, metadata=metadata)
    return f"{_parameters(policy):,} parameters, {len(policy.vocabulary)} tokens"


def describe_model(path: Path) -> Iterator[RenderableType]:
    """What a model file is: its network, vocabulary and layers, and where it comes from.

    Raises:
        InputError: no model that can be read.
    """
    header, policy = read_header(path), load_policy(path)
    sizes = ", ".join(f"{key} {value}" for key, value in header["architecture"].items())
    tokens = header["vocabulary"]
    yield Text(str(path), style="bold")
    yield facts(
        [
            ("format", "REINVENT" if is_reinvent(path) else "chemkl"),
            ("sha256", sha256_of(path)),
            ("network", sizes),
            ("parameters", f"{_parameters(policy):,}"),
            ("vocabulary", f"{len(tokens)} tokens: {' '.join(tokens)}"),
        ]
    )
    for title, rows in (("Layers", _layers(policy)), ("Origin", _origin(header["provenance"]))):
        yield ""
        yield Text(title, style="bold")
        yield facts(rows) if title == "Origin" else _table(rows)


def _parameters(policy: Any) -> int:
    return sum(weight.numel() for weight in policy.parameters())


def _table(rows: Any) -> RenderableType:
    table = plain_table()
    for name, justify in (("layer", "left"), ("shape", "right"), ("parameters", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    return table


def _layers(policy: Any) -> Iterator[tuple[str, str, str]]:
    for name, weight in policy.state_dict().items():
        shape = " x ".join(map(str, weight.shape))
        yield name, shape, f"{weight.numel():,}"


def _origin(provenance: dict[str, Any], under: str = "") -> Iterator[tuple[str, str]]:
    """Keys and values, those of mappings within by dotted keys."""
    for key, value in provenance.items():
        if isinstance(value, dict) and value:
            yield from _origin(value, f"{under}{key}.")
        else:
            yield f"{under}{key}", str(value)
