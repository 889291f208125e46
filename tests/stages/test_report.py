"""The report stage: a self-contained page of runs and methods, and refused input."""

import io
import re
from html.parser import HTMLParser
from itertools import count

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit.Chem import rdDepictor
from rdkit.Chem.rdDepictor import Compute2DCoords
from rich.console import Console

from chemkl.config import InputError
from chemkl.evaluation.comparison import COMPARISON_SCHEMA
from chemkl.stages import report

VOID = {"meta", "br", "img", "hr", "input", "link"}
STEPS = [
    [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0)],
    [("CCc1ccccc1", 0.95), ("CC1CCCCC1", 0.85), ("OCC", 0.3)],
]


GIBBS = {"batch_size": 4, "target": {"kind": "gibbs"}}


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
    return [
        write_run(tmp_path / "mara", STEPS),
        write_run(tmp_path / "gibbs", [[("CCO", 0.1)]], GIBBS),
    ]


@pytest.fixture
def reported(tmp_path):
    """Make a page with these settings in a new folder; return its text."""
    folders = (tmp_path / f"out{n}" for n in count())

    def make(**config):
        return report.run(config, next(folders)).read_text()

    return make


@pytest.fixture(scope="module")
def page(write_run, tmp_path_factory):
    """The page of two runs, which many tests look at."""
    folder = tmp_path_factory.mktemp("page")
    runs = [
        str(write_run(folder / "mara", STEPS)),
        str(write_run(folder / "gibbs", [[("CCO", 0.1)]], GIBBS)),
    ]
    return report.run({"runs": runs, "title": "A < B & C"}, folder / "out").read_text()


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


def inside(page, name):
    """One section, in HTML."""
    return re.search(rf'<section id="{name}">(.*?)</section>', page, re.S)[1]


def section(page, name):
    """The text of one section, tags taken out."""
    return re.sub(r"\s+", " ", Page(inside(page, name)).text)


def test_the_page_shows_what_the_runs_did(page):
    parsed = Page(page)
    assert "A < B & C" in parsed.text
    assert "A < B" not in page  # escaped
    for word in ("mara", "gibbs", "Scaffold rank curve", "Yield", "Mean reward", "budget"):
        assert word in parsed.text
    assert "Morgan fingerprints of radius 2 and 1024 bits" in parsed.text
    assert "target.kind" in parsed.text  # the settings in which the runs differ
    assert "batch_size" in section(page, "settings")


def test_every_section_is_in_the_contents(page, report_sections):
    ids = re.findall(r'<section id="([^"]*)">', page)
    assert ids == report_sections
    assert [f"#{name}" for name in ids] == [link for link in Page(page).links if link[1:] in ids]
    for name in ids:
        assert re.search(rf'<section id="{name}">\s*<h2>[^<]+</h2>\s*<(p|div)', page)


def test_the_largest_scaffolds_show_their_best_molecules(page):
    codes = re.findall(r'<code title="([^"]*)">', inside(page, "scaffolds"))
    # benzene: two hits of two molecules, R = 0.95 before 0.9; then cyclohexane; ethanol has no ring
    benzene = ["c1ccccc1", "CCc1ccccc1", "Cc1ccccc1"]
    assert codes == [*benzene, "C1CCCCC1", "CC1CCCCC1"]
    text = section(page, "scaffolds")
    assert "2 of 2" in text
    assert "0.950" in text
    assert "No molecule with a ring." in text  # gibbs


def test_equal_inputs_give_equal_bytes(runs, reported):
    assert reported(runs=[*map(str, runs)]) == reported(runs=[*map(str, runs)])


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
def test_a_section_without_data_says_so(
    tmp_path, write_run, reported, report_sections, steps, empty
):
    text = reported(runs=str(write_run(tmp_path / "run", steps)))
    assert Page(text).open == []
    assert re.findall(r'<section id="([^"]*)">', text) == report_sections
    for name, sentence in empty.items():
        assert sentence in section(text, name)
    assert text.count('class="missing"') >= len(empty)
    assert bool(empty) or "missing" not in text.split("</style>")[1]


def test_parts_can_be_switched_off_and_the_manifest_may_be_gone(runs, reported):
    (runs[0] / "manifest.json").unlink()
    text = reported(runs=[str(runs[0])], n_scaffolds=0, n_top=0, n_map=0)
    assert "This run has no manifest" in text
    for name in ("scaffolds", "top", "map", "families"):
        assert "Disabled" in section(text, name)
    assert "<script" not in text


