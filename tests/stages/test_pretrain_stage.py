"""The stages pretrain and pretrain_llm on the small MOSES sample: what they write and continue."""

import csv
import json
import math
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
import pyarrow.parquet as pq
import pytest
import torch
from rdkit.Chem import MolFromSmiles
from rdkit.Chem.Crippen import MolLogP
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from chemkl.config import InputError, load_config
from chemkl.config.llm import LlmPosttrainConfig
from chemkl.config.pretrain import ConditionConfig
from chemkl.llm.models import build_policy
from chemkl.llm.pretrain import Conditions
from chemkl.policies import load_policy, read_header, reinvent
from chemkl.results import sha256_of
from chemkl.stages import prepare, pretrain, pretrain_llm
from chemkl.stages.convert import convert
from chemkl.stages.pretrain import AsAsked, SampleQuality
from chemkl.stages.registry import POLICY, STAGES
from chemkl.stages.show import show
from chemkl.training import trainer

SAMPLE = Path(__file__).parents[2] / "data" / "moses_sample"
TINY = {
    "corpus": str(SAMPLE),
    "model": {"embedding_size": 8, "hidden_size": 32, "n_layers": 1, "max_length": 60},
    "valid_molecules": 100,
    "epochs": 2,
    "precision": "32-true",
    "batch_size": 512,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "samples_per_epoch": 20,
    "checkpoint_every": 5,
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 5},
}
LOGP = {"kind": "logp", "cuts": [2, 3], "names": ["low", "mid", "high"]}
TAGGED = TINY | {
    "conditions": [LOGP],
    "model": {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "max_length": 60},
    "train_molecules": 640,
    "valid_molecules": 30,
    "batch_size": 64,
    "samples_per_epoch": 7,
}
CONFIGS = {"pretrain": TINY, "pretrain_llm": TAGGED}
RESULTS = {"pretrain": "checkpoints/policy.safetensors", "pretrain_llm": "checkpoints/model"}
STEPS_AN_EPOCH = {"pretrain": 14, "pretrain_llm": 10}
both = pytest.mark.parametrize("stage", CONFIGS)


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def weights_of(folder):
    return load_file(next((folder / "checkpoints").rglob("*.safetensors")))


