"""KL-regularised post-training: the loop of one step is `Posttrain.training_step`.

Legend: B rows of a batch, C rows that it carries over from the batch before.
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
    Drawn,
    Memory,
    Molecule,
    Seed,
    found,
    further_rows,
    log_mixture,
    step_rng,
)
from chemkl.training.ranks import ALONE, Ranks

Spell = Callable[[str], Sequence[int] | None]


class Phase(NamedTuple):
    """What a stage of a run is trained by."""

    objective: Objective
    """Target and estimator."""
    learning_rate: float
    """Of Adam."""
    memory: Memory | None = None
    """Replays molecules that it has found; None: nothing is replayed."""
    schedule: Schedule | None = None
    """Moves tau and beta of the objective's target; None: they stay."""
    explorer: Explorer | None = None
    """Chooses molecules that calls are spent on beside the samples; None: there are none."""


class Posttrain(lightning.LightningModule):
    """Walk a policy from its prior to a target distribution.

    Args:
        policy: the network to train; its dropout, if it has any, is switched off for good.
        reference: the frozen prior; it stays outside the saved state.
        ledger: scores and counts.
        phases: what each stage is trained by, see `enter`.
        trace: where every row goes; None: another process writes it.
        batch_size: sequences a step.
        most_samples: sequences after which the run ends.
        seed: of the samples.
        seeds: what the memory begins with, and their ids.
        updates: updates of the policy a batch.
        spell: gives the ids of a SMILES, None where the policy cannot write it; further updates of
            a batch then have its molecules in random spellings, and log pi_ref is that of a
            molecule (its canonical SMILES). None: they have the sequences that were sampled.
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
        # training mode, as recurrent nets on a GPU need it, without dropout: with it the sequences
        # would come from another distribution than the one that is scored, and its noise from a
        # generator that no checkpoint holds
        for layer in policy.train().modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
            elif isinstance(layer, nn.RNNBase):
                layer.dropout = 0.0
        self.policy = policy
        self.ledger = ledger
        self.trace = trace
        self._seeds = seeds
        self.n_unspelled = 0
        """Random spellings that the policy could not write, and that were left out."""
        self.is_whole = True
        """Whether all updates of the latest step are made."""
        self.next_step = 0
        self.ranks = ALONE
        """The processes of the run, which have the same rows, and share the work at them."""
        self.recorded = pd.DataFrame()
        """The rows of the latest step, as the trace has them."""
        self._phases, self._stage = phases, 0
        self._objectives = list({id(phase.objective): phase.objective for phase in phases}.values())
        self._is_scheduled = any(phase.schedule is not None for phase in phases)
        self._explores = any(phase.explorer is not None for phase in phases)
        self._outside = (reference,)  # in a tuple it is no submodule: not saved, not trained
        self._builder = InputBuilder(policy, reference, phases[0].objective, seed, spell)
        self._updates = updates
        self._spell = spell
        self._batch: _Batch | None = None
        self._moved: dict[str, float] = {}
        self._batch_size = batch_size
        self._most_samples = most_samples
        self._seed = seed
        self._warned = False
        self._learns = True
        """Whether the latest step is learnt from, as its batch was not cut short."""

    @weights_stay()
    def training_step(self, number: int, _batch_index: int) -> Tensor | None:
        """Make one step; a batch that the run's end cuts short is recorded, not learnt from.

        Of several updates a step this makes one: the first as follows, see `_again` for the others.
        """
        step, update = divmod(number, self._updates)
        if update:
            return self._again(step, update)
        self._move()
        sown = self._sow() if step == 0 and self._seeds else None
        # 1. sample from the policy, as far as the budget reaches
        rollout = self.ledger.affordable(self._sample(step))
        self._learns = len(rollout) == self._batch_size
        if self._learns and self.ledger.waits and self._spell is None:
            self._builder.ask_ahead(rollout, self.ranks)
        # 2. score: a row a sequence, its call counted, its reward filtered for diversity
        rows = self.ledger.enter(step, rollout)
        drawn = self._draw(step, rows, rollout) if self._learns else None
        with nullcontext() if self._learns else self._forgotten():
            # 3. ask the policy and the prior for log p
            inputs = self._builder.build(
                rollout, rows, step, self.ranks, learns=self._learns, drawn=drawn
            )
            # 4. the target at these rows, and the estimator's loss
            output = self.objective(inputs) if self._learns else None
            asked = inputs.logp_ref, inputs.reward, inputs.group
            target = output.target if output else self.objective.target(*asked)
        # 5. record every row
        recorded = self._record(trace_rows(rows, inputs, target, drawn), drawn, sown)
        self.next_step = step + 1
        kept = replace(inputs, logp_policy=inputs.logp_policy.detach())
        self._batch = _Batch(with_drawn(rollout, drawn), kept, recorded)
        self._end_update(0 if self._learns else self._updates - 1)
        if output is None:
            return self._shared(None)
        if self.ranks.rank == 0:
            self._log(step, rows, inputs, output, drawn)
        # 6. keep what later steps have again
        self._builder.carry(output.carry, rollout, inputs)
        if (memory := self._phase.memory) is not None:
            n = len(rows)
            memory.saw_hits(inputs.reward[:n][target.hit[:n]].tolist())
            sampled = found(rows, rollout.tokens, inputs.logp_ref[:n], inputs.logp_policy[:n])
            explored = drawn.molecules[: len(drawn.explored)] if drawn else ()
            memory.add([*sampled, *(one for one in explored if one.reward > 0)])
        # 7. update: Lightning takes the gradient of the loss, and Adam steps
        return self._shared(output.loss)

    # ---- the parts of a step, in their order

    def _move(self) -> None:
        """Give the target the tau and beta of this step; keep them, where any move in the run."""
        if not self._is_scheduled:
            return
        if self._phase.schedule is not None:
            self.objective.move(**self._phase.schedule.values)
        target = self.objective.target
        tau = getattr(target, "tau", None)
        self._moved = {"tau": math.nan if tau is None else tau, "beta": target.beta}
        if self._phase.memory is not None and tau is not None:
            self._phase.memory.tau = tau

    def _sow(self) -> pd.DataFrame | None:
        """Put the seeds into the memory; the rows of those that cost a call, for the trace."""
        memory = self._phase.memory
        assert memory is not None  # it is what has the seeds
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
        ranks = self.ranks
        own = self.policy.sample_to_learn(n, stream(self._seed, step), ranks.part(n))
        # before torch 2.10 autocast keeps the weights cast under no_grad, and no gradient flows
        torch.clear_autocast_cache()
        drawn = ranks.rollout(own)
        if not bool(drawn.logp.isfinite().all()):
            raise InputError(
                f"step {step}: the policy has diverged: its log-probabilities are not finite. "
                f"Lower learning_rate (now {self._phase.learning_rate:g}), or add "
                "trainer: {gradient_clip_val: 1.0}, and begin anew with --fresh."
            )
        return drawn

    def _draw(self, step: int, rows: pd.DataFrame, rollout: Rollout) -> Drawn | None:
        """What joins a whole batch, explored or drawn from the memory; None: nothing.

        Where the budget ends among the molecules that are explored, nothing is drawn, and the step
        is not learnt from.
        """
        memory = self._phase.memory
        if memory is None:
            return None
        memory.see_repeats(rows.loc[rows["repeat"], "canonical_smiles"])
        explored = self._explored(step)
        if self._learns:
            drawn = memory.draw(step, rows["canonical_smiles"], rollout.tokens)
        else:
            drawn = Drawn((), torch.zeros(0).double(), torch.zeros(len(rows)).double())
        return (drawn.after(*explored) if explored else drawn) or None

    def _explored(self, step: int) -> tuple[Sequence[Molecule], pd.DataFrame] | None:
        """Spend calls on molecules beside the samples: they and their rows; None: on none."""
        explorer, ranks = self._phase.explorer, self.ranks
        if explorer is None or not explorer.is_due(step):
            return None
        self._builder.wait()  # for explorers ask the same prior
        # what the first process chooses counts, as another machine might round otherwise
        chosen = ranks.agree(lambda: None if ranks.rank else explorer.choose(step))[0]
        assert chosen is not None
        candidates = chosen.candidates
        ids = [one.tokens for one in candidates] or [(0, 0)]
        whole = _unsampled([one.smiles for one in candidates], pad(ids, self.device))
        paid = self.ledger.affordable(whole)
        self._learns = len(paid) == len(whole)
        if self._learns:
            explorer.count(chosen)
        if not len(paid):
            return None
        rows = self.ledger.enter(step, paid, kind="explored")
        values = zip(candidates, rows["scaffold"], rows["reward"], strict=False)
        molecules = [
            Molecule(
                one.smiles, one.smiles, frame or "", reward, one.logp_ref, one.origin, one.tokens
            )
            for one, frame, reward in values
        ]
        return molecules, rows

    @contextmanager
    def _forgotten(self) -> Iterator[None]:
        """Forget what objective and reference learn of a batch: a longer run samples it whole."""
        objective, reference = self.objective.state_dict(), self.reference.memory()
        yield
        self.objective.load_state_dict(objective)
        self.reference.restore_memory(reference)

    def _record(
        self, rows: pd.DataFrame, drawn: Drawn | None, sown: pd.DataFrame | None
    ) -> pd.DataFrame:
        """Write the rows of a step, seeds first; where it explores with who proposed them."""
        if self._explores:
            others = [one.origin for one in drawn.molecules] if drawn else []
            rows["origin"] = ["policy"] * (len(rows) - len(others)) + others
        if sown is not None:
            sown = sown.assign(origin="seed") if self._explores else sown
            rows = pd.concat([sown, rows], ignore_index=True)
            rows["row"] = np.arange(len(rows))
        rows = rows.assign(**self._moved)
        self.take_in(rows)
        if self.trace is not None:
            self.trace.append(rows)
        return rows

    def _end_update(self, update: int) -> None:
        """Hand out the rows of a step with its last update, and end the run after it if need be."""
        assert self._batch is not None
        self.is_whole = update == self._updates - 1
        self.recorded = self._batch.recorded if self.is_whole else self._batch.recorded.head(0)
        if self.is_whole:
            self._batch = None
            self.trainer.should_stop |= self.is_finished

    def _shared(self, loss: Tensor | None) -> Tensor | None:
        """The loss as Lightning wants it: of several processes one of each, and DDP all weights."""
        if self.ranks.world == 1:
            return loss
        trained = [weight for weight in self.policy.parameters() if weight.requires_grad]
        nothing = 0.0 * torch.stack([weight.view(-1)[0] for weight in trained]).sum().cpu()
        return nothing if loss is None else loss + nothing

    def _log(
        self,
        step: int,
        rows: pd.DataFrame,
        inputs: LossInputs,
        output: LossOutput,
        drawn: Drawn | None,
    ) -> None:
        """Warn of a bonus out of scale; give the metrics of every so many steps to the loggers.

        The trace has them for all steps, and Lightning's own way through ``self.log`` costs more
        than the update of a small policy.
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
        metrics |= {f"target/{name}": value for name, value in self._moved.items()}
        metrics |= self.ledger.describe(rows, output.target.hit[: len(rows)].numpy())
        if self._spell is not None:
            metrics["augment/unspelled"] = float(self.n_unspelled)
        if (memory := self._phase.memory) is not None:
            replayed = 0 if drawn is None else len(drawn) - len(drawn.explored)
            metrics |= {"memory/size": float(len(memory)), "memory/replayed": float(replayed)}
        if (explorer := self._phase.explorer) is not None:
            metrics |= {f"exploration/{name}": float(n) for name, n in explorer.counts.items()}
        for logger in self.loggers:
            logger.log_metrics(metrics, step=step)

    # ---- further updates of a batch

    def _again(self, step: int, update: int) -> Tensor | None:
        """Make a further update on the batch of a step, by the target of today."""
        assert self._batch is not None  # of the first update
        token_BT, inputs, _ = self._batch
        if inputs.logp_behaviour is None:  # it is the policy that sampled
            inputs = replace(inputs, logp_behaviour=inputs.logp_policy)
        if self._spell is not None:
            token_BT, kept_B = self._spelled(self._batch, step, update)
            inputs = inputs.where(kept_B)
        logp_B = self.ranks.logp(self.policy.logp_tokens, token_BT).cpu()
        output = self.objective(replace(inputs, logp_policy=logp_B))
        self._end_update(update)
        return self._shared(output.loss)

    def _spelled(self, batch: "_Batch", step: int, update: int) -> tuple[Tensor, Tensor]:
        """Spell the molecules of a batch at random: token_KT of the rows that are kept, bool_B.

        What is no molecule stays as it was sampled.
        """
        assert self._spell is not None
        numbers = step_rng(self._seed, step, f"spelling {update}")
        texts = batch.recorded["canonical_smiles"].tail(len(batch.tokens))
        spelled = [
            self._spell(randomise(text, numbers)) if isinstance(text, str) else ids
            for text, ids in zip(texts, batch.tokens.tolist(), strict=True)
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
        """What the stage of the next step is trained by."""
        return self._phases[self._stage]

    @property
    def objective(self) -> Objective:
        """Target and estimator of that stage."""
        return self._phase.objective

    @property
    def is_finished(self) -> bool:
        """Whether the budget of calls or that of samples is used up."""
        return self.ledger.spent or self.ledger.n_samples >= self._most_samples

    def counts(self) -> dict[str, int]:
        """How far the run is: calls, samples and steps."""
        calls, samples = self.ledger.n_calls, self.ledger.n_samples
        return {"calls": calls, "samples": samples, "steps": self.next_step}

    def enter(self, stage: int) -> None:
        """Go on with the objective and the learning rate of a stage, its number from 0.

        Rows that are carried over go with the objective that carried them.
        """
        self._stage = stage
        if self._builder.objective is not self.objective:
            self._builder.objective, self._builder.carried = self.objective, {}

    def take_in(self, rows: pd.DataFrame) -> None:
        """Have schedules and explorers take in rows: of a step, or of an interrupted run."""
        if not (self._is_scheduled or self._explores):
            return
        for _, step in rows.groupby("step"):
            phase = self._phases[int(step["stage"].iloc[0]) - 1 if "stage" in step else 0]
            if phase.schedule is not None:
                phase.schedule.add(step)
            if phase.explorer is not None:
                phase.explorer.take_in(step)

    # ---- what Lightning asks

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam at a rate that is constant in each stage, as in REINVENT.

        What the objective learns has a group of its own: it stays on the CPU, and Adam updates a
        group at once only when all of it is on a GPU.
        """
        trained = [weight for weight in self.policy.parameters() if weight.requires_grad]
        learnt = [weight for one in self._objectives for weight in one.parameters()]
        groups = [{"params": some} for some in (trained, learnt) if some]
        # in one pass over the weights; Apple's GPUs and odd devices have torch's own choice
        fused = {weight.device.type for weight in trained} == {"cpu"} or None
        return torch.optim.Adam(groups, lr=self._phase.learning_rate, fused=fused)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the policy's gradient alone: that of a learned log Z is of another size."""
        del optimizer
        if not gradient_clip_val:
            return
        if gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.policy.parameters(), gradient_clip_val)
        else:
            nn.utils.clip_grad_norm_(self.policy.parameters(), gradient_clip_val)

    def on_fit_start(self) -> None:
        """Put the reference where the policy is; Lightning moves submodules only."""
        self.reference.to(self.device)

    def on_train_start(self) -> None:
        """Undo that Lightning, on resuming, moves the optimiser's memory to the policy's device."""
        for optimizer in self.trainer.optimizers:
            put_beside_parameters(optimizer)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the rate of the stage; let a batch that is not learnt from leave weights alone."""
        for group in optimizer.param_groups:
            group["lr"] = self._phase.learning_rate
        if not self._learns:
            for weight in self.policy.parameters():
                weight.grad = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the step that comes next and what is remembered from batch to batch."""
        checkpoint["next_step"] = self.next_step
        checkpoint["stage"] = self._stage
        # under two keys: a checkpoint may have the first alone
        checkpoint["objective"], *later = [one.state_dict() for one in self._objectives]
        checkpoint["later_objectives"] = later
        carried = self._builder.carried.items()
        checkpoint["carried"] = {name: values.cpu() for name, values in carried}
        # what it remembers is of the rows that each process has asked it about
        checkpoint["reference"], *others = self.ranks.gather(self.reference.memory())
        checkpoint["references"] = others
        checkpoint["n_unspelled"] = self.n_unspelled
        if self._phase.memory is not None:
            checkpoint["memory"] = self._phase.memory.state_dict()
        if self._phase.explorer is not None:
            checkpoint["exploration"] = self._phase.explorer.state_dict()
        checkpoint["is_cut"] = not self._learns

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue with them."""
        self.next_step = checkpoint["next_step"]
        self._learns = not checkpoint.get("is_cut", False)
        states = [checkpoint["objective"], *checkpoint.get("later_objectives", ())]
        for objective, state in zip(self._objectives, states, strict=True):
            objective.load_state_dict(state)
        its = self._phases[checkpoint.get("stage", 0)]
        goes_on = its.objective is self.objective
        self._builder.carried = dict(checkpoint["carried"]) if goes_on else {}
        memories = [checkpoint.get("reference", {}), *checkpoint.get("references", ())]
        self.reference.restore_memory(memories[self.ranks.rank])
        self.n_unspelled = checkpoint.get("n_unspelled", 0)
        if its.memory is not None:
            its.memory.load_state_dict(checkpoint["memory"])
        if its.explorer is not None:
            its.explorer.load_state_dict(checkpoint["exploration"])


class _Batch(NamedTuple):
    """What further updates of a step learn from."""

    tokens: Tensor  # token_BT, replayed rows at the end
    inputs: LossInputs
    recorded: pd.DataFrame  # the rows of the trace, at the end those of the tokens


class InputBuilder:
    """Builds the inputs of an objective, and keeps the rows that it carries from batch to batch."""

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
        self._beside: ThreadPoolExecutor | None = None
        self._asked: Future[Tensor] | None = None
        self.carried: dict[str, Tensor] = {}
        """token_CT, reward_C (float64) and group_C of rows that the next batch has again (msc)."""

    def ask_ahead(self, rollout: Rollout, ranks: Ranks = ALONE) -> None:
        """Ask the prior about a batch in a thread, while worker processes score it; see `build`.

        Where this process scores itself nothing is gained: both want Python's lock.
        """
        if self._beside is None:  # a thread has settings of its own
            n_threads = (torch.get_num_threads(),)
            self._beside = ThreadPoolExecutor(
                1, initializer=torch.set_num_threads, initargs=n_threads
            )
        kind = self._reference.device.type
        rounding = torch.autocast(
            kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind)
        )
        tokens = self._with_carried(rollout)
        self._asked = self._beside.submit(rounding(ranks.own_logp), self._logp_ref, tokens)

    def wait(self) -> None:
        """Wait until nobody else asks the prior: it serves one thread at a time."""
        wait([self._asked] if self._asked else [])

    def build(
        self,
        rollout: Rollout,
        rows: pd.DataFrame,
        step: int,
        ranks: Ranks = ALONE,
        *,
        learns: bool = True,
        drawn: Drawn | None = None,
    ) -> LossInputs:
        """Return the inputs of a batch, at its end rows carried from the last one or replayed.

        Everything is on the CPU: a few numbers a row, rewards in float64. Without an update
        (`learns`) no fresh samples of the prior are drawn. With several processes all have all
        rows, and each computes log p of its part of them.
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
        if self._asked is None:
            asked = tokens if self._spell is None else self._canonical(rollout, rows, self._spell)
            logp_ref_B = ranks.logp(self._logp_ref, asked)
        else:
            logp_ref_B = ranks.with_others(self._asked.result())
            self._asked = None
        inputs = LossInputs(
            logp_policy=self._logp_policy(rollout, tokens, ranks).cpu(),
            logp_ref=logp_ref_B,
            reward=reward_B,
            group=group_B,
            duplicate=duplicate_B,
            retained=retained_B,
            logp_policy_of_prior=self._of_prior(len(rows), step, ranks) if learns else None,
            **self._for_shaper(rows),
        )
        return inputs if drawn is None else self._with_replays(inputs, rollout, ranks, drawn)

    def _with_replays(
        self, inputs: LossInputs, rollout: Rollout, ranks: Ranks, drawn: Drawn
    ) -> LossInputs:
        """Add explored and replayed rows to those of a batch; of them log pi_ref is known."""
        token_BT = with_drawn(rollout, drawn)
        own = ranks.logp(self._policy.logp_tokens, token_BT[len(rollout) :]).cpu()
        logp_policy_B = torch.cat([inputs.logp_policy, own])
        behaviour_B = None
        if self.objective.estimator.weighs_old:
            behaviour_B = torch.cat([inputs.logp_policy.detach(), drawn.logp_policy])
        elif self.objective.estimator.weighs:
            behaviour_B = log_mixture(logp_policy_B.detach(), drawn)
        return replace(
            inputs,
            logp_policy=logp_policy_B,
            logp_ref=torch.cat([inputs.logp_ref, drawn.logp_ref]),
            reward=torch.cat([inputs.reward, drawn.reward]),
            duplicate=repeats(token_BT),
            retained=torch.arange(len(token_BT)) >= len(rollout),
            logp_behaviour=behaviour_B,
        )

    def carry(self, carry_B: Tensor | None, rollout: Rollout, inputs: LossInputs) -> None:
        """Keep the rows that the objective wants to have again; None: none."""
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
        """The sequences of a batch, token_BT, and behind them those that are carried over."""
        if not self.carried:
            return rollout.tokens
        carried = self.carried["tokens"].to(rollout.tokens.device)
        return joined(rollout.tokens, carried, rollout.end_id)

    def _canonical(self, rollout: Rollout, rows: pd.DataFrame, spell: Spell) -> Tensor:
        """The sequences of a batch, of a molecule that of its canonical SMILES where there is one.

        Spellings of a molecule differ by 20 to 70 nats under a prior of canonical SMILES; by one
        log pi_ref a molecule, MARA does not pay for odd ones.
        """
        texts = zip(rollout.tokens.tolist(), rows["smiles"], rows["canonical_smiles"], strict=True)
        ids = [
            (spell(known) if isinstance(known, str) and known != smiles else None) or row
            for row, smiles, known in texts
        ]
        return pad(ids, rollout.tokens.device)

    @torch.no_grad()
    def _logp_ref(self, token_BT: Tensor) -> Tensor:
        return self._reference.logp_tokens(token_BT)

    def _logp_policy(self, rollout: Rollout, tokens: Tensor, ranks: Ranks) -> Tensor:
        """Log-probabilities with graph, of a pass over the rows that sampling left without one."""
        if not rollout.logp.requires_grad:
            return ranks.logp(self._policy.logp_tokens, tokens)
        if len(tokens) == len(rollout):
            return rollout.logp
        carried = ranks.logp(self._policy.logp_tokens, tokens[len(rollout) :])
        return torch.cat([rollout.logp.cpu(), carried])

    def _of_prior(self, n: int, step: int, ranks: Ranks) -> Tensor | None:
        """Log-probabilities, with graph, of as many fresh samples of the prior, if wanted."""
        if not self.objective.needs_prior_samples:
            return None
        generator = stream(self._seed, step, purpose="prior")
        drawn = self._reference.sample(n, generator, ranks.part(n))
        torch.clear_autocast_cache()  # sampling is without grad: see Posttrain._sample
        return ranks.with_others(self._policy.logp_tokens(drawn.tokens))

    def _for_shaper(self, rows: pd.DataFrame) -> dict[str, Tensor]:
        """Similarity, fingerprint or scaffold (or answer) number of the rows, if a shaper asks."""
        shaper, wanted = self.objective.shaper, dict[str, Tensor]()
        if shaper is None:
            return wanted
        for name, describe in (("kernel_BB", tanimoto_kernel), ("features_BF", fingerprint_bits)):
            if shaper.needs(name):
                smiles = [s if isinstance(s, str) else None for s in rows["canonical_smiles"]]
                wanted[name.rpartition("_")[0]] = torch.from_numpy(describe(smiles))
        if shaper.needs("outcome_B"):
            outcome = rows["scaffold"]
            if "answer" in rows and outcome.isna().all():  # a text without molecules
                outcome = rows["answer"]
            wanted["outcome"] = torch.tensor(pd.factorize(outcome)[0], dtype=torch.int64)
        return wanted