def test_the_size_is_printed_with_a_warning_for_a_large_page(runs, tmp_path, monkeypatch):
    def size_and_text(out):
        console = Console(file=io.StringIO(), width=200)
        page = report.run({"runs": [str(runs[0])]}, tmp_path / out, console=console)
        return page.stat().st_size, console.file.getvalue()

    size, text = size_and_text("small")
    assert f"report.html: {size / 1e6:.1f} MB about 1 run, " in text
    assert "warning" not in text
    monkeypatch.setattr(report, "LARGE", 1000)
    assert "Lower n_top, n_molecules, n_scaffolds or n_map" in size_and_text("large")[1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "give either runs or methods: neither is given"),
        ({"runs": ["."], "methods": {"a": ["."]}}, "give either runs or methods: both are given"),
        ({"runs": [".", "../empty"]}, "runs: .*empty: given more than once"),
        ({"methods": {"a": ["."], "b": ["."]}}, "empty: given more than once; keep each once"),
        ({"methods": {"a": []}}, "methods.a: "),
        ({"methods": {"": ["."]}}, "methods"),
        ({"runs": ["."], "prior": "no.smi"}, "prior.*no such file"),
        ({"runs": ["."]}, "no trace to read"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, config, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match=message):
        report.run(config, tmp_path / "out")


def test_what_rdkit_cannot_read_or_draw_is_counted(tmp_path, write_run, monkeypatch, capsys):
    bad = "Cc1ccc2nc(C)=n(C)c12"  # RDKit 2026.09 cannot read its own output for it
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


# ---- methods

HITS = [("Cc1ccccc1", 0.9), ("CCc1ccccc1", 0.95)]
MORE = [("CC1CCCCC1", 0.85), ("CCC1CCCCC1", 0.85)]


@pytest.fixture
def methods(tmp_path, write_run):
    write_run(tmp_path / "mara-0", [HITS])
    write_run(tmp_path / "mara-1", [HITS, MORE])
    write_run(tmp_path / "gibbs-0", [[("CCO", 0.1)]], GIBBS)
    return {"MARA": str(tmp_path / "mara-*"), "plain": [str(tmp_path / "gibbs-0")]}


