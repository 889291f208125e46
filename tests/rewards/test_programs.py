"""Programs of the user as components: one start, JSON lines, and every way to fall silent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from time import monotonic

import pytest
from building import alive, build, mol, part, reward_of, soon

from chemkl.config import InputError
from chemkl.rewards.components.programs import Program, find_program

HEAD = """
    import json, os, sys, time
    open({log!r}, "a").write(f"{{os.getpid()}}\\n")
    def answer(**what):
        print(json.dumps(what), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        smiles = asked["smiles"]
    """
GOOD = "answer(id=asked['id'], smiles=smiles, value=len(smiles))"


@pytest.fixture
def program(tmp_path):
    """Make a program; what it does with each question is the test's own."""
    made = []

    def make(body=GOOD, timeout=10.0):
        text = textwrap.dedent(HEAD.format(log=str(tmp_path / "starts")))
        file = tmp_path / "program.py"
        file.write_text(text + textwrap.indent(textwrap.dedent(body), "    ") + "\n")
        one = Program((sys.executable, str(file)), timeout)
        made.append(one)
        return one

    yield make
    for one in made:
        if one._running is not None:
            one._running.stop()


def starts(tmp_path):
    file = tmp_path / "starts"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def ask(one, smiles):
    return one(mol(smiles))


def test_it_is_a_component_started_once_at_the_first_molecule(program, tmp_path):
    one = program(
        """
        value = float("nan") if smiles == "C" else len(smiles)
        answer(error="too short") if smiles == "CC" else answer(value=value)
        """
    )
    reward = reward_of(part("external_program", 0, 10, command=[*one.command], timeout=10))
    assert starts(tmp_path) == []
    frame = reward.score(["CCO", "CC", "CCC", "xx", "C"])
    assert frame["raw_external_program"].tolist()[:3:2] == [3.0, 3.0]
    assert frame["reason"][1] == "component external_program failed: too short"
    assert frame["reason"][4] == "component external_program failed: it returned nan"
    assert len(starts(tmp_path)) == 1


def test_one_that_dies_is_started_once_more_for_the_same_molecule(program, tmp_path):
    one = program(
        f"""
        if smiles == 'CC' and not os.path.exists('{tmp_path}/died'):
            open('{tmp_path}/died', 'w').close()
            sys.exit(3)
        if smiles == 'CN':
            print('no parameters for CN', file=sys.stderr)
            os.kill(os.getpid(), 9)
        answer(value=len(smiles))
        """
    )
    assert [ask(one, s) for s in ("C", "CC", "CCC")] == [1.0, 2.0, 3.0]
    assert len(starts(tmp_path)) == 2
    ended = r"ended \(signal SIGKILL\); standard error: no parameters for CN"
    with pytest.raises(RuntimeError, match=ended):
        ask(one, "CN")
    assert ask(one, "CCC") == 3
    assert len(starts(tmp_path)) == 4


def test_one_that_closed_its_input_is_started_anew_at_once(program, tmp_path):
    one = program("os.close(0); answer(value=len(smiles)); time.sleep(60)")
    begun = monotonic()
    assert [ask(one, s) for s in ("C", "CC", "CCC")] == [1.0, 2.0, 3.0]
    assert monotonic() - begun < one.timeout
    assert len(starts(tmp_path)) == 3


def test_one_that_hangs_is_killed_with_all_that_it_started(program, tmp_path):
    child = tmp_path / "child"
    body = f"""
        import subprocess
        open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))
        time.sleep(60)
        """
    with pytest.raises(RuntimeError, match=r"no answer within 1\.5 s"):
        ask(program(body, timeout=1.5), "C")
    assert soon(lambda: not alive(int(child.read_text())))
    assert not alive(starts(tmp_path)[0])
    assert len(starts(tmp_path)) == 1  # a molecule that takes too long is not asked about again


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("print('Loading', flush=True)", r"its answer 'Loading' is not a JSON line .*standard err"),
        ("print('[1]', flush=True)", r"its answer '\[1\]' is not a JSON line"),
        ("answer(score=1)", "is not a JSON line"),
        ("sys.exit('no data')", r"ended \(exit status 1\); standard error: no data"),
        ("answer(value='1.5')", "its value '1.5' is not a number"),
        ("answer(value=None)", "its value None is not a number"),
        ("answer(value=True)", "its value True is not a number"),
        ("answer(id=99, value=1)", "id 99 instead of 1: it answers out of order"),
        ("answer(smiles='CCN', value=1)", "smiles .CCN. instead of .C."),
        ("answer(error='several\\nlines')", "^several lines$"),
        ("sys.stdout.write('x' * 2_000_000); sys.stdout.flush()", "longer than 1,000,000 bytes"),
    ],
)
def test_wrong_answers_are_told(program, body, says):
    one = program(body)
    with pytest.raises(RuntimeError, match=says):
        ask(one, "C")


