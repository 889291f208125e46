"""`chemkl show`: runs, files, answers and tables reach the screen; mistakes are exit code 2."""

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from small_runs import held

from chemkl.config import InputError
from chemkl.results import Manifest, described_schema
from chemkl.results.manifest import RunLog
from chemkl.stages.export import export
from chemkl.stages.show import Options, show

STEPS = [
    [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0), ("c1ccccc1C", 0.9)],
    [("CCc1ccccc1", 0.95), ("CC1CCCCC1", 0.8), ("OCC", 0.3), ("C[C@H](N)C(=O)O", 0.85)],
]


@pytest.fixture
def run(tmp_path, write_run):
    return write_run(tmp_path / "run", STEPS)


def show_lines(what, name=None, width=80, **options):
    """What is printed, every line within the width."""
    stream = io.StringIO()
    show(str(what), name, Options(**options), console=Console(file=stream, width=width))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def in_words(lines):
    return " ".join(" ".join(lines).split())


def after(lines, heading):
    """The lines from a heading on."""
    return lines[next(i for i, line in enumerate(lines) if line.startswith(heading)) :]


def row(lines, first):
    """The cells of the line that begins with a word."""
    (line,) = [line for line in lines if line.split()[:1] == [first]]
    return line.split()[1:]


# ---- tables of choices


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rewards"], ["python_function *", "external_program *", "qed", "Angstrom", "Bickerton"]),
        (["rewards", "tanimoto"], ["Rogers and Hahn", "radius", "whole number ≥ 0"]),
        (["transforms"], ["reverse_sigmoid", "value_map"]),
        (["transforms", "step"], ["All or nothing"]),
    ],
)
def test_tables_are_shown(chemkl, capsys, arguments, says):
    assert chemkl("show", *arguments) == 0
    out = capsys.readouterr().out.replace("Å", "Angstrom")
    assert [text for text in says if text not in out] == []


def test_a_run_with_the_name_of_a_table_wins(tmp_path, monkeypatch, write_run):
    monkeypatch.chdir(tmp_path)
    Path("transforms").mkdir()
    assert "All or nothing" in " ".join(show_lines("transforms", width=120))
    write_run(Path("transforms"), STEPS)
    assert "Best molecules" in " ".join(show_lines("transforms"))
    assert "All or nothing" in " ".join(show_lines("transforms", "step", width=120))


# ---- a run


@pytest.mark.parametrize("width", [80, 120])
def test_a_run(run, width):
    lines = show_lines(run, width=width)
    assert row(lines, "ended") == ["complete:", "budget"]
    assert row(lines, "what") == ["posttrain,", "target", "mara,", "seed", "7"]
    assert row(lines, "trace") == ["1", "part,", "steps", "0", "to", "1"]
    assert row(lines, "run") == [Manifest.load(run).run_id]
    # the columns, with types and meanings
    assert ["call", "int64"] in [line.split()[:2] for line in lines]
    assert row(lines, "raw_qed")[0] == "double"
    text = in_words(lines)
    assert "Reward component qed in its own unit, before its transform." in text
    assert "RDKit canonical SMILES. Null: invalid." in text
    # the counts: one string is invalid, two are repeats; two scaffolds with rings
    counts = after(lines, "Counts")
    assert row(counts, "rows")[:1] == ["8"]
    assert row(counts, "valid")[:2] == ["7", "87.5%"]
    assert row(counts, "distinct") == ["5", "with", "2", "scaffolds"]
    assert row(counts, "calls") == ["5"]
    assert row(counts, "hits") == ["4", "R", ">=", "0.8,", "with", "2", "scaffolds"]
    # the best of each scaffold: benzene, none, cyclohexane
    best = after(lines, "Best molecules")
    assert row(best, "0.95") == ["3", "0.95", "CCc1ccccc1"]
    assert row(best, "0.85") == ["5", "0.85", "C[C@H](N)C(=O)O"]
    assert row(best, "0.8") == ["4", "0.8", "CC1CCCCC1"]
    assert not [line for line in best if line.split()[:1] == ["0.9"]]


