"""The ledger of a language model's run, and the exact probabilities of tracked answers."""

import math
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from lightning import Callback, Trainer

from chemkl.llm.policy import HfPolicy
from chemkl.llm.prompts import Completion, Prompt
from chemkl.llm.rewards import TextReward
from chemkl.policies.base import Rollout, SequenceModel
from chemkl.results.atomic import write_parquet
from chemkl.results.columns import described_schema, is_truncated, truncation_reason
from chemkl.results.trace import read_part
from chemkl.training.filters import DiversityFilter
from chemkl.training.ledger import BaseLedger

CUT_OFF_LIMIT = 0.1
"""A run reports its truncated completions if their share is above this."""


class TextLedger(BaseLedger):
    """Turns completions into rows; an answer to a prompt, or a canonical SMILES, costs one call."""

    def __init__(
        self,
        reward: TextReward,
        prompts: Sequence[Prompt],
        diversity_filter: DiversityFilter,
        budget: float = math.inf,
    ) -> None:
        super().__init__(diversity_filter, budget)
        self._reward = reward
        self._prompts = prompts

    def identify(self, rollout: Rollout) -> Sequence[Hashable | None]:
        """The answer with its prompt, or the canonical SMILES."""
        return self._reward.identify(self._completions(rollout))

    def identities(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """The same, of scored rows."""
        return self._reward.identities(rows)

    def score(self, rollout: Rollout) -> pd.DataFrame:
        """Score completions, one row each."""
        completions = self._completions(rollout)
        texts = [(row.group, row.prompt, row.text) for row in completions]
        rows = pd.DataFrame(texts, columns=["group", "prompt", "completion"])
        return rows.join(self._reward.score(completions))

    def remember(self, rows: pd.DataFrame) -> None:
        """Read back the rewards of scored rows, so that they are not computed again."""
        self._reward.remember(rows)

    def _completions(self, rollout: Rollout) -> list[Completion]:
        assert rollout.group is not None  # a language model's rollout has prompt numbers
        columns = (rollout.group, rollout.truncated, rollout.n_tokens)
        rows = zip(rollout.smiles, *(values.tolist() for values in columns), strict=True)
        return [
            Completion(
                group,
                self._prompts[group].text,
                text.encode(errors="backslashreplace").decode(),
                truncation_reason(n) if truncated else None,
            )
            for text, group, truncated, n in rows
        ]


def describe_cut_off(reasons: Sequence[str | None], max_new_tokens: int) -> list[str]:
    """Report the completions that were cut off at max_new_tokens, if there are many."""
    n, total = sum(map(is_truncated, reasons)), len(reasons)
    if n <= CUT_OFF_LIMIT * total:
        return []
    return [
        f"{n:,} of {total:,} completions were cut off, with no end after max_new_tokens = "
        f"{max_new_tokens:,}, and have failed: raise it, or ask for less in the prompt"
    ]


ANSWERS_FILE = "answers.parquet"

SCHEMA = described_schema(
    {
        "step": (pa.int32(), "Updates that the policy had had by then."),
        "group": (pa.int32(), "Number of the prompt, from 0."),
        "prompt": (pa.string(), "The prompt, as in the trace."),
        "answer": (pa.string(), "The answer: the whole completion, up to its end token."),
        "logp_policy": (
            pa.float64(),
            "log pi_theta of the answer given the prompt, cut into tokens as the tokenizer does it,"
            " in nats, end token included. Other cuts are not in it, nor other completions that "
            "parse reads as the same answer.",
        ),
        "logp_ref": (pa.float64(), "log pi_ref (the model before training) of the same, in nats."),
    }
)


class AnswerTracker(Callback):
    """Writes the log-probabilities of some answers, every so many steps and at the end.

    An answer is a whole completion, tokenised by the tokenizer, and is evaluated in the precision
    of the run, as the samples are: the reference remembers the values, and returns them in the
    steps that follow.
    """

    def __init__(
        self, out: Path, policy: HfPolicy, reference: SequenceModel, answers: list[str], every: int
    ) -> None:
        self._path = out / ANSWERS_FILE
        self._models = (policy, reference)
        self._answers, self._every = answers, every
        self._rows: list[dict[str, Any]] = []

    def on_train_start(self, _trainer: Trainer, module: Any) -> None:
        """Keep the rows of an interrupted run before the step at which it continues."""
        if self._path.exists():
            rows: pd.DataFrame = read_part(self._path).to_pandas()
            rows = rows[rows["step"] < module.next_step]
            self._rows = pa.Table.from_pandas(rows, SCHEMA, preserve_index=False).to_pylist()

    def on_train_batch_start(self, trainer: Trainer, module: Any, _batch: Any, _i: int) -> None:
        """Record the answers before every n-th step."""
        if module.next_step % self._every == 0:
            self.on_train_end(trainer, module)

    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        """Record the answers."""
        for prompt in self._models[0].prompts:
            token_BT = self._models[0].encode(self._answers, prompt.number)
            with trainer.precision_plugin.forward_context():  # leaving it empties autocast's cache
                logps = [model.logp_tokens(token_BT).tolist() for model in self._models]
            for row in zip(self._answers, *logps, strict=True):
                values = (module.next_step, prompt.number, prompt.text, *row)
                self._rows.append(dict(zip(SCHEMA.names, values, strict=True)))
        write_parquet(self._path, pa.Table.from_pylist(self._rows, schema=SCHEMA))
