"""Settings of the evaluate stage: which runs, at which thresholds, compared with what."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from glob import escape, glob
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    model_validator,
)

from chemkl.config.base import Config, DataPath, InputPath, places_of

TRACE_FOLDER = "trace"
PATTERN_MARKS = "*?["


def _expand_runs(value: Any, info: ValidationInfo) -> Any:
    """Turn one entry or many, each a folder or a glob pattern, into a list of folders."""
    entries = [value] if isinstance(value, str | Path) else value
    if not isinstance(entries, Sequence):
        return value
    found: list[Any] = []
    for entry in entries:
        context = info.context or {}
        if isinstance(entry, str) and is_pattern(entry, context):
            found += runs_matching(entry, context)
        else:
            found.append(entry)
    return found


def is_pattern(text: str, context: Mapping[str, Any] = MappingProxyType({})) -> bool:
    """Whether a text is no folder that is there, or will be, with such a mark in its own name."""
    promised = context.get("promised", ())
    return any(mark in text for mark in PATTERN_MARKS) and not any(
        os.path.isdir(place) or place in promised for place in places_of(text, context)
    )


def runs_matching(pattern: str, context: Mapping[str, Any] = MappingProxyType({})) -> list[Path]:
    """Run folders that a pattern names, looked up in the places where an InputPath is.

    Folders that earlier jobs will have made count as runs as long as they are not there.

    Raises:
        ValueError: there is none.
    """
    parts = Path(os.path.expanduser(pattern)).parts
    fixed = next(i for i, part in enumerate(parts) if any(mark in part for mark in PATTERN_MARKS))
    roots = places_of(Path(*parts[:fixed]), context)
    promised = list(context.get("promised", ()))
    for root in roots:
        rest = list(parts[fixed:])
        while rest[1:] and os.path.isdir(root / rest[0]):  # a folder whose own name has such a mark
            root /= rest.pop(0)
        place = str(Path(escape(str(root)), *rest))
        runs = {path for path in map(Path, glob(place)) if (path / TRACE_FOLDER).is_dir()}
        runs |= {p for p in promised if not p.exists() and fnmatch(str(p), place)}
        if runs:
            return sorted(runs)
    for root in roots:
        if any(root.is_relative_to(folder) for folder in promised):
            return [root.joinpath(*parts[fixed:])]
    looked = " nor ".join(dict.fromkeys(str(root.joinpath(*parts[fixed:])) for root in roots))
    raise ValueError(f"no run folder (one with '{TRACE_FOLDER}/' in it) matches {looked}")


MethodName = Annotated[str, StringConstraints(pattern=r"^\S(.*\S)?$", max_length=60)]
"""One line that neither begins nor ends with a space."""


def _once_each(folders: list[Path]) -> list[Path]:
    twice = [folder for folder, n in Counter(map(Path.resolve, folders)).items() if n > 1]
    if twice:
        raise ValueError(
            f"{', '.join(map(str, twice))}: given more than once, by itself or by a pattern; a run "
            "counts once, so leave one out"
        )
    return folders


RunFolders = Annotated[list[InputPath], BeforeValidator(_expand_runs), AfterValidator(_once_each)]
"""Run folders, each given as a path or as a glob pattern such as `out/*`, and none twice; a single
one needs no list. What a pattern matches without a trace in it is passed over."""


class SmilesFile(Config):
    """A file of molecules."""

    path: DataPath
    """The file: .smi, .smiles, .txt, .csv, .tsv, .jsonl or .sdf, each also with .gz, .bz2, .xz
    or .zst; or .parquet; - is standard input."""
    column: str | Annotated[int, Field(ge=0)] | None = None
    """Where the SMILES stand: a column's name, or its number from 0. Default: the column called
    smiles (in any case; canonical_smiles and the like where there is none), or the only one there
    is; in a file without a header the one that holds molecules."""


class SampledFile(SmilesFile):
    """A file of sampled SMILES, in the order in which they were sampled."""

    reward_column: Annotated[str, Field(min_length=1)] | Literal[False] | None = None
    """Where the rewards stand, from 0 to 1: a column's name; false: they are not taken. Default:
    the column called reward, score or total_score (in any case), such as Score in the CSV of a run
    of REINVENT 4, where the file has one. The first row of each valid molecule is a call."""


def as_file(value: Any) -> Any:
    """Let a path stand for {path: ...}, a file without further settings."""
    return {"path": value} if isinstance(value, str | Path) else value


class Corpus(SmilesFile):
    """The molecules that do not count as novel."""

    split: str | None = None
    """Take only this split of a corpus that the prepare stage wrote, for example train; null: all
    of the file."""
    canonical: bool = False
    """true: the strings are canonical SMILES of this RDKit already, as the prepare stage writes
    them. false: canonicalise every one (0.2 ms each), which is right for any file."""


class MosesReference(Config):
    """A test set of MOSES (arXiv 1811.12823), by the statistics that the molsets wheel carries."""

    kind: Literal["moses_test", "moses_test_scaffolds"]
    """moses_test: 176,074 molecules like the training set; moses_test_scaffolds: 176,225 molecules
    whose scaffolds are not in the training set."""
    cache: Path = Path("~/.cache/chemkl")
    """Folder where downloaded wheels are kept."""


class StatisticsReference(Config):
    """A statistics file in the format of molsets, on this machine."""

    kind: Literal["statistics"]
    """Statistics computed earlier: an .npz file such as test_stats.npz."""
    path: InputPath
    """The file. It is read behind an allow-list: nothing in it is run."""


class FileReference(SmilesFile):
    """A file of SMILES to compare with; its statistics are computed on the spot."""

    kind: Literal["file"]
    """A file of yours."""


def _as_reference(value: Any) -> Any:
    """Let a name stand for a MOSES set, and a path for a statistics file or a file of SMILES."""
    if not isinstance(value, str | Path):
        return value
    if str(value) in {"moses_test", "moses_test_scaffolds"}:
        return {"kind": str(value)}
    kind = "statistics" if Path(value).suffix == ".npz" else "file"
    return {"kind": kind, "path": value}


ReferenceSource = Annotated[
    Annotated[MosesReference | StatisticsReference | FileReference, Field(discriminator="kind")],
    BeforeValidator(_as_reference),
]


class MetricOptions(Config):
    """How the metrics are computed."""

    max_molecules: int = Field(default=10_000, ge=2)
    """Sets with more molecules are sampled down to so many for the metrics over pairs and over a
    reference (IntDiv, sphere exclusion, FCD, SNN, Scaf, Frag); smaller sets are computed exactly.
    #Circles and the scaffold metrics always take the whole set."""
    seed: int = Field(default=0, ge=0)
    """Seed of that sample."""
    max_matrix: int = Field(default=1000, ge=2)
    """The same for the metrics over the whole matrix of distances (Vendi, Hamiltonian, Butina),
    whose cost grows with the third power: 1000 take half a second. Vendi and Hamiltonian grow with
    the number of molecules: compare them at equal n_matrix."""
    cluster_distance: float = Field(default=0.65, gt=0, lt=1)
    """Tanimoto distance from its centre up to which a molecule belongs to a cluster (Butina, sphere
    exclusion); 0.65 as in SEDiv."""
    auc_calls: int = Field(default=10_000, ge=1)
    """Oracle calls over which AUC top-k is averaged, 10,000 as in PMO; a run with a smaller budget
    is averaged over that. One that ended before its budget holds its last value."""
    auc_every: int = Field(default=100, ge=1)
    """Oracle calls between two points of AUC top-k; 100 as in PMO."""
    circles_distance: float = Field(default=0.75, gt=0, lt=1)
    """Tanimoto distance that any two molecules of #Circles must exceed; 0.75 as in GEAM."""
    late_samples: int = Field(default=1000, ge=1)
    """The last so many valid samples show whether a policy has collapsed: how many of them are
    different, and how many share one scaffold. A run with fewer is taken whole. Whether and when a
    run collapsed is judged by the run's own callbacks.collapse."""
    uniqueness_at: tuple[Annotated[int, Field(ge=1)], ...] = (1000, 10_000)
    """Numbers k of first valid samples among which uniqueness is reported besides the whole."""
    workers: int | None = Field(None, ge=1, exclude=True)
    """Processes that read molecules, and threads that compare them. null: one for each core that
    this process may use; 1: this process alone. Fewer than 20,000 molecules are read by this
    process in any case. The metrics do not depend on it; no part of the run's identity. From a
    script, more than one process asks for if __name__ == "__main__" as always in Python."""