def same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A finished run of each stage, made when it is first asked for."""
    made = {}

    def get(stage):
        if stage not in made:
            made[stage] = tmp_path_factory.mktemp(stage) / "run"
            written = STAGES[stage].run(CONFIGS[stage], made[stage])
            assert written == made[stage] / RESULTS[stage]
        return made[stage]

    return get


@pytest.fixture
def finished(run_of):
    return run_of("pretrain")


@pytest.fixture
def tagged(run_of):
    return run_of("pretrain_llm")


# ---- what both write


def provenance_of(stage, folder):
    if stage == "pretrain":
        return read_header(folder / RESULTS[stage])["provenance"]
    return json.loads((folder / RESULTS[stage] / "chemkl.json").read_text())["provenance"]


@both
def test_the_model_knows_where_it_comes_from(stage, run_of):
    provenance = provenance_of(stage, run_of(stage))
    assert provenance["stage"] == stage
    assert provenance["run_id"] == manifest_of(run_of(stage))["run_id"]
    assert provenance["corpus_sha256"] == sha256_of(SAMPLE / "corpus.parquet")
    assert provenance["config"]["batch_size"] == CONFIGS[stage]["batch_size"]
    assert "corpus" not in provenance["config"]  # a path of this machine
    assert provenance["versions"]["torch"] == torch.__version__
    assert ("transformers" in provenance["versions"]) == (stage == "pretrain_llm")
    assert provenance["metrics"]["valid/nll"] > 0


@both
def test_the_manifest_says_how_it_went(stage, run_of):
    manifest = manifest_of(run_of(stage))
    assert (manifest["stage"], manifest["status"]) == (stage, "complete")
    assert (manifest["ended_by"], manifest["seed"]) == ("epochs", 0)
    assert manifest["inputs"]["corpus"]["sha256"] == sha256_of(SAMPLE / "corpus.parquet")
    shares = {"samples/validity", "samples/uniqueness", "samples/novelty"}
    shares |= {"samples/as_asked"} if stage == "pretrain_llm" else set()
    assert {"train/nll", "valid/nll", *shares} <= manifest["results"].keys()
    assert all(0 <= manifest["results"][name] <= 1 for name in shares)
    saved = torch.load(run_of(stage) / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2 * STEPS_AN_EPOCH[stage]


# ---- a SMILES model


def test_the_model_loads_with_the_tokens_of_the_corpus(finished):
    policy = load_policy(finished / "checkpoints" / "policy.safetensors")
    assert policy.architecture["hidden_size"] == 32
    tokens = json.loads((SAMPLE / "tokens.json").read_text())
    assert policy.vocabulary.tokens == ("$", "^", *sorted(tokens))


def test_the_validation_nll_is_the_models_own(finished):
    frame = pd.read_parquet(SAMPLE / "corpus.parquet")
    molecules = frame.loc[frame["split"] == "valid", "smiles"].head(100)
    policy = load_policy(finished / "checkpoints" / "policy.safetensors")
    with torch.no_grad():
        by_hand = -sum(policy.logp([s]).item() for s in molecules) / 100
    assert manifest_of(finished)["results"]["valid/nll"] == pytest.approx(by_hand, abs=1e-4)


def test_learning_lowers_the_validation_nll(finished):
    with (finished / "logs/csv/version_0/metrics.csv").open() as file:
        nll = [float(row["valid/nll"]) for row in csv.DictReader(file) if row["valid/nll"]]
    assert len(nll) == 2
    frame = pd.read_parquet(SAMPLE / "corpus.parquet")
    n_tokens = frame.loc[frame["split"] == "valid", "n_tokens"].head(100).mean() + 1  # and the end
    ignorant = n_tokens * math.log(len(json.loads((SAMPLE / "tokens.json").read_text())) + 2)
    assert 0.8 * ignorant > nll[0] > nll[1] + 1


def test_the_same_seed_gives_the_same_prior_and_another_another(finished, tmp_path):
    short = TINY | {"epochs": 1, "samples_per_epoch": 0}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain.run(short | {"seed": seed}, tmp_path / name)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


@pytest.mark.bf16
def test_a_gru_in_bf16_with_spellings(tmp_path):
    config = TINY | {
        "model": TINY["model"] | {"cell": "gru"},
        "precision": "bf16-mixed",
        "randomise": True,
        "trainer": TINY["trainer"] | {"max_steps": 3},
    }
    pretrain.run(config, tmp_path)
    assert {value.dtype for value in weights_of(tmp_path).values()} == {torch.float32}


def test_a_limit_of_steps_is_named_and_the_model_is_validated_at_its_end(tmp_path):
    pretrain.run(TINY | {"trainer": TINY["trainer"] | {"max_steps": 3}}, tmp_path)
    manifest = manifest_of(tmp_path)
    assert (manifest["status"], manifest["ended_by"]) == ("complete", "max_steps")
    assert {"train/nll", "valid/nll", "samples/validity"} <= manifest["results"].keys()
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3


def test_quality_of_samples_by_hand():
    quality = SampleQuality({"CCO", "c1ccccc1"})
    # six sampled, one of them cut off, one no molecule; OCC is CCO; ethane twice, and new
    found = quality(["OCC", "CC", "C(C)", "C1CC", None, "c1ccccc1"])
    assert found == {"validity": 4 / 6, "uniqueness": 3 / 4, "novelty": 1 / 3}
    assert quality(["C1", None]) == {"validity": 0, "uniqueness": 0, "novelty": 0}


# ---- fine-tuning

SMALL = ["CCOC(=O)c1ccccc1", "CCN", "CCCO", "c1ccccc1Br", "CC(C)Cl", "CCCN", "OCCO", "CC=O"]
SMALL += ["NCCO", "CCCCl", "c1ccncc1"]


@pytest.fixture
def small(tmp_path):
    """A small corpus with a name and molecules of its own, all in one split."""

    def write(smiles=SMALL, name="small"):
        folder = tmp_path / name
        folder.mkdir()
        frame = pd.DataFrame({"smiles": smiles, "split": "train"})
        frame.to_parquet(folder / "corpus.parquet")
        (folder / "tokens.json").write_text(json.dumps({"C": 1}))  # of no account
        return str(folder)

    return write


@pytest.fixture
def tuning(finished, small):
    """Settings that fine-tune the finished prior on the small corpus."""
    own = {"corpus": small(), "init": str(finished / POLICY), "valid_split": None, "patience": 2}
    own |= {"batch_size": 4, "epochs": 40, "learning_rate": 0.03, "warmup_steps": 0}
    return {k: v for k, v in TINY.items() if k != "model"} | own


def nll_of(model, smiles):
    policy = load_policy(model)
    with torch.no_grad():
        return -sum(policy.logp([s]).item() for s in smiles) / len(smiles)


def validations(folder):
    with (folder / "logs/csv/version_0/metrics.csv").open() as file:
        return [float(row["valid/nll"]) for row in csv.DictReader(file) if row["valid/nll"]]


def test_fine_tuning_goes_on_from_a_model_and_keeps_its_best_weights(tuning, finished, tmp_path):
    written = pretrain.run(tuning, tmp_path / "run")
    before, manifest = read_header(finished / POLICY), manifest_of(tmp_path / "run")
    after = read_header(written)
    assert after["architecture"] == before["architecture"]
    assert after["vocabulary"] == before["vocabulary"]
    assert manifest["inputs"]["init"]["sha256"] == sha256_of(finished / POLICY)
    assert after["provenance"]["init_sha256"] == sha256_of(finished / POLICY)
    assert not {"init", "corpus"} & after["provenance"]["config"].keys()
    assert nll_of(written, SMALL) < nll_of(finished / POLICY, SMALL) - 5
    assert manifest["ended_by"] == "patience"
    nll = validations(tmp_path / "run")
    assert nll.index(min(nll)) == len(nll) - 4  # two were waited for, the last is of the best again
    assert manifest["results"]["valid/nll"] == pytest.approx(min(nll), abs=1e-5)
    held = [s for s in SMALL if nll_of(written, [s]) == pytest.approx(min(nll), abs=1e-4)]
    assert len(held) == 1  # a tenth of eleven


def test_how_far_the_model_moved_is_told_kept_and_shown(tuning, finished, tmp_path, capsys):
    tuning |= {"report_samples": 30, "epochs": 20, "patience": None}
    model = pretrain.run(tuning, tmp_path / "run")
    told = capsys.readouterr().out
    results = manifest_of(tmp_path / "run")["results"]
    before, after = results["before"], results["after"]
    assert before["nll_set"] > after["nll_set"] + 5
    assert after["nll_init"] > before["nll_init"] + 1  # the price of it
    assert after["nll_valid"] == pytest.approx(results["valid/nll"], abs=1e-4)
    for number in (before["nll_set"], after["nll_set"], after["nll_init"]):
        assert f" {number:.2f} " in told
    show(str(tmp_path / "run"))
    shown = capsys.readouterr().out
    table = told[told.index("How far") :].partition("output:")[0].strip()
    assert table.splitlines()[0].strip() == "How far it moved"
    assert all(line in shown for line in table.splitlines())
    assert f"init     {finished / POLICY} (sha256" in shown
    assert read_header(model)["provenance"]["metrics"]["after"] == after
    pretrain.run(tuning | {"report_samples": 0}, tmp_path / "other")
    assert "before" not in manifest_of(tmp_path / "other")["results"]


def test_molecules_of_another_corpus_are_validated_on(tuning, small, tmp_path):
    other = {"valid_corpus": small(["CCCCO", "CCCN"], "other"), "valid_split": "train"}
    tuning |= other | {"epochs": 1, "patience": None}
    model = pretrain.run(tuning, tmp_path / "run")
    manifest = manifest_of(tmp_path / "run")
    assert manifest["results"]["valid/nll"] == pytest.approx(nll_of(model, ["CCCCO", "CCCN"]), 1e-4)
    assert manifest["inputs"]["valid_corpus"]["path"].endswith("other/corpus.parquet")
    small(["CCO", "CC[Se]C"], "third")
    with pytest.raises(InputError, match=r"third: line 2: 'CC\[Se\]C': token '\[Se\]' at position"):
        pretrain.run(tuning | {"valid_corpus": str(tmp_path / "third")}, tmp_path / "more")
    with pytest.raises(InputError, match="valid_corpus: name the valid_split of it that is to be"):
        pretrain.run(tuning | {"valid_split": None}, tmp_path / "more")


def test_patience_is_not_taken_for_the_end_of_a_run_that_learns_on(tuning, tmp_path):
    pretrain.run(tuning | {"epochs": 2, "learning_rate": 1e-4}, tmp_path)
    assert manifest_of(tmp_path)["ended_by"] == "epochs"
    assert validations(tmp_path)[0] > validations(tmp_path)[1]


def test_replay_keeps_the_model_from_forgetting(tuning, tmp_path):
    tuning |= {"patience": None, "epochs": 15, "report_samples": 300}
    moved = {}
    for name, replay in {"without": None, "with": {"share": 0.5}}.items():
        pretrain.run(tuning | {"replay": replay}, tmp_path / name)
        moved[name] = manifest_of(tmp_path / name)["results"]
    forgotten = {k: m["after"]["nll_init"] - m["before"]["nll_init"] for k, m in moved.items()}
    assert forgotten["with"] < 0.2 * forgotten["without"]
    # and it learns all the same
    assert moved["with"]["after"]["nll_set"] < moved["with"]["before"]["nll_set"] - 3
    with pytest.raises(InputError, match="replay: for init alone: what is replayed are its sampl"):
        pretrain.run(TINY | {"replay": {"share": 0.5}}, tmp_path / "other")
    with pytest.raises(InputError, match=r"replay\.share: should be less than 1"):
        pretrain.run(tuning | {"replay": {"share": 1}}, tmp_path / "other")


@pytest.mark.parametrize(("steps_from_end", "replay"), [(1, None), (7, None), (7, {"share": 0.3})])
def test_killed_fine_tuning_makes_the_same_model(
    tuning, tmp_path, killed_at, steps_from_end, replay
):
    tuning |= {"checkpoint_every": 1, "randomise": True, "replay": replay}
    pretrain.run(tuning, tmp_path / "whole")
    saved = torch.load(tmp_path / "whole/checkpoints/last.ckpt", weights_only=True)
    killed_at("pretrain", tuning, tmp_path / "cut", saved["global_step"] - steps_from_end)
    pretrain.run(tuning, tmp_path / "cut")
    assert same_weights(tmp_path / "cut", tmp_path / "whole")
    whole, cut = manifest_of(tmp_path / "whole"), manifest_of(tmp_path / "cut")
    assert whole["results"]["valid/nll"] == cut["results"]["valid/nll"]
    assert whole["results"]["after"] == cut["results"]["after"]
    assert whole["ended_by"] == cut["ended_by"] == "patience"
    (tmp_path / "cut" / POLICY).unlink()  # killed behind the end of the training
    (tmp_path / "cut/manifest.json").write_text(json.dumps(cut | {"status": "running"}))
    pretrain.run(tuning, tmp_path / "cut")
    assert same_weights(tmp_path / "cut", tmp_path / "whole")
    assert manifest_of(tmp_path / "cut")["ended_by"] == "patience"


def test_a_model_of_reinvent_is_fine_tuned(tuning, tmp_path, monkeypatch):
    monkeypatch.setattr(reinvent, "FIT", ((4, 4, 3, 0.1),))
    convert(tuning["init"], tmp_path / "my.prior")
    tuning |= {"init": str(tmp_path / "my.prior"), "epochs": 1, "learning_rate": 1e-9}
    written = pretrain.run(tuning, tmp_path / "run")
    # what the conversion has changed, the embedding of the end token, no likelihood depends on
    assert nll_of(written, SMALL) == pytest.approx(nll_of(tmp_path / "my.prior", SMALL), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "molecules", "message"),
    [
        ({"model": {"cell": "gru"}}, SMALL, r"model: init has a network of its own: leave model"),
        ({"tokens": {"merges": 5}}, SMALL, r"tokens.merges: init has tokens of its own"),
        ({"init": "none.safetensors"}, SMALL, r"init: no such file or folder"),
        ({"patience": 0}, SMALL, r"patience: should be greater than or equal to 1"),
        *(
            (
                {"seed": seed},
                ["CC", "CCO", "CC[Se]C", "CO"],  # held back or not
                r"^\S*other: line 3: 'CC\[Se\]C': token '\[Se\]' at position 3 is not in the vocab",
            )
            for seed in range(2)
        ),
        ({}, ["CC"], r"split 'train' holds one molecule, but one is needed to learn from and anot"),
        ({"valid_split": "valid"}, SMALL, r"no molecule in split 'valid'\. Known: train"),
    ],
)
def test_fine_tuning_that_cannot_be_is_one_clear_error(
    tuning, small, tmp_path, changes, molecules, message
):
    tuning |= {"corpus": small(molecules, "other")} | changes
    with pytest.raises(InputError, match=message) as caught:
        pretrain.run(tuning, tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_damaged_model_is_not_fine_tuned(tuning, tmp_path):
    whole = Path(tuning["init"]).read_bytes()
    for name, content in (("cut", whole[:-9]), ("flipped", whole[:-9] + b"x" + whole[-8:])):
        damaged = tmp_path / f"{name}.safetensors"
        damaged.write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}.safetensors: ") as caught:
            pretrain.run(tuning | {"init": str(damaged)}, tmp_path / "run")
        assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_new_tokens_are_learnt_where_they_may_be(tuning, finished, small, tmp_path):
    new = ["C[Se]C", "CC[Se]C", "CC[Se]CC", "C[Se]CCC", "CI", "CCI", "CCCI", "CC(C)I"]
    corpus = small(new, "new")
    Path(corpus, "tokens.json").write_text(json.dumps({"C": 9, "[Se]": 4, "I": 4, "(": 1, ")": 1}))
    tuning |= {"corpus": corpus, "extend_vocabulary": True, "epochs": 30, "patience": None}
    written = pretrain.run(tuning, tmp_path / "run")
    policy = load_policy(written)
    known = load_policy(finished / POLICY).vocabulary.tokens
    assert policy.vocabulary.tokens == (*known, "I", "[Se]")
    n_tokens = 5  # with the end
    assert nll_of(written, new) < n_tokens * math.log(len(policy.vocabulary)) - 3
    with pytest.raises(InputError, match="extend_vocabulary: for init alone"):
        pretrain.run(TINY | {"extend_vocabulary": True}, tmp_path / "other")


# ---- weights


def test_weights_are_the_shares_that_are_learnt(tmp_path, capsys):
    rows = "smiles,w\nCCO,1\nCCCCN,3\nCCBr,0\nCCCl,\nCCF,x\n"
    (tmp_path / "in.csv").write_text(rows)
    source = {"kind": "file", "path": str(tmp_path / "in.csv"), "weight": "w"}
    prepare.run({"source": source, "split": "given"}, tmp_path / "corpus")
    lost = pd.read_parquet(tmp_path / "corpus/dropped.parquet")
    assert list(lost["line"]) == [4, 5, 6]
    assert set(lost["reason"]) == {"weight: missing, or no number above 0"}
    table = pd.read_parquet(tmp_path / "corpus/corpus.parquet")
    assert dict(zip(table["smiles"], table["weight"], strict=True)) == {"CCO": 1, "CCCCN": 3}
    # many of each, so that there is a part to validate on
    corpus = pd.concat([table.assign(split="train")] * 16 + [table.assign(split="valid")])
    corpus.to_parquet(tmp_path / "corpus/corpus.parquet")
    config = TINY | {"corpus": str(tmp_path / "corpus"), "batch_size": 32, "epochs": 150}
    model = pretrain.run(config | {"samples_per_epoch": 0}, tmp_path / "run")
    policy = load_policy(model)
    with torch.no_grad():
        light, heavy = policy.logp(["CCO", "CCCCN"]).tolist()
    assert math.exp(light) == pytest.approx(0.25, abs=0.03)
    assert math.exp(heavy) == pytest.approx(0.75, abs=0.03)
    by_hand = -(1 * light + 3 * heavy) / 4
    assert manifest_of(tmp_path / "run")["results"]["valid/nll"] == pytest.approx(by_hand, abs=1e-4)
    # the square of 16 + 48 over the sum of squares, 16 + 144
    assert "32 molecules with weights, in effect 25.6 of equal weight" in capsys.readouterr().err


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_that_is_none_is_refused(small, tmp_path, weight):
    corpus = small()
    frame = pd.read_parquet(f"{corpus}/corpus.parquet")
    frame["weight"] = [1.0, weight, *[2.0] * (len(SMALL) - 2)]
    frame.to_parquet(f"{corpus}/corpus.parquet")
    with pytest.raises(InputError, match=r"weight .* of molecule 2 of split 'train': expected num"):
        pretrain.run(TINY | {"corpus": corpus, "valid_split": None}, tmp_path / "run")


# ---- a language model


def level_of(smiles):
    logp = MolLogP(MolFromSmiles(smiles))
    return "low" if logp < 2 else "mid" if logp < 3 else "high"


def test_the_validation_nll_is_that_of_the_text_under_the_saved_model(tagged):
    folder = tagged / "checkpoints" / "model"
    network = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    frame = pd.read_parquet(SAMPLE / "corpus.parquet")
    total = 0.0
    for smiles in frame.loc[frame["split"] == "valid", "smiles"].head(30):
        ids = tokenizer(f"<logp_{level_of(smiles)}> {smiles}<end>", return_tensors="pt")
        ids = ids["input_ids"][0]
        with torch.no_grad():
            logp_BV = network(ids[None]).logits[0, :-1].log_softmax(-1)
        total -= logp_BV.gather(1, ids[1:, None]).sum().item()  # the tag itself is not predicted
    assert manifest_of(tagged)["results"]["valid/nll"] == pytest.approx(total / 30, abs=1e-3)


def test_the_model_says_which_prompts_it_takes(tagged):
    about = json.loads((tagged / "checkpoints/model/chemkl.json").read_text())
    assert about["prompts"] == ["<logp_low>", "<logp_mid>", "<logp_high>"]
    assert about["provenance"]["config"]["conditions"][0]["cuts"] == [2, 3]


def test_how_many_molecules_each_prompt_has_is_said(tmp_path, capsys):
    pretrain_llm.run(TAGGED | {"trainer": TAGGED["trainer"] | {"max_steps": 1}}, tmp_path)
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
    pretrain_llm.run({**TAGGED, "epochs": 1, "samples_per_epoch": 0}, tmp_path / "run")
    said = " ".join(capsys.readouterr().err.split())
    assert "5 of 640 molecules of split 'train' are left out" in said
    counts = re.findall(r"(\d+) <logp_", said)
    assert sum(map(int, counts)) == 635
    monkeypatch.setattr(
        pretrain.Conditions,
        "prompts_of",
        lambda self, smiles: level(self, smiles) * 0 + pretrain.NO_PROMPT,
    )
    monkeypatch.setattr(pretrain.Conditions, "without", lambda *_: [])
    with pytest.raises(InputError, match="no molecule of split 'train' has all of the conditions'"):
        pretrain_llm.run(TAGGED, tmp_path / "none")


def test_post_training_takes_it_with_its_prompts(tagged):
    folder = str(tagged / "checkpoints" / "model")
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
    config = TAGGED | {
        "corpus": str(corpus), "conditions": [{"kind": "logp", "cuts": [2], "names": ["a", "b"]}],
        "precision": "32-true", "batch_size": 16, "epochs": 30, "samples_per_epoch": 40,
    }  # fmt: skip
    pretrain_llm.run(config, tmp_path / "run")
    assert manifest_of(tmp_path / "run")["results"]["samples/as_asked"] > 0.9


@pytest.fixture
def weighted(tmp_path):
    """A config of tags on a corpus with weights."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    weight_of = {"CCO": 1.0, "CCN": 3.0, "CCCCCCCC": 2.0}
    frame = pd.DataFrame({"smiles": [*weight_of] * 17, "split": ["train"] * 48 + ["valid"] * 3})
    frame["weight"] = frame["smiles"].map(weight_of)
    frame.to_parquet(corpus / "corpus.parquet")
    (corpus / "tokens.json").write_text(json.dumps({"C": 1, "O": 1, "N": 1}))
    return TAGGED | {
        "corpus": str(corpus), "conditions": [{"kind": "logp", "cuts": [2], "names": ["a", "b"]}],
        "batch_size": 16, "epochs": 40, "samples_per_epoch": 0,
    }  # fmt: skip


