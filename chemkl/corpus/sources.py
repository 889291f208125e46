"""Where SMILES come from: public corpora inside pinned wheels, and local files."""

from collections.abc import Iterator
from pathlib import Path

from chemkl.config.prepare import FileSource, Source
from chemkl.files.molecules import Line, read_member, read_molecules
from chemkl.results.wheels import MOLSCORE, MOLSETS, Wheel, fetch_wheel, open_member

_MEMBERS: dict[str, tuple[Wheel, dict[str, str]]] = {
    "moses": (
        MOLSETS,
        {
            split: f"moses/dataset/data/{split}.csv.gz"
            for split in ("train", "test", "test_scaffolds")
        },
    ),
    "chembl_sample": (MOLSCORE, {"train": "molscore/data/sample.smi"}),
}


N_LINES = {"moses": 1_936_962, "chembl_sample": 300_819}
"""Lines of the public corpora, for the progress bar."""


def read_source(source: Source, cache: Path) -> Iterator[Line]:
    """Yield every line of a source, in order, with its number and split.

    Raises:
        InputError: the source cannot be had or read.
    """
    if isinstance(source, FileSource):
        yield from read_molecules(source.path, source.column)
        return
    wheel, members = _MEMBERS[source.kind]
    wheel_path = fetch_wheel(wheel, cache)
    for split, member in members.items():
        with open_member(wheel_path, member) as stream:
            header = member.endswith(".csv.gz")
            column = "SMILES" if header else 0
            yield from read_member(stream, f"{wheel_path.name}:{member}", column, split)
