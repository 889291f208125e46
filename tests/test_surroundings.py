"""What the command line runs in: the encoding of its output, closed streams."""

import io
import subprocess
import sys

import pytest

from chemkl import __version__
from chemkl.cli import main


def written(monkeypatch, encoding, *arguments):
    """Run the command line with an output of that encoding: its exit code, and what it wrote."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    err = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "argv", ["chemkl", *arguments])
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as end:
        main()
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))
    return end.value.code or 0, *texts


@pytest.mark.parametrize(
    ("encoding", "bound"),
    [("ascii", "whole number ? 0"), ("cp1252", "whole number ? 0"), ("utf-8", "whole number ≥ 0")],
)
def test_output_replaces_what_its_encoding_lacks(monkeypatch, encoding, bound):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = written(monkeypatch, encoding, "show", "rewards", "tanimoto")
    assert (code, err) == (0, "")
    assert bound in out


def test_a_file_name_that_is_not_utf8_can_be_told(monkeypatch):
    code, _, err = written(monkeypatch, "utf-8", "check", "\udcff.yaml")
    assert code == 2
    assert err.startswith("\\udcff.yaml: no such file")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["check", "nowhere"], 2)])
def test_closed_output_is_not_an_error(monkeypatch, stream, arguments, code):
    monkeypatch.setattr(sys, "argv", ["chemkl", *arguments])
    monkeypatch.setattr(sys, stream, None)
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code or 0) == code


def test_the_package_runs_as_the_command_does():
    ended = subprocess.run(
        [sys.executable, "-m", "chemkl", "--version"], capture_output=True, text=True, check=True
    )
    assert ended.stdout == f"chemkl {__version__}\n"
