"""Registration of components for one test."""

import pytest
from rdkit import Chem

from chemkl.rewards.registry import COMPONENTS, Component


@pytest.fixture
def register(monkeypatch):
    """Register a component for one test; returns the list of its calls, as SMILES."""

    def add(kind, score, range_=(0, 1), **flags):
        calls = []

        def noted(mols):
            is_list = flags.get("batched", False)
            calls.append([*map(Chem.MolToSmiles, mols)] if is_list else Chem.MolToSmiles(mols))
            return score(mols)

        def factory():
            return noted

        component = Component(kind, factory, "", range_, "a test", **flags)
        monkeypatch.setitem(COMPONENTS, kind, component)
        return calls

    return add
