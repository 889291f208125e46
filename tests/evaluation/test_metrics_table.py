import json
import math

import pyarrow.parquet as pq
import pytest

from chemkl.config.evaluate import MetricOptions
from chemkl.evaluation import Comparisons, evaluate, from_smiles, from_trace, metrics_schema
from chemkl.evaluation.metrics import frame, metrics_table, nested
from chemkl.evaluation.reference import from_smiles as reference_from
from chemkl.results import description_of, write_json, write_parquet

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


@pytest.mark.parametrize(
    "steps",
    [[], [[("C1CC", 0.0)]], [[("CCO", 0.1)]], [[("Cc1ccccc1", 0.9)]]],
    ids=["empty trace", "nothing valid", "no hit, one molecule", "one hit"],
)
def test_small_sets_give_nulls_that_survive_json_and_parquet(make_trace, tmp_path, steps):
    samples = from_trace("x", make_trace(steps))
    rows = evaluate(samples, [0.8], OPTIONS)
    write_json(tmp_path / "m.json", nested(rows))
    content = json.loads((tmp_path / "m.json").read_text())
    assert content["int_div_pairs"] is None
    hits = 1 if steps and steps[0][0][1] > 0.8 else 0
    assert content["thresholds"]["0.8"]["yield"] == hits
    assert content["thresholds"]["0.8"]["circles"] == hits
    assert content["thresholds"]["0.8"]["ob10"] is None
    schema = metrics_schema(OPTIONS)
    write_parquet(tmp_path / "d.parquet", metrics_table(rows, schema))
    table = frame(pq.read_table(tmp_path / "d.parquet"))
    assert len(table) == 2
    assert table["int_div_pairs"].isna().all()
    assert table["yield"].dtype == "Int64"


def test_every_column_has_a_description_that_states_the_settings():
    schema = metrics_schema(MetricOptions(circles_distance=0.6), ["test", "other"])
    for field in schema:
        assert len(description_of(field)) > 5, field.name
    assert "LeaderPicker" in description_of(schema.field("circles"))
    assert "above 0.6" in description_of(schema.field("circles"))
    assert "radius 2, 1024 bits" in description_of(schema.field("int_div_moses_1"))
    assert "radius 2, 2048 bits" in description_of(schema.field("int_div_pairs"))
    assert description_of(schema.field("snn_other")).endswith("Reference: other.")


def test_larger_sets_are_sampled_for_the_metrics_over_pairs_only(real_smiles):
    samples = from_smiles("x", real_smiles[:100])
    (whole,) = evaluate(samples, [], OPTIONS)
    (part,) = evaluate(samples, [], MetricOptions(max_molecules=40, seed=3))
    assert (whole["n_pairwise"], part["n_pairwise"]) == (100, 40)
    assert part["int_div_pairs"] != whole["int_div_pairs"]
    assert part["int_div_pairs"] == pytest.approx(whole["int_div_pairs"], abs=0.05)
    assert part["circles"] == whole["circles"]
    assert part["scaffold_entropy"] == whole["scaffold_entropy"]
    (again,) = evaluate(samples, [], MetricOptions(max_molecules=40, seed=3))
    assert again == part


def test_larger_sets_are_sampled_further_for_the_whole_matrix(real_smiles):
    samples = from_smiles("x", real_smiles[:100])
    (whole,) = evaluate(samples, [], OPTIONS)
    (part,) = evaluate(samples, [], MetricOptions(max_matrix=40))
    assert (whole["n_matrix"], part["n_matrix"], part["n_pairwise"]) == (100, 40, 100)
    # a tour of 40 has 40 steps of at most 1, and so on: all grow with the number of molecules
    for name, largest in (("vendi", 40), ("hamiltonian", 40), ("clusters_butina", 40)):
        assert 1 < part[name] <= largest < 100
        assert part[name] < whole[name]
    for name in ("int_div_pairs", "clusters_sphere", "circles"):
        assert part[name] == whole[name]


def test_clusters_are_those_of_their_distance(real_smiles):
    samples = from_smiles("x", real_smiles[:100])
    (near,) = evaluate(samples, [], MetricOptions(cluster_distance=0.3))
    (far,) = evaluate(samples, [], MetricOptions(cluster_distance=0.9))
    for name in ("clusters_butina", "clusters_sphere"):
        assert 1 <= far[name] < near[name] <= 100


def test_files_without_rewards_have_no_threshold_rows(real_smiles):
    samples = from_smiles("x", real_smiles[:10])
    rows = evaluate(samples, [0.8], OPTIONS)
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


def test_entropy_is_finite_for_real_molecules(real_smiles):
    (row,) = evaluate(from_smiles("x", real_smiles[:50]), [], OPTIONS)
    assert math.isclose(math.log(row["effective_scaffolds"]), row["scaffold_entropy"])


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
