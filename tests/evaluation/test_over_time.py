import numpy as np
import pytest

from chemkl.config.evaluate import MetricOptions
from chemkl.evaluation import evaluate, from_smiles, from_trace
from chemkl.evaluation.over_time import over_time, over_time_schema
from chemkl.results import description_of

OPTIONS = MetricOptions()
SAME = (
    *("n_molecules", "murcko", "generic", "effective_scaffolds", "top_share", "circles"),
    *("n_pairwise", "int_div_moses_1", "int_div_pairs"),
)
LATE = ("late_uniqueness", "late_scaffolds", "late_top_share")


@pytest.fixture
def steps(real_smiles):
    rewards = np.random.default_rng(0).uniform(size=120)
    scored = list(zip(real_smiles[:120], rewards.tolist(), strict=True))
    return [scored[i : i + 12] + scored[: i // 12] for i in range(0, 120, 12)]  # with repeats


def assert_agree(row, whole):
    """A row over time is what the whole run has, up to the order of the sums."""
    for name in SAME:
        assert row[name] == pytest.approx(whole[name], rel=1e-9), name
    if whole["threshold"] is None:
        assert [row[name] for name in LATE] == [whole[name] for name in LATE]


@pytest.mark.parametrize("options", [OPTIONS, MetricOptions(max_molecules=30, late_samples=25)])
def test_the_last_row_agrees_with_the_whole_run(make_trace, steps, options):
    samples = from_trace("x", make_trace(steps))
    rows = over_time(samples, [0.5], options, every=50)
    assert [(row["threshold"], row["call"]) for row in rows] == [
        *((None, 50), (None, 100), (None, 120)),
        *((0.5, 50), (0.5, 100), (0.5, 120)),
    ]
    for last, whole in zip(rows[2::3], evaluate(samples, [0.5], options), strict=True):
        assert_agree(last, whole)


def test_every_row_is_what_the_run_was_up_to_then(make_trace, steps):
    options = MetricOptions(late_samples=15)
    rows = over_time(from_trace("x", make_trace(steps)), [0.5], options, every=24)
    for number in range(5):  # two steps bring 24 new molecules
        cut = from_trace("x", make_trace(steps[: 2 * number + 2]))
        for row, whole in zip(rows[number::5], evaluate(cut, [0.5], options), strict=True):
            assert_agree(row, whole)


def test_rewards_by_hand(make_trace):
    steps = [[("C", 0.2), ("CC", 0.6)], [("CCC", 0.4), ("C1CC", 0.0), ("CCCC", float("nan"))]]
    first, second = over_time(from_trace("x", make_trace(steps)), [], OPTIONS, every=2)
    assert (first["mean_reward"], first["top_1"]) == (pytest.approx(0.4), 0.6)
    assert (second["mean_reward"], second["top_1"]) == (0.4, 0.6)  # the failed one left out
    assert second["top_10"] == pytest.approx(1.2 / 3)
    assert first["int_div_pairs"] is not None
    assert first["effective_scaffolds"] is None


def test_the_best_hundred_are_kept(make_trace, steps):
    rewards = [m.reward for m in from_trace("x", make_trace(steps)).molecules]
    *_, last = over_time(from_trace("x", make_trace(steps)), [], OPTIONS, every=7)
    for k in (1, 10, 100):
        assert last[f"top_{k}"] == pytest.approx(np.mean(sorted(rewards)[-k:]))


def test_the_window_shows_a_collapse_that_the_sums_hide():
    samples = from_smiles("x", ["c1ccncc1", "CCO", *["Oc1ccccc1"] * 8, "CCC"])
    rows = over_time(samples, [0.5], MetricOptions(late_samples=4), every=2)
    assert [row["call"] for row in rows] == [2, 4]  # a file has no threshold
    # call 2: the first two samples; call 4: three phenols and propane, the ninth to eleventh
    assert rows[0]["late_uniqueness"] == 1
    assert rows[1]["late_uniqueness"] == 2 / 4
    assert rows[1]["late_top_share"] == 1
    assert rows[0]["mean_reward"] is rows[0]["top_1"] is None


def test_runs_without_molecules_and_thresholds_without_hits(make_trace):
    assert over_time(from_trace("x", make_trace([])), [0.5], OPTIONS, every=10) == []
    assert over_time(from_trace("x", make_trace([[("C1CC", 0.0)]])), [0.5], OPTIONS, 10) == []
    _, hits = over_time(from_trace("x", make_trace([[("CCO", 0.1)]])), [0.5], OPTIONS, every=10)
    assert (hits["n_molecules"], hits["circles"], hits["int_div_moses_1"]) == (0, 0, None)


def test_columns_are_described_and_complete(make_trace, steps):
    schema = over_time_schema(MetricOptions(circles_distance=0.6))
    assert all(len(description_of(field)) > 5 for field in schema)
    assert "distance 0.6" in description_of(schema.field("circles"))
    rows = over_time(from_trace("x", make_trace(steps)), [0.5], OPTIONS, every=50)
    assert {tuple(row) for row in rows} == {tuple(schema.names)}
