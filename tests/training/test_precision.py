"""The precision of a run: what auto chooses, resumed runs, what a device lacks, the probe."""

import random

import numpy as np
import pytest
import torch

from chemkl.config import InputError
from chemkl.results import Manifest
from chemkl.results.provenance import UsedPrecision
from chemkl.training import precision
from chemkl.training.precision import settle

CPU = {"accelerator": "cpu", "devices": 1}
LACKS = "an LSTM in bfloat16 does not run on it"


@pytest.fixture
def device(monkeypatch):
    """Replace the properties of the CPU: what it lacks, and the speedup of bf16-mixed."""

    def make(lacks="", ratio=None):
        monkeypatch.setattr(precision, "missing", lambda _: lacks)
        monkeypatch.setattr(precision, "speedup", lambda _: ratio)

    return make


@pytest.mark.parametrize(
    ("setting", "devices", "lacks", "ratio", "used", "why"),
    [
        ("auto", 1, "", 1.63, "bf16-mixed", "auto: bf16-mixed is 1.6 times as fast as 32-true"),
        ("auto", 1, "", precision.FASTER, "bf16-mixed", "auto: bf16-mixed is 1.1 times as fast"),
        ("auto", 1, "", precision.FASTER - 0.01, "32-true", "auto: bf16-mixed is 1.1 times as"),
        ("auto", 1, "", 0.01, "32-true", "auto: bf16-mixed is 0.01 times as fast"),
        ("auto", 1, LACKS, None, "32-true",
         f"auto: bf16-mixed cannot be used on this device: {LACKS}"),
        # several are not measured
        ("auto", 2, "", 9.0, "32-true", "auto: not measured on several devices"),
        # an explicit setting is used even if it is slower
        ("32-true", 1, "", 2.0, "32-true", "as asked for"),
        ("bf16-mixed", 1, "", 0.5, "bf16-mixed", "as asked for"),
    ],
)  # fmt: skip
def test_auto_chooses_the_faster_precision(
    device, tmp_path, setting, devices, lacks, ratio, used, why
):
    device(lacks, ratio)
    chosen = settle(setting, CPU | {"devices": devices}, tmp_path, {})
    assert (chosen.used, chosen.device) == (used, "cpu")
    assert str(chosen).startswith(f"precision {used} ({why}")
    measured = setting == "auto" and devices == 1 and not lacks
    assert chosen.speedup == (round(ratio, 2) if measured else None)


# ---- a resumed run


def begin(folder, used, config, error=None):
    began = UsedPrecision(used=used, why="auto: measured", device="cpu", speedup=1.5)
    with Manifest.start(folder, stage="pretrain", config=config, precision=began):
        if error:
            raise error
    return began


@pytest.mark.parametrize(("used", "ratio"), [("32-true", 5.0), ("bf16-mixed", 0.1)])
def test_a_resumed_run_keeps_its_precision(device, tmp_path, used, ratio):
    began = begin(tmp_path, used, {"precision": "auto"})
    device(ratio=ratio)
    for _ in range(2):
        kept = settle("auto", CPU, tmp_path, {"precision": "auto"})
        assert (kept.used, kept.speedup) == (used, began.speedup)
        assert kept.why == "as this run began; auto: measured"
        with Manifest.start(
            tmp_path, stage="pretrain", config={"precision": "auto"}, precision=kept
        ) as manifest:
            assert manifest.was_resumed
        assert Manifest.load(tmp_path).precision == kept


def test_a_resumed_run_keeps_its_threads(device, tmp_path):
    device(ratio=0.1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        chosen = settle("auto", CPU, tmp_path, {})
        assert chosen.threads == 2
        with Manifest.start(tmp_path, stage="pretrain", config={}, precision=chosen):
            pass
        assert Manifest.load(tmp_path).precision.threads == 2
        torch.set_num_threads(1)
        assert settle("auto", CPU, tmp_path, {}).threads == torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert settle("auto", CPU, tmp_path / "new", {}).threads == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_failed_attempt_of_another_config_does_not_count(device, tmp_path):
    with pytest.raises(RuntimeError):
        begin(tmp_path, "32-true", {"precision": "auto", "seed": 1}, RuntimeError())
    device(ratio=5.0)
    assert settle("auto", CPU, tmp_path, {"precision": "auto"}).used == "bf16-mixed"


def test_a_run_that_this_device_cannot_continue_is_refused(device, tmp_path):
    begin(tmp_path, "bf16-mixed", {"precision": "auto"})
    before = (tmp_path / "manifest.json").read_bytes()
    device(LACKS)
    with pytest.raises(
        InputError, match=rf"this run began in bf16-mixed.*{LACKS}.*device like the first.*--fresh"
    ):
        settle("auto", CPU, tmp_path, {"precision": "auto"})
    assert (tmp_path / "manifest.json").read_bytes() == before


# ---- the measurement itself


@pytest.mark.bf16
def test_measuring_changes_nothing():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002  # what Lightning seeds
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    threads = torch.get_num_threads()
    precision.missing.cache_clear()
    precision.speedup.cache_clear()
    assert precision.missing(torch.device("cpu")) == ""
    assert 0.01 < precision.speedup(torch.device("cpu")) < 100
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state[1:]  # noqa: NPY002
    assert torch.get_num_threads() == threads
    assert not torch.is_autocast_enabled("cpu")
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_device_may_lack_an_operation_or_bfloat16_units(monkeypatch):
    def refuse(*_):
        raise RuntimeError("could not create a primitive descriptor for the LSTM. Run with\nmore")

    monkeypatch.setattr(precision, "_work", refuse)
    lacks = precision.missing.__wrapped__(torch.device("cpu"))
    assert lacks.endswith("(could not create a primitive descriptor for the LSTM)")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert "is 7.5, and bfloat16 needs 8.0" in precision.missing.__wrapped__(torch.device("cuda"))


# ---- the device


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accelerator": "quantum"}, r"accelerator: quantum cannot be used on this machine: "),
        ({"accelerator": "tpu"}, r"accelerator: tpu cannot .* Take accelerator: auto"),
        ({"accelerator": "cpu", "devices": 0}, r"accelerator: cpu, devices: 0 cannot be used"),
        pytest.param(
            {"accelerator": "gpu"},
            r"accelerator: gpu cannot be used on this machine: No supported gpu backend",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_a_missing_device_is_refused(settings, message):
    with pytest.raises(InputError, match=rf"^trainer: {message}"):
        precision.devices_of(settings)
