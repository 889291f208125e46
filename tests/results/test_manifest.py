"""The manifest and the log of a run: who continues a folder, who replaces it, who is refused."""

import hashlib
import json
import subprocess
import sys
from contextlib import nullcontext

import pytest

from chemkl import __version__
from chemkl.config import InputError
from chemkl.results import Manifest, config_hash, sha256_of
from chemkl.results.manifest import RunLog, read_log

CONFIG = {"batch_size": 64, "reward": {"components": [{"kind": "qed"}], "mean": "geometric"}}


def start(folder, config=CONFIG, **options):
    return Manifest.start(folder, stage="posttrain", config=config, **options)


def on_disk(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_the_hash_does_not_depend_on_the_order_of_keys():
    shuffled = {"reward": {"mean": "geometric", "components": [{"kind": "qed"}]}, "batch_size": 64}
    # SHA-256 of the sorted compact JSON, written out by hand
    text = '{"batch_size":64,"reward":{"components":[{"kind":"qed"}],"mean":"geometric"}}'
    assert config_hash(CONFIG) == hashlib.sha256(text.encode()).hexdigest()
    assert config_hash(shuffled) == config_hash(CONFIG)
    assert config_hash(CONFIG | {"batch_size": 65}) != config_hash(CONFIG)


def test_start_writes_what_identifies_the_run(tmp_path):
    corpus = tmp_path / "in.smi"
    corpus.write_text("CCO\n")
    manifest = start(tmp_path / "out", seed=7, inputs={"corpus": corpus})
    content = on_disk(tmp_path / "out")
    expected = {
        "status": "running",
        "config": CONFIG,
        "config_hash": config_hash(CONFIG),
        "seed": 7,
    }
    assert {key: content[key] for key in expected} == expected
    assert content["inputs"]["corpus"]["sha256"] == hashlib.sha256(b"CCO\n").hexdigest()
    assert content["versions"]["python"].startswith("3.")
    assert {"torch", "rdkit", "lightning", "chemkl"} <= set(content["versions"])
    assert content["run_id"].startswith("posttrain-")
    assert not manifest.was_resumed


@pytest.mark.parametrize(
    ("error", "status", "event", "why"),
    [
        (ValueError("bad"), "failed", "failure", "ValueError: bad"),
        (KeyboardInterrupt(), "interrupted", "signal", "KeyboardInterrupt"),
        (None, "complete", "end", "max_samples"),
    ],
)
def test_the_end_of_a_run_is_recorded_and_logged(tmp_path, error, status, event, why):
    with (
        pytest.raises(type(error)) if error else nullcontext(),
        start(tmp_path) as manifest,
    ):
        if error:
            raise error
        manifest.finish(ended_by="max_samples", results={"calls": 12, "loss": float("nan")})
    content = on_disk(tmp_path)
    assert (content["status"], content["ended_by"]) == (status, why)
    assert content["finished"] >= content["started"]
    assert Manifest.load(tmp_path).is_finished("posttrain", CONFIG) is (error is None)
    assert content["results"] == ({} if error else {"calls": 12, "loss": None})
    first, last = read_log(tmp_path)
    assert (first["event"], first["stage"], first["run_id"]) == (
        "start", "posttrain", manifest.run_id,
    )  # fmt: skip
    assert (last["event"], last["ended_by"]) == (event, why)


def test_another_config_is_refused_and_nothing_is_overwritten(tmp_path):
    start(tmp_path, CONFIG | {"seed": 1}).finish()
    before = (tmp_path / "manifest.json").read_bytes()
    other = {"batch_size": 128, "reward": {"components": [{"kind": "sa"}], "mean": "geometric"}}
    with pytest.raises(InputError) as caught:
        start(tmp_path, other)
    lines = str(caught.value).splitlines()
    assert "different config" in lines[0]
    assert lines[1:4] == [
        "  batch_size: 64 in the folder, 128 in the new config",
        '  reward.components.0.kind: "qed" in the folder, "sa" in the new config',
        "  seed: 1 in the folder, (absent) in the new config",
    ]
    assert "--out" in lines[-1]
    assert "--fresh" in lines[-1]
    with pytest.raises(InputError, match="output of stage 'posttrain'; stage 'report' will not"):
        Manifest.start(tmp_path, stage="report", config=CONFIG | {"seed": 1})
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_changed_input_is_refused_and_named(tmp_path):
    prior, out = tmp_path / "prior", tmp_path / "out"
    prior.write_text("one")
    with start(out, inputs={"prior": prior}):
        pass
    assert Manifest.load(out).is_finished("posttrain", CONFIG)
    prior.write_text("two")
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=r"prior: has changed since .*out was started"):
        start(out, inputs={"prior": prior})
    with pytest.raises(InputError, match="has changed since"):
        Manifest.load(out).is_finished("posttrain", CONFIG)
    assert (out / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_folder_that_cannot_be_created_is_one_clear_error(tmp_path, out):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write there .*; choose another output folder"):
        start(tmp_path / out)


NOT_JSON = "damaged, or not a manifest: it is not valid JSON. Restore it from a copy, or move"
LATER = {"format": "chemkl-manifest-2", "new": 1, "versions": {"chemkl": "9.9"}}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", NOT_JSON),
        ("{", NOT_JSON),
        ('{"stage": "x"}', r"not a chemkl manifest \(.*Choose another output folder"),
        ('["a"]', r"not a chemkl manifest \("),
        (
            json.dumps(LATER),
            rf"not .* that version {__version__} can read; version 9.9 wrote it \(format: ",
        ),
    ],
)
def test_a_foreign_manifest_is_refused_and_kept(tmp_path, content, why):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=f"manifest.json: {why}"):
        start(tmp_path)
    assert (tmp_path / "manifest.json").read_text() == content


