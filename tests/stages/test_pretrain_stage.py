"""The pretrain stage on the small MOSES sample: what it writes, continues and refuses."""

import csv
import json
import math
import os
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
from rdkit import Chem, RDLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from chemkl.config import InputError, load_config
from chemkl.config.pretrain import PretrainConfig
from chemkl.policies import load_policy, read_header
from chemkl.results import sha256_of
from chemkl.stages import pretrain
from chemkl.stages.pretrain import SampleQuality
from chemkl.stages.registry import STAGES

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
STEPS_AN_EPOCH = 14


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def weights_of(folder):
    return load_policy(folder / "checkpoints" / "policy.safetensors").state_dict()


def same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain") / "run"
    assert pretrain.run(TINY, folder) == folder / "checkpoints" / "policy.safetensors"
    return folder


# ---- what it writes


def test_the_model_loads_and_knows_where_it_comes_from(finished):
    policy = load_policy(finished / "checkpoints" / "policy.safetensors")
    assert policy.architecture["hidden_size"] == 32
    tokens = json.loads((SAMPLE / "tokens.json").read_text())
    assert policy.vocabulary.tokens == ("$", "^", *sorted(tokens))
    provenance = read_header(finished / "checkpoints" / "policy.safetensors")["provenance"]
    assert provenance["stage"] == "pretrain"
    assert provenance["run_id"] == manifest_of(finished)["run_id"]
    assert provenance["corpus_sha256"] == sha256_of(SAMPLE / "corpus.parquet")
    assert provenance["config"]["batch_size"] == 512
    assert "corpus" not in provenance["config"]  # a path of this machine
    assert provenance["versions"]["torch"] == torch.__version__
    assert provenance["metrics"]["valid/nll"] > 0


def test_the_manifest_says_how_it_went(finished):
    manifest = manifest_of(finished)
    assert (manifest["stage"], manifest["status"]) == ("pretrain", "complete")
    assert manifest["ended_by"] == "epochs"
    assert manifest["seed"] == 0
    assert manifest["inputs"]["corpus"]["sha256"] == sha256_of(SAMPLE / "corpus.parquet")
    shares = {"samples/validity", "samples/uniqueness", "samples/novelty"}
    assert {"train/nll", "valid/nll", *shares} <= manifest["results"].keys()
    assert all(0 <= manifest["results"][name] <= 1 for name in shares)


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


