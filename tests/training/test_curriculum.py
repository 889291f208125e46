"""The course of a run: schedules, conditions that end it, stages; each the same after kills."""

import json
from contextlib import redirect_stderr
from io import StringIO

import numpy as np
import pandas as pd
import pytest
import torch

from chemkl.config import InputError, load_config
from chemkl.config.evaluate import MetricOptions
from chemkl.config.posttrain import CallbacksConfig, PosttrainConfig, TerminationConfig
from chemkl.evaluation.metrics import evaluate
from chemkl.evaluation.samples import from_trace
from chemkl.losses.targets import Mara, moved
from chemkl.policies import load_policy
from chemkl.results import Manifest, read_trace
from chemkl.results.inspection import count
from chemkl.results.manifest import read_log
from chemkl.rewards import RewardModel
from chemkl.stages import posttrain
from chemkl.training.curriculum import Schedule, Termination

TPSA = {"components": [{"kind": "tpsa", "transform": {"kind": "sigmoid", "low": 0, "high": 60}}]}
QED = {"components": [{"kind": "qed"}]}
GIBBS = {"kind": "gibbs", "beta": 0.1}
MARA = {"kind": "mara", "beta": 0.1, "tau": 0.5}
STAIRS = {"kind": "staircase", "by": "calls", "at": [20, 60], "values": [0.5, 0.55]}
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
    "diversity_filter": {"kind": "murcko", "bucket": 5, "min_score": 0.3},
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


def run(config, out, budgets=()):
    """The trace of a run, made longer from budget to budget."""
    for budget in budgets or [config["budget"]]:
        posttrain.run(config | {"budget": budget}, out)
    return read_trace(out)


def same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=True)


# ---- schedules


def with_schedule(schedule, **target):
    return {"target": {"kind": "mara", "beta": 0.05, "tau": 0.45, "schedule": schedule} | target}


REWARDS = [[0.1, 0.5, 0.9], [0.7, 0.8, 0.6], [0.0, 0.1, 0.2], [0.9, 0.9, 0.9]]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"kind": "staircase", "by": "steps", "at": [1, 3], "values": [0.6, 0.5]},
         [0.45, 0.6, 0.6, 0.5, 0.5]),
        ({"kind": "staircase", "at": [2, 3], "values": [0.6, 0.7]}, [0.45, 0.6, 0.7, 0.7, 0.7]),
        ({"kind": "quantile", "quantile": 0.5, "steps": 1}, [0.45, 0.5, 0.7, 0.7, 0.9]),
        ({"kind": "quantile", "quantile": 0.5, "steps": 2},
         [0.45, 0.5, np.median(REWARDS[0] + REWARDS[1]), 0.65, 0.65]),
        ({"kind": "quantile", "quantile": 0.5, "steps": 1, "most": 0.6},
         [0.45, 0.5, 0.6, 0.6, 0.6]),
        # hits that are calls: none, .7 and .8, none, .9
        ({"kind": "quantile", "quantile": 0.5, "over": "hits"}, [0.45, 0.45, 0.75, 0.75, 0.8]),
    ],
)  # fmt: skip
def test_schedules_follow_their_formulas(config, schedule, expected):
    target = load_config(PosttrainConfig, config | with_schedule({"tau": schedule})).target
    tau = Schedule(target)
    values = [tau.values["tau"]]
    n_calls, hits = [2, 2, 0, 1], [[2], [0, 1, 2], [], [0, 1]]
    for step, rewards in enumerate(REWARDS):
        rows = pd.DataFrame({"step": step, "reward_filtered": [*rewards, 0.99], "hit": False})
        rows["call"] = [1.0 if n < n_calls[step] else np.nan for n in range(4)]
        rows.loc[hits[step], "hit"] = True
        tau.add(rows.assign(is_replay=[False, False, False, True]))  # a replayed row is ignored
        values.append(tau.values["tau"])
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("anchor", ["batch", "running"])
def test_each_step_uses_its_scheduled_target_and_a_run_resumes(config, tmp_path, anchor):
    schedule = {"tau": STAIRS, "beta": {"kind": "staircase", "at": [60], "values": [0.02]}}
    config |= with_schedule(schedule, anchor=anchor) | {"diversity_filter": None}
    trace = run(config, tmp_path / "whole")
    calls = trace.groupby("step")["call"].count().cumsum().shift(fill_value=0)
    calls = trace["step"].map(calls)
    expected = np.select([calls < 20, calls < 60], [0.45, 0.5], 0.55)
    np.testing.assert_array_equal(trace["tau"], expected)
    np.testing.assert_array_equal(trace["beta"], np.where(calls < 60, 0.05, 0.02))
    assert trace["tau"].nunique() == 3
    assert (trace["hit"] == (trace["reward_filtered"] >= trace["tau"])).all()
    assert trace["hit"].groupby(trace["tau"]).any().all()
    others = trace[~trace["hit"]]
    gibbs = others["logp_ref"] + others["reward_filtered"] / others["beta"]
    assert (others["log_target"] - gibbs).abs().max() < 1e-4
    for _, hits in trace[trace["hit"]].groupby("step"):
        assert hits["log_target"].nunique() == 1
        if anchor == "batch":
            z = hits.loc[hits["logp_ref"].idxmax()]
            log_target = z["logp_ref"] + z["reward_filtered"] / z["beta"]
            assert abs(z["log_target"] - log_target) < 1e-4
    assert Manifest.load(tmp_path / "whole").tau == 0.55
    same(run(config, tmp_path / "parts", (37, 70, 120)), trace)


