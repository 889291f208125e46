"""The command line: each command checks its arguments, then imports the stage and runs it."""

import errno
import io
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from typer import Argument, Option

from chemkl import __version__
from chemkl.config import InputError, LostError, StorageError
from chemkl.config.base import utf8
from chemkl.processes import handled, n_cores
from chemkl.stages.registry import STAGES, interrupted, interruptible

HELP = (
    "Post-train generators of molecules so that they cover many scaffolds, not one.\n\n"
    "prepare and pretrain make a prior from a set of molecules, posttrain trains it for a reward,"
    " evaluate and report measure and show the molecules that it proposed. chemkl run does all of"
    " this from one file."
)
EPILOG = (
    "Exit codes: 0 done, 2 an error in a config or an input (reported before anything starts), "
    "128 + N stopped by signal N (143 SIGTERM, 129 SIGHUP, 138 SIGUSR1, 130 Ctrl-C), 1 any other "
    "error (also a full disk: one line says what is safe)."
)
UNUSABLE = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR)
"""Errors of a path that the user must change or make accessible."""

app = typer.Typer(
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line and exit.

    The code is 0 done, 2 configuration or input error, 128 + N stopped by signal N, 1 other. A disk
    failure is always one line and 1.
    """
    # waiting threads sleep: spinning ones slow concurrent runs down by a factor of ten. torch reads
    # the variable when it is loaded, here and in child processes
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with handled(), readers_may_leave():
        forgive_streams()
        try:
            try:
                Path.cwd()
            except OSError as error:
                problem = f"the working directory cannot be used ({error.strerror})"
                raise InputError(f"{problem}: change to another one") from None
            empty = "--out=" in sys.argv or ("--out", "") in pairwise(sys.argv)  # Path() is "."
            InputError.refuse(["--out: the name is empty; give one, or leave --out out"] * empty)
            sys.exit(app(standalone_mode=False) or 0)
        except Exception as error:  # noqa: BLE001 - the last line of defence, and it hides nothing
            sys.exit(_report(error))


def _report(error: Exception) -> int:
    """Print what went wrong, and return the exit code."""
    from chemkl.results.atomic import storage_problem  # imports pyarrow: not for chemkl --help

    of_the_disk = storage_problem(error) is not None  # not an error of the user
    name, reason = "", ""
    if isinstance(error, UnicodeError) and error.args[-1] == "surrogates not allowed":
        name, reason = error.args[1], "the name is not UTF-8"
    elif isinstance(error, OSError) and error.errno in UNUSABLE and error.filename:
        name, reason = error.filename, str(error.strerror)
    if hasattr(error, "format_message"):  # of typer; its class differs between versions
        text, code = error.format_message(), 2
        if sys.argv[1:]:  # otherwise it is the help
            context = getattr(error, "ctx", None)
            command = f"chemkl {sys.argv[1]}" if context is None else context.command_path
            text = f"{' '.join(text.split()).rstrip('.')}; see {command} --help"
    elif isinstance(error, InputError | StorageError | LostError):
        text, code = str(error), 1 if of_the_disk or isinstance(error, LostError) else 2
    elif reason:
        text = f"{utf8(name).splitlines()[0]}: cannot be used here ({reason}); take another"
        code = 2
    elif isinstance(error, OSError) and of_the_disk:
        text, code = f"{error.filename or 'the disk'}: {error.strerror or error}", 1
    else:
        sys.stderr.write(f"unexpected error: {type(error).__name__}: {error}\n")
        traceback.print_exc()
        return 1
    sys.stderr.write(f"{text}\n")
    return code


# ---- standard output and error


def forgive_streams() -> None:
    r"""Make stdout and stderr write ? for unencodable characters, and discard output if closed.

    In UTF-8 only the bytes of a file name that is not UTF-8 are affected: they appear as \udcff.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - to the end
        elif isinstance(stream, io.TextIOWrapper):
            unicode = stream.encoding.lower().startswith("utf")
            stream.reconfigure(errors="backslashreplace" if unicode else "replace")


class _Outlet(io.FileIO):
    """A file that discards output which nobody reads, after `| head` or a closed terminal.

    It also discards what a full disk refuses, and stores the error. The run continues: its results
    are in other files.
    """

    problem: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write bytes, or discard them."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                self.problem = error
            return memoryview(data).nbytes


def _outlasting(stream: IO[str]) -> IO[str]:
    """Put a standard stream of the process on an `_Outlet`; return any other unchanged."""
    if not isinstance(stream, io.TextIOWrapper) or stream not in (sys.__stdout__, sys.__stderr__):
        return stream
    raw = _Outlet(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """Continue silently in this scope when the reader of the output ends.

    If output was lost for another reason, the exit code 0 becomes 1, with a line that says so.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_outlasting, before)

    def lost() -> OSError | None:
        """Flush both streams and return why output was lost, if it was."""
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: it was closed at the start
            stream.flush()
            raw = getattr(getattr(stream, "buffer", None), "raw", None)
            if isinstance(raw, _Outlet) and raw.problem is not None:
                return raw.problem
        return None

    try:
        yield
    except SystemExit as ended:
        problem = lost()
        if problem is None or ended.code:
            raise
        sys.stderr.write(f"not all output could be written ({problem.strerror})\n")
        sys.exit(1)
    finally:
        lost()
        sys.stdout, sys.stderr = before


# ---- the commands of the stages


def _at_least(least: int) -> Callable[..., int | None]:
    """Return a callback that refuses smaller numbers."""

    def check(option: typer.CallbackParam, number: int | None) -> int | None:
        if number is not None and number < least:
            raise InputError(f"{option.opts[0]} {number}: should be {least} or more")
        return number

    return check


def _finite(threshold: float | None) -> float | None:
    """Refuse nan and inf, which Python parses as numbers."""
    if threshold is not None and not math.isfinite(threshold):
        raise InputError(f"--threshold {threshold}: should be a finite number, such as 0.8")
    return threshold


ConfigFile = Annotated[str, Argument(metavar="CONFIG", help="YAML file with the settings.")]
Overrides = Annotated[
    list[str] | None,
    Argument(metavar="KEY=VALUE", help="Settings to change, for example seed=1 target.beta=0.1."),
]
Out = Annotated[
    Path | None, Option(help="Output folder. Default: runs/ and the name of the config file.")
]
Fresh = Annotated[
    bool, Option("--fresh", help="Rename earlier output to FOLDER.old-1 and start again.")
]
Force = Annotated[bool, Option("--force", help="Replace existing output files.")]
PerScaffold = Annotated[
    int | None,
    Option(metavar="N", help="The N best of each scaffold; 0: all.", callback=_at_least(0)),
]


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
        from chemkl.stages import runner  # reads manifests: not for --help

        copies = {} if fresh else runner.model_copies(folder)
        checked = stage.load(config, overrides, kept=copies)
        if fresh:
            stage.check(checked, str(file or name))
            runner.move_aside(folder, checked, also=[file] if file else [])
        result = stage.run(checked, folder)
    if isinstance(result, Path):
        typer.echo(f"output: {result}")


def _config_command(name: str) -> Callable[..., None]:
    """Make the command of a stage with a config file."""

    def command(
        config: ConfigFile, overrides: Overrides = None, out: Out = None, fresh: Fresh = False
    ) -> None:
        _run_stage(name, config, overrides or (), out, fresh)

    return command


def _sample(
    config: ConfigFile,
    overrides: Overrides = None,
    beta_scale: str | None = Option(  # a number, parsed and checked like beta_scale=S
        None,
        metavar="S",
        help="Sample as if trained with S times its beta: above 1 closer to the prior, which the "
        "config must name, below 1 further away. The same as beta_scale=S.",
    ),
    out: Out = None,
    fresh: Fresh = False,
) -> None:
    changes = [] if beta_scale is None else [f"beta_scale={beta_scale}"]
    _run_stage("sample", config, [*(overrides or ()), *changes], out, fresh)


def _score(
    file: str = Argument(
        metavar="FILE",
        help="Molecules: .smi, .csv, .tsv, .sdf, .parquet and more; - is standard input.",
    ),
    config: str = Option(
        metavar="CONFIG",
        help="YAML file with a reward: its components, or a config of a stage that has one.",
    ),
    overrides: Overrides = None,
    column: str | None = Option(
        None,
        help="Column of the SMILES: its name, or its number from 0. Default: detected in the file.",
    ),
    keep_columns: bool = Option(
        False,
        "--keep-columns",
        help="Copy all columns of FILE; for some of them: keep_columns=[id,batch].",
    ),
    out: Path | None = Option(
        None,
        help="A .parquet or .csv file, or an output folder. Default: runs/ and the name of FILE "
        "with -scores.",
    ),
    fresh: Fresh = False,
) -> None:
    from chemkl.stages import score as stage

    changes = [] if column is None else [f"column={column}"]
    changes += ["keep_columns=true"] if keep_columns else []
    with interruptible(partial(interrupted, STAGES["score"], out or Path(), fresh=fresh)):
        table = stage.run_command(file, config, [*(overrides or ()), *changes], out, fresh=fresh)
    typer.echo(f"output: {table}")


def _runs_command(name: str, metavar: str, what: str) -> Callable[..., None]:
    """Make the command of a stage that needs no config file."""

    def command(
        arguments: list[str] = Argument(
            metavar=f"CONFIG|{metavar}|KEY=VALUE",
            help=f"A YAML file with the settings; or {what}. Also settings to change, for example "
            "metrics.seed=1.",
        ),
        out: Path | None = Option(
            None,
            help="Output folder. Default: runs/ and the name of the config file, or of the first "
            "run or file.",
        ),
        fresh: Fresh = False,
    ) -> None:
        from chemkl.stages.runs import sort_arguments  # reads manifests: not for --help

        settings = sort_arguments(name, arguments)
        folder = out or Path("runs", settings.name)
        _run_stage(name, settings.source, settings.overrides, folder, fresh)

    return command


COMMANDS: dict[str, Callable[..., None]] = {
    "sample": _sample,
    "score": _score,
    "evaluate": _runs_command(
        "evaluate",
        "RUN|FILE",
        "folders of runs and files of molecules, in any combination: files with a column reward or "
        "Score are evaluated like runs",
    ),
    "compare": _runs_command(
        "compare",
        "RUN",
        "folders of runs: those that differ only in the seed form a method, and the method of the "
        "first run is the baseline",
    ),
    "report": _runs_command("report", "RUN", "folders of runs"),
}
"""Commands of stages with special arguments or options."""

for _stage in STAGES.values():
    _command = COMMANDS.get(_stage.name) or _config_command(_stage.name)
    app.command(_stage.name, help=_stage.help)(_command)


# ---- the other commands


def _version(is_set: bool) -> None:
    if is_set:
        typer.echo(f"chemkl {__version__}")
        sys.exit()


@app.callback()
def _options(
    _: bool = Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Do nothing: the callback of the option does the work."""


@app.command("run")
def _run(
    pipeline: str = Argument(metavar="PIPELINE", help="YAML file with the stages in order."),
    dry_run: bool = Option(
        False, "--dry-run", help="Check everything and list the jobs; run nothing."
    ),
    only: str | None = Option(
        None, metavar="STAGE", help="Run only this entry of the pipeline, job or stage."
    ),
    index: int | None = Option(
        None,
        metavar="N",
        help="Run only job N of these, counted from 0 as in --dry-run.",
    ),
    job: str | None = Option(
        None,
        metavar="NAME",
        help="Run only the job of this name, without checking others (for batch jobs).",
    ),
    jobs: int = Option(
        1, metavar="N", help="Number of jobs at a time, each a process with its share of the cores."
    ),
    fresh: Fresh = False,
    out: Path | None = Option(None, help="Output folder. Default: runs/ and the pipeline's name."),
) -> None:
    """Run all stages of a pipeline; skip complete jobs and resume interrupted ones.

    All settings of all stages are checked before the first one starts.
    """
    from chemkl.stages import pipeline as stage

    outcomes = stage.run(
        pipeline, out, only=only, index=index, job=job, jobs=jobs, fresh=fresh, dry_run=dry_run
    )
    codes = {outcome.code for outcome in outcomes if outcome.code and outcome.status != "not run"}
    if codes:
        sys.exit(codes.pop() if len(codes) == 1 else 1)


@app.command("submit")
def _submit(
    pipeline: str = Argument(metavar="PIPELINE", help="YAML file with the stages in order."),
    settings: list[str] | None = Argument(
        None,
        metavar="KEY=VALUE",
        help="Options of sbatch: partition=gpu gpus=1 time=2:00:00; for one stage or entry: "
        "evaluate.partition=cpu. With --cluster local: jobs=N.",
    ),
    first: list[str] | None = Option(
        None, "--set", metavar="KEY=VALUE", help="The same as KEY=VALUE."
    ),
    cluster: str = Option(
        "slurm",
        metavar="slurm|local",
        help="local: like chemkl run --jobs, by default on all cores.",
    ),
    dry_run: bool = Option(
        False, "--dry-run", help="Print the shell script that would submit it; submit nothing."
    ),
    template: Path | None = Option(
        None,
        metavar="FILE",
        help="Template of the sbatch script. Default: pipelines/slurm/array.sbatch.",
    ),
    out: Path | None = Option(None, help="Output folder. Default: runs/ and the pipeline's name."),
) -> None:
    """Submit a pipeline to Slurm: an array for each stage, after the jobs whose output it reads.

    Jobs that are complete or in the queue are left out. A job is requeued before its time limit and
    continues from its checkpoint.
    """
    changes = [*(first or ()), *(settings or ())]
    if cluster != "slurm":
        numbers = [text.removeprefix("jobs=") for text in changes]
        problem = "" if cluster == "local" else f"--cluster {cluster}: should be slurm or local"
        if not problem and not all(number.isdecimal() for number in numbers):
            problem = "--cluster local: the one setting is jobs=N"
        if problem:
            raise InputError(problem)
        jobs = int(numbers[-1]) if numbers else n_cores()
        _run(pipeline, dry_run, None, None, None, jobs, False, out)
        return
    from chemkl.stages.submit import submit

    submit(pipeline, out, settings=changes, template=template, dry_run=dry_run)


@app.command("status")
def _status(
    places: list[str] = Argument(
        metavar="PIPELINE|RUN",
        help="Pipeline files, folders of runs, or folders with runs in them.",
    ),
    out: Path | None = Option(
        None, help="Output folder of the pipelines, if it is not the default."
    ),
) -> None:
    """Show which jobs are done, running, waiting, stopped or failed, and why.

    The states come from the folders, and from the queue of Slurm if there is one.
    """
    from chemkl.stages.status import show_status

    show_status(places, out)


@app.command("check")
def _check(
    arguments: list[str] = Argument(
        metavar="FILE|KEY=VALUE",
        help="Config, reward or pipeline files, and settings to change in the configs.",
    ),
    stage: str | None = Option(
        None,
        metavar="NAME",
        help="What the files are for (a stage, pipeline or reward). Default: detected.",
    ),
) -> None:
    """Check files without running anything; print ok, or every problem with its line."""
    from chemkl.stages.plan import check_file

    changes = [text for text in arguments if "=" in text and not os.path.exists(text)]
    files = [text for text in arguments if text not in changes]
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
            waits = "".join(f"; not made yet: {path}" for path in checked.pending)
            typer.echo(f"ok {file} ({checked.kind}{waits})")
    if failed:
        sys.exit(2)


@app.command("show")
def _show(
    what: str = Argument(
        metavar="WHAT",
        help="A run, a .parquet file; or rewards, transforms, targets, estimators, shapers, "
        "filters, metrics, stages, config (with the name of a stage) or configs.",
    ),
    name: str | None = Argument(
        None, metavar="NAME", help="One reward, transform, metric or config."
    ),
    threshold: float | None = Option(
        None,
        metavar="R",
        help="Hits have a raw reward of R or more. Default: the run's tau.",
        callback=_finite,
    ),
    top: int | None = Option(
        None,
        metavar="N",
        help="The N best molecules; of texts, the N most frequent answers.",
        callback=_at_least(1),
    ),
    per_scaffold: PerScaffold = None,
    rows: int | None = Option(
        None, metavar="N", help="Rows of a file or a result.", callback=_at_least(0)
    ),
    sql: str | None = Option(
        None,
        metavar="QUERY",
        help="One SELECT from trace or another table (diversity, over_time, families, by_prompt); "
        "needs DuckDB.",
    ),
    csv: Path | None = Option(None, metavar="FILE", help="Write the whole result: .csv, .csv.gz."),
    parquet: Path | None = Option(None, metavar="FILE", help="Write the whole result: .parquet."),
    force: Force = False,
) -> None:
    """Show a run, a Parquet file, the result of a query, or a list such as all rewards.

    For a run: how it ended, its columns, counts, and the best molecule of each scaffold; for a
    language model without molecules, the most frequent answers to each prompt.
    """
    from chemkl.stages.show import Options, show

    show(what, name, Options(threshold, top, per_scaffold, rows, sql, csv, parquet, force))


@app.command("export")
def _export(
    run: Path = Argument(metavar="RUN", help="Folder of a posttrain run."),
    sdf: Path | None = Option(
        None, metavar="FILE", help="2D coordinates and properties: .sdf, .sdf.gz."
    ),
    csv: Path | None = Option(None, metavar="FILE", help="A table: .csv, .csv.gz."),
    smi: Path | None = Option(None, metavar="FILE", help="SMILES and a name: .smi, .smi.gz."),
    threshold: float | None = Option(
        None, metavar="R", help="Only those with a raw reward >= R.", callback=_finite
    ),
    top: int | None = Option(
        None, metavar="N", help="The N best molecules.", callback=_at_least(1)
    ),
    per_scaffold: PerScaffold = None,
    all_rows: bool = Option(
        False, "--all-rows", help="Write every row to the CSV, also repeats and invalid ones."
    ),
    force: Force = False,
) -> None:
    """Write the distinct molecules of a run for other programs, in the order of their calls.

    With --top or --per-scaffold, the best come first.
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


@app.command("bench")
def _bench(
    full: bool = Option(
        False,
        "--full/--quick",
        help="Full: also larger batches, a run of 10,000 calls and its evaluation (minutes). "
        "Default: quick.",
    ),
    json: Path | None = Option(
        None, metavar="FILE", help="Write all numbers; --force replaces the file."
    ),
    force: Force = False,
) -> None:
    """Measure the speed of this machine: a step and its parts, sampling, training, scoring, runs.

    The usual way is measured in turn with each: padded, float32, with a second pass of the agent.
    """
    from chemkl.bench.command import FULL, QUICK, bench

    bench(FULL if full else QUICK, out=json, force=force)


@app.command("convert")
def _convert(
    source: Path = Argument(
        metavar="IN",
        help="A model file (.safetensors, .prior, .chkpt), a config of REINVENT4 (.toml, .json,"
        " .yaml) or a .parquet file.",
    ),
    target: Path = Argument(
        metavar="OUT",
        help="A .prior or .safetensors file; a .yaml file; or a .csv, .sdf or .smi file, each "
        "also .gz.",
    ),
    column: str | None = Option(
        None,
        metavar="NAME",
        help="Column of the SMILES in a .parquet file. Default: canonical_smiles or smiles.",
    ),
    lenient: bool = Option(
        False,
        "--lenient",
        help="For a config: leave out what has no counterpart; the written file lists it.",
    ),
    force: Force = False,
    fresh: bool = Option(False, "--fresh", help="Rename an existing file to FILE.old-1."),
) -> None:
    """Convert models from and to REINVENT, configs of REINVENT4, and Parquet files.

    A converted model is equivalent; a converted config passes `chemkl check`; a Parquet file keeps
    all its columns, and its molecules get 2D coordinates.
    """
    from chemkl.stages.convert import convert

    what = convert(source, target, column=column, lenient=lenient, force=force, fresh=fresh)
    typer.echo(f"output: {target} ({what})")
