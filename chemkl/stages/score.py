"""The score stage: a table of scores with one row per line of a file of SMILES.

`run` returns the path of the table; `run_command` is the command `chemkl score`.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich.console import Console

from chemkl.config import InputError, complaints, load_config
from chemkl.config.loading import Document, Override
from chemkl.config.paths import STDIN, find_shipped, local
from chemkl.config.prepare import ScoreConfig
from chemkl.display import Bar, Column, cell, say, standard_output, table
from chemkl.files.molecules import ENDINGS, NO_CELL, Line, MoleculeFile
from chemkl.files.tables import PACKINGS, TEXT_TYPES, without_packing
from chemkl.results.atomic import atomic_file, check_utf8_name, write_json
from chemkl.results.columns import RAW_PREFIX, SCORE_PREFIX, described_schema, trace_schema
from chemkl.results.provenance import InputFile, config_hash, sha256_of
from chemkl.rewards import RewardModel
from chemkl.rewards.cache import reward_files
from chemkl.rewards.model import FailureCount
from chemkl.stages.export import as_text
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import AGAIN, Start, move_aside

FORMATS = {".parquet": "parquet", ".csv": "csv"}
"""Endings of output files and their formats."""

FOREIGN = (*ENDINGS, *PACKINGS, ".json", ".xlsx")
"""Endings of formats that are not written; a folder with such a name would be a mistake."""

N_BEST = 5
"""Number of molecules, and of reasons for invalid lines, in the summary."""

_LINE = {
    "line": (pa.int64(), "Line of the file that was scored, from 1 (row of a Parquet file)."),
    "smiles": (pa.string(), "SMILES as it stands in the file. Null: there is none; see reason."),
}
_NAME = (pa.string(), "What the file calls the molecule. Null: it has no name.")

run = STAGES["score"].run


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Check the reward and the start of the file, without scoring."""
    yield "", complaints((RewardModel.from_config, view.section("reward")))
    if isinstance(view.config, ScoreConfig) and view.get("file") is not None:
        yield "file", complaints((lambda config: next(iter(_file(config))), view.config))


def work(config: ScoreConfig, start: Start) -> None:
    """Write ``scores.parquet`` or ``scores.csv`` and print a summary."""
    with start.claim(_inputs(config)) as manifest:
        path = start.out / f"scores.{config.format}"
        manifest.finish(results=score_file(config, path, start.console))


def score_file(config: ScoreConfig, path: Path, console: Console) -> dict[str, Any]:
    """Score a file into a table that appears when it is complete, and print a summary."""
    file = _file(config)
    with RewardModel.from_config(config.reward) as reward:
        schema, file_columns = _schema(reward, file, config.format)
        summary = Summary(reward.component_names)
        has_cells = False
        bar = Bar("scoring", unit="lines", shown=config.progress_bar, lines=1)
        with _writer(path, config.format, schema) as writer, bar:
            if config.progress_bar:  # also within a slow batch
                reward.show_progress(lambda n_new: bar.part("new molecules of this batch", n_new))
            remaining = iter(file)  # the file is read once and never held in memory
            while lines := list(islice(remaining, config.batch_size)):
                rows = _rows(reward, lines, file_columns)
                writer.write_table(pa.Table.from_pandas(rows, schema, preserve_index=False))
                summary.add(rows)
                has_cells |= any(line.reason != NO_CELL for line in lines)
                bar.advance(len(lines))
            problem = f"no line holds a valid molecule. Reasons: {summary.reasons()}"
            if not has_cells and config.column is not None:
                problem = f"no line has the column {config.column}, counted from 0"
            if not summary.n_valid:
                raise InputError(f"{config.file}: {problem}")
        results = summary.results(reward.failures)
    summary.print(console, reward.failures)
    return results


