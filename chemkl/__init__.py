"""chemkl: post-train chemical language models toward a target that covers all modes.

Importing the package loads nothing heavy; each room is imported when it is needed.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("chemkl")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
