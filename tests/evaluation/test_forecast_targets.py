"""Rows and sentences of a forecast, and its comparison with trained runs."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter
from rich.console import Console

from chemkl.config import InputError, load_config
from chemkl.config.evaluate import ForecastConfig
from chemkl.config.objective import TargetConfig
from chemkl.config.reward import RewardConfig
from chemkl.evaluation.forecast import Points, describe
from chemkl.evaluation.forecast_targets import (
    COMPARED,
    TrainedRun,
    build_target,
    compare,
    expected_values,
    forecast_targets,
    number,
    points_of,
    read_runs,
    run_labels,
    run_sentences,
    run_table,
    target_label,
    target_table,
    tau_of,
)
from chemkl.losses import Gibbs, Mara
from chemkl.results import read_trace
from chemkl.results.inspection import valid_rows

SETTINGS = {
    "reward": {"components": [{"kind": "qed"}]},
    "target": {"kind": "mara", "sigma": 128, "tau": 0.9},
}
FILTER = {"target": {"kind": "filter", "tau": 0.9}, "estimator": "alpha_dpg"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    prior = tmp_path_factory.mktemp("prior") / "prior.bin"
    prior.touch()

    def load(**changes):
        return load_config(ForecastConfig, SETTINGS | {"prior": prior} | changes)

    return load


def sampled(n=2000, seed=0, best=1.0):
    """Draws with log-probabilities as spread as a real prior's, on 40 scaffolds."""
    rng = np.random.default_rng(seed)
    scaffold = [f"S{i}" for i in rng.geometric(0.1, n) % 40]
    return Points(rng.normal(-25, 5, n), best * rng.beta(4, 2, n), scaffold)


@pytest.fixture(scope="module")
def forecast(config):
    return forecast_targets(config(), sampled())


def row_of(forecast, kind, sigma, tau=0.9):
    rows = [r for r in forecast.rows if (r["target"], r["tau"]) == (kind, tau)]
    (row,) = [r for r in rows if r["sigma"] == pytest.approx(sigma)]
    return row


# ---- rows


def test_one_row_for_each_kind_beta_and_tau_and_the_prior(config):
    forecast = forecast_targets(config(taus=[0.8, 0.7]), sampled())
    taus, sigmas = (0.7, 0.8, 0.9), (8, 32, 128, 512)  # the config's own tau comes with the list
    assert len(forecast.rows) == len(taus) * (1 + 2 * len(sigmas))
    own = [(r["target"], round(r["sigma"]), r["tau"]) for r in forecast.rows if r["own"]]
    assert own == [("mara", 128, 0.9)]
    for kind, sigma, tau in product(("gibbs", "mara"), sigmas, taus):
        assert row_of(forecast, kind, sigma, tau)


def test_config_target_is_forecast_with_its_options(config):
    points = sampled()
    row = row_of(forecast_targets(config(**FILTER, betas=[1.0]), points), "filter", 1.0)
    assert row["ess"] == pytest.approx((points.reward_N >= 0.9).sum())
    assert row["hit_share"] == pytest.approx(1)
    assert row["sentence"].startswith("At tau 0.9 the filter target puts")
    settings = config(target=SETTINGS["target"] | {"alpha": 0.5, "cap": 3.0}).target
    mara = Mara(beta=0.1, tau=0.7, alpha=0.5, cap=3.0)
    assert build_target(settings, "mara", 0.1, 0.7) == mara
    assert build_target(settings, "gibbs", 0.1, 0.7) == Gibbs(beta=0.1)
    # a tau quantile is that of the samples, but at least the floor
    for floor, expected in ((0.1, float(np.quantile(points.reward_N, 0.9))), (0.99, 0.99)):
        target = {"kind": "mara", "beta": 0.1, "tau_quantile": 0.9, "tau_floor": floor}
        settings = config(target=target)
        assert tau_of([settings.target], points, settings) == pytest.approx(expected)
    gibbs = config(target={"kind": "gibbs", "beta": 1}, taus=[0.5, 0.6])
    assert tau_of([gibbs.target], points, gibbs) == 0.5


# ---- sentences


