"""Runs with exploration: its calls and rows, resuming, and refused settings."""

import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import CONFIG as PLAIN
from small_runs import (
    EXPLORES,
    TAU,
    checkpoint_of,
    killed_after,
    killed_at_step,
    manifest_of,
    run_and_kill,
    same_run,
)

from chemkl.config.evaluate import MetricOptions
from chemkl.evaluation import evaluate, from_trace
from chemkl.policies import load_policy
from chemkl.results import Manifest, read_trace
from chemkl.results.inspection import count, sampled_rows
from chemkl.results.outcome import judge
from chemkl.stages import posttrain
from chemkl.training.exploration import Explorer
from chemkl.training.ledger import Ledger
from chemkl.training.posttrain import InputBuilder

CONFIG = PLAIN | EXPLORES


def explored_in(trace):
    """The rows of proposals, without their replays."""
    return trace[~trace["origin"].isin(["policy", "seed"]) & ~trace["is_replay"]]


@pytest.fixture
def explore(config, tmp_path):
    """Run at once and in parts with changed settings of exploration; return the trace."""

    def run(budgets, **changes):
        settings = config | {"exploration": config["exploration"] | changes}
        posttrain.run(settings, tmp_path / "whole")
        for budget in (*budgets, config["budget"]):
            posttrain.run(settings | {"budget": budget}, tmp_path / "parts")
        same_run(tmp_path / "parts", tmp_path / "whole")
        return read_trace(tmp_path / "whole")

    return run


@pytest.fixture(scope="module")
def trace(finished):
    return read_trace(finished)


def test_each_proposal_pays_its_call_and_the_budget_is_exact(trace, tiny_prior):
    assert trace["call"].dropna().tolist() == list(range(1, 151))
    paid = trace[trace["call"].notna()]
    assert paid["canonical_smiles"].is_unique
    explored = explored_in(trace)
    assert len(explored) > 15
    assert explored["call"].notna().all()
    assert not explored["repeat"].any()
    assert explored["smiles"].tolist() == explored["canonical_smiles"].tolist()
    assert explored.groupby("step").size().max() == 5
    prior = load_policy(tiny_prior)
    expected = prior.logp(explored["smiles"].tolist()).detach()
    torch.testing.assert_close(
        torch.tensor(explored["logp_ref"].to_numpy()), expected, rtol=0, atol=1e-3
    )
    assert (explored["logp_policy"] - explored["logp_ref"]).abs().max() > 0.1


def test_rows_stand_in_order_and_say_who_proposed_them(trace):
    for _, rows in trace.groupby("step"):
        assert rows["row"].tolist() == list(range(len(rows)))
        place = np.where(rows["is_replay"], 2, np.where(rows["origin"] == "policy", 0, 1))
        assert place.tolist() == sorted(place)
    new = trace[~trace["is_replay"]].drop_duplicates("canonical_smiles")
    origin = new.set_index("canonical_smiles")["origin"]
    replayed = trace[trace["is_replay"]]
    assert replayed["origin"].tolist() == origin[replayed["canonical_smiles"]].tolist()
    assert {*replayed["origin"]} >= {"policy", "crossover"}
    assert trace["origin"].notna().all()


def test_the_policy_learns_from_proposals_and_the_filter_counts_them(trace):
    explored = explored_in(trace)
    assert explored["log_target"].notna().all()
    assert (explored["hit"] == (explored["reward_filtered"] >= TAU)).all()
    assert explored["hit"].any()
    new = trace[~trace["is_replay"] & (trace["reward"] >= 0.3)]
    place = new.groupby("scaffold").cumcount()
    assert new["reward_filtered"].tolist() == new["reward"].where(place < 8, 0.0).tolist()
    used_up = explored["reward_filtered"] < explored["reward"]
    assert used_up.sum() <= 5  # only what other proposals of its step have used up


