"""One reward, whatever the way to it: workers, time limits and the cache change no bit of it."""

from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from building import part

from chemkl.config import InputError
from chemkl.config.reward import RewardConfig
from chemkl.rewards import RewardModel, scoring
from chemkl.rewards import model as engine

OWN = '''
import os, signal, time
from pathlib import Path

ASKED = Path(__file__).with_name("asked.txt")


def note(smiles: str) -> float:
    """Write down what was asked: one line for each molecule, in whatever process."""
    with ASKED.open("a") as file:
        file.write(smiles + "\\n")
    return len(smiles) / 7


def moody(smiles: str) -> float:
    if "Br" in smiles:
        time.sleep(1000)
    if "I" in smiles:
        os.kill(os.getpid(), signal.SIGKILL)
    if "P" in smiles:
        raise ValueError("no phosphorus, please")
    return len(smiles) / 7


def many(smiles: list[str]) -> list[float]:
    return [len(each) / len(smiles) for each in smiles]
'''
MOODY = "component moody failed: ValueError: no phosphorus, please (own.py:21)"
SPELLINGS = ["OCC", "C1CC", "", "CCO", "c1ccccc1O", "Oc1ccccc1", "C[N+](C)(C)C", "é", "[Na+].[Cl-]"]
STEP = {"kind": "sigmoid", "low": 0, "high": 10}


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def function(folder, name):
    own = part("python_function", function=f"{folder / 'own.py'}:{name}")
    return {**own, "name": name, "transform": STEP}


def asked(folder):
    file = folder / "asked.txt"
    return file.read_text().split() if file.exists() else []


@pytest.fixture
def reward(own):
    """Quick and costly components, a filter and a penalty."""
    return {
        "components": [
            {"kind": "qed"},
            {"kind": "logp", "transform": STEP},
            {"kind": "mol_wt", "role": "filter", "transform": {"kind": "step", "high": 330}},
            {"kind": "forbidden_smarts", "role": "penalty", "parameters": {"smarts": ["[F]"]}},
            function(own, "note"),
        ]
    }


def scored(reward, batches, **engine_settings):
    with RewardModel.from_config({**reward, **engine_settings}) as model:
        return [model.score(batch) for batch in batches]