def test_weights_count_within_each_prompt(weighted, tmp_path, capsys):
    folder = pretrain_llm.run(weighted, tmp_path / "run")
    network = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for smiles, share in {"CCO": 0.25, "CCN": 0.75}.items():
        ids = tokenizer(f"<logp_a> {smiles}<end>", return_tensors="pt")["input_ids"][0]
        with torch.no_grad():
            logp_BV = network(ids[None]).logits[0, :-1].log_softmax(-1)
        p = logp_BV.gather(1, ids[1:, None]).sum().exp().item()
        assert p == pytest.approx(share, abs=0.05)
    # the square of 96 over the sum of squares, 16 * 14
    assert "; 48 molecules with weights, in effect 41.1 of equal weight" in capsys.readouterr().err


# ---- continuing


class Killed(BaseException):
    """Ends a run as a signal would: nothing catches it."""


@pytest.fixture
def killed_at(monkeypatch):
    """Run until a step, and no further."""

    def run(stage, config, folder, step):
        class Kill(lightning.Callback):
            def on_train_batch_end(self, lightning_trainer, *_):
                if lightning_trainer.global_step == step:
                    raise Killed

        build = trainer.build_trainer

        def build_with_kill(out, settings, callbacks, **fixed):
            return build(out, settings, [*callbacks, Kill()], **fixed)

        with monkeypatch.context() as patch:
            patch.setattr(trainer, "build_trainer", build_with_kill)
            with pytest.raises(Killed):
                STAGES[stage].run(config, folder)

    return run


