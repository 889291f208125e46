"""Measures of texts and answers by hand and by enumeration; files of texts."""

import bz2
import gzip
import itertools
import lzma
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import entropy

from chemkl.config import InputError
from chemkl.config.evaluate import TextFile, TextOptions
from chemkl.evaluation.diversity import NgramCounts, semantic_diversity, text_clusters, tokens_of
from chemkl.evaluation.text import exact_entropies, over_prompts, text_rows
from chemkl.evaluation.text_samples import TextSamples, read_text_file

# ---- tokens and n-grams


def test_token_conventions():
    # Kirk et al.: s.replace(".", "").replace("\n", ""), split at " ", empty strings dropped
    assert tokens_of("The sea.  The\nSea, calm.") == ["The", "sea", "TheSea,", "calm"]
    assert tokens_of("The sea. The\nSea's calm!", "words") == ["the", "sea", "the", "sea's", "calm"]


def test_ngrams_are_counted_within_each_text():
    texts = [["a", "b", "a", "b"], ["b", "a"], ["c"]]
    # 2-grams: ab, ba, ab and ba; none of them is "b b" or "a c", which would cross a border
    assert NgramCounts.of(texts, 2) == NgramCounts(distinct=2, total=4)
    assert NgramCounts.of(texts, 1) == NgramCounts(distinct=3, total=7)
    assert NgramCounts.of(texts, 5) == NgramCounts(distinct=0, total=0)
    assert NgramCounts(distinct=2, total=4).share == 0.5
    assert NgramCounts(distinct=0, total=0).share is None


@pytest.mark.parametrize("vocabulary", [2, 3, 4])
@pytest.mark.parametrize("total", [1, 2, 5])
def test_adjustment_divides_by_the_mean_number_of_distinct_draws(vocabulary, total):
    """The mean over all V^C sequences of C equally likely tokens."""
    sequences = itertools.product(range(vocabulary), repeat=total)
    mean = np.mean([len(set(sequence)) for sequence in sequences])
    counts = NgramCounts(distinct=1, total=total)
    assert counts.adjusted(vocabulary) == pytest.approx(1 / mean, rel=1e-12)
    # a real vocabulary, by the formula of the paper
    distinct, total, vocabulary = 700, 5000, 50_257
    expected = distinct / (vocabulary * (1 - ((vocabulary - 1) / vocabulary) ** total))
    assert NgramCounts(distinct, total).adjusted(vocabulary) == pytest.approx(expected, rel=1e-9)


# ---- embeddings