def test_an_answer_too_many_is_not_taken_for_the_next_one(program, tmp_path):
    one = program("answer(value=len(smiles))\nif smiles == 'C': answer(value=7)")
    assert ask(one, "C") == 1
    assert soon(lambda: bool(one._running._buffer) or one._running._readable(0))
    with pytest.raises(RuntimeError, match=r"more than one line for a molecule: '.*7}'"):
        ask(one, "CC")
    assert ask(one, "CCC") == 3
    assert len(starts(tmp_path)) == 2


def test_it_ends_with_its_component(program, tmp_path):
    one = program()
    ask(one, "C")
    one._running = None
    assert soon(lambda: not alive(starts(tmp_path)[0]))


def in_a_worker(one, smiles, answers):
    answers.put((os.getpid(), one(mol(smiles))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_every_process_has_its_own_and_ends_it(program, tmp_path, method):
    one = program()
    assert ask(one, "CC") == 2
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    worker = context.Process(target=in_a_worker, args=(one, "CCC", answers))
    worker.start()
    assert answers.get(timeout=30)[1] == 3.0
    worker.join(30)
    assert worker.exitcode == 0
    assert ask(one, "CCCC") == 4
    first, second = starts(tmp_path)
    assert soon(lambda: not alive(second))
    assert alive(first)


def test_it_ends_with_the_interpreter(program, tmp_path):
    one = program()
    code = (
        "from rdkit import Chem\nfrom chemkl.rewards.components.programs import Program\n"
        f"one = Program({one.command!r}, 10.0)\nprint(one(Chem.MolFromSmiles('CCC')))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("3.0\n", "", 0)
    assert soon(lambda: not alive(starts(tmp_path)[0]))


def test_ctrl_c_leaves_no_answer_for_the_next_molecule(program, tmp_path):
    one = program("time.sleep(.5 if smiles == 'C' else 0)\nanswer(value=len(smiles))")
    assert ask(one, "CC") == 2

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            ask(one, "C")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ask(one, "CCC") == 3


def test_programs_and_files_are_looked_up_beside_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\n")
    python, *rest = find_program(["python3", "run.sh", "--fast", "nowhere.py"], tmp_path)
    assert Path(python).is_absolute()
    assert rest == [str(script), "--fast", "nowhere.py"]
    with pytest.raises(InputError, match=r"run\.sh is not executable: chmod \+x it, or put its"):
        find_program(["./run.sh"], tmp_path)
    script.chmod(0o755)
    assert find_program(["./run.sh"], tmp_path) == [str(script)]


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"command": ["no-such-dock"]}, "no program 'no-such-dock' on this machine's PATH"),
        ({"command": ["./no-such-dock"]}, "no such program: .*no-such-dock"),
        ({"command": ["/"]}, "no such program: /"),
        ({"command": "python dock.py"}, "command: should be a list"),
        ({"command": ["python3"], "timeout": 0}, "timeout: should be greater than 0"),
    ],
)
def test_a_command_that_cannot_be_run_is_refused(parameters, says):
    with pytest.raises(InputError, match=says):
        build("external_program", **parameters)


def test_its_identity_is_what_its_files_hold(program):
    assert program().identity == program().identity != program("pass").identity


# ---- a program that is run once for a batch

BATCH = """
import json, sys
smiles = sys.stdin.read().split()
open("asked.txt", "a").write(" ".join(smiles) + "\\n")
if any("Br" in one for one in smiles):
    sys.exit("no bromine")
print(json.dumps({"version": 1, "payload": {"length": [len(one) for one in smiles]}}))
"""


@pytest.fixture
def batch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch.py").write_text(BATCH)
    settings = {"command": [sys.executable, "batch.py"], "property": "length"}
    return lambda **more: reward_of(part("batch_program", 0, 10, **settings | more))


def test_a_batch_program_is_run_once_for_all_molecules(batch, tmp_path):
    frame = batch().score(["CCO", "C", "OCC", "C(", "CCCC"])
    assert frame["reward"].tolist() == [0.3, 0.1, 0.3, 0, 0.4]
    assert (tmp_path / "asked.txt").read_text() == "CCO C CCCC\n"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"property": "height"}, '{"height": [...]}} (exit status 0)'),
        ({"timeout": 0.001}, "no answer within 0.001 s"),
    ],
)
def test_a_batch_program_without_an_answer(batch, more, says):
    (reason,) = batch(**more).score(["C"])["reason"]
    assert reason.startswith("component batch_program failed: ")
    assert says in reason


def test_one_molecule_spoils_no_other_of_its_batch(batch):
    frame = batch().score(["CCO", "CBr", "C"])
    assert frame["reward"].tolist() == [0.3, 0, 0.1]
    assert "(exit status 1; standard error: no bromine)" in frame["reason"][1]
