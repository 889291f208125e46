"""The pipeline runner, with small stages in place of the real ones."""

import sys
from copy import deepcopy
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from small_runs import held

from chemkl.config import Config, InputError, InputPath
from chemkl.config.pipeline import StageName
from chemkl.results import Manifest, read_trace
from chemkl.stages import pipeline
from chemkl.stages.registry import STAGES, Stage


class Training(Config):
    seed: int = 0
    fail: bool = False


class Reading(Config):
    runs: list[InputPath]
    threshold: float = 0.8


@dataclass(frozen=True)
class FakeStage(Stage):
    """A stage that writes a manifest and a file and records its calls."""

    fake_model: type[Config] = Config
    calls: list = field(default_factory=list)
    checked: list = field(default_factory=list)
    behaviour: dict = field(default_factory=dict)

    @property
    def model(self):
        return self.fake_model

    @property
    def module(self):
        return SimpleNamespace(work=self._work, problems=self._problems)

    def _problems(self, view):
        if view.config is not None:
            self.checked.append((view.config, list(view.pending)))
            if "problem" in self.behaviour:
                yield "seed", [self.behaviour["problem"]]

    def _work(self, _config, start):
        name = start.out.name
        self.calls.append(name)
        with start.claim() as manifest:
            (start.out / "made_by").write_text(f"{self.name} {len(self.calls)}")
            if name in self.behaviour.get("raise", {}):
                raise self.behaviour["raise"][name]
            if name in self.behaviour.get("stop", ()):
                manifest.finish("interrupted", ended_by="time limit")


@pytest.fixture
def stages(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    fakes = {
        "posttrain": FakeStage("posttrain", "", "", Training),
        "evaluate": FakeStage("evaluate", "", "", Reading),
    }
    for name, fake in fakes.items():
        monkeypatch.setitem(STAGES, name, fake)
    return SimpleNamespace(**fakes)


DEMO = {
    "name": "demo",
    "stages": [
        {"stage": "posttrain", "name": "plain", "grid": {"seed": [0, 1]}},
        {"stage": "posttrain", "name": "mara"},
        {"stage": "evaluate", "config": {"runs": ["${plain}", "${mara}"]}},
    ],
}
ALL = ["plain-seed=0", "plain-seed=1", "mara", "evaluate"]


@pytest.fixture
def demo():
    """The pipeline, for tests that change it."""
    return deepcopy(DEMO)


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def test_jobs_run_in_order_and_a_second_run_skips_them(stages, tmp_path, capsys):
    outcomes = pipeline.run(DEMO)
    assert [o.name for o in outcomes] == ALL
    assert statuses(outcomes) == ["done"] * 4
    assert (stages.posttrain.calls, stages.evaluate.calls) == (ALL[:3], ["evaluate"])
    assert (tmp_path / "runs/demo/plain-seed=1/manifest.json").exists()
    assert "[4/4] evaluate: done in" in capsys.readouterr().out
    assert statuses(pipeline.run(DEMO)) == ["skipped"] * 4
    assert len(stages.posttrain.calls) == 3
    assert "[1/4] plain-seed=0: complete, skipped" in capsys.readouterr().out


def test_a_failure_stops_the_pipeline_and_the_next_run_resumes_there(stages, capsys):
    stages.posttrain.behaviour["raise"] = {"mara": RuntimeError("no memory")}
    with pytest.raises(RuntimeError, match="no memory"):
        pipeline.run(DEMO)
    assert "[3/4] mara: failed after" in capsys.readouterr().out
    assert stages.evaluate.calls == []
    stages.posttrain.behaviour.clear()
    assert statuses(pipeline.run(DEMO)) == ["skipped", "skipped", "done", "done"]
    assert "mara: posttrain resumes in" in capsys.readouterr().out
    assert Manifest.load("runs/demo/mara").was_resumed


def test_ctrl_c_says_what_is_saved(stages, capsys):
    fake = FakeStage("posttrain", "", "", Training, outputs=("checkpoints/last.ckpt",))
    STAGES["posttrain"] = fake
    fake.behaviour["raise"] = {"mara": KeyboardInterrupt()}
    for message in (
        "no checkpoint had been written yet; the same command starts again.",
        "runs/demo/mara keeps everything up to the last checkpoint; the same command continues "
        "from there.",
    ):
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(DEMO, only="mara")
        out, err = capsys.readouterr()
        assert "mara: interrupted after" in out
        assert err == f"interrupted: {message}\n"
        Path("runs/demo/mara/checkpoints").mkdir(exist_ok=True)
        Path("runs/demo/mara/checkpoints/last.ckpt").touch()


def test_ctrl_c_is_recognised_behind_the_exit_of_the_trainer(stages):
    # lightning.pytorch.trainer.call: except KeyboardInterrupt: ...; sys.exit(1)
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)
    except SystemExit as end:
        stages.posttrain.behaviour["raise"] = {"mara": end}
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(DEMO)
    stages.posttrain.behaviour["raise"] = {"mara": SystemExit(3)}
    with pytest.raises(SystemExit, match="3"):
        pipeline.run(DEMO)


