"""The posttrain_llm stage on a tiny model: where it ends, what it leaves, what a kill costs."""

import datetime
import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rdkit import Chem
from rdkit.Chem import QED
from runs import KilledError, assert_same_run
from transformers.utils import chat_template_utils

from chemkl import llm
from chemkl.config import InputError, load_config
from chemkl.config.llm import LlmPosttrainConfig
from chemkl.results import Manifest, read_trace
from chemkl.stages import posttrain, posttrain_llm
from chemkl.stages.registry import STAGES
from chemkl.training.ledger import BaseLedger

ANSWERS = ["1", "2", "3"]
TAUGHT = np.array([0.7, 0.2, 0.1])


@pytest.fixture
def config(tracked_run):
    return tracked_run(
        adapter={"kind": "lora", "r": 4, "alpha": 8},
        max_steps=10,
        seed=3,
        trainer={"accelerator": "cpu", "log_every_n_steps": 1},
    )


def exact(out, step=None):
    """Probabilities of the answers by policy and reference at a step; None: the last one."""
    table = pd.read_parquet(out / "answers.parquet")
    rows = table[table["step"] == (table["step"].max() if step is None else step)]
    return np.exp(rows["logp_policy"].to_numpy()), np.exp(rows["logp_ref"].to_numpy())


def entropy(p):
    share = p / p.sum()
    return float(-(share * np.log(share)).sum())


@pytest.mark.parametrize(
    ("kind", "adapter"),
    [
        ("mara", "lora"),
        ("gibbs", "full"),
        pytest.param("mara", "full", marks=pytest.mark.slow),
        pytest.param("gibbs", "lora", marks=pytest.mark.slow),
    ],
)
def test_a_run_ends_at_the_optimum_of_its_target(config, tmp_path, kind, adapter):
    # gibbs: equal rewards keep the reference's ratio, 7 : 2 : 1, whatever beta; mara: equal shares.
    # Adam at a constant rate walks about the optimum, by some .05 here: the mean over the second
    # half is compared, and .1 is less than what lies between the two targets at any answer
    target = {"kind": kind, "beta": 0.2} | ({"tau": 1} if kind == "mara" else {})
    config["adapter"] = {"kind": "lora", "r": 8} if adapter == "lora" else "full"
    posttrain_llm.run(
        config | {
            "target": target, "batch_size": 128, "max_steps": 100, "estimator": "log_variance",
            "learning_rate": 3e-3,
            "trainer": {"accelerator": "cpu", "log_every_n_steps": 0},  # logs cost more than steps
        },
        tmp_path / "run",
    )  # fmt: skip
    steps = pd.read_parquet(tmp_path / "run" / "answers.parquet")["step"].unique()
    looks = [exact(tmp_path / "run", step) for step in steps if step >= 50]
    shares = np.mean([p / p.sum() for p, _ in looks], axis=0)
    np.testing.assert_allclose(looks[0][1], TAUGHT, atol=0.01)  # what the reference was taught
    expected = TAUGHT if kind == "gibbs" else np.full(3, 1 / 3)
    np.testing.assert_allclose(shares, expected, atol=0.1)
    assert looks[-1][0].sum() > 0.97
    if kind == "mara":
        assert entropy(shares) > 0.97 * np.log(3)  # the reference has 0.73 of it


@pytest.fixture(scope="module")
def finished(tracked_run, tmp_path_factory):
    """One finished run with two prompts that several tests look at."""
    out = tmp_path_factory.mktemp("run") / "out"
    prompts = ["pick", [{"role": "user", "content": "C"}]]
    posttrain_llm.run(tracked_run(prompts=prompts, max_steps=6), out)
    return out


