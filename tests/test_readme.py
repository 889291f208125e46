"""The Python in the READMEs runs, and the files that they name exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *ROOT.glob("*/README.md"), *ROOT.glob("chemkl/*/README.md")]
}
BLOCKS = {
    name: [
        block
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        if "runs/" not in block  # needs that run first
    ]
    for name, text in READMES.items()
}
NAME = re.compile(r"(?<![/\w])(?:configs|pipelines|data|tests|chemkl)/[\w./-]*\w")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def test_there_is_python_to_run():
    assert len(BLOCKS["README.md"]) >= 1
    assert sum(map(len, BLOCKS.values())) >= 4


@pytest.mark.parametrize("name", [name for name, blocks in BLOCKS.items() if blocks])
def test_its_python_runs(name):
    script = "".join(f"exec({block!r}, {{}})\n" for block in BLOCKS[name])
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(("name", "text"), READMES.items(), ids=READMES)
def test_its_files_exist(name, text):
    named = {ROOT / path for path in NAME.findall(text) if not path.startswith("data/corpora")}
    linked = {(ROOT / name).parent / path for path in LINK.findall(text)}
    assert not [str(path) for path in named | linked if not path.exists()]


def test_nothing_is_left_to_fill_in():
    assert not [name for name, text in READMES.items() if "@@" in text]


def test_the_first_page_is_read_in_ten_minutes():
    assert (ROOT / "README.md").stat().st_size <= 12_000