def test_a_job_that_stops_early_ends_the_run_and_is_resumed(stages, capsys):
    stages.posttrain.behaviour["stop"] = {"plain-seed=1"}
    assert statuses(pipeline.run(DEMO)) == ["done", "stopped"]
    assert "plain-seed=1: stopped after" in capsys.readouterr().out
    stages.posttrain.behaviour.clear()
    assert statuses(pipeline.run(DEMO)) == ["skipped", "done", "done", "done"]


def test_everything_is_checked_before_anything_runs(stages, tmp_path):
    stages.posttrain.behaviour["problem"] = "prior.bin: not a model file"
    broken = {
        "name": "demo",
        "stages": [
            {"stage": "posttrain", "set": {"sed": 1}},
            {"stage": "posttrain", "name": "b", "grid": {"seed": [0, 1]}},
            {"stage": "evaluate", "config": {"runs": ["${b}", "nowhere"], "treshold": 1}},
        ],
    }
    with pytest.raises(InputError) as caught:
        pipeline.run(broken)
    assert str(caught.value).splitlines() == [
        "pipeline: sed: not a known key; did you mean 'seed'? Known: fail, seed",
        "b: prior.bin: not a model file",  # once, though two jobs have it
        f"pipeline: stages.2.config.runs.2: no such file or folder: {tmp_path / 'nowhere'}",
        "pipeline: stages.2.config.treshold: not a known key; did you mean 'threshold'? "
        "Known: runs, threshold",
    ]
    assert not (tmp_path / "runs").exists()


def test_checks_know_the_pending_paths(stages, demo, tmp_path):
    (tmp_path / "other").mkdir()
    demo["stages"][2]["config"]["runs"].append("other")
    ours = [tmp_path / "runs" / "demo" / name for name in ALL[:3]]
    for _ in range(2):  # also when the folders exist: they may be made anew
        pipeline.run(demo, dry_run=True)
        assert [pending for _, pending in stages.posttrain.checked] == [[], [], []]
        ((config, pending),) = stages.evaluate.checked
        assert pending == ours
        assert config.runs == [*ours, tmp_path / "other"]
        pipeline.run(demo)
        stages.posttrain.checked.clear()
        stages.evaluate.checked.clear()


def test_a_file_that_an_earlier_job_will_not_write_is_found_before_it_runs(stages, tmp_path):
    outputs = ("made_by", "checkpoints/policy.safetensors")
    fake = FakeStage("posttrain", "", "", Training, outputs=outputs)
    STAGES["posttrain"] = fake
    (tmp_path / "p.yaml").write_text(
        "name: demo\n"
        "stages:\n"
        "  - {stage: posttrain, name: plain}\n"
        "  - stage: evaluate\n"
        "    config:\n"
        "      treshold: 1\n"
        "      runs:\n"
        "        - ${plain}\n"
        "        - ${plain}/checkpoints\n"
        "        - ${plain}/made_by\n"
        "        - ${plain}/checkpoints/polcy.safetensors\n"
    )
    with pytest.raises(InputError) as caught:
        pipeline.run("p.yaml")
    plain = tmp_path / "runs/demo/plain"
    assert str(caught.value).splitlines() == [
        "p.yaml:6: stages.1.config.treshold: not a known key; did you mean 'threshold'? "
        "Known: runs, threshold",
        "p.yaml:11: stages.1.config.runs.3: no such file or folder: "
        f"{plain}/checkpoints/polcy.safetensors; the job that writes to {plain} does not write "
        "'checkpoints/polcy.safetensors'; did you mean 'checkpoints/policy.safetensors'? "
        "Known: checkpoints/policy.safetensors, made_by",
    ]
    assert fake.calls == []


