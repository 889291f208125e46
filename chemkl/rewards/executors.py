"""Scoring on other machines: Parsl asks for blocks of nodes, and hands molecules out to them.

Three processes stand between a run and a component. The broker, a child of the run, is the only
one that Parsl's threads are in; it ends when the run does, however that ends, and gives the blocks
back. On a node each worker of Parsl has a `Pool` of one process, so that a molecule which hangs or
kills that process costs what it costs on one machine. Parsl's part is the rest: blocks are asked
for, and anew when they end; what a lost node was at goes to another.
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

GRACE = 60.0  # seconds that the broker has to give the blocks back before it is killed
GLANCE = 0.2  # seconds after which the broker looks whether it is to end
KILLED = "(SIGKILL)"
"""In the reason of a `Lost`: killed from outside, by the scheduler or for want of memory."""

_WATCHED = """
import os, runpy, threading, time
def watch(parent=os.getppid()):
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__")
"""
"""Parsl's interchange, which would outlive a broker that is killed; the nodes miss it and end."""


# ---- on a node, in a worker of Parsl


class KilledError(Exception):
    """The process that was at a unit was killed from outside: another may fare better."""


_pools: dict[bytes, Pool] = {}  # that of the present reward, by what builds its jobs


def work(build: bytes, job: str, unit: Any, limit: float | None) -> Any:
    """Have a unit done by this worker's own process; what comes of it may be `Lost`."""
    if build not in _pools:
        _let_go()
        signal.signal(signal.SIGTERM, _end_worker)
        _pools[build] = Pool(pickle.loads(build), 1, preload=["chemkl.rewards.model"])
    ((_, outcome),) = _pools[build].run(job, [unit], limit)
    if isinstance(outcome, Lost) and KILLED in outcome.reason:
        time.sleep(1)  # where all of the block is being killed this gets no further
        raise KilledError(outcome.reason)
    return outcome


def _let_go() -> None:
    while _pools:
        _pools.popitem()[1].close()


def _end_worker(*_: object) -> None:
    """On SIGTERM, as a scheduler sends it and Parsl does: end the process and its programs."""
    _let_go()
    os._exit(1)


# ---- the broker


def serve(
    pipe: Connection,
    build: Callable[[Mark], Jobs],
    workers: int,
    config: ParslExecutor,
    retries: int,
) -> None:
    """Take units from the pipe and send back what came of them, until the pipe is closed."""
    ended: list[int] = []

    def end(number: int, _frame: object) -> None:
        ended.append(number)  # an exception from here would get lost in what Parsl is at

    follow_parent(end)
    signal.signal(signal.SIGIO, end)  # the parent has gone; in place of death at once
    broker = Broker(pipe, retries)
    payload = pickle.dumps(build)
    try:
        while not ended:
            if pipe.poll(GLANCE):
                job, units, limit = pipe.recv()
                broker.start(workers, config, limit)
                broker.submit(payload, job, units, limit)
    except EOFError:
        pass  # the parent has gone
    except OSError as error:
        broker.send(-1, InputError(f"executor: Parsl cannot be started: {one_line(error)}"))
    except Exception as error:  # noqa: BLE001 - told to the run, which raises it
        text = f"Parsl cannot be started: {type(error).__name__}: {one_line(error)}"
        broker.send(-1, RuntimeError(text))
    finally:
        broker.close()
        os._exit(0)  # threads of Parsl's may still wait for something


