"""When a run collapsed: the call at which the alarm of training would have gone off."""

from chemkl.config.posttrain import CollapseLimits
from chemkl.evaluation.samples import Samples
from chemkl.results.collapse import Alarm


def collapsed_at_call(samples: Samples, limits: CollapseLimits, window: int) -> int | None:
    """Find when the newest valid samples first reached a limit.

    Args:
        samples: of a run, or of a file, where calls count distinct molecules.
        limits: what is watched.
        window: newest valid samples that are looked at; before there are so many, nothing is.

    Returns:
        The oracle calls that were spent by then; None: never.
    """
    molecules = {molecule.smiles: molecule for molecule in samples.molecules}
    alarm = Alarm(limits, window)
    call = 0
    for smiles in samples.valid:
        call = max(call, molecules[smiles].call)
        if alarm.add(smiles, molecules[smiles].scaffold):
            return call
    return None
