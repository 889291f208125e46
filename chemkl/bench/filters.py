"""What a diversity filter costs as a run goes on: processor time a hit, after so many hits.

python -m chemkl.bench.filters FILE  (canonical SMILES, one a line, all different)

All molecules are hits, each of them new: one that comes again costs next to nothing. The last row
is the worst case: at a distance of next to nothing every hit begins a sphere.
"""

import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

from chemkl.chem.scaffolds import murcko_scaffold
from chemkl.config.objective import FILTERS
from chemkl.training.filters import build_filter

STEP = 1000
SHOWN = (1_000, 10_000, 30_000, 100_000)
"""After how many hits the cost is looked at, over the last STEP of them."""


def report(name: str, rows: pd.DataFrame, kind: str, **settings: Any) -> None:
    """Print microseconds a hit over the last STEP hits before each of `SHOWN`."""
    withdraws = build_filter(FILTERS[kind](kind=kind, min_score=0.0, **settings))
    found = []
    for first in range(0, len(rows), STEP):
        began = time.process_time()
        withdraws(rows[first : first + STEP])
        if first + STEP in SHOWN:
            found.append((time.process_time() - began) / STEP * 1e6)
    print(f"{name:<22}" + "".join(f"{value:>9.0f}" for value in found), flush=True)


if __name__ == "__main__":
    texts = Path(sys.argv[1]).read_text().split()[: max(SHOWN)]
    rows = pd.DataFrame({"canonical_smiles": texts, "scaffold": [*map(murcko_scaffold, texts)]})
    rows["reward"] = 1.0
    print(f"{'µs a hit, after':<22}" + "".join(f"{n:>9,}" for n in SHOWN if n <= len(rows)))
    for kind in ("molecule_similarity", "scaffold_similarity", "murcko", "same_smiles", "generic"):
        report(kind, rows, kind)
    report("spheres of one", rows, "molecule_similarity", distance=1e-6)
