"""Slurm with two nodes on this machine, for the duration of a test."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client munge"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 Gres=gpu:1 State=UNKNOWN
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=n[0-1] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def lacking() -> str:
    """Say why Slurm cannot be started here; empty if it can."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        install = f"apt-get install --no-install-recommends {PACKAGES}"
        return f"no {', '.join(missing)} here: {install}"
    return "" if os.geteuid() == 0 else "Slurm's daemons are started by root only"


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def ask(*command: str) -> str:
    """Return the output of a program of Slurm."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def one_machine() -> Iterator[Path]:
    """Run Slurm with two nodes of four cores and one fake GPU; yields the folder of its logs.

    SLURM_CONF is set, which is all that the programs of Slurm need.
    """
    folder = Path(tempfile.mkdtemp(prefix="chemkl-slurm-"))
    folder.chmod(0o755)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    conf.write_text(
        CONFIG.format(folder=folder, host=socket.gethostname().split(".")[0], ports=free_ports(3))
    )
    (folder / "gres.conf").write_text("NodeName=n[0-1] Name=gpu File=/dev/null\n")
    before = os.environ.copy()
    os.environ["SLURM_CONF"] = str(conf)
    os.environ["PATH"] += ":/usr/sbin"
    names = ("socket", "pid", "log", "seed")
    munge = [
        f"--{name}{'' if name == 'socket' else '-file'}={folder}/munge.{name}" for name in names
    ]
    daemons = [
        ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", "n0"],
        ["slurmd", "-D", "-N", "n1"],
    ]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in daemons:
            log = (folder / f"{command[0]}.out").open("ab")
            running.append(
                subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            )
            time.sleep(1)
        end = time.monotonic() + 60
        while ask("sinfo", "-h", "-o", "%T %D").strip() != "idle 2":
            assert time.monotonic() < end, ask("sinfo", "-N", "-l") + log_of(folder)
            time.sleep(0.5)
        yield folder
    finally:
        with suppress(subprocess.SubprocessError):
            subprocess.run(["scancel", "--signal=KILL", "--full", "--user=root"], timeout=20)
            subprocess.run(["scancel", "--user=root"], timeout=20)
            time.sleep(1)
        for process in reversed(running):
            process.terminate()
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def log_of(folder: Path) -> str:
    return "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
