"""Shared fixtures: hand-made traces, real molecules, a prior trained in seconds."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
if "PYTEST_XDIST_WORKER" in os.environ:  # more threads than cores make OpenMP crawl
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch

import hashlib
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from rdkit import Chem, RDLogger
from rdkit.Chem import Descriptors
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.results import Manifest, TraceWriter, external, trace_schema
from chemkl.results.external import Wheel

for _name, _handler in {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}.items():
    # ignored under nohup or in the background of a script, but tests send them
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) == signal.SIG_IGN:
        signal.signal(getattr(signal, _name), _handler)

Step = Sequence[tuple[str, float]]
TextStep = Sequence[tuple[str, str, str | None, float]]


def _row(step: int, row: int, mol: Chem.Mol | None, smiles: str, **columns: object) -> dict:
    """Make a row of a trace with one component `qed`; ``columns`` has the rest."""
    of_component = columns["reward"] if columns["valid"] else None
    return {
        "step": step,
        "row": row,
        "smiles": smiles,
        "canonical_smiles": Chem.MolToSmiles(mol) if mol else None,
        "scaffold": MurckoScaffold.MurckoScaffoldSmiles(smiles) if mol else None,
        "raw_qed": of_component,
        "score_qed": of_component,
        "reward_filtered": columns["reward"],
        "anchor": False,
        "is_replay": False,
    } | columns


def _trace(steps: Sequence[Step]) -> pd.DataFrame:
    """Make a trace; calls and repeats are counted here, by RDKit alone."""
    RDLogger.DisableLog("rdApp.error")
    known: set[str] = set()
    rows = []
    for step, molecules in enumerate(steps):
        for row, (smiles, reward) in enumerate(molecules):
            mol = Chem.MolFromSmiles(smiles)
            canonical = Chem.MolToSmiles(mol) if mol else None
            repeat = canonical in known
            is_new = mol is not None and not repeat
            known |= {canonical} if is_new else set()
            columns = {
                "call": len(known) if is_new else None,
                "valid": mol is not None,
                "reason": None if mol else "not parsable: made up",
                "repeat": repeat,
                "n_tokens": len(smiles) + 1,
                "logp_policy": -20.0 + step,
                "logp_ref": -30.0,
                "reward": reward if mol else 0.0,
                "log_target": -25.0,
                "hit": reward >= 0.8,
            }
            rows.append(_row(step, row, mol, smiles, **columns))
    RDLogger.EnableLog("rdApp.error")
    return pd.DataFrame(rows, columns=trace_schema(["qed"]).names)


@pytest.fixture(scope="session")
def make_trace() -> Callable[[Sequence[Step]], pd.DataFrame]:
    return _trace


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Writes a run folder, manifest and trace, from steps of (SMILES, reward)."""

    def write(folder: Path, steps: Sequence[Step], config: dict | None = None) -> Path:
        config = config or {"batch_size": 4, "target": {"kind": "mara", "tau": 0.8}}
        with Manifest.start(folder, stage="posttrain", config=config, seed=7) as manifest:
            writer = TraceWriter(folder, ["qed"], manifest.run_id, manifest.config_hash)
            writer.append(_trace(steps))
            writer.cut()
            manifest.finish(ended_by="budget", results={"calls": 3})
        return folder

    return write


def _text_trace(
    steps: Sequence[TextStep], molecules: bool = False, truncated: Sequence[str] = ()
) -> pd.DataFrame:
    """Make the trace of a language model; calls are of SMILES, or of answers to a prompt."""
    groups: dict[str, int] = {}
    known: set[object] = set()
    rows = []
    for step, completions in enumerate(steps):
        for row, (prompt, completion, answer, reward) in enumerate(completions):
            group = groups.setdefault(prompt, len(groups))
            mol = Chem.MolFromSmiles(answer) if molecules and answer else None
            name = (Chem.MolToSmiles(mol) if mol else None) if molecules else answer
            item = name if molecules or name is None else (group, name)
            is_new = item is not None and item not in known
            known |= {item} if is_new else set()
            cut = "truncated: no end after 4 tokens" if completion in truncated else "no answer"
            columns = {
                "call": len(known) if is_new else None,
                "valid": name is not None,
                "reason": None if name is not None else cut,
                "repeat": item is not None and not is_new,
                "n_tokens": 4,
                "logp_policy": -2.0,
                "logp_ref": -3.0,
                "group": group,
                "prompt": prompt,
                "completion": completion,
                "answer": answer if name is not None else None,
                "reward": reward,
                "log_target": -2.5,
                "hit": reward >= 0.8,
            }
            rows.append(_row(step, row, mol, answer if mol else "", **columns))
    return pd.DataFrame(rows, columns=trace_schema(["qed"], text=True).names)


