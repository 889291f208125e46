"""Runs of several stages: when each ends, what it changes, what is paid twice and what is not."""

import json

import pandas as pd
import pytest
import torch

from chemkl.config import InputError, load_config
from chemkl.config.evaluate import MetricOptions
from chemkl.config.posttrain import PosttrainConfig
from chemkl.evaluation.metrics import evaluate
from chemkl.evaluation.samples import from_trace
from chemkl.policies import load_policy
from chemkl.results import Manifest, read_trace
from chemkl.results.inspection import count
from chemkl.results.log import read_log
from chemkl.rewards import RewardModel
from chemkl.stages import posttrain

TPSA = {"components": [{"kind": "tpsa", "transform": {"kind": "sigmoid", "low": 0, "high": 60}}]}
QED = {"components": [{"kind": "qed"}]}
MURCKO = {"kind": "murcko", "bucket": 5, "min_score": 0.3}
STAGES = [
    {"name": "polar", "reward": TPSA, "target": {"kind": "gibbs", "sigma": 20},
     "estimator": "trajectory_balance", "learning_rate": 1e-3, "until": {"samples": 64}},
    {"diversity_filter": None, "until": {"calls": 30}},
    {},
]  # fmt: skip
CONFIG = {
    "reward": QED,
    "target": {"kind": "mara", "beta": 0.05, "tau": 0.45},
    "estimator": "log_variance",
    "diversity_filter": MURCKO,
    "precision": "32-true",
    "batch_size": 16,
    "learning_rate": 2e-3,
    "budget": 120,
    "seed": 3,
    "trainer": {"accelerator": "cpu", "log_every_n_steps": 0},
    "callbacks": {"checkpoint_every": 4, "progress_bar": False},
}


@pytest.fixture
def config(tiny_prior):
    return {"prior": str(tiny_prior), **CONFIG}


@pytest.fixture(scope="module")
def finished(tiny_prior, tmp_path_factory):
    """One run of three stages."""
    out = tmp_path_factory.mktemp("run") / "out"
    posttrain.run(CONFIG | {"prior": str(tiny_prior), "stages": STAGES}, out)
    return out


def test_stages_follow_each_other_and_the_budget_is_exact(finished):
    trace, manifest = read_trace(finished), Manifest.load(finished)
    assert trace["call"].dropna().tolist() == list(range(1, 121))
    assert trace["stage"].is_monotonic_increasing
    assert trace.groupby("step")["stage"].nunique().eq(1).all()
    rows = trace.groupby("stage")
    assert rows.size()[1] == 64
    calls, second = rows["call"].count(), trace[trace["stage"] == 2]
    before = second[second["step"] < second["step"].max()]
    assert before["call"].count() < 30 <= calls[2]
    hits = (trace["hit"] & trace["call"].notna()).groupby(trace["stage"]).sum()
    assert manifest.results["stages"] == [
        {"name": name, "ended_by": why, "steps": rows["step"].nunique()[n], "calls": calls[n],
         "samples": rows.size()[n], "hits": hits[n]}
        for n, name, why in ((1, "polar", "samples"), (2, "2", "calls"), (3, "3", "budget"))
    ]  # fmt: skip
    told = [event["text"] for event in read_log(finished) if event["event"] == "stage"]
    first = f"stage polar ended by samples after 4 steps, {calls[1]} calls; stage 2 begins"
    assert told[0] == first
    assert len(told) == 2


def test_another_reward_pays_a_molecule_anew_and_the_same_one_does_not(finished):
    trace = read_trace(finished)
    paid = trace[trace["call"].notna()]
    assert paid.groupby("final_reward")["canonical_smiles"].apply(lambda s: s.is_unique).all()
    first, later = (paid["canonical_smiles"][paid["final_reward"] == final] for final in (0, 1))
    assert {*first} & {*later}
    assert (trace["final_reward"] == (trace["stage"] > 1)).all()
    for reward, stage in ((TPSA, trace["stage"] == 1), (QED, trace["stage"] > 1)):
        expected = RewardModel.from_config(reward).score(trace["smiles"][stage])["reward"]
        whole = ~trace["reason"][stage].fillna("").str.startswith("truncated").to_numpy()
        assert trace["reward"][stage][whole].tolist() == expected[whole].tolist()
        own, other = ("raw_tpsa", "raw_qed") if reward is TPSA else ("raw_qed", "raw_tpsa")
        assert trace[own][stage & trace["valid"]].notna().all()
        assert trace[other][stage].isna().all()


