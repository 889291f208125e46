"""Changes by fine-tuning: every value against RDKit and the models themselves."""

import io

import pytest
import torch
from rdkit import Chem
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
from rdkit.DataStructs import BulkTanimotoSimilarity
from rich.console import Console

from chemkl.evaluation.fine_tuning import ROWS, movement, movement_table
from chemkl.policies import load_policy
from chemkl.policies.base import stream

TRAIN = ["CCO", "CCN", "CCC1CCCC1", "C1CC1", "OC1CC1"]
VALID = ["CCCO", "CCC1CCC1"]


@pytest.fixture(scope="module")
def models(tiny_prior):
    before, after = load_policy(tiny_prior), load_policy(tiny_prior)
    with torch.no_grad():  # shorter molecules
        after.linear.bias[0] += 1
    return before, after


@torch.no_grad()
def test_every_value_by_hand(models):
    measures = movement(*models, TRAIN, VALID, 200, 7)
    bits = GetMorganGenerator(radius=2, fpSize=1024).GetFingerprint
    references = [bits(Chem.MolFromSmiles(text)) for text in TRAIN]
    scaffolds = {MurckoScaffoldSmiles(text) for text in TRAIN} - {""}
    init_samples = models[0].sample(200, stream(7, 0, purpose="movement"))
    for name, policy in zip(("before", "after"), models, strict=True):
        rollout = policy.sample(200, stream(7, 0, purpose="movement"))
        rows = zip(rollout.smiles, rollout.truncated, strict=True)
        mols = [Chem.MolFromSmiles(text) for text, cut in rows if text and not cut]
        mols = [mol for mol in mols if mol is not None]
        distinct = {Chem.MolToSmiles(mol) for mol in mols}
        n = len(distinct)
        shared = sum(MurckoScaffoldSmiles(text) in scaffolds for text in distinct)
        exact = {
            "validity": len(mols) / 200,
            "uniqueness": n / len(mols),
            "novelty": len(distinct - set(TRAIN)) / n,
            "of_set_scaffolds": shared / n,
        }
        values = measures[name]
        assert {key: values[key] for key in exact} == pytest.approx(exact)
        prints = [bits(Chem.MolFromSmiles(text)) for text in distinct]
        nearest = sum(max(BulkTanimotoSimilarity(p, references)) for p in prints) / n
        assert values["snn"] == pytest.approx(nearest, abs=1e-6)
        for key, smiles in (("nll_set", TRAIN), ("nll_valid", VALID)):
            nll = -sum(policy.logp([text]).item() for text in smiles) / len(smiles)
            assert values[key] == pytest.approx(nll, abs=1e-4)
        nll = -policy.logp_tokens(init_samples.tokens).mean().item()
        assert values["nll_init"] == pytest.approx(nll, abs=1e-4)
    # -log p of a model's samples is lowest under the model itself, on average
    assert measures["after"]["nll_init"] > measures["before"]["nll_init"]
    assert measures["before"].keys() == measures["after"].keys() == {row.key for row in ROWS}


def test_unchanged_model_has_equal_values(models):
    measures = movement(models[0], models[0], TRAIN, VALID, 20, 0)
    assert measures["before"] == measures["after"]


def test_table_omits_undefined_measures(models):
    measures = movement(*models, ["CCO"], ["CCN"], 20, 0)
    assert measures["after"]["scaf"] is None  # ethanol has no scaffold
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(movement_table(measures))
    text = console.export_text()
    assert "NLL of init's samples" in text
    assert "Scaf " not in text
