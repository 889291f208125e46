"""Scoring: a file of SMILES becomes a table of scores, one row for each line.

`run` returns the path of the table. Of the command `chemkl score` see `run_command`.
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
from chemkl.files.streams import PACKINGS, without_packing
from chemkl.files.tables import TEXT_TYPES
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
"""Endings of the files that are written, and what they hold."""

FOREIGN = (*ENDINGS, *PACKINGS, ".json", ".xlsx")
"""Endings of files that are not written: a folder that is called so would be a mistake."""

N_BEST = 5
"""So many molecules, and reasons why lines are none, are shown."""

_OWN = {
    "line": (pa.int64(), "Line of the file that was scored, from 1 (row of a Parquet file)."),
    "smiles": (pa.string(), "SMILES as it stands in the file. Null: there is none; see reason."),
}
_NAME = (pa.string(), "What the file calls the molecule. Null: it has no name.")

run = STAGES["score"].run


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Look into the reward and the beginning of the file, without scoring."""
    yield "", complaints((RewardModel.from_config, view.section("reward")))
    if isinstance(view.config, ScoreConfig) and view.get("file") is not None:
        yield "file", complaints((lambda config: next(iter(_file(config))), view.config))


def work(config: ScoreConfig, start: Start) -> None:
    """Write ``scores.parquet``, or ``scores.csv``, and print a summary."""
    with start.claim(_inputs(config)) as manifest:
        place = start.out / f"scores.{config.format}"
        manifest.finish(results=score_file(config, place, start.console))


