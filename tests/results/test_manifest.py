import hashlib
import json
import subprocess
import sys
from contextlib import nullcontext

import pytest

from chemkl import __version__
from chemkl.config import InputError
from chemkl.results import Manifest, config_hash, sha256_of
from chemkl.results.log import read_log

CONFIG = {"batch_size": 64, "reward": {"components": [{"kind": "qed"}], "mean": "geometric"}}


def begin(folder, config=CONFIG, **about):
    return Manifest.start(folder, stage="posttrain", config=config, **about)


def on_disk(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_the_hash_does_not_depend_on_the_order_of_keys():
    shuffled = {"reward": {"mean": "geometric", "components": [{"kind": "qed"}]}, "batch_size": 64}
    # SHA-256 of the sorted compact JSON, written out by hand
    text = '{"batch_size":64,"reward":{"components":[{"kind":"qed"}],"mean":"geometric"}}'
    assert config_hash(CONFIG) == hashlib.sha256(text.encode()).hexdigest()
    assert config_hash(shuffled) == config_hash(CONFIG)
    assert config_hash(CONFIG | {"batch_size": 65}) != config_hash(CONFIG)


def test_start_writes_what_is_needed_to_know_the_run(tmp_path):
    corpus = tmp_path / "in.smi"
    corpus.write_text("CCO\n")
    out = tmp_path / "out"
    manifest = begin(out, seed=7, inputs={"corpus": corpus})
    content = on_disk(out)
    assert content["status"] == "running"
    assert content["config"] == CONFIG
    assert content["config_hash"] == config_hash(CONFIG)
    assert content["seed"] == 7
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
def test_the_way_out_of_the_block_is_recorded_and_logged(tmp_path, error, status, event, why):
    with (
        pytest.raises(type(error)) if error else nullcontext(),
        begin(tmp_path) as manifest,
    ):
        if error:
            raise error
        manifest.finish(ended_by="max_samples", results={"calls": 12, "loss": float("nan")})
    content = on_disk(tmp_path)
    assert (content["status"], content["ended_by"]) == (status, why)
    assert content["finished"] >= content["started"]
    assert Manifest.load(tmp_path).is_finished("posttrain", CONFIG) is (error is None)
    if error is None:
        assert content["results"] == {"calls": 12, "loss": None}
    start, end = read_log(tmp_path)
    told = {"event": "start", "stage": "posttrain", "run_id": manifest.run_id}
    assert {key: start[key] for key in told} == told
    assert (end["event"], end["ended_by"]) == (event, why)


def test_another_config_is_refused_and_nothing_is_overwritten(tmp_path):
    begin(tmp_path, CONFIG | {"seed": 1}).finish()
    before = (tmp_path / "manifest.json").read_bytes()
    other = {"batch_size": 128, "reward": {"components": [{"kind": "sa"}], "mean": "geometric"}}
    with pytest.raises(InputError) as caught:
        begin(tmp_path, other)
    lines = str(caught.value).splitlines()
    assert "different config" in lines[0]
    assert "  batch_size: 64 in the folder, 128 in the new config" in lines
    assert "  seed: 1 in the folder, (absent) in the new config" in lines
    assert any(line.startswith("  reward.components.0.kind: ") and '"sa"' in line for line in lines)
    assert not any("mean" in line for line in lines)
    assert "--out" in lines[-1]
    assert "--fresh" in lines[-1]
    with pytest.raises(InputError, match="output of stage 'posttrain'; stage 'report' will not"):
        Manifest.start(tmp_path, stage="report", config=CONFIG | {"seed": 1})
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_changed_input_is_refused_and_named(tmp_path):
    prior = tmp_path / "prior"
    prior.write_text("one")
    out = tmp_path / "out"
    with begin(out, inputs={"prior": prior}):
        pass
    assert Manifest.load(out).is_finished("posttrain", CONFIG)
    prior.write_text("two")
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=r"prior: has changed since .*out was begun"):
        begin(out, inputs={"prior": prior})
    with pytest.raises(InputError, match="has changed since"):
        Manifest.load(out).is_finished("posttrain", CONFIG)
    assert (out / "manifest.json").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    told = r"cannot write there .*; choose another output folder"
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=told):
            Manifest.start(out, stage="prepare", config={})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "damaged, or no manifest: it is not whole JSON. Restore it from a copy, or move"),
        ("{", "damaged, or no manifest: it is not whole JSON. Restore it from a copy, or move"),
        ('{"stage": "x"}', r"not a chemkl manifest \(.*Choose another output folder"),
        ('["a"]', r"not a chemkl manifest \("),
    ],
)
def test_a_foreign_manifest_is_refused_and_kept(tmp_path, content, says):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=f"manifest.json: {says}"):
        begin(tmp_path)
    assert (tmp_path / "manifest.json").read_text() == content


