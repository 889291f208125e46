"""What the stages look into beside their schemas, all of it at once; not what is yet to be made."""

import pytest

from chemkl.config import InputError, load_config
from chemkl.stages.registry import STAGES

LOGG = {"kind": "logg", "cuts": [2, 3], "names": ["low", "mid", "high"]}
NO_SMARTS = {"components": [{"kind": "required_smarts", "parameters": {"smarts": ["c1ccc"]}}]}
NOT_A_MODEL = "junk: not a readable safetensors file"


@pytest.fixture
def cases(tmp_path, tiny_prior):
    """Of each case: settings, the path that may be awaited, what is said without it and of it."""
    junk, empty, corpus = (tmp_path / name for name in ("junk", "a.smi", "corpus"))
    junk.write_bytes(b"junk")
    empty.touch()
    corpus.mkdir()
    training = {"corpus": corpus, "valid_split": "train", "trainer": {"lr": 1}}
    of_training = ["unknown argument 'lr'", "train_split and valid_split are both 'train'"]
    target = {"kind": "mara", "beta": 0.1, "tau": 0.8}
    steering = {"reward": NO_SMARTS, "target": target, "trainer": {"acelerator": "cpu"}}
    of_steering = ["c1ccc", "unknown argument 'acelerator'; did you mean 'accelerator'"]
    foretelling = {"device": "gpu", "taus": [2], "prior": junk}
    device = "device: 'gpu' cannot be used here"
    source = {"kind": "file", "path": empty}
    return {
        "prepare": (
            {"source": source, "standardise": [{"name": "largest"}], "n_workers": 1},
            empty,
            ["unknown filter 'largest'"],
            ["the file is empty"],
        ),
        "pretrain": (training, corpus, of_training, ["tokens.json: no prepared corpus"]),
        "pretrain_llm": (
            training | {"conditions": [LOGG]},
            corpus,
            [*of_training, "unknown component"],
            ["tokens.json: no prepared corpus"],
        ),
        "posttrain": (
            steering | {"prior": junk, "agent": tiny_prior},
            junk,
            of_steering,
            [NOT_A_MODEL],
        ),
        "posttrain-agent": (
            steering | {"prior": tiny_prior, "agent": junk},
            tiny_prior,
            [*of_steering, NOT_A_MODEL],
            [],
        ),
        "forecast": (
            steering | foretelling,
            junk,
            [*of_steering, device, "taus: 2: "],
            [NOT_A_MODEL],
        ),
        "sample": ({"policy": junk, "device": "gpu"}, junk, [device], [NOT_A_MODEL]),
        "score": ({"file": empty, "reward": NO_SMARTS}, empty, ["c1ccc"], ["the file is empty"]),
    }


TRAINING = ("pretrain", "pretrain_llm", "posttrain", "posttrain-agent")
MISTAKES = {"prepare": "limit", "pretrain": "epochs", "pretrain_llm": "epochs", "sample": "n"}


@pytest.mark.parametrize("name", ["prepare", *TRAINING, "forecast", "sample", "score"])
def test_what_is_awaited_is_not_looked_into_and_the_rest_is(name, cases):
    settings, path, rest, inside = cases[name]
    stage = STAGES[name.split("-")[0]]
    config = load_config(stage.model, settings)
    for pending, texts in (([], [*rest, *inside]), ([path], rest)):
        with pytest.raises(InputError) as caught:
            stage.check(config, pending=pending)
        lines = str(caught.value).splitlines()
        assert [text for text in texts if not any(text in line for line in lines)] == []
        assert len(lines) == len(texts)


@pytest.mark.parametrize("name", ["prepare", *TRAINING, "forecast", "sample", "score"])
def test_all_is_told_where_the_schema_does_not_fit_too(name, cases, tmp_path):
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
