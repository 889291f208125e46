"""Jobs of a pipeline: names, folders, grids, references to earlier output."""

import re

import pytest

from chemkl.config import Config, InputError, InputPath, load_config
from chemkl.config.pipeline import PipelineConfig, expand


class Run(Config):
    seed: int = 0
    beta: float = 0.1
    reward: dict[str, list[dict[str, float]]] = {}  # noqa: RUF012 - pydantic copies defaults
    prior: InputPath | None = None


class Evaluation(Config):
    runs: list[InputPath]


def load_pipeline(source, out=None):
    expansion = expand(source, out)
    InputError.refuse(expansion.problems)
    return expansion.config, expansion.jobs


def pipeline(*stages, name="demo"):
    return {"name": name, "stages": list(stages)}


def jobs_of(*stages, out="out"):
    return load_pipeline(pipeline(*stages), out)[1]


def load(job, model, promised=()):
    return load_config(model, job.source, job.overrides, also=job.also, promised=promised)


def problem_of(*stages):
    with pytest.raises(InputError) as caught:
        load_pipeline(pipeline(*stages), "out")
    return str(caught.value)


@pytest.fixture(autouse=True)
def _working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_an_entry_without_a_grid_is_one_job_in_the_folder_of_its_name_or_stage(tmp_path):
    (job,) = jobs_of({"stage": "posttrain", "name": "plain", "config": {"seed": 3}})
    assert (job.name, job.entry, job.stage) == ("plain", "plain", "posttrain")
    assert job.folder == tmp_path / "out" / "plain"
    assert load(job, Run) == Run(seed=3)
    config, (job,) = load_pipeline(pipeline({"stage": "report"}))
    assert isinstance(config, PipelineConfig)
    assert job.folder == tmp_path / "runs" / "demo" / "report"


def test_a_config_file_is_relative_to_the_pipeline_and_set_changes_it(tmp_path):
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "prior.bin").touch()
    (tmp_path / "pipelines" / "mine.bin").touch()
    (tmp_path / "configs" / "run.yaml").write_text("seed: 1\nprior: ../prior.bin\n")
    path = tmp_path / "pipelines" / "p.yaml"
    path.write_text(
        "name: demo\nstages:\n"
        "  - stage: posttrain\n    config: ../configs/run.yaml\n    set: {beta: 1e-3}\n"
        "  - stage: sample\n    config: configs/run.yaml\n    set: {prior: mine.bin}\n"
    )
    first, second = load_pipeline(path)[1]
    assert load(first, Run) == Run(seed=1, beta=1e-3, prior=tmp_path / "prior.bin")
    # a path in the pipeline file is relative to that file
    assert load(second, Run).prior == tmp_path / "pipelines" / "mine.bin"


def test_a_grid_has_every_combination_in_order_with_readable_names():
    grid = {"seed": [0, 1], "reward.parts.0.weight": [0.5, 1e-3]}
    entry = {
        "stage": "posttrain",
        "name": "plain",
        "config": {"reward": {"parts": [{"weight": 1}]}},
    }
    jobs = jobs_of(entry | {"grid": grid})
    points = [(0, 0.5), (0, 0.001), (1, 0.5), (1, 0.001)]
    assert [job.name for job in jobs] == [f"plain-seed={s}-weight={w}" for s, w in points]
    configs = [load(job, Run) for job in jobs]
    assert [(config.seed, config.reward["parts"][0]["weight"]) for config in configs] == points


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([True, None], ["k=true", "k=null"]),
        (["C1=CC(=O)C1", "a b"], ["k=C1=CC_=O_C1", "k=a_b"]),
        (["data/a.yaml", "data/b.yaml"], ["k=a.yaml", "k=b.yaml"]),
        (["x/a.yaml", "y/a.yaml"], ["k=value0", "k=value1"]),
        ([[1, 2], {"a": 1}], ["k=value0", "k=value1"]),
        (["x" * 200, ""], ["k=value0", "k=value1"]),
        ([-1, 1e-05], ["k=-1", "k=1e-05"]),
        # keys with the same last part
        ({"a.beta": [1], "b.beta": [2]}, ["a.beta=1-b.beta=2"]),
    ],
)
def test_names_of_jobs_are_safe_in_a_shell(values, names):
    grid = values if isinstance(values, dict) else {"k": values}
    jobs = jobs_of({"stage": "sample", "name": "s", "grid": grid})
    assert [job.name for job in jobs] == [f"s-{name}" for name in names]
    assert all(re.fullmatch(r"[A-Za-z0-9._=+-]+", job.name) for job in jobs)


def test_references_stand_for_folders_of_earlier_jobs(tmp_path):
    out = tmp_path / "out"
    *_, one, several, single, file = jobs_of(
        {"stage": "posttrain", "name": "plain"},
        {"stage": "posttrain", "name": "mara", "grid": {"seed": [0, 1]}},
        {"stage": "evaluate", "name": "one", "config": {"runs": ["${plain}"]}},
        {"stage": "evaluate", "name": "all", "config": {"runs": ["${plain}", "${mara}"]}},
        {"stage": "evaluate", "name": "single", "set": {"runs": "${mara}"}},
        {"stage": "sample", "name": "within", "set": {"prior": "${mara-seed=1}/policy.bin"}},
    )
    promised, seeds = [out], [out / "mara-seed=0", out / "mara-seed=1"]
    assert load(one, Evaluation, promised).runs == [out / "plain"]
    assert load(several, Evaluation, promised).runs == [out / "plain", *seeds]
    assert load(single, Evaluation, promised).runs == seeds
    assert load(file, Run, promised).prior == seeds[1] / "policy.bin"
    with pytest.raises(InputError, match="prior: no such file or folder"):
        load(file, Run)  # nothing is promised


