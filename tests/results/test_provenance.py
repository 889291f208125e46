"""Differences between the settings of runs, and which settings identify a method."""

import pytest

from chemkl.config.posttrain import PosttrainConfig
from chemkl.results import InputFile, provenance
from chemkl.results.provenance import ABSENT, describe_differences, differences, method_settings

SAME = {"target": {"kind": "mara", "tau": 0.8}, "reward": {"components": [{"kind": "qed"}]}}


def test_only_differing_keys_are_described_with_their_owners(monkeypatch):
    first = SAME | {"trainer": {"gradient_clip_val": 0.5}, "callbacks": {}}
    second = SAME | {"trainer": {}, "callbacks": {"collapse": {"action": "stop", "window": 9}}}
    result = differences({"a": first, "b": first, "c": second})
    assert result == {
        "trainer.gradient_clip_val": {"a": 0.5, "b": 0.5, "c": ABSENT},
        "callbacks.collapse": {"a": ABSENT, "b": ABSENT, "c": {"action": "stop", "window": 9}},
    }
    monkeypatch.setattr(provenance, "SHOWN", 1)
    lines = "  trainer.gradient_clip_val: 0.5 in a, b; null in c\n  ... and 1 more"
    assert describe_differences(result) == lines


def test_lists_of_settings_are_compared_by_element_and_lists_of_values_as_a_whole():
    parts = [{"kind": "qed"}], [{"kind": "logp"}], [{"kind": "qed"}, {"kind": "logp"}]
    assert differences({"a": {"parts": parts[0]}, "b": {"parts": parts[1]}}) == {
        "parts.0.kind": {"a": "qed", "b": "logp"}
    }
    assert [*differences({"a": {"parts": parts[0]}, "b": {"parts": parts[2]}})] == ["parts"]
    assert [*differences({"a": {"x": [1, 2]}, "b": {"x": [1, 3]}})] == ["x"]
    assert differences({"a": {"x": {}, "y": None}, "b": {"x": {}, "y": None}}) == {}


def settings(**change):
    files = {"prior": InputFile(path="/a/prior", sha256="0" * 64)}
    return method_settings({"prior": "/a/prior", "seed": 0} | SAME | change, files)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"seed": 1}, True),
        ({"trainer": {"log_every_n_steps": 1, "profiler": "simple", "devices": [1]}}, True),
        ({"trainer": {"enable_progress_bar": False, "enable_model_summary": True}}, True),
        ({"trainer": {"gradient_clip_val": 0}}, True),
        ({"callbacks": {"checkpoint_every": 7}}, True),
        ({"diversity_filter": None}, True),
        ({"trainer": {"gradient_clip_val": 0.5}}, False),
        ({"trainer": {"accumulate": 2}}, False),
        ({"callbacks": {"collapse": {"action": "stop"}}}, False),
        ({"agent": "/a/other"}, False),
        ({"max_samples": 9}, False),
        ({"something_new": True}, False),
        ({"target": {"kind": "mara", "tau": 0.8, "alpha": 0.0}}, False),
    ],
)
def test_only_seed_and_logging_may_differ_in_a_method(change, same):
    assert (settings(**change) == settings()) is same
    moved = {"prior": InputFile(path="/b/prior", sha256="0" * 64)}  # identified by its content
    assert method_settings(SAME | {"prior": "/b/prior", "seed": 3}, moved) == settings()


def test_settings_outside_the_identity_make_no_other_method(tmp_path):
    """Progress bar, workers, cache, time limit, most_failures and a mere warning."""
    (tmp_path / "prior").write_text("")
    config = {"prior": tmp_path / "prior", "target": {"kind": "gibbs", "beta": 1}}
    engine = {"workers": 3, "cache": tmp_path / "cache", "timeout": 5, "most_failures": 1}
    kinds = {"components": [{"kind": "qed"}]}
    plain = PosttrainConfig.model_validate(config | {"reward": kinds})
    callbacks = {"progress_bar": False, "collapse": {"window": 5}}
    changes = {"reward": kinds | engine, "callbacks": callbacks}
    other = PosttrainConfig.model_validate(config | changes)
    both = {"a": plain.model_dump(mode="json"), "b": other.model_dump(mode="json")}
    assert differences(both) == {}