def run_command(
    file: str,
    config: str,
    overrides: Iterable[str | Override] = (),
    out: Path | None = None,
    *,
    fresh: bool = False,
) -> Path:
    """Score a file for the command line."""
    stage = STAGES["score"]
    stem = "stdin" if Path(file) == STDIN else without_packing(Path(file)).stem
    out = out or Path("runs", f"{stem}{stage.suffix}")
    form = FORMATS.get(out.suffix.lower())
    if form is None and out.suffix.lower() in FOREIGN:
        raise InputError(
            f"--out {out}: unknown format. Allowed: a folder, or a file that ends in "
            f"{' or '.join(FORMATS)}"
        )
    check_utf8_name(out)
    changes = [*overrides, *([] if form is None else [f"format={form}"])]
    checked = settings(file, config, changes)
    stage.check(checked)
    if out.resolve() == checked.file:
        raise InputError(f"--out {out}: this is the file to be scored; choose another")
    if fresh:
        move_aside(out, checked, also=[Path(config)], tables=True)
    if form is None:
        result: Path = run(checked, out)
        return result
    # a hidden file next to a single table records its inputs
    record = out.with_name(f".{out.name}.manifest.json")
    if out.is_file():
        try:
            is_recorded = json.loads(record.read_bytes()) == _record_of(checked, out)
        except (OSError, ValueError):
            is_recorded = False
        if is_recorded:
            say(f"{out}: complete, skipped; {AGAIN}")
            return out
    if out.exists():
        raise InputError(
            f"{out}: exists, and was not made of this file with these settings, or has changed. "
            "Choose another --out, or move it aside with --fresh"
        )
    score_file(checked, out, standard_output())
    write_json(record, _record_of(checked, out))
    return out


def _record_of(config: ScoreConfig, out: Path) -> dict[str, Any]:
    return {
        "config_hash": config_hash(config.model_dump(mode="json")),
        "inputs": {role: InputFile.of(path).sha256 for role, path in _inputs(config).items()},
        "sha256": sha256_of(out),
    }


def _inputs(config: ScoreConfig) -> dict[str, Path]:
    return {"file": config.file, **reward_files(config.reward)}


def settings(file: str, config: str, overrides: Iterable[str | Override] = ()) -> ScoreConfig:
    """Read the arguments of the command line."""
    document = Document.read(config, kinds=["configs/rewards", "configs/score"])
    data = dict(document.data)
    if "components" in data:
        RewardModel.from_config(document)  # its problems name lines of this file
        data = {"reward": str(document.file)}
    elif "reward" not in data:
        raise InputError(
            f"{config}: holds no reward: expected the key components, or a config with a key reward"
        )
    elif not data.keys() <= ScoreConfig.model_fields.keys():  # a config of another stage
        data = {"reward": data["reward"]}
    place = Path(os.path.expanduser(file))
    if place != STDIN:
        ours = None if os.path.exists(place) else find_shipped(place)
        place = ours or place.absolute()
    local(place)  # so that a problem is not reported as one of the config
    return load_config(
        ScoreConfig,
        replace(document, data={**data, "file": str(place)}),
        overrides,
        more_problems=lambda draft: complaints((RewardModel.from_config, draft.section("reward"))),
    )


# ---- the rows


def _file(config: ScoreConfig) -> MoleculeFile:
    columns = config.keep_columns
    return MoleculeFile(config.file, config.column, True if columns is True else columns or ())


def _schema(
    reward: RewardModel, file: MoleculeFile, form: str
) -> tuple[pa.Schema, dict[str, pa.Field]]:
    """Return the schema of the table, and its fields for the file's columns by their names."""
    columns = {**_LINE, **({"name": _NAME} if file.has_names else {})}
    trace = trace_schema(reward.component_names)
    fields = [
        *described_schema(columns),
        *(trace.field(n) for n in reward.columns if n != "smiles"),
    ]
    names = {field.name for field in fields}
    file_columns: dict[str, pa.Field] = {}
    for column, kind in file.types.items():
        name = column
        while name in names:
            name += "_input"
        names.add(name)
        text = f"Column {column} of the file that was scored, as it stands there."
        file_columns[column] = pa.field(
            name, _written_type(kind, form), metadata={"description": text}
        )
    return pa.schema([*fields, *file_columns.values()]), file_columns


