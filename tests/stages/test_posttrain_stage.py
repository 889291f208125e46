"""The posttrain stage: the output of a run, its end, and exact resuming."""

import csv
import math
import re
import shutil
from collections import Counter
from functools import partial

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem, RDLogger
from rdkit.Chem import QED, Descriptors
from rdkit.Chem.Scaffolds import MurckoScaffold
from safetensors.torch import load_file
from small_runs import (
    BETA,
    CONFIG,
    FILTERED,
    RUNNING,
    TAU,
    checkpoint_of,
    contents,
    killed_after,
    killed_at_step,
    manifest_of,
    run_and_kill,
    same_run,
)

from chemkl.config import InputError
from chemkl.policies import RnnPolicy, load_policy, read_header, save_policy
from chemkl.results import read_trace
from chemkl.results.manifest import read_log
from chemkl.results.trace import read_orphans
from chemkl.stages import posttrain
from chemkl.stages.registry import STAGES

WITH_COUNTED = [
    *CONFIG["reward"]["components"],
    {"kind": "counted", "transform": {"kind": "sigmoid", "low": 0, "high": 60}},
]


@pytest.fixture(scope="module")
def run_of(run_once, tiny_prior):
    """Return the finished run of some settings."""
    return lambda settings: run_once("posttrain", settings | {"prior": str(tiny_prior)})


@pytest.fixture(scope="module")
def finished(run_of):
    """One finished run that many tests look at: MARA with a bucket filter."""
    return run_of(CONFIG | FILTERED | {"learning_rate": 3e-3, "budget": 250, "seed": 1})


@pytest.fixture(scope="module")
def trace(finished):
    return read_trace(finished)


# ---- a finished run


def test_the_budget_is_spent_and_rows_are_calls_repeats_or_invalid(finished, trace):
    manifest = manifest_of(finished)
    assert (manifest["status"], manifest["ended_by"]) == ("complete", "budget")
    steps = int(trace["step"].max()) + 1
    assert manifest["results"] == {"calls": 250, "samples": len(trace), "steps": steps}
    assert manifest["inputs"].keys() == {"prior"}
    assert trace["call"].dropna().tolist() == list(range(1, 251))
    assert len(trace) > 260  # some rows were free
    molecules = set()
    for row in trace.itertuples():
        repeat = row.valid and row.canonical_smiles in molecules
        assert row.repeat == repeat
        assert pd.isna(row.call) == (repeat or not row.valid)
        molecules.add(row.canonical_smiles)
    assert trace["repeat"].sum() > 5
    sizes = trace.groupby("step").size().tolist()
    assert sizes[:-1] == [16] * (len(sizes) - 1)
    assert 1 <= sizes[-1] <= 16
    assert trace["row"].tolist() == [r for size in sizes for r in range(size)]
    assert trace["call"].last_valid_index() >= len(trace) - 16
    assert not trace["is_replay"].any()


def test_rdkit_called_directly_gives_the_stored_values_and_reward(trace):
    RDLogger.DisableLog("rdApp.*")
    for row in trace.itertuples():
        truncated = "truncated" in str(row.reason)
        mol = Chem.MolFromSmiles(row.smiles) if row.smiles and not truncated else None
        assert row.valid == (mol is not None)
        if mol is None:
            assert isinstance(row.reason, str)
            assert row.reward == row.reward_filtered == 0.0
            assert np.isnan([row.raw_qed, row.score_qed, row.raw_tpsa, row.score_tpsa]).all()
            continue
        assert pd.isna(row.reason)
        assert row.canonical_smiles == Chem.MolToSmiles(mol)
        assert row.scaffold == MurckoScaffold.MurckoScaffoldSmiles(row.smiles)
        qed, tpsa = QED.qed(mol), Descriptors.TPSA(mol)
        sigmoid = 1 / (1 + 10 ** (-10 * 0.25 * (tpsa - 30) / 60))
        assert row.raw_qed == row.score_qed == pytest.approx(qed, abs=1e-6)
        assert row.raw_tpsa == pytest.approx(tpsa, abs=1e-6)
        assert row.score_tpsa == pytest.approx(sigmoid, abs=1e-6)
        assert row.reward == pytest.approx((qed**2 * sigmoid) ** (1 / 3), abs=1e-6)
    RDLogger.EnableLog("rdApp.*")
    assert (~trace["valid"]).sum() > 3