def test_a_run_that_was_begun_without_the_weights_of_its_corpus_is_refused(
    weighted, tmp_path, killed_at
):
    config = weighted | {"epochs": 4}
    killed_at("pretrain_llm", config, tmp_path / "run", 8)
    file = tmp_path / "run" / "manifest.json"
    manifest = json.loads(file.read_text())
    for key in ("beside", "sha256"):  # as earlier versions wrote it
        del manifest[key]
    file.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"run: this run began without the weights of .*corpus"):
        pretrain_llm.run(config, tmp_path / "run")
    manifest["beside"] = {"weights": True}
    file.write_text(json.dumps(manifest))
    pretrain_llm.run(config, tmp_path / "run")
    assert manifest_of(tmp_path / "run")["status"] == "complete"


# no checkpoint is written behind the last batch of an epoch, but one step later
@pytest.mark.parametrize(
    ("stage", "step", "saved"),
    [
        ("pretrain", 8, 5),
        ("pretrain", 14, 10),
        ("pretrain", 17, 15),
        ("pretrain_llm", 7, 5),
        ("pretrain_llm", 10, 5),
        ("pretrain_llm", 13, 11),
    ],
)
def test_a_killed_run_makes_the_same_model(run_of, tmp_path, killed_at, stage, step, saved, capsys):
    killed_at(stage, CONFIGS[stage], tmp_path, step)
    assert manifest_of(tmp_path)["status"] == "interrupted"
    assert not (tmp_path / RESULTS[stage]).exists()
    assert "resumes" not in capsys.readouterr().err
    STAGES[stage].run(CONFIGS[stage], tmp_path)
    assert f"{tmp_path}: resumes at step {saved}\n" in capsys.readouterr().err
    assert same_weights(tmp_path, run_of(stage))
    manifest, whole = manifest_of(tmp_path), manifest_of(run_of(stage))["results"]
    assert (manifest["status"], len(manifest["resumed"])) == ("complete", 1)
    names = [name for name in whole if name.startswith(("valid/", "samples/"))]
    assert {name: manifest["results"][name] for name in names} == {n: whole[n] for n in names}


