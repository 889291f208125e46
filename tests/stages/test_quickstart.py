"""The quickstart as a user runs it, and the invariants that every row of its traces satisfies."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem, RDConfig
from rdkit.Chem import QED, Crippen, rdMolDescriptors

from chemkl.results import read_trace
from chemkl.stages import pipeline

ROOT = Path(__file__).parents[2]
ARMS = ("plain", "plain_filter", "mara", "default")
BUDGET, MOST_SAMPLES, TAU = 3_000, 6_000, 0.9

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quickstart")
    outcomes = pipeline.run(ROOT / "pipelines" / "quickstart.yaml", out)
    assert [o.status for o in outcomes] == ["done"] * 6
    return out


@pytest.fixture(scope="module", params=ARMS)
def arm(request: pytest.FixtureRequest, quickstart: Path) -> tuple[str, Path, pd.DataFrame]:
    folder = quickstart / request.param
    return request.param, folder, read_trace(folder)


def test_calls_are_counted_without_gaps_and_the_manifest_says_what_ended_the_run(arm):
    _, folder, trace = arm
    calls = trace["call"].dropna().astype(int).tolist()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert calls == list(range(1, len(calls) + 1))
    assert len(calls) <= BUDGET
    assert (~trace["is_replay"]).sum() <= MOST_SAMPLES
    assert manifest["ended_by"] == ("budget" if len(calls) == BUDGET else "max_samples")
    assert manifest["results"]["calls"] == len(calls)


def test_scoring_again_with_rdkit_gives_the_stored_reward(arm):
    _, _, trace = arm
    distinct = trace[trace["valid"]].drop_duplicates("canonical_smiles")
    expected = [_reward(smiles) for smiles in distinct["canonical_smiles"]]
    np.testing.assert_allclose(distinct["reward"], expected, atol=1e-6, rtol=0)
    by_molecule = trace[trace["valid"]].groupby("canonical_smiles")["reward"].nunique()
    assert by_molecule.max() == 1
    assert (trace.loc[~trace["valid"], "reward"] == 0).all()


def test_hits_anchors_and_targets_follow_from_the_rows(arm):
    name, _, trace = arm
    gibbs = trace["logp_ref"] + (500 if name == "default" else 128) * trace["reward_filtered"]
    if name.startswith("plain"):
        assert not trace["hit"].any()
        np.testing.assert_allclose(trace["log_target"], gibbs, atol=1e-3)
        return
    hit = trace["reward_filtered"] >= TAU
    pd.testing.assert_series_equal(trace["hit"], hit, check_names=False)
    np.testing.assert_allclose(trace.loc[~hit, "log_target"], gibbs[~hit], atol=1e-3)
    for _, hits in trace[hit].groupby("step"):
        anchor = hits["logp_ref"].idxmax()
        assert hits.index[hits["anchor"]].tolist() == [anchor]
        np.testing.assert_allclose(hits["log_target"], gibbs[anchor], atol=1e-3)


def test_the_default_replays_and_pays_no_molecule_twice(quickstart: Path):
    trace = read_trace(quickstart / "default")
    sampled = trace[~trace["is_replay"]]
    assert len(sampled) < len(trace) < 1.6 * len(sampled)  # half a batch
    assert (sampled.loc[sampled["repeat"], "reward_filtered"] == 0).all()
    paid = sampled[sampled["reward_filtered"] >= 0.1].groupby("scaffold").size()
    assert paid.max() == 10


def test_the_table_and_the_page_are_there(quickstart: Path):
    metrics = json.loads((quickstart / "evaluate" / "metrics.json").read_text())["runs"]
    assert list(metrics) == list(ARMS)
    page = (quickstart / "report" / "report.html").read_text()
    assert all(name in page for name in ARMS)


def _reward(smiles: str) -> float:
    """The geometric mean of configs/rewards/oral_lead.yaml, from RDKit and the written formulas."""
    sys.path.append(str(Path(RDConfig.RDContribDir) / "SA_Score"))
    import sascorer

    mol = Chem.MolFromSmiles(smiles)
    sa, logp = sascorer.calculateScore(mol), Crippen.MolLogP(mol)
    easy = 1 - 1 / (1 + 10 ** (-10 * 0.25 * (sa - 3.5) / (4.5 - 2.5)))
    rising = 1 / (1 + 10 ** (20 * (1 - logp) / 10))
    falling = 1 / (1 + 10 ** (20 * (logp - 4) / 10))
    window = rising if logp < 2.5 else falling
    few = float(rdMolDescriptors.CalcNumHBD(mol) <= 3)
    return float((QED.qed(mol) * easy * few * window) ** 0.25)