def test_a_dry_run_lists_the_jobs_and_makes_nothing(stages, tmp_path, capsys):
    assert statuses(pipeline.run(DEMO, dry_run=True)) == ["planned"] * 4
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if "posttrain" in line or "evaluate" in line]
    assert [[cell.strip() for cell in row.split("│")[1:4]] for row in rows[:3]] == [
        ["0", "plain-seed=0", "posttrain"],
        ["1", "plain-seed=1", "posttrain"],
        ["2", "mara", "posttrain"],
    ]
    assert not (tmp_path / "runs").exists()
    assert stages.posttrain.calls == []
    # the state of each job
    pipeline.run(DEMO)
    capsys.readouterr()
    pipeline.run(DEMO, dry_run=True)
    assert capsys.readouterr().out.count("complete") == 4
    pipeline.run(DEMO, dry_run=True, fresh=True)
    assert capsys.readouterr().out.count("new") == 4
    stages.posttrain.behaviour["stop"] = {"mara"}
    pipeline.run(DEMO, only="mara", fresh=True)
    capsys.readouterr()
    pipeline.run(DEMO, dry_run=True)
    table = capsys.readouterr().out
    assert [table.count(word) for word in ("complete", "resume", "again")] == [2, 1, 1]


def test_only_takes_an_entry_a_job_or_a_stage_and_index_one_of_them(stages):
    for index in (1, 0):
        pipeline.run(DEMO, only="plain", index=index)
    assert stages.posttrain.calls == ["plain-seed=1", "plain-seed=0"]
    pipeline.run(DEMO)
    for only, names in {
        "plain": ALL[:2],
        "plain-seed=1": ALL[1:2],
        "mara": ["mara"],
        "posttrain": ALL[:3],
        "evaluate": ["evaluate"],
    }.items():
        assert [outcome.name for outcome in pipeline.run(DEMO, only=only)] == names


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"only": "mra"}, "mra: the pipeline has no such entry, job or stage; did you mean 'mara'"),
        ({"only": "plain", "index": 2}, "--index 2: there are 2 jobs of plain, 0 to 1"),
        ({"index": -1}, "--index -1: there are 4 jobs, 0 to 3"),
        (
            {"only": "evaluate"},
            r"evaluate: reads .*plain-seed=0, which is not complete; first run it: --",
        ),
    ],
)
def test_choices_that_cannot_be_run(stages, settings, problem):
    with pytest.raises(InputError, match=problem):
        pipeline.run(DEMO, **settings)
    assert stages.posttrain.calls == stages.evaluate.calls == []


def test_a_folder_with_another_config_is_left_alone(stages, demo, tmp_path):
    pipeline.run(DEMO)
    before = (tmp_path / "runs/demo/mara/manifest.json").read_bytes()
    demo["stages"][1]["set"] = {"seed": 7}
    demo["stages"][2]["set"] = {"threshold": 0.9}
    with pytest.raises(InputError, match=r"seed: 0 in the folder, 7 in the new config") as caught:
        pipeline.run(demo)
    assert "threshold: 0.8 in the folder, 0.9 in the new config" in str(caught.value)
    assert "--fresh" in str(caught.value)
    assert (tmp_path / "runs/demo/mara/manifest.json").read_bytes() == before
    assert statuses(pipeline.run(demo, "elsewhere")) == ["done"] * 4


def test_fresh_moves_aside_what_was_there_and_deletes_nothing(stages, tmp_path, capsys):
    pipeline.run(DEMO)
    first = (tmp_path / "runs/demo/mara/made_by").read_text()
    assert statuses(pipeline.run(DEMO, only="mara", fresh=True)) == ["done"]
    mara = tmp_path / "runs/demo/mara"
    assert capsys.readouterr().err == f"moved {mara} aside, to {mara}.old-1\n"
    second = (tmp_path / "runs/demo/mara/made_by").read_text()
    assert (tmp_path / "runs/demo/mara.old-1/made_by").read_text() == first != second
    pipeline.run(DEMO, only="mara", fresh=True)
    assert (tmp_path / "runs/demo/mara.old-2/made_by").read_text() == second


