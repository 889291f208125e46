"""Worker processes: every unit has one outcome, and a lost worker costs one unit."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from building import alive, mol, soon

from chemkl.config import InputError
from chemkl.rewards.components.programs import Program
from chemkl.rewards.pool import Lost, Pool


def sleep(mark):
    mark(3)
    while True:
        time.sleep(1)


def segfault(mark):
    mark(2)
    ctypes.string_at(0)


def fail(mark):
    raise ValueError("two\nlines")


def call_program(_mark):
    """Call a program in its own session that does not answer and ignores SIGTERM."""
    script = "trap '' TERM; echo $$ > \"$PID_FILE\"; while :; do sleep 0.1; done"
    Program(("/bin/sh", "-c", script), timeout=1000)(mol("C"))


def wait_for_child(_mark):
    child = subprocess.Popen(["sleep", "1000"])
    Path(os.environ["PID_FILE"]).write_text(str(child.pid))
    child.wait()


def pass_gate(_mark):
    while not Path(os.environ["GATE"]).exists():
        time.sleep(0.01)


MISDEEDS = {
    "program": call_program,
    "child": wait_for_child,
    "gate": pass_gate,
    "sleep": sleep,
    "deaf": lambda _: sum(range(10**15)),  # compiled code, which runs no signal handler
    "segfault": segfault,
    "raise": fail,
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda _: os._exit(7),
}


def jobs(mark, environment=None, error=None):
    """Jobs of these tests; a misdeed first creates a file in the folder BEGUN."""
    if error is not None:
        raise error
    os.environ.update(environment or {})

    def misbehave(how):
        if how in MISDEEDS:
            if "BEGUN" in os.environ:
                Path(os.environ["BEGUN"], str(os.getpid())).touch()
            MISDEEDS[how](mark)
        return how

    return {
        "square": lambda x: x * x,
        "slowly": lambda x: (time.sleep(x), x)[1],
        "pid": lambda _: os.getpid(),
        "misbehave": misbehave,
    }


@pytest.fixture(scope="module")
def pool():
    with Pool(jobs, 2) as pool:
        yield pool


def leave(_mark):
    os._exit(3)


def done(pool, job, units, limit=None):
    """The outcomes by place, exactly one each."""
    outcomes = list(pool.run(job, units, limit))
    assert sorted(number for number, _ in outcomes) == list(range(len(units)))
    return dict(outcomes)


def gone(pids):
    return soon(lambda: not any(map(alive, pids)))


def test_every_unit_has_one_outcome_and_workers_are_reused(pool):
    for n in (0, 1, 2, 3, 1000):
        assert done(pool, "square", range(n)) == {i: i * i for i in range(n)}
    units = [("x" * 100_000) + str(i) for i in range(30)]  # large ones do not block
    assert done(pool, "misbehave", units) == dict(enumerate(units))
    pids = set(done(pool, "pid", range(400)).values())
    assert pids <= set(pool.pids)
    assert os.getpid() not in pids
    assert set(done(pool, "pid", range(400)).values()) <= set(pool.pids)
    assert len(pool.pids) == 2


def test_the_other_worker_continues_while_a_unit_takes_long(tmp_path):
    gate = tmp_path / "gate"
    units = [*map(str, range(200)), "gate", *map(str, range(200))]
    with Pool(partial(jobs, environment={"GATE": str(gate)}), 2) as pool:
        numbers = []
        for number, _ in pool.run("misbehave", units, 100):
            numbers.append(number)
            if len(numbers) == 350:  # the waiting worker has at most 32 units
                assert 200 not in numbers
                gate.touch()
    assert sorted(numbers) == list(range(401))


@pytest.mark.parametrize(
    ("how", "reason", "at"),
    [
        ("segfault", "the worker died (SIGSEGV)", 2),
        ("kill", "the worker died (SIGKILL)", -1),
        ("exit", "the worker died (exit code 7)", -1),
        ("raise", "two lines", -1),
    ],
)
def test_a_worker_that_dies_costs_one_unit(pool, how, reason, at):
    units = ["a", "b", how, *"cdefghijklmnop"] * 2
    expected = dict(enumerate(units)) | {2: Lost(reason, at), 19: Lost(reason, at)}
    assert done(pool, "misbehave", units) == expected


@pytest.mark.parametrize(("how", "at"), [("sleep", 3), ("deaf", -1)])
def test_a_unit_over_the_limit_is_lost_and_its_worker_replaced(pool, how, at):
    done(pool, "misbehave", list("ab"))
    before = set(pool.pids)
    units = [*"abcdefgh", how, *"ijklmnopqrs"]
    outcomes = done(pool, "misbehave", units, limit=0.5)
    assert outcomes == dict(enumerate(units)) | {8: Lost("timeout after 0.5 s", at)}
    assert done(pool, "square", range(50)) == {i: i * i for i in range(50)}
    assert len(before & set(pool.pids)) == 1
    assert gone(before - set(pool.pids))


def test_the_limit_is_per_unit_and_a_killed_idle_worker_costs_nothing(pool):
    assert done(pool, "slowly", [0.15] * 12, limit=0.6) == dict.fromkeys(range(12), 0.15)
    os.kill(pool.pids[0], signal.SIGKILL)
    assert soon(lambda: pool._workers[0].process.exitcode is not None)
    assert done(pool, "square", range(100)) == {i: i * i for i in range(100)}


@pytest.mark.parametrize("how", ["program", "child"])
def test_the_children_of_a_killed_worker_are_killed_too(tmp_path, how):
    file = tmp_path / "pid"
    with Pool(partial(jobs, environment={"PID_FILE": str(file)}), 1) as pool:
        done(pool, "square", [1])
        assert done(pool, "misbehave", [how], limit=1)[0].reason == "timeout after 1 s"
        assert gone([int(file.read_text())])


def test_stopping_early_ends_the_workers_and_the_pool_goes_on(pool):
    done(pool, "square", range(10))
    pids = pool.pids
    run = pool.run("slowly", [0.01, *[30.0] * 6])
    assert next(run) == (0, 0.01)
    run.close()
    assert gone(pids)
    assert done(pool, "square", range(10)) == {i: i * i for i in range(10)}


@pytest.mark.parametrize(
    ("build", "raised", "message"),
    [
        (partial(jobs, error=InputError("one\ntwo")), InputError, "one\ntwo"),
        (partial(jobs, error=KeyError("what")), RuntimeError, "a worker cannot start: 'what'"),
        (leave, RuntimeError, r"the worker died \(exit code 3\) before it could start"),
    ],
)
def test_workers_that_cannot_start_are_an_error(build, raised, message):
    with Pool(build, 2) as pool, pytest.raises(raised, match=message):
        list(pool.run("square", [1, 2, 3]))


@pytest.mark.parametrize("end", ["close", "forget"])
def test_a_closed_or_forgotten_pool_has_no_workers(end):
    pool = Pool(jobs, 2)
    assert done(pool, "square", [1, 2, 3]) == {0: 1, 1: 4, 2: 9}
    pids = pool.pids
    if end == "close":
        pool.close()
        pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            list(pool.run("square", [1]))
    del pool
    assert gone(pids)


PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background job
sys.path.insert(0, {folder!r})
from test_pool import Pool, jobs
if __name__ == "__main__":
    pool = Pool(jobs, 2)
    list(pool.run("square", [1, 2]))
    print(*pool.pids, flush=True)
    if {how!r}:
        list(pool.run("misbehave", [{how!r}] * 2))
"""


@pytest.mark.parametrize(
    ("how", "sent"),
    [
        pytest.param("", None, marks=pytest.mark.slow),
        ("deaf", signal.SIGINT),
        pytest.param("sleep", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("sleep", signal.SIGTERM, marks=pytest.mark.slow),
        ("deaf", signal.SIGKILL),
    ],
)
def test_no_worker_survives_the_parent(tmp_path, how, sent):
    script, begun = tmp_path / "parent.py", tmp_path / "begun"
    begun.mkdir()
    script.write_text(PARENT.format(folder=str(Path(__file__).parent), how=how))
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "BEGUN": str(begun)},
    )  # fmt: skip
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    if sent is not None:
        assert soon(lambda: {file.name for file in begun.iterdir()} == set(map(str, pids)))
        assert all(map(alive, pids))
        parent.send_signal(sent)
    parent.wait(10)
    assert gone(pids)
    assert ("KeyboardInterrupt" in parent.stderr.read()) == (sent == signal.SIGINT)
