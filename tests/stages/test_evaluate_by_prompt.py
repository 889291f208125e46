"""by_prompt.parquet: written where it is wanted, shown, and refused where there are no prompts."""

import pandas as pd
import pyarrow.parquet as pq
import pytest

from chemkl.config import InputError, load_config
from chemkl.config.evaluate import EvaluateConfig
from chemkl.display import MISSING
from chemkl.results import description_of
from chemkl.stages import evaluate
from chemkl.stages.registry import STAGES

STEPS = [
    [("low", "Cc1ccccc1", "Cc1ccccc1", 0.9), ("low", "CCO", "CCO", 0.3)],
    [("high", "OCC", "OCC", 0.85), ("high", "?", None, 0.0)],
]


@pytest.fixture
def runs(tmp_path, write_text_run):
    for name in ("gibbs", "mara"):
        write_text_run(tmp_path / "runs" / name, STEPS, molecules=True)
    return tmp_path / "runs"


def shown(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_a_row_for_each_run_prompt_and_threshold(runs, tmp_path, capsys):
    config = {"runs": f"{runs}/*", "thresholds": [0.8, 0.9], "by_prompt": True}
    whole = evaluate.run(config, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "by_prompt.parquet")
    keys = table[["run", "prompt", "threshold"]].fillna(-1).values.tolist()
    assert keys == [
        [run, prompt, threshold]
        for run in ("gibbs", "mara")
        for prompt in ("low", "high")
        for threshold in (-1, 0.8, 0.9)
    ]
    assert table["n_molecules"].tolist() == [2, 1, 1, 1, 1, 0] * 2
    assert table["yield"].fillna(-1).tolist() == [-1, 1, 1, -1, 1, 0] * 2
    # the run counts ethanol once, by what the first prompt was paid
    assert whole["n_molecules"].tolist() == [2, 1, 1] * 2
    schema = pq.read_schema(tmp_path / "out" / "by_prompt.parquet")
    assert all(description_of(field) for field in schema)
    own = pd.read_parquet(runs / "mara" / "evaluation" / "by_prompt.parquet")
    pd.testing.assert_frame_equal(own, table[table["run"] == "mara"].reset_index(drop=True))
    lines = shown(capsys)
    assert "OB counts the prompt's own distinct" in " ".join(map(" ".join, lines))
    titles = [
        number for number, words in enumerate(lines) if words[:2] == ["By", "prompt:"]
    ]  # behind the tables of whole runs
    assert [lines[at][-1] for at in titles] == ["0.8", "0.9"]
    assert lines[titles[0] - 1][0] == "mara"
    # distinct, valid, unique; of the hits: Yield, OB10, scaffolds, share of the largest one
    low = ["low", "2", "100.0%", "100.0%", "1", MISSING, "1", "100.0%"]
    assert [words for words in lines if "low" in words] == [
        [run, *low] for run in ("gibbs", "mara")
    ] * 2
    high = ["high", "1", "50.0%", "100.0%"]
    assert [words for words in lines if words[0] == "high"] == [
        [*high, hits, MISSING, "0", MISSING] for hits in ("1", "1", "0", "0")
    ]


def test_without_the_setting_there_is_no_such_table(runs, tmp_path, capsys):
    evaluate.run({"runs": f"{runs}/*"}, tmp_path / "out")
    assert not (tmp_path / "out" / "by_prompt.parquet").exists()
    assert "By" not in [words[0] for words in shown(capsys)]


def test_the_other_tables_are_the_same_with_it(runs, tmp_path):
    with_it = evaluate.run({"runs": f"{runs}/*", "by_prompt": True}, tmp_path / "with")
    without = evaluate.run({"runs": f"{runs}/*"}, tmp_path / "without")
    pd.testing.assert_frame_equal(with_it, without)


def test_many_prompts_are_shown_in_part_and_long_ones_are_cut(tmp_path, write_text_run, capsys):
    texts = [f"prompt {n} asks for a molecule\nof kind {n}" for n in range(12)]
    run = write_text_run(tmp_path / "many", [[(t, "C", "C", 0.1) for t in texts]], molecules=True)
    evaluate.run({"runs": [str(run)], "by_prompt": True, "thresholds": []}, tmp_path / "out")
    lines = shown(capsys)
    assert ["By", "prompt", "(the", "first", "10", "of", "12", "prompts)"] in lines
    cut = [line for line in lines if any("…" in word for word in line)]
    assert len(cut) == 10
    assert " ".join(cut[1][:6]).startswith("prompt 1 as")
    assert len(pd.read_parquet(tmp_path / "out" / "by_prompt.parquet")) == 12


def test_an_empty_trace_has_no_prompts(runs, tmp_path, capsys):
    (part,) = (runs / "mara" / "trace").iterdir()
    pq.write_table(pq.read_table(part).slice(0, 0), part)
    evaluate.run({"runs": [str(runs / "mara")], "by_prompt": True}, tmp_path / "out")
    assert len(pd.read_parquet(tmp_path / "out" / "by_prompt.parquet")) == 0
    assert "By" not in [words[0] for words in shown(capsys)]


def test_runs_without_prompts_are_named(runs, tmp_path, write_run):
    for name in ("smiles", "strings"):
        write_run(runs / name, [[("CCO", 0.1)]])
    config = {"runs": f"{runs}/*", "by_prompt": True}
    with pytest.raises(InputError, match=r"by_prompt: true, but .* group and prompt") as caught:
        evaluate.run(config, tmp_path / "out")
    assert f"in the trace of {runs}/smiles, {runs}/strings; runs" in str(caught.value)
    assert not (tmp_path / "out").exists()
    settings = load_config(EvaluateConfig, config)
    with pytest.raises(InputError, match=r"runs of posttrain_llm have them\. Leave by_prompt"):
        STAGES["evaluate"].check(settings)
    STAGES["evaluate"].check(
        settings, awaited=[runs / "smiles", runs / "strings"]
    )  # made anew by an earlier job


def test_files_of_samples_have_no_prompts(runs, tmp_path):
    (tmp_path / "a.smi").write_text("CCO\n")
    config = {"runs": f"{runs}/*", "samples": [str(tmp_path / "a.smi")], "by_prompt": True}
    with pytest.raises(InputError, match="by_prompt: true does not go with `samples`"):
        evaluate.run(config, tmp_path / "out")
