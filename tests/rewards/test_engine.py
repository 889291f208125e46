"""Workers, time limits and the cache change no bit of a reward."""

from contextlib import contextmanager

import pandas as pd
import pytest
from building import part

from chemkl.config import InputError
from chemkl.config.reward import RewardConfig
from chemkl.rewards import RewardModel, scoring
from chemkl.rewards import model as engine

FUNCTIONS = '''
import os, signal
from pathlib import Path


def note(smiles: str) -> float:
    """Write down the molecule, one line per call, in whatever process."""
    with Path(__file__).with_name("calls.txt").open("a") as file:
        file.write(smiles + "\\n")
    return len(smiles) / 7


def moody(smiles: str) -> float:
    if "I" in smiles:
        os.kill(os.getpid(), signal.SIGKILL)
    if "P" in smiles:
        raise ValueError("no phosphorus, please")
    return len(smiles) / 7


def many(smiles: list[str]) -> list[float]:
    return [len(text) / len(smiles) for text in smiles]
'''
SPELLINGS = ["OCC", "C1CC", "", "CCO", "c1ccccc1O", "Oc1ccccc1", "C[N+](C)(C)C", "é", "[Na+].[Cl-]"]
SIGMOID = {"kind": "sigmoid", "low": 0, "high": 10}
QED = {"components": [{"kind": "qed"}]}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    return tmp_path


def function(folder, name):
    own = part("python_function", function=f"{folder / 'functions.py'}:{name}")
    return {**own, "name": name, "transform": SIGMOID}


def calls(folder):
    file = folder / "calls.txt"
    return file.read_text().split() if file.exists() else []


@pytest.fixture
def reward(folder):
    """Quick and costly components, a filter and a penalty."""
    return {
        "components": [
            {"kind": "qed"},
            {"kind": "logp", "transform": SIGMOID},
            {"kind": "mol_wt", "role": "filter", "transform": {"kind": "step", "high": 330}},
            {"kind": "forbidden_smarts", "role": "penalty", "parameters": {"smarts": ["[F]"]}},
            function(folder, "note"),
        ]
    }


def scored(reward, batches, **settings):
    with RewardModel.from_config({**reward, **settings}) as model:
        return [model.score(batch) for batch in batches]


def assert_equal(frames, expected):
    for frame, other in zip(frames, expected, strict=True):
        pd.testing.assert_frame_equal(frame, other, check_exact=True)


def test_workers_limits_and_the_cache_change_nothing(reward, folder, real_smiles):
    batches = [[*SPELLINGS, *real_smiles[:60]], [*real_smiles[40:90], *SPELLINGS[::-1], "CCCC"], []]
    plain = scored(reward, batches)
    assert plain[0]["reason"].str.startswith("filter mol_wt failed").any()
    assert plain[0]["raw_note"].notna().any()
    two, limit, cache = {"workers": 2}, {"timeout": 30}, {"cache": folder / "cache.sqlite"}
    for settings in (two, limit, two | limit | cache, cache, two | cache):
        assert_equal(scored(reward, batches, **settings), plain)


def test_a_warm_cache_computes_nothing_and_another_reward_only_new_values(
    reward, folder, real_smiles, monkeypatch
):
    batch, file = real_smiles[:50], folder / "cache.sqlite"
    (first,) = scored(reward, [batch], cache=file)
    n = len(calls(folder))
    assert n == first["raw_note"].notna().sum() > 0
    monkeypatch.setattr(scoring, "parse", None)  # not even parsed
    assert_equal(scored(reward, [batch], cache=file), [first])
    monkeypatch.undo()
    other = {"components": [*reward["components"][::-1], {"kind": "tpsa", "transform": SIGMOID}]}
    (more,) = scored(other, [batch], cache=file)
    assert len(calls(folder)) == n
    for name in ("qed", "logp", "note"):
        assert more[f"raw_{name}"].equals(first[f"raw_{name}"])
    assert more["raw_tpsa"].notna().all()


