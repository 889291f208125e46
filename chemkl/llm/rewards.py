"""Rewards of completions: for valid answers, by a user's function, or of the molecule in them."""

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


class AnswerScorer:
    """Gives every valid answer the same reward; an answer to a prompt costs one call.

    Attributes:
        component_names: components with columns in the trace.
        bounds: the reward of a failure, which is the lowest one, and the highest possible reward.
        files: files on which the rewards depend, by role.
        failures: calls and failures of each component, with reasons.
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
        """Score completions, one row each, in order.

        Returns:
            Columns smiles, canonical_smiles, valid, reason, scaffold, answer (missing where there
            is no valid one), raw_<c> and score_<c> for each component, and reward.
        """
        scored = [(self._answer(row), *self._score(row)) for row in completions]
        rows = pd.DataFrame(scored, columns=["answer", "reason", "reward"])
        valid = [answer is not None for answer, _, _ in scored]
        rows = rows.assign(smiles="", canonical_smiles=None, valid=valid, scaffold=None)
        raw = rows["reward"].where(rows["reason"].isna()).astype(float)
        for name in self.component_names:
            rows[RAW_PREFIX + name] = rows[SCORE_PREFIX + name] = raw
        return rows.astype({**_TYPES, "reward": float})

    def identify(self, completions: Sequence[Completion]) -> Sequence[Hashable | None]:
        """Return the identity of each unscored row: prompt and answer; None: no valid answer."""
        pairs = [(row.group, self._answer(row)) for row in completions]
        return [None if pair[1] is None else pair for pair in pairs]

    def identities(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """Return the same, of rows from `score` or a trace."""
        pairs = zip(rows["group"], rows["answer"], strict=True)
        return [(int(group), text) if isinstance(text, str) else None for group, text in pairs]

    def spread_over(self, spread: Spread) -> None:
        """Distribute the scoring over processes that all score the same completions."""
        self._spread = spread

    def remember(self, rows: pd.DataFrame) -> None:
        """Read back the rewards of a trace; answers cost nothing to score again."""

    def close(self) -> None:
        """Release the resources of scoring; nothing can be scored afterwards."""

    def _answer(self, completion: Completion) -> str | None:
        """Return the valid answer in a completion; None: there is none."""
        answer = None if completion.cut else self._read(completion.text)
        return answer if answer in self._config.valid else None

    def _score(self, completion: Completion) -> tuple[str | None, float]:
        """Return why a completion has failed (None: it has not), and its reward."""
        if self._answer(completion) is not None:
            return None, self._config.reward
        answer = self._read(completion.text)
        reason = NO_ANSWER if answer is None else f"{answer!r} is not a valid answer"
        return completion.cut or reason, self._config.failed


class FunctionScorer(AnswerScorer):
    """Calls a user's function, once for each distinct completion of a prompt."""

    def __init__(self, config: FunctionReward) -> None:
        super().__init__(config)
        self._function, self._parameters = _load(config)
        place, _, name = self._function.reference.rpartition(":")
        self._name = name.rpartition(".")[2]
        self.component_names = [self._name]
        self.files = {"reward": Path(place)} if Path(place).suffix == ".py" else {}
        self._scores: dict[tuple[int, str], float | Failure] = {}
        """By prompt number and completion."""
        words = ("completions", "reward function")
        self.failures = Failures([self._name], config.most_failures, *words)
        self._n_scored = 0

    def score(self, completions: Sequence[Completion]) -> pd.DataFrame:
        """Score completions; raise if the function fails too often or returns less than failed."""
        answered = [row for row in completions if self._answer(row) is not None]
        by_key = {(row.group, row.text): row for row in answered}
        new = [row for key, row in by_key.items() if key not in self._scores]
        for row, score in zip(new, self._spread(self._call, new), strict=True):
            self._store((row.group, row.text), score)
        rows = super().score(completions)
        self.failures.check()
        reasons = [score.reason for score in self._scores.values() if isinstance(score, Failure)]
        # no call has succeeded, however few distinct completions there are
        if self._n_scored >= LEAST_OF_ALL and len(reasons) == len(self._scores):
            raise InputError(
                f"reward function {self._name} failed on all {self._n_scored} completions so far, "
                f"{len(reasons)} different ones: {reasons[0]}. Correct the function."
            )
        return rows

    def remember(self, rows: pd.DataFrame) -> None:
        """Read back the rewards of a trace, and the reasons of failures."""
        valid = rows[rows["valid"].astype(bool)]
        raw = valid[RAW_PREFIX + self._name]
        columns = (valid["group"], valid["completion"], raw, valid["reason"])
        for group, text, value, reason in zip(*columns, strict=True):
            if (int(group), text) not in self._scores:
                failure = Failure(str(reason).removeprefix(f"{self._name} failed: "))
                self._store((int(group), text), failure if math.isnan(value) else float(value))

    def _answer(self, completion: Completion) -> str | None:
        is_scored = completion.cut is None or self._config.score_truncated
        return self._read(completion.text) if is_scored else None

    def _score(self, completion: Completion) -> tuple[str | None, float]:
        failed = self._config.failed
        if self._answer(completion) is None:
            return (None if self._config.score_truncated else completion.cut) or NO_ANSWER, failed
        self._n_scored += 1
        score = self._scores[completion.group, completion.text]
        if isinstance(score, Failure):
            return f"{self._name} failed: {score.reason}", failed
        if score < failed:  # the policy would learn to fail, for example never to stop
            raise InputError(
                f"reward function {self._name} gave {score:g} to {short(completion.text)!r}, less "
                f"than failed = {failed:g}, the reward of a completion that is cut off, has no "
                "answer or cannot be scored: the model would learn to fail. Set reward.failed "
                f"to the lowest value of the function or below, or let it return {failed:g} or "
                "more; then start again with --fresh."
            )
        return None, score

    def _call(self, completions: Sequence[Completion]) -> list[float | Failure]:
        scores: list[float | Failure] = []
        for row in completions:
            try:
                scores.append(as_number(self._function(row.prompt, row.text, **self._parameters)))
            except CallError as error:
                scores.append(Failure(str(error)))
        return scores

    def _store(self, key: tuple[int, str], score: float | Failure) -> None:
        self._scores[key] = score
        failed = [Failed(self._name, score.reason)] if isinstance(score, Failure) else []
        self.failures.add([self._name], failed)


