"""What scikit-fingerprints says of a set of molecules, for test_peers.py: WHEEL IN.json OUT.npz.

Its pins exclude the RDKit that is tested here, so it is not installed: it is imported out of its
wheel. Its package of fingerprints imports all of them, also those that need packages which are not
there; ECFP, the one that is compared, needs none, so an empty package stands in for that file.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np


def main(wheel: str, given: Path, wanted: Path) -> None:
    sys.path.insert(0, wheel)
    package = types.ModuleType("skfp.fingerprints")
    package.__path__ = [f"{wheel}/skfp/fingerprints"]
    sys.modules["skfp.fingerprints"] = package
    from skfp.distances import bulk_tanimoto_binary_similarity
    from skfp.fingerprints.ecfp import ECFPFingerprint

    package.ECFPFingerprint = ECFPFingerprint
    from skfp.model_selection.splitters.scaffold_split import _create_scaffold_sets

    sets = json.loads(given.read_text())
    ours, theirs = ([*sets[name]] for name in ("ours", "theirs"))
    moses = ECFPFingerprint(fp_size=1024, radius=2)
    pairs = ECFPFingerprint(fp_size=2048, radius=2)
    np.savez(
        wanted,
        bits_moses=moses.transform(ours),
        moses=bulk_tanimoto_binary_similarity(moses.transform(ours)),
        pairs=bulk_tanimoto_binary_similarity(pairs.transform(ours)),
        across=bulk_tanimoto_binary_similarity(moses.transform(ours), moses.transform(theirs)),
        scaffold_sizes=[len(members) for members in _create_scaffold_sets(ours)],
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
