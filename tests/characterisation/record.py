"""Record the output of the stages as text, to compare it before and after a refactoring.

``python tests/characterisation/record.py FOLDER`` runs the pipeline in this folder and writes
FOLDER/recorded/: traces to the bit, tables, metrics, the report's words, and the output of the
commands. ``--against EARLIER`` compares with an earlier folder of the same machine and exits with
code 1 if they differ. What changes from run to run (times, identities) is replaced.
"""

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
VOLATILE = [
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:]+(\.\d+)?(Z|\+00:00)?"), "<time>"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?( UTC)?"), "<time>"),
    (re.compile(r'("[a-z_]*(seconds?|memory_mib)": )[\d.e+-]+'), r"\1<measured>"),
    (re.compile(r"at most [\d,]+ MiB"), "at most <measured> MiB"),
    (re.compile(r" +$", flags=re.MULTILINE), ""),  # a table is as wide as its paths
    (re.compile(r"\b\d+:\d\d:\d\d\b"), "<duration>"),
    (re.compile(r"\b(\d+ min )?\d+(\.\d+)? s\b"), "<duration>"),
    (re.compile(r"[\d,]+ (molecules a second of processor time)"), r"<measured> \1"),
    (re.compile(r"\b[a-z]+(_[a-z]+)?-[0-9a-f]{8}\b"), "<run id>"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "<hash>"),
]  # fmt: skip
WIDE = {**os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def steady(text: str, folder: Path) -> str:
    """Replace what changes from run to run."""
    text = text.replace(str(folder.resolve()), "<folder>").replace(str(HERE.parents[1]), "<home>")
    for pattern, name in VOLATILE:
        text = pattern.sub(name, text)
    return text


def chemkl(folder: Path, *arguments: str) -> str:
    """Run a command in a folder; return its output and exit code."""
    ended = subprocess.run(
        [sys.executable, "-m", "chemkl", *arguments],
        cwd=folder, env=WIDE, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    return f"exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"


def table_text(table: pa.Table) -> str:
    """Return a table as JSON lines, floats to the last bit, with the types of its columns."""
    types = "\n".join(f"{field.name}: {field.type}" for field in table.schema)
    return types + "\n" + "\n".join(json.dumps(row, default=str) for row in table.to_pylist())


def record(folder: Path) -> Path:
    """Run everything in a folder and return the folder of the recorded texts."""
    recorded = folder / "recorded"
    recorded.mkdir(parents=True)
    pipeline = ("run", str(HERE / "pipeline.yaml"), "--out", "runs")
    texts = {name: chemkl(folder, *pipeline) for name in ("run", "run again")}
    texts["help"] = chemkl(folder, "--help")
    for name in re.findall(r"^│ (\w+)  ", texts["help"], flags=re.MULTILINE):
        texts[f"help {name}"] = chemkl(folder, name, "--help")
    for name in ("rewards", "transforms", "runs/plain-seed=0", "runs/language_mara"):
        texts[f"show {name}"] = chemkl(folder, "show", name)
    for path in sorted((folder / "runs").rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".parquet" and "trace" not in path.parts:
            texts[name] = table_text(pq.read_table(path))
        elif path.name == "trace":
            parts = [pq.read_table(part) for part in sorted(path.glob("*.parquet"))]
            texts[name] = table_text(pa.concat_tables(parts))
        elif path.name == "manifest.json":
            manifest = json.loads(path.read_text(encoding="utf-8"))
            keys = ("config", "ended_by", "results", "status")
            texts[name] = json.dumps({key: manifest[key] for key in keys}, indent=1)
        elif path.suffix in {".json", ".md", ".tex", ".html", ".csv"}:
            texts[name] = path.read_text(encoding="utf-8")
    for name, text in texts.items():
        path = recorded / f"{name.replace('/', '.')}.txt"
        path.write_text(steady(text, folder), encoding="utf-8")
    return recorded


def differences(before: Path, after: Path, most: int = 20) -> list[str]:
    """Return the first lines that differ in each file."""
    lines = []
    for name in sorted({path.name for folder in (before, after) for path in folder.glob("*.txt")}):
        files = [folder / name for folder in (before, after)]
        missing = "<no such file>"
        texts = [
            (file.read_text(encoding="utf-8") if file.exists() else missing).splitlines()
            for file in files
        ]
        diff = list(difflib.unified_diff(*texts, "before", "after", lineterm="", n=0))
        if diff:
            lines += [f"== {name}", *(line[:200] for line in diff[:most])]
    return lines


def main() -> int:
    """Record, compare with an earlier folder if there is one, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    recorded = record(options.folder)
    lines = differences(options.against / "recorded", recorded) if options.against else []
    print("\n".join(lines) if lines else f"{recorded}: {len(list(recorded.iterdir()))} texts")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
