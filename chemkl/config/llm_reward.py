"""Settings of rewards for text: a list of answers, a function, or a reward on the SMILES in it."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat, ValidationInfo
from pydantic import model_validator as model_check

from chemkl.config.base import Config
from chemkl.config.reward import RewardConfig
from chemkl.config.reward_source import RewardSource


def _readable(parse: str) -> str:
    """Accept strict, lenient, or a regular expression with one group."""
    if parse in ("strict", "lenient"):
        return parse
    try:
        pattern = re.compile(parse)
    except re.error as error:
        raise ValueError(
            f"{parse!r} is neither strict nor lenient, nor a regular expression ({error})"
        ) from None
    if pattern.groups != 1:
        raise ValueError(
            f"{parse!r}: strict, lenient, or a regular expression with one group, the answer; "
            f"this one has {pattern.groups} groups"
        )
    return parse


Parse = Annotated[str, AfterValidator(_readable)]
"""How the answer is read out of a completion. strict: the whole completion is the answer, and it
ends there; lenient: without white space, quotes and the punctuation . , : ; ! around it; anything
else: a regular expression with one group, the answer, which is looked for in the completion."""

Share = Annotated[float, Field(ge=0, le=1)]


class _TextReward(Config):
    """What all rewards for text have."""

    failed: FiniteFloat = 0.0
    """Reward of a completion without an answer, of one that was cut off, and of one that could not
    be scored; not above any other reward, or failing would be learnt. An answer must be paid more;
    a function that returns less ends the run."""


def as_answer(value: Any) -> Any:
    """Let a whole number stand for its digits, and refuse what no completion can be told by."""
    if isinstance(value, bool):
        word = str(value).lower()
        raise ValueError(  # noqa: TRY004 - pydantic makes its message of a ValueError
            f"{word} without quotes is a truth value, not text: quote it as the model should write "
            f'it, "{word}" or "{word.capitalize()}"'
        )
    if isinstance(value, float):
        raise ValueError(  # noqa: TRY004 - as above
            f"{value!r} is a number that can be written in several ways: quote it"
        )
    if value == "":
        raise ValueError("an empty completion is read as no answer: leave the empty answer out")
    return str(value) if isinstance(value, int) else value


class AnswersReward(_TextReward):
    """Some answers are valid, and all of them are paid the same."""

    kind: Literal["answers"]
    """Pays the valid answers."""
    valid: Annotated[list[Annotated[str, BeforeValidator(as_answer)]], Field(min_length=1)]
    """The valid answers, each once and not empty. Whole numbers may stand without quotes; quote
    true and false, and what begins with a zero: 007 without quotes is 7. Each must be what parse
    reads when it is the whole completion (where parse is a regular expression this is not
    checked)."""
    reward: FiniteFloat = 1.0
    """What each of them is paid, above failed."""
    parse: Parse = "strict"
    """How the answer is read out of a completion: strict, lenient or a regular expression. MARA
    makes sequences of tokens equally likely, not answers: with lenient "2" and "2." are two, and
    each cut of an answer into tokens is one of its own, under strict too (SmolLM2 can write January
    in 5 ways with up to 3 tokens). So the exact optimum is not uniform over answers that have
    unequal numbers of them; cuts other than the tokenizer's own are improbable, and hardly matter.
    What track records is the bare answer in the tokenizer's own cut alone."""

    @model_check(mode="after")
    def _differ(self) -> "AnswersReward":
        twice = sorted({each for each in self.valid if self.valid.count(each) > 1})
        if twice:
            raise ValueError(f"valid answers must differ, but {', '.join(twice)} stands twice")
        if not self.reward > self.failed:
            raise ValueError(f"reward = {self.reward:g} should be above failed = {self.failed:g}")
        return self