def test_log_probabilities_are_those_of_the_prior_and_the_agent_moves(trace, tiny_prior):
    encodable = ~trace["smiles"].str.contains("^", regex=False)  # no start token inside
    whole = trace[encodable & ~trace["reason"].str.contains("truncated", na=False)]
    expected = load_policy(tiny_prior).logp(whole["smiles"].tolist()).detach().numpy()
    assert np.abs(expected - whole["logp_ref"]).max() < 1e-3
    assert len(whole) > 250
    change = (trace["logp_policy"] - trace["logp_ref"]).groupby(trace["step"])
    assert change.get_group(0).abs().max() < 1e-4
    assert change.mean().iloc[-1] > 0.1


def test_the_filter_pays_each_scaffold_eight_times_and_keeps_the_reward(trace):
    n_paid = Counter()
    for row in trace.itertuples():
        counts = row.valid and row.reward >= 0.3
        full = counts and n_paid[row.scaffold] == 8
        assert row.reward_filtered == (0.0 if full else row.reward)
        n_paid[row.scaffold] += counts and not full
    assert (trace["reward_filtered"] < trace["reward"]).sum() > 20
    assert max(n_paid.values()) == 8


def test_hits_anchors_and_the_target_follow_the_formula_of_the_paper(trace):
    assert trace["hit"].tolist() == (trace["reward_filtered"] >= TAU).tolist()
    assert ((trace["reward"] >= TAU) & ~trace["hit"]).any()  # the filter acts before the test
    likeliest = trace[trace["hit"]].groupby("step")["logp_ref"].idxmax()
    assert trace.index[trace["anchor"]].tolist() == likeliest.tolist()
    assert len(likeliest) > 5
    anchors = trace[trace["anchor"]].set_index("step")
    for row in trace.itertuples():
        source = anchors.loc[row.step] if row.hit else row
        expected = source.logp_ref + source.reward_filtered / BETA
        assert row.log_target == pytest.approx(expected, abs=1e-3)


def test_the_policy_file_is_the_trained_one_and_says_where_it_comes_from(finished, tiny_prior):
    path = finished / "checkpoints" / "policy.safetensors"
    before, after = load_file(tiny_prior), load_file(path)
    assert before.keys() == after.keys()
    assert {file.name for file in path.parent.iterdir()} == {"last.ckpt", "policy.safetensors"}
    assert len(list((finished / "trace").iterdir())) == 1
    assert not (finished / ".orphan").exists()
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    provenance = read_header(path)["provenance"]
    assert provenance["calls"] == 250
    assert provenance["prior_sha256"] == manifest_of(finished)["inputs"]["prior"]["sha256"]
    assert load_policy(path).sample(3, torch.Generator().manual_seed(0)).smiles
    saved = checkpoint_of(finished)["state_dict"]  # holds no prior
    assert {name.split(".")[0] for name in saved} == {"policy"}
    assert sum(map(torch.numel, saved.values())) == sum(map(torch.numel, after.values()))