def test_the_hash_of_a_folder_covers_names_and_contents_but_not_hidden_files(tmp_path):
    (tmp_path / "a").write_text("1")
    base = sha256_of(tmp_path)
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "x").write_text("2")
    assert sha256_of(tmp_path) == base
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = sha256_of(tmp_path)
    (tmp_path / "b").write_text("3")
    assert len({base, renamed, sha256_of(tmp_path)}) == 3


# ---- an attempt that ended before its first result


def fail(out, error, *, write=(), inputs=None):
    manifest = start(out, inputs=inputs)
    for name in write:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")
    with pytest.raises(type(error)), manifest:
        raise error


NO_RESULTS = [".tmp/x", "trace/.keep", "logs/csv/version_0/metrics.csv", "mine.yaml"]
NO_RESULTS += ["prompts.json", "answers.parquet"]


@pytest.mark.parametrize("error", [InputError("mend it"), KeyboardInterrupt(), MemoryError()])
def test_an_attempt_without_results_is_replaced_by_a_corrected_one(tmp_path, capsys, error):
    function, out = tmp_path / "score.py", tmp_path / "out"
    function.write_text("bad")
    fail(out, error, write=NO_RESULTS, inputs={"reward": function})
    first = on_disk(out)
    again = start(out, inputs={"reward": function})
    assert again.was_resumed  # nothing has changed
    assert (again.run_id, again.started, len(again.resumed)) == (
        first["run_id"], first["started"], 1,
    )  # fmt: skip
    assert capsys.readouterr().err == ""
    fail(out, error, inputs={"reward": function})
    function.write_text("good")
    corrected = start(out, CONFIG | {"batch_size": 1}, inputs={"reward": function})
    assert not corrected.was_resumed
    assert corrected.run_id != first["run_id"]
    assert on_disk(out)["config"]["batch_size"] == 1
    assert on_disk(out)["inputs"]["reward"]["sha256"] == hashlib.sha256(b"good").hexdigest()
    assert capsys.readouterr().err == (
        f"{out}: the earlier attempt ({first['status']}) left no results and had other settings or "
        "inputs; starting again\n"
    )
    assert (out / "mine.yaml").exists()
    assert not (out / "prompts.json").exists()  # the new attempt would take it for its own
    assert not (out / "answers.parquet").exists()


