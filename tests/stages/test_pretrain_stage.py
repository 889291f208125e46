"""The stages pretrain and pretrain_llm on the MOSES sample: output, fine-tuning, resuming."""

import csv
import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from rdkit.Chem import MolFromSmiles
from rdkit.Chem.Crippen import MolLogP
from small_runs import (
    LOGP,
    SAMPLE,
    TAGGED,
    TINY,
    checkpoint_of,
    contents,
    killed_at_update,
    manifest_of,
    run_and_kill,
    same_run,
    same_weights,
    weights_of,
    write_corpus,
)
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
from chemkl.stages.pretrain import PromptQuality, SampleQuality
from chemkl.stages.registry import POLICY, STAGES
from chemkl.stages.show import show

CONFIGS = {"pretrain": TINY, "pretrain_llm": TAGGED}
RESULTS = {"pretrain": "checkpoints/policy.safetensors", "pretrain_llm": "checkpoints/model"}
STEPS_AN_EPOCH = {"pretrain": 14, "pretrain_llm": 10}
PROGRESS = ("train/", "lr-")  # counted from the last start
both = pytest.mark.parametrize("stage", CONFIGS)


@pytest.fixture(scope="module")
def run_of(run_once):
    """Return the finished run of a stage."""
    return lambda stage: run_once(stage, CONFIGS[stage])


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
def test_the_model_and_the_manifest_say_how_it_went(stage, run_of):
    manifest, provenance = manifest_of(run_of(stage)), provenance_of(stage, run_of(stage))
    assert STAGES[stage].run(CONFIGS[stage], run_of(stage)) == run_of(stage) / RESULTS[stage]
    assert provenance["stage"] == manifest["stage"] == stage
    assert provenance["run_id"] == manifest["run_id"]
    corpus = sha256_of(SAMPLE / "corpus.parquet")
    assert provenance["corpus_sha256"] == manifest["inputs"]["corpus"]["sha256"] == corpus
    assert provenance["config"]["batch_size"] == CONFIGS[stage]["batch_size"]
    assert "corpus" not in provenance["config"]  # a path of this machine
    assert provenance["versions"]["torch"] == torch.__version__
    assert ("transformers" in provenance["versions"]) == (stage == "pretrain_llm")
    assert provenance["metrics"]["valid/nll"] > 0
    assert (manifest["status"], manifest["ended_by"]) == ("complete", "epochs")
    assert manifest["seed"] == 0
    shares = {"samples/validity", "samples/uniqueness", "samples/novelty"}
    shares |= {"samples/as_asked"} if stage == "pretrain_llm" else set()
    assert {"train/nll", "valid/nll", *shares} <= manifest["results"].keys()
    assert all(0 <= manifest["results"][name] <= 1 for name in shares)
    assert checkpoint_of(run_of(stage))["global_step"] == 2 * STEPS_AN_EPOCH[stage]


# ---- a SMILES model


def test_the_model_has_the_tokens_of_the_corpus_and_learns(finished):
    policy = load_policy(finished / POLICY)
    assert policy.architecture["hidden_size"] == 32
    tokens = json.loads((SAMPLE / "tokens.json").read_text())
    assert policy.vocabulary.tokens == ("$", "^", *sorted(tokens))
    frame = pd.read_parquet(SAMPLE / "corpus.parquet")
    valid = frame[frame["split"] == "valid"].head(100)
    by_hand = nll_of(finished / POLICY, valid["smiles"])
    assert manifest_of(finished)["results"]["valid/nll"] == pytest.approx(by_hand, abs=1e-4)
    first, last = validations(finished)
    uniform = (valid["n_tokens"].mean() + 1) * math.log(len(tokens) + 2)  # with the end token
    assert 0.8 * uniform > first > last + 1


