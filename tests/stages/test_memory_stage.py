"""Runs with a memory: what the trace says of replayed rows, that they are free, what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
from test_posttrain_stage import (
    CONFIG,
    FILTERED,
    TAU,
    killed_at_step,
    manifest_of,
    run_and_kill,
    same_run,
)

from chemkl.results import read_trace
from chemkl.results.inspection import count
from chemkl.stages import posttrain

MEMORY = FILTERED | {"memory": {"capacity": 60, "rows": 8, "draw": "reward", "purge": "scaffold"}}


@pytest.fixture
def config(tiny_prior):
    return {"prior": str(tiny_prior), **CONFIG, **MEMORY}


@pytest.fixture(scope="module")
def finished(tiny_prior, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    posttrain.run(CONFIG | MEMORY | {"prior": str(tiny_prior), "budget": 150}, out)
    return out


def test_replayed_rows_stand_behind_the_sampled_ones_and_cost_nothing(finished):
    trace = read_trace(finished)
    assert trace["call"].dropna().tolist() == list(range(1, 151))
    for step, rows in trace.groupby("step"):
        assert rows["row"].tolist() == list(range(len(rows)))
        assert rows["is_replay"].tolist() == sorted(rows["is_replay"])
        whole = (~rows["is_replay"]).sum() == 16
        assert 0 < rows["is_replay"].sum() <= 8 if step and whole else not rows["is_replay"].any()
    assert (trace.groupby("step")["is_replay"].sum() == 8).sum() > 5
    sampled, replayed = trace[~trace["is_replay"]], trace[trace["is_replay"]]
    assert replayed["call"].isna().all()
    assert (replayed["valid"] & replayed["repeat"]).all()
    first = sampled.drop_duplicates("canonical_smiles").set_index("canonical_smiles")
    for name in ("scaffold", "reward"):
        np.testing.assert_array_equal(replayed[name], first.loc[replayed["canonical_smiles"], name])
    spelled = first.loc[replayed["canonical_smiles"]]
    np.testing.assert_array_equal(replayed["logp_ref"], spelled["logp_ref"])
    assert (replayed["hit"] == (replayed["reward_filtered"] >= TAU)).all()
    assert (replayed["logp_policy"] - spelled["logp_policy"].to_numpy()).abs().max() > 0.1
    assert (spelled["step"].to_numpy() < replayed["step"]).all()
    assert not replayed.duplicated(["step", "canonical_smiles"]).any()
    assert manifest_of(finished)["results"]["samples"] == len(sampled)


def test_replayed_rows_are_paid_what_the_filter_pays_today(finished):
    trace = read_trace(finished)
    counts = {}
    for _, rows in trace.groupby("step"):
        sampled = rows[~rows["is_replay"]]
        for scaffold in sampled.loc[sampled["reward"] >= 0.3, "scaffold"]:
            counts[scaffold] = counts.get(scaffold, 0) + 1
        for row in rows[rows["is_replay"]].itertuples():
            used_up = row.reward >= 0.3 and counts[row.scaffold] > 8
            assert row.reward_filtered == (0 if used_up else row.reward)
            assert not used_up  # what is paid nothing is not drawn
    assert max(counts.values()) > 8


def test_what_is_measured_of_a_run_leaves_replayed_rows_out(finished):
    trace = read_trace(finished)
    sampled = trace[~trace["is_replay"]]
    counts = count(trace, 0.5)
    assert counts == count(sampled, 0.5)
    assert (counts.rows, counts.calls) == (len(sampled), 150)


def test_a_run_with_a_memory_differs_from_one_without(config, finished, tmp_path):
    posttrain.run({key: config[key] for key in config if key != "memory"}, tmp_path)
    trace, plain = read_trace(finished), read_trace(tmp_path)
    first = trace["step"] < 1
    pd.testing.assert_frame_equal(trace[first], plain[plain["step"] < 1], check_exact=True)
    assert plain["smiles"].tolist() != trace["smiles"][~trace["is_replay"]].tolist()[: len(plain)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"memory": {"capacity": 0}}, "memory.capacity: should be greater than or equal to 1"),
        ({"memory": {"capacity": 5, "rows": 6}}, "memory.rows: 6 rows a step, but a capacity of 5"),
        ({"memory": {"capacity": 5}}, "memory.rows: 8 rows a step (half a batch), but a capacity"),
        ({"estimator": "rloo"}, "estimator: 'rloo' cannot learn from replayed rows, which the "
         "policy of today did not sample: take reinvent, log_variance, trajectory_balance, snis"),
        ({"target": {"kind": "gibbs", "sigma": 9}, "memory": {"draw": "hits"}},
         "memory.draw: 'hits', but the target 'gibbs' has none: take reward"),
        ({"memory": {"draw": "best"}}, "memory.draw: 'best' is not allowed. Known: hits, rank"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_is_one_clear_error(
    config, tmp_path, chemkl, capsys, changes, says
):
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(config | changes))
    assert chemkl("posttrain", file, "--out", tmp_path / "out") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert says in line
    assert not (tmp_path / "out").exists()


def test_a_killed_run_goes_on_with_its_memory(config, tmp_path, monkeypatch):
    posttrain.run(config, tmp_path / "whole")
    for step in (2, 5):
        run_and_kill(monkeypatch, killed_at_step(step), config, tmp_path / "run")
    posttrain.run(config, tmp_path / "run")
    same_run(tmp_path / "run", tmp_path / "whole")
