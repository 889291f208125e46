"""Exploration: calls spent on children of the memory's best molecules, or on samples of the prior.

Legend: N candidates.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from chemkl.chem.fingerprints import fingerprint_bits
from chemkl.chem.molecules import read_molecule
from chemkl.chem.operators import MOST_ATOMS, SHARES, Origin, Proposal, graph_ga, propose
from chemkl.config import InputError, complaints
from chemkl.config.base import install_command
from chemkl.config.objective import ExplorationConfig, Screen
from chemkl.policies.base import SequenceModel, pad, stream
from chemkl.training.ledger import Ledger
from chemkl.training.memory import Memory, step_rng

N_TREES = 50
"""Trees of the random forest of the screen `surrogate`."""
TRAINING_SET = 1000
"""Molecules that the forest is trained on at most: half the best ones, half the newest ones."""
ORIGINS = (*SHARES, "prior")
"""Origins of explored molecules: an operator, or the prior."""
COUNTS = {
    "proposed": "molecules made of others, or sampled by the prior, so far",
    "unspelled": "new ones of these that the policy's tokens cannot write: no call was spent",
    "unpaid": "new ones of these without any reward left in the diversity filter: no call either",
    "calls": "calls spent on the remaining ones",
    "hits": "hits of the target among them",
}
"""What is counted of an exploration, and logged as ``exploration/``."""
NOT_IN_ROWS = ("proposed", "unspelled", "unpaid")
"""Counts that cannot be derived from the rows of the trace."""


class Candidate(NamedTuple):
    """A molecule selected for a call."""

    smiles: str  # canonical
    origin: Origin | Literal["prior"]
    tokens: tuple[int, ...]  # start and end token included
    logp_ref: float  # nats


class Selection(NamedTuple):
    """The candidates of a step, and how many proposals there were."""

    candidates: Sequence[Candidate]
    n_proposed: int
    n_unspelled: int
    """Proposals dropped because the policy's tokens cannot write them."""
    n_unpaid: int
    """Proposals dropped because the diversity filter would pay nothing for them."""


def explore(
    parents: Sequence[str],
    n: int,
    rng: np.random.Generator,
    *,
    is_known: Callable[[str], bool],
    spell: Callable[[str], Sequence[int] | None],
    logp_ref: Callable[[Tensor], Tensor],
    sample_prior: Callable[[int], Sequence[str]] = lambda _: (),
    share: Callable[[str], float] = lambda _: 1.0,
    predict: Callable[[Sequence[str]], np.ndarray] | None = None,
    proposals_per_call: int = 2,
    screen: Screen = "surrogate",
    shares: Mapping[Any, float] = SHARES,
    most_atoms: int = MOST_ATOMS,
) -> Selection:
    """Select up to n new molecules that are worth a call; a function of its arguments alone.

    Proposals are children of the parents and samples of the prior, in the proportions of `shares`.

    Args:
        parents: canonical SMILES, all equally likely to be chosen.
        n: calls to spend.
        rng: random numbers of this step.
        is_known: whether a canonical SMILES is not new to the run.
        spell: encodes a SMILES; None if the policy cannot write it.
        logp_ref: log pi_ref of sequences, (N, T) to (N,).
        sample_prior: distinct canonical SMILES among so many samples of the prior, valid ones only.
        share: the share of its reward that the diversity filter would pay for a canonical SMILES.
        predict: the predicted reward of molecules (N,); needed by the screen surrogate.
        proposals_per_call: proposals that the screen selects each call from, 1 or more.
        screen: see `ExplorationConfig.screen`.
        shares: relative frequencies of the operators, see `propose`, and of the prior.
        most_atoms: most heavy atoms of a child.
    """
    proposals: list[Proposal] = []
    n_proposals, n_prior = n * proposals_per_call, 0
    operators = {origin: shares[origin] for origin in SHARES if origin in shares}
    if prior_share := shares.get("prior", 0):
        n_prior = int(rng.binomial(n_proposals, prior_share / sum(shares.values())))
    if parents and any(operators.values()):
        n_children = n_proposals - n_prior
        proposals = propose(parents, n_children, rng, shares=operators, most_atoms=most_atoms)
    if n_prior:
        children = {proposal.smiles for proposal in proposals}
        samples = [smiles for smiles in sample_prior(n_prior) if smiles not in children]
        proposals += [Proposal(smiles, "prior", ()) for smiles in samples]
        proposals = [proposals[place] for place in rng.permutation(len(proposals))]
    new = [proposal for proposal in proposals if not is_known(proposal.smiles)]
    spelled = [(p, ids) for p in new if (ids := spell(p.smiles)) is not None]
    paid = [(p, ids, part) for p, ids in spelled if (part := share(p.smiles)) > 0]
    counts = len(proposals), len(new) - len(spelled), len(spelled) - len(paid)
    if not paid:
        return Selection((), *counts)
    if screen == "surrogate":
        assert predict is not None
        reward_N = predict([p.smiles for p, _, _ in paid]) * [part for _, _, part in paid]
        paid = [paid[place] for place in np.argsort(-reward_N, kind="stable")[:n]]
    elif screen == "none":
        paid = paid[:n]
    with torch.no_grad():
        logp_N = logp_ref(pad([ids for _, ids, _ in paid])).tolist()
    candidates = [
        Candidate(p.smiles, p.origin, tuple(ids), logp)
        for (p, ids, _), logp in zip(paid, logp_N, strict=True)
    ]
    if screen == "prior":
        candidates = sorted(candidates, key=lambda candidate: -candidate.logp_ref)[:n]
    return Selection(candidates, *counts)


