"""What several tests of training train."""

import pytest


@pytest.fixture
def collapsing(tiny_prior):
    """A run that finds few molecules again and again: a high rate, and no baseline."""
    return {
        "prior": str(tiny_prior),
        "reward": {
            "components": [{"kind": "tpsa", "transform": {"kind": "sigmoid", "low": 0, "high": 60}}]
        },
        "target": {"kind": "gibbs", "sigma": 100},
        "estimator": "reinvent",
        "precision": "32-true",
        "batch_size": 16,
        "learning_rate": 2e-2,
        "max_samples": 320,
        "seed": 3,
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 0},
    }
