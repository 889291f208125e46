"""Post-training: move a policy to a target distribution and keep all that it writes.

SMILES models (posttrain) and language models (posttrain_llm) share `work`; `_Molecules` and
`_Texts` hold what differs. `run` returns the path of the policy's model file, or the folder of the
language model's adapter or weights in Hugging Face's format.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, Trainer

from chemkl.config import InputError, complaints
from chemkl.config.llm import LlmPosttrainConfig
from chemkl.config.objective import MemoryConfig
from chemkl.config.posttrain import PosttrainConfig
from chemkl.llm.extra import PACKAGES, check_installed
from chemkl.llm.ledger import AnswerTracker, TextLedger, describe_cut_off
from chemkl.llm.models import build_policy, is_here, read_prompts, save
from chemkl.llm.policy import Reference
from chemkl.llm.prompts import Prompt, read_run_prompts, write_prompts
from chemkl.llm.rewards import build_reward
from chemkl.losses import Objective, objective_from_config
from chemkl.policies import (
    ConstrainedPolicy,
    SequenceModel,
    UnknownTokenError,
    check_vocabularies,
    freeze,
    load_policy,
    read_header,
    save_policy,
)
from chemkl.results.inspection import sampled_rows
from chemkl.results.manifest import Manifest
from chemkl.results.outcome import TEXT_COLUMNS, read_outcome
from chemkl.results.provenance import installed_versions
from chemkl.results.seal import check_seal
from chemkl.results.trace import TraceWriter, list_parts, read_orphans, read_part, read_trace
from chemkl.rewards import RewardModel
from chemkl.rewards.cache import reward_files
from chemkl.rewards.model import nothing_shown
from chemkl.stages.registry import POLICY, STAGES, View
from chemkl.stages.runner import ANEW, Start, free_name, model_copies
from chemkl.training import trainer as training
from chemkl.training.collapse import CollapseAlarm, build_alarm
from chemkl.training.curriculum import (
    Curriculum,
    Schedule,
    StagedLedger,
    StageRewards,
    Termination,
)
from chemkl.training.exploration import Explorer, check_exploration
from chemkl.training.filters import DiversityFilter, build_filter
from chemkl.training.generators import build_constraint, check_generator, files_of
from chemkl.training.ledger import Ledger
from chemkl.training.memory import Memory, Seed, read_seed
from chemkl.training.posttrain import SCHEDULED, Phase, Posttrain, StepLoader
from chemkl.training.precision import check_precision, settle
from chemkl.training.ranks import CHILD_MODULE, Ranks, is_launched, several

AnyConfig = PosttrainConfig | LlmPosttrainConfig
EVALUATION = "evaluation"
_Enders = CollapseAlarm | Termination | Curriculum
"""Callbacks that can end a run before its limits."""

run = STAGES["posttrain"].run


def work(config: Any, start: Start) -> None:
    """Post-train a policy, or resume a killed run."""
    out, settings = start.out, {"devices": 1, **config.trainer}  # one device by default
    # errors in models, trainer and earlier parts are raised before the folder is claimed
    parts = (_Texts if isinstance(config, LlmPosttrainConfig) else _Molecules)(config, out)
    precision = settle(config.precision, settings, out, config.model_dump(mode="json"))

    def build(*callbacks: Callback) -> Trainer:
        with training.quiet():
            return training.build_trainer(
                out, settings, callbacks, max_epochs=1, precision=precision.used
            )

    trainer = build()
    _check_devices(precision.devices or 1, trainer, out)
    if trainer.world_size > 1 and trainer.global_rank:
        _work_as_rank(config, parts, trainer, build, out)
        return
    training.last_checkpoint(out)
    for part in list_parts(out):
        check_seal(part.path, "Restore it from a copy, or run again with --fresh.")
    with (
        closing(parts.build_reward()) as reward,
        # rank 0: other ranks do not get here
        start.claim(parts.inputs(), precision=precision, rank=0) as manifest,
    ):
        # after the claim: another process may have written one in the meantime
        first = training.last_checkpoint(out)
        start.copy_models(manifest, "prior", "agent")
        parts.begin(manifest)

        def report(line: str, event: str = "alarm") -> None:
            start.say(line)
            manifest.log.add(event, text=line)

        alarm = build_alarm(config, report)
        manifest.beside = {"collapse": alarm.settings} if alarm else {}
        manifest.save()
        trace = TraceWriter(
            out,
            reward.component_names,
            manifest.run_id,
            manifest.config_hash,
            earlier=[before["config_hash"] for before in manifest.extended],
            text=parts.text,
            further=_optional_columns(config),
        )
        module = _build_module(config, parts, trace)
        start.say(str(precision))
        first, past = _align_past(first, trace, out, config)
        paid = read_orphans(out)
        _restore(module, first, past, paid)
        callbacks: list[Callback] = [alarm] if alarm else []
        callbacks += parts.callbacks(module, partial(report, event="stage"))
        bar = training.CallsBar(module.ledger, config.budget, config.most_samples, manifest.tau)
        callbacks += [bar] * config.callbacks.progress_bar
        _restore_callbacks(past, callbacks, module)
        manifest.log.where = module.counts
        if first is not None:
            start.say(f"resumes at step {module.next_step}")
            manifest.log.add("resume")
        else:
            start.say(*parts.notes, *([ANEW] if manifest.was_resumed else []))
        goes_on = not module.is_finished and not _ended_by(callbacks)
        if goes_on and (out / EVALUATION).is_dir():  # its trace grows now
            (out / EVALUATION).rename(free_name(out / EVALUATION))
        every = config.callbacks.checkpoint_every * _updates(config)
        saving = training.Checkpoint(out, every, before=trace.cut)
        saving.run_log = manifest.log
        state = (parts.prompts, first, past, paid) if goes_on else None
        if goes_on or is_launched():  # launched ranks wait for the state
            with training.quiet(), several(trainer, CHILD_MODULE, start.for_rank) as ranks:
                if ranks.gather(state)[0] is not None:
                    _fit(config, module, reward, ranks, build(saving, *callbacks), first)
        trace.compact()
        provenance = {key: getattr(manifest, key) for key in ("stage", "run_id", "config_hash")}
        parts.save(manifest, provenance, module.counts())
        ended_by = parts.limit if module.is_finished else _ended_by(callbacks)
        ended_by = "budget" if module.ledger.is_exhausted else ended_by
        manifest.finish(ended_by=ended_by, results=_results(module, callbacks, ended_by))
    counts = f"{module.ledger.n_calls:,} calls, {module.ledger.n_samples:,} samples"
    start.say(f"ended by {manifest.ended_by}: {counts}", *read_outcome(out, manifest).lines())
    start.say(*parts.failures())


def _check_devices(n_begun: int, trainer: Trainer, out: Path) -> None:
    if n_begun != trainer.world_size:
        raise InputError(
            f"{out}: this run began on {n_begun} devices, not {trainer.world_size}, and only as "
            "many reproduce it exactly: set trainer.devices and num_nodes as they were, choose "
            "another folder with --out, or start again with --fresh."
        )


def _work_as_rank(
    config: Any, parts: Any, trainer: Trainer, build: Callable[..., Trainer], out: Path
) -> None:
    """Do the work of another process of a run on several devices; write nothing."""
    with (
        closing(parts.build_reward()) as reward,
        training.quiet(),
        several(trainer) as ranks,
    ):
        state = ranks.gather(None)[0]
        if state is None:  # the run is complete
            return
        parts.prompts, first, past, paid = state
        module = _build_module(config, parts, None)
        module.ranks = ranks
        _restore(module, first, past, paid)
        alarm = build_alarm(config, lambda _line: None)
        callbacks = [alarm, *parts.callbacks(module, lambda _line: None)]
        callbacks = [callback for callback in callbacks if isinstance(callback, _Enders)]
        _restore_callbacks(past, callbacks, module)
        saving = training.Checkpoint(out, config.callbacks.checkpoint_every * _updates(config))
        _fit(config, module, reward, ranks, build(saving, *callbacks), first)


def _fit(
    config: Any, module: Posttrain, reward: Any, ranks: Ranks, trainer: Trainer, first: Path | None
) -> None:
    module.ranks = ranks
    reward.spread_over(ranks.spread)
    loader = StepLoader(-(-config.most_samples // config.batch_size), _updates(config))
    training.fit(trainer, module, loader, first)


def _optional_columns(config: AnyConfig) -> list[str]:
    """Return the columns of the trace that depend on the config."""
    stages = [] if getattr(config, "stages", None) is None else ["stage", "final_reward"]
    moves = any(stage.target.schedule is not None for stage in config.in_stages)
    explores = [] if getattr(config, "exploration", None) is None else ["origin"]
    return [*stages, *(SCHEDULED if moves else ()), *explores]


def _build_module(config: Any, parts: Any, trace: TraceWriter | None) -> Posttrain:
    ledger = parts.ledger()
    # stages with equal settings share an objective and a schedule with their state
    objectives: dict[str, tuple[Objective, Schedule | None]] = {}
    phases: list[Phase] = []
    for number, stage in enumerate(config.in_stages):
        key = stage.model_dump_json(include={"reward", "target", "estimator", "shaper"})
        if key not in objectives:
            schedule = None if stage.target.schedule is None else Schedule(stage.target)
            objectives[key] = objective_from_config(stage.objective, parts.bounds), schedule
        objective, schedule = objectives[key]
        memory = parts.memory(ledger, number)
        explorer = parts.explorer(ledger, memory)
        keeps_filter = number > 0 and ledger.filters[number] is ledger.filters[number - 1]
        if keeps_filter and phases[-1].objective is objective:
            memory, explorer = phases[-1].memory, phases[-1].explorer
        phases.append(Phase(objective, stage.learning_rate, memory, schedule, explorer))
    return Posttrain(
        parts.policy,
        parts.reference(),
        ledger,
        phases,
        trace,
        seeds=parts.seeds,
        updates=_updates(config),
        spell=parts.spell if getattr(config, "augment", False) else None,
        batch_size=config.batch_size,
        most_samples=config.most_samples,
        seed=config.seed,
    )


def _updates(config: Any) -> int:
    """Return the updates per step; 1 for a language model."""
    return getattr(config, "updates_per_batch", 1)


def _align_past(
    first: Path | None, trace: TraceWriter, out: Path, config: Any
) -> tuple[Path | None, pd.DataFrame | None]:
    """Align checkpoint and trace to the same step; rewards of later rows are kept.

    A complete run continues at its end if its limits have been raised. A last step with a partial
    batch had no update: it is repeated, in full if the limits allow it, and the rewards of its rows
    are read back.

    Returns:
        The checkpoint and the rows of the trace up to it; None if there are none.
    """
    step = 0
    if first is not None:  # tensors and plain values only
        saved: dict[str, Any] = torch.load(first, map_location="cpu", weights_only=True)
        if "next_step" not in saved:
            raise InputError(
                f"{first}: a checkpoint, but not of a posttrain run. Delete it to start the run "
                "again, or restore a good copy."
            )
        parts, step = list_parts(out), saved["next_step"]
        if parts and parts[-1].last == step - 1:
            rows = sampled_rows(read_part(parts[-1].path).to_pandas())
            is_cut = int((rows["step"] == step - 1).sum()) < config.batch_size
            step -= saved.get("is_cut", is_cut)
        if step and (step < saved["next_step"] or saved["epoch"]):
            training.reopen(first, saved, step, _updates(config))
        if not step:  # the first step had a partial batch
            first.unlink()
            first = None
    trace.resume(step)
    last = trace.last_step
    if step != (0 if last is None else last + 1):
        raise InputError(
            f"{out}: the trace ends with step {last}, but the checkpoint goes on with step {step}. "
            "Restore the missing part of the trace from a copy, or run again with --fresh."
        )
    return first, read_trace(out) if step else None


def _restore(
    module: Posttrain, first: Path | None, past: pd.DataFrame | None, paid: pd.DataFrame | None
) -> None:
    """Restore weights and ledger to a checkpoint, and remember the rewards of later rows."""
    if past is not None:  # first: the memory asks the filter
        module.ledger.restore(past)
        module.observe(past)
    if first is not None:
        saved = torch.load(first, map_location="cpu", weights_only=True)
        module.load_state_dict(saved["state_dict"])
        module.on_load_checkpoint(saved)
    if paid is not None:
        module.ledger.remember(paid)


def _restore_callbacks(
    past: pd.DataFrame | None, callbacks: Sequence[Callback], module: Posttrain
) -> None:
    """Give the rows of an interrupted run to the callbacks that continue from them."""
    for callback in callbacks:
        if past is not None and isinstance(callback, _Enders | training.CallsBar):
            callback.restore(past)
        if isinstance(callback, Curriculum):
            callback.begin(module)


def _ended_by(callbacks: Sequence[Callback]) -> str:
    """Return what ended a run before its limits, or an empty text."""
    enders = (callback for callback in callbacks if isinstance(callback, _Enders))
    return next((ender.ended_by for ender in enders if ender.ends_the_run), "")


def _results(module: Posttrain, callbacks: Sequence[Callback], ended_by: str) -> dict[str, Any]:
    """Return the results of a run for its manifest."""
    results: dict[str, Any] = {**module.counts()}
    for callback in callbacks:
        if isinstance(callback, CollapseAlarm):
            results |= callback.results
        elif isinstance(callback, Curriculum):
            results |= {"stages": callback.results(ended_by)}
    return results


class _Molecules:
    """The parts of a run of a SMILES model."""

    limit, prompts = "max_samples", ()
    reward: RewardModel | StageRewards
    bounds = (RewardModel.FAILED, RewardModel.MOST)

    def __init__(self, config: PosttrainConfig, out: Path) -> None:
        self.config, self.out = config, out
        copies, agent = model_copies(out), config.agent or config.prior
        self._trained = load_policy(
            copies.get(agent, agent), key="agent" if config.agent else "prior"
        )
        self._prior = freeze(load_policy(copies.get(config.prior, config.prior), key="prior"))
        self.text = config.generator is not None
        self.policy: SequenceModel = self._trained
        self._names: Sequence[str] = ()
        if config.generator is not None:
            self._constraint = build_constraint(config.generator, self._prior, config.seed)
            self._names = self._constraint.names
            self.policy = ConstrainedPolicy(self._trained, self._constraint)
        self.seeds: list[tuple[Seed, list[int]]] = []
        self.notes: list[str] = []
        """Lines to print at the start of a new run."""
        memory = config.memory
        if memory is None or (seed := memory.seed) is None:
            return
        lost: list[Seed] = []
        for each in read_seed(seed, config.budget, memory.capacity, self.notes.append):
            ids = self.spell(each.canonical)
            if ids is None:
                lost.append(each)
            else:
                self.seeds.append((each, ids))
        examples = ", ".join(f"line {each.line} ({each.canonical})" for each in lost[:3])
        examples += f" and {len(lost) - 3:,} more" if len(lost) > 3 else ""
        why = "the policy cannot write them: they have a token that it lacks, or are too long"
        if not self.seeds:
            raise InputError(f"{seed.path}: all of its molecules, {examples}: {why}")
        if lost:
            self.notes.append(f"memory.seed: {seed.path}: left out are {examples}: {why}")

    def build_reward(self) -> RewardModel | StageRewards:
        models: dict[str, RewardModel] = {}
        by_stage = []
        for stage in self.config.in_stages:
            key = stage.reward.model_dump_json()
            if key not in models:
                models[key] = RewardModel.from_config(stage.reward)
                if self.config.callbacks.progress_bar:
                    # two progress bars would overwrite each other
                    models[key].show_progress(nothing_shown)
            by_stage.append(models[key])
        self.reward = StageRewards(by_stage) if self.config.stages else by_stage[0]
        return self.reward

    def inputs(self) -> dict[str, Path]:
        models = {"prior": self.config.prior, "agent": self.config.agent}
        inputs = {role: path for role, path in models.items() if path is not None}
        for n, stage in enumerate(self.config.stages or ()):
            if stage.reward is not None:
                files = reward_files(stage.reward)
                inputs |= {f"stages.{n}.{role}": path for role, path in files.items()}
        inputs |= files_of(self.config.generator)
        if self.config.memory is not None and self.config.memory.seed is not None:
            inputs["memory.seed"] = self.config.memory.seed.path
        return inputs | reward_files(self.config.reward)

    def begin(self, manifest: Manifest) -> None:
        """Keep nothing of a new run."""

    def reference(self) -> Any:
        if self.config.generator is None:
            return self._prior
        return ConstrainedPolicy(self._prior, self._constraint)

    def ledger(self) -> Ledger:
        if isinstance(self.reward, RewardModel):
            diversity_filter = build_filter(self.config.diversity_filter)
            return Ledger(self.reward, diversity_filter, self.config.budget, self._names)
        filters: list[DiversityFilter] = []
        before: Any = None
        for entry, stage in zip(self.config.stages or (), self.config.in_stages, strict=True):
            none = filters and stage.diversity_filter is None and before is None
            is_same = entry.keep_filter or none
            filters.append(filters[-1] if is_same else build_filter(stage.diversity_filter))
            before = stage.diversity_filter
        return StagedLedger(self.reward, filters, self.config.budget, self._names)

    def spell(self, smiles: str) -> list[int] | None:
        """Return the token ids of a SMILES; None if the policy cannot write it."""
        try:
            ids = self._trained.vocabulary.encode(smiles)
        except UnknownTokenError:
            return None
        return ids if len(ids) <= self._trained.max_length + 1 else None

    def memory(self, ledger: Ledger, number: int) -> Memory | None:
        """Build the memory of a stage, given its number from 0."""
        config, target = self.config.memory, self.config.in_stages[number].target
        if config is None:
            return None
        diversity_filter = ledger.filters[number]
        rows, seed = self.config.replayed, self.config.seed
        moves = target.schedule is not None and target.schedule.tau is not None
        tau = None if moves else getattr(target, "tau", None)
        return Memory(
            config, diversity_filter, rows=rows, tau=tau, has_hits=target.has_hits, seed=seed
        )

    def explorer(self, ledger: Ledger, memory: Memory | None) -> Explorer | None:
        """Build the explorer of a stage."""
        config, seed = self.config.exploration, self.config.seed
        if config is None or memory is None:
            return None
        return Explorer(config, memory, ledger, self._prior, self.spell, seed)

    def callbacks(self, module: Posttrain, say: Callable[[str], object]) -> list[Callback]:
        callbacks: list[Callback] = []
        if isinstance(module.ledger, StagedLedger):
            callbacks.append(Curriculum(self.config.stages or (), module.ledger, say))
        if self.config.callbacks.terminate is not None:
            callbacks.append(Termination(self.config.callbacks.terminate))
        return callbacks

    def save(self, manifest: Manifest, provenance: dict[str, Any], counts: dict[str, int]) -> None:
        provenance["prior_sha256"] = manifest.inputs["prior"].sha256
        provenance["versions"] = manifest.versions
        save_policy(self._trained, self.out / POLICY, provenance | counts)

    def failures(self) -> Sequence[str]:
        models = [self.reward] if isinstance(self.reward, RewardModel) else self.reward.distinct
        return [line for model in models for line in model.failures.describe()]


class _Texts:
    """The parts of a run of a language model."""

    limit, text, seeds, notes = "max_steps", True, (), ()

    def __init__(self, config: LlmPosttrainConfig, out: Path) -> None:
        self.config, self.out = config, out
        model = config.model.name
        if isinstance(model, Path) and out.resolve().is_relative_to(model.resolve()):
            raise InputError(
                f"{out}: is or lies in the folder of the model {model}; a run would change the "
                "model that it starts from. Choose another folder with --out."
            )
        self.policy = build_policy(config)

    @property
    def prompts(self) -> Sequence[Prompt]:
        """The prompts of the policy."""
        return self.policy.prompts

    @prompts.setter
    def prompts(self, prompts: Sequence[Prompt]) -> None:
        self.policy.prompts = tuple(prompts)

    def build_reward(self) -> Any:
        self.reward = build_reward(self.config.reward)
        self.bounds = self.reward.bounds
        return self.reward

    def inputs(self) -> dict[str, Path]:
        sources = {"model": self.config.model.name, "template": self.config.template}
        files = {role: path for role, path in sources.items() if isinstance(path, Path)}
        return files | dict(self.reward.files)

    def begin(self, manifest: Manifest) -> None:
        """Read the prompts that the run stored at its start, or store these.

        A template that inserts the date renders different prompts on another day, and then two
        prompts would have the same number in the ledger and in the reference's memory.
        """
        prompts = self.policy.prompts
        stored = read_run_prompts(self.out, len(prompts)) if manifest.was_resumed else None
        if stored is None:
            write_prompts(prompts, self.out)
        self.policy.prompts = stored or prompts

    def reference(self) -> Reference:
        frozen = self.policy
        if not frozen.has_adapter:
            frozen = build_policy(self.config, trained=False, prompts=self.policy.prompts)
        self._reference = Reference(frozen, self.config.reference_memory)
        return self._reference

    def ledger(self) -> TextLedger:
        budget = math.inf if self.config.budget is None else self.config.budget
        diversity_filter = build_filter(self.config.diversity_filter)
        return TextLedger(self.reward, self.policy.prompts, diversity_filter, budget)

    def memory(self, _ledger: TextLedger, _number: int) -> None:
        """Return None: language models have no memory."""

    def explorer(self, _ledger: TextLedger, _memory: None) -> None:
        """Return None: language models have no exploration."""

    def callbacks(self, _module: Posttrain, _say: Callable[[str], object]) -> list[Callback]:
        config = self.config
        callbacks: list[Callback] = []
        if config.track is not None:
            models = self.policy, self._reference
            callbacks.append(AnswerTracker(self.out, *models, config.tracked, config.track.every))
        if config.callbacks.terminate is not None:
            columns = () if config.reward.kind == "smiles" else TEXT_COLUMNS
            callbacks.append(Termination(config.callbacks.terminate, columns))
        return callbacks

    def save(self, manifest: Manifest, provenance: dict[str, Any], counts: dict[str, int]) -> None:
        provenance["versions"] = manifest.versions | installed_versions(PACKAGES)
        save(self.policy, self.out / training.CHECKPOINTS, self.config, provenance | counts)

    def failures(self) -> Sequence[str]:
        """Return a line for each kind of failure, and one if many completions had no end token."""
        reasons = read_trace(self.out, ["reason"])["reason"].astype(object)
        texts = reasons.where(reasons.notna(), None).tolist()
        return [
            *self.reward.failures.describe(),
            *describe_cut_off(texts, self.config.max_new_tokens),
        ]


# ---- checks


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Check reward, models and trainer, without training.

    A language model that has not been downloaded is not fetched for this; its prompts are checked
    when the run starts.
    """
    trainer, batch_size = view.mapping("trainer"), view.get("batch_size")
    trainer_lines = complaints((training.check_trainer_here, trainer))
    n = 1 if trainer_lines else training.devices_of({"devices": 1, **(trainer or {})})[1]
    uneven = f"batch_size: {batch_size} rows cannot be divided evenly among {n} devices"
    device_checks = [
        ("trainer", trainer_lines),
        ("batch_size", [f"{uneven}: choose a multiple of {n}"] if (batch_size or 0) % n else []),
        ("precision", complaints((check_precision, view.get("precision"), trainer or {}))),
    ]
    if not issubclass(view.model, LlmPosttrainConfig):

        def check_agent(agent: Path, prior: Path | None) -> None:
            """Compare the vocabularies of agent and prior if both can be read."""
            files = {"prior": prior, "agent": agent}
            headers = {role: read_header(path) for role, path in files.items() if path is not None}
            check_vocabularies({role: header["vocabulary"] for role, header in headers.items()})

        prior, agent = view.get("prior"), view.get("agent")
        unusable = complaints((read_header, prior))
        yield "", complaints((RewardModel.from_config, view.section("reward")))
        for n, stage in enumerate(getattr(view.config, "stages", None) or ()):
            lines = complaints((RewardModel.from_config, stage.reward))
            yield f"stages.{n}", [f"stages.{n}.{line}" for line in lines]
        yield "prior", unusable
        generator, header = view.get("generator"), None if unusable else view.get("prior")
        kinds = [stage.estimator.kind for stage in getattr(view.config, "in_stages", ())]
        yield "", complaints((check_generator, generator, header, batch_size, kinds))
        yield "agent", complaints((check_agent, agent, None if unusable else prior))
        memory = view.get("memory")
        if isinstance(memory, MemoryConfig):
            limits = view.get("budget") or math.inf, memory.capacity
            yield "memory.seed", complaints((read_seed, memory.seed, *limits))
        yield "exploration", complaints((check_exploration, view.get("exploration")))
        yield from device_checks
        return
    config = view.config if isinstance(view.config, LlmPosttrainConfig) else None
    checks = [
        ("model", complaints((check_installed, PACKAGES[:2])) if config else []),
        ("reward", complaints((lambda reward: build_reward(reward).close(), view.get("reward")))),
        *device_checks,
    ]
    yield from checks
    if config and not any(lines for _, lines in checks) and config.model.name not in view.pending:
        yield "", complaints((read_prompts, config)) if is_here(config.model) else []


def check_spent(config: AnyConfig, out: Path) -> None:
    """Refuse limits below the calls and samples that the run in a folder has spent."""
    if not list_parts(out):
        return
    rows = read_trace(out, ["call", "is_replay", "origin"])
    call, n_samples = rows["call"], len(sampled_rows(rows))
    samples = (_Texts if isinstance(config, LlmPosttrainConfig) else _Molecules).limit
    limits = [
        ("budget", config.budget, int(call.count()), "oracle calls"),
        (samples, config.most_samples, n_samples, "samples"),
    ]
    over = [
        f"{out}: the run has spent {n:,} {unit}, more than {key} allows ({limit:,}): it can be "
        "made longer, not shorter. Choose another folder with --out, or start again with --fresh."
        for key, limit, n, unit in limits
        if limit is not None and n > limit
    ]
    InputError.refuse(over)
