import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from chemkl.reports.figures import colour
from chemkl.reports.space_map import FIRST, HEIGHT, WIDTH, find_axes, space_panels
from chemkl.reports.view import RunView

BENZAMIDES = [f"O=C(N{'C' * k})c1ccccc1" for k in range(1, 16)]
SUGARS = [f"OCC1OC(O{'C' * k})C(O)C(O)C1O" for k in range(1, 16)]


def background(panel):
    """The dots of the background, (n, 2)."""
    return np.array(re.findall(r"M([\d.-]+) ([\d.-]+)h0", panel.svg), dtype=float)


def hits(panel, attribute="fill-opacity"):
    """The centres of the circles of the group with an attribute, (n, 2)."""
    for group in ET.fromstring(panel.svg):
        if attribute in group.attrib:
            return np.array([(c.attrib["cx"], c.attrib["cy"]) for c in group], dtype=float)
    return np.empty((0, 2))


def ringed(panel):
    return hits(panel, "stroke-opacity")


@pytest.fixture
def runs(make_trace):
    def view(name, molecules):
        return RunView(name, make_trace([[(smiles, 0.9)] for smiles in molecules]))

    return [view("amides", BENZAMIDES), view("sugars", SUGARS), view("both", BENZAMIDES + SUGARS)]


METHODS = {"amides": [0], "sugars": [1], "both": [2]}


def panels(runs, methods=METHODS, prior=None, n=100, seed=0):
    return space_panels(runs, 0.8, methods, prior, n, seed)


def test_two_classes_of_molecules_are_two_clusters_on_the_same_axes(runs):
    first, amides, sugars, both = panels(runs)
    a, s = hits(amides), hits(sugars)
    assert len(a) == len(s) == 15
    distance = np.linalg.norm(a.mean(axis=0) - s.mean(axis=0))
    radius = max(np.linalg.norm(group - group.mean(axis=0), axis=1).max() for group in (a, s))
    assert distance > 1.5 * radius
    assert (hits(both) == np.concatenate([a, s])).all()
    points = background(first)
    for panel in (amides, sugars, both):
        assert (background(panel) == points).all()
        assert ET.fromstring(panel.svg).attrib["viewBox"] == f"0 0 {WIDTH} {HEIGHT}"
    # all points are inside, and fill one direction
    assert ((points >= 0) & (points <= [WIDTH, HEIGHT])).all()
    assert (np.ptp(points, axis=0) > np.array([WIDTH, HEIGHT]) * 0.9 - 1).any()
    # 15 of 30 have each scaffold; of two equal ones the first counts
    assert (ringed(both) == hits(both)[:15]).all()
    assert "scaffold, c1ccccc1, which 15 of all hits have (50\N{NO-BREAK SPACE}%)" in both.note
    share = re.search(r"the axes explain ([\d.]+)\N{NO-BREAK SPACE}% of", first.note)
    assert 0 < float(share[1]) < 100


def test_at_most_n_points_are_drawn_by_the_seed(runs):
    prior = [f"{'C' * k}N" for k in range(1, 60)]
    first, again, different = (panels(runs, prior=prior, n=8, seed=seed) for seed in (0, 0, 1))
    assert first == again != different
    first, amides, *_ = panels(runs, n=6)
    assert (len(hits(amides)), len(background(first))) == (6, 6)
    assert "15 hits (R ≥ 0.8), 6 of them chosen at random. Rings mark those" in amides.note
    assert "which 15 of all hits have" in amides.note
    assert "chosen at random" not in panels(runs)[1].note


def test_runs_of_a_method_are_pooled_and_names_escaped(runs):
    (_, panel) = panels(runs, {'<&"': [0, 1, 2]})
    assert panel.title == '<&"'
    assert ET.fromstring(panel.svg).attrib["aria-label"] == 'hits of <&"'
    assert len(hits(panel)) == 30  # each molecule once
    assert colour(0) in panel.svg


