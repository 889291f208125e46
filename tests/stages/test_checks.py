"""What the stages check beyond their schemas, all at once, except for inputs not made yet."""

from pathlib import Path

import pytest

from chemkl.config import InputError, load_config
from chemkl.stages.registry import STAGES

LOGG = {"kind": "logg", "cuts": [2, 3], "names": ["low", "mid", "high"]}
NO_SMARTS = {"components": [{"kind": "required_smarts", "parameters": {"smarts": ["c1ccc"]}}]}
NOT_A_MODEL = "junk: not a readable safetensors file"


@pytest.fixture
def cases(tmp_path, tiny_prior):
    """Per case: settings, a path that may be pending, problems without it, and problems of it."""
    junk, empty, corpus = (tmp_path / name for name in ("junk", "a.smi", "corpus"))
    junk.write_bytes(b"junk")
    empty.touch()
    corpus.mkdir()
    training = {"corpus": corpus, "valid_split": "train", "trainer": {"lr": 1}}
    training_lines = ["unknown argument 'lr'", "train_split and valid_split are both 'train'"]
    target = {"kind": "mara", "beta": 0.1, "tau": 0.8}
    run = {"reward": NO_SMARTS, "target": target, "trainer": {"acelerator": "cpu"}}
    run_lines = ["c1ccc", "unknown argument 'acelerator'; did you mean 'accelerator'"]
    forecast = {"device": "gpu", "taus": [2], "prior": junk}
    device, no_corpus = "device: 'gpu' cannot be used here", ["tokens.json: no prepared corpus"]
    source = {"source": {"kind": "file", "path": empty}, "standardise": [{"name": "largest"}]}
    lines, is_empty = ["unknown filter 'largest'"], ["the file is empty"]
    tags = training | {"conditions": [LOGG]}
    return {
        "prepare": (source | {"n_workers": 1}, empty, lines, is_empty),
        "pretrain": (training, corpus, training_lines, no_corpus),
        "pretrain_llm": (tags, corpus, [*training_lines, "unknown component"], no_corpus),
        "posttrain": (run | {"prior": junk, "agent": tiny_prior}, junk, run_lines, [NOT_A_MODEL]),
        "posttrain-agent": (
            run | {"prior": tiny_prior, "agent": junk}, tiny_prior, [*run_lines, NOT_A_MODEL], []
        ),
        "forecast": (run | forecast, junk, [*run_lines, device, "taus: 2: "], [NOT_A_MODEL]),
        "sample": ({"policy": junk, "device": "gpu"}, junk, [device], [NOT_A_MODEL]),
        "score": ({"file": empty, "reward": NO_SMARTS}, empty, ["c1ccc"], is_empty),
    }  # fmt: skip


NAMES = [
    "prepare",
    "pretrain",
    "pretrain_llm",
    "posttrain",
    "posttrain-agent",
    "forecast",
    "sample",
    "score",
]
MISTAKES = {"prepare": "limit", "pretrain": "epochs", "pretrain_llm": "epochs", "sample": "n"}


@pytest.mark.parametrize("name", NAMES)
def test_a_pending_path_is_not_checked_and_the_rest_is(name, cases):
    settings, path, rest, inside = cases[name]
    stage = STAGES[name.split("-")[0]]
    config = load_config(stage.model, settings)
    for pending, texts in (([], [*rest, *inside]), ([path], rest)):
        with pytest.raises(InputError) as caught:
            stage.check(config, pending=pending)
        lines = str(caught.value).splitlines()
        assert [text for text in texts if not any(text in line for line in lines)] == []
        assert len(lines) == len(texts)


@pytest.mark.parametrize("name", NAMES)
def test_all_problems_come_with_those_of_the_schema(name, cases, tmp_path):
    settings, _, rest, _ = cases[name]
    stage = name.split("-")[0]
    key = MISTAKES.get(stage, "batch_size")
    with pytest.raises(InputError) as caught:
        STAGES[stage].run(settings | {key: 0}, tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert f"{key}: should be greater than or equal to " in lines[0]
    assert [text for text in rest if not any(text in line for line in lines[1:])] == []
    assert len(lines) == len({*lines})
    assert not (tmp_path / "out").exists()


BAD = """\
prior: junk.safetensors
reward:
  components:
    - {kind: required_smarts, parameters: {smarts: [c1ccc]}}
target: {kind: mara, beta: 0, tau: 0.8}
batch_sise: 8
trainer: {acelerator: cpu, gradient_clip_val: -1}
"""


def test_every_command_reports_the_same_problems(tmp_path, monkeypatch, chemkl, capsys):
    monkeypatch.chdir(tmp_path)
    Path("junk.safetensors").write_bytes(b"not a model at all")
    Path("posttrain.yaml").write_text(BAD)
    Path("p.yaml").write_text(
        "name: demo\nstages:\n  - {stage: posttrain, config: posttrain.yaml}\n"
    )

    def errors_of(*arguments):
        assert chemkl(*arguments) == 2
        return capsys.readouterr().err.splitlines()

    lines = errors_of("posttrain", "posttrain.yaml")
    for start, what in [
        ("posttrain.yaml:4: reward.components.0.parameters: ", "c1ccc"),
        ("posttrain.yaml:5: target.beta: ", "greater than 0"),
        ("posttrain.yaml:6: batch_sise: ", "did you mean 'batch_size'"),
        ("posttrain.yaml:1: ", "junk.safetensors: not a readable safetensors file"),
        ("posttrain.yaml:7: trainer: ", "did you mean 'accelerator'"),
        ("posttrain.yaml:7: trainer: gradient_clip_val: ", "-1 is not allowed; 0 or more"),
    ]:
        assert [line for line in lines if line.startswith(start) and what in line], (what, lines)
    assert len(lines) == 6
    for command in (("check", "posttrain.yaml"), ("check", "p.yaml"), ("run", "p.yaml")):
        assert errors_of(*command) == lines
    assert errors_of("run", "p.yaml", "--dry-run") == lines
    assert not Path("runs").exists()
