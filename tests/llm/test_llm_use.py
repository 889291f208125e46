"""A trained policy in the user's hands: what it offers, and what it says to what it cannot do."""

import pytest
import torch

import chemkl.llm
from chemkl.config import InputError
from chemkl.llm import load
from chemkl.stages import posttrain_llm

PROMPTS = ("pick 1 2", "0 1 2 3 4", "a b")


def test_no_completions_are_a_rollout_without_rows(make_policy):
    policy = make_policy(*PROMPTS, max_new_tokens=6)
    drawn = policy.sample(0, torch.Generator().manual_seed(0))
    assert len(drawn) == 0
    assert drawn.texts == []
    assert drawn.tokens.shape == (0, 2)
    assert drawn.tokens.dtype == torch.int64
    assert drawn.logp.shape == drawn.truncated.shape == drawn.group.shape == drawn.n_tokens.shape
    assert (drawn.logp.dtype, drawn.truncated.dtype) == (torch.float32, torch.bool)
    assert policy.logp_tokens(drawn.tokens).tolist() == []
    some = policy.sample(3, torch.Generator().manual_seed(0))  # what a run has is of the same types
    for name in ("tokens", "logp", "truncated", "group"):
        assert getattr(some, name).dtype == getattr(drawn, name).dtype


@pytest.mark.parametrize("n", [-3, 7])
def test_a_number_that_cannot_be_dealt_is_refused_with_what_can(make_policy, n):
    message = f"^{n} completions cannot be dealt evenly to 3 prompts; give a multiple of 3$"
    with pytest.raises(ValueError, match=message):
        make_policy(*PROMPTS).sample(n)


def test_the_texts_of_a_rollout_are_its_rows_as_text(make_policy):
    policy = make_policy(*PROMPTS)
    drawn = policy.sample(6, torch.Generator().manual_seed(0))
    assert drawn.texts == policy.decode(drawn.tokens)
    assert drawn.head(2).texts == drawn.texts[:2]


@pytest.mark.parametrize("prompt", [3, -1])
def test_a_prompt_that_there_is_not(make_policy, prompt):
    with pytest.raises(ValueError, match=f"^prompt = {prompt}, but prompts are numbered from 0 to"):
        make_policy(*PROMPTS).logp(["1"], prompt=prompt)
    with pytest.raises(ValueError, match=f"^prompt = {prompt}, but there is one prompt, number 0"):
        make_policy("pick").encode(["1"], prompt)


def test_one_string_is_not_taken_for_its_characters(make_policy):
    with pytest.raises(TypeError, match=r"^expected several texts: write \['12'\]$"):
        make_policy().logp("12")


def test_the_example_of_the_room_runs(taught_model, tmp_path, monkeypatch):
    config = {
        "model": str(taught_model),
        "prompts": ["pick"],
        "max_new_tokens": 3,
        "reward": {"kind": "answers", "valid": ["2"]},
        "target": {"kind": "gibbs", "beta": 0.1},
        "precision": "32-true",
        "batch_size": 32,
        "max_steps": 2,
        "learning_rate": 0.01,
        "callbacks": {"progress_bar": False},
        "trainer": {"accelerator": "cpu"},
    }
    posttrain_llm.run(config, tmp_path / "runs" / "llm" / "months" / "mara")
    monkeypatch.chdir(tmp_path)
    lines = chemkl.llm.__doc__.splitlines()
    example = "\n".join(line[4:] for line in lines if line.startswith("    "))
    made = {}
    exec(example, made)  # the text that users copy is what is tested
    assert isinstance(made["policy"], chemkl.llm.HfPolicy)
    assert made["drawn"].group.tolist() == [0] * 8
    assert not made["after"].requires_grad
    # before training: a policy of the same run whose adapters count for nothing
    untrained = load("runs/llm/months/mara")
    for name, weight in untrained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(weight)
    assert made["before"].tolist() == pytest.approx(untrained.logp(["May", "June"]).tolist())
    assert made["after"].tolist() != pytest.approx(made["before"].tolist(), abs=1e-6)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_is_loaded_by_its_folder_too(taught_model, tmp_path, kind):
    config = {
        "model": {"name": str(taught_model), "dtype": "float32"},
        "adapter": kind,
        "prompts": ["pick"],
        "max_new_tokens": 3,
        "reward": {"kind": "answers", "valid": ["2"]},
        "target": {"kind": "gibbs", "beta": 0.1},
        "precision": "32-true",
        "batch_size": 8,
        "max_steps": 1,
        "callbacks": {"progress_bar": False},
        "trainer": {"accelerator": "cpu"},
    }
    with pytest.raises(InputError, match=r"Give the folder of a posttrain_llm run that has ended"):
        load(tmp_path)
    weights = posttrain_llm.run(config, tmp_path / "run")
    expected = load(weights).logp(["1", "2"]).tolist()
    for place in (tmp_path / "run", tmp_path / "run" / "checkpoints"):
        assert load(place).logp(["1", "2"]).tolist() == expected
    half_written = tmp_path / "run" / "checkpoints" / ".adapter.cut"  # of a save that was killed
    half_written.mkdir()
    (half_written / "chemkl.json").write_text("{}")
    assert load(tmp_path / "run").logp(["1", "2"]).tolist() == expected
