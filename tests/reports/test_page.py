"""The page and the data of its figures, by hand; its size for twenty runs."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.config.evaluate import MetricOptions
from chemkl.config.posttrain import CollapseConfig
from chemkl.display import MISSING, Column
from chemkl.evaluation import evaluate, from_trace
from chemkl.reports import view
from chemkl.reports.page import Table, render_page, spread, table_cells
from chemkl.reports.summary import gather
from chemkl.reports.view import PageOptions, RunView
from chemkl.results import Manifest, TraceWriter
from chemkl.results.inspection import valid_rows
from chemkl.results.outcome import Watch, collapse_config, judge, read_outcome
from chemkl.stages.report import LARGE
from chemkl.training.collapse import CollapseAlarm

STEPS = [
    # calls:    1                   2             -
    [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0), ("OCC", 0.3)],
    #            3                     4                     5
    [("CCc1ccccc1", 0.95), ("CC1CCCCC1", 0.85), ("CCCc1ccccc1", 0.2), ("Cc1ccccc1", 0.9)],
]


@pytest.fixture
def trace(make_trace):
    return make_trace(STEPS)


# ---- data of the figures


def test_learning_and_yield_curves_by_hand(trace):
    curves = view.learning_curves(trace, 0.8)
    assert curves.loc[0, "reward"] == pytest.approx((0.9 + 0.3 + 0 + 0.3) / 4)
    assert curves["hit_rate"].tolist() == [1 / 4, 3 / 4]
    assert curves["unique_rate"].tolist() == [2 / 4, 3 / 4]
    assert curves["top_scaffold"].tolist() == [1, 3 / 4]  # benzene
    assert curves["logp_policy"].tolist() == [-20, -19]
    # yield curves begin at 0 and end at the last call
    curve = view.yield_curves(trace, 0.8)
    assert curve["call"].tolist() == [0, 1, 3, 4, 5]
    assert curve["molecules"].tolist() == [0, 1, 2, 3, 3]
    assert curve["scaffolds"].tolist() == [0, 1, 1, 2, 2]
    trace.loc[4, "is_replay"] = True  # replayed rows do not count
    assert view.learning_curves(trace, 0.8).loc[1, "hit_rate"] == pytest.approx(2 / 3)
    assert 3 not in view.yield_curves(trace, 0.8)["call"].tolist()


def test_means_of_the_best_rewards_by_hand(make_trace, real_smiles):
    # 12 molecules with R = 0.01, 0.02, ...: the ten best after call c are c - 9 to c hundredths
    trace = make_trace([[(s, (n + 1) / 100)] for n, s in enumerate(real_smiles[:12])])
    tops = view.top_curves(trace)
    assert tops.index.tolist() == list(range(1, 13))
    assert tops["top_10"].iloc[:9].isna().all()  # fewer than ten
    assert tops["top_10"].iloc[9:].tolist() == pytest.approx([0.055, 0.065, 0.075])
    assert tops["top_100"].iloc[:-1].isna().all()
    assert tops["top_100"].iloc[-1] == pytest.approx(0.065)  # of all twelve: 0.78 / 12
    few = view.top_curves(trace, n_points=7)
    assert (few.index[-1], len(few)) == (12, 7)


def test_order_of_molecules_and_names_of_components(trace, make_trace):
    runs = [RunView("a", trace), RunView("none", make_trace([])), RunView("b", trace[:2])]
    rows = view.best_first(runs)
    # calls 3, 1, 4, 2, 5 of run a by their rewards; b has its first two, after the same ones of a
    assert list(zip(rows["run"], rows["call"], strict=True)) == [
        *(("a", 3), ("a", 1), ("b", 1), ("a", 4), ("a", 2), ("b", 2), ("a", 5))
    ]
    assert valid_rows(trace)["smiles"].tolist().count("OCC") == 1
    assert len(valid_rows(trace)) == 7  # with repeats; C1CC is invalid
    other = trace.rename(columns={"raw_qed": "raw_logp"}).assign(raw_qed=0.5)
    assert view.component_names([runs[0], RunView("b", other)]) == ["qed", "logp"]
    for steps in ([], [[("C1CC", 0.0)]]):
        empty = make_trace(steps)
        assert len(view.learning_curves(empty, 0.8)) == len(steps)
        assert view.yield_curves(empty, 0.8)["molecules"].tolist() == [0, 0]
        assert view.top_curves(empty).empty
        assert view.best_first([RunView("a", empty)]).empty


@pytest.mark.parametrize(
    ("manifest", "window"),
    [
        ({}, 1000),
        ({"beside": {"collapse": {"window": 7}}}, 7),
        ({"config": {"callbacks": {"collapse": {"action": "stop", "window": 8}}}}, 8),
        ({"results": {"collapse": {"window": 9, "limits": {"top_share": 0.2}}}}, 9),
    ],
)
def test_collapse_settings_are_found_in_every_place_of_a_manifest(manifest, window):
    assert collapse_config(manifest).window == window
    if not manifest:
        assert collapse_config(manifest) == CollapseConfig()


def test_alarm_metrics_report_and_show_agree_on_a_collapse(make_trace, tmp_path):
    """All have the same step and call.

    Windows of 4 samples, one a step, limit 3 in 4 of one scaffold: rings 1 to 4, then benzene at
    calls 5, 6 and, repeated, at step 6.
    """
    rings = ["C1CC1", "C1CCC1", "C1CCCC1", "C1CCCCC1"]
    molecules = [*rings, "Oc1ccccc1", "Cc1ccccc1", "Oc1ccccc1"]
    trace = make_trace([[(smiles, 0.5)] for smiles in molecules])
    settings = CollapseConfig(window=4, top_share=0.75, duplicate_rate=None)
    alarm = CollapseAlarm(Watch(settings), [], lambda _: None)
    alarm.watch.add(trace)
    with Manifest.start(tmp_path, stage="posttrain", config={"seed": 0}) as run:
        run.beside = {"collapse": alarm.settings}
        writer = TraceWriter(tmp_path, ["qed"], run.run_id, run.config_hash)
        writer.append(trace)
        writer.cut()
        run.finish()
    stored = Manifest.load(tmp_path)
    plain = stored.model_dump(mode="json")
    assert (alarm.results["collapse_step"], alarm.results["collapse_call"]) == (6, 6)
    (row,) = evaluate(from_trace("x", trace, manifest=stored), [], MetricOptions(late_samples=2))
    assert row["collapsed_at_call"] == 6
    first = gather(RunView("x", trace, plain), 0.8).watch.events[0]
    assert (first.step, first.call) == (6, 6)
    line = "collapsed at step 6, call 6; still so at the end"
    assert line in read_outcome(tmp_path, stored).lines()
    assert judge(pd.concat([trace]), plain).summary == alarm.watch.summary


# ---- the page


def tables(n_runs=1):
    return [Table("All", [Column("n", "N", ",d", "how many")], [{"n": 3}] * n_runs)]


def sections_with_data(page):
    sections = re.findall(r'<section id="([^"]*)">(.*?)</section>', page, re.S)
    assert len(sections) == 12
    return {name for name, inner in sections if '</h2>\n<p class="missing">' not in inner}


def test_page_of_an_empty_trace_has_every_section_and_its_settings(make_trace):
    empty = RunView("empty", make_trace([]))
    options = PageOptions("Empty", 0.8, settings={"n_top": 17})
    page = render_page([empty], {"empty": [0]}, tables(), options)
    assert sections_with_data(page) == {"summary", "tables", "settings"}
    assert "No run has a sample yet." in page
    assert "n_top: 17" in page
    runs = [empty, RunView("full", make_trace([[("CC1CC1", 0.9)]]))]
    page = render_page(runs, {"a": [0], "b": [1]}, tables(2), PageOptions("Two", 0.8))
    assert {"rank", "scaffolds"} <= sections_with_data(page)


@pytest.mark.parametrize(
    ("values", "how", "expected"),
    [
        ([3], ",d", ("3", "", "")),
        ([1234, 1236], ",d", ("1,235", "± 1", "")),  # sd of two values: 2 / sqrt(2)
        ([1, 2], ",d", ("1.5", "± 0.7", "")),
        ([0.1, 0.2, 0.3], ".1%", ("20.0%", "± 10.0%", "")),
        ([170, None, pd.NA, np.nan], ",d", ("170", "", "1 of 4")),
        ([1, 3, None], ".2f", ("2.00", "± 1.41", "2 of 3")),
        ([None, None], ",d", (MISSING, "", "")),
        ([None], ".1%", (MISSING, "", "")),
    ],
)
def test_mean_and_standard_deviation_by_hand(values, how, expected):
    cell = spread(values, how)
    assert (cell["text"], cell["sd"], cell["of"]) == expected


def test_table_has_a_row_per_method_and_per_run():
    columns = [Column("a", "A", ",d", "first"), Column("b", "B", ",d", "without a value")]
    rows = [{"a": 200, "b": None}, {"a": 300}, {"a": 7, "b": None}]
    cells = table_cells(Table("T", columns, rows), {"two": [0, 1], "one": [2]})
    assert [column.key for column in cells["columns"]] == ["a"]
    assert [[cell["text"] for cell in row] for row in cells["methods"]] == [["250"], ["7"]]
    assert [[cell["text"] for cell in row] for row in cells["runs"]] == [["200"], ["300"], ["7"]]


SAMPLES, PER_STEP = 12_000, 64


def large_run(molecules, name, seed):
    rng = np.random.default_rng(seed)
    n = len(molecules)
    rows = np.concatenate([np.arange(n), rng.integers(n, size=SAMPLES - n)])
    rng.shuffle(rows)
    trace = molecules.iloc[rows].reset_index(drop=True)
    repeat = trace["canonical_smiles"].duplicated()
    number = np.arange(SAMPLES)
    trace = trace.assign(
        **{"step": number // PER_STEP, "row": number % PER_STEP, "anchor": number % PER_STEP == 0},
        **{"valid": True, "repeat": repeat, "is_replay": False},
        call=(~repeat).cumsum().astype("Int64").mask(repeat),
        logp_policy=rng.normal(-15, 4, SAMPLES),
        logp_ref=rng.normal(-22, 6, SAMPLES),
        **{f"raw_{c}": rng.random(SAMPLES) for c in ("qed", "sa_score", "hbd", "logp")},
    )
    scaffolds = sorted(set(molecules["scaffold"]))[1:40]
    shares = {"prior_share": rng.random(39) / 10, "policy_share": rng.random(39) / 10}
    families = pd.DataFrame(
        {"family": scaffolds, "n_molecules": 7, "best_reward": 0.9} | shares
    ).to_dict("records")
    windows = pd.DataFrame(rng.random((60, 2)), columns=["late_uniqueness", "late_top_share"])
    windows.index = np.linspace(1000, SAMPLES, 60).astype(int)
    config = {f"setting_{n}": {"value": n, "text": "some words of it"} for n in range(60)}
    manifest = {"config": config | {"seed": seed}, "seed": seed, "run_id": name}
    metrics = {"all_molecules": {"n_sampled": SAMPLES}, "hits": {"yield": 1000}}
    return RunView(name, trace, manifest, **metrics, windows=windows, families=families)


@pytest.mark.slow  # a minute
def test_report_on_twenty_runs_is_below_the_limit():
    # 8,000 molecules of the MOSES sample, with rewards that increase along the file
    path = Path(__file__).parents[2] / "data" / "moses_sample.smi"
    texts = [Chem.CanonSmiles(line) for line in path.read_text().split()[:8_000]]
    scaffolds = [MurckoScaffold.MurckoScaffoldSmiles(text) for text in texts]
    rewards = np.linspace(0.5, 1, len(texts))
    molecules = pd.DataFrame({"canonical_smiles": texts, "scaffold": scaffolds, "reward": rewards})
    methods = {f"method {m}": range(5 * m, 5 * m + 5) for m in range(4)}
    runs = [large_run(molecules, f"method-{n // 5}-seed={n % 5}", n) for n in range(20)]
    tables = [Table("All", [Column("n_sampled", "sampled", ",d", "so many")], [{}] * len(runs))]
    options = PageOptions("Comparison", 0.8, prior=texts)
    page = render_page(runs, methods, tables, options)
    assert 500_000 < len(page.encode()) < LARGE
    # nothing was omitted
    assert page.count('class="card molecule"') == 4 * options.n_scaffolds * options.n_molecules
    assert page.count('class="dumbbell"') == 4 * (options.n_scaffolds + 3)
