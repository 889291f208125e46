"""The reward of the molecule that a completion names."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from chemkl.chem.molecules import canonicalise
from chemkl.config.llm import SmilesReward
from chemkl.llm.answers import build_reader
from chemkl.llm.written import Written
from chemkl.rewards import RewardModel
from chemkl.rewards.failures import FailureCount
from chemkl.rewards.keys import reward_files


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