def test_the_metrics_stand_in_csv_and_tensorboard_files(finished, trace):
    with (finished / "logs" / "csv" / "version_0" / "metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    assert [int(row["step"]) for row in logged] == list(range(1, trace["step"].max(), 2))
    for row in logged:
        step = trace[trace["step"] == int(row["step"])]
        assert float(row["reward"]) == pytest.approx(step["reward"].mean())
        assert float(row["objective/hit_rate"]) == pytest.approx(step["hit"].mean())
        assert math.isnan(float(row["hits/sa_score"])) == (not step["hit"].any())
    names = {
        "calls", "samples", "valid_rate", "truncated_rate", "unique_rate", "new_rate",
        "canonical_rate", "reward",
        "reward_filtered", "objective/loss", "objective/hit_rate", "objective/logp_policy_mean",
        "objective/logp_ref_mean", "objective/logp_ref_hits_mean", "hits/n_tokens",
        "hits/heavy_atoms", "hits/sa_score",
    }  # fmt: skip
    assert names <= set(logged[0])
    events = list((finished / "logs" / "tensorboard").glob("events.*"))
    assert any(b"objective/hit_rate" in event.read_bytes() for event in events)


def test_metrics_go_to_mlflow_too_and_a_resumed_run_loses_none(config, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config["trainer"] = config["trainer"] | {"logger": "mlflow", "log_every_n_steps": 1}
    run_and_kill(monkeypatch, killed_at_step(5), config, tmp_path)
    config["trainer"].pop("logger")  # not part of the run's identity
    posttrain.run(config, tmp_path)
    assert "logger" not in manifest_of(tmp_path)["config"]["trainer"]
    trace = read_trace(tmp_path)
    (file,) = tmp_path.glob("logs/mlflow/*/*/metrics/reward")
    in_mlflow = {int(step): float(value) for _, value, step in map(str.split, file.open())}
    files = sorted(tmp_path.glob("logs/csv/version_*/metrics.csv"))
    in_csv = [pd.read_csv(path, index_col="step")["reward"].to_dict() for path in files]
    means = trace.groupby("step")["reward"].mean().to_dict()
    assert [list(rewards) for rewards in in_csv] == [[0, 1, 2, 3, 4], [3, 4, 5]]
    for rewards in (in_mlflow, *in_csv):
        assert rewards == pytest.approx({step: means[step] for step in rewards})


# ---- how a run ends


@pytest.mark.parametrize("budget", [1, 7, 16, 50])
def test_the_budget_is_spent_to_the_last_call_and_no_further(config, tmp_path, asked, budget):
    counted = {"components": [{"kind": "counted", "transform": {"kind": "step", "low": 20}}]}
    posttrain.run(config | {"reward": counted, "budget": budget, "batch_size": 8}, tmp_path)
    calls = read_trace(tmp_path)["call"].dropna().tolist()
    assert calls == list(range(1, budget + 1))
    assert len(asked) == len(set(asked)) == budget
    assert manifest_of(tmp_path)["ended_by"] == "budget"


def test_a_collapsed_policy_is_ended_by_max_samples(config, tmp_path, tiny_prior):
    policy = load_policy(tiny_prior)
    policy.linear.bias.data[policy.vocabulary.tokens.index("O")] += 30  # O, OO, OOO, ...
    policy.linear.bias.data[0] += 29.5
    save_policy(policy, tmp_path / "collapsed.safetensors", {})
    out = tmp_path / "run"
    config |= {"agent": str(tmp_path / "collapsed.safetensors"), "max_samples": 100}
    posttrain.run(config | {"learning_rate": 1e-9}, out)
    rows, manifest = read_trace(out), manifest_of(out)
    assert manifest["ended_by"] == "max_samples"
    assert manifest["results"]["samples"] == len(rows) == 100
    assert rows["call"].max() == manifest["results"]["calls"] < 20
    assert rows.groupby("step").size().tolist() == [16] * 6 + [4]
    assert manifest["inputs"].keys() == {"prior", "agent"}
    assert rows["logp_policy"].mean() > rows["logp_ref"].mean() + 1  # it began as the agent


def test_truncated_rows_are_invalid_and_say_so(config, tmp_path, tiny_prior):
    policy = load_policy(tiny_prior)
    short = RnnPolicy(policy.vocabulary, **{**policy._sizes, "max_length": 5})
    short.load_state_dict(policy.state_dict())
    save_policy(short, tmp_path / "short.safetensors", {})
    out = tmp_path / "run"
    posttrain.run(config | {"prior": str(tmp_path / "short.safetensors"), "budget": 20}, out)
    rows = read_trace(out)
    cut = rows[rows["reason"] == "truncated: no end after 5 tokens"]
    assert len(cut) > 10
    assert (cut["n_tokens"] == 5).all()
    assert not cut["valid"].any()
    assert cut["call"].isna().all()
    assert (rows.drop(cut.index)["n_tokens"] <= 5).all()


# ---- one seed, one run


def test_the_same_seed_gives_the_same_run_and_another_seed_another(config, tmp_path, run_of):
    whole = run_of(CONFIG)
    posttrain.run(config, tmp_path / "again")
    same_run(tmp_path / "again", whole)
    posttrain.run(config | {"seed": 4, "budget": 20}, tmp_path / "other")
    first, different = (read_trace(out)["smiles"].head(16) for out in (whole, tmp_path / "other"))
    assert first.tolist() != different.tolist()


def test_a_policy_that_diverges_is_one_clear_error(config, tmp_path):
    with pytest.raises(InputError, match=r"step \d+: the policy has diverged.*Lower learning_rate"):
        posttrain.run(config | {"learning_rate": 1e37}, tmp_path / "run")
    assert manifest_of(tmp_path / "run")["status"] == "failed"


def test_a_changed_prior_or_file_of_the_reward_is_refused_and_the_run_stays(config, tmp_path):
    prior, file = tmp_path / "prior.safetensors", tmp_path / "references.smi"
    whole = shutil.copy(config["prior"], prior).read_bytes()
    file.write_text("CCO\n")
    similar = {"kind": "tanimoto", "parameters": {"references_file": str(file)}}
    reward = {"components": [*CONFIG["reward"]["components"], similar]}
    config |= {"prior": str(prior), "reward": reward, "budget": 20}
    posttrain.run(config, tmp_path / "run")
    before = contents(tmp_path / "run")
    assert manifest_of(tmp_path / "run")["inputs"].keys() == {"prior", "reward.tanimoto.0"}
    policy = load_policy(prior)
    torch.nn.init.zeros_(policy.linear.bias)
    save_policy(policy, prior, {})
    with pytest.raises(InputError, match=r"prior.safetensors: has changed since .*run was started"):
        posttrain.run(config, tmp_path / "run")
    prior.write_bytes(whole)
    file.write_text("CCN\n")
    with pytest.raises(InputError, match=r"references\.smi: has changed since .*run was started"):
        posttrain.run(config, tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_with_a_progress_bar_the_run_is_the_same(config, tmp_path, run_of, capsys):
    posttrain.run(config | {"callbacks": {"checkpoint_every": 3}}, tmp_path)
    assert "100 of 100 calls" in capsys.readouterr().err
    pd.testing.assert_frame_equal(read_trace(run_of(CONFIG)), read_trace(tmp_path))


# ---- killed and resumed


save_checkpoint = partial(killed_after, lightning.Trainer, "save_checkpoint")
FOUR_KILLS = [
    killed_at_step(2),
    save_checkpoint(nth=2, before=True),  # between a cut of the trace and its checkpoint
    killed_at_step(5),
    killed_after(posttrain, "save_policy", before=True),
]


def test_a_run_killed_four_times_ends_as_the_whole_one(config, tmp_path, monkeypatch):
    """Of one kill at each moment see test_kills.py."""
    config |= RUNNING
    posttrain.run(config, tmp_path / "whole")
    for arrange in FOUR_KILLS:
        run_and_kill(monkeypatch, arrange, config, tmp_path / "run")
    posttrain.run(config, tmp_path / "run")
    same_run(tmp_path / "run", tmp_path / "whole")
    assert len(manifest_of(tmp_path / "run")["resumed"]) == 4


def test_a_killed_run_says_that_it_is_not_complete_and_then_where_it_goes_on(
    config, tmp_path, monkeypatch, capsys
):
    run_and_kill(monkeypatch, killed_at_step(5), config, tmp_path)
    assert "resumes" not in capsys.readouterr().err
    assert manifest_of(tmp_path)["status"] == "interrupted"
    assert not (tmp_path / "checkpoints" / "policy.safetensors").exists()
    assert read_trace(tmp_path)["step"].max() == 2
    posttrain.run(config, tmp_path)  # a checkpoint was written after the steps 0, 1 and 2
    assert f"{tmp_path}: resumes at step 3\n" in capsys.readouterr().err
    events = read_log(tmp_path)
    assert [(event["event"], event.get("steps")) for event in events] == [
        ("start", None), ("checkpoint", 3), ("signal", 5), ("start", None), ("resume", 3),
        ("checkpoint", 6), ("checkpoint", 7), ("end", 7),
    ]  # fmt: skip
    calls = read_trace(tmp_path, ["step", "call"]).groupby("step")["call"].count().cumsum()
    assert [events[n]["calls"] for n in (1, 4, 5, 7)] == [calls[n] for n in (2, 2, 5, 6)]


@pytest.mark.parametrize(
    "changes",
    [
        {"target": {"kind": "gibbs", "sigma": 30}, "estimator": "reinvent"},
        pytest.param(
            {
                "target": {"kind": "gibbs", "sigma": 30},
                "estimator": "rloo",
                "precision": "bf16-mixed",
            },
            marks=pytest.mark.bf16,
        ),
        {"max_samples": 100, "budget": 10_000},
        {"estimator": "msc"},
        {"estimator": "trajectory_balance"},
        {"estimator": "f_dpg", "shaper": "set_diversity"},
    ],
    ids=["reinvent", "bf16", "max_samples", "msc", "trajectory_balance", "f_dpg"],
)
def test_other_kinds_of_run_resume_exactly(config, tmp_path, monkeypatch, changes):
    config |= changes
    posttrain.run(config, tmp_path / "whole")
    run_and_kill(monkeypatch, killed_at_step(4), config, tmp_path / "killed")
    posttrain.run(config, tmp_path / "killed")
    same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_run_killed_before_its_first_checkpoint_says_that_it_starts_again(
    config, tmp_path, monkeypatch, capsys
):
    run_and_kill(monkeypatch, killed_at_step(1), config | {"budget": 30}, tmp_path)
    assert "starts again" not in capsys.readouterr().err
    posttrain.run(config | {"budget": 30}, tmp_path)
    line = f"{tmp_path}: starts again: there is no checkpoint to resume from\n"
    assert capsys.readouterr().err.count(line) == 1


def test_nothing_on_disk_is_scored_twice(config, tmp_path, monkeypatch, asked):
    config["reward"] = {"components": WITH_COUNTED[-1:]}
    run_and_kill(monkeypatch, save_checkpoint(nth=2, before=True), config, tmp_path)
    on_disk = read_trace(tmp_path)
    assert on_disk["step"].max() == 5  # three steps more than the checkpoint knows
    asked.clear()
    posttrain.run(config, tmp_path)
    assert not set(asked) & set(on_disk["canonical_smiles"].dropna())
    assert len(asked) == 100 - on_disk["call"].count()


def test_a_run_continues_from_what_another_process_did_meanwhile(
    config, tmp_path, run_of, monkeypatch
):
    build = posttrain._Molecules.build_reward

    def build_after_another(parts):
        monkeypatch.setattr(posttrain._Molecules, "build_reward", build)
        posttrain.run(config, tmp_path)  # a process that had the folder when this one looked
        return build(parts)

    monkeypatch.setattr(posttrain._Molecules, "build_reward", build_after_another)
    posttrain.run(config, tmp_path)
    pd.testing.assert_frame_equal(
        read_trace(tmp_path), read_trace(run_of(CONFIG)), check_exact=True
    )
    assert set(read_orphans(tmp_path)["step"]) == {6}  # the last, partial batch


def test_a_foreign_checkpoint_or_a_trace_without_its_end_is_refused(config, tmp_path, monkeypatch):
    run_and_kill(monkeypatch, killed_at_step(5), config, tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    torch.save({"state_dict": {}, "loops": {}, "optimizer_states": []}, last)
    with pytest.raises(InputError, match=r"last\.ckpt: a checkpoint, but not of a posttrain run"):
        posttrain.run(config, tmp_path)
    last.write_bytes(whole)
    for part in (tmp_path / "trace").iterdir():
        part.unlink()
    with pytest.raises(InputError, match=r"ends with step None, but .* with step 3"):
        posttrain.run(config, tmp_path)


# ---- what cannot be run


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"target": {"kind": "filter", "tau": 0.8}},
            "cannot be used with the target 'filter'.*f_dpg",
        ),
        ({"estimator": "log_variance", "shaper": "ips"}, "has no advantage .* rloo"),
    ],
)
def test_incompatible_settings_are_refused_without_a_folder(config, tmp_path, changes, says):
    config |= {"target": {"kind": "mara", "sigma": 9, "tau": 0.5}, "estimator": "rloo"} | changes
    with pytest.raises(InputError, match=says):
        posttrain.run(config, tmp_path / "run")
    with pytest.raises(InputError) as caught:  # next to problems of the schema
        STAGES["posttrain"].load(config | {"budgte": 3})
    assert len(str(caught.value).splitlines()) == 2
    assert re.search(says, str(caught.value))
    assert not (tmp_path / "run").exists()


