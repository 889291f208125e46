"""What a completion is paid: the reward that a config describes."""

import inspect
import math
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
from chemkl.llm.answers import TextReward, Written, build_reader, misread
from chemkl.results.columns import RAW_PREFIX, SCORE_PREFIX
from chemkl.results.provenance import sha256_of
from chemkl.rewards import RewardModel
from chemkl.rewards.cache import reward_files
from chemkl.rewards.components.functions import CallError, UserFunction, load_function
from chemkl.rewards.model import LEAST_OF_ALL, FailureCount, Failures
from chemkl.rewards.registry import Failure
from chemkl.rewards.scoring import Failed, as_number


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


NO_ANSWER = "no answer in the completion"
GIVEN = ("the prompt", "the completion")
"""What a function is called with, before its parameters."""
ASKED = "reward function"
"""What fails where a function of the user's does."""
_SHOWN = 60
"""Characters of a completion that an error shows."""

_TYPES = {
    "smiles": object,
    "canonical_smiles": object,
    "reason": object,
    "scaffold": object,
    "answer": object,
    "reward": float,
}


class _OfAnswers:
    """What rewards without molecules share: an answer to a prompt is paid once."""

    def things(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """The prompt and the answer; None: no valid answer."""
        pairs = zip(rows["group"], rows["answer"], strict=True)
        return [(int(group), each) if isinstance(each, str) else None for group, each in pairs]

    def close(self) -> None:
        """Do nothing: nothing is held."""

    @staticmethod
    def _row(answer: str | None, reason: str | None, reward: float) -> dict[str, Any]:
        return {
            "smiles": "",
            "canonical_smiles": None,
            "valid": answer is not None,
            "reason": reason,
            "scaffold": None,
            "answer": answer,
            "reward": reward,
        }


class Answers(_OfAnswers):
    """Pays the same for every valid answer.

    Args:
        config: the answers.

    Raises:
        InputError: with a line for each valid answer that is read as another one.
    """

    def __init__(self, config: AnswersReward) -> None:
        problems = misread(config.valid, config.parse)
        if problems:
            raise InputError("\n".join(problems))
        self.component_names: list[str] = []
        self.files: Mapping[str, Path] = {}
        self.bounds = (config.failed, config.reward)
        self._config = config
        self._read = build_reader(config.parse)
        self._valid = frozenset(config.valid)

    @property
    def failures(self) -> Mapping[str, FailureCount]:
        """Nothing: whether an answer is among the valid ones can always be said."""
        return {}

    def score(self, written: Sequence[Written]) -> pd.DataFrame:
        """Score completions."""
        return pd.DataFrame([self._paid(each) for each in written]).astype(_TYPES)

    def foreseen(self, written: Sequence[Written]) -> Sequence[Hashable | None]:
        """Say what each completion will be."""
        return [
            None if (answer := self._paid(each)["answer"]) is None else (each.group, answer)
            for each in written
        ]

    def remember(self, rows: pd.DataFrame) -> None:
        """Do nothing: answers are looked up, not computed."""

    def _paid(self, written: Written) -> dict[str, Any]:
        answer = None if written.cut else self._read(written.text)
        if answer in self._valid:
            return self._row(answer, None, self._config.reward)
        reason = NO_ANSWER if answer is None else f"{answer!r} is not a valid answer"
        return self._row(None, written.cut or reason, self._config.failed)


class PaidByFunction(_OfAnswers):
    """Asks a function of the user's, once about each different completion of a prompt.

    Args:
        config: the function.

    Raises:
        InputError: the function is not there, or does not take what it is given.
    """

    def __init__(self, config: FunctionReward) -> None:
        own, self._parameters = _found(config)
        name = own.reference.rpartition(":")[2].rpartition(".")[2]
        self.component_names = [name]
        self.bounds = (config.failed, math.inf)
        place = Path(own.reference.rpartition(":")[0])
        self.files: Mapping[str, Path] = {"reward": place} if place.suffix == ".py" else {}
        self._function = own
        self._config = config
        self._read = build_reader(config.parse)
        self._name = name
        self._known: dict[tuple[int, str], float | str] = {}
        self._failures = Failures([name], config.most_failures, "completions", ASKED)
        self._n_scored = 0

    @property
    def failures(self) -> Mapping[str, FailureCount]:
        """How often the function was asked, and how often it failed."""
        return self._failures.counts

    def score(self, written: Sequence[Written]) -> pd.DataFrame:
        """Score completions.

        Raises:
            InputError: the function failed on more of them than the config allows, or gave one
                less than a failure is paid.
        """
        rows = [self._paid(each) for each in written]
        for each, row in zip(written, rows, strict=True):
            self._check_not_below_failure(each, row["reward"])
        self._n_scored += sum(row["valid"] for row in rows)
        self._failures.check()
        self._check_any()
        return pd.DataFrame(rows).astype(_TYPES)

    def _check_any(self) -> None:
        """End a run in which nothing was ever paid, however few different completions it has."""
        reasons = [said for said in self._known.values() if isinstance(said, str)]
        if self._n_scored >= LEAST_OF_ALL and len(reasons) == len(self._known):
            raise InputError(
                f"{ASKED} {self._name} failed on all {self._n_scored} completions so far, "
                f"{len(reasons)} different ones: {self._why(reasons[0])}. Mend the {ASKED}."
            )

    def _check_not_below_failure(self, written: Written, reward: float) -> None:
        """End a run that would learn to fail: never to come to an end, for example."""
        failed = self._config.failed
        if reward < failed:
            raise InputError(
                f"{ASKED} {self._name} gave {reward:g} to {_shortened(written.text)!r}, less than "
                f"failed = {failed:g}, which is what a completion gets that is cut off, has no "
                "answer or cannot be scored: the model would learn to fail. Set reward.failed to "
                "the lowest value of the function or below, or let it return "
                f"{failed:g} or more; then begin "
                "anew with --fresh."
            )

    def foreseen(self, written: Sequence[Written]) -> Sequence[Hashable | None]:
        """Say what each completion will be."""
        return [
            (each.group, answer) if (answer := self._answer(each)) is not None else None
            for each in written
        ]

    def remember(self, rows: pd.DataFrame) -> None:
        """Take over what rows of a trace were paid, or why they failed."""
        asked = rows[rows["valid"].astype(bool)]
        raw = asked[RAW_PREFIX + self._name]
        columns = (asked["group"], asked["completion"], raw, asked["reason"])
        for group, text, value, reason in zip(*columns, strict=True):
            key = int(group), text
            if key not in self._known:
                self._keep(key, str(reason) if math.isnan(value) else float(value))

    def _answer(self, written: Written) -> str | None:
        is_whole = written.cut is None or self._config.score_truncated
        return self._read(written.text) if is_whole else None

    def _paid(self, written: Written) -> dict[str, Any]:
        raw, score = RAW_PREFIX + self._name, SCORE_PREFIX + self._name
        none = {raw: math.nan, score: math.nan}
        answer = self._answer(written)
        if answer is None:
            cut = None if self._config.score_truncated else written.cut
            return self._row(None, cut or NO_ANSWER, self._config.failed) | none
        key = written.group, written.text
        if key not in self._known:
            self._keep(key, self._asked(written))
        said = self._known[key]
        if isinstance(said, str):
            return self._row(answer, said, self._config.failed) | none
        return self._row(answer, None, said) | {raw: said, score: said}

    def _keep(self, key: tuple[int, str], said: float | str) -> None:
        self._known[key] = said
        failed = [Failed(self._name, self._why(said))] if isinstance(said, str) else []
        self._failures.add([self._name], failed)

    @property
    def _failed(self) -> str:
        """How the reason of a row begins, for which the function gave no number."""
        return f"{self._name} failed: "

    def _why(self, reason: str) -> str:
        """What the function itself has to do with a row's reason."""
        return reason.removeprefix(self._failed)

    def _asked(self, written: Written) -> float | str:
        """What the function says of a completion: a number, or why there is none."""
        try:
            answer = as_number(self._function(written.prompt, written.text, **self._parameters))
        except CallError as error:
            return f"{self._failed}{error}"
        return f"{self._failed}{answer.reason}" if isinstance(answer, Failure) else answer


def _found(config: FunctionReward) -> tuple[UserFunction, dict[str, Any]]:
    """Find the function, and check what it takes.

    Returns:
        The function, and its parameters in the annotated types.

    Raises:
        InputError: with a line for every problem, under the setting that it is about.
    """
    try:
        own = load_function(config.function, config.folder)
        _check_takes_both(own)
    except InputError as error:
        raise InputError(f"reward.function: {error}") from error
    try:
        return own, own.checked(config.parameters, given=GIVEN)
    except InputError as error:
        lines = [f"reward.{line}" for line in str(error).splitlines()]
        raise InputError("\n".join(lines)) from error


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _check_takes_both(own: UserFunction) -> None:
    """Refuse a function that cannot be called with a prompt and a completion.

    Raises:
        InputError: saying what it takes.
    """
    try:
        inspect.signature(own.function).bind_partial("", "")
    except TypeError:
        raise InputError(
            f"{own} takes a prompt and a completion as its first two arguments, or should: "
            "def score(prompt: str, completion: str) -> float"
        ) from None
    except ValueError:  # compiled: it says itself what it dislikes, at each completion
        return


class PaidByMolecule:
    """Scores the molecule that a completion names.

    Args:
        config: the reward, and how the SMILES is found.

    Raises:
        InputError: with a line for every problem of the components.
    """

    def __init__(self, config: SmilesReward) -> None:
        assert config.reward is not None  # else it is PaidByPrompt that is built
        self.bounds = (RewardModel.FAILED, RewardModel.MOST)
        self.files: Mapping[str, Path] = reward_files(config.reward)
        self._reward = RewardModel.from_config(config.reward)
        self._read = build_reader(config.parse)
        self.component_names = self._reward.component_names

    @property
    def failures(self) -> Mapping[str, FailureCount]:
        """By component: how many molecules it was asked about, how many it failed on, and why."""
        return self._reward.failures

    def score(self, written: Sequence[Written]) -> pd.DataFrame:
        """Score completions."""
        found = [self._smiles(each) for each in written]
        index = [i for i, smiles in enumerate(found) if smiles is not None]
        scored = self._reward.score([smiles for smiles in found if smiles is not None])
        rows = scored.set_axis(index).reindex(range(len(written)))
        for i, each in enumerate(written):
            if found[i] is None:
                rows.loc[i, "reason"] = each.cut or "no SMILES in the completion"
        rows["smiles"] = rows["smiles"].fillna("")
        rows["valid"] = rows["valid"].eq(other=True)
        rows["answer"] = rows["smiles"].where(rows["valid"], None)
        return rows.assign(reward=rows["reward"].fillna(RewardModel.FAILED))

    def things(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """The canonical SMILES; None: no valid one."""
        return [each if isinstance(each, str) else None for each in rows["canonical_smiles"]]

    def foreseen(self, written: Sequence[Written]) -> Sequence[Hashable | None]:
        """Canonicalise what is found; nothing is scored."""
        most = self._reward.config.max_atoms
        found = [self._smiles(each) for each in written]
        return [None if each is None else canonicalise(each, max_atoms=most) for each in found]

    def remember(self, rows: pd.DataFrame) -> None:
        """Take over the values of rows of a trace."""
        self._reward.remember(rows)

    def close(self) -> None:
        """End worker processes and leave the cache."""
        self._reward.close()

    def _smiles(self, written: Written) -> str | None:
        return None if written.cut else self._read(written.text)


class PaidByPrompt:
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
        self.files: Mapping[str, Path] = {
            f"prompt {number}: {role}": path
            for number, part in enumerate(self._parts)
            for role, path in part.files.items()
        }

    @property
    def failures(self) -> Mapping[str, FailureCount]:
        """By component, over all prompts: how many molecules it was asked about, and failed on."""
        return {name: self._failures_of(name) for name in self.component_names}

    def score(self, written: Sequence[Written]) -> pd.DataFrame:
        """Score completions."""
        frames = []
        for number, part in enumerate(self._parts):
            index = [i for i, each in enumerate(written) if each.group == number]
            if index:
                frames.append(part.score([written[i] for i in index]).set_axis(index))
        return pd.concat(frames).sort_index()

    def things(self, rows: pd.DataFrame) -> Sequence[Hashable | None]:
        """The canonical SMILES; None: no valid one."""
        return self._parts[0].things(rows)

    def foreseen(self, written: Sequence[Written]) -> Sequence[Hashable | None]:
        """Canonicalise what is found; nothing is scored."""
        return [self._parts[each.group].foreseen([each])[0] for each in written]

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
        every = [part.files for part in self._parts]
        content: dict[Path | None, str] = {}
        for path in {path for files in every for path in files.values()}:
            content[path] = sha256_of(path)
        return [
            f"by_prompt.{number}: {role} is {files.get(role, 'no file')}, but in by_prompt.0 "
            f"{every[0].get(role, 'no file')}, which has other content. {ONE_ORACLE}."
            for number, files in enumerate(every)
            for role in sorted(every[0].keys() | files.keys())
            if content.get(files.get(role)) != content.get(every[0].get(role))
        ]

    def _failures_of(self, name: str) -> FailureCount:
        counts = [part.failures[name] for part in self._parts]
        reasons = sum((count.reasons for count in counts), Counter[str]())
        asked, failed = sum(count.asked for count in counts), sum(count.failed for count in counts)
        return FailureCount(asked, failed, reasons)
