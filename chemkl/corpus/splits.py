"""Which split a molecule belongs to, by a hash: the same molecule always lands in the same one."""

import hashlib

from chemkl.config.prepare import GivenSplit, Split


def assign_split(given: str, key: str, split: Split) -> str:
    """Return "train", "valid" or "test" for one molecule (or the source's own split).

    Args:
        given: the split that the source gives.
        key: what is hashed: the canonical SMILES (random) or the scaffold (scaffold).
        split: the setting.
    """
    if isinstance(split, GivenSplit):
        return given
    digest = hashlib.blake2b(f"{split.seed}:{key}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    if position < split.test:
        return "test"
    if position < split.test + split.valid:
        return "valid"
    return "train"