def test_the_seed_decides(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain.run(steps(3, samples_per_epoch=0, seed=seed), tmp_path / name)
    a, b, c = (weights_of(tmp_path / name) for name in "abc")
    assert same_weights(a, b)
    assert not same_weights(a, c)


def steps(number, **changes):
    """Settings of a training with a limit of steps."""
    return TINY | changes | {"trainer": TINY["trainer"] | {"max_steps": number}}


@pytest.mark.bf16
def test_a_gru_in_bf16_with_spellings(tmp_path):
    model = TINY["model"] | {"cell": "gru"}
    pretrain.run(steps(3, model=model, precision="bf16-mixed", randomise=True), tmp_path)
    assert {value.dtype for value in weights_of(tmp_path).values()} == {torch.float32}


def test_a_limit_of_steps_is_named_and_the_model_is_validated_at_its_end(tmp_path):
    pretrain.run(steps(3), tmp_path)
    manifest = manifest_of(tmp_path)
    assert (manifest["status"], manifest["ended_by"]) == ("complete", "max_steps")
    assert {"train/nll", "valid/nll", "samples/validity"} <= manifest["results"].keys()
    assert checkpoint_of(tmp_path)["global_step"] == 3


def test_quality_of_samples_by_hand():
    quality = SampleQuality({"CCO", "c1ccccc1"})
    # six sampled, one of them cut off, one no molecule; OCC is CCO; ethane twice, and new
    shares = quality(["OCC", "CC", "C(C)", "C1CC", None, "c1ccccc1"])
    assert shares == {"validity": 4 / 6, "uniqueness": 3 / 4, "novelty": 1 / 3}
    assert quality(["C1", None]) == {"validity": 0, "uniqueness": 0, "novelty": 0}
    quality = PromptQuality(Conditions([ConditionConfig(**LOGP)]), {"CCO"})
    # logP: ethanol 0.0, hexane 2.6, benzene 1.7, decane 4.1; two samples of each prompt; one is
    # cut off: an invalid sample neither fulfils nor breaks its prompt
    shares = quality(["CCO", "CCCCCC", "CCCCCC", None, "CCCCCCCCCC", "c1ccccc1"])
    assert (shares["as_asked"], shares["validity"]) == (3 / 5, 5 / 6)
    assert quality(["C1"] * 3)["as_asked"] == 0


# ---- fine-tuning

SMALL = ["CCOC(=O)c1ccccc1", "CCN", "CCCO", "c1ccccc1Br", "CC(C)Cl", "CCCN", "OCCO", "CC=O"]
SMALL += ["NCCO", "CCCCl", "c1ccncc1"]


@pytest.fixture
def small(tmp_path):
    """Write a small corpus in one split."""
    return lambda smiles=SMALL, name="small": write_corpus(
        tmp_path / name, smiles=smiles, split="train"
    )


@pytest.fixture
def tuning(finished, small):
    """Settings that fine-tune the finished prior on the small corpus."""
    return {key: value for key, value in TINY.items() if key != "model"} | {
        "corpus": small(), "init": str(finished / POLICY), "valid_split": None, "patience": 2,
        "batch_size": 4, "epochs": 40, "learning_rate": 0.03, "warmup_steps": 0,
    }  # fmt: skip


def nll_of(model, smiles):
    policy = load_policy(model)
    with torch.no_grad():
        return -sum(policy.logp([s]).item() for s in smiles) / len(smiles)


def validations(folder):
    with (folder / "logs/csv/version_0/metrics.csv").open() as file:
        return [float(row["valid/nll"]) for row in csv.DictReader(file) if row["valid/nll"]]


def test_fine_tuning_continues_a_model_and_keeps_the_best_weights(tuning, finished, tmp_path):
    model_path = pretrain.run(tuning, tmp_path / "run")
    before, manifest = read_header(finished / POLICY), manifest_of(tmp_path / "run")
    after = read_header(model_path)
    assert after["architecture"] == before["architecture"]
    assert after["vocabulary"] == before["vocabulary"]
    assert manifest["inputs"]["init"]["sha256"] == sha256_of(finished / POLICY)
    assert after["provenance"]["init_sha256"] == sha256_of(finished / POLICY)
    assert not {"init", "corpus"} & after["provenance"]["config"].keys()
    assert nll_of(model_path, SMALL) < nll_of(finished / POLICY, SMALL) - 5
    assert manifest["ended_by"] == "patience"
    nll = validations(tmp_path / "run")
    assert nll.index(min(nll)) == len(nll) - 4  # two epochs of patience, then the best again
    assert manifest["results"]["valid/nll"] == pytest.approx(min(nll), abs=1e-5)
    held_back = [s for s in SMALL if nll_of(model_path, [s]) == pytest.approx(min(nll), abs=1e-4)]
    assert len(held_back) == 1  # a tenth of eleven


def test_the_changes_by_fine_tuning_are_printed_stored_and_shown(
    tuning, finished, tmp_path, capsys
):
    tuning |= {"report_samples": 30, "epochs": 20, "patience": None}
    model = pretrain.run(tuning, tmp_path / "run")
    output = capsys.readouterr().out
    results = manifest_of(tmp_path / "run")["results"]
    before, after = results["before"], results["after"]
    assert before["nll_set"] > after["nll_set"] + 5
    assert after["nll_init"] > before["nll_init"] + 1
    assert after["nll_valid"] == pytest.approx(results["valid/nll"], abs=1e-4)
    for number in (before["nll_set"], after["nll_set"], after["nll_init"]):
        assert f" {number:.2f} " in output
    show(str(tmp_path / "run"))
    text = capsys.readouterr().out
    table = output[output.index("Changes by") :].partition("output:")[0].strip()
    assert table.splitlines()[0].strip() == "Changes by fine-tuning"
    assert all(line in text for line in table.splitlines())
    assert f"init     {finished / POLICY} (sha256" in text
    assert read_header(model)["provenance"]["metrics"]["after"] == after
    pretrain.run(tuning | {"report_samples": 0}, tmp_path / "other")
    assert "before" not in manifest_of(tmp_path / "other")["results"]


def test_validation_on_another_corpus(tuning, small, tmp_path):
    different = {"valid_corpus": small(["CCCCO", "CCCN"], "other"), "valid_split": "train"}
    tuning |= different | {"epochs": 1, "patience": None}
    model = pretrain.run(tuning, tmp_path / "run")
    manifest = manifest_of(tmp_path / "run")
    assert manifest["results"]["valid/nll"] == pytest.approx(nll_of(model, ["CCCCO", "CCCN"]), 1e-4)
    assert manifest["inputs"]["valid_corpus"]["path"].endswith("other/corpus.parquet")
    third = small(["CCO", "CC[Se]C"], "third")
    for changes, says in [
        ({"valid_corpus": third}, r"third: line 2: 'CC\[Se\]C': token '\[Se\]' at position"),
        ({"valid_split": None}, "valid_corpus: give the valid_split to use from it"),
    ]:
        with pytest.raises(InputError, match=says):
            pretrain.run(tuning | changes, tmp_path / "more")


def test_patience_does_not_end_a_run_that_improves(tuning, tmp_path):
    pretrain.run(tuning | {"epochs": 2, "learning_rate": 1e-4}, tmp_path)
    assert manifest_of(tmp_path)["ended_by"] == "epochs"
    assert validations(tmp_path)[0] > validations(tmp_path)[1]


def test_replay_limits_forgetting(tuning, tmp_path):
    tuning |= {"patience": None, "epochs": 15, "report_samples": 300}
    lost, learnt = {}, {}
    for name, replay in {"without": None, "with": {"share": 0.5}}.items():
        pretrain.run(tuning | {"replay": replay}, tmp_path / name)
        results = manifest_of(tmp_path / name)["results"]
        lost[name] = results["after"]["nll_init"] - results["before"]["nll_init"]
        learnt[name] = results["before"]["nll_set"] - results["after"]["nll_set"]
    assert lost["with"] < 0.2 * lost["without"]
    assert learnt["with"] > 3


@pytest.mark.parametrize(("steps_from_end", "replay"), [(1, None), (7, None), (7, {"share": 0.3})])
def test_killed_fine_tuning_makes_the_same_model(
    tuning, tmp_path, monkeypatch, steps_from_end, replay
):
    tuning |= {"checkpoint_every": 1, "randomise": True, "replay": replay}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain.run(tuning, whole)
    kill = killed_at_update(checkpoint_of(whole)["global_step"] - steps_from_end)
    run_and_kill(monkeypatch, kill, tuning, cut, pretrain)
    pretrain.run(tuning, cut)
    same_run(cut, whole, but=PROGRESS)
    assert manifest_of(cut)["ended_by"] == "patience"
    (cut / POLICY).unlink()  # as if killed after the end of training
    (cut / "manifest.json").write_text(json.dumps(manifest_of(cut) | {"status": "running"}))
    pretrain.run(tuning, cut)
    assert same_weights(weights_of(cut), weights_of(whole))
    assert manifest_of(cut)["ended_by"] == "patience"


def test_a_model_of_reinvent_is_fine_tuned(tuning, tmp_path, monkeypatch):
    monkeypatch.setattr(reinvent, "FIT", ((4, 4, 3, 0.1),))
    convert(tuning["init"], tmp_path / "my.prior")
    tuning |= {"init": str(tmp_path / "my.prior"), "epochs": 1, "learning_rate": 1e-9}
    model_path = pretrain.run(tuning, tmp_path / "run")
    # the conversion changes only the embedding of the end token, which affects no likelihood
    assert nll_of(model_path, SMALL) == pytest.approx(
        nll_of(tmp_path / "my.prior", SMALL), abs=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "molecules", "message"),
    [
        ({"model": {"cell": "gru"}}, SMALL, r"model: init has its own network: leave out model"),
        ({"tokens": {"merges": 5}}, SMALL, r"tokens.merges: init has its own tokens"),
        ({"init": "none.safetensors"}, SMALL, r"init: no such file or folder"),
        ({"patience": 0}, SMALL, r"patience: should be greater than or equal to 1"),
        ({"replay": {"share": 1}}, SMALL, r"replay\.share: should be less than 1"),
        *(
            (
                {"seed": seed},
                ["CC", "CCO", "CC[Se]C", "CO"],  # held back or not
                r"^\S*other: line 3: 'CC\[Se\]C': token '\[Se\]' at position 3 is not in the vocab",
            )
            for seed in range(2)
        ),
        ({}, ["CC"], r"split 'train' has one molecule, but training needs one and validation anot"),
        ({"valid_split": "valid"}, SMALL, r"no molecule in split 'valid'\. Known: train"),
    ],
)
def test_impossible_fine_tuning_is_one_clear_error(
    tuning, small, tmp_path, changes, molecules, message
):
    tuning |= {"corpus": small(molecules, "other")} | changes
    with pytest.raises(InputError, match=message) as caught:
        pretrain.run(tuning, tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_damaged_model_is_not_fine_tuned(tuning, tmp_path):
    whole, damaged = Path(tuning["init"]).read_bytes(), tmp_path / "damaged.safetensors"
    for content in (whole[:-9], whole[:-9] + b"x" + whole[-8:]):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged\.safetensors: ") as caught:
            pretrain.run(tuning | {"init": str(damaged)}, tmp_path / "run")
        assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_new_tokens_are_learnt(tuning, finished, tmp_path):
    new = ["C[Se]C", "CC[Se]C", "CC[Se]CC", "C[Se]CCC", "CI", "CCI", "CCCI", "CC(C)I"]
    tokens = ["C", "[Se]", "I", "(", ")"]
    tuning["corpus"] = write_corpus(tmp_path / "new", tokens, smiles=new, split="train")
    tuning |= {"extend_vocabulary": True, "epochs": 30, "patience": None}
    model_path = pretrain.run(tuning, tmp_path / "run")
    policy = load_policy(model_path)
    old_tokens = load_policy(finished / POLICY).vocabulary.tokens
    assert policy.vocabulary.tokens == (*old_tokens, "I", "[Se]")
    n_tokens = 5  # with the end
    assert nll_of(model_path, new) < n_tokens * math.log(len(policy.vocabulary)) - 3


# ---- weights


def test_probabilities_follow_the_weights(tmp_path, capsys):
    rows = "smiles,w\nCCO,1\nCCCCN,3\nCCBr,0\nCCCl,\nCCF,x\n"
    (tmp_path / "in.csv").write_text(rows)
    source = {"kind": "file", "path": str(tmp_path / "in.csv"), "weight": "w"}
    prepare.run({"source": source, "split": "given"}, tmp_path / "corpus")
    dropped = pd.read_parquet(tmp_path / "corpus/dropped.parquet")
    reason = "weight: missing, or no number above 0"
    assert dropped[["line", "reason"]].values.tolist() == [[n, reason] for n in (4, 5, 6)]
    table = pd.read_parquet(tmp_path / "corpus/corpus.parquet")
    assert dict(zip(table["smiles"], table["weight"], strict=True)) == {"CCO": 1, "CCCCN": 3}
    # many copies, so that there is a part to validate on
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
def test_an_invalid_weight_is_refused(tmp_path, weight):
    weights = [1.0, weight, *[2.0] * (len(SMALL) - 2)]
    corpus = write_corpus(tmp_path / "corpus", smiles=SMALL, split="train", weight=weights)
    with pytest.raises(InputError, match=r"weight .* of molecule 2 of split 'train': expected num"):
        pretrain.run(TINY | {"corpus": corpus, "valid_split": None}, tmp_path / "run")


# ---- a language model


def level_of(smiles):
    logp = MolLogP(MolFromSmiles(smiles))
    return "low" if logp < 2 else "mid" if logp < 3 else "high"


def logp_under(folder):
    """Return a function for the log-probability of a molecule after a tag."""
    network = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def logp(tag, smiles):
        ids = tokenizer(f"<logp_{tag}> {smiles}<end>", return_tensors="pt")["input_ids"][0]
        with torch.no_grad():
            logp_BV = network(ids[None]).logits[0, :-1].log_softmax(-1)
        return logp_BV.gather(1, ids[1:, None]).sum().item()

    return logp


def test_the_validation_nll_is_that_of_the_text_under_the_saved_model(tagged):
    frame = pd.read_parquet(SAMPLE / "corpus.parquet")
    molecules = frame.loc[frame["split"] == "valid", "smiles"].head(30)
    logp = logp_under(tagged / "checkpoints" / "model")
    nll = -sum(logp(level_of(smiles), smiles) for smiles in molecules) / 30
    assert manifest_of(tagged)["results"]["valid/nll"] == pytest.approx(nll, abs=1e-3)


def test_the_model_names_its_prompts_and_post_training_takes_them(tagged):
    folder = tagged / "checkpoints" / "model"
    about = json.loads((folder / "chemkl.json").read_text())
    assert about["prompts"] == ["<logp_low>", "<logp_mid>", "<logp_high>"]
    assert about["provenance"]["config"]["conditions"][0]["cuts"] == [2, 3]
    reward = {"kind": "smiles", "reward": {"components": [{"kind": "qed"}]}}
    tags = ["<logp_low>", "<logp_high>"]
    config = load_config(LlmPosttrainConfig, {
        "model": str(folder), "adapter": "full", "template": "none", "max_new_tokens": 50,
        "prompts": tags, "reward": reward, "target": {"kind": "mara", "tau": 0.8, "beta": 0.1},
    })  # fmt: skip
    policy = build_policy(config)
    ids = policy.tokenizer.convert_tokens_to_ids(tags)
    assert [prompt.token_ids for prompt in policy.prompts] == [(id_,) for id_ in ids]
    assert policy.end_id == 0


def test_molecules_of_each_prompt_and_those_without_a_value_are_counted(
    tmp_path, capsys, monkeypatch
):
    prompts_of = Conditions.prompts_of

    def without_first(n):
        def numbers_of(self, smiles):
            number = prompts_of(self, smiles)
            number[:n] = pretrain.NO_PROMPT
            return number

        return numbers_of

    monkeypatch.setattr(Conditions, "prompts_of", without_first(5))
    pretrain_llm.run(TAGGED | {"trainer": TAGGED["trainer"] | {"max_steps": 1}}, tmp_path / "run")
    frame = pd.read_parquet(SAMPLE / "corpus.parquet")
    learnt = frame.loc[frame["split"] == "train", "smiles"].head(640)[5:]
    levels = learnt.map(level_of).value_counts()
    counts = ", ".join(f"{levels[level]} <logp_{level}>" for level in ("low", "mid", "high"))
    lines = capsys.readouterr().err
    assert f"{tmp_path / 'run'}: molecules to learn from: {counts}\n" in lines
    assert "5 of 640 molecules of split 'train' are left out" in " ".join(lines.split())
    monkeypatch.setattr(Conditions, "prompts_of", without_first(None))
    monkeypatch.setattr(Conditions, "empty_levels", lambda *_: [])
    with pytest.raises(InputError, match="no molecule of split 'train' has all of the conditions'"):
        pretrain_llm.run(TAGGED, tmp_path / "none")


LOGP_OF_TWO = LOGP | {"cuts": [2], "names": ["a", "b"]}


def test_molecules_fulfil_their_prompt(tmp_path):
    # two molecules, one per level: the prompt decides
    smiles = ["CCO"] * 32 + ["CCCCCCCC"] * 32 + ["CCO", "CCCCCCCC"]
    splits = ["train"] * 64 + ["valid"] * 2
    config = TAGGED | {
        "corpus": write_corpus(tmp_path / "corpus", "CO", smiles=smiles, split=splits),
        "conditions": [LOGP_OF_TWO], "batch_size": 16, "epochs": 30, "samples_per_epoch": 40,
    }  # fmt: skip
    pretrain_llm.run(config, tmp_path / "run")
    assert manifest_of(tmp_path / "run")["results"]["samples/as_asked"] > 0.9


@pytest.fixture
def weighted(tmp_path):
    """A config of tags on a corpus with weights."""
    weight_of = {"CCO": 1.0, "CCN": 3.0, "CCCCCCCC": 2.0}
    columns = {"smiles": [*weight_of] * 17, "weight": [*weight_of.values()] * 17}
    splits = ["train"] * 48 + ["valid"] * 3
    return TAGGED | {
        "corpus": write_corpus(tmp_path / "corpus", "CON", split=splits, **columns),
        "conditions": [LOGP_OF_TWO], "batch_size": 16, "epochs": 40, "samples_per_epoch": 0,
    }  # fmt: skip


def test_weights_count_within_each_prompt(weighted, tmp_path, capsys):
    logp = logp_under(pretrain_llm.run(weighted, tmp_path / "run"))
    assert math.exp(logp("a", "CCO")) == pytest.approx(0.25, abs=0.05)
    assert math.exp(logp("a", "CCN")) == pytest.approx(0.75, abs=0.05)
    # the square of 96 over the sum of squares, 16 * 14
    assert "; 48 molecules with weights, in effect 41.1 of equal weight" in capsys.readouterr().err


# ---- continuing


def test_a_run_that_was_begun_without_the_weights_of_its_corpus_is_refused(
    weighted, tmp_path, monkeypatch
):
    config, out = weighted | {"epochs": 4}, tmp_path / "run"
    run_and_kill(monkeypatch, killed_at_update(8), config, out, pretrain_llm)
    manifest = manifest_of(out)
    for key in ("beside", "sha256"):  # as earlier versions wrote it
        del manifest[key]
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"run: this run began without the weights of .*corpus"):
        pretrain_llm.run(config, out)
    (out / "manifest.json").write_text(json.dumps(manifest | {"beside": {"weights": True}}))
    pretrain_llm.run(config, out)
    assert manifest_of(out)["status"] == "complete"


