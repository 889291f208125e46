"""Components that a test makes up are forgotten after it."""

import pytest
from rdkit import Chem

from chemkl.rewards.registry import COMPONENTS, Component


@pytest.fixture
def register(monkeypatch):
    """Register a component for one test; gives the list of what it is asked, as SMILES."""

    def add(kind, score, range_=(0, 1), **flags):
        questions = []

        def factory():
            def noted(asked):
                together = flags.get("batched", False)
                told = [*map(Chem.MolToSmiles, asked)] if together else Chem.MolToSmiles(asked)
                questions.append(told)
                return score(asked)

            return noted

        part = Component(kind, factory, "", range_, "made up", **flags)
        monkeypatch.setitem(COMPONENTS, kind, part)
        return questions

    return add