class EvaluateConfig(Config):
    """From the traces of runs, or from files of samples, to the scaffold-diversity table."""

    runs: RunFolders = Field(default_factory=list)
    """Folders of posttrain runs, each a path or a glob pattern such as out/*."""
    samples: list[Annotated[SampledFile, BeforeValidator(as_file)]] = Field(default_factory=list)
    """Files of sampled SMILES, each a path or {path, column, reward_column}. Where one has rewards,
    yields and all the rest are those of a run that sampled its rows in their order; without
    rewards, yields and thresholds do not apply."""
    thresholds: tuple[float, ...] = (0.8,)
    """Hits are molecules with raw reward of at least this; one set of columns for each."""
    corpus: Annotated[Corpus, BeforeValidator(as_file)] | None = None
    """Training molecules, for novelty: a path, or {path, column, canonical}. Null: no novelty."""
    reference: dict[str, ReferenceSource] = Field(default_factory=dict)
    """Sets to compare with by SNN, Scaf and Frag, by a name of yours: moses_test,
    moses_test_scaffolds, a molsets statistics file (.npz) or a file of SMILES. One without a name
    may be given alone. The first one's columns are called snn, scaf, frag, fcd; those of another
    one carry its name, as in snn_scaffolds."""
    prior: Annotated[SampledFile, BeforeValidator(as_file)] | None = None
    """A sample of the prior that the runs started from: a path, or {path, column}. families.parquet
    then says how the share of each scaffold family moved from it to the policy, and prior_coverage
    how many of its families the runs still make; also those of its hits where the file has
    rewards (of the same reward as the runs), such as samples.parquet of the forecast stage. Null:
    neither."""
    every: int | None = Field(default=None, ge=1)
    """Also follow the metrics over time: one row of over_time.parquet for every so many oracle
    calls (distinct molecules, in a file of samples) and one for the last; for example 500. Null: no
    such table."""
    by_prompt: bool = False
    """Also evaluate each prompt of runs of posttrain_llm by itself: by_prompt.parquet has a row for
    each run, prompt and threshold. A molecule belongs to every prompt that made it, with the reward
    that this prompt was paid, so numbers of several prompts do not add up to those of the run. All
    runs need prompts; files of samples have none."""
    fcd: bool = False
    """Also compute the Frechet ChemNet Distance to each reference (4 ms a molecule on one core;
    needs the package fcd_torch)."""
    metrics: MetricOptions = MetricOptions()
    """How the metrics are computed."""
    into_runs: bool = True
    """Also write each run's own table into its folder, under evaluation/."""

    @model_validator(mode="before")
    @classmethod
    def _name_a_single_reference(cls, values: Any) -> Any:
        """Let `reference: moses_test` stand for `reference: {moses_test: moses_test}`."""
        if not isinstance(values, dict) or "reference" not in values:
            return values
        one = values["reference"]
        if isinstance(one, str | Path):
            return values | {"reference": {Path(one).stem: one}}
        if isinstance(one, dict) and isinstance(one.get("kind"), str):
            return values | {"reference": {Path(str(one.get("path", one["kind"]))).stem: one}}
        return values

    @model_validator(mode="after")
    def _has_something_to_evaluate(self) -> "EvaluateConfig":
        if not self.runs and not self.samples:
            raise ValueError(
                "nothing to evaluate: give run folders under `runs`, or files under `samples`"
            )
        if self.fcd and not self.reference:
            raise ValueError("fcd: true needs a `reference` to measure the distance to")
        if self.by_prompt and self.samples:
            raise ValueError(
                "by_prompt: true does not go with `samples`: files of SMILES have no prompts; "
                "evaluate them without it"
            )
        return self
