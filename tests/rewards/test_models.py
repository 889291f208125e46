"""scikit-learn and ONNX models on fingerprints, compared with the models in memory."""

import hashlib
import pickle
import textwrap
import zipfile
from importlib.metadata import version

import numpy as np
import pytest
from building import build
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator, rdMolDescriptors

from chemkl.config import InputError

sklearn = pytest.importorskip(
    "sklearn", reason="needs scikit-learn: pip install scikit-learn skops"
)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
skops_io = pytest.importorskip("skops.io", reason="needs skops: pip install scikit-learn skops")
skl2onnx = pytest.importorskip("skl2onnx", reason="needs skl2onnx: pip install skl2onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install onnxruntime")
SMILES = ["CCO", "c1ccccc1", "CC(=O)O", "CCN", "c1ccncc1", "CCCCCC", "OCCO", "Cc1ccccc1O"] * 3
N_BITS = 64


def features(smiles=SMILES, counts=False):
    """Fingerprints by RDKit alone."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=N_BITS)
    make = generator.GetCountFingerprintAsNumPy if counts else generator.GetFingerprintAsNumPy
    return np.array([make(Chem.MolFromSmiles(s)) for s in smiles], dtype=np.float32)


SIZES = np.array([Chem.MolFromSmiles(s).GetNumAtoms() for s in SMILES], dtype=float)


def trained():
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neural_network import MLPRegressor

    rings, three = ["1" in s for s in SMILES], np.clip(SIZES, 3, 5).astype(int)
    network = MLPRegressor(hidden_layer_sizes=(512,), max_iter=2, random_state=0)
    return {
        "forest": RandomForestRegressor(10, random_state=0, n_jobs=2).fit(features(), SIZES),
        "ridge": Ridge().fit(features(counts=True), SIZES),
        "network": network.fit(features(), SIZES),
        "classifier": RandomForestClassifier(10, random_state=0).fit(features(), rings),
        "three": LogisticRegression().fit(features(), three),  # three classes
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder of skops and ONNX files, and the models."""
    folder, in_memory = tmp_path_factory.mktemp("models"), trained()
    for kind, model in in_memory.items():
        skops_io.dump(model, folder / f"{kind}.skops")
        onnx = skl2onnx.to_onnx(model, features()[:1])
        (folder / f"{kind}.onnx").write_bytes(onnx.SerializeToString())
    plain = skl2onnx.to_onnx(in_memory["three"], features()[:1], options={"zipmap": False})
    (folder / "plain.onnx").write_bytes(plain.SerializeToString())
    return folder, in_memory


TREES = ["sklearn.tree._tree.Tree"]


def build_model(kind, path, **parameters):
    if kind == "sklearn_model":
        parameters.setdefault("trusted", TREES)
    return build(kind, **{"path": str(path), "n_bits": N_BITS, **parameters})


MOLS = [Chem.MolFromSmiles(s) for s in SMILES[:8]]


@pytest.mark.parametrize(("name", "counts"), [("forest", False), ("ridge", True)])
def test_a_regression_predicts_like_the_model(models, name, counts):
    folder, in_memory = models
    expected = in_memory[name].predict(features(SMILES[:8], counts))
    by_skops = build_model("sklearn_model", folder / f"{name}.skops", counts=counts)(MOLS)
    np.testing.assert_allclose(by_skops, expected, rtol=1e-12)
    by_onnx = build_model("onnx_model", folder / f"{name}.onnx", counts=counts)
    np.testing.assert_allclose(by_onnx(MOLS), expected, rtol=1e-5)  # float32


def test_a_classifier_returns_the_probability_of_its_second_class(models):
    folder, in_memory = models
    expected = in_memory["classifier"].predict_proba(features(SMILES[:8]))
    path = folder / "classifier.skops"
    assert build_model("sklearn_model", path)(MOLS) == expected[:, 1].tolist()
    assert build_model("sklearn_model", path, class_index=0)(MOLS) == expected[:, 0].tolist()
    labels = build_model("sklearn_model", path, method="predict")(MOLS)
    assert labels == (expected[:, 1] > 0.5).astype(float).tolist()


@pytest.mark.parametrize("file", ["three.onnx", "plain.onnx"])  # {class: probability}, or a tensor
@pytest.mark.parametrize("class_index", [0, 2])
def test_a_class_and_an_output_of_an_onnx_model_are_chosen(models, file, class_index):
    folder, in_memory = models
    expected = in_memory["three"].predict_proba(features(SMILES[:8]))[:, class_index]
    for output in (1, {"three.onnx": "output_probability", "plain.onnx": "probabilities"}[file]):
        score = build_model("onnx_model", folder / file, output=output, class_index=class_index)
        np.testing.assert_allclose(score(MOLS), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["forest", "network"])
def test_a_value_does_not_depend_on_other_molecules(models, name):
    path = models[0] / f"{name}.skops"
    score = build_model("sklearn_model", path, trusted=skops_io.get_untrusted_types(file=path))
    mols = [Chem.MolFromSmiles("C" * n + "O" + "N" * (n % 7)) for n in range(1, 101)]
    together = score(mols)
    assert [score([mol])[0] for mol in mols] == together
    assert score(mols[::-1])[::-1] == together
    assert score([]) == []


