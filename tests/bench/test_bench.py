"""What `chemkl bench` tells, and that both ways that it compares compute the same."""

import json

import pytest
import torch
from rich.console import Console

from chemkl.bench import command, measure, steps
from chemkl.bench.command import Sizes, bench
from chemkl.config import InputError
from chemkl.policies import load_policy
from chemkl.policies.base import stream

SMALL = Sizes(
    {8: 1, 4: 1},
    sampled=8,
    pretrained=8,
    scored=4,
    growth=(100, 300),
    evaluated=60,
    side_by_side=1,
    whole_run=True,
)


@pytest.fixture
def commands(tiny_prior, monkeypatch):
    """The tiny prior in place of the embedded one, and no process of its own; what would run."""
    given = []
    monkeypatch.setattr(steps, "prior_path", lambda: tiny_prior)
    used = measure.Used(seconds=2.0, peak_mib=300.0, processor=2.0)
    monkeypatch.setattr(measure, "run_command", lambda *a, **_: given.append(a) or used)
    return given


def test_all_numbers_are_in_the_json_and_a_line_each_in_the_table(tmp_path, commands, capsys):
    before = torch.get_num_threads()
    bench(SMALL, out=tmp_path / "bench.json", console=Console(width=120))
    found = json.loads((tmp_path / "bench.json").read_text())
    step = found["rl_step"]
    assert all(step[key] > 0 for key in ("reference_s", "ours_s", "speedup_fp32", "over_floor"))
    assert (step["speedup_bf16"] is None) == bool(step["speedup_bf16_why_not"])
    assert (step["logp_error_bf16"] is None) == (step["speedup_bf16"] is None)
    assert (step["two_threads"] is None) == ("two_threads_why_not" in step)
    assert (step["two_threads"] is None) == (step["two_threads_s"] is None)
    assert list(step["by_batch"]) == ["8", "4"]
    assert step["ours_s"] == step["by_batch"]["8"]["ours_s"]
    assert set(step["parts"]) == {
        "sample", "score", "prior", "objective", "gradient", "adam", "trace",
    }  # fmt: skip
    assert set(step["reference_parts"]) == set(step["parts"]) - {"trace"} | {"agent"}
    assert found["run_10k"] == {"seconds": 2.0, "peak_rss_mib": 300.0}
    assert found["start"] == {"first_step_s": 2.0}
    assert found["evaluate"]["seconds"] == 2.0
    assert all(found[key]["molecules_per_s"] > 0 for key in ("sample", "logp", "pretrain", "score"))
    assert found["evaluate_many"]["rows"] == 60
    assert 40 < found["evaluate_many"]["molecules"] <= 60
    assert found["growth"]["300"]["ms_per_call"] > 0
    assert (found["side_by_side"]["ratio"] is None) == ("why_not" in found["side_by_side"])
    assert 0 < found["trace"]["share"] < 1
    assert found["machine"].keys() >= {"processor", "cores", "instructions", "gflops_one_thread"}
    assert torch.get_num_threads() == before
    told = capsys.readouterr().out
    for line in ("Batch 8,", "Batch 4,", "gradient", "pretrain", "run of 10,000 calls"):
        assert line in told
    names = [one[0] for one in commands]
    assert names[:4] == ["posttrain", "posttrain", "evaluate", "evaluate"]
    assert {*names[4:]} <= {"posttrain"}


def test_quick_makes_no_whole_run_and_says_so(commands):
    found = command.runs(whole=False)
    assert found["run_10k"] == {
        "seconds": None, "peak_rss_mib": None, "why_not": "only with --full",
    }  # fmt: skip
    assert [one[0] for one in commands] == ["posttrain"]
    assert any(line == "max_samples=64" for line in commands[0])


def test_a_file_that_is_there_is_not_replaced_unasked(tmp_path):
    file = tmp_path / "bench.json"
    file.write_text("{}")
    with pytest.raises(InputError, match=r"bench\.json: is there already.*--force"):
        bench(out=file)
    with pytest.raises(InputError, match="is there already"):
        bench(out=tmp_path, force=True)
    with pytest.raises(InputError, match=r"the folder .*nowhere is not there"):
        bench(out=tmp_path / "nowhere" / "bench.json")


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
    pairs = zip(ours._policy.parameters(), usual._policy.parameters(), strict=True)
    for one, other in pairs:
        # Adam's first steps are about rate x sign(gradient): one near 0 may come out otherwise
        torch.testing.assert_close(one, other, rtol=0, atol=4 * steps.LEARNING_RATE)
        assert (one - other).abs().mean() < steps.LEARNING_RATE / 20


def test_ways_take_turns_after_a_first_time_that_does_not_count():
    order = []

    def way(name):
        return lambda: order.append(name) or {"part": float(len(order))}

    taken = measure.alternate({"A": way("A"), "B": way("B")}, 2)
    assert order == ["A", "B"] * 3
    assert taken == {"A": [{"part": 3.0}, {"part": 5.0}], "B": [{"part": 4.0}, {"part": 6.0}]}
    assert measure.total(taken["A"]).median == 4.0
    assert measure.by_part(taken["B"]) == {"part": 5.0}


def test_operations_are_those_of_the_products(tiny_prior):
    policy = load_policy(tiny_prior)
    sizes = {name: tuple(weight.shape) for name, weight in policy.named_parameters()}
    matrices = [rows * columns for name, (rows, *rest) in sizes.items() for columns in rest]
    named = dict(zip([n for n, shape in sizes.items() if len(shape) == 2], matrices, strict=True))
    usual = sum(named.values()) - named["embedding.weight"]  # a look-up
    counts = steps.operations(policy, 10)
    assert counts["usual"] == 2 * 10 * usual
    assert counts["ours"] == 2 * 10 * (usual - named["rnn.weight_ih_l0"])