def test_the_last_events_are_shown_and_of_checkpoints_in_a_row_the_last(run):
    log = RunLog(run)
    for steps in (50, 100):
        log.where = {"steps": steps, "calls": 1234}.copy
        log.add("checkpoint")
    log.add("alarm", text="collapsed")
    lines = after(show_lines(run), "Log: the last of 5 events")
    cells = [line.split()[2:] for line in lines if line.startswith(" 20")]
    assert [line[0] for line in cells] == ["start", "end", "checkpoint", "alarm"]
    assert cells[2][1:3] == cells[3][1:3] == ["100", "1,234"]
    assert cells[3][3] == "collapsed"
    (run / "log.jsonl").unlink()
    assert not [line for line in show_lines(run) if line.startswith("Log")]


def test_a_raised_budget_and_a_moving_tau_are_shown(tmp_path, write_run):
    target = {"kind": "mara", "tau": None, "tau_quantile": 0.9, "tau_floor": 0.3}
    folder = write_run(tmp_path / "run", STEPS, {"target": target, "budget": 5000})
    manifest = Manifest.load(folder)
    manifest.extended = [{"budget": 5, "max_samples": None}, {"budget": 40, "max_samples": None}]
    manifest.save()
    lines = show_lines(folder, width=120)
    assert row(lines, "extended") == ["budget", "5", "to", "40;", "budget", "40", "to", "5,000"]
    counts = " ".join(row(after(lines, "Counts"), "hits")[1:])
    moves = "tau moves: the quantile 0.9 of each batch's rewards, never below 0.3"
    assert counts == f"{moves}; --threshold R counts"
    counted = row(after(show_lines(folder, threshold=0.9), "Counts"), "hits")
    assert counted[:4] == ["2", "R", ">=", "0.9,"]


def test_options_of_a_run(run):
    lines = show_lines(run, threshold=0.9, per_scaffold=0, top=2)
    assert row(lines, "hits") == ["2", "R", ">=", "0.9,", "with", "1", "scaffold"]
    assert row(lines, "0.9") == ["1", "0.9", "Cc1ccccc1"]
    assert "Best molecules; components before their transform" in " ".join(lines)
    assert not [line for line in lines if line.split()[:1] == ["0.85"]]
    assert row(show_lines(run, threshold=2.0), "hits")[0] == "0"
    assert any("2 of each scaffold" in line for line in show_lines(run, per_scaffold=2))


def test_a_long_smiles_is_folded_and_kept_whole(tmp_path, write_run):
    smiles = "C" * 150 + "NC(C)=O"
    lines = show_lines(write_run(tmp_path / "long", [[(smiles, 0.5)]]))
    cells = [line.split()[-1] for line in after(lines, "Best molecules") if "CC" in line]
    assert len(cells) > 1
    assert "".join(cells) == smiles


@pytest.mark.parametrize(
    ("status", "ended_by", "says"),
    [
        (
            "running",
            "budget",
            "stopped without an end (killed, or running",
        ),
        ("interrupted", "KeyboardInterrupt", "interrupted: KeyboardInt"),
        ("failed", "ValueError: [x] \n y", "failed: ValueError: [x]"),
    ],
)
def test_how_a_run_ended(run, status, ended_by, says):
    manifest = Manifest.load(run)
    manifest.status, manifest.ended_by = status, ended_by
    manifest.save()
    assert any(line.startswith("ended") and says in line for line in show_lines(run))
    with held(run):
        is_running = " ".join(row(show_lines(run), "ended")) == "not yet: it is running"
    assert is_running == (status == "running")


def test_a_run_without_tau_or_without_molecules(tmp_path, write_run):
    gibbs = write_run(tmp_path / "gibbs", STEPS, {"target": {"kind": "gibbs"}, "budget": 5000})
    assert "give --threshold" in " ".join(row(show_lines(gibbs), "hits"))
    assert row(show_lines(gibbs), "calls") == ["5", "of", "a", "budget", "of", "5,000"]
    bad = write_run(tmp_path / "bad", [[("C1CC", 0.0)]])
    assert row(after(show_lines(bad), "Counts"), "valid") == ["0", "0.0%", "of", "them"]


def test_a_damaged_manifest_is_named_and_can_be_removed(run, chemkl, capsys):
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text()[:200])
    assert chemkl("show", run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"{manifest}: damaged, or not a manifest: it is not valid JSON. Restore it"
    )
    assert "output folder" not in line
    assert line.endswith("start again; chemkl show reads the trace without it.")
    manifest.unlink()
    assert row(show_lines(run), "ended")[:2] == ["unknown:", "the"]


