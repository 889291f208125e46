import json
import os
import pickle
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from chemkl.config import InputError
from chemkl.config.pretrain import MinGruConfig, RnnConfig, TransformerConfig
from chemkl.policies import (
    RnnPolicy,
    Vocabulary,
    build_policy,
    freeze,
    load_policy,
    read_header,
    save_policy,
    with_tokens,
)

ARCHITECTURE = {
    "kind": "rnn", "cell": "gru", "embedding_size": 4, "hidden_size": 6, "n_layers": 2,
    "dropout": 0.1, "max_length": 20,
}  # fmt: skip
HEADER = {
    "format": "chemkl-policy",
    "version": 1,
    "architecture": ARCHITECTURE,
    "vocabulary": ["$", "^", "C", "O"],
    "provenance": {"corpus": "made up"},
}


@pytest.fixture
def policy():
    torch.manual_seed(0)
    sizes = {k: v for k, v in ARCHITECTURE.items() if k != "kind"}
    return RnnPolicy(Vocabulary.of("CO"), **sizes)


@pytest.fixture
def path(policy, tmp_path):
    save_policy(policy, tmp_path / "models" / "prior.safetensors", {"corpus": "made up"})
    return tmp_path / "models" / "prior.safetensors"


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_weights_come_back_bit_by_bit(cell, tmp_path):
    torch.manual_seed(1)
    policy = RnnPolicy(Vocabulary.of("CNO"), cell=cell, hidden_size=16, n_layers=1, dropout=0.3)
    save_policy(policy, tmp_path / "p.safetensors", {})
    loaded = load_policy(tmp_path / "p.safetensors")
    assert loaded.vocabulary == policy.vocabulary
    assert loaded.architecture == policy.architecture
    assert loaded.max_length == policy.max_length
    saved, actual = policy.state_dict(), loaded.state_dict()
    assert actual.keys() == saved.keys()
    assert all(torch.equal(actual[name], saved[name]) for name in saved)
    assert not loaded.training
    assert torch.equal(loaded.logp(["CCO"]), policy.eval().logp(["CCO"]))


def test_the_header_is_json_beside_plain_tensors(path, policy, tmp_path):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"header", "sha256"}
    assert json.loads(metadata["header"]) == HEADER
    assert read_header(path) == HEADER
    assert load_file(path).keys() == policy.state_dict().keys()
    # numbers that JSON lacks become null
    save_policy(policy, tmp_path / "p.safetensors", {"nll": float("nan"), "a": [float("inf"), 1]})
    assert read_header(tmp_path / "p.safetensors")["provenance"] == {"nll": None, "a": [None, 1]}


def test_a_loaded_policy_can_be_trained_further(path, policy):
    policy = load_policy(path).train()
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    policy.logp(["CO"]).sum().backward()
    optimizer.step()
    assert all(not torch.equal(v, before[k]) for k, v in policy.state_dict().items() if "_l0" in k)
    again = load_policy(path).state_dict()  # the file's weights are not shared with the network
    assert all(torch.equal(again[k], v) for k, v in before.items())
    # loading draws no random numbers
    before = torch.get_rng_state()
    load_policy(path)
    assert torch.equal(torch.get_rng_state(), before)
    # a path may be a string
    assert load_policy(str(path)).sample(2).tokens.shape[0] == 2
    # half precision is read as float32
    weights = {k: v.bfloat16() for k, v in load_file(path).items()}
    save_file(weights, path, metadata={"header": json.dumps(HEADER)})
    policy = load_policy(path)
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert torch.equal(policy.linear.weight, weights["linear.weight"].float())
    # a frozen policy has no gradients
    frozen = freeze(policy.train())
    assert not frozen.training
    assert not frozen.logp(["C"]).requires_grad


