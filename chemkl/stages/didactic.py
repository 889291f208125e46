"""The didactic stage: the work is that of `chemkl.didactic`; `run` returns the comparison.

The comparison has one row per number of a figure, with its stated value, its closed form and what
training gave.
"""

from chemkl.didactic.run import work
from chemkl.stages.registry import STAGES

__all__ = ["run", "work"]

run = STAGES["didactic"].run
