"""Diversity of texts and answers: the table of measures, one row each, and tables for the terminal.

No torch: embeddings are passed in as arrays.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.table import Table
from rich.text import Text
from scipy import special

from chemkl.config.evaluate import EvaluateTextConfig, TextOptions
from chemkl.display import cell, is_missing, plain_table, table
from chemkl.evaluation import diversity
from chemkl.evaluation.metrics import RUN, Metric, key_of
from chemkl.evaluation.samples import sample
from chemkl.evaluation.text_samples import (
    ANSWER,
    COMPLETION,
    PROMPT,
    REWARD,
    TextSamples,
)
from chemkl.results.columns import columns_of, described_schema

ALL, PROMPTS, ONE = "all", "prompts", "prompt"
OF_TEXT = ("ngrams", "embedding")
"""Measures of the words of a text, which do not apply to SMILES."""
Rows = Sequence[Mapping[str, Any]]
Embed = Callable[[Sequence[str]], Sequence[np.ndarray] | np.ndarray]


# ---- answers


def entropy_of(shares: Iterable[float]) -> float | None:
    """-sum p ln p in nats, where 0 ln 0 = 0; None without a positive share."""
    positive = [share for share in shares if share > 0]
    return max(0.0, -sum(p * math.log(p) for p in positive)) if positive else None


def exact_entropies(exact: pd.DataFrame) -> pd.DataFrame:
    """Describe the exact distribution over the recorded answers, for every prompt and step.

    p are the policy's probabilities of the K answers as whole completions, tokenized by the
    tokenizer (logp_policy and logp_ref in nats, end token included); m = sum p is their mass and
    q = p / m, likewise q_ref for the reference. Then entropy = -sum q ln q and kl_from_ref = sum q
    ln (q / q_ref), in nats; missing if the answers have no probability.
    """
    rows = []
    for (prompt, step), answers in exact.groupby(["prompt", "step"]):
        k = len(answers)
        policy, reference = (answers[f"logp_{who}"].to_numpy(float) for who in ("policy", "ref"))
        log_mass, log_mass_ref = special.logsumexp(policy), special.logsumexp(reference)
        mass, mass_ref = math.exp(log_mass), math.exp(log_mass_ref)
        log_q = policy - log_mass if math.isfinite(log_mass) else policy
        log_ref = reference - log_mass_ref if math.isfinite(log_mass_ref) else reference
        q = np.exp(log_q)
        positive = q > 0
        with np.errstate(invalid="ignore"):  # -inf - -inf if neither has mass
            kl = float((q[positive] * (log_q[positive] - log_ref[positive])).sum())
        rows.append(
            {
                "prompt": prompt,
                "step": step,
                "k": k,
                "ln_k": math.log(k),
                "entropy": entropy_of(q) if mass > 0 else None,
                "entropy_ref": entropy_of(np.exp(log_ref)) if mass_ref > 0 else None,
                "mass": mass,
                "mass_ref": mass_ref,
                "kl_from_ref": max(0.0, kl) if mass > 0 and math.isfinite(kl) else None,
                "top_share": float(q.max()) if mass > 0 else None,
            }
        )
    steps = pd.DataFrame(rows).sort_values(["step", "prompt"], ignore_index=True)
    return steps.astype(dict.fromkeys(steps.columns.difference(["step", "prompt"]), float))


def over_prompts(steps: pd.DataFrame) -> pd.DataFrame:
    """Average over the prompts at every step, for a figure."""
    means: pd.DataFrame = steps.drop(columns="prompt").groupby("step", as_index=False).mean()
    return means


# ---- the table of measures


@dataclass(frozen=True, eq=False)
class TextSet:
    """The texts of one row, with cached values that several measures share.

    `chosen` are the measured texts, `vectors` the embeddings of all measured texts by index (None:
    not embedded), `exact` the exact values of the prompt. SMILES have no words.
    """

    texts: pd.DataFrame
    chosen: pd.DataFrame
    options: TextOptions
    vectors: pd.Series | None
    has_words: bool
    exact: Mapping[str, Any]

    @cached_property
    def tokens(self) -> list[list[str]]:
        """Tokens of each measured text."""
        return [diversity.tokens_of(text, self.options.tokens) for text in self.chosen[COMPLETION]]

    @cached_property
    def ngrams(self) -> dict[int, diversity.NgramCounts]:
        """Counts of n-grams by n."""
        return {n: diversity.NgramCounts.of(self.tokens, n) for n in self.options.ngrams}

    @cached_property
    def embedded(self) -> np.ndarray | None:
        """Embeddings of the measured texts."""
        if self.vectors is None or self.chosen.empty:
            return None
        return np.stack(self.vectors[self.chosen.index].tolist()).astype(np.float64)

    @cached_property
    def clusters(self) -> np.ndarray | None:
        """Sizes of the clusters of the embeddings."""
        if self.embedded is None:
            return None
        distance, linkage = self.options.cluster_distance, self.options.linkage
        return np.bincount(diversity.text_clusters(self.embedded, distance, linkage))

    @cached_property
    def answers(self) -> Sequence[str | None]:
        """The answer of each sample; None: no valid answer."""
        return self.texts[ANSWER].tolist() if ANSWER in self.texts.columns else []

    @cached_property
    def shares(self) -> list[float]:
        """Share of each distinct answer among the valid ones."""
        counts = Counter(answer for answer in self.answers if answer is not None)
        return [count / counts.total() for count in counts.values()]


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
_TEXTS, _ANSWERS = ("texts",), ("answers",)


def _mean_over_n(values: Iterable[float | None]) -> float | None:
    values = list(values)
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if len(defined) == len(values) else None


STEPS = (
    Metric(
        "k", "", ",.0f",
        "Answers that the run recorded: the valid ones, unless it was told others.", "answers",
    ),
    Metric(
        "ln_k", "", ".3f",
        "ln of their number, the entropy of the uniform distribution, in nats.", "nats",
    ),
    Metric(
        "entropy", "exact", ".3f",
        "Exact entropy of the policy over these answers, their probabilities (as in mass) "
        "normalised, in nats.",
        "nats", brief="entropy of the policy's probabilities of the bare answers, as the tokenizer "
        "cuts them",
    ),
    Metric(
        "entropy_ref", "ref.", ".3f", "The same of the reference.", "nats",
        brief="the same of the reference",
    ),
    Metric(
        "mass", "mass", ".1%",
        "Probability that the policy writes one of these answers as the whole completion, cut into "
        "tokens as the tokenizer does it. Left out are other cuts and, unless parse is strict, "
        "other completions that the answer is read out of: a lower bound of the probability of a "
        "valid answer, where parse reads the bare answer as itself.",
        "probability", brief="sum of the policy's probabilities",
    ),
    Metric("mass_ref", "", ".1%", "The same of the reference.", "probability"),
    Metric(
        "kl_from_ref", "KL", ".3f",
        "KL(q || q_ref) in nats, q and q_ref the policy's and the reference's distributions over "
        "these answers: 0 where the reference's ratios are kept.",
        "nats", brief="from the reference, over these answers",
    ),
    Metric(
        "top_share", "", ".1%", "Share of the likeliest of these answers in the policy.", "share",
    ),
)  # fmt: skip
"""Values of the exact distribution at each step; those with a label are displayed."""
EXACT = tuple(metric.key for metric in STEPS if metric.key != "ln_k")
"""Values of `STEPS` that are also measures at the last step, called exact_<key>."""

_ROWS = (
    Metric(
        "n_texts", "texts", ",.0f",
        "Texts that the measures of text were computed on: those that are not empty, or a random "
        f"{{max_texts}} of a run's. {_MEAN}",
        "texts", None, "text", lambda s: len(s.chosen), _TEXTS,
        brief="those that are not empty and were measured",
    ),
    Metric(
        "reward", "reward", ".3f", f"Mean raw reward {_LATE}. Null: not recorded.",
        "reward", "higher", "text",
        lambda s: None if REWARD not in s.texts or is_missing(r := s.texts[REWARD].mean()) else r,
        ("texts", "answers"), brief="mean raw reward",
    ),
    Metric(
        "tokens", "tokens", ".1f",
        "Mean number of tokens ({tokens}) of a text. Null: the texts are SMILES, of one word each, "
        "whose n-grams and embeddings are left out too.",
        "tokens", None, "text",
        lambda s: sum(map(len, s.tokens)) / len(s.tokens) if s.tokens and s.has_words else None,
        _TEXTS, brief="mean number of a text",
    ),
    Metric(
        "distinct_texts", "distinct", ".1%", "Different texts / texts.",
        "share", "higher", "text",
        lambda s: s.chosen[COMPLETION].nunique() / len(s.chosen) if len(s.chosen) else None,
        _TEXTS, brief="different texts / texts",
    ),
    Metric(
        "distinct", "dist-n", ".3f",
        "Mean of distinct_n over n = {sizes}. Null: one of them is null.",
        "share", "higher", "text", lambda s: _mean_over_n(c.share for c in s.ngrams.values()),
        _TEXTS, brief="distinct n-grams, mean over n", needs="ngrams",
    ),
    Metric(
        "ead", "EAD", ".3f", "Mean of ead_n over n = {sizes}. Null: one of them is null.",
        "share", "higher", "text",
        lambda s: _mean_over_n(c.adjusted(s.options.vocabulary) for c in s.ngrams.values()),
        _TEXTS, brief="the same, expectation-adjusted", needs="ngrams",
    ),
    Metric(
        "semantic_diversity", "semantic", ".3f",
        "Mean cosine distance over all pairs of texts, embedded by all-MiniLM-L6-v2. Null: fewer "
        "than 2 texts.",
        "distance", "higher", "text",
        lambda s: None if s.embedded is None else diversity.semantic_diversity(s.embedded), _TEXTS,
        brief="mean cosine distance of sentence embeddings", needs="embedding",
    ),
    Metric(
        "clusters", "clusters", ".1f",
        "Clusters of the embeddings: agglomerative, {linkage} linkage, joined up to a cosine "
        f"distance of {{cluster_distance:g}}. {_MEAN}",
        "clusters", "higher", "text",
        lambda s: None if s.clusters is None else len(s.clusters), _TEXTS,
        brief="of the embeddings", needs="embedding",
    ),
    Metric(
        "top_cluster_share", "top", ".1%", "Share of the texts that are in the largest cluster.",
        "share", "lower", "text",
        lambda s: None if s.clusters is None else s.clusters.max() / s.clusters.sum(), _TEXTS,
        brief="share of the largest cluster", needs="embedding",
    ),
    Metric(
        "text_vendi", "Vendi", ".1f",
        "Vendi score of the embeddings' cosines: the effective number of different texts.",
        "texts", "higher", "text",
        lambda s: None if (v := s.embedded) is None else diversity.vendi_score(v @ v.T), _TEXTS,
        brief="effective number of different texts", needs="embedding",
    ),
    Metric(
        "validity", "valid", ".1%", f"Share with a valid parsed answer {_LATE}. {_NOT_POOLED}",
        "share", "higher", "text",
        lambda s: sum(a is not None for a in s.answers) / len(s.answers) if s.answers else None,
        _ANSWERS, brief="share of samples with a valid answer", needs="answers",
    ),
    Metric(
        "distinct_answers", "answers", ".1f",
        f"Different valid answers {_LATE}. {_MEAN} {_NOT_POOLED}",
        "answers", "higher", "text", lambda s: len(s.shares), _ANSWERS,
        brief="different valid ones", needs="answers",
    ),
    Metric(
        "answer_entropy", "entropy", ".3f",
        f"Entropy in nats of the shares of the valid answers {_LATE}; biased down by about "
        f"(distinct - 1) / (2 x samples). {_MEAN} {_NOT_POOLED}",
        "nats", "higher", "text", lambda s: entropy_of(s.shares), _ANSWERS,
        brief="of the sampled valid answers, in nats", needs="answers",
    ),
    Metric(
        "effective_answers", "eff.", ".2f", f"exp of answer_entropy. {_MEAN} {_NOT_POOLED}",
        "answers", "higher", "text",
        lambda s: math.exp(entropy_of(s.shares) or 0) if s.shares else None, _ANSWERS,
        brief="exp of it, the effective number of answers", needs="answers",
    ),
    Metric(
        "answer_top_share", "top", ".1%",
        f"Share of the commonest valid answer. {_MEAN} {_NOT_POOLED}",
        "share", "lower", "text", lambda s: max(s.shares, default=None), _ANSWERS,
        brief="share of the commonest valid answer", needs="answers",
    ),
    *(
        replace(
            metric, key=f"exact_{metric.key}", meaning=f"{metric.meaning} {_EXACT}", scope="text",
            value=lambda s, key=f"exact_{metric.key}": s.exact.get(key),
            tables=_ANSWERS if metric.label else (), needs="exact",
        )
        for metric in STEPS
        if metric.key in EXACT
    ),
)  # fmt: skip
TEXT_METRICS: dict[str, Metric] = {metric.key: metric for metric in _ROWS}
IDENTITY: dict[str, tuple[pa.DataType, str]] = columns_of(f"""
run string: Name of the run or file.
method string: Method that the run belongs to. Null: to none.
seed int64: Seed of the run. Null for a file.
scope string: all: every text pooled, whatever its prompt; prompts: the mean over the prompts of the
  values of each; prompt: one prompt alone.
