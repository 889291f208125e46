"""Molecules worth a call beside the policy's samples: children of the best, samples of the prior.

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

LEARNT_FROM = 1000
"""Molecules that the forest is trained on at most: the best half of it and the newest."""
N_TREES = 50
ORIGINS = (*SHARES, "prior")
"""Where molecules that are explored come from: an operator, or the prior."""
COUNTS = {
    "proposed": "molecules made of others, or sampled by the prior, so far",
    "unspelled": "of these, new ones that the policy's tokens cannot write: no call was spent",
    "unpaid": "of these, new ones for which the diversity filter would pay nothing: neither",
    "calls": "those that a call was spent on",
    "hits": "of these, hits of the target",
}
"""What is counted of an exploration, and logged as ``exploration/``."""
NOT_IN_ROWS = ("proposed", "unspelled", "unpaid")
"""Those that the rows of the trace do not tell."""


class Candidate(NamedTuple):
    """A molecule that no call has been spent on."""

    smiles: str  # canonical
    origin: Origin | Literal["prior"]
    tokens: tuple[int, ...]  # start and end token included
    logp_ref: float  # nats


class Chosen(NamedTuple):
    """What a screen left, and how many proposals there were for it."""

    candidates: Sequence[Candidate]
    n_proposed: int
    n_unspelled: int
    """Those that the policy's tokens cannot write: dropped before they cost a call."""
    n_unpaid: int
    """Those in buckets that the diversity filter pays nothing for any more: dropped too."""


def explore(
    parents: Sequence[str],
    n: int,
    rng: np.random.Generator,
    *,
    is_known: Callable[[str], bool],
    spell: Callable[[str], Sequence[int] | None],
    logp_ref: Callable[[Tensor], Tensor],
    of_prior: Callable[[int], Sequence[str]] = lambda _: (),
    share: Callable[[str], float] = lambda _: 1.0,
    merit: Callable[[Sequence[str]], np.ndarray] | None = None,
    proposals_per_call: int = 2,
    screen: Screen = "surrogate",
    shares: Mapping[Any, float] = SHARES,
    most_atoms: int = MOST_ATOMS,
) -> Chosen:
    """Choose n molecules that are worth a call, or fewer where not so many are found.

    They are children of the parents, or samples of the prior, as often as the shares say.

    A function of its arguments alone.

    Args:
        parents: canonical SMILES, alike.
        n: calls.
        rng: of this step.
        is_known: whether a canonical SMILES need not be proposed any more.
        spell: the ids of a SMILES, or None where the policy cannot write it.
        logp_ref: log pi_ref of sequences, (N, T) to (N,).
        of_prior: the distinct canonical SMILES of so many samples of the prior, valid ones alone.
        share: of its reward that the diversity filter would pay for a canonical SMILES.
        merit: the reward that is expected of molecules: (N,). For the screen surrogate.
        proposals_per_call: proposals that the screen chooses each call from, 1 or more.
        screen: see `ExplorationConfig.screen`.
        shares: of the operators, see `propose`, and of the prior.
        most_atoms: heavy atoms of a child.
    """
    proposals: list[Proposal] = []
    wanted, n_prior = n * proposals_per_call, 0
    operators = {origin: shares[origin] for origin in SHARES if origin in shares}
    if from_prior := shares.get("prior", 0):
        n_prior = int(rng.binomial(wanted, from_prior / sum(shares.values())))
    if parents and any(operators.values()):
        proposals = propose(parents, wanted - n_prior, rng, shares=operators, most_atoms=most_atoms)
    if n_prior:
        made = {one.smiles for one in proposals}
        samples = [text for text in of_prior(n_prior) if text not in made]
        both = [*proposals, *(Proposal(text, "prior", ()) for text in samples)]
        proposals = [both[place] for place in rng.permutation(len(both))]
    new = [one for one in proposals if not is_known(one.smiles)]
    spelled = [(one, ids) for one in new if (ids := spell(one.smiles)) is not None]
    paid = [(*both, part) for both in spelled if (part := share(both[0].smiles)) > 0]
    counts = len(proposals), len(new) - len(spelled), len(spelled) - len(paid)
    if not paid:
        return Chosen((), *counts)
    if screen == "surrogate":
        assert merit is not None
        merit_N = merit([one.smiles for one, _, _ in paid]) * [part for _, _, part in paid]
        paid = [paid[place] for place in np.argsort(-merit_N, kind="stable")[:n]]
    elif screen == "none":
        paid = paid[:n]
    with torch.no_grad():
        logp_N = logp_ref(pad([ids for _, ids, _ in paid])).tolist()
    candidates = [
        Candidate(one.smiles, one.origin, tuple(ids), logp)
        for (one, ids, _), logp in zip(paid, logp_N, strict=True)
    ]
    if screen == "prior":
        candidates = sorted(candidates, key=lambda one: -one.logp_ref)[:n]
    return Chosen(candidates, *counts)


