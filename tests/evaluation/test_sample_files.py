import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemkl.config import InputError
from chemkl.config.evaluate import SmilesFile
from chemkl.evaluation.sample_files import read_samples, read_scored_samples


@pytest.fixture
def scored(tmp_path):
    path = tmp_path / "samples.parquet"
    columns = {
        "smiles": ["OCC", "CCO", "CCN", "nonsense", "CCC"],
        "reward": [0.5, 0.9, None, 0.0, 0.7],
        "truncated": [False, False, False, False, True],
    }
    pq.write_table(pa.table(columns), path)
    return SmilesFile(path=path)


def test_rewards_go_with_the_first_of_each_molecule(scored):
    samples = read_scored_samples("prior", scored)
    assert (samples.n_sampled, samples.valid) == (5, ["CCO", "CCO", "CCN"])
    assert [(m.smiles, m.call) for m in samples.molecules] == [("CCO", 1), ("CCN", 2)]
    ethanol, amine = samples.molecules
    assert ethanol.reward == 0.5
    assert math.isnan(amine.reward)
    assert samples.is_scored
    assert [m.smiles for m in samples.hits(0.4)] == ["CCO"]


def test_rewards_are_left_alone_where_they_are_not_asked_for(scored):
    samples = read_samples("x", scored)
    assert not samples.is_scored
    assert samples.hits(0) == []


def test_a_file_without_rewards_is_not_scored(tmp_path):
    (tmp_path / "prior.smi").write_text("CCO\nCCN\n")
    samples = read_scored_samples("prior", SmilesFile(path=tmp_path / "prior.smi"))
    assert samples.valid == ["CCO", "CCN"]
    assert not samples.is_scored


def test_rewards_that_are_no_numbers_are_refused(tmp_path):
    path = tmp_path / "prior.parquet"
    pq.write_table(pa.table({"smiles": ["CCO"], "reward": ["high"]}), path)
    with pytest.raises(InputError, match=r"prior\.parquet: the column 'reward' holds string; exp"):
        read_scored_samples("prior", SmilesFile(path=path))
