"""Looking into the trace of a language model that names no molecules: counts and answers."""

from dataclasses import dataclass

import pandas as pd

from chemkl.results.columns import is_cut_off
from chemkl.results.inspection import first_scorings, sampled_rows


@dataclass(frozen=True)
class TextCounts:
    """How much a run wrote, scored and found; rows from a replay buffer are left out.

    Attributes:
        completions: sampled.
        prompts: that they answer.
        valid: those of them with a valid answer, repeats included.
        truncated: those that failed because they had no end.
        distinct: distinct answers, each counted for every prompt that it answers.
        calls: oracle calls spent.
        failed: valid ones that could not be scored.
        hits: distinct answers whose first scoring gave R >= threshold; None without a threshold.
        hit_completions: completions with R >= threshold; None without a threshold.
        best: the largest raw reward R of a valid completion; None without one.
    """

    completions: int
    prompts: int
    valid: int
    truncated: int
    distinct: int
    calls: int
    failed: int
    hits: int | None
    hit_completions: int | None
    best: float | None


def count_text(frame: pd.DataFrame, threshold: float | None = None) -> TextCounts:
    """Count what the trace of a language model holds.

    Args:
        frame: as `read_trace` gives it.
        threshold: answers with a raw reward R of at least this are hits.
    """
    sampled = sampled_rows(frame)
    valid = sampled[sampled["valid"].astype(bool)]
    scored = first_scorings(frame)
    above = None if threshold is None else valid["reward"] >= threshold
    return TextCounts(
        completions=len(sampled),
        prompts=sampled["group"].nunique(),
        valid=len(valid),
        truncated=sum(map(is_cut_off, sampled["reason"])),
        distinct=len(valid[["group", "answer"]].drop_duplicates()),
        calls=len(scored),
        failed=int(valid["reason"].notna().sum()),
        hits=None if threshold is None else len(first_scorings(frame, threshold)),
        hit_completions=None if above is None else int(above.sum()),
        best=float(valid["reward"].max()) if len(valid) else None,
    )


def frequent_answers(frame: pd.DataFrame, top: int) -> pd.DataFrame:
    """Find what was answered most often to each prompt.

    Completions with the same valid answer are one; of the others the whole completion stands.

    Args:
        frame: as `read_trace` gives it.
        top: how many for each prompt.

    Returns:
        Columns group, prompt, text, valid, n, share (of the prompt's completions) and mean_reward
        (of these n); prompts by number, the most frequent text first, at equal n the earlier one.
    """
    sampled = sampled_rows(frame)
    rows = pd.DataFrame(
        {
            "group": sampled["group"],
            "prompt": sampled["prompt"],
            "text": sampled["answer"].fillna(sampled["completion"]),
            "valid": sampled["answer"].notna(),
            "reward": sampled["reward"],
        }
    )
    by_text = rows.groupby(["group", "prompt", "text", "valid"], sort=False)["reward"]
    found = by_text.agg(n="size", mean_reward="mean").reset_index()
    found["share"] = found["n"] / found.groupby("group")["n"].transform("sum")
    found = found.sort_values(
        ["group", "n"], ascending=[True, False], kind="stable", ignore_index=True
    )
    return found.groupby("group").head(top).reset_index(drop=True)
