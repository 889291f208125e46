"""Where stages print; the names that `chemkl.display` has."""

from chemkl.display import PIPED_WIDTH, say, standard_output

__all__ = ["PIPED_WIDTH", "say", "standard_output"]