@pytest.fixture(scope="session")
def make_text_trace() -> Callable[..., pd.DataFrame]:
    return _text_trace


@pytest.fixture(scope="session")
def write_text_run() -> Callable[..., Path]:
    """Writes the run of a language model from steps of (prompt, completion, answer, reward).

    With `molecules` the answers are SMILES; completions in `truncated` have no end.
    """

    def write(folder: Path, steps: Sequence[TextStep], **how: object) -> Path:
        config = {"target": {"kind": "mara", "tau": 0.8}, "budget": None}
        with Manifest.start(folder, stage="posttrain_llm", config=config, seed=7) as manifest:
            identity = manifest.run_id, manifest.config_hash
            writer = TraceWriter(folder, ["qed"], *identity, text=True)
            writer.append(_text_trace(steps, **how))
            writer.cut()
            manifest.finish(ended_by="max_steps", results={"calls": 3})
        return folder

    return write


@pytest.fixture
def chemkl(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command line in this process and returns its exit code."""
    from chemkl import cli

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["chemkl", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


@pytest.fixture(scope="session")
def report_sections() -> list[str]:
    """The sections of a report by their ids, in order."""
    ids = "summary tables learning yield collapse rank anchors families map scaffolds top settings"
    return ids.split()


@pytest.fixture(scope="session")
def real_smiles() -> list[str]:
    """The first molecules of the included MOSES sample."""
    path = Path(__file__).parents[1] / "data" / "moses_sample.smi"
    return path.read_text().split()[:400]


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior for small rings with chains of C, N and O, trained in seconds; 95 % valid."""
    torch = pytest.importorskip("torch")
    from chemkl.policies import RnnPolicy, Vocabulary, save_policy

    rng = random.Random(0)

    def chain() -> str:
        return "".join(rng.choices("CCNO", k=rng.randint(0, 3)))

    def molecule() -> str:
        ring = f"C1{'C' * rng.randint(1, 4)}C1" if rng.random() < 0.7 else "C"
        return chain() + ring + chain()

    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_size": 32, "n_layers": 1, "max_length": 16}
    policy = RnnPolicy(Vocabulary.of("CNO1"), **sizes)
    optimizer = torch.optim.Adam(policy.parameters(), lr=2e-2)
    for _ in range(120):
        optimizer.zero_grad()
        loss = -policy.logp([molecule() for _ in range(64)]).mean()
        loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_policy(policy, path, provenance={"corpus": "rings and chains, made up"})
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Register the component `counted` (TPSA); the list has the SMILES that it scored, in order."""
    from chemkl.rewards.registry import COMPONENTS, Component

    molecules: list[str] = []

    def counted() -> Callable[[Chem.Mol], float]:
        def score(mol: Chem.Mol) -> float:
            molecules.append(Chem.MolToSmiles(mol))
            return float(Descriptors.TPSA(mol))

        return score

    counting = Component("counted", counted, "Å²", (0, float("inf")), "made up")
    monkeypatch.setitem(COMPONENTS, "counted", counting)
    return molecules


@pytest.fixture
def wheel(wheel_file):
    """The wheel in the ``wheel_file`` of a test module."""
    return Wheel("molsets", "0.3.1", hashlib.sha256(wheel_file.read_bytes()).hexdigest())


@pytest.fixture
def pip(wheel_file, monkeypatch):
    """Replace pip: copy the ``wheel_file``, and record the commands."""
    calls = []

    def run(command, **_):
        calls.append(command)
        target = Path(command[command.index("--dest") + 1]) / wheel_file.name
        target.write_bytes(wheel_file.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(external.subprocess, "run", run)
    return calls


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip bf16-mixed training if the processor does not support it."""
    if item.get_closest_marker("bf16") is None:
        return
    import torch

    from chemkl.training.precision import missing

    lacks = missing(torch.device("cpu"))
    if lacks:
        pytest.skip(f"no bf16-mixed on this processor: {lacks}")


NUMERICS = (
    "losses",
    "policies",
    "training",
    "llm/test_llm_equality.py",
    "llm/test_llm_policy.py",
    "llm/test_precision_of_runs.py",
    "llm/test_pretrain_llm.py",
    "llm/test_tracking.py",
    "stages/test_posttrain_stage.py",
    "stages/test_pretrain_stage.py",
)
"""Tests whose results depend on the arithmetic of the processor."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests in NUMERICS."""
    places = [Path(__file__).parent / place for place in NUMERICS]
    for item in items:
        if any(item.path.is_relative_to(place) for place in places):
            item.add_marker("numerics")
