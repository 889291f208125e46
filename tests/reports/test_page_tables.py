import numpy as np
import pandas as pd
import pytest

from chemkl.display import MISSING
from chemkl.reports.tables import Column, Table, spread, written


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


def test_a_table_has_a_row_for_each_method_and_for_each_run():
    columns = [Column("a", "A", ",d", "first"), Column("b", "B", ",d", "none has it")]
    rows = [{"a": 200, "b": None}, {"a": 300}, {"a": 7, "b": None}]
    shown = written(Table("T", columns, rows), {"two": [0, 1], "one": [2]})
    assert [column.key for column in shown["columns"]] == ["a"]
    assert [[cell["text"] for cell in row] for row in shown["methods"]] == [["250"], ["7"]]
    assert [[cell["text"] for cell in row] for row in shown["runs"]] == [["200"], ["300"], ["7"]]
