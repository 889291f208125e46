"""Failures are counted and end a run; what was paid for is read back and not asked again."""

import math

import pandas as pd
import pytest
from building import reward_of
from rdkit import Chem

from chemkl.config import InputError
from chemkl.results import TraceWriter, read_trace
from chemkl.rewards.model import Failures
from chemkl.rewards.scoring import Failed

CARBON = {"kind": "required_smarts", "parameters": {"smarts": "C"}}
CHAINS = [f"{'C' * a}O{'C' * b}N" for a in range(1, 21) for b in range(1, 21)]
NUMBER = {Chem.CanonSmiles(smiles): n for n, smiles in enumerate(CHAINS, 1)}


@pytest.fixture
def model(register):
    """A reward whose component `picky` fails on chains of these numbers, from 1."""

    def make(fails, **settings):
        def score(mol):
            n = NUMBER[Chem.MolToSmiles(mol)]
            if fails(n):
                raise RuntimeError("too late" if n > 20 else f"no luck with {n}")
            return 0.5

        register("picky", score)
        return reward_of("picky", CARBON, **settings)

    return make


# ---- a component that fails too often ends the run


def test_a_component_that_fails_on_every_molecule_stops_the_run_with_its_reason(model):
    broken = model(lambda _: True)
    frame = broken.score(CHAINS[:19])  # one too few to judge
    assert frame["raw_picky"].isna().all()
    assert (frame["reward"] == 0).all()
    with pytest.raises(InputError, match=r"picky failed on 20 of 20 molecules \(100.0%\)"):
        broken.score([CHAINS[19]])
    # 20 reasons of their own for the short ones, one for the other 80
    with pytest.raises(InputError) as caught:
        broken.score(CHAINS[20:100])
    assert str(caught.value) == (
        "component picky failed on 100 of 100 molecules (100.0%), more than most_failures = 0.5 "
        "allows. Most frequent reason (80 times): too late. Fix the component, or raise "
        "most_failures."
    )


def test_one_that_fails_on_most_is_judged_from_100_molecules_on(model):
    nearly = model(lambda n: n != 1)
    assert (nearly.score(CHAINS[:99])["reward"] > 0).sum() == 1
    with pytest.raises(InputError, match="picky failed on 99 of 100 molecules"):
        nearly.score([CHAINS[99]])
    assert (nearly.score(CHAINS[:1])["reward"] > 0).all()  # nothing new to ask: no reason to stop


def test_the_share_is_a_setting_and_itself_allowed(model):
    assert len(model(lambda n: n % 2 == 0).score(CHAINS[:200])) == 200
    with pytest.raises(InputError, match=r"failed on 50 of 100 molecules \(50.0%\).* = 0.4 allows"):
        model(lambda n: n % 2 == 0, most_failures=0.4).score(CHAINS[:100])
    assert (model(lambda _: True, most_failures=1).score(CHAINS)["reward"] == 0).all()


def test_repeats_and_invalid_strings_are_not_molecules_asked_about(model):
    broken = model(lambda _: True, most_failures=1)
    for _ in range(5):
        broken.score([*CHAINS[:50], "C1CC", ""])
    counts = broken.failures
    assert (counts["picky"].attempts, counts["picky"].failed) == (50, 50)
    assert (counts["required_smarts"].attempts, counts["required_smarts"].failed) == (50, 0)
    assert counts["picky"].reasons["too late"] == 30
    assert counts["picky"].reasons["no luck with 7"] == 1


def test_remembered_failures_count_and_do_not_stop_a_run_that_goes_on(model):
    rows = model(lambda _: True, most_failures=1).score(CHAINS[:150])
    mended = model(lambda _: False)
    mended.remember(rows)
    mended.remember(rows)  # known already
    assert (mended.failures["picky"].attempts, mended.failures["picky"].failed) == (150, 150)
    assert (mended.score(CHAINS[:150])["reward"] == 0).all()  # final, as in the trace
    assert (mended.score(CHAINS[150:300])["reward"] > 0).all()


