"""A comparison of methods as Markdown, as LaTeX and for the terminal: the same cells in each."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from chemkl.display import MISSING, cell, counted, plain_table

Row = Mapping[str, Any]

_LATEX = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    MISSING: "--",
}
_LATEX_SPECIAL = re.compile("[" + re.escape("".join(_LATEX)) + "]")


def header(confidence: float) -> list[str]:
    """The columns of the table."""
    spreads = ["mean ± sd", "baseline", f"difference [{100 * confidence:.4g} %]"]
    return ["metric", "of", "method", "n", *spreads, "p", "p (Holm)", "verdict"]


def cells(row: Row) -> list[str]:
    """One comparison in words and numbers, in the order of the header."""
    interval = "" if row["low"] is None else f" [{number(row['low'])}, {number(row['high'])}]"
    spreads = [
        number(row[mean]) + ("" if row[sd] is None else f" ± {number(row[sd])}")
        for mean, sd in (("mean", "sd"), ("baseline_mean", "baseline_sd"))
    ]
    p_values = [
        "<0.001" if row[p] is not None and row[p] < 0.001 else cell(row[p], ".3f")
        for p in ("p", "p_holm")
    ]
    head = [f"{row['metric']} ({row['better']})", set_name(row["threshold"]), row["method"]]
    difference = number(row["difference"]) + interval
    return [*head, str(row["n"]), *spreads, difference, *p_values, row["verdict"]]


def notes(rows: Sequence[Row], further: Sequence[str], *, budget: int, alpha: float) -> list[str]:
    """How the table is to be read, and what did not enter it; then what else is to be said."""
    tests = f"all tests of this table ({sum(row['p'] is not None for row in rows)})"
    lines = [
        f"Baseline: {rows[0]['baseline']}; budget: {budget:,} oracle calls. Runs are paired by "
        "seed; n: pairs; sd: n - 1 in the denominator. (higher), (lower): what is better.",
        "Interval: percentile bootstrap of the mean difference over pairs, not corrected; with few "
        "pairs it is too narrow (95 % nominal covers 84 % at 5, 91 % at 10).",
        f"p: one-sided Welch t-test that the method is better; Holm: corrected for {tests}. "
        f"better: corrected p < {alpha:g}; not shown: not so, which is not proof of "
        "equality, nor of worse; not resolved: fewer than 5 pairs, or nothing varies.",
    ]
    censored, undefined = [], []
    for r in rows:
        place, method = f"{r['metric']}, {set_name(r['threshold'])}", r["method"]
        if r["n_not_reached"] or r["baseline_not_reached"]:
            censored.append(
                f"{place}: not reached in {r['n_not_reached']} of {r['n']} runs of {method} and "
                f"{r['baseline_not_reached']} of {r['baseline']}; they enter as budget + 1, the "
                "least it can be."
            )
        if r["n_undefined"]:
            undefined.append(
                f"{place}: {counted(r['n_undefined'], 'pair')} of {method} left out, where it is "
                "not defined (as without any hit)."
            )
    return [*lines, *censored, *undefined, *(f"{line}." for line in further)]


def markdown(rows: Sequence[Row], remarks: Sequence[str], confidence: float) -> str:
    """The table and its notes as Markdown."""
    names = header(confidence)
    lines = []
    for texts in (names, ["---"] * len(names), *map(cells, rows)):
        escaped = [re.sub(r"([\\|<>_*`\[\]])", r"\\\1", text) for text in texts]
        lines.append(f"| {' | '.join(escaped)} |")
    return "\n".join([*lines, "", *(f"- {remark}" for remark in remarks), ""])


def latex(rows: Sequence[Row], remarks: Sequence[str], confidence: float) -> str:
    r"""The table as a LaTeX tabular for \usepackage{booktabs}, the notes as comments."""
    lines = []
    for texts in (header(confidence), *map(cells, rows)):
        escaped = [_LATEX_SPECIAL.sub(lambda mark: _LATEX[mark[0]], text) for text in texts]
        signed = [re.sub(r"(?<![\w.-])-(?=\d)", "$-$", text) for text in escaped]
        lines.append(" & ".join(signed) + r" \\")
    lines.insert(1, r"\midrule")
    head = [*(f"% {remark}" for remark in remarks), r"\begin{tabular}{lllrrrrrrl}", r"\toprule"]
    return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}", ""])


def terminal(rows: Sequence[Row], confidence: float) -> Table:
    """The table for the terminal."""
    table = plain_table()
    for place, name in enumerate(header(confidence)):
        table.add_column(name, justify="right" if 3 <= place <= 8 else "left")
    for row in rows:
        table.add_row(*map(Text, cells(row)))
    return table


def set_name(threshold: float | None) -> str:
    """Which molecules a metric is of."""
    return "all" if threshold is None else f"R ≥ {threshold:.12g}"


def number(value: float | None) -> str:
    """A number to four digits, never in powers of ten where it is large."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
