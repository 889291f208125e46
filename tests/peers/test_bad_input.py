"""What people who move in get wrong: one clear line each, exit code 2, and nothing is written."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from chemkl.policies import RnnPolicy, Vocabulary, save_policy

POSTTRAIN = {
    "reward": {"components": [{"kind": "qed"}]},
    "target": {"kind": "gibbs", "beta": 0.1},
    "estimator": "rloo",
    "budget": 16,
}
TUNING = {"corpus": "corpus", "valid_split": None}


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_prior):
    """A folder with a prior, another of fewer tokens, and a corpus."""
    monkeypatch.chdir(tmp_path)
    sizes = {"embedding_size": 8, "hidden_size": 8, "n_layers": 1, "max_length": 16}
    save_policy(RnnPolicy(Vocabulary.of("CN"), **sizes), "small.safetensors", {})
    Path("my.safetensors").write_bytes(tiny_prior.read_bytes())

    def corpus(smiles):
        Path("corpus").mkdir()
        pd.DataFrame({"smiles": smiles, "split": "train"}).to_parquet("corpus/corpus.parquet")
        Path("corpus/tokens.json").write_text(json.dumps({"C": 1}))

    return corpus


@pytest.mark.parametrize(
    ("stage", "settings", "molecules", "says"),
    [
        ("pretrain", TUNING | {"init": "small.safetensors"}, ["CC", "CNC", "CCO"],
         "corpus: line 3: 'CCO': token 'O' at position 3 is not in the vocabulary. Known: C N. "),
        ("pretrain", TUNING | {"init": "my.safetensors"}, ["CCO"],
         "corpus: split 'train' has one molecule, but training needs one and validation another"),
        ("posttrain", POSTTRAIN | {"prior": "my.safetensors", "agent": "small.safetensors"}, [],
         "agent: has another vocabulary than prior (it lacks 1 O). Take policies"),
        ("posttrain", POSTTRAIN | {"prior": "small.safetensors", "agent": "my.safetensors"}, [],
         "agent: has another vocabulary than prior (it also has 1 O). Take policies"),
        ("posttrain", POSTTRAIN | {"prior": "my.safetensors",
                                   "diversity_filter": {"kind": "murcko", "bucket": 0}}, [],
         "diversity_filter.bucket: should be greater than or equal to 1 (got 0)"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(
    here, chemkl, capsys, stage, settings, molecules, says
):
    if molecules:
        here(molecules)
    Path("in.yaml").write_text(yaml.safe_dump(settings))
    assert chemkl(stage, "in.yaml", "--out", "run") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert says in told.err
    assert len(told.err.splitlines()) == 1
    assert not Path("run").exists()
