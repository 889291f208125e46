"""Settings of the score stage: which molecules, by which reward, into what sort of file."""

from typing import Annotated, Literal

from pydantic import Field

from chemkl.config.base import Config, InputPath
from chemkl.config.reward_source import RewardSource

Format = Literal["parquet", "csv"]


class ScoreConfig(Config):
    """Score a file of SMILES, one row for each of its lines."""

    file: InputPath
    """The molecules: .smi, .smiles, .txt, .csv, .tsv (each also with .gz) or .parquet."""
    column: str | Annotated[int, Field(ge=0)] | None = None
    """Where the SMILES stand: a column's name, or its number from 0. Default: in .smi and .txt the
    first column; elsewhere the column called smiles (in any case), or the only one there is. A
    number says that a .csv or .tsv file has no header line."""
    reward: RewardSource
    """What a molecule is paid: components and aggregate, or the path of a file that holds them."""
    format: Format = "parquet"
    """Of what is written: parquet (every column with its meaning) or csv."""
    batch_size: int = Field(256, ge=1)
    """Lines scored at once; the progress bar moves on by so many. The scores do not depend on
    it."""
    progress_bar: bool = Field(True, exclude=True)
    """Show a progress bar; no part of the run's identity."""
