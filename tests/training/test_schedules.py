"""Schedules of tau and beta: their values, what the target makes of them, and that runs go on."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_curriculum import CONFIG

from chemkl.config import InputError, load_config
from chemkl.config.posttrain import PosttrainConfig
from chemkl.losses.targets import Mara, moved
from chemkl.results import Manifest, read_trace
from chemkl.stages import posttrain
from chemkl.training.schedules import Schedule

STAIRS = {"kind": "staircase", "by": "calls", "at": [20, 60], "values": [0.5, 0.55]}


@pytest.fixture
def config(tiny_prior):
    return CONFIG | {"prior": str(tiny_prior), "diversity_filter": None}


def target_of(config, **schedule):
    target = {"kind": "mara", "beta": 0.05, "tau": 0.45, "schedule": schedule}
    return load_config(PosttrainConfig, config | {"target": target}).target


def rows_of(step, paid, n_calls, hits=()):
    """A step that pays so; the first so many rows are calls, and rows replayed change nothing."""
    rows = pd.DataFrame({"step": step, "reward_filtered": [*paid, 0.99], "hit": False})
    rows["call"] = [1.0 if n < n_calls else np.nan for n in range(len(rows))]
    rows.loc[list(hits), "hit"] = True
    return rows.assign(is_replay=rows.index == len(rows) - 1)


PAID = [[0.1, 0.5, 0.9], [0.7, 0.8, 0.6], [0.0, 0.1, 0.2], [0.9, 0.9, 0.9]]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"kind": "staircase", "by": "steps", "at": [1, 3], "values": [0.6, 0.5]},
         [0.45, 0.6, 0.6, 0.5, 0.5]),
        ({"kind": "staircase", "at": [2, 3], "values": [0.6, 0.7]}, [0.45, 0.6, 0.7, 0.7, 0.7]),
        ({"kind": "quantile", "quantile": 0.5, "steps": 1}, [0.45, 0.5, 0.7, 0.7, 0.9]),
        ({"kind": "quantile", "quantile": 0.5, "steps": 2},
         [0.45, 0.5, np.median(PAID[0] + PAID[1]), 0.65, 0.65]),
        ({"kind": "quantile", "quantile": 0.5, "steps": 1, "most": 0.6},
         [0.45, 0.5, 0.6, 0.6, 0.6]),
        # hits that are calls: none, .7 and .8, none, .9
        ({"kind": "quantile", "quantile": 0.5, "over": "hits"}, [0.45, 0.45, 0.75, 0.75, 0.8]),
    ],
)  # fmt: skip
def test_values_by_their_formulas(config, schedule, expected):
    made, values = Schedule(target_of(config, tau=schedule)), []
    calls, hits = [2, 2, 0, 1], [[2], [0, 1, 2], [], [0, 1]]
    for step, paid in enumerate(PAID):
        values.append(made.values["tau"])
        made.add(rows_of(step, paid, calls[step], hits[step]))
    np.testing.assert_allclose([*values, made.values["tau"]], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("anchor", ["batch", "running"])
def test_the_target_of_each_step_has_them_and_a_run_goes_on(config, tmp_path, anchor):
    schedule = {"tau": STAIRS, "beta": {"kind": "staircase", "at": [60], "values": [0.02]}}
    target = {"kind": "mara", "beta": 0.05, "tau": 0.45, "anchor": anchor, "schedule": schedule}
    config |= {"target": target}
    posttrain.run(config, tmp_path / "whole")
    trace = read_trace(tmp_path / "whole")
    spent = trace.groupby("step")["call"].count().cumsum().shift(fill_value=0)
    calls = trace["step"].map(spent)
    stairs = [calls < 20, calls < 60]
    np.testing.assert_array_equal(trace["tau"], np.select(stairs, [0.45, 0.5], 0.55))
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
            expected = z["logp_ref"] + z["reward_filtered"] / z["beta"]
            assert abs(z["log_target"] - expected) < 1e-4
    assert Manifest.load(tmp_path / "whole").tau == 0.55
    for budget in (37, 70, 120):
        posttrain.run(config | {"budget": budget}, tmp_path / "parts")
    pd.testing.assert_frame_equal(read_trace(tmp_path / "parts"), trace, check_exact=True)


def test_a_running_anchor_is_a_hit_of_the_risen_tau(config, tmp_path):
    schedule = {"tau": {"kind": "staircase", "by": "steps", "at": [3], "values": [0.56]}}
    target = {"kind": "mara", "beta": 0.05, "tau": 0.3, "anchor": "running", "schedule": schedule}
    config |= {"target": target | {"anchor_quantile": 0.9}, "learning_rate": 1e-5}
    posttrain.run(config, tmp_path)
    trace = read_trace(tmp_path)
    later = trace[(trace["step"] >= 3) & trace["hit"]]
    seen = trace[(trace["reward_filtered"] >= 0.56) & trace["valid"]]
    sums = seen["logp_ref"] + seen["reward_filtered"] / 0.05
    assert len(later)
    for level in later["log_target"].unique():
        assert (sums - level).abs().min() < 1e-3


def test_what_a_running_anchor_forgets_it_learns_again_also_when_restored():
    target, other = (Mara(beta=0.1, tau=0.2, anchor="running") for _ in range(2))
    batch = torch.tensor([-3.0, -5.0, -4.0]), torch.tensor([0.3, 0.9, 0.6], dtype=torch.float64)
    target(*batch)
    risen = moved(target, tau=0.5)
    other.load_state_dict(risen.state_dict())
    for one in (moved(risen, tau=0.2), other):
        assert one.running.state_dict()["reward"].tolist() == [0.9, 0.6]
        one(*batch)
        assert one.running.state_dict()["reward"].tolist() == [0.9, 0.6, 0.3]


def test_stages_count_from_their_own_beginning(config, tmp_path):
    by_steps = {"kind": "staircase", "by": "steps", "at": [2], "values": [0.5]}
    mara = {"kind": "mara", "beta": 0.05, "tau": 0.4, "schedule": {"tau": by_steps}}
    gibbs = {"kind": "gibbs", "beta": 0.05}
    stages = [{"until": {"samples": 48}, "target": gibbs}, {"target": mara}]
    posttrain.run(config | {"stages": stages, "estimator": "rloo"}, tmp_path)
    tau = read_trace(tmp_path).groupby("step")["tau"].first()
    assert tau[:3].isna().all()
    assert tau[3:].tolist() == [0.4, 0.4] + [0.5] * (len(tau) - 5)


GIBBS = {"kind": "gibbs", "beta": 0.1}
MARA = {"kind": "mara", "beta": 0.1, "tau": 0.5}


@pytest.mark.parametrize(
    ("target", "schedule", "says"),
    [
        (GIBBS, {"tau": STAIRS}, r"target\.schedule\.tau: the target gibbs has no tau here"),
        ({"kind": "mara", "beta": 0.1, "tau_quantile": 0.9, "tau_floor": 0.1}, {"tau": STAIRS},
         r"target\.schedule\.tau: the target mara has no tau here"),
        (MARA, {"tua": STAIRS}, r"target\.schedule\.tua: not a known key; did you mean 'tau'"),
        (MARA, {"tau": STAIRS | {"values": [0.5]}}, r"tau\.values: 1 values for 2 of at"),
        (MARA, {"tau": STAIRS | {"at": [60, 20]}}, r"tau\.at: should rise from one to the next"),
        (MARA, {"tau": STAIRS | {"values": [0.5, 1.5]}}, r"schedule\.tau: tau is 1\.5, but no rew"),
        (GIBBS, {"beta": STAIRS | {"values": [0.1, 0]}}, r"schedule\.beta: beta must be .* above"),
        (MARA, {"beta": {"kind": "quantile"}}, r"schedule\.beta.*'quantile' is not known"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_clear_error(config, target, schedule, says):
    with pytest.raises(InputError, match=says) as error:
        load_config(PosttrainConfig, config | {"target": target | {"schedule": schedule}})
    assert len(str(error.value).splitlines()) == 1


def test_targets_without_a_schedule_are_known_as_before(config):
    for target in (GIBBS, MARA):
        dumped = load_config(PosttrainConfig, config | {"target": target}).model_dump(mode="json")
        assert "schedule" not in dumped["target"]
