"""The pretrain_llm stage: a prepared corpus becomes a language model that takes property tags."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chemkl.config import InputError, complaints
from chemkl.config.loading import Draft
from chemkl.config.pretrain import PretrainLlmConfig
from chemkl.corpus import files
from chemkl.corpus.batches import TokenDataModule
from chemkl.llm.extra import PACKAGES, package
from chemkl.llm.models import MODEL
from chemkl.llm.pretrain import (
    NO_PROMPT,
    Conditions,
    TaggedDataset,
    TaggedPolicy,
    build_tagged,
    save_model,
)
from chemkl.results.provenance import installed_versions
from chemkl.stages import pretrain_run
from chemkl.stages.finished import once
from chemkl.stages.pretrain_run import SampleQuality, begin, fit, problems_of
from chemkl.stages.terminal import say
from chemkl.training.pretrain import Pretrain
from chemkl.training.trainer import (
    CHECKPOINTS,
    last_checkpoint,
    quiet,
    seed_weights,
    why_ended,
)

STAGE = "pretrain_llm"


@dataclass(frozen=True)
class Tagged:
    """Molecules of a split that have a prompt."""

    smiles: list[str]
    prompts: np.ndarray
    """The number of each one's prompt."""


def check(config: PretrainLlmConfig, awaited: Collection[Path] = ()) -> None:
    """Look into packages, trainer, corpus and conditions, without training.

    Whether every tag has molecules is found out when the run starts.

    Args:
        config: the settings.
        awaited: the corpus, if it is yet to be made.

    Raises:
        InputError: with every problem.
    """
    problems = [
        *complaints((package, PACKAGES[0]), (Conditions, config.conditions)),
        *problems_of(config, awaited),
    ]
    if problems:
        raise InputError("\n".join(problems))


def problems_beside(draft: Draft) -> list[str]:
    """Find what the schema cannot see in settings that do not fit it.

    Returns:
        A line for every problem of conditions, trainer and corpus, in so far as they can be read.
    """
    return [
        *draft.placed("conditions", complaints((Conditions, draft.get("conditions")))),
        *pretrain_run.problems_beside(draft),
    ]


@once("pretrain_llm", lambda _config, out: out / CHECKPOINTS / MODEL)
def run(config: PretrainLlmConfig, out_dir: Path) -> Path:
    """Train a language model, or continue where a killed run stopped.

    Returns:
        The folder of the model, in Hugging Face's format.

    Raises:
        InputError: the config, the corpus, or a folder that holds another run.
    """
    check(config)
    folder = out_dir / CHECKPOINTS / MODEL
    start = last_checkpoint(out_dir)
    # all that can be wrong is found out before the folder is claimed
    conditions = Conditions(config.conditions)
    train, valid = _read(config, conditions)
    policy = _policy(config, conditions)
    data = _data(config, policy, train, valid)
    trainer, claimed = begin(config, out_dir, STAGE)
    with claimed as manifest, quiet():
        _tell_counts(out_dir, conditions, train)
        module = _module(config, policy, AsAsked(conditions, set(train.smiles)))
        metrics = fit(trainer, module, data, start, out_dir)
        provenance = pretrain_run.provenance_of(manifest, metrics)
        provenance["versions"] |= installed_versions(PACKAGES[:1])
        about = {"prompts": conditions.prompts, "provenance": provenance}
        save_model(policy, folder, about)
        manifest.finish(ended_by=why_ended(trainer), results=metrics)
    return folder


class AsAsked(SampleQuality):
    """Beside the usual quality: the share of valid samples that are what their prompt says.

    Args:
        conditions: of the prompts.
        corpus: canonical SMILES that the model has learnt from.
    """

    def __init__(self, conditions: Conditions, corpus: set[str]) -> None:
        super().__init__(corpus)
        self._conditions = conditions

    def __call__(self, smiles: Sequence[str | None]) -> dict[str, float]:
        """Return the shares; as many samples of each prompt, in the order of the prompts."""
        each = len(smiles) // len(self._conditions.prompts)
        found = self._conditions.prompts_of([text or "" for text in smiles])
        asked = np.arange(len(self._conditions.prompts)).repeat(each)
        n_known = max(1, int((found != NO_PROMPT).sum()))
        return {**super().__call__(smiles), "as_asked": float((found == asked).sum() / n_known)}


def _read(config: PretrainLlmConfig, conditions: Conditions) -> tuple[Tagged, Tagged]:
    """Read both splits, and find each molecule's prompt.

    Raises:
        InputError: a tag without a molecule to learn it from, or nothing to validate on.
    """
    splits = (
        (config.train_split, config.train_molecules),
        (config.valid_split, config.valid_molecules),
    )
    found = []
    for split, limit in splits:
        smiles = files.read_split(config.corpus, split, limit)
        number = conditions.prompts_of(smiles)
        problems = conditions.without(number) if split == config.train_split else []
        if problems:
            raise InputError(
                "\n".join(
                    f"{line} among the {len(smiles):,} of split {split!r}: choose other cuts"
                    for line in problems
                )
            )
        known = number != NO_PROMPT
        if not known.any():
            raise InputError(
                f"{config.corpus}: no molecule of split {split!r} has all of the conditions' values"
            )
        if not known.all():
            say(
                f"{config.corpus}: {np.sum(~known):,} of {len(smiles):,} molecules of split "
                f"{split!r} are left out: a condition could not be computed of them"
            )
        kept = [text for text, keep in zip(smiles, known, strict=True) if keep]
        found.append(Tagged(kept, number[known]))
    return found[0], found[1]


def _policy(config: PretrainLlmConfig, conditions: Conditions) -> TaggedPolicy:
    vocabulary = files.read_vocabulary(config.corpus)
    seed_weights(config.seed)
    return build_tagged(config.model, vocabulary, conditions)


def _data(
    config: PretrainLlmConfig, policy: TaggedPolicy, train: Tagged, valid: Tagged
) -> TokenDataModule:
    """Put both splits into rows.

    Raises:
        InputError: a molecule that is longer than what the model reads.
    """
    vocabulary = files.read_vocabulary(config.corpus)
    seed = config.seed if config.randomise else None
    sets = (
        TaggedDataset(train.smiles, vocabulary, train.prompts, seed),
        TaggedDataset(valid.smiles, vocabulary, valid.prompts),
    )
    longest = max(int(each.lengths.max()) for each in sets) - 1  # without the start
    if longest > policy.max_new_tokens:
        raise InputError(
            f"model.max_length = {config.model.max_length}: the longest molecule has {longest} "
            f"tokens with its end, and {config.model.max_length - policy.max_new_tokens} tags come "
            f"first; make it {longest + config.model.max_length - policy.max_new_tokens} or more"
        )
    return TokenDataModule(
        *sets, batch_size=config.batch_size, seed=config.seed, n_workers=config.n_workers
    )


def _module(config: PretrainLlmConfig, policy: TaggedPolicy, quality: AsAsked) -> Pretrain:
    n_prompts = len(policy.prompts)
    return Pretrain(
        policy,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        # as many of each prompt
        samples_per_epoch=-(-config.samples_per_epoch // n_prompts) * n_prompts,
        sample_metrics=quality,
        seed=config.seed,
    )


def _tell_counts(out: Path, conditions: Conditions, train: Tagged) -> None:
    counts = np.bincount(train.prompts, minlength=len(conditions.prompts)).tolist()
    named = zip(conditions.prompts, counts, strict=True)
    say(f"{out}: molecules to learn from: " + ", ".join(f"{n:,} {text}" for text, n in named))
