"""The score stage and its command: every line is kept, with the numbers of the reward."""

import io
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem
from rdkit.Chem import QED, Descriptors

from chemkl.config import InputError, paths
from chemkl.results.columns import trace_schema
from chemkl.rewards import RewardModel
from chemkl.stages import score

REWARD = {
    "components": [
        {"kind": "qed"},
        {"kind": "mol_wt", "transform": {"kind": "step", "low": 0, "high": 100}},
    ]
}
SMILES = ["OCC", "not a molecule", "", "c1ccccc1", "C(C)O", "[Na+].[Cl-]", "CC(=O)é"]
LINES = [smiles.replace(" ", "_") for smiles in SMILES]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mols.smi").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    Path("reward.yaml").write_text(json.dumps(REWARD))
    return tmp_path


def results_of(out):
    return json.loads((out / "manifest.json").read_text())["results"]


@pytest.fixture
def chemkl(chemkl, folder):
    """The command line, in a folder with the files of the tests."""
    return chemkl


def settings(**changes):
    return {"file": "mols.smi", "reward": REWARD, "progress_bar": False, **changes}


# ---- the table


def test_every_line_is_kept_in_order_with_the_columns_of_a_trace(folder, capsys):
    path = score.run(settings(), folder / "out")
    rows = pd.read_parquet(path)
    assert path == folder / "out" / "scores.parquet"
    assert rows["line"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert rows["smiles"].tolist() == LINES
    assert rows["valid"].tolist() == [True, False, False, True, True, True, False]
    assert rows["raw_mol_wt"][0] == Descriptors.MolWt(Chem.MolFromSmiles("CCO"))
    assert rows["score_qed"][3] == QED.qed(Chem.MolFromSmiles("c1ccccc1"))
    assert rows["reason"].tolist()[1:3] == ["not parsable: unexpected 't' at position 3", "empty"]
    assert rows["reason"][6].startswith("not ASCII")
    assert rows.loc[~rows["valid"], "reward"].tolist() == [0, 0, 0]
    assert rows.loc[~rows["valid"], "raw_qed"].isna().all()
    schema = pq.read_schema(path)
    trace = trace_schema(["qed", "mol_wt"])
    for name in ("canonical_smiles", "valid", "reason", "scaffold", "raw_qed", "reward"):
        assert schema.field(name).equals(trace.field(name), check_metadata=True)
    assert all(field.metadata[b"description"] for field in schema)
    # the manifest sums up
    results = results_of(folder / "out")
    ethanol, benzene = (QED.qed(Chem.MolFromSmiles(s)) for s in ("CCO", "c1ccccc1"))
    salt = QED.qed(Chem.MolFromSmiles("[Na+].[Cl-]"))
    rewards = [ethanol**0.5, benzene**0.5, ethanol**0.5, salt**0.5]
    assert (results["lines"], results["valid"]) == (7, 4)
    assert results["mean_reward"] == pytest.approx(sum(rewards) / 4, abs=1e-12)
    assert list(results["best"]) == ["c1ccccc1", "CCO", "[Cl-].[Na+]"]
    assert results["components"]["qed"]["asked"] == 3
    assert results["components"]["mol_wt"]["failed"] == 0
    out = capsys.readouterr().out
    assert "valid    4" in out
    assert "c1ccccc1" in out
    # a table in CSV holds the same
    path = score.run(settings(format="csv"), folder / "csv")
    assert path.name == "scores.csv"
    table = pd.read_csv(path, keep_default_na=False, na_values={"raw_qed": "", "raw_mol_wt": ""})
    for name in ("line", "smiles", "valid", "raw_qed", "raw_mol_wt", "reward"):
        assert table[name].equals(rows[name].astype(table[name].dtype)), name
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".scores")] == []


def test_the_numbers_are_the_rewards_own_whatever_the_batch_size(folder):
    expected = RewardModel.from_config(REWARD).score(LINES)
    for size in (1, 3, 256):
        rows = pd.read_parquet(score.run(settings(batch_size=size), folder / f"by{size}"))
        pd.testing.assert_frame_equal(rows.drop(columns="line"), expected, check_dtype=False)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_names_and_columns_are_carried_along_and_overwrite_nothing(folder, form):
    Path("m.csv").write_text("id;reward;Smiles;note\n7;0,5;OCC;a\n8;;C1CC\n9;1;CC;c d\n")
    changes = {"file": "m.csv", "format": form, "batch_size": 2}
    plain = read_table(score.run(settings(**changes), folder / "plain"))
    assert list(plain.columns[:3]) == ["line", "smiles", "name"]
    assert plain["name"].astype(str).tolist() == ["7", "8", "9"]
    table = read_table(score.run(settings(**changes, keep_columns=True), folder / "all"))
    assert list(table.columns) == [*plain.columns, "id", "reward_input", "note"]
    pd.testing.assert_frame_equal(table[plain.columns], plain)
    assert table["reward_input"].tolist()[::2] == (["0,5", "1"])
    assert table["note"].fillna("").tolist() == ["a", "", "c d"]
    some = read_table(score.run(settings(**changes, keep_columns=["note"]), folder / "some"))
    assert list(some.columns) == [*plain.columns, "note"]
    with pytest.raises(InputError, match=r"no column 'nota'; did you mean 'note'"):
        score.run(settings(file="m.csv", keep_columns=["nota"]), folder / "out")


