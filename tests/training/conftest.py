"""A run that collapses, and how to kill a run."""

import lightning
import pytest

from chemkl.stages import posttrain
from chemkl.training.ledger import Ledger


class KilledError(BaseException):
    """Stands for a SIGKILL: nothing after it runs in the stage."""


@pytest.fixture
def killed(monkeypatch):
    """Run posttrain, killed at each of some moments: in a step, or before something is written."""
    writes = {"policy": (posttrain, "save_policy", 1)}
    writes["second checkpoint"] = (lightning.Trainer, "save_checkpoint", 2)

    def run(config, out, *moments):
        for moment in moments:
            owner, name, nth = writes.get(moment, (Ledger, "enter", None))
            calls, original = [], getattr(owner, name)

            def call(*args, moment=moment, nth=nth, calls=calls, original=original, **options):
                calls.append(args)
                if len(calls) == nth or (nth is None and args[1] == moment):
                    raise KilledError
                return original(*args, **options)

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, call)
                with pytest.raises(KilledError):
                    posttrain.run(config, out)

    return run


@pytest.fixture
def collapsing(tiny_prior):
    """A run that repeats a few molecules: a high learning rate, and no baseline."""
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
