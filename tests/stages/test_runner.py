"""Complete output is skipped, damaged output is made again, and --fresh moves only output aside."""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from pydantic import Field
from small_runs import CONFIG, QED, TINY, held

from chemkl.config import Config, InputError, InputPath
from chemkl.results import InputFile, Manifest
from chemkl.stages.registry import LAST, STAGES, Stage
from chemkl.stages.runner import check_movable, move_aside

MOLECULES = (
    "CCO\nCCN\nCCC\nc1ccccc1\nCC(=O)O\nCCOC\nOc1ccccc1\nCCNC\nCC(C)C\nNCCO\nc1ccncc1\nCCCl\n"
)
STEPS = [[("c1ccccc1", 0.9), ("CCO", 0.2), ("C1CCCCC1", 0.9)]]
TEXTS = [[("Q", "one", "1", 1.0), ("Q", "two", "2", 0.0)]]

CHANGED = {
    "prepare": {"split": {"kind": "random", "test": 0.4, "valid": 0}},
    "pretrain": {"learning_rate": 0.1},
    "forecast": {"seed": 1},
    "posttrain": {"seed": 1},
    "sample": {"seed": 1},
    "score": {"batch_size": 3},
    "evaluate": {"thresholds": [0.7]},
    "evaluate_text": {"measures": ["answers"]},
    "compare": {"seed": 1},
    "report": {"title": "another"},
    "didactic": {"seed": 1},
}
"""A change of each stage's settings."""


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_prior, write_run, write_text_run):
    """A folder with the inputs of the stages."""
    place = tmp_path_factory.mktemp("inputs")
    (place / "molecules.smi").write_text(MOLECULES)
    shutil.copy(tiny_prior, place / "prior.safetensors")
    for name, n in {"few": 2, "many": 3}.items():
        for seed in (0, 1):
            config = {"reward": QED, "budget": 3, "target": {"kind": name}, "seed": seed}
            run = write_run(place / f"{name}-{seed}", [STEPS[0][:n]], config)
            manifest = Manifest.load(run)
            manifest.seed, manifest.inputs = (
                seed,
                {"prior": InputFile.of(place / "prior.safetensors")},
            )
            manifest.save()
    write_text_run(place / "text", TEXTS)
    return place


@pytest.fixture(scope="module")
def config_of(place):
    """The settings of a stage; most are made in a moment."""
    prior, file = str(place / "prior.safetensors"), str(place / "molecules.smi")
    split = {"kind": "random", "test": 0.3, "valid": 0}
    prepared = {"source": {"kind": "file", "path": file}, "split": split, "n_workers": 1}
    if not (place / "corpus").exists():
        STAGES["prepare"].run(prepared, place / "corpus")
    posttrain = CONFIG | {"prior": prior, "batch_size": 8, "budget": 12}
    two = {"few": f"{place}/few-*", "many": f"{place}/many-*"}
    settings = {"corpus": str(place / "corpus"), "valid_split": "test", "batch_size": 128}
    configs = {
        "prepare": prepared,
        "pretrain": TINY | settings | {"epochs": 1, "samples_per_epoch": 0},
        "forecast": posttrain | {"n": 20, "sample_batch": 10},
        "posttrain": posttrain,
        "sample": {"policy": prior, "n": 6},
        "score": {"file": file, "reward": QED},
        "evaluate": {"runs": [f"{place}/few-*"]},
        "evaluate_text": {"runs": [str(place / "text")], "measures": ["ngrams", "answers"]},
        "compare": {"methods": two, "baseline": "few", "metrics": ["yield"], "n_resamples": 100},
        "report": {"runs": [f"{place}/few-*"], "n_map": 0},
        "didactic": {"figures": [1], "learning": {"steps": 1}},
    }
    return configs.__getitem__


@pytest.fixture(scope="module")
def output_of(config_of, tmp_path_factory):
    """Run a stage once for all tests; return its folder and the returned value."""
    runs = {}

    def make(stage):
        if stage not in runs:
            folder = tmp_path_factory.mktemp(stage) / "out"
            runs[stage] = folder, STAGES[stage].run(config_of(stage), folder)
        return runs[stage]

    return make


