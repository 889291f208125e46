"""The evaluate stage: tables of runs, files, prompts and priors, and refused input."""

import json
import shutil
from itertools import count

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemkl.config import InputError, load_config
from chemkl.config.evaluate import EvaluateConfig
from chemkl.display import MISSING
from chemkl.results import Manifest, description_of, read_trace
from chemkl.stages import evaluate
from chemkl.stages.registry import STAGES
from chemkl.stages.runs import run_names

no_warnings = pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
GOOD = [[("Cc1ccccc1", 0.9), ("CCO", 0.3)], [("CC1CCCCC1", 0.85), ("C1CC", 0.0)]]
POOR = [[("CCN", 0.1)]]


@pytest.fixture
def runs(tmp_path, write_run):
    write_run(tmp_path / "runs" / "b_good", GOOD)
    write_run(tmp_path / "runs" / "a_poor", POOR)
    return tmp_path / "runs"


def json_of(path):
    return json.loads(path.read_text())


def test_several_runs_by_a_pattern(runs, tmp_path, capsys):
    (runs / "not_a_run").mkdir()
    stopped = Manifest.load(runs / "a_poor")
    stopped.finish("interrupted", ended_by="StoppedBySignal: SIGTERM")
    table = evaluate.run({"runs": f"{runs}/*", "thresholds": [0.8, 0.9]}, tmp_path / "out")
    assert table["run"].tolist() == ["a_poor"] * 3 + ["b_good"] * 3
    assert table["threshold"].tolist()[1:3] == [0.8, 0.9]
    paths = pd.read_parquet(tmp_path / "out" / "diversity.parquet")
    assert paths["run"].tolist() == table["run"].tolist()
    schema = pq.read_schema(tmp_path / "out" / "diversity.parquet")
    assert all(description_of(field) for field in schema)
    summary = json_of(tmp_path / "out" / "metrics.json")["runs"]
    assert summary["b_good"]["validity"] == 0.75
    assert summary["b_good"]["thresholds"]["0.8"]["yield"] == 2
    assert summary["b_good"]["thresholds"]["0.8"]["scaffold_yield"] == 2
    assert summary["a_poor"]["thresholds"]["0.8"]["ob1"] is None
    out, err = capsys.readouterr()
    assert out.count("b_good") == 5
    assert "Hits: R >= 0.9" in out
    assert [line for line in err.splitlines() if "not complete" in line] == [
        "a_poor: not complete; its numbers are those so far"
    ]
    # each run also gets its own table
    expected = runs / "b_good" / "evaluation"
    assert json_of(expected / "metrics.json") == summary["b_good"]
    assert len(pd.read_parquet(expected / "diversity.parquet")) == 3
    shutil.rmtree(expected)
    evaluate.run({"runs": [str(runs / "b_good")], "into_runs": False}, tmp_path / "apart")
    assert not expected.exists()


def test_files_of_samples_and_novelty(tmp_path):
    (tmp_path / "ours.smi").write_text("OCC\nCCO\nnonsense\nCCN\n")
    corpus = tmp_path / "corpus.smi"
    corpus.write_text("OCC\n")  # not canonical: CCO
    config = {"samples": [str(tmp_path / "ours.smi")], "corpus": str(corpus)}
    row = evaluate.run(config, tmp_path / "out").iloc[0]
    assert row["run"] == "ours.smi"
    assert (row["n_sampled"], row["n_valid"], row["n_molecules"]) == (4, 3, 2)
    assert row["novelty"] == 0.5
    assert pd.isna(row["yield"])
    config["corpus"] = {"path": str(corpus), "canonical": True}  # is taken as it stands
    assert evaluate.run(config, tmp_path / "canonical").iloc[0]["novelty"] == 1


def test_one_split_of_a_prepared_corpus(tmp_path):
    ours, corpus = tmp_path / "ours.smi", tmp_path / "corpus.parquet"
    ours.write_text("CCO\nCCN\n")
    pq.write_table(pa.table({"smiles": ["CCO", "CCN"], "split": ["train", "test"]}), corpus)
    outs = (tmp_path / f"out{n}" for n in count())

    def of(**settings):
        return evaluate.run({"samples": [str(ours)]} | settings, next(outs)).iloc[0]

    def novelty(split, path=corpus):
        return of(corpus={"path": str(path), "split": split, "canonical": True})["novelty"]

    def snn(**split):
        return of(reference={"kind": "file", "path": str(corpus)} | split)["snn"]

    assert (novelty("train"), novelty(None)) == (0.5, 0)
    assert snn(split="test") < snn() == 1  # CCO is not in the one
    for use in (novelty, lambda split: snn(split=split)):
        with pytest.raises(InputError, match=r"no split 'trian'; did you mean 'train'\? Known: t"):
            use("trian")
    with pytest.raises(InputError, match=r"ours\.smi has no splits.*Remove split: train"):
        novelty("train", ours)


