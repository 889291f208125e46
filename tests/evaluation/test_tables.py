"""Tables of evaluations in the terminal, read cell by cell."""

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
    """The lines as lists of words; a title is one line, without wrapping."""
    console = Console(width=200, record=True, file=io.StringIO())
    for table in tables:
        title, table.title = table.title, None
        console.print(title)
        console.print(table)
    return [line.split() for line in console.export_text().splitlines() if line.strip()]


def frame_of(runs, thresholds=(0.8,), options=OPTIONS, **comparisons):
    comparisons = Comparisons(**comparisons)
    rows = [row for run in runs for row in evaluate(run, thresholds, options, comparisons)]
    return frame(pa.Table.from_pylist(rows, schema=metrics_schema(options)))


def test_comparison_has_a_row_per_run(make_trace):
    steps = {"first": STEPS, "second": [[("CCO", 0.1)]]}
    table = frame_of([from_trace(name, make_trace(s)) for name, s in steps.items()])
    cells = printed(comparison_tables(table, OPTIONS))
    # all molecules, the last ones, AUC, hits
    assert [c[0] for c in cells if c[0] in steps] == ["first", "second"] * 4
    assert [c[1:3] for c in cells if c[0] == "AUC"] == [["top-k,", "over"]]  # 1 call and more
    no_hits = [c for c in cells if c[0] == "second"][3]
    # Yield, OB1, IntDiv, #Circles, scaffolds, effective, top; OB10 and OB100 are empty for both
    assert no_hits[1:] == ["0", MISSING, MISSING, "0", "0", MISSING, MISSING]
    assert "Morgan r2, 1024 bits" in legend(table, OPTIONS)


def test_auc_is_shown_only_with_rewards(make_trace):
    options = MetricOptions(auc_calls=2, auc_every=1)
    run = from_trace("x", make_trace([[("CCO", 0.4), ("CCN", 0.8)]]))
    table = frame_of([run], (), options)
    cells = printed(comparison_tables(table, options))
    at = cells.index(["AUC", "top-k", "over", "2", "calls"])
    assert cells[at + 1] == ["run", "top-1", "top-10", "top-100"]
    # top-1 is 0, 0.4, 0.8 at calls 0, 1, 2: (0.2 + 0.6) / 2; of fewer than 10 the mean of all is
    # taken: 0, 0.4, 0.6: (0.2 + 0.5) / 2
    assert cells[at + 3] == ["x", "0.400", "0.350", "0.350"]
    assert "AUC top-k: area under" in legend(table, options)
    table = frame_of([from_smiles("x", ["CCO"])])
    assert not [c for c in printed(comparison_tables(table, OPTIONS)) if c[0] == "AUC"]
    assert "AUC" not in legend(table, OPTIONS)


def windows(runs, options, every):
    rows = [row for run in runs for row in over_time(run, [0.8], options, every)]
    table = frame(pa.Table.from_pylist(rows, schema=over_time_schema(options)))
    return printed(window_table(table, options))


def test_window_table_shows_a_collapse(make_trace):
    # twelve new molecules, one a step; from the fifth on nine repeats of the first come before it,
    # and repeats belong to the call before them: the last ten up to call 4 are an acid and phenols
    acids = [f"{'C' * n}C(=O)O" for n in range(1, 12)]
    steps = [[(s, 0.5)] for s in ["Oc1ccccc1", *acids]]
    steps = steps[:4] + [[("Oc1ccccc1", 0.5)] * 9 + step for step in steps[4:]]
    cells = windows([from_trace("run", make_trace(steps))], MetricOptions(late_samples=10), every=1)
    assert " ".join(cells[0]) == "The last 10 valid samples at several calls"
    assert cells[1] == ["run", "calls", "unique", "scaf.", "eff.", "top", "mean", "R"]
    # 12 rows, of which the 2nd, 4th, 7th, 9th and 12th are shown: steps 12 k / 5, rounded down
    assert cells[3] == ["run", "2", "100.0%", "1", "1", "100.0%", "0.500"]
    assert [row[:2] for row in cells[4:]] == [[call, "20.0%"] for call in ("4", "7", "9", "12")]


