"""The command line: each command checks what it was given, then imports the stage and calls it."""

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from chemkl import __version__
from chemkl.cli import inspection
from chemkl.cli.outlets import readers_may_leave
from chemkl.config import InputError, StorageError
from chemkl.config.base import utf8
from chemkl.signals import handled
from chemkl.stages.registry import STAGES, interrupted, interruptible

HELP = (
    "Post-train generators of molecules so that they cover many scaffolds, not one.\n\n"
    "A set of molecules becomes a prior (prepare, pretrain), a reward steers the prior (posttrain),"
    " and what it proposed is measured and shown (evaluate, report). chemkl run does all of it from"
    " one file."
)

EPILOG = (
    "Exit codes: 0 done, 2 a mistake in a config or an input (told before anything starts), 128 + N"
    " stopped by signal N (143 SIGTERM, 129 SIGHUP, 138 SIGUSR1, 130 Ctrl-C), 1 other "
    "(a full disk too: one line says what is safe)."
)

UNUSABLE = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR)
"""What the system says of a path that the user has to give otherwise, or to open for this user."""

app = typer.Typer(
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file with the settings.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings to change, for example seed=1 target.beta=0.1.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Output folder. Default: runs/ and the name of the config file."),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Move earlier output aside (FOLDER.old-1) and start anew."),
]


def main() -> None:
    """Run the command line and exit.

    The code is 0 done, 2 configuration or input error, 128 + N stopped by signal N, 1 other. A disk
    that fails is one line and 1, whatever it is that met it.
    """
    with handled(), readers_may_leave():
        forgive_streams()
        try:
            _check_working_folder()
            app()
        except (InputError, StorageError) as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(1 if _of_the_disk(error) else 2)
        except Exception as error:  # noqa: BLE001 - the last line of defence, and it hides nothing
            if unusable := _unusable(error):
                sys.stderr.write(f"{unusable}\n")
                sys.exit(2)
            if isinstance(error, OSError) and _of_the_disk(error):
                sys.stderr.write(f"{error.filename or 'the disk'}: {error.strerror or error}\n")
                sys.exit(1)
            sys.stderr.write(f"unexpected error: {type(error).__name__}: {error}\n")
            traceback.print_exc()
            sys.exit(1)


def forgive_streams() -> None:
    r"""Let stdout and stderr write ? for what their encoding lacks, and nothing where closed.

    UTF-8 lacks only the bytes of a file name that is not UTF-8: these are written as \udcff.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - to the end
        elif isinstance(stream, io.TextIOWrapper):
            unicode = stream.encoding.lower().startswith("utf")
            stream.reconfigure(errors="backslashreplace" if unicode else "replace")


def _check_working_folder() -> None:
    """Refuse to start where nothing can be found: relative paths need a folder.

    Raises:
        InputError: it was deleted, or is closed to us.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(
            f"the working directory cannot be used ({error.strerror}): change to another one"
        ) from None


def _unusable(error: Exception) -> str:
    """Say which path cannot be used, and why, if that is what went wrong; else nothing."""
    if getattr(error, "reason", None) == "surrogates not allowed":
        name, why = getattr(error, "object", ""), "the name is not UTF-8"
    elif isinstance(error, OSError) and error.errno in UNUSABLE and error.filename:
        name, why = error.filename, str(error.strerror)
    else:
        return ""
    return f"{utf8(name).splitlines()[0]}: cannot be used here ({why}); take another"


def _of_the_disk(error: Exception) -> bool:
    """Whether it is a disk that failed: no mistake of the user, whatever met it."""
    from chemkl.results.atomic import storage_problem  # it imports pyarrow: not for chemkl --help

    return storage_problem(error) is not None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chemkl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    del version  # its callback has done everything


def _run_stage(
    name: str,
    config: str | Mapping[str, Any],
    overrides: Sequence[str],
    out: Path | None,
    fresh: bool,
) -> None:
    """Check a stage's settings, then run it."""
    stage = STAGES[name]
    file = Path(config) if isinstance(config, str) else None
    folder = out or Path("runs", (file.stem if file else name) + stage.suffix)
    with interruptible(partial(interrupted, stage, folder, fresh=fresh)):
        checked = stage.load(config, overrides)
        if fresh:
            from chemkl.stages.runner import move_aside  # it reads manifests: not for chemkl --help

            stage.check(checked, str(file or name))
            move_aside(folder, checked, also=[file] if file else [])
        written = stage.run(checked, folder)
    if isinstance(written, Path):
        typer.echo(f"output: {written}")


def _command(name: str) -> Callable[..., None]:
    """The command of a stage."""

    def command(
        config: ConfigFile, overrides: Overrides = None, out: Out = None, fresh: Fresh = False
    ) -> None:
        _run_stage(name, config, overrides or (), out, fresh)

    return command


def _sample(
    config: ConfigFile,
    overrides: Overrides = None,
    beta_scale: Annotated[
        str | None,  # a number, read and judged as beta_scale=S is
        typer.Option(
            metavar="S",
            help="Sample as if trained with S times its beta: above 1 nearer to the prior, which "
            "the config must name, below 1 further from it. The same as beta_scale=S.",
        ),
    ] = None,
    out: Out = None,
    fresh: Fresh = False,
) -> None:
    changes = [] if beta_scale is None else [f"beta_scale={beta_scale}"]
    _run_stage("sample", config, [*(overrides or ()), *changes], out, fresh)