prompt string: The prompt, in rows of scope prompt; else null.
n_prompts int64: Prompts that the row is about.
n_samples int64: Samples {_LATE}, empty and invalid ones included.
""")
"""Columns that identify a row."""
STEPS_SCHEMA = described_schema(
    {key: IDENTITY[key] for key in ("run", "method", "seed")}
    | columns_of("""
prompt string: The prompt.
step int64: Optimiser step after which the probabilities were computed.
""")
    | {metric.key: (pa.float64(), metric.meaning) for metric in STEPS}
)
METHODS_SCHEMA = described_schema("""
method string: Name of the method.
scope string: all: over all texts pooled; prompts: the mean over the prompts.
metric string: Column of text_diversity.parquet.
n int64: Runs that have a value.
mean double: Mean over these runs.
sd double: Standard deviation over them, n - 1 in the denominator. Null: n = 1.
low double: Lowest value.
high double: Highest value.
""")


def text_metrics_of(options: TextOptions) -> list[Metric]:
    """Return the measures as columns, with those of each n-gram size after their means."""
    columns: list[Metric] = []
    for metric in TEXT_METRICS.values():
        columns.append(metric)
        hidden = replace(metric, label="", tables=(), brief="")
        for n in options.ngrams if metric.key == "ead" else ():
            share = f"Different {n}-grams / {n}-grams, over all texts together; tokens: {{tokens}}."
            adjusted = (
                f"Expectation-adjusted distinct {n}-grams (arXiv 2202.13587): different / (V (1 - "
                "((V - 1) / V)^total)), V = {vocabulary}; tokens: {tokens}."
            )
            for key, meaning, value in (
                ("distinct", share, lambda s, n=n: s.ngrams[n].share),
                ("ead", adjusted, lambda s, n=n: s.ngrams[n].adjusted(s.options.vocabulary)),
            ):
                columns.append(replace(hidden, key=f"{key}_{n}", meaning=meaning, value=value))
    return columns


def text_schema(options: TextOptions) -> pa.Schema:
    """Return the schema of `text_diversity.parquet`, with a description in every field."""
    settings = options.model_dump() | {"sizes": ", ".join(map(str, options.ngrams))}
    columns = {metric.key: metric.field for metric in text_metrics_of(options)}
    return described_schema({**IDENTITY, **columns}, **settings)


# ---- the rows


def text_rows(
    samples: TextSamples,
    measures: Collection[str],
    options: TextOptions,
    embed: Embed | None = None,
) -> list[dict[str, Any]]:
    """Evaluate one run or file: a row for all texts, the mean over the prompts, and each prompt.

    The measures cover the non-empty texts, or a random sample of `max_texts` in the same order.
    `embed` returns unit vectors for texts. SMILES have no n-grams, embeddings or tokens.
    """
    if samples.molecules:
        measures = [measure for measure in measures if measure not in OF_TEXT]
    texts = samples.texts
    chosen = texts[[bool(text.strip()) for text in texts[COMPLETION]]]
    chosen = chosen.iloc[[*sample(range(len(chosen)), options.max_texts, options.seed)]]
    vectors = None
    if "embedding" in measures and embed is not None:
        vectors = pd.Series(list(embed(chosen[COMPLETION].tolist())), index=chosen.index)
    exact: dict[str, dict[str, Any]] = {}  # by prompt, at the last recorded step
    if "answers" in measures and samples.exact is not None:
        steps = exact_entropies(samples.exact).drop_duplicates("prompt", keep="last")
        for last in steps.to_dict("records"):
            values = {f"exact_{n}": None if is_missing(last[n]) else last[n] for n in EXACT}
            exact[str(last[PROMPT])] = values
    metrics = text_metrics_of(options)
    has_words, has_answers = not samples.molecules, ANSWER in texts.columns
    prompts = list(dict.fromkeys(texts[PROMPT]))

    def row(scope: str, prompt: str | None) -> dict[str, Any]:
        """Make a row; only single prompts have measures of answers and exact values."""
        row_texts, measured, exact_values, n_prompts = texts, chosen, {}, len(prompts)
        kinds = {"", *measures} - {"answers"}
        if prompt is not None:
            row_texts, measured = texts[texts[PROMPT] == prompt], chosen[chosen[PROMPT] == prompt]
            exact_values, n_prompts = exact.get(prompt, {}), 1
            kinds |= {"exact", *({"answers"} & {*measures} if has_answers else ())}
        text_set = TextSet(row_texts, measured, options, vectors, has_words, exact_values)
        return {
            "run": samples.name,
            "method": samples.method,
            "seed": samples.seed,
            "scope": scope,
            "prompt": prompt,
            "n_prompts": n_prompts,
            "n_samples": len(row_texts),
            **{m.key: m.value(text_set) if m.needs in kinds else None for m in metrics},
        }

    single, whole = [row(ONE, prompt) for prompt in prompts], row(ALL, None)
    mean = whole | dict.fromkeys(metric.key for metric in metrics) | {"scope": PROMPTS}
    mean |= _means(single, [metric.key for metric in metrics])
    mean |= _means(list(exact.values()), [f"exact_{name}" for name in EXACT])
    return [whole, mean, *single]


def _means(rows: Rows, names: Sequence[str]) -> dict[str, float]:
    """Average each column over the rows that have a value."""
    values = {name: [row[name] for row in rows if not is_missing(row.get(name))] for name in names}
    return {name: float(np.mean(defined)) for name, defined in values.items() if defined}


def method_rows(rows: Rows, methods: Sequence[str], options: TextOptions) -> list[dict[str, Any]]:
    """Compute mean and spread over the runs of each method, for every measure with a value."""
    summary = []
    for method, scope, metric in product(methods, (ALL, PROMPTS), text_metrics_of(options)):
        column = [
            row[metric.key] for row in rows if (row["method"], row["scope"]) == (method, scope)
        ]
        values = [value for value in column if not is_missing(value)]
        if values:
            sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
            place = {"method": method, "scope": scope, "metric": metric.key, "n": len(values)}
            extremes = {"low": float(min(values)), "high": float(max(values))}
            summary.append({**place, "mean": float(np.mean(values)), "sd": sd, **extremes})
    return summary


def nested_text(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Nest the rows of one run: {all: {...}, prompts: {...}, prompt: {<prompt>: {...}}}."""
    summary: dict[str, Any] = {ONE: {}}
    for row in rows:
        plain = {name: value for name, value in row.items() if name not in ("run", "scope", ONE)}
        if row["scope"] == ONE:
            summary[ONE][row["prompt"]] = plain
        else:
            summary[row["scope"]] = plain
    return summary


