"""Mutated molecules, configs and files give a value, a reason or an InputError, in limited time.

Each test has its own seed and so the same input every time. Short versions always run, long ones
are marked `slow`.
"""

import gzip
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mutations import mutated_bytes, mutated_config, mutated_smiles

from chemkl.chem.molecules import read_molecule
from chemkl.config import InputError
from chemkl.config.evaluate import SampledFile, TextFile
from chemkl.corpus.files import read_split, read_vocabulary
from chemkl.evaluation.reference import read_statistics
from chemkl.evaluation.samples import read_samples
from chemkl.evaluation.text_samples import read_text_file
from chemkl.files.molecules import MoleculeFile
from chemkl.policies import load_policy
from chemkl.results import Manifest, read_trace
from chemkl.results.external import MOLSCORE
from chemkl.results.inspection import open_run, tables_of
from chemkl.rewards import RewardModel
from chemkl.rewards.cache import ScoreCache
from chemkl.rewards.components.published_models import ADMET_AI
from chemkl.rewards.components.similarity import read_references
from chemkl.stages.plan import check_file
from chemkl.training.trainer import last_checkpoint

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "configs" / "rewards").rglob("*.yaml"))
CONFIGS = sorted([*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "pipelines").glob("*.yaml")])
LIMIT = 5
"""Seconds of processor time per input."""
GROWTH = 300 * 2**20
"""Bytes by which the peak memory may grow after a tenth of the inputs."""

SIZES = [pytest.param(False, id="few"), pytest.param(True, id="many", marks=pytest.mark.slow)]


class LateError(BaseException):
    """An input takes too long. It is not caught as an Exception."""


@contextmanager
def in_time(value: object) -> Iterator[None]:
    """Interrupt the scope after `LIMIT` seconds of processor time, which fails the test."""

    def late(*_: object) -> None:
        raise LateError(f"more than {LIMIT} s: {value!r}")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fed(inputs: Iterator[Any], work: Callable[[Any], object], n: int) -> int:
    """Call a function with n inputs, which may only raise InputErrors; return how many pass."""
    accepted, early, failures = 0, 0, []
    for number, value in enumerate(islice(inputs, n)):
        if number == n // 10:
            early = peak_memory()
        try:
            with in_time(value):
                work(value)
            accepted += 1
        except InputError as error:
            if not str(error).strip():
                failures.append(f"an InputError without a message for {value!r:.2000}")
        except Exception as error:  # noqa: BLE001 - the failures to find
            place = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(
                f"{type(error).__name__}: {error} in {place.filename}:{place.lineno} for "
                f"{value!r:.2000}"
            )
    assert not failures, "\n".join([f"{len(failures)} failures", *failures[:10]])
    assert peak_memory() - early < GROWTH
    return accepted


# ---- molecules

FETCHED = {"activity": MOLSCORE, "admet": ADMET_AI}


