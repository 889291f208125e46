"""The compare stage: differences, tests and plots, and what cannot be compared."""

import json
import re
import shutil
from itertools import count
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy import stats

from chemkl.config import InputError
from chemkl.config.evaluate import MetricOptions
from chemkl.evaluation import METRICS, Metric, metrics_schema
from chemkl.evaluation.comparison import direction_of
from chemkl.results import Manifest, TraceWriter, description_of
from chemkl.results.provenance import UsedPrecision
from chemkl.stages import compare, evaluate, report, show
from chemkl.stages.plan import plan_pipeline
from chemkl.stages.registry import STAGES

ROOT = Path(__file__).parents[2]

RINGS = ["c1ccccc1", "C1CCCCC1", "c1ccncc1", "C1CCC1", "C1CCOCC1", "c1ccoc1", "C1CCCC1", "c1ccsc1"]
QED = {"components": [{"kind": "qed"}]}


def two(gibbs, mara):
    """The settings of a comparison of one run each."""
    return {"methods": {"gibbs": [str(gibbs)], "mara": [str(mara)]}, "baseline": "gibbs"}


def printed(capsys):
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def refused(tmp_path):
    """Return the message with which a comparison is refused."""
    folders = (tmp_path / f"refused{n}" for n in count())

    def refuse(config):
        with pytest.raises(InputError) as caught:
            compare.run(config, next(folders))
        return str(caught.value)

    return refuse


@pytest.fixture
def make_run(tmp_path, make_trace):
    """Write a finished run with a number of hits, each on a different scaffold."""
    (tmp_path / "prior.bin").write_bytes(b"weights")

    def make(method, seed, n_hits, *, status="complete", prior="prior.bin", **config):
        folder = tmp_path / "out" / f"{method}-seed={seed}"
        settings = {"reward": QED, "budget": 20, "target": {"kind": method}, "seed": seed} | config
        steps = [[(ring, 0.9) for ring in RINGS[:n_hits]] + [("CCO", 0.1)]]
        inputs = {"prior": tmp_path / prior}
        stage = {"stage": "posttrain", "config": settings, "seed": seed, "inputs": inputs}
        with Manifest.start(folder, **stage) as manifest:
            writer = TraceWriter(folder, ["qed"], manifest.run_id, manifest.config_hash)
            writer.append(make_trace(steps))
            writer.cut()
            manifest.finish(status)
        return folder

    return make


GIBBS, MARA = [2, 1, 2, 3, 2], [5, 6, 5, 7, 8]


@pytest.fixture
def settings(tmp_path, make_run):
    for seed, (few, many) in enumerate(zip(GIBBS, MARA, strict=True)):
        make_run("gibbs", seed, few)
        make_run("mara", seed, many)
    out = tmp_path / "out"
    return {
        "methods": {"gibbs": f"{out}/gibbs-*", "mara": [f"{out}/mara-*"]},
        "baseline": "gibbs",
        "metrics": ["yield", "ob10", "top_share"],
        "n_resamples": 500,
    }