def fitted(paid: Mapping[str, float], rng: np.random.Generator) -> Any:
    """A random forest on Morgan bits that has learnt what molecules were paid.

    Args:
        paid: the reward of each molecule that a call was spent on, by its canonical SMILES, in the
            order in which they were paid.
        rng: decides what the trees see.
    """
    newest = list(paid)[-LEARNT_FROM // 2 :]
    best = sorted(paid, key=paid.__getitem__, reverse=True)[: LEARNT_FROM // 2]
    known = list(dict.fromkeys([*best, *newest]))
    seed = int(rng.integers(2**31))
    forest = _forest()(N_TREES, max_features="sqrt", min_samples_leaf=2, random_state=seed)
    return forest.fit(fingerprint_bits(known), [paid[text] for text in known])


def expected(forest: Any, smiles: Sequence[str], optimism: float) -> np.ndarray:
    """The reward of molecules by a forest: mean over its trees plus doubt, float64_N.

    The doubt is `optimism` times the standard deviation between the trees: an upper confidence
    bound (Auer, JMLR 3, 397, 2002).
    """
    bits = fingerprint_bits(smiles)
    trees = forest.estimators_  # each would check the bits anew
    by_tree = np.stack([tree.predict(bits, check_input=False) for tree in trees])
    merit_N: np.ndarray = by_tree.mean(axis=0) + optimism * by_tree.std(axis=0)
    return merit_N


def _forest() -> Any:
    """The class of the forest, of an optional package."""
    try:
        from sklearn.ensemble import RandomForestRegressor
    except ImportError as error:
        text = f"the screen surrogate needs scikit-learn: {install_command('sklearn')}"
        raise InputError(f"exploration.screen: {text}, or take prior or none") from error
    return RandomForestRegressor


def check_exploration(config: ExplorationConfig) -> None:
    """Look whether what an exploration needs is installed.

    Raises:
        InputError: a line for each package that is not.
    """
    has_children = any(getattr(config.shares, origin) for origin in SHARES if origin != "fragments")
    lacking = complaints((graph_ga,)) if has_children else []
    amiss = [f"exploration: {line}" for line in lacking]
    InputError.refuse(amiss + (complaints((_forest,)) if config.screen == "surrogate" else []))


class Explorer:
    """Chooses every so many steps the molecules that a run spends calls on beside its samples.

    What it chooses is a function of the seed, the step, the memory and the rows of the trace so
    far; a resumed run trains the forest anew that the interrupted one had.

    Args:
        config: how many, and by what screen.
        memory: holds the parents.
        ledger: knows what was paid before, and what the diversity filter would pay.
        reference: the prior.
        spell: the ids of a SMILES, or None where the policy cannot write it.
        seed: of the run.
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
        self._paid: dict[str, float] = {}
        self._forest: Any = None
        self._fit: tuple[int, int] | None = None
        """The step in which the forest was trained, and on how many paid molecules."""
        self.counts = dict.fromkeys(COUNTS, 0)

    def take_in(self, rows: pd.DataFrame) -> None:
        """Learn what was paid, from rows of the trace."""
        paid = rows[rows["call"].notna()]
        self._paid |= zip(paid["canonical_smiles"], paid["reward"], strict=True)
        own = paid[paid["origin"].isin(ORIGINS)]
        self.counts["calls"] += len(own)
        self.counts["hits"] += int(own["hit"].sum())

    def is_due(self, step: int) -> bool:
        """Whether calls are spent at a step, whose samples are paid."""
        config = self._config
        return (step + 1) % config.every == 0 and self._ledger.n_calls >= config.start

    def choose(self, step: int) -> Chosen:
        """Choose the molecules of a step, whose samples are paid."""
        config, memory, ledger = self._config, self._memory, self._ledger
        device = self._reference.device
        return explore(
            memory.best(config.parents),
            config.calls,
            step_rng(self._seed, step, "exploration"),
            is_known=lambda text: text in memory or ledger.has_paid(text),
            spell=self._spell,
            logp_ref=lambda token_BT: self._reference.logp_tokens(token_BT.to(device)),
            of_prior=lambda n: self._of_prior(step, n),
            share=ledger.filter.next_share,
            merit=lambda smiles: self._expected(step, smiles),
            proposals_per_call=config.proposals_per_call,
            screen=config.screen,
            shares={origin: getattr(config.shares, origin) for origin in ORIGINS},
            most_atoms=min(MOST_ATOMS, ledger.most_atoms),
        )

    def _of_prior(self, step: int, n: int) -> list[str]:
        rollout = self._reference.sample(n, stream(self._seed, step, purpose="exploration"))
        texts = zip(rollout.smiles, rollout.truncated.tolist(), strict=True)
        limit = self._ledger.most_atoms
        read = [read_molecule(text, max_atoms=limit) for text, is_cut in texts if not is_cut]
        return list(dict.fromkeys(str(one.canonical_smiles) for one in read if one.valid))

    def count(self, chosen: Chosen) -> None:
        """Count the proposals of a step that is learnt from."""
        for name in NOT_IN_ROWS:
            self.counts[name] += getattr(chosen, f"n_{name}")

    def _expected(self, step: int, smiles: Sequence[str]) -> np.ndarray:
        if not self._paid:
            return np.ones(len(smiles))
        if self._fit is None or step - self._fit[0] >= self._config.refit:
            self._fit, self._forest = (step, len(self._paid)), None
        if self._forest is None:
            paid = dict(islice(self._paid.items(), self._fit[1]))
            self._forest = fitted(paid, step_rng(self._seed, self._fit[0], "forest"))
        return expected(self._forest, smiles, self._config.optimism)

    def state_dict(self) -> dict[str, Any]:
        """Return what does not follow from the rows of the trace, for a checkpoint."""
        return {"fit": self._fit, "counts": {name: self.counts[name] for name in NOT_IN_ROWS}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there; the rows of the run before are taken in."""
        self._fit, self._forest = state["fit"], None
        self.counts |= state["counts"]