@both
def test_a_run_killed_between_its_last_step_and_its_model_is_finished(stage, run_of, tmp_path):
    shutil.copytree(run_of(stage), tmp_path, dirs_exist_ok=True)
    written = tmp_path / RESULTS[stage]
    shutil.rmtree(written) if written.is_dir() else written.unlink()
    manifest = manifest_of(tmp_path) | {"status": "running", "results": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    STAGES[stage].run(CONFIGS[stage], tmp_path)
    assert same_weights(tmp_path, run_of(stage))
    before, after = manifest_of(run_of(stage)), manifest_of(tmp_path)
    for name in ("valid/nll", "samples/validity"):
        assert after["results"][name] == before["results"][name]
    assert after["ended_by"] == "epochs"


def test_a_corpus_that_has_changed_is_not_continued_on(tmp_path, killed_at):
    corpus = tmp_path / "corpus"
    shutil.copytree(SAMPLE, corpus)
    config = TINY | {"corpus": str(corpus)}
    killed_at("pretrain", config, tmp_path / "run", 7)
    frame = pd.read_parquet(corpus / "corpus.parquet")
    frame.iloc[::-1].to_parquet(corpus / "corpus.parquet", index=False)
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match=r"corpus\.parquet: has changed since .* was begun"):
        pretrain.run(config, tmp_path / "run")
    assert contents(tmp_path / "run") == before


