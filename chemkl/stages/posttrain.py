"""Post-training: a policy walks to a target distribution, and all that it writes is kept.

One way for SMILES models (posttrain) and for language models (posttrain_llm); what differs is in
`_Molecules` and `_Texts`. `run` returns the path of the policy's model file, or the folder of the
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
from chemkl.llm.prompts import Prompt, keep_prompts, kept_prompts
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
from chemkl.stages.runner import Start, free_name, kept_models
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
"""What ends a run before its limits do."""

run = STAGES["posttrain"].run


def work(config: Any, start: Start) -> None:
    """Post-train a policy, or continue where a killed run stopped."""
    out, settings = start.out, {"devices": 1, **config.trainer}  # one, whatever there are
    # what can go wrong with models, trainer and past does so before the folder is claimed
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
        _help(config, parts, trainer, build, out)
        return
    training.last_checkpoint(out)
    for part in list_parts(out):
        check_seal(part.path, "Restore it from a copy, or run again with --fresh.")
    with (
        closing(parts.build_reward()) as reward,
        # further ranks do not come here; another process is none of this run
        start.claim(parts.inputs(), precision=precision, rank=0) as manifest,
    ):
        first = training.last_checkpoint(out)  # another process may have written one meanwhile
        start.keep(manifest, "prior", "agent")
        parts.begin(manifest)

        def tell(line: str, event: str = "alarm") -> None:
            start.say(line)
            manifest.log.add(event, text=line)

        alarm = build_alarm(config, tell)
        manifest.beside = {"collapse": alarm.settings} if alarm else {}
        manifest.save()
        trace = TraceWriter(
            out,
            reward.component_names,
            manifest.run_id,
            manifest.config_hash,
            earlier=[before["config_hash"] for before in manifest.extended],
            text=parts.text,
            further=_further_columns(config),
        )
        module = _build_module(config, parts, trace)
        start.say(str(precision))
        first, past = _settle_past(first, trace, out, config)
        paid = read_orphans(out)
        _bring_to(module, first, past, paid)
        callbacks: list[Callback] = [alarm] if alarm else []
        callbacks += parts.callbacks(module, partial(tell, event="stage"))
        bar = training.CallsBar(module.ledger, config.budget, config.most_samples, manifest.tau)
        callbacks += [bar] * config.callbacks.progress_bar
        _take_in(past, callbacks, module)
        manifest.log.where = module.counts
        start.say(*(parts.notes if first is None else [f"resumes at step {module.next_step}"]))
        if first is not None:
            manifest.log.add("resume")
        goes_on = not module.is_finished and not _ended_by(callbacks)
        if goes_on and (out / EVALUATION).is_dir():  # of a trace that grows now
            (out / EVALUATION).rename(free_name(out / EVALUATION))
        every = config.callbacks.checkpoint_every * _updates(config)
        saving = training.Checkpoint(out, every, before=trace.cut)
        saving.run_log = manifest.log
        begun = (parts.prompts, first, past, paid) if goes_on else None
        if goes_on or is_launched():  # then the others wait to be told
            with training.quiet(), several(trainer, CHILD_MODULE, start.told) as ranks:
                if ranks.gather(begun)[0] is not None:
                    _fit(config, module, reward, ranks, build(saving, *callbacks), first)
        trace.compact()
        about = {key: getattr(manifest, key) for key in ("stage", "run_id", "config_hash")}
        parts.save(manifest, about, module.counts())
        ended_by = parts.limit if module.is_finished else _ended_by(callbacks)
        ended_by = "budget" if module.ledger.is_exhausted else ended_by
        manifest.finish(ended_by=ended_by, results=_results(module, callbacks, ended_by))
    spent = f"{module.ledger.n_calls:,} calls, {module.ledger.n_samples:,} samples"
    start.say(f"ended by {manifest.ended_by}: {spent}", *read_outcome(out, manifest).lines())
    start.say(*parts.failures())


def _check_devices(n_begun: int, trainer: Trainer, out: Path) -> None:
    if n_begun != trainer.world_size:
        raise InputError(
            f"{out}: this run began on {n_begun} devices, not {trainer.world_size}, and goes on to "
            "the bit on as many only: set trainer.devices and num_nodes as they were, choose "
            "another folder with --out, or begin anew with --fresh."
        )


def _help(
    config: Any, parts: Any, trainer: Trainer, build: Callable[..., Trainer], out: Path
) -> None:
    """Be a further process of a run on several devices: it works along, and writes nothing."""
    with (
        closing(parts.build_reward()) as reward,
        training.quiet(),
        several(trainer) as ranks,
    ):
        begun = ranks.gather(None)[0]
        if begun is None:  # the run is at its end
            return
        parts.prompts, first, past, paid = begun
        module = _build_module(config, parts, None)
        module.ranks = ranks
        _bring_to(module, first, past, paid)
        alarm = build_alarm(config, lambda _line: None)
        others = parts.callbacks(module, lambda _line: None)
        callbacks = [one for one in (alarm, *others) if isinstance(one, _Enders)]
        _take_in(past, callbacks, module)
        saving = training.Checkpoint(out, config.callbacks.checkpoint_every * _updates(config))
        _fit(config, module, reward, ranks, build(saving, *callbacks), first)


def _fit(
    config: Any, module: Posttrain, reward: Any, ranks: Ranks, trainer: Trainer, first: Path | None
) -> None:
    module.ranks = ranks
    reward.spread_over(ranks.spread)
    loader = StepLoader(-(-config.most_samples // config.batch_size), _updates(config))
    training.fit(trainer, module, loader, first)


def _further_columns(config: AnyConfig) -> list[str]:
    """What the trace of this run has, and need not have."""
    stages = [] if getattr(config, "stages", None) is None else ["stage", "final_reward"]
    moves = any(stage.target.schedule is not None for stage in config.in_stages)
    explores = [] if getattr(config, "exploration", None) is None else ["origin"]
    return [*stages, *(SCHEDULED if moves else ()), *explores]


def _build_module(config: Any, parts: Any, trace: TraceWriter | None) -> Posttrain:
    ledger = parts.ledger()
    # what objectives and schedules remember goes on in stages that share one
    made: dict[str, tuple[Objective, Schedule | None]] = {}
    phases: list[Phase] = []
    for number, stage in enumerate(config.in_stages):
        key = stage.model_dump_json(include={"reward", "target", "estimator", "shaper"})
        if key not in made:
            schedule = None if stage.target.schedule is None else Schedule(stage.target)
            made[key] = objective_from_config(stage.objective, parts.bounds), schedule
        objective, schedule = made[key]
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
    """Updates a step; a language model's run makes one."""
    return getattr(config, "updates_per_batch", 1)