def _written_type(kind: pa.DataType, form: str) -> pa.DataType:
    """Return the output type for a column of the file; CSV has none for lists and the like."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = ("integer", "floating", "boolean", "date", "timestamp")
    simple = any(getattr(pa.types, f"is_{test}")(kind) for test in tests)
    return kind if simple or (form == "parquet" and kind not in TEXT_TYPES) else pa.string()


def _rows(
    reward: RewardModel, lines: Sequence[Line], file_columns: Mapping[str, pa.Field]
) -> pd.DataFrame:
    """Score lines into one row each, in order."""
    rows = reward.score(line.smiles or "" for line in lines)
    empty = [index for index, line in enumerate(lines) if line.smiles is None]
    rows.loc[empty, "smiles"] = None
    rows.loc[empty, "reason"] = [lines[index].reason for index in empty]
    rows.insert(0, "line", [line.number for line in lines])
    rows["name"] = pd.Series([line.name for line in lines], dtype=object)
    for column, field in file_columns.items():
        cells = [line.values.get(column) for line in lines]
        if pa.types.is_string(field.type):
            cells = [cell if isinstance(cell, str) else as_text(cell) for cell in cells]
        # as objects: pandas turns integers with gaps into floats
        rows[field.name] = pd.Series(cells, dtype=object)
    return rows


@contextmanager
def _writer(path: Path, form: str, schema: pa.Schema) -> Iterator[Any]:
    """Write a table in batches; it appears when it is complete."""
    with atomic_file(path, sealed=form == "parquet") as part:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.touch()
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error
        if form == "parquet":
            table = pq.ParquetWriter(part, schema, compression="zstd")
        else:
            options = pa.csv.WriteOptions(quoting_style="needed")
            table = pa.csv.CSVWriter(part, schema, write_options=options)
        with table as writer:
            yield writer


# ---- the summary


COMPONENTS = (
    Column("component", "component"),
    Column("asked", "asked", ",d"),
    Column("failed", "failed", ",d"),
    Column("mean_raw", "mean raw", ".4g"),
    Column("mean_score", "mean score", ".4g"),
    Column("reason", "most frequent reason of failure"),
)


class Summary:
    """Counts and means over scored rows, the best molecules and the reasons of failure."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        columns = [prefix + name for name in names for prefix in (RAW_PREFIX, SCORE_PREFIX)]
        self._sums = pd.Series(0.0, index=[*columns, "reward"])
        self._numbers = pd.Series(0, index=[*columns, "reward"])
        self._lines = 0
        self.n_valid = 0
        self._best = pd.DataFrame({"reward": [], "name": []}, dtype=object)  # by SMILES
        self._reasons: Counter[str] = Counter()
        self._first_lines: dict[str, int] = {}

    def add(self, rows: pd.DataFrame) -> None:
        """Add rows."""
        valid, invalid = rows[rows["valid"]], rows[~rows["valid"]]
        self._lines += len(rows)
        self.n_valid += len(valid)
        self._sums += valid[self._sums.index].sum()
        self._numbers += valid[self._sums.index].notna().sum()
        self._reasons.update(invalid["reason"])
        for reason, line in zip(invalid["reason"], invalid["line"], strict=True):
            self._first_lines.setdefault(reason, line)
        new = valid.set_index("canonical_smiles")[["reward", "name"]]
        joined = pd.concat([self._best, new]) if len(self._best) else new
        first = joined[~joined.index.duplicated()]
        self._best = first.sort_values("reward", ascending=False, kind="stable").head(N_BEST)

    def reasons(self) -> str:
        """Return the most frequent reasons why lines hold no molecule."""
        return "; ".join(
            f"{n:,} x {reason} (first: line {self._first_lines[reason]})"
            for reason, n in self._reasons.most_common(N_BEST)
        )

    def results(self, failures: Mapping[str, FailureCount]) -> dict[str, Any]:
        """Return all numbers as plain values; a mean over nothing is NaN."""
        means = (self._sums / self._numbers).to_dict()
        components = {
            name: {
                "asked": failures[name].attempts,
                "failed": failures[name].failed,
                "mean_raw": means[RAW_PREFIX + name],
                "mean_score": means[SCORE_PREFIX + name],
            }
            for name in self._names
        }
        return {
            "lines": self._lines,
            "valid": self.n_valid,
            "mean_reward": means["reward"],
            "best": self._best["reward"].to_dict(),
            "components": components,
        }

    def print(self, console: Console, failures: Mapping[str, FailureCount]) -> None:
        """Print the summary."""
        results = self.results(failures)
        console.print(f"lines    {self._lines:,}\nvalid    {self.n_valid:,}", highlight=False)
        mean = cell(results["mean_reward"], ".4g")
        console.print(f"reward   {mean} (mean of the valid)", highlight=False)
        rows = []
        for name, values in results["components"].items():
            reasons = failures[name].reasons.most_common(1)
            rows.append({"component": name, **values, "reason": reasons[0][0] if reasons else ""})
        console.print(table("", COMPONENTS, rows, keep_empty=True))
        for name, count in failures.items():
            if count.failed and count.failed == count.attempts:
                console.print(f"component {name} failed on every molecule: all rewards are 0")
        names = [Column("name", "name")] if self._best["name"].notna().any() else []
        columns = [Column("reward", "reward", ".4g"), *names, Column("smiles", "best molecules")]
        best = self._best.rename_axis("smiles").reset_index().to_dict("records")
        console.print(table("", columns, cast(list[dict[str, Any]], best)))