@pytest.mark.parametrize("words", [("molecules", "component"), ("completions", "reward function")])
def test_a_summary_says_what_failed_on_what(words):
    failures = Failures(["mine", "fine"], 0.5, *words)
    failures.add(failures, [])
    for reason in ("it returned nan", "ValueError: no (mine.py:3)", "it returned nan"):
        failures.add(failures, [Failed("mine", reason)])
    assert failures.describe() == [
        f"{words[1]} mine failed on 3 of 4 {words[0]}, most often: it returned nan"
    ]


# ---- raw values that are read back come out the same, bit for bit


PARTS = [
    {"kind": "fussy", "transform": {"kind": "sigmoid", "low": 0, "high": 10}},
    "share",
    {"kind": "small", "role": "filter"},
    "docking",
]
FUSSY = "component fussy failed: no nitrogen, please"
SHARE = "component share failed: score 1.5 is not between 0 and 1"
REASONS = {
    "CCO": "",
    "C1CC": "not parsable: unclosed ring 1 opened at position 2",
    "CCN": FUSSY,
    "c1ccccc1O": "",
    "CCCl": SHARE,
    "NCCl": f"{FUSSY}; {SHARE}",  # both sorts of failure keep their order
    "C" * 20: "filter small failed",
    "CCBr": "component docking failed: no pose",
}


@pytest.fixture
def questions(register):
    """`fussy` fails on nitrogen, `share` leaves 0 to 1 on chlorine, `docking` is costly."""

    def has(symbol, mol):
        return any(atom.GetSymbol() == symbol for atom in mol.GetAtoms())

    def fussy(mol):
        if has("N", mol):
            raise RuntimeError("no nitrogen, please")
        return math.sqrt(mol.GetNumAtoms())

    def docking(mol):
        if has("Br", mol):
            raise RuntimeError("no pose")
        return 0.9

    register("share", lambda mol: 1.5 if has("Cl", mol) else 1 / 3)
    register("small", lambda mol: float(mol.GetNumAtoms() < 20))
    return register("fussy", fussy, (0, math.inf)), register("docking", docking, costly=True)


def through_a_trace(rows, folder):
    """The same rows as a run's trace gives them back; what a filter paid is 0 there."""
    writer = TraceWriter(folder, ["fussy", "share", "small", "docking"], "run", "hash")
    zeros = dict.fromkeys(("step", "logp_policy", "logp_ref", "reward_filtered", "log_target"), 0)
    flags = dict.fromkeys(("repeat", "hit", "anchor", "is_replay"), False)
    writer.append(rows.assign(row=range(len(rows)), call=None, n_tokens=5, **zeros, **flags))
    writer.cut()
    return read_trace(folder)


def test_a_trace_gives_every_row_back_without_a_question(questions, tmp_path):
    smiles = [*REASONS, "OCC"]
    scored = reward_of(*PARTS).score(smiles)
    assert scored["reason"].fillna("").tolist() == [*REASONS.values(), ""]
    asked = [*map(len, questions)]
    second = reward_of(*PARTS)
    second.remember(through_a_trace(scored, tmp_path))
    pd.testing.assert_frame_equal(second.score(smiles), scored, check_exact=True)
    third = reward_of(*PARTS)  # what was read back can be read back again
    third.remember(second.score(smiles))
    pd.testing.assert_frame_equal(third.score(smiles), scored, check_exact=True)
    assert [*map(len, questions)] == asked
    rows = third.score(["C(O)C", "Oc1ccccc1", "CCCC"])  # other spellings are known too
    assert questions[0][asked[0] :] == ["CCCC"]
    assert rows["reward"][0] == scored["reward"][0] > 0


def test_what_is_known_already_stays_and_what_nothing_explains_is_asked_again(questions):
    model = reward_of(*PARTS)
    first = model.score(["CCO"])
    model.remember(first.assign(raw_fussy=99.0))
    pd.testing.assert_frame_equal(model.score(["CCO"]), first)
    fresh = reward_of(*PARTS)
    fresh.remember(fresh.score(["C1CC", ""]))  # nothing to remember
    fresh.remember(first.assign(raw_docking=math.nan))
    pd.testing.assert_frame_equal(fresh.score(["CCO"]), first, check_exact=True)
    assert questions[1] == ["CCO", "CCO"]
