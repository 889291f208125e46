"""Scoring on other machines: Parsl allocates blocks of nodes and distributes molecules to them.

Three processes lie between a run and a component. The broker, a child of the run, is the only
process with Parsl's threads; it ends with the run, however the run ends, and releases the blocks.
On a node each Parsl worker has a `Pool` of one process, so a molecule that hangs or crashes has the
same effect as on one machine. Parsl does the rest: it requests blocks, replaces those that end, and
moves the work of a lost node to another one.
"""

import os
import pickle
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from chemkl.chem.molecules import one_line
from chemkl.config import InputError
from chemkl.config.reward import SLACK, ParslExecutor
from chemkl.processes import follow_parent
from chemkl.rewards.pool import Jobs, Lost, Mark, Pool, start_process
from chemkl.rewards.registry import needed_package

GRACE = 60.0  # seconds the broker has to release the blocks before it is killed
GLANCE = 0.2  # seconds between the broker's checks for a signal
KILLED = "(SIGKILL)"
"""In the reason of a `Lost`: killed from outside, by the scheduler or for lack of memory."""

_WATCHED = """
import os, runpy, threading, time
def watch(parent=os.getppid()):
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__")
"""
"""Runs Parsl's interchange and ends it if the broker is killed; the nodes notice that and end."""


# ---- on a node, in a worker of Parsl


class KilledError(Exception):
    """A scoring process was killed from outside; another attempt may succeed."""


_pools: dict[bytes, Pool] = {}  # the pool of the current reward, by its pickled job builder


def work(build: bytes, job: str, unit: Any, limit: float | None) -> Any:
    """Score a unit in this worker's own process; the outcome may be `Lost`."""
    if build not in _pools:
        _close_pools()
        signal.signal(signal.SIGTERM, _end_worker)
        _pools[build] = Pool(pickle.loads(build), 1, preload=["chemkl.rewards.model"])
    ((_, outcome),) = _pools[build].run(job, [unit], limit)
    if isinstance(outcome, Lost) and KILLED in outcome.reason:
        time.sleep(1)  # if the whole block is being killed, this worker ends here
        raise KilledError(outcome.reason)
    return outcome


def _close_pools() -> None:
    while _pools:
        _pools.popitem()[1].close()


def _end_worker(*_: object) -> None:
    """Handle SIGTERM, sent by schedulers and Parsl: end the process and its programs."""
    _close_pools()
    os._exit(1)


# ---- the broker


def serve(
    pipe: Connection,
    build: Callable[[Mark], Jobs],
    workers: int,
    config: ParslExecutor,
    retries: int,
) -> None:
    """Submit the units received through the pipe and send back outcomes until it is closed."""
    signals: list[int] = []

    def note(number: int, _frame: object) -> None:
        signals.append(number)  # an exception would be lost inside Parsl

    follow_parent(note)
    signal.signal(signal.SIGIO, note)  # the parent has ended; by default this kills at once
    broker = Broker(pipe, retries)
    payload = pickle.dumps(build)
    try:
        while not signals:
            if pipe.poll(GLANCE):
                job, units, limit = pipe.recv()
                broker.start(workers, config, limit)
                broker.submit(payload, job, units, limit)
    except EOFError:
        pass  # the parent has ended
    except OSError as error:
        broker.send(-1, InputError(f"executor: Parsl cannot be started: {one_line(error)}"))
    except Exception as error:  # noqa: BLE001 - the run raises it
        text = f"Parsl cannot be started: {type(error).__name__}: {one_line(error)}"
        broker.send(-1, RuntimeError(text))
    finally:
        broker.close()
        os._exit(0)  # Parsl's threads may still be waiting


