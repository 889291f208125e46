"""What pyproject.toml cannot say: a built package carries configs/, data/ and pipelines/ within.

They stay at the top of the repository, and an editable install is nothing but a path to it.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("configs", "data", "pipelines")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "cache", "corpora")


class BuildWithShippedFiles(build_py):
    """Copies the three folders into the package as chemkl/shipped."""

    def run(self) -> None:
        """Build the modules, then add the folders unless the install is editable."""
        super().run()
        if not self.editable_mode:
            for name in SHIPPED:
                target = Path(self.build_lib, "chemkl", "shipped", name)
                shutil.copytree(name, target, ignore=LEFT_OUT, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithShippedFiles})