def test_two_methods_over_five_seeds(settings, tmp_path, capsys, refused):
    out = tmp_path / "cmp"
    table = compare.run(settings, out)
    text = printed(capsys)
    rows = table.set_index("metric")
    row = rows.loc["yield"]
    theirs = stats.ttest_ind(MARA, GIBBS, equal_var=False, alternative="greater")
    assert (row["n"], row["mean"], row["baseline_mean"]) == (5, 6.2, 2.0)
    assert row["difference"] == pytest.approx(4.2)
    assert row["low"] < 4.2 < row["high"]
    assert row["p"] == pytest.approx(theirs.pvalue)
    # top_share is 1 / hits, as each hit has a different scaffold; ob10 has no test: 2 tests here
    share = stats.ttest_ind(
        [1 / n for n in MARA], [1 / n for n in GIBBS], equal_var=False, alternative="less"
    )
    assert rows.loc["top_share", "p"] == pytest.approx(share.pvalue)
    assert row["p_holm"] == pytest.approx(2 * theirs.pvalue)
    assert rows.loc["top_share", "p_holm"] == pytest.approx(share.pvalue)
    assert (row["verdict"], rows.loc["ob10", "verdict"]) == ("better", "not resolved")
    assert list(row["seeds"]) == [0, 1, 2, 3, 4]
    stored = pq.read_table(out / "comparison.parquet")
    assert stored["metric"].to_pylist() == ["yield", "ob10", "top_share"]
    for name in ("comparison.parquet", "values.parquet"):
        assert all(description_of(field) for field in pq.read_schema(out / name))
    assert (out / "forest.png").read_bytes().startswith(b"\x89PNG")
    drawn = (out / "forest.svg").read_text()
    assert "mara (n = 5)" in drawn
    assert "higher is better" in drawn
    assert "better" in text
    # a burden that was not reached is one more than the budget
    assert "ob10, R ≥ 0.8: not reached in 5 of 5 runs of mara" in text
    row = rows.loc["ob10"]
    assert (row["mean"], row["baseline_mean"], row["difference"]) == (21, 21, 0)
    assert (row["n_not_reached"], row["baseline_not_reached"]) == (5, 5)
    values = pd.read_parquet(out / "values.parquet")
    assert values.loc[values["metric"] == "ob10", "not_reached"].all()
    assert not values.loc[values["metric"] == "yield", "not_reached"].any()
    # the values of an evaluate table give the same
    evaluate.run({"runs": f"{tmp_path}/out/*"}, tmp_path / "eval")
    table_path = str(tmp_path / "eval" / "diversity.parquet")
    pd.testing.assert_frame_equal(
        compare.run(settings | {"table": table_path}, tmp_path / "own"), table
    )
    says = refused(settings | {"table": table_path, "thresholds": [0.5]})
    assert "diversity.parquet has no threshold 0.5; evaluate" in says


def test_a_pair_without_hits_is_left_out_of_undefined_metrics(settings, make_run, tmp_path):
    make_run("gibbs", 5, 0)
    make_run("mara", 5, 4)
    table = compare.run(settings, tmp_path / "cmp").set_index("metric")
    assert (table.loc["yield", "n"], table.loc["yield", "n_undefined"]) == (6, 0)
    assert table.loc["yield", "baseline_mean"] == pytest.approx(10 / 6)
    assert (table.loc["top_share", "n"], table.loc["top_share", "n_undefined"]) == (5, 1)
    text = (tmp_path / "cmp" / "comparison.md").read_text()
    assert "top_share, R ≥ 0.8: 1 pair of mara left out" in text


def test_four_pairs_are_not_resolved_and_lone_seeds_are_named(settings, make_run, tmp_path, capsys):
    make_run("mara", 7, 8)
    table = compare.run(settings | {"metrics": ["yield"]}, tmp_path / "all")
    assert (table["n"].item(), table["verdict"].item()) == (5, "better")
    assert "mara against gibbs: without a pair: seed 7 of mara." in capsys.readouterr().out
    gibbs = [f"{tmp_path}/out/gibbs-seed={n}" for n in (0, 1, 2, 3)]
    methods = {"gibbs": gibbs, "mara": [f"{tmp_path}/out/mara-*"]}
    table = compare.run(settings | {"metrics": ["yield"], "methods": methods}, tmp_path / "four")
    assert (table["n"].item(), table["verdict"].item()) == (4, "not resolved")
    assert table["p"].item() < 0.05
    assert "seeds 4, 7 of mara" in (tmp_path / "four" / "comparison.md").read_text()


def test_one_run_each(make_run, tmp_path):
    methods = {"a": [str(make_run("gibbs", 0, 2))], "b_": [str(make_run("mara", 0, 5))]}
    table = compare.run({"methods": methods, "baseline": "a"}, tmp_path / "cmp")
    assert set(table["verdict"]) == {"not resolved"}
    assert table["p"].isna().all()
    latex = (tmp_path / "cmp" / "comparison.tex").read_text()
    assert r"b\_ & 1 & 5 & 2 & 3 & -- & -- & not resolved \\" in latex
    assert r"| b\_ | 1 | 5 | 2 | 3 |" in (tmp_path / "cmp" / "comparison.md").read_text()


def test_three_methods_are_corrected_together(settings, make_run, tmp_path):
    for seed in range(5):
        make_run("filter", seed, 2 + seed % 2)
    methods = settings["methods"] | {"filter": f"{tmp_path}/out/filter-*"}
    table = compare.run(settings | {"methods": methods, "metrics": ["yield"]}, tmp_path / "cmp")
    assert table["method"].tolist() == ["mara", "filter"]
    low, high = sorted(table["p"])
    assert table["p_holm"].min() == pytest.approx(2 * low)
    assert table["p_holm"].max() == pytest.approx(max(high, 2 * low))
    assert table["verdict"].tolist() == ["better", "not shown"]


