"""The shipped priors: their vocabulary, samples and hashes."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from chemkl.chem.molecules import canonicalise, read_molecule
from chemkl.chem.standardise import Standardiser
from chemkl.config.loading import load_config
from chemkl.config.paths import shipped_priors
from chemkl.config.prepare import PrepareConfig
from chemkl.policies import load_policy
from chemkl.policies.tokenizer import UnknownTokenError, tokenize

ROOT = Path(__file__).parents[1]
DRUGS = [line.split(None, 1) for line in (ROOT / "tests/corpus/drugs.smi").read_text().splitlines()]
CARDS = json.loads((ROOT / "data/priors/cards.json").read_text())


@pytest.fixture(scope="module")
def chembl():
    return load_policy(shipped_priors()["chembl"])


def test_every_prior_has_a_card_and_is_the_file_that_the_card_is_of():
    assert shipped_priors().keys() == CARDS.keys() == {"chembl", "moses"}
    sums = (ROOT / "data/SHA256SUMS").read_text()
    for name, path in shipped_priors().items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert CARDS[name]["sha256"] == digest
        assert f"{digest}  priors/{name}.safetensors" in sums
        assert path.stat().st_size <= 25e6


def test_well_known_drugs_can_be_written(chembl):
    """Counterions go, charges that a proton explains too, stereochemistry stays."""
    config = load_config(PrepareConfig, ROOT / "configs/prepare/chembl.yaml")
    parent = Standardiser([step.model_dump() for step in config.standardise[:1]])
    assert len(DRUGS) == len({name for _, name in DRUGS}) == 100
    assert sum("." in smiles for smiles, _ in DRUGS) >= 30
    assert sum("@" in smiles for smiles, _ in DRUGS) >= 40
    failed = {}
    for smiles, name in DRUGS:
        assert read_molecule(smiles).valid, name
        text, reason = parent(smiles)
        assert text is not None, (name, reason)
        assert ("@" in text) == ("@" in smiles.split(".")[0]), name  # the drug comes first
        assert "." not in text, name
        try:
            logp = chembl.logp([text])
        except UnknownTokenError as error:
            failed[name] = str(error)
            continue
        assert torch.isfinite(logp).all(), name
    assert len(failed) <= 5, failed


def test_the_vocabulary_is_that_of_its_corpus(chembl):
    config = load_config(PrepareConfig, ROOT / "configs/prepare/chembl.yaml")
    single = {token for token in chembl.vocabulary.tokens[2:] if len(tokenize(token)) == 1}
    assert single == {*config.tokens}


@pytest.mark.parametrize(("name", "least"), [("chembl", 0.9), ("moses", 0.95)])
def test_a_prior_samples_valid_molecules_that_differ(name, least):
    drawn = load_policy(shipped_priors()[name]).sample(300, torch.Generator().manual_seed(1))
    valid = [text for text in map(canonicalise, drawn.smiles) if text is not None]
    assert len(valid) >= least * 300
    assert len({*valid}) >= 0.99 * len(valid)
    assert any("@" in text for text in valid) == (name == "chembl")