def assert_equal(frames, expected):
    for one, other in zip(frames, expected, strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_workers_and_limits_and_the_cache_change_nothing(reward, own, real_smiles):
    batches = [[*SPELLINGS, *real_smiles[:60]], [*real_smiles[40:90], *SPELLINGS[::-1], "CCCC"], []]
    here = scored(reward, batches)
    assert here[0]["reason"].str.startswith("filter mol_wt failed").any()
    assert here[0]["raw_note"].notna().any()
    file = own / "cache.sqlite"
    two, limit, kept = {"workers": 2}, {"timeout": 30}, {"cache": file}
    for settings in (two, limit, two | limit | kept, kept, two | kept):
        assert_equal(scored(reward, batches, **settings), here)


def test_a_warm_cache_asks_nothing_and_another_reward_asks_only_what_is_new(
    reward, own, real_smiles, monkeypatch
):
    batch, file = real_smiles[:50], own / "cache.sqlite"
    (first,) = scored(reward, [batch], cache=file)
    n = len(asked(own))
    assert n == first["raw_note"].notna().sum() > 0
    monkeypatch.setattr(scoring, "parse", None)  # nothing is even read: all of it is in the cache
    assert_equal(scored(reward, [batch], cache=file), [first])
    monkeypatch.undo()
    others = {"components": [*reward["components"][::-1], {"kind": "tpsa", "transform": STEP}]}
    (more,) = scored(others, [batch], cache=file)
    assert len(asked(own)) == n
    for name in ("qed", "logp", "note"):
        assert more[f"raw_{name}"].equals(first[f"raw_{name}"])
    assert more["raw_tpsa"].notna().all()


def test_a_costly_value_in_the_cache_does_not_show_where_a_filter_fails(reward, own):
    free = {"components": [each for each in reward["components"] if each.get("role") != "filter"]}
    heavy, file = ["C" * 40], own / "cache.sqlite"
    assert scored(free, [heavy], cache=file)[0]["raw_note"].notna().all()
    (expected,) = scored(reward, [heavy])
    assert expected["raw_note"].isna().all()
    for _ in range(2):
        assert_equal(scored(reward, [heavy], cache=file), [expected])


def test_a_failure_is_not_kept(own):
    reward = {"components": [{"kind": "qed"}, function(own, "moody")]}
    file = own / "cache.sqlite"
    (row,) = scored(reward, [["CP"]], cache=file)
    assert row["reason"].tolist() == [MOODY]
    with RewardModel.from_config({**reward, "cache": file}) as model:
        model.score(["CP"])
        assert model.failures["moody"].failed == 1  # it was asked again
        keys = model._engine._cache._columns
        assert model._engine._cache.look_up(["CP"])["CP"].keys() == keys.keys() - {"moody"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_molecule_that_hangs_or_kills_its_worker_is_the_only_one_that_fails(own, workers):
    reward = {"components": [{"kind": "qed"}, function(own, "moody")]}
    smiles = ["C", "CBr", "CC", "CI", "CP", "CCC", "CCCC", "CCCCC"]
    settings = {**reward, "workers": workers, "timeout": 1.0}
    with RewardModel.from_config(settings) as model:
        rows = model.score(smiles).set_index("smiles")
        again = model.score(["BrC", "CI"])
        counts = model.failures["moody"]
    assert rows["reason"].dropna().to_dict() == {
        "CBr": "component moody failed: timeout after 1 s",
        "CI": "component moody failed: the worker died (SIGKILL)",
        "CP": MOODY,
    }
    assert rows["reward"].eq(0).to_dict() == {each: each in ("CBr", "CI", "CP") for each in smiles}
    assert np.isnan(rows.loc[["CBr", "CI"], ["raw_qed", "raw_moody"]]).all(axis=None)
    expected = scored(reward, [["C", "CC", "CCC"]])[0].set_index("smiles")
    assert rows.loc[expected.index].equals(expected)
    assert again["reason"].tolist() == rows.loc[["CBr", "CI"], "reason"].tolist()
    assert (counts.attempts, counts.failed) == (8, 3)
    assert counts.reasons["timeout after 1 s"] == 1


def test_without_a_limit_a_death_in_a_batch_costs_one_molecule(own):
    reward = {"components": [function(own, "moody")], "workers": 2}
    smiles = [*("C" * n for n in range(1, 40)), "CI", *("N" + "C" * n for n in range(1, 10))]
    (rows,) = scored(reward, [smiles])
    assert rows["reason"].dropna().to_dict() == {
        39: "component moody failed: the worker died (SIGKILL)"
    }


def test_a_batched_component_sees_the_same_batches_everywhere(own):
    reward = {"components": [function(own, "many")]}
    smiles = ["C" * n for n in range(1, 50)]
    here = scored(reward, [smiles])
    assert here[0]["raw_many"].tolist() == [
        n / min(engine.UNIT, 49 - (n - 1) // engine.UNIT * engine.UNIT) for n in range(1, 50)
    ]
    assert_equal(scored({**reward, "workers": 2}, [smiles]), here)


def test_the_settings_of_the_engine_are_no_part_of_the_identity():
    plain = {"components": [{"kind": "qed"}]}
    settings = {"workers": 3, "timeout": 5, "cache": "there.sqlite", "most_failures": 0.1}
    settings |= {"executor": {"kind": "parsl", "blocks": 3}, "retries": 5}
    assert RewardConfig(**plain, **settings).model_dump() == RewardConfig(**plain).model_dump()
    with RewardModel.from_config(RewardConfig(**plain, workers=2)) as model:
        assert model.config.workers == 2
    for settings in ({"workers": 0}, {"timeout": 0}):
        with pytest.raises(InputError, match="should be greater than"):
            RewardModel.from_config({**plain, **settings})


def test_a_cache_that_is_none_is_found_before_anything_is_scored(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("not a cache at all")
    with pytest.raises(InputError, match="is no SQLite database: it was not changed"):
        RewardModel.from_config({"components": [{"kind": "qed"}], "cache": notes})
    assert notes.read_text() == "not a cache at all"
    RewardModel.from_config({"components": [{"kind": "qed"}], "cache": tmp_path / "new"})
    assert not (tmp_path / "new").exists()  # before anything is scored


def test_what_was_paid_for_is_kept_when_the_run_is_interrupted(own, monkeypatch):
    file = own / "cache.sqlite"
    model = RewardModel.from_config({"components": [function(own, "note")], "cache": file})
    seen = []

    def interrupted(*arguments, **options):
        seen.append(arguments)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return scoring.evaluate(*arguments, **options)

    monkeypatch.setattr(engine, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.score(["C" * n for n in range(1, 100)])
    model.close()
    monkeypatch.undo()
    n = len(asked(own))
    assert n == 2 * engine.UNIT
    scored({"components": [function(own, "note")]}, [["C"]], cache=file)
    assert len(asked(own)) == n


def test_progress_is_shown_molecule_by_molecule(real_smiles):
    told = []

    @contextmanager
    def showing(total):
        told.append(total)
        yield told.append
        told.append("over")

    model = RewardModel.from_config({"components": [{"kind": "qed"}]})
    model.show_progress(showing)
    model.score(["CCO", "OCC", "C1CC", *real_smiles[:3]])
    model.score(["CCO"])
    assert told == [4, 1, 1, 1, 1, "over"]
