"""What evaluating a run costs: a trace of a million rows, and the diversity of 100,000 hits.

Run on an otherwise idle machine: `python -m chemkl.bench.evaluation`, or with numbers of
rows (at most a million) for these alone.

The molecules are those of the MOSES training set (arXiv 1811.12823) in its order, made canonical
once (some minutes) and kept in FOLDER. Two runs are made of them: one in which 97 % of the rows are
valid and hardly any repeats another, which is the worst case, and one that collapses: the share of
new molecules falls from all to nothing, and the rest repeats one of the newest 500. A molecule's
reward is drawn at random, above 0.8 for one in ten. The stage runs in a process of its own, as from
the command line; memory is that of this process and all its workers together, looked at ten times
a second, shared pages counted once. Processor time, which neighbours on the machine disturb less,
stands beside the clock's.
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml
from rdkit import Chem

from chemkl.chem.fingerprints import folded, pack
from chemkl.chem.scaffolds import murcko_scaffold
from chemkl.evaluation import diversity
from chemkl.evaluation.samples import n_workers, read_structures
from chemkl.results import Manifest, TraceWriter, trace_schema
from chemkl.results.wheels import MOLSETS, fetch_wheel, open_member

FOLDER = Path(tempfile.gettempdir(), "chemkl_bench")
TRAINING_SET = "moses/dataset/data/train.csv.gz"
ROWS = (250_000, 500_000, 1_000_000)
PER_STEP = 1000
PER_PART = 50
VALID = 0.97
NEWEST = 500
N_HITS = 100_000


def canonical(smiles):
    """Canonical SMILES and scaffold of some SMILES."""
    mols = [Chem.MolFromSmiles(each) for each in smiles]
    return [(Chem.MolToSmiles(mol), murcko_scaffold(mol)) for mol in mols]


def molecules(n):
    """The first n molecules of the training set and their scaffolds, made canonical once."""
    kept = FOLDER / f"molecules-{n}.parquet"
    if not kept.exists():
        with open_member(fetch_wheel(MOLSETS, Path("~/.cache/chemkl")), TRAINING_SET) as stream:
            texts = pd.read_csv(stream, compression="gzip", nrows=n)["SMILES"].tolist()
        parts = [texts[start : start + 5000] for start in range(0, len(texts), 5000)]
        with ProcessPoolExecutor(n_workers(None), get_context("forkserver")) as pool:
            made = [each for part in pool.map(canonical, parts) for each in part]
        FOLDER.mkdir(exist_ok=True)
        pd.DataFrame(made, columns=["smiles", "scaffold"]).to_parquet(kept)
    return pd.read_parquet(kept)


def chosen(n, collapsed):
    """For each row the number of its molecule, -1 where it is invalid; new ones count up."""
    rng = np.random.default_rng(0)
    share_new = np.linspace(1, 0, n) ** 2 if collapsed else np.full(n, 0.99)
    valid, new = rng.random(n) < VALID, rng.random(n) < share_new
    new[0] = valid[0] = True
    newest = np.cumsum(valid & new) - 1
    back = np.minimum(rng.integers(0, NEWEST, n), newest)
    return np.where(valid, np.where(new, newest, newest - back), -1)


def write_run(folder, n, collapsed):
    """Write the run; how many distinct molecules it has."""
    which = chosen(n, collapsed)
    valid = which >= 0
    first = np.zeros(n, dtype=bool)
    first[np.unique(which, return_index=True)[1]] = True
    first &= valid
    known = molecules(max(ROWS)).iloc[np.maximum(which, 0)].reset_index(drop=True)
    rewards = np.random.default_rng(1).random(n) * 8 / 9  # 0.8 and more: one in ten
    reward = np.where(valid, rewards[np.maximum(which, 0)], 0.0)
    number, score = np.arange(n), pd.Series(reward).where(valid)
    columns = {
        **{"step": number // PER_STEP, "row": number % PER_STEP, "n_tokens": 40},
        "call": pd.Series(np.cumsum(first), dtype="Int64").where(first),
        "smiles": known["smiles"].where(valid, "C1CC"),
        "canonical_smiles": known["smiles"].where(valid),
        "scaffold": known["scaffold"].where(valid),
        "reason": pd.Series("not parsable: unclosed ring 1", index=known.index).where(~valid),
        **{"valid": valid, "repeat": valid & ~first, "anchor": False, "is_replay": False},
        "logp_policy": -20.0 + np.random.default_rng(2).random(n),
        "logp_ref": -30.0 + np.random.default_rng(3).random(n),
        **{"raw_made_up": score, "score_made_up": score, "log_target": -25.0},
        **{"reward": reward, "reward_filtered": reward, "hit": reward >= 0.8},
    }
    frame = pd.DataFrame(columns, columns=trace_schema(["made_up"]).names)
    with Manifest.start(folder, stage="posttrain", config={"n": n}, seed=0) as manifest:
        writer = TraceWriter(folder, ["made_up"], manifest.run_id, manifest.config_hash)
        for start in range(0, n, PER_STEP * PER_PART):
            writer.append(frame.iloc[start : start + PER_STEP * PER_PART])
            writer.cut()
        manifest.finish()
    return int(first.sum())


def family(pid):
    """A process and all that it started, itself or through others."""
    children = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def look(pid, processor):
    """Memory of a process and all that it started, MiB; notes their processor time so far."""
    total = 0
    for each in family(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        processor[each] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total / 1024


def stage(n, collapsed):
    """Run the stage on a run of n rows."""
    with tempfile.TemporaryDirectory() as folder:
        n_distinct = write_run(Path(folder, "run"), n, collapsed)
        config = Path(folder, "evaluate.yaml")
        config.write_text(yaml.safe_dump({"runs": [f"{folder}/run"]}))
        command = [sys.executable, "-c", "from chemkl.cli import app; app()", "evaluate"]
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, config, "--out", f"{folder}/out"], stdout=subprocess.DEVNULL
        )
        peak, processor = 0.0, {}
        while process.poll() is None:
            peak = max(peak, look(process.pid, processor))
            time.sleep(0.1)
        seconds = time.perf_counter() - start
        if process.returncode:
            sys.exit(process.returncode)
        table = pq.read_table(f"{folder}/out/diversity.parquet").to_pylist()
    kind = "collapsed" if collapsed else "distinct"
    print(
        f"{n:>9,} rows, {kind:>9}: {seconds:5.0f} s, {n / seconds:6.0f} rows/s, "
        f"{sum(processor.values()):.0f} s of processor time, "
        f"{peak / 1024:.1f} GiB at the peak; {n_distinct:,} molecules, "
        f"{table[0]['circles']} circles, {table[1]['yield']:,} hits"
    )


def timed(compute):
    """What a function gives, and how long it took by the clock and by the processor."""
    start, used = time.perf_counter(), time.process_time()
    result = compute()
    clock, processor = time.perf_counter() - start, time.process_time() - used
    return result, f"{clock:.1f} s ({processor:.1f} s of processor time)"


def of_hits(n):
    """#Circles and IntDiv of n molecules: exact, and of the sample that is taken by default."""
    table = molecules(max(ROWS))[:n]
    found = read_structures(table["smiles"].tolist(), table["scaffold"].tolist())
    bits = pack([each.packed for each in found])
    workers = n_workers(None)
    n_circles, took = timed(lambda: diversity.circles(folded(bits)))
    print(f"#Circles of {n:,} hits: {n_circles}, {took}")
    sample = np.sort(np.random.default_rng(0).choice(n, 10_000, replace=False))
    for name, some in ((f"all {n:,}", bits), ("a sample of 10,000", bits[sample])):
        moses, took = timed(
            lambda some=some: diversity.int_div_moses(folded(some), workers=workers)
        )
        pairs, more = timed(lambda some=some: diversity.int_div_pairs(some, workers=workers))
        print(f"IntDiv of {name}: {moses[1]:.5f} and {moses[2]:.5f} (MOSES, p = 1, 2), {took}")
        print(f"  {pairs:.5f} (pairs), {more}")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        of_hits(N_HITS)
    for n_rows in [int(each) for each in sys.argv[1:]] or ROWS:
        for collapses in (False, True):
            stage(n_rows, collapses)
