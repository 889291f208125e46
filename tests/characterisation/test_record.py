"""The output of the stages is the same as before, to the bit, on this machine."""

import os
from pathlib import Path

import pytest
from record import differences, record

BEFORE = os.environ.get("CHEMKL_RECORDED_BEFORE")


@pytest.mark.slow
def test_the_output_of_the_stages_is_unchanged(tmp_path):
    """CHEMKL_RECORDED_BEFORE names a folder of record.py; without it, two runs are compared."""
    before = Path(BEFORE) / "recorded" if BEFORE else record(tmp_path / "before")
    after = record(tmp_path / "after")
    assert differences(before, after) == []
    assert "exit code 0" in (after / "run.txt").read_text(encoding="utf-8")
