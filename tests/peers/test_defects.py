"""Defects of other programs, each with the test that rules it out here; and mistakes of users.

 1 the log p of a molecule depends on the longest one of its batch
     test_logp_does_not_depend_on_the_rest_of_the_batch
 2 all components failed, and the score is 1, or 0 without a reason
     test_failed_components_never_earn_a_reward
     test_a_molecule_whose_component_failed_costs_its_call_and_gets_no_reward
 3 one molecule counts, or is replayed, three times under three spellings
     test_only_the_first_scoring_of_a_valid_molecule_costs_a_call
     test_a_molecule_is_kept_once_under_any_spelling
 4 a bucket of 10 pays 11, or a whole batch of one scaffold
     test_a_bucket_pays_so_many_molecules
 5 a reward once penalised is remembered
     test_remembered_rewards_are_the_raw_ones_and_cost_no_second_scoring
 6 the optimiser keeps the parameters of a replaced agent
     test_the_optimiser_trains_the_agent_and_not_the_model_that_it_replaces
 7 one list is filtered and its neighbours are not
     test_rows_stay_aligned_among_invalid_truncated_and_repeated_ones
 8 only the first of several references counts
     test_similarities_to_references_are_combined
 9 a SMARTS is parsed for each molecule, or skipped if it is invalid
     test_patterns_reactions_and_references_are_compiled_once
     test_bad_parameters_are_named_and_nothing_is_logged
10 a kill loses the run, a checkpoint is incomplete, resuming cuts off the log
     test_a_killed_run_ends_as_the_undisturbed_one
     test_a_run_that_continues_keeps_its_logs
11 the example config does not pass its schema
     test_every_shipped_file_passes_the_check
12 an unknown name ends in a traceback instead of a list of names
     test_unknown_names_are_refused_with_the_nearest
13 a batch without one valid SMILES crashes
     test_a_batch_without_a_valid_molecule_is_a_normal_step
14 a hostile model file runs code
     test_a_hostile_file_is_refused_and_runs_nothing
15 a token outside the vocabulary ends the run late and is not named
     test_a_token_that_the_list_of_tokens_lacks_is_named_with_its_line
"""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from chemkl.policies import RnnPolicy, Vocabulary, load_policy, save_policy
from chemkl.stages import posttrain

DOC = __doc__ or ""
RUN = {
    "reward": {"components": [{"kind": "qed"}]}, "target": {"kind": "gibbs", "beta": 0.1},
    "estimator": "rloo", "batch_size": 16, "learning_rate": 1e-2, "budget": 48,
    "precision": "32-true",
    "trainer": {"accelerator": "cpu", "log_every_n_steps": 1}, "callbacks": {"progress_bar": False},
}  # fmt: skip


def test_every_defect_has_its_test():
    assert re.findall(r"^ ?(\d+) .*\n {5}test_", DOC, re.MULTILINE) == [*map(str, range(1, 16))]
    files = [path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py")]
    for name in re.findall(r"test_\w+", DOC):
        assert any(f"\ndef {name}(" in text for text in files), name


def test_the_optimiser_trains_the_agent_and_not_the_model_that_it_replaces(tiny_prior, tmp_path):
    agent = load_policy(tiny_prior)
    with torch.no_grad():
        for weight in agent.parameters():
            weight += 0.5
    save_policy(agent, tmp_path / "agent.safetensors", {})
    settings = RUN | {"prior": str(tiny_prior), "agent": str(tmp_path / "agent.safetensors")}
    trained = load_policy(posttrain.run(settings | {"max_samples": 64}, tmp_path / "run"))
    for name, weight in trained.state_dict().items():
        assert 0 < (weight - agent.state_dict()[name]).abs().max() < 0.1, name  # four steps of Adam


def test_a_run_that_continues_keeps_its_logs(tiny_prior, tmp_path):
    settings = RUN | {"prior": str(tiny_prior)}
    posttrain.run(settings, tmp_path)
    before = (tmp_path / "log.jsonl").read_text()
    rows = (tmp_path / "logs/csv/version_0/metrics.csv").read_text().splitlines()
    posttrain.run(settings | {"budget": 96}, tmp_path)
    after = (tmp_path / "log.jsonl").read_text()
    assert after.startswith(before)
    assert len(after) > len(before)
    logs = [path.read_text() for path in (tmp_path / "logs/csv").glob("*/metrics.csv")]
    assert all(any(row in text for text in logs) for row in rows[1:])


# ---- mistakes of users: one clear line each, exit code 2, and nothing is written

TUNING = {"corpus": "corpus", "valid_split": None}
AGENT = {key: RUN[key] for key in ("reward", "target", "estimator")} | {"budget": 16}


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_prior):
    """The working directory, with a prior and another one with fewer tokens."""
    monkeypatch.chdir(tmp_path)
    sizes = {"embedding_size": 8, "hidden_size": 8, "n_layers": 1, "max_length": 16}
    save_policy(RnnPolicy(Vocabulary.of("CN"), **sizes), "small.safetensors", {})
    Path("my.safetensors").write_bytes(tiny_prior.read_bytes())


@pytest.mark.parametrize(
    ("stage", "settings", "molecules", "why"),
    [
        ("pretrain", TUNING | {"init": "small.safetensors"}, ["CC", "CNC", "CCO"],
         "corpus: line 3: 'CCO': token 'O' at position 3 is not in the vocabulary. Known: C N. "),
        ("pretrain", TUNING | {"init": "my.safetensors"}, ["CCO"],
         "corpus: split 'train' has one molecule, but training needs one and validation another"),
        ("posttrain", AGENT | {"prior": "my.safetensors", "agent": "small.safetensors"}, [],
         "agent: has another vocabulary than prior (it lacks 1 O). Take policies"),
        ("posttrain", AGENT | {"prior": "small.safetensors", "agent": "my.safetensors"}, [],
         "agent: has another vocabulary than prior (it also has 1 O). Take policies"),
        ("posttrain", AGENT | {"prior": "my.safetensors",
                                   "diversity_filter": {"kind": "murcko", "bucket": 0}}, [],
         "diversity_filter.bucket: should be greater than or equal to 1 (got 0)"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(
    folder, chemkl, capsys, stage, settings, molecules, why
):
    Path("corpus").mkdir()
    table = pd.DataFrame({"smiles": molecules, "split": "train"})
    table.to_parquet("corpus/corpus.parquet")
    Path("corpus/tokens.json").write_text(json.dumps({"C": 1}))
    Path("in.yaml").write_text(yaml.safe_dump(settings))
    assert chemkl(stage, "in.yaml", "--out", "run") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert why in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not Path("run").exists()
