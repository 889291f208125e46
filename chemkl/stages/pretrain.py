"""The pretrain stage: a prepared corpus becomes a prior."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar
from rich.console import Console

from chemkl.chem.molecules import canonicalise
from chemkl.config import InputError, complaints, load_config
from chemkl.config.draft import Draft
from chemkl.config.pretrain import PretrainConfig
from chemkl.corpus import files
from chemkl.corpus.batches import CorpusDataModule
from chemkl.policies import RnnPolicy, save_policy
from chemkl.results.manifest import Manifest
from chemkl.training.pretrain import Pretrain
from chemkl.training.trainer import (
    CHECKPOINTS,
    POLICY,
    Checkpoint,
    build_trainer,
    check_trainer,
    last_checkpoint,
    quiet,
    seed_weights,
    why_ended,
)


def check(config: PretrainConfig, awaited: Collection[Path] = ()) -> None:
    """Find out before training whether the trainer's arguments and the corpus can be used.

    Args:
        config: the settings.
        awaited: the corpus, if it is yet to be made.

    Raises:
        InputError: with every problem.
    """
    corpus = None if config.corpus in awaited else config.corpus
    problems = complaints(
        (check_trainer, config.trainer),
        (_check_splits, config.train_split, config.valid_split),
        (_check_corpus, corpus, config.train_split, config.valid_split),
    )
    if problems:
        raise InputError("\n".join(problems))


def problems_beside(draft: Draft) -> list[str]:
    """Find what the schema cannot see in settings that do not fit it.

    Returns:
        A line for every problem of trainer and corpus, in so far as these can be read.
    """
    train, valid = draft.get("train_split"), draft.get("valid_split")
    return [
        *draft.placed("trainer", complaints((check_trainer, draft.mapping("trainer")))),
        *draft.placed("valid_split", complaints((_check_splits, train, valid))),
        *draft.placed("corpus", complaints((_check_corpus, draft.get("corpus"), train, valid))),
    ]


def run(config: PretrainConfig | Mapping[str, Any] | str | Path, out_dir: str | Path) -> Path:
    """Train a prior, or continue where a killed run stopped.

    Returns:
        The path of the model file.

    Raises:
        InputError: the config, the corpus, or a folder that holds another run.
    """
    config = load_config(PretrainConfig, config, beside=problems_beside)
    check(config)
    out = Path(out_dir)
    model_file = out / CHECKPOINTS / POLICY
    plain = config.model_dump(mode="json")
    if Manifest.is_finished(out, "pretrain", plain) and model_file.exists():
        Console(stderr=True, soft_wrap=True).print(f"{out}: complete; --fresh makes it anew")
        return model_file
    start = last_checkpoint(out)
    data = _data(config)
    callbacks = [
        Checkpoint(out, config.checkpoint_every),
        LearningRateMonitor("step"),
        TQDMProgressBar(refresh_rate=20),
    ]
    with quiet():  # all that can be wrong is found out before the folder is claimed
        trainer = build_trainer(
            out,
            config.trainer,
            callbacks,
            max_epochs=config.epochs,
            precision=config.precision,
            gradient_clip_val=config.gradient_clip,
        )
    corpus = {"corpus": config.corpus / files.MOLECULES}
    with (
        Manifest.start(
            out, stage="pretrain", config=plain, seed=config.seed, inputs=corpus
        ) as manifest,
        quiet(),
    ):
        module = _module(config, data)
        if start is not None:
            say = Console(stderr=True, soft_wrap=True, highlight=False)
            say.print(f"{out}: resumes at step {_step_of(start)}", markup=False)
        trainer.fit(module, data, ckpt_path=start, weights_only=True)
        metrics = _metrics(trainer, module, data)
        provenance = {
            "stage": "pretrain",
            "run_id": manifest.run_id,
            "config": {k: v for k, v in manifest.config.items() if k != "corpus"},
            "corpus_sha256": manifest.inputs["corpus"].sha256,
            "versions": manifest.versions,
            "metrics": metrics,
        }
        save_policy(module.policy, model_file, provenance)
        manifest.finish(ended_by=why_ended(trainer), results=metrics)
    return model_file


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


def _module(config: PretrainConfig, data: CorpusDataModule) -> Pretrain:
    seed_weights(config.seed)
    return Pretrain(
        RnnPolicy(data.vocabulary, **config.model.model_dump(exclude={"kind"})),
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        samples_per_epoch=config.samples_per_epoch,
        sample_metrics=SampleQuality(set(data.train_smiles)),
        seed=config.seed,
    )


def _metrics(trainer: Trainer, module: Pretrain, data: CorpusDataModule) -> dict[str, float]:
    """Return the last metrics; validate first if the network has been trained since."""
    metrics = dict(trainer.callback_metrics)
    if module.validated_at != trainer.global_step:
        trainer.validate(module, data, verbose=False)
        metrics |= trainer.callback_metrics
    return {name: float(value) for name, value in metrics.items()}


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


def _data(config: PretrainConfig) -> CorpusDataModule:
    return CorpusDataModule.from_folder(
        config.corpus,
        train_split=config.train_split,
        valid_split=config.valid_split,
        valid_molecules=config.valid_molecules,
        vocabulary=files.read_vocabulary(config.corpus),
        batch_size=config.batch_size,
        seed=config.seed,
        randomise=config.randomise,
        n_workers=config.n_workers,
    )