def test_a_table_without_a_run_or_a_stage_is_refused(settings, tmp_path, refused):
    evaluate.run({"runs": f"{tmp_path}/out/mara-*"}, tmp_path / "eval")
    table, alone = tmp_path / "eval" / "diversity.parquet", tmp_path / "elsewhere.parquet"
    shutil.copy(table, alone)
    (tmp_path / "text.parquet").write_text("no parquet")
    for file, message in {
        table: r"has no rows of .*gibbs-seed=0, .*evaluate them too",
        alone: "not in the output folder of a finished evaluate stage",
        tmp_path / "text.parquet": r"table: .*not a readable .* Give the diversity\.parquet",
    }.items():
        assert re.search(message, refused(settings | {"table": str(file)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 30}, r"budget: 20 in .*gibbs-seed=0; 30 in .*mara-seed=0"),
        ({"max_samples": 40}, r"max_samples: 200 in .*; 40 in"),
        (
            {"reward": {"components": [{"kind": "logp", "name": "qed"}]}},
            r'reward\.components\.0\.kind: "qed" in .*gibbs-seed=0; "logp" in .*mara-seed=0',
        ),
        ({"prior": "other.bin"}, r"prior \(sha256\): \"[0-9a-f]{64}\" in .*; \"[0-9a-f]{64}\" in"),
    ],
)
def test_different_rewards_priors_and_budgets_are_refused(
    make_run, tmp_path, change, message, refused
):
    (tmp_path / "other.bin").write_bytes(b"other weights")
    config = two(make_run("gibbs", 0, 2), make_run("mara", 0, 5, **change))
    says = refused(config)
    assert "different rewards, priors or budgets" in says
    assert re.search(message, says)
    assert not (tmp_path / "refused0").exists()


def test_a_method_is_one_setting_and_a_seed_once(make_run, tmp_path, refused):
    gibbs, second, mara = make_run("gibbs", 0, 2), make_run("gibbs", 1, 2), make_run("mara", 0, 5)
    faster = make_run("gibbs", 2, 2, learning_rate=0.1)
    clipped = make_run("gibbs", 3, 2, trainer={"gradient_clip_val": 0.5})
    copy = shutil.copytree(gibbs, tmp_path / "copy")
    more = r"methods\.gibbs: its runs differ in more than the seed"
    for runs, message in [
        ([gibbs, faster], rf"{more}(.|\n)*learning_rate: null in"),
        ([gibbs, clipped], more),
        ([gibbs, copy], r"methods\.gibbs: several runs have seed 0: "),
        ([mara], "listed under several methods: gibbs, mara"),
        ([second], r"methods\.mara: no seed in common with the baseline gibbs: it has seed 0, the"),
    ]:
        config = two(gibbs, mara)
        config["methods"]["gibbs"] = [*map(str, runs)]
        assert re.search(message, refused(config))


def test_differing_settings_of_methods_are_printed(make_run, tmp_path, capsys):
    change = {"target": {"kind": "gibbs"}, "trainer": {"gradient_clip_val": 0.5}}
    gibbs = make_run("gibbs", 0, 2)
    compare.run(two(gibbs, make_run("mara", 0, 2, **change)), tmp_path / "cmp")
    assert 'mara differs from gibbs in trainer {"gradient_clip_val": 0.5}, not' in printed(capsys)
    assert "mara differs from gibbs in" in (tmp_path / "cmp" / "comparison.md").read_text()
    compare.run(two(gibbs, make_run("same", 0, 2, target={"kind": "gibbs"})), tmp_path / "same")
    assert "mara differs from gibbs in nothing:" in printed(capsys)


