"""The processes of a run on several devices: how they start, and how they exchange values.

Every process has all rows of a batch and computes its part of them. Results are exchanged on the
CPU (gloo), whatever the devices are.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import (
    LightningEnvironment,
    find_free_network_port,
)
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from torch import Tensor

from chemkl.config import InputError, LostError
from chemkl.display import say
from chemkl.policies.base import Rollout, joined
from chemkl.processes import n_cores

_Child = tuple[subprocess.Popen[bytes], socket.socket]
"""A child process, and the socket of its standard input, on which it reports its start."""
Item = TypeVar("Item")
Answer = TypeVar("Answer")

CHILD_MODULE = "chemkl.stages.registry"
"""The module that each child process runs."""
IS_CHILD = "CHEMKL_FURTHER"
"""Environment variable set in a process that the first process of its run has started."""
TIMEOUT = timedelta(hours=2)
"""How long a process waits for others that still score; a process that ended is noticed at once."""
GRACE = 20.0
"""Seconds that child processes have to end after the first process."""
_LOST = re.compile(
    r"gloo|nccl|\b(connection|socket|peer|process group|(tcp)?store)\b", re.IGNORECASE
)
"""Words in torch's errors about a lost process."""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among those of its run, and the exchange of values."""

    rank: int = 0
    world: int = 1
    group: Any = None  # of torch.distributed

    def part(self, n: int) -> slice:
        """Return the rows of this process: an even share of n, in the order of ranks."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def gather(self, value: Answer) -> list[Answer]:
        """Return the values of all processes, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value, group=self.group)
        return values

    def agree(self, function: Callable[[], Answer]) -> list[Answer]:
        """Return a function's results in all processes; an error of one is raised in all."""
        if self.world == 1:
            return [function()]
        mine: tuple[Answer | None, Exception | None]
        try:
            mine = function(), None
        except Exception as error:  # noqa: BLE001 - the others wait; it is raised again below
            is_input_error = isinstance(error, InputError)
            text = f"process {self.rank}: {error!r}"
            mine = None, error if is_input_error else RuntimeError(text)
            if self.rank and not is_input_error:
                sys.excepthook(type(error), error, error.__traceback__)
        results = self.gather(mine)
        for _, problem in results:
            if problem is not None:
                raise problem
        return [answer for answer, _ in results]  # type: ignore[misc]  # there was no problem

    def spread(
        self, function: Callable[[Sequence[Item]], Sequence[Answer]], items: Sequence[Item]
    ) -> Sequence[Answer]:
        """Split items, equal in all processes, between them; return the answers in order."""
        if self.world == 1 or not items:
            return function(items)
        mine = items[self.rank :: self.world]
        answers = self.agree(lambda: list(function(mine)) if mine else [])
        return [answers[i % self.world][i // self.world] for i in range(len(items))]

    def logp(self, logp_of: Callable[[Tensor], Tensor], token_BT: Tensor) -> Tensor:
        """Compute log p of all rows, each in one process; see `join` for the gradient."""
        return self.join(self.local_logp(logp_of, token_BT))

    def local_logp(self, logp_of: Callable[[Tensor], Tensor], token_BT: Tensor) -> Tensor:
        """Compute log p of this process's rows; not all networks accept zero rows."""
        local_BT = token_BT[self.part(len(token_BT))]
        return logp_of(local_BT) if len(local_BT) else torch.zeros(0)

    def join(self, local: Tensor) -> Tensor:
        """Join the values of this process's rows with those of the others, on the CPU.

        The local values keep their gradient, times the number of processes: Lightning averages the
        gradients over the processes.
        """
        local = local.cpu()
        if self.world == 1:
            return local
        if local.requires_grad:
            local.register_hook(lambda gradient: gradient * self.world)  # type: ignore[no-untyped-call]
        parts = self.gather(local.detach().numpy())
        values = [torch.from_numpy(part) for part in parts]
        values[self.rank] = local
        return torch.cat(values)

    def rollout(self, local: Rollout) -> Rollout:
        """Join the rollouts of all processes; the logp of local rows keeps its graph."""
        if self.world == 1:
            return local
        columns = ("tokens", "truncated", "group")
        mine = {name: value for name in columns if (value := getattr(local, name)) is not None}
        arrays = {name: value.cpu().numpy() for name, value in mine.items()}
        texts, written, arrays = zip(
            *self.gather((local.smiles, local.written, arrays)), strict=True
        )
        whole = {n: [torch.from_numpy(a[n]).to(local.tokens.device) for a in arrays] for n in mine}
        token_BT = whole["tokens"][0]
        for part in whole["tokens"][1:]:
            token_BT = joined(token_BT, part, local.end_id)
        return replace(
            local,
            smiles=[text for part in texts for text in part],
            tokens=token_BT,
            logp=self.join(local.logp),
            truncated=torch.cat(whole["truncated"]),
            group=torch.cat(whole["group"]) if "group" in whole else None,
            written=None if local.written is None else [row for part in written for row in part],
        )


ALONE = Ranks()
"""A run in one process."""


# ---- start


def is_launched() -> bool:
    """Whether torchrun, srun or this module started this process as one of several."""
    return "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def check_launched(trainer: Trainer) -> None:
    """Refuse several machines if no launcher starts the processes on the others.

    Raises:
        InputError: naming the launchers that could.
    """
    if trainer.num_nodes > 1 and not is_launched():
        raise InputError(
            f"trainer: num_nodes: {trainer.num_nodes}: this process cannot start others on other "
            "machines. Start the same command once for each device by srun (see "
            "pipelines/README.md) or torchrun, or leave num_nodes out."
        )


@contextmanager
def several(
    trainer: Trainer, module: str = "", task: Mapping[str, Any] | None = None
) -> Iterator[Ranks]:
    """Join the processes of a run in this scope; start the others if no launcher has.

    Args:
        trainer: knows the number of processes and the rank of this one. Processes that it forks
            itself (ddp_fork and the like) are not counted.
        module: the module that each child process runs.
        task: sent to each child process as JSON on its standard input.

    Raises:
        LostError: another process has ended early.
        SystemExit: in a child process, instead of LostError or InputError, which the first process
            reports.
    """
    world = trainer.world_size
    if world == 1 or isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        yield ALONE
        return
    before, children = dict(os.environ), list[_Child]()
    environment = trainer.strategy.cluster_environment  # type: ignore[attr-defined]  # of DDP
    if isinstance(environment, LightningEnvironment) and not is_launched():
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(find_free_network_port()),
            "WORLD_SIZE": str(world),
            "NODE_RANK": "0",
            "LOCAL_RANK": "0",
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        }
        if trainer.strategy.root_device.type == "cpu" and world > (cores := n_cores()):
            say(f"{world} processes share {cores} processor: slower than one, fit for a trial")
        children += [_start(module, rank, task or {}) for rank in range(1, world)]
    failed = True
    try:
        _await(children)
        trainer.strategy.setup_environment()
        group = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)
        yield Ranks(trainer.global_rank, world, group)
        failed = False
    except (InputError, RuntimeError) as error:
        if not isinstance(error, InputError) and not _LOST.search(str(error)):
            raise
        if trainer.global_rank:
            raise SystemExit(1) from error
        if isinstance(error, InputError):
            raise
        raise LostError(_lost(children)) from error
    finally:
        begun = torch.distributed.is_initialized()
        if begun and (not failed or torch.distributed.get_backend() == "gloo"):
            torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)
        _end(children, at_once=failed)


