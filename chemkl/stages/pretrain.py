"""Pretraining: train a prior, or a language model with property tags, on a prepared corpus.

SMILES models (pretrain) and language models (pretrain_llm) share `work`; `_smiles_parts` and
`_tagged_parts` build network and data. `run` returns the path of the model file, or the folder of
the language model in Hugging Face's format.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor

from chemkl.chem.molecules import canonicalise
from chemkl.config import InputError, complaints
from chemkl.config.pretrain import PretrainConfig, PretrainLlmConfig
from chemkl.corpus import files
from chemkl.corpus.batches import TokenDataModule, read_datasets
from chemkl.display import say
from chemkl.evaluation.fine_tuning import movement, movement_table
from chemkl.llm.extra import PACKAGES, package
from chemkl.llm.models import save_weights
from chemkl.llm.pretrain import NO_PROMPT, Conditions, TaggedDataset, build_tagged
from chemkl.policies import Policy, build_policy, load_policy, read_header, save_policy, with_tokens
from chemkl.results.atomic import is_further_rank
from chemkl.results.manifest import Manifest, RunLog
from chemkl.results.provenance import installed_versions
from chemkl.stages.registry import POLICY, STAGES, View
from chemkl.stages.runner import ANEW, Start, model_copies
from chemkl.training import trainer as training
from chemkl.training.precision import check_precision, settle
from chemkl.training.pretrain import BestWeights, Pretrain, metrics_of
from chemkl.training.ranks import CHILD_MODULE, several

run = STAGES["pretrain"].run


@dataclass(frozen=True)
class Parts:
    """The parts of a run."""

    policy: Any
    data: TokenDataModule
    quality: "SampleQuality"
    samples_per_epoch: int
    save: Callable[[Path, dict[str, Any]], object]  # into a folder, with its provenance
    notes: str = ""  # printed once the folder is claimed
    movement: Callable[[], dict[str, Any]] | None = None  # measures the effect of fine-tuning
    replay: tuple[float, Policy] | None = None  # share of samples and the model that writes them
    has_weights: bool = False  # whether the corpus of a language model has weights


def work(config: Any, start: Start) -> None:
    """Train a model, or resume a killed run."""
    # errors in the inputs are raised before the folder is claimed
    parts = (
        _tagged_parts(config)
        if isinstance(config, PretrainLlmConfig)
        else _smiles_parts(config, model_copies(start.out))
    )
    plain = config.model_dump(mode="json")
    precision = settle(config.precision, config.trainer, start.out, plain)

    def build(*callbacks: Callback) -> Trainer:
        with training.quiet():
            return training.build_trainer(
                start.out,
                config.trainer,
                callbacks,
                max_epochs=config.epochs,
                precision=precision.used,
                gradient_clip_val=config.gradient_clip,
            )

    trainer = build()
    if trainer.world_size > 1 and trainer.global_rank:  # it trains and writes nothing
        with training.quiet(), several(trainer) as ranks:
            _fit(config, parts, start, build, ranks.gather(None)[0])
        return
    if training.last_checkpoint(start.out) is not None and parts.has_weights:
        begun = Manifest.load(start.out)
        if begun is not None and "weights" not in begun.beside:
            raise InputError(
                f"{start.out}: this run began without the weights of {config.corpus}, so its loss "
                "would change on the way: start again with --fresh, or choose another --out"
            )
    inputs = {"corpus": config.corpus / files.MOLECULES}
    init = getattr(config, "init", None)
    inputs |= {} if init is None else {"init": init}
    valid_corpus = getattr(config, "valid_corpus", None)
    inputs |= {} if valid_corpus is None else {"valid_corpus": valid_corpus / files.MOLECULES}
    claimed = start.claim(inputs, precision=precision, rank=0)
    start.say(str(precision))
    with claimed as manifest, training.quiet():
        start.copy_models(manifest, "init")
        manifest.beside = {"weights": True} if parts.has_weights else {}
        manifest.save()
        # after the claim: another process may have written one in the meantime
        first = training.last_checkpoint(start.out)
        if parts.notes:
            start.say(parts.notes)
        if first is None and manifest.was_resumed:
            start.say(ANEW)
        if first is not None:
            saved = torch.load(first, map_location="cpu", weights_only=True, mmap=True)
            step = int(saved["global_step"])
            start.say(f"resumes at step {step}")
            manifest.log.add("resume", steps=step)
        with several(trainer, CHILD_MODULE, start.for_rank) as ranks:
            ranks.gather(first)
            ended_by, metrics = _fit(config, parts, start, build, first, manifest.log)
        changes = parts.movement() if parts.movement is not None else {}
        metrics |= changes
        provenance = {  # without data of this machine
            "stage": manifest.stage,
            "run_id": manifest.run_id,
            "config": {k: v for k, v in manifest.config.items() if k not in inputs},
            **{f"{role}_sha256": file.sha256 for role, file in manifest.inputs.items()},
            "versions": manifest.versions,
            "metrics": metrics,
        }
        parts.save(start.out, provenance)
        manifest.finish(ended_by=ended_by, results=metrics)
    if changes:
        start.console.print(movement_table(changes), highlight=False)


def _fit(
    config: Any,
    parts: Parts,
    start: Start,
    build: Callable[..., Trainer],
    first: Path | None,
    log: RunLog | None = None,
) -> tuple[str, dict[str, Any]]:
    """Train in every process of the run; return why it ended and the final metrics."""
    saving = training.Checkpoint(start.out, config.checkpoint_every)
    best = BestWeights(config.patience) if config.patience else None
    callbacks = [saving, LearningRateMonitor("step"), training.StepsBar(start.stage.name)]
    trainer = build(*callbacks, *([best] if best else []))
    module = Pretrain(
        parts.policy,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        samples_per_epoch=parts.samples_per_epoch,
        sample_metrics=parts.quality,
        seed=config.seed,
        replay=parts.replay,
    )
    saving.run_log = log
    if log is not None:
        log.where = lambda: {"steps": trainer.global_step}
    training.fit(trainer, module, parts.data, first)
    metrics: dict[str, Any] = module.logged | metrics_of(trainer)
    if module.validated_at != trainer.global_step:  # trained since
        trainer.validate(module, parts.data, verbose=False)
        metrics |= metrics_of(trainer)
    ended_by = training.why_ended(trainer)
    if best is not None:
        ended_by = best.ended_by if best.ends_the_run else ended_by
        if best.put_back(module):
            trainer.validate(module, parts.data, verbose=False)
            metrics |= metrics_of(trainer)
    return ended_by, metrics


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Check trainer, corpus and conditions, without training.

    Whether every tag has molecules is checked when the run starts.
    """
    if issubclass(view.model, PretrainLlmConfig):
        if view.config is not None:
            yield "model", complaints((package, PACKAGES[0]))
        yield "conditions", complaints((Conditions, view.get("conditions")))
    else:
        yield "init", complaints((read_header, view.get("init")))
    trainer, corpus = view.mapping("trainer"), view.get("corpus")
    has_key = "valid_corpus" in view.model.model_fields
    valid_corpus = view.get("valid_corpus") if has_key else None
    settings = view.draft.data if view.draft is not None else dict(view.config or ())
    one_corpus = settings.get("valid_corpus") is None  # another one may not exist yet
    train, valid = view.get("train_split"), view.get("valid_split")
    yield "trainer", complaints((training.check_trainer_here, trainer))
    strategy = str((trainer or {}).get("strategy", ""))
    if view.get("patience") and strategy.endswith(("fork", "spawn", "notebook")):
        text = f"trainer: strategy: {strategy}: patience needs the best weights, which its"
        yield "trainer", [f"{text} processes do not return: leave out strategy or patience"]
    yield "precision", complaints((check_precision, view.get("precision"), trainer or {}))
    same = f"train_split and valid_split are both {train!r}: choose two splits"
    yield "valid_split", [same] if train is not None and train == valid and one_corpus else []
    splits = ((corpus, train), (corpus if one_corpus else valid_corpus, valid))
    readings = [(files.read_split, folder, split, 1) for folder, split in splits if split]
    unusable = complaints((files.read_vocabulary, corpus))
    yield "corpus", unusable or complaints(*readings)


