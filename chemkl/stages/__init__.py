"""The stages: ``from chemkl.stages import posttrain; posttrain.run(config, out_dir)``.

Each stage is a row of `chemkl.stages.registry`. Its code is imported only when it is called.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Return the row of a stage whose module has another name, such as posttrain_llm."""
    from chemkl.stages.registry import STAGES

    stage = STAGES.get(name)
    if stage is None or not stage.code:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return stage
