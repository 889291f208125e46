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


def test_the_first_row_is_all_molecules_and_the_others_are_the_hits(make_trace):
    rows = evaluate(from_trace("x", make_trace(STEPS)), [0.8, 0.9], OPTIONS)
    assert [row["threshold"] for row in rows] == [None, 0.8, 0.9]
    assert [row["n_molecules"] for row in rows] == [4, 3, 1]
    assert [row["yield"] for row in rows] == [None, 3, 1]
    assert [row["murcko"] for row in rows] == [2, 2, 1]
    assert {row["validity"] for row in rows} == {5 / 6}
    assert {row["uniqueness"] for row in rows} == {4 / 5}


def test_metrics_of_hits_are_those_of_the_hits_alone(make_trace):
    _, hits = evaluate(from_trace("x", make_trace(STEPS)), [0.8], OPTIONS)
    alone = [[("Cc1ccccc1", 0.9), ("CCc1ccccc1", 0.85), ("CC1CCCCC1", 0.81)]]
    whole, _ = evaluate(from_trace("x", make_trace(alone)), [0.8], OPTIONS)
    for name in ("int_div_moses_1", "int_div_pairs", "circles", "scaffold_entropy", "top_share"):
        assert hits[name] == whole[name]


def test_nested_keys_are_those_of_the_definitions(make_trace):
    samples = from_trace("x", make_trace(STEPS))
    summary = nested(evaluate(samples, [0.8, 0.85], MetricOptions(uniqueness_at=(2, 1000))))
    assert {"validity", "uniqueness", "novelty", *DIVERSITY_KEYS} <= set(summary)
    assert summary["uniqueness_at"] == {"2": 1.0, "1000": None}
    assert set(summary["thresholds"]) == {"0.8", "0.85"}
    at = summary["thresholds"]["0.85"]
    assert {"yield", "scaffold_yield", "ob1", "ob10", "ob100", *DIVERSITY_KEYS} <= set(at)
    assert at["yield"] == 2
    assert at["ob1"] == 1


def test_whole_numbers_with_gaps_stay_whole():
    assert frame(pa.table({"ob1": pa.array([12, None], pa.int64())}))["ob1"].dtype == "Int64"


def test_every_column_has_a_description_that_states_the_settings():
    schema = metrics_schema(MetricOptions(circles_distance=0.6), ["test", "other"])
    for field in schema:
        assert len(description_of(field)) > 5, field.name
    assert "LeaderPicker" in description_of(schema.field("circles"))
    assert "above 0.6" in description_of(schema.field("circles"))
    assert "radius 2, 1024 bits" in description_of(schema.field("int_div_moses_1"))
    assert "radius 2, 2048 bits" in description_of(schema.field("int_div_pairs"))
    assert description_of(schema.field("snn_other")).endswith("Reference: other.")


def test_larger_sets_are_sampled_for_what_is_over_pairs_and_further_for_the_whole_matrix(
    real_smiles,
):
    samples = from_smiles("x", real_smiles[:100])
    (whole,) = evaluate(samples, [], OPTIONS)
    (part,) = evaluate(samples, [], MetricOptions(max_molecules=40, seed=3))
    assert (whole["n_pairwise"], whole["n_matrix"], part["n_pairwise"]) == (100, 100, 40)
    assert part["int_div_pairs"] != whole["int_div_pairs"]
    assert part["int_div_pairs"] == pytest.approx(whole["int_div_pairs"], abs=0.05)
    assert part["circles"] == whole["circles"]
    assert part["scaffold_entropy"] == whole["scaffold_entropy"]
    (again,) = evaluate(samples, [], MetricOptions(max_molecules=40, seed=3))
    assert again == part
    (part,) = evaluate(samples, [], MetricOptions(max_matrix=40))
    assert (part["n_matrix"], part["n_pairwise"]) == (40, 100)
    # a tour of 40 has 40 steps of at most 1, and so on: all grow with the number of molecules
    for name in ("vendi", "hamiltonian", "clusters_butina"):
        assert 1 < part[name] <= 40
        assert part[name] < whole[name]
    for name in ("int_div_pairs", "clusters_sphere", "circles"):
        assert part[name] == whole[name]
    (near,) = evaluate(samples, [], MetricOptions(cluster_distance=0.3))
    (far,) = evaluate(samples, [], MetricOptions(cluster_distance=0.9))
    for name in ("clusters_butina", "clusters_sphere"):
        assert 1 <= far[name] < near[name] <= 100