# ---- a file


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "samples.parquet"
    schema = described_schema(
        {"smiles": (pa.string(), "SMILES as sampled."), "logp": (pa.float32(), "In [nats].")}
    ).with_metadata({"format": "made-up-1"})
    table = {"smiles": ["C[C@H](N)O", None, "CCC"], "logp": [-1.25, None, -2.5]}
    pq.write_table(pa.table(table, schema=schema), path)
    return path


def test_a_file(file):
    lines = show_lines(file)
    assert row(lines, "rows") == ["3"]
    assert row(lines, "format") == ["made-up-1"]
    assert ["smiles", "string", "SMILES", "as", "sampled."] in [line.split() for line in lines]
    assert ["logp", "float", "In", "[nats]."] in [line.split() for line in lines]
    assert row(lines, "C[C@H](N)O") == ["-1.25"]
    assert not [line for line in show_lines(file, rows=1) if "CCC" in line]
    assert "First rows" not in " ".join(show_lines(file, rows=0))


def test_a_part_of_a_trace_and_a_file_without_meanings_or_rows_are_files_too(run, tmp_path):
    (part,) = (run / "trace").iterdir()
    lines = show_lines(part)
    assert row(lines, "columns") == ["20"]
    # 20 columns do not fit side by side: they stand below each other
    cells = [line.split() for line in after(lines, "First rows")]
    assert ["smiles", "Cc1ccccc1", "CCO"] in cells
    assert any(line.startswith("More rows do not fit") for line in lines)
    pd.DataFrame({"a": pd.Series([], dtype="int64")}).to_parquet(tmp_path / "foreign.parquet")
    lines = show_lines(tmp_path / "foreign.parquet")
    assert row(lines, "rows") == ["0"]
    assert ["a", "int64", "–"] in [line.split() for line in lines]  # noqa: RUF001 - the dash


# ---- a query


def test_an_answer_is_cut_and_may_have_no_rows(run, file):
    lines = show_lines(run, sql="select row, smiles from trace", rows=3)
    assert lines[-1] == "3 of 8 rows; --rows N shows more, or --csv FILE writes all"
    wide = show_lines(run, sql="select * from trace")
    assert any(line.split()[:1] == ["logp_policy"] for line in wide)
    assert "0 rows" in show_lines(run, sql="select step from trace where step < 0")
    for path in (file.parent, file):  # the tables of an evaluation too
        assert row(show_lines(path, sql="select count(*) n, 'x' x from samples"), "3") == ["x"]


def test_an_answer_goes_into_files(run, tmp_path):
    files = {"csv": tmp_path / "a.csv", "parquet": tmp_path / "a.parquet"}
    sql = "select call, sum(step) s, list(smiles) l from trace group by 1 order by 1 nulls last"
    lines = show_lines(run, width=200, sql=sql, **files)
    assert lines == [f"output: {file} (6 rows)" for file in files.values()]
    table = pd.read_csv(files["csv"])
    assert table["call"].dropna().tolist() == [1, 2, 3, 4, 5]
    assert table["s"].tolist() == [0, 0, 1, 1, 1, 1]
    assert table["l"].iloc[0] == '["Cc1ccccc1"]'
    table = pq.read_table(files["parquet"])
    assert table["call"].to_pylist() == [1, 2, 3, 4, 5, None]
    assert table.schema.metadata[b"sql"].decode() == sql
    with pytest.raises(InputError, match=r"(?s)a.csv: exists.*a.parquet: exists"):
        show_lines(run, sql=sql, **files)
    assert len(show_lines(run, width=200, sql="select 1", force=True, **files)) == 2
    assert row(show_lines(files["parquet"]), "rows") == ["1"]


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("reward", "cannot show 'reward': no such run folder or Parquet file; did you mean 'rewards"
         "'? Known: chembl, config, configs, estimators, filters, metrics, moses, rewards, "
         "shapers, stages, targets, transforms"),
        ("x" * 300, "no such run folder or Parquet file. Known: chembl, config, configs, est"),
        ("rewards qedd", "unknown component 'qedd'; did you mean 'qed'?"),
        ("rewards --threshold 0", "--threshold: has no meaning for chemkl show rewards"),
        ("run qed", "a path takes no name after it"),
        ("run --csv a.csv", "--csv: has no meaning for a table without a query (--sql)"),
        ("run --rows 0", "--rows: has no meaning for a run"),
        ("run --sql SELECT --top 3", "--top: has no meaning for a query"),
        ("samples.parquet --per-scaffold 0", "--per-scaffold: has no meaning for one file"),
        ("empty", "no parts (part-*.parquet)"),
        (".", "Runs in it: run"),
        ("text.csv", "text.csv: expected a run folder or a file that ends in .parquet"),
        ("damaged.parquet", "damaged.parquet: not a readable Parquet file"),
        ("run --sql DROP", "DROP is not allowed: queries only read"),
        ("run --sql SELECT --csv a.xlsx", "a.xlsx: unknown ending"),
        ("run --sql TWICE --parquet a.parquet", "are called a: a file"),
        ("run --sql SELECT --parquet run/trace/a.parquet", "inside a trace"),
    ],
)  # fmt: skip
def test_mistakes_exit_with_2(chemkl, capsys, monkeypatch, tmp_path, run, file, arguments, says):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.csv").write_text("smiles\nC\n")
    Path("damaged.parquet").write_bytes(b"PAR1")
    before = sorted(tmp_path.rglob("*"))
    sql = {"SELECT": "select 1", "DROP": "drop table trace", "TWICE": "select 1 a, 2 a"}
    assert chemkl("show", *(sql.get(word, word) for word in arguments.split())) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("threshold", ["nan", "inf"])