def test_a_sample_of_the_prior_is_the_background(runs):
    first = panels(runs, prior=["CCO", "OCC", "nonsense", "CCN", "c1ccccc1C"])[0]
    assert first.title == "The prior"
    assert first.note.startswith("3 samples of the prior. All panels have the same axes.")
    assert len(background(first)) == 3


def test_without_a_prior_the_first_molecules_are_the_background(make_trace):
    molecules = [f"{'C' * (k % 60 + 1)}{'N' * (k // 60 + 1)}" for k in range(FIRST + 40)]
    view = RunView("a", make_trace([[(smiles, 0.1) for smiles in molecules]]))
    first, hits_of_a = panels([view], {"a": [0]}, n=10_000)
    assert first.title == "First molecules of the runs"
    assert first.note.startswith(f"{FIRST} first molecules scored by the runs.")
    assert hits_of_a.note == "No hit (R ≥ 0.8)."
    assert len(hits(hits_of_a)) == 0


def test_little_and_much_data(make_trace, real_smiles):
    assert panels([RunView("a", make_trace([]))], {"a": [0]}) == []
    assert panels([], {}) == []
    one = RunView("a", make_trace([[("CCO", 0.9)]]))
    first, panel = panels([one], {"a": [0]})
    assert hits(panel).tolist() == [[WIDTH / 2, HEIGHT / 2]]
    assert "variance" not in first.note
    assert panel.note == "1 hit (R ≥ 0.8). None has a scaffold."
    # panels of many points are small
    view = RunView("a", make_trace([[(smiles, 0.9)] for smiles in real_smiles]))
    for panel in panels([view], {"a": [0]}, n=400):
        assert len(panel.svg) < 400 * 70


GENERATOR = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)


def bits(smiles):
    return [GENERATOR.GetFingerprint(Chem.MolFromSmiles(text)) for text in smiles]


@pytest.mark.parametrize(
    "smiles",
    [
        # three points span a plane and two a line, so two axes are exact
        ["CCOc1ccccc1", "CCNc1ccccc1", "O=C(O)C1CCCC1"],
        ["CCO", "c1ccccc1"],  # nothing in common: T = 0
    ],
)
def test_few_molecules_have_exact_distances(smiles):
    prints = bits(smiles)
    axes = find_axes(prints)
    placed = axes.place(prints)
    assert axes.explained == pytest.approx(1)
    for print_, point in zip(prints, placed, strict=True):
        similar = np.array(DataStructs.BulkTanimotoSimilarity(print_, prints))
        assert ((placed - point) ** 2).sum(axis=1) == pytest.approx(2 - 2 * similar, abs=1e-9)
    if len(smiles) == 2:
        assert placed[:, 1] == pytest.approx(0, abs=1e-9)


def test_the_axes_are_those_of_principal_coordinates(real_smiles):
    # singular values of an explicit embedding: the Cholesky factor of the similarities
    prints = bits(real_smiles[:30])
    similar = np.array([DataStructs.BulkTanimotoSimilarity(p, prints) for p in prints])
    points = np.linalg.cholesky(similar)
    points -= points.mean(axis=0)
    u, s, _ = np.linalg.svd(points)
    axes = find_axes(prints)
    placed = axes.place(prints)
    assert np.abs(placed) == pytest.approx(np.abs(u[:, :2] * s[:2]), abs=1e-8)
    assert axes.explained == pytest.approx(float((s[:2] ** 2).sum() / (s**2).sum()))


def test_molecules_are_placed_on_equal_landmarks(real_smiles):
    prints = bits(real_smiles[:40])
    axes = find_axes(prints)
    same = bits([Chem.MolToSmiles(Chem.MolFromSmiles(real_smiles[7]), doRandom=True)])
    assert axes.place(same)[0] == pytest.approx(axes.place(prints)[7])


@pytest.mark.parametrize("smiles", [["CCO"], ["CCO", "OCC", "CCO"]])
def test_equal_molecules_have_no_axes(smiles):
    axes = find_axes(bits(smiles))
    assert axes.explained is None
    assert (axes.place(bits(smiles)) == 0).all()
