"""A reward of its own for each prompt: what the molecule of a completion is paid depends on it."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from chemkl.config import InputError
from chemkl.config.llm import ONE_ORACLE, SmilesReward
from chemkl.llm.molecule_reward import PaidByMolecule
from chemkl.llm.written import Written
from chemkl.results.provenance import sha256_of
from chemkl.rewards import RewardModel
from chemkl.rewards.failures import FailureCount


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
