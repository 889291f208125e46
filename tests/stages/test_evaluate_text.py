"""The stage evaluate_text: its tables, figures and printed lines, and refused input."""

import io
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy.stats import entropy

from chemkl.config import InputError, load_config
from chemkl.config.evaluate import EvaluateTextConfig
from chemkl.llm import embedding, extra
from chemkl.results import Manifest, description_of, trace_schema
from chemkl.stages import evaluate_text
from chemkl.stages.registry import STAGES

PICK, NAME = "Pick 1 or 2.", "Name a month."
REF = {"1": 0.8, "2": 0.1}


def rows_of(steps, prompt=PICK):
    """Trace rows from steps of (completion, answer, reward)."""
    fixed = {"repeat": False, "n_tokens": 2, "logp_policy": -1.0, "logp_ref": -1.0, "group": 0}
    fixed |= {"anchor": False, "is_replay": False, "prompt": prompt, "call": None}
    return [
        {
            **fixed, "step": step, "row": row, "smiles": completion, "completion": completion,
            "answer": answer, "valid": answer is not None, "hit": reward >= 1,
            "reward": reward, "reward_filtered": reward,
        }
        for step, samples in enumerate(steps)
        for row, (completion, answer, reward) in enumerate(samples)
    ]  # fmt: skip


SCHEMA = trace_schema([], text=True)


@pytest.fixture
def make_run(tmp_path):
    """Write a text run: a manifest, a trace in one part and, if given, exact answers."""

    def make(name, rows, exact=None, *, seed=0, schema=SCHEMA, **config):
        folder = tmp_path / "runs" / name
        settings = {"model": "tiny", "seed": seed, **config}
        with Manifest.start(folder, stage="posttrain_llm", config=settings, seed=seed) as manifest:
            (folder / "trace").mkdir()
            identity = {"config_hash": manifest.config_hash, "run_id": manifest.run_id}
            table = pa.Table.from_pylist(rows, schema=schema).replace_schema_metadata(identity)
            last = max(row["step"] for row in rows)
            pq.write_table(table, folder / "trace" / f"part-00000000-{last:08d}.parquet")
            if exact is not None:
                answers = [
                    (step, PICK, answer, math.log(p), math.log(REF[answer]))
                    for step, probabilities in exact.items()
                    for answer, p in probabilities.items()
                ]
                columns = ["step", "prompt", "answer", "logp_policy", "logp_ref"]
                pd.DataFrame(answers, columns=columns).to_parquet(folder / "answers.parquet")
            manifest.finish()
        return folder

    return make


ONES = [[("1", "1", 1.0)] * 4, [("1", "1", 1.0)] * 3 + [("no", None, 0.0)]]
BOTH = [[("1", "1", 1.0)] * 4, [("1", "1", 1.0), ("2", "2", 1.0)] * 2]


def evaluate(config, out, **options):
    return evaluate_text.run({"measures": ["ngrams", "answers"]} | config, out, **options)


def row_of(table, run, scope="prompts", prompt=None):
    rows = table[(table["run"] == run) & (table["scope"] == scope)]
    (row,) = (row for _, row in rows.iterrows() if prompt in (None, row["prompt"]))
    return row


# ---- runs


def test_a_run_is_judged_by_its_last_samples(make_run, tmp_path):
    run = make_run("mara", rows_of(BOTH), {0: REF, 2: {"1": 0.3, "2": 0.6}})
    table = evaluate({"runs": [str(run)], "options": {"late_samples": 4}}, tmp_path / "out")
    late = row_of(table, "mara")
    assert (late["n_samples"], late["reward"]) == (4, 1)
    assert late["answer_entropy"] == pytest.approx(math.log(2))
    assert late["effective_answers"] == pytest.approx(2)
    whole = evaluate({"runs": [str(run)]}, tmp_path / "whole")
    assert row_of(whole, "mara")["answer_entropy"] == pytest.approx(entropy([6, 2]))
    assert pd.isna(row_of(whole, "mara", "all")["answer_entropy"])
    assert row_of(whole, "mara", "prompt", PICK)["distinct_answers"] == 2


