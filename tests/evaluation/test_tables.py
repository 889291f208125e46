import io

import pyarrow as pa
import pytest
from rich.console import Console

from chemkl.config import InputError
from chemkl.config.evaluate import MetricOptions
from chemkl.display import MISSING
from chemkl.evaluation import (
    METRICS,
    Comparisons,
    evaluate,
    from_smiles,
    from_trace,
    metrics_schema,
)
from chemkl.evaluation.breakdown import families_schema, family_rows, over_time, over_time_schema
from chemkl.evaluation.metrics import frame
from chemkl.evaluation.tables import (
    comparison_tables,
    family_tables,
    legend,
    metric_catalogue,
    window_table,
)
from chemkl.evaluation.text import TEXT_METRICS

OPTIONS = MetricOptions()
STEPS = [
    [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0)],
    [("CCc1ccccc1", 0.85), ("CC1CCCCC1", 0.81), ("OCC", 0.3)],
]


def printed(tables):
    """The lines as cells; titles are wrapped to the width of their table, and stand on one here."""
    console = Console(width=200, record=True, file=io.StringIO())
    for table in tables:
        title, table.title = table.title, None
        console.print(title)
        console.print(table)
    return [line.split() for line in console.export_text().splitlines() if line.strip()]


def whole(rows, options=OPTIONS):
    return frame(pa.Table.from_pylist(rows, schema=metrics_schema(options)))


def test_the_comparison_is_one_row_per_run(make_trace):
    rows = [
        row
        for name, steps in (("first", STEPS), ("second", [[("CCO", 0.1)]]))
        for row in evaluate(from_trace(name, make_trace(steps)), [0.8], OPTIONS)
    ]
    cells = printed(comparison_tables(whole(rows), OPTIONS))
    # all molecules, the last ones, AUC, hits
    assert [c[0] for c in cells if c[0] in ("first", "second")] == ["first", "second"] * 4
    assert [c[1:3] for c in cells if c[0] == "AUC"] == [["top-k,", "over"]]  # 1 call and more
    no_hits = [c for c in cells if c[0] == "second"][3]
    # Yield, OB1, IntDiv, #Circles, scaffolds, effective, top; OB10 and OB100 are empty for both
    assert no_hits[1:] == ["0", MISSING, MISSING, "0", "0", MISSING, MISSING]
    assert "Morgan r2, 1024 bits" in legend(whole(rows), OPTIONS)


def test_auc_is_shown_of_what_is_scored(make_trace):
    options = MetricOptions(auc_calls=2, auc_every=1)
    rows = evaluate(from_trace("x", make_trace([[("CCO", 0.4), ("CCN", 0.8)]])), [], options)
    cells = printed(comparison_tables(whole(rows, options), options))
    at = cells.index(["AUC", "top-k", "over", "2", "calls"])
    assert cells[at + 1] == ["run", "top-1", "top-10", "top-100"]
    # top-1 is 0, 0.4, 0.8 at calls 0, 1, 2: (0.2 + 0.6) / 2; of fewer than 10 the mean of all is
    # taken: 0, 0.4, 0.6: (0.2 + 0.5) / 2
    assert cells[at + 3] == ["x", "0.400", "0.350", "0.350"]
    assert "AUC top-k: area under" in legend(whole(rows, options), options)
    rows = evaluate(from_smiles("x", ["CCO"]), [], OPTIONS)
    assert not [c for c in printed(comparison_tables(whole(rows), OPTIONS)) if c[0] == "AUC"]
    assert "AUC" not in legend(whole(rows), OPTIONS)


def windows(samples, options, every):
    rows = [row for one in samples for row in over_time(one, [0.8], options, every)]
    table = frame(pa.Table.from_pylist(rows, schema=over_time_schema(options)))
    return printed(window_table(table, options))


def test_a_collapse_is_seen_over_the_calls(make_trace):
    # twelve new molecules, one a step; from the fifth on nine repeats of the first come before it,
    # and repeats belong to the call before them: the last ten up to call 4 are an acid and phenols
    acids = [f"{'C' * n}C(=O)O" for n in range(1, 12)]
    steps = [[(s, 0.5)] for s in ["Oc1ccccc1", *acids]]
    steps = steps[:4] + [[("Oc1ccccc1", 0.5)] * 9 + step for step in steps[4:]]
    options = MetricOptions(late_samples=10)
    cells = windows([from_trace("run", make_trace(steps))], options, every=1)
    assert cells[0] == ["The", "last", "10", "valid", "samples", "at", "several", "calls"]
    assert cells[1] == ["run", "calls", "unique", "scaf.", "eff.", "top", "mean", "R"]
    # 12 rows, of which the 2nd, 4th, 7th, 9th and 12th are shown: steps 12 k / 5, rounded down
    assert cells[3] == ["run", "2", "100.0%", "1", "1", "100.0%", "0.500"]
    assert [row[:2] for row in cells[4:]] == [
        ["4", "20.0%"],
        ["7", "20.0%"],
        ["9", "20.0%"],
        ["12", "20.0%"],
    ]


