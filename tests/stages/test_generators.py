"""Runs whose molecules hold a part: traces, resuming, and invalid parts."""

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from rdkit import Chem
from safetensors.torch import load_file
from small_runs import SHORT, killed_at_step, run_and_kill, same_run, weights_of

from chemkl.chem.parts import Lead, Pair, Scaffold
from chemkl.config import InputError
from chemkl.policies import ConstrainedPolicy, Constraint, freeze, load_policy
from chemkl.policies.base import stream
from chemkl.results import read_trace
from chemkl.stages import evaluate, forecast, posttrain, sample
from chemkl.stages.show import show

MOSES = "data/priors/moses.safetensors"
SCAFFOLDS = [
    "*c1ccccc1", "*c1ccc2[nH]ccc2c1", "*C1CCN(c2ncccn2)CC1", "*N1CCN(*)CC1", "*C(=O)N1CCC(*)CC1",
    "*NC(=O)c1ccc(*)cc1", "*c1nc(*)c2ccccc2n1", "*c1ccc(Oc2ccc(*)cc2)cc1", "*c1cc(*)nc(*)n1",
    "*n1cc(*)c(*)n1",
]  # fmt: skip
PAIRS = [
    ("*c1ccccc1", "*c1ccncc1"), ("*N1CCOCC1", "*c1ccc(F)cc1"), ("*c1nccs1", "*C1CCCC1"),
    ("*NC(C)=O", "*c1ccc2[nH]ccc2c1"), ("*N1CCCCC1", "*c1cccc(Cl)c1"),
]  # fmt: skip
SEEDS = [
    "CC(=O)Nc1ccc(O)cc1", "CC(C)Cc1ccc(C(C)C(=O)O)cc1", "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "CCOC(=O)c1ccc(N)cc1", "O=C(Nc1ccccc1)c1ccccc1Cl", "COc1ccc(CCNC(C)=O)cc1",
    "Cc1ccc(S(=O)(=O)N2CCOCC2)cc1", "CC(C)NCC(O)COc1ccccc1", "O=C1CCc2ccccc2N1",
    "Clc1ccc(CN2CCNCC2)cc1",
]  # fmt: skip
GENERATORS = {
    "decorate": {"kind": "decorate", "scaffolds": SCAFFOLDS},
    "link": {"kind": "link", "fragments": [list(pair) for pair in PAIRS]},
    "analogues": {"kind": "analogues", "molecules": SEEDS},
}
PARTS = {
    "decorate": [Scaffold(smiles) for smiles in SCAFFOLDS],
    "link": [Pair(pair) for pair in PAIRS],
    "analogues": [Lead(smiles) for smiles in SEEDS],
}
GENERATOR = {"kind": "decorate", "scaffolds": ["*C1CCCC1", "*CCCN*"], "choices": 3}
CONFIG = SHORT | {"generator": GENERATOR}


def drawn(kind, n):
    """Samples of the embedded prior: part, molecule (None: not valid) and SMILES of each."""
    prior = freeze(load_policy(MOSES))
    policy = ConstrainedPolicy(prior, Constraint(PARTS[kind], prior))
    rollout = policy.sample(n, stream(0, 0))
    torch.testing.assert_close(policy.logp_tokens(rollout.tokens), rollout.logp, atol=1e-4, rtol=0)
    rows = zip(rollout.smiles, rollout.written, rollout.truncated.tolist(), strict=True)
    mols = [None if row.problem or cut else Chem.MolFromSmiles(smiles) for smiles, row, cut in rows]
    return list(zip(rollout.group.tolist(), mols, strict=True))


