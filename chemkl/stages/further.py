"""A further process of a training on several devices: `python -m chemkl.stages.further`.

The first one starts it, and tells it through its standard input what to do. It writes nothing.
"""

from pathlib import Path

from chemkl.display import standard_output
from chemkl.processes import handled
from chemkl.stages.registry import STAGES
from chemkl.stages.runner import Start, kept_models
from chemkl.training.ranks import read_task


def main() -> None:
    """Take part."""
    task = read_task()
    stage = STAGES[task["stage"]]
    with handled():
        out = Path(task["out"])
        config = stage.model.model_validate(task["config"], context={"kept": kept_models(out)})
        stage.module.work(config, Start(stage, config, out, standard_output()))


if __name__ == "__main__":
    main()