def test_a_cached_costly_value_does_not_appear_if_a_filter_fails(reward, folder):
    free = {"components": [item for item in reward["components"] if item.get("role") != "filter"]}
    heavy, file = ["C" * 40], folder / "cache.sqlite"
    assert scored(free, [heavy], cache=file)[0]["raw_note"].notna().all()
    (expected,) = scored(reward, [heavy])
    assert expected["raw_note"].isna().all()
    for _ in range(2):
        assert_equal(scored(reward, [heavy], cache=file), [expected])


def test_a_failure_is_not_cached(folder):
    reward = {"components": [{"kind": "qed"}, function(folder, "moody")]}
    file = folder / "cache.sqlite"
    (row,) = scored(reward, [["CP"]], cache=file)
    reason = "component moody failed: ValueError: no phosphorus, please (functions.py:17)"
    assert row["reason"].tolist() == [reason]
    with RewardModel.from_config({**reward, "cache": file}) as model:
        model.score(["CP"])
        assert model.failures["moody"].failed == 1  # computed again
        keys = model._engine._cache._columns
        assert model._engine._cache.look_up(["CP"])["CP"].keys() == keys.keys() - {"moody"}


def test_without_a_limit_a_death_in_a_batch_costs_one_molecule(folder):
    smiles = [*("C" * n for n in range(1, 40)), "CI", *("N" + "C" * n for n in range(1, 10))]
    (rows,) = scored({"components": [function(folder, "moody")], "workers": 2}, [smiles])
    reason = "component moody failed: the worker died (SIGKILL)"
    assert rows["reason"].dropna().to_dict() == {39: reason}


def test_a_batched_component_gets_the_same_batches_everywhere(folder):
    reward = {"components": [function(folder, "many")]}
    smiles = ["C" * n for n in range(1, 50)]
    here = scored(reward, [smiles])
    assert here[0]["raw_many"].tolist() == [
        n / min(engine.UNIT, 49 - (n - 1) // engine.UNIT * engine.UNIT) for n in range(1, 50)
    ]
    assert_equal(scored({**reward, "workers": 2}, [smiles]), here)


def test_the_settings_of_the_engine_are_not_part_of_the_identity():
    settings = {"workers": 3, "timeout": 5, "cache": "cache.sqlite", "most_failures": 0.1}
    settings |= {"executor": {"kind": "parsl", "blocks": 3}, "retries": 5}
    assert RewardConfig(**QED, **settings).model_dump() == RewardConfig(**QED).model_dump()
    with RewardModel.from_config(RewardConfig(**QED, workers=2)) as model:
        assert model.config.workers == 2
    for settings in ({"workers": 0}, {"timeout": 0}):
        with pytest.raises(InputError, match="should be greater than"):
            RewardModel.from_config({**QED, **settings})


def test_a_file_that_is_no_cache_is_refused_before_anything_is_scored(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("not a cache at all")
    with pytest.raises(InputError, match="is no SQLite database: it was not changed"):
        RewardModel.from_config({**QED, "cache": notes})
    assert notes.read_text() == "not a cache at all"
    RewardModel.from_config({**QED, "cache": tmp_path / "new"})
    assert not (tmp_path / "new").exists()


def test_values_are_cached_when_scoring_is_interrupted(folder, monkeypatch):
    reward, file, evaluations = {"components": [function(folder, "note")]}, folder / "cache", []

    def interrupted(*arguments, **options):
        evaluations.append(arguments)
        if len(evaluations) == 3:
            raise KeyboardInterrupt
        return scoring.evaluate(*arguments, **options)

    monkeypatch.setattr(engine, "evaluate", interrupted)
    with (
        RewardModel.from_config({**reward, "cache": file}) as model,
        pytest.raises(KeyboardInterrupt),
    ):
        model.score(["C" * n for n in range(1, 100)])
    monkeypatch.undo()
    n = len(calls(folder))
    assert n == 2 * engine.UNIT
    scored(reward, [["C"]], cache=file)
    assert len(calls(folder)) == n


def test_progress_is_shown_by_molecule(real_smiles):
    steps = []

    @contextmanager
    def showing(total):
        steps.append(total)
        yield steps.append
        steps.append("over")

    model = RewardModel.from_config(QED)
    model.show_progress(showing)
    model.score(["CCO", "OCC", "C1CC", *real_smiles[:3]])
    model.score(["CCO"])
    assert steps == [4, 1, 1, 1, 1, "over"]