def _start(module: str, rank: int, task: Mapping[str, Any]) -> _Child:
    """Start a child process in a session of its own, so that only the first one gets signals."""
    parent_end, child_end = socket.socketpair()
    with child_end:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=child_end.fileno(),
            env=os.environ | {"LOCAL_RANK": str(rank), IS_CHILD: "1"},
            start_new_session=True,
        )
    with suppress(OSError):
        parent_end.sendall(json.dumps(task).encode() + b"\n")
    return process, parent_end


def read_task() -> dict[str, Any]:
    """Return the task that the first process sent to this one, and from now on end with it."""
    task: dict[str, Any] = json.loads(sys.stdin.buffer.readline())

    def exit_with_parent() -> None:
        with suppress(OSError):
            os.read(0, 1)  # returns when the first process closes its end
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    return task


def _await(children: Sequence[_Child]) -> None:
    """Report that this child process has started, or wait for all children; torch waits too long.

    Raises:
        LostError: a child has ended.
    """
    if IS_CHILD in os.environ:
        os.write(0, b"\n")
    for _, line in children:
        report = b""
        with suppress(ConnectionResetError):  # killed before it had read its task
            report = line.recv(1)
        if not report:
            raise LostError(_lost(children))


def _end(children: Sequence[_Child], *, at_once: bool) -> None:
    """Wait for the child processes to end, and kill those that do not."""
    for process, line in children:
        if at_once:
            line.close()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        line.close()


def _lost(children: Sequence[_Child]) -> str:
    """Name the process that has ended, if known."""
    who = "another process of this run has ended"
    for rank, (process, _) in enumerate(children, start=1):
        try:
            code = process.wait(2.0)
        except subprocess.TimeoutExpired:
            continue
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        who = f"process {rank} of this run {how}"
        break
    return (
        f"{who}, so this one ends too. Its messages, if any, are above. The same command "
        "continues from the last checkpoint."
    )