def test_every_row_has_its_group_and_anchors_are_per_prompt(finished):
    trace = read_trace(finished)
    assert len(trace) == 6 * 16
    assert trace.groupby("step")["group"].agg(list).tolist() == [[0] * 8 + [1] * 8] * 6
    assert trace["prompt"].tolist() == ["pick" if g == 0 else "C" for g in trace["group"]]
    for _, rows in trace.groupby(["step", "group"]):
        assert rows["anchor"].sum() == min(1, rows["hit"].sum())
        hits = rows[rows["hit"]]
        if len(hits):  # log target of a hit: log pi_ref(z) + R / beta, z the likeliest of the group
            expected = hits["logp_ref"].max() + 1 / 0.1
            np.testing.assert_allclose(hits["log_target"], expected, rtol=0, atol=1e-5)
    assert (trace["reward"] == trace["answer"].notna()).all()
    answers = {(g, a) for g, a in zip(trace["group"], trace["answer"], strict=True) if pd.notna(a)}
    assert trace["call"].max() == len(answers) == trace["call"].notna().sum()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft calls what transformers has renamed
def test_what_was_trained_is_loaded_again_with_its_prompts(finished, tmp_path):
    with pytest.raises(InputError, match=r"Give the folder of a finished posttrain_llm run"):
        llm.load(tmp_path)
    policy = llm.load(finished / "checkpoints" / "adapter")
    p, _ = exact(finished)
    actual = [policy.logp(ANSWERS, prompt).exp().tolist() for prompt in (0, 1)]
    np.testing.assert_allclose(np.concatenate(actual), p, rtol=1e-4)
    assert [prompt.text for prompt in policy.prompts] == ["pick", "C"]
    from peft import AutoPeftModelForCausalLM

    theirs = AutoPeftModelForCausalLM.from_pretrained(finished / "checkpoints" / "adapter")
    ids = torch.tensor([policy.prompts[0].token_ids])
    torch.testing.assert_close(theirs(ids).logits, policy.model(ids).logits)
    # by the folder of the run, too; what a killed save left does not matter
    copy = shutil.copytree(finished, tmp_path / "run")
    (copy / "checkpoints" / ".adapter.cut").mkdir()
    (copy / "checkpoints" / ".adapter.cut" / "chemkl.json").write_text("{}")
    expected = policy.logp(["1", "2"]).tolist()
    for folder in (finished / "checkpoints", copy):
        assert llm.load(folder).logp(["1", "2"]).tolist() == expected
    # prompts that an older version did not save are rendered
    about = json.loads((copy / "checkpoints" / "adapter" / "chemkl.json").read_text())
    del about["prompts"]
    (copy / "checkpoints" / "adapter" / "chemkl.json").write_text(json.dumps(about))
    assert llm.load(copy / "checkpoints" / "adapter").prompts == policy.prompts


def test_a_fully_trained_model_is_one_of_transformers_and_is_loaded_again(config, tmp_path):
    shutil.copytree(config["model"], tmp_path / "gone")
    mine = config | {"adapter": "full", "max_steps": 3, "model": str(tmp_path / "gone")}
    folder = posttrain_llm.run(mine, tmp_path / "run")
    shutil.rmtree(tmp_path / "gone")
    assert folder == tmp_path / "run" / "checkpoints" / "model"
    policy = llm.load(folder)
    p, _ = exact(tmp_path / "run")
    np.testing.assert_allclose(policy.logp(ANSWERS).exp().tolist(), p, rtol=1e-4)
    for place in (folder.parent, tmp_path / "run"):
        assert llm.load(place).logp(ANSWERS).tolist() == policy.logp(ANSWERS).tolist()
    again = config | {"model": str(folder), "max_steps": 1}
    posttrain_llm.run(again, tmp_path / "again")  # and it is a model to start from
    np.testing.assert_allclose(exact(tmp_path / "again", 0)[1], p, rtol=1e-4)