def test_sentences_have_the_values_of_their_rows(config, forecast):
    row = row_of(forecast, "gibbs", 8)
    assert row["trusted"]
    assert row["sentence"] == (
        f"At sigma 8 the gibbs target puts {row['top_share']:.1%} on one scaffold "
        f"({row['top_scaffold']}); its effective number of scaffolds is at least "
        f"{row['effective_scaffolds']:.1f}, and {row['hit_share']:.1%} of its mass is on hits "
        "(R >= 0.9)."
    )
    # a low effective sample size
    row = row_of(forecast, "mara", 128)
    assert row["ess"] < 100
    assert (row["trusted"], row["top_share_error"]) == (False, None)
    size = f"Unreliable: the effective sample size is {row['ess']:.1f} of 2,000"
    assert size in row["sentence"]
    assert row["sentence"] in forecast.sentences
    assert row_of(forecast, "gibbs", 8)["top_share_error"] > 0
    lenient = row_of(forecast_targets(config(min_ess=1), sampled()), "mara", 128)
    assert lenient["trusted"] is True
    assert "Unreliable" not in lenient["sentence"]


def test_without_a_hit_mara_is_not_estimated(config):
    forecast = forecast_targets(config(), sampled(best=0.8))
    row = row_of(forecast, "mara", 8)
    assert row["trusted"] is False
    assert row["sentence"].startswith("No sample of the prior is a hit, R >= 0.9 (95 % interval")
    assert forecast.sentences.count(row["sentence"]) == 1
    assert row_of(forecast, "gibbs", 8)["trusted"] is True
    nothing = forecast_targets(config(**FILTER), sampled(best=0.8))
    assert row_of(nothing, "filter", 1.0).get("ess") is None


def test_without_a_hit_a_tau_is_suggested(config):
    for rewards, advice in (
        # of 200 samples with rewards 0.0004, 0.0008, ... 0.08 the best 1 % are the last two
        (
            np.arange(1, 201) * 0.0004,
            "highest reward is 0.08, and the top 1 % of the samples reach 0.0792: set tau near "
            "that.",
        ),
        (
            np.r_[0.5, np.zeros(199)],
            "highest reward is 0.5; fewer than 1 % of the samples have a reward above 0.",
        ),
        (np.zeros(200), "The reward of every sample is 0."),
    ):
        points = Points(np.full(200, -20.0), rewards, ["A"] * 200)
        sentence = forecast_targets(config(), points).sentences[0]
        assert "the rows of mara equal those of gibbs" in sentence
        assert sentence.endswith(advice)


def test_mara_rows_that_do_not_depend_on_sigma_are_explained(config):
    """Among hits log(target / pi_ref) = lr(z) - lr + a constant: no sigma in it; so with tau."""

    def explained(points, **target):
        settings = config(target=SETTINGS["target"] | target, taus=[0.7])
        forecast = forecast_targets(settings, points)
        start = "At tau 0.7, 0.9 the mara rows of all sigmas are equal except for the bonus"
        return sum(s.startswith(start) for s in forecast.sentences), forecast

    n, forecast = explained(sampled())
    assert n == 1
    shares = [row_of(forecast, "mara", sigma)["top_share"] for sigma in (8, 512)]
    assert shares[0] == pytest.approx(shares[1], rel=1e-3)
    assert not explained(sampled(best=0.6))[0]  # no hit
    assert not explained(sampled(), reward_on_hits="own")[0]  # sigma ranks the hits
    # hits that are likely under the prior get little bonus, so that their total mass has sigma
    even = Points(np.full(1000, -20.0), np.linspace(0, 1, 1000), ["A", "B"] * 500)
    assert not explained(even)[0]


def test_crossovers_and_large_bonuses_are_reported(config, forecast):
    """A: 400 at R 0.5; B: 100 at R 0.7: equal at sigma = ln 4 / 0.2 = 6.9, +- 0.11 / 0.2 = 0.56."""
    rewards = np.r_[np.full(400, 0.5), np.full(100, 0.7)]
    points = Points(np.full(500, -20.0), rewards, ["A"] * 400 + ["B"] * 100)
    assert (
        "Below beta 0.14 (sigma 6.93 +- 0.56; family ESS 100) B has more of the gibbs target than "
        "A." in forecast_targets(config(), points).sentences
    )
    mara = [row for row in forecast.rows if row["target"] == "mara"]
    exceeds = [f"{r['sigma']:.4g}" for r in mara if r["bonus_largest"] > r["reward_range"]]
    assert exceeds
    assert exceeds != ["8", "32", "128", "512"]  # else the test shows nothing
    assert (
        f"At sigma {', '.join(exceeds)} the largest MARA bonus exceeds the range of the reward."
        in forecast.sentences
    )


