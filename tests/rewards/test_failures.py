"""A component that fails too often ends the run, and says why."""

import pytest
from rdkit import Chem

from chemkl.config import InputError
from chemkl.rewards import RewardModel
from chemkl.rewards.model import FailureCount, describe_failures
from chemkl.rewards.registry import COMPONENTS, Component

CARBON = {"kind": "required_smarts", "parameters": {"smarts": "C"}}
CHAINS = [f"{'C' * a}O{'C' * b}N" for a in range(1, 21) for b in range(1, 21)]
NUMBER = {Chem.CanonSmiles(smiles): n for n, smiles in enumerate(CHAINS, 1)}


@pytest.fixture
def model(monkeypatch):
    """A reward whose component `picky` fails on chains of these numbers, from 1."""

    def make(fails, **settings):
        def score(mol):
            n = NUMBER[Chem.MolToSmiles(mol)]
            if fails(n):
                raise RuntimeError("too late" if n > 20 else f"no luck with {n}")
            return 0.5

        monkeypatch.setitem(
            COMPONENTS, "picky", Component("picky", lambda: score, "", (0, 1), "made up")
        )
        config = {"components": [{"kind": "picky"}, CARBON], **settings}
        return RewardModel.from_config(config)

    return make


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
        "allows. Most frequent reason (80 times): too late. Mend the component, or allow more."
    )


def test_one_that_fails_on_most_is_judged_from_100_molecules_on(model):
    nearly = model(lambda n: n != 1)
    assert (nearly.score(CHAINS[:99])["reward"] > 0).sum() == 1
    with pytest.raises(InputError, match="picky failed on 99 of 100 molecules"):
        nearly.score([CHAINS[99]])


def test_failures_that_are_read_back_count(model):
    first = model(lambda n: n % 3 == 0, most_failures=1)
    rows = first.score(CHAINS[:30])
    again = model(lambda n: n % 3 == 0, most_failures=1)
    again.remember(rows)
    again.remember(rows)  # known already
    again.score(CHAINS[:30])
    assert (again.failures["picky"].asked, again.failures["picky"].failed) == (30, 10)
    assert again.failures == first.failures


def test_the_share_is_a_setting_and_itself_allowed(model):
    exactly_half = model(lambda n: n % 2 == 0)
    assert len(exactly_half.score(CHAINS[:200])) == 200
    with pytest.raises(InputError, match=r"failed on 50 of 100 molecules \(50.0%\).* = 0.4 allows"):
        model(lambda n: n % 2 == 0, most_failures=0.4).score(CHAINS[:100])
    never = model(lambda _: True, most_failures=1)
    assert (never.score(CHAINS)["reward"] == 0).all()


def test_repeats_and_invalid_strings_are_not_molecules_asked_about(model):
    broken = model(lambda _: True, most_failures=1)
    for _ in range(5):
        broken.score([*CHAINS[:50], "C1CC", ""])
    counts = broken.failures
    assert (counts["picky"].asked, counts["picky"].failed) == (50, 50)
    assert (counts["required_smarts"].asked, counts["required_smarts"].failed) == (50, 0)
    assert counts["picky"].reasons["too late"] == 30
    assert counts["picky"].reasons["no luck with 7"] == 1


def test_values_that_are_no_scores_are_failures_too(monkeypatch):
    liar = Component("liar", lambda: lambda _: 7.0, "", (0, 1), "made up")
    monkeypatch.setitem(COMPONENTS, "liar", liar)
    with pytest.raises(InputError, match=r"liar failed on 100 of 100.*score 7 is not between 0"):
        RewardModel.from_config({"components": [{"kind": "liar"}]}).score(CHAINS[:100])


def test_what_was_paid_before_the_stop_stays_known(model):
    broken = model(lambda n: n > 10)
    with pytest.raises(InputError, match="too late"):
        broken.score(CHAINS[:100])
    rows = broken.score(CHAINS[:10])  # nothing new to ask: no reason to stop
    assert (rows["reward"] > 0).all()


def test_remembered_failures_do_not_stop_a_run_that_goes_on(model):
    rows = model(lambda _: True, most_failures=1).score(CHAINS[:150])
    mended = model(lambda _: False)
    mended.remember(rows)
    assert (mended.score(CHAINS[:150])["reward"] == 0).all()  # final, as in the trace
    assert (mended.score(CHAINS[150:300])["reward"] > 0).all()


def test_a_summary_says_what_failed_on_what():
    count = FailureCount()
    for reason in (None, "it returned nan", "ValueError: no (mine.py:3)", "it returned nan"):
        count.add(reason)
    counts = {"mine": count, "fine": FailureCount(asked=4)}
    assert describe_failures(counts) == [
        "component mine failed on 3 of 4 molecules, most often: it returned nan"
    ]
    assert describe_failures(counts, "completions", "reward function") == [
        "reward function mine failed on 3 of 4 completions, most often: it returned nan"
    ]
