"""Settings of the prepare stage: which corpus, how it is cleaned, how it is split."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from chemkl.config.base import Config, DataPath


class MosesSource(Config):
    """The MOSES benchmark set (arXiv 1811.12823): 1,936,962 lead-like ZINC molecules."""

    kind: Literal["moses"]
    """The MOSES corpus, read from the molsets wheel (pinned version, checked sha256)."""


class ChemblSampleSource(Config):
    """A sample of ChEMBL without stereochemistry: 300,819 lines, 273,626 unique molecules."""

    kind: Literal["chembl_sample"]
    """The ChEMBL sample of MolScore, read from the molscore wheel (pinned, checked sha256)."""


class FileSource(Config):
    """A local file of molecules."""

    kind: Literal["file"]
    """A file of yours."""
    path: DataPath
    """The file: .smi, .smiles, .txt, .csv, .tsv, .jsonl or .sdf, each also with .gz, .bz2, .xz
    or .zst; or .parquet; - is standard input. The names of its molecules are kept."""
    column: str | Annotated[int, Field(ge=0)] | None = None
    """Where the SMILES stand: a column's name, or its number from 0. Default: the column called
    smiles (in any case; canonical_smiles and the like where there is none), or the only one there
    is; in a file without a header the one that holds molecules."""


Source = Annotated[MosesSource | ChemblSampleSource | FileSource, Field(discriminator="kind")]


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

    @model_validator(mode="after")
    def _leaves_some_to_train(self) -> Self:
        if self.test + self.valid >= 1:
            raise ValueError(
                f"test = {self.test:g} and valid = {self.valid:g} leave nothing to train on: "
                "together they must stay below 1"
            )
        return self


Split = Annotated[GivenSplit | HashSplit, Field(discriminator="kind")]


class FilterConfig(Config):
    """One standardisation filter of reinvent-chemistry."""

    name: str
    """The filter's name in reinvent-chemistry, for example get_largest_fragment."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """The filter's own parameters; empty: its defaults."""


class PrepareConfig(Config):
    """From SMILES text to a clean, de-duplicated, split corpus in Parquet."""

    source: Source
    """Where the molecules come from: kind moses, chembl_sample or file."""
    standardise: list[FilterConfig] = Field(default_factory=list)
    """reinvent-chemistry's standardisation filters, in order; empty: parse and canonicalise only.
    The filters drop stereochemistry."""
    split: Split = GivenSplit(kind="given")
    """How molecules are divided into train, valid and test: kind given, random or scaffold."""
    max_tokens: int = Field(128, ge=1)
    """Molecules with more tokens than this are dropped (tokens, start and end not counted)."""
    limit: int | None = Field(None, ge=1)
    """Read only so many lines of the source (for a quick look); null: all."""
    n_workers: int | None = Field(None, ge=1)
    """Processes that read molecules; null: one for each core of this machine."""
    cache: Path = Path("~/.cache/chemkl")
    """Folder where downloaded wheels are kept."""

    @field_validator("source", "split", mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        """Let ``source: moses`` stand for ``source: {kind: moses}``."""
        return {"kind": value} if isinstance(value, str) else value
