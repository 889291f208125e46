"""The columns of the tables of text measures: name, type and definition of each."""

import pyarrow as pa

from chemkl.config.evaluate import TextOptions
from chemkl.results import described_schema

_INT, _FLOAT, _TEXT = pa.int64(), pa.float64(), pa.string()
_LATE = (
    "among the last {late_samples} samples of a run (as many of each prompt), or all texts of a "
    "file"
)
_MEAN = "In the row `prompts`: the mean over the prompts."
_NOT_POOLED = "Null in the row `all`: answers to different prompts are not pooled."
_EXACT = (
    "From answers.parquet at the last recorded step; with several prompts the mean over them. "
    f"{_NOT_POOLED}"
)

_HEAD: dict[str, tuple[pa.DataType, str]] = {
    "run": (_TEXT, "Name of the run or file."),
    "method": (_TEXT, "Method that the run belongs to. Null: to none."),
    "seed": (_INT, "Seed of the run. Null for a file."),
    "scope": (
        _TEXT,
        "all: every text pooled, whatever its prompt; prompts: the mean over the prompts of the "
        "values of each; prompt: one prompt alone.",
    ),
    "prompt": (_TEXT, "The prompt, in rows of scope prompt; else null."),
    "n_prompts": (_INT, "Prompts that the row is about."),
    "n_samples": (_INT, f"Samples {_LATE}, empty and invalid ones included."),
    "n_texts": (
        _FLOAT,
        "Texts that the measures of text were computed on: those that are not empty, or a random "
        f"{{max_texts}} of a run's. {_MEAN}",
    ),
    "reward": (_FLOAT, f"Mean raw reward {_LATE}. Null: not recorded."),
    "tokens": (
        _FLOAT,
        "Mean number of tokens ({tokens}) of a text. Null: the texts are SMILES, of one word each, "
        "whose n-grams and embeddings are left out too.",
    ),
    "distinct_texts": (_FLOAT, "Different texts / texts."),
}
_EMBEDDING: dict[str, tuple[pa.DataType, str]] = {
    "semantic_diversity": (
        _FLOAT,
        "Mean cosine distance over all pairs of texts, embedded by all-MiniLM-L6-v2. Null: fewer "
        "than 2 texts.",
    ),
    "clusters": (
        _FLOAT,
        "Clusters of the embeddings: agglomerative, {linkage} linkage, joined up to a cosine "
        f"distance of {{cluster_distance:g}}. {_MEAN}",
    ),
    "top_cluster_share": (_FLOAT, "Share of the texts that are in the largest cluster."),
    "text_vendi": (
        _FLOAT,
        "Vendi score of the embeddings' cosines: the effective number of different texts.",
    ),
}
_ANSWERS: dict[str, tuple[pa.DataType, str]] = {
    "validity": (_FLOAT, f"Share with a valid parsed answer {_LATE}. {_NOT_POOLED}"),
    "distinct_answers": (_FLOAT, f"Different valid answers {_LATE}. {_MEAN} {_NOT_POOLED}"),
    "answer_entropy": (
        _FLOAT,
        f"Entropy in nats of the shares of the valid answers {_LATE}; biased down by about "
        f"(distinct - 1) / (2 x samples). {_MEAN} {_NOT_POOLED}",
    ),
    "effective_answers": (_FLOAT, f"exp of answer_entropy. {_MEAN} {_NOT_POOLED}"),
    "answer_top_share": (_FLOAT, f"Share of the commonest valid answer. {_MEAN} {_NOT_POOLED}"),
}
EXACT_FINAL = {
    "k": "exact_k",
    "entropy": "exact_entropy",
    "entropy_ref": "exact_entropy_ref",
    "mass": "exact_mass",
    "mass_ref": "exact_mass_ref",
    "kl_from_ref": "exact_kl_from_ref",
    "top_share": "exact_top_share",
}
"""Columns of the exact distribution over steps, and how their final values are called."""
_STEPS: dict[str, tuple[pa.DataType, str]] = {
    "k": (_FLOAT, "Answers that the run recorded: the valid ones, unless it was told others."),
    "ln_k": (_FLOAT, "ln of their number, the entropy of the uniform distribution, in nats."),
    "entropy": (
        _FLOAT,
        "Exact entropy of the policy over these answers, their probabilities (as in mass) "
        "normalised, in nats.",
    ),
    "entropy_ref": (_FLOAT, "The same of the reference."),
    "mass": (
        _FLOAT,
        "Probability that the policy writes one of these answers as the whole completion, cut into "
        "tokens as the tokenizer does it. Left out are other cuts and, unless parse is strict, "
        "other completions that the answer is read out of: a lower bound of the probability of a "
        "valid answer, where parse reads the bare answer as itself.",
    ),
    "mass_ref": (_FLOAT, "The same of the reference."),
    "kl_from_ref": (
        _FLOAT,
        "KL(q || q_ref) in nats, q and q_ref the policy's and the reference's distributions over "
        "these answers: 0 where the reference's ratios are kept.",
    ),
    "top_share": (_FLOAT, "Share of the likeliest of these answers in the policy."),
}

STEPS_SCHEMA = described_schema(
    {
        "run": _HEAD["run"],
        "method": _HEAD["method"],
        "seed": _HEAD["seed"],
        "prompt": (_TEXT, "The prompt."),
        "step": (_INT, "Optimiser step after which the probabilities were computed."),
        **_STEPS,
    }
)
METHODS_SCHEMA = described_schema(
    {
        "method": (_TEXT, "Name of the method."),
        "scope": (_TEXT, "all: over all texts pooled; prompts: the mean over the prompts."),
        "metric": (_TEXT, "Column of text_diversity.parquet."),
        "n": (_INT, "Runs that have a value."),
        "mean": (_FLOAT, "Mean over these runs."),
        "sd": (_FLOAT, "Standard deviation over them, n - 1 in the denominator. Null: n = 1."),
        "low": (_FLOAT, "Lowest value."),
        "high": (_FLOAT, "Highest value."),
    }
)


def text_schema(options: TextOptions) -> pa.Schema:
    """Schema of `text_diversity.parquet`, a description in every field."""
    each: dict[str, tuple[pa.DataType, str]] = {}
    for n in options.ngrams:
        each[f"distinct_{n}"] = (
            _FLOAT,
            f"Different {n}-grams / {n}-grams, over all texts together; tokens: {{tokens}}.",
        )
        each[f"ead_{n}"] = (
            _FLOAT,
            f"Expectation-adjusted distinct {n}-grams (arXiv 2202.13587): different / (V (1 - ((V "
            "- 1) / V)^total)), V = {vocabulary}; tokens: {tokens}.",
        )
    sizes = ", ".join(map(str, options.ngrams))
    means = {
        "distinct": (_FLOAT, f"Mean of distinct_n over n = {sizes}. Null: one of them is null."),
        "ead": (_FLOAT, f"Mean of ead_n over n = {sizes}. Null: one of them is null."),
    }
    exact = {final: (_FLOAT, f"{_STEPS[name][1]} {_EXACT}") for name, final in EXACT_FINAL.items()}
    columns = {**_HEAD, **means, **each, **_EMBEDDING, **_ANSWERS, **exact}
    settings = options.model_dump()
    return described_schema(
        {name: (kind, text.format(**settings)) for name, (kind, text) in columns.items()}
    )


IDENTITY = ("run", "method", "seed", "scope", "prompt", "n_prompts", "n_samples")
"""Columns that say what a row is about, not how it came out."""
