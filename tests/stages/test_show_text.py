"""`chemkl show` and `chemkl export` of language models' runs: texts, or molecules with prompts."""

import io

import pandas as pd
import pytest
from rich.console import Console

from chemkl.config import InputError
from chemkl.stages.export import export
from chemkl.stages.show import Asked, show

NUMBERS, MONTH = "1 or 2?", "Name a month of the year, please."
STEPS = [
    [(NUMBERS, "1", "1", 1.0), (NUMBERS, "1", "1", 1.0), (NUMBERS, "2\n", None, 0.0)],
    [(NUMBERS, "2", "2", 1.0), (MONTH, "May", "May", 0.5), (MONTH, "It is", None, 0.0)],
]
MOLECULES = [
    [("<logp_low>", "is CCO", "CCO", 0.3), ("<logp_high>", "Cc1ccccc1", "Cc1ccccc1", 0.9)],
    [("<logp_high>", "CC1CCCCC1", "CC1CCCCC1", 0.8), ("<logp_low>", "no", None, 0.0)],
]


@pytest.fixture
def run(tmp_path, write_text_run):
    return write_text_run(tmp_path / "run", STEPS, truncated=["It is"])


def shown(what, width=80, **asked):
    """What is printed, every line within the width."""
    stream = io.StringIO()
    show(str(what), None, Asked(**asked), console=Console(file=stream, width=width))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def after(lines, heading):
    return [line.split() for line in lines[[li.split("  ")[0] for li in lines].index(heading) :]]


@pytest.mark.parametrize("width", [80, 120])
def test_a_run_of_text(run, width):
    lines = shown(run, width=width)
    counts = after(lines, "Counts")
    assert counts[1:8] == [
        ["completions", "6", "sampled,", "to", "2", "prompts"],
        ["valid", "4", "66.7%", "of", "them", "have", "an", "answer"],
        ["truncated", "1", "16.7%", "of", "them", "had", "no", "end,", "and", "failed"],
        ["distinct", "3", "answers,", "each", "counted", "for", "each", "prompt"],
        ["calls", "3"],
        ["hits", "2", "answers", "with", "R", ">=", "0.8,", "in", "3", "completions"],
        ["best", "R", "1", "the", "largest", "raw", "reward"],
    ]
    text = " ".join(" ".join(lines).split())
    assert "the first scoring of an answer to its prompt" in text
    assert "SMILES string exactly as sampled" not in text
    assert "Best molecules" not in text
    assert "scaffolds" not in " ".join(map(" ".join, counts))
    (at,) = [n for n, words in enumerate(counts) if words[:3] == ["Most", "frequent", "answers"]]
    assert [words for words in counts[at + 1 :] if words][2:] == [
        ["1", "or", "2?", "1", "yes", "50.00%", "1"],
        ["'2\\n'", "no", "25.00%", "0"],
        ["2", "yes", "25.00%", "1"],
        ["Name", "a", "mo…,", "please.", "May", "yes", "50.00%", "0.5"],
        ["It", "is", "no", "50.00%", "0"],
    ]


def test_options_of_a_run_of_text(run):
    lines = shown(run, top=1, threshold=0.4)
    words = [line.split() for line in lines]
    assert ["hits", "3", "answers", "with", "R", ">=", "0.4,", "in", "4", "completions"] in words
    assert [line[-4:-1] for line in words if line[-1:] == ["1"] or line[-1:] == ["0.5"]][-2:] == [
        ["1", "yes", "50.00%"],
        ["May", "yes", "50.00%"],
    ]
    with pytest.raises(InputError, match="--per-scaffold: means nothing for a run of a language"):
        shown(run, per_scaffold=2)
    with pytest.raises(InputError, match="--rows: means nothing for a run"):
        shown(run, rows=2)


def test_the_refused_option_is_exit_code_2_and_prints_nothing(chemkl, capsys, run):
    assert chemkl("show", run, "--per-scaffold", 0) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--per-scaffold: means nothing for a run of a language model without a molecule" in err


def test_long_texts_are_cut_and_many_prompts_shown_in_part(tmp_path, write_text_run):
    texts = [(f"prompt {n}", f"word {n} " * 40, f"word {n} " * 40, 1.0) for n in range(12)]
    lines = shown(write_text_run(tmp_path / "long", [texts]))
    assert [line.split()[-3:] for line in lines].count(["yes", "100.00%", "1"]) == 10
    assert any("word 9 word 9" in line and "…" in line for line in lines)
    assert "10 of 12 prompts; --sql answers for the others" in lines


def test_a_run_without_a_fixed_tau_and_one_without_an_answer(tmp_path, write_text_run, run):
    (run / "manifest.json").unlink()
    assert any("give --threshold" in line for line in shown(run))
    bad = write_text_run(tmp_path / "bad", [[(NUMBERS, "3", None, 0.0)]])
    counts = after(shown(bad), "Counts")
    assert ["valid", "0", "0.0%", "of", "them", "have", "an", "answer"] in counts
    assert ["completions", "1", "sampled,", "to", "1", "prompt"] in counts
    assert not [words for words in counts if words[:1] in (["best"], ["truncated"])]


def test_molecules_keep_their_view_and_say_their_prompt(tmp_path, write_text_run):
    run = write_text_run(tmp_path / "run", MOLECULES, molecules=True)
    best = after(
        shown(run), "Best molecules, one of each scaffold; components before their transform"
    )
    assert ["reward", "call", "prompt", "qed", "SMILES"] in best
    assert ["0.9", "2", "<logp_high>", "0.9", "Cc1ccccc1"] in best
    assert ["0.3", "1", "<logp_low>", "0.3", "CCO"] in best
    # of 60 characters 10 are left beside reward, call and SMILES: <logp_high> has 11, qed takes 9
    assert ["reward", "call", "qed", "SMILES"] in [line.split() for line in shown(run, width=60)]


# ---- export


@pytest.mark.parametrize("option", ["csv", "smi", "sdf"])
def test_a_run_without_molecules_is_not_exported(run, tmp_path, option):
    file = tmp_path / f"a.{option}"
    with pytest.raises(InputError, match=r"no completion in this .* names a molecule") as caught:
        export(run, **{option: file})
    assert f'chemkl show {run} --sql "SELECT prompt, completion' in str(caught.value)
    assert "--csv" in str(caught.value)
    assert not file.exists()


def test_all_rows_of_it_are_a_table_all_the_same(run, tmp_path):
    assert export(run, csv=tmp_path / "a.csv", all_rows=True) == 6
    table = pd.read_csv(tmp_path / "a.csv")
    assert table["completion"].tolist() == ["1", "1", "2\n", "2", "May", "It is"]


def test_the_way_that_is_named_works(run, tmp_path, chemkl, capsys):
    pytest.importorskip("duckdb")
    sql = "SELECT prompt, completion, answer, reward FROM trace"
    assert chemkl("show", run, "--sql", sql, "--csv", tmp_path / "texts.csv") == 0
    assert pd.read_csv(tmp_path / "texts.csv")["reward"].tolist() == [1, 1, 0, 1, 0.5, 0]