def test_proposals_are_results_of_the_run_and_no_samples(finished, trace):
    sampled = sampled_rows(trace)
    assert {*sampled["origin"]} == {"policy"}
    whole, settings = count(trace, TAU), count(sampled, TAU)
    paid = trace[trace["call"].notna()]
    assert (whole.calls, whole.hits) == (150, int((paid["reward"] >= TAU).sum()))
    assert whole.explored == 150 - settings.calls > 0
    assert (whole.rows, whole.valid, whole.hit_rows) == (
        settings.rows,
        settings.valid,
        settings.hit_rows,
    )
    assert whole.distinct == 150
    manifest = Manifest.load(finished)
    assert manifest.results["samples"] == len(sampled)
    samples = from_trace("run", trace, manifest=manifest)
    assert samples.n_sampled == len(sampled)
    assert samples.valid == sampled.loc[sampled["valid"], "canonical_smiles"].tolist()
    assert [m.smiles for m in samples.molecules] == paid["canonical_smiles"].tolist()
    assert len(samples.molecules) == 150
    _, row = evaluate(samples, [TAU], MetricOptions())
    assert row["yield"] == whole.hits
    watch = manifest.model_dump(mode="json")
    watch["beside"]["collapse"] |= {"window": 20}
    assert judge(trace, watch).alarm.window.spread() == judge(sampled, watch).alarm.window.spread()


@pytest.mark.parametrize("screen", ["none", "prior", "surrogate"])
def test_a_run_that_explores_resumes_exactly(config, tmp_path, monkeypatch, screen):
    config["exploration"] = config["exploration"] | {"screen": screen}
    run, whole = tmp_path / "run", tmp_path / "whole"
    posttrain.run(config, whole)
    at_choice = killed_after(Explorer, "choose", before=True)
    for kill in (killed_at_step(2), killed_at_step(3), at_choice):
        run_and_kill(monkeypatch, kill, config | {"budget": 80}, run)
    trace = read_trace(whole)
    origin = trace[trace["call"].notna()].set_index("call")["origin"]
    cut = [n for n in range(80, 100) if origin[n] != "policy" != origin[n + 1]]
    end = [n for n in range(80, 100) if origin[n] == "policy" != origin[n + 1]]
    for budget in sorted({80, cut[0], end[0], 100}):
        posttrain.run(config | {"budget": budget}, run)
        assert read_trace(run)["call"].max() == budget
    same_run(run, whole)
    explored = checkpoint_of(run)["exploration"]
    assert explored == checkpoint_of(whole)["exploration"]
    assert explored["counts"]["proposed"] > 0


def test_molecules_too_large_for_the_reward_are_not_proposed(config, tmp_path):
    config["reward"] = config["reward"] | {"max_atoms": 9}
    posttrain.run(config | {"budget": 60}, tmp_path)
    explored = explored_in(read_trace(tmp_path))
    assert len(explored) > 5
    assert explored["call"].notna().all()


def test_the_prior_is_not_asked_by_two_threads_at_once(config, tmp_path, monkeypatch):
    in_thread, answered = [], []
    answer, choose = InputBuilder._logp_ref, Explorer.choose

    def slowly(self, tokens):
        in_thread.append(threading.current_thread() is not threading.main_thread())
        time.sleep(0.2)
        answered.append(in_thread.pop())
        return answer(self, tokens)

    def alone(self, step):
        assert not in_thread
        return choose(self, step)

    monkeypatch.setattr(Ledger, "has_workers", True)
    monkeypatch.setattr(InputBuilder, "_logp_ref", slowly)
    monkeypatch.setattr(Explorer, "choose", alone)
    posttrain.run(config | {"budget": 30}, tmp_path)
    assert any(answered)


def test_exploration_starts_at_its_call(config, tmp_path):
    shares = {"crossover": 0, "mutation": 1, "neighbour": 0}
    config["exploration"] = config["exploration"] | {"start": 60, "calls": 2, "shares": shares}
    posttrain.run(config, tmp_path)
    explored = explored_in(read_trace(tmp_path))
    assert {*explored["origin"]} == {"mutation"}
    assert explored["call"].min() > 60
    assert explored.groupby("step").size().max() == 2


def test_exploration_every_few_steps_resumes_exactly(explore):
    trace = explore((40, 65, 90), every=3)
    steps = sorted({*explored_in(trace)["step"]})
    assert len(steps) > 1
    assert steps == [*range(2, trace["step"].max() + 1, 3)]


def test_a_run_too_short_to_explore_says_so(config, tmp_path, capsys, chemkl):
    config["exploration"] = config["exploration"] | {"every": 12}
    posttrain.run(config | {"budget": 30}, tmp_path)
    message = "exploration spent no call: due every 12 steps from call 0 on; the run had "
    assert message in capsys.readouterr().err
    assert chemkl("show", tmp_path) == 0
    assert message in " ".join(capsys.readouterr().out.split())


