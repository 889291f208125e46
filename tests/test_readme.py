"""The README keeps its word: its Python runs, and the files that it names are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
AFTER_A_RUN = "runs/"
"""A block that reads a run needs that run first."""


def test_there_is_python_to_run():
    assert sum(AFTER_A_RUN not in block for block in BLOCKS) >= 4


@pytest.mark.parametrize("block", [b for b in BLOCKS if AFTER_A_RUN not in b])
def test_its_python_runs(block):
    ended = subprocess.run(
        [sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    "name",
    sorted(set(re.findall(r"\b(?:configs|pipelines|data|tests|chemkl)/[\w./-]*\w", README))),
)
def test_what_it_names_is_there(name):
    made_by_a_run = name.startswith(("data/corpora",))
    assert made_by_a_run or (ROOT / name).exists()


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README