def test_fresh_moves_nothing_where_one_job_cannot_be_moved(stages, demo, tmp_path):
    pipeline.run(DEMO)
    with (
        held(tmp_path / "runs/demo/mara"),
        pytest.raises(InputError, match="mara: another process is running in this folder"),
    ):
        pipeline.run(DEMO, fresh=True)
    (tmp_path / "runs/demo/evaluate/manifest.json").unlink()
    demo["stages"][2]["config"]["runs"].append(str(tmp_path / "runs"))
    with pytest.raises(InputError) as caught:
        pipeline.run(demo, fresh=True)
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/runs/demo/evaluate: lies in an input of this config, {tmp_path}/runs; choose "
        "another --out"
    ]
    with pytest.raises(InputError, match=r"evaluate: not the output of chemkl: it holds .*made_by"):
        pipeline.run(DEMO, fresh=True)
    assert sorted(p.name for p in (tmp_path / "runs/demo").iterdir()) == sorted(ALL)


def test_a_job_that_failed_before_its_first_result_is_replaced(stages, demo, capsys):
    folder = Path("runs/demo/mara")

    def fail_early(config, start):
        with start.claim():
            raise InputError("mend it")

    code = SimpleNamespace(work=fail_early)
    broken = type("Broken", (FakeStage,), {"module": code})("posttrain", "", "", Training)
    whole = STAGES["posttrain"]
    STAGES["posttrain"] = broken
    with pytest.raises(InputError, match="mend it"):
        pipeline.run(DEMO, only="mara")
    STAGES["posttrain"] = whole
    demo["stages"][1]["set"] = {"seed": 7}
    capsys.readouterr()
    pipeline.run(demo, only="mara", dry_run=True)
    assert "new" in capsys.readouterr().out
    assert statuses(pipeline.run(demo, only="mara")) == ["done"]
    out, err = capsys.readouterr()
    assert "mara: posttrain starts in runs/demo/mara\n" in out
    assert "the earlier attempt (failed) left no results" in err
    assert Manifest.load(folder).config["seed"] == 7
    assert [p.name for p in folder.parent.iterdir()] == ["mara"]


def test_a_job_with_an_older_input_runs_again(stages, demo, tmp_path, monkeypatch):
    times = iter(f"2030-01-01T00:{n // 60:02d}:{n % 60:02d}+00:00" for n in range(600))
    monkeypatch.setattr("chemkl.results.manifest._now", lambda: next(times))
    pipeline.run(DEMO)
    pipeline.run(DEMO, only="mara", fresh=True)
    assert statuses(pipeline.run(DEMO)) == ["skipped", "skipped", "skipped", "done"]
    assert (tmp_path / "runs/demo/evaluate.old-1/made_by").exists()
    assert statuses(pipeline.run(DEMO)) == ["skipped"] * 4
    demo["stages"][0]["grid"]["seed"].append(2)  # a new seed
    assert statuses(pipeline.run(demo)) == ["skipped", "skipped", "done", "skipped", "done"]
    assert (tmp_path / "runs/demo/evaluate.old-2/made_by").exists()
    demo["stages"][2]["config"] |= {"runs": ["${plain}"], "threshold": 0.7}
    with pytest.raises(InputError, match=r"threshold: 0.8 in the folder, 0.7 in the new config"):
        pipeline.run(demo)


def test_a_folder_named_in_any_setting_is_read(stages, demo):
    demo["stages"][2]["grid"] = {"threshold": [0.1, 0.2]}
    demo["stages"].insert(1, {"stage": "evaluate", "name": "one", "config": {"runs": []}})
    demo["stages"][1]["grid"] = {"runs": [["${plain-seed=0}"], ["${plain-seed=1}/deep"]]}
    planned = pipeline.plan_pipeline(demo)[1]
    needs = {plan.job.name: [need.name for need in plan.needs] for plan in planned}
    assert needs == {name: [] for name in ALL[:3]} | {
        "one-runs=value0": [ALL[0]],
        "one-runs=value1": [ALL[1]],
        "evaluate-threshold=0.1": ALL[:3],
        "evaluate-threshold=0.2": ALL[:3],
    }


