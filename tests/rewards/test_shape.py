"""Shape: values recomputed from the coordinates of a conformer, and the limits of embedding."""

import math

import numpy as np
import pytest
from building import ASPIRIN, CUBANE, CYCLODODECANE, build, mol, part, reward_of, value

from chemkl.config import InputError
from chemkl.rewards.components import shape
from chemkl.rewards.registry import COMPONENTS

CYCLOSPORIN = (
    "C/C=C/C[C@@H](C)[C@@H](O)[C@H]1C(=O)N[C@@H](CC)C(=O)N(C)CC(=O)N(C)[C@@H](CC(C)C)C(=O)N"
    "[C@@H](C(C)C)C(=O)N(C)[C@@H](CC(C)C)C(=O)N[C@@H](C)C(=O)N[C@H](C)C(=O)N(C)[C@@H](CC(C)C)"
    "C(=O)N(C)[C@@H](CC(C)C)C(=O)N(C)[C@@H](C(C)C)C(=O)N1C"
)
KINDS = [
    *("pmi1", "pmi2", "pmi3", "npr1", "npr2", "asphericity", "eccentricity", "spherocity"),
    *("radius_of_gyration", "pbf", "molecular_volume"),
]


def by_numpy(smiles):
    """The definitions, from coordinates and masses alone."""
    embedded = shape.conformer(mol(smiles), shape.EMBEDDING)
    xyz = embedded.GetConformer().GetPositions()
    mass = np.array([atom.GetMass() for atom in embedded.GetAtoms()])
    r = xyz - mass @ xyz / mass.sum()
    inertia = np.eye(3) * (mass @ (r**2).sum(1)) - (r * mass[:, None]).T @ r
    i1, i2, i3 = np.linalg.eigvalsh(inertia)
    g = np.linalg.eigvalsh((r * mass[:, None]).T @ r / mass.sum())
    differences = (g[2] - g[1]) ** 2 + (g[2] - g[0]) ** 2 + (g[1] - g[0]) ** 2
    centred = xyz - xyz.mean(0)
    normal = np.linalg.svd(centred)[2][-1]
    spread = np.linalg.eigvalsh(centred.T @ centred)
    return {
        **{"pmi1": i1, "pmi2": i2, "pmi3": i3, "npr1": i1 / i3, "npr2": i2 / i3},
        "asphericity": differences / 2 / g.sum() ** 2,
        "eccentricity": math.sqrt(i3**2 - i1**2) / i3,
        "spherocity": 3 * spread[0] / spread.sum(),
        "radius_of_gyration": math.sqrt(mass @ (r**2).sum(1) / mass.sum()),
        "pbf": np.abs(centred @ normal).mean(),
    }


@pytest.mark.parametrize("smiles", [ASPIRIN, CYCLODODECANE, "[2H]OC", "C[N+](C)(C)CCO", "C[CH2]"])
def test_values_follow_from_the_coordinates(smiles):
    expected = by_numpy(smiles)
    assert {*expected, "molecular_volume"} == set(KINDS)
    for kind, number in expected.items():
        assert value(kind, smiles) == pytest.approx(number, rel=1e-6, abs=1e-9), kind
        low, high = COMPONENTS[kind].range
        assert low <= value(kind, smiles) <= high, kind


# corners of Sauer and Schwarz's triangle; real molecules come near them
@pytest.mark.parametrize(
    ("smiles", "npr1", "npr2", "asphericity"),
    [
        ("C#CC#CC#C", 0, 1, 1),  # a rod
        ("c1ccccc1", 0.5, 0.5, 0.25),  # a disc
        (CUBANE, 1, 1, 0),  # a ball
        ("C1C2CC3CC1CC(C2)C3", 1, 1, 0),  # adamantane, a ball
    ],
)
def test_rod_disc_and_ball(smiles, npr1, npr2, asphericity):
    # conformers are not relaxed: bond lengths scatter by some hundredths of an Å
    assert value("npr1", smiles) == pytest.approx(npr1, abs=0.06)
    assert value("npr2", smiles) == pytest.approx(npr2, abs=0.06)
    assert value("asphericity", smiles) == pytest.approx(asphericity, abs=0.02)


def test_the_volume_of_benzene_is_bondis_and_depends_on_the_grid():
    # 48.36 cm³/mol (Bondi, J. Phys. Chem. 68, 441 (1964)) is 80.3 Å³; RDKit's radii differ a little
    assert value("molecular_volume", "c1ccccc1") == pytest.approx(80.3, rel=0.05)
    fine, coarse = (value("molecular_volume", ASPIRIN, grid_spacing=h) for h in (0.2, 0.8))
    assert fine != coarse
    assert fine == pytest.approx(coarse, rel=0.1)


def test_components_and_spellings_share_one_embedding(monkeypatch):
    shape._conformer.cache_clear()
    calls, embed = [], shape.rdDistGeom.EmbedMolecule
    monkeypatch.setattr(
        shape.rdDistGeom, "EmbedMolecule", lambda *arguments: calls.append(1) or embed(*arguments)
    )
    spellings = [ASPIRIN, "O=C(O)c1ccccc1OC(C)=O", "c1ccc(C(O)=O)c(OC(=O)C)c1"]
    for kind in KINDS:
        assert len({value(kind, smiles) for smiles in spellings}) == 1
    assert len(calls) == 1


def test_the_seed_decides():
    first = value("radius_of_gyration", "CCCCCCCO", seed=1)
    shape._conformer.cache_clear()
    assert value("radius_of_gyration", "CCCCCCCO", seed=1) == first
    assert value("radius_of_gyration", "CCCCCCCO", seed=2) != first


IMPOSSIBLE = "c1cc2ccc1CC2"  # a bridge of two atoms across benzene


@pytest.mark.parametrize(
    ("smiles", "parameters", "reason"),
    [
        (IMPOSSIBLE, {}, "no conformer found in 20 attempts"),
        (IMPOSSIBLE, {"attempts": 3}, "no conformer found in 3 attempts"),
        ("CC(=O)[O-].[Na+]", {}, "2 fragments have no common shape"),
        ("[Na+]", {}, "a single atom has no shape"),
        ("C" * 300, {}, "300 heavy atoms, and max_heavy_atoms = 100"),
        ("CCCC", {"max_heavy_atoms": 3}, "4 heavy atoms, and max_heavy_atoms = 3"),
    ],
)
def test_a_molecule_without_conformer_fails_with_a_reason(smiles, parameters, reason):
    model = reward_of(part("npr1", **parameters))
    failed, fine = model.score([smiles, "CCO"]).to_dict("records")
    assert math.isnan(failed["raw_npr1"])
    assert f"component npr1 failed: {reason}" in failed["reason"]
    assert failed["reward"] == 0
    assert 0 < fine["reward"] < 1


def test_embedding_has_a_time_limit_and_a_second_start():
    with pytest.raises(ValueError, match="no conformer found in 1 s"):
        value("npr1", CYCLOSPORIN, timeout=1, attempts=10_000)
    assert value("npr1", "C" * 40) < 0.5  # a long chain needs random coordinates


@pytest.mark.parametrize(
    "name", ["seed", "attempts", "timeout", "max_heavy_atoms", "grid_spacing", "box_margin"]
)
def test_shapes_are_costly_and_their_settings_are_checked(name):
    assert all(COMPONENTS[kind].costly for kind in KINDS)
    with pytest.raises(InputError, match=f"{name}: should be greater than or equal to"):
        build("molecular_volume", **{name: -1})
