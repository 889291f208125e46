"""What `chemkl bench` reports, and that both ways that it compares compute the same."""

import json
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from chemkl.bench import command, measure, steps
from chemkl.bench.command import Sizes, bench
from chemkl.config import InputError
from chemkl.policies import load_policy
from chemkl.policies.base import stream

SMALL = Sizes(
    {8: 1, 4: 1}, sampled=8, pretrained=8, scored=4, growth=(100, 300), evaluated=60,
    side_by_side=1, whole_run=True,
)  # fmt: skip


@pytest.fixture
def commands(tiny_prior, monkeypatch):
    """The tiny prior instead of the embedded one; collects commands instead of running them."""
    commands = []
    monkeypatch.setattr(steps, "prior_path", lambda: tiny_prior)
    used = measure.Used(seconds=2.0, peak_mib=300.0, processor=2.0)
    monkeypatch.setattr(measure, "run_command", lambda *a, **_: commands.append(a) or used)
    return commands


def test_all_numbers_are_in_the_json_and_in_the_tables(tmp_path, commands, capsys):
    before = torch.get_num_threads()
    bench(SMALL, out=tmp_path / "bench.json", console=Console(width=120))
    figures = json.loads((tmp_path / "bench.json").read_text())
    step = figures["rl_step"]
    assert all(step[key] > 0 for key in ("reference_s", "ours_s", "speedup_fp32", "over_floor"))
    assert (step["speedup_bf16"] is None) == bool(step["speedup_bf16_why_not"])
    assert (step["logp_error_bf16"] is None) == (step["speedup_bf16"] is None)
    assert (step["two_threads"] is None) == ("two_threads_why_not" in step)
    assert (step["two_threads"] is None) == (step["two_threads_s"] is None)
    assert list(step["by_batch"]) == ["8", "4"]
    assert step["ours_s"] == step["by_batch"]["8"]["ours_s"]
    assert {*step["parts"]} == {
        *["sample", "score", "prior", "objective", "gradient", "adam", "trace"]
    }
    assert {*step["reference_parts"]} == {*step["parts"]} - {"trace"} | {"agent"}
    assert figures["run_10k"] == {"seconds": 2.0, "peak_rss_mib": 300.0}
    assert figures["start"] == {"first_step_s": 2.0}
    assert figures["evaluate"]["seconds"] == 2.0
    rates = ("sample", "logp", "pretrain", "score")
    assert all(figures[key]["molecules_per_s"] > 0 for key in rates)
    assert figures["evaluate_many"]["rows"] == 60
    assert 40 < figures["evaluate_many"]["molecules"] <= 60
    assert figures["growth"]["300"]["ms_per_call"] > 0
    assert (figures["side_by_side"]["ratio"] is None) == ("why_not" in figures["side_by_side"])
    assert 0 < figures["trace"]["share"] < 1
    assert figures["machine"].keys() >= {"processor", "cores", "instructions", "gflops_one_thread"}
    assert torch.get_num_threads() == before
    printed = capsys.readouterr()
    for line in ("Batch 8,", "Batch 4,", "gradient", "pretrain", "run of 10,000 calls"):
        assert line in printed.out
    assert printed.err.splitlines() == [  # one line as each measurement starts
        f"measuring {what}" for what in (
            "a run up to its first step", "a run of 10,000 calls", "its evaluation",
            "the evaluation of 60 rows", "two runs side by side", "matrix products",
            "the cost of a call after up to 300 calls", "training steps of batch 8",
            "training steps of batch 4", "sampling in batches of 8", "sampling in batches of 4",
            "log p and pre-training", "scoring",
        )
    ]  # fmt: skip
    names = [arguments[0] for arguments in commands]
    assert names[:4] == ["posttrain", "posttrain", "evaluate", "evaluate"]
    assert {*names[4:]} <= {"posttrain"}


def test_quick_makes_no_whole_run_and_says_so(commands):
    assert command.runs(whole=False)["run_10k"] == {
        "seconds": None, "peak_rss_mib": None, "why_not": "only with --full",
    }  # fmt: skip
    assert [arguments[0] for arguments in commands] == ["posttrain"]
    assert "max_samples=64" in commands[0]


@pytest.mark.parametrize(
    ("name", "force", "why"),
    [
        ("bench.json", False, r"bench\.json: exists\..*--force"),
        (".", True, r"exists\."),
        ("nowhere/bench.json", False, r"the folder .*nowhere does not exist"),
    ],
)
def test_an_existing_file_is_replaced_only_with_force(tmp_path, name, force, why):
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(InputError, match=why):
        bench(out=tmp_path / name, force=force)


def test_both_ways_sample_the_same_molecules_and_score_them_the_same(tiny_prior):
    policy = load_policy(tiny_prior)
    ours = policy.sample(32, stream(0, 0))
    usual = steps.padded_sample(policy, 32, stream(0, 0))
    assert [policy.vocabulary.decode(row) for row in usual.tolist()] == ours.smiles
    values = steps.padded_logp(policy, usual)
    torch.testing.assert_close(ours.logp, values, rtol=0, atol=1e-4)
    torch.testing.assert_close(policy.logp_tokens(usual), values, rtol=0, atol=1e-4)


def test_both_ways_make_the_same_steps(tmp_path, commands):
    ours, usual = steps.OurStep(8, tmp_path), steps.UsualStep(8)
    for _ in range(2):
        ours(), usual()
    assert ours.n_tokens > 8
    for a, b in zip(ours._policy.parameters(), usual._policy.parameters(), strict=True):
        # Adam's first steps are about rate x sign(gradient): one near 0 may come out otherwise
        torch.testing.assert_close(a, b, rtol=0, atol=4 * steps.LEARNING_RATE)
        assert (a - b).abs().mean() < steps.LEARNING_RATE / 20


def test_variants_alternate_after_a_warm_up():
    order = []

    def variant(name):
        return lambda: order.append(name) or {"part": float(len(order))}

    times = measure.alternate({"A": variant("A"), "B": variant("B")}, 2)
    assert order == ["A", "B"] * 3
    assert times == {"A": [{"part": 3.0}, {"part": 5.0}], "B": [{"part": 4.0}, {"part": 6.0}]}
    assert measure.total(times["A"]).median == 4.0
    assert measure.by_part(times["B"]) == {"part": 5.0}


def test_operations_are_those_of_the_products(tiny_prior):
    policy = load_policy(tiny_prior)
    sizes = {n: w.numel() for n, w in policy.named_parameters() if w.ndim == 2}
    usual = sum(sizes.values()) - sizes["embedding.weight"]  # a look-up
    counts = steps.operations(policy, 10)
    assert counts["usual"] == 2 * 10 * usual
    assert counts["ours"] == 2 * 10 * (usual - sizes["rnn.weight_ih_l0"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [("filters molecules.smi", "spheres"), ("storage --budget 64 --rows 600", "resuming 600")],
)
def test_measurements_by_hand(tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    molecules = ("C" * (n % 20 + 1) + "N" * (n // 20 + 1) for n in range(1000))
    (tmp_path / "molecules.smi").write_text("\n".join(molecules))
    program = [sys.executable, "-m", "chemkl.bench", *arguments.split()]
    assert line in subprocess.run(program, capture_output=True, text=True, check=True).stdout