def test_every_epoch_and_the_rate_are_in_both_logs(finished):
    names = ["valid/nll", *(f"samples/{n}" for n in ("validity", "uniqueness", "novelty"))]
    with (finished / "logs/csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    events = EventAccumulator(str(finished / "logs" / "tensorboard")).Reload()
    for name in names:
        assert [r["step"] for r in rows if r[name]] == ["13", "27"]
        assert [e.step for e in events.Scalars(name)] == [13, 27]
    assert any(row["lr-AdamW"] for row in rows)
    assert events.Scalars("lr-AdamW")


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


def test_quality_of_real_molecules_is_rdkits(real_smiles):
    RDLogger.DisableLog("rdApp.error")
    texts = [s[:i] for s in real_smiles[:40] for i in (4, 9, len(s))]
    valid = [Chem.MolToSmiles(m) for s in texts if (m := Chem.MolFromSmiles(s))]
    RDLogger.EnableLog("rdApp.error")
    corpus = set(real_smiles[:20])
    expected = {
        "validity": len(valid) / len(texts),
        "uniqueness": len(set(valid)) / len(valid),
        "novelty": len(set(valid) - corpus) / len(set(valid)),
    }
    assert SampleQuality(corpus)(texts) == expected


# ---- continuing


class Killed(BaseException):
    """Ends a run as a signal would: nothing catches it."""


@pytest.fixture
def killed_at(monkeypatch):
    """Run until a step, and no further."""

    def run(config, folder, step):
        class Kill(lightning.Callback):
            def on_train_batch_end(self, trainer, *_):
                if trainer.global_step == step:
                    raise Killed

        with monkeypatch.context() as patch:
            build = pretrain.build_trainer
            patch.setattr(
                pretrain,
                "build_trainer",
                lambda out, settings, callbacks, **fixed: build(
                    out, settings, [*callbacks, Kill()], **fixed
                ),
            )
            with pytest.raises(Killed):
                pretrain.run(config, folder)

    return run


@pytest.mark.parametrize("step", [8, STEPS_AN_EPOCH, 17])
def test_a_killed_run_continues_to_the_same_prior(finished, tmp_path, killed_at, step, capsys):
    killed_at(TINY, tmp_path, step)
    assert manifest_of(tmp_path)["status"] == "interrupted"
    assert not (tmp_path / "checkpoints" / "policy.safetensors").exists()
    assert "resumes" not in capsys.readouterr().err
    pretrain.run(TINY, tmp_path)
    last = step - step % TINY["checkpoint_every"]
    assert f"{tmp_path}: resumes at step {last}\n" in capsys.readouterr().err
    assert same_weights(tmp_path, finished)
    manifest = manifest_of(tmp_path)
    assert (manifest["status"], len(manifest["resumed"])) == ("complete", 1)
    results = manifest_of(finished)["results"]
    for name in ("valid/nll", "samples/validity", "samples/uniqueness", "samples/novelty"):
        assert manifest["results"][name] == results[name]


def test_a_run_killed_between_its_last_step_and_its_model_file_is_finished(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoints" / "policy.safetensors").unlink()
    manifest = manifest_of(tmp_path) | {"status": "running", "results": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    pretrain.run(TINY, tmp_path)
    assert same_weights(tmp_path, finished)
    before, after = manifest_of(finished)["results"], manifest_of(tmp_path)["results"]
    assert after["valid/nll"] == before["valid/nll"]
    assert after["samples/validity"] == before["samples/validity"]
    assert manifest_of(tmp_path)["ended_by"] == "epochs"


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_corpus_that_has_changed_is_not_continued_on(tmp_path, killed_at):
    corpus = tmp_path / "corpus"
    shutil.copytree(SAMPLE, corpus)
    config = TINY | {"corpus": str(corpus)}
    killed_at(config, tmp_path / "run", 7)
    frame = pd.read_parquet(corpus / "corpus.parquet")
    frame.iloc[::-1].to_parquet(corpus / "corpus.parquet", index=False)
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match=r"corpus\.parquet: has changed since .* was begun"):
        pretrain.run(config, tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path, killed_at):
    killed_at(TINY, tmp_path, 7)
    file = tmp_path / "checkpoints" / "last.ckpt"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(InputError, match=r"last\.ckpt: not a usable checkpoint .*Delete it"):
        pretrain.run(TINY, tmp_path)
    file.unlink()
    pretrain.run(TINY, tmp_path)
    assert manifest_of(tmp_path)["status"] == "complete"


@pytest.mark.slow
def test_a_run_that_is_really_killed_continues_to_the_same_prior(tmp_path):
    config = TINY | {"epochs": 4, "checkpoint_every": 3, "randomise": True}
    pretrain.run(config, tmp_path / "whole")
    code = (
        "import json, sys\n"
        "from chemkl.stages import pretrain\n"
        "pretrain.run(json.loads(sys.argv[1]), sys.argv[2])\n"
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
    assert 0 < steps[0] < steps[1] < steps[2] < 4 * STEPS_AN_EPOCH
    pretrain.run(config, tmp_path / "killed")
    assert same_weights(tmp_path / "whole", tmp_path / "killed")
    whole, killed = (manifest_of(tmp_path / name)["results"] for name in ("whole", "killed"))
    assert killed["valid/nll"] == whole["valid/nll"]
    leftover = [p.name for p in last.parent.iterdir()]
    assert sorted(leftover) == ["last.ckpt", "policy.safetensors"]


# ---- what cannot be run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": "nowhere"}, r"corpus: no such file or folder"),
        ({"valid_split": "vaild"}, r"no molecule in split 'vaild'\. Known: test, train, valid"),
        ({"valid_split": "train"}, r"train_split and valid_split are both 'train': choose two"),
        ({"trainer": {"max_stps": 3}}, r"trainer: unknown argument 'max_stps'; did you mean"),
        ({"trainer": {"accelerator": "quantum"}}, r"trainer: accelerator: quantum cannot be used"),
        ({"trainer": {"max_steps": "ten"}}, r"trainer: max_steps: 'ten' is not of type int"),
        ({"trainer": {"gradient_clip_val": 1}}, r"gradient_clip_val: use gradient_clip"),
        ({"trainer": {"precision": 16}}, r"precision: use the key precision at the top level"),
        ({"epoch": 3}, r"epoch: not a known key; did you mean 'epochs'"),
        ({"precision": "16"}, r"precision: .*32-true"),
        ({"seed": -1}, r"seed: should be greater than or equal to 0"),
        ({"seed": 2**63}, r"seed: should be less than"),
        ({"model": {"cell": "rnn"}}, r"cell: 'rnn' is not allowed.* Known: gru, lstm"),
        ({"model": {"kind": "cnn"}}, r"kind: "),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_error_and_makes_no_folder(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        pretrain.run(TINY | changes, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_problems_come_in_one_message(tmp_path):
    with pytest.raises(InputError) as caught:
        pretrain.run(TINY | {"train_split": "x", "trainer": {"lr": 1}}, tmp_path / "out")
    text = str(caught.value)
    assert "unknown argument 'lr'" in text
    assert "no molecule in split 'x'" in text


def test_trainer_and_corpus_are_looked_at_when_the_schema_does_not_fit_too(tmp_path):
    bad = TINY | {"train_split": "x", "trainer": {"lr": 1, "precision": 16}, "epochs": 0}
    with pytest.raises(InputError, match=r"epochs: should be greater than or equal to 1") as caught:
        pretrain.run(bad, tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "precision: use the key precision at the top level" in lines[1]
    assert lines[2].startswith("settings: trainer: unknown argument 'lr'")
    assert "no molecule in split 'x'" in lines[3]


def test_an_awaited_corpus_is_not_looked_into_and_the_rest_is(tmp_path):
    settings = {"corpus": str(tmp_path), "valid_split": "train", "trainer": {"lr": 1}}
    config = load_config(PretrainConfig, TINY | settings)
    with pytest.raises(InputError, match="unknown argument 'lr'") as caught:
        STAGES["pretrain"].check(config, awaited=[tmp_path])
    assert "train_split and valid_split are both 'train'" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_a_folder_that_holds_no_corpus(tmp_path):
    with pytest.raises(InputError, match=r"tokens\.json: no prepared corpus .*chemkl prepare"):
        pretrain.run(TINY | {"corpus": str(tmp_path)}, tmp_path / "out")


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
