"""Post-training a language model in two processes: the run of one, and resumed to the bit."""

import json
import os

import lightning
import pandas as pd
import pytest
from runs import KilledError, assert_same_run

from chemkl.results import read_trace
from chemkl.stages import posttrain_llm
from chemkl.training import trainer as training_trainer

ONE = {"trainer": {"accelerator": "cpu"}}
PAID = '''
import os


def paid(prompt: str, completion: str) -> float:
    """Pay for length."""
    with open({path!r}, "a") as file:
        file.write(json.dumps([os.getpid(), prompt, completion]) + "\\n")
    return min(1.0, len(completion) / 20)
'''.replace("import os", "import json, os", 1)


@pytest.fixture
def config(tracked_run):
    return tracked_run(
        prompts=["pick", "C"],
        target={"kind": "mara", "beta": 0.1, "tau": 0.3},
        max_steps=7,
        seed=3,
        trainer={"accelerator": "cpu", "devices": 2},
    )


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [{"kind": "lora", "r": 4, "alpha": 8}, "full"])
def test_two_processes_make_the_run_of_one(config, tmp_path, adapter):
    posttrain_llm.run(config | {"adapter": adapter}, tmp_path / "two")
    posttrain_llm.run(config | {"adapter": adapter} | ONE, tmp_path / "one")
    assert_same_run(tmp_path / "one", tmp_path / "two", exactly=False)
    manifest = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert (manifest["status"], manifest["precision"]["devices"]) == ("complete", 2)
    assert manifest["results"]["steps"] == 7


@pytest.mark.slow
def test_each_process_asks_the_function_about_a_share(config, tmp_path):
    asked = tmp_path / "asked.jsonl"
    (tmp_path / "own.py").write_text(PAID.format(path=str(asked)))
    reward = {"kind": "function", "function": f"{tmp_path / 'own.py'}:paid", "failed": 0}
    posttrain_llm.run(config | {"reward": reward, "track": None}, tmp_path / "run")
    lines = [json.loads(line) for line in asked.read_text().splitlines()]
    trace = read_trace(tmp_path / "run")
    scored = trace[trace["answer"].notna()][["prompt", "completion"]].drop_duplicates()
    assert sorted(text for _, *text in lines) == sorted(scored.to_numpy().tolist())
    shares = pd.Series([pid for pid, *_ in lines]).value_counts()
    assert len(shares) == 2
    assert shares.max() - shares.min() <= trace["step"].nunique()
    assert os.getpid() in shares.index


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_bit(config, tmp_path, monkeypatch):
    class Kill(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 5:
                raise KilledError

    posttrain_llm.run(config, tmp_path / "whole")
    build = training_trainer.build_trainer

    def build_with_kill(out, settings, callbacks, **fixed):
        return build(out, settings, [*callbacks, Kill()], **fixed)

    with monkeypatch.context() as patch:
        patch.setattr(training_trainer, "build_trainer", build_with_kill)
        with pytest.raises(KilledError):
            posttrain_llm.run(config, tmp_path / "run")
    posttrain_llm.run(config, tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