def test_invalid_samples_count_against_validity_and_replayed_rows_are_no_samples(
    make_run, tmp_path
):
    run = make_run("gibbs", rows_of(ONES))
    row = row_of(evaluate({"runs": [str(run)]}, tmp_path / "out"), "gibbs")
    assert (row["validity"], row["reward"]) == (7 / 8, 7 / 8)
    assert (row["answer_entropy"], row["answer_top_share"]) == (0, 1)
    assert (row["n_texts"], row["distinct_texts"]) == (8, 2 / 8)
    # without exact answers there is no figure, and without methods no means of them
    names = [path.name for path in (tmp_path / "out").iterdir()]
    assert not [name for name in names if name.startswith(("entropy", "methods"))]
    rows = [row | {"is_replay": row["completion"] == "2"} for row in rows_of(BOTH)]
    row = row_of(evaluate({"runs": [str(make_run("r", rows))]}, tmp_path / "replayed"), "r")
    assert (row["n_samples"], row["distinct_answers"]) == (6, 1)


def test_exact_entropies_are_written_over_steps_and_drawn(make_run, tmp_path):
    exact = {0: REF, 5: {"1": 0.6, "2": 0.2}, 10: {"1": 0.5, "2": 0.4}}
    run = make_run("mara", rows_of(BOTH), exact)
    out = tmp_path / "out"
    table = evaluate({"runs": [str(run)], "measures": ["answers"]}, out)
    final = row_of(table, "mara")
    assert final["exact_k"] == 2
    assert final["exact_entropy"] == pytest.approx(entropy([5, 4]))
    assert final["exact_entropy_ref"] == pytest.approx(entropy([8, 1]))
    assert final["exact_mass"] == pytest.approx(0.9)
    assert final["exact_kl_from_ref"] == pytest.approx(entropy([5, 4], [8, 1]))
    assert final["exact_top_share"] == pytest.approx(5 / 9)
    steps = pd.read_parquet(out / "entropy_over_steps.parquet")
    assert steps["step"].tolist() == [0, 5, 10]
    assert steps["kl_from_ref"].tolist()[:2] == pytest.approx([0, entropy([3, 1], [8, 1])])
    assert {"run": "mara", "prompt": PICK, "seed": 0}.items() <= steps.iloc[0].to_dict().items()
    assert (out / "entropy.png").read_bytes().startswith(b"\x89PNG")
    svg = (out / "entropy.svg").read_text()
    assert "ln K, uniform" in svg
    assert "mara" in svg
    again = tmp_path / "again"
    evaluate({"runs": [str(run)], "measures": ["answers"]}, again)
    assert (again / "entropy.svg").read_bytes() == (out / "entropy.svg").read_bytes()


def test_several_prompts_are_kept_apart_and_averaged(make_run, tmp_path):
    two = rows_of([[("1", "1", 1.0), ("2", "2", 1.0)] * 3])
    months = rows_of([[("May", "May", 1.0)] * 2 + [("what", None, 0.0)] * 2], NAME)
    for row in months:
        row["row"] += 6
    run = make_run("both", two + months)
    table = evaluate({"runs": [str(run)]}, tmp_path / "out")
    assert table["scope"].tolist() == ["all", "prompts", "prompt", "prompt"]
    assert row_of(table, "both", "prompt", PICK)["answer_entropy"] == pytest.approx(math.log(2))
    assert row_of(table, "both", "prompt", NAME)["validity"] == 0.5
    mean = row_of(table, "both")
    assert mean["answer_entropy"] == pytest.approx(math.log(2) / 2)
    assert mean["validity"] == 0.75
    assert mean["distinct_answers"] == 1.5
    # 4 different words in 10, against 2 in 6 and 2 in 4
    assert row_of(table, "both", "all")["distinct_1"] == pytest.approx(4 / 10)
    assert mean["distinct_1"] == pytest.approx((2 / 6 + 2 / 4) / 2)


