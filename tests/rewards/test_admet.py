"""ADMET-AI's networks against the equations written out, and against what it published."""

import csv
import io
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from building import CAFFEINE, build, mol, part, reward_of

from chemkl.config import InputError
from chemkl.results.external import open_member
from chemkl.rewards.components import admet as network
from chemkl.rewards.components.admet import (
    ADMET_AI,
    PROBABILITIES,
    STAND_INS,
    VALUES,
    Ensemble,
    graph_of,
    load_ensemble,
    read_checkpoint,
)

CACHE = Path("~/.cache/chemkl").expanduser()
PUBLISHED = "admet_ai/resources/data/drugbank_approved.csv"
needs_wheel = pytest.mark.skipif(
    not (CACHE / ADMET_AI.file_name).exists(),
    reason="no admet_ai wheel in ~/.cache/chemkl; scoring with admet once fetches it",
)


def small_ensemble(n=2, hidden=8, outputs=3, seed=0, depth=3):
    """Networks with random weights."""
    random = np.random.default_rng(seed)

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
    w = {name: each[member].astype(np.float64) for name, each in ensemble.weights.items()}
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
    assert graph.atoms_AV.shape == (2, 72)
    assert graph.bonds_EW.shape == (2, 14)
    # places: element 0-37, degree 38-44, charge 45-50, chirality 51-55, hydrogens 56-61,
    # hybridisation 62-69, aromatic 70, mass 71
    carbon, nitrogen = ({*np.flatnonzero(row[:71]).tolist()} for row in graph.atoms_AV)
    assert carbon == {5, 38 + 4, 45 + 4, 51, 56 + 3, 62 + 4}
    assert nitrogen == {6, 38 + 4, 45 + 2, 51, 56 + 3, 62 + 4}
    assert graph.atoms_AV[:, 71] == pytest.approx([0.12011, 0.14007])
    # no bond 0, type 1-4, conjugated 5, in a ring 6, stereo 7-13
    assert [np.flatnonzero(row).tolist() for row in graph.bonds_EW] == [[1, 7], [1, 7]]
    assert graph.start_E.tolist() == [0, 1]
    assert graph.end_E.tolist() == [1, 0]


def test_what_has_no_place_of_its_own_has_the_last_one():
    gold, minus3 = (graph_of(mol(text)).atoms_AV[0] for text in ("[Au]", "[N-3]"))
    assert gold[37] == 1
    assert minus3[50] == 1
    dative = graph_of(mol("[NH3]->[Fe]")).bonds_EW[0]
    assert not dative[:5].any()


@pytest.mark.parametrize("smiles", ["C", "CC", "CC(=O)Oc1ccccc1C(=O)O", "C/C=C\\C[C@H](N)F"])
def test_the_networks_compute_the_equations(smiles):
    ensemble, one = small_ensemble(), mol(smiles)
    wanted = np.mean([by_hand(ensemble, one, member) for member in (0, 1)], axis=0)
    assert ensemble.predict(one) == pytest.approx(wanted, rel=1e-4)  # float32 against float64


def test_a_value_does_not_depend_on_spelling_or_on_what_was_asked_before(monkeypatch):
    monkeypatch.setattr(network, "MOST_KEPT", 1)
    ensemble, fresh = small_ensemble(), small_ensemble()
    mols = [mol(text) for text in ("CCO", "c1ccccc1C(=O)N", "CCO")]
    values = [ensemble.predict(one) for one in mols]
    assert (values[0] == values[2]).all()
    assert (values[1] == fresh.predict(mols[1])).all()


def test_unknown_endpoints_are_named_with_the_nearest():
    with pytest.raises(InputError, match=r"'herg' is not a known endpoint.*hERG"):
        build("admet", endpoint="herg")
    assert (len({*PROBABILITIES}), len(VALUES)) == (31, 10)


def zipped(content, **settings):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", **settings) as archive:
        archive.writestr("model/data.pkl", content)
    held.seek(0)
    return held


def test_a_checkpoint_runs_nothing(capsys):
    class Evil:
        def __reduce__(self):
            return (print, ("it was run",))

    pickled = pickle.dumps({"state_dict": {}, "evil": Evil()}, 2)
    with pytest.raises(InputError, match=r"model\.pt: .*asks for __builtin__\.print, which is not"):
        read_checkpoint(zipped(pickled), "model.pt")
    assert capsys.readouterr().out == ""


def compressed_badly():
    """A zip file whose directory is in order, and whose compressed bytes are not."""
    held = zipped(bytes(1000), compression=zipfile.ZIP_DEFLATED)
    held.seek(len("model/data.pkl") + 30)  # of a local header
    held.write(b"\xff" * 4)
    return held.getvalue()


@pytest.mark.parametrize(
    "name",
    [b"torch._utils\n_rebuild_tensor_v2", b"torch\nFloatStorage", b"collections\nOrderedDict"],
)
def test_a_checkpoint_changes_nothing_that_it_may_name(name):
    # BUILD with (None, {"a": 1}) sets attributes of what stands on the stack
    pickled = b"\x80\x02}c" + name + b"\nN}X\x01\x00\x00\x00aI1\ns\x86b0."
    with suppress(InputError):
        read_checkpoint(zipped(pickled), "model.pt")
    assert not hasattr(STAND_INS[tuple(name.decode().split("\n"))], "a")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04", compressed_badly()])
def test_what_is_no_checkpoint_is_refused(content):
    with pytest.raises(InputError, match=r"model\.pt: not a PyTorch checkpoint"):
        read_checkpoint(io.BytesIO(content), "model.pt")


@needs_wheel
@pytest.mark.slow
def test_the_predictions_are_those_that_admet_ai_published():
    # its wheel has its predictions for the approved drugs of DrugBank; one in forty is compared
    with open_member(CACHE / ADMET_AI.file_name, PUBLISHED) as stream:
        rows = list(csv.DictReader(io.TextIOWrapper(stream)))[::40]
    assert len(rows) > 60
    ensembles = [load_ensemble(kind, CACHE) for kind in ("classification", "regression")]
    assert {name for each in ensembles for name in each.endpoints} == {*PROBABILITIES, *VALUES}
    for row in rows:
        for ensemble in ensembles:
            wanted = [float(row[name]) for name in ensemble.endpoints]
            # float32 there, and here in another order
            assert ensemble.predict(mol(row["smiles"])) == pytest.approx(wanted, rel=1e-4, abs=1e-4)


@needs_wheel
@pytest.mark.slow
def test_two_ligands_are_told_apart_as_they_should_be():
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