@pytest.fixture
def copy_of(output_of, tmp_path):
    """Copy the output of a stage."""
    return lambda stage: shutil.copytree(output_of(stage)[0], tmp_path / "copy")


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def state(folder):
    """Content and time of each file."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder): (p.read_bytes(), os.stat(p).st_mtime_ns) for p in files}


@pytest.mark.parametrize("stage", CHANGED)
def test_a_finished_folder_is_skipped_with_a_line(stage, config_of, output_of, place, capsys):
    folder, returned = output_of(stage)
    before, inputs = state(folder), state(place)
    capsys.readouterr()
    again = STAGES[stage].run(config_of(stage), folder)
    output = capsys.readouterr()
    assert output.err == f"{folder}: complete, skipped; --fresh repeats it\n"
    assert output.out == ""
    assert state(folder) == before
    assert state(place) == inputs
    if isinstance(returned, pd.DataFrame):
        pd.testing.assert_frame_equal(again, returned)
    else:
        assert again == returned


@pytest.mark.parametrize("stage", CHANGED)
def test_another_config_is_refused(stage, config_of, output_of):
    folder, _ = output_of(stage)
    before = state(folder)
    (key,) = CHANGED[stage]
    with pytest.raises(InputError, match=rf"(?s)a different config:\n.*{key}"):
        STAGES[stage].run(config_of(stage) | CHANGED[stage], folder)
    assert state(folder) == before


@pytest.mark.parametrize("stage", [name for name in CHANGED if name != "pretrain"])
def test_an_output_that_is_gone_is_made_again(stage, config_of, copy_of, capsys):
    copy = copy_of(stage)
    gone = next(name for name in Manifest.load(copy).outputs if name != LAST)
    (copy / gone).unlink()
    STAGES[stage].run(config_of(stage), copy)
    line = f"{copy}: complete, but {gone} is missing; it is made again\n"
    assert line in capsys.readouterr().err
    assert (copy / gone).stat().st_size > 0


@pytest.mark.parametrize(
    ("stage", "name"),
    [("posttrain", "checkpoints/policy.safetensors"), ("sample", "samples.parquet")],
)
@pytest.mark.parametrize("damage", ["bit", "empty"])
def test_a_damaged_output_is_made_again(stage, name, damage, config_of, copy_of, capsys):
    copy = copy_of(stage)
    before = (copy / name).stat().st_mtime_ns
    if damage == "bit":
        flip_a_bit(copy / name)
        os.utime(copy / name, ns=(before, before))
    else:
        (copy / name).write_bytes(b"")
    assert Manifest.load(copy).lost_outputs() == {name: "damaged"}
    STAGES[stage].run(config_of(stage), copy)
    line = f"{copy}: complete, but {name} is damaged; it is made again\n"
    assert line in capsys.readouterr().err
    assert Manifest.load(copy).status == "complete"
    assert Manifest.load(copy).lost_outputs() == {}


def test_no_part_of_a_trace_may_be_damaged_but_the_last_checkpoint_gone(config_of, copy_of, capsys):
    config, copy = config_of("posttrain"), copy_of("posttrain")
    (part,) = (copy / "trace").iterdir()
    flip_a_bit(part)
    before = state(copy)
    with pytest.raises(InputError, match=rf"{part.name}: damaged.* Restore it from a copy"):
        STAGES["posttrain"].run(config, copy)
    assert state(copy) == before
    flip_a_bit(part)
    (copy / LAST).unlink()
    capsys.readouterr()
    STAGES["posttrain"].run(config, copy)
    assert capsys.readouterr().err == f"{copy}: complete, skipped; --fresh repeats it\n"


def test_pretraining_cannot_be_made_longer(config_of, output_of):
    folder, _ = output_of("pretrain")
    with pytest.raises(InputError, match=r"epochs: 1 in the folder, 2 in .*learning rate falls"):
        STAGES["pretrain"].run(config_of("pretrain") | {"epochs": 2}, folder)


def test_outputs_in_the_folders_of_runs_count_too(config_of, output_of, place, capsys):
    folder, _ = output_of("evaluate")
    gone = place / "few-0" / "evaluation" / "metrics.json"
    before = gone.read_bytes()
    gone.unlink()
    STAGES["evaluate"].run(config_of("evaluate"), folder)
    assert f"but {gone} is missing; it is made again" in capsys.readouterr().err
    assert gone.read_bytes() == before


@pytest.mark.parametrize(
    ("stage", "file", "role"),
    [
        ("prepare", "molecules.smi", "source"),
        ("sample", "prior.safetensors", "policy"),
        ("score", "molecules.smi", "file"),
        ("evaluate", "few-0/trace/part-00000000-00000000.parquet", "trace"),
        ("report", "few-0/trace/part-00000000-00000000.parquet", "trace"),
    ],
)
def test_a_changed_input_is_refused(stage, file, role, config_of, output_of, place):
    folder, _ = output_of(stage)
    before, content = state(folder), (place / file).read_bytes()
    replacement = place / "other.smi"
    replacement.write_bytes(content + b"CCBr\n")
    try:
        os.replace(replacement, place / file)
        with pytest.raises(InputError, match=r"has changed since .*out was started"):
            STAGES[stage].run(config_of(stage), folder)
    finally:
        (place / file).write_bytes(content)
    assert state(folder) == before


OWN = """
from chemkl.config import Config