def test_manifest_and_adapter_say_where_they_come_from(finished, taught_model, config, tmp_path):
    manifest = Manifest.load(finished)
    assert (manifest.stage, manifest.status, manifest.ended_by) == (
        "posttrain_llm", "complete", "max_steps",
    )  # fmt: skip
    assert manifest.results["samples"] == 96
    assert manifest.inputs["model"].path == str(taught_model)
    stored = json.loads((finished / "checkpoints" / "adapter" / "chemkl.json").read_text())
    assert stored["provenance"]["run_id"] == manifest.run_id
    assert stored["config"] == manifest.config
    for file in (finished / "checkpoints" / "adapter").iterdir():
        assert file.stat().st_mode & 0o044 == 0o044  # others may read it
    # the checkpoint has no frozen weights
    saved = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["state_dict"]
    assert all("lora" in name for name in saved["state_dict"])
    assert len(saved["optimizer_states"][0]["state"]) == len(saved["state_dict"])
    # the exact distribution, every four steps and at the end
    table = pd.read_parquet(finished / "answers.parquet")
    assert table["step"].unique().tolist() == [0, 4, 6]
    assert len(table) == 3 * 2 * 3
    first = table[table["step"] == 0]
    np.testing.assert_allclose(first["logp_policy"], first["logp_ref"], rtol=0, atol=1e-5)
    assert table.groupby(["group", "answer"])["logp_ref"].nunique().eq(1).all()
    # the stage declares all files
    patterns = STAGES["posttrain_llm"].outputs
    for path in finished.rglob("*"):
        name = path.relative_to(finished).as_posix()
        if path.is_file() and not name.startswith("."):
            assert any(fnmatch(name, pattern) for pattern in patterns), name
    # another config does not continue in the folder
    shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(InputError, match="holds a run of stage 'posttrain_llm' with a different"):
        posttrain_llm.run(config, tmp_path / "run")
    stored = [(run / "prompts.json").read_text() for run in (finished, tmp_path / "run")]
    assert stored[0] == stored[1]


@pytest.mark.parametrize("short", [{"max_steps": 3}, {"budget": 3}], ids=str)
def test_a_longer_run_equals_one_that_was_as_long_from_the_start(finished, tmp_path, short):
    config = Manifest.load(finished).config
    posttrain_llm.run(config | short, tmp_path)
    posttrain_llm.run(config, tmp_path)
    assert Manifest.load(tmp_path).config == Manifest.load(finished).config
    assert Manifest.load(tmp_path).results == Manifest.load(finished).results
    assert_same_run(tmp_path, finished)
    (saved,) = Manifest.load(tmp_path).extended
    assert {"max_steps": config["max_steps"], "budget": None} | short == {
        key: saved[key] for key in ("max_steps", "budget")
    }


def kill(monkeypatch, config, out, kind="between checkpoints"):
    """Begin a run, and kill it as often as its kind says."""
    for owner, name, nth in KILLS[kind]:
        whole, calls = getattr(owner, name), []

        def counting(*args, whole=whole, calls=calls, nth=nth, **kwargs):
            result = whole(*args, **kwargs)
            calls.append(1)
            if len(calls) == nth:
                raise KilledError
            return result

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, counting)
            with pytest.raises(KilledError):
                posttrain_llm.run(config, out)


KILLS = {
    "between checkpoints": [(BaseLedger, "enter", 8)],
    "while it is written": [(lightning.Trainer, "save_checkpoint", 2)],
    "before the adapter is written": [(posttrain, "save", 1)],
    "twice": [(BaseLedger, "enter", 5), (BaseLedger, "enter", 4)],
}