@pytest.mark.parametrize(
    ("n_prompts", "per_step", "steps", "late", "expected"),
    [
        (8, 64, 3, 160, 20),  # the last 160 rows are those of the last three prompts of a step
        (3, 32, 12, 1000, 333),  # the last 1000 would be 320, 328 and 352 of them
        (3, 2, 2, 1000, 4),  # fewer samples than requested: all
        (3, 2, 2, 2, 1),  # fewer requested than prompts
    ],
)
def test_prompts_have_equally_many_late_samples(
    make_run, tmp_path, n_prompts, per_step, steps, late, expected
):
    rows = [
        row | {"step": step, "row": number * per_step + row["row"], "group": number}
        for step in range(steps)
        for number in range(n_prompts)
        for row in rows_of([[(f"{step} {i}", None, 0.0) for i in range(per_step)]], f"<{number}>")
    ]
    options = {"late_samples": late, "ngrams": [1]}
    config = {"runs": [str(make_run("a", rows))], "measures": ["ngrams"], "options": options}
    table = evaluate(config, tmp_path / "out")
    prompts = table[table["scope"] == "prompt"]
    assert prompts["prompt"].tolist() == [f"<{number}>" for number in range(n_prompts)]
    assert prompts["n_samples"].tolist() == [expected] * n_prompts
    whole = row_of(table, "a", "all")
    assert whole[["n_prompts", "n_samples"]].tolist() == [n_prompts, n_prompts * expected]
    # they are each prompt's last ones: "<step> <number in the step>", all different in a prompt
    late_rows = [f"{step} {i}" for step in range(steps) for i in range(per_step)][-expected:]
    words = [word for text in late_rows for word in text.split()]
    shares = [len({*words}) / len(words)] * n_prompts
    assert prompts["distinct_1"].tolist() == pytest.approx(shares)


def test_a_rare_prompt_has_all_of_its_samples(make_run, tmp_path):
    rows = []
    for step, prompt in enumerate([PICK, NAME, PICK, PICK, PICK]):  # prompts_per_step: 1
        samples = rows_of([[(f"{step} {i}", None, 0.0) for i in range(4)]], prompt)
        rows += [row | {"step": step} for row in samples]
    config = {"runs": [str(make_run("a", rows))], "options": {"late_samples": 12}}
    table = evaluate(config, tmp_path / "out")
    assert row_of(table, "a", "prompt", PICK)["n_samples"] == 6
    assert row_of(table, "a", "prompt", NAME)["n_samples"] == 4


def test_methods_have_means_over_their_seeds(make_run, tmp_path, capsys):
    shares = (0.5, 0.6, 0.8)
    for seed, p in enumerate(shares):
        make_run(f"mara-{seed}", rows_of(BOTH), {0: REF, 4: {"1": p, "2": 1 - p}}, seed=seed)
    make_run("gibbs-0", rows_of(ONES), {0: REF}, seed=0)
    runs, out = tmp_path / "runs", tmp_path / "out"
    evaluate({"methods": {"MARA": f"{runs}/mara-*", "plain": f"{runs}/gibbs-*"}}, out)
    means = pd.read_parquet(out / "methods.parquet").set_index(["method", "scope", "metric"])
    entropies = [entropy([p, 1 - p]) for p in shares]
    expected = [3, np.mean(entropies), np.std(entropies, ddof=1), entropies[2], math.log(2)]
    row = means.loc["MARA", "prompts", "exact_entropy"]
    assert row[["n", "mean", "sd", "low", "high"]].tolist() == pytest.approx(expected)
    assert math.isnan(means.loc["plain", "prompts", "reward"]["sd"])
    summary = json.loads((out / "text_metrics.json").read_text())
    of_one = {"n": 1, "mean": 7 / 8, "sd": None, "low": 7 / 8, "high": 7 / 8}
    assert summary["methods"]["plain"]["prompts"]["reward"] == of_one
    assert summary["runs"]["mara-1"]["prompt"][PICK]["method"] == "MARA"
    text = capsys.readouterr().out
    assert "Methods, answers: ± sd" in text
    assert f"{np.mean(entropies):.3f} ± {np.std(entropies, ddof=1):.3f}" in text
    assert "MARA (n = 3)" in (out / "entropy.svg").read_text()
    # every column of every table is described
    files = sorted(out.glob("*.parquet"))
    assert [file.stem for file in files] == ["entropy_over_steps", "methods", "text_diversity"]
    for file in files:
        described = {field.name: description_of(field) for field in pq.read_schema(file)}
        assert all(text and "{" not in text for text in described.values())
    assert "a lower bound of the probability of a valid answer" in described["exact_mass"]
    assert "as many of each prompt" in described["n_samples"]
    outputs = {*STAGES["evaluate_text"].outputs}
    assert {path.name for path in out.iterdir() if path.suffix} <= outputs