def test_runs_that_cannot_be_read_are_named_all_at_once(make_run, tmp_path, refused):
    running, whole = make_run("gibbs", 0, 2, status="interrupted"), make_run("mara", 0, 5)
    (tmp_path / "nothing").mkdir()
    under_way = "gibbs-seed=0: the run is interrupted, not complete"
    text = refused(two(running, tmp_path / "nothing") | {"metrics": ["yeild"]})
    assert under_way in text
    assert "nothing: not the folder of a posttrain run" in text
    assert "'yeild' is not a metric; did you mean 'yield'?" in text
    settings = STAGES["compare"].load(two(running, whole))
    STAGES["compare"].check(settings, "config")  # accepts a run that is not complete
    assert under_way in refused(settings)
    for part in (whole / "trace").iterdir():
        part.unlink()
    text = refused(two(make_run("gibbs", 1, 2), whole))
    assert re.search(r"mara-seed=0: no parts .* no trace to read", text)


def test_a_run_without_a_valid_molecule_has_a_yield_of_none(make_run, write_run, tmp_path):
    mara = make_run("mara", 7, 5)
    settings = {"reward": QED, "budget": 20, "seed": 7}
    gibbs = write_run(tmp_path / "gibbs", [[("C1CC", 0.0)]], settings)
    manifest = Manifest.load(gibbs)
    manifest.inputs = Manifest.load(mara).inputs
    manifest.save()
    table = compare.run(two(gibbs, mara), tmp_path / "cmp").set_index("metric")
    assert (table.loc["yield", "baseline_mean"], table.loc["yield", "difference"]) == (0, 5)
    assert (table.loc["top_share", "n"], table.loc["top_share", "n_undefined"]) == (0, 1)
    assert "mara (n = 0)" in (tmp_path / "cmp" / "forest.svg").read_text()


def test_a_pipeline_compares_the_runs_of_its_jobs(tmp_path):
    quickstart = str(ROOT / "configs/posttrain/quickstart.yaml")
    runs = [
        {
            "stage": "posttrain",
            "name": kind,
            "config": quickstart,
            "set": {"target": {"kind": kind, "sigma": 64} | extra},
            "grid": {"seed": [0, 1]},
        }
        for kind, extra in {"gibbs": {}, "mara": {"tau": 0.9}}.items()
    ]
    config = {"methods": {"gibbs": "${gibbs}", "mara": "${mara}"}, "baseline": "gibbs"}
    stages = [*runs, {"stage": "compare", "config": config}]
    planned = plan_pipeline({"name": "several", "stages": stages}, tmp_path / "out")[1]
    methods = planned[-1].config.methods
    assert [folder.name for folder in methods["mara"]] == ["mara-seed=0", "mara-seed=1"]
    assert len(planned[-1].needs) == 4
    config["metrics"] = ["yeild"]
    with pytest.raises(InputError, match="'yeild' is not a metric; did you mean 'yield'"):
        plan_pipeline({"name": "several", "stages": stages}, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"baseline": "gibs"}, ["'gibs' is no method; did you mean 'gibbs'"]),
        ({"metrics": ["novelty"]}, ["novelty needs a corpus, a reference or"]),
        ({"metrics": ["acyclic"]}, ["direction: {acyclic: higher}"]),
        ({"metrics": ["yield"], "thresholds": [None]}, ["yield is a metric of hits: thresholds"]),
        ({"metrics": ["yield", "yield"]}, ["metrics: yield: given more than once; keep each once"]),
        ({"direction": {"validity": "lower"}}, ["direction: validity is not compared"]),
        ({"options": {"seed": 1}, "table": "prior.bin"}, ["remove options or table"]),
        ({"baseline": "gibs", "metrics": ["yeild"], "alpha": 3},
         ["alpha", "'yeild' is not a metric; did you mean 'yield'?"]),
        ({"metrics": ["yield", "yeild", "yield"]},
         ["metrics: yield: given more than once", "'yeild' is not a metric; did you mean"]),
        ({"metrics": ["acyclic"], "thresholds": [0.8, 0.8]},
         ["thresholds: 0.8: given more than", "higher or lower values of acyclic are better"]),
    ],
)  # fmt: skip
def test_all_mistakes_in_the_config_are_named(
    settings, tmp_path, monkeypatch, change, messages, refused
):
    monkeypatch.chdir(tmp_path)
    text = refused(settings | change)
    assert [message for message in messages if message not in text] == []