def test_a_running_anchor_is_a_hit_of_the_risen_tau(config, tmp_path):
    schedule = {"tau": {"kind": "staircase", "by": "steps", "at": [3], "values": [0.56]}}
    config |= with_schedule(schedule, tau=0.3, anchor="running", anchor_quantile=0.9)
    trace = run(config | {"learning_rate": 1e-5, "diversity_filter": None}, tmp_path)
    later = trace[(trace["step"] >= 3) & trace["hit"]]
    candidates = trace[(trace["reward_filtered"] >= 0.56) & trace["valid"]]
    sums = candidates["logp_ref"] + candidates["reward_filtered"] / 0.05
    assert len(later)
    for level in later["log_target"].unique():
        assert (sums - level).abs().min() < 1e-3


def test_a_running_anchor_relearns_what_a_higher_tau_made_it_forget():
    target, restored = (Mara(beta=0.1, tau=0.2, anchor="running") for _ in range(2))
    batch = torch.tensor([-3.0, -5.0, -4.0]), torch.tensor([0.3, 0.9, 0.6], dtype=torch.float64)
    target(*batch)
    risen = moved(target, tau=0.5)
    restored.load_state_dict(risen.state_dict())
    for again in (moved(risen, tau=0.2), restored):
        assert again.running.state_dict()["reward"].tolist() == [0.9, 0.6]
        again(*batch)
        assert again.running.state_dict()["reward"].tolist() == [0.9, 0.6, 0.3]


def test_schedules_count_from_the_beginning_of_their_stage(config, tmp_path):
    by_steps = {"kind": "staircase", "by": "steps", "at": [2], "values": [0.5]}
    second = with_schedule({"tau": by_steps}, tau=0.4)
    stages = [{"until": {"samples": 48}, "target": GIBBS}, second]
    trace = run(config | {"stages": stages, "estimator": "rloo"}, tmp_path)
    tau = trace.groupby("step")["tau"].first()
    assert tau[:3].isna().all()
    assert tau[3:].tolist() == [0.4, 0.4] + [0.5] * (len(tau) - 5)


# ---- termination


def rows_of(steps):
    """Rows of steps by their rewards; a reward of 0 is a repeat, of 1 a hit."""
    rewards = [(number, reward) for number, step in enumerate(steps) for reward in step]
    rows = pd.DataFrame(rewards, columns=["step", "reward_filtered"])
    rows["call"] = rows["reward_filtered"].gt(0).cumsum().where(rows["reward_filtered"] > 0)
    rows["canonical_smiles"] = ["C" * (i + 1) for i in range(len(rows))]
    rows.loc[rows["reward_filtered"] == 0, "canonical_smiles"] = "C"
    rows["hit"] = rows["reward_filtered"] == 1
    return rows.assign(valid=True, scaffold="", is_replay=False)


