import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemkl.config import InputError
from chemkl.evaluation.comparison import COMPARISON_SCHEMA
from chemkl.stages import report

HITS = [("Cc1ccccc1", 0.9), ("CCc1ccccc1", 0.95)]
MORE = [("CC1CCCCC1", 0.85), ("CCC1CCCCC1", 0.85)]


@pytest.fixture
def methods(tmp_path, write_run):
    gibbs = {"batch_size": 4, "target": {"kind": "gibbs"}}
    write_run(tmp_path / "mara-0", [HITS])
    write_run(tmp_path / "mara-1", [HITS, MORE])
    write_run(tmp_path / "gibbs-0", [[("CCO", 0.1)]], gibbs)
    return {"MARA": str(tmp_path / "mara-*"), "plain": [str(tmp_path / "gibbs-0")]}


def cells(table):
    """The text of every row of an HTML table, its first cell the heading."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.S)
    texts = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[re.sub(r"<[^>]*>|&ensp;", " ", cell).split() for cell in row] for row in texts]


def test_tables_show_means_and_each_run(methods, tmp_path):
    text = report.run({"methods": methods}, tmp_path / "out").read_text()
    assert "2 methods, 3 runs" in text
    tables = re.findall(r"<table>(.*?)</table>", text, re.S)
    captions = [re.search(r"<caption>(.*?)</caption>", table) for table in tables]
    hits = [c is not None and c[1] == "Hits: R ≥ 0.8" for c in captions].index(True)
    head, mara, plain = cells(tables[hits])
    assert head[:2] == [["method"], ["Yield"]]
    # 2 and 4 hits: mean 3, sd sqrt(2)
    assert mara[:2] == [["MARA", "n", "=", "2"], ["3.0", "±", "1.4"]]
    assert plain[:2] == [["plain", "n", "=", "1"], ["0"]]
    runs = cells(tables[hits + 1])[1:]
    assert [row[:2] for row in runs] == [
        [["mara-0"], ["2"]],
        [["mara-1"], ["4"]],
        [["gibbs-0"], ["0"]],
    ]
    assert "Line: mean over the runs of a method" in text
    assert text.count("(2 runs)") == 1


def test_the_prior_is_the_ground_of_the_families(methods, tmp_path):
    prior = tmp_path / "prior.smi"
    prior.write_text("Cc1ccccc1\nCC1CCCC1\nCCC1CCCC1\nCCO\nnonsense\n")
    config = {"methods": methods, "prior": str(prior)}
    text = report.run(config, tmp_path / "out").read_text()
    inner = re.search(r'<section id="families">(.*?)</section>', text, re.S)[1]
    assert "its share in the sample of the prior (4 valid)" in inner
    assert "first 1,000" not in inner
    shares = re.findall(r'title="([^"]*)".*?"shares">([\d.%]+) → <b>([\d.%]+)</b>', inner, re.S)
    # one of three rings of the prior is a six-membered one; in both runs of MARA all are
    assert shares[:2] == [("C1CCCCC1", "33.3%", "100.0%"), ("C1CCCC1", "66.7%", "0.0%")]
    assert "of prior" in text  # the column of the coverage
    with pytest.raises(InputError, match=r"prior.*nowhere"):
        report.run(config | {"prior": "nowhere.smi"}, tmp_path / "other")


def test_without_a_prior_the_halves_of_a_short_run_are_compared(methods, tmp_path):
    text = report.run({"methods": {"MARA": methods["MARA"]}}, tmp_path / "out").read_text()
    inner = re.search(r'<section id="families">(.*?)</section>', text, re.S)[1]
    assert "its share among its first 1,000 valid samples" in inner
    assert "of prior" not in text


def test_equal_inputs_give_equal_bytes(methods, tmp_path):
    first = report.run({"methods": methods}, tmp_path / "a").read_bytes()
    assert report.run({"methods": methods}, tmp_path / "b").read_bytes() == first


def comparison_of(file, method, baseline):
    row = dict.fromkeys(COMPARISON_SCHEMA.names) | {
        "method": method,
        "baseline": baseline,
        "metric": "yield",
        "threshold": 0.8,
        "n": 6,
        "difference": 12.0,
        "p_holm": 0.004,
        "verdict": "better",
    }
    pq.write_table(pa.Table.from_pylist([row], schema=COMPARISON_SCHEMA), file)
    return str(file)


def test_the_verdict_of_a_comparison_enters_the_summary(methods, tmp_path):
    in_order = {name: methods[name] for name in ("plain", "MARA")}
    table = comparison_of(tmp_path / "comparison.parquet", "MARA", "plain")
    config = {"methods": in_order, "comparison": table}
    text = report.run(config, tmp_path / "out").read_text()
    summary = re.search(r'<section id="summary">(.*?)</section>', text, re.S)[1]
    assert "Over 6 shared seeds MARA has 12 more hits than plain: this is more than" in summary
    other = comparison_of(tmp_path / "other.parquet", "mara", "plain")
    with pytest.raises(
        InputError, match="compares mara, plain; this page has the methods plain, M"
    ):
        report.run(config | {"comparison": other}, tmp_path / "out2")


def test_a_comparison_must_be_one(methods, tmp_path):
    (tmp_path / "text.parquet").write_text("not Parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    for name, message in {
        "text.parquet": "cannot be read as Parquet",
        "other.parquet": "not the comparison.parquet of a compare stage: it has the columns a",
    }.items():
        config = {"methods": methods, "comparison": str(tmp_path / name)}
        with pytest.raises(InputError, match=message):
            report.run(config, tmp_path / "out")


def test_the_trace_of_a_method_must_be_there(methods, tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="bare: no parts"):
        report.run({"methods": methods | {"bare": [str(tmp_path / "bare")]}}, tmp_path / "out")


def test_an_interrupted_run_without_a_manifest_is_shown(methods, tmp_path):
    (tmp_path / "mara-0" / "manifest.json").unlink()
    text = report.run({"methods": methods}, tmp_path / "out").read_text()
    assert text.count("This run has no manifest") == 1


def test_names_of_methods_are_one_line_and_escaped(methods, tmp_path):
    with pytest.raises(InputError, match="methods"):
        report.run({"methods": {" a": methods["plain"]}}, tmp_path / "out")
    text = report.run({"methods": {"<i>": methods["plain"]}}, tmp_path / "out").read_text()
    assert "<i>" not in text
    assert "&lt;i&gt;" in text


def test_the_runs_of_a_method_differ_in_the_seed_alone(methods, tmp_path, write_run):
    clipped = {"batch_size": 4, "target": {"kind": "gibbs"}, "trainer": {"gradient_clip_val": 1}}
    write_run(tmp_path / "gibbs-1", [[("CCO", 0.1)]], clipped)
    config = {"methods": methods | {"plain": [str(tmp_path / "gibbs-*")]}}
    with pytest.raises(InputError, match=r"methods\.plain: its runs differ(.|\n)*clip_val|trainer"):
        report.run(config, tmp_path / "out")


@pytest.mark.parametrize(
    ("taus", "said"),
    [
        ({"a": 0.9, "b": 0.9}, "R ≥ 0.9, the tau of the runs;"),
        ({"a": 0.9, "b": None}, "R ≥ 0.9, the tau of a; the other runs have none;"),
        ({"a": 0.7, "b": 0.9}, "R ≥ 0.9, the highest tau of the runs: 0.7 in a; 0.9 in b;"),
        ({"a": None}, "R ≥ 0.8, as no run has a target with a fixed tau;"),
    ],
)
def test_hits_are_counted_at_the_tau_of_the_runs(write_run, tmp_path, taus, said):
    for name, tau in taus.items():
        target = {"kind": "gibbs"} if tau is None else {"kind": "mara", "tau": tau}
        write_run(tmp_path / name, [HITS], {"target": target, "budget": 300})
    config = {"runs": [str(tmp_path / name) for name in taus]}
    text = report.run(config, tmp_path / "out").read_text()
    assert f"Hits are counted at {said} the setting threshold takes another." in text
    assert f"Hits: {said[:7]}" in text
    assert "AUC: over 300 calls" in text  # of the budget of 300 two were made
    assert "10,000 calls" not in text
    given = report.run(config | {"threshold": 0.85}, tmp_path / "given").read_text()
    assert "Hits are counted at" not in given
    assert "Hits: R ≥ 0.85" in given


def test_without_a_hit_there_is_a_sentence_and_no_empty_table(write_run, tmp_path):
    target = {"kind": "mara", "tau": 0.99, "sigma": 8}
    run = write_run(tmp_path / "a", [HITS], {"target": target, "budget": 300})
    text = report.run({"runs": str(run)}, tmp_path / "out").read_text()
    assert "No run has a hit: none with R ≥ 0.99." in text
    assert "<caption>Hits" not in text
    assert ">Yield<" not in text
    assert "a: the target mara never acted" not in text  # its rows of before 0.99 say they are hits
