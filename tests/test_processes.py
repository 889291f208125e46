"""Signals that end a process, and the cores it may use."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from chemkl import processes
from chemkl.config import Config
from chemkl.processes import StoppedBySignal, deferred, handled, n_cores, pending
from chemkl.results import Manifest
from chemkl.rewards.pool import Pool
from chemkl.stages import registry
from chemkl.stages.registry import STAGES, Stage

CODES = {"SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138}
every_signal = pytest.mark.parametrize("name", CODES)


def send(name, pid=None):
    os.kill(pid or os.getpid(), getattr(signal, name))


def handlers():
    return [signal.getsignal(number) for number in processes.NUMBERS]


# ---- the handler


@every_signal
def test_a_signal_ends_the_scope_and_leaves_nothing_behind(name):
    before = handlers()

    def work():
        with handled():
            send(name)
            pytest.fail("the signal was lost")

    with pytest.raises(StoppedBySignal, match=f"^{name}$") as stop:
        work()
    assert stop.value.code == CODES[name]
    assert handlers() == before
    assert pending() is None


def test_a_deferred_signal_is_pending_and_raised_at_the_end():
    events = []

    def work():
        with handled(), deferred():
            with deferred():
                send("SIGHUP")
                events.append(pending())
            events.append("after the inner scope")

    with pytest.raises(StoppedBySignal, match="SIGHUP"):
        work()
    assert events == [signal.SIGHUP, "after the inner scope"]


def test_an_error_of_deferred_work_is_not_hidden_by_a_signal():
    def work():
        with handled(), deferred():
            send("SIGTERM")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


def test_ignored_signals_stay_ignored_and_handlers_of_the_caller_in_force():
    heard = []
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    own = signal.signal(signal.SIGUSR1, lambda *_: heard.append("own"))
    try:
        with handled():
            send("SIGHUP")
            send("SIGUSR1")
        assert heard == ["own"]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, ignored)
        signal.signal(signal.SIGUSR1, own)


def test_another_thread_sets_no_handlers():
    in_thread = []

    def work():
        with handled(), deferred():
            in_thread.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert in_thread == [handlers()]


def run_python(code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


RUN_IT = """
import os, signal, sys, time
from chemkl.processes import deferred, handled
with handled(), deferred():
    for pause in map(float, sys.argv[1:]):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(pause)
    print("the step is finished", flush=True)
"""
IN_COMPILED_CODE = """
import hashlib, os, signal, sys, threading, time
from chemkl.processes import deferred, handled

def send(pause):
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(pause)
    os.kill(os.getpid(), signal.SIGHUP)

with handled(), deferred():
    threading.Thread(target=send, args=[float(sys.argv[1])]).start()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", int(sys.argv[2]))  # Python handles no signal in it
    print("the step is finished", flush=True)