MEANS = [[0.1, 0.5], [0.5, 0.5], [0.4, 0.4], [1.0, 0.2], [0.0, 0.0]]  # .3 .5 .4 .6 0
RISES = [[0.1, 0.2], [0.2, 0.4], [0.0, 0.4], [1.0, 0.0], [1.0, 0.4], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("steps", "limits", "last"),
    [
        *(
            (MEANS, {"mean_reward": mean, "min_steps": n}, last)
            for mean, n, last in [
                (0.5, 0, 1), (0.5, 2, 1), (0.5, 3, 3), (0.6, 0, 3), (0.8, 0, None), (0.5, 9, None),
            ]
        ),
        (RISES, {"calls": 7}, 4),  # 2 4 5 6 8: the step that reaches it is completed
        (RISES, {"samples": 6}, 2),
        (RISES, {"hits": 2}, 4),
        (RISES, {"hits": 3}, None),
        # means .15 .3 .2 .5 .7 0 0, of two steps .225 .25 .35 .6 .35 0
        (RISES, {"plateau": {"steps": 1, "gain": 0.1}, "min_steps": 0}, 2),
        (RISES, {"plateau": {"steps": 1, "gain": 0.1}, "min_steps": 4}, 5),
        (RISES, {"plateau": {"steps": 2, "gain": 0.1}, "min_steps": 0}, 5),
        (RISES, {"plateau": {"steps": 2, "gain": 0.0}, "min_steps": 0}, 5),
        (RISES, {"collapse": {"window": 4, "duplicate_rate": 0.5}}, 6),  # the newest: .4 0 0 0
        (RISES, {"calls": 7, "hits": 1}, 3),
    ],
)  # fmt: skip
def test_the_first_step_that_meets_a_condition_ends_the_run(steps, limits, last):
    rows, config = rows_of(steps), TerminationConfig(**limits)
    step_by_step, at_once = Termination(config), Termination(config)
    ended = []
    for step in range(len(steps)):
        step_by_step.restore(rows[rows["step"] == step])
        ended.append(step_by_step.ends_the_run)
    assert ended == [last is not None and step >= last for step in range(len(steps))]
    at_once.restore(rows)
    assert at_once.ended_by == step_by_step.ended_by
    assert at_once.counts == step_by_step.counts
    assert at_once.ended_by in ({""} if last is None else {*limits} - {"min_steps"})
    assert at_once.counts["steps"] == (len(steps) if last is None else last + 1)


def test_seeds_of_a_memory_count_as_calls_only():
    rows = rows_of([[0.1, 0.2], [0.3, 0.4]])
    rows.loc[0, "is_replay"] = True
    termination = Termination(TerminationConfig(calls=4))
    termination.restore(rows)
    assert termination.ended_by == "calls"
    assert termination.counts == {"steps": 2, "calls": 4, "samples": 3, "hits": 0}


def test_a_terminated_run_is_complete_and_is_the_same_after_kills(collapsing, tmp_path, killed):
    callbacks = CONFIG["callbacks"]
    posttrain.run(collapsing | {"callbacks": callbacks}, tmp_path / "long")
    longer = read_trace(tmp_path / "long")
    means = longer.groupby("step")["reward_filtered"].mean()
    last = means.index[(means.index >= 6) & (means >= means[6:].median())][0]
    limit = {"terminate": {"mean_reward": float(means[last]), "min_steps": 7}}
    config = collapsing | {"callbacks": callbacks | limit}
    posttrain.run(config, tmp_path / "whole")
    killed(config, tmp_path / "killed", 5, last, "policy")
    posttrain.run(config, tmp_path / "killed")
    whole, again = (json.loads((tmp_path / name / "manifest.json").read_text())
                    for name in ("whole", "killed"))  # fmt: skip
    assert (whole["status"], whole["ended_by"]) == ("complete", "mean_reward")
    for key in ("status", "ended_by", "results", "config_hash"):
        assert again[key] == whole[key]
    trace = read_trace(tmp_path / "whole")
    assert trace["step"].max() == last < 19
    same(trace, longer[: len(trace)])
    same(read_trace(tmp_path / "killed"), trace)


