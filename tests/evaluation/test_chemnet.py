import importlib.util

import numpy as np
import pytest
from scipy import linalg

from chemkl.config import InputError
from chemkl.evaluation import chemnet
from chemkl.evaluation.chemnet import ChemNet, Gaussian, frechet_distance

needs_fcd_torch = pytest.mark.skipif(
    importlib.util.find_spec("fcd_torch") is None, reason="fcd_torch is not installed"
)


def gaussian(seed, dimension=6, n=40):
    points = np.random.default_rng(seed).normal(size=(n, dimension)) * (1 + seed)
    return Gaussian(points.mean(0), np.cov(points.T))


def test_frechet_distance_against_the_matrix_square_root():
    one, other = gaussian(1), gaussian(2)
    root = linalg.sqrtm(one.covariance @ other.covariance).real
    expected = np.sum((one.mean - other.mean) ** 2) + np.trace(
        one.covariance + other.covariance - 2 * root
    )
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_in_one_dimension_by_hand():
    one = Gaussian(np.array([1.0]), np.array([[4.0]]))
    other = Gaussian(np.array([4.0]), np.array([[9.0]]))
    assert frechet_distance(one, other) == pytest.approx(9 + (2 - 3) ** 2)


def test_frechet_distance_of_singular_covariances_to_themselves_is_zero():
    few = gaussian(3, dimension=20, n=5)  # rank 4 of 20
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(chemnet, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'fcd_torch>=1.0.7', or set fcd: false"):
        ChemNet()


@needs_fcd_torch
def test_activations_do_not_depend_on_the_batch_and_are_kept(real_smiles):
    network = ChemNet()
    together = network.activations(real_smiles[:12])
    assert together.shape == (12, 512)
    alone = ChemNet().activations(real_smiles[3:4])
    assert np.allclose(together[3], alone[0], atol=1e-5)
    assert np.array_equal(network.activations(real_smiles[5:7]), together[5:7])


@needs_fcd_torch
def test_distance_agrees_with_the_package(real_smiles):
    from fcd_torch import FCD

    ours, theirs = real_smiles[:150], real_smiles[150:300]
    network = ChemNet()
    value = frechet_distance(network.gaussian(ours), network.gaussian(theirs))
    # its means are float32 and its root of the product is taken by a Schur decomposition
    expected = FCD(device="cpu", n_jobs=1)(ours, theirs)
    assert value == pytest.approx(expected, rel=1e-3)
    assert network.gaussian(ours[:1]) is None
