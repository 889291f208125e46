"""KL-regularised post-training; `Posttrain.training_step` is the loop, one step in numbered parts.

Legend: B rows of a batch, C rows carried over from the previous batch, K rows that are kept.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import lightning
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from chemkl.chem.fingerprints import fingerprint_bits, tanimoto_kernel
from chemkl.chem.molecules import randomise
from chemkl.config import InputError
from chemkl.losses import LossInputs, LossOutput, Objective, TargetOutput
from chemkl.policies.base import Rollout, SequenceModel, joined, pad, stream
from chemkl.policies.rnn import weights_stay
from chemkl.results.trace import TraceWriter
from chemkl.training.curriculum import Schedule
from chemkl.training.exploration import Explorer
from chemkl.training.ledger import BaseLedger
from chemkl.training.memory import (
    Extras,
    Memory,
    Molecule,
    Seed,
    extra_rows,
    log_mixture,
    rewarded_molecules,
    step_rng,
)
from chemkl.training.ranks import ALONE, Ranks

Spell = Callable[[str], Sequence[int] | None]
"""Encodes a SMILES as token ids; None if the policy cannot write it."""

SCHEDULED = ("tau", "beta")
"""What a schedule changes: columns of the trace, logged as target/tau and target/beta."""
METRICS = {
    "calls": "oracle calls spent so far",
    "samples": "sequences sampled so far",
    "valid_rate": "share of the batch that RDKit can read",
    "truncated_rate": "share of the batch that was cut off: no end within the most tokens",
    "unique_rate": "different molecules among the valid rows of the batch; NaN without any",
    "new_rate": "share of the batch that the run had not seen before: those that cost a call",
    "canonical_rate": "share of the batch that is spelled as RDKit would spell it; a falling rate "
    "means that the policy learns odd spellings",
    "reward": "mean reward of the batch, 0 for invalid rows",
    "reward_filtered": "the same after the diversity filter",
}
"""What is logged in addition to the objective's metrics (``objective/``) and ``hits/``."""


class Phase(NamedTuple):
    """What one stage of a run trains with."""

    objective: Objective
    """Target and estimator."""
    learning_rate: float
    """Learning rate of Adam."""
    memory: Memory | None = None
    """Replays molecules; None: no replay."""
    schedule: Schedule | None = None
    """Changes tau and beta of the target; None: they are constant."""
    explorer: Explorer | None = None
    """Spends calls on molecules that the policy did not sample; None: no exploration."""