# ---- a run that is made longer


LONGER = {
    "cut": {},  # 64 calls are spent in the middle of a batch
    "cut in the first step": {"budget": (5, 40), "max_samples": (None, None)},
    "whole": {"budget": (100, 100), "max_samples": (48, 160)},
    "cut by samples": {"budget": (100, 100), "max_samples": (40, 150)},
    "running anchor and filter": RUNNING,
    "learned log Z": {"estimator": "trajectory_balance"},
    "carried rows": {"estimator": "msc"},
    "clipped gradients": {"trainer": {"accelerator": "cpu", "gradient_clip_val": 0.5}},
}


@pytest.mark.parametrize("case", LONGER)
def test_a_longer_run_equals_one_that_was_as_long_from_the_start(config, tmp_path, asked, case):
    changes = {"budget": (64, 90), "max_samples": (None, None)} | LONGER[case]
    limits = {key: changes.pop(key) for key in ("budget", "max_samples")}
    short, long = ({key: pair[end] for key, pair in limits.items()} for end in (0, 1))
    config |= changes | {"reward": {"components": WITH_COUNTED}}
    posttrain.run(config | long, tmp_path / "whole")
    paid = list(asked)
    assert paid
    asked.clear()
    posttrain.run(config | short, tmp_path / "run")
    first = manifest_of(tmp_path / "run")
    posttrain.run(config | long, tmp_path / "run")
    same_run(tmp_path / "run", tmp_path / "whole")
    if limits["max_samples"] == (None, None):  # else others were sampled in the step cut short
        assert asked == paid
    assert len(asked) == len(set(asked)) > 0
    before = {key: first[key] for key in ("config_hash", "finished", "ended_by", "results")}
    assert manifest_of(tmp_path / "run")["extended"] == [short | before]
    assert manifest_of(tmp_path / "run")["run_id"] == first["run_id"]


