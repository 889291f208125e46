"""Which targets a forecast looks at, what it says of them, and what training is held against."""

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
    Trained,
    build_target,
    compare,
    expected_view,
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


@pytest.fixture
def config(tmp_path):
    (tmp_path / "prior.bin").touch()

    def load(**changes):
        return load_config(ForecastConfig, SETTINGS | {"prior": tmp_path / "prior.bin"} | changes)

    return load


def sampled(n=2000, seed=0, best=1.0):
    """Draws with log-probabilities as spread as a real prior's, on 40 scaffolds."""
    rng = np.random.default_rng(seed)
    scaffold = [f"S{i}" for i in rng.geometric(0.1, n) % 40]
    return Points(rng.normal(-25, 5, n), best * rng.beta(4, 2, n), scaffold)


def row_of(found, kind, sigma, tau=0.9):
    (row,) = [
        r
        for r in found.rows
        if (r["target"], r["tau"]) == (kind, tau) and r["sigma"] == pytest.approx(sigma)
    ]
    return row


# ---- the rows


def test_there_is_one_row_for_each_kind_beta_and_tau_and_the_prior(config):
    found = forecast_targets(config(taus=[0.8, 0.7]), sampled())
    taus, sigmas = (0.7, 0.8, 0.9), (8, 32, 128, 512)  # the config's own tau comes with the list
    assert len(found.rows) == len(taus) * (1 + 2 * len(sigmas))
    own = [(r["target"], round(r["sigma"]), r["tau"]) for r in found.rows if r["own"]]
    assert own == [("mara", 128, 0.9)]
    for kind, sigma, tau in product(("gibbs", "mara"), sigmas, taus):
        assert row_of(found, kind, sigma, tau)


def test_a_filter_is_forecast_too_where_it_is_the_configs_own(config):
    points = sampled()
    target = {"kind": "filter", "tau": 0.9}
    found = forecast_targets(config(target=target, estimator="alpha_dpg", betas=[1.0]), points)
    row = row_of(found, "filter", 1.0)
    assert row["ess"] == pytest.approx((points.reward_N >= 0.9).sum())
    assert row["hit_share"] == pytest.approx(1)
    assert row["sentence"].startswith("At tau 0.9 the filter target puts")


def test_the_runs_own_options_shape_its_kind_only(config):
    target = config(target=SETTINGS["target"] | {"alpha": 0.5, "cap": 3.0}).target
    built = build_target(target, "mara", 0.1, 0.7)
    assert isinstance(built, Mara)
    assert (built.beta, built.tau, built.alpha, built.cap) == (0.1, 0.7, 0.5, 3.0)
    assert build_target(target, "gibbs", 0.1, 0.7) == Gibbs(beta=0.1)


def test_a_quantile_for_tau_is_that_of_the_sample_and_not_below_its_floor(config):
    points = sampled()
    for floor, expected in ((0.1, float(np.quantile(points.reward_N, 0.9))), (0.99, 0.99)):
        target = {"kind": "mara", "beta": 0.1, "tau_quantile": 0.9, "tau_floor": floor}
        asked = config(target=target)
        assert tau_of([asked.target], points, asked) == pytest.approx(expected)
    gibbs = config(target={"kind": "gibbs", "beta": 1}, taus=[0.5, 0.6])
    assert tau_of([gibbs.target], points, gibbs) == 0.5


# ---- what it says


def test_the_sentence_of_a_target_has_the_numbers_of_its_row(config):
    found = forecast_targets(config(), sampled())
    row = row_of(found, "gibbs", 8)
    assert row["trusted"]
    assert row["sentence"] == (
        f"At sigma 8 the gibbs target puts {row['top_share']:.1%} on one scaffold "
        f"({row['top_scaffold']}); its effective number of scaffolds is at least "
        f"{row['effective_scaffolds']:.1f}, and {row['hit_share']:.1%} of it are hits (R >= 0.9)."
    )


def test_a_low_effective_sample_size_is_a_warning_in_row_and_words(config):
    found = forecast_targets(config(), sampled())
    own = row_of(found, "mara", 128)
    assert own["ess"] < 100
    assert own["trusted"] is False
    assert (
        f"Not trustworthy: {own['ess']:.1f} of 2,000 samples carry the weight" in (own["sentence"])
    )
    assert own["sentence"] in found.sentences
    assert own["top_share_error"] is None
    assert row_of(found, "gibbs", 8)["top_share_error"] > 0
    lenient = forecast_targets(config(min_ess=1), sampled())
    assert row_of(lenient, "mara", 128)["trusted"] is True
    assert "Not trustworthy" not in row_of(lenient, "mara", 128)["sentence"]