def test_files_without_rewards_have_no_threshold_rows(real_smiles):
    rows = evaluate(from_smiles("x", real_smiles[:10]), [0.8], OPTIONS)
    assert [row["threshold"] for row in rows] == [None]
    assert nested(rows)["thresholds"] == {}


def test_the_first_reference_has_plain_names_and_novelty_counts_hits(make_trace, real_smiles):
    samples = from_trace("x", make_trace([[(s, 0.9) for s in real_smiles[:20]]]))
    known = {m.smiles for m in samples.molecules[:5]}
    references = [reference_from(n, real_smiles[i:60], None) for i, n in ((0, "a"), (30, "b"))]
    comparisons = Comparisons(corpus=known, references=references)
    whole, hits = evaluate(samples, [0.8], OPTIONS, comparisons)
    assert whole["novelty"] == hits["novelty"] == 15 / 20
    assert whole["snn"] == pytest.approx(1)
    assert whole["snn_b"] < 1
    assert "snn_a" not in whole


def test_late_samples_show_a_collapse_that_distinct_molecules_hide():
    phenol, pyridine, hexane = "Oc1ccccc1", "c1ccncc1", "CCCCCC"
    samples = from_smiles("run", [pyridine, hexane, phenol, phenol, hexane, phenol, "broken("])
    (row,) = evaluate(samples, [], MetricOptions(late_samples=4))
    # of the last four valid ones (phenol, phenol, hexane, phenol) two differ; hexane is acyclic
    assert row["late_uniqueness"] == 2 / 4
    assert row["late_scaffolds"] == 1
    assert row["late_top_share"] == 1.0
    (whole,) = evaluate(samples, [], MetricOptions(late_samples=100))
    assert whole["late_uniqueness"] == 3 / 6
    assert whole["late_top_share"] == 3 / 4


# ---- quality


def test_validity_is_a_share_of_all_samples():
    for smiles, expected in ((["C", "CC", "x", "C"], 3 / 4), (["x"], 0), ([], None)):
        assert evaluate(from_smiles("x", smiles), [], OPTIONS)[0]["validity"] == expected


def test_uniqueness_at_k_looks_at_the_first_k_valid_samples():
    valid = ["C", "C", "CC", "C", "CCC"]
    assert uniqueness(valid) == 3 / 5
    assert [uniqueness(valid, k) for k in (2, 4, 6)] == [1 / 2, 2 / 4, None]
    assert uniqueness([]) is None


def test_novelty_is_a_share_of_the_distinct_molecules():
    for smiles, expected in ((["C", "C", "CC"], 0.5), (["N"], 1), (["x"], None)):
        comparisons = Comparisons(corpus={"C"})
        assert (
            evaluate(from_smiles("x", smiles), [], OPTIONS, comparisons)[0]["novelty"] == expected
        )


# ---- scaffolds

BENZENES = ["Cc1ccccc1", "CCc1ccccc1"]  # one scaffold, twice
OTHERS = ["Cc1ccccn1", "CC1CCCCC1"]  # pyridine, cyclohexane
ACYCLIC = ["CCO", "CCN"]


SCAFFOLDS = (
    *("murcko", "generic", "acyclic", "scaffold_entropy", "scaffold_evenness"),
    *("effective_scaffolds", "top_share", "gini"),
)


def described(smiles):
    (row,) = evaluate(from_smiles("x", smiles), [], MetricOptions(max_matrix=2))
    return {name: row[name] for name in SCAFFOLDS}


def test_counts_entropy_and_concentration_by_hand():
    values = described(BENZENES + OTHERS)
    entropy = 1.5 * math.log(2)  # shares 1/2, 1/4, 1/4
    assert values["murcko"] == 3
    assert values["generic"] == 1  # all are a six-membered carbon ring
    assert values["acyclic"] == 0
    assert values["scaffold_entropy"] == pytest.approx(entropy)
    assert values["scaffold_evenness"] == pytest.approx(entropy / math.log(3))
    assert values["effective_scaffolds"] == pytest.approx(2 * math.sqrt(2))
    assert values["top_share"] == 0.5
    # sizes 1, 1, 2: sum_i (2i - 4) x_i = -2 + 0 + 4 = 2, over n sum x = 12
    assert values["gini"] == pytest.approx(1 / 6)


