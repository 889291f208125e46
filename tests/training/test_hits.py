"""What is logged of the hits: length, size, synthetic accessibility."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem, RDConfig

from chemkl.training import ledger as training_hits
from chemkl.training.ledger import describe_hits


@pytest.fixture(scope="module")
def sascorer():
    """RDKit's own module, imported the way its documentation says."""
    folder = str(Path(RDConfig.RDContribDir) / "SA_Score")
    sys.path.append(folder)
    try:
        import sascorer
    finally:
        sys.path.remove(folder)
    return sascorer


def hits(pairs):
    return pd.DataFrame(pairs, columns=["canonical_smiles", "n_tokens"])


def test_means_are_over_rows_for_the_length_and_over_molecules_for_the_rest(sascorer):
    aspirin, ethanol = "CC(=O)Oc1ccccc1C(=O)O", "CCO"
    found = describe_hits(hits([(aspirin, 20), (ethanol, 4), (aspirin, 24)]))
    sa = [sascorer.calculateScore(Chem.MolFromSmiles(s)) for s in (aspirin, ethanol)]
    assert found == {
        "n_tokens": pytest.approx((20 + 4 + 24) / 3),
        "heavy_atoms": pytest.approx((13 + 3) / 2),
        "sa_score": pytest.approx(sum(sa) / 2, abs=1e-12),
    }


def test_without_hits_there_is_no_mean():
    found = describe_hits(hits([]))
    assert sorted(found) == ["heavy_atoms", "n_tokens", "sa_score"]
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("missing", [None, np.nan])
def test_invalid_rows_may_be_hits_where_tau_is_zero(missing):
    found = describe_hits(hits([("CCO", 4), (missing, 8)]))
    assert found["n_tokens"] == 6
    assert found["heavy_atoms"] == 3
    assert math.isnan(describe_hits(hits([(missing, 8)]))["sa_score"])


def test_a_hit_that_cannot_be_read_or_scored_is_left_out(monkeypatch):
    def fails(mol):
        if mol.GetNumAtoms() == 2:
            raise RuntimeError("made up")
        return 3.0

    found_component = SimpleNamespace(build=lambda _: fails)
    monkeypatch.setattr(training_hits, "find_component", lambda _: found_component)
    found = describe_hits(hits([("CCO", 4), ("CC", 3), ("CC1=c2c(nc(C)n2C)C=C1", 20)]))
    assert found == {"n_tokens": 9, "heavy_atoms": 2.5, "sa_score": 3.0}