def test_without_a_hit_nothing_is_claimed_of_mara(config):
    found = forecast_targets(config(), sampled(best=0.8))
    row = row_of(found, "mara", 8)
    assert row["trusted"] is False
    assert row["sentence"].startswith("No sample of the prior is a hit at R >= 0.9 (95 % interval")
    assert row_of(found, "gibbs", 8)["trusted"] is True
    assert found.sentences.count(row["sentence"]) == 1
    target = {"kind": "filter", "tau": 0.9}
    nothing = forecast_targets(config(target=target, estimator="alpha_dpg"), sampled(best=0.8))
    assert row_of(nothing, "filter", 1.0).get("ess") is None


@pytest.mark.parametrize(
    ("rewards", "says"),
    [
        # of 200 samples with rewards 0.0004, 0.0008, ... 0.08 the best 1 % are the last two
        (
            np.arange(1, 201) * 0.0004,
            "The best reward seen is 0.08, and the top 1 % begins at 0.0792: take tau about there.",
        ),
        (
            np.r_[0.5, np.zeros(199)],
            "The best reward seen is 0.5; fewer than 1 % of the samples have a reward above 0.",
        ),
        (np.zeros(200), "The reward is 0 on every sample."),
    ],
)
def test_without_a_hit_it_says_where_hits_would_be(config, rewards, says):
    points = Points(np.full(200, -20.0), rewards, ["A"] * 200)
    said = forecast_targets(config(), points).sentences[0]
    assert "the rows of mara are those of gibbs" in said
    assert said.endswith(says)


def test_mara_rows_that_agree_over_sigma_are_explained(config):
    """Among hits log(target / pi_ref) = lr(z) - lr + a constant: no sigma in it; so with tau."""
    says = "At tau 0.7, 0.9 the mara rows of all sigmas agree but for the bonus"

    def said(points, **target):
        asked = config(target=SETTINGS["target"] | target, taus=[0.7])
        found = forecast_targets(asked, points)
        return [s for s in found.sentences if s.startswith(says)], found

    sentences, found = said(sampled())
    assert len(sentences) == 1
    shares = [row_of(found, "mara", sigma)["top_share"] for sigma in (8, 512)]
    assert shares[0] == pytest.approx(shares[1], rel=1e-3)
    assert not said(sampled(best=0.6))[0]  # no hit
    assert not said(sampled(), reward_on_hits="own")[0]  # hits keep their rewards: sigma ranks them
    # hits that are likely under the prior are lifted little, so that sigma decides beside the rest
    even = Points(np.full(1000, -20.0), np.linspace(0, 1, 1000), ["A", "B"] * 500)
    assert not said(even)[0]


def test_crossovers_are_among_the_sentences(config):
    """A: 400 at R 0.5; B: 100 at R 0.7: equal at sigma = ln 4 / 0.2 = 6.9, +- 0.11 / 0.2 = 0.56."""
    points = Points(
        np.full(500, -20.0), np.r_[np.full(400, 0.5), np.full(100, 0.7)], ["A"] * 400 + ["B"] * 100
    )
    found = forecast_targets(config(), points)
    assert (
        "Below beta 0.14 (sigma 6.93 +- 0.56; family ESS 100) B has more of the gibbs target than "
        "A." in found.sentences
    )


def test_a_bonus_larger_than_the_reward_can_be_is_said(config):
    found = forecast_targets(config(), sampled())
    exceeds = [
        f"{r['sigma']:.4g}"
        for r in found.rows
        if r["target"] == "mara" and r["bonus_largest"] > r["reward_range"]
    ]
    assert exceeds
    assert exceeds != ["8", "32", "128", "512"]  # else the test shows nothing
    assert (
        f"At sigma {', '.join(exceeds)} the largest MARA bonus exceeds the whole range of the "
        "reward." in found.sentences
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"diversity_filter": "murcko"}, "The diversity filter withdraws rewards"),
        ({"estimator": "forward_kl"}, "The estimator forward_kl has another optimum"),
        ({"shaper": "differential_smoothing"}, "The shaper differential_smoothing moves"),
    ],
)
def test_what_moves_a_run_off_its_target_is_said(config, changes, says):
    assert any(
        s.startswith(says) for s in forecast_targets(config(**changes), sampled(200)).sentences
    )
    assert not any(s.startswith(says) for s in forecast_targets(config(), sampled(200)).sentences)


