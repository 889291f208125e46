"""The memory: what it keeps, removes and draws, and the rewards of replayed rows."""

import io
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from chemkl.config import InputError
from chemkl.config.objective import FILTERS, MemoryConfig, MemorySeed
from chemkl.training.filters import NoFilter, build_filter
from chemkl.training.memory import Memory, Molecule, inclusion_chances, log_mixture, read_seed


def molecule(name, reward, scaffold="", smiles=None):
    ids = (1, 5, 6, 0)
    return Molecule(smiles or name, name, scaffold, reward, -20.0, "policy", ids, -10 * reward)


def memory_of(molecules=(), diversity_filter=None, *, rows=4, tau=0.5, has_hits=True, **config):
    memory = Memory(
        MemoryConfig(**config), diversity_filter or NoFilter(), rows=rows, tau=tau,
        has_hits=has_hits, seed=7,
    )  # fmt: skip
    memory.add(molecules)
    return memory


def names(memory):
    return sorted(one.canonical for one in memory.molecules)


# ---- what is kept


def test_a_molecule_is_kept_once_under_any_spelling():
    memory = memory_of([molecule("CCO", 0.3), molecule("CCO", 0.3, smiles="OCC")])
    memory.add([molecule("CCO", 0.3, smiles="C(O)C")])
    assert [one.smiles for one in memory.molecules] == ["CCO"]


REWARDS = {"a": 0.4, "b": 0.9, "c": 0.1, "d": 0.4, "e": 0.8}
SCAFFOLDS = {"a": "x", "b": "x", "c": "y", "d": "x", "e": "z"}