class Settings(Config):
    text: str
    times: int = 2

def problems(view):
    yield "text", ["text: say something"] if view.get("text") == "" else []

def work(config, start):
    with start.claim() as manifest:
        (start.out / "said.txt").write_text(config.text * config.times)
        manifest.finish(results={"letters": len(config.text) * config.times})
    start.console.print("said", config.text)

def read(path):
    return path.read_text()
"""


def test_a_new_stage_is_a_file_and_a_row(tmp_path, monkeypatch, capsys):
    (tmp_path / "say.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    row = {"outputs": ("said.txt", "manifest.json"), "result": "said.txt", "code": "say"}
    say, out = Stage("say", "say:Settings", "Say something.", **row), tmp_path / "out"
    assert say.run({"text": "na"}, out) == "nana"
    assert capsys.readouterr().out == "said na\n"
    assert Manifest.load(out).results == {"letters": 4}
    assert say.run({"text": "na"}, out) == "nana"
    assert capsys.readouterr() == ("", f"{out}: complete, skipped; --fresh repeats it\n")
    (out / "said.txt").unlink()
    assert say.run({"text": "na"}, out) == "nana"
    with pytest.raises(InputError, match="times: 2 in the folder, 3 in the new config"):
        say.run({"text": "na", "times": 3}, out)
    with pytest.raises(InputError, match=r"^text: say something$"):
        say.run({"text": ""}, tmp_path / "other")
    with pytest.raises(InputError, match=r"(?s)times: .*\n.*text: say something"):
        say.run({"text": "", "times": "x"}, tmp_path / "other")


# ---- --fresh

RUNS = "another process is running in this folder"


class Settings(Config):
    model: InputPath | str | None = None
    runs: tuple[InputPath, ...] = ()
    folder: Path | None = Field(None, exclude=True)


def output_in(folder, **inputs):
    with Manifest.start(folder, stage="posttrain", config={}, inputs=inputs):
        (folder / "result").write_text("one")
    return folder


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def running(tmp_path):
    """A folder in which another process is running."""
    manifest = Manifest.start(tmp_path / "out", stage="posttrain", config={})
    manifest._lock.close()
    with held(tmp_path / "out"):
        yield tmp_path / "out"


def test_output_is_moved_to_a_free_name_and_the_user_is_told(tmp_path, capsys):
    out = tmp_path / "out"
    for number in (1, 2):
        backup = tmp_path / f"out.old-{number}"
        assert move_aside(output_in(out)) == backup
        assert (backup / "result").read_text() == "one"
        assert not out.exists()
        assert capsys.readouterr().err == f"moved {out} aside, to {backup}\n"
    with Manifest.start(out, stage="evaluate", config={"another": 1}):
        pass


def test_a_missing_or_empty_folder_is_silent(tmp_path, capsys):
    assert move_aside(tmp_path / "out") is None
    assert names(tmp_path) == ["work"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    assert move_aside(tmp_path / "out") is None
    assert names(tmp_path) == ["out", "work"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_running_run_stays_where_it_is(running, monkeypatch, rank):
    monkeypatch.setenv("SLURM_PROCID", rank)  # a rank of srun also moves only idle folders
    for refuse in (check_movable, move_aside):
        with pytest.raises(InputError, match=RUNS):
            refuse(running)
    assert names(running.parent) == ["out", "work"]
    assert Manifest.load(running).status == "running"


def test_a_further_process_of_one_training_moves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert move_aside(output_in(tmp_path / "out")) is None
    assert names(tmp_path) == ["out", "work"]


def test_a_process_that_waited_for_a_moved_lock_gets_the_new_one(tmp_path, monkeypatch):
    import fcntl

    out = output_in(tmp_path / "out")
    lock, is_first = fcntl.lockf, [True]

    def lock_late(file, how):
        """The folder is moved between opening the lock file and locking it."""
        if is_first:
            is_first.clear()
            out.rename(tmp_path / "out.old-1")
        lock(file, how)

    monkeypatch.setattr(fcntl, "lockf", lock_late)
    late = Manifest.start(out, stage="posttrain", config={})
    assert not late.was_resumed
    assert os.path.samestat(os.fstat(late._lock.fileno()), (out / ".lock").stat())


def test_inputs_stay_where_they_are(tmp_path):
    out, link = output_in(tmp_path / "out"), tmp_path / "link"
    inner = output_in(out / "checkpoints" / "model")
    link.symlink_to(out)
    for folder, config, message in [
        (out, Settings(model=out), f"{out}: is an input of this config; choose another --out"),
        (out, Settings(runs=[inner]), f"{out}: holds an input of this config, {inner}; choose"),
        (inner, Settings(runs=[out]), f"model: lies in an input of this config, {out}; choose"),
        (link, Settings(model=out), "link: is an input of this config"),
    ]:
        with pytest.raises(InputError, match=message):
            move_aside(folder, config)
    assert names(tmp_path) == ["link", "out", "work"]
    # a folder in which paths are looked up is no input
    apart = Settings(model="a/b", runs=[tmp_path / "work"], folder=tmp_path)
    assert move_aside(out, apart) is not None


def test_files_that_are_read_stay_where_they_are(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    config, reward = out / "mine.yaml", out / "score.py"
    config.touch()
    reward.touch()
    output_in(out, reward=reward)
    for also, name in (([config], "mine.yaml"), ([], "score.py")):
        with pytest.raises(InputError, match=rf"contains .*out/{name}, which is read"):
            move_aside(out, also=also)
    reward.unlink()
    assert move_aside(out) == tmp_path / "out.old-1"


def test_the_working_directory_stays(tmp_path, monkeypatch):
    inner = output_in(tmp_path / "out") / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    for out in (".", "..", tmp_path / "out"):
        with pytest.raises(InputError, match="cannot be moved aside: it is the working directory"):
            move_aside(Path(out))
    assert names(tmp_path) == ["out", "work"]


@pytest.mark.parametrize("content", [None, "{}", '{"stage": "x"}'])
def test_foreign_files_stay(tmp_path, content):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("of years")
    message = r"mine: not the output of chemkl: it holds notes\.txt, but no manifest\.json"
    if content is not None:
        (mine / "manifest.json").write_text(content)
        message = r"mine/manifest\.json: not a chemkl manifest"
    before = names(mine)
    with pytest.raises(InputError, match=message):
        move_aside(mine)
    assert names(mine) == before  # no lock file either
    assert names(tmp_path) == ["mine", "work"]


def test_a_file_is_no_folder_and_only_a_table_is_output(tmp_path):
    for name in ("notes", "notes.csv"):
        (tmp_path / name).write_text("of years")
        with pytest.raises(InputError, match=f"{name}: this is a file, not an output folder"):
            move_aside(tmp_path / name)
    with pytest.raises(InputError, match="notes: this is a file"):
        move_aside(tmp_path / "notes", tables=True)
    table = tmp_path / "notes.csv"
    with pytest.raises(InputError, match=r"notes\.csv: is an input of this config"):
        move_aside(table, Settings(model=table), tables=True)
    assert move_aside(table, tables=True) == tmp_path / "notes.csv.old-1"
    assert names(tmp_path) == ["notes", "notes.csv.old-1", "work"]
