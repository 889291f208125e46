import io
import re
from html.parser import HTMLParser

import pytest
from rdkit.Chem import rdDepictor
from rdkit.Chem.rdDepictor import Compute2DCoords
from rich.console import Console

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
    assert not {"link", "img", "iframe"} & set(parsed.tags)
    assert not re.search(r"<script[^>]* src", page)
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
    assert "batch_size" in section(page, "settings")


def section(page, name):
    """The text of one section, tags taken out."""
    inner = re.search(rf'<section id="{name}">(.*?)</section>', page, re.S)[1]
    return re.sub(r"\s+", " ", Page(inner).text)


def test_every_section_is_there_and_in_the_contents(page, report_sections):
    ids = re.findall(r'<section id="([^"]*)">', page)
    assert ids == report_sections
    assert [f"#{name}" for name in ids] == [link for link in Page(page).links if link[1:] in ids]
    for name in ids:
        assert re.search(rf'<section id="{name}">\s*<h2>[^<]+</h2>\s*<(p|div)', page)


def test_the_largest_scaffolds_show_their_best_molecules(page):
    inner = re.search(r'<section id="scaffolds">(.*?)</section>', page, re.S)[1]
    codes = re.findall(r'<code title="([^"]*)">', inner)
    # benzene: two hits of two molecules, R = 0.95 before 0.9; then cyclohexane; ethanol has no ring
    benzene = ["c1ccccc1", "CCc1ccccc1", "Cc1ccccc1"]
    assert codes == [*benzene, "C1CCCCC1", "CC1CCCCC1"]
    text = section(page, "scaffolds")
    assert "2 of 2" in text
    assert "0.950" in text
    assert "No molecule with a ring." in text  # gibbs


def test_equal_inputs_give_equal_bytes(runs, tmp_path):
    config = {"runs": [str(r) for r in runs]}
    first = report.run(config, tmp_path / "a").read_bytes()
    assert report.run(config, tmp_path / "b").read_bytes() == first


def test_names_of_runs_cannot_inject_markup(tmp_path, write_run):
    run = write_run(tmp_path / "<b>x", [[("CCO", 0.9)]])
    text = report.run({"runs": [str(run)]}, tmp_path / "out").read_text()
    assert "<b>x" not in text
    assert "&lt;b&gt;x" in text


NO_HIT = "No run has a hit: none with R ≥ 0.8."
NO_MOLECULE = "No run has a valid molecule yet."
NO_RING = "No molecule has a ring."


@pytest.mark.parametrize(
    ("steps", "empty"),
    [
        ([[("C1CC", 0.0)]], {"rank": NO_HIT, "yield": NO_MOLECULE, "map": NO_MOLECULE}),
        ([[("CCO", 0.1)]], {"rank": NO_HIT, "families": NO_RING}),
        ([[("CCO", 0.9)]], {"families": NO_RING}),
        ([[("Cc1ccccc1", 0.9)]], {"collapse": "No run has 1,000 valid samples"}),
        ([[("Cc1ccccc1", 0.9)] * 1000], {}),
    ],
)
def test_a_section_without_data_says_so(tmp_path, write_run, report_sections, steps, empty):
    run = write_run(tmp_path / "run", steps)
    text = report.run({"runs": str(run)}, tmp_path / "out").read_text()
    assert Page(text).open == []
    assert re.findall(r'<section id="([^"]*)">', text) == report_sections
    for name, sentence in empty.items():
        assert sentence in section(text, name)
    assert text.count('class="missing"') >= len(empty)
    assert bool(empty) or "missing" not in text.split("</style>")[1]


def test_a_run_without_a_manifest_is_reported(runs, tmp_path):
    (runs[0] / "manifest.json").unlink()
    text = report.run({"runs": [str(runs[0])]}, tmp_path / "out").read_text()
    assert "This run has no manifest" in text


def test_parts_can_be_switched_off(runs, tmp_path):
    off = {"n_scaffolds": 0, "n_top": 0, "n_map": 0}
    text = report.run({"runs": [str(runs[0])], **off}, tmp_path / "out").read_text()
    for name in ("scaffolds", "top", "map", "families"):
        assert "Switched off" in section(text, name)
    assert "<script" not in text


def test_the_size_is_said_and_a_large_page_is_warned_of(runs, tmp_path, monkeypatch):
    def said(out):
        console = Console(file=io.StringIO(), width=200)
        page = report.run({"runs": [str(runs[0])]}, tmp_path / out, console=console)
        return page.stat().st_size, console.file.getvalue()

    size, text = said("small")
    assert f"report.html: {size / 1e6:.1f} MB about 1 run, " in text
    assert "warning" not in text
    monkeypatch.setattr(report, "LARGE", 1000)
    assert "Lower n_top, n_molecules, n_scaffolds or n_map" in said("large")[1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "neither `runs` nor `methods` given"),
        ({"runs": []}, "neither `runs` nor `methods` given"),
        ({"runs": ["."], "methods": {"a": ["."]}}, "both `runs` and `methods` given"),
        ({"runs": [".", "../empty"]}, "runs: .*empty: given more than once"),
        ({"methods": {"a": ["."], "b": ["."]}}, "each run once, please; given twice: .*empty"),
        ({"methods": {"a": []}}, "methods.a: "),
        ({"methods": {"": ["."]}}, "methods"),
        ({"runs": ["."], "prior": "no.smi"}, "prior.*no such file"),
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


def test_what_rdkit_cannot_read_or_draw_is_skipped_and_counted(
    tmp_path, write_run, monkeypatch, capsys
):
    bad = "Cc1ccc2nc(C)=n(C)c12"  # RDKit 2026.09 cannot read what it writes for it
    folder = write_run(tmp_path / "old", [[*STEPS[0], (bad, 0.99)], STEPS[1]])

    def fails(mol, **settings):
        if mol.GetNumAtoms() == 7:
            raise RuntimeError("made up")
        return Compute2DCoords(mol, **settings)

    monkeypatch.setattr(rdDepictor, "Compute2DCoords", fails)
    page = report.run({"runs": [str(folder)], "threshold": 0.8}, tmp_path / "out").read_text()
    assert "old: 1 molecules recorded as valid are counted as invalid" in capsys.readouterr().err
    assert "CC1=c2c(nc(C)n2C)C=C1" not in page
    assert "CC1CCCCC1" in page