@pytest.mark.parametrize(
    ("purge", "left"),
    [
        ("worst", "bde"),  # c, then of the equal a and d the older
        ("oldest", "cde"),
        ("scaffold", "bce"),  # of three of x the worst two: a and d
        ("none", "abc"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_full_memory_is_purged(purge, left, at_once):
    memory = memory_of(capacity=3, purge=purge)
    molecules = [molecule(name, REWARDS[name], SCAFFOLDS[name]) for name in "abcde"]
    for some in [molecules] if at_once else [[one] for one in molecules]:
        memory.add(some)
    assert names(memory) == list(left)
    assert [memory.molecules[memory._place[name]].canonical for name in left] == list(left)


def murcko(bucket=2, **settings):
    return build_filter(FILTERS["murcko"](kind="murcko", bucket=bucket, min_score=0.2, **settings))


def filtered(diversity_filter, names, scaffold="x", reward=0.8):
    """Have a filter count molecules; their filtered rewards."""
    rows = pd.DataFrame({"canonical_smiles": list(names), "scaffold": scaffold, "reward": reward})
    return diversity_filter(rows).tolist()


@pytest.mark.parametrize("selective", [True, False])
def test_molecules_of_a_full_bucket_have_no_reward_and_leave_first(selective):
    murcko_filter = murcko(bucket=2)
    memory = memory_of(diversity_filter=murcko_filter, selective=selective)
    filtered(murcko_filter, "ab")
    memory.add([molecule("a", 0.8, "x"), molecule("b", 0.8, "x"), molecule("c", 0.1, "x")])
    assert memory.filtered_rewards().tolist() == [0.8, 0.8, 0.1]  # the bucket holds these two
    assert filtered(murcko_filter, "d") == [0.0]
    filtered(murcko_filter, "e", scaffold="y")
    memory.add([molecule("e", 0.8, "y")])
    pairs = zip(memory.molecules, memory.filtered_rewards(), strict=True)
    rewards = {molecule.canonical: reward for molecule, reward in pairs}
    assert rewards == ({"c": 0.1, "e": 0.8} if selective else {"a": 0, "b": 0, "c": 0.1, "e": 0.8})


def test_a_soft_penalty_is_that_of_the_newest_molecule_of_the_bucket():
    murcko_filter = murcko(bucket=4, penalty="linear")
    assert filtered(murcko_filter, "a") == [pytest.approx(0.8 * 3 / 4)]
    memory = memory_of([molecule("a", 0.8, "x"), molecule("seed", 0.8, "x")], murcko_filter)
    newest = filtered(murcko_filter, "b")[0]
    assert memory.filtered_rewards().tolist() == [newest, 0.8]  # the policy has not sampled seed
    newest = filtered(murcko_filter, ["seed"])[0]
    memory.add([molecule("seed", 0.8, "x")])
    assert memory.filtered_rewards().tolist() == [newest, newest]


def test_the_best_molecules_have_the_highest_filtered_rewards():
    murcko_filter = murcko(bucket=1)
    memory = memory_of(diversity_filter=murcko_filter, selective=False)
    filtered(murcko_filter, "ab")
    memory.add([molecule("a", 0.9, "x"), molecule("c", 0.2, "y"), molecule("d", 0.3, "y")])
    assert memory.best(5) == ["d", "c"]  # the bucket of a is full
    assert memory.best(1) == ["d"]


@pytest.mark.parametrize(("repeats", "left"), [(True, ["CC", "CCC", "CCN"]), (False, ["CCC"])])
def test_without_repeats_a_repeated_molecule_leaves_for_good(repeats, left):
    memory = memory_of([molecule("CC", 0.9), molecule("CCC", 0.2)], repeats=repeats)
    memory.drop_repeats(["CC", "CCN", "O"])
    memory.add([molecule("CC", 0.9), molecule("CCN", 0.5)])  # CCN twice in this very batch
    assert names(memory) == left


# ---- what is drawn


def shares(memory, n_steps=4000):
    counts = Counter(m.canonical for step in range(n_steps) for m in memory.draw(step).molecules)
    return {name: counts[name] / n_steps for name in names(memory)}


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        ("uniform", {"a": 0.4, "b": 0.4, "c": 0.4, "d": 0.4, "e": 0.4}),
        ("hits", {"a": 0, "b": 2 / 3, "c": 0, "d": 2 / 3, "e": 2 / 3}),
        ("scaffolds", {"a": 0, "b": 0.5, "c": 0, "d": 0.5, "e": 1}),
        # in proportion to 4 9 1 6 8 of 28
        ("reward", {"a": 8 / 28, "b": 18 / 28, "c": 2 / 28, "d": 12 / 28, "e": 16 / 28}),
        # by reward b e d a c: 1 1/2 1/3 1/4 1/5 of 137/60
        ("rank", {n: 120 / 137 / k for k, n in enumerate("bedac", 1)}),
    ],
)
def test_molecules_are_drawn_with_their_stated_chances(draw, expected):
    rewards = REWARDS | {"d": 0.6}
    memory = memory_of(
        [molecule(name, rewards[name], SCAFFOLDS[name]) for name in "abcde"], rows=2, draw=draw
    )
    assert shares(memory) == pytest.approx(expected, abs=0.03)
    drawn = memory.draw(3)
    chance = dict(zip([m.canonical for m in drawn.molecules], drawn.chance.tolist(), strict=True))
    assert chance == pytest.approx({name: expected[name] for name in chance})


def test_draws_are_distinct_and_complete_if_there_are_few():
    memory = memory_of([molecule(str(n), 0.1 + n / 100) for n in range(50)], rows=20, tau=0.55)
    for step in range(50):
        drawn = memory.draw(step).molecules
        assert len({one.canonical for one in drawn}) == len(drawn) == 20
    few = memory_of(memory.molecules, rows=20, tau=0.55, draw="hits")
    assert [one.reward for one in few.draw(0).molecules] == [0.1 + n / 100 for n in range(45, 50)]
    assert len(memory_of().draw(0)) == 0


def test_a_draw_depends_on_seed_step_and_content_alone():
    molecules = [molecule(str(n), 0.1 + n / 100) for n in range(50)]
    one, other = memory_of(molecules), memory_of(molecules)
    one.draw(0)
    assert one.draw(3).molecules == other.draw(3).molecules
    assert one.draw(4).molecules != other.draw(3).molecules


def test_a_target_with_a_quantile_uses_the_hits_of_the_latest_batch():
    memory = memory_of([molecule("a", 0.4), molecule("b", 0.9)], tau=None, draw="hits")
    assert len(memory.draw(0)) == 0  # no hit so far
    memory.observe_hits([0.6, 0.7])
    assert [one.canonical for one in memory.draw(0).molecules] == ["b"]
    memory.observe_hits([])
    memory.observe_hits([0.3])
    assert len(memory.draw(0)) == 2


def test_without_hits_scaffolds_are_those_of_all_molecules():
    molecules = [molecule(name, REWARDS[name], SCAFFOLDS[name]) for name in "abcde"]
    memory = memory_of(molecules, draw="scaffolds", rows=3, tau=None, has_hits=False)
    assert shares(memory, 500) == pytest.approx(
        {"a": 1 / 3, "b": 1 / 3, "c": 1, "d": 1 / 3, "e": 1}, abs=0.08
    )


def test_explored_molecules_join_with_chance_1():
    memory = memory_of([molecule("a", 0.9), molecule("b", 0.4)], rows=1, draw="uniform")
    sampled = memory.draw(0, ["a", "c"], torch.tensor([[1, 5, 6, 0], [1, 5, 5, 0]]))
    rows = pd.DataFrame({"reward_filtered": [0.7]})
    drawn = sampled.with_explored([molecule("new", 0.7)], rows)
    assert drawn.molecules[0].canonical == "new"
    assert drawn.reward[0] == 0.7
    assert drawn.chance.tolist() == [0.5, 0, 1, 0.5]
    logp_B = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    by_hand = (2 * logp_B.exp() + torch.tensor([0.5, 0, 1, 0.5])) / 4
    torch.testing.assert_close(log_mixture(logp_B, drawn).exp(), by_hand)


def test_the_chance_of_a_sampled_row_is_that_of_its_own_tokens():
    memory = memory_of([molecule("CCO", 0.8), molecule("CCN", 0.2)], rows=1, draw="uniform")
    canonical = ["CCO", "CCO", "CCO", "CCC", None]
    own, other, longer = [1, 5, 6, 0, 0], [1, 6, 5, 0, 0], [1, 5, 6, 6, 0]
    sampled = torch.tensor([own, other, longer, own, own])
    assert memory.draw(0, canonical, sampled).chance.tolist() == [0.5, 0, 0, 0, 0, 0.5]


@pytest.mark.parametrize(
    ("weights", "n", "chances"),
    [
        ([8, 1, 1, 0, 2], 2, [1, 0.25, 0.25, 0, 0.5]),
        ([8, 1, 1, 0, 2], 3, [1, 0.5, 0.5, 0, 1]),
        ([8, 1, 1, 0, 2], 9, [1, 1, 1, 0, 1]),
        ([], 3, []),
        ([6, 4, 1, 1], 3, [1, 1, 0.5, 0.5]),  # the second comes to exactly 1
        ([9, 1, 1, 1], 2, [1, 1 / 3, 1 / 3, 1 / 3]),
        ([3, 0, 2], 5, [1, 0, 1]),
        ([1, 1, 1, 1], 2, [0.5] * 4),
    ],
)
def test_chances_are_proportional_to_weights_up_to_1(weights, n, chances):
    assert inclusion_chances(np.array(weights, dtype=float), n) == pytest.approx(chances)


# ---- the checkpoint


def test_a_memory_continues_from_its_state():
    rng = np.random.default_rng(0)
    murcko_filter = murcko(bucket=28)
    whole = memory_of(diversity_filter=murcko_filter, capacity=40, purge="scaffold", tau=None)
    resumed = None
    for step in range(30):
        if step == 15:
            file = io.BytesIO()
            torch.save(whole.state_dict(), file)
            file.seek(0)
            resumed = memory_of(
                diversity_filter=murcko_filter, capacity=40, purge="scaffold", tau=None
            )
            resumed.load_state_dict(torch.load(file, weights_only=True))
        batch = []
        for _ in range(8):
            name, reward = f"{step}-{rng.integers(99)}", float(rng.random())
            scaffold = "xyzuvw"[rng.integers(6)]
            if rng.random() < 0.9:  # the policy did not sample the others
                filtered(murcko_filter, [name], scaffold, reward)
            batch.append(molecule(name, reward, scaffold))
        for memory in (whole, resumed) if resumed is not None else (whole,):
            memory.add(batch)
            memory.observe_hits([0.5] if step % 3 else [])
        if resumed is not None:
            assert resumed.draw(step).molecules == whole.draw(step).molecules
            assert resumed.filtered_rewards().tolist() == whole.filtered_rewards().tolist()
    assert resumed.molecules == whole.molecules
    assert 10 < len(whole) < 40  # scaffolds are used up


def test_a_checkpoint_without_logp_policy_can_be_loaded():
    whole = memory_of([molecule("CCO", 0.8), molecule("CCN", 0.2)])
    state = {name: value for name, value in whole.state_dict().items() if name != "logp_policy"}
    resumed = memory_of()
    resumed.load_state_dict(state)
    assert resumed.molecules == [one._replace(logp_policy=0.0) for one in whole.molecules]


def test_seeds_may_exceed_the_capacity_only_if_they_cost_no_call(tmp_path):
    file = tmp_path / "seed.csv"
    file.write_text("SMILES,activity\nCCO,0.7\nCC,0.2\nC,1\n")
    warnings = []
    seeds = read_seed(MemorySeed(path=file, reward="Activity"), 9, 2, warnings.append)
    assert warnings == [
        f"memory.seed: {file}: 3 molecules for a capacity of 2: memory.purge says which ones stay"
    ]
    assert [one.reward for one in seeds] == [0.7, 0.2, 1.0]
    with pytest.raises(InputError, match=r"its 3 molecules cost a call each, and memory"):
        read_seed(MemorySeed(path=file), budget=9, capacity=2)
