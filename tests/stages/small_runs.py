"""Small runs for tests of several files: settings, kills and comparisons.

The kills are exceptions, raised where a signal may arrive.
"""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import lightning
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from chemkl.results import read_trace
from chemkl.stages import posttrain
from chemkl.training import trainer
from chemkl.training.ledger import Ledger

SAMPLE = Path(__file__).parents[2] / "data" / "moses_sample"
QED = {"components": [{"kind": "qed"}]}
TAU, BETA = 0.45, 0.05
SILENT = {"progress_bar": False}

CONFIG = {
    "reward": {
        "components": [
            {"kind": "qed", "weight": 2},
            {"kind": "tpsa", "transform": {"kind": "sigmoid", "low": 0, "high": 60}},
        ]
    },
    "target": {"kind": "mara", "beta": BETA, "tau": TAU},
    "estimator": "log_variance",
    "precision": "32-true",
    "batch_size": 16,
    "learning_rate": 2e-3,
    "budget": 100,
    "seed": 3,
    "trainer": {"accelerator": "cpu", "log_every_n_steps": 2},
    "callbacks": SILENT | {"checkpoint_every": 3},
}
"""Settings of post-training, without the prior."""

SHORT = CONFIG | {"budget": 60, "callbacks": SILENT | {"checkpoint_every": 2}}
FILTERED = {"diversity_filter": {"kind": "murcko", "bucket": 8, "min_score": 0.3}}
RUNNING = {"target": {"kind": "mara", "sigma": 20, "tau": TAU, "anchor": "running"}, **FILTERED}
MEMORY = FILTERED | {"memory": {"capacity": 60, "rows": 8, "draw": "reward", "purge": "scaffold"}}
ALL_ON = MEMORY | {"updates_per_batch": 3, "augment": True}
ALL_ON["diversity_filter"] = {"kind": "murcko", "bucket": 4, "min_score": 0.2, "repeats": False}
ALL_ON["memory"] = MEMORY["memory"] | {"repeats": False}
EXPLORES = MEMORY | {
    "exploration": {"calls": 5, "every": 1, "proposals_per_call": 5, "parents": 20, "refit": 3}
}

TINY = {
    "corpus": str(SAMPLE),
    "model": {"embedding_size": 8, "hidden_size": 32, "n_layers": 1, "max_length": 60},
    "valid_molecules": 100,
    "epochs": 2,
    "precision": "32-true",
    "batch_size": 512,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "samples_per_epoch": 20,
    "checkpoint_every": 5,
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 5},
}
"""Settings of pretraining a SMILES model."""

LOGP = {"kind": "logp", "cuts": [2, 3], "names": ["low", "mid", "high"]}
TAGGED = TINY | {
    "conditions": [LOGP],
    "model": {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "max_length": 60},
    "train_molecules": 640,
    "valid_molecules": 30,
    "batch_size": 64,
    "samples_per_epoch": 7,
}
"""Settings of pretraining a language model with tags."""


def write_corpus(folder, tokens="C", **columns):
    """Write a prepared corpus with these tokens in its list."""
    folder.mkdir()
    pd.DataFrame(columns).to_parquet(folder / "corpus.parquet")
    (folder / "tokens.json").write_text(json.dumps(dict.fromkeys(tokens, 1)))
    return str(folder)


# ---- output of runs


def manifest_of(out):
    return json.loads((out / "manifest.json").read_text())


def checkpoint_of(out):
    return torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)


def weights_of(out):
    return load_file(next((out / "checkpoints").rglob("*.safetensors")))


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def same_weights(first, second):
    """Tell whether named tensors are bitwise equal."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def same_run(first, second, but=()):
    """Compare traces, weights and results bit for bit, except for the results named in `but`."""
    if (first / "trace").exists() or (second / "trace").exists():
        pd.testing.assert_frame_equal(read_trace(first), read_trace(second), check_exact=True)
    assert same_weights(weights_of(first), weights_of(second))
    left, right = manifest_of(first), manifest_of(second)
    for key in ("status", "ended_by", "config_hash"):
        assert left[key] == right[key]
    assert left["results"].keys() == right["results"].keys()
    for name, value in left["results"].items():
        assert name.startswith(tuple(but)) or value == right["results"][name]


# ---- kills


class KilledError(BaseException):
    """Replaces a SIGKILL: nothing after it runs in the stage."""


def killed_at_step(number):
    """Kill between two checkpoints, when the rows since the last one are only in memory."""

    def arrange(patch):
        original = Ledger.enter

        def enter(self, step, rollout, **how):
            if step == number:
                raise KilledError
            return original(self, step, rollout, **how)

        patch.setattr(Ledger, "enter", enter)

    return arrange


def killed_after(owner, name, nth=1, before=False, error=KilledError):
    """Kill after (or before) the n-th call of a function."""

    def arrange(patch):
        original, calls = getattr(owner, name), []

        def call(*args, **kwargs):
            calls.append(name)
            if before and len(calls) == nth:
                raise error
            result = original(*args, **kwargs)
            if len(calls) == nth:
                raise error
            return result

        patch.setattr(owner, name, call)

    return arrange


def killed_at_update(number):
    """Kill after an update of the weights, counted from 1 over all starts of the run."""

    class Kill(lightning.Callback):
        def on_train_batch_end(self, lightning_trainer, *_):
            if lightning_trainer.global_step == number:
                raise KilledError

    def arrange(patch):
        build = trainer.build_trainer

        def build_with_kill(out, settings, callbacks, **fixed):
            return build(out, settings, [*callbacks, Kill()], **fixed)

        patch.setattr(trainer, "build_trainer", build_with_kill)

    return arrange


def run_and_kill(patch, arrange, config, out, stage=posttrain):
    with patch.context() as inside:
        arrange(inside)
        with pytest.raises(KilledError):
            stage.run(config, out)


# ---- other processes


@contextmanager
def held(folder):
    """Have another process lock a folder."""
    code = "import sys; from chemkl.results.atomic import claim; from pathlib import Path\n"
    code += "lock = claim(Path(sys.argv[1])); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"\n"
        yield
        process.stdin.close()
