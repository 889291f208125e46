"""The log of a run: one event a line, whatever tore the line before."""

import json

import pytest

from chemkl.results import Manifest
from chemkl.results.log import RunLog, read_log


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path)


def test_events_say_when_and_how_far_the_run_was(log, tmp_path):
    log.add("start", stage="posttrain")
    log.where = lambda: {"steps": 3, "calls": 40}
    log.add("alarm", text="Å\n½", spread=float("nan"))
    first, second = read_log(tmp_path)
    assert first["event"] == "start"
    assert "steps" not in first
    told = {"event": "alarm", "steps": 3, "calls": 40, "text": "Å\n½", "spread": None}
    assert {key: second[key] for key in told} == told
    assert first["time"] <= second["time"]
    assert second["time"].endswith("+00:00")


def test_a_line_that_was_torn_anywhere_costs_no_other_line(log, tmp_path):
    log.add("start")
    whole = (tmp_path / "log.jsonl").read_bytes()
    for end in range(len(whole)):
        (tmp_path / "log.jsonl").write_bytes(whole + whole[:end])
        log.add("end")
        assert [event["event"] for event in read_log(tmp_path)][-1] == "end"
        is_whole = end == len(whole) - 1  # all but its line end
        assert len(read_log(tmp_path)) == 2 + is_whole


def test_what_others_wrote_into_it_is_left_out(log, tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'3\nnull\n{"a": 1}\n\xff\n')
    log.add("start")
    assert [event["event"] for event in read_log(tmp_path)] == ["start"]


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    RunLog(tmp_path).add("start")
    RunLog(tmp_path / "nowhere").add("start")
    assert read_log(tmp_path) == []
    assert not (tmp_path / "nowhere").exists()


def test_a_further_rank_is_silent(tmp_path):
    with Manifest.start(tmp_path, stage="pretrain", config={}, rank=1):
        pass
    assert read_log(tmp_path) == []
    assert json.loads((tmp_path / "manifest.json").read_text())["outputs"] == []
