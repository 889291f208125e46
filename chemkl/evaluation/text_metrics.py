"""The rows of the tables of text measures: of one run, over its prompts, and of methods."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from chemkl.config.evaluate import TextOptions
from chemkl.display import is_missing
from chemkl.evaluation.text_answers import exact_entropies, sampled_answers
from chemkl.evaluation.text_columns import EXACT_FINAL, IDENTITY, text_schema
from chemkl.evaluation.text_diversity import (
    NgramCounts,
    semantic_diversity,
    text_clusters,
    text_vendi,
    tokens_of,
)
from chemkl.evaluation.text_samples import (
    ANSWER,
    COMPLETION,
    PROMPT,
    REWARD,
    TextSamples,
    chosen_texts,
    prompts_of,
)

ALL, PROMPTS, ONE = "all", "prompts", "prompt"
OF_TEXT = ("ngrams", "embedding")
"""Measures of the words of a text, which a SMILES does not have."""
Embed = Callable[[Sequence[str]], Sequence[np.ndarray] | np.ndarray]


def text_rows(
    samples: TextSamples,
    measures: Collection[str],
    options: TextOptions,
    embed: Embed | None = None,
) -> list[dict[str, Any]]:
    """Evaluate one run or file.

    Args:
        samples: its texts.
        measures: ngrams, embedding, answers.
        options: how.
        embed: texts to rows of length 1; needed for embedding.

    Returns:
        A row for all texts, one for the mean over the prompts, and one for each prompt; None where
        a value is not defined. Of molecules neither n-grams nor embeddings nor tokens are measured.
    """
    if samples.molecules:
        measures = [each for each in measures if each not in OF_TEXT]
    texts, chosen = samples.texts, chosen_texts(samples.texts, options.max_texts, options.seed)
    vectors = None
    if "embedding" in measures and embed is not None:
        vectors = pd.Series(list(embed(chosen[COMPLETION].tolist())), index=chosen.index)
    prompts = prompts_of(texts)
    who = {"run": samples.name, "method": samples.method, "seed": samples.seed}
    exact = _final(samples.exact) if "answers" in measures else {}
    describe = _Describer(measures, options, vectors, has_words=not samples.molecules)
    single = []
    for prompt in prompts:
        own = texts[texts[PROMPT] == prompt]
        about = {**who, "scope": ONE, "prompt": prompt, "n_prompts": 1}
        measured = {**describe(own, chosen[chosen[PROMPT] == prompt]), **describe.answers(own)}
        single.append({**about, **measured, **exact.get(prompt, {})})
    whole = {**who, "scope": ALL, "n_prompts": len(prompts), **describe(texts, chosen)}
    columns = text_schema(options).names
    mean = {
        **who,
        "scope": PROMPTS,
        "n_prompts": len(prompts),
        "n_samples": len(texts),
        **_means(single, [name for name in columns if name not in IDENTITY]),
        **_means(list(exact.values()), list(EXACT_FINAL.values())),
    }
    empty = dict.fromkeys(columns)
    return [{**empty, **row} for row in (whole, mean, *single)]


def method_rows(
    rows: Iterable[dict[str, Any]], methods: Sequence[str], options: TextOptions
) -> list[dict[str, Any]]:
    """Mean and spread over the runs of each method, for every measure that has a value."""
    table = [row for row in rows if row["scope"] != ONE]
    measured = [name for name in text_schema(options).names if name not in IDENTITY]
    found = []
    for method in methods:
        for scope in (ALL, PROMPTS):
            own = [row for row in table if row["method"] == method and row["scope"] == scope]
            for metric in measured:
                values = [row[metric] for row in own if not is_missing(row[metric])]
                if values:
                    found.append({"method": method, "scope": scope, "metric": metric})
                    found[-1] |= _spread(values)
    return found


def nested_text(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The rows of one run for JSON: {all: {...}, prompts: {...}, prompt: {<prompt>: {...}}}."""
    summary: dict[str, Any] = {ONE: {}}
    for row in rows:
        plain = {name: value for name, value in row.items() if name not in ("run", "scope", ONE)}
        if row["scope"] == ONE:
            summary[ONE][row["prompt"]] = plain
        else:
            summary[row["scope"]] = plain
    return summary


class _Describer:
    """Computes the measures of a set of texts; the vectors of all texts are at hand."""

    def __init__(
        self,
        measures: Collection[str],
        options: TextOptions,
        vectors: pd.Series | None,
        *,
        has_words: bool,
    ) -> None:
        self.measures, self.options, self.vectors = measures, options, vectors
        self.has_words = has_words

    def __call__(self, texts: pd.DataFrame, chosen: pd.DataFrame) -> dict[str, Any]:
        completions = chosen[COMPLETION].tolist()
        tokens = [tokens_of(text, self.options.tokens) for text in completions]
        reward = texts[REWARD].mean() if REWARD in texts.columns else None
        return {
            "n_samples": len(texts),
            "n_texts": len(completions),
            "reward": None if is_missing(reward) else reward,
            "tokens": sum(map(len, tokens)) / len(tokens) if tokens and self.has_words else None,
            "distinct_texts": len(set(completions)) / len(completions) if completions else None,
            **(self._ngrams(tokens) if "ngrams" in self.measures else {}),
            **self._embedded(chosen),
        }

    def answers(self, texts: pd.DataFrame) -> dict[str, Any]:
        """Statistics of the sampled answers of one prompt, where answers are parsed."""
        if "answers" not in self.measures or ANSWER not in texts.columns:
            return {}
        return sampled_answers(texts[ANSWER].tolist())

    def _ngrams(self, tokens: Sequence[Sequence[str]]) -> dict[str, Any]:
        values: dict[str, float | None] = {}
        for n in self.options.ngrams:
            counts = NgramCounts.of(tokens, n)
            values[f"distinct_{n}"] = counts.share
            values[f"ead_{n}"] = counts.adjusted(self.options.vocabulary)
        for name in ("distinct", "ead"):
            each = [values[f"{name}_{n}"] for n in self.options.ngrams]
            known = [value for value in each if value is not None]
            values[name] = sum(known) / len(known) if len(known) == len(each) else None
        return values

    def _embedded(self, chosen: pd.DataFrame) -> dict[str, Any]:
        if self.vectors is None or chosen.empty:
            return {}
        vectors = np.stack(self.vectors[chosen.index].tolist())
        numbers = text_clusters(vectors, self.options.cluster_distance, self.options.linkage)
        return {
            "semantic_diversity": semantic_diversity(vectors),
            "clusters": len(set(numbers)),
            "top_cluster_share": np.bincount(numbers).max() / len(numbers),
            "text_vendi": text_vendi(vectors),
        }


def _final(exact: pd.DataFrame | None) -> dict[str, dict[str, Any]]:
    """For each prompt the exact values at its last recorded step."""
    if exact is None:
        return {}
    steps = exact_entropies(exact).drop_duplicates("prompt", keep="last")
    return {
        str(row[PROMPT]): {
            final: None if is_missing(row[name]) else row[name]
            for name, final in EXACT_FINAL.items()
        }
        for row in steps.to_dict("records")
    }


def _means(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """The mean of each column over the rows that have a value."""
    values = {name: [row[name] for row in rows if not is_missing(row.get(name))] for name in names}
    return {name: float(np.mean(found)) for name, found in values.items() if found}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "n": len(values),
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "low": float(min(values)),
        "high": float(max(values)),
    }
