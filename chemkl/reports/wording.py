"""How counts, shares, ranges and names are written in a sentence."""

from collections.abc import Callable, Sequence
from typing import Any

from chemkl.reports.comparison_text import number


def mean(values: Sequence[float]) -> float:
    """Give the mean; there must be a value."""
    return sum(values) / len(values)


def p_value(value: float) -> str:
    """Write a p value to three decimals."""
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def counted(counts: Sequence[int], thing: str) -> str:
    """Write a count with its noun; of several runs the mean and the range."""
    if len(counts) == 1:
        return f"{counts[0]:,} {thing}{'' if counts[0] == 1 else 's'}"
    low_to_high = "" if min(counts) == max(counts) else f" ({span(counts, '{:,}'.format)})"
    return f"{number(mean(counts))} {thing}s{low_to_high}"


def span(values: Sequence[Any], how: Callable[[Any], str]) -> str:
    """Write the least and the greatest value; one of them where both read alike."""
    low, high = how(min(values)), how(max(values))
    return low if low == high else f"{low} to {high}"


def times(value: float, baseline: float) -> str:
    """Write how many times the baseline, which is not 0, a value is."""
    ratio = value / baseline
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.2f} times"


def reward(value: float) -> str:
    """Write a raw reward R; it is not broken in a line."""
    return f"R\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{value:.4g}"


def percent(share: float) -> str:
    """Write a share with one decimal, or as the whole number it is; it is not broken in a line."""
    return f"{100 * share:.{0 if (100 * share) % 1 == 0 else 1}f}\N{NO-BREAK SPACE}%"


def listed(names: Sequence[str]) -> str:
    """Write names with commas and a last `and`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