def test_a_metric_without_a_direction_gets_one(settings, tmp_path):
    metrics = {"metrics": ["acyclic", "validity"], "direction": {"acyclic": "lower"}}
    config = settings | metrics | {"thresholds": [None]}
    table = compare.run(config, tmp_path / "cmp").set_index("metric")
    assert table.loc["acyclic", "better"] == "lower"
    assert table.loc["acyclic", "mean"] == 1  # ethanol, in every run
    assert table["threshold"].isna().all()
    assert (tmp_path / "cmp" / "comparison.md").read_text().count("| all |") == 2


def test_every_metric_of_quality_and_diversity_has_a_direction():
    names = metrics_schema(MetricOptions()).names
    lower = {name for name in names if direction_of(name, {}) == "lower"}
    higher = {name for name in names if direction_of(name, {}) == "higher"}
    assert lower == {
        *(f"ob{n}{of}" for n in (1, 10, 100) for of in ("", "_scaffolds")),
        *("top_share", "late_top_share", "gini", "fcd"),
    }
    assert higher >= {
        *("yield", "scaffold_yield", "validity", "uniqueness", "uniqueness_at_1000", "novelty"),
        *("int_div_moses_1", "int_div_moses_2", "int_div_pairs", "circles", "murcko", "generic"),
        *("scaffold_entropy", "scaffold_evenness", "effective_scaffolds", "sediv", "snn", "scaf"),
        *("frag", "late_uniqueness", "late_scaffolds"),
    }
    assert not (lower | higher) & {"run", "threshold", "n_sampled", "n_pairwise", "acyclic"}


def test_different_precisions_and_an_idle_target_are_reported(make_run, tmp_path, capsys):
    used = {("x", 0): "32-true", ("x", 1): "bf16-mixed", ("y", 0): "32-true", ("y", 1): None}
    for (method, seed), precision in used.items():
        manifest = Manifest.load(make_run(method, seed, 2))
        if precision:
            manifest.precision = UsedPrecision(used=precision, why="auto", device="cpu")
        manifest.save()
    out = tmp_path / "out"
    config = {"methods": {"x": f"{out}/x-*", "y": f"{out}/y-*"}, "baseline": "x"}
    compare.run(config, tmp_path / "cmp")
    text = "not all runs were trained in the same precision: 32-true by x seed 0, y seed 0; "
    assert f"{text}bf16-mixed by x seed 1." in printed(capsys)
    target = {"kind": "mara", "tau": 0.95, "sigma": 8}
    compare.run(two(make_run("gibbs", 0, 2), make_run("mara", 0, 0, target=target)), tmp_path / "c")
    text = "mara, seed 0: the target mara never acted: no reward reached tau = 0.95;"
    assert text in printed(capsys)


def test_a_metric_of_one_row_is_in_every_output(make_run, tmp_path, monkeypatch, capsys):
    """Hits have rings of 5 or 6 atoms: the SMILES of pyrrole's kin are the shortest."""
    metric = Metric(
        "shortest", "shortest", ",d", "Characters of the shortest SMILES of the set.",
        "characters", "lower", "all",
        lambda s: min((len(m.smiles) for m in s.molecules), default=None), ("whole", "hits"),
    )  # fmt: skip
    monkeypatch.setitem(METRICS, metric.key, metric)
    folders = {m: [str(make_run(m, seed, 3)) for seed in range(2)] for m in ("gibbs", "mara")}
    evaluate.run({"runs": folders["gibbs"], "metrics": {"workers": 1}}, tmp_path / "evaluated")
    assert "shortest" in capsys.readouterr().out
    stored = json.loads((tmp_path / "evaluated/metrics.json").read_text())["runs"]
    assert stored["gibbs-seed=0"]["shortest"] == len("CCO")
    assert stored["gibbs-seed=0"]["thresholds"]["0.8"]["shortest"] == len("c1ccccc1")
    field = pq.read_schema(tmp_path / "evaluated/diversity.parquet").field("shortest")
    assert description_of(field) == metric.meaning
    settings = {"methods": folders, "baseline": "gibbs", "metrics": ["shortest"]}
    table = compare.run(settings, tmp_path / "compared")
    assert table[["metric", "better", "mean"]].to_numpy().tolist() == [["shortest", "lower", 8.0]]
    page = report.run({"methods": folders}, tmp_path / "report").read_text()
    assert page.count(metric.meaning) > 1
    show.show("metrics", "shortest")
    assert "Characters of the shortest" in capsys.readouterr().out