def test_samples_of_the_prior_pay_their_call_and_need_no_parents(explore, tiny_prior):
    shares = {"crossover": 0, "mutation": 0, "neighbour": 0, "prior": 1}
    explored = explored_in(explore((50, 75), shares=shares, screen="none"))
    assert {*explored["origin"]} == {"prior"}
    assert explored["step"].min() == 0  # the memory is empty then
    assert explored["call"].notna().all()
    samples = load_policy(tiny_prior).sample(2000, torch.Generator().manual_seed(0)).smiles
    assert {*explored["canonical_smiles"]} & {*samples}


def test_exploration_is_logged_and_shown(finished, trace, chemkl, capsys):
    (file,) = finished.rglob("metrics.csv")
    logged = pd.read_csv(file).iloc[-1]
    explored = explored_in(trace[trace["step"] <= logged["step"]])
    assert logged["exploration/calls"] == len(explored)
    assert logged["exploration/hits"] == explored["hit"].sum()
    assert logged["exploration/proposed"] > logged["exploration/calls"]
    assert logged["exploration/unspelled"] > 0
    assert chemkl("show", finished) == 0
    assert f"explored {count(trace).explored}" in " ".join(capsys.readouterr().out.split())


def test_a_trace_without_exploration_has_no_such_column(config, tmp_path):
    posttrain.run(config | {"exploration": None, "budget": 20}, tmp_path)
    assert "origin" not in read_trace(tmp_path)


STAGES = [
    {"reward": {"components": [{"kind": "csp3_fraction"}]}, "until": {"calls": 40}},
    {"until": {"calls": 40}},
    {"keep_filter": True, "learning_rate": 1e-3},
]


def test_each_stage_explores_with_its_reward(config, tmp_path):
    config |= {"stages": STAGES, "budget": 130}
    posttrain.run(config, tmp_path / "whole")
    trace = read_trace(tmp_path / "whole")
    assert trace["call"].dropna().tolist() == list(range(1, 131))
    explored = explored_in(trace)
    assert {*explored["stage"]} == {1, 2, 3}
    assert explored["call"].notna().all()
    begins = trace.groupby("stage")["step"].min()
    assert explored.groupby("stage")["step"].min().gt(begins).tolist() == [True, True, False]
    for budget in (50, 95, 130):
        posttrain.run(config | {"budget": budget}, tmp_path / "parts")
    pd.testing.assert_frame_equal(read_trace(tmp_path / "parts"), trace, check_exact=True)


def test_seeds_are_parents(config, tmp_path):
    file = tmp_path / "seed.csv"
    file.write_text("SMILES\nCCO\nNCCO\nCCN\n")
    config["memory"] = config["memory"] | {"seed": {"path": str(file)}}
    posttrain.run(config | {"budget": 30}, tmp_path / "run")
    trace = read_trace(tmp_path / "run")
    assert trace["origin"].tolist()[:3] == ["seed"] * 3
    assert trace["call"].tolist()[:3] == [1, 2, 3]
    explored = explored_in(trace)
    assert explored["step"].min() == 0
    assert count(trace).calls == 27
    assert manifest_of(tmp_path / "run")["results"]["calls"] == 30


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"memory": None}, "exploration: starts from the molecules of a memory: add one"),
        ({"estimator": "msc"}, "estimator: 'msc' cannot learn from replayed rows, which the pres"),
        ({"estimator": "rloo"}, "exploration: no policy sampled its molecules, but 'rloo' weighs"),
        ({"exploration": {"calls": 0}}, "exploration.calls: should be greater than or equal to 1"),
        ({"exploration": {"every": 0}}, "exploration.every: should be greater than or equal to 1"),
        ({"exploration": {"calls": 1001}}, "exploration.calls: should be less than or equal to"),
        ({"exploration": {"screen": "best"}}, "exploration.screen: 'best' is not allowed. Known:"),
        ({"exploration": {"shares": {"crossover": 0, "mutation": 0, "neighbour": 0}}},
         "exploration.shares: all are 0 (crossover, mutation, neighbour, fragments, prior; omi"),
        ({"exploration": {}}, "exploration.screen: the screen surrogate needs scikit-learn: pip"),
    ],
)  # fmt: skip
def test_impossible_settings_are_one_clear_error(config, refusal, monkeypatch, changes, says):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    config["exploration"] = config["exploration"] | {"screen": "prior"}
    assert says in refusal(config | changes)


def test_a_language_model_explores_nothing(tmp_path, chemkl, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("exploration: {}\n")
    assert chemkl("check", file) == 2
    assert chemkl("posttrain_llm", file, "--out", tmp_path / "out") == 2
    assert "exploration: not a known key" in capsys.readouterr().err