def test_a_manifest_of_another_version_is_refused_by_that_name(tmp_path):
    begin(tmp_path).finish()
    later = on_disk(tmp_path) | {"format": "chemkl-manifest-2", "new": 1}
    later["versions"]["chemkl"] = "9.9"
    (tmp_path / "manifest.json").write_text(json.dumps(later))
    told = rf"manifest that version {__version__} can read; version 9.9 wrote it \(format: "
    with pytest.raises(InputError, match=told):
        Manifest.load(tmp_path)


def test_the_hash_of_a_folder_sees_names_and_contents_but_not_hidden_files(tmp_path):
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


OTHER = """
import sys
from chemkl.results import Manifest
held = Manifest.start(sys.argv[1], stage="posttrain", config={"batch_size": 1})
print("ready", flush=True)
sys.stdin.read()
"""


def fail(out, error, *, write=(), inputs=None):
    manifest = begin(out, inputs=inputs)
    for name in write:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")
    with pytest.raises(type(error)), manifest:
        raise error


BEFORE = [".tmp/x", "trace/.keep", "logs/csv/version_0/metrics.csv", "mine.yaml"]
BEFORE += ["prompts.json", "answers.parquet"]


@pytest.mark.parametrize("error", [InputError("mend it"), KeyboardInterrupt(), MemoryError()])
def test_an_attempt_without_results_gives_way_to_a_mended_one(tmp_path, capsys, error):
    function, out = tmp_path / "score.py", tmp_path / "out"
    function.write_text("bad")
    fail(out, error, write=BEFORE, inputs={"reward": function})
    first = on_disk(out)
    again = begin(out, inputs={"reward": function})
    assert again.was_resumed  # where nothing has changed, it goes on
    assert (again.run_id, again.started, len(again.resumed)) == (
        first["run_id"], first["started"], 1,
    )  # fmt: skip
    assert capsys.readouterr().err == ""
    fail(out, error, inputs={"reward": function})
    function.write_text("good")
    mended = begin(out, CONFIG | {"batch_size": 1}, inputs={"reward": function})
    assert not mended.was_resumed
    assert mended.run_id != first["run_id"]
    assert on_disk(out)["config"]["batch_size"] == 1
    assert on_disk(out)["inputs"]["reward"]["sha256"] == hashlib.sha256(b"good").hexdigest()
    assert capsys.readouterr().err == (
        f"{out}: the earlier attempt ({first['status']}) left no results and was another one; "
        "begins anew\n"
    )
    assert (out / "mine.yaml").exists()
    assert not (out / "prompts.json").exists()  # of the other attempt; it would pass for this one's
    assert not (out / "answers.parquet").exists()


def test_without_a_lock_what_says_it_is_running_is_left_alone(tmp_path, monkeypatch):
    begin(tmp_path)
    monkeypatch.setattr("chemkl.results.manifest.claim", lambda _folder, **_: None)
    with pytest.raises(InputError, match="batch_size: 64 in the folder, 1 in the new"):
        begin(tmp_path, CONFIG | {"batch_size": 1})
    assert on_disk(tmp_path)["config"]["batch_size"] == 64


def test_the_folder_is_given_free_behind_the_last_write(tmp_path, monkeypatch):
    manifest = begin(tmp_path)
    held = []
    save = Manifest.save

    def watched(self):
        held.append(self._lock is not None and not self._lock.closed)
        save(self)

    monkeypatch.setattr(Manifest, "save", watched)
    lock = manifest._lock
    with manifest:
        pass
    assert held == [True]
    assert lock.closed


def test_so_does_one_that_was_killed_but_not_one_that_runs(tmp_path, capsys):
    command, pipe = [sys.executable, "-c", OTHER, tmp_path], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(InputError, match="another process is running in this folder"):
            begin(tmp_path)
        process.kill()
    assert on_disk(tmp_path)["status"] == "running"
    assert not begin(tmp_path).was_resumed
    assert "(running) left no results" in capsys.readouterr().err


@pytest.mark.parametrize(
    "result",
    ["trace/part-0-3.parquet", ".orphan/0001-part-0-3.parquet", ".tmp/ready/part-0-3.parquet",
     "checkpoints/last.ckpt", "checkpoints/policy.safetensors", "metrics.json"],
)  # fmt: skip
def test_an_attempt_with_a_result_is_kept_and_fresh_is_named(tmp_path, result):
    function, out = tmp_path / "score.py", tmp_path / "out"
    function.write_text("bad")
    fail(out, InputError("mend it"), write=[*BEFORE, result], inputs={"reward": function})
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="batch_size: 64 in the folder, 1 in the new") as caught:
        begin(out, CONFIG | {"batch_size": 1})
    assert "--fresh" in str(caught.value)
    function.write_text("good")
    with pytest.raises(InputError, match=r"score\.py: has changed since .*\n.*--fresh"):
        begin(out, inputs={"reward": function})
    assert (out / "manifest.json").read_bytes() == before
