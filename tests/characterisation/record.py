"""Write down what the stages give today, as text, so that a rebuilding can be held against it.

``python tests/characterisation/record.py FOLDER`` runs the pipeline beside this file and writes
FOLDER/recorded/: traces to the bit, tables, metrics, the report's words, and what the commands
print. With ``--against EARLIER`` it compares with an earlier folder of the same machine and ends
with code 1 where they differ. What changes from run to run (times, identities) is left out.
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
    """Return a text without what changes from run to run."""
    text = text.replace(str(folder.resolve()), "<folder>").replace(str(HERE.parents[1]), "<home>")
    for pattern, name in VOLATILE:
        text = pattern.sub(name, text)
    return text


def chemkl(folder: Path, *arguments: str) -> str:
    """Run a command in a folder and return what it prints, and how it ended."""
    ended = subprocess.run(
        [sys.executable, "-m", "chemkl", *arguments],
        cwd=folder, env=WIDE, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    return f"exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"


def table_text(path: Path) -> str:
    """Return a Parquet file as JSON lines, floats to the last bit, with its columns' types."""
    table = pq.read_table(path)
    kinds = "\n".join(f"{field.name}: {field.type}" for field in table.schema)
    return kinds + "\n" + "\n".join(json.dumps(row, default=str) for row in table.to_pylist())


def record(folder: Path) -> Path:
    """Run everything in a folder and write it down.

    Returns:
        The folder with the texts.
    """
    kept = folder / "recorded"
    kept.mkdir(parents=True)
    said = {"run": chemkl(folder, "run", str(HERE / "pipeline.yaml"), "--out", "runs")}
    said["run again"] = chemkl(folder, "run", str(HERE / "pipeline.yaml"), "--out", "runs")
    overview = chemkl(folder, "--help")
    said["help"] = overview
    for name in re.findall(r"^│ (\w+)  ", overview, flags=re.MULTILINE):
        said[f"help {name}"] = chemkl(folder, name, "--help")
    for what in ("rewards", "transforms", "runs/plain-seed=0", "runs/language_mara"):
        said[f"show {what}"] = chemkl(folder, "show", what)
    for path in sorted((folder / "runs").rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".parquet" and "trace" not in path.parts:
            said[name] = table_text(path)
        elif path.name == "trace":
            parts = [pq.read_table(part) for part in sorted(path.glob("*.parquet"))]
            pq.write_table(pa.concat_tables(parts), folder / "joined.parquet")
            said[name] = table_text(folder / "joined.parquet")
        elif path.name == "manifest.json":
            results = json.loads(path.read_text(encoding="utf-8"))
            said[name] = json.dumps(
                {key: results[key] for key in ("config", "ended_by", "results", "status")}, indent=1
            )
        elif path.suffix in {".json", ".md", ".tex", ".html", ".csv"}:
            said[name] = path.read_text(encoding="utf-8")
    for name, text in said.items():
        (kept / f"{name.replace('/', '.')}.txt").write_text(steady(text, folder), encoding="utf-8")
    return kept


def differences(before: Path, after: Path, most: int = 20) -> list[str]:
    """Return the first lines that differ, file by file."""
    names = sorted({path.name for folder in (before, after) for path in folder.glob("*.txt")})
    lines = []
    for name in names:
        texts = [
            (folder / name).read_text(encoding="utf-8").splitlines()
            if (folder / name).exists() else ["<no such file>"]
            for folder in (before, after)
        ]  # fmt: skip
        found = list(difflib.unified_diff(*texts, "before", "after", lineterm="", n=0))
        if found:
            lines += [f"== {name}", *(line[:200] for line in found[:most])]
    return lines


def main() -> int:
    """Record, compare if asked to, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path)
    asked = parser.parse_args()
    kept = record(asked.folder)
    found = differences(asked.against / "recorded", kept) if asked.against else []
    print("\n".join(found) if found else f"{kept}: {len(list(kept.iterdir()))} texts")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
