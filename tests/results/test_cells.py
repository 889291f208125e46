import math

import numpy as np
import pandas as pd
import pytest

from chemkl.results.cells import MISSING, cell, is_missing, short


@pytest.mark.parametrize("value", [None, pd.NA, math.nan, np.float32("nan")])
def test_a_value_that_is_not_there_is_a_dash(value):
    assert is_missing(value)
    assert cell(value, ".3f") == cell(value, ",d") == MISSING


@pytest.mark.parametrize(
    ("value", "how", "text"),
    [(0, ".1%", "0.0%"), (1234.0, ",d", "1,234"), (0.9876, ".3f", "0.988"), (math.inf, "g", "inf")],
)
def test_a_value_is_written_as_asked(value, how, text):
    assert not is_missing(value)
    assert cell(value, how) == text


@pytest.mark.parametrize("value", ["", False, 0, math.inf])
def test_what_is_empty_false_or_infinite_is_there(value):
    assert not is_missing(value)


def test_long_molecules_are_cut_in_the_middle():
    assert short("C" * 60) == "C" * 60
    assert short("N" + "C" * 60 + "O") == "N" + "C" * 28 + "…" + "C" * 28 + "O"
    assert short("N" + "C" * 60 + "O", 9) == "NCCC…CCCO"
