"""A reward where a config wants one: its settings, or the path of the file that holds them."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationInfo

from chemkl.config.base import InputPath
from chemkl.config.loading import load_config
from chemkl.config.reward import RewardConfig


def _from_file(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str | Path):
        context = {**(info.context or {}), "kind": "configs/rewards"}
        path = TypeAdapter(InputPath).validate_python(value, context=context)
        return load_config(RewardConfig, path)
    return value


RewardSource = Annotated[RewardConfig, BeforeValidator(_from_file)]
"""A reward's settings, or the path of the file that holds them."""