@pytest.mark.parametrize("form", ["reinvent.csv", "rows.parquet", "part"])
def test_a_file_with_rewards_has_the_numbers_of_a_run(runs, tmp_path, form):
    run = runs / "b_good"
    rows = read_trace(run)[["smiles", "reward"]]
    path = tmp_path / form
    if form == "part":
        path = next((run / "trace").iterdir())
    elif form == "rows.parquet":
        rows.to_parquet(path)
    else:
        theirs = rows.rename(columns={"smiles": "SMILES", "reward": "Score"})
        theirs.assign(SMILES_state=[1, 1, 1, 0]).to_csv(path, index=False)  # 0: invalid
    common = {"thresholds": [0.5, 0.86], "every": 1, "into_runs": False}
    evaluate.run({"runs": [str(run)], **common}, tmp_path / "of_run")
    evaluate.run({"samples": [str(path)], **common}, tmp_path / "of_file")
    for name in ("diversity", "over_time"):
        ours, theirs = (
            pd.read_parquet(tmp_path / folder / f"{name}.parquet").drop(columns="run")
            for folder in ("of_file", "of_run")
        )
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    hits = ours[ours["threshold"] == 0.86]  # the last row of those over time
    assert hits["n_molecules"].tolist()[-1] == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "nothing to evaluate: give run folders under `runs`"),
        ({"runs": ["nowhere"]}, "no such file or folder: .*nowhere"),
        ({"runs": "nowhere/*"}, r"no run folder \(one with 'trace/' in it\) matches .*nowhere/\*"),
        ({"runs": ["."], "fcd": True}, "fcd: true needs a `reference`"),
        ({"runs": ["."], "metrics": {"circles_distance": 2}}, "circles_distance: .*less than 1"),
        (
            {"runs": ["runs/*", "runs/../runs/b_good"]},
            r"runs: .*b_good: given more than once; keep each once",
        ),
    ],
)
def test_mistakes_in_the_config_are_named(runs, tmp_path, monkeypatch, config, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        evaluate.run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def everything(tmp_path):
    """Settings that compute all there is."""
    theirs, prior = tmp_path / "theirs.smi", tmp_path / "prior.csv"
    theirs.write_text("Cc1ccccc1\nCCO\nc1ccc2ccccc2c1\n")
    prior.write_text("smiles,reward\nCc1ccccc1,0.9\nC1CCCC1,0.95\n")
    files = {"prior": str(prior), "reference": str(theirs), "corpus": str(theirs)}
    return files | {"every": 1, "metrics": {"uniqueness_at": [1, 10]}}


DEFINED_WITHOUT_A_HIT = {
    **{"n_molecules": 0, "n_pairwise": 0, "n_matrix": 0, "yield": 0, "scaffold_yield": 0},
    **{"circles": 0, "murcko": 0, "generic": 0, "acyclic": 0},
    **{"clusters_butina": 0, "clusters_sphere": 0, "prior_families": 2, "prior_coverage": 0},
}
OF_THE_RUN = ("n_", "validity", "uniqueness", "late_", "auc_", "run", "threshold")


@no_warnings
def test_a_run_without_hits_has_zeros_and_nulls(tmp_path, write_run, everything):
    run = write_run(tmp_path / "poor", POOR)
    table = evaluate.run({**everything, "runs": [str(run)]}, tmp_path / "out")
    hits = table.iloc[1].dropna()
    hits = hits[[n for n in hits.index if n[:2] == "n_" or not n.startswith(OF_THE_RUN)]]
    assert hits.drop(["n_sampled", "n_valid"]).to_dict() == DEFINED_WITHOUT_A_HIT
    over_time = pd.read_parquet(tmp_path / "out" / "over_time.parquet")
    assert over_time["n_molecules"].tolist() == [1, 0]
    assert json_of(tmp_path / "out" / "manifest.json")["status"] == "complete"


@no_warnings
@pytest.mark.parametrize("smiles", ["CC1CCCCC1", "CCO"])
def test_a_run_of_one_molecule_is_evaluated(tmp_path, write_run, everything, smiles):
    run = write_run(tmp_path / "one", [[(smiles, 0.9)]])
    row = evaluate.run({**everything, "runs": [str(run)]}, tmp_path / "out").iloc[0]
    ring = smiles != "CCO"
    of_one = {"n_molecules": 1, "validity": 1, "uniqueness": 1, "uniqueness_at_1": 1}
    alone = {"int_div_moses_1": 0, "int_div_moses_2": 0, "circles": 1, "vendi": 1, "hamiltonian": 0}
    clusters = {"clusters_butina": 1, "clusters_sphere": 1}
    scaffolds = {"murcko": ring, "generic": ring, "acyclic": not ring, "late_scaffolds": ring}
    expected = of_one | alone | clusters | scaffolds
    assert row[list(expected)].to_dict() == expected
    undefined = ["int_div_pairs", "sediv", "scaffold_evenness", "fcd", "uniqueness_at_10"]
    assert row[undefined].isna().all()
    of_scaffolds = ["scaffold_entropy", "effective_scaffolds", "top_share", "gini"]
    assert row[of_scaffolds].fillna(-1).tolist() == ([0, 1, 1, 0] if ring else [-1] * 4)


@no_warnings
@pytest.mark.parametrize("steps", [[], [[("C1CC", 0.0)]]], ids=["no row", "nothing valid"])
def test_an_empty_trace_is_evaluated(tmp_path, write_run, everything, steps):
    run = write_run(tmp_path / "empty", steps or POOR)
    if not steps:
        (part,) = (run / "trace").iterdir()
        pq.write_table(pq.read_table(part).slice(0, 0), part)
    table = evaluate.run({**everything, "runs": [str(run)]}, tmp_path / "out")
    row = table.iloc[0]
    assert (row["n_sampled"], row["n_valid"], row["n_molecules"]) == (len(steps), 0, 0)
    assert pd.isna(row["validity"]) if not steps else row["validity"] == 0
    assert row[["uniqueness", "int_div_moses_1", "vendi", "auc_top_1", "novelty"]].isna().all()
    assert (row["prior_families"], row["prior_coverage"]) == (2, 0)
    assert len(pd.read_parquet(tmp_path / "out" / "over_time.parquet")) == 0
    moved = pd.read_parquet(tmp_path / "out" / "families.parquet")
    assert moved["share_change"].tolist() == [-0.5, -0.5]


def test_every_run_that_cannot_be_read_is_named_before_anything_is_written(runs, tmp_path):
    (cut,) = (runs / "a_poor" / "trace").iterdir()
    cut.write_bytes(cut.read_bytes()[:200])
    (part,) = (runs / "b_good" / "trace").iterdir()
    pq.write_table(pq.read_table(part).drop_columns(["reward"]), part)
    with pytest.raises(InputError) as caught:
        evaluate.run({"runs": f"{runs}/*"}, tmp_path / "out")
    first, second = str(caught.value).splitlines()
    assert f"{cut}: not a readable Parquet file (200 bytes" in first
    assert f"{part}: not a part of a trace (missing columns: reward)" in second
    assert not (tmp_path / "out").exists()


def test_a_sample_of_the_prior_shows_the_families_that_moved(runs, tmp_path, capsys):
    prior = tmp_path / "prior.parquet"
    smiles = ["Cc1ccccc1", "Oc1ccccc1", "C1CCCC1", "CCO"]
    pq.write_table(pa.table({"smiles": smiles, "reward": [0.9, 0.1, 0.95, 0.2]}), prior)
    config = {"runs": f"{runs}/*", "prior": str(prior), "every": 2}
    table = evaluate.run(config, tmp_path / "out")
    whole, hits = table[table["run"] == "b_good"].to_dict("records")
    # the prior reaches six-rings and five-rings, and has a hit in each; the run has six-rings only
    assert (whole["prior_families"], whole["prior_coverage"]) == (2, 0.5)
    assert (hits["prior_families"], hits["prior_coverage"]) == (2, 0.5)
    moved = pd.read_parquet(tmp_path / "out" / "families.parquet")
    good = moved[moved["run"] == "b_good"].set_index("family")
    changes = good.loc[["C1CCCCC1", "C1CCCC1"], "share_change"]
    assert changes.tolist() == pytest.approx([1 / 3, -1 / 3])
    assert len(good) == 2
    summary = json_of(tmp_path / "out" / "metrics.json")["runs"]["b_good"]
    assert summary["thresholds"]["0.8"]["prior_coverage"] == 0.5
    assert "sha256" in json_of(tmp_path / "out" / "manifest.json")["inputs"]["prior"]
    expected = runs / "b_good" / "evaluation"
    assert len(pd.read_parquet(expected / "families.parquet")) == 2
    assert pd.read_parquet(expected / "over_time.parquet")["run"].unique().tolist() == ["b_good"]
    text = " ".join(capsys.readouterr().out.split())
    assert "cover: share of the generic scaffolds of the prior" in text
    titles = (
        "AUC top-k",
        "The last 1,000 valid samples at several calls",
        "Scaffold families that grew and shrank most",
        "Scaffold families of the prior's sample, and the share that each run recovered",
        "OB: oracle calls until",
    )
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    evaluate.run({"runs": f"{runs}/*"}, tmp_path / "without")
    assert "cover" not in capsys.readouterr().out
    assert not (tmp_path / "without" / "families.parquet").exists()


def test_runs_of_one_name_get_unique_names(tmp_path, write_run):
    folders = [write_run(tmp_path / arm / "seed0", POOR) for arm in ("mara", "gibbs")]
    assert run_names(folders) == ["mara/seed0", "gibbs/seed0"]
    assert run_names(folders[:1]) == ["seed0"]
    assert run_names([]) == []
    assert len(set(run_names([tmp_path, tmp_path]))) == 2
    table = evaluate.run({"runs": [str(f) for f in folders]}, tmp_path / "out")
    assert table["run"].unique().tolist() == ["mara/seed0", "gibbs/seed0"]


def test_a_pattern_matches_runs_of_earlier_jobs(tmp_path, write_run):
    out, configs = tmp_path / "out", tmp_path / "configs"
    promised = [out / "mara", out / "gibbs", out / "samples", tmp_path / "prior"]
    write_run(out / "gibbs", POOR)
    (out / "samples").mkdir()  # exists, and is no run
    configs.mkdir()

    def runs_of(pattern, **places):
        return load_config(EvaluateConfig, {"runs": pattern}, **places).runs

    assert runs_of("../out/*", folder=configs, promised=promised) == [out / "gibbs", out / "mara"]
    (run,) = runs_of("new/x/*", folder=tmp_path, promised=[tmp_path / "new"])
    assert run.is_relative_to(tmp_path / "new" / "x")
    assert not run.exists()


def test_fcd_is_checked_before_the_run(monkeypatch, tmp_path):
    file = tmp_path / "a.smi"
    file.write_text("CCO\n")
    settings = {"samples": [str(file)], "reference": str(file), "fcd": True}
    config = load_config(EvaluateConfig, settings)
    monkeypatch.setattr("chemkl.evaluation.reference.find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install 'fcd_torch"):
        STAGES["evaluate"].check(config)
    with pytest.raises(InputError, match="treshold: not a known key") as caught:
        evaluate.run({"runs": "nowhere", "fcd": True, "treshold": 1}, tmp_path / "out")
    first, _, last = str(caught.value).splitlines()
    assert "no such file or folder" in first
    assert last.startswith("settings: fcd: true: FCD needs the package fcd_torch")


def test_references_by_name_and_by_kind(tmp_path):
    (tmp_path / "a.smi").write_text("CCO\n")

    def load(reference):
        return load_config(
            EvaluateConfig, {"samples": ["a.smi"], "reference": reference}, folder=tmp_path
        ).reference

    assert load("moses_test")["moses_test"].kind == "moses_test"
    assert load("a.smi")["a"].kind == "file"
    message = load({"x": "moses_test", "y": {"kind": "file", "path": "a.smi"}})
    assert list(message) == ["x", "y"]
    with pytest.raises(InputError, match="moses_tset"):
        load("moses_tset")


def test_molecules_that_rdkit_cannot_read_back_count_as_invalid(tmp_path, write_run, capsys):
    bad = "Cc1ccc2nc(C)=n(C)c12"  # RDKit 2026.09 cannot read its own output for it
    folder = write_run(tmp_path / "old", [[("CCO", 0.9), (bad, 0.9)], [("CC", 0.2), (bad, 0.9)]])
    settings = {"runs": [str(folder)], "thresholds": [0.8], "every": 2}
    table = evaluate.run(settings, tmp_path / "out")
    assert "old: 1 molecules recorded as valid are counted as invalid" in capsys.readouterr().err
    whole, hits = table.to_dict("records")
    assert (whole["n_sampled"], whole["validity"], whole["n_molecules"]) == (4, 0.5, 2)
    assert hits["n_molecules"] == 1


# ---- by prompt

PROMPT_STEPS = [
    [("low", "Cc1ccccc1", "Cc1ccccc1", 0.9), ("low", "CCO", "CCO", 0.3)],
    [("high", "OCC", "OCC", 0.85), ("high", "?", None, 0.0)],
]


@pytest.fixture
def prompt_runs(tmp_path, write_text_run):
    for name in ("gibbs", "mara"):
        write_text_run(tmp_path / "runs" / name, PROMPT_STEPS, molecules=True)
    return tmp_path / "runs"


def printed_words(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_a_row_for_each_run_prompt_and_threshold(prompt_runs, tmp_path, capsys):
    config = {"runs": f"{prompt_runs}/*", "thresholds": [0.8, 0.9], "by_prompt": True}
    whole = evaluate.run(config, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "by_prompt.parquet")
    keys = table[["run", "prompt", "threshold"]].fillna(-1).values.tolist()
    assert keys == [
        [run, prompt, threshold]
        for run in ("gibbs", "mara")
        for prompt in ("low", "high")
        for threshold in (-1, 0.8, 0.9)
    ]
    assert table["n_molecules"].tolist() == [2, 1, 1, 1, 1, 0] * 2
    assert table["yield"].fillna(-1).tolist() == [-1, 1, 1, -1, 1, 0] * 2
    # the run counts ethanol once, by what the first prompt was paid
    assert whole["n_molecules"].tolist() == [2, 1, 1] * 2
    schema = pq.read_schema(tmp_path / "out" / "by_prompt.parquet")
    assert all(description_of(field) for field in schema)
    expected = pd.read_parquet(prompt_runs / "mara" / "evaluation" / "by_prompt.parquet")
    pd.testing.assert_frame_equal(expected, table[table["run"] == "mara"].reset_index(drop=True))
    lines = printed_words(capsys)
    assert "OB counts the distinct molecules of that prompt" in " ".join(map(" ".join, lines))
    titles = [
        number for number, words in enumerate(lines) if words[:2] == ["By", "prompt:"]
    ]  # after the tables of runs
    assert [lines[at][-1] for at in titles] == ["0.8", "0.9"]
    assert lines[titles[0] - 1][0] == "mara"
    # distinct, valid, unique; of the hits: Yield, OB10, scaffolds, share of the largest one
    low = ["low", "2", "100.0%", "100.0%", "1", MISSING, "1", "100.0%"]
    assert [words for words in lines if "low" in words] == [
        [run, *low] for run in ("gibbs", "mara")
    ] * 2
    high = ["high", "1", "50.0%", "100.0%"]
    assert [words for words in lines if words[0] == "high"] == [
        [*high, hits, MISSING, "0", MISSING] for hits in ("1", "1", "0", "0")
    ]


def test_many_prompts_are_shown_in_part_and_long_ones_are_cut(tmp_path, write_text_run, capsys):
    texts = [f"prompt {n} asks for a molecule\nof kind {n}" for n in range(12)]
    run = write_text_run(tmp_path / "many", [[(t, "C", "C", 0.1) for t in texts]], molecules=True)
    evaluate.run({"runs": [str(run)], "by_prompt": True, "thresholds": []}, tmp_path / "out")
    lines = printed_words(capsys)
    assert ["By", "prompt", "(the", "first", "10", "of", "12", "prompts)"] in lines
    cut = [line for line in lines if any("…" in word for word in line)]
    assert len(cut) == 10
    assert " ".join(cut[1][:6]).startswith("prompt 1 as")
    assert len(pd.read_parquet(tmp_path / "out" / "by_prompt.parquet")) == 12


def test_without_the_setting_or_a_row_there_is_no_such_table(prompt_runs, tmp_path, capsys):
    evaluate.run({"runs": f"{prompt_runs}/*"}, tmp_path / "out")
    assert not (tmp_path / "out" / "by_prompt.parquet").exists()
    (part,) = (prompt_runs / "mara" / "trace").iterdir()
    pq.write_table(pq.read_table(part).slice(0, 0), part)
    evaluate.run({"runs": [str(prompt_runs / "mara")], "by_prompt": True}, tmp_path / "empty")
    assert len(pd.read_parquet(tmp_path / "empty" / "by_prompt.parquet")) == 0
    assert "By" not in [words[0] for words in printed_words(capsys)]


def test_runs_without_prompts_are_named(prompt_runs, tmp_path, write_run):
    without = [write_run(prompt_runs / name, [[("CCO", 0.1)]]) for name in ("smiles", "strings")]
    config = {"runs": f"{prompt_runs}/*", "by_prompt": True}
    with pytest.raises(InputError, match=r"by_prompt: true, but .* group and prompt") as caught:
        evaluate.run(config, tmp_path / "out")
    assert f"the trace of {without[0]}, {without[1]} has no prompts" in str(caught.value)
    assert not (tmp_path / "out").exists()
    settings = load_config(EvaluateConfig, config)
    with pytest.raises(InputError, match=r"runs of posttrain_llm have them\. Remove by_prompt"):
        STAGES["evaluate"].check(settings)
    STAGES["evaluate"].check(settings, pending=without)  # made anew by an earlier job