def test_an_older_file_is_replaced_in_one_step_and_survives_a_failure(path, policy, monkeypatch):
    before = path.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_policy(policy, path, {"when": object()})
    monkeypatch.setattr("os.replace", _fail)
    with pytest.raises(OSError, match="no space left"):
        save_policy(policy, path, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    monkeypatch.undo()
    save_policy(policy, path, {"n": 2})
    assert read_header(path)["provenance"] == {"n": 2}
    # what a kill left is replaced
    (path.parent / f".{path.name}.tmp").write_bytes(b"half a model")
    save_policy(policy, path, {})
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert load_policy(path).max_length == 20


def _fail(*_):
    raise OSError("no space left on device")


class Bomb:
    """Its unpickling creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_a_pickle_is_refused_and_never_run(tmp_path, path, monkeypatch):
    marker, hostile = tmp_path / "ran", tmp_path / "evil.safetensors"
    torch.save({"network": Bomb(marker)}, hostile)
    zipped = hostile.read_bytes()
    for content in (pickle.dumps(Bomb(marker)), zipped):
        hostile.write_bytes(content)
        for read in (load_policy, read_header):
            with pytest.raises(InputError, match=r"evil\.safetensors: not a readable safetensors"):
                read(hostile)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker))).close()
    assert marker.exists()  # the bomb works

    def refuse(*_args, **_kwargs):
        raise AssertionError("something was unpickled")

    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(name, refuse)
    assert load_policy(path).max_length == 20


@pytest.mark.parametrize("read", [load_policy, read_header])
def test_files_that_are_no_model_are_refused(read, path, tmp_path):
    file, whole = tmp_path / "x.safetensors", path.read_bytes()
    truncated = [whole[: int(share * len(whole))] for share in (0.05, 0.5, 0.99)]
    contents = [b"", b"\x08", b"not a model", b"\xff" * 100, b"{}" + b" " * 50]
    for content in contents + truncated:
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.safetensors: not a readable .* Expected a model"):
            read(file)
    texts = ("{", "[1]", "7", '{"format": "other"}', "[" * 200_000)
    for metadata in (None, {}, {"format": "pt"}, *({"header": text} for text in texts)):
        save_file({"w": torch.zeros(2)}, file, metadata=metadata)
        with pytest.raises(InputError, match=r"without chemkl's header\. Expected a model written"):
            read(file)
    os.mkfifo(tmp_path / "pipe.safetensors")
    for special in (tmp_path / "pipe.safetensors", "/dev/zero"):  # refused without waiting
        with pytest.raises(InputError, match=r"a device, pipe or socket\. Expected a model"):
            read(special)
    with pytest.raises(InputError, match=r"nowhere\.safetensors: no such model file"):
        read(tmp_path / "nowhere.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r": a folder, not a model file, and there is none in it"):
        read(tmp_path / "empty")


@pytest.mark.parametrize("name", ["checkpoints/policy.safetensors", "my_prior.safetensors"])
def test_a_folder_in_place_of_a_model_names_the_model_in_it(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        read_header(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: a folder, not a model file. A model file in it is {tmp_path / name}"
    )


def changed(**parts):
    return {k: v for k, v in (HEADER | parts).items() if v != "absent"}


def architecture(**parts):
    merged = ARCHITECTURE | parts
    return changed(architecture={k: v for k, v in merged.items() if v != "absent"})


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (changed(version=2), r"file version 2; this chemkl reads version 1\. Use the version"),
        (changed(version="absent"), r"model file version None"),
        (changed(vocabulary="absent"), r"header: vocabulary should be a list, not None"),
        (changed(vocabulary={"C": 1}), r"header: vocabulary should be a list, not \{'C': 1\}"),
        (changed(vocabulary=["$", "^", 7]), r"header: vocabulary: not single tokens .*: 7"),
        (changed(vocabulary=["$", "^", ["C"]]), r"header: vocabulary: not single tokens"),
        (changed(vocabulary=["C"]), r"header: vocabulary: the first two tokens must be"),
        (changed(architecture="absent"), r"header: architecture should be a dict, not None"),
        (changed(architecture=[1]), r"header: architecture should be a dict, not \[1\]"),
        (changed(provenance=3), r"header: provenance should be a dict, not 3"),
        (changed(vocabulary="C", architecture=None),
         r"^.*: header: architecture .* None\n.*: header: vocabulary should be a list, not 'C'$"),
        (architecture(kind="absent"),
         r"unknown kind of policy None\. Known: mingru, rnn, transformer"),
        (architecture(kind="rn"), r"unknown kind of policy 'rn'; did you mean 'rnn'\? Known: "),
        (architecture(kind=["rnn"]), r"unknown kind of policy \['rnn'\]"),
        (architecture(hiden_size=3), r"hiden_size: not a known key; did you mean 'hidden_size'"),
        (architecture(cell="rnn"), r"cell: 'rnn' is not allowed.* Known: gru, lstm"),
        (architecture(n_layers="two"), r"n_layers: should be a whole number \(got 'two'\)"),
        (architecture(hidden_size=-1), r"hidden_size: should be greater than or equal to 1"),
        (architecture(hidden_size=10**30), r"hidden_size: should be less than or equal to 65536"),
        (architecture(max_length=None), r"max_length: should be"),
        (architecture(projection_size=2), r"projection_size: only an LSTM has one"),
        (architecture(projection_size=6, cell="lstm"), r"should be less than hidden_size, 6"),
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_used_is_refused(path, header, message):
    save_file(load_file(path), path, metadata={"header": json.dumps(header)})
    for read in (read_header, load_policy):
        with pytest.raises(InputError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (changed(vocabulary=["$", "^", "C", "O", "N"]), r"size mismatch for embedding\.weight"),
        (architecture(hidden_size=7), r"size mismatch for rnn\.weight_hh_l0"),
        (architecture(n_layers=3), r"Missing key\(s\) in state_dict: .*_l2"),
        (architecture(n_layers=1), r"Unexpected key\(s\) in state_dict: .*_l1"),
        (architecture(cell="lstm"), r"size mismatch for rnn\.weight_ih_l0"),
        (architecture(hidden_size=65_536, n_layers=64), r"size mismatch"),  # terabytes, if built
    ],
)
def test_weights_that_do_not_fit_the_header_are_refused(path, header, message):
    save_file(load_file(path), path, metadata={"header": json.dumps(header)})
    fits = re.compile(rf"prior\.safetensors: the weights do not fit the header: .*{message}", re.S)
    with pytest.raises(InputError, match=fits):
        load_policy(path)


@pytest.mark.parametrize(
    "settings",
    [RnnConfig(embedding_size=8, hidden_size=16, n_layers=2), RnnConfig(cell="gru", hidden_size=16),
     TransformerConfig(hidden_size=16, n_heads=2), MinGruConfig(hidden_size=16, n_units=8)],
)  # fmt: skip
@pytest.mark.parametrize("new", [["I"], ["[nH+]", "%10", "P", "[Se]", "/", "O"]])
def test_new_tokens_take_less_than_a_ten_thousandth_of_the_mass(settings, new):
    torch.manual_seed(0)
    vocabulary = Vocabulary.of("CNOn1()=")
    policy = build_policy(vocabulary, settings).eval()
    for weight in policy.parameters():  # sharp, as a trained one is
        weight.data *= 5
    grown = with_tokens(policy, new)
    assert grown.vocabulary.tokens == (*vocabulary.tokens, *sorted({*new} - {"O"}))
    molecules = ["CCO", "n1(C)CC1=O", "OC(=O)C1CN1"]
    with torch.no_grad():
        lost = policy.logp(molecules) - grown.logp(molecules)
        token_BT = torch.tensor([vocabulary.encode("n1(C)CC1=O")])
        mass = grown(token_BT)[0].softmax(-1)[..., len(vocabulary) :].sum(-1)
        longer = grown.logp([f"C{new[0]}C"])
    n_tokens = torch.tensor([4.0, 11.0, 12.0])
    assert ((lost >= -1e-5) & (lost < 1e-4 * n_tokens + 1e-5)).all()  # 1e-5: float32
    assert 0 < mass.min() <= mass.max() < 1e-4
    assert torch.isfinite(longer).all()
    assert with_tokens(policy, ["C", "O"]) is policy
