"""Settings of the sample stage: how many molecules of which policy."""

from pydantic import Field

from chemkl.config.base import Config, InputPath


class SampleConfig(Config):
    """Draw SMILES from a policy and write them with their log-probabilities."""

    policy: InputPath
    """Model file: a prior or a post-trained policy."""
    n: int = Field(10_000, ge=1)
    """Sequences to draw."""
    batch_size: int = Field(512, ge=1)
    """Sequences drawn at once; more is faster and takes more memory. Another size draws others."""
    seed: int = Field(0, ge=0)
    """Decides the samples, together with batch_size; at least 0."""
    device: str = "cpu"
    """Where the network runs: cpu, cuda, cuda:1, ..."""
