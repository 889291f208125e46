import hashlib
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from made_classifiers import forest_of, pickled, svc_of
from rdkit import Chem

from chemkl.config import InputError
from chemkl.rewards.components import activity as store
from chemkl.rewards.components.activity import Forest, SupportVectors, load_classifier

ETHANOL = Chem.MolFromSmiles("CCO")
LEAF = (-1, -1, -2)
FOREST = forest_of(([(1, 2, 80), LEAF, LEAF], [(4, 4), (3, 1), (1, 3)]), ([LEAF], [(3, 1)]))


@pytest.fixture
def fake_wheel(tmp_path, monkeypatch):
    """Serve a pickle as the classifier `gsk3b`; gives the list of downloads."""
    fetched = []

    def serve(content, sha256=None, model=Forest):
        wheel = tmp_path / "fake.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("clf.pkl", content)
        found = sha256 or hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(store.CLASSIFIERS, "gsk3b", store.Source(model, "clf.pkl", found))
        monkeypatch.setattr(store, "fetch_wheel", lambda *_: fetched.append(1) or wheel)
        load_classifier.cache_clear()
        return fetched

    yield serve
    load_classifier.cache_clear()


def test_a_classifier_is_converted_once(fake_wheel, tmp_path):
    fetched = fake_wheel(pickled(FOREST))
    first = load_classifier("gsk3b", tmp_path / "cache").probability([ETHANOL])
    (kept,) = (tmp_path / "cache").iterdir()
    with np.load(kept, allow_pickle=False) as arrays:
        assert arrays["sha256"] == store.CLASSIFIERS["gsk3b"].sha256
    load_classifier.cache_clear()
    assert load_classifier("gsk3b", tmp_path / "cache").probability([ETHANOL]) == first
    assert len(fetched) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "other source", "other arrays", "objects"])
def test_a_damaged_npz_is_made_anew(damage, fake_wheel, tmp_path):
    fetched = fake_wheel(pickled(FOREST))
    load_classifier("gsk3b", tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    with np.load(kept) as file:
        arrays = dict(file)
    match damage:
        case "cut":
            kept.write_bytes(whole[:-40])
        case "empty":
            kept.write_bytes(b"")
        case "other source":
            np.savez(kept, **{**arrays, "sha256": np.array("0" * 64)})
        case "other arrays":
            np.savez(kept, sha256=arrays["sha256"])
        case "objects":
            np.savez(kept, **{**arrays, "feature": np.array([{}], dtype=object)})
    load_classifier.cache_clear()
    assert load_classifier("gsk3b", tmp_path / "cache").probability([ETHANOL]).shape == (1,)
    assert len(fetched) == 2
    assert kept.read_bytes() == whole


def test_a_pickle_with_another_hash_is_not_read(fake_wheel, tmp_path):
    fake_wheel(b"cos\nsystem\n(S'false'\ntR.", sha256="f" * 64)
    with pytest.raises(InputError, match=r"fake.whl:clf.pkl: sha256 is \w{64}, expected f{64}"):
        load_classifier("gsk3b", tmp_path / "cache")


class Touch:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


def test_a_hostile_pickle_in_the_wheel_runs_nothing(fake_wheel, tmp_path):
    proof = tmp_path / "ran"
    content = pickle.dumps({"trees": Touch(proof)})
    fake_wheel(content)
    with pytest.raises(InputError, match=r"clf\.pkl: .* which is not allowed"):
        load_classifier("gsk3b", tmp_path / "cache")
    assert not proof.exists()
    pickle.loads(content)
    assert proof.exists()  # so it would have run


def test_a_model_of_another_form_is_refused(fake_wheel, tmp_path):
    vectors = np.zeros((2, 2048))
    for make, model, why in [
        (forest_of(classes=(0.0, 1.0, 2.0)), Forest, "classes other than 0 and 1"),
        (forest_of(), Forest, "concatenate"),
        (svc_of(vectors, kernel="linear"), SupportVectors, "a kernel that is not rbf"),
        (svc_of(vectors + 0.5), SupportVectors, "support vectors that are no counts"),
        (svc_of(None), SupportVectors, "expected an array, found a NoneType"),
        (FOREST, SupportVectors, "kernel"),
    ]:
        fake_wheel(pickled(make), model=model)
        with pytest.raises(InputError, match=rf"not a classifier of the known form \(.*{why}"):
            load_classifier("gsk3b", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written(fake_wheel, tmp_path):
    fake_wheel(pickled(FOREST))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot keep the classifier there .* Set `cache` to"):
        load_classifier("gsk3b", tmp_path / "file" / "cache")