def test_each_stage_has_its_own_target_and_filter(finished):
    trace = read_trace(finished)
    first, second = (trace[trace["stage"] == stage] for stage in (1, 2))
    gibbs = first["logp_ref"] + first["reward_filtered"] * 20
    assert (first["log_target"] - gibbs).abs().max() < 1e-4
    assert not first["hit"].any()
    assert (trace["hit"] == (trace["reward_filtered"] >= 0.45))[trace["stage"] > 1].all()
    assert second["reward_filtered"].tolist() == second["reward"].tolist()
    for stage in (1, 3):  # each filter counts from its stage on
        rows = trace[(trace["stage"] == stage) & (trace["reward"] >= 0.3)]
        place = rows.groupby("scaffold").cumcount()
        assert rows["reward_filtered"].tolist() == rows["reward"].where(place < 5, 0.0).tolist()
        assert (place >= 5).any()


def test_a_run_is_judged_by_its_last_reward(finished):
    trace, manifest = read_trace(finished), Manifest.load(finished)
    paid = trace[trace["call"].notna() & (trace["stage"] > 1)]
    hits = paid[paid["reward"] >= 0.45]
    counts = count(trace, manifest.tau)
    assert (counts.calls, counts.hits, counts.best) == (120, len(hits), paid["reward"].max())
    samples = from_trace("run", trace, manifest=manifest)
    assert [m.smiles for m in samples.molecules] == paid["canonical_smiles"].tolist()
    assert [m.call for m in samples.hits(0.45)] == hits["call"].tolist()
    assert samples.n_sampled == (trace["stage"] > 1).sum()
    values = evaluate(samples, [0.45], MetricOptions())
    assert [row["n_sampled"] for row in values] == [samples.n_sampled] * 2
    narrow = read_trace(finished, ["call", "final_reward"])
    assert narrow["final_reward"].tolist() == trace["final_reward"].tolist()


def test_hits_are_told_of_the_last_reward_on_the_way_and_at_the_end(config, tmp_path, capsys):
    callbacks = CONFIG["callbacks"] | {"progress_bar": True}
    posttrain.run(config | {"stages": STAGES, "callbacks": callbacks}, tmp_path)
    n = count(read_trace(tmp_path), 0.45).hits
    lines = capsys.readouterr().err.splitlines()
    *_, bar = [line for line in lines if line.startswith("posttrain:")]
    assert f", {n} hits, " in bar
    assert " scaffolds by the reward of the last stage, " in bar
    whose = f"{n} hits (R >= 0.45, by the reward of the last stage)"
    assert [line for line in lines if f": {whose}, best reward" in line]


def test_stages_that_change_nothing_make_the_run_without_them(config, tmp_path):
    config |= {"estimator": "trajectory_balance", "target": {"kind": "gibbs", "beta": 0.05}}
    posttrain.run(config, tmp_path / "one")
    same = [{"until": {"samples": 48}}, {"keep_filter": True}]
    posttrain.run(config | {"stages": same}, tmp_path / "two")
    one, two = read_trace(tmp_path / "one"), read_trace(tmp_path / "two")
    assert two["stage"].nunique() == 2
    pd.testing.assert_frame_equal(one, two[one.columns], check_exact=True)
    with pytest.raises(InputError, match="no column"):
        read_trace(tmp_path / "one", ["nothing"])
    assert read_trace(tmp_path / "one", ["call", "stage"]).columns.tolist() == ["call"]


def test_optimiser_and_policy_go_on_at_the_rate_of_the_stage(config, tmp_path):
    config["learning_rate"] = 1e-12  # in effect no learning
    stages = [{"until": {"samples": 32}}, {"learning_rate": 1e-2, "until": {"samples": 32}}, {}]
    posttrain.run(config | {"stages": stages}, tmp_path / "run")
    trace = read_trace(tmp_path / "run")
    moved = (trace["logp_policy"] - trace["logp_ref"]).abs().groupby(trace["step"]).max()
    assert moved[:3].max() < 1e-3 < 1e-2 < moved[3]
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    adam, learnt = saved["optimizer_states"][0], trace.groupby("step").size().eq(16).sum()
    assert {int(one["step"]) for one in adam["state"].values()} == {learnt}
    policy = load_policy(tmp_path / "run" / "checkpoints" / "policy.safetensors")
    last = trace[(trace["step"] == 4) & trace["valid"]]
    got = policy.logp(last["smiles"].tolist())  # at a rate of 1e-12 it stays where stage 2 left it
    expected = torch.tensor(last["logp_policy"].to_numpy())
    torch.testing.assert_close(got.detach(), expected, rtol=0, atol=1e-3)


def test_the_last_stage_ends_the_run_and_a_larger_budget_changes_nothing(config, tmp_path):
    stages = [{"until": {"samples": 32}}, {"until": {"hits": 9, "collapse": {}}}]
    for budget in (120, 150):
        posttrain.run(config | {"stages": stages, "budget": budget}, tmp_path)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        assert (manifest["status"], manifest["ended_by"]) == ("complete", "hits")
        assert [one["ended_by"] for one in manifest["results"]["stages"]] == ["samples", "hits"]


