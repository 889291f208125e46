"""Which molecules are worth a call: children of given ones, none known before, by each screen."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem

from chemkl.chem.operators import graph_ga
from chemkl.config import InputError
from chemkl.config.objective import ExplorationConfig
from chemkl.training.exploration import (
    Explorer,
    check_exploration,
    explore,
    fit_forest,
    upper_bound,
)

# the more fluorine the better, which a forest on fingerprints can see
PAID = {f"{'F' * (n % 2)}C{'C' * n}O": (n % 2) / 2 + n / 40 for n in range(12)}
PAID |= {f"c1ccc(C{'C' * n}{x})cc1": 0.9 if x == "F" else 0.1 for n in range(8) for x in "FON"}
PAID = {Chem.CanonSmiles(smiles): reward for smiles, reward in PAID.items()}


def numbers(seed=0):
    return np.random.default_rng(seed)


def spell(smiles):
    """A policy without sulfur and of no more than 30 characters."""
    return None if "S" in smiles or len(smiles) > 30 else [0, *map(ord, smiles), 1]


def by_length(tokens):
    """The shorter the likelier."""
    return -(tokens > 1).sum(dim=1).float()


def forest_of(paid):
    forest = fit_forest(paid, numbers())
    return lambda smiles: upper_bound(forest, smiles, 1.0)


def best(n=100, paid=PAID):
    return sorted(paid, key=paid.get, reverse=True)[:n]


def chosen(screen, n=8, seed=0, parents=None, **options):
    given = {"is_known": PAID.__contains__, "predict": forest_of(PAID), "logp_ref": by_length}
    given |= {"proposals_per_call": 8} | options
    parents = best() if parents is None else parents
    return explore(parents, n, numbers(seed), spell=spell, screen=screen, **given)


@pytest.mark.parametrize("screen", ["none", "prior", "surrogate"])
def test_candidates_are_new_and_can_be_written(screen):
    got = chosen(screen)
    assert len(got.candidates) == 8
    assert got.n_proposed == 64
    assert got.n_unspelled > 0
    assert got.n_unpaid == 0
    for one in got.candidates:
        assert one.smiles not in PAID
        assert list(one.tokens) == spell(one.smiles)
        assert one.logp_ref == -len(one.smiles)
    assert chosen(screen) == got
    assert chosen(screen, seed=1) != got
    known = {one.smiles for one in got.candidates}
    others = chosen(screen, is_known=lambda smiles: smiles in known or smiles in PAID).candidates
    assert known.isdisjoint(one.smiles for one in others)


def test_the_prior_takes_the_likeliest_of_all():
    every = chosen("none", n=64, proposals_per_call=1).candidates
    likeliest = sorted((one.logp_ref for one in every), reverse=True)[:8]
    assert [one.logp_ref for one in chosen("prior").candidates] == likeliest


def test_samples_of_the_prior_stand_among_children_in_their_share():
    samples = [f"C{'C' * n}N" for n in range(20)]
    shares = {"crossover": 0, "mutation": 1, "neighbour": 0, "prior": 1}
    options = {"shares": shares, "sample_prior": lambda n: samples[:n], "proposals_per_call": 2}
    got = chosen("none", n=16, **options)
    origins = [one.origin for one in got.candidates]
    assert 3 < origins.count("prior") < 13
    assert origins != sorted(origins)
    alone = chosen("none", n=4, parents=[], **options)
    assert {one.origin for one in alone.candidates} == {"prior"}
    assert chosen("none", n=4, parents=[]).candidates == ()


def test_the_forest_knows_what_was_paid_well():
    with_f, without = ["FCCCCCc1ccccc1"], ["NCCCCCc1ccccc1"]
    forest = fit_forest(PAID, numbers())
    assert upper_bound(forest, with_f, 0.0) > upper_bound(forest, without, 0.0) + 0.2
    assert upper_bound(forest, with_f, 1.0) > upper_bound(forest, with_f, 0.0)
    shares = [
        np.mean(["F" in one.smiles for one in chosen(screen, n=16).candidates])
        for screen in ("none", "surrogate")
    ]
    assert shares[1] > shares[0]


def test_what_the_filter_pays_decides_what_is_worth_a_call():
    every = chosen("none", n=64, proposals_per_call=1).candidates
    rings = [one for one in every if "c1" in one.smiles]
    assert 0 < len(rings) < len(every)
    for screen in ("none", "prior", "surrogate"):
        got = chosen(screen, n=64, proposals_per_call=1, share=lambda smiles: "c1" not in smiles)
        assert got.n_unpaid == len(rings)
        assert {one.smiles for one in got.candidates} == {
            one.smiles for one in every if one not in rings
        }
    half = chosen("surrogate", share=lambda smiles: 0.01 if "F" in smiles else 1.0)
    assert not any("F" in one.smiles for one in half.candidates)


@pytest.mark.parametrize(
    ("module", "screen", "says"),
    [
        ("sklearn.ensemble", "surrogate", "exploration.screen: the screen surrogate needs sci"),
        ("mol_ga.graph_ga.mutate", "prior", "^exploration: genetic operators need the package m"),
        ("sklearn.ensemble", "prior", ""),
    ],
)
def test_the_extra_that_is_missing_is_named(monkeypatch, module, screen, says):
    monkeypatch.setitem(sys.modules, module, None)
    graph_ga.cache_clear()
    config = ExplorationConfig(screen=screen)
    if not says:
        check_exploration(config)
        return
    with pytest.raises(InputError, match=says):
        check_exploration(config)


@pytest.fixture
def asked(monkeypatch):
    """An explorer of its settings, and what it has asked of others, by name."""
    asked = {"parents": [], "fitted": [], "optimism": [], "explore": []}

    class Memory(dict):
        def best(self, n):
            asked["parents"].append(n)
            return best(n)

    def explored(parents, n, _rng, *, predict, **given):
        asked["explore"].append((list(parents), n, given))
        predict(["CCO"])

    def fits(paid, rng):
        asked["fitted"].append(len(paid))
        return fit_forest(paid, rng)

    def expects(forest, smiles, optimism):
        asked["optimism"].append(optimism)
        return upper_bound(forest, smiles, optimism)

    for name, spy in (("explore", explored), ("fit_forest", fits), ("upper_bound", expects)):
        monkeypatch.setattr(f"chemkl.training.exploration.{name}", spy)

    def make(**settings):
        pays = SimpleNamespace(next_share=lambda _: 1.0)
        ledger = SimpleNamespace(n_calls=40, has_paid=bool, filter=pays, most_atoms=20)
        prior = SimpleNamespace(device="cpu", logp_tokens=by_length)
        explorer = Explorer(ExplorationConfig(**settings), Memory(), ledger, prior, spell)
        return explorer, asked

    return make


def test_an_explorer_does_what_its_settings_say(asked):
    shares = {"crossover": 0, "mutation": 2, "neighbour": 0, "fragments": 3, "prior": 1}
    explorer, seen = asked(
        calls=5, every=3, parents=4, optimism=0.25, refit=4, start=40, screen="surrogate",
        proposals_per_call=6, shares=shares,
    )  # fmt: skip
    paid = pd.DataFrame({"canonical_smiles": PAID.keys(), "reward": PAID.values(), "call": 1})
    explorer.observe(paid.assign(origin="policy", hit=False))
    due = [step for step in range(15) if explorer.is_due(step)]
    assert due == [2, 5, 8, 11, 14]
    for step in due:
        explorer.choose(step)
    assert seen["parents"] == [4] * 5
    assert seen["optimism"] == [0.25] * 5
    assert seen["fitted"] == [len(PAID)] * 3  # at 2, 8 and 14: 4 steps after are not yet due
    for parents, n, given in seen["explore"]:
        assert (parents, n) == (best(4), 5)
        assert given["shares"] == shares
        assert (given["proposals_per_call"], given["screen"]) == (6, "surrogate")
        assert given["most_atoms"] == 20
    assert not asked(start=41, every=1)[0].is_due(0)


def test_nothing_comes_of_nothing():
    assert chosen("none", parents=[]) == ((), 0, 0, 0)
    got = chosen("none", parents=["S"], shares={"mutation": 1.0})
    assert all("S" not in one.smiles for one in got.candidates)


def test_it_asks_the_prior_without_a_graph():
    weight = torch.ones(1, requires_grad=True)
    seen = []

    def logp_ref(tokens):
        seen.append(weight * by_length(tokens))
        return seen[-1]

    chosen("none", logp_ref=logp_ref)
    assert not seen[0].requires_grad
