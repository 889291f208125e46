import re
from html.parser import HTMLParser

import pytest

from chemkl.config import InputError
from chemkl.stages import report

VOID = {"meta", "br", "img", "hr", "input", "link"}
STEPS = [
    [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0)],
    [("CCc1ccccc1", 0.95), ("CC1CCCCC1", 0.85), ("OCC", 0.3)],
]


class Page(HTMLParser):
    """Collects ids, links and text, and checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.text = [], [], [], ""
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def runs(tmp_path, write_run):
    other = {"batch_size": 4, "target": {"kind": "gibbs"}}
    return [
        write_run(tmp_path / "mara", STEPS),
        write_run(tmp_path / "gibbs", [[("CCO", 0.1)]], other),
    ]


@pytest.fixture
def page(runs, tmp_path):
    config = {"runs": [str(r) for r in runs], "title": "A < B & C"}
    return report.run(config, tmp_path / "out").read_text()


def test_the_page_is_whole_and_needs_no_network(page):
    parsed = Page(page)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(link.startswith("#") for link in parsed.links)
    assert {link[1:] for link in parsed.links} <= set(parsed.ids)
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)
    assert not re.search(r"@import|url\((?!#)", page)
    namespaces = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert all(("w3.org" in n) or ("rdkit.org/xml" in n) for n in namespaces)


def test_the_page_shows_what_the_runs_did(page):
    parsed = Page(page)
    assert "A < B & C" in parsed.text
    assert "A < B" not in page  # escaped
    for word in ("mara", "gibbs", "Scaffold rank curve", "Yield", "Mean reward", "budget"):
        assert word in parsed.text
    assert "Morgan fingerprints of radius 2 and 1024 bits" in parsed.text
    assert "target.kind" in parsed.text  # the settings in which the runs differ
    assert "batch_size" in parsed.text.split("Settings and provenance")[1]


def test_the_best_molecule_of_each_scaffold_is_drawn_once(page):
    codes = re.findall(r'<code title="([^"]*)">', page)
    assert codes == ["CCc1ccccc1", "CC1CCCCC1", "CCO", "CCO"]
    assert "0.950" in page
    assert "2 of 2" in page


def test_equal_inputs_give_equal_bytes(runs, tmp_path):
    config = {"runs": [str(r) for r in runs]}
    first = report.run(config, tmp_path / "a").read_bytes()
    assert report.run(config, tmp_path / "b").read_bytes() == first


def test_names_of_runs_cannot_inject_markup(tmp_path, write_run):
    run = write_run(tmp_path / "<b>x", [[("CCO", 0.9)]])
    text = report.run({"runs": [str(run)]}, tmp_path / "out").read_text()
    assert "<b>x" not in text
    assert "&lt;b&gt;x" in text


@pytest.mark.parametrize("steps", [[[("C1CC", 0.0)]], [[("CCO", 0.1)]]])
def test_a_run_without_hits_or_molecules_is_reported(tmp_path, write_run, steps):
    run = write_run(tmp_path / "run", steps)
    text = report.run({"runs": str(run), "n_molecules": 3}, tmp_path / "out").read_text()
    assert Page(text).open == []
    assert ("No molecule to draw" in text) == (steps[0][0][0] == "C1CC")


def test_a_run_without_a_manifest_is_reported(runs, tmp_path):
    (runs[0] / "manifest.json").unlink()
    text = report.run({"runs": [str(runs[0])]}, tmp_path / "out").read_text()
    assert "This run has no manifest" in text


def test_the_number_of_molecules_is_a_setting(runs, tmp_path):
    text = report.run({"runs": [str(runs[0])], "n_molecules": 0}, tmp_path / "out").read_text()
    assert "<code title" not in text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "runs: required, and not given"),
        ({"runs": []}, "runs: "),
        ({"runs": ["nowhere"]}, "no such file or folder"),
        ({"runs": ["."], "n_molecules": -1}, "n_molecules: .*greater than or equal to 0"),
        ({"runs": ["."]}, "no trace to read"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, config, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match=message):
        report.run(config, tmp_path / "out")