class Broker:
    """Parsl, and what is to be ended of it."""

    def __init__(self, pipe: Connection, retries: int) -> None:
        self._pipe, self._retries = pipe, retries
        self._folder: Path | None = None
        self._lock = threading.Lock()
        self._failed = False
        self._kernel: Any = None
        self._executor: Any = None
        self._work: Any = None

    def start(self, workers: int, config: ParslExecutor, limit: float | None) -> None:
        """Start Parsl, which asks for the blocks, unless it runs already."""
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
        provider = _provider(config)
        beat = max(1, config.lost_after // 6)
        drain = None  # seconds after which a block is given nothing more
        if config.provider == "slurm":
            drain = int(config.seconds - (limit or 0) - SLACK)
        python = f"{shlex.quote(sys.executable)} -m parsl.executors.high_throughput."
        self._executor = HighThroughputExecutor(
            label="blocks",
            provider=provider,
            address="127.0.0.1",
            interchange_launch_cmd=[sys.executable, "-c", _WATCHED],
            max_workers_per_node=workers,
            cores_per_worker=1e-3,  # there are as many as workers says
            heartbeat_period=beat,
            heartbeat_threshold=config.lost_after,
            drain_period=drain,
            block_error_handler=windowed_error_handler,
        )
        command = self._executor.launch_cmd
        self._executor.launch_cmd = command.replace(
            "process_worker_pool.py", f"{python}process_worker_pool"
        )
        if config.provider == "slurm":
            # of this machine's, a node takes the first that answers; Parsl would ask a server in
            # the internet for one
            found = chain.from_iterable(psutil.net_if_addrs().values())
            inet = {one.address for one in found if one.family.name == "AF_INET"}
            self._executor.address, self._executor.all_addresses = None, inet
        self._kernel = DataFlowKernel(
            Config(
                executors=[self._executor],
                run_dir=str(self._folder),
                retries=self._retries,
                # an error takes one of the retries where a node or a process was lost, else all
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
        """Hand units to Parsl."""
        for number, unit in units:
            try:
                future = self._work(build, job, unit, limit)
            except Exception as error:  # noqa: BLE001 - Parsl has given up before
                self.send(number, self._told(error))
                continue
            future.add_done_callback(partial(self._report, number))

    def _report(self, number: int, future: Any) -> None:
        error = future.exception()
        self.send(number, future.result() if error is None else self._told(error))

    def send(self, number: int, outcome: Any) -> None:
        """Tell the run what came of a unit; an exception ends it."""
        with self._lock, suppress(OSError):  # the parent has gone
            self._pipe.send((number, outcome))

    def _told(self, error: BaseException) -> Any:
        """What the run is told of an error: a lost unit, or an exception that ends the run."""
        if isinstance(error, KilledError):
            return Lost(str(error), -1)
        if _is_loss(error):
            return Lost("the node that it was scored on was lost", -1)
        if isinstance(error, InputError):
            return InputError(str(error))
        self._failed = True
        if self._executor.bad_state_is_set:
            states = self._executor.status_facade.values()
            texts = (state.stderr_summary or state.message or "" for state in states)
            tails = (" ".join(text.rpartition("stderr=")[2].split()) for text in texts)
            said = next(filter(None, tails), "no reason was given")[-300:]
            return InputError(
                f"executor: the last three blocks could not be started: {said}. Mend the settings "
                f"and give the same command again; Parsl's logs are in {self._folder}"
            )
        return RuntimeError(f"Parsl failed: {type(error).__name__}: {one_line(error)}")

    def close(self) -> None:
        """Give the blocks back and end what Parsl has started."""
        if self._kernel is not None:
            with suppress(Exception):
                self._kernel.cleanup()
        if self._executor is not None:
            provider = self._executor.provider
            left = [key for key, job in provider.resources.items() if not job["status"].terminal]
            with suppress(Exception):
                provider.cancel(left)
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
    # the seconds after which the scheduler is asked; Parsl's own are 60, and no parameter
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
    """Tell the broker to end, and wait until it has given the blocks back."""
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
    """What `Pool` is on one machine: units in, each with its outcome out.

    The broker, and with it the blocks, are there from the first unit on. `workers` is for each
    node; `retries` is how often a unit is handed out again that was lost with its node. An
    InputError says that Parsl is not installed.
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
        """Have every unit done: each once, in no order, but with its place in the list.

        A job's outcome is `Lost` as in `Pool.run`, and where more nodes than retries were lost with
        it. An InputError says that the jobs cannot be built, or that no block can be asked for or
        started; a RuntimeError that Parsl or the broker failed, or that this is closed.
        """
        if not self.close.alive:
            raise RuntimeError("this pool of workers is closed")
        left = len(units)
        try:
            if left and not self._held:
                if self._arguments[2].provider == "slurm" and shutil.which("sbatch") is None:
                    raise InputError(
                        "executor: there is no sbatch on this machine's PATH. Start where Slurm's "
                        "programs are, or try the config out with provider: local"
                    )
                self._held.append(start_process(serve, *self._arguments))
            if left:
                pipe = self._held[0][1]
                pipe.send((job, list(enumerate(units)), limit))
            while left:
                number, outcome = pipe.recv()
                if isinstance(outcome, Exception):
                    raise outcome
                left -= 1
                yield number, outcome
        except (EOFError, ConnectionError):
            raise RuntimeError(
                "the process that talks to Parsl died; its blocks end by themselves, and the same "
                "command goes on"
            ) from None
        finally:
            if left:  # an exception or Ctrl-C: what is still being done is of no use
                end_broker(self._held, os.getpid())