# ---- tables for the terminal


def text_tables(rows: Rows, methods: Rows, settings: EvaluateTextConfig) -> Iterator[Table | str]:
    """Yield the tables of all texts, per prompt, of answers and of methods, and their legends.

    A line follows for each measure that is undefined for some runs, with the reason.
    """
    columns = {
        name: [metric for metric in TEXT_METRICS.values() if name in metric.tables]
        for name in ("texts", "answers")
    }
    has_text = not set(OF_TEXT).isdisjoint(settings.measures)
    whole = [row for row in rows if row["scope"] == ALL and has_text and row["tokens"] is not None]
    names = {row["run"] for row in whole}
    mean = [row for row in rows if row["scope"] == PROMPTS]
    several = [row for row in mean if row["n_prompts"] > 1 and row["run"] in names]
    answered = [row for row in mean if any(row[key] is not None for key in ("validity", "exact_k"))]
    for title, name, table_rows in (
        ("All texts", "texts", whole),
        ("Per prompt: the mean over the prompts", "texts", several),
        ("Answers, per prompt", "answers", answered),
    ):
        if table_rows:
            yield table(title, [RUN, *columns[name]], table_rows)
    for title, name, scope, run_rows in (
        ("Methods, all texts: ± sd", "texts", ALL, whole),
        ("Methods, answers: ± sd", "answers", PROMPTS, answered),
    ):
        names = {row["method"] for row in run_rows}
        means = [row for row in methods if row["scope"] == scope and row["method"] in names]
        if means:
            yield _method_table(title, means, columns[name])
    if whole:
        yield (
            f"Texts. {key_of(columns['texts'], [*whole, *several])} Measures of diversity depend "
            "on the number of texts: compare them at equal numbers."
        )
    if answered:
        yield f"Answers. {key_of(columns['answers'], answered)}"
    yield from _undefined(whole, answered, settings)


