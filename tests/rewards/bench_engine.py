"""What the engine costs: the quickstart reward on one core and on two workers, cache, memory.

Run on an otherwise idle machine: python tests/rewards/bench_engine.py [number of molecules kept].
Speeds that are compared are measured turn by turn on the same molecules; the median turn counts.
Processor time, which neighbours on the machine disturb less, stands beside the clock's.
"""

import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import yaml
from rdkit import Chem
from rdkit.Chem import QED, rdMolDescriptors
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.rewards import RewardModel
from chemkl.rewards.cache import ScoreCache
from chemkl.rewards.components.physchem import sascorer
from chemkl.rewards.scoring import SCAFFOLD, RawScores

ROOT = Path(__file__).parents[2]
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
    one = RewardModel.from_config(REWARD)
    two = RewardModel.from_config({**REWARD, "workers": 2})
    for each in (bare, one.score, two.score):
        each(["CCO"] * 2 + ["CCN", "CCS"])  # imports, tables, processes
    return {"bare RDKit": bare, "one core": one.score, "two workers": two.score}


def processor_seconds(pids=()):
    """Processor time of this process and of workers, from /proc."""
    total = time.process_time()
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def speeds():
    by_way = ways()
    pids = by_way["two workers"].__self__._engine._pool.pids
    clock = {name: [] for name in by_way}
    processor = dict.fromkeys(by_way, 0.0)
    for turn in range(TURNS):
        part = MOLECULES[1 + turn * PER_TURN : 1 + (turn + 1) * PER_TURN]
        for name, way in by_way.items():
            used = pids if name == "two workers" else ()
            before, start = processor_seconds(used), time.perf_counter()
            way(part)
            clock[name].append((time.perf_counter() - start) / len(part))
            processor[name] += (processor_seconds(used) - before) / len(part) / TURNS
    for name in by_way:
        print(
            f"{name:>12}: {1 / median(clock[name]):7.0f} molecules/s by the clock, "
            f"{1000 * processor[name]:.2f} ms of processor time a molecule"
        )
    ratio = {
        name: median(b / a for a, b in zip(clock[name], clock["one core"], strict=True))
        for name in by_way
    }
    print(f"two workers / one core: {ratio['two workers']:.2f}x (wanted: at least 1.8x)")
    print(f"overhead over bare RDKit: {ratio['bare RDKit'] - 1:.1%} (wanted: at most 15 %)")
    used = processor["one core"] / processor["bare RDKit"] - 1
    print(f"   the same by processor time: {used:.1%}")
    used = processor["two workers"] / processor["one core"]
    print(f"   two workers use {used:.2f}x the processor time: at best {2 / used:.2f}x as fast")


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
    del made_up
    model = RewardModel.from_config(REWARD)
    before = megabytes()
    for i in range(n):
        canonical = f"{MOLECULES[1 + i % 8000]}.{'C' * (1 + i // 8000)}"
        model._read[canonical + "C"] = (canonical, None)
        scaffold = MOLECULES[1 + i % 8000][:25] + str(i)  # no two alike: the worst case
        values = dict.fromkeys(NAMES, 0.0)
        for name in NAMES:
            values[name] = i * 0.123456789
        model._raw[canonical] = RawScores(values, scaffold, ())
    print(f"   and {megabytes() - before:.0f} MiB in the memory of a run (wanted: at most 2048)")


if __name__ == "__main__":
    speeds()
    kept(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
