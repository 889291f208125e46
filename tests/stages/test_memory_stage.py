"""Runs with a memory: replayed rows in the trace, seeds, resuming, and refused settings."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from small_runs import (
    ALL_ON,
    MEMORY,
    TAU,
    checkpoint_of,
    killed_after,
    killed_at_step,
    manifest_of,
    run_and_kill,
    same_run,
)
from small_runs import CONFIG as PLAIN

from chemkl.losses import Objective
from chemkl.results import read_trace
from chemkl.results.inspection import count
from chemkl.stages import posttrain
from chemkl.stages.show import show
from chemkl.training.posttrain import Posttrain

SAMPLE = str(Path(__file__).parents[2] / "data" / "moses_sample.smi")
CONFIG = PLAIN | MEMORY


def test_replayed_rows_follow_the_sampled_ones_and_cost_nothing(finished):
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
    counts = count(trace, 0.5)
    assert counts == count(sampled, 0.5)
    assert (counts.rows, counts.calls) == (len(sampled), 150)


def test_replayed_rows_are_paid_what_the_filter_pays_today(finished):
    counts = Counter()
    for _, rows in read_trace(finished).groupby("step"):
        counts.update(rows.loc[~rows["is_replay"] & (rows["reward"] >= 0.3), "scaffold"])
        for row in rows[rows["is_replay"]].itertuples():
            assert row.reward_filtered == row.reward
            assert row.reward < 0.3 or counts[row.scaffold] <= 8  # else it is paid 0: not drawn
    assert max(counts.values()) > 8


def test_without_repeats_what_the_policy_has_sampled_again_is_not_replayed(
    config, finished, tmp_path
):
    def share_of_repeats(trace):
        """The share of replayed rows whose molecule was sampled twice by then."""
        sampled, replayed = trace[~trace["is_replay"]], trace[trace["is_replay"]]
        again = sampled[sampled["repeat"]].drop_duplicates("canonical_smiles")
        since = again.set_index("canonical_smiles")["step"].reindex(replayed["canonical_smiles"])
        return (since.to_numpy() <= replayed["step"].to_numpy()).mean()

    posttrain.run(config | {"memory": config["memory"] | {"repeats": False}}, tmp_path)
    assert share_of_repeats(read_trace(finished)) > 0.05
    assert share_of_repeats(read_trace(tmp_path)) == 0


def test_a_run_with_a_memory_differs_from_one_without(config, finished, tmp_path):
    posttrain.run(config | {"memory": None}, tmp_path)
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
        ({"estimator": "f_dpg"}, "estimator: 'f_dpg' cannot learn from replayed rows, which the "
         "present policy did not sample: take reinvent, log_variance, trajectory_balance, snis"),
        ({"estimator": "grpo"}, "estimator: 'grpo' cannot learn from replayed rows, which the "
         "present policy did not sample: take reinvent, "),
        ({"estimator": "ppo", "memory": {"seed": {"path": SAMPLE}, "capacity": 9000},
          "budget": 9000}, "memory.seed: no policy sampled its molecules, but 'ppo' weighs rows"),
        ({"estimator": {"kind": "rloo"}, "shaper": "set_diversity"}, "shaper: 'set_diversity' "
         "needs sampled rows, but a memory also replays other rows: take no shaper (null), di"),
        ({"estimator": {"kind": "ahc", "top_k": 20}}, "estimator.top_k: top_k must lie in (0, 1], "
         "got 20; it is a share: 0.5 of a batch of 64 are its 32 best rows"),
        ({"estimator": {"kind": "hill_climbing", "top_k": 20}}, "estimator.top_k: top_k must"),
        ({"target": {"kind": "gibbs", "sigma": 9}, "memory": {"draw": "hits"}},
         "memory.draw: 'hits', but the target 'gibbs' has none: take reward"),
        ({"memory": None, "estimator": "msc", "updates_per_batch": 2}, "estimator: 'msc' can use "
         "a batch for one update only: take reinvent, log_variance, trajectory_balance, snis, "
         "ahc, hill_climbing, dpo, rloo, grpo with clip, ppo with clip"),
        ({"augment": True}, "augment: applies to further updates, but there are none"),
        ({"augment": True, "updates_per_batch": 2, "estimator": "snis"},
         "estimator: 'snis' cannot learn from random spellings: take reinvent, log_variance, "),
        ({"memory": {"draw": "best"}}, "memory.draw: 'best' is not allowed. Known: hits, rank"),
    ],
)  # fmt: skip
def test_an_impossible_memory_is_one_clear_error(config, refusal, changes, says):
    assert says in refusal(config | changes)


@pytest.mark.parametrize("estimator", ["rloo", "ppo", {"kind": "grpo", "clip": 0.2}])
def test_old_rows_are_weighed_by_the_policy_that_sampled_them(
    config, tmp_path, monkeypatch, estimator
):
    recorded = []

    def look(objective, inputs):
        recorded.append(inputs)
        return called(objective, inputs)

    called = Objective.__call__
    monkeypatch.setattr(Objective, "__call__", look)
    posttrain.run(config | {"estimator": estimator, "updates_per_batch": 2}, tmp_path / "run")
    trace = read_trace(tmp_path / "run")
    sampled = trace[~trace["is_replay"]]
    first = sampled.drop_duplicates("canonical_smiles").set_index("canonical_smiles")
    steps = [rows for _, rows in trace.groupby("step") if (~rows["is_replay"]).sum() == 16]
    assert len(recorded) == 2 * len(steps)
    for rows, update, again in zip(steps, recorded[::2], recorded[1::2], strict=True):
        replayed = rows["is_replay"].to_numpy()
        assert (update.logp_behaviour is None) == (not replayed.any())
        if replayed.any():
            of_old = first.loc[rows.loc[replayed, "canonical_smiles"], "logp_policy"]
            logp = np.where(replayed, 0, rows["logp_policy"])
            logp[replayed] = of_old
            np.testing.assert_array_equal(update.logp_behaviour.numpy(), logp.astype(np.float32))
            assert torch.equal(again.logp_behaviour, update.logp_behaviour)


def test_a_shaper_of_log_p_shapes_replayed_rows_too(config, tmp_path):
    traces = []
    for shaper in (None, "entropy", "differential_smoothing", "ucpo"):
        changes = {"estimator": "rloo", "shaper": shaper, "budget": 60}
        posttrain.run(config | changes, tmp_path / str(shaper))
        traces.append(read_trace(tmp_path / str(shaper)))
    assert all(trace["is_replay"].any() for trace in traces)
    assert len({tuple(trace["smiles"]) for trace in traces}) == 4


WEIGHED = MEMORY | {"estimator": "rloo", "updates_per_batch": 2}


@pytest.mark.parametrize("settings", [ALL_ON, WEIGHED], ids=["all", "weighed"])
def test_a_run_with_everything_on_resumes_exactly(config, tmp_path, monkeypatch, settings):
    config |= settings
    n, run, whole = settings["updates_per_batch"], tmp_path / "run", tmp_path / "whole"
    posttrain.run(config, whole)
    in_a_step = killed_after(Posttrain, "_further_update", n - 1, before=True)
    for kill in (killed_at_step(2), killed_at_step(4), in_a_step):
        run_and_kill(monkeypatch, kill, config | {"budget": 70}, run)
    posttrain.run(config | {"budget": 70}, run)
    posttrain.run(config, run)
    same_run(run, whole)
    saved, expected = checkpoint_of(run), checkpoint_of(whole)
    for name, value in saved["memory"].items():
        value = expected["memory"][name]
        assert torch.equal(value, value) if isinstance(value, torch.Tensor) else value == value
    steps = read_trace(whole)["step"].nunique()
    # a partial last batch has no update
    assert expected["global_step"] in (n * steps, n * (steps - 1) + 1)


# ---- molecules to begin with


@pytest.fixture
def seeded(config, tmp_path):
    """A config whose memory begins with a file, by the lines of the file."""

    def make(text, **options):
        file = tmp_path / "seed.csv"
        file.write_text(text)
        memory = config["memory"] | {"seed": {"path": str(file), **options}}
        return config | {"memory": memory, "budget": 60}

    return make


SEED = "SMILES,activity\nOCC,0.7\nC1CC1,0.2\nCCO,0.9\nCCBr,0.4\nNCCO,0\n"


def test_seeds_with_rewards_cost_no_call_and_their_problems_are_printed(seeded, tmp_path, capsys):
    run = tmp_path / "run"
    posttrain.run(seeded(SEED, reward="activity"), run)
    trace = read_trace(run)
    first = trace[(trace["step"] == 0) & trace["is_replay"]]
    assert dict(zip(first["canonical_smiles"], first["reward"], strict=True)) == {
        "CCO": 0.7, "C1CC1": 0.2
    }  # fmt: skip
    assert first["call"].isna().all()
    assert trace["call"].dropna().tolist() == list(range(1, 61))
    lines = capsys.readouterr().err.splitlines()
    file = f"{run}: memory.seed: {tmp_path / 'seed.csv'}"
    twice, lost = (n for n, line in enumerate(lines) if line.startswith(file))
    assert twice < lost < next(n for n, line in enumerate(lines) if "ended by" in line)
    assert lines[twice] == (
        f"{file}: the same molecule with different rewards in lines 2 and 4 (0.7 and 0.9): the "
        "first one counts"
    )
    assert lines[lost].startswith(f"{file}: left out are line 5 (CCBr): the policy cannot write")


def test_seeds_without_rewards_cost_a_call_each(seeded, tmp_path, monkeypatch, capsys):
    config = seeded(SEED) | ALL_ON
    config["memory"] = seeded(SEED)["memory"]
    posttrain.run(config, tmp_path / "whole")
    trace = read_trace(tmp_path / "whole")
    paid = trace[trace["is_replay"] & trace["call"].notna()]
    assert paid["canonical_smiles"].tolist() == ["CCO", "C1CC1", "NCCO"]  # Br: not the prior's
    assert paid["call"].tolist() == [1, 2, 3]
    assert paid["reward"].gt(0).all()
    assert trace["call"].dropna().tolist() == list(range(1, 61))
    assert count(trace).calls == 57  # of the policy's own
    sampled = trace[~trace["is_replay"]]
    assert manifest_of(tmp_path / "whole")["results"]["samples"] == len(sampled)
    capsys.readouterr()
    show(str(tmp_path / "whole"))
    words = " ".join(capsys.readouterr().out.split())
    assert " calls 60 of a budget of 60, 3 of them for seeds of the memory " in words
    for step in (0, 2):
        run_and_kill(monkeypatch, killed_at_step(step), config, tmp_path / "run")
    posttrain.run(config, tmp_path / "run")
    same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("SMILES\nCCO\nC1CC\nCCN\n", {}, "seed.csv: line 3: no molecule (not parsable"),
        ("SMILES,a\nCCO,\nCCN,2\n", {"reward": "a"}, "line 2: a is '', not a number from 0 to 1; "),
        ("SMILES,a\nCCO,1\n", {"reward": "b"}, "b"),
        ("SMILES,a\nCCO,1\n", {"reward": ""}, "seed.csv: no column ''"),
        ("SMILES,a\nCCO,1\n", {"column": -2}, "seed.csv: no column -2: columns are counted from 0"),
        ("SMILES\n" + "\n".join("C" * n for n in range(1, 61)), {}, "60 molecules cost a call"),
        ("SMILES\nCCBr\nCBr\n", {}, "seed.csv: all of its molecules, line 2 (CCBr), line 3 (CBr): "
         "the policy cannot write them"),
    ],
)  # fmt: skip
def test_a_seed_that_cannot_be_read_is_one_clear_error(seeded, refusal, text, options, says):
    assert says in refusal(seeded(text, **options))


def test_check_names_the_line_of_the_seed(seeded, tmp_path, chemkl, capsys):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(seeded("SMILES\nC1CC\n")))
    lines = file.read_text().splitlines()
    number = next(n for n, line in enumerate(lines) if "seed.csv" in line)
    assert chemkl("check", file, "--stage", "posttrain") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{file}:{number}: ")
    assert "seed.csv: line 2: no molecule" in line


def test_hits_are_those_of_the_current_tau(seeded, tmp_path):
    config = seeded("SMILES,activity\nCCO,0.5\nC1CC1,0.6\nNCCO,0.9\n", reward="activity")
    config["memory"] |= {"draw": "hits", "capacity": 60}
    stairs = {"kind": "staircase", "by": "steps", "at": [2], "values": [0.8]}
    config["target"] = config["target"] | {"tau": 0.55, "schedule": {"tau": stairs}}
    posttrain.run(config, tmp_path)
    replayed = read_trace(tmp_path).query("is_replay")
    lowest = replayed.groupby("step")["reward_filtered"].min()
    assert {0, 3} <= {*lowest.index}
    assert lowest[lowest.index < 2].min() >= 0.55
    assert lowest[lowest.index >= 2].min() >= 0.8