def read_table(table):
    return pd.read_csv(table) if table.suffix == ".csv" else pd.read_parquet(table)


def test_columns_of_parquet_keep_their_types(folder):
    columns = {
        "smiles": ["OCC", "CC"],
        "n": pa.array([2**60 + 1, None]),
        "tags": [["a", "b"], None],
        "kind": pa.array(["x", "y"]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), "m.parquet")
    changes = {"file": "m.parquet", "keep_columns": True}
    table = pq.read_table(score.run(settings(**changes), folder / "p"))
    assert table["n"].to_pylist() == [2**60 + 1, None]
    assert table["tags"].to_pylist() == [["a", "b"], None]
    assert table["kind"].to_pylist() == ["x", "y"]
    rows = pd.read_csv(score.run(settings(**changes, format="csv"), folder / "c"), dtype=str)
    assert rows["n"].fillna("").tolist() == [str(2**60 + 1), ""]
    assert rows["tags"].fillna("").tolist() == ['["a", "b"]', ""]


def test_the_command_reads_standard_input_and_keeps_columns(chemkl, monkeypatch, capsys):
    def pipe(text):
        monkeypatch.setattr(paths, "_copies", {})
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))

    pipe(b"note,smiles\nx,CCO\n")
    call = ["score", "-", "--config", "reward.yaml", "--keep-columns"]
    assert chemkl(*call, "--out", "a.csv") == 0
    assert pd.read_csv("a.csv")[["smiles", "note"]].values.tolist() == [["CCO", "x"]]
    assert chemkl(*call) == 0
    assert Path("runs/stdin-scores/scores.parquet").exists()
    pipe(b"note,smiles\nx,CCO\n")
    assert chemkl(*call) == 0  # the same again
    pipe(b"note,smiles\nx,CCC\n")
    assert chemkl(*call) == 2
    assert "-: has changed since runs/stdin-scores was started" in capsys.readouterr().err


def test_failures_are_counted_and_explained(folder, capsys):
    Path("mine.py").write_text("def f(smiles: str): return 1 / (smiles != 'CCO')\n")
    component = {"kind": "python_function", "name": "mine", "parameters": {"function": "mine.py:f"}}
    reward = {"components": [component | {"transform": {"kind": "step", "low": 0}}]}
    score.run(settings(reward=reward), folder / "out")
    means = {"mean_raw": 1.0, "mean_score": 1.0}
    mine = results_of(folder / "out")["components"]["mine"]
    assert mine == {"asked": 3, "failed": 1, **means}
    assert "division by zero" in capsys.readouterr().out


def test_the_best_molecules_are_shown_with_their_names_if_they_have_some(folder, capsys):
    Path("named.smi").write_text("CCO ethanol\nc1ccccc1 benzene\nC1CCCCC1\nOCC twice\n")
    score.run(settings(file="named.smi"), folder / "out")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    best = lines[lines.index(["reward", "name", "best", "molecules"]) + 2 :]
    assert [row[1:] for row in best if row] == [
        ["benzene", "c1ccccc1"], ["C1CCCCC1"], ["ethanol", "CCO"],
    ]  # fmt: skip
    score.run(settings(), folder / "without")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["reward", "best", "molecules"] in lines


def test_a_run_that_fails_leaves_no_table(folder, monkeypatch):
    def refuse(self, smiles):
        raise InputError("component qed failed on 100 of 100 molecules")

    monkeypatch.setattr(RewardModel, "score", refuse)
    with pytest.raises(InputError, match="failed on 100"):
        score.run(settings(), folder / "out")
    assert [p.name for p in (folder / "out").iterdir() if "scores" in p.name] == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"file": "nowhere.smi"}, "file: no such file or folder"),
        ({"file": "reward.yaml"}, "neither its name nor its content shows the format. Allow"),
        ({"column": "smiles"}, "column 'smiles': this format has no header"),
        ({"column": -1}, "column: should be"),
        ({"reward": {"components": [{"kind": "qde"}]}}, "did you mean 'qed'"),
        ({"format": "xlsx"}, r"format: 'xlsx' is not allowed. Known: csv, parquet"),
    ],
)
def test_bad_settings_are_explained_and_nothing_is_written(folder, changes, says):
    with pytest.raises(InputError, match=says):
        score.run(settings(**changes), folder / "out")
    assert not (folder / "out").exists()


# ---- the command

REWARD_FILE = ["--config", "reward.yaml"]


def test_the_command_takes_a_reward_file(chemkl, capsys):
    command = ("score", "mols.smi", *REWARD_FILE)
    assert chemkl(*command, "--out", "s.csv") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "output: s.csv"
    assert "scoring" in err
    assert len(pd.read_csv("s.csv")) == 7
    assert not Path("runs").exists()
    assert not Path("manifest.json").exists()
    assert chemkl(*command) == chemkl(*command, "--out", "there") == 0
    assert Path("runs/mols-scores/manifest.json").exists()
    for folder in ("runs/mols-scores", "there"):
        assert Path(folder, "scores.parquet").exists()