def test_a_run_cut_short_by_its_budget_goes_on_as_a_longer_one(config, tmp_path):
    stages = [STAGES[0], {"until": {"calls": 30}, "estimator": "msc"}, {}]
    posttrain.run(config | {"stages": stages}, tmp_path / "whole")
    for budget in (40, 77, 120):  # within stages 1 and 2
        posttrain.run(config | {"stages": stages, "budget": budget}, tmp_path / "parts")
    pd.testing.assert_frame_equal(
        read_trace(tmp_path / "whole"), read_trace(tmp_path / "parts"), check_exact=True
    )


def test_what_is_replayed_was_paid_by_the_reward_of_the_stage(config, tmp_path):
    stages = [STAGES[0], {"until": {"calls": 25}}, {"keep_filter": True, "learning_rate": 1e-3}]
    config |= {"stages": stages, "memory": {"rows": 4}}
    posttrain.run(config, tmp_path / "whole")
    trace = read_trace(tmp_path / "whole")
    assert trace["call"].dropna().tolist() == list(range(1, 121))
    for stage in (1, 2, 3):
        rows = trace[trace["stage"] == stage]
        replayed = rows[rows["is_replay"]]
        assert len(replayed)
        paid = {**trace[~trace["is_replay"] & (trace["final_reward"] == (stage > 1))]
                .set_index("canonical_smiles")["reward"]}  # fmt: skip
        assert replayed["reward"].tolist() == [paid[s] for s in replayed["canonical_smiles"]]
        first = rows[rows["step"] == rows["step"].min()]
        assert first["is_replay"].any() == (stage == 3)  # there the memory goes on
    for budget in (45, 77, 120):
        posttrain.run(config | {"budget": budget}, tmp_path / "parts")
    pd.testing.assert_frame_equal(read_trace(tmp_path / "parts"), trace, check_exact=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stages": []}, r"stages: .*at least 1"),
        ({"stages": [{}, {}]}, r"stages\.0\.until: required, and not given"),
        ({"stages": [{"untill": {}}, {}]}, r"stages\.0\.untill: not a known key; .*'until'\?"),
        ({"stages": [{"until": {"cals": 3}}]}, r"until\.cals: not a known key; .*'calls'\?"),
        ({"stages": [{"until": {}}]}, r"stages\.0\.until: nothing ends it: give one or more of"),
        ({"stages": [{"until": {"hits": 3}, "target": {"kind": "gibbs", "beta": 1}}]},
         r"stages\.0\.until\.hits: the target gibbs tells no hits"),
        ({"stages": [{"keep_filter": True}]}, r"stages\.0\.keep_filter: there is no such filter"),
        ({"stages": [{"estimator": "reinvent", "target": {"kind": "filter", "tau": 0.5}}]},
         r"stages\.0\.estimator: estimator 'reinvent' cannot walk to the target 'filter'"),
        ({"stages": [{"reward": {"components": [{"kind": "qet"}]}}]},
         r"^stages\.0\.reward: components\.0\.kind: unknown component 'qet'; did you mean 'qed'"),
        ({"stages": [{"until": {"hits": 3}}, {"name": "1"}]},
         r"stages\.1\.name: '1' is what stages\.0 is called: take another name"),
        ({"target": {"kind": "mara", "beta": 1, "tau": 0.5, "schedule": {}}},
         r"target\.schedule: nothing moves: give tau or beta, or leave schedule out"),
        ({"target": {"kind": "mara", "beta": 1, "tau": 0.5, "schedule": {
            "tau": {"kind": "quantile", "over": "hits", "steps": 5}}}},
         r"target\.schedule\.tau\.steps: with over: hits all hits so far count: leave steps out"),
        ({"target": {"kind": "mara", "beta": 1, "tau": 0.5, "schedule": {
            "tau": {"kind": "quantile", "most": 0.4}}}},
         r"target\.schedule\.tau\.most: 0\.4: the target's own tau is 0\.5, and would never rise"),
        ({"stages": [{"name": "a b"}]}, r"in letters, digits and any of _\.-; default"),
        ({"stages": [{}], "callbacks": {"terminate": {"hits": 1}}},
         r"callbacks\.terminate: with stages, the until of the last one ends the run"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_clear_error(config, tmp_path, changes, says):
    with pytest.raises(InputError, match=says) as error:
        posttrain.run(config | changes, tmp_path / "run")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_runs_without_stages_are_known_as_before(config):
    plain = load_config(PosttrainConfig, config).model_dump(mode="json")
    assert "stages" not in plain
    given = load_config(PosttrainConfig, config | {"stages": STAGES}).model_dump(mode="json")
    assert given["stages"][1] == {"diversity_filter": None, "until": {"min_steps": 50, "calls": 30}}
    again = load_config(PosttrainConfig, given)
    assert again.model_dump(mode="json") == given
    assert [one.diversity_filter is None for one in again.in_stages] == [False, True, False]
