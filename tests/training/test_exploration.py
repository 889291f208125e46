"""Exploration: which molecules each screen selects, and what the explorer passes on."""

import sys
from contextlib import nullcontext
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
    """A policy that cannot write sulfur or more than 30 characters."""
    return None if "S" in smiles or len(smiles) > 30 else [0, *map(ord, smiles), 1]


def by_length(tokens):
    """Shorter molecules are likelier."""
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
def test_candidates_are_new_and_writable(screen):
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


def test_the_screen_prior_selects_the_likeliest():
    every = chosen("none", n=64, proposals_per_call=1).candidates
    likeliest = sorted((one.logp_ref for one in every), reverse=True)[:8]
    assert [one.logp_ref for one in chosen("prior").candidates] == likeliest


def test_samples_of_the_prior_are_mixed_with_children():
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


def test_the_forest_prefers_molecules_like_the_best():
    with_f, without = ["FCCCCCc1ccccc1"], ["NCCCCCc1ccccc1"]
    forest = fit_forest(PAID, numbers())
    assert upper_bound(forest, with_f, 0.0) > upper_bound(forest, without, 0.0) + 0.2
    assert upper_bound(forest, with_f, 1.0) > upper_bound(forest, with_f, 0.0)
    shares = [
        np.mean(["F" in one.smiles for one in chosen(screen, n=16).candidates])
        for screen in ("none", "surrogate")
    ]
    assert shares[1] > shares[0]


def test_the_diversity_filter_decides_what_is_worth_a_call():
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
    ("module", "screen", "message"),
    [
        ("sklearn.ensemble", "surrogate", "exploration.screen: the screen surrogate needs sci"),
        ("mol_ga.graph_ga.mutate", "prior", "^exploration: genetic operators need the package m"),
        ("sklearn.ensemble", "prior", ""),
    ],
)
def test_a_missing_package_is_named(monkeypatch, module, screen, message):
    monkeypatch.setitem(sys.modules, module, None)
    graph_ga.cache_clear()
    with pytest.raises(InputError, match=message) if message else nullcontext():
        check_exploration(ExplorationConfig(screen=screen))


def test_an_explorer_follows_its_settings(monkeypatch):
    calls = {"parents": [], "fit_forest": [], "upper_bound": [], "explore": []}

    class Memory(dict):
        def best(self, n):
            calls["parents"].append(n)
            return best(n)

    def explored(parents, n, _rng, *, predict, **options):
        calls["explore"].append((list(parents), n, options))
        predict(["CCO"])

    def fitted(rewards, rng):
        calls["fit_forest"].append(len(rewards))
        return fit_forest(rewards, rng)

    def bounded(forest, smiles, optimism):
        calls["upper_bound"].append(optimism)
        return upper_bound(forest, smiles, optimism)

    for name, spy in (("explore", explored), ("fit_forest", fitted), ("upper_bound", bounded)):
        monkeypatch.setattr(f"chemkl.training.exploration.{name}", spy)

    def explorer_of(**settings):
        no_filter = SimpleNamespace(next_share=lambda _: 1.0)
        ledger = SimpleNamespace(n_calls=40, has_paid=bool, filter=no_filter, most_atoms=20)
        prior = SimpleNamespace(device="cpu", logp_tokens=by_length)
        return Explorer(ExplorationConfig(**settings), Memory(), ledger, prior, spell)

    shares = {"crossover": 0, "mutation": 2, "neighbour": 0, "fragments": 3, "prior": 1}
    explorer = explorer_of(
        calls=5, every=3, parents=4, optimism=0.25, refit=4, start=40, screen="surrogate",
        proposals_per_call=6, shares=shares,
    )  # fmt: skip
    paid = pd.DataFrame({"canonical_smiles": PAID.keys(), "reward": PAID.values(), "call": 1})
    explorer.observe(paid.assign(origin="policy", hit=False))
    due = [step for step in range(15) if explorer.is_due(step)]
    assert due == [2, 5, 8, 11, 14]
    for step in due:
        explorer.choose(step)
    assert calls["parents"] == [4] * 5
    assert calls["upper_bound"] == [0.25] * 5
    assert calls["fit_forest"] == [len(PAID)] * 3  # at 2, 8 and 14: 4 steps later are not yet due
    for parents, n, options in calls["explore"]:
        assert (parents, n) == (best(4), 5)
        assert options["shares"] == shares
        assert (options["proposals_per_call"], options["screen"]) == (6, "surrogate")
        assert options["most_atoms"] == 20
    assert not explorer_of(start=41, every=1).is_due(0)


def test_without_usable_parents_there_are_no_candidates():
    assert chosen("none", parents=[]) == ((), 0, 0, 0)
    got = chosen("none", parents=["S"], shares={"mutation": 1.0})
    assert all("S" not in candidate.smiles for candidate in got.candidates)


def test_the_prior_is_evaluated_without_a_graph():
    weight, values = torch.ones(1, requires_grad=True), []

    def logp_ref(tokens):
        values.append(weight * by_length(tokens))
        return values[-1]

    chosen("none", logp_ref=logp_ref)
    assert not values[0].requires_grad