@pytest.mark.slow
@both
def test_a_run_that_is_really_killed_continues_to_the_same_model(stage, tmp_path):
    config = CONFIGS[stage] | {"epochs": 4, "checkpoint_every": 3, "randomise": True}
    STAGES[stage].run(config, tmp_path / "whole")
    code = (
        "import json, sys\n"
        f"from chemkl.stages import {stage}\n"
        f"{stage}.run(json.loads(sys.argv[1]), sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, json.dumps(config), str(tmp_path / "killed")]
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"

    def written():
        return last.stat().st_mtime_ns if last.exists() else 0

    steps = []
    for delay in (0.0, 0.15, 0.05):  # at a checkpoint, between two, early in the next epochs
        before = written()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while written() == before and process.poll() is None:
            time.sleep(0.002)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        steps.append(torch.load(last, weights_only=True)["global_step"])
    assert 0 < steps[0] < steps[1] < steps[2] < 4 * STEPS_AN_EPOCH[stage]
    STAGES[stage].run(config, tmp_path / "killed")
    assert same_weights(tmp_path / "whole", tmp_path / "killed")
    whole, killed = (manifest_of(tmp_path / name)["results"] for name in ("whole", "killed"))
    assert killed["valid/nll"] == whole["valid/nll"]
    leftover = [p.name for p in last.parent.iterdir()]
    assert sorted(leftover) == ["last.ckpt", Path(RESULTS[stage]).name]


# ---- what cannot be run


MISTAKES = [
    ({"corpus": "nowhere"}, r"corpus: no such file or folder"),
    ({"valid_split": "vaild"}, r"no molecule in split 'vaild'\. Known: test, train, valid"),
    ({"valid_split": "train"}, r"train_split and valid_split are both 'train': choose two"),
    ({"trainer": {"max_stps": 3}}, r"trainer: unknown argument 'max_stps'; did you mean"),
    ({"trainer": {"accelerator": "quantum"}}, r"trainer: accelerator: quantum cannot be used"),
    ({"trainer": {"max_steps": "ten"}}, r"trainer: max_steps: 'ten' is not of type int"),
    ({"trainer": {"gradient_clip_val": 1}}, r"gradient_clip_val: use gradient_clip"),
    ({"trainer": {"precision": 16}}, r"precision: use the key precision at the top level"),
    ({"precision": "16"}, r"precision: .*32-true"),
    ({"seed": 2**63}, r"seed: should be less than"),
    ({"model": {"cell": "rnn"}}, r"cell: 'rnn' is not allowed.* Known: gru, lstm"),
    ({"model": {"kind": "mingrU"}}, r"kind: 'mingrU' is not known; did you mean 'mingru'\? Known"),
    ({"model": {"kind": "transformer", "n_heads": 3}}, r"= 256 should be a multiple of 6"),
    ({"tokens": {"merges": -1}}, r"tokens\.merges: should be greater than or equal to 0"),
]  # fmt: skip
MISTAKES_OF_TAGS = [
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
]


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        *(("pretrain", *row) for row in MISTAKES),
        *(("pretrain_llm", *row) for row in MISTAKES_OF_TAGS),
    ],
)
def test_a_mistake_is_one_clear_error_and_makes_no_folder(tmp_path, stage, changes, message):
    with pytest.raises(InputError, match=message):
        STAGES[stage].run(CONFIGS[stage] | changes, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_token_that_the_list_of_tokens_lacks_is_named_with_its_line(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "corpus")
    tokens = json.loads((SAMPLE / "tokens.json").read_text())
    tokens.pop("Br")
    (tmp_path / "corpus" / "tokens.json").write_text(json.dumps(tokens))
    molecules = tmp_path / "corpus" / "corpus.parquet"  # of a version without a checksum of tokens
    pq.write_table(pq.read_table(molecules).replace_schema_metadata(None), molecules)
    config = TINY | {"corpus": str(tmp_path / "corpus")}
    with pytest.raises(InputError, match=r"line \d+: '.*': token 'Br' at position \d+ is not in"):
        pretrain.run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