def _settle_past(
    first: Path | None, trace: TraceWriter, out: Path, config: Any
) -> tuple[Path | None, pd.DataFrame | None]:
    """Bring checkpoint and trace to the same step; what was paid beyond is kept.

    A run that came to its end goes on from there, if its limits have been raised. A step that the
    end cut short was not learnt from: it is made again, whole where the limits allow it, and what
    was paid for its rows is read back.

    Returns:
        The checkpoint, and the rows of the trace up to there; None where there is nothing yet.
    """
    step = 0
    if first is not None:  # nothing but tensors and plain values is unpickled
        saved: dict[str, Any] = torch.load(first, map_location="cpu", weights_only=True)
        if "next_step" not in saved:
            raise InputError(
                f"{first}: a checkpoint, but not of a posttrain run. Delete it to begin the run "
                "anew, or put back a good copy."
            )
        parts, step = list_parts(out), saved["next_step"]
        if parts and parts[-1].last == step - 1:
            rows = sampled_rows(read_part(parts[-1].path).to_pandas())
            is_cut = int((rows["step"] == step - 1).sum()) < config.batch_size
            step -= saved.get("is_cut", is_cut)
        if step and (step < saved["next_step"] or saved["epoch"]):
            training.reopen(first, saved, step, _updates(config))
        if not step:  # the first step was cut short
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


def _bring_to(
    module: Posttrain, first: Path | None, past: pd.DataFrame | None, paid: pd.DataFrame | None
) -> None:
    """Bring weights and ledger to a checkpoint, and remember what was paid beyond."""
    if past is not None:  # first, for the memory asks the filter
        module.ledger.restore(past)
        module.observe(past)
    if first is not None:
        saved = torch.load(first, map_location="cpu", weights_only=True)
        module.load_state_dict(saved["state_dict"])
        module.on_load_checkpoint(saved)
    if paid is not None:
        module.ledger.remember(paid)


