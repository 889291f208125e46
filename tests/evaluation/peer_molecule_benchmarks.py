"""What molecule-benchmarks says of a set of samples, for test_peers.py: IN.json to OUT.json.

It runs in an interpreter of its own, with the unpacked wheels on its path: importing it silences
RDKit everywhere, and its pins bring stubs of RDKit that mypy then takes for the truth.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path


def main(given: Path, wanted: Path) -> None:
    for name in ("psutil", "requests"):  # to count cores and to download, which nothing here does
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
    from fcd import get_fcd
    from molecule_benchmarks.benchmarker import Benchmarker
    from molecule_benchmarks.dataset import SmilesDataset
    from molecule_benchmarks.moses_metrics import internal_diversity

    sets = json.loads(given.read_text())
    ours, theirs, sampled = sets["ours"], sets["theirs"], sets["sampled"]
    dataset = SmilesDataset(train_smiles=theirs, validation_smiles=theirs)
    benchmarker = Benchmarker(dataset, num_samples_to_generate=len(ours))
    found = {
        "snn": benchmarker.get_snn_score(ours),
        "scaf": benchmarker.compute_scaffold_similarity(ours),
        "frag": benchmarker.compute_fragment_similarity(ours),
        "int_div": float(internal_diversity(ours, p=1)),
        "int_div_2": float(internal_diversity(ours, p=2)),
        "int_div_with_repeats": float(internal_diversity([*ours, *ours[:1] * len(ours)], p=1)),
        "quality": benchmarker._compute_validity_scores(sampled, [s for s in sampled if s]),
        "fcd": benchmarker._compute_fcd_scores(ours, ours),
        "fcd_package": get_fcd(ours, theirs, device="cpu"),
    }
    wanted.write_text(json.dumps(found))


if __name__ == "__main__":  # its data loaders start processes
    main(Path(sys.argv[1]), Path(sys.argv[2]))