# no checkpoint is written after the last batch of an epoch, but one step later
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
def test_a_killed_run_makes_the_same_model(
    run_of, tmp_path, monkeypatch, stage, step, saved, capsys
):
    run_and_kill(monkeypatch, killed_at_update(step), CONFIGS[stage], tmp_path, STAGES[stage])
    assert manifest_of(tmp_path)["status"] == "interrupted"
    assert not (tmp_path / RESULTS[stage]).exists()
    assert "resumes" not in capsys.readouterr().err
    STAGES[stage].run(CONFIGS[stage], tmp_path)
    assert f"{tmp_path}: resumes at step {saved}\n" in capsys.readouterr().err
    same_run(tmp_path, run_of(stage), but=PROGRESS)
    assert manifest_of(tmp_path)["status"] == "complete"
    assert len(manifest_of(tmp_path)["resumed"]) == 1


@both
def test_a_run_killed_between_its_last_step_and_its_model_is_finished(stage, run_of, tmp_path):
    shutil.copytree(run_of(stage), tmp_path, dirs_exist_ok=True)
    model_path = tmp_path / RESULTS[stage]
    shutil.rmtree(model_path) if model_path.is_dir() else model_path.unlink()
    manifest = manifest_of(tmp_path) | {"status": "running", "results": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    STAGES[stage].run(CONFIGS[stage], tmp_path)
    assert same_weights(weights_of(tmp_path), weights_of(run_of(stage)))
    before, after = manifest_of(run_of(stage)), manifest_of(tmp_path)
    for name in ("valid/nll", "samples/validity"):
        assert after["results"][name] == before["results"][name]
    assert after["ended_by"] == "epochs"


def test_a_corpus_that_has_changed_is_not_continued_on(tmp_path, monkeypatch):
    corpus, out = tmp_path / "corpus", tmp_path / "run"
    shutil.copytree(SAMPLE, corpus)
    config = TINY | {"corpus": str(corpus)}
    run_and_kill(monkeypatch, killed_at_update(7), config, out, pretrain)
    frame = pd.read_parquet(corpus / "corpus.parquet")
    frame.iloc[::-1].to_parquet(corpus / "corpus.parquet", index=False)
    before = contents(out)
    with pytest.raises(InputError, match=r"corpus\.parquet: has changed since .* was started"):
        pretrain.run(config, out)
    assert contents(out) == before


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
    ({"extend_vocabulary": True}, "extend_vocabulary: needs init"),
    ({"replay": {"share": 0.5}}, "replay: needs init: its samples are replayed"),
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
        r"max_length = 20: the longest molecule has \d+ tokens with its end token, after 1 tags",
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
