import os

from chemkl.cores import n_cores


def test_cores_are_those_that_are_left_to_the_process(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 9, 11}, raising=False)
    assert n_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS, Windows
    assert n_cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # nobody knows
    assert n_cores() == 1
