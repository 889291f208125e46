"""A target that never acted, judged by hand-made rows whose targets the loss core computes."""

import pandas as pd
import pytest
import torch

from chemkl.losses import Filtered, Gibbs, Mara
from chemkl.results import Manifest
from chemkl.results.outcome import never_acted, read_outcome

BETA = 0.125
MARA = {"kind": "mara", "beta": BETA, "tau": 0.8}


def trace(batches, target, filtered=None):
    """Rows of batches of (log pi_ref, R), with what the loss core's target makes of them."""
    rows = []
    for step, batch in enumerate(batches):
        logp, reward = torch.tensor(batch, dtype=torch.float64).unbind(1)
        after = reward if filtered is None else torch.tensor(filtered[step], dtype=torch.float64)
        out = target(logp.float(), after)
        columns = {"logp_ref": logp.float(), "reward": reward, "reward_filtered": after}
        columns |= {"log_target": out.log_target, "hit": out.hit, "anchor": out.anchor}
        own = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
        rows.append(own.assign(step=step, is_replay=False))
    return pd.concat(rows, ignore_index=True)


LOW, HIT, OTHER = (-30.25, 0.5), (-31.5, 0.9), (-40.125, 0.95)


@pytest.mark.parametrize(
    ("batches", "options", "why"),
    [
        ([[LOW, LOW]], {"tau": 0.8}, "no reward reached tau = 0.8; the best reward is 0.5"),
        ([[HIT, LOW], [LOW, OTHER]], {"tau": 0.8}, "no batch had two different hits"),
        ([[HIT, HIT, LOW]], {"tau": 0.8}, "no batch had two different hits"),  # a copy
        ([[HIT, OTHER]], {"tau": 0.8, "alpha": 0.0, "reward_on_hits": "own"}, "with alpha = 0"),
        (
            [[HIT, LOW, LOW]],
            {"tau_quantile": 0.9, "tau_floor": 0.8},
            "no batch had two rewards of at least tau_floor = 0.8; the best reward is 0.9",
        ),
        ([[HIT, OTHER]], {"tau": 0.8}, ""),
        ([[HIT, LOW]], {"tau": 0.8, "reward_on_hits": "tau"}, ""),  # 0.9 becomes 0.8
        ([[HIT, LOW], [LOW, OTHER]], {"tau": 0.8, "anchor": "running"}, "no batch had two"),
        ([[OTHER, LOW], [HIT, LOW]], {"tau": 0.8, "anchor": "running"}, ""),  # of OTHER
        ([[HIT, OTHER, LOW]], {"tau_quantile": 0.4, "tau_floor": 0.8}, ""),
    ],
)
def test_mara(batches, options, why):
    rows = trace(batches, Mara(beta=BETA, **options))
    told = never_acted(rows, {"kind": "mara", "beta": BETA} | options)
    if why:
        assert told.startswith(f"the target mara never acted: {why}")
        assert told.endswith("the samples are those of the target gibbs")
        same = trace(batches, Gibbs(beta=BETA))["log_target"]
        assert rows["log_target"].tolist() == pytest.approx(same.tolist())
    else:
        assert told == ""


def test_filters_and_other_targets():
    gibbs = {"kind": "gibbs", "beta": BETA}
    assert never_acted(trace([[HIT, LOW]], Gibbs(beta=BETA)), gibbs) == ""
    rows = trace([[HIT, OTHER]], Mara(beta=BETA, tau=0.8), filtered=[[0.0, 0.0]])
    assert never_acted(rows, MARA) == (
        "the target mara never acted: the diversity filter withdrew every reward of at least "
        "tau = 0.8; before it the best reward is 0.95; the samples are those of the target gibbs"
    )
    aim = {"kind": "filter", "tau": 0.8}
    assert never_acted(trace([[HIT, LOW]], Filtered(tau=0.8)), aim) == ""
    assert never_acted(trace([[LOW, LOW]], Filtered(tau=0.8)), aim) == (
        "the target filter had nothing to walk to: no reward reached tau = 0.8; the best reward "
        "is 0.5"
    )


NO = "did not collapse, looking at 3 valid"


@pytest.mark.parametrize(
    ("target", "reward", "lines"),
    [
        ({"kind": "mara", "tau": 0.8}, 0.9, ["1 hit (R >= 0.8), best reward 0.9", NO]),
        ({"kind": "gibbs"}, 0.9, ["no tau to count hits by, best reward 0.9", NO]),
        ({"kind": "mara", "tau": 0.8}, 0.75,
         ["0 hits (R >= 0.8), best reward 0.75", NO, "the target mara never acted: no re"]),
        ({"kind": "mara", "tau_quantile": 0.5, "tau_floor": 0.4}, 0.9,
         ["1 hit (at or above the quantile 0.5 of their batch), best reward 0.9", NO]),
    ],
)  # fmt: skip
def test_the_lines_at_the_end_of_a_run(write_run, tmp_path, target, reward, lines):
    steps, config = (
        [[("CCO", reward), ("CCN", 0.5), ("CC", 0.25)]],
        {"target": target | {"sigma": 8}},
    )
    run = write_run(tmp_path, steps, config)
    manifest = Manifest.load(run)
    manifest.beside = {"collapse": {"window": 3}}
    told = list(read_outcome(run, manifest).lines())
    assert len(told) == len(lines)
    for line, start in zip(told, lines, strict=True):
        assert line.startswith(start)
