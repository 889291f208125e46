"""What a completion is paid: for a valid answer, by a function of the user, or by its molecule."""

import inspect
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
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
from chemkl.llm.answers import Completion, build_reader, misread
from chemkl.results.columns import RAW_PREFIX, SCORE_PREFIX
from chemkl.results.provenance import sha256_of
from chemkl.rewards import RewardModel
from chemkl.rewards.cache import reward_files
from chemkl.rewards.components.functions import CallError, UserFunction, load_function
from chemkl.rewards.model import LEAST_OF_ALL, FailureCount, Failures
from chemkl.rewards.registry import Failure
from chemkl.rewards.scoring import Failed, as_number

NO_ANSWER = "no answer in the completion"
REWARD_FUNCTION = "reward function"
"""What fails where a function of the user does."""
_SHOWN = 60
"""Characters of a completion that an error shows."""

_TYPES = dict.fromkeys(("smiles", "canonical_smiles", "reason", "scaffold", "answer"), object)


class TextReward(ABC):
    """Pays completions.

    Attributes:
        component_names: components that have columns of their own in the trace.
        bounds: the reward of a failure, which no other is below, and the highest there can be.
        files: files that decide the rewards, by role.
    """

    component_names: list[str]
    bounds: tuple[float, float]
    files: Mapping[str, Path]

    @property
    def failures(self) -> Mapping[str, FailureCount]:
        """How often each component was asked, how often it failed, and why."""
        return {}

    @abstractmethod
    def score(self, completions: Sequence[Completion]) -> pd.DataFrame:
        """Score completions: a row for each, in order.

        Returns:
            Columns smiles, canonical_smiles, valid, reason, scaffold, answer (missing where there
            is no valid one), raw_<c> and score_<c> for each component, and reward.

        Raises:
            InputError: the reward cannot be used: it fails too often, for example.
        """

    @abstractmethod
    def identify(self, completions: Sequence[Completion]) -> Sequence[Hashable | None]:
        """Say before scoring what is paid once; None: nothing valid."""

    @abstractmethod
    def identities(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """Say the same of rows that `score` gave, or of a trace."""

    def remember(self, rows: pd.DataFrame) -> None:  # noqa: B027 - most remember nothing
        """Take over what rows of a trace were paid."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give free what scoring holds; nothing can be scored any more."""


def build_reward(config: TextRewardConfig) -> TextReward:
    """Build the reward of a config.

    Raises:
        InputError: with every problem of the function, or of the reward's components.
    """
    if isinstance(config, AnswersReward):
        return Answers(config)
    if isinstance(config, FunctionReward):
        return PaidByFunction(config)
    return PaidByMolecule(config) if config.by_prompt is None else PaidByPrompt(config)


class _OfAnswers(TextReward):
    """Rewards without molecules: an answer to a prompt is paid once."""

    @abstractmethod
    def _answer(self, completion: Completion) -> str | None:
        """The valid answer in a completion; None: there is none."""

    def identify(self, completions: Sequence[Completion]) -> Sequence[Hashable | None]:
        """The prompt and the answer."""
        pairs = [(one.group, self._answer(one)) for one in completions]
        return [None if pair[1] is None else pair for pair in pairs]

    def identities(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """The prompt and the answer."""
        pairs = zip(rows["group"], rows["answer"], strict=True)
        return [(int(group), text) if isinstance(text, str) else None for group, text in pairs]

    def _rows(self, paid: Sequence[tuple[str | None, str | None, float]]) -> pd.DataFrame:
        """Rows of (valid answer, reason, reward)."""
        rows = pd.DataFrame(paid, columns=["answer", "reason", "reward"])
        valid = [answer is not None for answer, _, _ in paid]
        rows = rows.assign(smiles="", canonical_smiles=None, valid=valid, scaffold=None)
        return rows.astype({**_TYPES, "reward": float})


class Answers(_OfAnswers):
    """Pays the same for every valid answer.

    Raises:
        InputError: with a line for each valid answer that is read as another one.
    """

    def __init__(self, config: AnswersReward) -> None:
        InputError.refuse(misread(config.valid, config.parse))
        self.component_names = []
        self.files = {}
        self.bounds = (config.failed, config.reward)
        self._config = config
        self._read = build_reader(config.parse)
        self._valid = frozenset(config.valid)

    def score(self, completions: Sequence[Completion]) -> pd.DataFrame:
        """Score completions."""
        paid: list[tuple[str | None, str | None, float]] = []
        for completion in completions:
            answer = self._answer(completion)
            if answer is not None:
                paid.append((answer, None, self._config.reward))
                continue
            wrong = self._read(completion.text)
            reason = NO_ANSWER if wrong is None else f"{wrong!r} is not a valid answer"
            paid.append((None, completion.cut or reason, self._config.failed))
        return self._rows(paid)

    def _answer(self, completion: Completion) -> str | None:
        answer = None if completion.cut else self._read(completion.text)
        return answer if answer in self._valid else None


class PaidByFunction(_OfAnswers):
    """Asks a function of the user, once about each different completion of a prompt.

    Raises:
        InputError: the function is not there, or does not take what it is given.
    """

    def __init__(self, config: FunctionReward) -> None:
        self._function, self._parameters = _load(config)
        place, _, name = self._function.reference.rpartition(":")
        self._name = name.rpartition(".")[2]
        self.component_names = [self._name]
        self.bounds = (config.failed, math.inf)
        self.files = {"reward": Path(place)} if Path(place).suffix == ".py" else {}
        self._config = config
        self._read = build_reader(config.parse)
        self._scores: dict[tuple[int, str], float | str] = {}
        """What the function gave to a completion of a prompt: a number, or why there is none."""
        self._failures = Failures(
            self.component_names, config.most_failures, "completions", REWARD_FUNCTION
        )
        self._n_scored = 0

    @property
    def failures(self) -> Mapping[str, FailureCount]:
        """How often the function was asked, and how often it failed."""
        return self._failures.counts

    def score(self, completions: Sequence[Completion]) -> pd.DataFrame:
        """Score completions.

        Raises:
            InputError: the function failed on more of them than the config allows, or gave one
                less than a failure is paid.
        """
        paid: list[tuple[str | None, str | None, float]] = []
        raw = []
        for completion in completions:
            answer, reason, reward = self._answer(completion), None, self._config.failed
            if answer is None:
                cut = None if self._config.score_truncated else completion.cut
                reason = cut or NO_ANSWER
            else:
                self._n_scored += 1
                score = self._score_of(completion)
                if isinstance(score, str):
                    reason = score
                else:
                    self._check_not_below_failure(completion.text, score)
                    reward = score
            paid.append((answer, reason, reward))
            raw.append(reward if reason is None else math.nan)
        self._failures.check()
        self._check_any()
        columns = {prefix + self._name: raw for prefix in (RAW_PREFIX, SCORE_PREFIX)}
        return self._rows(paid).assign(**columns)

    def remember(self, rows: pd.DataFrame) -> None:
        """Take over what rows of a trace were paid, or why they failed."""
        valid = rows[rows["valid"].astype(bool)]
        raw = valid[RAW_PREFIX + self._name]
        columns = (valid["group"], valid["completion"], raw, valid["reason"])
        for group, text, value, reason in zip(*columns, strict=True):
            if (int(group), text) not in self._scores:
                self._keep((int(group), text), str(reason) if math.isnan(value) else float(value))

    def _answer(self, completion: Completion) -> str | None:
        is_whole = completion.cut is None or self._config.score_truncated
        return self._read(completion.text) if is_whole else None

    def _score_of(self, completion: Completion) -> float | str:
        key = completion.group, completion.text
        if key in self._scores:
            return self._scores[key]
        try:
            score = as_number(
                self._function(completion.prompt, completion.text, **self._parameters)
            )
        except CallError as error:
            score = Failure(str(error))
        if isinstance(score, Failure):
            self._keep(key, f"{self._name} failed: {score.reason}")
        else:
            self._keep(key, score)
        return self._scores[key]

    def _keep(self, key: tuple[int, str], score: float | str) -> None:
        self._scores[key] = score
        failed = [Failed(self._name, self._bare(score))] if isinstance(score, str) else []
        self._failures.add([self._name], failed)

    def _bare(self, reason: str) -> str:
        return reason.removeprefix(f"{self._name} failed: ")

    def _check_any(self) -> None:
        """End a run in which nothing was ever paid, however few different completions it has."""
        reasons = [score for score in self._scores.values() if isinstance(score, str)]
        if self._n_scored >= LEAST_OF_ALL and len(reasons) == len(self._scores):
            raise InputError(
                f"reward function {self._name} failed on all {self._n_scored} completions so far, "
                f"{len(reasons)} different ones: {self._bare(reasons[0])}. Mend the function."
            )

    def _check_not_below_failure(self, text: str, score: float) -> None:
        """End a run that would learn to fail: never to come to an end, for example."""
        failed = self._config.failed
        if score < failed:
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
            raise InputError(
                f"reward function {self._name} gave {score:g} to {shown!r}, less than "
                f"failed = {failed:g}, which is what a completion gets that is cut off, has no "
                "answer or cannot be scored: the model would learn to fail. Set reward.failed to "
                f"the lowest value of the function or below, or let it return {failed:g} or more; "
                "then begin anew with --fresh."
            )


def _load(config: FunctionReward) -> tuple[UserFunction, dict[str, Any]]:
    """Load the function, and its parameters in the annotated types.

    Raises:
        InputError: with a line for every problem, under the setting that it is about.
    """
    try:
        function = load_function(config.function, config.folder)
        try:
            inspect.signature(function.function).bind_partial("", "")
        except TypeError:
            raise InputError(
                f"{function} takes a prompt and a completion as its first two arguments, or "
                "should: def score(prompt: str, completion: str) -> float"
            ) from None
        except ValueError:  # compiled: it says itself what it dislikes, at each completion
            pass
    except InputError as error:
        raise InputError(f"reward.function: {error}") from error
    given = ("the prompt", "the completion")
    try:
        return function, function.checked(config.parameters, given=given)
    except InputError as error:
        lines = [f"reward.{line}" for line in str(error).splitlines()]
        raise InputError("\n".join(lines)) from error


class PaidByMolecule(TextReward):
    """Scores the molecule that a completion names.

    Raises:
        InputError: with a line for every problem of the components.
    """

    def __init__(self, config: SmilesReward) -> None:
        assert config.reward is not None  # else it is PaidByPrompt that is built
        self.bounds = (RewardModel.FAILED, RewardModel.MOST)
        self.files = reward_files(config.reward)
        self._reward = RewardModel.from_config(config.reward)
        self._read = build_reader(config.parse)
        self.component_names = self._reward.component_names

    @property
    def failures(self) -> Mapping[str, FailureCount]:
        """By component: how many molecules it was asked about, how many it failed on, and why."""
        return self._reward.failures

    def score(self, completions: Sequence[Completion]) -> pd.DataFrame:
        """Score completions."""
        smiles = [self._smiles(one) for one in completions]
        index = [i for i, text in enumerate(smiles) if text is not None]
        scored = self._reward.score([text for text in smiles if text is not None])
        rows = scored.set_axis(index).reindex(range(len(completions)))
        for i, one in enumerate(completions):
            if smiles[i] is None:
                rows.loc[i, "reason"] = one.cut or "no SMILES in the completion"
        rows["smiles"] = rows["smiles"].fillna("")
        rows["valid"] = rows["valid"].eq(other=True)
        rows["answer"] = rows["smiles"].where(rows["valid"], None)
        return rows.assign(reward=rows["reward"].fillna(RewardModel.FAILED))

    def identify(self, completions: Sequence[Completion]) -> Sequence[Hashable | None]:
        """The canonical SMILES."""
        most = self._reward.config.max_atoms
        smiles = [self._smiles(one) for one in completions]
        return [None if text is None else canonicalise(text, max_atoms=most) for text in smiles]

    def identities(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """The canonical SMILES."""
        return [text if isinstance(text, str) else None for text in rows["canonical_smiles"]]

    def remember(self, rows: pd.DataFrame) -> None:
        """Take over the values of rows of a trace."""
        self._reward.remember(rows)

    def close(self) -> None:
        """End worker processes and leave the cache."""
        self._reward.close()

    def _smiles(self, completion: Completion) -> str | None:
        return None if completion.cut else self._read(completion.text)


class PaidByPrompt(TextReward):
    """Scores the molecule that a completion names, by the reward of the completion's prompt.

    A molecule costs one oracle call in the run, whatever the prompts that it answers: components of
    one name are the same oracle in all rewards, in kind, parameters and the files that these name,
    so that a molecule has the same raw values and only what is made of them differs. Each reward
    has a memory of its own, so that they are computed once for each prompt that a molecule answers.

    Args:
        config: with by_prompt, in the order of the prompts.

    Raises:
        InputError: with a line for every problem of the components, or for every component whose
            files are not the same in all rewards.
    """

    def __init__(self, config: SmilesReward) -> None:
        self._parts: list[PaidByMolecule] = []
        problems = []
        for number, part in enumerate(config.parts):
            try:
                self._parts.append(PaidByMolecule(part))
            except InputError as error:
                problems += [f"by_prompt.{number}: {line}" for line in str(error).splitlines()]
        problems = problems or self._unlike_files()
        if problems:
            self.close()
            raise InputError("\n".join(problems))
        self.bounds = (RewardModel.FAILED, RewardModel.MOST)
        self.component_names = self._parts[0].component_names
        self.files = {
            f"prompt {number}: {role}": path
            for number, part in enumerate(self._parts)
            for role, path in part.files.items()
        }

    @property
    def failures(self) -> Mapping[str, FailureCount]:
        """By component, over all prompts: how many molecules it was asked about, and failed on."""
        total = {}
        for name in self.component_names:
            counts = [part.failures[name] for part in self._parts]
            total[name] = FailureCount(
                sum(count.asked for count in counts),
                sum(count.failed for count in counts),
                sum((count.reasons for count in counts), Counter[str]()),
            )
        return total

    def score(self, completions: Sequence[Completion]) -> pd.DataFrame:
        """Score completions."""
        frames = []
        for number, part in enumerate(self._parts):
            index = [i for i, one in enumerate(completions) if one.group == number]
            if index:
                frames.append(part.score([completions[i] for i in index]).set_axis(index))
        return pd.concat(frames).sort_index()

    def identify(self, completions: Sequence[Completion]) -> Sequence[Hashable | None]:
        """The canonical SMILES."""
        return [self._parts[one.group].identify([one])[0] for one in completions]

    def identities(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """The canonical SMILES."""
        return self._parts[0].identities(rows)

    def remember(self, rows: pd.DataFrame) -> None:
        """Take over the values of rows of a trace."""
        for number, part in enumerate(self._parts):
            part.remember(rows[rows["group"] == number])

    def close(self) -> None:
        """End worker processes and leave the caches."""
        for part in self._parts:
            part.close()

    def _unlike_files(self) -> list[str]:
        """Say where a relative path means other content in the folder of another reward."""
        files = [part.files for part in self._parts]
        paths = {path for some in files for path in some.values()}
        content: dict[Path | None, str] = {path: sha256_of(path) for path in paths}
        return [
            f"by_prompt.{number}: {role} is {some.get(role, 'no file')}, but in by_prompt.0 "
            f"{files[0].get(role, 'no file')}, which has other content. {ONE_ORACLE}."
            for number, some in enumerate(files)
            for role in sorted(files[0].keys() | some.keys())
            if content.get(some.get(role)) != content.get(files[0].get(role))
        ]
