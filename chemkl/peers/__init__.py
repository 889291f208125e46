"""Translate configs of REINVENT4: its run types become configs of chemkl's stages."""

from chemkl.peers.reading import Notes, read_config
from chemkl.peers.run_types import Job, translate

__all__ = ["Job", "Notes", "read_config", "translate"]