def unit_vectors(seed, n, dimension):
    rows = np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def at_angles(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_semantic_diversity_is_the_mean_cosine_distance_of_all_pairs():
    vectors = unit_vectors(1, 40, 7)
    assert semantic_diversity(vectors) == pytest.approx(pdist(vectors, "cosine").mean(), abs=1e-6)
    assert semantic_diversity(at_angles(30, 30, 30)) == pytest.approx(0, abs=1e-7)
    assert semantic_diversity(at_angles(0, 180)) == pytest.approx(2, abs=1e-7)
    assert semantic_diversity(at_angles(10)) is None


@pytest.mark.parametrize(
    ("linkage", "distance", "n"),
    [
        # cosine distances: 0-20 .0603, 20-60 .234, 0-60 .5; so {0, 20} and 60 are .367 apart by
        # the mean, .5 by the largest, .234 by the smallest
        *(("average", 0.05, 3), ("average", 0.36, 2), ("average", 0.37, 1)),
        *(("complete", 0.49, 2), ("complete", 0.51, 1)),
        *(("single", 0.22, 2), ("single", 0.24, 1)),
    ],
)
def test_clusters_are_merged_up_to_the_threshold(linkage, distance, n):
    numbers = text_clusters(at_angles(0, 20, 60), distance, linkage)
    assert len(set(numbers)) == n
    if n == 2:
        assert numbers[0] == numbers[1] != numbers[2]


def test_clusters_of_few_texts_and_of_many_in_another_order():
    assert text_clusters(at_angles(5), 0.4).tolist() == [0]
    assert text_clusters(np.zeros((0, 2)), 0.4).tolist() == []
    assert len(set(text_clusters(at_angles(5, 5, 5), 0.4))) == 1
    vectors = unit_vectors(2, 60, 4)
    shuffled = vectors[np.random.default_rng(3).permutation(60)]
    counts = [len(set(text_clusters(rows, 0.4))) for rows in (vectors, shuffled)]
    assert 1 < counts[0] == counts[1] < 60


# ---- answers


def answer_row(answers):
    """The row of one prompt to which these answers were sampled."""
    column = pd.Series(answers, dtype=object)
    texts = pd.DataFrame({"prompt": "p", "completion": "1", "answer": column})
    *_, row = text_rows(TextSamples("x", texts), ["answers"], TextOptions())
    return row


def test_sampled_answers_of_one_prompt():
    row = answer_row(["1", "1", "2", None, "1"])
    assert (row["validity"], row["distinct_answers"], row["answer_top_share"]) == (0.8, 2, 0.75)
    assert row["answer_entropy"] == pytest.approx(entropy([3, 1]))
    assert row["effective_answers"] == pytest.approx(math.exp(entropy([3, 1])))
    row = answer_row([None, None])
    assert (row["validity"], row["distinct_answers"]) == (0, 0)
    assert row["answer_entropy"] is row["effective_answers"] is row["answer_top_share"] is None


def exact(step, policy, reference, prompt="p"):
    with np.errstate(divide="ignore"):
        logp = {"logp_policy": np.log(policy), "logp_ref": np.log(reference)}
    answers = [str(i) for i in range(len(policy))]
    return pd.DataFrame({"step": step, "prompt": prompt, "answer": answers} | logp)


def test_exact_entropy_is_normalised_over_the_valid_answers():
    values = exact_entropies(exact(3, [0.3, 0.1, 0.0], [0.6, 0.2, 0.1])).iloc[0]
    expected = {
        "step": 3,
        "k": 3,
        "ln_k": math.log(3),
        "entropy": entropy([3, 1]),
        "entropy_ref": entropy([6, 2, 1]),
        "mass": 0.4,
        "mass_ref": 0.9,
        "kl_from_ref": entropy([3, 1, 0], [6, 2, 1]),
        "top_share": 0.75,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_tiny_probabilities_have_an_entropy_and_none_has_no_values():
    table = exact(0, [0.5, 0.5], [0.5, 0.5])
    table["logp_policy"] = [-1000.0, -1000.0 - math.log(3)]
    assert exact_entropies(table).iloc[0]["mass"] == 0
    table["logp_policy"] = [-600.0, -600.0 - math.log(3)]
    assert exact_entropies(table).iloc[0]["entropy"] == pytest.approx(entropy([3, 1]))
    values = exact_entropies(exact(0, [0.0, 0.0], [0.5, 0.5])).iloc[0]
    assert values["mass"] == 0
    assert values[["entropy", "kl_from_ref", "top_share"]].isna().all()
    assert values["entropy_ref"] == pytest.approx(math.log(2))


def test_curves_are_means_over_the_prompts_at_each_step():
    one, half = [1.0, 0.0], [0.5, 0.5]
    table = pd.concat(
        [exact(1, half, half, "a"), exact(1, one, half, "b"), exact(0, one, half, "a")]
    )
    steps = exact_entropies(table)
    assert steps[["step", "prompt"]].to_numpy().tolist() == [[0, "a"], [1, "a"], [1, "b"]]
    means = over_prompts(steps)
    assert means["step"].tolist() == [0, 1]
    assert means["entropy"].tolist() == pytest.approx([0, math.log(2) / 2])


# ---- files

TABLE = 'id{d}text{d}reward\n1{d}"one{d} ""two""\nthree"{d}0.5\n2{d} four {d}\n'


@pytest.fixture
def texts_of(tmp_path):
    """Write a file, compressed by its suffix, and read its texts."""

    def read(name, content, **settings):
        path = tmp_path / name
        data = content if isinstance(content, bytes) else content.encode()
        packers = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
        packers[".zst"] = lambda data: pa.Codec("zstd").compress(data, asbytes=True)
        path.write_bytes(packers.get(path.suffix, bytes)(data))
        return read_text_file("x", TextFile(path=path, **settings)).texts

    return read


@pytest.mark.parametrize("packing", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("d", [",", ";", "\t"])
def test_tables_are_read_like_those_of_molecules(texts_of, packing, encoding, d):
    texts = texts_of(f"a.csv{packing}", TABLE.format(d=d).encode(encoding))
    assert texts["completion"].tolist() == [f'one{d} "two"\nthree', " four "]
    assert texts["reward"].fillna(-1).tolist() == [0.5, -1]


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_lines_and_json_lines_may_be_compressed(texts_of, packing):
    lines = texts_of(f"a.txt{packing}", "One, two; three\r\n\n# Four\n")
    assert lines["completion"].tolist() == ["One, two; three", "# Four"]
    rows = texts_of(f"a.jsonl{packing}", '{"text": "a"}\n' * 60 + '{"text": "b", "answer": "x"}\n')
    assert rows["answer"].tolist() == [None] * 60 + ["x"]


def test_format_is_detected_by_the_content(texts_of, capsys):
    assert texts_of("a", '{"text": "a"}\n')["completion"].tolist() == ["a"]
    assert texts_of("b", "Hello, world\n")["completion"].tolist() == ["Hello, world"]
    assert texts_of("c.log", "id;text\n1;x\n")["completion"].tolist() == ["x"]
    assert "read as JSON lines, because of its content" in capsys.readouterr().err


def test_column_by_number(texts_of):
    texts = texts_of("a.csv", "1,The sea.\n2,A dog.\n", column=1)
    assert texts["completion"].tolist() == ["The sea.", "A dog."]
    assert texts_of("b.csv", "prompt,text\np,x\n", column=1)["completion"].tolist() == ["x"]
    with pytest.raises(InputError, match=r"no column 7: there are 2, .* Known: prompt, text"):
        texts_of("b.csv", "prompt,text\np,x\n", column=7)
    with pytest.raises(InputError, match=r"a\.csv: several columns are called 'text'"):
        texts_of("a.csv", "text,text\na,b\n")


def test_only_used_columns_are_read_from_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    columns = {"text": ["a", None], "other": [{"x": 1}, None], "reward": [1, 0]}
    pq.write_table(pa.table(columns), path)
    samples = read_text_file("x", TextFile(path=path))
    assert samples.texts["completion"].tolist() == ["a", ""]
    assert samples.n_missing == 1
    assert list(samples.texts.columns) == ["prompt", "completion", "reward"]
    pd.DataFrame({"text": [1]}).to_parquet(path)
    with pytest.raises(InputError, match=r"'text' must hold text, but holds 1 \(int\) in row 1"):
        read_text_file("x", TextFile(path=path))