def test_window_table_of_files_has_no_rewards():
    files = [from_smiles("a[1]", ["C", "CC", "CCC"]), from_smiles("b", ["C"]), from_smiles("c", [])]
    cells = windows(files, OPTIONS, every=2)
    assert cells[1] == ["run", "calls", "unique", "scaf."]  # no scaffold has a share, no reward
    assert [" ".join(row) for row in cells[3:]] == ["a[1] 2 100.0% 0", "3 100.0% 0", "b 1 100.0% 0"]
    assert windows(files[2:], OPTIONS, every=2) == []


FIVE, SIX, SEVEN, EIGHT = (f"C1{'C' * n}1" for n in (4, 5, 6, 7))


def families(runs, prior):
    rows = [row for run in runs for row in family_rows(run, prior, OPTIONS.late_samples)]
    table = frame(pa.Table.from_pylist(rows, schema=families_schema(OPTIONS.late_samples)))
    return printed(family_tables(frame_of(runs, prior=prior), table, OPTIONS))


def test_families_that_changed_and_those_recovered(make_trace):
    # the prior: four rings, an equal share each; the run: three six-rings and a five-ring
    prior = from_smiles("prior", [FIVE, SIX, SEVEN, EIGHT], [0.9, 0.9, 0.1, 0.9])
    run = make_trace([[(SIX, 0.9), ("CC1CCCCC1", 0.1), ("OC1CCCCC1", 0.1), (FIVE, 0.9)]])
    cells = families([from_trace("x", run)], prior)
    assert " ".join(cells[0]).startswith("Scaffold families that grew and shrank most")
    rows = [row for row in cells if row[-1][:1] in "+-"]
    assert rows[0] == ["x", SIX, "25.0%", "75.0%", "+50.0%"]
    assert rows[1:] == [[ring, "25.0%", "0.0%", "-25.0%"] for ring in (SEVEN, EIGHT)]
    # of four families two are recovered; of the three of hits two: five-ring and six-ring
    assert cells[-1] == ["x", "4", "50.0%", "3", "66.7%"]


def test_coverage_without_rewards_or_without_families(make_trace):
    runs = [from_trace("x", make_trace(STEPS)), from_smiles("nothing", [])]
    cells = families(runs, from_smiles("prior", [FIVE, SIX]))
    assert cells[-2:] == [["x", "2", "50.0%"], ["nothing", "2", "0.0%"]]
    for prior in ([], ["CCO", "nonsense"]):
        cells = families([from_smiles("x", ["CCO"])], from_smiles("prior", prior))
        assert cells[-1] == ["x", "0", MISSING]


def test_long_scaffolds_are_cut_and_brackets_are_literal():
    peptide = "C1CCCCC1" + "CCC1CCCCC1" * 6
    cells = families([from_smiles("x[bold]", [peptide])], from_smiles("prior", [FIVE]))
    (row,) = [row for row in cells if row[-1] == "+100.0%"]
    assert row[0] == "x[bold]"
    assert "…" in row[1]


def test_catalogue_of_metrics():
    cells = printed(metric_catalogue())
    of_texts = cells.index(["Measures", "of", "texts"])
    rows = {row[0]: row for row in cells[:of_texts] if row[0] in METRICS}
    assert rows.keys() == METRICS.keys()
    assert {row[0] for row in cells[of_texts:]} >= TEXT_METRICS.keys()
    assert rows["top_share"][1:4] == ["share", "lower", "all"]
    assert rows["ob10"][1:5] == ["oracle", "calls", "lower", "hits"]
    text = " ".join(" ".join(row) for row in printed(metric_catalogue("late_scaffolds")))
    assert "among the last 1000 valid samples" in text
    assert "murcko" not in text
    with pytest.raises(InputError, match="no metric is called 'murko'; did you mean 'murcko'"):
        list(metric_catalogue("murko"))
