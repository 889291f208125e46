"""The cache: exact values, several processes, damaged files, keys."""

import hashlib
import json
import random
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from chemkl.config import InputError
from chemkl.config.reward import ComponentConfig
from chemkl.rewards.cache import SIGNATURE, ScoreCache, component_key, named_files
from chemkl.rewards.registry import COMPONENTS, Component, Identified

KEYS = {"qed": "key of qed", "logp": "key of logp", "(scaffold)": "key of scaffolds"}


def bits(by_smiles):
    return {
        smiles: {name: x.hex() if isinstance(x, float) else x for name, x in values.items()}
        for smiles, values in by_smiles.items()
    }


def opened(file, keys=KEYS):
    return closing(ScoreCache(file, keys))


def run_sql(path, statement):
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchone()


def n_molecules(path):
    return run_sql(path, "select count(*) from molecule")[0]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "folder" / "cache.sqlite"


def test_values_are_stored_exactly(file):
    rng = random.Random(1)
    stored = {
        f"C{'C' * i}": {"qed": rng.uniform(-1e3, 1e3), "logp": 1 / (i + 3), "(scaffold)": "c1"}
        for i in range(300)
    }
    stored["N"] = {"qed": -0.0, "logp": 5e-324, "(scaffold)": ""}
    stored["O"] = {"qed": 3.0, "logp": 1.7976931348623157e308}
    with opened(file) as cache:
        cache.store(stored)
    with opened(file) as cache:
        read = cache.look_up([*stored, "not there"])
    assert bits(read) == bits(stored)


def test_values_belong_to_keys_and_not_to_names(file):
    with opened(file) as cache:
        cache.store({"CC": {"qed": 0.25}})
        cache.store({"CC": {"qed": 0.75, "logp": 1.5}, "CCC": {"logp": 2.5}})  # what is there stays
        cache.store({})
    with opened(file, {"drug": "key of qed", "twin": "key of qed", "new": "other"}) as other:
        assert other.look_up(["CC", "CCC"]) == {"CC": {"drug": 0.25, "twin": 0.25}, "CCC": {}}
        other.store({"CCC": {"drug": 0.5, "twin": 0.5, "new": 1.0}})
    with opened(file) as cache:
        expected = {"CC": {"qed": 0.25, "logp": 1.5}, "CCC": {"qed": 0.5, "logp": 2.5}}
        assert cache.look_up(["CC", "CCC"]) == expected
    assert n_molecules(file) == 2


WRITER = """
import sys
from contextlib import closing
from chemkl.rewards.cache import ScoreCache
me, file, n = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with closing(ScoreCache(file, {"shared": "shared", "own": f"own {me}"})) as cache:
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(n):
        cache.store({f"both {i}": {"shared": i / 7, "own": i * me}, f"{me} {i}": {"shared": 1.0}})
        assert cache.look_up([f"both {i}"])[f"both {i}"]["own"] == i * me
"""