def fit_forest(rewards: Mapping[str, float], rng: np.random.Generator) -> Any:
    """Train a random forest on Morgan bits to predict rewards.

    Args:
        rewards: by canonical SMILES, in the order in which the run paid for them.
        rng: seeds the forest.
    """
    newest = list(rewards)[-TRAINING_SET // 2 :]
    best = sorted(rewards, key=rewards.__getitem__, reverse=True)[: TRAINING_SET // 2]
    smiles = list(dict.fromkeys([*best, *newest]))
    seed = int(rng.integers(2**31))
    forest = _forest_class()(N_TREES, max_features="sqrt", min_samples_leaf=2, random_state=seed)
    return forest.fit(fingerprint_bits(smiles), [rewards[text] for text in smiles])


def upper_bound(forest: Any, smiles: Sequence[str], optimism: float) -> np.ndarray:
    """Predict optimistic rewards: mean over the trees plus `optimism` standard deviations, (N,).

    An upper confidence bound (Auer, JMLR 3, 397, 2002).
    """
    bits = fingerprint_bits(smiles)
    # the forest's own predict would check the bits once a tree
    by_tree = np.stack([tree.predict(bits, check_input=False) for tree in forest.estimators_])
    reward_N: np.ndarray = by_tree.mean(axis=0) + optimism * by_tree.std(axis=0)
    return reward_N


def _forest_class() -> Any:
    try:
        from sklearn.ensemble import RandomForestRegressor
    except ImportError as error:
        text = f"the screen surrogate needs scikit-learn: {install_command('sklearn')}"
        raise InputError(f"exploration.screen: {text}, or take prior or none") from error
    return RandomForestRegressor


def check_exploration(config: ExplorationConfig) -> None:
    """Check that the packages that an exploration needs are installed.

    Raises:
        InputError: a line for each missing package.
    """
    needs_graph_ga = any(getattr(config.shares, o) for o in SHARES if o != "fragments")
    missing = complaints((graph_ga,)) if needs_graph_ga else []
    problems = [f"exploration: {line}" for line in missing]
    if config.screen == "surrogate":
        problems += complaints((_forest_class,))
    InputError.refuse(problems)


class Explorer:
    """Selects every so many steps the molecules that a run spends calls on beside its samples.

    A selection is a function of the seed, the step, the memory and the rows of the trace so far. A
    resumed run trains the same forest again that the interrupted run had.

    Args:
        config: number of calls, screen and operators.
        memory: holds the parents.
        ledger: knows which molecules were paid, and the diversity filter.
        reference: the prior.
        spell: encodes a SMILES; None if the policy cannot write it.
        seed: seed of the run.
    """

    def __init__(
        self,
        config: ExplorationConfig,
        memory: Memory,
        ledger: Ledger,
        reference: SequenceModel,
        spell: Callable[[str], Sequence[int] | None],
        seed: int = 0,
    ) -> None:
        self._config, self._memory, self._ledger = config, memory, ledger
        self._reference, self._spell, self._seed = reference, spell, seed
        self._rewards: dict[str, float] = {}
        self._forest: Any = None
        self._fit: tuple[int, int] | None = None
        """The step in which the forest was trained, and the number of rewards so far."""
        self.counts = dict.fromkeys(COUNTS, 0)

    def observe(self, rows: pd.DataFrame) -> None:
        """Collect rewards from rows of the trace, and count the explored ones."""
        paid = rows[rows["call"].notna()]
        self._rewards |= zip(paid["canonical_smiles"], paid["reward"], strict=True)
        explored = paid[paid["origin"].isin(ORIGINS)]
        self.counts["calls"] += len(explored)
        self.counts["hits"] += int(explored["hit"].sum())

    def is_due(self, step: int) -> bool:
        """Whether a step explores; its samples have been scored already."""
        config = self._config
        return (step + 1) % config.every == 0 and self._ledger.n_calls >= config.start

    def choose(self, step: int) -> Selection:
        """Select the molecules of a step; its samples have been scored already."""
        config, memory, ledger = self._config, self._memory, self._ledger
        device = self._reference.device
        return explore(
            memory.best(config.parents),
            config.calls,
            step_rng(self._seed, step, "exploration"),
            is_known=lambda smiles: smiles in memory or ledger.has_paid(smiles),
            spell=self._spell,
            logp_ref=lambda token_BT: self._reference.logp_tokens(token_BT.to(device)),
            sample_prior=lambda n: self._sample_prior(step, n),
            share=ledger.filter.next_share,
            predict=lambda smiles: self._predict(step, smiles),
            proposals_per_call=config.proposals_per_call,
            screen=config.screen,
            shares={origin: getattr(config.shares, origin) for origin in ORIGINS},
            most_atoms=min(MOST_ATOMS, ledger.most_atoms),
        )

    def _sample_prior(self, step: int, n: int) -> list[str]:
        rollout = self._reference.sample(n, stream(self._seed, step, purpose="exploration"))
        texts = zip(rollout.smiles, rollout.truncated.tolist(), strict=True)
        limit = self._ledger.most_atoms
        molecules = [read_molecule(text, max_atoms=limit) for text, is_cut in texts if not is_cut]
        return list(dict.fromkeys(str(m.canonical_smiles) for m in molecules if m.valid))

    def count(self, selection: Selection) -> None:
        """Count the proposals of a step that is learnt from."""
        for name in NOT_IN_ROWS:
            self.counts[name] += getattr(selection, f"n_{name}")

    def _predict(self, step: int, smiles: Sequence[str]) -> np.ndarray:
        if not self._rewards:
            return np.ones(len(smiles))
        if self._fit is None or step - self._fit[0] >= self._config.refit:
            self._fit, self._forest = (step, len(self._rewards)), None
        if self._forest is None:
            rewards = dict(islice(self._rewards.items(), self._fit[1]))
            self._forest = fit_forest(rewards, step_rng(self._seed, self._fit[0], "forest"))
        return upper_bound(self._forest, smiles, self._config.optimism)

    def state_dict(self) -> dict[str, Any]:
        """Return what does not follow from the rows of the trace, for a checkpoint."""
        return {"fit": self._fit, "counts": {name: self.counts[name] for name in NOT_IN_ROWS}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; the rows of the run must have been observed before."""
        self._fit, self._forest = state["fit"], None
        self.counts |= state["counts"]
