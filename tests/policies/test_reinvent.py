"""REINVENT's model files: read whatever their age, written as REINVENT4 reads them, run never."""

import os
import pickle
import sys
import zipfile
from types import ModuleType

import pytest
import torch

from chemkl.config import InputError
from chemkl.policies import build_policy, load_policy, read_header, reinvent
from chemkl.policies.checkpoint import KINDS
from chemkl.policies.reinvent import read_reinvent, write_reinvent
from chemkl.policies.rnn import RnnPolicy
from chemkl.policies.tokenizer import Vocabulary

TOKENS = ("$", "^", "(", ")", "1", "=", "Br", "C", "N", "O", "[nH]", "c")
SMILES = ["CC(=O)O", "c1ccc[nH]1", "BrCCN", "C"]


@pytest.fixture
def short_fit(monkeypatch):
    """Few steps for the end token's row, where its values do not matter."""
    monkeypatch.setattr(reinvent, "FIT", ((4, 4, 3, 0.1),))


def policy_of(cell="lstm", n_layers=2):
    torch.manual_seed(0)
    policy = RnnPolicy(
        Vocabulary(TOKENS), cell=cell, embedding_size=8, hidden_size=16, n_layers=n_layers
    )
    with torch.no_grad():  # ends soon, so that samples are short
        policy.linear.bias[0] += 1.0
    return policy.eval()