def test_input_that_a_finished_job_did_not_write_is_an_input_error(stages, demo):
    demo["stages"][0].pop("grid")
    demo["stages"][1:] = [{"stage": "evaluate", "config": {"runs": ["${plain}/checkpoints"]}}]
    with pytest.raises(InputError, match=r"config\.runs\.0: no such file .*plain/checkpoints"):
        pipeline.run(demo)
    assert stages.posttrain.calls == ["plain"]


def test_the_registry_knows_every_stage_that_a_pipeline_may_name():
    assert set(STAGES) == set(get_args(StageName))


REAL = """\
name: demo
stages:
  - stage: prepare
    config:
      source: {kind: file, path: molecules.smi}
      split: {kind: random, test: 0.3, valid: 0}
      n_workers: 1
  - stage: pretrain
    config:
      corpus: ${prepare}
      valid_split: test
      model: {embedding_size: 8, hidden_size: 16, n_layers: 1, dropout: 0}
      epochs: 1
      samples_per_epoch: 10
  - stage: posttrain
    name: plain
    config:
      prior: ${pretrain}/checkpoints/policy.safetensors
      reward: {components: [{kind: qed}]}
      target: {kind: gibbs, sigma: 16}
      batch_size: 8
      budget: 20
      max_samples: 32
    grid: {seed: [0, 1]}
  - stage: sample
    config: {policy: "${plain-seed=0}/checkpoints/policy.safetensors", n: 10}
  - stage: evaluate
    config: {runs: ["${plain}"]}
  - stage: report
    config: {runs: ["${plain}"]}
"""


def test_the_real_stages_go_from_molecules_to_a_report_and_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "molecules.smi").write_text(
        "CCO\nCCN\nCCC\nc1ccccc1\nCC(=O)O\nCCOC\nOc1ccccc1\nCCNC\nCC(C)C\nNCCO\nc1ccncc1\nCCCl\n"
    )
    (tmp_path / "demo.yaml").write_text(REAL)
    assert statuses(pipeline.run("demo.yaml")) == ["done"] * 7
    assert statuses(pipeline.run("demo.yaml")) == ["skipped"] * 7
    out = tmp_path / "runs" / "demo"
    for file in (
        "prepare/corpus.parquet",
        "pretrain/checkpoints/policy.safetensors",
        "plain-seed=1/checkpoints/policy.safetensors",
        "sample/samples.parquet",
        "evaluate/diversity.parquet",
        "report/report.html",
    ):
        assert (out / file).stat().st_size > 0
    assert len(read_trace(out / "plain-seed=0")) == 32
    for folder, stage in [(p, p.name.partition("-")[0]) for p in out.iterdir()]:
        patterns = STAGES["posttrain" if stage == "plain" else stage].outputs
        files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        files.remove(".lock")
        assert [f for f in files if not any(fnmatch(f, pattern) for pattern in patterns)] == []
        assert [
            pattern for pattern in patterns if not any(fnmatch(f, pattern) for f in files)
        ] == []
    # raised limits continue the runs and repeat what reads them
    Path("demo.yaml").write_text(REAL.replace("max_samples: 32", "max_samples: 40"))
    assert statuses(pipeline.run("demo.yaml")) == ["skipped"] * 2 + ["done"] * 5
    assert statuses(pipeline.run("demo.yaml")) == ["skipped"] * 7
    assert len(read_trace(out / "plain-seed=0")) == 40
    assert len(Manifest.load(out / "plain-seed=0").extended) == 1
    old = sorted(folder.name for folder in out.glob("*.old-1"))
    assert old == ["evaluate.old-1", "report.old-1", "sample.old-1"]
    Path("demo.yaml").write_text(REAL)
    with pytest.raises(InputError, match=r"has spent 40 samples, more than max_samples allows"):
        pipeline.run("demo.yaml")
    runs = [str(out / f"plain-seed={seed}") for seed in (0, 1)]
    with pytest.raises(InputError, match="has changed since"):
        STAGES["evaluate"].run({"runs": runs}, out / "evaluate.old-1")