class Posttrain(lightning.LightningModule):
    """Trains a policy from its prior towards a target distribution.

    Args:
        policy: the network to train; its dropout, if any, is switched off for good.
        reference: the frozen prior; it is not part of the saved state.
        ledger: scores and counts.
        phases: what each stage trains with, see `begin_stage`.
        trace: receives every row; None in a process that does not write the trace.
        batch_size: sequences a step.
        most_samples: number of sequences after which the run ends.
        seed: of the samples.
        seeds: molecules that the memory begins with, and their token ids.
        updates: updates of the policy on each batch.
        spell: with it, further updates on a batch use random spellings of its molecules, and log
            pi_ref of a molecule is that of its canonical SMILES. None: all updates use the sampled
            sequences.
    """

    def __init__(
        self,
        policy: SequenceModel,
        reference: SequenceModel,
        ledger: BaseLedger,
        phases: Sequence[Phase],
        trace: TraceWriter | None,
        *,
        batch_size: int,
        most_samples: int,
        seed: int,
        seeds: Sequence[tuple[Seed, Sequence[int]]] = (),
        updates: int = 1,
        spell: Spell | None = None,
    ) -> None:
        super().__init__()
        # training mode, as recurrent nets on a GPU need it, but without dropout: the policy that
        # samples must be the policy that is scored, and no checkpoint holds dropout's generator
        for layer in policy.train().modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
            elif isinstance(layer, nn.RNNBase):
                layer.dropout = 0.0
        self.policy = policy
        self.ledger = ledger
        self.trace = trace
        self.n_unspelled = 0
        """Random spellings that the policy cannot write, and that were skipped."""
        self.is_whole = True
        """Whether all updates of the latest step are done."""
        self.next_step = 0
        self.ranks = ALONE
        """The processes of the run; all of them have the same rows and share the work."""
        self.recorded = pd.DataFrame()
        """The trace rows of the latest step."""
        self._phases, self._stage = phases, 0
        self._objectives = list({id(phase.objective): phase.objective for phase in phases}.values())
        self._is_scheduled = any(phase.schedule is not None for phase in phases)
        self._explores = any(phase.explorer is not None for phase in phases)
        self._outside = (reference,)  # in a tuple it is no submodule: not saved, not trained
        self._builder = InputBuilder(policy, reference, phases[0].objective, seed, spell)
        self._seeds, self._updates, self._spell = seeds, updates, spell
        self._batch: _Batch | None = None
        self._target_values: dict[str, float] = {}
        self._batch_size = batch_size
        self._most_samples = most_samples
        self._seed = seed
        self._warned = False
        self._learns = True
        """Whether the latest step is learnt from; a batch cut short by the run's end is not."""

    @weights_stay()
    def training_step(self, number: int, _batch_index: int) -> Tensor | None:
        """Make one update; a batch cut short by the end of the run is recorded, not learnt from.

        The first update of a step samples and scores a batch, as numbered here; `_further_update`
        makes the others.
        """
        step, update = divmod(number, self._updates)
        if update:
            return self._further_update(step, update)
        self._apply_schedule()
        seed_rows = self._add_seeds() if step == 0 and self._seeds else None
        # 1. sample from the policy, as far as the budget reaches
        rollout = self.ledger.affordable(self._sample(step))
        self._learns = len(rollout) == self._batch_size
        if self._learns and self.ledger.has_workers and self._spell is None:
            self._builder.start_reference_pass(rollout, self.ranks)
        # 2. score: one row a sequence, its call counted, its reward filtered for diversity
        rows = self.ledger.enter(step, rollout)
        extras = self._extras(step, rows, rollout) if self._learns else None
        with nullcontext() if self._learns else self._rolled_back():
            # 3. compute log p under the policy and under the prior
            inputs = self._builder.build(
                rollout, rows, step, self.ranks, learns=self._learns, extras=extras
            )
            # 4. evaluate the target at these rows, and the estimator's loss
            output = self.objective(inputs) if self._learns else None
            target = (
                output.target
                if output
                else self.objective.target(inputs.logp_ref, inputs.reward, inputs.group)
            )
        # 5. record every row
        recorded = self._record(trace_rows(rows, inputs, target, extras), extras, seed_rows)
        self.next_step = step + 1
        detached = replace(inputs, logp_policy=inputs.logp_policy.detach())
        self._batch = _Batch(with_extras(rollout, extras), detached, recorded)
        self._end_update(0 if self._learns else self._updates - 1)
        if output is None:
            return self._shared_loss(None)
        if self.ranks.rank == 0:
            self._log(step, rows, inputs, output, extras)
        # 6. keep what later steps need
        self._builder.carry(output.carry, rollout, inputs)
        if (memory := self._phase.memory) is not None:
            n = len(rows)
            memory.observe_hits(inputs.reward[:n][target.hit[:n]].tolist())
            logps = inputs.logp_ref[:n], inputs.logp_policy[:n]
            sampled = rewarded_molecules(rows, rollout.tokens, *logps)
            explored = extras.molecules[: len(extras.explored)] if extras else ()
            memory.add([*sampled, *(molecule for molecule in explored if molecule.reward > 0)])
        # 7. update: Lightning takes the gradient of the loss, and Adam steps
        return self._shared_loss(output.loss)

    # ---- the parts of a step, in their order

    def _apply_schedule(self) -> None:
        """Set tau and beta of the target for this step, and note them for the trace."""
        if not self._is_scheduled:
            return
        if self._phase.schedule is not None:
            self.objective.move(**self._phase.schedule.values)
        target = self.objective.target
        tau = getattr(target, "tau", None)
        self._target_values = {"tau": math.nan if tau is None else tau, "beta": target.beta}
        if self._phase.memory is not None and tau is not None:
            self._phase.memory.tau = tau

    def _add_seeds(self) -> pd.DataFrame | None:
        """Add the seeds to the memory; return trace rows of those that had to be scored."""
        memory = self._phase.memory
        assert memory is not None  # seeds belong to a memory
        token_BT = pad([ids for _, ids in self._seeds], self.device)
        with torch.no_grad():
            logp_ref_B = self.ranks.logp(self.reference.logp_tokens, token_BT)
            logp_policy_B = self.ranks.logp(self.policy.logp_tokens, token_BT)
        seeds = [seed for seed, _ in self._seeds]
        rewards, rows = [seed.reward for seed in seeds], None
        if None in rewards:
            rollout = _unsampled([seed.canonical for seed in seeds], token_BT)
            rows = self.ledger.enter(0, rollout, kind="seed")
            rewards = rows["reward"].tolist()
            rows["logp_policy"], rows["logp_ref"] = logp_policy_B.numpy(), logp_ref_B.numpy()
            rows = rows.assign(log_target=np.nan, hit=False, anchor=False, is_replay=True)
        memory.add(
            Molecule(
                seed.canonical, seed.canonical, seed.scaffold, reward, logp, "seed", tuple(ids)
            )
            for (seed, ids), reward, logp in zip(
                self._seeds, rewards, logp_ref_B.tolist(), strict=True
            )
            if reward
        )
        return rows

    def _sample(self, step: int) -> Rollout:
        n = min(self._batch_size, self._most_samples - self.ledger.n_samples)
        part = self.ranks.part(n)
        local_rollout = self.policy.sample_to_learn(n, stream(self._seed, step), part)
        # before torch 2.10 autocast caches the weights cast under no_grad, which blocks gradients
        torch.clear_autocast_cache()
        rollout = self.ranks.rollout(local_rollout)
        if not bool(rollout.logp.isfinite().all()):
            raise InputError(
                f"step {step}: the policy has diverged: its log-probabilities are not finite. "
                f"Lower learning_rate (now {self._phase.learning_rate:g}), or add "
                "trainer: {gradient_clip_val: 1.0}, and start again with --fresh."
            )
        return rollout

    def _extras(self, step: int, rows: pd.DataFrame, rollout: Rollout) -> Extras | None:
        """Return the explored and replayed molecules that join a whole batch; None: no molecule.

        If the budget ends while exploring, nothing is replayed and the step is not learnt from.
        """
        memory = self._phase.memory
        if memory is None:
            return None
        memory.drop_repeats(rows.loc[rows["repeat"], "canonical_smiles"])
        explored = self._explored(step)
        if self._learns:
            extras = memory.draw(step, rows["canonical_smiles"], rollout.tokens)
        else:
            extras = Extras((), torch.zeros(0).double(), torch.zeros(len(rows)).double())
        return (extras.with_explored(*explored) if explored else extras) or None

    def _explored(self, step: int) -> tuple[Sequence[Molecule], pd.DataFrame] | None:
        """Spend calls on molecules that the policy did not sample; return them and their rows."""
        explorer, ranks = self._phase.explorer, self.ranks
        if explorer is None or not explorer.is_due(step):
            return None
        self._builder.wait()  # the explorer uses the same prior
        # the first process chooses for all: another machine might round differently
        selection = ranks.agree(lambda: None if ranks.rank else explorer.choose(step))[0]
        assert selection is not None
        candidates = selection.candidates
        token_BT = pad([c.tokens for c in candidates] or [(0, 0)], self.device)
        whole = _unsampled([c.smiles for c in candidates], token_BT)
        affordable = self.ledger.affordable(whole)
        self._learns = len(affordable) == len(whole)
        if self._learns:
            explorer.count(selection)
        if not len(affordable):
            return None
        rows = self.ledger.enter(step, affordable, kind="explored")
        values = zip(candidates, rows["scaffold"], rows["reward"], strict=False)
        molecules = [
            Molecule(c.smiles, c.smiles, scaffold or "", reward, c.logp_ref, c.origin, c.tokens)
            for c, scaffold, reward in values
        ]
        return molecules, rows

    @contextmanager
    def _rolled_back(self) -> Iterator[None]:
        """Undo what objective and reference remember of a cut batch; a longer run redoes it."""
        objective, reference = self.objective.state_dict(), self.reference.memory()
        yield
        self.objective.load_state_dict(objective)
        self.reference.restore_memory(reference)

    def _record(
        self, rows: pd.DataFrame, extras: Extras | None, seed_rows: pd.DataFrame | None
    ) -> pd.DataFrame:
        """Write the rows of a step, seeds first; a run that explores has a column `origin`."""
        if self._explores:
            origins = [molecule.origin for molecule in extras.molecules] if extras else []
            rows["origin"] = ["policy"] * (len(rows) - len(origins)) + origins
        if seed_rows is not None:
            seed_rows = seed_rows.assign(origin="seed") if self._explores else seed_rows
            rows = pd.concat([seed_rows, rows], ignore_index=True)
            rows["row"] = np.arange(len(rows))
        rows = rows.assign(**self._target_values)
        self.observe(rows)
        if self.trace is not None:
            self.trace.append(rows)
        return rows

    def _end_update(self, update: int) -> None:
        """Publish the rows of a step after its last update, and stop the trainer if finished."""
        assert self._batch is not None
        self.is_whole = update == self._updates - 1
        self.recorded = self._batch.recorded if self.is_whole else self._batch.recorded.head(0)
        if self.is_whole:
            self._batch = None
            self.trainer.should_stop |= self.is_finished

    def _shared_loss(self, loss: Tensor | None) -> Tensor | None:
        """Return the loss in the form DDP needs: one in each process, on all weights."""
        if self.ranks.world == 1:
            return loss
        trained = [weight for weight in self.policy.parameters() if weight.requires_grad]
        zero = 0.0 * torch.stack([weight.view(-1)[0] for weight in trained]).sum().cpu()
        return zero if loss is None else loss + zero

    def _log(
        self,
        step: int,
        rows: pd.DataFrame,
        inputs: LossInputs,
        output: LossOutput,
        extras: Extras | None,
    ) -> None:
        """Warn of a MARA bonus out of scale, and log metrics every `log_every_n_steps` steps.

        The loggers are called directly: ``self.log`` costs more than the update of a small policy.
        """
        spread, most = float(output.metrics["mara_bonus_std"]), float(inputs.reward.abs().max())
        if spread > most and not self._warned:
            self._warned = True
            beta = self.objective.beta
            warnings.warn(
                f"mara_bonus_std = {spread:.2g}, above the highest reward of the batch ({most:.2g})"
                f": log pi_ref of the hits varies by {spread / beta:.3g} nats, and beta = {beta:g} "
                "makes more of that than of the reward. Take a smaller beta, or cap or alpha in "
                "the target.",
                stacklevel=2,
            )
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # its connector sets it
        if not every or (step + 1) % every:
            return
        metrics = {f"objective/{name}": float(value) for name, value in output.metrics.items()}
        metrics |= {"calls": float(self.ledger.n_calls), "samples": float(self.ledger.n_samples)}
        metrics |= {f"target/{name}": value for name, value in self._target_values.items()}
        metrics |= self.ledger.describe(rows, output.target.hit[: len(rows)].numpy())
        if self._spell is not None:
            metrics["augment/unspelled"] = float(self.n_unspelled)
        if (memory := self._phase.memory) is not None:
            n_replayed = 0 if extras is None else len(extras) - len(extras.explored)
            metrics |= {"memory/size": float(len(memory)), "memory/replayed": float(n_replayed)}
        if (explorer := self._phase.explorer) is not None:
            metrics |= {f"exploration/{name}": float(n) for name, n in explorer.counts.items()}
        for logger in self.loggers:
            logger.log_metrics(metrics, step=step)

    # ---- further updates on a batch

    def _further_update(self, step: int, update: int) -> Tensor | None:
        """Update once more on the batch of a step, under the current policy and target."""
        assert self._batch is not None  # set by the first update
        token_BT, inputs, _ = self._batch
        if inputs.logp_behaviour is None:  # the policy before the first update has sampled
            inputs = replace(inputs, logp_behaviour=inputs.logp_policy)
        if self._spell is not None:
            token_BT, kept_B = self._respelled(self._batch, step, update)
            inputs = inputs.where(kept_B)
        logp_B = self.ranks.logp(self.policy.logp_tokens, token_BT).cpu()
        output = self.objective(replace(inputs, logp_policy=logp_B))
        self._end_update(update)
        return self._shared_loss(output.loss)

    def _respelled(self, batch: "_Batch", step: int, update: int) -> tuple[Tensor, Tensor]:
        """Spell the molecules of a batch at random; invalid rows keep their sequence.

        Returns:
            token_KT of the rows that the policy can write, and which rows these are (bool_B).
        """
        assert self._spell is not None
        rng = step_rng(self._seed, step, f"spelling {update}")
        smiles = batch.recorded["canonical_smiles"].tail(len(batch.tokens))
        spelled = [
            self._spell(randomise(text, rng)) if isinstance(text, str) else ids
            for text, ids in zip(smiles, batch.tokens.tolist(), strict=True)
        ]
        kept = [ids for ids in spelled if ids is not None]
        self.n_unspelled += len(spelled) - len(kept)
        kept_B = torch.tensor([ids is not None for ids in spelled])
        return pad(kept, batch.tokens.device), kept_B

    # ---- the run

    @property
    def reference(self) -> SequenceModel:
        """The frozen prior."""
        return self._outside[0]

    @property
    def _phase(self) -> Phase:
        return self._phases[self._stage]

    @property
    def objective(self) -> Objective:
        """Target and estimator of the current stage."""
        return self._phase.objective

    @property
    def is_finished(self) -> bool:
        """Whether the budget of calls or of samples is used up."""
        return self.ledger.is_exhausted or self.ledger.n_samples >= self._most_samples

    def counts(self) -> dict[str, int]:
        """Return the calls, samples and steps so far."""
        calls, samples = self.ledger.n_calls, self.ledger.n_samples
        return {"calls": calls, "samples": samples, "steps": self.next_step}

    def begin_stage(self, stage: int) -> None:
        """Switch to the phase of a stage, counted from 0.

        Carried rows are dropped unless the objective that carried them stays.
        """
        self._stage = stage
        if self._builder.objective is not self.objective:
            self._builder.objective, self._builder.carried = self.objective, {}

    def observe(self, rows: pd.DataFrame) -> None:
        """Update schedules and explorers from rows of a step, or of an interrupted run."""
        if not (self._is_scheduled or self._explores):
            return
        for _, step in rows.groupby("step"):
            phase = self._phases[int(step["stage"].iloc[0]) - 1 if "stage" in step else 0]
            if phase.schedule is not None:
                phase.schedule.add(step)
            if phase.explorer is not None:
                phase.explorer.observe(step)

    # ---- Lightning's hooks

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam, at a rate that is constant in each stage, as in REINVENT.

        The objectives' parameters have a group of their own: they stay on the CPU, and Adam fuses
        the update of a group only if all of it is on one device.
        """
        trained = [weight for weight in self.policy.parameters() if weight.requires_grad]
        of_objectives = [p for objective in self._objectives for p in objective.parameters()]
        groups = [{"params": params} for params in (trained, of_objectives) if params]
        # fused on a CPU; on other devices torch decides
        fused = {weight.device.type for weight in trained} == {"cpu"} or None
        return torch.optim.Adam(groups, lr=self._phase.learning_rate, fused=fused)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the policy's gradient only: that of a learned log Z has another scale."""
        del optimizer
        if not gradient_clip_val:
            return
        if gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.policy.parameters(), gradient_clip_val)
        else:
            nn.utils.clip_grad_norm_(self.policy.parameters(), gradient_clip_val)

    def on_fit_start(self) -> None:
        """Move the reference to the policy's device; Lightning moves submodules only."""
        self.reference.to(self.device)

    def on_train_start(self) -> None:
        """Move each optimiser state to its parameter; a resume moves all to the policy's device."""
        for optimizer in self.trainer.optimizers:
            move_state_to_parameters(optimizer)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate of the stage; drop the gradient of a batch not learnt from."""
        for group in optimizer.param_groups:
            group["lr"] = self._phase.learning_rate
        if not self._learns:
            for weight in self.policy.parameters():
                weight.grad = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the next step, and all state that carries over from batch to batch."""
        checkpoint["next_step"] = self.next_step
        checkpoint["stage"] = self._stage
        # two keys, since older checkpoints have the first one only
        checkpoint["objective"], *later = [o.state_dict() for o in self._objectives]
        checkpoint["later_objectives"] = later
        carried = self._builder.carried.items()
        checkpoint["carried"] = {name: values.cpu() for name, values in carried}
        # each process remembers the rows that it has evaluated
        checkpoint["reference"], *references = self.ranks.gather(self.reference.memory())
        checkpoint["references"] = references
        checkpoint["n_unspelled"] = self.n_unspelled
        if self._phase.memory is not None:
            checkpoint["memory"] = self._phase.memory.state_dict()
        if self._phase.explorer is not None:
            checkpoint["exploration"] = self._phase.explorer.state_dict()
        checkpoint["is_cut"] = not self._learns

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` has added."""
        self.next_step = checkpoint["next_step"]
        self._learns = not checkpoint.get("is_cut", False)
        states = [checkpoint["objective"], *checkpoint.get("later_objectives", ())]
        for objective, state in zip(self._objectives, states, strict=True):
            objective.load_state_dict(state)
        phase = self._phases[checkpoint.get("stage", 0)]
        same_objective = phase.objective is self.objective
        self._builder.carried = dict(checkpoint["carried"]) if same_objective else {}
        references = [checkpoint.get("reference", {}), *checkpoint.get("references", ())]
        self.reference.restore_memory(references[self.ranks.rank])
        self.n_unspelled = checkpoint.get("n_unspelled", 0)
        if phase.memory is not None:
            phase.memory.load_state_dict(checkpoint["memory"])
        if phase.explorer is not None:
            phase.explorer.load_state_dict(checkpoint["exploration"])


class _Batch(NamedTuple):
    """A batch as further updates need it."""

    tokens: Tensor  # token_BT, replayed rows last
    inputs: LossInputs
    recorded: pd.DataFrame  # the trace rows; the last ones are those of the tokens


class InputBuilder:
    """Builds the inputs of an objective, and keeps the rows that it carries to the next batch."""

    def __init__(
        self,
        policy: SequenceModel,
        reference: SequenceModel,
        objective: Objective,
        seed: int,
        spell: Spell | None = None,
    ) -> None:
        self._policy = policy
        self._spell = spell
        self._reference = reference
        self.objective = objective
        self._seed = seed
        self._thread: ThreadPoolExecutor | None = None
        self._reference_pass: Future[Tensor] | None = None
        self.carried: dict[str, Tensor] = {}
        """token_CT, reward_C (float64) and group_C of rows carried to the next batch (msc)."""

    def start_reference_pass(self, rollout: Rollout, ranks: Ranks = ALONE) -> None:
        """Start the prior's pass over a batch in a thread, while worker processes score it.

        `build` waits for it. If this process scores, a thread gains nothing: both hold the GIL.
        """
        if self._thread is None:  # the number of threads is a setting of each thread
            n_threads = (torch.get_num_threads(),)
            self._thread = ThreadPoolExecutor(
                1, initializer=torch.set_num_threads, initargs=n_threads
            )
        kind = self._reference.device.type
        autocast = torch.autocast(
            kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind)
        )
        tokens = self._with_carried(rollout)
        self._reference_pass = self._thread.submit(
            autocast(ranks.local_logp), self._logp_ref, tokens
        )

    def wait(self) -> None:
        """Wait until the prior is free: it serves one thread at a time."""
        wait([self._reference_pass] if self._reference_pass else [])

    def build(
        self,
        rollout: Rollout,
        rows: pd.DataFrame,
        step: int,
        ranks: Ranks = ALONE,
        *,
        learns: bool = True,
        extras: Extras | None = None,
    ) -> LossInputs:
        """Return the inputs of a batch; carried rows, or explored and replayed ones, come last.

        All tensors are on the CPU: a few numbers a row, rewards in float64. Without an update
        (`learns`) no fresh samples of the prior are drawn. All processes have all rows, and each
        computes log p of its part of them.
        """
        tokens = self._with_carried(rollout)
        reward_B = torch.tensor(rows["reward_filtered"].to_numpy(), dtype=torch.float64)
        group_B = None if rollout.group is None else rollout.group.cpu()
        duplicate_B, retained_B = repeats(rollout.tokens, rollout.group), None
        if self.carried:
            reward_B = torch.cat([reward_B, self.carried["reward"]])
            if group_B is not None:
                group_B = torch.cat([group_B, self.carried["group"]])
            retained_B = torch.arange(len(reward_B)) >= len(rows)
            duplicate_B = torch.cat([duplicate_B, torch.zeros(len(reward_B) - len(rows)).bool()])
        if self._reference_pass is None:
            spell = self._spell
            ref_tokens = tokens if spell is None else self._canonical(rollout, rows, spell)
            logp_ref_B = ranks.logp(self._logp_ref, ref_tokens)
        else:
            logp_ref_B = ranks.join(self._reference_pass.result())
            self._reference_pass = None
        inputs = LossInputs(
            logp_policy=self._logp_policy(rollout, tokens, ranks).cpu(),
            logp_ref=logp_ref_B,
            reward=reward_B,
            group=group_B,
            duplicate=duplicate_B,
            retained=retained_B,
            logp_policy_of_prior=self._of_prior(len(rows), step, ranks) if learns else None,
            **self._shaper_inputs(rows),
        )
        return inputs if extras is None else self._with_extras(inputs, rollout, ranks, extras)

    def _with_extras(
        self, inputs: LossInputs, rollout: Rollout, ranks: Ranks, extras: Extras
    ) -> LossInputs:
        """Append explored and replayed rows, whose log pi_ref is known."""
        token_BT = with_extras(rollout, extras)
        extra_logp = ranks.logp(self._policy.logp_tokens, token_BT[len(rollout) :]).cpu()
        logp_policy_B = torch.cat([inputs.logp_policy, extra_logp])
        behaviour_B = None
        if self.objective.estimator.weighs_old:
            behaviour_B = torch.cat([inputs.logp_policy.detach(), extras.logp_policy])
        elif self.objective.estimator.weighs:
            behaviour_B = log_mixture(logp_policy_B.detach(), extras)
        return replace(
            inputs,
            logp_policy=logp_policy_B,
            logp_ref=torch.cat([inputs.logp_ref, extras.logp_ref]),
            reward=torch.cat([inputs.reward, extras.reward]),
            duplicate=repeats(token_BT),
            retained=torch.arange(len(token_BT)) >= len(rollout),
            logp_behaviour=behaviour_B,
        )

    def carry(self, carry_B: Tensor | None, rollout: Rollout, inputs: LossInputs) -> None:
        """Keep the marked rows for the next batch; None: the objective carries no rows."""
        if carry_B is None:
            return
        tokens = self._with_carried(rollout)
        columns = {"tokens": tokens, "reward": inputs.reward, "group": inputs.group}
        self.carried = {
            name: values[carry_B.to(values.device)]
            for name, values in columns.items()
            if values is not None
        }

    def _with_carried(self, rollout: Rollout) -> Tensor:
        """Return the sequences of a batch, token_BT, followed by the carried ones."""
        if not self.carried:
            return rollout.tokens
        carried = self.carried["tokens"].to(rollout.tokens.device)
        return joined(rollout.tokens, carried, rollout.end_id)

    def _canonical(self, rollout: Rollout, rows: pd.DataFrame, spell: Spell) -> Tensor:
        """Return the sequences of a batch, molecules in their canonical spelling where possible.

        Spellings of a molecule differ by 20 to 70 nats under a prior of canonical SMILES. With one
        log pi_ref a molecule, MARA does not reward odd ones.
        """
        texts = zip(rollout.tokens.tolist(), rows["smiles"], rows["canonical_smiles"], strict=True)
        ids = [
            (spell(text) if isinstance(text, str) and text != smiles else None) or row
            for row, smiles, text in texts
        ]
        return pad(ids, rollout.tokens.device)

    @torch.no_grad()
    def _logp_ref(self, token_BT: Tensor) -> Tensor:
        return self._reference.logp_tokens(token_BT)

    def _logp_policy(self, rollout: Rollout, tokens: Tensor, ranks: Ranks) -> Tensor:
        """Return log pi_theta with its graph; rows sampled without one need another pass."""
        if not rollout.logp.requires_grad:
            return ranks.logp(self._policy.logp_tokens, tokens)
        if len(tokens) == len(rollout):
            return rollout.logp
        carried = ranks.logp(self._policy.logp_tokens, tokens[len(rollout) :])
        return torch.cat([rollout.logp.cpu(), carried])

    def _of_prior(self, n: int, step: int, ranks: Ranks) -> Tensor | None:
        """Return log pi_theta, with its graph, of n fresh samples of the prior, if needed."""
        if not self.objective.needs_prior_samples:
            return None
        generator = stream(self._seed, step, purpose="prior")
        samples = self._reference.sample(n, generator, ranks.part(n))
        torch.clear_autocast_cache()  # sampling is without grad: see Posttrain._sample
        return ranks.join(self._policy.logp_tokens(samples.tokens))

    def _shaper_inputs(self, rows: pd.DataFrame) -> dict[str, Tensor]:
        """Return the similarities, fingerprints and outcomes that the shaper needs."""
        shaper, inputs = self.objective.shaper, dict[str, Tensor]()
        if shaper is None:
            return inputs
        for name, describe in (("kernel_BB", tanimoto_kernel), ("features_BF", fingerprint_bits)):
            if shaper.needs(name):
                smiles = [s if isinstance(s, str) else None for s in rows["canonical_smiles"]]
                inputs[name.rpartition("_")[0]] = torch.from_numpy(describe(smiles))
        if shaper.needs("outcome_B"):
            outcome = rows["scaffold"]
            if "answer" in rows and outcome.isna().all():  # a text without molecules
                outcome = rows["answer"]
            inputs["outcome"] = torch.tensor(pd.factorize(outcome)[0], dtype=torch.int64)
        return inputs


class StepLoader:
    """Yields the numbers of the updates; the policy samples each batch inside its step.

    It has a length, so Lightning does not prefetch, and a state, so that a resumed run continues
    exactly where it stood.
    """

    def __init__(self, n_steps: int, updates: int = 1) -> None:
        self._n_updates = n_steps * updates
        self._next = 0

    def __len__(self) -> int:
        """Return the number of updates of the whole run."""
        return self._n_updates

    def __iter__(self) -> Iterator[int]:
        """Yield the updates that remain."""
        while self._next < self._n_updates:
            self._next += 1
            yield self._next - 1

    def state_dict(self) -> dict[str, int]:
        """Return the position, which Lightning saves in every checkpoint."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a saved position."""
        self._next = state["next"]


def move_state_to_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Move the state of each parameter to the parameter's device, as Adam requires."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if name != "step":  # a count, which stays on the CPU
                state[name] = value.to(parameter.device)


def trace_rows(
    rows: pd.DataFrame, inputs: LossInputs, target: TargetOutput, extras: Extras | None = None
) -> pd.DataFrame:
    """Return all trace columns of the sampled, explored and replayed rows of a batch.

    Rows that an estimator carries over were recorded with the batch that sampled them.
    """
    n_new = len(rows)
    if extras is not None:
        rows = pd.concat([rows, extra_rows(extras, rows)], ignore_index=True)
        n_new += len(extras.explored)
    n = len(rows)
    return rows.assign(
        row=np.arange(n),
        logp_policy=inputs.logp_policy[:n].detach().numpy(),
        logp_ref=inputs.logp_ref[:n].numpy(),
        log_target=target.log_target[:n].float().numpy(),
        hit=target.hit[:n].numpy(),
        anchor=target.anchor[:n].numpy(),
        is_replay=np.arange(n) >= n_new,
    )


def _unsampled(smiles: list[str], token_BT: Tensor) -> Rollout:
    """Wrap sequences that the policy has not sampled as a rollout, so that they can be scored."""
    zero_B = torch.zeros(len(smiles))
    return Rollout(smiles, token_BT, zero_B, zero_B.bool())


def with_extras(rollout: Rollout, extras: Extras | None) -> Tensor:
    """Return the sequences of a batch, token_BT, followed by explored and replayed ones."""
    if extras is None:
        return rollout.tokens
    return joined(rollout.tokens, extras.tokens.to(rollout.tokens.device), rollout.end_id)


def repeats(token_BT: Tensor, group_B: Tensor | None = None) -> Tensor:
    """Mark rows that repeat an earlier row (bool_B, on the CPU), by group and token ids.

    Texts are not compared: a language model can write one text as several token sequences, each
    with its own probability.
    """
    if group_B is not None:
        token_BT = torch.cat([group_B[:, None], token_BT[:, 1:]], dim=1)
    _, sequence_B = torch.unique(token_BT.cpu(), dim=0, return_inverse=True)
    return torch.tensor(pd.Series(sequence_B.numpy()).duplicated().to_numpy())