def test_a_threshold_that_is_no_number_is_refused(chemkl, capsys, run, threshold):
    for command in (["show", str(run)], ["export", str(run), "--smi", "x.smi"]):
        assert chemkl(*command, "--threshold", threshold) == 2
        assert "--threshold" in (error := capsys.readouterr().err)
        assert "should be a finite number" in error


def test_a_run_says_how_it_collapsed_and_that_its_target_never_acted(tmp_path, write_run):
    """Windows of 4: the fourth sample, at call 2, makes half of them duplicates."""
    steps = [[("CCO", 0.5), ("CCO", 0.5), ("CCN", 0.75), ("CCN", 0.75)]]
    target = {"kind": "mara", "tau": 0.9, "sigma": 8}
    watched = {"collapse": {"action": "stop", "window": 4}}
    run = write_run(tmp_path / "run", steps, {"target": target, "callbacks": watched})
    text = in_words(show_lines(run, width=200))
    assert "collapsed at step 0, call 2; still so at the end" in text
    assert "the target mara never acted: no reward reached tau = 0.9; the best reward is 0" in text


# ---- runs of language models

NUMBERS, MONTH = "1 or 2?", "Name a month of the year, please."
TEXTS = [
    [(NUMBERS, "1", "1", 1.0), (NUMBERS, "1", "1", 1.0), (NUMBERS, "2\n", None, 0.0)],
    [(NUMBERS, "2", "2", 1.0), (MONTH, "May", "May", 0.5), (MONTH, "It is", None, 0.0)],
]
MOLECULES = [
    [("<logp_low>", "is CCO", "CCO", 0.3), ("<logp_high>", "Cc1ccccc1", "Cc1ccccc1", 0.9)],
    [("<logp_high>", "CC1CCCCC1", "CC1CCCCC1", 0.8), ("<logp_low>", "no", None, 0.0)],
]


@pytest.fixture
def texts(tmp_path, write_text_run):
    return write_text_run(tmp_path / "run", TEXTS, truncated=["It is"])


def words_after(lines, heading):
    return [line.split() for line in lines[[li.split("  ")[0] for li in lines].index(heading) :]]


@pytest.mark.parametrize("width", [80, 120])
def test_a_run_of_text(texts, width):
    lines = show_lines(texts, width=width)
    counts = words_after(lines, "Counts")
    assert [" ".join(words) for words in counts[1:8]] == [
        "completions 6 sampled, to 2 prompts",
        "valid 4 66.7% of them have an answer",
        "truncated 1 16.7% of them had no end, and failed",
        "distinct 3 answers, each counted for each prompt",
        "calls 3",
        "hits 2 answers with R >= 0.8, in 3 completions",
        "best R 1 the largest raw reward",
    ]
    text = in_words(lines)
    assert "the first scoring of an answer to its prompt" in text
    assert "SMILES string exactly as sampled" not in text
    assert "Best molecules" not in text
    assert "scaffolds" not in " ".join(map(" ".join, counts))
    (at,) = [n for n, words in enumerate(counts) if words[:3] == ["Most", "frequent", "answers"]]
    assert [" ".join(words) for words in counts[at + 1 :] if words][2:] == [
        "1 or 2? 1 yes 50.00% 1",
        "'2\\n' no 25.00% 0",
        "2 yes 25.00% 1",
        "Name a mo…, please. May yes 50.00% 0.5",
        "It is no 50.00% 0",
    ]