def _take_in(past: pd.DataFrame | None, callbacks: Sequence[Callback], module: Posttrain) -> None:
    """Give the rows of an interrupted run to those callbacks that go on from them."""
    for one in callbacks:
        if past is not None and isinstance(one, _Enders | training.CallsBar):
            one.restore(past)
        if isinstance(one, Curriculum):
            one.begin(module)


def _ended_by(callbacks: Sequence[Callback]) -> str:
    """What ended a run before its limits did; empty: nothing."""
    enders = (one for one in callbacks if isinstance(one, _Enders))
    return next((one.ended_by for one in enders if one.ends_the_run), "")


def _results(module: Posttrain, callbacks: Sequence[Callback], ended_by: str) -> dict[str, Any]:
    """What the manifest keeps of a run that has ended."""
    results: dict[str, Any] = {**module.counts()}
    for one in callbacks:
        if isinstance(one, CollapseAlarm):
            results |= one.results
        elif isinstance(one, Curriculum):
            results |= {"stages": one.results(ended_by)}
    return results


class _Molecules:
    """What a run of a SMILES model is put together from."""

    limit, prompts = "max_samples", ()
    reward: RewardModel | StageRewards
    bounds = (RewardModel.FAILED, RewardModel.MOST)

    def __init__(self, config: PosttrainConfig, out: Path) -> None:
        self.config, self.out = config, out
        kept, agent = kept_models(out), config.agent or config.prior
        self._trained = load_policy(kept.get(agent, agent))
        self._prior = freeze(load_policy(kept.get(config.prior, config.prior)))
        self.text = config.generator is not None
        self.policy: SequenceModel = self._trained
        self._names: Sequence[str] = ()
        if config.generator is not None:
            self._constraint = build_constraint(config.generator, self._prior, config.seed)
            self._names = self._constraint.names
            self.policy = ConstrainedPolicy(self._trained, self._constraint)
        self.seeds: list[tuple[Seed, list[int]]] = []
        self.notes: list[str] = []
        """What there is to say of a new run."""
        memory = config.memory
        if memory is None or (seed := memory.seed) is None:
            return
        # what the policy cannot write of the memory's seeds is left out, and told
        read = read_seed(seed, config.budget, memory.capacity, self.notes.append)
        spelled = [(one, self.spell(one.canonical)) for one in read]
        self.seeds = [(one, ids) for one, ids in spelled if ids is not None]
        lost = [one for one, ids in spelled if ids is None]
        some = ", ".join(f"line {one.line} ({one.canonical})" for one in lost[:3])
        more = f" and {len(lost) - 3:,} more" if len(lost) > 3 else ""
        why = "the policy cannot write them: they have a token that it lacks, or are too long"
        if not self.seeds:
            raise InputError(f"{seed.path}: all of its molecules, {some}{more}: {why}")
        if lost:
            self.notes.append(f"memory.seed: {seed.path}: left out are {some}{more}: {why}")

    def build_reward(self) -> RewardModel | StageRewards:
        models: dict[str, RewardModel] = {}
        by_stage = []
        for stage in self.config.in_stages:
            key = stage.reward.model_dump_json()
            if key not in models:
                models[key] = RewardModel.from_config(stage.reward)
                if self.config.callbacks.progress_bar:
                    # a second bar in the same place would fight the first
                    models[key].show_progress(nothing_shown)
            by_stage.append(models[key])
        self.reward = StageRewards(by_stage) if self.config.stages else by_stage[0]
        return self.reward

    def inputs(self) -> dict[str, Path]:
        models = {"prior": self.config.prior, "agent": self.config.agent}
        there = {role: path for role, path in models.items() if path is not None}
        for n, stage in enumerate(self.config.stages or ()):
            if stage.reward is not None:
                files = reward_files(stage.reward)
                there |= {f"stages.{n}.{role}": path for role, path in files.items()}
        there |= files_of(self.config.generator)
        if self.config.memory is not None and self.config.memory.seed is not None:
            there["memory.seed"] = self.config.memory.seed.path
        return there | reward_files(self.config.reward)

    def begin(self, manifest: Manifest) -> None:
        """Nothing is kept of a new run."""

    def reference(self) -> Any:
        if self.config.generator is None:
            return self._prior
        return ConstrainedPolicy(self._prior, self._constraint)

    def ledger(self) -> Ledger:
        if isinstance(self.reward, RewardModel):
            withdraws = build_filter(self.config.diversity_filter)
            return Ledger(self.reward, withdraws, self.config.budget, self._names)
        filters: list[DiversityFilter] = []
        own_before: Any = None
        for own, stage in zip(self.config.stages or (), self.config.in_stages, strict=True):
            nothing = filters and stage.diversity_filter is None and own_before is None
            is_same = own.keep_filter or nothing
            filters.append(filters[-1] if is_same else build_filter(stage.diversity_filter))
            own_before = stage.diversity_filter
        return StagedLedger(self.reward, filters, self.config.budget, self._names)

    def spell(self, smiles: str) -> list[int] | None:
        """The ids of a SMILES; None where the policy cannot write it."""
        try:
            ids = self._trained.vocabulary.encode(smiles)
        except UnknownTokenError:
            return None
        return ids if len(ids) <= self._trained.max_length + 1 else None

    def memory(self, ledger: Ledger, number: int) -> Memory | None:
        """That of a stage, by its number from 0."""
        config, target = self.config.memory, self.config.in_stages[number].target
        if config is None:
            return None
        withdraws = ledger.filters[number]
        rows, seed = self.config.replayed, self.config.seed
        moves = target.schedule is not None and target.schedule.tau is not None
        tau = None if moves else getattr(target, "tau", None)
        return Memory(config, withdraws, rows=rows, tau=tau, has_hits=target.has_hits, seed=seed)

    def explorer(self, ledger: Ledger, memory: Memory | None) -> Explorer | None:
        """That of a stage, by its memory."""
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

    def save(self, manifest: Manifest, about: dict[str, Any], counts: dict[str, int]) -> None:
        about["prior_sha256"] = manifest.inputs["prior"].sha256
        about["versions"] = manifest.versions
        save_policy(self._trained, self.out / POLICY, about | counts)

    def failures(self) -> Sequence[str]:
        models = [self.reward] if isinstance(self.reward, RewardModel) else self.reward.distinct
        return [line for one in models for line in one.failures.describe()]


