"""Molecules that are worth a call beside those that the policy samples: made of the best, screened.

Legend: N candidates.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from chemkl.chem.fingerprints import fingerprint_bits
from chemkl.chem.operators import SHARES, Origin, propose
from chemkl.config import InputError
from chemkl.config.base import install
from chemkl.policies.base import pad

Screen = Literal["none", "prior", "surrogate"]
"""How candidates are chosen: as they come; the likeliest under the prior; those for which a random
forest expects most, its doubt included."""
LEARNT_FROM = 2000
"""Molecules that the forest is trained on at most: the best half of it and the newest."""
N_TREES = 50


class Candidate(NamedTuple):
    """A molecule that no call has been spent on."""

    smiles: str  # canonical
    origin: Origin
    parents: tuple[str, ...]
    tokens: tuple[int, ...]  # start and end token included
    logp_ref: float  # nats


class Chosen(NamedTuple):
    """What a screen left, and how many proposals there were for it."""

    candidates: Sequence[Candidate]
    n_proposed: int
    n_unspelled: int
    """Those that the policy's tokens cannot write: dropped before they cost a call."""


def explore(
    paid: Mapping[str, float],
    n: int,
    rng: np.random.Generator,
    *,
    spell: Callable[[str], Sequence[int] | None],
    logp_ref: Callable[[Tensor], Tensor],
    proposals_per_call: int = 8,
    screen: Screen = "surrogate",
    parents: int = 100,
    optimism: float = 1.0,
    shares: Mapping[Origin, float] = SHARES,
) -> Chosen:
    """Choose n molecules that are worth a call, or fewer where not so many are found.

    Proposals are children of the molecules of the highest reward; none was paid before. A function
    of its arguments alone: every process of a run comes to the same.

    Args:
        paid: the reward of each molecule that a call was spent on, by its canonical SMILES, in the
            order in which they were paid.
        n: calls.
        rng: of this step.
        spell: the ids of a SMILES, or None where the policy cannot write it.
        logp_ref: log pi_ref of sequences, (N, T) to (N,).
        proposals_per_call: proposals that the screen chooses each call from, 1 or more.
        screen: see `Screen`; surrogate needs the extra sklearn.
        parents: molecules of the highest reward that are parents, alike.
        optimism: standard deviations between the trees that the forest's expectation is raised by.
        shares: of the operators, see `propose`.
    """
    best = sorted(paid, key=paid.__getitem__, reverse=True)[:parents]
    if not best:
        return Chosen((), 0, 0)
    proposals = propose(best, n * proposals_per_call, rng, shares=shares)
    new = [one for one in proposals if one.smiles not in paid]
    spelled = [(one, ids) for one in new if (ids := spell(one.smiles)) is not None]
    n_unspelled = len(new) - len(spelled)
    if not spelled:
        return Chosen((), len(proposals), n_unspelled)
    if screen == "surrogate":
        merit_N = expected(paid, [one.smiles for one, _ in spelled], rng, optimism)
        spelled = [spelled[place] for place in np.argsort(-merit_N, kind="stable")[:n]]
    elif screen == "none":
        spelled = spelled[:n]
    with torch.no_grad():
        logp_N = logp_ref(pad([ids for _, ids in spelled])).tolist()
    candidates = [
        Candidate(one.smiles, one.origin, one.parents, tuple(ids), logp)
        for (one, ids), logp in zip(spelled, logp_N, strict=True)
    ]
    if screen == "prior":
        candidates = sorted(candidates, key=lambda one: -one.logp_ref)[:n]
    return Chosen(candidates, len(proposals), n_unspelled)


def expected(
    paid: Mapping[str, float], smiles: Sequence[str], rng: np.random.Generator, optimism: float
) -> np.ndarray:
    """The reward of molecules by a random forest on Morgan bits: mean over its trees plus doubt.

    The doubt is `optimism` times the standard deviation between the trees: an upper confidence
    bound (Auer, JMLR 3, 397, 2002).
    """
    try:
        from sklearn.ensemble import RandomForestRegressor  # optional
    except ImportError as error:
        text = f"the screen surrogate needs scikit-learn: {install('sklearn')}"
        raise InputError(text) from error
    newest = list(paid)[-LEARNT_FROM // 2 :]
    best = sorted(paid, key=paid.__getitem__, reverse=True)[: LEARNT_FROM // 2]
    known = list(dict.fromkeys([*best, *newest]))
    seed = int(rng.integers(2**31))
    forest = RandomForestRegressor(
        N_TREES, max_features="sqrt", min_samples_leaf=2, random_state=seed
    )
    forest.fit(fingerprint_bits(known), [paid[text] for text in known])
    bits = fingerprint_bits(smiles)
    by_tree = np.stack([tree.predict(bits) for tree in forest.estimators_])
    merit_N: np.ndarray = by_tree.mean(axis=0) + optimism * by_tree.std(axis=0)
    return merit_N
