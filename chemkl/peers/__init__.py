"""Configs of other programs, translated: REINVENT4's run types become configs of our stages."""

from chemkl.peers.reading import Notes, read_config
from chemkl.peers.run_types import Job, translate

__all__ = ["Job", "Notes", "read_config", "translate"]
