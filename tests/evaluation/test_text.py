import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import entropy

from chemkl.config.evaluate import TextOptions
from chemkl.evaluation.diversity import NgramCounts, semantic_diversity, text_clusters, tokens_of
from chemkl.evaluation.text import exact_entropies, over_prompts, text_rows
from chemkl.evaluation.text_samples import TextSamples


def unit(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def at_angles(*degrees):
    radians = np.deg2rad(degrees)
    return unit(np.stack([np.cos(radians), np.sin(radians)], axis=1))


# ---- tokens and n-grams


def test_blanks_are_the_convention_of_kirk_et_al():
    # their code: s.replace(".", "").replace("\n", ""), split at " ", empty strings dropped
    assert tokens_of("The sea.  The\nSea, calm.") == ["The", "sea", "TheSea,", "calm"]


def test_words_know_neither_case_nor_punctuation():
    assert tokens_of("The sea. The\nSea's calm!", "words") == ["the", "sea", "the", "sea's", "calm"]


def test_ngrams_are_counted_within_each_text():
    texts = [["a", "b", "a", "b"], ["b", "a"], ["c"]]
    # 2-grams: ab, ba, ab and ba; none of them is "b b" or "a c", which would cross a border
    assert NgramCounts.of(texts, 2) == NgramCounts(distinct=2, total=4)
    assert NgramCounts.of(texts, 1) == NgramCounts(distinct=3, total=7)
    assert NgramCounts.of(texts, 5) == NgramCounts(distinct=0, total=0)
    assert NgramCounts(distinct=2, total=4).share == 0.5  # distinct is the plain share
    assert NgramCounts(distinct=0, total=0).share is None


@pytest.mark.parametrize("vocabulary", [2, 3, 4])
@pytest.mark.parametrize("total", [1, 2, 5])
def test_the_adjustment_divides_by_the_mean_number_of_distinct_draws(vocabulary, total):
    """The mean over all V^C sequences of C equally likely tokens, counted one by one."""
    every = itertools.product(range(vocabulary), repeat=total)
    mean = np.mean([len(set(sequence)) for sequence in every])
    counts = NgramCounts(distinct=1, total=total)
    assert counts.adjusted(vocabulary) == pytest.approx(1 / mean, rel=1e-12)


def test_the_adjustment_with_a_real_vocabulary_is_the_papers_formula():
    distinct, total, vocabulary = 700, 5000, 50_257
    expected = distinct / (vocabulary * (1 - ((vocabulary - 1) / vocabulary) ** total))
    assert NgramCounts(distinct, total).adjusted(vocabulary) == pytest.approx(expected, rel=1e-9)


# ---- embeddings


def test_semantic_diversity_is_the_mean_cosine_distance_of_all_pairs():
    vectors = unit(np.random.default_rng(1).normal(size=(40, 7)))
    assert semantic_diversity(vectors) == pytest.approx(pdist(vectors, "cosine").mean(), abs=1e-6)


def test_semantic_diversity_of_equal_and_opposite_texts():
    assert semantic_diversity(at_angles(30, 30, 30)) == pytest.approx(0, abs=1e-7)
    assert semantic_diversity(at_angles(0, 180)) == pytest.approx(2, abs=1e-7)
    assert semantic_diversity(at_angles(10)) is None


@pytest.mark.parametrize(
    ("linkage", "distance", "n"),
    [
        # cosine distances: 0-20 .0603, 20-60 .234, 0-60 .5; so {0, 20} and 60 are .367 apart by
        # the mean, .5 by the largest, .234 by the smallest
        ("average", 0.05, 3),
        ("average", 0.36, 2),
        ("average", 0.37, 1),
        ("complete", 0.49, 2),
        ("complete", 0.51, 1),
        ("single", 0.22, 2),
        ("single", 0.24, 1),
    ],
)
def test_clusters_join_up_to_the_threshold(linkage, distance, n):
    numbers = text_clusters(at_angles(0, 20, 60), distance, linkage)
    assert len(set(numbers)) == n
    if n == 2:
        assert numbers[0] == numbers[1] != numbers[2]


def test_clusters_of_few_texts_and_of_many_in_another_order():
    assert text_clusters(at_angles(5), 0.4).tolist() == [0]
    assert text_clusters(np.zeros((0, 2)), 0.4).tolist() == []
    assert len(set(text_clusters(at_angles(5, 5, 5), 0.4))) == 1
    vectors = unit(np.random.default_rng(2).normal(size=(60, 4)))
    shuffled = vectors[np.random.default_rng(3).permutation(60)]
    counts = [len(set(text_clusters(rows, 0.4))) for rows in (vectors, shuffled)]
    assert counts[0] == counts[1]  # whatever the order
    assert 1 < counts[0] < 60


# ---- answers


def answers_of(answers):
    """The row of one prompt to which these answers were sampled."""
    texts = pd.DataFrame(
        {"prompt": "p", "completion": "1", "answer": pd.Series(answers, dtype=object)}
    )
    *_, row = text_rows(TextSamples("x", texts), ["answers"], TextOptions())
    return row


def test_sampled_answers_of_one_prompt():
    row = answers_of(["1", "1", "2", None, "1"])
    assert (row["validity"], row["distinct_answers"], row["answer_top_share"]) == (0.8, 2, 0.75)
    assert row["answer_entropy"] == pytest.approx(entropy([3, 1]))
    assert row["effective_answers"] == pytest.approx(math.exp(entropy([3, 1])))
    row = answers_of([None, None])
    assert (row["validity"], row["distinct_answers"]) == (0, 0)
    assert row["answer_entropy"] is row["effective_answers"] is row["answer_top_share"] is None


def exact(step, policy, reference, prompt="p"):
    with np.errstate(divide="ignore"):
        logs = np.log(policy), np.log(reference)
    answers = [str(i) for i in range(len(policy))]
    rows = zip(answers, *logs, strict=True)
    return pd.DataFrame(
        [(step, prompt, *row) for row in rows],
        columns=["step", "prompt", "answer", "logp_policy", "logp_ref"],
    )


def test_exact_entropy_is_normalised_over_the_valid_answers():
    steps = exact_entropies(exact(3, [0.3, 0.1, 0.0], [0.6, 0.2, 0.1])).iloc[0]
    assert steps["step"] == 3
    assert steps["k"] == 3
    assert steps["ln_k"] == pytest.approx(math.log(3))
    assert steps["entropy"] == pytest.approx(entropy([3, 1]))
    assert steps["entropy_ref"] == pytest.approx(entropy([6, 2, 1]))
    assert steps["mass"] == pytest.approx(0.4)
    assert steps["mass_ref"] == pytest.approx(0.9)
    assert steps["kl_from_ref"] == pytest.approx(entropy([3, 1, 0], [6, 2, 1]))
    assert steps["top_share"] == pytest.approx(0.75)


def test_probabilities_too_small_for_exp_still_have_an_entropy():
    table = exact(0, [0.5, 0.5], [0.5, 0.5])
    table["logp_policy"] = [-1000.0, -1000.0 - math.log(3)]
    steps = exact_entropies(table).iloc[0]
    assert steps["mass"] == 0
    table["logp_policy"] = [-600.0, -600.0 - math.log(3)]
    assert exact_entropies(table).iloc[0]["entropy"] == pytest.approx(entropy([3, 1]))


def test_without_any_mass_nothing_is_defined():
    steps = exact_entropies(exact(0, [0.0, 0.0], [0.5, 0.5])).iloc[0]
    assert steps["mass"] == 0
    assert steps[["entropy", "kl_from_ref", "top_share"]].isna().all()
    assert steps["entropy_ref"] == pytest.approx(math.log(2))


def test_curves_are_means_over_the_prompts_at_each_step():
    table = pd.concat(
        [
            exact(1, [0.5, 0.5], [0.5, 0.5], "a"),
            exact(1, [1.0, 0.0], [0.5, 0.5], "b"),
            exact(0, [1.0, 0.0], [0.5, 0.5], "a"),
        ]
    )
    steps = exact_entropies(table)
    assert steps[["step", "prompt"]].to_numpy().tolist() == [[0, "a"], [1, "a"], [1, "b"]]
    means = over_prompts(steps)
    assert means["step"].tolist() == [0, 1]
    assert means["entropy"].tolist() == pytest.approx([0, math.log(2) / 2])
