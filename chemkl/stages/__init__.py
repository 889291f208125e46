"""The stages: ``from chemkl.stages import posttrain; posttrain.run(config, out_dir)``.

Each is a row of `chemkl.stages.registry`, and its code is imported only when it is called.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """The row of a stage that shares its code with another one, such as posttrain_llm."""
    from chemkl.stages.registry import STAGES

    stage = STAGES.get(name)
    if stage is None or not stage.code:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return stage
