"""evaluate, compare and report without a config file: runs and files as arguments."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from small_runs import QED

from chemkl.config import InputError
from chemkl.results import InputFile, Manifest
from chemkl.stages.runs import sort_arguments

STEPS = [[("c1ccccc1", 0.9), ("CCO", 0.2), ("C1CCCCC1", 0.85)]]


@pytest.fixture
def place(tmp_path, monkeypatch, write_run):
    """Two methods with two runs each, and files of molecules."""
    monkeypatch.chdir(tmp_path)
    Path("prior.bin").write_bytes(b"weights")
    for kind, tau in {"few": 0.88, "many": 0.5}.items():
        for seed in (0, 1):
            config = {"target": {"kind": kind, "tau": tau}, "seed": seed, "budget": 3}
            run = write_run(
                tmp_path / "out" / f"{kind}-seed={seed}", STEPS, config | {"reward": QED}
            )
            result = Manifest.load(run)
            result.seed, result.inputs = seed, {"prior": InputFile.of(tmp_path / "prior.bin")}
            result.save()
    Path("scored.csv").write_text("SMILES,Score\nc1ccccc1,0.9\nCCO,0.2\nC1CCCCC1,0.85\n")
    Path("odd.csv").write_text("SMILES,mine,Score\nc1ccccc1,0.1,0.9\nCCO,0.95,0.2\n")
    Path("plain.smi").write_text("CCO\nCCN\n")
    Path("other").mkdir()
    Path("other/plain.smi").write_text("CCC\n")
    Path("mine.yaml").write_text("samples: [plain.smi]\n")
    return tmp_path


def test_runs_and_files_in_any_mixture(place, chemkl):
    arguments = ["scored.csv", "out/few-seed=0", "plain.smi", "other/plain.smi", "metrics.seed=3"]
    assert chemkl("evaluate", *arguments) == 0
    (out,) = Path("runs").iterdir()
    assert out.name == "scored-and-3-more-evaluation"
    table = pd.read_parquet(out / "diversity.parquet")
    assert table["run"].unique().tolist() == [
        "out/few-seed=0", f"{place.name}/scored.csv", f"{place.name}/plain.smi", "other/plain.smi",
    ]  # fmt: skip
    hits = table[table["threshold"] == 0.88].set_index("run")["yield"]  # the run's tau
    assert hits.to_dict() == {"out/few-seed=0": 1, f"{place.name}/scored.csv": 1}
    assert json.loads((out / "manifest.json").read_text())["config"]["metrics"]["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "name", "thresholds"),
    [
        (["scored.csv"], "scored-evaluation", None),
        (["out/many-seed=1"], "many-seed=1-evaluation", [0.5]),
        (["out/many-seed=1/trace"], "many-seed=1-evaluation", [0.5]),
        (["out/many-seed=1", "out/few-seed=1"], "many-seed=1-and-1-more-evaluation", [0.5, 0.88]),
        (["-"], "stdin-evaluation", None),
        (["out/*"], "_-evaluation", [0.5, 0.88]),
        (["out/many-*", "plain.smi"], "many-_-and-1-more-evaluation", [0.5]),
    ],
)
def test_folder_name_and_thresholds(place, arguments, name, thresholds):
    result = sort_arguments("evaluate", arguments)
    assert result.name == name
    assert result.source.get("thresholds") == thresholds


def test_a_threshold_of_the_user_comes_first(place, chemkl):
    assert chemkl("evaluate", "out/few-seed=0", "thresholds=[0.1]", "--out", "e") == 0
    table = pd.read_parquet("e/diversity.parquet")
    assert table["threshold"].dropna().tolist() == [0.1]
    assert table["yield"].dropna().tolist() == [3]


@pytest.mark.parametrize(
    ("arguments", "source", "name"),
    [
        (["mine.yaml"], "mine.yaml", "mine"),
        (["mine.yaml", "metrics.seed=1"], "mine.yaml", "mine"),
        (["quickstart"], "quickstart", "quickstart"),  # a config that is shipped
        (["nowhere"], "nowhere", "nowhere"),
    ],
)
def test_a_config_file_is_passed_on(place, arguments, source, name):
    result = sort_arguments("evaluate", arguments)
    assert (result.source, result.name, [*result.overrides]) == (source, name, arguments[1:])
    assert sort_arguments("compare", arguments).name == f"{name}-compared"


def test_settings_and_pipes_are_recognised(place):
    result = sort_arguments("evaluate", ["out/few-seed=0", "every=5"])
    assert (result.source["runs"], [*result.overrides]) == (["out/few-seed=0"], ["every=5"])
    os.mkfifo("63")  # such as /dev/fd/63, of <(zcat molecules.smi.gz)
    arguments = sort_arguments("evaluate", ["63", "out/few-seed=0"])
    assert [entry["path"] for entry in arguments.source["samples"]] == ["63"]


def test_compare_finds_the_methods(place, chemkl, capsys):
    runs = ["out/many-seed=0", "out/few-seed=0", "out/few-seed=1", "out/many-seed=1"]
    assert chemkl("compare", *runs, "metrics=[yield]", "n_resamples=100", "--out", "c") == 0
    config = json.loads(Path("c/manifest.json").read_text())["config"]
    assert {name: len(runs) for name, runs in config["methods"].items()} == {"many": 2, "few": 2}
    assert config["baseline"] == "many"
    assert config["thresholds"] == [0.5, 0.88]


def test_settings_of_files_are_those_of_each(place):
    result = sort_arguments("evaluate", ["odd.csv", "scored.csv", "reward_column=mine", "every=2"])
    assert [*result.overrides] == [
        "samples.0.reward_column=mine", "samples.1.reward_column=mine", "every=2",
    ]  # fmt: skip
    result = sort_arguments("evaluate", ["mine.yaml", "column=1"])
    assert [*result.overrides] == ["column=1"]


@pytest.mark.parametrize(("column", "first"), [("mine", 2), ("Score", 1)])
def test_the_column_of_rewards_is_named_on_the_command_line(place, chemkl, column, first):
    arguments = ["odd.csv", f"reward_column={column}", "thresholds=[0.9]", "--out", "e"]
    assert chemkl("evaluate", *arguments) == 0
    assert pd.read_parquet("e/diversity.parquet")["ob1"].dropna().tolist() == [first]


def test_report_takes_runs(place, chemkl):
    assert chemkl("report", "out/few-seed=0", "out/few-seed=1", "n_map=0", "title=Mine") == 0
    page = Path("runs/few-seed=0-and-1-more-report/report.html").read_text()
    assert "<title>Mine" in page


@pytest.mark.parametrize(
    ("stage", "arguments", "problem"),
    [
        ("evaluate", ["every=5"], "give a config file, or runs to evaluate"),
        (
            "evaluate",
            ["mine.yaml", "plain.smi"],
            "mine.yaml: .* must be the only input",
        ),
        ("evaluate", ["plain.smi", "gone"], "gone: no such file; neither a run's folder nor"),
        ("report", ["plain.smi"], "plain.smi: chemkl report takes folders of runs, not files"),
        ("compare", ["out/few-seed=0"], "few-seed=0: only the seed differs, so all are one method"),
        ("compare", ["out/few-*"], "few-seed=0, .*few-seed=1: only the seed"),
        ("compare", ["other"], "other: no parts .* so there is no trace to read"),
    ],
)
def test_what_does_not_go_together_is_refused(place, stage, arguments, problem):
    with pytest.raises(InputError, match=problem):
        sort_arguments(stage, arguments)


def test_a_folder_that_is_no_run_and_a_file_that_is_gone_are_named(place, chemkl, capsys):
    assert chemkl("evaluate", "other", "--out", "e") == 2
    assert "other" in capsys.readouterr().err
    assert chemkl("evaluate", "gone.csv", "--out", "e") == 2
    assert "gone.csv" in capsys.readouterr().err
    assert not Path("e").exists()


@pytest.mark.parametrize("stage", ["evaluate", "compare", "report"])
def test_help_names_runs(chemkl, capsys, stage):
    assert chemkl(stage, "--help") == 0
    assert "folders of runs" in " ".join(capsys.readouterr().out.replace("│", "").split())