def holds(kind, group, mol):
    """Tell whether RDKit finds the part in a molecule; a seed keeps a random half only."""
    if kind == "analogues":
        return True
    fragments = [SCAFFOLDS[group]] if kind == "decorate" else PAIRS[group]
    matches = []
    for fragment in fragments:
        settings = Chem.AdjustQueryParameters.NoAdjustments()
        settings.makeDummiesQueries = True
        query = Chem.AdjustQueryProperties(Chem.MolFromSmiles(fragment), settings)
        fixed = [atom.GetIdx() for atom in query.GetAtoms() if atom.GetAtomicNum()]
        matches_of = mol.GetSubstructMatches(query, uniquify=False, maxMatches=10_000)
        matches.append([{match[i] for i in fixed} for match in matches_of])
    if kind == "decorate":
        return bool(matches[0])
    return any(not first & second for first in matches[0] for second in matches[1])


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("n", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_molecules_hold_their_part_and_are_valid_and_many(kind, n):
    rows = drawn(kind, n)
    valid = [(group, mol) for group, mol in rows if mol is not None]
    unique = {Chem.MolToSmiles(mol) for _, mol in valid}
    assert all(holds(kind, group, mol) for group, mol in valid)
    assert len(valid) >= 0.8 * len(rows)
    assert len(unique) >= 0.5 * len(valid)


@pytest.mark.slow
@pytest.mark.parametrize("kind", GENERATORS)
def test_post_training_raises_the_reward_of_molecules_that_hold_a_part(kind, tmp_path):
    posttrain.run(f"configs/posttrain/{kind}.yaml", tmp_path)
    trace = read_trace(tmp_path)
    quarter = (trace["step"].max() + 1) // 4
    early = trace[trace["step"] < quarter]["reward"]
    late = trace[trace["step"] > trace["step"].max() - quarter]["reward"]
    assert trace["call"].count() == 1000
    error = (early.var() / len(early) + late.var() / len(late)) ** 0.5
    assert late.mean() - early.mean() > 2 * error
    assert trace["valid"].mean() >= 0.8


@pytest.fixture(scope="module")
def finished(run_once, tiny_prior):
    return run_once("posttrain", CONFIG | {"prior": str(tiny_prior)})


def test_a_run_says_of_each_row_which_part_it_holds_and_what_was_written(
    finished, tiny_prior, tmp_path
):
    trace, names = read_trace(finished), GENERATOR["scaffolds"]
    assert trace["call"].count() == 60
    assert [names[group] for group in trace["group"]] == trace["prompt"].tolist()
    assert trace["valid"].mean() > 0.3
    for row in trace.itertuples():
        part = Scaffold(row.prompt)
        if row.valid:
            assert part.problem(None, row.smiles) is None
            assert row.answer == row.smiles
            assert row.completion.count("|") < part.rounds
            assert row.smiles.endswith(row.completion.split("|")[-1])
        else:
            assert row.reason
            assert row.reward == 0
            assert pd.isna(row.call)
    lost = trace["reason"].fillna("").str.startswith("fixed part: ")
    assert trace.loc[lost, "raw_qed"].isna().all()
    assert trace["anchor"].groupby([trace["step"], trace["group"]]).sum().max() <= 1
    assert weights_of(finished).keys() == load_file(tiny_prior).keys()
    evaluate.run({"runs": [str(finished)], "into_runs": False}, tmp_path / "evaluated")


def test_a_killed_run_ends_as_the_whole_one(config, finished, tmp_path, monkeypatch):
    run_and_kill(monkeypatch, killed_at_step(3), config, tmp_path)
    posttrain.run(config, tmp_path)
    same_run(tmp_path, finished)
    assert read_trace(finished)["step"].max() > 3


def test_parts_that_no_molecule_holds_are_told_at_the_end(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Scaffold, "problem", lambda *_: "fixed part: not the scaffold")
    posttrain.run(config | {"max_samples": 32}, tmp_path / "run")
    message = (
        "no valid molecule contains *C1CCCC1, *CCCN*, of 32 samples; the most common reason: fixed "
        "part: not the scaffold. What may help: a smaller part, more choices, a prior that"
    )
    assert capsys.readouterr().err.count(message) == 1
    show(str(tmp_path / "run"))
    assert message[:60] in " ".join(capsys.readouterr().out.split())
    settings = {"policy": config["prior"], "n": 10, "generator": GENERATOR}
    sample.run(settings, tmp_path / "samples")
    message = "no sample is valid and holds its part (the column problem says why)"
    assert message in capsys.readouterr().err


def test_samples_of_a_generator_say_the_same(tiny_prior, tmp_path):
    file = tmp_path / "scaffolds.smi"
    file.write_text("*C1CCCC1 ring\n*CCCN* chain\n")
    generator = {"kind": "decorate", "scaffolds": str(file)}
    config = {"policy": str(tiny_prior), "n": 40, "batch_size": 20, "generator": generator}
    sample.run(config, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "samples.parquet").to_pandas()
    assert table["prompt"].value_counts().to_dict() == {"*C1CCCC1": 20, "*CCCN*": 20}
    held = table[table["problem"].isna() & ~table["truncated"]]
    assert len(held) > 5
    for row in held.itertuples():
        assert Scaffold(row.prompt).problem(None, row.smiles) is None


BAD = [
    ({"kind": "decorate", "scaffolds": ["*CC", "c1ccccc1"]},
     r"generator\.scaffolds\.1: scaffold 'c1ccccc1' has no attachment point; write \*"),
    ({"kind": "decorate", "scaffolds": ["*CCBr"]},
     r"generator\.scaffolds\.0: \*CCBr: '.*': token 'Br' at position .* Known: 1 C N O"),
    ({"kind": "link", "fragments": [["*CC"]]},
     r"generator\.fragments\.0: \*CC: 1 fragment, not a pair; give two, as in \[\*c1ccccc1, "),
    ({"kind": "analogues", "molecules": ["C1CC"]},
     r"generator\.molecules\.0: molecule 'C1CC': not parsable: unclosed ring 1 opened at"),
    ({"kind": "decorate", "scaffolds": ["*CC", "*CC"]}, r"scaffolds\.1: \*CC is given twice"),
    ({"kind": "analogues", "molecules": ["C" * n for n in range(2, 12)]},
     r"batch_size: 16 rows for 10 parts of a step: .* Take 20 or more, or set generator\.per"),
    ({"kind": "analogues", "molecules": ["CCO"], "keep": [0.9, 0.5]},
     r"keep: \[0\.9, 0\.5\] is not 0 < smallest <= largest < 1"),
    ({"kind": "decorate", "scaffolds": "scaffolds.smi"}, "scaffolds.*no such file or folder"),
    ({"kind": "decorate", "scaffolds": "data"},
     r"^generator\.scaffolds: \S+: this is a folder; expected a file$"),
    ({"kind": "decorat"}, "'decorat' is not known; did you mean 'decorate'"),
]  # fmt: skip


@pytest.mark.parametrize(("generator", "message"), BAD)
def test_a_bad_part_is_one_clear_error_before_anything_is_written(
    config, tmp_path, generator, message
):
    with pytest.raises(InputError, match=message) as raised:
        posttrain.run(config | {"generator": generator}, tmp_path / "out")
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_generator_goes_with_no_memory_and_no_mixture(config, tiny_prior, tmp_path):
    with pytest.raises(InputError, match="replays whole molecules, not parts"):
        posttrain.run(config | {"memory": {}}, tmp_path)
    settings = {"policy": str(tiny_prior), "prior": str(tiny_prior), "beta_scale": 2.0}
    with pytest.raises(InputError, match="leave out mixture and beta_scale"):
        sample.run({**settings, "generator": GENERATOR}, tmp_path)


def test_what_is_forecast_is_the_prior_of_one_part(config, tmp_path):
    config |= {"n": 30, "sample_batch": 30, "min_ess": 1}
    says = r"generator\.scaffolds: 2 parts, each with its own target"
    with pytest.raises(InputError, match=says):
        forecast.run(config, tmp_path)
    generator = {"kind": "decorate", "scaffolds": ["*C1CCCC1"]}
    forecast.run(config | {"generator": generator}, tmp_path)
    table = pq.read_table(tmp_path / "samples.parquet").to_pandas()
    prior = freeze(load_policy(config["prior"]))
    policy = ConstrainedPolicy(prior, Constraint([Scaffold("*C1CCCC1")], prior, seed=3))
    rollout = policy.sample(30, stream(3, 0, purpose="forecast"))
    assert table["smiles"].tolist() == rollout.smiles