# ---- stages


@pytest.fixture(scope="module")
def finished(tiny_prior, tmp_path_factory):
    """The folder of a run of three stages, and what it printed."""
    out, printed = tmp_path_factory.mktemp("run") / "out", StringIO()
    config = {"prior": str(tiny_prior), **CONFIG, "stages": STAGES}
    config["callbacks"] = CONFIG["callbacks"] | {"progress_bar": True}
    with redirect_stderr(printed):
        posttrain.run(config, out)
    return out, printed.getvalue().splitlines()


def test_stages_follow_each_other_and_the_budget_is_exact(finished):
    trace, manifest = read_trace(finished[0]), Manifest.load(finished[0])
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
    logged = [event["text"] for event in read_log(finished[0]) if event["event"] == "stage"]
    first = f"stage polar ended by samples after 4 steps, {calls[1]} calls; stage 2 begins"
    assert logged[0] == first
    assert len(logged) == 2


def test_a_molecule_costs_one_call_for_each_reward(finished):
    trace = read_trace(finished[0])
    paid = trace[trace["call"].notna()]
    assert paid.groupby("final_reward")["canonical_smiles"].apply(lambda s: s.is_unique).all()
    first, later = (paid["canonical_smiles"][paid["final_reward"] == final] for final in (0, 1))
    assert {*first} & {*later}
    assert (trace["final_reward"] == (trace["stage"] > 1)).all()
    for reward, stage in ((TPSA, trace["stage"] == 1), (QED, trace["stage"] > 1)):
        expected = RewardModel.from_config(reward).score(trace["smiles"][stage])["reward"]
        whole = ~trace["reason"][stage].fillna("").str.startswith("truncated").to_numpy()
        assert trace["reward"][stage][whole].tolist() == expected[whole].tolist()
        raw, other = ("raw_tpsa", "raw_qed") if reward is TPSA else ("raw_qed", "raw_tpsa")
        assert trace[raw][stage & trace["valid"]].notna().all()
        assert trace[other][stage].isna().all()


def test_each_stage_has_its_own_target_and_filter(finished):
    trace = read_trace(finished[0])
    first, second = (trace[trace["stage"] == stage] for stage in (1, 2))
    gibbs = first["logp_ref"] + first["reward_filtered"] * 20
    assert (first["log_target"] - gibbs).abs().max() < 1e-4
    assert not first["hit"].any()
    assert (trace["hit"] == (trace["reward_filtered"] >= 0.45))[trace["stage"] > 1].all()
    assert second["reward_filtered"].tolist() == second["reward"].tolist()
    for stage in (1, 3):  # each filter counts from the beginning of its stage
        rows = trace[(trace["stage"] == stage) & (trace["reward"] >= 0.3)]
        place = rows.groupby("scaffold").cumcount()
        assert rows["reward_filtered"].tolist() == rows["reward"].where(place < 5, 0.0).tolist()
        assert (place >= 5).any()


def test_a_run_is_judged_by_its_last_reward(finished):
    out, printed = finished
    trace, manifest = read_trace(out), Manifest.load(out)
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
    narrow = read_trace(out, ["call", "final_reward"])
    assert narrow["final_reward"].tolist() == trace["final_reward"].tolist()
    *_, bar = [line for line in printed if line.startswith("posttrain:")]
    assert f", {len(hits)} hits, " in bar
    assert " scaffolds by the reward of the last stage, " in bar
    last = f": {len(hits)} hits (R >= 0.45, by the reward of the last stage), best reward"
    assert [line for line in printed if last in line]