@pytest.mark.parametrize(
    "kills",
    [[killed_at_step(1), killed_at_step(2)], FOUR_KILLS],
    ids=["at the step cut short and the next", "four times"],
)
def test_a_longer_run_may_be_killed_too(config, tmp_path, run_of, monkeypatch, kills):
    longer, run = {"budget": 150}, tmp_path / "run"
    posttrain.run(config | {"budget": 30}, run)
    assert read_trace(run)["step"].max() == 1
    (run / "evaluation").mkdir()
    (run / "evaluation" / "metrics.json").write_text("of 30 calls")
    for arrange in kills:
        run_and_kill(monkeypatch, arrange, config | longer, run)
        read_trace(run)
    posttrain.run(config | longer, run)
    same_run(run, run_of(CONFIG | longer))
    assert [entry["budget"] for entry in manifest_of(run)["extended"]] == [30]
    assert (run / "evaluation.old-1" / "metrics.json").read_text() == "of 30 calls"
    assert not (run / "evaluation").exists()


def test_a_longer_run_that_is_killed_at_once_makes_no_learnt_step_again(
    config, tmp_path, run_of, monkeypatch
):
    posttrain.run(config | {"budget": 60}, tmp_path)
    cut = read_trace(tmp_path)["step"].max()
    run_and_kill(monkeypatch, killed_at_step(cut), config, tmp_path)
    posttrain.run(config, tmp_path)
    same_run(tmp_path, run_of(CONFIG))