def test_each_run_has_its_own_calls_and_a_file_no_rewards(make_trace):
    files = [from_smiles("a[1]", ["C", "CC", "CCC"]), from_smiles("b", ["C"]), from_smiles("c", [])]
    cells = windows(files, OPTIONS, every=2)
    assert cells[1] == ["run", "calls", "unique", "scaf."]  # no scaffold has a share, no reward
    assert cells[3:] == [
        ["a[1]", "2", "100.0%", "0"],
        ["3", "100.0%", "0"],
        ["b", "1", "100.0%", "0"],
    ]
    assert windows(files[2:], OPTIONS, every=2) == []


FIVE, SIX, SEVEN, EIGHT = (f"C1{'C' * n}1" for n in (4, 5, 6, 7))


def families(runs, prior, options=OPTIONS):
    rows = [row for run in runs for row in family_rows(run, prior, options.late_samples)]
    moved = frame(pa.Table.from_pylist(rows, schema=families_schema(options.late_samples)))
    table = [r for run in runs for r in evaluate(run, [0.8], options, Comparisons(prior=prior))]
    return printed(family_tables(whole(table, options), moved, options))


def test_families_that_grew_and_shrank_and_those_made_again(make_trace):
    # the prior: four rings, an equal share each; the run: three six-rings and a five-ring
    prior = from_smiles("prior", [FIVE, SIX, SEVEN, EIGHT], [0.9, 0.9, 0.1, 0.9])
    run = make_trace([[(SIX, 0.9), ("CC1CCCCC1", 0.1), ("OC1CCCCC1", 0.1), (FIVE, 0.9)]])
    cells = families([from_trace("x", run)], prior)
    assert " ".join(cells[0]).startswith("Scaffold families that grew and shrank most")
    rows = [row for row in cells if row[-1][:1] in "+-" and row[-1] != "made"]
    assert rows[0] == ["x", SIX, "25.0%", "75.0%", "+50.0%"]
    assert rows[1:] == [[ring, "25.0%", "0.0%", "-25.0%"] for ring in (SEVEN, EIGHT)]
    # of four families two are made again; of the three of hits two: five-ring and six-ring
    assert cells[-1] == ["x", "4", "50.0%", "3", "66.7%"]


def test_coverage_without_rewards_is_of_all_molecules_alone(make_trace):
    runs = [from_trace("x", make_trace(STEPS)), from_smiles("nothing", [])]
    cells = families(runs, from_smiles("prior", [FIVE, SIX]))
    assert cells[-2:] == [["x", "2", "50.0%"], ["nothing", "2", "0.0%"]]


@pytest.mark.parametrize("prior", [[], ["CCO", "nonsense"]])
def test_a_prior_without_families(prior):
    cells = families([from_smiles("x", ["CCO"])], from_smiles("prior", prior))
    assert cells[-1] == ["x", "0", MISSING]


def test_long_scaffolds_are_cut_and_brackets_stay():
    peptide = "C1CCCCC1" + "CCC1CCCCC1" * 6
    cells = families([from_smiles("x[bold]", [peptide])], from_smiles("prior", [FIVE]))
    (row,) = [row for row in cells if row[-1] == "+100.0%"]
    assert row[0] == "x[bold]"
    assert "…" in row[1]


def test_the_table_of_metrics_is_shown_whole_or_by_one():
    cells = printed(metric_catalogue())
    of_texts = cells.index(["Measures", "of", "texts"])
    rows = {row[0]: row for row in cells[:of_texts] if row[0] in METRICS}
    assert rows.keys() == METRICS.keys()
    assert {row[0] for row in cells[of_texts:]} >= TEXT_METRICS.keys()
    assert rows["top_share"][1:4] == ["share", "lower", "all"]
    assert rows["ob10"][1:5] == ["oracle", "calls", "lower", "hits"]
    one = " ".join(" ".join(row) for row in printed(metric_catalogue("late_scaffolds")))
    assert "among the last 1000 valid samples" in one
    assert "murcko" not in one
    with pytest.raises(InputError, match="no metric is called 'murko'; did you mean 'murcko'"):
        list(metric_catalogue("murko"))