def test_stages_that_change_nothing_make_the_run_without_them(config, tmp_path):
    config |= {"estimator": "trajectory_balance", "target": {"kind": "gibbs", "beta": 0.05}}
    one = run(config, tmp_path / "one")
    equal_stages = [{"until": {"samples": 48}}, {"keep_filter": True}]
    two = run(config | {"stages": equal_stages}, tmp_path / "two")
    assert two["stage"].nunique() == 2
    same(one, two[one.columns])
    with pytest.raises(InputError, match="no column"):
        read_trace(tmp_path / "one", ["nothing"])
    assert read_trace(tmp_path / "one", ["call", "stage"]).columns.tolist() == ["call"]


def test_a_stage_keeps_policy_and_optimiser_and_has_its_own_learning_rate(config, tmp_path):
    config["learning_rate"] = 1e-12  # in effect no learning
    stages = [{"until": {"samples": 32}}, {"learning_rate": 1e-2, "until": {"samples": 32}}, {}]
    trace = run(config | {"stages": stages}, tmp_path)
    change = (trace["logp_policy"] - trace["logp_ref"]).abs().groupby(trace["step"]).max()
    assert change[:3].max() < 1e-3 < 1e-2 < change[3]
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    adam, n_updates = saved["optimizer_states"][0], trace.groupby("step").size().eq(16).sum()
    assert {int(state["step"]) for state in adam["state"].values()} == {n_updates}
    policy = load_policy(tmp_path / "checkpoints" / "policy.safetensors")
    last = trace[(trace["step"] == 4) & trace["valid"]]
    logp = policy.logp(last["smiles"].tolist())  # stage 3 does not move it
    expected = torch.tensor(last["logp_policy"].to_numpy())
    torch.testing.assert_close(logp.detach(), expected, rtol=0, atol=1e-3)


def test_the_last_stage_ends_the_run_and_a_larger_budget_changes_nothing(config, tmp_path):
    stages = [{"until": {"samples": 32}}, {"until": {"hits": 9, "collapse": {}}}]
    for budget in (120, 150):
        posttrain.run(config | {"stages": stages, "budget": budget}, tmp_path)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        assert (manifest["status"], manifest["ended_by"]) == ("complete", "hits")
        assert [s["ended_by"] for s in manifest["results"]["stages"]] == ["samples", "hits"]


def test_a_run_cut_short_by_its_budget_continues_as_a_longer_one(config, tmp_path):
    stages = [STAGES[0], {"until": {"calls": 30}, "estimator": "msc"}, {}]
    config |= {"stages": stages}
    whole = run(config, tmp_path / "whole")
    same(run(config, tmp_path / "parts", (40, 77, 120)), whole)  # within stages 1 and 2


def test_replayed_rows_have_the_reward_of_their_stage(config, tmp_path):
    stages = [STAGES[0], {"until": {"calls": 25}}, {"keep_filter": True, "learning_rate": 1e-3}]
    config |= {"stages": stages, "memory": {"rows": 4}}
    trace = run(config, tmp_path / "whole")
    assert trace["call"].dropna().tolist() == list(range(1, 121))
    for stage in (1, 2, 3):
        rows = trace[trace["stage"] == stage]
        replayed = rows[rows["is_replay"]]
        assert len(replayed)
        rewards = {**trace[~trace["is_replay"] & (trace["final_reward"] == (stage > 1))]
                   .set_index("canonical_smiles")["reward"]}  # fmt: skip
        assert replayed["reward"].tolist() == [rewards[s] for s in replayed["canonical_smiles"]]
        first = rows[rows["step"] == rows["step"].min()]
        assert first["is_replay"].any() == (stage == 3)  # stage 3 keeps the memory of stage 2
    same(run(config, tmp_path / "parts", (45, 77, 120)), trace)


# ---- settings

