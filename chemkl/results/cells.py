"""How a value is written in a table or a sentence, on a screen as on a page."""

import math
from typing import Any

import numpy as np
import pandas as pd

MISSING = "–"  # noqa: RUF001 - an en dash is the typographer's sign for an empty cell


def is_missing(value: Any) -> bool:
    """Whether a cell is null."""
    is_float = isinstance(value, float | np.floating)
    return value is None or value is pd.NA or (is_float and math.isnan(value))


def cell(value: Any, how: str) -> str:
    """A value in a format, as in `format(value, how)`, or a dash where there is none."""
    if is_missing(value):
        return MISSING
    return format(int(value), how) if how.endswith("d") else format(float(value), how)


def short(smiles: str, width: int = 60) -> str:
    """Cut a SMILES that is longer than so many characters in the middle; files hold it whole."""
    half = (width - 1) // 2
    return smiles if len(smiles) <= width else f"{smiles[:half]}…{smiles[-half:]}"