class StepLoader:
    """Yields step numbers; the batch itself is sampled by the policy inside the step.

    It has a length, so Lightning fetches nothing ahead, and it knows where it stands, so that a
    resumed run goes on exactly there. With several updates a step it yields a number for each.
    """

    def __init__(self, n_steps: int, updates: int = 1) -> None:
        self._n_steps = n_steps * updates
        self._next = 0

    def __len__(self) -> int:
        """Return the number of updates of the whole run."""
        return self._n_steps

    def __iter__(self) -> Iterator[int]:
        """Yield the steps that have not been made."""
        while self._next < self._n_steps:
            self._next += 1
            yield self._next - 1

    def state_dict(self) -> dict[str, int]:
        """Return the position; Lightning saves it in every checkpoint."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a saved position."""
        self._next = state["next"]


def put_beside_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Put what an optimiser remembers of each parameter where that is; Adam wants them together."""
    for parameter, memory in optimizer.state.items():
        for name, value in memory.items():
            if name != "step":  # a count, which stays on the CPU
                memory[name] = value.to(parameter.device)


def trace_rows(
    rows: pd.DataFrame, inputs: LossInputs, target: TargetOutput, drawn: Drawn | None = None
) -> pd.DataFrame:
    """Return the rows with every column of the trace: sampled ones, explored ones, replayed ones.

    Rows that an estimator carries over are in it already.
    """
    n_new = len(rows)
    if drawn is not None:
        rows = pd.concat([rows, further_rows(drawn, rows)], ignore_index=True)
        n_new += len(drawn.explored)
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
    """Sequences that the policy has not sampled, as a rollout that can be scored."""
    nothing_B = torch.zeros(len(smiles))
    return Rollout(smiles, token_BT, nothing_B, nothing_B.bool())


def with_drawn(rollout: Rollout, drawn: Drawn | None) -> Tensor:
    """The sequences of a batch, token_BT, and behind them those that have joined it."""
    if drawn is None:
        return rollout.tokens
    return joined(rollout.tokens, drawn.tokens.to(rollout.tokens.device), rollout.end_id)


def repeats(token_BT: Tensor, group_B: Tensor | None = None) -> Tensor:
    """Which rows are a sequence that stands above them, bool_B on the CPU: by prompt and ids.

    Not by the text: a language model writes one in several ways, each with a probability of its
    own.
    """
    if group_B is not None:
        token_BT = torch.cat([group_B[:, None], token_BT[:, 1:]], dim=1)
    _, sequence_B = torch.unique(token_BT.cpu(), dim=0, return_inverse=True)
    return torch.tensor(pd.Series(sequence_B.numpy()).duplicated().to_numpy())


MOVED = ("tau", "beta")
"""What a schedule moves: columns of the trace, logged as target/tau and target/beta."""
METRICS = {
    "calls": "oracle calls spent so far",
    "samples": "sequences sampled so far",
    "valid_rate": "share of the batch that RDKit can read",
    "truncated_rate": "share of the batch that was cut off: no end within the most tokens",
    "unique_rate": "different molecules among the valid rows of the batch; NaN without any",
    "new_rate": "share of the batch that the run had not seen before: those that cost a call",
    "canonical_rate": "share of the batch that is spelled as RDKit would spell it; a falling one "
    "says that odd spellings are being learnt",
    "reward": "mean reward of the batch, 0 for invalid rows",
    "reward_filtered": "the same after the diversity filter",
}
"""What is logged beside the objective's own metrics (``objective/``) and those of ``hits/``."""