def cells(table):
    """The text of every row of an HTML table, its first cell the heading."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.S)
    texts = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[re.sub(r"<[^>]*>|&ensp;", " ", cell).split() for cell in row] for row in texts]


def test_tables_show_means_and_each_run(methods, reported):
    text = reported(methods=methods)
    assert "2 methods, 3 runs" in text
    tables = re.findall(r"<table>(.*?)</table>", text, re.S)
    captions = [re.search(r"<caption>(.*?)</caption>", table) for table in tables]
    hits = [c is not None and c[1] == "Hits: R ≥ 0.8" for c in captions].index(True)
    head, mara, plain = cells(tables[hits])
    assert head[:2] == [["method"], ["Yield"]]
    # 2 and 4 hits: mean 3, sd sqrt(2)
    assert mara[:2] == [["MARA", "n", "=", "2"], ["3.0", "±", "1.4"]]
    assert plain[:2] == [["plain", "n", "=", "1"], ["0"]]
    runs = [row[:2] for row in cells(tables[hits + 1])[1:]]
    assert runs == [[["mara-0"], ["2"]], [["mara-1"], ["4"]], [["gibbs-0"], ["0"]]]
    assert "Line: mean over the runs of a method" in text
    assert text.count("(2 runs)") == 1


def test_families_are_compared_with_the_prior(methods, reported, tmp_path):
    prior = tmp_path / "prior.smi"
    prior.write_text("Cc1ccccc1\nCC1CCCC1\nCCC1CCCC1\nCCO\nnonsense\n")
    text = reported(methods=methods, prior=str(prior))
    inner = inside(text, "families")
    assert "its share in the sample of the prior (4 valid)" in inner
    assert "first 1,000" not in inner
    shares = re.findall(r'title="([^"]*)".*?"shares">([\d.%]+) → <b>([\d.%]+)</b>', inner, re.S)
    # one of three rings of the prior is a six-membered one; in both runs of MARA all are
    assert shares[:2] == [("C1CCCCC1", "33.3%", "100.0%"), ("C1CCCC1", "66.7%", "0.0%")]
    assert "of prior" in text  # the column of the coverage
    with pytest.raises(InputError, match=r"prior.*nowhere"):
        reported(methods=methods, prior="nowhere.smi")
    text = reported(methods={"MARA": methods["MARA"]})  # without a prior
    assert "its share among its first 1,000 valid samples" in inside(text, "families")
    assert "of prior" not in text


def comparison_of(file, method, baseline):
    row = dict.fromkeys(COMPARISON_SCHEMA.names) | {"method": method, "baseline": baseline}
    row |= {"metric": "yield", "threshold": 0.8, "n": 6, "difference": 12.0, "p_holm": 0.004}
    row["verdict"] = "better"
    pq.write_table(pa.Table.from_pylist([row], schema=COMPARISON_SCHEMA), file)
    return str(file)


def test_the_verdict_of_a_comparison_enters_the_summary(methods, reported, tmp_path):
    in_order = {name: methods[name] for name in ("plain", "MARA")}
    table = comparison_of(tmp_path / "comparison.parquet", "MARA", "plain")
    summary = inside(reported(methods=in_order, comparison=table), "summary")
    assert "Over 6 shared seeds MARA has 12 more hits than plain: this is more than" in summary
    (tmp_path / "text.parquet").write_text("not Parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    comparison_of(tmp_path / "else.parquet", "mara", "plain")
    for name, message in {
        "else.parquet": "compares mara, plain; this page has the methods plain",
        "text.parquet": r"comparison: .*: not a readable .* Give the comparison\.parquet of",
        "other.parquet": "not the comparison.parquet of a compare stage: it has the columns a",
    }.items():
        with pytest.raises(InputError, match=message):
            reported(methods=in_order, comparison=str(tmp_path / name))


def test_a_method_has_a_plain_name_and_runs_that_differ_only_in_the_seed(
    methods, reported, tmp_path, write_run
):
    with pytest.raises(InputError, match="methods"):
        reported(methods={" a": methods["plain"]})
    text = reported(methods={"<i>": methods["plain"]})
    assert "<i>" not in text
    assert "&lt;i&gt;" in text
    clipped = GIBBS | {"trainer": {"gradient_clip_val": 1}}
    write_run(tmp_path / "gibbs-1", [[("CCO", 0.1)]], clipped)
    with pytest.raises(InputError, match=r"methods\.plain: its runs differ(.|\n)*clip_val|trainer"):
        reported(methods=methods | {"plain": [str(tmp_path / "gibbs-*")]})


@pytest.mark.parametrize(
    ("taus", "sentence"),
    [
        ({"a": 0.9, "b": 0.9}, "R ≥ 0.9, the tau of the runs;"),
        ({"a": 0.9, "b": None}, "R ≥ 0.9, the tau of a; the other runs have none;"),
        ({"a": 0.7, "b": 0.9}, "R ≥ 0.9, the highest tau of the runs: 0.7 in a; 0.9 in b;"),
        ({"a": None}, "R ≥ 0.8, as no run has a target with a fixed tau;"),
    ],
)
def test_hits_are_counted_at_the_tau_of_the_runs(write_run, reported, tmp_path, taus, sentence):
    for name, tau in taus.items():
        target = {"kind": "gibbs"} if tau is None else {"kind": "mara", "tau": tau}
        write_run(tmp_path / name, [HITS], {"target": target, "budget": 300})
    runs = [str(tmp_path / name) for name in taus]
    text = reported(runs=runs)
    assert f"Hits are counted at {sentence} the setting threshold changes it." in text
    assert f"Hits: {sentence[:7]}" in text
    assert "AUC: over 300 calls" in text  # of the budget of 300 two were made
    assert "10,000 calls" not in text
    text = reported(runs=runs, threshold=0.85)
    assert "Hits are counted at" not in text
    assert "Hits: R ≥ 0.85" in text


def test_without_a_hit_a_sentence_replaces_the_table(write_run, reported, tmp_path):
    target = {"kind": "mara", "tau": 0.99, "sigma": 8}
    write_run(tmp_path / "a", [HITS], {"target": target, "budget": 300})
    text = reported(runs=str(tmp_path / "a"))
    assert "No run has a hit: none with R ≥ 0.99." in text
    assert "<caption>Hits" not in text
    assert ">Yield<" not in text
    assert "a: the target mara never acted" not in text  # its rows of before 0.99 say they are hits
