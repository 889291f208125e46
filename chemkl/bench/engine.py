"""What the engine costs: the quickstart reward on one core and on two workers, cache, memory.

Run on an otherwise idle machine: `python -m chemkl.bench.engine`, maybe with the number of
molecules kept; `python -m chemkl.bench.engine executors` measures what executors add to a costly
reward.
Speeds that are compared are measured turn by turn on the same molecules; the median turn counts.
"""

import os
import random
import resource
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median

import yaml
from rdkit import Chem
from rdkit.Chem import QED, rdMolDescriptors
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.config import shipped
from chemkl.rewards import RewardModel
from chemkl.rewards.cache import ScoreCache
from chemkl.rewards.components.physchem import sascorer
from chemkl.rewards.scoring import SCAFFOLD, RawScores

ROOT = shipped.root()
REWARD = yaml.safe_load((ROOT / "configs/rewards/oral_lead.yaml").read_text())
MOLECULES = (ROOT / "data/moses_sample.smi").read_text().split()
NAMES = [each["kind"] for each in REWARD["components"]]
PER_TURN = 512
TURNS = 9


def bare(smiles):
    """What RDKit alone must do: read, canonicalise, read again, four descriptors, scaffold."""
    synthesis = sascorer()
    for each in smiles:
        canonical = Chem.MolToSmiles(Chem.MolFromSmiles(each))
        mol = Chem.MolFromSmiles(canonical)
        QED.qed(mol)
        synthesis(mol)
        rdMolDescriptors.CalcNumHBD(mol)
        rdMolDescriptors.CalcCrippenDescriptors(mol)
        Chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(mol))


def ways():
    """What is compared, ready to be used."""
    one = RewardModel.from_config(REWARD)
    two = RewardModel.from_config({**REWARD, "workers": 2})
    for each in (bare, one.score, two.score):
        each(["CCO"] * 2 + ["CCN", "CCS"])  # imports, tables, processes
    return {"bare RDKit": bare, "one core": one.score, "two workers": two.score}


def speeds():
    """Measure and print all of them."""
    by_way = ways()
    clock = {name: [] for name in by_way}
    for turn in range(TURNS):
        part = MOLECULES[1 + turn * PER_TURN : 1 + (turn + 1) * PER_TURN]
        for name, way in by_way.items():
            start = time.perf_counter()
            way(part)
            clock[name].append((time.perf_counter() - start) / len(part))
    for name, seconds in clock.items():
        print(f"{name:>12}: {1 / median(seconds):7.0f} molecules/s")
    ratio = {
        name: median(b / a for a, b in zip(seconds, clock["one core"], strict=True))
        for name, seconds in clock.items()
    }
    print(f"two workers / one core: {ratio['two workers']:.2f}x (wanted: at least 1.8x)")
    print(f"overhead over bare RDKit: {ratio['bare RDKit'] - 1:.1%} (wanted: at most 15 %)")


def megabytes():
    """Memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def kept(n):
    """Speed of a warm cache, and what n molecules take on the disk and in memory."""
    made_up = [f"{MOLECULES[1 + i % 8000]}.{'C' * (1 + i // 8000)}" for i in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "cache.sqlite")
        with ScoreCache(file, {name: name for name in [*NAMES, SCAFFOLD]}) as cache:
            start = time.perf_counter()
            for at in range(0, n, 1024):
                known = {**dict.fromkeys(NAMES, 0.123456789), SCAFFOLD: "c1ccc(-c2ccccc2)cc1"}
                cache.store(dict.fromkeys(made_up[at : at + 1024], known))
            print(
                f"cache: {n / (time.perf_counter() - start):.0f} molecules/s written, 1,024 at once"
            )
            wanted = random.Random(0).choices(made_up, k=100_000)
            for size in (128, 1024):
                start = time.perf_counter()
                for at in range(0, len(wanted), size):
                    cache.look_up(wanted[at : at + size])
                speed = len(wanted) / (time.perf_counter() - start)
                print(f"   {speed:.0f} molecules/s found, {size} at once (wanted: at least 50,000)")
        print(f"   {n:,} molecules take {file.stat().st_size / 2**20:.0f} MiB on the disk")
    model = RewardModel.from_config(REWARD)
    before = megabytes()
    for i, canonical in enumerate(made_up):
        model._read[canonical + "C"] = (canonical, None)
        scaffold = MOLECULES[1 + i % 8000][:25] + str(i)  # no two alike: the worst case
        values = dict.fromkeys(NAMES, i * 0.123456789)
        model._raw[canonical] = RawScores(values, scaffold, ())
    print(f"   and {megabytes() - before:.0f} MiB in the memory of a run (wanted: at most 2048)")


ORACLE = """import time


def score(smiles: str) -> float:
    time.sleep({seconds})
    return 1.0
"""


MARK = "CHEMKL_BENCH"  # an environment variable, by which processes are known as started here


def cpu_seconds():
    """Processor time of this process and of all that it has started, by whatever way."""
    import psutil  # which Parsl brings

    total = sum(psutil.Process().cpu_times()[:2])
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(os.getpid()):
                total += sum(process.cpu_times()[:2])
    return total


def executors(seconds=0.05, n=40):
    """What each executor adds to a molecule of an oracle that only waits, with one worker."""
    os.environ[MARK] = str(os.getpid())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        Path(folder, "oracle.py").write_text(ORACLE.format(seconds=seconds))
        part = {
            "kind": "python_function",
            "parameters": {"function": f"{folder}/oracle.py:score"},
            "transform": {"kind": "linear_clip", "low": 0, "high": 1},
        }
        ways = {
            "none": {},
            "process": {"timeout": 60},
            "parsl": {
                "timeout": 60,
                "executor": {"kind": "parsl", "provider": "local", "folder": folder},
            },
        }
        models = {}
        for name, way in ways.items():
            model = RewardModel.from_config({"components": [part], **way})
            models[name] = stack.enter_context(model)
            model.score(["C"])  # starts it
        wall, cpu = ({name: [] for name in models} for _ in range(2))
        for turn in range(TURNS):
            smiles = MOLECULES[1 + turn * n : 1 + (turn + 1) * n]
            for name, model in models.items():
                start, cpu_start = time.perf_counter(), cpu_seconds()
                model.score(smiles)
                wall[name].append((time.perf_counter() - start) / n)
                cpu[name].append((cpu_seconds() - cpu_start) / n)
        for name in ("process", "parsl"):
            added = [
                1e3 * median(b - a for a, b in zip(each["none"], each[name], strict=True))
                for each in (wall, cpu)
            ]
            print(
                f"{name:>12}: {added[0]:.2f} ms a molecule (wanted: at most 5 ms), of which "
                f"{added[1]:.2f} ms are a processor's"
            )


if __name__ == "__main__":
    if sys.argv[1:] == ["executors"]:
        executors()
    else:
        speeds()
        kept(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
