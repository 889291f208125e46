"""How far fine-tuning moved a model: every number against RDKit and the models themselves."""

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

LEARNT = ["CCO", "CCN", "CCC1CCCC1", "C1CC1", "OC1CC1"]
HELD = ["CCCO", "CCC1CCC1"]


@pytest.fixture(scope="module")
def models(tiny_prior):
    before, after = load_policy(tiny_prior), load_policy(tiny_prior)
    with torch.no_grad():  # shorter molecules
        after.linear.bias[0] += 1
    return before, after


def nll(policy, smiles):
    with torch.no_grad():
        return -sum(policy.logp([text]).item() for text in smiles) / len(smiles)


def test_every_number_by_hand(models):
    found = movement(*models, LEARNT, HELD, 200, 7)
    samples = {}
    for name, policy in zip(("before", "after"), models, strict=True):
        drawn = policy.sample(200, stream(7, 0, purpose="movement"))
        texts = [s for s, cut in zip(drawn.smiles, drawn.truncated, strict=True) if s and not cut]
        mols = [mol for mol in map(Chem.MolFromSmiles, texts) if mol is not None]
        samples[name] = drawn
        got = found[name]
        assert got["nll_set"] == pytest.approx(nll(policy, LEARNT), abs=1e-4)
        assert got["nll_valid"] == pytest.approx(nll(policy, HELD), abs=1e-4)
        assert got["validity"] == pytest.approx(len(mols) / 200)
        distinct = {Chem.MolToSmiles(mol) for mol in mols}
        assert got["uniqueness"] == pytest.approx(len(distinct) / len(mols))
        assert got["novelty"] == pytest.approx(len(distinct - set(LEARNT)) / len(distinct))
        of_set = {MurckoScaffoldSmiles(text) for text in LEARNT} - {""}
        shared = sum(MurckoScaffoldSmiles(text) in of_set for text in distinct)
        assert got["of_set_scaffolds"] == pytest.approx(shared / len(distinct))
        bits = GetMorganGenerator(radius=2, fpSize=1024).GetFingerprint
        references = [bits(Chem.MolFromSmiles(text)) for text in LEARNT]
        nearest = [
            max(BulkTanimotoSimilarity(bits(Chem.MolFromSmiles(text)), references))
            for text in distinct
        ]
        assert got["snn"] == pytest.approx(sum(nearest) / len(nearest), abs=1e-6)
    of_init = samples["before"]
    for name, policy in zip(("before", "after"), models, strict=True):
        with torch.no_grad():
            logp = policy.logp_tokens(of_init.tokens)
        assert found[name]["nll_init"] == pytest.approx(-logp.mean().item(), abs=1e-4)
    # -log p of the model's own samples is least under the model itself, on the average
    assert found["after"]["nll_init"] > found["before"]["nll_init"]
    assert found["before"].keys() == found["after"].keys() == {row.key for row in ROWS}


def test_a_model_that_has_not_moved_is_told_so(models):
    found = movement(models[0], models[0], LEARNT, HELD, 20, 0)
    assert found["before"] == found["after"]


def test_the_table_leaves_out_what_has_no_value(models):
    found = movement(*models, ["CCO"], ["CCN"], 20, 0)
    assert found["after"]["scaf"] is None  # ethanol has no scaffold
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(movement_table(found))
    text = console.export_text()
    assert "NLL of init's samples" in text
    assert "Scaf " not in text
