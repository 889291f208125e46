"""What a completion is paid: for a valid answer, by a function of the user, or by its molecule."""

import inspect
import math
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from operator import call
from pathlib import Path
from typing import Any

import pandas as pd

from chemkl.chem.molecules import canonicalise
from chemkl.config import InputError
from chemkl.config.llm import (
    ONE_ORACLE,
    AnswersReward,
    FunctionReward,
    SmilesReward,
    TextRewardConfig,
)
from chemkl.display import short
from chemkl.llm.prompts import Completion, build_reader, misread
from chemkl.results.columns import RAW_PREFIX, SCORE_PREFIX
from chemkl.results.provenance import sha256_of
from chemkl.rewards import RewardModel
from chemkl.rewards.cache import reward_files
from chemkl.rewards.components.functions import CallError, UserFunction, load_function
from chemkl.rewards.model import LEAST_OF_ALL, Failures, Spread
from chemkl.rewards.registry import Failure
from chemkl.rewards.scoring import Failed, as_number

NO_ANSWER = "no answer in the completion"

_TYPES = dict.fromkeys(("smiles", "canonical_smiles", "reason", "scaffold", "answer"), object)


class Answers:
    """Pays the same for every valid answer, and an answer to a prompt once.

    Attributes:
        component_names: components that have columns of their own in the trace.
        bounds: the reward of a failure, which no other is below, and the highest there can be.
        files: files that decide the rewards, by role.
        failures: how often each component was asked, how often it failed, and why.
    """

    component_names: Sequence[str] = ()
    files: Mapping[str, Path] = {}
    _spread: Any = staticmethod(call)
    failures = Failures(())

    def __init__(self, config: AnswersReward | FunctionReward) -> None:
        if isinstance(config, AnswersReward):
            InputError.refuse(misread(config.valid, config.parse))
        self.bounds = config.bounds
        self._config: Any = config
        self._read = build_reader(config.parse)

    def score(self, completions: Sequence[Completion]) -> pd.DataFrame:
        """Score completions: a row for each, in order.

        Returns:
            Columns smiles, canonical_smiles, valid, reason, scaffold, answer (missing where there
            is no valid one), raw_<c> and score_<c> for each component, and reward.
        """
        paid = [(self._answer(one), *self._paid(one)) for one in completions]
        rows = pd.DataFrame(paid, columns=["answer", "reason", "reward"])
        valid = [answer is not None for answer, _, _ in paid]
        rows = rows.assign(smiles="", canonical_smiles=None, valid=valid, scaffold=None)
        raw = rows["reward"].where(rows["reason"].isna()).astype(float)
        for name in self.component_names:
            rows[RAW_PREFIX + name] = rows[SCORE_PREFIX + name] = raw
        return rows.astype({**_TYPES, "reward": float})

    def identify(self, completions: Sequence[Completion]) -> Sequence[Hashable | None]:
        """Say before scoring what is paid once: the prompt and the answer; None: nothing valid."""
        pairs = [(one.group, self._answer(one)) for one in completions]
        return [None if pair[1] is None else pair for pair in pairs]

    def identities(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """Say the same of rows that `score` gave, or of a trace."""
        pairs = zip(rows["group"], rows["answer"], strict=True)
        return [(int(group), text) if isinstance(text, str) else None for group, text in pairs]

    def spread_over(self, spread: Spread) -> None:
        """Have completions scored by several processes, which all ask for the same."""
        self._spread = spread

    def remember(self, rows: pd.DataFrame) -> None:
        """Take over what rows of a trace were paid; there is nothing to remember."""

    def close(self) -> None:
        """Give free what scoring holds; nothing can be scored any more."""

    def _answer(self, completion: Completion) -> str | None:
        """The valid answer in a completion; None: there is none."""
        answer = None if completion.cut else self._read(completion.text)
        return answer if answer in self._config.valid else None

    def _paid(self, completion: Completion) -> tuple[str | None, float]:
        """Why a completion is not paid, and what it is paid."""
        if self._answer(completion) is not None:
            return None, self._config.reward
        wrong = self._read(completion.text)
        reason = NO_ANSWER if wrong is None else f"{wrong!r} is not a valid answer"
        return completion.cut or reason, self._config.failed


class PaidByFunction(Answers):
    """Asks a function of the user, once about each different completion of a prompt."""

    def __init__(self, config: FunctionReward) -> None:
        super().__init__(config)
        self._function, self._parameters = _load(config)
        place, _, name = self._function.reference.rpartition(":")
        self._name = name.rpartition(".")[2]
        self.component_names = [self._name]
        self.files = {"reward": Path(place)} if Path(place).suffix == ".py" else {}
        self._scores: dict[tuple[int, str], float | Failure] = {}
        """What the function gave to a completion of a prompt."""
        words = ("completions", "reward function")
        self.failures = Failures([self._name], config.most_failures, *words)
        self._n_scored = 0

    def score(self, completions: Sequence[Completion]) -> pd.DataFrame:
        """Score completions; the function must not fail too often, or give less than a failure."""
        asked = [one for one in completions if self._answer(one) is not None]
        by_key = {(one.group, one.text): one for one in asked}
        new = [one for key, one in by_key.items() if key not in self._scores]
        for one, score in zip(new, self._spread(self._ask, new), strict=True):
            self._keep((one.group, one.text), score)
        rows = super().score(completions)
        self.failures.check()
        reasons = [score.reason for score in self._scores.values() if isinstance(score, Failure)]
        # nothing was ever paid, however few different completions there are
        if self._n_scored >= LEAST_OF_ALL and len(reasons) == len(self._scores):
            raise InputError(
                f"reward function {self._name} failed on all {self._n_scored} completions so far, "
                f"{len(reasons)} different ones: {reasons[0]}. Mend the function."
            )
        return rows

    def remember(self, rows: pd.DataFrame) -> None:
        """Take over what rows of a trace were paid, or why they failed."""
        valid = rows[rows["valid"].astype(bool)]
        raw = valid[RAW_PREFIX + self._name]
        columns = (valid["group"], valid["completion"], raw, valid["reason"])
        for group, text, value, reason in zip(*columns, strict=True):
            if (int(group), text) not in self._scores:
                failure = Failure(str(reason).removeprefix(f"{self._name} failed: "))
                self._keep((int(group), text), failure if math.isnan(value) else float(value))

    def _answer(self, completion: Completion) -> str | None:
        is_whole = completion.cut is None or self._config.score_truncated
        return self._read(completion.text) if is_whole else None

    def _paid(self, completion: Completion) -> tuple[str | None, float]:
        failed = self._config.failed
        if self._answer(completion) is None:
            return (None if self._config.score_truncated else completion.cut) or NO_ANSWER, failed
        self._n_scored += 1
        score = self._scores[completion.group, completion.text]
        if isinstance(score, Failure):
            return f"{self._name} failed: {score.reason}", failed
        if score < failed:  # it would learn to fail: never to come to an end, for example
            raise InputError(
                f"reward function {self._name} gave {score:g} to {short(completion.text)!r}, less "
                f"than failed = {failed:g}, which is what a completion gets that is cut off, has "
                "no answer or cannot be scored: the model would learn to fail. Set reward.failed "
                f"to the lowest value of the function or below, or let it return {failed:g} or "
                "more; then begin anew with --fresh."
            )
        return None, score

    def _ask(self, completions: Sequence[Completion]) -> list[float | Failure]:
        scores: list[float | Failure] = []
        for one in completions:
            try:
                given = self._function(one.prompt, one.text, **self._parameters)
                scores.append(as_number(given))
            except CallError as error:
                scores.append(Failure(str(error)))
        return scores

    def _keep(self, key: tuple[int, str], score: float | Failure) -> None:
        self._scores[key] = score
        failed = [Failed(self._name, score.reason)] if isinstance(score, Failure) else []
        self.failures.add([self._name], failed)


def _load(config: FunctionReward) -> tuple[UserFunction, dict[str, Any]]:
    """Load the function, and its parameters in the annotated types."""
    place = "reward.function: "
    try:
        function = load_function(config.function, config.folder)
        with suppress(ValueError):  # compiled: it says itself what it dislikes, at each completion
            inspect.signature(function.function).bind_partial("", "")
        place = "reward."
        given = ("the prompt", "the completion")
        return function, function.checked(config.parameters, given=given)
    except (InputError, TypeError) as error:
        lines = str(error).splitlines()
        if isinstance(error, TypeError):
            lines = [
                f"{config.function} takes a prompt and a completion as its first two arguments, or "
                "should: def score(prompt: str, completion: str) -> float"
            ]
        raise InputError("\n".join(place + line for line in lines)) from error


class PaidByMolecule:
    """Scores the molecule that a completion names, by one reward or by that of its prompt.

    A molecule costs one oracle call in the run, whatever the prompts that it answers: components of
    one name are the same oracle in all rewards, in kind, parameters and the files that these name,
    so that a molecule has the same raw values and only what is made of them differs. Each reward
    has a memory of its own, so that they are computed once for each prompt that a molecule answers.
    """

    def __init__(self, config: SmilesReward) -> None:
        self.bounds = config.bounds
        self._read = build_reader(config.parse)
        self._rewards: list[RewardModel] = []
        configs: Sequence[Any] = config.by_prompt or [config.reward]
        problems = []
        for number, one in enumerate(configs):
            try:
                self._rewards.append(RewardModel.from_config(one))
            except InputError as error:
                place = f"by_prompt.{number}: " if config.by_prompt else ""
                problems += [place + line for line in str(error).splitlines()]
        files = [reward_files(one) for one in configs]
        compared = files if len(files) > 1 and not problems else []
        content: dict[Path | None, str] = {
            path: sha256_of(path) for some in compared for path in some.values()
        }
        # a relative path may mean other content in the folder of another reward
        problems = problems or [
            f"by_prompt.{number}: {role} is {some.get(role, 'no file')}, but in by_prompt.0 "
            f"{files[0].get(role, 'no file')}, which has other content. {ONE_ORACLE}."
            for number, some in enumerate(files)
            for role in sorted(files[0].keys() | some.keys())
            if content.get(some.get(role)) != content.get(files[0].get(role))
        ]
        if problems:
            self.close()
        InputError.refuse(problems)
        self.component_names = self._rewards[0].component_names
        self.files = {
            f"prompt {number}: {role}" if config.by_prompt else role: path
            for number, some in enumerate(files)
            for role, path in some.items()
        }

    @property
    def failures(self) -> Failures:
        """By component, over all prompts: how many molecules it was asked about, and failed on."""
        total = Failures(self.component_names)
        for name, count in (item for reward in self._rewards for item in reward.failures.items()):
            total[name].attempts += count.attempts
            total[name].failed += count.failed
            total[name].reasons += count.reasons
        return total

    def score(self, completions: Sequence[Completion]) -> pd.DataFrame:
        """Score completions."""
        smiles = [self._smiles(one) for one in completions]
        frames = []
        for number, reward in enumerate(self._rewards):
            mine = [i for i, one in enumerate(completions) if self._place(one.group) == number]
            index = [i for i in mine if smiles[i] is not None]
            if mine or not completions:
                scored = reward.score([text for i in index if (text := smiles[i]) is not None])
                frames.append(scored.set_axis(index).reindex(mine))
        rows = pd.concat(frames).sort_index()
        for i, one in enumerate(completions):
            if smiles[i] is None:
                rows.loc[i, "reason"] = one.cut or "no SMILES in the completion"
        rows["smiles"] = rows["smiles"].fillna("")
        rows["valid"] = rows["valid"].eq(other=True)
        rows["answer"] = rows["smiles"].where(rows["valid"], None)
        return rows.assign(reward=rows["reward"].fillna(RewardModel.FAILED))

    def identify(self, completions: Sequence[Completion]) -> Sequence[Hashable | None]:
        """The canonical SMILES."""
        return [
            None if text is None else canonicalise(text, max_atoms=reward.config.max_atoms)
            for one in completions
            for text, reward in [(self._smiles(one), self._rewards[self._place(one.group)])]
        ]

    def identities(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """The canonical SMILES."""
        return [text if isinstance(text, str) else None for text in rows["canonical_smiles"]]

    def spread_over(self, spread: Spread) -> None:
        """Have molecules scored by several processes, which all ask for the same."""
        for reward in self._rewards:
            reward.spread_over(spread)

    def remember(self, rows: pd.DataFrame) -> None:
        """Take over the values of rows of a trace."""
        for number, reward in enumerate(self._rewards):
            reward.remember(rows[rows["group"].map(self._place) == number])

    def close(self) -> None:
        """End worker processes and leave the caches."""
        for reward in self._rewards:
            reward.close()

    def _place(self, group: int) -> int:
        """Which reward is that of a prompt."""
        return min(int(group), len(self._rewards) - 1)

    def _smiles(self, completion: Completion) -> str | None:
        return None if completion.cut else self._read(completion.text)


TextReward = Answers | PaidByMolecule


def build_reward(config: TextRewardConfig) -> TextReward:
    """Build the reward of a config.

    Raises:
        InputError: with every problem of the answers, the function, or the reward's components.
    """
    if isinstance(config, AnswersReward):
        return Answers(config)
    return PaidByFunction(config) if isinstance(config, FunctionReward) else PaidByMolecule(config)