@pytest.mark.parametrize(
    "config",
    [
        {"column": 0, "reward": "own.yaml"},
        {"prior": "x", "budget": 5, "reward": "own.yaml"},
        REWARD,
    ],
    ids=["score", "posttrain", "reward"],
)
def test_the_command_takes_any_config_with_a_reward(chemkl, config):
    Path("sub").mkdir()
    Path("sub/own.yaml").write_text(json.dumps(REWARD))
    Path("sub/mols.smi").write_text("C\n")  # the file is from the working directory
    Path("sub/it.yaml").write_text(json.dumps(config))
    assert chemkl("score", "mols.smi", "--config", "sub/it.yaml", "--out", "s.parquet") == 0
    assert len(pd.read_parquet("s.parquet")) == 7


def test_options_and_overrides(chemkl):
    Path("m.csv").write_text("name,structure\nx,CCO\n")
    call = ["score", "m.csv", "--config", "reward.yaml"]
    assert chemkl(*call, "--column", "structure", "--out", "a.parquet") == 0
    assert chemkl(*call, "column=structure", "batch_size=1", "--out", "b.parquet") == 0
    pd.testing.assert_frame_equal(pd.read_parquet("a.parquet"), pd.read_parquet("b.parquet"))
    assert chemkl(*call, "--column", "1", "--out", "c.parquet") == 0  # the header is seen
    assert pd.read_parquet("c.parquet")["valid"].tolist() == [True]


@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_an_existing_table_is_kept_without_fresh(chemkl, capsys, name):
    call = ["score", "mols.smi", "--config", "reward.yaml", "--out", name]
    assert chemkl(*call) == 0
    before = Path(name).read_bytes()
    capsys.readouterr()
    assert chemkl(*call) == 0
    assert capsys.readouterr() == (
        f"output: {name}\n", f"{name}: complete, skipped; --fresh repeats it\n"
    )  # fmt: skip
    assert chemkl(*call, "batch_size=1") == 2
    assert f"{name}: exists, and was not made of this file with these" in capsys.readouterr().err
    whole = Path("mols.smi").read_bytes()
    Path("mols.smi").write_bytes(whole + b"CCBr\n")
    assert chemkl(*call) == 2
    Path("mols.smi").write_bytes(whole)
    assert Path(name).read_bytes() == before
    Path(name).write_bytes(before + b"\n")  # somebody's own
    assert chemkl(*call) == 2
    assert Path(name).read_bytes() == before + b"\n"
    assert chemkl(*call, "--fresh") == 0
    assert Path(f"{name}.old-1").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.smi", *REWARD_FILE], "nowhere.smi: cannot be read (No such"),
        (["mols.smi", "--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["mols.smi", "--config", "empty.yaml"], "empty.yaml: holds no reward"),
        (["mols.smi", "--config", "bad.yaml"], "bad.yaml:3: components.0.kind: unknown component"),
        (["mols.smi", *REWARD_FILE, "--out", "s.xlsx"], "Allowed: a folder, or a file"),
        (["mols.smi", *REWARD_FILE, "--out", "mols.smi"], "unknown format. Allowed: "),
        (["own.csv", *REWARD_FILE, "--out", "own.csv"], "this is the file to be scored"),
        (["mols.smi", *REWARD_FILE, "--column", "x"], "has no header; give a column"),
        (["one.smi", *REWARD_FILE, "--column", "7", "--out", "n.csv"], "no line has the column 7"),
        (["mols.smi"], "--config"),
        (REWARD_FILE, "FILE"),
        (["empty.smi", *REWARD_FILE], "empty.smi: the file is empty"),
        (["mols.smi", *REWARD_FILE, "--out", "own.csv/n.csv"], "own.csv/n.csv: cannot be written"),
    ],
)
def test_mistakes_are_exit_code_2_and_write_nothing(chemkl, capsys, arguments, says):
    files = {"empty.yaml": "seed: 1\n", "bad.yaml": "# a reward\ncomponents:\n  - kind: qde\n"}
    files |= {"own.csv": "smiles\nCCO\n", "one.smi": "CCO\nCCC\n", "empty.smi": ""}
    for name, text in files.items():
        Path(name).write_text(text)
    before = sorted(Path().rglob("*"))
    assert chemkl("score", *arguments) == 2
    out, err = capsys.readouterr()
    assert says in " ".join((out + err).split())
    assert "Traceback" not in err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("out", ["n.csv", "folder"])
def test_a_file_without_a_valid_molecule_is_refused_with_the_reasons(chemkl, capsys, out):
    Path("none.smi").write_text("C1CC\n(((\nC2CC\n\n")
    for _ in range(2):
        assert chemkl("score", "none.smi", "--config", "reward.yaml", "--out", out) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert (
            f"{Path('none.smi').absolute()}: no line holds a valid molecule. Reasons: " in message
        )
        assert "1 x empty (first: line 4)" in message
