"""Settings before their schema has accepted them: what can be read of them, and where it stands."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from chemkl.config.base import InputPath
from chemkl.config.document import Document
from chemkl.config.origin import origin
from chemkl.config.overrides import Override


@dataclass(frozen=True)
class Draft:
    """Settings as plain data, overrides put in.

    Where they do not fit the schema, a stage still looks into the parts that can be read, so that
    the user hears of every problem at once.
    """

    model: type[BaseModel]
    """The config's class."""
    document: Document
    """Where the settings stand."""
    data: Any
    """The settings themselves."""
    overrides: Sequence[Override]
    """What changed them from outside."""
    context: Mapping[str, Any]
    """Where paths are looked up, see `InputPath`."""

    def get(self, key: str) -> Any:
        """One setting as the schema would have it.

        Returns:
            None where it is missing or does not fit, or is the path of something not made yet.
        """
        field = self.model.model_fields[key]
        # not the field itself: its discriminator would come before its validators
        kind: Any = Annotated[field.annotation, *field.metadata, None]
        return self._fitting(kind, self.data.get(key, field.get_default()))

    def mapping(self, key: str) -> dict[str, Any] | None:
        """One setting as the user wrote it, if it is a mapping."""
        value = self.data.get(key)
        return dict(value) if isinstance(value, Mapping) else None

    def section(self, key: str) -> Document | Path | None:
        """A section that stands here, or in a file that is named here."""
        within = self.mapping(key)
        if within is not None:
            return self.document.at((key,), within)
        path: Path | None = self._fitting(InputPath, self.data.get(key))
        return path

    def placed(self, key: str, lines: Iterable[str]) -> list[str]:
        """Say where the setting stands that the lines are about."""
        return [
            f"{origin((key,), self.document, self.overrides, line)[0]}: {line}" for line in lines
        ]

    def _fitting(self, kind: Any, value: Any) -> Any:
        try:
            found = TypeAdapter(kind).validate_python(value, context=dict(self.context))
        except ValidationError:
            return None
        waits = isinstance(found, Path) and (not found.exists() or self._is_remade(found))
        return None if waits else found

    def _is_remade(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in self.context["earlier"])