def start_writers(file, n, numbers):
    """Start processes that write at the same moment."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", WRITER]
    running = [subprocess.Popen([*command, str(i), str(file), str(n)], **pipes) for i in numbers]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    return running


def test_two_processes_write_at_once_to_a_new_file(file):
    assert [process.wait(60) for process in start_writers(file, 300, (1, 2))] == [0, 0]
    with opened(file, {"shared": "shared", "one": "own 1", "two": "own 2"}) as cache:
        values = cache.look_up([f"both {i}" for i in range(300)])
    assert values == {
        f"both {i}": {"shared": i / 7, "one": i * 1, "two": i * 2} for i in range(300)
    }
    assert n_molecules(file) == 900


def test_a_killed_writer_leaves_whole_rows_and_a_working_cache(file):
    (killed,) = start_writers(file, 10**6, (1,))
    while n_molecules(file) < 100:
        pass
    killed.kill()
    killed.wait(10)
    n = n_molecules(file)
    assert n % 2 == 0  # each store wrote two molecules, or none
    with opened(file, {"shared": "shared", "own": "own 1"}) as cache:
        assert cache.look_up(["both 0"]) == {"both 0": {"shared": 0.0, "own": 0}}
        cache.store({"new": {"shared": 2.0}})
    assert n_molecules(file) == n + 1


def filled(path):
    with opened(path) as cache:
        cache.store({f"C{i}": {"qed": i / 3, "(scaffold)": "c" * 50} for i in range(2000)})
    return path.read_bytes()


FOREIGN = {
    "is no SQLite database: it was not changed": lambda path: path.write_text("smiles,qed\n"),
    "is a database of something else: it was not changed": lambda path: run_sql(
        path, "create table notes (text)"
    ),
    "is of format 99, and this chemkl reads format 1": lambda path: (
        filled(path) and run_sql(path, "pragma user_version = 99")
    ),
    "cannot be used: .*Move it away": lambda path: path.write_bytes(
        filled(path)[:4096] + b"\xff" * 100_000
    ),
    "cannot be used: .*": lambda path: path.write_bytes(filled(path)[:6000]),
}


def use(path):
    with opened(path, {**KEYS, "another": "one more column"}) as cache:
        cache.look_up([f"C{i}" for i in range(2000)])


@pytest.mark.parametrize("message", FOREIGN)
def test_an_unusable_file_is_refused_and_not_changed(file, message):
    file.parent.mkdir()
    FOREIGN[message](file)
    before = file.read_bytes()
    with pytest.raises(InputError, match=f"{re.escape(str(file))} {message}") as caught:
        use(file)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == before


def test_a_folder_is_no_cache_and_an_empty_file_becomes_one(tmp_path):
    with pytest.raises(InputError, match="cannot be used"):
        ScoreCache(tmp_path, KEYS)
    path = tmp_path / "made by mktemp"
    path.touch()
    with opened(path) as cache:
        cache.store({"C": {"qed": 0.5}})
    assert run_sql(path, "pragma application_id") == (SIGNATURE,)


def part(**more):
    return ComponentConfig(**{"kind": "tanimoto", "parameters": {"references": ["CCO"]}, **more})


@pytest.mark.parametrize(
    ("changes", "is_equal"),
    [
        ({"name": "other", "weight": 3, "transform": {"kind": "step", "low": 0}}, True),
        ({"role": "filter"}, True),
        ({"parameters": {"references": ["CCN"]}}, False),
        ({"kind": "qed", "parameters": {}}, False),
    ],
)
def test_a_key_depends_on_what_decides_the_raw_value(changes, is_equal):
    key = component_key(part(), len)
    assert key.startswith("tanimoto ")
    assert (component_key(part(**changes), len) == key) == is_equal


def test_a_key_depends_on_the_identity_and_on_the_contents_of_each_file(tmp_path):
    settings, keys = part(parameters={"wanted": "a.smi", "unwanted": {"file": "b.smi"}}), set()
    for identity, wanted, unwanted in [(1, "C", "N"), (2, "C", "N"), (2, "N", "C"), (2, "N", "N")]:
        (tmp_path / "a.smi").write_text(wanted)
        (tmp_path / "b.smi").write_text(unwanted)
        keys.add(component_key(settings, Identified(list, str(identity)), tmp_path))
    assert len(keys) == 4


def test_a_key_depends_on_the_module_that_the_component_stands_in(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for number in (1, 2):
        (tmp_path / f"made_up_{number}.py").write_text(f"def made_up():\n    return {number}\n")
        module = __import__(f"made_up_{number}")
        component = Component("made_up", module.made_up, "", (0, 1), "made up")
        monkeypatch.setitem(COMPONENTS, "made_up", component)
        keys.append(component_key(ComponentConfig(kind="made_up"), module.made_up))
    assert keys[0] != keys[1]


@pytest.mark.parametrize("kind", ["tpsa", "tanimoto"])  # a row of a table, and a function
def test_a_key_of_chemkl_does_not_depend_on_text_but_on_the_version(monkeypatch, kind):
    settings = part(kind=kind, parameters={} if kind == "tpsa" else {"references": ["CCO"]})
    before = component_key(settings, len)
    monkeypatch.setattr("chemkl.rewards.cache.sha256_of", lambda path: pytest.fail(f"reads {path}"))
    monkeypatch.setattr("inspect.getsource", lambda made: pytest.fail(f"reads {made}"))
    monkeypatch.setattr("chemkl.__version__", "99")
    assert component_key(settings, len) == before
    monkeypatch.setitem(COMPONENTS, kind, replace(COMPONENTS[kind], version=2))
    assert component_key(settings, len) != before


@pytest.mark.parametrize("package", ["rdkit", "reinvent-chemistry", "numpy", "scipy"])
def test_a_key_depends_on_the_versions_of_what_it_computes_with(monkeypatch, package):
    before = component_key(part(), len)
    monkeypatch.setattr("chemkl.rewards.cache.version", lambda name: "0" * (1 + (name == package)))
    other = component_key(part(), len)
    monkeypatch.setattr("chemkl.rewards.cache.version", lambda _name: "0")
    assert len({before, other, component_key(part(), len)}) == 3


def test_keys_are_those_of_the_first_release(monkeypatch):
    monkeypatch.setattr("chemkl.rewards.cache.version", lambda _name: "0")
    settings = {"alpha": 0, "beta": 1, "references": ["CCO"]}
    parameters = {  # the defaults, as a cache of the first release has them
        **settings, "chirality": False, "combine": "max", "counts": False, "fingerprint": "morgan",
        "max_distance": 30, "n_bits": 2048, "radius": 2, "references_file": None,
    }  # fmt: skip
    versions = dict.fromkeys(["numpy", "rdkit", "reinvent-chemistry", "scipy"], "0")
    decisive = {
        **{"files": [], "identity": "", "kind": "tversky", "parameters": parameters},
        **{"source": "", "version": 1, "versions": versions},
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    for mapping in (settings, parameters):  # with and without defaults
        assert component_key(part(kind="tversky", parameters=mapping), len) == f"tversky {digest}"


def test_no_two_components_or_parameters_have_the_same_key():
    keys = [component_key(part(kind=kind, parameters={}), len) for kind in COMPONENTS]
    references = [["C", "N"], ["N", "C"], ["CN"], ["C,N"], ["C"], [["C"]], "C", True, 1, 1.0]
    keys += [component_key(part(parameters={"references": item}), len) for item in references]
    assert len(set(keys)) == len(COMPONENTS) + len(references)


def test_the_files_of_a_reward_are_found_as_its_components_find_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a.smi", "own.py"):
        (tmp_path / name).write_text("C")
    named = {"list": ["~/a.smi", "C:C", "~nobody-at-all/x"], "function": "own.py:score"}
    assert list(named_files(named, tmp_path)) == [tmp_path / "own.py", tmp_path / "a.smi"]