def test_the_empty_scaffold_is_counted_apart_and_enters_nothing():
    values, without = described(BENZENES + OTHERS + ACYCLIC), described(BENZENES + OTHERS)
    assert values.pop("acyclic") == 2
    without.pop("acyclic")
    assert values == without


def test_acyclic_molecules_have_no_scaffold_metrics_and_one_scaffold_is_one_effective():
    values = described(ACYCLIC)
    assert (values["murcko"], values["generic"], values["acyclic"]) == (0, 0, 2)
    assert {values[name] for name in SCAFFOLDS[3:]} == {None}
    one = described(BENZENES)
    assert [one[name] for name in SCAFFOLDS[3:]] == [0, None, 1, 1, 0]


# ---- yields

# calls:            1               2              -  (repeat)     -  (invalid)
STEP_0 = [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("c1ccccc1C", 0.9), ("C1CC", 0.0)]
#            3 (same scaffold as 1)  4 (acyclic)     5                 6
STEP_1 = [("CCc1ccccc1", 0.8), ("CCN", 0.95), ("Cc1ccccn1", 0.79), ("CC1CCCCC1", 1.0)]


def test_yields_and_oracle_burdens_are_of_distinct_molecules_and_scaffolds(make_trace):
    samples = from_trace("x", make_trace([STEP_0, STEP_1]))
    _, row, none = evaluate(samples, [0.8, 1.1], OPTIONS)
    # 0.8 is a hit: the threshold is included
    assert [(hit.smiles, hit.call) for hit in samples.hits(0.8)] == [
        *(("Cc1ccccc1", 1), ("CCc1ccccc1", 3), ("CCN", 4), ("CC1CCCCC1", 6))
    ]
    assert (row["yield"], row["scaffold_yield"]) == (4, 2)  # benzene, cyclohexane
    assert (row["ob1"], row["ob10"], row["ob100"]) == (1, None, None)
    assert (row["ob1_scaffolds"], row["ob10_scaffolds"]) == (1, None)
    assert (none["yield"], none["scaffold_yield"], none["ob1"]) == (0, 0, None)
    # calls 3 and 4 of the four hits bring no new scaffold
    assert [oracle_burden([1, 3, 4, 6], n) for n in (1, 2, 3, 4, 5)] == [1, 3, 4, 6, None]
    assert oracle_burden([6, 1], 2) == 6


def test_the_hundredth_hit_of_a_long_run(make_trace, real_smiles):
    steps = [[(s, 0.9 if i % 3 == 0 else 0.1)] for i, s in enumerate(real_smiles)]
    _, row = evaluate(from_trace("x", make_trace(steps)), [0.8], MetricOptions(max_matrix=2))
    # every third call from the first on: hit number n is call 3 (n - 1) + 1
    assert (row["ob100"], row["ob10"]) == (298, 28)


def auc(molecules, k, calls=10_000, every=100):
    return top_auc(molecules, k, calls=calls, every=every)