class FunctionReward(_TextReward):
    """A Python function of yours: (prompt, completion) -> float."""

    kind: Literal["function"]
    """Calls a function for each completion, once for each different one of a prompt."""
    function: str
    """Where it is: path/to/file.py:name (looked up beside the config file first), or
    package.module:name. Its code is run as soon as the config is checked. It is given the text of
    the prompt's last message (where the last message is an assistant's, that beginning of the
    completion; where two prompts end in the same message, all of it as the model reads it, through
    the template) and the completion without its end token. None, NaN and text (also "0.5") are
    failures, and so is an exception: the completion has the reward failed, and the trace says why.
    A number below failed ends the run."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """What it takes beside prompt and completion, by name; empty: its defaults."""
    parse: Parse = "strict"
    """How the answer is read out that the trace counts different ones by; the function is given the
    whole completion. A completion without an answer is not scored."""
    score_truncated: bool = False
    """Score completions that were cut off at max_new_tokens too, for free text of a fixed length.
    They count as complete everywhere: no reason is kept, truncated_rate is 0, and they can be hits
    and the anchor, with the log-probability of the beginning that was written (chemkl.llm.trl
    differs: there nothing cut off is a hit). false: they have failed."""
    most_failures: Share = Field(0.5, exclude=True)
    """A function that fails on more than this share of the completions, at least 100 (or on all of
    at least 20), ends the run with the reason. 0 to 1; 1: never. No part of the run's identity."""
    folder: Path | None = Field(None, exclude=True)
    """Where a relative path is looked up, before the working directory; null: the folder of the
    config file. No part of the run's identity."""

    @model_check(mode="before")
    @classmethod
    def _knows_its_folder(cls, given: Any, info: ValidationInfo) -> Any:
        folder = (info.context or {}).get("folder")
        if isinstance(given, dict) and folder is not None and given.get("folder") is None:
            return {**given, "folder": folder}
        return given


ONE_ORACLE = (
    "A name stands for one oracle in a run: its values fill one column and cost one call for each "
    "molecule. For two oracles take two names and put both into every reward; where one should not "
    "count, give it role: penalty and a transform that is 1 for all its values"
)
"""Why components of one name must agree, and what to do else."""


def _unlike_oracles(rewards: Sequence[RewardConfig]) -> Iterator[str]:
    """Say which components have one name and differ in kind or parameters; the names agree."""
    for number, own in enumerate(rewards):
        for first, part in zip(rewards[0].components, own.components, strict=True):
            before, here = (
                f"kind {each.kind} with {each.parameters or 'no parameters'}"
                for each in (first, part)
            )
            if (first.kind, first.parameters) != (part.kind, part.parameters):
                yield (
                    f"by_prompt: component {part.name} is of {before} in by_prompt.0, but of "
                    f"{here} in by_prompt.{number}"
                )


class SmilesReward(Config):
    """A reward on the molecule that a completion names."""

    kind: Literal["smiles"]
    """Scores the SMILES that is found in the completion; 0 where there is none."""
    reward: RewardSource | None = None
    """Components and aggregate as for `chemkl posttrain`, or the path of a file that holds them.
    Give reward or by_prompt."""
    by_prompt: Annotated[list[RewardSource], Field(min_length=1)] | None = None
    """A reward of its own for each prompt, in the order of the prompts: a molecule is paid by the
    prompt that it answers. All have components of the same names in the same order, and a name
    stands for the same kind with the same parameters in all of them: a molecule costs one oracle
    call, whatever the prompt. Transforms, roles, weights and aggregate may differ. Give reward or
    by_prompt."""
    parse: Parse = "lenient"
    """How the SMILES is read out of a completion: strict, lenient or a regular expression with one
    group, for example "SMILES: (\\\\S+)"."""

    @model_check(mode="after")
    def _one_or_one_each(self) -> "SmilesReward":
        if (self.reward is None) == (self.by_prompt is None):
            raise ValueError("give reward (one for all prompts) or by_prompt, one of the two")
        names = [[part.name for part in each.components] for each in self.by_prompt or ()]
        for number, own in enumerate(names):
            if own != names[0]:
                raise ValueError(
                    "by_prompt: all rewards need the same component names in the same order, each "
                    f"is a column of the trace; but by_prompt.0 has {', '.join(names[0])}, "
                    f"by_prompt.{number} {', '.join(own)}"
                )
        unlike = list(_unlike_oracles(self.by_prompt or ()))
        if unlike:
            raise ValueError(f"{'; '.join(unlike)}. {ONE_ORACLE}")
        return self

    @property
    def parts(self) -> list["SmilesReward"]:
        """The reward of each prompt, each in a config of its own; none: all have the same."""
        return [
            SmilesReward(kind="smiles", reward=each, parse=self.parse)
            for each in self.by_prompt or ()
        ]

    @property
    def failed(self) -> float:
        """Reward of what is no molecule."""
        return 0.0


TextRewardConfig = Annotated[
    AnswersReward | FunctionReward | SmilesReward, Field(discriminator="kind")
]
"""What a completion is paid."""
