"""Which targets a forecast looks at, what it says of them, and what training is held against."""

import numpy as np
import pandas as pd
import pytest

from chemkl.config import InputError, load_config
from chemkl.config.forecast import ForecastConfig
from chemkl.config.reward import RewardConfig
from chemkl.evaluation.forecast import Points, target_shares
from chemkl.evaluation.forecast_display import page
from chemkl.evaluation.forecast_rows import build_target, foretell, tau_of
from chemkl.evaluation.forecast_runs import foreseen, last_valid, points_of, read_runs, seen
from chemkl.losses import Gibbs, Mara

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
    found = foretell(config(taus=[0.8, 0.7]), sampled())
    taus, sigmas = (0.7, 0.8, 0.9), (8, 32, 128, 512)  # the config's own tau comes with the list
    assert len(found.rows) == len(taus) * (1 + 2 * len(sigmas))
    own = [(r["target"], round(r["sigma"]), r["tau"]) for r in found.rows if r["own"]]
    assert own == [("mara", 128, 0.9)]
    for sigma in sigmas:
        for tau in taus:
            assert row_of(found, "gibbs", sigma, tau)
            assert row_of(found, "mara", sigma, tau)


def test_a_filter_is_forecast_too_where_it_is_the_configs_own(config):
    points = sampled()
    target = {"kind": "filter", "tau": 0.9}
    found = foretell(config(target=target, estimator="alpha_dpg", betas=[1.0]), points)
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
        assert tau_of(config(target=target).target, points, 0.5) == pytest.approx(expected)
    assert tau_of(config(target={"kind": "gibbs", "beta": 1}).target, points, 0.5) == 0.5


# ---- what it says


def test_the_sentence_of_a_target_has_the_numbers_of_its_row(config):
    found = foretell(config(), sampled())
    row = row_of(found, "gibbs", 8)
    assert row["trusted"]
    assert row["sentence"] == (
        f"At sigma 8 the gibbs target puts {row['top_share']:.1%} on one scaffold "
        f"({row['top_scaffold']}); its effective number of scaffolds is at least "
        f"{row['effective_scaffolds']:,.1f}, and {row['hit_share']:.1%} of it are hits (R >= 0.9)."
    )


def test_a_low_effective_sample_size_is_a_warning_in_row_and_words(config):
    found = foretell(config(), sampled())
    own = row_of(found, "mara", 128)
    assert own["ess"] < 100
    assert own["trusted"] is False
    assert (
        f"Not trustworthy: {own['ess']:,.1f} of 2,000 samples carry the weight" in (own["sentence"])
    )
    assert own["sentence"] in found.sentences
    lenient = foretell(config(min_ess=1), sampled())
    assert row_of(lenient, "mara", 128)["trusted"] is True
    assert "Not trustworthy" not in row_of(lenient, "mara", 128)["sentence"]


def test_without_a_hit_nothing_is_claimed_of_mara(config):
    found = foretell(config(), sampled(best=0.8))
    row = row_of(found, "mara", 8)
    assert row["trusted"] is False
    assert row["sentence"].startswith("No sample of the prior is a hit at R >= 0.9 (95 % interval")
    assert row_of(found, "gibbs", 8)["trusted"] is True
    assert found.sentences.count(row["sentence"]) == 1
    target = {"kind": "filter", "tau": 0.9}
    nothing = foretell(config(target=target, estimator="alpha_dpg"), sampled(best=0.8))
    assert row_of(nothing, "filter", 1.0).get("ess") is None


def test_a_bonus_larger_than_the_reward_can_be_is_said(config):
    found = foretell(config(), sampled())
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
    assert any(s.startswith(says) for s in foretell(config(**changes), sampled(200)).sentences)
    assert not any(s.startswith(says) for s in foretell(config(), sampled(200)).sentences)


def test_the_page_prints_scaffolds_with_brackets_as_they_are(config):
    from rich.console import Console

    points = Points(np.full(50, -20.0), np.full(50, 0.95), ["c1c[nH]cn1"] * 50)
    console = Console(width=120, record=True, quiet=True)
    counts = {"samples": 50, "valid": 50, "calls": 1}
    with console.capture() as captured:
        console.quiet = False
        for part in page(foretell(config(), points), [], counts, min_ess=100):
            console.print(part, highlight=False, markup=False)
    assert captured.get().count("c1c[nH]cn1") >= 3


# ---- beside training


def test_what_n_samples_show_is_that_of_samples_of_the_target():
    """A target over 200 scaffolds, equally: 100 of its samples show 100 draws' worth of them."""
    scaffold = [f"S{i}" for i in range(200)]
    points = Points(np.full(200, -20.0), np.full(200, 0.9), scaffold)
    shown = foreseen(points, points.prior_N, 0.8, 100, seed=0)
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
    assert foreseen(points, points.prior_N, 0.8, 10, seed=0)["hit_share"] == pytest.approx(1)
    nothing = Points(np.full(1, -20.0), np.zeros(1), [None])
    assert set(foreseen(nothing, nothing.prior_N, 0.8, 10, seed=0).values()) == {None}


def test_the_last_valid_samples_of_a_run_are_counted_with_repeats(make_trace):
    trace = make_trace(
        [[("c1ccccc1O", 0.2)], [("c1ccccc1N", 0.9), ("c1ccccc1N", 0.9), ("C(", 0.0), ("CCO", 0.5)]]
    )
    late = last_valid(trace, 3)
    assert late["smiles"].tolist() == ["c1ccccc1N", "c1ccccc1N", "CCO"]
    shown = seen(points_of(late), 0.8)
    assert shown["top_share"] == 1
    assert shown["acyclic_share"] == pytest.approx(1 / 3)
    assert shown["hit_share"] == pytest.approx(2 / 3)
    assert shown["mean_reward"] == pytest.approx(2.3 / 3)


def test_a_scaffold_that_failed_is_none_and_an_invalid_string_no_molecule():
    rows = pd.DataFrame(
        {
            "valid": [True, True, False],
            "scaffold": ["c1ccccc1", None, None],
            "logp_ref": [-1.0, -2.0, -3.0],
            "reward": [0.5, 0.0, 0.0],
        }
    )
    assert list(points_of(rows).scaffold_N) == ["c1ccccc1", "", None]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    reward = RewardConfig.model_validate(SETTINGS["reward"])
    with pytest.raises(InputError, match="not the folder of a posttrain run"):
        read_runs([tmp_path], None, reward)


def test_target_shares_of_draws_sum_to_one():
    assert target_shares(sampled(), Gibbs(beta=0.01)).sum() == pytest.approx(1)