def test_top_auc_by_hand(make_trace):
    rewards = [0.2, 0.6, 0.4, 0.8, 0.0]
    steps = [[("C" * n, reward)] for n, reward in enumerate(rewards, start=1)]
    molecules = from_trace("x", make_trace(steps)).molecules
    # top-1 at calls 0, 2, 4, 5: 0, 0.6, 0.8, 0.8, held to call 10
    # 2 (0 + 0.6) / 2 + 2 (0.6 + 0.8) / 2 + 1 (0.8 + 0.8) / 2 + 5 x 0.8 = 6.8
    assert auc(molecules, 1, calls=10, every=2) == pytest.approx(0.68)
    # top-2 there: 0, 0.4, 0.7, 0.7; 2 x 0.2 + 2 x 0.55 + 0.7 + 5 x 0.7 = 5.7
    assert auc(molecules, 2, calls=10, every=2) == pytest.approx(0.57)
    # top-10 is the mean of all: 0, 0.4, 0.5, 0.4; 2 x 0.2 + 2 x 0.45 + 0.45 + 5 x 0.4 = 3.75
    assert auc(molecules, 10, calls=10, every=2) == pytest.approx(0.375)
    # the budget cuts: top-2 at 0, 2, 3: 0, 0.4, 0.5; 2 x 0.2 + 0.45 = 0.85
    assert auc(molecules, 2, calls=3, every=2) == pytest.approx(0.85 / 3)
    # the one point is the last call: 5 (0 + 0.8) / 2 + 5 x 0.8 = 6
    assert auc(molecules, 1, calls=10, every=100) == pytest.approx(0.6)


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
    drawn = np.random.default_rng(n).uniform(size=n).tolist()
    steps = [list(zip(real_smiles[:n], drawn, strict=True))]
    molecules = from_trace("x", make_trace(steps)).molecules
    rewards = [m.reward for m in molecules]
    assert len(rewards) == n
    for k in (1, 10, 100):
        expected = published_top_auc(rewards, k, 100, 10_000)
        assert auc(molecules, k) == pytest.approx(expected, rel=1e-12)


def test_top_auc_without_scores_is_none_and_a_failed_score_is_zero(make_trace):
    assert auc([], 1) is None
    assert auc(from_smiles("x", ["CCO"]).molecules, 1) is None
    failed = from_trace("x", make_trace([[("CCO", float("nan")), ("CCN", 0.5)]])).molecules
    assert auc(failed, 2, calls=2, every=1) == pytest.approx((0 / 2 + (0 + 0.25) / 2) / 2)


# ---- collapse

PHENOL = "Oc1ccccc1"


def collapsed(samples, window, **limits):
    return collapsed_at_call(samples, CollapseWindow(window=window, **limits))


def test_the_call_is_that_of_the_newest_molecule_by_then():
    # windows of 4: C CC CCC CCCC | then three times C: CCC CCCC C C is 1/4, CCCC C C C 2/4
    samples = from_smiles("x", ["C", "CC", "CCC", "CCCC", "C", "C", "C", "CCCCC"])
    # 3 of 8 are duplicates; nine samples there are never
    for window, call in ((4, 4), (8, None), (9, None)):
        assert collapsed(samples, window, top_share=None, duplicate_rate=0.5) == call


def test_repeats_of_one_scaffold_count_and_invalid_rows_do_not(make_trace):
    steps = [
        [("C1CC1", 0.1), ("not one", 0.0), ("C1CCC1", 0.1)],
        [(PHENOL, 0.9), ("C1CC", 0.0), ("Cc1ccccc1", 0.9), (PHENOL, 0.9)],
    ]
    samples = from_trace("x", make_trace(steps))
    # valid: two rings alone, then phenol (call 3), toluene (call 4), phenol: benzene has 3 of 4
    for window, call in ((4, 4), (3, 4), (5, None)):  # and 3 of 5
        assert collapsed(samples, window, top_share=0.75, duplicate_rate=None) == call
    assert collapsed(samples, 5, top_share=0.6) == 4


@pytest.mark.parametrize("limits", [{}, {"effective_scaffolds": 3}])
def test_a_run_of_different_molecules_never_did(real_smiles, limits):
    assert collapsed(from_smiles("x", real_smiles), 100, **limits) is None


def test_the_late_metrics_have_the_effective_scaffolds_of_the_window():
    # the last four valid samples: benzene three times, pyridine once
    samples = from_smiles("x", ["C1CC1", "Cc1ccccc1", "CCc1ccccc1", "c1ccncc1", "Cc1ccccc1"])
    (row,) = evaluate(samples, [], MetricOptions(late_samples=4))
    assert row["late_effective_scaffolds"] == pytest.approx(4 / 27**0.25)  # H of 3/4 and 1/4
    assert (row["late_scaffolds"], row["late_top_share"]) == (2, 3 / 4)
    only = {"top_share": None, "duplicate_rate": None, "effective_scaffolds": 1.76}
    assert collapsed(samples, 4, **only) == 4
    assert collapsed(samples, 4, top_share=0.76) is None


# ---- one row, everywhere


def test_a_metric_is_one_function_and_one_row(make_trace, monkeypatch):
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


def test_every_metric_says_what_it_is_and_has_one_name():
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