class _Texts:
    """What a run of a language model is put together from."""

    limit, text, seeds, notes = "max_steps", True, (), ()

    def __init__(self, config: LlmPosttrainConfig, out: Path) -> None:
        self.config, self.out = config, out
        model = config.model.name
        if isinstance(model, Path) and out.resolve().is_relative_to(model.resolve()):
            raise InputError(
                f"{out}: is the folder of the model {model}, or lies in it; a run would change the "
                "model that it starts from. Choose another folder with --out."
            )
        self.policy = build_policy(config)

    @property
    def prompts(self) -> Sequence[Prompt]:
        """Those of the policy."""
        return self.policy.prompts

    @prompts.setter
    def prompts(self, prompts: Sequence[Prompt]) -> None:
        self.policy.prompts = tuple(prompts)

    def build_reward(self) -> Any:
        self.reward = build_reward(self.config.reward)
        self.bounds = self.reward.bounds
        return self.reward

    def inputs(self) -> dict[str, Path]:
        named = {"model": self.config.model.name, "template": self.config.template}
        there = {role: path for role, path in named.items() if isinstance(path, Path)}
        return there | dict(self.reward.files)

    def begin(self, manifest: Manifest) -> None:
        """Take the prompts that the run kept when it was begun, or keep these.

        A template that inserts the date renders others on another day, and then rows of two
        prompts would have the same number: in the ledger, and in what the reference remembers.
        """
        prompts = self.policy.prompts
        kept = kept_prompts(self.out, len(prompts)) if manifest.was_resumed else None
        if kept is None:
            keep_prompts(prompts, self.out)
        self.policy.prompts = kept or prompts

    def reference(self) -> Reference:
        frozen = self.policy
        if not frozen.has_adapter:
            frozen = build_policy(self.config, trained=False, prompts=self.policy.prompts)
        self._reference = Reference(frozen, self.config.reference_memory)
        return self._reference

    def ledger(self) -> TextLedger:
        budget = math.inf if self.config.budget is None else self.config.budget
        withdraws = build_filter(self.config.diversity_filter)
        return TextLedger(self.reward, self.policy.prompts, withdraws, budget)

    def memory(self, _ledger: TextLedger, _number: int) -> None:
        """Nothing of a language model's is replayed."""

    def explorer(self, _ledger: TextLedger, _memory: None) -> None:
        """Nor is anything made of it."""

    def callbacks(self, _module: Posttrain, _say: Callable[[str], object]) -> list[Callback]:
        config = self.config
        callbacks: list[Callback] = []
        if config.track is not None:
            models = self.policy, self._reference
            callbacks.append(AnswerTracker(self.out, *models, config.tracked, config.track.every))
        if config.callbacks.terminate is not None:
            of_text = () if config.reward.kind == "smiles" else TEXT_COLUMNS
            callbacks.append(Termination(config.callbacks.terminate, of_text))
        return callbacks

    def save(self, manifest: Manifest, about: dict[str, Any], counts: dict[str, int]) -> None:
        about["versions"] = manifest.versions | installed_versions(PACKAGES)
        save(self.policy, self.out / training.CHECKPOINTS, self.config, about | counts)

    def failures(self) -> Sequence[str]:
        """A line for each kind of failure, and one where many completions had no end."""
        reasons = read_trace(self.out, ["reason"])["reason"].astype(object)
        texts = reasons.where(reasons.notna(), None).tolist()
        return [
            *self.reward.failures.describe(),
            *describe_cut_off(texts, self.config.max_new_tokens),
        ]