NO_STAIRS = {"kind": "mara", "beta": 0.1, "tau_quantile": 0.9, "tau_floor": 0.1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": []}, r"stages: .*at least 1"),
        ({"stages": [{}, {}]}, r"stages\.0\.until: required, and not given"),
        ({"stages": [{"untill": {}}, {}]}, r"stages\.0\.untill: not a known key; .*'until'\?"),
        ({"stages": [{"until": {"cals": 3}}]}, r"until\.cals: not a known key; .*'calls'\?"),
        ({"stages": [{"until": {}}]}, r"stages\.0\.until: nothing ends it: give one or more of"),
        ({"stages": [{"until": {"hits": 3}, "target": {"kind": "gibbs", "beta": 1}}]},
         r"stages\.0\.until\.hits: the target gibbs has no hits"),
        ({"stages": [{"keep_filter": True}]}, r"stages\.0\.keep_filter: the previous stage"),
        ({"stages": [{"estimator": "reinvent", "target": {"kind": "filter", "tau": 0.5}}]},
         r"stages\.0\.estimator: estimator 'reinvent' cannot be used with the target 'filter'"),
        ({"stages": [{"reward": {"components": [{"kind": "qet"}]}}]},
         r"^stages\.0\.reward: components\.0\.kind: unknown component 'qet'; did you mean 'qed'"),
        ({"stages": [{"until": {"hits": 3}}, {"name": "1"}]},
         r"stages\.1\.name: '1' is the name of stages\.0: choose another name"),
        ({"stages": [{"name": "a b"}]}, r"in letters, digits and any of _\.-; default"),
        ({"stages": [{}], "callbacks": {"terminate": {"hits": 1}}},
         r"callbacks\.terminate: with stages, until of the last stage ends the run"),
        ({"callbacks": {"terminate": {"mean_reward": 1.5}}},
         r"terminate\.mean_reward: should be less than or equal to"),
        ({"callbacks": {"terminate": {"min_steps": 5}}},
         r"terminate: nothing ends it: give one or more of"),
        *(({"target": target | {"schedule": schedule}}, r"target\.schedule" + message)
          for target, schedule, message in [
            (MARA, {}, r": empty: give tau or beta, or leave schedule out"),
            (MARA, {"tau": {"kind": "quantile", "over": "hits", "steps": 5}},
             r"\.tau\.steps: has no effect with over: hits"),
            (MARA, {"tau": {"kind": "quantile", "most": 0.4}},
             r"\.tau\.most: 0\.4 is not above tau = 0\.5 of the target: tau would never"),
            (GIBBS, {"tau": STAIRS}, r"\.tau: the target gibbs has no tau: give"),
            (NO_STAIRS, {"tau": STAIRS}, r"\.tau: the target mara has no tau: give"),
            (MARA, {"tua": STAIRS}, r"\.tua: not a known key; did you mean 'tau'"),
            (MARA, {"tau": STAIRS | {"values": [0.5]}}, r"\.tau\.values: 1 values for 2 in at"),
            (MARA, {"tau": STAIRS | {"at": [60, 20]}}, r"\.tau\.at: must be in rising order"),
            (MARA, {"tau": STAIRS | {"values": [0.5, 1.5]}}, r"\.tau: tau is 1\.5, but no rew"),
            (GIBBS, {"beta": STAIRS | {"values": [0.1, 0]}}, r"\.beta: beta must be .* above"),
            (MARA, {"beta": {"kind": "quantile"}}, r"\.beta.*'quantile' is not known"),
        ]),
    ],
)  # fmt: skip
def test_an_invalid_setting_is_one_line_and_makes_no_folder(config, tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as error:
        posttrain.run(config | changes, tmp_path / "run")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_identity_of_a_run_has_only_the_options_in_use(config):
    def dumped(**changes):
        return load_config(PosttrainConfig, config | changes).model_dump(mode="json")

    assert "stages" not in dumped()
    assert "terminate" not in CallbacksConfig().model_dump(mode="json")
    for target in (GIBBS, MARA):
        assert "schedule" not in dumped(target=target)["target"]
    terminate = CallbacksConfig(terminate=TerminationConfig(mean_reward=0.5))
    in_identity = terminate.model_dump(mode="json")["terminate"]
    assert in_identity == {"mean_reward": 0.5, "min_steps": 50}
    staged = dumped(stages=STAGES)
    assert staged["stages"][1] == {
        "diversity_filter": None,
        "until": {"min_steps": 50, "calls": 30},
    }
    again = load_config(PosttrainConfig, staged)
    assert again.model_dump(mode="json") == staged
    assert [stage.diversity_filter is None for stage in again.in_stages] == [False, True, False]
