"""The table of metrics: every row of it by hand or against another implementation."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from chemkl.config.evaluate import MetricOptions
from chemkl.config.posttrain import CollapseWindow
from chemkl.evaluation import (
    METRICS,
    Comparisons,
    Metric,
    evaluate,
    from_smiles,
    from_trace,
    metrics_schema,
)
from chemkl.evaluation.comparison import direction_of, places_of
from chemkl.evaluation.metrics import (
    collapsed_at_call,
    frame,
    metric_of,
    nested,
    oracle_burden,
    shown_in,
    top_auc,
    uniqueness,
)
from chemkl.evaluation.reference import from_smiles as reference_from
from chemkl.results import description_of

OPTIONS = MetricOptions()
STEPS = [
    [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0)],
    [("CCc1ccccc1", 0.85), ("CC1CCCCC1", 0.81), ("OCC", 0.3)],
]
DIVERSITY_KEYS = {
    *("int_div_moses_1", "int_div_moses_2", "int_div_pairs", "circles", "murcko", "generic"),
    *("scaffold_entropy", "effective_scaffolds", "top_share", "gini", "sediv"),
    *("vendi", "hamiltonian", "clusters_butina", "clusters_sphere"),
    *("fcd", "snn", "scaf", "frag"),
}


def pick(row, names):
    return tuple(row[name] for name in names.split())


def whole_row(smiles, options=OPTIONS, **comparisons):
    (row,) = evaluate(from_smiles("x", smiles), [], options, Comparisons(**comparisons))
    return row


# ---- rows, keys and columns


def test_the_first_row_is_all_molecules_and_the_others_are_the_hits(make_trace):
    rows = evaluate(from_trace("x", make_trace(STEPS)), [0.8, 0.9], OPTIONS)
    assert [pick(row, "threshold n_molecules yield murcko") for row in rows] == [
        *((None, 4, None, 2), (0.8, 3, 3, 2), (0.9, 1, 1, 1))
    ]
    assert {pick(row, "validity uniqueness") for row in rows} == {(5 / 6, 4 / 5)}
    only_hits = [[row for step in STEPS for row in step if row[1] >= 0.8]]
    whole, _ = evaluate(from_trace("x", make_trace(only_hits)), [0.8], OPTIONS)
    names = "int_div_moses_1 int_div_pairs circles scaffold_entropy top_share"
    assert pick(rows[1], names) == pick(whole, names)


def test_nested_keys_and_whole_numbers(make_trace):
    samples = from_trace("x", make_trace(STEPS))
    summary = nested(evaluate(samples, [0.8, 0.85], MetricOptions(uniqueness_at=(2, 1000))))
    assert {"validity", "uniqueness", "novelty", *DIVERSITY_KEYS} <= set(summary)
    assert summary["uniqueness_at"] == {"2": 1.0, "1000": None}
    assert set(summary["thresholds"]) == {"0.8", "0.85"}
    at = summary["thresholds"]["0.85"]
    assert {"yield", "scaffold_yield", "ob1", "ob10", "ob100", *DIVERSITY_KEYS} <= set(at)
    assert pick(at, "yield ob1") == (2, 1)
    # a file without rewards has no thresholds
    rows = evaluate(from_smiles("x", ["CCO"]), [0.8], OPTIONS)
    assert [row["threshold"] for row in rows] == [None]
    assert nested(rows)["thresholds"] == {}
    # whole numbers with gaps stay whole
    assert frame(pa.table({"ob1": pa.array([12, None], pa.int64())}))["ob1"].dtype == "Int64"


def test_every_column_has_a_description_with_the_settings():
    schema = metrics_schema(MetricOptions(circles_distance=0.6), ["test", "other"])
    assert all(len(description_of(field)) > 5 for field in schema)
    for name, text in (
        ("circles", "LeaderPicker"),
        ("circles", "above 0.6"),
        ("int_div_moses_1", "radius 2, 1024 bits"),
        ("int_div_pairs", "radius 2, 2048 bits"),
        ("snn_other", "Reference: other."),
    ):
        assert text in description_of(schema.field(name))


def test_large_sets_are_sampled_for_pairs_and_further_for_the_matrix(real_smiles):
    samples = from_smiles("x", real_smiles[:100])

    def row_with(**options):
        (row,) = evaluate(samples, [], MetricOptions(**options))
        return row

    whole, part = row_with(), row_with(max_molecules=40, seed=3)
    assert (*pick(whole, "n_pairwise n_matrix"), part["n_pairwise"]) == (100, 100, 40)
    assert part["int_div_pairs"] != whole["int_div_pairs"]
    assert part["int_div_pairs"] == pytest.approx(whole["int_div_pairs"], abs=0.05)
    assert pick(part, "circles scaffold_entropy") == pick(whole, "circles scaffold_entropy")
    assert row_with(max_molecules=40, seed=3) == part
    part = row_with(max_matrix=40)
    assert pick(part, "n_matrix n_pairwise") == (40, 100)
    # a tour of 40 has 40 steps of at most 1, and so on: all grow with the number of molecules
    for name in ("vendi", "hamiltonian", "clusters_butina"):
        assert 1 < part[name] <= 40
        assert part[name] < whole[name]
    names = "int_div_pairs clusters_sphere circles"
    assert pick(part, names) == pick(whole, names)
    near, far = row_with(cluster_distance=0.3), row_with(cluster_distance=0.9)
    for name in ("clusters_butina", "clusters_sphere"):
        assert 1 <= far[name] < near[name] <= 100


def test_the_first_reference_has_plain_names_and_novelty_counts_hits(make_trace, real_smiles):
    samples = from_trace("x", make_trace([[(s, 0.9) for s in real_smiles[:20]]]))
    corpus = {m.smiles for m in samples.molecules[:5]}
    references = [reference_from(n, real_smiles[i:60], None) for i, n in ((0, "a"), (30, "b"))]
    comparisons = Comparisons(corpus=corpus, references=references)
    whole, hits = evaluate(samples, [0.8], OPTIONS, comparisons)
    assert whole["novelty"] == hits["novelty"] == 15 / 20
    assert whole["snn"] == pytest.approx(1)
    assert whole["snn_b"] < 1
    assert "snn_a" not in whole


def test_late_samples_show_a_collapse_that_distinct_molecules_hide():
    phenol, pyridine, hexane = "Oc1ccccc1", "c1ccncc1", "CCCCCC"
    samples = [pyridine, hexane, phenol, phenol, hexane, phenol, "broken("]
    row = whole_row(samples, MetricOptions(late_samples=4))
    # of the last four valid ones (phenol, phenol, hexane, phenol) two differ; hexane is acyclic
    assert pick(row, "late_uniqueness late_scaffolds late_top_share") == (2 / 4, 1, 1.0)
    row = whole_row(samples, MetricOptions(late_samples=100))
    assert pick(row, "late_uniqueness late_top_share") == (3 / 6, 3 / 4)


# ---- quality


def test_validity_uniqueness_and_novelty_by_hand():
    for smiles, validity in ((["C", "CC", "x", "C"], 3 / 4), (["x"], 0), ([], None)):
        assert whole_row(smiles)["validity"] == validity
    for smiles, novelty in ((["C", "C", "CC"], 0.5), (["N"], 1), (["x"], None)):
        assert whole_row(smiles, corpus={"C"})["novelty"] == novelty
    valid = ["C", "C", "CC", "C", "CCC"]
    assert [uniqueness(valid, k) for k in (None, 2, 4, 6)] == [3 / 5, 1 / 2, 2 / 4, None]
    assert uniqueness([]) is None


# ---- scaffolds

BENZENES = ["Cc1ccccc1", "CCc1ccccc1"]  # one scaffold, twice
OTHERS = ["Cc1ccccn1", "CC1CCCCC1"]  # pyridine, cyclohexane
ACYCLIC = ["CCO", "CCN"]
DISTRIBUTION = "scaffold_entropy scaffold_evenness effective_scaffolds top_share gini"


def test_scaffold_metrics_by_hand():
    entropy = 1.5 * math.log(2)  # shares 1/2, 1/4, 1/4
    # gini: sizes 1, 1, 2: sum_i (2i - 4) x_i = -2 + 0 + 4 = 2, over n sum x = 12
    expected = (entropy, entropy / math.log(3), 2 * math.sqrt(2), 0.5, 1 / 6)
    row = whole_row(BENZENES + OTHERS)
    assert pick(row, "murcko generic acyclic") == (3, 1, 0)  # generic: the six-membered ring
    assert pick(row, DISTRIBUTION) == pytest.approx(expected)
    with_acyclic = whole_row(BENZENES + OTHERS + ACYCLIC)
    assert pick(with_acyclic, "murcko generic acyclic") == (3, 1, 2)
    assert pick(with_acyclic, DISTRIBUTION) == pick(row, DISTRIBUTION)
    row = whole_row(ACYCLIC)
    assert pick(row, "murcko generic acyclic") == (0, 0, 2)
    assert set(pick(row, DISTRIBUTION)) == {None}
    assert pick(whole_row(BENZENES), DISTRIBUTION) == (0, None, 1, 1, 0)


# ---- yields

# calls:            1               2              -  (repeat)     -  (invalid)
STEP_0 = [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("c1ccccc1C", 0.9), ("C1CC", 0.0)]
#            3 (same scaffold as 1)  4 (acyclic)     5                 6
STEP_1 = [("CCc1ccccc1", 0.8), ("CCN", 0.95), ("Cc1ccccn1", 0.79), ("CC1CCCCC1", 1.0)]


def test_yields_and_oracle_burdens_count_distinct_molecules_and_scaffolds(make_trace, real_smiles):
    samples = from_trace("x", make_trace([STEP_0, STEP_1]))
    _, row, none = evaluate(samples, [0.8, 1.1], OPTIONS)
    # 0.8 is a hit: the threshold is included
    assert [(hit.smiles, hit.call) for hit in samples.hits(0.8)] == [
        *(("Cc1ccccc1", 1), ("CCc1ccccc1", 3), ("CCN", 4), ("CC1CCCCC1", 6))
    ]
    assert pick(row, "yield scaffold_yield") == (4, 2)  # benzene, cyclohexane
    assert pick(row, "ob1 ob10 ob100 ob1_scaffolds ob10_scaffolds") == (1, None, None, 1, None)
    assert pick(none, "yield scaffold_yield ob1") == (0, 0, None)
    # calls 3 and 4 of the four hits bring no new scaffold
    assert [oracle_burden([1, 3, 4, 6], n) for n in (1, 2, 3, 4, 5)] == [1, 3, 4, 6, None]
    assert oracle_burden([6, 1], 2) == 6
    steps = [[(s, 0.9 if i % 3 == 0 else 0.1)] for i, s in enumerate(real_smiles)]
    _, row = evaluate(from_trace("x", make_trace(steps)), [0.8], MetricOptions(max_matrix=2))
    # every third call from the first on: hit number n is call 3 (n - 1) + 1
    assert pick(row, "ob100 ob10") == (298, 28)


def auc(molecules, k, calls=10_000, every=100):
    return top_auc(molecules, k, calls=calls, every=every)


@pytest.mark.parametrize(
    ("k", "calls", "every", "area"),
    [
        # top-1 at calls 0, 2, 4, 5: 0, 0.6, 0.8, 0.8, held to call 10
        (1, 10, 2, 2 * (0 + 0.6) / 2 + 2 * (0.6 + 0.8) / 2 + 0.8 + 5 * 0.8),
        # top-2 there: 0, 0.4, 0.7, 0.7
        (2, 10, 2, 2 * 0.2 + 2 * 0.55 + 0.7 + 5 * 0.7),
        # top-10 is the mean of all: 0, 0.4, 0.5, 0.4
        (10, 10, 2, 2 * 0.2 + 2 * 0.45 + 0.45 + 5 * 0.4),
        # the budget cuts: top-2 at 0, 2, 3: 0, 0.4, 0.5
        (2, 3, 2, 2 * 0.2 + 0.45),
        # the one point is the last call
        (1, 10, 100, 5 * (0 + 0.8) / 2 + 5 * 0.8),
    ],
)
def test_top_auc_by_hand(make_trace, k, calls, every, area):
    rewards = [0.2, 0.6, 0.4, 0.8, 0.0]
    steps = [[("C" * n, reward)] for n, reward in enumerate(rewards, start=1)]
    molecules = from_trace("x", make_trace(steps)).molecules
    assert auc(molecules, k, calls, every) == pytest.approx(area / calls)


def published_top_auc(rewards, k, every, calls):
    """The rule of mol_opt as published, over a list in the order of the calls."""
    total, before, called = 0.0, 0.0, 0
    for point in range(every, min(len(rewards), calls), every):
        now = np.mean(sorted(rewards[:point], reverse=True)[:k])
        total += every * (now + before) / 2
        before, called = now, point
    now = np.mean(sorted(rewards, reverse=True)[:k])
    total += (len(rewards) - called) * (now + before) / 2
    return (total + max(calls - len(rewards), 0) * now) / calls


@pytest.mark.parametrize("n", [1, 99, 100, 101, 200, 251])
def test_top_auc_against_the_rule_of_mol_opt(make_trace, real_smiles, n):
    rewards = np.random.default_rng(n).uniform(size=n).tolist()
    steps = [list(zip(real_smiles[:n], rewards, strict=True))]
    molecules = from_trace("x", make_trace(steps)).molecules
    assert [m.reward for m in molecules] == rewards
    for k in (1, 10, 100):
        expected = published_top_auc(rewards, k, 100, 10_000)
        assert auc(molecules, k) == pytest.approx(expected, rel=1e-12)


def test_top_auc_of_missing_and_failed_scores(make_trace):
    assert auc([], 1) is None
    assert auc(from_smiles("x", ["CCO"]).molecules, 1) is None
    failed = from_trace("x", make_trace([[("CCO", float("nan")), ("CCN", 0.5)]])).molecules
    assert auc(failed, 2, calls=2, every=1) == pytest.approx((0 / 2 + (0 + 0.25) / 2) / 2)


# ---- collapse


def collapsed(samples, window, **limits):
    return collapsed_at_call(samples, CollapseWindow(window=window, **limits))


def test_call_of_a_collapse(make_trace, real_smiles):
    # windows of 4: C CC CCC CCCC | then three times C: CCC CCCC C C is 1/4, CCCC C C C 2/4
    samples = from_smiles("x", ["C", "CC", "CCC", "CCCC", "C", "C", "C", "CCCCC"])
    # 3 of 8 are duplicates; there are never nine samples
    for window, call in ((4, 4), (8, None), (9, None)):
        assert collapsed(samples, window, top_share=None, duplicate_rate=0.5) == call
    phenol = "Oc1ccccc1"
    steps = [
        [("C1CC1", 0.1), ("not one", 0.0), ("C1CCC1", 0.1)],
        [(phenol, 0.9), ("C1CC", 0.0), ("Cc1ccccc1", 0.9), (phenol, 0.9)],
    ]
    samples = from_trace("x", make_trace(steps))
    # valid: two rings alone, then phenol (call 3), toluene (call 4), phenol: benzene has 3 of 4
    for window, call in ((4, 4), (3, 4), (5, None)):  # and 3 of 5
        assert collapsed(samples, window, top_share=0.75, duplicate_rate=None) == call
    assert collapsed(samples, 5, top_share=0.6) == 4
    different = from_smiles("x", real_smiles)
    for limits in ({}, {"effective_scaffolds": 3}):
        assert collapsed(different, 100, **limits) is None


def test_effective_scaffolds_of_the_late_window():
    # the last four valid samples: benzene three times, pyridine once
    smiles = ["C1CC1", "Cc1ccccc1", "CCc1ccccc1", "c1ccncc1", "Cc1ccccc1"]
    row = whole_row(smiles, MetricOptions(late_samples=4))
    assert row["late_effective_scaffolds"] == pytest.approx(4 / 27**0.25)  # H of 3/4 and 1/4
    assert pick(row, "late_scaffolds late_top_share") == (2, 3 / 4)
    samples = from_smiles("x", smiles)
    only = {"top_share": None, "duplicate_rate": None, "effective_scaffolds": 1.76}
    assert collapsed(samples, 4, **only) == 4
    assert collapsed(samples, 4, top_share=0.76) is None


# ---- the table itself


def test_a_new_row_of_the_table_is_a_metric_everywhere(make_trace, monkeypatch):
    metric = Metric(
        "shortest", "shortest", ",d", "Atoms and marks of the shortest SMILES of the set.",
        "characters", "lower", "all",
        lambda s: min((len(m.smiles) for m in s.molecules), default=None), ("whole", "hits"),
    )  # fmt: skip
    monkeypatch.setitem(METRICS, metric.key, metric)
    rows = evaluate(from_trace("x", make_trace(STEPS)), [0.8], OPTIONS)
    assert [row["shortest"] for row in rows] == [3, 9]  # ethanol; of the hits toluene and a ring
    assert nested(rows)["shortest"] == 3
    assert nested(rows)["thresholds"]["0.8"]["shortest"] == 9
    field = metrics_schema(OPTIONS).field("shortest")
    assert (str(field.type), description_of(field)) == ("int64", metric.meaning)
    assert direction_of("shortest", {}) == "lower"
    assert places_of("shortest", [None, 0.8]) == [None, 0.8]
    assert metric in shown_in("hits", OPTIONS)


def test_every_metric_is_described_and_found_by_its_columns():
    assert list(METRICS) == [metric.key for metric in METRICS.values()]
    for metric in METRICS.values():
        assert len(metric.meaning) > 10, metric.key
        assert metric.unit, metric.key
        assert bool(metric.label) == bool(metric.tables), metric.key
    assert metric_of("snn_my_set") is METRICS["snn"]
    assert metric_of("uniqueness_at_1000").scope == "run"
    assert metric_of("scaffold_yield").scope == "hits"
    assert metric_of("smiles") is None
    assert replace(METRICS["murcko"], label="scaf.") == METRICS["murcko"].on_screen