def _undefined(whole: Rows, answered: Rows, settings: EvaluateTextConfig) -> Iterator[str]:
    """Yield a line for each measure that is undefined for some runs, with the reason."""
    longest = max(settings.options.ngrams)
    sampled = [row for row in answered if row["validity"] is not None]
    recorded = [row for row in answered if row["exact_k"] is not None]
    too_short = (
        f"no text has {longest} tokens, which the longest of options.ngrams needs; "
        "text_diversity.parquet has the values for each n"
    )
    no_mass = "the policy assigns no probability to these answers"
    none_valid = "no sample has a valid answer"
    for measure, rows, key, labels, reason in (
        ("ngrams", whole, "distinct", "dist-n and EAD", too_short),
        ("embedding", whole, "semantic_diversity", "semantic", "at least 2 texts are needed"),
        ("answers", sampled, "answer_entropy", "entropy, eff. and top", none_valid),
        ("answers", recorded, "exact_entropy", "exact and KL", no_mass),
    ):
        runs = [str(row["run"]) for row in rows if row[key] is None]
        if measure in settings.measures and runs:
            yield f"{', '.join(runs)}: {labels} not defined: {reason}."


def _method_table(title: str, rows: Rows, columns: Iterable[Metric]) -> Table:
    """Make a table with a row per measure and a column per method, since mean ± sd is wide."""
    by_place = {(row["method"], row["metric"]): row for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = plain_table(title)
    lines.add_column("", overflow="fold", min_width=6)
    for name in methods:
        n = max(row["n"] for row in rows if row["method"] == name)
        lines.add_column(Text(f"{name}, n = {n}"), justify="right")
    for column in columns:
        values = [by_place.get((method, column.key)) for method in methods]
        if column.key != "n_texts" and any(values):
            how = str(column.how)
            cells = [
                cell(row and row["mean"], how)
                + (f" ± {cell(row['sd'], how)}" if row and row["sd"] is not None else "")
                for row in values
            ]
            lines.add_row(column.label, *cells)
    return lines