def test_a_run_can_be_made_longer_again_and_again(config, tmp_path, run_of, capsys):
    for budget in (40, 60, 61, 100):
        posttrain.run(config | {"budget": budget}, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    same_run(tmp_path, run_of(CONFIG))
    extended = manifest_of(tmp_path)["extended"]
    budgets = [(before["budget"], before["results"]["calls"]) for before in extended]
    assert budgets == [(40, 40), (60, 60), (61, 61)]
    start = f"{tmp_path}: was complete with a budget of"
    pairs = ("40; continues to 60", "60; continues to 61", "61; continues to 100")
    assert [line for line in lines if line.startswith(start)] == [f"{start} {p}" for p in pairs]
    posttrain.run(config | {"budget": 100}, tmp_path)
    assert "complete, skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"budget": 90}, "has spent 100 oracle calls, more than budget allows (90): it can be"),
        ({"max_samples": 64}, "samples, more than max_samples allows (64): it can be made longer"),
        ({"budget": 200, "seed": 4}, "seed: 3 in the folder, 4 in the new config"),
        ({"budget": 200, "batch_size": 8}, "batch_size: 16 in the folder, 8 in the new config"),
    ],
)
def test_a_run_is_not_made_shorter_or_another_one(config, run_of, changes, problem):
    run = run_of(CONFIG)
    before = contents(run)
    with pytest.raises(InputError, match=re.escape(problem)):
        posttrain.run(config | changes, run)
    assert contents(run) == before