def reinvent_dict(policy, order=TOKENS):
    """A file's content by the facts of the format, its rows in another order of the tokens."""
    rows = torch.tensor([TOKENS.index(token) for token in order])
    state = policy.state_dict()
    network = {f"_{name}": value.clone() for name, value in state.items()}
    for name in ("_embedding.weight", "_linear.weight", "_linear.bias"):
        network[name] = network[name][rows]
    sizes = policy.architecture
    return {
        "model_type": "Reinvent",
        "version": 1,
        "metadata": None,
        "vocabulary": {"tokens": {token: i for i, token in enumerate(order)}, "pad_token": 0},
        "max_sequence_length": 64,
        "network": network,
        "network_params": {
            "dropout": 0.0,
            "layer_size": sizes["hidden_size"],
            "num_layers": sizes["n_layers"],
            "cell_type": sizes["cell"],
            "embedding_layer_size": sizes["embedding_size"],
            "layer_normalization": False,
        },
    }


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("order", [TOKENS, (*TOKENS[2:], "^", "$")], ids=["usual", "other"])
def test_a_prior_is_read_in_any_order_of_its_tokens(tmp_path, cell, order):
    policy = policy_of(cell)
    torch.save(reinvent_dict(policy, order), tmp_path / "a.prior")
    read = read_reinvent(tmp_path / "a.prior")
    assert set(read.vocabulary.tokens) == set(TOKENS)
    assert read.max_length == 64
    assert not read.training
    torch.testing.assert_close(read.logp(SMILES), policy.logp(SMILES), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_log_probs_survive_the_way_there_and_back(tmp_path, cell, short_fit):
    policy = policy_of(cell)
    write_reinvent(policy, tmp_path / "a.prior")
    read = read_reinvent(tmp_path / "a.prior")
    torch.testing.assert_close(read.logp(SMILES), policy.logp(SMILES), rtol=0, atol=1e-6)
    assert read.architecture == policy.architecture
    # the file is plain, and only the row of the end token has changed
    content = torch.load(tmp_path / "a.prior", weights_only=True)  # no class but torch's own
    assert content["vocabulary"]["tokens"]["$"] == 0
    assert content["network"]["_embedding.weight"].shape == (12, 8)
    for name, value in policy.state_dict().items():
        changed = (content["network"][f"_{name}"] != value).nonzero()
        assert set(changed[:, 0].tolist()) == ({0} if name == "embedding.weight" else set())


@pytest.mark.parametrize(
    ("tokens", "settings", "says"),
    [
        (TOKENS, {"kind": "mingru", "n_layers": 1}, "plain LSTM and GRU models only, not mingru"),
        (TOKENS, {"kind": "rnn", "projection_size": 4}, "models only, not one with a projection"),
        ((*TOKENS, "CC"), {"kind": "rnn"}, r"tokens are fragments \(tokens\.merges\).* Take a m"),
    ],
)
def test_what_reinvent_has_not_is_not_written(tmp_path, tokens, settings, says):
    policy = build_policy(Vocabulary(tokens), KINDS[settings["kind"]][1](**settings))
    with pytest.raises(InputError, match=rf"a\.prior: .*{says}"):
        write_reinvent(policy, tmp_path / "a.prior")
    assert not (tmp_path / "a.prior").exists()


@pytest.mark.slow
def test_the_end_follows_the_end(tmp_path):
    policy = load_policy("data/priors/moses.safetensors")
    write_reinvent(policy, tmp_path / "moses.prior")
    read = read_reinvent(tmp_path / "moses.prior")
    padding = []
    with torch.no_grad():
        for smiles in policy.sample(50, torch.Generator().manual_seed(9)).smiles:
            ids = torch.tensor([policy.vocabulary.encode(smiles) + [0] * 90])
            logits, _ = read(ids[:, :-1])
            logp = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
            padding.append(-logp[0, -90:].sum().item())
            assert logp[0, :-90].sum().item() == pytest.approx(
                policy.logp([smiles]).item(), abs=1e-4
            )
    # what REINVENT4 adds to a likelihood: hundreds of nats with the row as it was trained
    assert sum(padding) / 50 < 0.5


@pytest.mark.parametrize(
    "module", ["reinvent.models.vocabulary", "reinvent_models.core.vocabulary"]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_old_files_with_objects_are_read(tmp_path, module, zipped, monkeypatch):
    for end in range(1, len(module.split(".")) + 1):
        name = ".".join(module.split(".")[:end])
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    classes = {
        name: type(name, (), {"__module__": module})
        for name in ("Vocabulary", "SMILESTokenizer", "ModelMetaData")
    }
    for name, kind in classes.items():
        setattr(sys.modules[module], name, kind)
    policy = policy_of()
    content = reinvent_dict(policy)
    vocabulary = classes["Vocabulary"]()
    tokens = {token: i for i, token in enumerate(TOKENS)}
    vocabulary._tokens = tokens | {i: token for token, i in tokens.items()}
    content |= {"vocabulary": vocabulary, "tokenizer": classes["SMILESTokenizer"]()}
    content |= {"metadata": classes["ModelMetaData"](), "staged_learning": {"stage": 1}}
    del content["model_type"]
    torch.save(content, tmp_path / "old.prior", _use_new_zipfile_serialization=zipped)
    for name in ("Vocabulary", "SMILESTokenizer", "ModelMetaData"):
        delattr(sys.modules[module], name)
    read = read_reinvent(tmp_path / "old.prior")
    torch.testing.assert_close(read.logp(SMILES), policy.logp(SMILES), rtol=0, atol=1e-6)


class Hostile:
    def __reduce__(self):
        import os

        return os.system, ("touch ran",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    content = reinvent_dict(policy_of()) | {"metadata": Hostile()}
    torch.save(content, "bad.prior", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"bad\.prior: refused: it holds \w+\.system"):
        read_reinvent("bad.prior")
    (tmp_path / "plain.prior").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(InputError, match=r"plain\.prior: "):
        read_reinvent("plain.prior")
    assert not (tmp_path / "ran").exists()
    # nor is an archive read that unpacks to more than its size
    torch.save(reinvent_dict(policy_of()), "whole.prior")
    deflated = zipfile.ZipFile("packed.prior", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile("whole.prior") as whole, deflated as packed:
        for record in whole.infolist():
            packed.writestr(record.filename, whole.read(record))
    read_reinvent("whole.prior")
    with pytest.raises(InputError, match=r"packed\.prior: refused: its records are compressed"):
        read_reinvent("packed.prior")


def changed(**parts):
    def change(content):
        for name, value in parts.items():
            place, _, key = name.partition("__")
            if key:
                content[place] = {**content[place], key: value}
            elif value is None:
                del content[place]
            else:
                content[place] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed(model_type="Libinvent"), "type 'Libinvent'"),
        (changed(network=None), "has no network"),
        (changed(vocabulary={}), "no tokens in it"),
        (changed(vocabulary={"tokens": {"$": 0, "^": 2}}), "not 0, 1, 2"),
        (changed(vocabulary={"tokens": {"$": 0, "C": 1}}), "lacks the end token"),
        (changed(network_params__layer_size=17), r"rnn.weight_ih_l0 is \(64, 8\), expected"),
        (changed(network_params__num_layers=3), "rnn.weight_ih_l2 is missing"),
        (changed(network_params__num_layers=0), "n_layers"),
        (changed(network_params__num_layers=3000), "n_layers"),
        (changed(network_params__cell_type="mamba"), "cell"),
        (changed(network_params__cell_type=[]), "cell"),
        (changed(max_sequence_length=1), "max_length"),
        (changed(network_params__layer_normalization=True), "layer_normalization"),
        (changed(network={"_linear.bias": 3}), "expected plain tensors"),
        (changed(network__x=torch.eye(2).to_sparse()), "expected plain tensors"),
        (changed(network__x=torch.eye(2, dtype=torch.complex64)), "expected plain tensors"),
        (changed(network__x=torch.eye(2, device="meta")), "expected plain tensors"),
        (changed(network__x=torch.zeros(1, dtype=torch.half).expand(10**6, 10**6)),
         "expected plain tensors"),  # two bytes that stand for two terabytes
        (changed(**{"network__linear.bias": torch.zeros(12)}), "under two names"),
        (changed(vocabulary={"tokens": {"$": 0, "^": 1, "": 2}}), r"a\.prior: .*single tokens"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, change, says):
    content = reinvent_dict(policy_of())
    change(content)
    torch.save(content, tmp_path / "a.prior")
    with pytest.raises(InputError, match=says):
        read_reinvent(tmp_path / "a.prior")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty: download it again"),
        (b"CCO\n", "refused: not a torch file, or cut short"),
        (b"PK\x03\x04 no zip", r"damaged or incomplete \(\w+\): download it again"),
        (100, r"damaged or incomplete \(\w+\): download it again"),
        (-100, r"damaged or incomplete \(\w+\): download it again"),
    ],
)
def test_another_file_is_refused(tmp_path, content, says):
    file = tmp_path / "a.prior"
    torch.save(reinvent_dict(policy_of()), file)
    file.write_bytes(file.read_bytes()[:content] if isinstance(content, int) else content)
    with pytest.raises(InputError, match=rf"a\.prior: {says}\. Expected .*REINVENT") as caught:
        read_reinvent(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such model file"):
        read_reinvent(tmp_path / "b.prior")


def test_a_prior_is_a_model_file_like_any_other(tmp_path):
    policy = policy_of()
    torch.save(reinvent_dict(policy), tmp_path / "a.prior")
    header = read_header(tmp_path / "a.prior")
    assert tuple(header["vocabulary"]) == TOKENS
    assert header["architecture"]["hidden_size"] == 16
    read = load_policy(tmp_path / "a.prior")
    torch.testing.assert_close(read.logp(SMILES), policy.logp(SMILES), rtol=0, atol=1e-6)
    with torch.no_grad():
        policy.linear.bias[3] = float("nan")
    torch.save(reinvent_dict(policy), tmp_path / "a.prior")
    with pytest.raises(InputError, match=r"a\.prior: the weights linear\.bias"):
        load_policy(tmp_path / "a.prior")
    # a pipe is refused without waiting
    for name in ("x", "x.prior"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="a device, pipe or socket"):
            load_policy(tmp_path / name)