def score_file(config: ScoreConfig, place: Path, console: Console) -> dict[str, Any]:
    """Score a file into a table, which appears when it is whole, and print a summary."""
    file = _file(config)
    with RewardModel.from_config(config.reward) as reward:
        schema, kept = _schema(reward, file, config.format)
        summary = Summary(reward.component_names)
        has_cells = False
        bar = Bar("scoring", unit="lines", shown=config.progress_bar, lines=1)
        with _writer(place, config.format, schema) as writer, bar:
            if config.progress_bar:  # it also moves within a slow batch
                reward.show_progress(lambda n_new: bar.part("new molecules of this batch", n_new))
            remaining = iter(file)  # a file is read once, and never whole
            while lines := list(islice(remaining, config.batch_size)):
                rows = _rows(reward, lines, kept)
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
    """Score a file as the command line asks for it."""
    stage = STAGES["score"]
    stem = "stdin" if Path(file) == STDIN else without_packing(Path(file)).stem
    out = out or Path("runs", f"{stem}{stage.suffix}")
    form = FORMATS.get(out.suffix.lower())
    if form is None and out.suffix.lower() in FOREIGN:
        raise InputError(
            f"--out {out}: no table is written in this format. Allowed: a file that ends in "
            f"{' or '.join(FORMATS)}, or a folder"
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
    # a table that stands alone has what it was made of in a hidden file beside it
    record = out.with_name(f".{out.name}.manifest.json")
    if out.is_file():
        try:
            is_recorded = json.loads(record.read_bytes()) == _made_of(checked, out)
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
    write_json(record, _made_of(checked, out))
    return out


def _made_of(config: ScoreConfig, out: Path) -> dict[str, Any]:
    return {
        "config_hash": config_hash(config.model_dump(mode="json")),
        "inputs": {role: InputFile.of(path).sha256 for role, path in _inputs(config).items()},
        "sha256": sha256_of(out),
    }


def _inputs(config: ScoreConfig) -> dict[str, Path]:
    return {"file": config.file, **reward_files(config.reward)}


def settings(file: str, config: str, overrides: Iterable[str | Override] = ()) -> ScoreConfig:
    """Read what the command line is given."""
    document = Document.read(config, kinds=["configs/rewards", "configs/score"])
    data = dict(document.data)
    if "components" in data:
        RewardModel.from_config(document)  # whose problems have the lines of this file
        data = {"reward": str(document.file)}
    elif "reward" not in data:
        raise InputError(
            f"{config}: holds no reward: expected its components, or the key reward of a config "
            "that has one"
        )
    elif not data.keys() <= ScoreConfig.model_fields.keys():  # of another stage
        data = {"reward": data["reward"]}
    place = Path(os.path.expanduser(file))
    if place != STDIN:
        ours = None if os.path.exists(place) else find_shipped(place)
        place = ours or place.absolute()
    local(place)  # so that a problem is not told as one of the config
    given = replace(document, data={**data, "file": str(place)})
    return load_config(
        ScoreConfig,
        given,
        overrides,
        more_problems=lambda draft: complaints((RewardModel.from_config, draft.section("reward"))),
    )


# ---- the rows


def _file(config: ScoreConfig) -> MoleculeFile:
    kept = config.keep_columns
    return MoleculeFile(config.file, config.column, True if kept is True else kept or ())


def _schema(
    reward: RewardModel, file: MoleculeFile, form: str
) -> tuple[pa.Schema, dict[str, pa.Field]]:
    """The columns of a trace that a reward decides, behind and before those of the file."""
    columns = {**_OWN, **({"name": _NAME} if file.has_names else {})}
    trace = trace_schema(reward.component_names)
    fields = [
        *described_schema(columns),
        *(trace.field(n) for n in reward.columns if n != "smiles"),
    ]
    taken = {field.name for field in fields}
    kept: dict[str, pa.Field] = {}
    for column, kind in file.types.items():
        name = column
        while name in taken:
            name += "_input"
        taken.add(name)
        text = f"Column {column} of the file that was scored, as it stands there."
        kept[column] = pa.field(name, _written_type(kind, form), metadata={"description": text})
    return pa.schema([*fields, *kept.values()]), kept


def _written_type(kind: pa.DataType, form: str) -> pa.DataType:
    """The type in which a column of the user's is written; CSV has none for lists and the like."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = ("integer", "floating", "boolean", "date", "timestamp")
    simple = any(getattr(pa.types, f"is_{test}")(kind) for test in tests)
    return kind if simple or (form == "parquet" and kind not in TEXT_TYPES) else pa.string()


def _rows(reward: RewardModel, lines: Sequence[Line], kept: Mapping[str, pa.Field]) -> pd.DataFrame:
    """Score lines: one row each, in order."""
    rows = reward.score(line.smiles or "" for line in lines)
    without = [index for index, line in enumerate(lines) if line.smiles is None]
    rows.loc[without, "smiles"] = None
    rows.loc[without, "reason"] = [lines[index].reason for index in without]
    rows.insert(0, "line", [line.number for line in lines])
    rows["name"] = pd.Series([line.name for line in lines], dtype=object)
    for column, field in kept.items():  # as objects: pandas makes floats of integers with gaps
        cells = [line.values.get(column) for line in lines]
        if pa.types.is_string(field.type):
            cells = [cell if isinstance(cell, str) else as_text(cell) for cell in cells]
        rows[field.name] = pd.Series(cells, dtype=object)
    return rows


@contextmanager
def _writer(place: Path, form: str, schema: pa.Schema) -> Iterator[Any]:
    """Write a table row by row; it appears when all went well."""
    with atomic_file(place, sealed=form == "parquet") as aside:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            aside.touch()
        except OSError as error:
            raise InputError(f"{place}: cannot be written: {error.strerror}") from error
        if form == "parquet":
            table = pq.ParquetWriter(aside, schema, compression="zstd")
        else:
            plain = pa.csv.WriteOptions(quoting_style="needed")
            table = pa.csv.CSVWriter(aside, schema, write_options=plain)
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
    """Sums up rows while they are scored: how many molecules, how good, and what failed."""

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
        """Take rows in."""
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
        """The commonest reasons why lines hold no molecule."""
        return "; ".join(
            f"{n:,} x {reason} (first: line {self._first_lines[reason]})"
            for reason, n in self._reasons.most_common(N_BEST)
        )

    def results(self, failures: Mapping[str, FailureCount]) -> dict[str, Any]:
        """Everything as plain values; NaN where there is nothing to take a mean of."""
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
        """Show it."""
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