def test_markup_and_mathematics_in_a_name_are_printed_literally(make_run, tmp_path):
    console = Console(file=io.StringIO(), width=120)
    methods = {"[red]$x$": [str(make_run("a", rows_of(BOTH), {0: REF}))]}
    evaluate({"methods": methods}, tmp_path / "out", console=console)
    assert "[red]$x$" in console.file.getvalue()
    assert "[red]$x$" in (tmp_path / "out" / "entropy.svg").read_text()


# ---- files

SENTENCES = ["The sea is calm.", "The sea is wild.", "A dog barks."]


def write_texts(path, texts=SENTENCES, **columns):
    frame = pd.DataFrame({"completion": texts, **columns})
    {
        ".jsonl": partial(frame.to_json, orient="records", lines=True),
        ".csv": partial(frame.to_csv, index=False),
        ".tsv": partial(frame.to_csv, index=False, sep="\t"),
        ".parquet": frame.to_parquet,
        ".txt": lambda path: path.write_text("\n".join(texts) + "\n"),
    }[path.suffix](path)
    return str(path)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet", "txt"])
def test_files_of_every_kind_give_the_same_numbers(tmp_path, ending):
    file = write_texts(tmp_path / f"texts.{ending}")
    row = row_of(evaluate({"texts": [file]}, tmp_path / "out"), f"texts.{ending}", "all")
    # 11 tokens: The sea is calm | The sea is wild | A dog barks: 8 different
    assert row["distinct_1"] == pytest.approx(8 / 11)
    v = 50_257
    assert row["ead_1"] == pytest.approx(8 / (v * (1 - ((v - 1) / v) ** 11)))
    # 2-grams: The sea, sea is, is calm, is wild, A dog, dog barks of 8
    assert row["distinct_2"] == pytest.approx(6 / 8)
    assert row["tokens"] == pytest.approx(11 / 3)
    assert row[["distinct_5", "distinct", "answer_entropy"]].isna().all()  # no text has 5 tokens


def test_prompts_answers_and_rewards_of_a_file_are_used(tmp_path):
    columns = {"question": ["a", "a", "b"], "answer": ["x", "y", None], "reward": [1, 0, 0.5]}
    file = write_texts(tmp_path / "t.jsonl", **columns)
    cells = write_texts(tmp_path / "cells.csv", answer=["x", "", "x"])  # an empty one: no answer
    config = {"texts": [{"path": file, "prompt_column": "question"}, cells]}
    table = evaluate(config, tmp_path / "out")
    assert row_of(table, "t.jsonl", "prompt", "a")["answer_entropy"] == pytest.approx(math.log(2))
    assert row_of(table, "t.jsonl", "prompt", "b")["validity"] == 0
    assert row_of(table, "t.jsonl", "all")["reward"] == 0.5
    assert row_of(table, "t.jsonl")["n_prompts"] == 2
    answers = row_of(table, "cells.csv")[["validity", "distinct_answers"]]
    assert answers.tolist() == pytest.approx([2 / 3, 1])


def test_many_texts_are_subsampled_by_the_seed(tmp_path):
    file = write_texts(tmp_path / "t.txt", [f"word{i} sea" for i in range(60)])
    config = {"texts": [file], "options": {"max_texts": 10, "seed": 3, "ngrams": [1]}}
    tables = [evaluate(config, tmp_path / name) for name in ("a", "b")]
    row = row_of(tables[0], "t.txt", "all")
    assert row[["n_samples", "n_texts", "distinct_1"]].tolist() == [60, 10, 11 / 20]
    pd.testing.assert_frame_equal(*tables)


# ---- embeddings


@pytest.fixture
def compass(monkeypatch):
    """An embedding by the text's number of degrees; the list holds what was embedded."""
    embedded = []

    class Compass:
        def __init__(self, cache):
            assert cache == Path("~/.cache/chemkl")

        def embed(self, texts):
            embedded.extend(texts)
            angles = np.deg2rad([float(text) for text in texts])
            return np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(-1, 2)

    monkeypatch.setattr(embedding, "SentenceEmbedder", Compass)
    monkeypatch.setattr(embedding, "require", lambda: None)
    return embedded


