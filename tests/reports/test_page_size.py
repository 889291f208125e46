"""A comparison of four methods by five seeds at 10,000 calls: how large its page is."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.reports import Column, PageOptions, RunView, Table, render_page
from chemkl.stages.report import LARGE

SAMPLES, PER_STEP, COMPONENTS = 12_000, 64, ("qed", "sa_score", "hbd", "logp")


@pytest.fixture(scope="module")
def molecules():
    """The 8,000 molecules of the MOSES sample, a made-up reward that grows along the file."""
    path = Path(__file__).parents[2] / "data" / "moses_sample.smi"
    texts = [Chem.CanonSmiles(line) for line in path.read_text().split()[:8_000]]
    return pd.DataFrame(
        {
            "canonical_smiles": texts,
            "scaffold": [MurckoScaffold.MurckoScaffoldSmiles(text) for text in texts],
            "reward": np.linspace(0.5, 1, len(texts)),
        }
    )


def run_of(molecules, name, seed):
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [np.arange(len(molecules)), rng.integers(len(molecules), size=SAMPLES - len(molecules))]
    )
    rng.shuffle(drawn)
    trace = molecules.iloc[drawn].reset_index(drop=True)
    repeat = trace["canonical_smiles"].duplicated()
    number = np.arange(SAMPLES)
    trace = trace.assign(
        step=number // PER_STEP,
        row=number % PER_STEP,
        call=(~repeat).cumsum().astype("Int64").mask(repeat),
        valid=True,
        repeat=repeat,
        logp_policy=rng.normal(-15, 4, SAMPLES),
        logp_ref=rng.normal(-22, 6, SAMPLES),
        anchor=number % PER_STEP == 0,
        is_replay=False,
        **{f"raw_{name}": rng.random(SAMPLES) for name in COMPONENTS},
    )
    families = [
        {
            "family": scaffold,
            "prior_share": rng.random() / 10,
            "policy_share": rng.random() / 10,
            "n_molecules": 7,
            "best_reward": 0.9,
        }
        for scaffold in sorted(set(molecules["scaffold"]))[1:40]
    ]
    windows = pd.DataFrame(rng.random((60, 2)), columns=["late_uniqueness", "late_top_share"])
    config = {f"setting_{n}": {"value": n, "text": "some words of it"} for n in range(60)}
    return RunView(
        name=name,
        trace=trace,
        manifest={"config": config | {"seed": seed}, "seed": seed, "run_id": name},
        all_molecules={"n_sampled": SAMPLES},
        hits={"yield": 1000},
        windows=windows.set_index(np.linspace(1000, SAMPLES, 60).astype(int)),
        families=families,
    )


@pytest.mark.slow  # a minute
def test_a_comparison_of_twenty_runs_is_below_the_limit(molecules):
    methods = {f"method {m}": range(5 * m, 5 * m + 5) for m in range(4)}
    runs = [
        run_of(molecules, f"method-{m}-seed={s}", 5 * m + s) for m in range(4) for s in range(5)
    ]
    tables = [Table("All", [Column("n_sampled", "sampled", ",d", "so many")], [{}] * len(runs))]
    options = PageOptions("Comparison", 0.8, prior=molecules["canonical_smiles"].tolist())
    page = render_page(runs, methods, tables, options)
    assert 500_000 < len(page.encode()) < LARGE
    # nothing was left out to get there
    assert page.count('class="card molecule"') == 4 * options.n_scaffolds * options.n_molecules
    assert page.count('class="dumbbell"') == 4 * (options.n_scaffolds + 3)
