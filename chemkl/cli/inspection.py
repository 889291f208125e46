"""Commands that look into what is there and hand it on: show, export, convert."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from chemkl.config import InputError


def _option(metavar: str, what: str, **more: Any) -> Any:
    """An option that is not given by default."""
    return typer.Option(metavar=metavar, help=what, show_default=False, **more)


def _finite(threshold: float | None) -> float | None:
    """Refuse nan and inf, which Python reads as numbers.

    Raises:
        InputError: it is one of them.
    """
    if threshold is not None and not math.isfinite(threshold):
        raise InputError(f"--threshold {threshold}: should be a finite number, such as 0.8")
    return threshold


Top = Annotated[int | None, _option("N", "The N best molecules.", min=1)]
PerScaffold = Annotated[int | None, _option("N", "The N best of each scaffold; 0: all.", min=0)]
Force = Annotated[bool, typer.Option("--force", help="Replace output files that are there.")]


def show_command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="A run, a .parquet file, rewards, transforms, metrics or configs."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="One reward, transform or config."),
    ] = None,
    threshold: Annotated[
        float | None,
        _option(
            "R", "Hits have a raw reward of R or more. Default: the run's tau.", callback=_finite
        ),
    ] = None,
    top: Annotated[
        int | None,
        _option("N", "The N best molecules; of texts, the N most frequent answers.", min=1),
    ] = None,
    per_scaffold: PerScaffold = None,
    rows: Annotated[int | None, _option("N", "Rows of a file or an answer.", min=0)] = None,
    sql: Annotated[
        str | None,
        _option(
            "QUERY",
            "One SELECT from trace, or from a table beside it (diversity, over_time, families, "
            "by_prompt); needs DuckDB.",
        ),
    ] = None,
    csv: Annotated[Path | None, _option("FILE", "Write the whole answer: .csv, .csv.gz.")] = None,
    parquet: Annotated[Path | None, _option("FILE", "Write the whole answer: .parquet.")] = None,
    force: Force = False,
) -> None:
    """Show a run, a Parquet file or the answer to a query; or what rewards are made of.

    Of a run: how it ended, its columns, counts, and the best molecule of each scaffold; or, of a
    language model that wrote no molecules, the most frequent answers to each prompt.
    """
    from chemkl.stages.show import Asked, show

    asked = Asked(threshold, top, per_scaffold, rows, sql, csv, parquet, force)
    show(what, name, asked)


def export_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a posttrain run.")],
    sdf: Annotated[
        Path | None, _option("FILE", "2D coordinates and properties: .sdf, .sdf.gz.")
    ] = None,
    csv: Annotated[Path | None, _option("FILE", "A table: .csv, .csv.gz.")] = None,
    smi: Annotated[Path | None, _option("FILE", "SMILES and a name: .smi, .smi.gz.")] = None,
    threshold: Annotated[
        float | None, _option("R", "Only those with a raw reward >= R.", callback=_finite)
    ] = None,
    top: Top = None,
    per_scaffold: PerScaffold = None,
    all_rows: Annotated[
        bool,
        typer.Option("--all-rows", help="Every row into the CSV, repeats and invalid ones too."),
    ] = False,
    force: Force = False,
) -> None:
    """Write the distinct molecules of a run for other programs, in the order of first scoring.

    With --top or --per-scaffold, the best first.
    """
    from chemkl.stages.export import export

    files = {"sdf": sdf, "csv": csv, "smi": smi}
    n = export(
        run,
        **files,
        threshold=threshold,
        top=top,
        per_scaffold=per_scaffold or None,
        all_rows=all_rows,
        force=force,
    )
    for path in filter(None, files.values()):
        typer.echo(f"output: {path} ({n:,} {'rows' if all_rows else 'molecules'})")


def convert_command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .parquet file.")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="A .csv, .sdf or .smi file, each also .gz.")
    ],
    column: Annotated[
        str | None, _option("NAME", "Where the SMILES stand. Default: canonical_smiles or smiles.")
    ] = None,
    force: Force = False,
) -> None:
    """Convert a Parquet file for programs that read none: all its columns, molecules drawn flat."""
    from chemkl.stages.convert import convert

    typer.echo(f"output: {target} ({convert(source, target, column=column, force=force)})")