def test_spread_and_clusters_of_embeddings(tmp_path, compass):
    files = [
        write_texts(tmp_path / name, texts)
        for name, texts in (("t.txt", ["0", "10", "0", "90"]), ("u.txt", ["0"]))
    ]
    table = evaluate_text.run({"texts": files, "measures": ["embedding"]}, tmp_path / "out")
    row = row_of(table, "t.txt", "all")
    cosines = [math.cos(math.radians(a)) for a in (10, 0, 90, 10, 80, 90)]
    assert row["semantic_diversity"] == pytest.approx(1 - np.mean(cosines))
    assert (row["clusters"], row["top_cluster_share"]) == (2, 0.75)
    assert 1 < row["text_vendi"] < 2
    single = row_of(table, "u.txt", "all")
    assert math.isnan(row["distinct"])
    assert math.isnan(single["semantic_diversity"])
    assert (single["clusters"], single["text_vendi"]) == (1, pytest.approx(1))
    assert sorted(compass) == ["0", "10", "90"]  # each text once, whichever file it is in


def test_a_missing_package_is_said_before_anything_is_written(tmp_path, monkeypatch):
    def refuse(name):
        raise ImportError(name=name)

    monkeypatch.setattr(extra, "import_module", refuse)
    file = write_texts(tmp_path / "t.txt")
    with pytest.raises(InputError, match=r"transformers<.*leave embedding out of measures"):
        evaluate_text.run({"texts": [file]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"(?s)textss.*transformers<"):
        STAGES["evaluate_text"].load({"textss": [file]})
    evaluate({"texts": [file]}, tmp_path / "out")


# ---- bad input


def test_runs_without_texts_prompts_or_answers_are_refused(make_run, write_run, tmp_path):
    smiles = write_run(tmp_path / "runs" / "smiles", [[("CCO", 0.9)]])
    schema = SCHEMA.remove(SCHEMA.get_field_index("prompt"))
    rows = [{k: v for k, v in row.items() if k != "prompt"} for row in rows_of(ONES)]
    file = write_texts(tmp_path / "t.txt")
    for config, message in [
        ({"runs": [str(smiles)]}, r"smiles: its trace has SMILES.*`chemkl evaluate`"),
        ({"runs": [str(make_run("a", rows, schema=schema))]}, "its trace lacks prompt; expected"),
        ({"texts": [file], "measures": ["answers"]}, "answers alone, but no run or file has any"),
    ]:
        with pytest.raises(InputError, match=message):
            evaluate(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_of_exact_answers_names_what_it_lacks(make_run, tmp_path):
    run = make_run("a", rows_of(ONES), {0: REF})
    file = run / "answers.parquet"
    frame = pd.read_parquet(file)
    for spoil, message in [
        (frame.drop(columns="logp_ref").to_parquet, "lacks logp_ref; expected step, prom"),
        (frame.iloc[:0].to_parquet, "has no rows"),
        (lambda path: path.write_bytes(b"PAR1"), "not a readable Parquet file"),
    ]:
        spoil(file)
        with pytest.raises(InputError, match=rf"answers\.parquet: {message}"):
            evaluate({"runs": [str(run)]}, tmp_path / "out")


def test_runs_of_one_method_differ_only_in_the_seed(make_run, tmp_path):
    equal = [str(make_run(name, rows_of(ONES), seed=1)) for name in ("a", "b")]
    different = str(make_run("c", rows_of(ONES), seed=2, learning_rate=1))
    with pytest.raises(InputError, match=r"(?s)both have seed 1.*learning_rate: .* in .*/c"):
        evaluate({"methods": {"m": [*equal, different]}}, tmp_path / "out")
    with pytest.raises(InputError, match=r"/a: given more than once; keep each once"):
        evaluate({"runs": equal[:1], "methods": {"m": equal}}, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "", r"t\.txt: no texts in it"),
        ("t.csv", "", r"t\.csv: no texts in it; expected at least one"),
        ("t.csv", "a,b\n1,2\n", r"no column is called completion or .* Known: a, b"),
        ("t.jsonl", '{"text": "x"}\nnot\n', r"t\.jsonl:2: not JSON"),
        ("n.csv", "x\n1\n", r"n\.csv: no column is called completion .*set `column` to .* x\."),
        # without a header the first text would be lost
        ("h.csv", "The sea.\nA dog.\n", r"Known: The sea\.\. The first line is read as"),
        ("o.jsonl", '{"generated": "x"}', r"set `column` to .* Known: generated$"),
        ("i.jsonl", '{"text": "x"}\n\n{"text": 3}\n{"text": null}\n',
         r"column 'text' must hold text, but holds 3 \(int\) in line 3\. Write texts in"),
        ("b.jsonl", '{"text": true}', r"'text' must hold text, but holds True \(bool\) in line 1"),
        ("l.jsonl", '{"text": ["x"]}', r"holds \['x'\] \(list\) in line 1"),
        ("r.csv", "text,reward\nx,1\ny,\nz,high\n", r"'reward' must hold num.*'high' in line 4"),
        ("c.csv", "text\nHello, world\n", r"more fields than its header has names; quote"),
        ("m.jsonl", '{"text": null}\n{"text": " "}\n', r"no completions: all 2 texts are empty"),
    ],
)  # fmt: skip
def test_a_file_without_texts_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        evaluate({"texts": [str(tmp_path / name)]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_column_of_a_file_counts_once(tmp_path):
    file = write_texts(tmp_path / "t.csv", other=[1, 2, 1])  # digits are text where all is text
    message = r"texts: .*t\.csv: given more than once; keep each once"
    with pytest.raises(InputError, match=message):
        evaluate({"texts": [file, f"{tmp_path}/./t.csv"]}, tmp_path / "out")
    both = [file, {"path": file, "column": "other"}]  # two columns are two sets of texts
    table = evaluate({"texts": both}, tmp_path / "out")
    row = table[table["scope"] == "all"]
    assert row["n_texts"].tolist() == [3, 3]
    assert row["distinct_texts"].tolist() == pytest.approx([1, 2 / 3])
    assert row["run"].nunique() == 2


def test_every_file_that_cannot_be_used_is_named_before_anything_is_written(make_run, tmp_path):
    run = make_run("a", rows_of([[("", None, 0.0)]]))
    (tmp_path / "e.txt").write_text("")
    (tmp_path / "b.jsonl").write_text("{")
    config = {"runs": [str(run)], "texts": [str(tmp_path / name) for name in ("e.txt", "b.jsonl")]}
    with pytest.raises(InputError, match=r"(?s)/a: no completions.*e\.txt: no.*b\.jsonl:1: not J"):
        evaluate(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- what is printed


def printed(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_texts_that_are_left_out_are_counted_with_the_reason(tmp_path, capsys):
    rows = [{"completion": text} for text in ("The sea.", None, "", " ", "A dog.", "A cat.")]
    rows[0]["reward"] = 1
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = evaluate(
        {"texts": [str(tmp_path / "t.jsonl")], "options": {"max_texts": 2}}, tmp_path / "out"
    )
    row = row_of(table, "t.jsonl", "all")
    assert (row["n_samples"], row["n_texts"], row["reward"]) == (6, 2, 1)
    text = printed(capsys)
    assert "t.jsonl: of 6 texts 1 is missing (null) and 2 are empty: left out" in text
    assert "t.jsonl: a random 2 of its 3 texts are measured (options.max_texts)." in text
    assert "t.jsonl: 5 of 6 texts have no reward; the mean excludes them." in text
    evaluate({"texts": [write_texts(tmp_path / "all.csv")]}, tmp_path / "all")
    assert "left out" not in printed(capsys)


@pytest.mark.parametrize("texts", [["The sea."], ["The sea.", "A dog."]])
def test_few_texts_have_a_table_and_the_rest_is_explained(tmp_path, capsys, compass, texts):
    degrees = [str(i) for i in range(len(texts))]
    file = write_texts(tmp_path / "t.csv", degrees, text=texts)
    evaluate({"texts": [{"path": file, "column": "text"}]}, tmp_path / "out")
    text = printed(capsys)
    assert "All texts" in text
    assert "t.csv: dist-n and EAD not defined: no text has 5 tokens, which the longest of" in text
    assert "dist-n:" not in text
    evaluate_text.run({"texts": [file], "measures": ["embedding"]}, tmp_path / "embedded")
    text = printed(capsys)
    reason = "t.csv: semantic not defined: at least 2 texts are needed."
    assert (reason in text) == (len(texts) == 1)
    assert "clusters: of the embeddings;" in text


def labels(text, title):
    """The headings of a table's columns, without that of the runs."""
    lines = text[text.index(title) :].splitlines()
    return next(line for line in lines if line.lstrip().startswith("run ")).split()[1:]


def explained(text, kind):
    """The labels in the legend of one kind of tables."""
    text = " ".join([*text.split(), ""])
    start = text.index(f" {kind}. ") + len(f" {kind}. ")
    return [part.split(":")[0] for part in text[start : text.index(". ", start)].split("; ")]


def test_the_legend_explains_exactly_the_printed_columns(make_run, tmp_path, capsys):
    evaluate(
        {"texts": [write_texts(tmp_path / "t.txt")], "options": {"ngrams": [1]}}, tmp_path / "a"
    )
    text = capsys.readouterr().out
    assert labels(text, "All texts") == ["texts", "tokens", "distinct", "dist-n", "EAD"]
    assert explained(text, "Texts") == labels(text, "All texts")
    assert "Answers." not in text
    for number, exact in enumerate((None, {0: REF})):
        run = make_run(f"r{number}", rows_of(BOTH), exact)
        evaluate({"runs": [str(run)]}, tmp_path / f"r{number}-out")
        text = capsys.readouterr().out
        assert explained(text, "Texts") == ["texts", "reward", "tokens", "distinct"]
        assert explained(text, "Texts") == labels(text, "All texts")
        assert explained(text, "Answers") == labels(text, "Answers, per prompt")
        assert ("KL" in explained(text, "Answers")) == (exact is not None)


def test_the_reason_is_printed_for_a_run_without_a_valid_answer(make_run, tmp_path, capsys):
    run = make_run("a", rows_of([[("no", None, 0.0)] * 2]))
    evaluate({"runs": [str(run)], "measures": ["answers"]}, tmp_path / "out")
    text = printed(capsys)
    assert "Answers, per prompt" in text
    assert "a: entropy, eff. and top not defined: no sample has a valid answer." in text
    assert "All texts" not in text


SMILES = {"reward": {"kind": "smiles"}}


def test_of_molecules_the_measures_of_text_are_left_out(make_run, tmp_path, capsys, compass):
    rows = rows_of([[("CCO", "CCO", 1.0), ("CCN", "CCN", 0.5), ("C C", None, 0.0)]])
    table = evaluate_text.run({"runs": [str(make_run("a", rows, **SMILES))]}, tmp_path / "out")
    row = row_of(table, "a", "all")
    assert row[["tokens", "distinct_1", "ead_1", "clusters"]].isna().all()
    assert compass == []  # nothing was embedded
    assert row_of(table, "a")["answer_entropy"] == pytest.approx(math.log(2))
    text = printed(capsys)
    assert "All texts" not in text
    assert "Answers, per prompt" in text
    assert "a: its texts are SMILES, one word each, so measures of text do not apply" in text
    assert "`chemkl evaluate` measures molecules" in text
    # molecules inside sentences are text
    rows = rows_of([[("Take CCO", "CCO", 1.0), ("Or CCN", "CCN", 0.5), ("CC", "CC", 0.0)]])
    evaluate({"runs": [str(make_run("b", rows, **SMILES))]}, tmp_path / "sentences")
    text = printed(capsys)
    assert "All texts" in text
    assert "writes SMILES" not in text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"nothing to evaluate: give run folders under `runs` or `methods`, or files under"),
        ({"measures": ["ngram"]}, r"'ngram' is not allowed; did you mean 'ngrams'\?"),
        ({"options": {"ngrams": [1, 1]}}, "ngrams: 1: given more than once"),
        ({"options": {"ngrams": []}}, r"should have at least 1 entry"),
    ],
)
def test_settings_that_make_no_sense(config, message):
    with pytest.raises(InputError, match=message):
        load_config(EvaluateTextConfig, config)
