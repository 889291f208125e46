"""The page in a browser: every section, no error, no request, a working table."""

import json
import os
import re
import shutil
import time

import pytest
from devtools import TIMEOUT, Page

from chemkl.stages import report

BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None, reason="no chromium on PATH, and CHROMIUM does not name one"
    ),
]


@pytest.fixture(scope="module")
def report_page(tmp_path_factory, real_smiles, write_run):
    """A report on three runs with different molecules, one of them with few and invalid ones."""
    folder = tmp_path_factory.mktemp("runs")
    molecules = {
        "broad": [(s, 0.6 + 0.001 * k) for k, s in enumerate(real_smiles[:150])],
        "narrow": [(f"{'C' * (k % 9 + 1)}c1ccncc1", 0.5 + 0.05 * (k % 9)) for k in range(150)],
        "poor": [("CCO", 0.1), ("C1CC", 0.0), ("Cc1ccccc1", 0.3)],
    }
    for name, rows in molecules.items():
        config = {"batch_size": 8, "target": {"kind": "mara", "tau": 0.7}, "name": name}
        config["callbacks"] = {"collapse": {"window": 100}}  # as many as there are
        steps = [rows[at : at + 8] for at in range(0, len(rows), 8)]
        write_run(folder / name, steps, config)
    runs = [str(folder / name) for name in molecules]
    return report.run({"runs": runs, "threshold": 0.7}, folder / "report")


@pytest.fixture(scope="module")
def page(report_page, tmp_path_factory):
    tab = Page(BROWSER, tmp_path_factory.mktemp("browser"))
    try:
        tab.attach()
        tab.open(report_page)
        yield tab
    finally:
        tab.close()


TABLE = "document.querySelector('#top .top-table')"


def column(page, name):
    """The exact values of the visible rows in a column of the table."""
    script = f"""(() => {{
        const root = {TABLE};
        const at = [...root.querySelectorAll("th")].findIndex((h) => h.dataset.name === "{name}");
        return [...root.querySelectorAll("tbody tr")].filter((row) => row.offsetParent)
            .map((row) => row.cells[at].dataset.v ?? row.cells[at].textContent);
    }})()"""
    return page.value(script)


def numbers(page, name):
    return [float(text) for text in column(page, name)]


def click(page, selector):
    page.value(f"{TABLE}.querySelector('{selector}').click()")


