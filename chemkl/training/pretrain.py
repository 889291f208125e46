"""Maximum-likelihood training of a prior as a Lightning module."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from chemkl.policies.base import SequenceModel, stream

Batch = Tensor | Sequence[Tensor]
"""token_BT, or (token_BT, weight_B)."""
SampleMetrics = Callable[[Sequence[str | None]], dict[str, float]]


class Pretrain(lightning.LightningModule):
    """Minimise -log p(molecule), the sum over its tokens, end token included.

    With weights w_i the loss is sum_i w_i (-log p(x_i)) / sum_i w_i: weighted maximum likelihood
    under covariate shift (arXiv 2311.15961), with w(x) the ratio of the target's density to that of
    the data. Weights are normalised once, over the data set, to a mean of 1 (not in each batch), so
    the gradient of a batch is unbiased. The validation NLL has the same weights. The paper shows
    that a model which can represent the truth needs no weights.

    Args:
        policy: the network.
        learning_rate: highest rate of AdamW.
        warmup_steps: steps of a linear rise; then a half cosine falls to zero at the last step.
        weight_decay: of AdamW.
        samples_per_epoch: molecules sampled at each validation.
        sample_metrics: maps sampled SMILES (None for one that was cut off at the maximum length) to
            named numbers (validity, uniqueness, novelty).
        seed: seed of the samples and of dropout.
        replay: a share s and a frozen model, against forgetting: the loss is (1 - s) times that of
            the batch plus s times the mean of -log p over fresh samples of the model, which make up
            s of all rows. The model is not part of the saved state.
    """

    def __init__(
        self,
        policy: SequenceModel,
        *,
        learning_rate: float,
        warmup_steps: int,
        weight_decay: float,
        samples_per_epoch: int,
        sample_metrics: SampleMetrics,
        seed: int,
        replay: tuple[float, SequenceModel] | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.validated_at: int | None = None
        """The step of the latest validation."""
        self.logged: dict[str, float] = {}
        """The latest metrics at the checkpoint that the run resumed from."""
        self._learning_rate = learning_rate
        self._warmup_steps = warmup_steps
        self._weight_decay = weight_decay
        self._samples_per_epoch = samples_per_epoch
        self._sample_metrics = sample_metrics
        self._seed = seed
        self._replay = replay  # in a tuple the model is no submodule

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the latest metrics and the step of the latest validation."""
        checkpoint["logged"] = self.logged | metrics_of(self.trainer)
        checkpoint["validated_at"] = self.validated_at

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        self.logged = checkpoint.get("logged", {})
        self.validated_at = checkpoint.get("validated_at")

    def on_train_batch_start(self, _batch: Batch, batch_index: int) -> None:
        """Seed torch's global generator for this batch: dropout uses no other."""
        dropout = self._stream(batch_index, "dropout")
        torch.manual_seed(dropout.initial_seed())

    def _stream(self, batch_index: int, purpose: str) -> torch.Generator:
        """Return the random numbers of this batch in this process."""
        n_batches = self.current_epoch * int(self.trainer.num_training_batches) + batch_index
        return stream(self._seed, n_batches, self.global_rank, purpose)

    def _nll(self, batch: Batch) -> Tensor:
        """Return -log p of each row, times its weight if it has one."""
        if isinstance(batch, Tensor):
            return -self.policy.logp_tokens(batch)
        token_BT, weight_B = batch
        return -self.policy.logp_tokens(token_BT) * weight_B

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the mean of -log p over molecules, or its mixture with that of the replay."""
        nll_B = self._nll(batch)
        loss = self._mean(nll_B)
        self.log("train/nll", loss, prog_bar=True, sync_dist=True, batch_size=len(nll_B))
        if self._replay is None:
            return loss
        share, model = self._replay
        n = max(1, round(len(nll_B) * share / (1 - share)))
        with torch.autocast(self.device.type, enabled=False):  # sample from the exact model
            drawn = model.to(self.device).sample(n, self._stream(batch_index, "replay"))
        replayed = self._mean(self._nll(drawn.tokens))
        self.log("train/nll_replayed", replayed, sync_dist=True, batch_size=n)
        return (1 - share) * loss + share * replayed

    def validation_step(self, batch: Batch, _batch_index: int) -> None:
        """Log the mean over molecules of -log p, in nats per molecule."""
        nll_B = self._nll(batch)
        self.log("valid/nll", nll_B.mean(), prog_bar=True, batch_size=len(nll_B), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Sample molecules and log their quality."""
        if self.trainer.sanity_checking:
            return
        self.validated_at = self.global_step
        if not self._samples_per_epoch:
            return
        generator = stream(self._seed, self.global_step, self.global_rank)
        drawn = self.policy.sample(self._samples_per_epoch, generator)
        rows = zip(drawn.smiles, drawn.truncated.tolist(), strict=True)
        metrics = self._sample_metrics([None if is_cut else smiles for smiles, is_cut in rows])
        metrics = {f"samples/{name}": value for name, value in metrics.items()}
        self.log_dict(metrics, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with linear warm-up and a half cosine over the whole run."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self._learning_rate, weight_decay=self._weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _rate_factor(self, step: int) -> float:
        """Return the factor of the learning rate at a step.

        At step 0, whose factor does not depend on it, the length of the run is not looked up:
        Lightning would set up its loaders, and loaders that are set up before a checkpoint is read
        do not resume where they stood.
        """
        n_steps = int(self.trainer.estimated_stepping_batches) if step else 1
        return warmup_cosine(step, self._warmup_steps, n_steps)

    def _mean(self, nll_B: Tensor) -> Tensor:
        """Return the mean over the molecules of all processes, which may have different numbers.

        Lightning averages the gradients over the processes, so each one returns its sum times the
        number of processes, divided by the number of all molecules.
        """
        if self.trainer.world_size == 1:
            return nll_B.mean()
        n_molecules = torch.tensor(float(len(nll_B)), device=self.device)
        n_molecules = self.trainer.strategy.reduce(n_molecules, reduce_op="sum")
        return nll_B.sum() * self.trainer.world_size / n_molecules


class BestWeights(lightning.Callback):
    """Keeps the weights of the lowest validation NLL, and ends a fit that no longer improves.

    Args:
        patience: number of validations in a row without a lower NLL that ends the fit.
    """

    ended_by = "patience"
    """The manifest's `ended_by` of such a run."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._nll, self._waited = math.inf, 0
        self._weights: dict[str, Tensor] = {}

    @property
    def ends_the_run(self) -> bool:
        """Whether the patience is exhausted."""
        return self._waited >= self._patience

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Keep the weights if the NLL is lower; NaN never is."""
        if trainer.sanity_checking:
            return
        nll = float(trainer.callback_metrics["valid/nll"])
        if nll < self._nll:
            self._nll, self._waited = nll, 0
            weights = module.policy.state_dict().items()
            self._weights = {name: weight.detach().cpu().clone() for name, weight in weights}
        else:
            self._waited += 1
        trainer.should_stop |= self.ends_the_run

    def on_train_start(self, trainer: lightning.Trainer, _module: Any) -> None:
        """Stop again if the run was killed after it had ended."""
        trainer.should_stop |= self.ends_the_run

    def state_dict(self) -> dict[str, Any]:
        """Return the best weights, their NLL and the validations since, for the checkpoint."""
        return {"nll": self._nll, "waited": self._waited, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self._nll, self._waited, self._weights = state["nll"], state["waited"], state["weights"]

    def put_back(self, module: Pretrain) -> bool:
        """Load the best weights, if any, into the network; return whether that changed it."""
        weights = module.policy.state_dict()
        same = all(torch.equal(weights[name].cpu(), best) for name, best in self._weights.items())
        if not same:
            module.policy.load_state_dict(self._weights)
        return not same


def metrics_of(trainer: lightning.Trainer) -> dict[str, float]:
    """Return the latest metrics of this process."""
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def warmup_cosine(step: int, warmup_steps: int, n_steps: int) -> float:
    """Return the factor of the learning rate at a step: linear to 1, then a half cosine to 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, n_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