# ---- a SMILES model


def _smiles_parts(config: PretrainConfig, copies: Mapping[Path, Path]) -> Parts:
    init = None
    if config.init is not None:
        init = load_policy(copies.get(config.init, config.init), key="init")
    if init is not None and config.extend_vocabulary:
        init = with_tokens(init, files.read_vocabulary(config.corpus).tokens)
    train, valid = read_datasets(
        config.corpus,
        config.train_split,
        config.valid_split,
        config.valid_molecules,
        config.seed if config.randomise else None,
        config.tokens.merges,
        vocabulary=None if init is None else init.vocabulary,
        held_back=(config.valid_share, config.seed),
        valid_folder=config.valid_corpus,
    )
    if init is None:
        torch.manual_seed(config.seed)
        assert config.model is not None  # for mypy: only optional with init
        init = build_policy(train.vocabulary, config.model)
    before = None if config.init is None else deepcopy(init).requires_grad_(False)
    policy = init.train()

    def measure() -> dict[str, Any]:
        assert before is not None  # for mypy
        sets, n = (train.smiles, valid.smiles), config.report_samples
        return movement(before, policy.eval(), *sets, n, config.seed)

    return Parts(
        policy,
        TokenDataModule(
            train, valid, batch_size=config.batch_size, seed=config.seed, n_workers=config.n_workers
        ),
        SampleQuality(set(train.smiles)),
        config.samples_per_epoch,
        lambda out, provenance: save_policy(policy, out / POLICY, provenance),
        _effective_number(train.weights),
        measure if before is not None and config.report_samples else None,
        (config.replay.share, before) if before is not None and config.replay is not None else None,
    )


def _effective_number(weight_N: np.ndarray | None) -> str:
    """Describe Kish's effective number (sum w)^2 / sum w^2 of weighted molecules."""
    if weight_N is None:
        return ""
    n = weight_N.sum() ** 2 / (weight_N**2).sum()
    return f"{len(weight_N):,} molecules with weights, in effect {n:,.1f} of equal weight"