CHANGES = {
    "plain": {},
    "msc": {"estimator": "msc", "prompts": ["pick", "C"], "reference_memory": 3},
    "full": {
        "target": {"kind": "mara", "beta": 0.1, "tau": 1, "anchor": "running"},
        "prompts": ["pick", "C", "O"], "prompts_per_step": 2, "micro_batch": 2,
        "batch_size": 16, "estimator": "f_dpg", "adapter": "full", "learning_rate": 1e-3,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Make the uninterrupted run of some settings, once for all kills."""
    finished_runs = {}

    def run(changes, config):
        if changes not in finished_runs:
            finished_runs[changes] = tmp_path_factory.mktemp(changes) / "whole"
            posttrain_llm.run(config, finished_runs[changes])
        return finished_runs[changes]

    return run


# other moments, and the signal itself: test_llm_interrupted.py
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("between checkpoints", "plain"),
        ("while it is written", "plain"),
        ("before the adapter is written", "plain"),
        ("between checkpoints", "msc"),
        ("twice", "full"),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    config, tmp_path, monkeypatch, whole_run, kind, changes
):
    config |= CHANGES[changes]
    whole = whole_run(changes, config)
    killed = tmp_path / "killed"
    kill(monkeypatch, config, killed, kind)
    posttrain_llm.run(config, killed)
    assert_same_run(killed, whole)


class Clock:
    """Stands for datetime where templates ask for the date."""

    def __init__(self, day):
        self.day = day

    def now(self):
        return datetime.datetime(2026, 1, self.day)


DATED = "<s> {{ messages[0]['content'] }} {{ strftime_now('%d')[1] }} "


@pytest.fixture
def on_day(monkeypatch):
    """Decide what day it is for templates."""
    return lambda day: monkeypatch.setattr(chat_template_utils, "datetime", Clock(day))


@pytest.fixture
def dated(config, tmp_path):
    """Settings with a template file that inserts the date."""
    (tmp_path / "t.jinja").write_text(DATED)
    return config | {"template": str(tmp_path / "t.jinja")}


@pytest.mark.parametrize(
    "changes",
    [{}, {"adapter": "full", "reference_memory": 0, "learning_rate": 1e-3}],  # it is asked anew
    ids=["lora", "full"],
)
def test_a_run_that_is_killed_and_goes_on_another_day_has_the_prompts_of_the_first(
    dated, tmp_path, monkeypatch, on_day, changes
):
    dated |= changes
    on_day(1)
    posttrain_llm.run(dated, tmp_path / "whole")
    killed = tmp_path / "killed"
    kill(monkeypatch, dated, killed)
    on_day(2)
    folder = posttrain_llm.run(dated, killed)
    assert_same_run(killed, tmp_path / "whole")
    (saved,) = json.loads((killed / "prompts.json").read_text())
    assert (saved["text"], saved["rendered"]) == ("pick", "<s> pick 1 ")
    (loaded,) = llm.load(folder).prompts
    assert (loaded.rendered, list(loaded.token_ids)) == (saved["rendered"], saved["token_ids"])
    posttrain_llm.run(dated, tmp_path / "new")  # and a new one has those of its day
    assert json.loads((tmp_path / "new" / "prompts.json").read_text())[0]["rendered"][-2] == "2"


def test_a_template_is_an_input_of_its_run(dated, tmp_path, monkeypatch):
    file, run = tmp_path / "t.jinja", tmp_path / "run"
    kill(monkeypatch, dated, run)
    assert Manifest.load(run).inputs["template"].path == str(file)
    file.write_text(DATED + "1 ")
    with pytest.raises(InputError, match=r"t\.jinja: has changed since"):
        posttrain_llm.run(dated, run)
    file.write_text(DATED)
    folder = posttrain_llm.run(dated, run)
    file.write_text(DATED + "1 ")
    with pytest.raises(InputError, match=r"t\.jinja: has changed since"):  # it is complete
        posttrain_llm.run(dated, run)
    rendered = json.loads((run / "prompts.json").read_text())[0]["rendered"]
    assert llm.load(folder).prompts[0].rendered == rendered
    file.unlink()
    assert llm.load(folder).prompts[0].rendered == rendered


def test_a_run_begun_without_kept_prompts_goes_on_and_keeps_them(
    config, tmp_path, monkeypatch, whole_run
):
    killed, whole = tmp_path / "killed", whole_run("plain", config)
    kill(monkeypatch, config, killed)
    (killed / "prompts.json").unlink()
    posttrain_llm.run(config, killed)
    assert_same_run(killed, whole)
    texts = [(run / "prompts.json").read_text() for run in (killed, whole)]
    assert texts[0] == texts[1]
    # prompts of no run are replaced
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "prompts.json").write_text("something else")
    posttrain_llm.run(config | {"max_steps": 1}, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "prompts.json").read_text())[0]["text"] == "pick"


@pytest.mark.parametrize("estimator", [{"kind": "forward_kl", "reference": "prior"}, "msc"])
def test_a_last_batch_that_is_no_multiple_of_the_prompts_ends_the_run(
    short_run, tmp_path, monkeypatch, estimator
):
    def cut(self, rollout):
        self._budget = 0
        return rollout.head(7)

    monkeypatch.setattr(BaseLedger, "affordable", cut)
    settings = short_run(prompts=["pick", "C", "O"], estimator=estimator, batch_size=12, budget=100)
    posttrain_llm.run(settings, tmp_path / "run")
    assert read_trace(tmp_path / "run")["group"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert Manifest.load(tmp_path / "run").ended_by == "budget"


def test_a_target_moves_by_its_schedule_and_a_run_ends_by_its_mean_reward(config, tmp_path):
    schedule = {"tau": {"kind": "staircase", "by": "steps", "at": [2], "values": [0.5]}}
    config["target"] |= {"schedule": schedule}
    config["callbacks"] |= {"terminate": {"mean_reward": 0, "min_steps": 4}}
    posttrain_llm.run(config | {"track": None}, tmp_path)
    assert read_trace(tmp_path).groupby("step")["tau"].first().tolist() == [1, 1, 0.5, 0.5]
    manifest = Manifest.load(tmp_path)
    assert (manifest.ended_by, manifest.results["steps"]) == ("mean_reward", 4)


@pytest.mark.parametrize(
    "precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.bf16)]
)
def test_answers_are_looked_at_in_the_precision_of_the_run(short_run, tmp_path, precision):
    config = short_run(precision=precision, max_steps=1, track={"every": 1})
    posttrain_llm.run(config, tmp_path / "run")
    table = pd.read_parquet(tmp_path / "run" / "answers.parquet")
    policy = llm.build_policy(load_config(LlmPosttrainConfig, config), trained=False)
    with torch.no_grad():
        exactly = policy.logp(ANSWERS).tolist()
        with torch.autocast("cpu", torch.bfloat16):
            rough = policy.logp(ANSWERS).tolist()
    assert rough != pytest.approx(exactly, abs=1e-4)
    expected = exactly if precision == "32-true" else rough
    first = table[table["step"] == 0]
    # the adapters, still zero, change nothing: both are the model as it was
    for column in ("logp_policy", "logp_ref"):
        assert first[column].tolist() == pytest.approx(expected, abs=1e-5)
    # the reference remembers what it was asked, so that the step has the same values
    trace = read_trace(tmp_path / "run")
    sampled = trace[trace["answer"] == "1"]
    assert len(sampled) > 0
    assert sampled["logp_ref"].tolist() == pytest.approx([expected[0]] * len(sampled), abs=1e-5)


def test_molecules_in_texts_are_scored_and_evaluated(config, taught_chemist, tmp_path):
    del config["track"]
    reward = {"components": [{"kind": "qed"}]}
    posttrain_llm.run(
        config | {
            "model": str(taught_chemist), "max_steps": 4,
            "reward": {"kind": "smiles", "reward": reward, "parse": r"([CNO]+)"},
            "target": {"kind": "mara", "beta": 0.1, "tau": 0.3}, "diversity_filter": "murcko",
            "shaper": "set_diversity",
        },
        tmp_path / "run",
    )  # fmt: skip
    trace = read_trace(tmp_path / "run")
    assert {"raw_qed", "score_qed"} <= set(trace.columns)
    valid = trace[trace["valid"]]
    assert (valid["answer"] == valid["smiles"]).all()
    assert len(valid)
    for row in valid.head(3).itertuples():
        assert row.raw_qed == pytest.approx(QED.qed(Chem.MolFromSmiles(row.canonical_smiles)))


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.bf16), "bfloat16"])
def test_bf16_mixed_and_bfloat16_weights_run(config, tmp_path, dtype):
    changes = {"model": {"name": config["model"], "dtype": dtype}}
    changes |= {"precision": "bf16-mixed"} if dtype == "float32" else {}
    posttrain_llm.run(config | {"max_steps": 3} | changes, tmp_path)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert {value.dtype for value in saved["state_dict"].values()} == {torch.float32}
    p, ref = exact(tmp_path, 0)
    np.testing.assert_allclose(ref, TAUGHT, atol=0.1)  # eight bits
    assert not np.allclose(exact(tmp_path)[0], p)


def test_a_bonus_that_dwarfs_the_reward_is_warned_of_once(config, tmp_path):
    strong = config | {"target": {"kind": "mara", "beta": 10, "tau": 1}}
    with pytest.warns(UserWarning, match="mara_bonus_std = .*above the highest reward") as caught:
        posttrain_llm.run(strong, tmp_path / "run")
    assert sum("mara_bonus_std" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ["pick " * 70]}, r"prompts\.0: 71 tokens, and max_new_tokens = 3 more do not"),
        ({"template": "none", "prompts": [[{"role": "system", "content": "x"}]]},
         r"prompts\.0: has several messages, or one that is not the user's"),
        ({"prompts": [[{"role": "system", "content": "x"}]]},
         r"prompts\.0: the chat template refuses it: .*no system"),
        ({"template": "tests"}, "template: .*tests: cannot be read .*Is a directory"),
        ({"prompts": ["pick", "pick"]}, "a prompt is repeated"),
        ({"prompts": []}, "prompts"),
        ({"batch_size": 15, "prompts": ["C", "O"]}, "should be a multiple of the 2 prompts"),
        ({"batch_size": 2, "prompts": ["C", "O"]}, "at least 4: a baseline needs two rows"),
        ({"prompts_per_step": 2}, "prompts_per_step: 2 is more than the number of prompts, 1"),
        ({"target": {"kind": "mara", "beta": 0, "tau": 1}}, "beta"),
        ({"target": {"kind": "gibbs"}}, "beta or sigma .* is missing"),
        ({"target": {"kind": "mara", "beta": 0.1, "tau": 2}}, "tau"),
        ({"target": {"kind": "mara", "beta": 0.1, "tau": 0}}, "tau"),
        ({"model": "nowhere/model/at/all"}, "no such file or folder: .*nor does it look like a"),
        ({"model": "nobody/nothing-1b"}, "model: nobody/nothing-1b cannot be loaded: .*hub"),
        ({"model": {"wheel": "llm-smollm3"}}, "model.wheel"),
        ({"model": {}}, r"give either name or wheel"),
        ({"adapter": {"kind": "lora", "targets": ["q_prj"]}},
         "adapter.targets: .*q_prj.*Linear layers of this model end in .*q_proj"),
        ({"adapter": "lorra"}, "adapter"),
        ({"track": {"every": 2}, "reward": {"kind": "smiles", "reward": {
            "components": [{"kind": "qed"}]}}}, "track.answers: required"),
        ({"track": {"answers": ["1", "zebra"]}},
         "track.answers: answer 'zebra' can never be given: the model's tokenizer"),
        ({"track": {"answers": ["1 2 3"]}}, "track.answers: answer '1 2 3' .*: it has 3 tokens"),
        ({"shaper": "set_diversity"}, "set_diversity compares molecules"),
        ({"diversity_filter": "murcko"}, "diversity_filter: it compares molecules"),
        ({"estimator": "trajectory_balance", "prompts": ["C", "O"]}, "learns one log Z"),
        ({"trainer": {"accelerator": "cpu", "devices": 1000}}, "devices: 1000: there is no GPU"),
        ({"reward": {"kind": "answers", "valid": ["1", "1"]}}, "valid: 1: given more than once"),
        ({"reward": {"kind": "answers", "valid": ["1"], "reward": 0}}, "should be above failed"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_before_a_folder_is_made(config, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        posttrain_llm.run(config | changes, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_without_template_or_end_is_refused(config, tmp_path, tiny):
    def saved(name, eos="</s>"):
        folder = tmp_path / name
        tiny.tokenizer(None, eos).save_pretrained(folder)
        tiny.llama().save_pretrained(folder)
        return str(folder)

    for model, message in [
        (saved("a"), "tokenizer has no chat template"),
        (saved("b", eos=None), "has no end-of-sequence token"),
        ({"name": saved("a"), "end_token": "<end>"}, "model.end_token: .* has no token '<end>'"),
    ]:
        with pytest.raises(InputError, match=message):
            posttrain_llm.run(config | {"model": model}, tmp_path / "run")
    plain = {"template": "none", "model": {"name": saved("b", eos=None), "end_token": "</s>"}}
    posttrain_llm.run(config | plain | {"max_steps": 1}, tmp_path / "plain")


def test_completions_that_never_end_are_counted_with_their_reason(config, tmp_path, tiny, capsys):
    model = tiny.llama(sharpness=0.0)  # all 24 tokens equally likely: an end in 1 of 24
    model.save_pretrained(tmp_path / "m")
    tiny.tokenizer().save_pretrained(tmp_path / "m")
    del config["track"]
    posttrain_llm.run(config | {"model": str(tmp_path / "m"), "max_steps": 2}, tmp_path / "run")
    trace = read_trace(tmp_path / "run")
    cut = trace["reason"] == "truncated: no end after 3 tokens"
    assert cut.mean() > 0.5
    assert not trace.loc[cut, "valid"].any()
    assert (trace.loc[cut, "reward"] == 0).all()
    message = f"{cut.sum()} of 32 completions were cut off, with no end after max_new_tokens = 3"
    assert message in capsys.readouterr().err


def test_a_function_that_gives_nothing_ends_the_run_with_its_reason(config, tmp_path):
    (tmp_path / "mine.py").write_text("def score(prompt, completion):\n    return None\n")
    del config["track"]
    reward = {"kind": "function", "function": str(tmp_path / "mine.py:score")}
    config |= {"reward": reward, "prompts": ["C"], "batch_size": 64}
    with pytest.raises(InputError, match="score failed on all 64 completions so far"):
        posttrain_llm.run(config, tmp_path / "run")


def test_the_example_of_the_room_runs(short_run, tmp_path, monkeypatch):
    reward = {"kind": "answers", "valid": ["2"]}
    config = short_run(reward=reward, batch_size=32, learning_rate=0.01)
    posttrain_llm.run(config, tmp_path / "runs" / "llm" / "months" / "mara")
    monkeypatch.chdir(tmp_path)
    lines = llm.__doc__.splitlines()
    example = "\n".join(line[4:] for line in lines if line.startswith("    "))
    namespace = {}
    exec(example, namespace)  # the text that users copy is what is tested
    assert isinstance(namespace["policy"], llm.HfPolicy)
    assert namespace["drawn"].group.tolist() == [0] * 8
    assert not namespace["after"].requires_grad
    # before training: a policy of the same run whose adapters count for nothing
    untrained = llm.load("runs/llm/months/mara")
    for name, weight in untrained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(weight)
    assert namespace["before"].tolist() == pytest.approx(untrained.logp(["May", "June"]).tolist())
    assert namespace["after"].tolist() != pytest.approx(namespace["before"].tolist(), abs=1e-6)


WITHOUT = """
import importlib.metadata as metadata
import sys
absent = ("transformers", "peft", "gguf", "tokenizers")
sys.modules |= dict.fromkeys(absent)
original = metadata.distribution
def distribution(name):
    if name in absent:
        raise metadata.PackageNotFoundError(name)
    return original(name)
metadata.distribution = distribution
import chemkl.llm
from chemkl.stages import posttrain, posttrain_llm
from chemkl.stages.plan import check_file
from chemkl.config import InputError
print(check_file("configs/posttrain/gibbs.yaml").kind)
try:
    check_file(sys.argv[1], "posttrain_llm")
except InputError as error:
    print(error)
chemkl.llm.extra.package("peft")
"""


def test_without_the_extra_everything_else_works_and_the_error_names_it(config, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-c", WITHOUT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    kind, line = done.stdout.splitlines()
    assert kind == "posttrain"
    message = "need transformers and peft, not installed here: pip install 'gguf>="
    assert re.match(rf"{path}:\d+: model: language models {message}", line)
    last = done.stderr.splitlines()[-1]
    assert "InputError: language models need peft, not installed here: pip install" in last


@pytest.mark.parametrize("below", [".", "runs/mara"])
def test_a_run_may_not_write_into_the_model_that_it_starts_from(config, tmp_path, below):
    model = shutil.copytree(config["model"], tmp_path / "model")
    before = sorted(path.name for path in model.iterdir())
    with pytest.raises(InputError, match=r"is or lies in the folder of the model"):
        posttrain_llm.run(config | {"model": str(model)}, model / below)
    assert sorted(path.name for path in model.iterdir()) == before