def test_departures_from_the_target_are_reported(config, forecast):
    for changes, start in (
        ({"diversity_filter": "murcko"}, "The diversity filter removes rewards"),
        ({"estimator": "forward_kl"}, "The estimator forward_kl has a different optimum"),
        ({"shaper": "differential_smoothing"}, "The shaper differential_smoothing shifts"),
    ):
        changed = forecast_targets(config(**changes), sampled(200))
        assert any(s.startswith(start) for s in changed.sentences)
        assert not any(s.startswith(start) for s in forecast.sentences)


def printed(table):
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    return [line.split() for line in captured.get().splitlines()]


def test_prior_and_gibbs_have_one_line_with_the_hits_at_each_tau(config):
    points = sampled(1999)
    lines = printed(target_table(forecast_targets(config(taus=[0.8]), points).rows))
    (head,) = [line for line in lines if "target" in line and "ESS" in line]
    assert [label for label in head if label.startswith(">=")] == [">=0.8", ">=0.9"]
    (prior,) = [line for line in lines if line[:1] == ["prior"]]
    low, high = (f"{(points.reward_N >= tau).mean():.1%}" for tau in (0.8, 0.9))
    at = prior.index(low)
    assert prior[at : at + 2] == [low, high]
    assert [line[1] for line in lines if line[:1] == ["gibbs"]] == ["8", "32", "128", "512"]
    assert len([line for line in lines if line[:1] == ["mara"]]) == 8
    many = forecast_targets(config(taus=[0.5, 0.6, 0.7, 0.8]), sampled())
    lines = printed(target_table(many.rows))
    assert len([line for line in lines if line[:1] == ["prior"]]) == 5


# ---- comparison with runs


def test_expected_values_are_means_over_sets_of_n_samples():
    """An equal share on each of 200 scaffolds: against 500 sets of 100 draws."""
    points = Points(np.full(200, -20.0), np.full(200, 0.9), [f"S{i}" for i in range(200)])
    values = expected_values(points, points.prior_N, 0.8, 100, seed=0)
    rng = np.random.default_rng(1)
    direct = []
    for _ in range(500):
        counts = np.bincount(rng.integers(200, size=100))
        p = counts[counts > 0] / 100
        direct.append((p.max(), np.exp(-(p * np.log(p)).sum())))
    top, effective = np.mean(direct, axis=0)
    # 50 redraws: the standard errors are 0.0009 and 0.5
    assert values["top_share"] == pytest.approx(top, abs=0.004)
    assert values["effective_scaffolds"] == pytest.approx(effective, abs=2.5)
    assert (values["hit_share"], values["mean_reward"]) == pytest.approx((1, 0.9))
    # invalid strings do not count
    points = Points(np.full(4, -20.0), np.array([0.0, 0.0, 0.9, 0.9]), [None, None, "A", "B"])
    values = expected_values(points, points.prior_N, 0.8, 10, seed=0)
    assert values["hit_share"] == pytest.approx(1)
    points = Points(np.full(1, -20.0), np.zeros(1), [None])
    assert {*expected_values(points, points.prior_N, 0.8, 10, seed=0).values()} == {None}


def test_late_valid_samples_of_a_run_count_with_repeats(make_trace):
    trace = make_trace(
        [[("c1ccccc1O", 0.2)], [("c1ccccc1N", 0.9), ("c1ccccc1N", 0.9), ("C(", 0.0), ("CCO", 0.5)]]
    )
    late = valid_rows(trace).tail(3)
    assert late["smiles"].tolist() == ["c1ccccc1N", "c1ccccc1N", "CCO"]
    points = points_of(late)
    values = describe(points, points.prior_N, 0.8)
    expected = {"top_share": 1, "acyclic_share": 1 / 3, "hit_share": 2 / 3, "mean_reward": 2.3 / 3}
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    columns = {"valid": [True, True, False], "scaffold": ["c1ccccc1", None, None]}
    rows = pd.DataFrame(columns | {"logp_ref": [-1.0, -2.0, -3.0], "reward": [0.5, 0.0, 0.0]})
    assert list(points_of(rows).scaffold_N) == ["c1ccccc1", "", None]  # the second one failed


def train(write_run, folder, n, **changes):
    """Write a run of n valid samples, and as many invalid ones at the end."""
    settings = {key: SETTINGS[key] for key in ("reward", "target")} | {"estimator": "rloo"}
    steps = [[(f"c1ccccc1{'C' * (i % 7)}", 0.95)] for i in range(n)] + [[("C(", 0.0)]] * n
    return write_run(folder, steps, settings | changes)


def compared(config, folders, **changes):
    settings = config(runs=[str(folder) for folder in folders], **changes)
    runs = read_runs(settings.runs, None, settings.reward)
    return compare({f.name: r for f, r in zip(folders, runs, strict=True)}, sampled(300), settings)


