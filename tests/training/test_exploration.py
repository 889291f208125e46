"""Which molecules are worth a call: children of the best, none paid before, by each screen."""

import sys

import numpy as np
import pytest
import torch
from rdkit import Chem

from chemkl.config import InputError
from chemkl.training.exploration import expected, explore

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


def chosen(screen, n=8, seed=0, paid=PAID, **options):
    return explore(
        paid, n, numbers(seed), spell=spell, logp_ref=by_length, screen=screen, **options
    )


@pytest.mark.parametrize("screen", ["none", "prior", "surrogate"])
def test_candidates_are_new_and_can_be_written(screen):
    got = chosen(screen)
    assert len(got.candidates) == 8
    assert got.n_proposed == 64
    assert got.n_unspelled > 0
    for one in got.candidates:
        assert one.smiles not in PAID
        assert list(one.tokens) == spell(one.smiles)
        assert one.logp_ref == -len(one.smiles)
        assert set(one.parents) <= {*PAID}
    assert chosen(screen) == got
    assert chosen(screen, seed=1) != got


def test_parents_are_the_best():
    best = sorted(PAID, key=PAID.get, reverse=True)[:3]  # of equal ones the first
    got = chosen("none", parents=3)
    assert {parent for one in got.candidates for parent in one.parents} <= {*best}


def test_the_prior_takes_the_likeliest_of_all():
    every = chosen("none", n=64, proposals_per_call=1).candidates
    likeliest = sorted((one.logp_ref for one in every), reverse=True)[:8]
    assert [one.logp_ref for one in chosen("prior").candidates] == likeliest


def test_the_forest_knows_what_was_paid_well():
    with_f, without = ["FCCCCCc1ccccc1"], ["NCCCCCc1ccccc1"]
    assert expected(PAID, with_f, numbers(), 0.0) > expected(PAID, without, numbers(), 0.0) + 0.2
    doubtful = expected(PAID, with_f, numbers(), 1.0) - expected(PAID, with_f, numbers(), 0.0)
    assert doubtful > 0
    shares = [
        np.mean(["F" in one.smiles for one in chosen(screen, n=16).candidates])
        for screen in ("none", "surrogate")
    ]
    assert shares[1] > shares[0]


def test_the_extra_of_the_forest_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(InputError, match=r"screen surrogate needs scikit-learn: pip install"):
        chosen("surrogate")


def test_nothing_comes_of_nothing():
    assert chosen("none", paid={}) == ((), 0, 0)
    sulfur = {"S": 1.0}
    got = chosen("none", paid=sulfur, shares={"mutation": 1.0})
    assert all("S" not in one.smiles for one in got.candidates)


def test_it_asks_the_prior_without_a_graph():
    weight = torch.ones(1, requires_grad=True)
    seen = []

    def logp_ref(tokens):
        seen.append(weight * by_length(tokens))
        return seen[-1]

    explore(PAID, 2, numbers(), spell=spell, logp_ref=logp_ref, screen="none")
    assert not seen[0].requires_grad
