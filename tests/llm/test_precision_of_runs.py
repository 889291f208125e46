"""The precision of the training stages: refused, told, kept, and run with the processor capped."""

import json
from pathlib import Path

import pytest
import torch
from runs import KilledError
from safetensors.torch import load_file

from chemkl.config import InputError
from chemkl.stages import pretrain
from chemkl.stages.registry import STAGES
from chemkl.training import precision
from chemkl.training.pretrain import Pretrain

SAMPLE = Path(__file__).parents[2] / "data" / "moses_sample"
LACKS = "an LSTM in bfloat16 does not run on it"
LOGP = {"kind": "logp", "cuts": [2], "names": ["low", "high"]}
ONE_STEP = {"accelerator": "cpu", "enable_progress_bar": False, "max_steps": 1}


@pytest.fixture
def configs(tiny_prior, taught_model):
    """A tiny run of every training stage, with the default precision."""
    sizes = {"valid_molecules": 20, "samples_per_epoch": 4, "batch_size": 64}
    corpus = sizes | {"corpus": str(SAMPLE), "trainer": ONE_STEP}
    tags = {"conditions": [LOGP], "train_molecules": 640}
    tags["model"] = {"hidden_size": 16, "n_layers": 1, "n_heads": 2}
    short = {"trainer": {"accelerator": "cpu"}, "target": {"kind": "gibbs", "beta": 0.1}}
    smiles = {"prior": str(tiny_prior), "batch_size": 8, "budget": 8, "max_samples": 8}
    texts = {"model": str(taught_model), "batch_size": 8, "max_steps": 1, "max_new_tokens": 3}
    answers = {"kind": "answers", "valid": ["1", "2"]}
    return {
        "pretrain": corpus | {"model": {"embedding_size": 8, "hidden_size": 8, "n_layers": 1}},
        "pretrain_llm": corpus | tags,
        "posttrain": short | smiles | {"reward": {"components": [{"kind": "qed"}]}},
        "posttrain_llm": short | texts | {"prompts": ["pick"], "reward": answers},
    }


TRAINING = ["pretrain", "pretrain_llm", "posttrain", "posttrain_llm"]


@pytest.mark.parametrize("stage", TRAINING)
def test_what_the_device_lacks_is_told_before_anything_is_written(
    configs, tmp_path, monkeypatch, stage
):
    monkeypatch.setattr(precision, "missing", lambda _: LACKS)
    out = tmp_path / "run"
    settings = configs[stage] | {"precision": "bf16-mixed"}
    message = rf"precision: bf16-mixed cannot be used .*{LACKS}.*auto.*32-true"
    with pytest.raises(InputError, match=message):
        STAGES[stage].run(settings, out)
    with pytest.raises(InputError, match=message):
        STAGES[stage].check(STAGES[stage].load(settings), stage, [])
    with pytest.raises(InputError, match=message):  # beside a key that does not fit
        STAGES[stage].load(settings | {"seed": -1})
    settings = configs[stage] | {"trainer": {"accelerator": "tpu"}}  # that is not there either
    with pytest.raises(InputError, match=r"^[^\n]*trainer: accelerator: tpu[^\n]*$"):
        STAGES[stage].run(settings, out)
    assert not out.exists()


@pytest.mark.parametrize("stage", TRAINING)
def test_screen_and_manifest_say_what_auto_took(configs, tmp_path, monkeypatch, capsys, stage):
    monkeypatch.setattr(precision, "missing", lambda _: LACKS)
    STAGES[stage].run(configs[stage], tmp_path)
    why = f"auto: bf16-mixed cannot be used on this device: {LACKS}"
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["config"]["precision"] == "auto"
    assert manifest["precision"] == {
        "used": "32-true", "why": why, "device": "cpu", "speedup": None,
        "threads": torch.get_num_threads(),
        "devices": 1,
    }  # fmt: skip
    assert f"{tmp_path}: precision 32-true ({why})\n" in capsys.readouterr().err


@pytest.mark.bf16
@pytest.mark.parametrize(("first", "then"), [(9.0, 0.1), (0.1, 9.0)])
def test_a_killed_run_goes_on_as_it_began(configs, tmp_path, monkeypatch, capsys, first, then):
    """Bit for bit the run that was not killed, by a device that would choose the other now."""
    config = configs["pretrain"] | {"checkpoint_every": 2, "trainer": ONE_STEP | {"max_steps": 6}}
    step = Pretrain.training_step

    def killed(module, *arguments):
        if module.global_step == 5:
            raise KilledError
        return step(module, *arguments)

    monkeypatch.setattr(precision, "speedup", lambda _: first)
    whole = load_file(pretrain.run(config, tmp_path / "whole"))
    monkeypatch.setattr(Pretrain, "training_step", killed)
    with pytest.raises(KilledError):
        pretrain.run(config, tmp_path / "cut")
    monkeypatch.setattr(Pretrain, "training_step", step)
    monkeypatch.setattr(precision, "speedup", lambda _: then)
    capsys.readouterr()
    cut = load_file(pretrain.run(config, tmp_path / "cut"))
    used = "bf16-mixed" if first > 1 else "32-true"
    stderr = capsys.readouterr().err
    assert f"precision {used} (as this run began; auto: " in stderr
    assert "resumes at step 4" in stderr
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    exact = load_file(pretrain.run(config | {"precision": "32-true"}, tmp_path / "exact"))
    same = all(torch.equal(whole[name], exact[name]) for name in whole)
    assert same == (used == "32-true")