def test_a_grid_over_an_entry_with_a_grid_has_a_job_for_each_of_its_jobs(tmp_path):
    jobs = jobs_of(
        {"stage": "posttrain", "name": "mara", "grid": {"seed": [0, 1]}},
        {"stage": "sample", "name": "s", "grid": {"prior": ["${mara}"]}},
    )
    assert [job.name for job in jobs[2:]] == ["s-prior=mara-seed=0", "s-prior=mara-seed=1"]
    assert load(jobs[3], Run, [tmp_path]).prior == tmp_path / "out" / "mara-seed=1"


def test_invalid_references_name_place_and_choices(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "name: demo\n"
        "stages:\n"
        "  - {stage: posttrain, name: plain}\n"
        "  - stage: evaluate\n"
        "    config:\n"
        "      runs:\n"
        "        - ${plane}\n"
        "        - ${report}\n"
        "        - ${evaluate}\n"
        "  - {stage: report}\n"
    )
    with pytest.raises(InputError) as caught:
        load_pipeline(path)
    assert str(caught.value).splitlines() == [
        f"{path}:7: stages.1.config.runs.0: ${{plane}} is not an entry; did you mean 'plain'? "
        "Known: plain.",
        f"{path}:8: stages.1.config.runs.1: ${{report}} refers to this entry or a later one; "
        "only earlier ones can be read.",
        f"{path}:9: stages.1.config.runs.2: ${{evaluate}} refers to this entry or a later one; "
        "only earlier ones can be read.",
    ]


def test_references_to_an_entry_with_an_unreadable_config_are_no_problem(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    text = problem_of(
        {"stage": "posttrain", "name": "plain", "config": "bad.yaml", "grid": {"seed": [0, 1]}},
        {"stage": "evaluate", "config": {"runs": ["${plain}", "${plain-seed=1}/x"]}},
    )
    assert len(text.splitlines()) == 1
    assert text.startswith("bad.yaml:1: not valid YAML")


MANY = {f"key{n}": list(range(100)) for n in range(20)}
SAMPLE = {"stage": "sample", "name": "s"}


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ([{"stage": "posttrain"}] * 2,
         "stages.1.name: the name 'posttrain' is taken by an earlier entry"),
        ([SAMPLE | {"grid": {"seed": [0]}}, SAMPLE | {"name": "s-seed=0"}],
         "stages.1.name: the name 's-seed=0' is taken"),
        ([SAMPLE | {"grid": {"seed": [0, 0]}}], "stages.0.grid: a value is repeated"),
        ([{"stage": "postrain"}],
         "stages.0.stage: 'postrain' is not allowed; did you mean 'posttrain'"),
        ([SAMPLE | {"name": "a/b"}], "only, the first one a letter or a digit) (got 'a/b')"),
        ([SAMPLE | {"grid": {"seed": []}}],
         "stages.0.grid.seed: should have at least 1 entry (got [])"),
        ([SAMPLE | {"grid": {"seed": 1}}], "stages.0.grid.seed: should be a list"),
        ([SAMPLE | {"config": "no.yaml"}], "stages.0.config: no such file or folder"),
        ([SAMPLE | {"set": {"a..b": 1}}], "pipeline: 'a..b' is not a key"),
        ([SAMPLE | {"sett": {}}], "stages.0.sett: not a known key; did you mean 'set'"),
        ([{"name": "a"}], "stages.0.stage: required, and not given (The stage to run"),
        ([], "stages: should have at least 1 entry (got [])"),
        # too many combinations are not expanded
        ([SAMPLE | {"grid": MANY}], f"stages.0.grid: {100**20:,} combinations; at most 1,000."),
        ([SAMPLE | {"grid": {"seed": list(range(100))}},
          {"stage": "score", "config": {"file": "${s}" * 9}}],
         f"stages.1.config.file: stands for {100**9:,} folders; at most 1,000."),
    ],
)  # fmt: skip
def test_invalid_entries(stages, problem):
    assert problem in problem_of(*stages)


def test_a_config_of_a_stage_is_refused_in_one_line():
    with pytest.raises(
        InputError, match=r"not a pipeline, .*: it has prior, budget, seed"
    ) as caught:
        load_pipeline({"prior": "moses", "budget": 3, "seed": 1, "stages": [{}]})
    assert len(str(caught.value).splitlines()) == 1


def test_problems_of_a_job_have_their_lines_in_the_pipeline_file(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "name: demo\n"
        "stages:\n"
        "  - stage: posttrain\n"
        "    config:\n"
        "      sed: 1\n"
        "    set:\n"
        "      bta: 2\n"
        "    grid:\n"
        "      seed: [0, x]\n"
    )
    first, second = load_pipeline(path)[1]
    with pytest.raises(InputError) as caught:
        load(second, Run)
    assert [
        line.split(" not")[0].split(" should")[0] for line in str(caught.value).splitlines()
    ] == [f"{path}:5: stages.0.config.sed:", f"{path}:7: bta:", f"{path}:9: seed:"]
    with pytest.raises(InputError) as caught:
        load(first, Run)
    assert "seed: should" not in str(caught.value)


def test_a_config_object_gives_the_same_jobs(tmp_path):
    data = pipeline({"stage": "posttrain", "grid": {"seed": [0, 1]}})
    by_mapping, by_object = load_pipeline(data)[1], load_pipeline(PipelineConfig(**data))[1]
    assert [job.name for job in by_mapping] == [job.name for job in by_object]
    assert [load(job, Run) for job in by_mapping] == [load(job, Run) for job in by_object]
