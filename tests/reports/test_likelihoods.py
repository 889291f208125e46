import re

import numpy as np
import pandas as pd
import pytest

from chemkl.reports import likelihoods
from chemkl.reports.likelihoods import cloud, likelihood_panels, span_of
from chemkl.reports.view import RunView


@pytest.fixture
def run(make_trace, real_smiles):
    """40 molecules: log pi_ref -1, -2, ..., log pi half of it; every tenth an anchor."""
    trace = make_trace([[(s, 0.9 if n % 2 else 0.1)] for n, s in enumerate(real_smiles[:40])])
    trace["logp_ref"] = -1.0 - np.arange(40)
    trace["logp_policy"] = trace["logp_ref"] / 2
    trace["anchor"] = np.arange(40) % 10 == 1
    return RunView("one", trace, {"config": {"target": {"kind": "mara", "tau": 0.7}}})


def test_a_cloud_by_hand(run):
    own = cloud([run], 0.8, window=12)
    assert len(own.hits) == len(own.misses) == 20
    assert own.anchors["logp_ref"].tolist() == [-2, -12, -22, -32]
    assert own.early.tolist() == [-1.0 - n for n in range(12)]
    assert own.late.tolist() == [-1.0 - n for n in range(28, 40)]
    assert own.late_hits["logp_ref"].tolist() == [-30, -32, -34, -36, -38, -40]
    assert own.slope == pytest.approx(0.5)
    assert own.taus == [0.7]


def test_a_molecule_that_two_runs_found_is_one_dot(run):
    again = RunView("two", run.trace.copy(), run.manifest)
    own = cloud([run, again], 0.8, window=12)
    assert len(own.hits) == len(own.misses) == 20
    assert len(own.early) == len(own.late) == 24  # samples, of which each run has its own


def test_early_and_late_samples_do_not_overlap(run):
    own = cloud([run], 0.8, window=1000)
    assert len(own.early) == len(own.late) == 20
    assert not set(own.early) & set(own.late)


def test_replayed_rows_are_no_samples_and_no_anchors(run):
    run.trace.loc[[1, 3], "is_replay"] = True
    own = cloud([run], 0.8, window=10)
    assert len(own.hits) == 18
    assert own.anchors["logp_ref"].tolist() == [-12, -22, -32]


def dots(panel):
    """How many dots the two largest paths have."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*stroke-linecap: round', panel.svg)
    return sorted(path.count("M") for path in paths)[-2:]


def test_every_dot_and_every_anchor_is_drawn_and_of_many_molecules_some(run, monkeypatch):
    reward, policy = likelihood_panels([run], {"one": [0]}, 0.8, window=10, seed=0)
    assert dots(reward) == [20, 20]  # hits and misses
    rings = re.search(
        r"stroke-width: 0.7[^\"]*\"/>\s*</defs>\s*<g[^>]*>(.*?)</g>", reward.svg, re.S
    )
    assert rings is not None
    assert rings[1].count("<use") == 4
    assert "40 distinct molecules, 20 of them hits" in reward.note
    assert "4 anchors (rings)" in reward.note
    assert "slope 0.50" in policy.note
    assert "τ 0.7" in reward.svg
    assert "hit 0.8" in reward.svg
    monkeypatch.setattr(likelihoods, "DOTS", 7)
    reward, _ = likelihood_panels([run], {"one": [0]}, 0.8, window=10, seed=0)
    assert dots(reward) == [7, 7]
    assert "4 anchors" in reward.note


def test_dots_are_to_scale(run):
    reward, policy = likelihood_panels([run], {"one": [0]}, 0.8, window=20, seed=0)
    paths = re.findall(r'<path d="([^"]*)"[^>]*stroke-linecap: round', reward.svg)
    misses, hits = (
        np.array(re.findall(r"M([\d.]+) ([\d.]+)", path), dtype=float)
        for path in paths
        if path.count("M") == 20
    )
    # log pi_ref -1, -3, ... of the misses and -2, -4, ... of the hits, from the right to the left
    step = np.diff(misses[:, 0])
    assert step == pytest.approx(np.full(19, misses[1, 0] - misses[0, 0]), abs=0.02)
    assert hits[:, 0] == pytest.approx(misses[:, 0] + step.mean() / 2, abs=0.02)
    assert len(set(misses[:, 1])) == len(set(hits[:, 1])) == 1
    assert hits[0, 1] < misses[0, 1]  # SVG counts from the top
    assert "slope 0.50" in policy.note


@pytest.mark.parametrize(
    ("steps", "of_policy"),
    [
        ([], []),
        ([[("C1CC", 0.0)]], []),
        ([[("CCO", 0.9)]], []),  # its one sample is neither early nor late
        ([[("CCO", 0.9), ("CC", 0.9)]], ["too few to say"]),
    ],
)
def test_runs_of_few_samples_have_no_slope(make_trace, steps, of_policy):
    views = [RunView("run", make_trace(steps))]
    assert cloud(views, 0.8, window=10).slope is None
    first, *further = likelihood_panels(views, {"run": [0]}, 0.8, window=10, seed=0)
    assert "no anchors" in first.note
    assert len(further) == len(of_policy)
    assert all(what in panel.note for what, panel in zip(of_policy, further, strict=True))


def test_panels_share_their_axes(run, make_trace):
    other = RunView("other", make_trace([[("CCO", 0.9)]]))
    panels = likelihood_panels([run, other], {"a": [0], "b": [1]}, 0.8, window=10, seed=0)
    ticks = [re.findall(r"<text[^>]*>([^<]*)</text>", panel.svg) for panel in panels]
    assert ticks[0][:5] == ticks[2][:5]


def test_a_span_leaves_out_the_least_likely_alone():
    values = pd.Series([*np.arange(10_000.0), -1e6])
    low, high = span_of([values])
    assert -500 < low < 0
    assert high > 9_999
    assert span_of([pd.Series(dtype=float)]) == (0, 1)
