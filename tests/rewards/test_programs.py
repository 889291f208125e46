"""User programs: start and end, JSON lines, bad answers, batches."""

import multiprocessing
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
        query = json.loads(line)
        smiles = query["smiles"]
    """
GOOD = "answer(id=query['id'], smiles=smiles, value=len(smiles))"


@pytest.fixture
def make(tmp_path):
    """Make a program from what it does with each query."""
    programs = []

    def make(body=GOOD, timeout=10.0):
        text = textwrap.dedent(HEAD.format(log=str(tmp_path / "starts")))
        file = tmp_path / "program.py"
        file.write_text(text + textwrap.indent(textwrap.dedent(body), "    ") + "\n")
        programs.append(Program((sys.executable, str(file)), timeout))
        return programs[-1]

    yield make
    for program in programs:
        if program._running is not None:
            program._running.stop()


def starts(tmp_path):
    """The process ids of the programs that were started."""
    file = tmp_path / "starts"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def values(program, *smiles):
    return [program(mol(text)) for text in smiles]


def test_a_program_is_a_component_and_starts_with_the_first_molecule(make, tmp_path):
    program = make(
        """
        value = float("nan") if smiles == "C" else len(smiles)
        answer(error="too short") if smiles == "CC" else answer(value=value)
        """
    )
    reward = reward_of(part("external_program", 0, 10, command=[*program.command], timeout=10))
    assert starts(tmp_path) == []
    frame = reward.score(["CCO", "CC", "CCC", "xx", "C"])
    assert frame["raw_external_program"].tolist()[:3:2] == [3.0, 3.0]
    assert frame["reason"][1] == "component external_program failed: too short"
    assert frame["reason"][4] == "component external_program failed: it returned nan"
    assert len(starts(tmp_path)) == 1


def test_a_program_that_dies_is_restarted_once_for_the_same_molecule(make, tmp_path):
    program = make(
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
    assert values(program, "C", "CC", "CCC") == [1.0, 2.0, 3.0]
    assert len(starts(tmp_path)) == 2
    ended = r"ended \(signal SIGKILL\); standard error: no parameters for CN"
    with pytest.raises(RuntimeError, match=ended):
        values(program, "CN")
    assert values(program, "CCC") == [3]
    assert len(starts(tmp_path)) == 4


def test_a_program_that_closes_its_input_is_restarted_at_once(make, tmp_path):
    program = make("os.close(0); answer(value=len(smiles)); time.sleep(60)")
    begin = monotonic()
    assert values(program, "C", "CC", "CCC") == [1.0, 2.0, 3.0]
    assert monotonic() - begin < program.timeout
    assert len(starts(tmp_path)) == 3


def test_a_program_that_hangs_is_killed_with_its_children(make, tmp_path):
    child = tmp_path / "child"
    body = f"""
        import subprocess
        open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))
        time.sleep(60)
        """
    with pytest.raises(RuntimeError, match=r"no answer within 1\.5 s"):
        values(make(body, timeout=1.5), "C")
    assert soon(lambda: not alive(int(child.read_text())))
    assert not alive(starts(tmp_path)[0])
    assert len(starts(tmp_path)) == 1  # not restarted


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('Loading', flush=True)", r"its answer 'Loading' is not a JSON line .*standard err"),
        ("print('[1]', flush=True)", r"its answer '\[1\]' is not a JSON line"),
        ("answer(score=1)", "is not a JSON line"),
        ("sys.exit('no data')", r"ended \(exit status 1\); standard error: no data"),
        ("answer(value='1.5')", "its value '1.5' is not a number"),
        ("answer(value=None)", "its value None is not a number"),
        ("answer(value=True)", "its value True is not a number"),
        ("answer(id=99, value=1)", "id 99 instead of 1: it answers out of order"),
        ("answer(smiles='CCN', value=1)", "smiles 'CCN' instead of 'C'"),
        ("answer(error='several\\nlines')", "^several lines$"),
        ("sys.stdout.write('x' * 2_000_000); sys.stdout.flush()", "longer than 1,000,000 bytes"),
    ],
)
def test_a_bad_answer_is_an_error(make, body, message):
    with pytest.raises(RuntimeError, match=message):
        values(make(body), "C")


def test_a_surplus_answer_is_not_taken_for_the_next_molecule(make, tmp_path):
    program = make("answer(value=len(smiles))\nif smiles == 'C': answer(value=7)")
    assert values(program, "C") == [1]
    assert soon(lambda: bool(program._running._buffer) or program._running._readable(0))
    with pytest.raises(RuntimeError, match=r"more than one line for a molecule: '.*7}'"):
        values(program, "CC")
    assert values(program, "CCC") == [3]
    assert len(starts(tmp_path)) == 2


def in_a_worker(program, smiles, answers):
    answers.put(program(mol(smiles)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_every_process_has_its_own_program_which_ends_with_it(make, tmp_path, method):
    program = make()
    assert values(program, "CC") == [2]
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    worker = context.Process(target=in_a_worker, args=(program, "CCC", answers))
    worker.start()
    assert answers.get(timeout=30) == 3.0
    worker.join(30)
    assert worker.exitcode == 0
    assert values(program, "CCCC") == [4]
    first, second = starts(tmp_path)
    assert soon(lambda: not alive(second))
    assert alive(first)
    program._running = None  # it also ends with its component
    assert soon(lambda: not alive(first))


def test_a_program_ends_with_the_interpreter(make, tmp_path):
    code = (
        "from rdkit import Chem\nfrom chemkl.rewards.components.programs import Program\n"
        f"p = Program({make().command!r}, 10.0)\nprint(p(Chem.MolFromSmiles('CCC')))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("3.0\n", "", 0)
    assert soon(lambda: not alive(starts(tmp_path)[0]))


def test_ctrl_c_leaves_no_answer_for_the_next_molecule(make):
    program = make("time.sleep(.5 if smiles == 'C' else 0)\nanswer(value=len(smiles))")
    assert values(program, "CC") == [2]
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            values(program, "C")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert values(program, "CCC") == [3]


def test_programs_and_files_are_found_in_the_folder_of_the_config(tmp_path, monkeypatch, make):
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
    # the identity is the content of the files
    assert make().identity == make().identity != make("pass").identity


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"command": ["no-such-dock"]}, "no program 'no-such-dock' on this machine's PATH"),
        ({"command": ["./no-such-dock"]}, "no such program: .*no-such-dock"),
        ({"command": ["/"]}, "no such program: /"),
        ({"command": "python dock.py"}, "command: should be a list"),
        ({"command": ["python3"], "timeout": 0}, "timeout: should be greater than 0"),
    ],
)
def test_a_bad_command_is_refused(parameters, message):
    with pytest.raises(InputError, match=message):
        build("external_program", **parameters)


# ---- a program run once per batch

BATCH = """
import json, sys
smiles = sys.stdin.read().split()
open("calls.txt", "a").write(" ".join(smiles) + "\\n")
if any("Br" in text for text in smiles):
    sys.exit("no bromine")