def test_runs_are_compared_at_the_number_of_samples_of_the_shortest(config, write_run, tmp_path):
    def title(rows):
        return " ".join(word for line in printed(run_table(rows))[:2] for word in line)

    folders = [train(write_run, tmp_path / f"n{n}", n) for n in (20, 8)]
    rows = compared(config, folders)
    assert {row["n"] for row in rows} == {8}
    assert [row["n_valid"] for row in rows] == [20] * 3 + [8] * 3
    last = points_of(valid_rows(read_trace(folders[0])).tail(8))
    expected = describe(last, last.prior_N, 0.9)
    assert {name: rows[2][name] for name in COMPARED} == {name: expected[name] for name in COMPARED}
    assert "8 valid samples each (all samples of n8)" in title(rows)
    few = title(compared(config, folders, late_samples=5))
    assert "5 valid samples each" in few
    assert "all samples" not in few


def test_runs_that_depart_from_their_target_are_marked(config, write_run, tmp_path):
    changes = {
        "plain": {},
        "forward": {"estimator": {"kind": "forward_kl"}},
        "shaped": {"shaper": {"kind": "ips"}, "diversity_filter": {"kind": "murcko"}},
        "filtered": {"diversity_filter": {"kind": "murcko"}},
    }
    folders = [train(write_run, tmp_path / name, 4, **c) for name, c in changes.items()]
    rows = compared(config, folders)
    starts = [
        "! forward: the estimator forward_kl has a different optimum",
        "! shaped, filtered: the diversity filter removes rewards",
        "! shaped: the shaper ips shifts the policy from the target",
    ]
    for sentence, start in zip(run_sentences(rows), starts, strict=True):
        assert sentence.startswith(start)
    marks = [line[-1] == "!" for line in printed(run_table(rows)) if "trained" in line]
    assert marks == [False, True, True, True]
    departures = ("", " + forward_kl", " + diversity filter + ips", " + diversity filter")
    labels = list(dict.fromkeys(row["label"] for row in rows))
    assert labels == [f"mara 128, tau 0.9{text}" for text in departures]


def test_run_without_hits_of_the_prior_is_not_trusted_but_read(config, write_run, tmp_path):
    target = {"kind": "mara", "sigma": 1, "tau": 0.999999}
    folder = train(write_run, tmp_path / "run", 4, target=target)
    row = compared(config, [folder])[1]
    assert row["ess"] > 100  # that of gibbs
    assert row["trusted"] is False
    # settings outside the identity of the reward do not matter
    same = RewardConfig.model_validate(SETTINGS["reward"] | {"most_failures": 0.1})
    assert len(read_runs([folder], None, same)) == 1
    with pytest.raises(InputError, match="not the folder of a posttrain run"):
        read_runs([tmp_path], None, same)


QUANTILE = {"kind": "mara", "sigma": 8, "tau_quantile": 0.9, "tau_floor": 0.1}


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"kind": "gibbs", "beta": 0.01}, "gibbs 100"),
        ({"kind": "filter", "tau": 0.8}, "filter, tau 0.8"),
        ({"kind": "mara", "sigma": 128, "tau": 0.8, "cap": 5}, "mara 128, tau 0.8, cap 5"),
        (
            QUANTILE | {"anchor": "running"},
            "mara 8, tau_quantile 0.9, tau_floor 0.1, anchor running",
        ),
    ],
)
def test_label_of_a_target_has_its_settings(settings, label):
    assert target_label(TypeAdapter(TargetConfig).validate_python(settings)) == label


def test_equal_labels_get_the_settings_that_differ():
    texts = [number(value) for value in (4501.9, 99.96, 20.94, 1.0)]
    assert texts == ["4,502", "100.0", "20.9", "1.0"]  # significant digits only
    target = TypeAdapter(TargetConfig).validate_python({"kind": "gibbs", "sigma": 128})
    clipped = {"trainer": {"gradient_clip_val": 0.5}}
    runs = {
        "a": TrainedRun(Path("a"), target, {}, {"learning_rate": 1e-4, **clipped}),
        "b": TrainedRun(Path("b"), target, {}, {"learning_rate": 1e-3, **clipped}),
        "c": TrainedRun(Path("c"), target, {"diversity filter": ""}, {"learning_rate": 1e-3}),
    }
    assert run_labels(runs) == {
        "a": "gibbs 128, learning_rate 0.0001",
        "b": "gibbs 128, learning_rate 0.001",
        "c": "gibbs 128 + diversity filter",
    }
