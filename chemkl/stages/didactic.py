"""The didactic stage: the work is that of `chemkl.didactic`."""

from chemkl.didactic.run import QUANTITIES, work
from chemkl.stages.finished import once, read_table

run = once("didactic", lambda _config, out: out / QUANTITIES, read_table)(work)
