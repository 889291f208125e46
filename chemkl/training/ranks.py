"""The processes of a run on several devices: how they are started, and what they tell each other.

Every process has all rows of a batch, and computes its part of them; what it finds out it tells the
others through the processor's memory (gloo), whatever the devices are.
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
"""A further process, and the line to it: its standard input, on which it says that it is there."""
Item = TypeVar("Item")
Answer = TypeVar("Answer")

FURTHER = "chemkl.stages.further"
"""The module that is run as each further process."""
FROM_FIRST = "CHEMKL_FURTHER"
"""Environment variable of a process that the first one of its run has started."""
PATIENCE = timedelta(hours=2)
"""How long a process waits for one that still scores; one that has ended is noticed at once."""
GRACE = 20.0
"""Seconds that the further processes have to end when the first one has."""
_LOST = re.compile(
    r"gloo|nccl|\b(connection|socket|peer|process group|(tcp)?store)\b", re.IGNORECASE
)
"""What torch says where another process is gone."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run."""

    rank: int = 0
    world: int = 1
    group: Any = None  # of torch.distributed

    def part(self, n: int) -> slice:
        """Which of n rows are this process's: as many as others have, in the order of ranks."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def gather(self, value: Answer) -> list[Answer]:
        """Return what each process gives, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value, group=self.group)
        return values

    def agree(self, function: Callable[[], Answer]) -> list[Answer]:
        """Return what a function gives in each process; an error of one is raised in all."""
        if self.world == 1:
            return [function()]
        mine: tuple[Answer | None, Exception | None]
        try:
            mine = function(), None
        except Exception as error:  # noqa: BLE001 - the others wait; it is raised again below
            told = error if isinstance(error, InputError) else None
            mine = None, told or RuntimeError(f"process {self.rank}: {error!r}")
            if self.rank and told is None:
                sys.excepthook(type(error), error, error.__traceback__)
        found = self.gather(mine)
        for _, problem in found:
            if problem is not None:
                raise problem
        return [answer for answer, _ in found]  # type: ignore[misc]  # there was no problem

    def spread(
        self, function: Callable[[Sequence[Item]], Sequence[Answer]], items: Sequence[Item]
    ) -> Sequence[Answer]:
        """Have each process answer some of the items, as long as they are the same in all."""
        if self.world == 1 or not items:
            return function(items)
        mine = items[self.rank :: self.world]
        found = self.agree(lambda: list(function(mine)) if mine else [])
        return [found[i % self.world][i // self.world] for i in range(len(items))]

    def logp(self, logp_of: Callable[[Tensor], Tensor], token_BT: Tensor) -> Tensor:
        """Compute log p of rows, of each in one process; see `with_others` for the gradient."""
        return self.with_others(self.own_logp(logp_of, token_BT))

    def own_logp(self, logp_of: Callable[[Tensor], Tensor], token_BT: Tensor) -> Tensor:
        """Compute log p of this process's rows; for none no network is asked: not all take that."""
        own_BT = token_BT[self.part(len(token_BT))]
        return logp_of(own_BT) if len(own_BT) else torch.zeros(0)

    def with_others(self, own: Tensor) -> Tensor:
        """Return the values of this process's rows among those of all, on the CPU.

        Its own have their gradient, times the number of processes: Lightning takes the mean over
        them of what each process finds.
        """
        own = own.cpu()
        if self.world == 1:
            return own
        if own.requires_grad:
            own.register_hook(lambda gradient: gradient * self.world)  # type: ignore[no-untyped-call]
        parts = self.gather(own.detach().numpy())
        values = [torch.from_numpy(part) for part in parts]
        values[self.rank] = own
        return torch.cat(values)

    def rollout(self, own: Rollout) -> Rollout:
        """Return the rows of all processes; the logp of this one's have their graph."""
        if self.world == 1:
            return own
        columns = ("tokens", "truncated", "group")
        mine = {name: value for name in columns if (value := getattr(own, name)) is not None}
        arrays = {name: value.cpu().numpy() for name, value in mine.items()}
        texts, written, arrays = zip(*self.gather((own.smiles, own.written, arrays)), strict=True)
        whole = {n: [torch.from_numpy(a[n]).to(own.tokens.device) for a in arrays] for n in mine}
        token_BT = whole["tokens"][0]
        for part in whole["tokens"][1:]:
            token_BT = joined(token_BT, part, own.end_id)
        return replace(
            own,
            smiles=[text for some in texts for text in some],
            tokens=token_BT,
            logp=self.with_others(own.logp),
            truncated=torch.cat(whole["truncated"]),
            group=torch.cat(whole["group"]) if "group" in whole else None,
            written=None if own.written is None else [one for some in written for one in some],
        )


ALONE = Ranks()
"""A run in one process."""


# ---- start


def is_launched() -> bool:
    """Whether torchrun, srun or this module has started this process as one of several."""
    return "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def check_launched(trainer: Trainer) -> None:
    """Refuse several machines where nobody starts the processes on the others.

    Raises:
        InputError: saying who could.
    """
    if trainer.num_nodes > 1 and not is_launched():
        raise InputError(
            f"trainer: num_nodes: {trainer.num_nodes}: this process stands alone, and starts none "
            "on other machines. Start the same command once for each device by srun (see "
            "pipelines/README.md) or torchrun, or leave num_nodes out."
        )


@contextmanager
def several(
    trainer: Trainer, module: str = "", given: Mapping[str, Any] | None = None
) -> Iterator[Ranks]:
    """Be one of the processes of a run in this scope, and start the further ones if need be.

    Args:
        trainer: says how many there are, and which one this is. Those that it forks itself
            (ddp_fork and the like) are not counted.
        module: is run as each further process, unless somebody else has started those.
        given: what it is told through its standard input, as JSON.

    Raises:
        LostError: another process has ended before its time.
        SystemExit: the same, or a mistake of the user, in a further process: the first one tells.
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
        children += [_start(module, rank, given or {}) for rank in range(1, world)]
    failed = True
    try:
        _await(children)
        trainer.strategy.setup_environment()
        group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
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


def _start(module: str, rank: int, given: Mapping[str, Any]) -> _Child:
    """Start a further process, in a session of its own: Ctrl-C and signals are the first's."""
    mine, its = socket.socketpair()
    with its:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=its.fileno(),
            env=os.environ | {"LOCAL_RANK": str(rank), FROM_FIRST: "1"},
            start_new_session=True,
        )
    with suppress(OSError):
        mine.sendall(json.dumps(given).encode() + b"\n")
    return process, mine


def given_to_this() -> dict[str, Any]:
    """Return what the first process told this one, which from now on ends with it."""
    given: dict[str, Any] = json.loads(sys.stdin.buffer.readline())

    def follow() -> None:
        with suppress(OSError):
            os.read(0, 1)  # nothing more comes until the first process closes its end
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    return given


def _await(children: Sequence[_Child]) -> None:
    """Wait until all further processes are there, or say that this one is; torch would wait long.

    Raises:
        LostError: one has ended.
    """
    if FROM_FIRST in os.environ:
        os.write(0, b"\n")
    for _, line in children:
        said = b""
        with suppress(ConnectionResetError):  # killed before it had read what it was told
            said = line.recv(1)
        if not said:
            raise LostError(_lost(children))


def _end(children: Sequence[_Child], *, at_once: bool) -> None:
    """Wait for the further processes; those that do not end are made to."""
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
    """Say which process has ended, if that is known."""
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
        f"{who}, so this one ends too. What it said stands above, if it said anything. The same "
        "command goes on from the last checkpoint."
    )
