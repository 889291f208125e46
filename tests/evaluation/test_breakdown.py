"""Breakdowns over calls, by family and by prompt: by hand, and against whole runs."""

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from chemkl.config.evaluate import MetricOptions
from chemkl.evaluation import Comparisons, evaluate, from_smiles, from_trace
from chemkl.evaluation.breakdown import (
    by_prompt_schema,
    families_schema,
    family_rows,
    over_time,
    over_time_schema,
    prompt_rows,
)
from chemkl.evaluation.metrics import families
from chemkl.results import description_of

OPTIONS = MetricOptions()


def pick(row, names):
    return tuple(row[name] for name in names.split())


def assert_described(schema, rows, column, text):
    """Every row has the columns of the schema, and every column a description."""
    assert {tuple(row) for row in rows} == {tuple(schema.names)}
    assert all(len(description_of(field)) > 5 for field in schema)
    assert text in description_of(schema.field(column))


# ---- over time

CUMULATIVE = (
    "n_molecules murcko generic effective_scaffolds top_share circles n_pairwise int_div_moses_1 "
    "int_div_pairs"
)
LATE = "late_uniqueness late_scaffolds late_top_share"


@pytest.fixture
def steps(real_smiles):
    rewards = np.random.default_rng(0).uniform(size=120)
    scored = list(zip(real_smiles[:120], rewards.tolist(), strict=True))
    return [scored[i : i + 12] + scored[: i // 12] for i in range(0, 120, 12)]  # with repeats


def assert_agree(row, whole):
    """A row over time has the values of the whole run, up to the order of the sums."""
    assert pick(row, CUMULATIVE) == pytest.approx(pick(whole, CUMULATIVE), rel=1e-9)
    if whole["threshold"] is None:
        assert pick(row, LATE) == pick(whole, LATE)


@pytest.mark.parametrize("options", [OPTIONS, MetricOptions(max_molecules=30, late_samples=25)])
def test_last_row_agrees_with_the_whole_run(make_trace, steps, options):
    samples = from_trace("x", make_trace(steps))
    rows = over_time(samples, [0.5], options, every=50)
    expected = [(threshold, call) for threshold in (None, 0.5) for call in (50, 100, 120)]
    assert [(row["threshold"], row["call"]) for row in rows] == expected
    for last, whole in zip(rows[2::3], evaluate(samples, [0.5], options), strict=True):
        assert_agree(last, whole)
    schema = over_time_schema(MetricOptions(circles_distance=0.6))
    assert_described(schema, rows, "circles", "distance 0.6")


def test_every_row_agrees_with_the_run_cut_at_its_call(make_trace, steps):
    options = MetricOptions(late_samples=15)
    rows = over_time(from_trace("x", make_trace(steps)), [0.5], options, every=24)
    for number in range(5):  # two steps bring 24 new molecules
        cut = from_trace("x", make_trace(steps[: 2 * number + 2]))
        for row, whole in zip(rows[number::5], evaluate(cut, [0.5], options), strict=True):
            assert_agree(row, whole)


def test_rewards_by_hand(make_trace, steps):
    few = [[("C", 0.2), ("CC", 0.6)], [("CCC", 0.4), ("C1CC", 0.0), ("CCCC", float("nan"))]]
    first, second = over_time(from_trace("x", make_trace(few)), [], OPTIONS, every=2)
    assert pick(first, "mean_reward top_1") == (pytest.approx(0.4), 0.6)
    assert pick(second, "mean_reward top_1") == (0.4, 0.6)  # the failed one left out
    assert second["top_10"] == pytest.approx(1.2 / 3)
    assert first["int_div_pairs"] is not None
    assert first["effective_scaffolds"] is None
    samples = from_trace("x", make_trace(steps))
    rewards = sorted(m.reward for m in samples.molecules)
    *_, last = over_time(samples, [], OPTIONS, every=7)
    for k in (1, 10, 100):
        assert last[f"top_{k}"] == pytest.approx(np.mean(rewards[-k:]))


def test_late_window_shows_a_collapse_that_cumulative_values_hide():
    samples = from_smiles("x", ["c1ccncc1", "CCO", *["Oc1ccccc1"] * 8, "CCC"])
    rows = over_time(samples, [0.5], MetricOptions(late_samples=4), every=2)
    assert [row["call"] for row in rows] == [2, 4]  # a file has no threshold
    # call 2: the first two samples; call 4: three phenols and propane, the ninth to eleventh
    assert rows[0]["late_uniqueness"] == 1
    assert pick(rows[1], "late_uniqueness late_top_share") == (2 / 4, 1)
    assert pick(rows[0], "mean_reward top_1") == (None, None)


def test_runs_without_molecules_and_thresholds_without_hits(make_trace):
    for empty in ([], [[("C1CC", 0.0)]]):
        assert over_time(from_trace("x", make_trace(empty)), [0.5], OPTIONS, every=10) == []
    _, hits = over_time(from_trace("x", make_trace([[("CCO", 0.1)]])), [0.5], OPTIONS, every=10)
    assert pick(hits, "n_molecules circles int_div_moses_1") == (0, 0, None)


# ---- by family

SIX, FIVE = "C1CCCCC1", "C1CCCC1"  # generic scaffolds of benzene and of cyclopentane
NAPHTHALENE, BICYCLE, SPIRO = "c1ccc2ccccc2c1", "C1CCC2CCCCC2C1", "C1CCC2(CC1)CCCC2"
# six-ring twice, five-ring once (and once more as a repeat), one bicycle, one acyclic
PRIOR = ["Cc1ccccc1", "Oc1ccccc1", "CC1CCCC1", "CC1CCCC1", NAPHTHALENE, "CCO"]
PRIOR_REWARDS = [0.1, 0.9, 0.95, 0.0, 0.3, 1.0]
# calls 1 to 4: two six-rings, the bicycle, a spiro compound; then the first again
RUN = [
    [("Cc1ccccc1", 0.2), ("CC1CCCCC1", 0.85), (NAPHTHALENE, 0.4)],
    [(SPIRO, 0.99), ("Cc1ccccc1", 0.2), ("C1CC", 0.0)],
]


@pytest.fixture
def prior():
    return from_smiles("prior", PRIOR, PRIOR_REWARDS)


@pytest.fixture
def run(make_trace):
    return from_trace("x", make_trace(RUN))


def test_families_ignore_elements_and_bonds(prior, run):
    # cyclohexanone: the oxygen would be an exocyclic carbon of the generic scaffold
    assert families(from_smiles("x", ["O=C1CCCCC1"]).molecules) == {SIX}
    assert families(prior.molecules) == {SIX, FIVE, BICYCLE}
    assert families(run.molecules) == {SIX, BICYCLE, SPIRO}


def test_coverage_of_the_prior_is_among_the_metrics(prior, run):
    def coverage(samples, prior, thresholds=()):
        rows = evaluate(samples, thresholds, OPTIONS, Comparisons(prior=prior))
        return [pick(row, "prior_families prior_coverage") for row in rows]

    # of six-ring, five-ring and bicycle the run lost the five-ring; the new spiro adds nothing
    # hits at 0.8: of the prior six-ring (0.9) and five-ring (0.95); of the run six-ring, spiro
    assert coverage(run, prior, [0.8]) == [(3, pytest.approx(2 / 3)), (2, 0.5)]
    unscored = from_smiles("prior", PRIOR)
    assert coverage(run, unscored, [0.8]) == [(3, pytest.approx(2 / 3)), (None, None)]
    nothing = from_smiles("nothing", [])
    assert coverage(nothing, prior) == [(3, 0)]
    assert coverage(unscored, nothing) == [(0, None)]
    assert coverage(run, None)[0][1] is None


def test_shares_by_hand(prior, run):
    rows = {row["family"]: row for row in family_rows(run, prior, late_samples=3)}
    # the largest share of either first, then by name: 2/5 twice, 1/3 twice
    assert list(rows) == [FIVE, SIX, SPIRO, BICYCLE]
    # the prior: 5 samples in families; the policy: naphthalene, spiro, toluene are the last three
    counts = "prior_samples prior_share policy_samples policy_share n_molecules first_call"
    assert pick(rows[SIX], counts) == (2, 2 / 5, 1, 1 / 3, 2, 1)
    assert rows[SIX]["share_change"] == pytest.approx(1 / 3 - 2 / 5)
    assert pick(rows[SIX], "prior_reward best_reward") == (0.9, 0.85)
    assert pick(rows[FIVE], "prior_samples policy_samples") == (2, 0)
    # the repeat's reward does not count
    assert pick(rows[FIVE], "prior_reward best_reward first_call") == (0.95, None, None)
    assert pick(rows[SPIRO], "prior_share first_call") == (0, 4)
    schema = families_schema(7)
    assert_described(schema, rows.values(), "policy_samples", "last 7 valid samples")


def test_families_of_failed_rewards_and_of_runs_without_valid_samples(make_trace, prior):
    steps = [[("Cc1ccccc1", -2.0), ("Oc1ccccc1", -1.0), ("Nc1ccccc1", float("nan"))]]
    (row,) = family_rows(from_trace("x", make_trace(steps)), from_smiles("p", []), 10)
    assert row["best_reward"] == -1
    rows = family_rows(from_smiles("x", ["nonsense"]), prior, late_samples=10)
    assert {row["policy_share"] for row in rows} == {0.0}
    assert [row["share_change"] for row in rows] == [-row["prior_share"] for row in rows]
    assert family_rows(from_smiles("x", ["CCO"]), from_smiles("p", []), 10) == []


# ---- by prompt

PROMPT_OPTIONS = MetricOptions(late_samples=3, uniqueness_at=[2])
TOLUENE, ETHANOL, RING = "Cc1ccccc1", "CCO", "CC1CCCCC1"
STEPS = [
    [
        ("low", "it is Cc1ccccc1", "Cc1ccccc1", 0.9),  # call 1
        ("low", "CCO", "CCO", 0.3),  # call 2
        ("high", "OCC", "OCC", 0.85),  # ethanol again, no call, but `high` pays more for it
        ("high", "CC1CCCCC1", "CC1CCCCC1", 0.95),  # call 3
    ],
    [
        ("low", "c1ccccc1C", "c1ccccc1C", 0.9),
        ("low", "none", None, 0.0),
        ("high", "CCO", "CCO", 0.85),
        ("high", "Cc1ccccc1", "Cc1ccccc1", 0.1),
    ],
]


def rows_of(trace, thresholds=(0.8,), options=PROMPT_OPTIONS, corpus=None):
    return prompt_rows(from_trace("x", trace), trace, thresholds, options, corpus)


@pytest.fixture
def prompt_trace(make_text_trace):
    return make_text_trace(STEPS, molecules=True)


@pytest.fixture
def rows(prompt_trace):
    return rows_of(prompt_trace, corpus={ETHANOL})


def test_molecule_counts_for_every_prompt_that_sampled_it(prompt_trace, rows):
    expected = [("x", *p, tau) for p in ((0, "low"), (1, "high")) for tau in (None, 0.8)]
    assert [pick(row, "run group prompt threshold") for row in rows] == expected
    low, _, high, _ = rows
    # low: toluene, ethanol; high: ethanol, methylcyclohexane, toluene
    assert pick(low, "n_sampled n_valid n_molecules n_calls") == (4, 3, 2, 2)
    assert pick(high, "n_sampled n_valid n_molecules n_calls") == (4, 4, 3, 1)
    assert pick(low, "validity uniqueness uniqueness_at_2 novelty") == (3 / 4, 2 / 3, 1, 1 / 2)
    assert pick(high, "validity uniqueness novelty") == (1, 3 / 4, 2 / 3)
    assert pick(low, "murcko acyclic") == (1, 1)
    assert pick(high, "murcko acyclic top_share") == (2, 1, 1 / 2)
    assert len(from_trace("x", prompt_trace).molecules) == low["n_calls"] + high["n_calls"] == 3
    # among the hits calls are renumbered, and rewards are those of the prompt
    _, low, _, high = rows
    assert pick(low, "yield scaffold_yield ob1 ob1_scaffolds ob10") == (1, 1, 1, 1, None)
    # ethanol is the first molecule of `high` and a hit there; the ring, the second, is a scaffold
    assert pick(high, "yield scaffold_yield ob1 ob1_scaffolds") == (2, 1, 1, 2)
    assert pick(high, "n_molecules murcko acyclic") == (2, 1, 1)


def test_diversity_and_late_samples_of_a_prompt(rows):
    make = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048).GetFingerprint
    for row, smiles in ((rows[0], TOLUENE), (rows[3], RING)):
        similarity = DataStructs.TanimotoSimilarity(
            *(make(Chem.MolFromSmiles(s)) for s in (smiles, ETHANOL))
        )
        assert row["int_div_pairs"] == pytest.approx(1 - similarity)
    # the last three valid ones: toluene of `low`, ethanol and toluene of `high`
    assert pick(rows[0], f"n_late {LATE}") == (1, 1, 1, 1)
    assert pick(rows[2], f"n_late {LATE}") == (2, 1, 1, 1)


def test_prompts_without_late_samples_or_molecules_and_replayed_rows(make_text_trace, prompt_trace):
    steps = [[("a", "CCO", "CCO", 0.1)], [("b", "CCN", "CCN", 0.2)], [("b", "CCN", "CCN", 0.2)]]
    trace = make_text_trace(steps, molecules=True)
    first, second = rows_of(trace, (), MetricOptions(late_samples=2))
    assert pick(first, "n_late late_uniqueness late_scaffolds") == (0, None, 0)
    assert pick(second, "n_late late_uniqueness n_calls") == (2, 1 / 2, 1)
    steps = [[("a", "CCO", "CCO", 0.9), ("b", "no", None, 0.0)]]
    *_, whole, hits = rows_of(make_text_trace(steps, molecules=True))
    assert pick(whole, "n_sampled n_valid n_molecules n_calls") == (1, 0, 0, 0)
    assert pick(whole, "validity uniqueness int_div_moses_1 circles") == (0, None, None, 0)
    assert pick(hits, "yield ob1") == (0, None)
    # replayed rows do not count
    prompt_trace.loc[prompt_trace["step"] == 1, "is_replay"] = True
    low, _, high, _ = rows_of(prompt_trace)
    assert pick(low, "n_sampled n_valid n_molecules") == (2, 2, 2)
    assert pick(high, "n_sampled n_valid n_molecules n_late") == (2, 2, 2, 2)


def test_one_prompt_has_the_values_of_the_run(make_text_trace, real_smiles):
    scored = [(s, (i % 10) / 10) for i, s in enumerate(real_smiles[:60])]
    scored += scored[:20]
    steps = [[("p", s, s, r) for s, r in scored[i : i + 16]] for i in range(0, 80, 16)]
    trace = make_text_trace(steps, molecules=True)
    options = MetricOptions(late_samples=30, uniqueness_at=[50])
    whole = evaluate(from_trace("x", trace), [0.5, 0.8], options)
    of_prompt = rows_of(trace, (0.5, 0.8), options)
    new = {"group", "prompt", "n_calls", "n_late"}
    assert [{k: v for k, v in row.items() if k not in new} for row in of_prompt] == [
        {name: row[name] for name in of_prompt[0] if name not in new} for row in whole
    ]
    assert pick(of_prompt[0], "n_calls n_late") == (whole[0]["n_molecules"], 30)


def test_prompt_columns_are_described_and_exclude_metrics_of_the_run(rows):
    schema = by_prompt_schema(PROMPT_OPTIONS)
    assert_described(schema, rows, "n_late", "last 3 valid samples")
    assert "alone would have needed" in description_of(schema.field("ob10"))
    run_only = ("auc_", "collapsed", "prior_", "snn", "fcd", "frag")
    assert not [name for name in schema.names if name.startswith(run_only) or name == "scaf"]
    assert schema.names[:3] == ["run", "group", "prompt"]
    assert {"scaffold_yield", "vendi", "circles", "sediv"} <= {*schema.names}