"""


@pytest.mark.parametrize(
    ("script", "arguments", "code"),
    [
        (RUN_IT, ["0"], 143),  # no traceback, and no exit code 0
        (RUN_IT, ["0", "0"], 143),  # `timeout` sends it to process and group
        (RUN_IT, ["0.3", "0"], -signal.SIGTERM),  # a second one ends at once
        (IN_COMPILED_CODE, ["0.02", "5_000_000"], 143),  # the first counts, not the lower
        (IN_COMPILED_CODE, ["0.3", "40_000_000"], 129),  # a second one ends at once
    ],
)
def test_how_a_process_ends(script, arguments, code):
    ended = run_python(script, *arguments)
    out = "the step is finished\n" if code == 143 else ""
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, out, "")


FORKS = """
import os, signal, sys, time
from chemkl.processes import handled, shielded
with handled():
    if os.fork() == 0:  # as a pool of the user's does; it outlives the scope
        time.sleep(60)
    print("left", flush=True)
    with shielded():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        print("the scope ends", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_holds_nothing_up_and_a_shield_holds(tmp_path):
    with (tmp_path / "out").open("w+") as out:
        process = subprocess.Popen([sys.executable, "-c", FORKS], stdout=out, process_group=0)
        try:
            assert process.wait(timeout=50) == 143  # the child sleeps for longer
        finally:
            os.killpg(process.pid, signal.SIGKILL)
        out.seek(0)
        assert out.read() == "left\nthe scope ends\n"


def test_handlers_are_set_before_anything_heavy_is_loaded():
    code = "import sys, chemkl.processes; print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    assert run_python(code).stdout == "set()\n"


# ---- the command line


class Settings(Config):
    seed: int = 0


class FakeStage(Stage):
    """A stage with the settings and code of the test."""

    model = Settings
    module = SimpleNamespace()


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """A stage without steps that sends itself a signal while it works."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("seed: 1\n")
    code = SimpleNamespace(ended=[])

    def work(config, start):
        with start.claim():
            send(code.name)
            code.ended.append("not at once")

    code.work, code.stage = work, FakeStage("evaluate", "", "a stage of the test")
    monkeypatch.setattr(FakeStage, "module", code)
    monkeypatch.setitem(STAGES, "evaluate", code.stage)
    return code


@every_signal
@pytest.mark.parametrize("from_python", [False, True])
def test_a_stage_without_steps_ends_at_once(stage, chemkl, capsys, from_python, name):
    stage.name = name
    if from_python:
        with pytest.raises(StoppedBySignal, match=name):
            stage.stage.run(Settings(), "runs/mine")
    else:
        assert chemkl("evaluate", "mine.yaml") == CODES[name]
        assert capsys.readouterr().err == "interrupted: the same command starts again.\n"
    assert stage.ended == []
    manifest = Manifest.load("runs/mine")
    assert (manifest.status, manifest.ended_by) == ("interrupted", f"StoppedBySignal: {name}")
    assert manifest.finished is not None
    assert handlers() == [signal.SIG_DFL] * len(processes.NUMBERS)


@every_signal
def test_a_signal_during_an_import_is_not_lost(stage, chemkl, capsys, monkeypatch, name):
    def load(module):
        send(name)
        stage.ended.append(module)
        return stage

    monkeypatch.setattr(registry, "import_module", load)
    monkeypatch.setattr(FakeStage, "module", Stage.module)
    stage.work = pytest.fail
    assert chemkl("evaluate", "mine.yaml") == CODES[name]
    assert stage.ended == ["chemkl.stages.evaluate"]  # the import came to its end
    assert capsys.readouterr().err == "interrupted: the same command starts again.\n"


# ---- readers of the output


PRINTS = """
import sys
from chemkl import cli
def stage(*_):
    for _ in range(20_000):
        print("a line of output", file=getattr(sys, {stream!r}))
    open({done!r}, "w").close()
cli._run_stage = stage
sys.argv = ["chemkl", "evaluate", "mine.yaml"]
cli.main()
"""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_run_outlives_the_reader_of_its_output(tmp_path, stream):
    done = tmp_path / "done"
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTS.format(stream=stream, done=str(done))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    read, other = process.stdout, process.stderr
    if stream == "stderr":
        read, other = other, read
    assert read.readline() == "a line of output\n"
    read.close()  # as `| head -1` does
    assert other.read() == ""
    assert process.wait() == 0
    assert done.exists()


# ---- worker processes


class Work:
    """Jobs of a pool: picklable, and quick."""

    def __init__(self, _mark=None):
        self.items = {"square": square, "misbehave": hit_by}

    def __getitem__(self, name):
        return self.items[name]


def square(number):
    return number * number


def hit_by(name):
    """Receive a signal that the parent did not send, as all processes of a Slurm job do."""
    send(name)
    return "still here"


@pytest.mark.parametrize("name", [*CODES, "SIGINT"])
def test_a_worker_only_obeys_its_parent(name):
    with Pool(Work, 1) as pool:
        assert list(pool.run("misbehave", [name])) == [(0, "still here")]
        pids = pool.pids
        send(name, pids[0])
        assert list(pool.run("square", [3])) == [(0, 9)]
        assert pool.pids == pids
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


GROUP = """
import os, signal, sys, time
from multiprocessing import forkserver
sys.path.insert(0, {folder!r})
from test_processes import Pool, Work

def server():
    return forkserver._forkserver._forkserver_pid

if __name__ == "__main__":
    with Pool(Work, 1) as pool:
        list(pool.run("square", [1]))
        worker, before = pool.pids[0], server()
        signal.signal(signal.{name}, lambda *_: None)
        os.killpg(0, signal.{name})
        time.sleep(0.3)
        print(list(pool.run("square", [3])), pool.pids == [worker])
        os.kill(worker, signal.SIGKILL)
        time.sleep(0.3)
        print(list(pool.run("square", [4])), server() == before)
"""


@every_signal
def test_the_server_of_workers_outlives_a_signal_to_the_whole_group(tmp_path, name):
    script = tmp_path / "parent.py"
    script.write_text(GROUP.format(folder=str(Path(__file__).parent), name=name))
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert (done.stdout, done.stderr) == ("[(0, 9)] True\n[(0, 16)] True\n", "")
    assert done.returncode == 0


def test_child_processes_inherit_the_shield():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); print('still here')"
    for scope, out in ((processes.shielded(), "still here\n"), (nullcontext(), "")):
        with scope:
            assert run_python(code).stdout == out


def test_only_the_cores_available_to_the_process_count(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 9, 11}, raising=False)
    assert n_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS, Windows
    assert n_cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # unknown
    assert n_cores() == 1
