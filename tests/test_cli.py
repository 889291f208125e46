"""The command line: exit codes, messages without tracebacks, a fast start."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from chemkl import __version__
from chemkl.config import Config, InputError, InputPath
from chemkl.processes import StoppedBySignal
from chemkl.results import Manifest
from chemkl.stages import score
from chemkl.stages.registry import STAGES, Stage


class Settings(Config):
    seed: int = 0
    beta: float = 0.1
    prior: InputPath | None = None


class FakeStage(Stage):
    """A stage with the settings and code of the test."""

    model = Settings
    module = SimpleNamespace()


@pytest.fixture
def posttrain(monkeypatch, tmp_path):
    """A fake stage that `chemkl posttrain` runs; it records its arguments."""
    monkeypatch.chdir(tmp_path)
    calls = []

    def work(config, start):
        calls.append((config, start.out))
        with start.claim():
            pass

    code = SimpleNamespace(work=work, calls=calls)
    monkeypatch.setattr(FakeStage, "module", code)
    monkeypatch.setitem(STAGES, "posttrain", FakeStage("posttrain", "", "a stage of the test"))
    Path("mine.yaml").write_text("seed: 1\n")
    return code


# ---- a stage


@pytest.mark.parametrize(
    ("arguments", "settings", "out"),
    [
        (["mine.yaml"], {"seed": 1}, "runs/mine"),
        (["mine.yaml", "seed=5", "--out", "one", "beta=1e-4"], {"seed": 5, "beta": 1e-4}, "one"),
        (["--out", "two", "mine.yaml", "seed=5", "beta=1e-4"], {"seed": 5, "beta": 1e-4}, "two"),
        # a path is looked up in the working directory, not in that of the config
        (["configs/a.yaml", "prior=prior.bin"], {"prior": "prior.bin"}, "runs/a"),
    ],
)
def test_a_stage_gets_its_checked_config_and_its_folder(
    posttrain, chemkl, arguments, settings, out
):
    Path("configs").mkdir()
    Path("configs/a.yaml").write_text("seed: 0\n")
    Path("prior.bin").touch()
    assert chemkl("posttrain", *arguments) == 0
    if "prior" in settings:
        settings = {"prior": Path("prior.bin").resolve()}
    assert posttrain.calls == [(Settings(**settings), Path(out))]


def test_config_errors_have_exit_code_2_and_nothing_starts(posttrain, chemkl, capsys):
    Path("mine.yaml").write_text("sede: 1\nbeta: x\n")
    assert chemkl("posttrain", "mine.yaml", "prior=nowhere.bin") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "mine.yaml:1: sede: not a known key; did you mean 'seed'? Known: beta, prior, seed",
        "mine.yaml:2: beta: should be a number (got 'x')",
        f"override 'prior=nowhere.bin': prior: no such file or folder: {Path.cwd()}/nowhere.bin",
    ]
    assert posttrain.calls == []
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("prior.bin: not a model file\ntwo"), 2, "prior.bin: not a model file\ntwo\n"),
        (ZeroDivisionError("of a loss"), 1, "unexpected error: ZeroDivisionError: of a loss\n"),
        (KeyboardInterrupt(), 130, "interrupted: the same command starts again.\n"),
    ],
)
def test_an_error_of_the_stage_decides_the_exit_code(posttrain, chemkl, capsys, error, code, says):
    def break_down(config, start):
        raise error

    posttrain.work = break_down
    assert chemkl("posttrain", "mine.yaml") == code
    err = capsys.readouterr().err
    assert err.startswith(says)
    assert ("in break_down" in err) == (code == 1)  # a traceback
    assert (err == says) == (code != 1)


def test_a_pipeline_given_to_a_stage_is_one_line(posttrain, chemkl, capsys):
    Path("p.yaml").write_text("name: two\nstages: [{stage: posttrain, config: a.yaml}]\n")
    assert chemkl("posttrain", "p.yaml") == 2
    assert capsys.readouterr().err == "p.yaml: a pipeline; use chemkl run p.yaml\n"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), StoppedBySignal(signal.SIGTERM)])
def test_an_interrupted_score_says_so(chemkl, capsys, monkeypatch, stop):
    def interrupt(*_arguments, **_options):
        raise stop

    monkeypatch.setattr(score, "run_command", interrupt)
    code = 130 if isinstance(stop, KeyboardInterrupt) else 143
    assert chemkl("score", "molecules.smi", "--config", "mine.yaml") == code
    assert capsys.readouterr().err == "interrupted: the same command starts again.\n"


def test_ctrl_c_says_what_is_kept_and_how_to_continue(posttrain, chemkl, capsys):
    def interrupt(config, start):
        with start.claim():
            (start.out / "checkpoints").mkdir(parents=True)
            (start.out / "checkpoints" / "last.ckpt").touch()
            raise KeyboardInterrupt

    posttrain.work = interrupt
    kept = "interrupted: runs/mine keeps everything up to the last checkpoint; the same command"
    assert chemkl("posttrain", "mine.yaml") == 130
    assert capsys.readouterr().err == f"{kept} continues from there.\n"
    assert chemkl("posttrain", "mine.yaml", "--fresh") == 130
    assert capsys.readouterr().err == (
        f"moved runs/mine aside, to runs/mine.old-1\n{kept} without --fresh continues from there.\n"
    )


def test_fresh_moves_earlier_output_after_the_config_was_checked(posttrain, chemkl):
    assert chemkl("posttrain", "mine.yaml") == 0
    assert chemkl("posttrain", "mine.yaml", "seed=2") == 2  # another config is in the folder
    assert chemkl("posttrain", "mine.yaml", "--fresh", "sede=2") == 2
    assert not Path("runs/mine.old-1").exists()
    assert chemkl("posttrain", "mine.yaml", "--fresh", "seed=2") == 0
    assert Manifest.load("runs/mine.old-1").config["seed"] == 1
    assert Manifest.load("runs/mine").config["seed"] == 2


def test_fresh_moves_neither_inputs_nor_other_files(posttrain, chemkl, capsys):
    with Manifest.start("earlier", stage="pretrain", config={}):
        Path("earlier/policy.bin").touch()
    Path("kept").mkdir()
    Path("kept/mine.yaml").write_text("seed: 3\n")
    input_of = "is an input of this config; choose another --out"
    moved = "cannot be moved aside: it contains kept/mine.yaml, which is read;"
    for arguments, says in [
        (["mine.yaml", "--out", "earlier", "prior=earlier"], f"earlier: {input_of}"),
        (["mine.yaml", "--out", "kept"], "kept: not the output of chemkl: it holds mine.yaml, but"),
        (["kept/mine.yaml", "--out", "kept"], f"kept: {moved}"),
    ]:
        assert chemkl("posttrain", "--fresh", *arguments) == 2
        assert capsys.readouterr().err.startswith(says)
    assert posttrain.calls == []
    assert not [*Path().glob("*.old-*")]
    assert chemkl("posttrain", "kept/mine.yaml", "--out", "kept") == 0  # a folder made beforehand


def test_without_arguments_the_help_is_shown(chemkl, capsys):
    assert chemkl() == 2
    assert "Usage" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["postrain", "mine.yaml"], "posttrain"),
        (["posttrain"], "CONFIG"),
        (["posttrain", "mine.yaml", "--otu", "x"], "--out"),
        (["run", "mine.yaml", "--index", "first"], "--index"),
        (["export", "run", "--top", "0"], "--top 0: should be 1 or more"),
        (["export", "run", "--per-scaffold", "-1"], "--per-scaffold -1: should be 0 or more"),
        (["show", "run", "--top", "-3"], "--top -3: should be 1 or more"),
        (["show", "run", "--rows", "-1"], "--rows -1: should be 0 or more"),
        (["show", "run", "--threshold", "nan"], "--threshold nan: should be a finite number"),
        (["export", "run", "--top", "x"], "; see chemkl export --help"),
        (["run", "p.yaml", "--jobs", "many"], "; see chemkl run --help"),
        (["run", "p.yaml", "--jobs", "0"], "--jobs 0: should be 1 or more"),
        (["run", "p.yaml", "--job"], "; see chemkl run --help"),
        (["expotr", "run"], "'export'"),
        (["convert", "a.prior"], "OUT"),
        (["posttrain", "c.yaml", "--out", ""], "--out: the name is empty; give one, or"),
        (["run", "p.yaml", "--out="], "--out: the name is empty; give one, or"),
        (["bench", "--json"], "--json"),
        (["bench", "--json", "/proc/x.json"], "--json /proc/x.json: "),  # before it measures
    ],
)
def test_a_wrong_argument_is_one_line(chemkl, capsys, arguments, says):
    assert chemkl(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert says in line


# ---- run


PIPELINE = "name: demo\nstages:\n  - {stage: posttrain, grid: {seed: [0, 1]}}\n"


def test_run_runs_a_pipeline(posttrain, chemkl, capsys):
    Path("p.yaml").write_text(PIPELINE)
    assert chemkl("run", "p.yaml", "--dry-run") == 0
    assert posttrain.calls == []
    assert chemkl("run", "p.yaml", "--only", "posttrain", "--index", 1) == 0
    assert chemkl("run", "p.yaml") == 0
    folders = [Path(f"runs/demo/posttrain-seed={seed}").resolve() for seed in (1, 0)]
    assert [folder for _, folder in posttrain.calls] == folders
    assert chemkl("run", "p.yaml", "--fresh", "--out", "there") == 0
    assert [folder.parent for _, folder in posttrain.calls[2:]] == [Path("there").resolve()] * 2


def test_run_distinguishes_an_input_error_from_an_interrupted_run(posttrain, chemkl, capsys):
    Path("p.yaml").write_text(PIPELINE.replace("[0, 1]", "[0, x]"))
    assert chemkl("run", "p.yaml") == 2
    assert capsys.readouterr().err == "p.yaml:3: seed: should be a whole number (got 'x')\n"

    def stop(config, start):
        start.claim().finish("interrupted")

    posttrain.work = stop
    Path("p.yaml").write_text(PIPELINE)
    assert chemkl("run", "p.yaml") == 1


# ---- check


def test_check_names_the_purpose_of_each_file_and_every_problem(posttrain, chemkl, capsys):
    for folder in ("posttrain", "rewards"):
        Path(folder).mkdir()
    Path("posttrain/a.yaml").write_text("seed: 1\n")
    Path("posttrain/bad.yaml").write_text("seed: x\n")
    Path("rewards/r.yaml").write_text("components: [{kind: qed}]\n")
    Path("rewards/bad.yaml").write_text("components: [{kind: qde}]\n")
    Path("p.yaml").write_text(PIPELINE)
    files = ["posttrain/a.yaml", "posttrain/bad.yaml", "rewards/r.yaml", "rewards/bad.yaml"]
    assert chemkl("check", *files, "p.yaml", "nowhere.yaml") == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "ok posttrain/a.yaml (posttrain)",
        "ok rewards/r.yaml (reward)",
        "ok p.yaml (pipeline)",
    ]
    problems = err.splitlines()
    assert problems[0] == "posttrain/bad.yaml:1: seed: should be a whole number (got 'x')"
    assert problems[1].startswith("rewards/bad.yaml:1: components.0.kind: ")
    assert "did you mean 'qed'" in problems[1]
    assert problems[2].startswith("nowhere.yaml: no such file")
    assert len(problems) == 3


NO_SETTINGS = "a pipeline takes no settings on the command line; change it in the file"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["p.yaml"], 0, "ok p.yaml (pipeline)"),
        (["a.yaml"], 2, "a.yaml:3: prior: no such file"),  # by its keys, as the folder says nothing
        (["b.yaml"], 2, "b.yaml: its keys do not tell what it is for; say it with"),
        (["c.yaml"], 0, "ok c.yaml (reward)"),
        (["b.yaml", "--stage", "posttrain"], 2, "b.yaml:1: whatever: not a known key"),
        (["mine.yaml", "--stage", "postrain"], 2, "did you mean 'posttrain'"),
        (["posttrain/a.yaml", "seed=2"], 0, "ok posttrain/a.yaml (posttrain)"),
        (["posttrain/a.yaml", "seed=x"], 2, "override 'seed=x': seed: should be a whole number"),
        (["p.yaml", "seed=2"], 2, f"p.yaml: seed=2: {NO_SETTINGS}\n"),
        (["seed=2"], 2, "seed=2: a setting; give a file to check too"),
    ],
)
def test_check_detects_the_purpose_of_a_file(posttrain, chemkl, capsys, arguments, code, says):
    Path("a.yaml").write_text("seed: 1\nbeta: 2\nprior: nowhere\n")
    Path("b.yaml").write_text("whatever: 1\n")
    Path("c.yaml").write_text("components: [{kind: qed}]\n")
    Path("p.yaml").write_text(PIPELINE)
    Path("posttrain").mkdir()
    Path("posttrain/a.yaml").write_text("seed: 1\n")
    assert chemkl("check", *arguments) == code
    out, err = capsys.readouterr()
    assert says in (err if code else out)
    assert posttrain.calls == []


def test_check_accepts_future_output_of_a_stage_and_says_so(posttrain, chemkl, capsys):
    Path("a.yaml").write_text("prior: runs/earlier/policy.bin\n")
    assert chemkl("check", "a.yaml", "--stage", "posttrain") == 0
    place = Path("runs/earlier/policy.bin").resolve()
    assert capsys.readouterr().out == f"ok a.yaml (posttrain; not made yet: {place})\n"
    assert chemkl("posttrain", "a.yaml") == 2  # to run, it has to be there


def test_check_includes_the_stages_own_deeper_check(posttrain, chemkl, capsys):
    def problems(view):
        yield "seed", [f"1 is unlucky, {len(view.pending)} awaited"]

    posttrain.problems = problems
    assert chemkl("check", "mine.yaml", "--stage", "posttrain") == 2
    assert capsys.readouterr().err == "mine.yaml:1: seed: 1 is unlucky, 0 awaited\n"
    Path("a.yaml").write_text("prior: runs/earlier/policy.bin\n")
    assert chemkl("check", "a.yaml", "--stage", "posttrain") == 2  # though it waits for its prior
    assert capsys.readouterr().err.splitlines() == [
        "a.yaml:1: seed: 1 is unlucky, 1 awaited",
        f"a.yaml: not made yet: {Path.cwd()}/runs/earlier/policy.bin",
    ]


def test_check_and_the_stage_find_problems_beyond_the_schema(posttrain, chemkl, capsys):
    def problems(view):
        yield "seed", [f"{view.get('seed')} is unlucky"]

    posttrain.problems = problems
    Path("mine.yaml").write_text("sede: 1\nseed: 7\n")
    lines = [
        "mine.yaml:1: sede: not a known key; did you mean 'seed'? Known: beta, prior, seed",
        "mine.yaml:2: seed: 7 is unlucky",
    ]
    for command in (["check", "mine.yaml", "--stage", "posttrain"], ["posttrain", "mine.yaml"]):
        assert chemkl(*command) == 2
        assert capsys.readouterr().err.splitlines() == lines
    assert chemkl("posttrain", "mine.yaml", "seed=8") == 2
    assert capsys.readouterr().err.splitlines()[1] == "override 'seed=8': seed: 8 is unlucky"


# ---- the program itself


def run_python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(("policy", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(policy, expected):
    code = (
        "import atexit, os, sys, chemkl.cli\n"
        "atexit.register(lambda: print(os.environ['OMP_WAIT_POLICY']))\n"
        "sys.argv = ['chemkl', '--version']\n"
        "os.environ.pop('OMP_WAIT_POLICY', None)\n"
        f"os.environ.update({{'OMP_WAIT_POLICY': {policy!r}}} if {policy!r} else {{}})\n"
        "chemkl.cli.main()\n"
    )
    ended = run_python("-c", code)
    assert (ended.returncode, ended.stdout) == (0, f"chemkl {__version__}\n{expected}\n")


def test_help_loads_nothing_heavy():
    code = (
        "import sys, chemkl.cli\n"
        "sys.argv = ['chemkl', *sys.argv[1:]]\n"
        "try:\n    chemkl.cli.main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = 'torch lightning rdkit pandas pyarrow numpy scipy matplotlib'.split()\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
    )
    ended = run_python("-c", code, "--help")
    assert ended.returncode == 0, ended.stderr
    others = ["run", "submit", "status", "check", "show", "export", "convert", "bench"]
    assert all(f" {command} " in ended.stdout for command in (*STAGES, *others))
    output = " ".join(ended.stdout.split())
    assert all(text in output for text in ("143 SIGTERM", "129 SIGHUP", "138 SIGUSR1"))
    assert run_python("-c", code, "posttrain", "--help").returncode == 0


def test_the_installed_command_is_this_one():
    script = Path(sys.executable).with_name("chemkl")
    ended = subprocess.run([script, "check", "nowhere.yaml"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("nowhere.yaml: no such file")
    assert "Traceback" not in ended.stderr