def test_options_of_a_run_of_text(texts):
    lines = show_lines(texts, top=1, threshold=0.4)
    words = [line.split() for line in lines]
    assert ["hits", "3", "answers", "with", "R", ">=", "0.4,", "in", "4", "completions"] in words
    assert [line[-4:-1] for line in words if line[-1:] == ["1"] or line[-1:] == ["0.5"]][-2:] == [
        ["1", "yes", "50.00%"],
        ["May", "yes", "50.00%"],
    ]
    with pytest.raises(InputError, match="--per-scaffold: has no meaning for a run of a language"):
        show_lines(texts, per_scaffold=2)
    with pytest.raises(InputError, match="--rows: has no meaning for a run"):
        show_lines(texts, rows=2)


def test_long_texts_are_cut_and_many_prompts_shown_in_part(tmp_path, write_text_run):
    texts = [(f"prompt {n}", f"word {n} " * 40, f"word {n} " * 40, 1.0) for n in range(12)]
    lines = show_lines(write_text_run(tmp_path / "long", [texts]))
    assert [line.split()[-3:] for line in lines].count(["yes", "100.00%", "1"]) == 10
    assert any("word 9 word 9" in line and "…" in line for line in lines)
    assert "10 of 12 prompts; --sql shows the others" in lines


def test_a_run_without_a_fixed_tau_and_one_without_an_answer(tmp_path, write_text_run, texts):
    (texts / "manifest.json").unlink()
    assert any("give --threshold" in line for line in show_lines(texts))
    bad = write_text_run(tmp_path / "bad", [[(NUMBERS, "3", None, 0.0)]])
    counts = words_after(show_lines(bad), "Counts")
    assert ["valid", "0", "0.0%", "of", "them", "have", "an", "answer"] in counts
    assert ["completions", "1", "sampled,", "to", "1", "prompt"] in counts
    assert not [words for words in counts if words[:1] in (["best"], ["truncated"])]


def test_molecules_keep_their_view_and_say_their_prompt(tmp_path, write_text_run):
    texts = write_text_run(tmp_path / "run", MOLECULES, molecules=True)
    heading = "Best molecules, one of each scaffold; components before their transform"
    best = words_after(show_lines(texts), heading)
    assert ["reward", "call", "prompt", "qed", "SMILES"] in best
    assert ["0.9", "2", "<logp_high>", "0.9", "Cc1ccccc1"] in best
    assert ["0.3", "1", "<logp_low>", "0.3", "CCO"] in best
    # of 60 characters 10 are left next to reward, call and SMILES: <logp_high> has 11, qed takes 9
    assert ["reward", "call", "qed", "SMILES"] in [
        line.split() for line in show_lines(texts, width=60)
    ]


# ---- export


def test_a_run_without_molecules_is_not_exported_but_as_a_table(texts, tmp_path, chemkl):
    for option in ("csv", "smi", "sdf"):
        file = tmp_path / f"a.{option}"
        with pytest.raises(InputError, match=r"no completion in this .* names a molecule") as error:
            export(texts, **{option: file})
        assert f'chemkl show {texts} --sql "SELECT prompt, completion' in str(error.value)
        assert "--csv" in str(error.value)
        assert not file.exists()
    assert export(texts, csv=tmp_path / "a.csv", all_rows=True) == 6
    table = pd.read_csv(tmp_path / "a.csv")
    assert table["completion"].tolist() == ["1", "1", "2\n", "2", "May", "It is"]
    pytest.importorskip("duckdb")  # the suggested command works
    sql = "SELECT prompt, completion, answer, reward FROM trace"
    assert chemkl("show", texts, "--sql", sql, "--csv", tmp_path / "texts.csv") == 0
    assert pd.read_csv(tmp_path / "texts.csv")["reward"].tolist() == [1, 1, 0, 1, 0.5, 0]