def printed(table):
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    return [line.split() for line in captured.get().splitlines()]


def test_prior_and_gibbs_stand_once_with_the_hits_at_each_tau(config):
    points = sampled(1999)
    found = forecast_targets(config(taus=[0.8]), points)
    lines = printed(target_table(found.rows))
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


# ---- beside training


def test_what_n_samples_show_is_that_of_samples_of_the_target():
    """A target over 200 scaffolds, equally: 100 of its samples show 100 draws' worth of them."""
    scaffold = [f"S{i}" for i in range(200)]
    points = Points(np.full(200, -20.0), np.full(200, 0.9), scaffold)
    shown = expected_view(points, points.prior_N, 0.8, 100, seed=0)
    rng = np.random.default_rng(1)
    direct = []
    for _ in range(500):
        counts = np.bincount(rng.integers(200, size=100))
        p = counts[counts > 0] / 100
        direct.append((p.max(), np.exp(-(p * np.log(p)).sum())))
    top, effective = np.mean(direct, axis=0)
    # 50 redraws: the standard errors are 0.0009 and 0.5
    assert shown["top_share"] == pytest.approx(top, abs=0.004)
    assert shown["effective_scaffolds"] == pytest.approx(effective, abs=2.5)
    assert (shown["hit_share"], shown["mean_reward"]) == pytest.approx((1, 0.9))


def test_invalid_strings_are_left_out_on_both_sides():
    points = Points(np.full(4, -20.0), np.array([0.0, 0.0, 0.9, 0.9]), [None, None, "A", "B"])
    assert expected_view(points, points.prior_N, 0.8, 10, seed=0)["hit_share"] == pytest.approx(1)
    nothing = Points(np.full(1, -20.0), np.zeros(1), [None])
    assert set(expected_view(nothing, nothing.prior_N, 0.8, 10, seed=0).values()) == {None}


def test_the_last_valid_samples_of_a_run_are_counted_with_repeats(make_trace):
    trace = make_trace(
        [[("c1ccccc1O", 0.2)], [("c1ccccc1N", 0.9), ("c1ccccc1N", 0.9), ("C(", 0.0), ("CCO", 0.5)]]
    )
    late = valid_rows(trace).tail(3)
    assert late["smiles"].tolist() == ["c1ccccc1N", "c1ccccc1N", "CCO"]
    points = points_of(late)
    shown = describe(points, points.prior_N, 0.8)
    assert shown["top_share"] == 1
    assert shown["acyclic_share"] == pytest.approx(1 / 3)
    assert shown["hit_share"] == pytest.approx(2 / 3)
    assert shown["mean_reward"] == pytest.approx(2.3 / 3)


def test_a_scaffold_that_failed_is_none_and_an_invalid_string_no_molecule():
    columns = {"valid": [True, True, False], "scaffold": ["c1ccccc1", None, None]}
    rows = pd.DataFrame(columns | {"logp_ref": [-1.0, -2.0, -3.0], "reward": [0.5, 0.0, 0.0]})
    assert list(points_of(rows).scaffold_N) == ["c1ccccc1", "", None]


def trained(write_run, folder, n, **changes):
    """A run of n valid samples, and as many invalid ones at the end."""
    settings = {key: SETTINGS[key] for key in ("reward", "target")} | {"estimator": "rloo"}
    steps = [[(f"c1ccccc1{'C' * (i % 7)}", 0.95)] for i in range(n)] + [[("C(", 0.0)]] * n
    return write_run(folder, steps, settings | changes)


def compared(config, folders, **changes):
    asked = config(runs=[str(folder) for folder in folders], **changes)
    runs = read_runs(asked.runs, None, asked.reward)
    return compare({f.name: r for f, r in zip(folders, runs, strict=True)}, sampled(300), asked)


def test_all_runs_are_seen_through_as_many_samples_as_the_shortest_has(config, write_run, tmp_path):
    def title(rows):
        return " ".join(word for line in printed(run_table(rows))[:2] for word in line)

    folders = [trained(write_run, tmp_path / f"n{n}", n) for n in (20, 8)]
    rows = compared(config, folders)
    assert {row["n"] for row in rows} == {8}
    assert [row["n_valid"] for row in rows] == [20] * 3 + [8] * 3
    last = points_of(valid_rows(read_trace(folders[0])).tail(8))
    expected = describe(last, last.prior_N, 0.9)
    assert {name: rows[2][name] for name in COMPARED} == {name: expected[name] for name in COMPARED}
    head = title(rows)
    assert "8 valid samples each (all that there are of n8)" in head
    few = title(compared(config, folders, late_samples=5))
    assert "5 valid samples each" in few
    assert "all that" not in few


