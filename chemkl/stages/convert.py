"""`chemkl convert`: models, configs of REINVENT4, Parquet files; and `chemkl show` of a model."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rdkit import Chem
from rich.console import RenderableType
from rich.text import Text

from chemkl import __version__
from chemkl.chem.molecules import silenced
from chemkl.config import InputError
from chemkl.config.loading import Document, dump
from chemkl.config.paths import model_file, shipped_root
from chemkl.display import Column, counted, facts, say, table
from chemkl.peers import Notes, read_config, translate
from chemkl.policies import load_policy, read_header
from chemkl.policies.checkpoint import convert_reinvent
from chemkl.policies.reinvent import PADDING, as_reinvents, is_reinvent, write_reinvent
from chemkl.policies.tokenizer import tokenize
from chemkl.results.provenance import sha256_of
from chemkl.stages import export
from chemkl.stages.export import check_outputs, written_out
from chemkl.stages.plan import check_file, kind_of
from chemkl.stages.registry import MODELS, STAGES
from chemkl.stages.runner import free_name

ELEMENTS = ("C", "N", "O", "F", "P", "S", "Cl", "Br", "I", "B", "Si", "Se")
"""Elements of drugs; all others are listed as metals."""
LAYERS = (
    Column("layer", "layer"),
    Column("shape", "shape", str),
    Column("n", "parameters", ",d"),
)
CONFIGS = (".yaml", ".yml")
"""Endings of written configs."""


def convert(
    source: str | Path,
    target: str | Path,
    *,
    column: str | None = None,
    lenient: bool = False,
    force: bool = False,
    fresh: bool = False,
) -> str:
    """Write a file in the format of the target's ending.

    Args:
        source: a model, a config of REINVENT4 or a Parquet file.
        target: the file to write.
        column: for a Parquet file, see `chemkl.stages.export.convert`.
        lenient: leave out settings of a config without a counterpart.
        force: replace an existing target.
        fresh: move an existing target aside.

    Returns:
        A description of what was written.

    Raises:
        InputError: a file or an option is wrong; then nothing was written.
    """
    source, target = model_file(source), Path(target)
    form, endings = "Parquet", tuple[str, ...]()
    if target.suffix.lower() in CONFIGS or source.suffix.lower() == ".toml":
        form, endings = "config", CONFIGS
    elif {target.suffix.lower(), source.suffix.lower()} & {*MODELS}:
        form, endings = "model", MODELS
    options = {"--column": (column, "Parquet"), "--lenient": (lenient, "config")}
    wrong = [option for option, (value, use) in options.items() if value and use != form]
    InputError.refuse(f"{option}: has no meaning for this conversion" for option in wrong)
    if endings:
        check_outputs({"OUT": target}, {"OUT": endings}, force=force or fresh)
    with _moved_aside(target, fresh=fresh):
        if form == "config":
            return _convert_config(source, target, lenient=lenient)
        if form == "model":
            return _convert_model(source, target)
        return export.convert(source, target, column=column, force=force)


@contextmanager
def _moved_aside(target: Path, *, fresh: bool) -> Iterator[None]:
    """With `fresh` move an existing file aside, and back if no new one is written."""
    if not (fresh and target.is_file()):
        yield
        return
    backup = free_name(target)
    target.rename(backup)
    try:
        yield
        say(f"moved {target} aside, to {backup}")
    finally:
        if not target.exists():
            backup.rename(target)


# ---- configs


def _convert_config(source: Path, target: Path, *, lenient: bool) -> str:
    notes = Notes()
    config = read_config(source, notes)
    _refuse_own(config.document, source)
    jobs = translate(config, partial(_placed, folders=(Path.cwd(), source.parent), target=target))
    problems = list(notes.problems)
    if notes.gaps and not lenient:
        problems += [
            *notes.gaps,
            f"{source}: {counted(len(notes.gaps), 'setting')} without a counterpart in chemkl: "
            "remove them, or let --lenient leave them out",
        ]
    InputError.refuse(problems)
    for job in jobs:
        # its input files may be made or copied here later
        document = Document(job.settings, f"{source}, as converted", target.parent)
        STAGES[job.stage].load(document, promised=[Path("/")])
    if len(jobs) == 1:
        command, data = jobs[0].stage, jobs[0].settings
    else:
        entries = [{"stage": job.stage, "name": job.name, "config": job.settings} for job in jobs]
        name = re.sub(r"[^A-Za-z0-9._=+-]", "_", target.stem).lstrip("._=+-") or "converted"
        command, data = "run", {"name": name, "stages": entries}
    head = _head(source, target, command, data, notes)
    with written_out(target) as stream:
        stream.write((head + dump(data)).encode())
    try:
        check_file(target)
    except InputError as error:
        say(f"some of its inputs are missing; chemkl check {target} says:\n{error}")
    left_out = f", {len(notes.gaps)} settings left out" if notes.gaps else ""
    return f"for chemkl {command}{left_out}"


def _refuse_own(document: Document, source: Path) -> None:
    """Refuse a config of chemkl, which needs no conversion."""
    if {"run_type", "parameters"} & document.data.keys():
        return
    try:
        kind = kind_of(document)
    except InputError:  # neither of chemkl nor of REINVENT4
        return
    raise InputError(f"{source}: already a config of chemkl ({kind}); use it as it is")


def _head(source: Path, target: Path, command: str, data: Mapping[str, Any], notes: Notes) -> str:
    """Return the comments at the start of a converted config."""
    how = f"chemkl {command} {target}"
    if command == "score":
        how = f"chemkl score {data['file']} --config {target} --out scores.csv"
    lines = [f"Made from {source.name} of REINVENT4 by chemkl convert.", f"  {how}"]
    lines.append(f"  sha256 of the source: {sha256_of(source)}")
    sections = {
        "LEFT OUT, without a counterpart:": notes.gaps,
        "Differs from REINVENT4:": notes.differences,
        "Needs no key in chemkl:": notes.needless,
    }
    for title, texts in sections.items():
        if texts:
            lines += [title, *(f"  {text}" for text in texts)]
    return "".join(f"# {line}\n" for text in lines for line in text.splitlines())


def _placed(text: str, *, folders: Sequence[Path], target: Path) -> str:
    """Return a path of a config for the written file, which may lie in another folder."""
    places = (folder / Path(text).expanduser() for folder in folders)
    path = next((place for place in places if place.exists()), None)
    if not text or path is None or (target.parent / text).resolve() == path.resolve():
        return text
    return str(path.resolve())


# ---- models


def _convert_model(source: Path, target: Path) -> str:
    to_reinvent = target.suffix.lower() != ".safetensors"
    policy = load_policy(source)
    if is_reinvent(source) == to_reinvent:
        raise InputError(
            f"{source}: is already a model of {'REINVENT' if to_reinvent else 'chemkl'}; expected "
            f"OUT to end in {'.safetensors' if to_reinvent else '.prior'}"
        )
    padding = ""
    if not to_reinvent:
        convert_reinvent(source, target)
    else:
        sha256 = sha256_of(source)
        metadata = {
            "hash_id": None,
            "hash_id_format": "",
            "model_id": sha256[:32],
            "origina_data_source": f"{source.name}, sha256 {sha256}",  # REINVENT4 spells it so
            "creation_date": source.stat().st_mtime,
            "comments": [f"converted by chemkl {__version__}"],
        }
        policy = as_reinvents(policy, target)
        say("fitting the embedding of the end token takes a minute or more")
        nats = write_reinvent(policy, target, metadata=metadata)
        padding = f"; padding with {PADDING} end tokens changes log p by {nats:.2f} nats on average"
    return f"{_parameters(policy):,} parameters, {len(policy.vocabulary)} tokens{padding}"


def describe_model(path: Path) -> Iterator[RenderableType]:
    """Describe a model file: network, vocabulary, layers and origin."""
    header, policy = read_header(path), load_policy(path)
    sizes = ", ".join(f"{key} {value}" for key, value in header["architecture"].items())
    tokens, sha256 = header["vocabulary"], sha256_of(path)
    writes, lacks = abilities(tokens)
    yield Text(str(path), style="bold")
    yield facts(
        [
            ("format", "REINVENT" if is_reinvent(path) else "chemkl"),
            ("sha256", sha256),
            ("network", sizes),
            ("parameters", f"{_parameters(policy):,}"),
            ("vocabulary", f"{len(tokens)} tokens: {' '.join(tokens)}"),
            ("writes", ", ".join(writes) or "nothing special"),
            ("cannot write", ", ".join(lacks)),
        ]
    )
    # corpus, figures and licence of the shipped priors
    cards = json.loads((shipped_root() / "data/priors/cards.json").read_text(encoding="utf-8"))
    titled = [("Card", facts(c.items())) for c in cards.values() if c.pop("sha256") == sha256]
    layers = [
        {"layer": name, "shape": " x ".join(map(str, weight.shape)), "n": weight.numel()}
        for name, weight in policy.state_dict().items()
    ]
    titled += [("Layers", table("", LAYERS, layers))]
    titled += [("Origin", facts(_origin(header["provenance"])))]
    for title, rows in titled:
        yield ""
        yield Text(title, style="bold")
        yield rows


def abilities(tokens: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the chemical features that a vocabulary has tokens for, and those it has none for."""
    single = {part for token in tokens[2:] for part in tokenize(token)}
    with silenced():
        atoms = [atom for token in single if (atom := Chem.AtomFromSmiles(token)) is not None]
    elements = {atom.GetSymbol() for atom in atoms}
    brackets = "".join(token for token in single if token.startswith("["))
    features = {
        **{element: element in elements for element in ELEMENTS},
        "metals": bool(elements - {*ELEMENTS, "*", "H"}),
        "positive charges": any(atom.GetFormalCharge() > 0 for atom in atoms),
        "negative charges": any(atom.GetFormalCharge() < 0 for atom in atoms),
        "stereocentres (@)": "@" in brackets,
        "double-bond geometry (/)": "/" in single,
        "salts and other pairs of molecules (.)": "." in single,
        "isotopes": any(atom.GetIsotope() for atom in atoms),
        "more than 9 open rings (%)": any(token.startswith("%") for token in single),
    }
    has = [name for name, present in features.items() if present]
    return has, [name for name, present in features.items() if not present]


def _parameters(policy: Any) -> int:
    return sum(weight.numel() for weight in policy.parameters())


def _origin(provenance: dict[str, Any], under: str = "") -> Iterator[tuple[str, str]]:
    """Yield keys and values, with dotted keys for nested mappings."""
    for key, value in provenance.items():
        if isinstance(value, dict) and value:
            yield from _origin(value, f"{under}{key}.")
        else:
            yield f"{under}{key}", str(value)