# ---- checks


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Look into reward, models and trainer, without training.

    A language model in a wheel that was never used is not fetched for this; its prompts are
    checked when the run starts.
    """
    trainer, batch_size = view.mapping("trainer"), view.get("batch_size")
    amiss = complaints((training.check_trainer_here, trainer))
    n = 1 if amiss else training.devices_of({"devices": 1, **(trainer or {})})[1]
    uneven = f"batch_size: {batch_size} rows cannot be dealt evenly to {n} devices"
    here = [
        ("trainer", amiss),
        ("batch_size", [f"{uneven}: take a multiple of {n}"] if (batch_size or 0) % n else []),
        ("precision", complaints((check_precision, view.get("precision"), trainer or {}))),
    ]
    if not issubclass(view.model, LlmPosttrainConfig):

        def check_agent(agent: Path, prior: Path | None) -> None:
            """Compare the agent's vocabulary with the prior's where that can be read."""
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
        of_stages = getattr(view.config, "in_stages", ())
        kinds = [stage.estimator.kind for stage in of_stages]
        yield "", complaints((check_generator, generator, header, batch_size, kinds))
        yield "agent", complaints((check_agent, agent, None if unusable else prior))
        memory = view.get("memory")
        if isinstance(memory, MemoryConfig):
            limits = view.get("budget") or math.inf, memory.capacity
            yield "memory.seed", complaints((read_seed, memory.seed, *limits))
        yield "exploration", complaints((check_exploration, view.get("exploration")))
        yield from here
        return
    config = view.config if isinstance(view.config, LlmPosttrainConfig) else None
    checks = [
        ("model", complaints((check_installed, PACKAGES[:2])) if config else []),
        ("reward", complaints((lambda reward: build_reward(reward).close(), view.get("reward")))),
        *here,
    ]
    yield from checks
    if config and not any(lines for _, lines in checks) and config.model.name not in view.awaited:
        yield "prompts", complaints((read_prompts, config)) if is_here(config.model) else []


def check_spent(config: AnyConfig, out: Path) -> None:
    """Refuse limits below what the run in a folder has spent."""
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
        f"{out}: the run has spent {spent:,} {what}, more than {key} allows ({limit:,}): it can be "
        "made longer, not shorter. Choose another folder with --out, or begin anew with --fresh."
        for key, limit, spent, what in limits
        if limit is not None and spent > limit
    ]
    InputError.refuse(over)
