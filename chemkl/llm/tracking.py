"""The exact distribution over some answers during a run, in answers.parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from lightning import Callback, LightningModule, Trainer

from chemkl.llm.policy import HfPolicy
from chemkl.policies.base import SequenceModel
from chemkl.results.atomic import write_parquet
from chemkl.results.columns import described_schema
from chemkl.results.trace import read_part
from chemkl.training.posttrain import Posttrain

FILE = "answers.parquet"

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
        "logp_ref": (
            pa.float64(),
            "log pi_ref (the model before training) of the same, in nats.",
        ),
    }
)


class AnswerTracker(Callback):
    """Asks both models for the probabilities of some answers, every so many steps and at the end.

    An answer is asked for alone, as the whole completion, in the tokenizer's own cut: other cuts
    that read alike are not counted, nor what a lenient parse reads as the same ("1." as 1).

    They are computed in the precision of the run, as those of the samples are: what the reference
    is asked here it remembers, and gives in the steps that follow.

    Args:
        out: folder of the run.
        policy: what is trained.
        reference: what it was.
        answers: whole completions.
        every: steps between two looks.
    """

    def __init__(
        self,
        out: Path,
        policy: HfPolicy,
        reference: SequenceModel,
        answers: Sequence[str],
        every: int,
    ) -> None:
        self._path = out / FILE
        self._policy = policy
        self._reference = reference
        self._answers = list(answers)
        self._every = every
        self._rows: list[dict[str, Any]] = []

    def on_train_start(self, _trainer: Trainer, module: LightningModule) -> None:
        """Keep what an interrupted run has seen up to where it goes on."""
        if self._path.exists():
            seen: pd.DataFrame = read_part(self._path).to_pandas()
            kept = seen[seen["step"] < _next_step(module)]
            self._rows = pa.Table.from_pandas(kept, SCHEMA, preserve_index=False).to_pylist()

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, _batch: Any, _i: int
    ) -> None:
        """Look when it is time, before the step is made."""
        if _next_step(module) % self._every == 0:
            self._look(trainer, _next_step(module))

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Look a last time."""
        self._look(trainer, _next_step(module))

    @torch.no_grad()
    def _look(self, trainer: Trainer, step: int) -> None:
        for prompt in self._policy.prompts:
            token_BT = self._policy.encode(self._answers, prompt.number)
            with (
                trainer.precision_plugin.forward_context()
            ):  # autocast; leaving it empties its cache
                both = (
                    self._policy.logp_tokens(token_BT).tolist(),
                    self._reference.logp_tokens(token_BT).tolist(),
                )
            for answer, logp_policy, logp_ref in zip(self._answers, *both, strict=True):
                row = [step, prompt.number, prompt.text, answer, logp_policy, logp_ref]
                self._rows.append(dict(zip(SCHEMA.names, row, strict=True)))
        write_parquet(self._path, pa.Table.from_pylist(self._rows, schema=SCHEMA))


def _next_step(module: LightningModule) -> int:
    assert isinstance(module, Posttrain)  # the stage trains nothing else
    return module.next_step
