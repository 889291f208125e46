import re

import pytest

from chemkl.reports import Column, PageOptions, RunView, Table, render_page


def tables(n_runs=1):
    return [Table("All", [Column("n", "N", ",d", "how many")], [{"n": 3}] * n_runs)]


def sections_of(page):
    found = re.findall(r'<section id="([^"]*)">(.*?)</section>', page, re.S)
    return {name: '</h2>\n<p class="missing">' in inner for name, inner in found}


def test_an_empty_trace_has_every_section_and_says_what_is_missing(make_trace):
    run = RunView("empty", make_trace([]))
    page = render_page([run], {"empty": [0]}, tables(), PageOptions("Empty", 0.8))
    missing = {name for name, is_missing in sections_of(page).items() if is_missing}
    with_data = set(sections_of(page)) - missing
    assert with_data == {"summary", "tables", "settings"}
    assert "No run has a sample yet." in page
    assert page.count("<section") == 12


def test_runs_beside_an_empty_one_are_shown(make_trace):
    runs = [RunView("empty", make_trace([])), RunView("full", make_trace([[("CC1CC1", 0.9)]]))]
    page = render_page(runs, {"a": [0], "b": [1]}, tables(2), PageOptions("Two", 0.8))
    assert not sections_of(page)["rank"]
    assert not sections_of(page)["scaffolds"]


@pytest.mark.parametrize("threshold", [0.8, 2.0])
def test_one_molecule_is_a_page(make_trace, threshold):
    run = RunView("one", make_trace([[("CC1CC1", 0.9)]]))
    page = render_page([run], {"one": [0]}, tables(), PageOptions("One", threshold))
    assert sections_of(page)["rank"] == (threshold > 0.9)
    assert not sections_of(page)["yield"]


def test_the_settings_of_the_page_are_printed(make_trace):
    options = PageOptions("T", 0.8, settings={"n_top": 17})
    page = render_page([RunView("r", make_trace([]))], {"r": [0]}, tables(), options)
    assert "n_top: 17" in page
