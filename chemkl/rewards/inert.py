"""Reads pickles without running anything of them: names on a list become inert stand-ins."""

import pickle
from collections.abc import Mapping
from typing import IO, Any

DAMAGES = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What pickle and the conversion to arrays raise for foreign or damaged bytes."""


class InertUnpickler(pickle.Unpickler):
    """Builds stand-ins; a name that is not on the list is refused, and nothing is imported.

    Args:
        stream: the pickle.
        what: how messages call it.
        stand_ins: by module and name, what stands for everything that it may name.
    """

    def __init__(
        self, stream: IO[bytes], what: str, stand_ins: Mapping[tuple[str, str], Any]
    ) -> None:
        super().__init__(stream)
        self._what, self._stand_ins = what, stand_ins

    def find_class(self, module: str, name: str) -> Any:
        """Give the stand-in of a name on the list.

        Raises:
            UnpicklingError: the name is not on the list.
        """
        try:
            return self._stand_ins[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the {self._what} asks for {module}.{name}, which is not allowed"
            ) from None
