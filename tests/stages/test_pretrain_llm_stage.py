"""The pretrain_llm stage on the small MOSES sample: what it writes, continues and refuses."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning
import pandas as pd
import pytest
import torch
from rdkit.Chem import MolFromSmiles
from rdkit.Chem.Crippen import MolLogP
from transformers import AutoModelForCausalLM, AutoTokenizer

from chemkl.config import InputError, load_config
from chemkl.config.llm import LlmPosttrainConfig
from chemkl.config.pretrain import ConditionConfig, PretrainLlmConfig
from chemkl.llm.models import build_policy
from chemkl.llm.pretrain import Conditions
from chemkl.results import sha256_of
from chemkl.stages import pretrain, pretrain_llm
from chemkl.stages.check import check_file
from chemkl.stages.pretrain import AsAsked
from chemkl.stages.registry import STAGES

SAMPLE = Path(__file__).parents[2] / "data" / "moses_sample"
LOGP = {"kind": "logp", "cuts": [2, 3], "names": ["low", "mid", "high"]}
TINY = {
    "corpus": str(SAMPLE),
    "conditions": [LOGP],
    "model": {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "max_length": 60},
    "train_molecules": 640,
    "valid_molecules": 30,
    "epochs": 2,
    "precision": "32-true",
    "batch_size": 64,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "samples_per_epoch": 7,
    "checkpoint_every": 5,
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 5},
}
STEPS_AN_EPOCH = 10


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def network_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / "model")


def same_weights(one, other):
    one, other = network_of(one).state_dict(), network_of(other).state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain_llm") / "run"
    assert pretrain_llm.run(TINY, folder) == folder / "checkpoints" / "model"
    return folder


def level_of(smiles):
    logp = MolLogP(MolFromSmiles(smiles))
    return "low" if logp < 2 else "mid" if logp < 3 else "high"


# ---- what it writes


def test_the_validation_nll_is_that_of_the_text_under_the_saved_model(finished):
    network = network_of(finished)
    tokenizer = AutoTokenizer.from_pretrained(finished / "checkpoints" / "model")
    frame = pd.read_parquet(SAMPLE / "corpus.parquet")
    total = 0.0
    for smiles in frame.loc[frame["split"] == "valid", "smiles"].head(30):
        ids = tokenizer(f"<logp_{level_of(smiles)}> {smiles}<end>", return_tensors="pt")
        ids = ids["input_ids"][0]
        with torch.no_grad():
            logp_BV = network(ids[None]).logits[0, :-1].log_softmax(-1)
        total -= logp_BV.gather(1, ids[1:, None]).sum().item()  # the tag itself is not predicted
    results = manifest_of(finished)["results"]
    assert results["valid/nll"] == pytest.approx(total / 30, abs=1e-3)
    assert {"samples/validity", "samples/as_asked"} <= results.keys()


def test_the_model_says_which_prompts_it_takes_and_where_it_comes_from(finished):
    about = json.loads((finished / "checkpoints/model/chemkl.json").read_text())
    assert about["prompts"] == ["<logp_low>", "<logp_mid>", "<logp_high>"]
    provenance = about["provenance"]
    assert provenance["run_id"] == manifest_of(finished)["run_id"]
    assert provenance["corpus_sha256"] == sha256_of(SAMPLE / "corpus.parquet")
    assert provenance["config"]["conditions"][0]["cuts"] == [2, 3]
    assert "corpus" not in provenance["config"]  # a path of this machine
    assert {"torch", "transformers"} <= provenance["versions"].keys()


def test_the_manifest_says_how_it_went(finished):
    manifest = manifest_of(finished)
    assert (manifest["stage"], manifest["status"]) == ("pretrain_llm", "complete")
    assert manifest["ended_by"] == "epochs"
    saved = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2 * STEPS_AN_EPOCH


def test_how_many_molecules_each_prompt_has_is_said(tmp_path, capsys):
    pretrain_llm.run(TINY | {"trainer": TINY["trainer"] | {"max_steps": 1}}, tmp_path)
    frame = pd.read_parquet(SAMPLE / "corpus.parquet")
    levels = frame.loc[frame["split"] == "train", "smiles"].head(640).map(level_of).value_counts()
    said = ", ".join(f"{levels[level]} <logp_{level}>" for level in ("low", "mid", "high"))
    assert f"{tmp_path}: molecules to learn from: {said}\n" in capsys.readouterr().err


def test_molecules_without_a_value_are_left_out_and_counted(tmp_path, capsys, monkeypatch):
    level = pretrain.Conditions.prompts_of

    def all_but_five(self, smiles):
        number = level(self, smiles)
        number[:5] = pretrain.NO_PROMPT
        return number

    monkeypatch.setattr(pretrain.Conditions, "prompts_of", all_but_five)
    pretrain_llm.run({**TINY, "epochs": 1, "samples_per_epoch": 0}, tmp_path / "run")
    said = " ".join(capsys.readouterr().err.split())
    assert "5 of 640 molecules of split 'train' are left out" in said
    counts = re.findall(r"(\d+) <logp_", said)
    assert sum(map(int, counts)) == 635


def test_post_training_takes_it_with_its_prompts(finished):
    folder = str(finished / "checkpoints" / "model")
    reward = {"kind": "smiles", "reward": {"components": [{"kind": "qed"}]}}
    config = load_config(LlmPosttrainConfig, {
        "model": folder, "adapter": "full", "template": "none", "max_new_tokens": 50,
        "prompts": ["<logp_low>", "<logp_high>"], "reward": reward,
        "target": {"kind": "mara", "tau": 0.8, "beta": 0.1},
    })  # fmt: skip
    policy = build_policy(config)
    assert [prompt.token_ids for prompt in policy.prompts] == [
        tuple(policy.tokenizer.convert_tokens_to_ids([tag]))
        for tag in ("<logp_low>", "<logp_high>")
    ]
    assert policy.end_id == 0


def test_quality_by_hand():
    quality = AsAsked(Conditions([ConditionConfig(**LOGP)]), {"CCO"})
    # logP: ethanol 0.0, hexane 2.6, benzene 1.7, decane 4.1; two samples of each prompt; one is
    # cut off, and what is no molecule is neither as asked nor otherwise
    found = quality(["CCO", "CCCCCC", "CCCCCC", None, "CCCCCCCCCC", "c1ccccc1"])
    assert found["as_asked"] == 3 / 5
    assert found["validity"] == 5 / 6
    assert quality(["C1"] * 3)["as_asked"] == 0


def test_learning_makes_molecules_as_asked(tmp_path):
    # two molecules, one a level: what a prompt asks for is all that there is to learn
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    frame = pd.DataFrame({"smiles": ["CCO"] * 32 + ["CCCCCCCC"] * 32 + ["CCO", "CCCCCCCC"]})
    frame["split"] = ["train"] * 64 + ["valid"] * 2
    frame.to_parquet(corpus / "corpus.parquet")
    (corpus / "tokens.json").write_text(json.dumps({"C": 1, "O": 1}))
    config = TINY | {
        "corpus": str(corpus), "conditions": [{"kind": "logp", "cuts": [2], "names": ["a", "b"]}],
        "precision": "32-true", "batch_size": 16, "epochs": 30, "samples_per_epoch": 40,
    }  # fmt: skip
    pretrain_llm.run(config, tmp_path / "run")
    assert manifest_of(tmp_path / "run")["results"]["samples/as_asked"] > 0.9


# ---- continuing


class Killed(BaseException):
    """Ends a run as a signal would: nothing catches it."""


# no checkpoint is written behind the last batch of an epoch, but one step later
@pytest.mark.parametrize(("step", "saved"), [(7, 5), (STEPS_AN_EPOCH, 5), (13, 11)])
def test_a_killed_run_continues_to_the_same_model(
    finished, tmp_path, step, saved, monkeypatch, capsys
):
    class Kill(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == step:
                raise Killed

    build = pretrain.build_trainer
    with monkeypatch.context() as patch:
        patch.setattr(
            pretrain,
            "build_trainer",
            lambda out, settings, callbacks, **fixed: build(
                out, settings, [*callbacks, Kill()], **fixed
            ),
        )
        with pytest.raises(Killed):
            pretrain_llm.run(TINY, tmp_path)
    assert manifest_of(tmp_path)["status"] == "interrupted"
    assert not (tmp_path / "checkpoints" / "model").exists()
    pretrain_llm.run(TINY, tmp_path)
    assert f"resumes at step {saved}\n" in capsys.readouterr().err
    assert same_weights(tmp_path, finished)
    names = ("valid/nll", "samples/validity", "samples/as_asked")
    before, after = (manifest_of(each)["results"] for each in (finished, tmp_path))
    assert {name: before[name] for name in names} == {name: after[name] for name in names}


@pytest.mark.slow
def test_a_run_that_is_really_killed_continues_to_the_same_model(tmp_path):
    config = TINY | {"epochs": 4, "checkpoint_every": 3, "randomise": True}
    pretrain_llm.run(config, tmp_path / "whole")
    code = (
        "import json, sys\n"
        "from chemkl.stages import pretrain_llm\n"
        "pretrain_llm.run(json.loads(sys.argv[1]), sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, json.dumps(config), str(tmp_path / "killed")]
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not last.exists() and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    pretrain_llm.run(config, tmp_path / "killed")
    assert same_weights(tmp_path / "whole", tmp_path / "killed")


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_complete_run_is_left_as_it_is_and_so_is_another_one(finished):
    before = contents(finished)
    assert pretrain_llm.run(TINY, finished) == finished / "checkpoints" / "model"
    with pytest.raises(
        InputError, match=r"conditions.0.cuts: .* in the folder, .* in the new config"
    ):
        pretrain_llm.run(TINY | {"conditions": [LOGP | {"cuts": [1, 3]}]}, finished)
    assert contents(finished) == before


def test_a_run_killed_before_its_model_was_written_is_finished(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "model")
    manifest = manifest_of(tmp_path) | {"status": "running", "results": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    pretrain_llm.run(TINY, tmp_path)
    assert same_weights(tmp_path, finished)


# ---- what cannot be run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": "nowhere"}, r"corpus: no such file or folder"),
        ({"valid_split": "vaild"}, r"no molecule in split 'vaild'\. Known: test, train, valid"),
        ({"trainer": {"max_stps": 3}}, r"trainer: unknown argument 'max_stps'; did you mean"),
        ({"conditions": []}, r"conditions: should have at least 1 entry"),
        ({"conditions": [LOGP | {"kind": "logg"}]}, r"conditions\.0\.kind: unknown component"),
        (
            {"conditions": [LOGP | {"cuts": [2, 40]}]},
            r"no molecule is <logp_high> \(40 <= logp\) among the 640 of split 'train': choose",
        ),
        ({"conditions": [LOGP | {"names": ["a", "b"]}]}, r"2 cuts make 3 levels, but names has 2"),
        (
            {"model": {"max_length": 20}},
            r"max_length = 20: the longest molecule has \d+ tokens with its end, and 1 tags come",
        ),
        ({"model": {"hidden_size": 30}}, r"hidden_size = 30 should be a multiple of 8"),
    ],
)
def test_a_mistake_is_one_clear_error_and_makes_no_folder(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        pretrain_llm.run(TINY | changes, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_problems_come_in_one_message(tmp_path):
    bad = {"conditions": [LOGP | {"kind": "logg"}], "trainer": {"lr": 1}, "train_split": "x"}
    with pytest.raises(InputError) as caught:
        pretrain_llm.run(TINY | bad, tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 3
    with pytest.raises(InputError) as caught:
        pretrain_llm.run(TINY | bad | {"epochs": 0}, tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 4


def test_an_awaited_corpus_is_not_looked_into(tmp_path):
    config = load_config(PretrainLlmConfig, TINY | {"corpus": str(tmp_path)})
    STAGES["pretrain_llm"].check(config, awaited=[tmp_path])
    with pytest.raises(InputError, match=r"no prepared corpus"):
        STAGES["pretrain_llm"].check(config)


def test_the_pipeline_is_in_order():
    pipelines = Path(__file__).parents[2] / "pipelines"
    assert check_file(pipelines / "llm_chemistry.yaml").kind == "pipeline"