class SampleQuality:
    """Validity, uniqueness and novelty (not in a corpus) of sampled SMILES, as shares."""

    def __init__(self, corpus: set[str]) -> None:
        self._corpus = corpus

    def __call__(self, smiles: Sequence[str | None]) -> dict[str, float]:
        """Return the share of valid SMILES, of unique ones among these, of novel among those.

        None is a sequence without an end token; it counts as invalid.
        """
        valid = [c for s in smiles if s is not None and (c := canonicalise(s)) is not None]
        unique = set(valid)
        return {
            "validity": len(valid) / len(smiles),
            "uniqueness": len(unique) / max(1, len(valid)),
            "novelty": len(unique - self._corpus) / max(1, len(unique)),
        }


# ---- a language model


def _tagged_parts(config: PretrainLlmConfig) -> Parts:
    conditions = Conditions(config.conditions)
    train, train_prompts, weights = _read_tagged(
        config, conditions, config.train_split, config.train_molecules
    )
    valid, valid_prompts, valid_weights = _read_tagged(
        config, conditions, config.valid_split, config.valid_molecules
    )
    vocabulary = files.read_vocabulary(config.corpus)
    torch.manual_seed(config.seed)
    policy = build_tagged(config.model, vocabulary, conditions)
    seed = config.seed if config.randomise else None
    sets = (
        TaggedDataset(train, vocabulary, train_prompts, seed, weights),
        TaggedDataset(valid, vocabulary, valid_prompts, weights=valid_weights),
    )
    longest = max(int(rows.lengths.max()) for rows in sets) - 1  # without the start token
    if longest > policy.max_new_tokens:
        n_tags = config.model.max_length - policy.max_new_tokens
        raise InputError(
            f"model.max_length = {config.model.max_length}: the longest molecule has {longest} "
            f"tokens with its end token, after {n_tags} tags; choose {longest + n_tags} or more"
        )
    n_prompts = len(policy.prompts)
    counts = np.bincount(train_prompts, minlength=n_prompts).tolist()
    texts = [f"{n:,} {prompt}" for prompt, n in zip(conditions.prompts, counts, strict=True)]
    notes = [f"molecules to learn from: {', '.join(texts)}", _effective_number(weights)]

    def save(out: Path, provenance: dict[str, Any]) -> None:
        versions = provenance["versions"] | installed_versions(PACKAGES[:1])
        about = {"prompts": conditions.prompts, "provenance": provenance | {"versions": versions}}
        save_weights(policy, out / str(STAGES["pretrain_llm"].result), about)

    return Parts(
        policy,
        TokenDataModule(
            *sets, batch_size=config.batch_size, seed=config.seed, n_workers=config.n_workers
        ),
        PromptQuality(conditions, set(train)),
        -(-config.samples_per_epoch // n_prompts) * n_prompts,  # equally many per prompt
        save,
        "; ".join(filter(None, notes)),
        has_weights=weights is not None,
    )


def _read_tagged(
    config: PretrainLlmConfig, conditions: Conditions, split: str, limit: int | None
) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """Read the molecules of a split that have a prompt, with their prompt numbers and weights."""
    smiles = files.read_split(config.corpus, split, limit)
    weights = files.read_weights(config.corpus, split)
    number = conditions.prompts_of(smiles)
    lines = conditions.empty_levels(number) if split == config.train_split else []
    among = f"among the {len(smiles):,} of split {split!r}: choose other cuts"
    InputError.refuse(f"{line} {among}" for line in lines)
    has_prompt = number != NO_PROMPT
    if not has_prompt.any():
        raise InputError(
            f"{config.corpus}: no molecule of split {split!r} has all of the conditions' values"
        )
    if not has_prompt.all() and not is_further_rank():
        say(
            f"{config.corpus}: {np.sum(~has_prompt):,} of {len(smiles):,} molecules of split "
            f"{split!r} are left out: a condition could not be computed for them"
        )
    tagged = [text for text, keep in zip(smiles, has_prompt, strict=True) if keep]
    if weights is not None:
        weights = weights[: len(smiles)][has_prompt]
    return tagged, number[has_prompt], weights


class PromptQuality(SampleQuality):
    """The quality of samples, and the share of valid samples that fulfil their prompt."""

    def __init__(self, conditions: Conditions, corpus: set[str]) -> None:
        super().__init__(corpus)
        self._conditions = conditions

    def __call__(self, smiles: Sequence[str | None]) -> dict[str, float]:
        """Return the shares; `smiles` has equally many samples per prompt, in prompt order."""
        n_prompts = len(self._conditions.prompts)
        number = self._conditions.prompts_of([text or "" for text in smiles])
        expected = np.arange(n_prompts).repeat(len(smiles) // n_prompts)
        n_valid = max(1, int((number != NO_PROMPT).sum()))
        return {**super().__call__(smiles), "as_asked": float((number == expected).sum() / n_valid)}
