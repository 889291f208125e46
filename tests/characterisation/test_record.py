"""What the stages give is what it gave: on this machine, to the bit."""

import os
from pathlib import Path

import pytest
from record import differences, record

BEFORE = os.environ.get("CHEMKL_RECORDED_BEFORE")


@pytest.mark.slow
def test_the_stages_give_what_they_gave(tmp_path):
    """CHEMKL_RECORDED_BEFORE names a folder of record.py; without it, two runs are compared."""
    before = Path(BEFORE) / "recorded" if BEFORE else record(tmp_path / "before")
    after = record(tmp_path / "after")
    assert differences(before, after) == []
    assert "exit code 0" in (after / "run.txt").read_text(encoding="utf-8")
