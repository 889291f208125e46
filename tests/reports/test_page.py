import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.display import MISSING, Column
from chemkl.reports.page import Table, render_page, spread, table_cells
from chemkl.reports.view import PageOptions, RunView
from chemkl.stages.report import LARGE


def tables(n_runs=1):
    return [Table("All", [Column("n", "N", ",d", "how many")], [{"n": 3}] * n_runs)]


def sections_with_data(page):
    sections = re.findall(r'<section id="([^"]*)">(.*?)</section>', page, re.S)
    assert len(sections) == 12
    return {name for name, inner in sections if '</h2>\n<p class="missing">' not in inner}


def test_page_of_an_empty_trace_has_every_section_and_its_settings(make_trace):
    empty = RunView("empty", make_trace([]))
    options = PageOptions("Empty", 0.8, settings={"n_top": 17})
    page = render_page([empty], {"empty": [0]}, tables(), options)
    assert sections_with_data(page) == {"summary", "tables", "settings"}
    assert "No run has a sample yet." in page
    assert "n_top: 17" in page
    runs = [empty, RunView("full", make_trace([[("CC1CC1", 0.9)]]))]
    page = render_page(runs, {"a": [0], "b": [1]}, tables(2), PageOptions("Two", 0.8))
    assert {"rank", "scaffolds"} <= sections_with_data(page)


@pytest.mark.parametrize(
    ("values", "how", "expected"),
    [
        ([3], ",d", ("3", "", "")),
        ([1234, 1236], ",d", ("1,235", "± 1", "")),  # sd of two values: 2 / sqrt(2)
        ([1, 2], ",d", ("1.5", "± 0.7", "")),
        ([0.1, 0.2, 0.3], ".1%", ("20.0%", "± 10.0%", "")),
        ([170, None, pd.NA, np.nan], ",d", ("170", "", "1 of 4")),
        ([1, 3, None], ".2f", ("2.00", "± 1.41", "2 of 3")),
        ([None, None], ",d", (MISSING, "", "")),
        ([None], ".1%", (MISSING, "", "")),
    ],
)
def test_mean_and_standard_deviation_by_hand(values, how, expected):
    cell = spread(values, how)
    assert (cell["text"], cell["sd"], cell["of"]) == expected


def test_table_has_a_row_per_method_and_per_run():
    columns = [Column("a", "A", ",d", "first"), Column("b", "B", ",d", "without a value")]
    rows = [{"a": 200, "b": None}, {"a": 300}, {"a": 7, "b": None}]
    cells = table_cells(Table("T", columns, rows), {"two": [0, 1], "one": [2]})
    assert [column.key for column in cells["columns"]] == ["a"]
    assert [[cell["text"] for cell in row] for row in cells["methods"]] == [["250"], ["7"]]
    assert [[cell["text"] for cell in row] for row in cells["runs"]] == [["200"], ["300"], ["7"]]


SAMPLES, PER_STEP, COMPONENTS = 12_000, 64, ("qed", "sa_score", "hbd", "logp")


@pytest.fixture(scope="module")
def molecules():
    """8,000 molecules of the MOSES sample, with rewards that increase along the file."""
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
    n = len(molecules)
    rows = np.concatenate([np.arange(n), rng.integers(n, size=SAMPLES - n)])
    rng.shuffle(rows)
    trace = molecules.iloc[rows].reset_index(drop=True)
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
def test_report_on_twenty_runs_is_below_the_limit(molecules):
    methods = {f"method {m}": range(5 * m, 5 * m + 5) for m in range(4)}
    runs = [
        run_of(molecules, f"method-{m}-seed={s}", 5 * m + s) for m in range(4) for s in range(5)
    ]
    tables = [Table("All", [Column("n_sampled", "sampled", ",d", "so many")], [{}] * len(runs))]
    options = PageOptions("Comparison", 0.8, prior=molecules["canonical_smiles"].tolist())
    page = render_page(runs, methods, tables, options)
    assert 500_000 < len(page.encode()) < LARGE
    # nothing was omitted
    assert page.count('class="card molecule"') == 4 * options.n_scaffolds * options.n_molecules
    assert page.count('class="dumbbell"') == 4 * (options.n_scaffolds + 3)
