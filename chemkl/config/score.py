"""Settings of the score stage: which molecules, by which reward, into what sort of file."""

from typing import Annotated, Literal

from pydantic import Field

from chemkl.config.base import Config, DataPath
from chemkl.config.reward_source import RewardSource

Format = Literal["parquet", "csv"]


class ScoreConfig(Config):
    """Score a file of SMILES, one row for each of its lines."""

    file: DataPath
    """The molecules: .smi, .smiles, .txt, .csv, .tsv, .jsonl or .sdf, each also with .gz, .bz2, .xz
    or .zst; or .parquet; - is standard input."""
    column: str | Annotated[int, Field(ge=0)] | None = None
    """Where the SMILES stand: a column's name, or its number from 0. Default: the column called
    smiles (in any case; canonical_smiles and the like where there is none), or the only one there
    is; in a file without a header the one that holds molecules."""
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