def test_without_a_lock_a_running_attempt_is_not_replaced(tmp_path, monkeypatch):
    start(tmp_path)
    monkeypatch.setattr("chemkl.results.manifest.claim", lambda _folder, **_: None)
    with pytest.raises(InputError, match="batch_size: 64 in the folder, 1 in the new"):
        start(tmp_path, CONFIG | {"batch_size": 1})
    assert on_disk(tmp_path)["config"]["batch_size"] == 64


def test_the_folder_is_unlocked_after_the_last_write(tmp_path, monkeypatch):
    manifest, save, locked = start(tmp_path), Manifest.save, []

    def watched(self):
        locked.append(self._lock is not None and not self._lock.closed)
        save(self)

    monkeypatch.setattr(Manifest, "save", watched)
    lock = manifest._lock
    with manifest:
        pass
    assert locked == [True]
    assert lock.closed


OTHER_PROCESS = """
import sys
from chemkl.results import Manifest
manifest = Manifest.start(sys.argv[1], stage="posttrain", config={"batch_size": 1})
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_attempt_is_replaced_and_a_running_one_is_not(tmp_path, capsys):
    command, pipe = [sys.executable, "-c", OTHER_PROCESS, tmp_path], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(InputError, match="another process is running in this folder"):
            start(tmp_path)
        process.kill()
    assert on_disk(tmp_path)["status"] == "running"
    assert not start(tmp_path).was_resumed
    assert "(running) left no results" in capsys.readouterr().err


@pytest.mark.parametrize(
    "result",
    ["trace/part-0-3.parquet", ".orphan/0001-part-0-3.parquet", ".tmp/ready/part-0-3.parquet",
     "checkpoints/last.ckpt", "checkpoints/policy.safetensors", "metrics.json"],
)  # fmt: skip
def test_an_attempt_with_a_result_is_kept_and_fresh_is_named(tmp_path, result):
    function, out = tmp_path / "score.py", tmp_path / "out"
    function.write_text("bad")
    fail(out, InputError("mend it"), write=[*NO_RESULTS, result], inputs={"reward": function})
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=r"(?s)batch_size: 64 in the folder, 1 in the .*--fresh"):
        start(out, CONFIG | {"batch_size": 1})
    function.write_text("good")
    with pytest.raises(InputError, match=r"score\.py: has changed since .*\n.*--fresh"):
        start(out, inputs={"reward": function})
    assert (out / "manifest.json").read_bytes() == before


# ---- the log


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path)


def test_events_have_a_time_and_the_progress_of_the_run(log, tmp_path):
    log.add("start", stage="posttrain")
    log.where = lambda: {"steps": 3, "calls": 40}
    log.add("alarm", text="Å\n½", spread=float("nan"))
    first, second = read_log(tmp_path)
    assert first["event"] == "start"
    assert "steps" not in first
    assert {**second, "time": ""} == {
        "time": "", "event": "alarm", "steps": 3, "calls": 40, "text": "Å\n½", "spread": None,
    }  # fmt: skip
    assert first["time"] <= second["time"]
    assert second["time"].endswith("+00:00")


def test_a_torn_line_costs_no_other_line(log, tmp_path):
    log.add("start")
    whole = (tmp_path / "log.jsonl").read_bytes()
    for end in range(len(whole)):
        (tmp_path / "log.jsonl").write_bytes(whole + whole[:end])
        log.add("end")
        is_whole = end == len(whole) - 1  # all but its line end
        events = [event["event"] for event in read_log(tmp_path)]
        assert events == ["start", *["start"] * is_whole, "end"]
    (tmp_path / "log.jsonl").write_bytes(b'3\nnull\n{"a": 1}\n\xff\n')  # of other programs
    log.add("start")
    assert [event["event"] for event in read_log(tmp_path)] == ["start"]


def test_an_unwritable_log_and_a_further_rank_are_silent(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    RunLog(tmp_path).add("start")
    RunLog(tmp_path / "nowhere").add("start")
    assert read_log(tmp_path) == []
    assert not (tmp_path / "nowhere").exists()
    with start(tmp_path / "out", rank=1):
        pass
    assert read_log(tmp_path / "out") == []
    assert on_disk(tmp_path / "out")["outputs"] == []