@pytest.mark.parametrize("many", SIZES)
@pytest.mark.parametrize("preset", PRESETS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_mutated_smiles_have_a_row_each(preset, many):
    reward = RewardModel.from_config(preset)
    kinds = {part.kind for part in reward.config.components}
    if "vina" in kinds:
        pytest.skip("docking takes minutes a molecule")
    for wheel in (FETCHED[kind] for kind in kinds & FETCHED.keys()):
        if not (Path("~/.cache/chemkl").expanduser() / wheel.file_name).exists():
            pytest.skip(f"{wheel.file_name} is not in ~/.cache/chemkl and would be downloaded")
    rng = random.Random(PRESETS.index(preset))
    n = 20_000 // len(PRESETS) + 1 if many else 6

    def work(texts: list[str]) -> None:
        frame = reward.score(texts)
        assert len(frame) == len(texts)
        assert frame["reward"].between(0, 1).all()
        assert frame.loc[~frame["valid"], "reason"].notna().all()
        assert (frame.loc[frame["reason"].notna(), "reward"] == 0).all()
        assert all(read_molecule(text).valid for text in frame["canonical_smiles"].dropna())

    texts = ([mutated_smiles(rng)] for _ in range(n))
    assert fed(texts, work, n) == n
    reward.close()


@pytest.mark.parametrize("many", SIZES)
def test_a_random_string_is_a_molecule_or_has_a_reason(many):
    rng, n = random.Random(1), 20_000 if many else 300
    alphabet = "CNOcno()[]=#@+-%123456789.*/\\HBrl:>~$"
    texts = ("".join(rng.choices(alphabet, k=rng.choice([3, 10, 40]))) for _ in range(n))

    def work(text: str) -> None:
        molecule = read_molecule(text)
        assert molecule.valid == (molecule.canonical_smiles is not None)

    assert fed(texts, work, n) == n


# ---- configs


@pytest.mark.parametrize("many", SIZES)
def test_mutated_configs_are_accepted_or_refused(many, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    rng = random.Random(2)
    n = 2_000 if many else 40

    def changed() -> Iterator[tuple[Path, str]]:
        while True:
            file = rng.choice(CONFIGS)
            yield file, mutated_config(rng, file.read_text())

    def work(given: tuple[Path, str]) -> None:
        file, text = given
        folder = tmp_path / file.parent.relative_to(ROOT)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / file.name
        path.write_bytes(text.encode(errors="surrogatepass"))
        check_file(path)

    assert 0 < fed(changed(), work, n) < n


# ---- files


def _molecules(folder: Path) -> list[Path]:
    lines = ["CCO ethanol", "c1ccccc1 benzene", "", "C[C@H](N)C(=O)O alanine"] * 20
    table = pd.DataFrame(
        {"smiles": [line.split(" ")[0] for line in lines], "reward": [0.25] * len(lines)}
    )
    (folder / "a.smi").write_text("\n".join(lines))
    (folder / "a.smi.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    table.to_csv(folder / "a.csv", index=False)
    table.to_csv(folder / "a.tsv", index=False, sep="\t")
    table.to_parquet(folder / "a.parquet")
    return [folder / f"a.{ending}" for ending in ("smi", "smi.gz", "csv", "tsv", "parquet")]


def _texts(folder: Path) -> list[Path]:
    frame = pd.DataFrame({"prompt": ["a", "b"] * 30, "completion": ['x, "y"', "z"] * 30})
    frame = frame.assign(answer="1", reward=0.5)
    frame.to_json(folder / "t.jsonl", orient="records", lines=True)
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_parquet(folder / "t.parquet")
    (folder / "t.txt").write_text("one\ntwo\nthree\n" * 20)
    return [folder / f"t.{ending}" for ending in ("jsonl", "csv", "parquet", "txt")]


def _samples(path: Path) -> None:
    read_samples("x", SampledFile(path=path), workers=1)


def _lines(path: Path) -> None:
    list(MoleculeFile(path))


def _references(path: Path) -> None:
    read_references(None, path)


def _text_file(path: Path) -> None:
    read_text_file("x", TextFile(path=path))


def _corpus_folder(path: Path) -> None:
    read_vocabulary(path.parent)
    read_split(path.parent, "train")


def _trace(path: Path) -> None:
    read_trace(path.parents[1])
    open_run(path.parents[1])
    tables_of(path.parents[1])


def _run(path: Path) -> None:
    Manifest.load(path.parent)
    open_run(path.parent)


def _checkpoint(path: Path) -> None:
    last_checkpoint(path.parents[1])


def _cache(path: Path) -> None:
    with closing(ScoreCache(path, {"qed": "key"})) as cache:
        cache.look_up(["CCO", "CCN"])
        cache.store({"CCC": {"qed": 0.5}})


@pytest.fixture
def originals(tmp_path, write_run, tiny_prior):
    """By reader: files that it reads as they are."""
    folder = tmp_path / "originals"
    folder.mkdir()
    corpus = shutil.copytree(ROOT / "data" / "moses_sample", folder / "corpus")
    run = write_run(folder / "run", [[("Cc1ccccc1", 0.9), ("C1CC", 0.0)], [("CCO", 0.3)]])
    policy = Path(shutil.copy(tiny_prior, folder / "policy.safetensors"))
    checkpoint = folder / "training" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch = pytest.importorskip("torch")
    state = {"state_dict": {"w": torch.zeros(100)}, "global_step": 3, "loops": {}, "callbacks": {}}
    state |= {"optimizer_states": [], "pytorch-lightning_version": "2.6.4"}
    torch.save(state, checkpoint)
    _cache(folder / "scores.sqlite")
    molecules, texts = _molecules(folder), _texts(folder)
    return {
        _lines: molecules,
        _samples: molecules,
        _references: molecules[:4],
        _text_file: texts,
        _corpus_folder: [corpus / "corpus.parquet", corpus / "tokens.json"],
        _trace: sorted((run / "trace").glob("part-*.parquet")),
        _run: [run / "manifest.json"],
        load_policy: [policy],
        _checkpoint: [checkpoint],
        _cache: [folder / "scores.sqlite"],
    }


READERS = [
    *(_lines, _samples, _references, _text_file, _corpus_folder),
    *(_trace, _run, load_policy, _checkpoint, _cache),
]


@pytest.mark.parametrize("many", SIZES)
@pytest.mark.parametrize("read", READERS, ids=lambda reader: reader.__name__.strip("_"))
def test_mutated_files_are_read_or_refused(read, many, originals):
    rng = random.Random(READERS.index(read))
    contents = {file: file.read_bytes() for file in originals[read]}
    for file in contents:
        read(file)  # as it is

    def changed() -> Iterator[tuple[Path, bytes]]:
        while True:
            file = rng.choice(list(contents))
            yield file, mutated_bytes(rng, contents[file])

    def work(given: tuple[Path, bytes]) -> None:
        file, data = given
        file.write_bytes(data)
        try:
            read(file)
        finally:
            file.write_bytes(contents[file])

    fed(changed(), work, 500 if many else 30)


@pytest.mark.parametrize("many", SIZES)
def test_mutated_statistics_are_read_or_refused(many, tmp_path):
    np = pytest.importorskip("numpy")
    path = tmp_path / "stats.npz"
    np.savez(path, stats={"FCD": {"mu": np.zeros(3)}, "SNN": {"fps": np.zeros((2, 4))}})
    rng, n, original = random.Random(3), 500 if many else 30, path.read_bytes()

    def work(data: bytes) -> None:
        path.write_bytes(data)
        read_statistics(path, "stats")

    fed((mutated_bytes(rng, original) for _ in range(n)), work, n)


def test_the_mutations_are_the_same_for_a_seed():
    texts = [mutated_smiles(random.Random(seed)) for seed in (4, 4, 5)]
    assert texts[0] == texts[1] != texts[2]
    for mutated, original in (
        (mutated_config, CONFIGS[0].read_text()),
        (mutated_bytes, b"abc" * 9),
    ):
        assert mutated(random.Random(1), original) == mutated(random.Random(1), original)
