"""Results of other packages, for test_peers.py: PACKAGE WHEEL IN.json OUT.

Each package runs in a separate interpreter and is imported from its wheel or its unpacked files.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np


def molecule_benchmarks(sets, out):
    """Importing it silences RDKit everywhere, and its pins install stubs that confuse mypy."""
    for name in ("psutil", "requests"):  # for counting cores and downloads, which are not needed
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
    from fcd import get_fcd
    from molecule_benchmarks.benchmarker import Benchmarker
    from molecule_benchmarks.dataset import SmilesDataset
    from molecule_benchmarks.moses_metrics import internal_diversity

    ours, theirs, sampled = sets["ours"], sets["theirs"], sets["sampled"]
    dataset = SmilesDataset(train_smiles=theirs, validation_smiles=theirs)
    benchmarker = Benchmarker(dataset, num_samples_to_generate=len(ours))
    values = {
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
    out.write_text(json.dumps(values))


def scikit_fingerprints(sets, out):
    """Its pins exclude the RDKit tested here, so it is imported from its wheel.

    Its package of fingerprints imports all of them, including those with missing dependencies.
    Only ECFP is compared, which has none, so an empty package replaces that of the wheel.
    """
    package = types.ModuleType("skfp.fingerprints")
    package.__path__ = [f"{sys.path[0]}/skfp/fingerprints"]
    sys.modules["skfp.fingerprints"] = package
    from skfp.distances import bulk_tanimoto_binary_similarity as similarity
    from skfp.fingerprints.ecfp import ECFPFingerprint

    package.ECFPFingerprint = ECFPFingerprint
    from skfp.model_selection.splitters.scaffold_split import _create_scaffold_sets

    ours, theirs = ([*sets[name]] for name in ("ours", "theirs"))
    moses = ECFPFingerprint(fp_size=1024, radius=2)
    pairs = ECFPFingerprint(fp_size=2048, radius=2)
    np.savez(
        out,
        bits_moses=moses.transform(ours),
        moses=similarity(moses.transform(ours)),
        pairs=similarity(pairs.transform(ours)),
        across=similarity(moses.transform(ours), moses.transform(theirs)),
        scaffold_sizes=[len(members) for members in _create_scaffold_sets(ours)],
    )


if __name__ == "__main__":  # molecule-benchmarks' data loaders start processes
    name, packages, sets_path, out_path = sys.argv[1:]
    sys.path.insert(0, packages)
    programs = {"molecule_benchmarks": molecule_benchmarks, "skfp": scikit_fingerprints}
    programs[name](json.loads(Path(sets_path).read_text()), Path(out_path))