class Broker:
    """Starts Parsl, submits units to it, and ends it with everything it started."""

    def __init__(self, pipe: Connection, retries: int) -> None:
        self._pipe, self._retries = pipe, retries
        self._folder: Path | None = None
        self._lock = threading.Lock()
        self._failed = False
        self._kernel: Any = None
        self._executor: Any = None
        self._work: Any = None

    def start(self, workers: int, config: ParslExecutor, limit: float | None) -> None:
        """Start Parsl, which requests the blocks, unless it is running."""
        if self._kernel is not None:
            return
        import logging

        import psutil
        from parsl import Config, DataFlowKernel
        from parsl.app.python import PythonApp
        from parsl.executors import HighThroughputExecutor
        from parsl.jobs.error_handlers import windowed_error_handler

        config.folder.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="blocks-", dir=config.folder)).absolute()
        logging.getLogger("parsl").addHandler(logging.FileHandler(self._folder / "parsl.log"))
        drain = None  # seconds after which a block gets no new work
        if config.provider == "slurm":
            drain = int(config.seconds - (limit or 0) - SLACK)
        python = f"{shlex.quote(sys.executable)} -m parsl.executors.high_throughput."
        self._executor = HighThroughputExecutor(
            label="blocks",
            provider=_provider(config),
            address="127.0.0.1",
            interchange_launch_cmd=[sys.executable, "-c", _WATCHED],
            max_workers_per_node=workers,
            cores_per_worker=1e-3,  # the number of workers is set above
            heartbeat_period=max(1, config.lost_after // 6),
            heartbeat_threshold=config.lost_after,
            drain_period=drain,
            block_error_handler=windowed_error_handler,
        )
        command = self._executor.launch_cmd
        self._executor.launch_cmd = command.replace(
            "process_worker_pool.py", f"{python}process_worker_pool"
        )
        if config.provider == "slurm":
            # a node uses the first of this machine's addresses that answers; by default Parsl
            # would ask a server on the internet for an address
            addresses = chain.from_iterable(psutil.net_if_addrs().values())
            inet = {item.address for item in addresses if item.family.name == "AF_INET"}
            self._executor.address, self._executor.all_addresses = None, inet
        self._kernel = DataFlowKernel(
            Config(
                executors=[self._executor],
                run_dir=str(self._folder),
                retries=self._retries,
                # a lost node or process uses one retry, any other error all of them
                retry_handler=lambda error, _: 1.0 if _is_loss(error) else self._retries + 1.0,
                strategy="simple",
                strategy_period=1,
                max_idletime=config.idle,
                initialize_logging=False,
            )
        )
        self._work = PythonApp(work, data_flow_kernel=self._kernel)

    def submit(
        self, build: bytes, job: str, units: Sequence[tuple[int, Any]], limit: float | None
    ) -> None:
        """Submit units to Parsl."""
        for number, unit in units:
            try:
                future = self._work(build, job, unit, limit)
            except Exception as error:  # noqa: BLE001 - Parsl has already failed
                self.send(number, self._outcome_of(error))
                continue
            future.add_done_callback(partial(self._report, number))

    def _report(self, number: int, future: Any) -> None:
        error = future.exception()
        self.send(number, future.result() if error is None else self._outcome_of(error))

    def send(self, number: int, outcome: Any) -> None:
        """Send the outcome of a unit to the run; an exception ends the run."""
        with self._lock, suppress(OSError):  # the parent has ended
            self._pipe.send((number, outcome))

    def _outcome_of(self, error: BaseException) -> Any:
        """Turn an error into a lost unit, or into an exception that ends the run."""
        if isinstance(error, KilledError):
            return Lost(str(error), -1)
        if _is_loss(error):
            return Lost("the node that scored it was lost", -1)
        if isinstance(error, InputError):
            return InputError(str(error))
        self._failed = True
        if self._executor.bad_state_is_set:
            states = self._executor.status_facade.values()
            texts = (state.stderr_summary or state.message or "" for state in states)
            tails = (" ".join(text.rpartition("stderr=")[2].split()) for text in texts)
            reason = next(filter(None, tails), "no reason was reported")[-300:]
            return InputError(
                f"executor: the last three blocks could not be started: {reason}. Correct the "
                f"settings and run the same command again; Parsl's logs are in {self._folder}"
            )
        return RuntimeError(f"Parsl failed: {type(error).__name__}: {one_line(error)}")

    def close(self) -> None:
        """Release the blocks and end everything Parsl started."""
        if self._kernel is not None:
            with suppress(Exception):
                self._kernel.cleanup()
        if self._executor is not None:
            provider = self._executor.provider
            active = [key for key, job in provider.resources.items() if not job["status"].terminal]
            with suppress(Exception):
                provider.cancel(active)
            if self._executor.interchange_proc is not None:
                self._executor.interchange_proc.kill()
        if self._folder is not None and not self._failed:
            shutil.rmtree(self._folder, ignore_errors=True)


def _is_loss(error: BaseException) -> bool:
    from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

    return isinstance(error, ManagerLost | WorkerLost | KilledError)


def _provider(config: ParslExecutor) -> Any:
    from parsl.launchers import SingleNodeLauncher, SrunLauncher
    from parsl.providers import LocalProvider, SlurmProvider

    common = {
        "init_blocks": config.blocks,
        "max_blocks": config.blocks,
        "worker_init": config.setup,
    }
    local = config.provider == "local"
    kind: Any = LocalProvider if local else SlurmProvider
    # Parsl polls the scheduler every 60 seconds and has no parameter for that
    kind = type("Provider", (kind,), {"status_polling_interval": max(1, config.lost_after // 2)})
    if local:
        return kind(**common)
    return kind(
        **common,
        nodes_per_block=config.nodes,
        cores_per_node=config.cores,
        exclusive=config.cores is None,
        walltime=config.walltime,
        partition=config.partition,
        account=config.account,
        scheduler_options="\n".join(f"#SBATCH {option}" for option in config.options),
        launcher=SingleNodeLauncher() if config.nodes == 1 else SrunLauncher(),
    )


# ---- in the run


def end_broker(held: list[tuple[BaseProcess, Connection]], owner: int) -> None:
    """End the broker, and wait until it has released the blocks."""
    if os.getpid() != owner:
        return
    while held:
        process, pipe = held.pop()
        pipe.close()
        process.terminate()
        process.join(GRACE)
        process.kill()
        process.join()


class ParslPool:
    """The counterpart of `Pool` for several machines.

    The broker and the blocks are started with the first unit.

    Args:
        build: As for `Pool`.
        workers: Number of processes on each node.
        config: The executor's settings.
        retries: How often to resubmit a unit that was lost with its node.

    Raises:
        InputError: Parsl is not installed.
    """

    def __init__(
        self, build: Callable[[Mark], Jobs], workers: int, config: ParslExecutor, retries: int
    ) -> None:
        needed_package("parsl", "executor parsl", "parsl")
        self._arguments = build, workers, config, retries
        self._held: list[tuple[BaseProcess, Connection]] = []
        self.close = weakref.finalize(self, end_broker, self._held, os.getpid())

    def run(
        self, job: str, units: Sequence[Any], limit: float | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Apply a job to every unit; yield each outcome once, in any order, with its place.

        The outcome is `Lost` as in `Pool.run`, and also if more nodes than retries were lost with
        the unit.

        Raises:
            InputError: The jobs cannot be built, or no block can be requested or started.
            RuntimeError: Parsl or the broker failed, or the pool is closed.
        """
        if not self.close.alive:
            raise RuntimeError("this pool of workers is closed")
        n_pending = len(units)
        try:
            if n_pending and not self._held:
                if self._arguments[2].provider == "slurm" and shutil.which("sbatch") is None:
                    raise InputError(
                        "executor: there is no sbatch on this machine's PATH. Run the command "
                        "where Slurm is installed, or try the config with provider: local"
                    )
                self._held.append(start_process(serve, *self._arguments))
            if n_pending:
                pipe = self._held[0][1]
                pipe.send((job, list(enumerate(units)), limit))
            while n_pending:
                number, outcome = pipe.recv()
                if isinstance(outcome, Exception):
                    raise outcome
                n_pending -= 1
                yield number, outcome
        except (EOFError, ConnectionError):
            raise RuntimeError(
                "the process that runs Parsl died; its blocks end by themselves. Run the same "
                "command again to continue"
            ) from None
        finally:
            if n_pending:  # an exception or Ctrl-C: drop the work in progress
                end_broker(self._held, os.getpid())