def test_other_fingerprints(tmp_path):
    from sklearn.linear_model import Ridge

    keys = np.array([list(rdMolDescriptors.GetMACCSKeysFingerprint(mol)) for mol in MOLS], float)
    model = Ridge().fit(keys, SIZES[:8])
    skops_io.dump(model, tmp_path / "m.skops")
    score = build("sklearn_model", path=str(tmp_path / "m.skops"), fingerprint="maccs")
    np.testing.assert_allclose(score(MOLS), model.predict(keys), rtol=1e-6)


class Harmful:
    def __reduce__(self):
        return exec, ("raise AssertionError('the pickle was run')",)


@pytest.mark.parametrize("kind", ["sklearn_model", "onnx_model"])
@pytest.mark.parametrize("name", ["m.pkl", "m.joblib", "m.skops", "m.onnx"])
def test_pickles_are_refused_whatever_their_name(tmp_path, kind, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Harmful()))
    message = r"is a pickle, which can run any code.*skops.io.dump\(joblib.load\('m\..*to_onnx"
    with pytest.raises(InputError, match=message):
        build_model(kind, path)


def test_untrusted_types_are_named(models, tmp_path):
    from sklearn.preprocessing import FunctionTransformer

    path = tmp_path / "m.skops"
    skops_io.dump(FunctionTransformer(textwrap.dedent), path)
    with pytest.raises(InputError, match=r"types that skops does not trust: .*dedent"):
        build_model("sklearn_model", path)
    trees = models[0] / "forest.skops"  # a malformed tree crashes the process (skops, PR 535)
    message = r"author of the file, add trusted: \[sklearn\.tree\._tree\.Tree\]"
    with pytest.raises(InputError, match=message):
        build_model("sklearn_model", trees, trusted=[])


@pytest.mark.parametrize(
    ("file", "parameters", "message"),
    [
        ("nowhere.onnx", {}, "path: no such file or folder"),
        ("text.onnx", {}, "text.onnx is not a model that ONNX Runtime can read"),
        ("folder.onnx", {}, "is not a file"),
        ("forest.onnx", {"n_bits": 128}, "cannot be run on a fingerprint of length 12"),
        ("three.onnx", {}, r"2 outputs: .* \(it is null\)\. Known: output_label, out"),
        ("three.onnx", {"output": 2}, r"has 2 outputs: .* counted from 0, .*\(it is 2\)"),
        ("three.onnx", {"output": "output_lable"}, "did you mean 'output_label'"),
        ("plain.onnx", {"output": 1}, "3 values for a molecule: choose one .* 0 to 2"),
        ("plain.onnx", {"output": 1, "class_index": 3}, r"3 values for .* 0 to 2 \(it is 3\)"),
        ("forest.onnx", {"class_index": -1}, "should be greater than or equal to 0"),
        ("forest.onnx", {"fingerprint": "morgn"}, "did you mean 'morgan'"),
        ("forest.onnx", {"fingerprint": "maccs"}, "maccs has no such setting"),
        ("text.skops", {}, "text.skops is not a skops file"),
        ("zip.skops", {}, "zip.skops is not readable"),
        ("forest.skops", {"n_bits": 128}, "expecting 64 features"),
        ("three.skops", {}, "predict_proba gives 3 values for a molecule: choose"),
        ("forest.skops", {"method": "predict_proba"}, "Regressor has no predict_pr"),
        ("dict.skops", {}, "dict has no predict"),
    ],
)
def test_an_unsuitable_model_is_refused(models, file, parameters, message):
    folder, _ = models
    (folder / "folder.onnx").mkdir(exist_ok=True)
    for name in ("text.onnx", "text.skops"):
        (folder / name).write_text("no model")
    with zipfile.ZipFile(folder / "zip.skops", "w") as archive:
        archive.writestr("a", "b")
    skops_io.dump({"a": 1}, folder / "dict.skops")
    kind = "onnx_model" if file.endswith("onnx") else "sklearn_model"
    with pytest.raises(InputError, match=message):
        build_model(kind, folder / file, **parameters)


@pytest.mark.parametrize(
    ("kind", "package"), [("onnx_model", "onnxruntime"), ("sklearn_model", "skops")]
)
def test_a_missing_package_is_named_with_its_version(models, monkeypatch, kind, package):
    folder, _ = models
    monkeypatch.setattr("chemkl.rewards.registry.find_spec", lambda _: None)
    with pytest.raises(InputError, match=rf"{package}: install it with pip .*'{package}>="):
        build_model(kind, folder / "forest.onnx")


def test_the_identity_of_a_model_is_its_file_and_what_runs_it(models):
    folder, _ = models
    forest = build_model("onnx_model", folder / "forest.onnx")
    ridge = build_model("onnx_model", folder / "ridge.onnx")
    assert forest.identity != ridge.identity
    digest = hashlib.sha256((folder / "forest.onnx").read_bytes()).hexdigest()
    assert forest.identity == f"{digest} onnxruntime {version('onnxruntime')}"
