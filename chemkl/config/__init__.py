"""Settings as frozen pydantic models, read from YAML with key=value overrides; no torch here."""

from chemkl.config.base import Config, InputError, LostError, StorageError, complaints, did_you_mean
from chemkl.config.loading import load_config
from chemkl.config.paths import InputPath

__all__ = [
    "Config",
    "InputError",
    "InputPath",
    "LostError",
    "StorageError",
    "complaints",
    "did_you_mean",
    "load_config",
]
