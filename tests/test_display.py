import io
import math
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rich.progress import Progress

from chemkl import display
from chemkl.display import (
    MISSING,
    Bar,
    Column,
    cell,
    counted,
    is_missing,
    listed,
    percent,
    short,
    span,
    table,
)


def test_a_missing_value_is_a_dash():
    for value in (None, pd.NA, math.nan, np.float32("nan")):
        assert is_missing(value)
        assert cell(value, ".3f") == cell(value, ",d") == MISSING
    assert not any(is_missing(value) for value in ("", False, 0, math.inf))


@pytest.mark.parametrize(
    ("value", "how", "text"),
    [(0, ".1%", "0.0%"), (1234.0, ",d", "1,234"), (0.9876, ".3f", "0.988"), (math.inf, "g", "inf")],
)
def test_a_value_has_its_format(value, how, text):
    assert cell(value, how) == text


def test_long_molecules_counts_ranges_and_names_in_words():
    assert short("C" * 60) == "C" * 60
    assert short("N" + "C" * 60 + "O") == "N" + "C" * 28 + "…" + "C" * 28 + "O"
    assert short("N" + "C" * 60 + "O", 9) == "NCCC…CCCO"
    assert [counted(n, "hit") for n in (0, 1, 2000)] == ["0 hits", "1 hit", "2,000 hits"]
    assert span([2000, 1, 3]) == "1 to 2,000"
    assert span([0.501, 0.502], ".1%") == "50.1% to 50.2%"
    assert span([0.501, 0.502], "{:.1f}".format) == "0.5"
    assert span([0.2791, 0.2793], percent) == percent(0.279)
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize(
    ("share", "text"), [(0.279, "27.9"), (1.0, "100"), (0.5, "50"), (0.0, "0"), (0.9999, "100.0")]
)
def test_a_share_has_no_line_break(share, text):
    assert percent(share) == f"{text}\N{NO-BREAK SPACE}%"


def printed(result):
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(result)
    return [line.rstrip() for line in console.export_text().splitlines() if line.strip()]


COLUMNS = [
    Column("run", "run"),
    Column("n", "n", ",d"),
    Column("ess", "ESS", lambda value: f"~{value:.0f}"),
    Column("nothing", "never there", ".3f"),
]


def test_a_table_aligns_texts_left_numbers_right_and_has_no_empty_column():
    rows = [{"run": "a[b]", "n": 1000, "ess": 2.4}, {"run": "a[b]", "n": None}]
    lines = printed(table("Runs [1]", COLUMNS, rows))
    assert lines[0] == "Runs [1]"
    assert lines[1].split() == ["run", "n", "ESS"]
    assert [line.split() for line in lines[3:]] == [
        ["a[b]", "1,000", "~2"],
        ["a[b]", MISSING, MISSING],
    ]
    assert lines[4].index(MISSING) == lines[3].index("1,000") + 4
    assert "never there" in printed(table("", COLUMNS, rows, keep_empty=True))[0]
    assert printed(table("", COLUMNS, rows, group=True))[3].split() == [MISSING, MISSING]
    assert len(printed(table("", COLUMNS, []))) == 2  # head and line


@pytest.fixture
def screens(monkeypatch):
    made = []

    def open_screens(*, is_terminal):
        def console(**_):
            made.append(Console(file=io.StringIO(), force_terminal=is_terminal, width=80))
            return made[-1]

        monkeypatch.setattr(display, "Console", console)
        return made

    return open_screens


def test_a_bar_shows_the_amount_done_and_removes_finished_parts(screens):
    made = screens(is_terminal=True)
    with Bar("scoring", 7, "calls") as bar:
        bar.advance(3)
        with bar.part("batch", 2) as advance:
            advance(1)
        bar.at(5, ", 9 samples")
    text = made[0].file.getvalue()
    assert all(part in text for part in ("scoring", "5/7", "calls, 9 samples"))


def test_a_bar_with_a_delay_is_not_shown_for_quick_work(screens):
    made = screens(is_terminal=True)
    with Bar("scoring", 7, delay=0.1) as bar:
        bar.advance()
    with Bar("scoring", 7, delay=0.1) as bar:
        bar.advance(3)
        time.sleep(0.6)
    assert "scoring" not in made[0].file.getvalue()
    assert "3/7" in made[1].file.getvalue()


def test_without_a_terminal_lines_are_printed_on_request(screens, monkeypatch):
    made, now = screens(is_terminal=False), [0]
    monkeypatch.setattr("chemkl.display.Progress", partial(Progress, get_time=lambda: now[0]))
    for lines in (0, 2):
        with Bar("train [x]", 4, "steps", lines=lines) as bar:
            for done in range(5):
                now[0] += 10
                bar.at(done, f", loss {done}")
    assert not made[0].file.getvalue()
    assert made[1].file.getvalue().splitlines() == [
        "train [x]: 0 of 4 steps, loss 0, 10 s",
        "train [x]: 2 of 4 steps, loss 2, 30 s, 20 s left",
        "train [x]: 4 of 4 steps, loss 4, 50 s",
    ]
    with Bar("x", 4, shown=False, lines=4) as bar:
        bar.advance(4)
    assert not made[2].file.getvalue()