print(json.dumps({"version": 1, "payload": {"length": [len(text) for text in smiles]}}))
"""


@pytest.fixture
def batch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch.py").write_text(BATCH)
    settings = {"command": [sys.executable, "batch.py"], "property": "length"}
    return lambda **more: reward_of(part("batch_program", 0, 10, **settings | more))


def test_a_batch_program_runs_once_for_all_molecules_unless_one_fails(batch, tmp_path):
    frame = batch().score(["CCO", "C", "OCC", "C(", "CCCC"])
    assert frame["reward"].tolist() == [0.3, 0.1, 0.3, 0, 0.4]
    assert (tmp_path / "calls.txt").read_text() == "CCO C CCCC\n"
    frame = batch().score(["CCO", "CBr", "C"])
    assert frame["reward"].tolist() == [0.3, 0, 0.1]
    assert "(exit status 1; standard error: no bromine)" in frame["reason"][1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"property": "height"}, '{"height": [...]}} (exit status 0)'),
        ({"timeout": 0.001}, "no answer within 0.001 s"),
    ],
)
def test_a_batch_program_without_an_answer_is_a_failure(batch, more, message):
    (reason,) = batch(**more).score(["C"])["reason"]
    assert reason.startswith("component batch_program failed: ")
    assert message in reason
