"""The pretrain stage: a prepared corpus becomes a prior."""

from collections.abc import Collection
from pathlib import Path

from chemkl.config import InputError
from chemkl.config.pretrain import PretrainConfig
from chemkl.corpus import files
from chemkl.corpus.batches import CorpusDataModule
from chemkl.policies import RnnPolicy, save_policy
from chemkl.stages.finished import once
from chemkl.stages.pretrain_run import (
    SampleQuality,
    begin,
    fit,
    problems_beside,
    problems_of,
    provenance_of,
)
from chemkl.training.pretrain import Pretrain
from chemkl.training.trainer import (
    CHECKPOINTS,
    POLICY,
    last_checkpoint,
    quiet,
    seed_weights,
    why_ended,
)

__all__ = ["check", "problems_beside", "run"]

STAGE = "pretrain"


def check(config: PretrainConfig, awaited: Collection[Path] = ()) -> None:
    """Find out before training whether the trainer's arguments and the corpus can be used.

    Args:
        config: the settings.
        awaited: the corpus, if it is yet to be made.

    Raises:
        InputError: with every problem.
    """
    problems = problems_of(config, awaited)
    if problems:
        raise InputError("\n".join(problems))


@once("pretrain", lambda _config, out: out / CHECKPOINTS / POLICY)
def run(config: PretrainConfig, out_dir: Path) -> Path:
    """Train a prior, or continue where a killed run stopped.

    Returns:
        The path of the model file.

    Raises:
        InputError: the config, the corpus, or a folder that holds another run.
    """
    check(config)
    model_file = out_dir / CHECKPOINTS / POLICY
    start = last_checkpoint(out_dir)
    # all that can be wrong is found out before the folder is claimed
    data = _data(config)
    trainer, claimed = begin(config, out_dir, STAGE)
    with claimed as manifest, quiet():
        policy = _policy(config, data)
        module = _module(config, data, policy)
        metrics = fit(trainer, module, data, start, out_dir)
        save_policy(policy, model_file, provenance_of(manifest, metrics))
        manifest.finish(ended_by=why_ended(trainer), results=metrics)
    return model_file


def _policy(config: PretrainConfig, data: CorpusDataModule) -> RnnPolicy:
    seed_weights(config.seed)
    return RnnPolicy(data.vocabulary, **config.model.model_dump(exclude={"kind"}))


def _module(config: PretrainConfig, data: CorpusDataModule, policy: RnnPolicy) -> Pretrain:
    return Pretrain(
        policy,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        samples_per_epoch=config.samples_per_epoch,
        sample_metrics=SampleQuality(set(data.train_smiles)),
        seed=config.seed,
    )


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