def _load(config: FunctionReward) -> tuple[UserFunction, dict[str, Any]]:
    """Load the function, and convert its parameters to the annotated types."""
    place = "reward.function: "
    try:
        function = load_function(config.function, config.folder)
        with suppress(ValueError):  # a compiled function has no signature; a call tells
            inspect.signature(function.function).bind_partial("", "")
        place = "reward."
        arguments = ("the prompt", "the completion")
        return function, function.checked(config.parameters, positional=arguments)
    except (InputError, TypeError) as error:
        lines = str(error).splitlines()
        if isinstance(error, TypeError):
            lines = [
                f"{config.function} should take a prompt and a completion as its first two "
                "arguments: def score(prompt: str, completion: str) -> float"
            ]
        raise InputError("\n".join(place + line for line in lines)) from error


class MoleculeScorer:
    """Scores the molecule in a completion, by one reward or by the reward of its prompt.

    A molecule costs one oracle call in the run, whichever prompts it answers. Components with the
    same name are the same oracle in all rewards: kind, parameters and the content of their files
    are equal, so the raw values of a molecule are too. Transforms, weights and roles may differ.
    Each reward has a cache of its own: the values are computed once for each prompt.
    """

    def __init__(self, config: SmilesReward) -> None:
        self.bounds = config.bounds
        self._read = build_reader(config.parse)
        self._rewards: list[RewardModel] = []
        configs: Sequence[Any] = config.by_prompt or [config.reward]
        problems = []
        for number, reward in enumerate(configs):
            try:
                self._rewards.append(RewardModel.from_config(reward))
            except InputError as error:
                place = f"by_prompt.{number}: " if config.by_prompt else ""
                problems += [place + line for line in str(error).splitlines()]
        files = [reward_files(reward) for reward in configs]
        compared = files if len(files) > 1 and not problems else []
        sha256: dict[Path | None, str] = {
            path: sha256_of(path) for by_role in compared for path in by_role.values()
        }
        # the same relative path may be another file in the folder of another reward
        problems = problems or [
            f"by_prompt.{number}: {role} is {by_role.get(role, 'no file')}, but in by_prompt.0 "
            f"{files[0].get(role, 'no file')}, which has other content. {ONE_ORACLE}."
            for number, by_role in enumerate(files)
            for role in sorted(files[0].keys() | by_role.keys())
            if sha256.get(by_role.get(role)) != sha256.get(files[0].get(role))
        ]
        if problems:
            self.close()
        InputError.refuse(problems)
        self.component_names = self._rewards[0].component_names
        self.files = {
            f"prompt {number}: {role}" if config.by_prompt else role: path
            for number, by_role in enumerate(files)
            for role, path in by_role.items()
        }

    @property
    def failures(self) -> Failures:
        """Calls and failures of each component, over all prompts."""
        total = Failures(self.component_names)
        for name, count in (item for reward in self._rewards for item in reward.failures.items()):
            total[name].attempts += count.attempts
            total[name].failed += count.failed
            total[name].reasons += count.reasons
        return total

    def score(self, completions: Sequence[Completion]) -> pd.DataFrame:
        """Score completions, one row each, in order."""
        smiles = [self._smiles(row) for row in completions]
        frames = []
        for number, reward in enumerate(self._rewards):
            members = [i for i, row in enumerate(completions) if self._number(row.group) == number]
            index = [i for i in members if smiles[i] is not None]
            if members or not completions:
                scored = reward.score([text for i in index if (text := smiles[i]) is not None])
                frames.append(scored.set_axis(index).reindex(members))
        rows = pd.concat(frames).sort_index()
        for i, row in enumerate(completions):
            if smiles[i] is None:
                rows.loc[i, "reason"] = row.cut or "no SMILES in the completion"
        rows["smiles"] = rows["smiles"].fillna("")
        rows["valid"] = rows["valid"].eq(other=True)
        rows["answer"] = rows["smiles"].where(rows["valid"], None)
        return rows.assign(reward=rows["reward"].fillna(RewardModel.FAILED))

    def identify(self, completions: Sequence[Completion]) -> Sequence[Hashable | None]:
        """Return the canonical SMILES of unscored rows."""
        return [
            None if text is None else canonicalise(text, max_atoms=reward.config.max_atoms)
            for row in completions
            for text, reward in [(self._smiles(row), self._rewards[self._number(row.group)])]
        ]

    def identities(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """Return the canonical SMILES of scored rows."""
        return [text if isinstance(text, str) else None for text in rows["canonical_smiles"]]

    def spread_over(self, spread: Spread) -> None:
        """Distribute the scoring over processes that all score the same molecules."""
        for reward in self._rewards:
            reward.spread_over(spread)

    def remember(self, rows: pd.DataFrame) -> None:
        """Read back the values of a trace."""
        for number, reward in enumerate(self._rewards):
            reward.remember(rows[rows["group"].map(self._number) == number])

    def close(self) -> None:
        """End the worker processes and close the caches."""
        for reward in self._rewards:
            reward.close()

    def _number(self, group: int) -> int:
        """Return the index of the reward of a prompt."""
        return min(int(group), len(self._rewards) - 1)

    def _smiles(self, completion: Completion) -> str | None:
        return None if completion.cut else self._read(completion.text)


TextReward = AnswerScorer | MoleculeScorer


def build_reward(config: TextRewardConfig) -> TextReward:
    """Build the reward of a config.

    Raises:
        InputError: with every problem of the answers, the function, or the reward's components.
    """
    if isinstance(config, AnswersReward):
        return AnswerScorer(config)
    return FunctionScorer(config) if isinstance(config, FunctionReward) else MoleculeScorer(config)