def _score(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Molecules: .smi, .csv, .tsv, .sdf, .parquet and more; - is standard input.",
        ),
    ],
    overrides: Overrides = None,
    config: Annotated[
        str,
        typer.Option(
            metavar="CONFIG",
            help="YAML file with a reward: its components, or a config of a stage that has one.",
        ),
    ] = ...,  # type: ignore[assignment]  # how typer is told that it is required
    column: Annotated[
        str | None,
        typer.Option(
            help="Where the SMILES stand: a column's name, or its number from 0. Default: where "
            "the file shows them."
        ),
    ] = None,
    keep_columns: Annotated[
        bool,
        typer.Option(
            "--keep-columns",
            help="Carry all columns of FILE along; some: keep_columns=[id,batch].",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A .parquet or .csv file, or an output folder. Default: runs/ and the name of "
            "FILE with -scores."
        ),
    ] = None,
    fresh: Fresh = False,
) -> None:
    from chemkl.stages import score as stage

    changes = [] if column is None else [f"column={column}"]
    changes += ["keep_columns=true"] if keep_columns else []
    with interruptible(partial(interrupted, STAGES["score"], out or Path(), fresh=fresh)):
        written = stage.run_command(file, config, [*(overrides or ()), *changes], out, fresh=fresh)
    typer.echo(f"output: {written}")


def _of_runs(name: str, metavar: str, what: str) -> Callable[..., None]:
    """The command of a stage that can do without a config file."""

    def command(
        given: Annotated[
            list[str],
            typer.Argument(
                metavar=f"CONFIG|{metavar}|KEY=VALUE",
                help=f"A YAML file with the settings; or {what}. And settings to change, for "
                "example metrics.seed=1.",
            ),
        ],
        out: Annotated[
            Path | None,
            typer.Option(
                help="Output folder. Default: runs/ and the name of the config file, or of the "
                "first run or file."
            ),
        ] = None,
        fresh: Fresh = False,
    ) -> None:
        from chemkl.stages.given import take_apart  # it reads manifests: not for chemkl --help

        found = take_apart(name, given)
        _run_stage(name, found.source, found.overrides, out or Path("runs", found.name), fresh)

    return command


COMMANDS: dict[str, Callable[..., None]] = {
    "sample": _sample,
    "score": _score,
    "evaluate": _of_runs(
        "evaluate",
        "RUN|FILE",
        "folders of runs and files of molecules, in any mixture: files with a column reward or "
        "Score are evaluated as runs are",
    ),
    "compare": _of_runs(
        "compare",
        "RUN",
        "folders of runs: those that differ in the seed alone are a method, and the method of the "
        "first one is the baseline",
    ),
    "report": _of_runs("report", "RUN", "folders of runs"),
}
"""Commands of stages that take arguments or options of their own."""

for _stage in STAGES.values():
    app.command(_stage.name, help=_stage.help)(COMMANDS.get(_stage.name) or _command(_stage.name))


@app.command("run")
def _run(
    pipeline: Annotated[
        str, typer.Argument(metavar="PIPELINE", help="YAML file with the stages in order.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and list the jobs; run none.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Run only this entry of the pipeline, job or stage."),
    ] = None,
    index: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Run only job N of these, counted from 0 as in --dry-run (for Slurm arrays).",
        ),
    ] = None,
    fresh: Fresh = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder. Default: runs/ and the pipeline's name."),
    ] = None,
) -> None:
    """Run all stages of a pipeline; what is complete is skipped, what was cut off is resumed.

    Every setting of every stage is checked before the first one starts.
    """
    from chemkl.stages import pipeline as stage

    outcomes = stage.run(pipeline, out, only=only, index=index, fresh=fresh, dry_run=dry_run)
    if any(outcome.status == "stopped" for outcome in outcomes):
        raise typer.Exit(1)


@app.command("check")
def _check(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|KEY=VALUE",
            help="Config, reward or pipeline files, and settings to change in the configs.",
        ),
    ],
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What the files are for (a stage, pipeline or reward). Default: found out.",
        ),
    ] = None,
) -> None:
    """Check files without running anything; print ok, or every problem with its line."""
    from chemkl.stages.check import check_file

    changes = [argument for argument in files if "=" in argument and not Path(argument).exists()]
    files = [argument for argument in files if argument not in changes]
    if not files:
        raise InputError(f"{changes[0]}: a setting; give a file to check too")
    failed = False
    for file in files:
        try:
            checked = check_file(file, stage, changes)
        except InputError as error:
            typer.echo(str(error), err=True)
            failed = True
        else:
            waits = "".join(f"; not made yet: {path}" for path in checked.awaited)
            typer.echo(f"ok {file} ({checked.kind}{waits})")
    if failed:
        raise typer.Exit(2)


app.command("show")(inspection.show_command)
app.command("export")(inspection.export_command)
app.command("convert")(inspection.convert_command)
