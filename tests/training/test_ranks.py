"""The processes of a run: gradients equal those of one process, and each row has one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from chemkl.config import InputError
from chemkl.training.ranks import ALONE, Ranks, check_launched
from chemkl.training.trainer import devices_of

PROGRAM = Path(__file__).with_name("ranks_program.py")


@pytest.mark.parametrize(
    ("every", "least"), [(17, 15), pytest.param(1, 250, marks=pytest.mark.slow)]
)
def test_two_ranks_have_the_gradients_of_one_with_the_joined_batch(tiny_prior, every, least):
    """For every target x estimator x shaper that goes together, in float64, two steps each."""
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    where |= {"MASTER_PORT": str(find_free_network_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), str(tiny_prior), str(every)]
    first, second = (
        subprocess.Popen(command, env=os.environ | where | {"RANK": rank}, stdout=subprocess.PIPE)
        for rank in "01"
    )
    off = json.loads(first.communicate()[0])
    second.communicate()
    assert first.returncode == second.returncode == 0
    assert len(off) >= least
    assert {name: apart for name, (apart, _) in off.items() if apart > 1e-6} == {}
    assert min(largest for _, largest in off.values()) > 1e-3


@pytest.mark.parametrize("n", [0, 1, 7, 64])
def test_the_parts_of_all_ranks_are_all_rows(n):
    rows = list(range(n))
    parts = [rows[Ranks(rank, 3).part(n)] for rank in range(3)]
    assert [row for part in parts for row in part] == rows
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_a_process_without_rows_calls_no_network(monkeypatch, n):
    weight = torch.ones(1, requires_grad=True)

    def logp_of(token_BT):
        assert len(token_BT)
        return weight * token_BT[:, 1]

    token_BT = torch.arange(3 * n).view(n, 3)
    processes = [Ranks(rank, 3) for rank in range(3)]
    parts = [ranks.local_logp(logp_of, token_BT).detach().numpy() for ranks in processes]
    monkeypatch.setattr(Ranks, "gather", lambda _self, _mine: parts)
    for ranks in processes:
        logp_B = ranks.logp(logp_of, token_BT)
        assert logp_B.tolist() == token_BT[:, 1].tolist()
        weight.grad = None
        (logp_B.sum() + 0 * weight).backward()
        assert weight.grad.tolist() == [3 * token_BT[ranks.part(n), 1].sum()]


def test_a_single_process_exchanges_nothing():
    assert ALONE.spread(lambda items: [2 * item for item in items], [1, 2]) == [2, 4]
    with pytest.raises(ZeroDivisionError):
        ALONE.agree(lambda: 1 / 0)
    local = torch.ones(2, requires_grad=True)
    assert ALONE.join(local) is local


def test_several_machines_need_a_launcher(monkeypatch):
    for name in ("LOCAL_RANK", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"num_nodes: 2: .* by srun .* or torchrun, or leave"):
        check_launched(SimpleNamespace(num_nodes=2))
    check_launched(SimpleNamespace(num_nodes=1))
    monkeypatch.setenv("LOCAL_RANK", "0")
    check_launched(SimpleNamespace(num_nodes=2))


def test_more_processes_than_cores_are_refused_except_two_on_one(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1), raising=False)
    assert devices_of({"accelerator": "cpu", "devices": 2})[1] == 2
    with pytest.raises(InputError, match=r"devices: 3: .* 1 processors: take 2 at most"):
        devices_of({"accelerator": "cpu", "devices": 3})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    assert devices_of({"accelerator": "cpu", "devices": 4})[1] == 4
    with pytest.raises(InputError, match=r"devices: 5: .* 4 processors: take 4 at most"):
        devices_of({"accelerator": "cpu", "devices": 5})
