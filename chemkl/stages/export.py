"""What `chemkl export` writes: the molecules of a run as SDF, CSV or SMILES, for other programs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import IO

import pandas as pd
import pyarrow as pa

from chemkl.chem.molecules import parse
from chemkl.config import InputError
from chemkl.display import say
from chemkl.results.inspection import RunTrace, first_scorings, open_run
from chemkl.stages import molecule_files
from chemkl.stages.molecule_files import Record, title_of, write_sdf, write_smi
from chemkl.stages.output_files import check_outputs, write_csv, written_out

ENDINGS = {f"--{form}": endings for form, endings in molecule_files.ENDINGS.items()}
"""How the file of each option may end."""

SAME_FOR_ALL = ("valid", "repeat", "is_replay")
"""Columns of a trace that say the same of every distinct molecule; --all-rows has them."""


def export(
    run_dir: str | Path,
    *,
    sdf: str | Path | None = None,
    csv: str | Path | None = None,
    smi: str | Path | None = None,
    threshold: float | None = None,
    top: int | None = None,
    per_scaffold: int | None = None,
    all_rows: bool = False,
    force: bool = False,
) -> int:
    """Write the distinct molecules of a run, in the order of their first scoring.

    Args:
        run_dir: folder of the run.
        sdf: SD file: 2D coordinates, and the columns of the trace as properties.
        csv: table with the columns of the trace.
        smi: canonical SMILES and a name, separated by a blank.
        threshold: only molecules with a raw reward R of at least this.
        top: only so many, the best first.
        per_scaffold: at most so many of each scaffold, the best ones, and the best first; acyclic
            molecules share one.
        all_rows: every row of the trace into the CSV, invalid ones and repeats too.
        force: replace files that are there.

    Returns:
        How many molecules (with all_rows: rows) were chosen. One that RDKit cannot read, as a trace
        of another version may hold, is left out of every file, and one that it cannot lay out of
        the SD file; a line says how many.

    Raises:
        InputError: an output, an option or the trace cannot be used, or no molecule is left; then
            nothing was written.
    """
    given = {"--sdf": sdf, "--csv": csv, "--smi": smi}
    outputs = {option: Path(path) for option, path in given.items() if path is not None}
    filters = {"--threshold": threshold, "--top": top, "--per-scaffold": per_scaffold}
    _check_options(outputs, [name for name in filters if filters[name] is not None], all_rows)
    check_outputs(outputs, ENDINGS, force=force)
    run = open_run(run_dir)
    if run.is_text and not all_rows:
        raise InputError(_no_molecule_in(run))
    rows = run.frame
    if not all_rows:
        rows = _readable(select(rows, threshold, top=top, per_scaffold=per_scaffold), run.folder)
    if rows.empty:
        raise InputError(_nothing_left(run, threshold))
    table = pa.Table.from_pandas(rows, schema=run.schema, preserve_index=False)
    if not all_rows:
        table = table.drop_columns(list(SAME_FOR_ALL))
    for option, path in outputs.items():
        with written_out(path) as stream:
            _write(option, run, table, stream)
    return len(table)


def select(
    trace: pd.DataFrame,
    threshold: float | None = None,
    *,
    top: int | None = None,
    per_scaffold: int | None = None,
) -> pd.DataFrame:
    """Choose distinct molecules of a trace; the arguments are those of `export`.

    Returns:
        The rows at which they were first scored. With top or per_scaffold the best comes first, at
        equal rewards the earlier one; otherwise they stand in the order of their calls.

    Raises:
        InputError: a number below 1.
    """
    for option, number in (("--top", top), ("--per-scaffold", per_scaffold)):
        if number is not None and number < 1:
            raise InputError(f"{option} {number}: expected a whole number from 1")
    rows = first_scorings(trace, threshold)
    if top is None and per_scaffold is None:
        return rows
    rows = rows.sort_values("reward", ascending=False, kind="stable")
    if per_scaffold is not None:
        rows = rows[rows.groupby("scaffold", dropna=False).cumcount() < per_scaffold]
    return rows if top is None else rows.head(top)


def _readable(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Leave out the molecules that RDKit cannot read, and say how many they are."""
    smiles = rows["canonical_smiles"]
    readable = [parse(each) is not None for each in smiles]
    left_out = len(rows) - sum(readable)
    if left_out:
        say(f"{folder}: {left_out:,} molecules left out, which RDKit cannot read")
    return rows[readable]


def _check_options(outputs: Mapping[str, Path], filters: Sequence[str], all_rows: bool) -> None:
    problems = []
    if not outputs:
        problems.append(f"nothing to write: give {', '.join(ENDINGS)}, one or several")
    if all_rows and (not_csv := outputs.keys() - {"--csv"}):
        problems.append(
            f"--all-rows goes with --csv alone, not with {', '.join(sorted(not_csv))}: most rows "
            "are repeats, or no molecules at all"
        )
    if all_rows and filters:
        problems.append(f"--all-rows and {', '.join(filters)} contradict: give one of them")
    if problems:
        raise InputError("\n".join(problems))


def _no_molecule_in(run: RunTrace) -> str:
    return (
        f"{run.folder}: no completion in this run of a language model names a molecule, and only "
        "molecules are exported; nothing was written. Its texts become a table with: chemkl show "
        f'{quote(str(run.folder))} --sql "SELECT prompt, completion, answer, reward FROM trace" '
        "--csv texts.csv"
    )


def _nothing_left(run: RunTrace, threshold: float | None) -> str:
    found = select(run.frame)
    if found.empty:
        return f"{run.folder}: the trace holds no valid molecule; nothing was written"
    return (
        f"--threshold {threshold:g}: no hits: the largest reward in {run.folder} is "
        f"{found['reward'].max():.6g}; nothing was written. Give a lower threshold"
    )


def _write(option: str, run: RunTrace, table: pa.Table, stream: IO[bytes]) -> None:
    if option == "--csv":
        write_csv(table, stream)
    elif option == "--smi":
        write_smi(_records(run, table), stream)
    else:
        origin = {name: text for name, text in run.identity.items() if text}
        left_out = len(table) - write_sdf(_records(run, table), table.schema, origin, stream)
        if left_out:
            say(f"{left_out:,} molecules left out of the SD file, which RDKit cannot lay out")


def _records(run: RunTrace, table: pa.Table) -> Iterator[Record]:
    """Each molecule with its own name, where the trace has a column `name`.

    Else with one that no other run uses: the run's id and the oracle call.
    """
    own = run.identity["run_id"] or run.folder.resolve().name
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            smiles = row["canonical_smiles"]
            mol = parse(smiles)
            yield Record(title_of(row, f"{own}_{row['call']}"), smiles, mol or smiles, row)
