"""Settings of the pretrain stage: corpus to prior; and those of every training on a corpus."""

from typing import Any

from pydantic import Field, field_validator

from chemkl.config.base import Config, InputPath
from chemkl.config.policy import RnnConfig
from chemkl.config.trainer import Precision, TrainerSettings, refuse


class MaximumLikelihood(Config):
    """What all maximum-likelihood training on a prepared corpus is told."""

    corpus: InputPath
    """Output folder of the prepare stage."""
    train_split: str = "train"
    """Split to learn from."""
    valid_split: str = "valid"
    """Split whose negative log-likelihood is reported each epoch."""
    valid_molecules: int = Field(10_000, ge=1)
    """At most so many molecules of the validation split are used."""
    randomise: bool = False
    """Write every training molecule as another random SMILES each time it is read."""
    epochs: int = Field(10, ge=1)
    """Passes over the training split."""
    batch_size: int = Field(128, ge=1)
    """Molecules a step, over all devices together."""
    learning_rate: float = Field(1e-3, gt=0)
    """AdamW's highest rate; reached after the warm-up, then a half cosine down to zero."""
    warmup_steps: int = Field(200, ge=0)
    """Steps over which the rate rises linearly from zero."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    gradient_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient; a longer one is scaled down to it."""
    samples_per_epoch: int = Field(1_000, ge=0)
    """Molecules sampled after each epoch for validity, uniqueness and novelty; 0: none."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between two checkpoints; a killed run continues from the last one."""
    n_workers: int = Field(0, ge=0)
    """Processes that read batches; 0: the training process itself. Useful with `randomise`."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Decides weights, order of the molecules, spellings and samples."""
    precision: Precision = "auto"
    """32-true, bf16-mixed, or auto: bf16-mixed where a short measurement at the start shows that
    the device does it, and faster; else 32-true. A resumed run keeps the one that it began with."""
    trainer: TrainerSettings = Field(default_factory=dict)
    """Further arguments of lightning.Trainer, for example accelerator, devices, max_steps or
    log_every_n_steps (default 10; 0: no logs)."""

    @field_validator("trainer")
    @classmethod
    def _clipped_once(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        return refuse(trainer, {"gradient_clip_val": "use gradient_clip"})


class PretrainConfig(MaximumLikelihood):
    """Maximum-likelihood training of a SMILES generator on a prepared corpus."""

    model: RnnConfig = RnnConfig()
    """The network; the defaults are REINVENT's."""