def test_runs_that_do_not_walk_to_their_target_are_marked(config, write_run, tmp_path):
    changes = {
        "plain": {},
        "forward": {"estimator": {"kind": "forward_kl"}},
        "shaped": {"shaper": {"kind": "ips"}, "diversity_filter": {"kind": "murcko"}},
        "filtered": {"diversity_filter": {"kind": "murcko"}},
    }
    folders = [trained(write_run, tmp_path / name, 4, **c) for name, c in changes.items()]
    rows = compared(config, folders)
    said = run_sentences(rows)
    assert len(said) == 3
    assert said[0].startswith("! forward: the estimator forward_kl has another optimum")
    assert said[1].startswith("! shaped, filtered: the diversity filter withdraws rewards")
    assert said[2].startswith("! shaped: the shaper ips moves the policy off the target")
    marks = [line[-1] == "!" for line in printed(run_table(rows)) if "trained" in line]
    assert marks == [False, True, True, True]
    labels = list(dict.fromkeys(row["label"] for row in rows))
    assert labels == [
        "mara 128, tau 0.9",
        "mara 128, tau 0.9 + forward_kl",
        "mara 128, tau 0.9 + diversity filter + ips",
        "mara 128, tau 0.9 + diversity filter",
    ]


def test_a_run_whose_hits_the_prior_never_samples_has_no_forecast(config, write_run, tmp_path):
    target = {"kind": "mara", "sigma": 1, "tau": 0.999999}
    rows = compared(config, [trained(write_run, tmp_path / "run", 4, target=target)])
    forecast = rows[1]
    assert forecast["ess"] > 100  # that of gibbs
    assert forecast["trusted"] is False


QUANTILE = {"tau_quantile": 0.9, "tau_floor": 0.1, "anchor": "running"}


@pytest.mark.parametrize(
    ("target", "label"),
    [
        ({"kind": "gibbs", "beta": 0.01}, "gibbs 100"),
        ({"kind": "filter", "tau": 0.8}, "filter, tau 0.8"),
        ({"kind": "mara", "sigma": 128, "tau": 0.8, "cap": 5}, "mara 128, tau 0.8, cap 5"),
        (
            {"kind": "mara", "sigma": 8, **QUANTILE},
            "mara 8, tau_quantile 0.9, tau_floor 0.1, anchor running",
        ),
    ],
)
def test_the_label_of_a_target_tells_its_settings(config, target, label):
    estimator = "alpha_dpg" if target["kind"] == "filter" else "rloo"
    assert target_label(config(target=target, estimator=estimator).target) == label


def test_what_is_no_part_of_a_rewards_identity_makes_no_other_one(write_run, tmp_path):
    folder = trained(write_run, tmp_path / "run", 1)
    same = RewardConfig.model_validate(SETTINGS["reward"] | {"most_failures": 0.1})
    assert len(read_runs([folder], None, same)) == 1
    with pytest.raises(InputError, match="not the folder of a posttrain run"):
        read_runs([tmp_path], None, same)


@pytest.mark.parametrize(
    ("value", "text"), [(4501.9, "4,502"), (99.96, "100.0"), (20.94, "20.9"), (1.0, "1.0")]
)
def test_an_effective_number_has_no_digits_that_mean_nothing(value, text):
    assert number(value) == text


def test_runs_of_one_target_are_labelled_by_what_else_differs():
    target = TypeAdapter(TargetConfig).validate_python({"kind": "gibbs", "sigma": 128})
    clipped = {"trainer": {"gradient_clip_val": 0.5}}
    runs = {
        "a": Trained(Path("a"), target, {}, {"learning_rate": 1e-4, **clipped}),
        "b": Trained(Path("b"), target, {}, {"learning_rate": 1e-3, **clipped}),
        "c": Trained(Path("c"), target, {"diversity filter": ""}, {"learning_rate": 1e-3}),
    }
    assert run_labels(runs) == {
        "a": "gibbs 128, learning_rate 0.0001",
        "b": "gibbs 128, learning_rate 0.001",
        "c": "gibbs 128 + diversity filter",
    }
