"""What maximum-likelihood runs have in common: checks of the corpus, the training, its numbers."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor

from chemkl.chem.molecules import canonicalise
from chemkl.config import InputError, complaints
from chemkl.config.loading import Draft
from chemkl.config.pretrain import MaximumLikelihood
from chemkl.corpus import files
from chemkl.corpus.batches import TokenDataModule
from chemkl.results.manifest import Manifest
from chemkl.stages.terminal import say
from chemkl.training import trainer as training
from chemkl.training.precision import check_precision, precision_problems, settle
from chemkl.training.pretrain import Pretrain
from chemkl.training.trainer import Checkpoint, StepsBar, build_trainer, check_trainer_here, quiet


def problems_of(config: MaximumLikelihood, awaited: Collection[Path]) -> list[str]:
    """Find out whether the trainer's arguments and the corpus can be used.

    Args:
        config: the settings.
        awaited: the corpus, if it is yet to be made.

    Returns:
        A line for every problem.
    """
    corpus = None if config.corpus in awaited else config.corpus
    return complaints(
        (check_trainer_here, config.trainer),
        (check_precision, config.precision, config.trainer),
        (_check_splits, config.train_split, config.valid_split),
        (_check_corpus, corpus, config.train_split, config.valid_split),
    )


def problems_beside(draft: Draft) -> list[str]:
    """Find what the schema cannot see in settings that do not fit it.

    Returns:
        A line for every problem of trainer and corpus, in so far as these can be read.
    """
    train, valid = draft.get("train_split"), draft.get("valid_split")
    return [
        *draft.placed("trainer", complaints((check_trainer_here, draft.mapping("trainer")))),
        *draft.placed("precision", precision_problems(draft)),
        *draft.placed("valid_split", complaints((_check_splits, train, valid))),
        *draft.placed("corpus", complaints((_check_corpus, draft.get("corpus"), train, valid))),
    ]


def begin(config: MaximumLikelihood, out: Path, stage: str) -> tuple[Trainer, Manifest]:
    """Settle the precision, build the trainer, and claim the folder of a run.

    Args:
        config: the settings.
        out: folder of the run.
        stage: its name.

    Raises:
        InputError: the device, or Lightning, refuses the settings, or the folder holds another run.
    """
    plain = config.model_dump(mode="json")
    precision = settle(config.precision, config.trainer, out, plain)
    callbacks = [
        Checkpoint(out, config.checkpoint_every),
        LearningRateMonitor("step"),
        StepsBar(stage),
    ]
    with quiet():
        trainer = build_trainer(
            out,
            config.trainer,
            callbacks,
            max_epochs=config.epochs,
            precision=precision.used,
            gradient_clip_val=config.gradient_clip,
        )
    manifest = Manifest.start(
        out,
        stage=stage,
        config=plain,
        seed=config.seed,
        inputs={"corpus": config.corpus / files.MOLECULES},
        precision=precision,
        rank=trainer.global_rank,
    )
    say(f"{out}: {precision}")
    return trainer, manifest


def fit(
    trainer: Trainer, module: Pretrain, data: TokenDataModule, start: Path | None, out: Path
) -> dict[str, float]:
    """Train, from a checkpoint if there is one.

    Returns:
        The last metrics; the network is validated first if it has been trained since.
    """
    if start is not None:
        say(f"{out}: resumes at step {_step_of(start)}")
    training.fit(trainer, module, data, start)
    metrics = dict(trainer.callback_metrics)
    if module.validated_at != trainer.global_step:
        trainer.validate(module, data, verbose=False)
        metrics |= trainer.callback_metrics
    return {name: float(value) for name, value in metrics.items()}


def provenance_of(manifest: Manifest, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Say where the weights of a finished run come from; nothing of this machine."""
    return {
        "stage": manifest.stage,
        "run_id": manifest.run_id,
        "config": {k: v for k, v in manifest.config.items() if k != "corpus"},
        "corpus_sha256": manifest.inputs["corpus"].sha256,
        "versions": manifest.versions,
        "metrics": dict(metrics),
    }


class SampleQuality:
    """Validity, uniqueness and novelty of sampled SMILES, as shares.

    Args:
        corpus: canonical SMILES of the training split.
    """

    def __init__(self, corpus: set[str]) -> None:
        self._corpus = corpus

    def __call__(self, smiles: Sequence[str | None]) -> dict[str, float]:
        """Return the share of valid SMILES, of unique ones among these, of novel among those.

        None stands for a sequence without an end: it counts, as an invalid one.
        """
        valid = [c for s in smiles if s is not None and (c := canonicalise(s)) is not None]
        unique = set(valid)
        return {
            "validity": len(valid) / len(smiles),
            "uniqueness": len(unique) / max(1, len(valid)),
            "novelty": len(unique - self._corpus) / max(1, len(unique)),
        }


def _step_of(checkpoint: Path) -> int:
    """The step that a run goes on with."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(saved["global_step"])


def _check_splits(train: str, valid: str | None) -> None:
    if train == valid:
        raise InputError(f"train_split and valid_split are both {train!r}: choose two splits")


def _check_corpus(corpus: Path, *splits: str | None) -> None:
    files.read_vocabulary(corpus)
    for split in splits:
        if split is not None:
            files.read_split(corpus, split, limit=1)