def search(page, words):
    page.value(
        f"(() => {{ const box = {TABLE}.querySelector('input'); box.value = {json.dumps(words)};"
        "box.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def test_every_section_has_content(page, report_sections):
    for name in report_sections:
        height, text = page.value(
            f"(() => {{ const s = document.getElementById('{name}');"
            "return s ? [s.getBoundingClientRect().height, s.innerText] : [0, '']; })()"
        )
        assert height > 60, f"section {name} is missing or has no height"
        assert len(text.split()) > 3, f"section {name} says nothing: {text!r}"
    for name in ("learning", "yield", "collapse", "rank", "anchors", "map"):
        drawn = page.value(f"document.querySelectorAll('#{name} svg').length")
        assert drawn >= 2, f"section {name} has {drawn} drawings"


def test_nothing_is_wider_than_the_window(page):
    assert page.value("document.documentElement.scrollWidth <= window.innerWidth")


def test_no_error_and_no_warning(page):
    assert page.events_of("Runtime.exceptionThrown") == []
    assert [e["entry"] for e in page.events_of("Log.entryAdded")] == []
    assert page.events_of("Runtime.consoleAPICalled") == []


def test_no_request_leaves_the_machine(page, report_page):
    urls = {e["request"]["url"] for e in page.events_of("Network.requestWillBeSent")}
    assert [url for url in urls if not url.startswith(("file:", "data:", "about:"))] == []
    assert [url for url in urls if url.startswith("file:")] == [report_page.as_uri()]


def test_an_error_and_a_request_would_have_been_detected(page):
    """Provoke both, to show that the two tests above can fail."""
    page.value("setTimeout(() => { throw new Error('made up'); }, 0)")
    page.value("fetch('http://example.org/x').catch(() => console.log('refused'))")
    page.until(lambda message: message.get("method") == "Runtime.consoleAPICalled")
    assert any("made up" in json.dumps(e) for e in page.events_of("Runtime.exceptionThrown"))
    urls = [e["request"]["url"] for e in page.events_of("Network.requestWillBeSent")]
    assert "http://example.org/x" in urls
    page.events.clear()


def test_table_starts_with_the_best_fifty(page):
    rewards = numbers(page, "reward")
    assert len(rewards) == 50
    assert rewards == sorted(rewards, reverse=True)
    assert page.value(f"{TABLE}.querySelector('th[data-name=reward]').ariaSort") == "descending"


def test_a_click_shows_more_rows(page):
    click(page, ".more")
    assert len(column(page, "reward")) == 100
    assert page.value(f"{TABLE}.querySelector('.more').hidden")


@pytest.mark.parametrize("name", ["reward", "qed", "call", "hits_of_scaffold", "logp_policy"])
def test_numbers_sort_both_ways(page, name):
    click(page, "th[data-name=smiles] button")
    click(page, f"th[data-name={name}] button")
    down = numbers(page, name)
    assert down == sorted(down, reverse=True)
    assert page.value(f"{TABLE}.querySelector('th[data-name={name}]').ariaSort") == "descending"
    click(page, f"th[data-name={name}] button")
    up = numbers(page, name)
    assert up == sorted(up)
    assert up[0] < down[0]
    assert page.value(f"{TABLE}.querySelectorAll('th[aria-sort]').length") == 1


@pytest.mark.parametrize("name", ["smiles", "scaffold", "runs"])
def test_text_sorts_with_empty_cells_at_the_end(page, name):
    click(page, "th[data-name=reward] button")
    click(page, f"th[data-name={name}] button")
    up = [text for text in column(page, name) if text]
    assert up == sorted(up)
    assert "" not in column(page, name)[: len(up)]


def test_headings_sort_by_the_keyboard(page):
    click(page, "th[data-name=smiles] button")
    page.value(f"{TABLE}.querySelector('th[data-name=call] button').focus()")
    page.press("Enter")
    calls = numbers(page, "call")
    assert calls == sorted(calls, reverse=True)
    assert calls[0] > calls[-1]


@pytest.mark.parametrize(
    ("words", "name"), [("c1ccncc1", "scaffold"), ("C(=O)N", "smiles"), ("NARROW", "runs")]
)
def test_search_shows_the_rows_that_contain_the_text(page, words, name):
    search(page, "")
    click(page, "th[data-name=reward] button")
    total = int(page.value(f"{TABLE}.querySelector('output').textContent").split()[-1])
    search(page, f" {words} ")
    columns = (column(page, key) for key in ("smiles", "scaffold", "runs"))
    rows = list(zip(*columns, strict=True))
    assert 0 < len(rows) < total
    assert all(words in s or words in sc or words.lower() in r.lower() for s, sc, r in rows)
    status = page.value(f"{TABLE}.querySelector('output').textContent")
    assert re.fullmatch(rf"\d+ shown of \d+ that match, of {total}", status)
    search(page, "")
    assert len(column(page, name)) == 50


def test_case_matters_in_smiles_and_nothing_may_match(page):
    search(page, "c1ccncc1".upper())
    aliphatic = column(page, "smiles")
    assert not any("c1ccncc1" in smiles for smiles in aliphatic)
    search(page, "<img src=x>")
    assert column(page, "smiles") == []
    assert "0 shown of 0" in page.value(f"{TABLE}.querySelector('output').textContent")
    search(page, "")


def test_matching_rows_can_be_saved(page):
    search(page, "c1ccncc1")
    page.value(
        "window.saved = null; URL.createObjectURL = (blob) => "
        "{ blob.text().then((text) => { window.saved = text; }); return '#'; };"
    )
    click(page, ".save")
    deadline = time.monotonic() + TIMEOUT
    while not page.value("window.saved") and time.monotonic() < deadline:
        time.sleep(0.01)
    head, *rows = page.value("window.saved").strip().split("\n")
    assert head.startswith('"reward","qed","runs","call"')
    assert len(rows) == len(column(page, "smiles")) > 1
    assert [float(row.split(",")[0]) for row in rows] == numbers(page, "reward")
    search(page, "")
