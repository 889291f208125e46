"""A language model's run looked into: counts and frequent answers by hand, meanings of columns."""

import pandas as pd
import pyarrow.parquet as pq
import pytest

from chemkl.results import description_of, trace_schema
from chemkl.results.inspection import (
    TextCounts,
    count_text,
    frequent_answers,
    open_run,
    tables_of,
)

STEPS = [
    [
        ("1 or 2?", "1", "1", 1.0),
        ("1 or 2?", "1.", "1", 1.0),
        ("1 or 2?", "3", None, 0.0),
        ("A month?", "May", "May", 0.5),
    ],
    [
        ("1 or 2?", "2", "2", 0.9),
        ("1 or 2?", "1 and", None, 0.0),
        ("A month?", "1", "1", 0.1),
        ("A month?", "May", "May", 0.7),
    ],
]
"""Five valid of eight at the first prompt's and the second's; `1 and` was cut off."""


@pytest.fixture
def run(tmp_path, write_text_run):
    return write_text_run(tmp_path / "run", STEPS, truncated=["1 and"])


def test_counts(run):
    # answers: 1 and 2 to the first prompt, May and 1 to the second; two have R >= 0.8 when scored
    expected = TextCounts(
        completions=8,
        prompts=2,
        valid=6,
        truncated=1,
        distinct=4,
        calls=4,
        failed=0,
        hits=2,
        hit_completions=3,
        best=1.0,
    )
    assert count_text(open_run(run).frame, 0.8) == expected
    without = count_text(open_run(run).frame)
    assert (without.hits, without.hit_completions, without.calls) == (None, None, 4)


def test_failures_are_counted_and_replayed_rows_are_not(run):
    frame = open_run(run).frame
    frame.loc[0, "reason"] = "grade: ValueError"
    frame.loc[frame["step"] == 1, "is_replay"] = True
    counts = count_text(frame, 0.8)
    assert (counts.completions, counts.valid, counts.failed, counts.truncated) == (4, 3, 1, 0)
    assert (counts.distinct, counts.calls, counts.hits) == (2, 2, 1)


def test_nothing_valid(tmp_path, write_text_run):
    run = write_text_run(tmp_path / "bad", [[("1 or 2?", "", None, 0.0)]])
    counts = count_text(open_run(run).frame, 0.8)
    assert (counts.valid, counts.distinct, counts.hits, counts.best) == (0, 0, 0, None)
    (row,) = frequent_answers(open_run(run).frame, 3).to_dict("records")
    assert (row["text"], row["valid"], row["share"]) == ("", False, 1.0)


def test_frequent_answers(run):
    found = frequent_answers(open_run(run).frame, 10)
    assert found[["prompt", "text", "valid", "n", "share"]].values.tolist() == [
        ["1 or 2?", "1", True, 2, 2 / 5],
        ["1 or 2?", "3", False, 1, 1 / 5],
        ["1 or 2?", "2", True, 1, 1 / 5],
        ["1 or 2?", "1 and", False, 1, 1 / 5],
        ["A month?", "May", True, 2, 2 / 3],
        ["A month?", "1", True, 1, 1 / 3],
    ]
    assert found["mean_reward"].tolist() == pytest.approx([1, 0, 0.9, 0, 0.6, 0.1])
    first = frequent_answers(open_run(run).frame, 1)
    assert first["text"].tolist() == ["1", "May"]
    assert first["share"].tolist() == [2 / 5, 2 / 3]  # of all completions, not of those shown


def test_a_completion_without_an_answer_is_not_mixed_with_that_answer(tmp_path, write_text_run):
    steps = [[("p", "1", "1", 1.0), ("p", "1", None, 0.0), ("p", "1", None, 0.0)]]
    found = frequent_answers(open_run(write_text_run(tmp_path / "run", steps)).frame, 5)
    assert found[["text", "valid", "n"]].values.tolist() == [["1", False, 2], ["1", True, 1]]


def test_columns_mean_what_they_mean_in_a_run_of_text(run, tmp_path, write_run):
    opened = open_run(run)
    assert opened.is_text
    written = trace_schema(["qed"], text=True)
    assert opened.schema.equals(written, check_metadata=True)
    assert "an answer to its prompt" in description_of(opened.schema.field("call"))
    assert tables_of(run)["trace"].schema.names == written.names
    of_smiles = open_run(write_run(tmp_path / "smiles", [[("C1CC", 0.0)]]))
    assert not of_smiles.is_text  # no molecule, but no text either
    assert "canonical SMILES in the run" in description_of(of_smiles.schema.field("call"))


def test_a_molecule_makes_a_run_one_of_molecules(tmp_path, write_text_run):
    steps = [[("p", "CCO", "CCO", 0.5), ("p", "no", None, 0.0)]]
    assert not open_run(write_text_run(tmp_path / "run", steps, molecules=True)).is_text
    nothing = [[("p", "no", None, 0.0)]]
    assert open_run(write_text_run(tmp_path / "none", nothing, molecules=True)).is_text


def test_a_trace_that_pandas_wrote_back_without_an_answer_can_be_queried(tmp_path, write_text_run):
    run = write_text_run(tmp_path / "run", [[("p", "no", None, 0.0)]])
    (part,) = (run / "trace").iterdir()
    pd.read_parquet(part).to_parquet(part, index=False)
    assert pq.read_schema(part).field("answer").type != "string"
    assert tables_of(run)["trace"]["answer"].to_pylist() == [None]
    assert count_text(open_run(run).frame).completions == 1
