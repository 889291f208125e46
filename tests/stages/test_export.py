"""`chemkl export` and `chemkl convert` of tables: the files, and what is refused."""

import gzip

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.rdDepictor import Compute2DCoords

from chemkl.config import InputError
from chemkl.results import read_trace
from chemkl.stages.export import check_outputs, convert, export, select

STEPS = [
    [("Cc1ccccc1", 0.9), ("CCO", 0.3), ("C1CC", 0.0), ("c1ccccc1C", 0.9)],
    [("CCc1ccccc1", 0.95), ("CC1CCCCC1", 0.8), ("OCC", 0.3), ("C[C@H](N)C(=O)O", 0.85)],
]
BY_CALL = ["Cc1ccccc1", "CCO", "CCc1ccccc1", "CC1CCCCC1", "C[C@H](N)C(=O)O"]
BEST_FIRST = ["CCc1ccccc1", "Cc1ccccc1", "C[C@H](N)C(=O)O", "CC1CCCCC1", "CCO"]


@pytest.fixture
def run(tmp_path, write_run):
    return write_run(tmp_path / "run", STEPS)


def smiles_in(file):
    return [line.split()[0] for line in file.read_text().splitlines()]


# ---- what is written


def test_what_rdkit_cannot_read_or_lay_out_is_counted(tmp_path, write_run, monkeypatch, capsys):
    bad = "Cc1ccc2nc(C)=n(C)c12"  # RDKit 2026.09 cannot read its own output for it
    run = write_run(tmp_path / "run", [[("CCO", 0.3), (bad, 0.9), ("CC", 0.5)]])
    assert export(run, smi=tmp_path / "a.smi", csv=tmp_path / "a.csv") == 2
    assert smiles_in(tmp_path / "a.smi") == ["CCO", "CC"]
    assert pd.read_csv(tmp_path / "a.csv")["canonical_smiles"].tolist() == ["CCO", "CC"]
    assert capsys.readouterr().err == f"{run}: 1 molecules left out, which RDKit cannot read\n"

    def fails(mol):
        if mol.GetNumAtoms() == 2:
            raise RuntimeError("made up")
        return Compute2DCoords(mol)

    monkeypatch.setattr(rdDepictor, "Compute2DCoords", fails)
    export(run, sdf=tmp_path / "a.sdf")
    assert len(Chem.SDMolSupplier(str(tmp_path / "a.sdf"))) == 1
    assert (
        "1 molecules left out of the SD file, which RDKit cannot lay out" in capsys.readouterr().err
    )


def identity_of(run):
    """What the parts of a trace say of the run."""
    metadata = pq.read_schema(next((run / "trace").iterdir())).metadata
    return {name: metadata[name.encode()].decode() for name in ("run_id", "config_hash")}


def test_an_sd_file_holds_molecules_with_all_their_values(run, tmp_path):
    assert export(run, sdf=tmp_path / "a.sdf") == 5
    mols = list(Chem.SDMolSupplier(str(tmp_path / "a.sdf")))
    assert [Chem.MolToSmiles(mol) for mol in mols] == BY_CALL
    trace, identity = read_trace(run), identity_of(run)
    for call, mol in enumerate(mols, start=1):
        row = trace[trace["call"] == call].iloc[0]
        assert mol.GetProp("_Name") == f"{identity['run_id']}_{call}"
        assert int(mol.GetProp("call")) == call
        assert mol.GetProp("scaffold") == row["scaffold"]
        for name in ("reward", "raw_qed", "score_qed", "logp_policy", "logp_ref"):
            assert float(mol.GetProp(name)) == row[name]
        assert {name: mol.GetProp(name) for name in identity} == identity
        assert not mol.HasProp("reason")  # nothing went wrong
        assert mol.GetConformer().GetPositions().any()


def test_smiles_and_csv_files_hold_the_molecules(run, tmp_path):
    export(run, smi=tmp_path / "a.smi", csv=tmp_path / "a.csv")
    run_id = identity_of(run)["run_id"]
    lines = (tmp_path / "a.smi").read_text().splitlines()
    assert lines == [f"{smiles} {run_id}_{n}" for n, smiles in enumerate(BY_CALL, start=1)]
    supplier = Chem.SmilesMolSupplier(str(tmp_path / "a.smi"), titleLine=False)
    assert [mol.GetProp("_Name")[-2:] for mol in supplier] == ["_1", "_2", "_3", "_4", "_5"]
    table, trace = pd.read_csv(tmp_path / "a.csv"), read_trace(run)
    assert list(table) == [c for c in trace.columns if c not in ("valid", "repeat", "is_replay")]
    assert table["canonical_smiles"].tolist() == BY_CALL
    assert table["call"].tolist() == [1, 2, 3, 4, 5]
    assert table["reward"].tolist() == [0.9, 0.3, 0.95, 0.8, 0.85]
    assert table["reason"].isna().all()
    assert not any(line.startswith("#") for line in (tmp_path / "a.csv").read_text().splitlines())


def test_gz_endings_are_compressed_and_equal_content_is_equal_bytes(run, tmp_path):
    for name in ("one.{}.gz", "two.{}.gz", "one.{}"):
        export(run, **{kind: tmp_path / name.format(kind) for kind in ("sdf", "csv", "smi")})
    for ending in ("sdf", "csv", "smi"):
        packed = (tmp_path / f"one.{ending}.gz").read_bytes()
        assert gzip.decompress(packed) == (tmp_path / f"one.{ending}").read_bytes()
        assert packed == (tmp_path / f"two.{ending}.gz").read_bytes()


def test_numbers_are_written_to_their_last_digit(run, tmp_path):
    (part,) = (run / "trace").iterdir()
    table = pq.read_table(part)
    columns = dict(zip(table.schema.names, table.columns, strict=True))
    columns["reward"] = [0.1 + 0.2, *columns["reward"].to_pylist()[1:]]
    columns["logp_ref"] = [-1 / 3] * len(table)
    pq.write_table(type(table).from_pydict(columns, schema=table.schema), part)
    export(run, csv=tmp_path / "a.csv", sdf=tmp_path / "a.sdf")
    (first, *_) = Chem.SDMolSupplier(str(tmp_path / "a.sdf"))
    cells = pd.read_csv(tmp_path / "a.csv", dtype=str).iloc[0]
    assert first.GetProp("reward") == cells["reward"] == "0.30000000000000004"
    assert first.GetProp("logp_ref") == cells["logp_ref"] == "-0.33333334"  # a 32-bit number


def test_all_rows_of_the_trace_as_csv(run, tmp_path):
    assert export(run, csv=tmp_path / "a.csv", all_rows=True) == 8
    table, trace = pd.read_csv(tmp_path / "a.csv"), read_trace(run)
    assert list(table) == list(trace)
    assert table["valid"].tolist() == trace["valid"].tolist()
    assert table["call"].astype("Int64").equals(trace["call"])
    # an acyclic molecule has an empty scaffold, an invalid row none
    lines = (tmp_path / "a.csv").read_text().splitlines()
    place = trace.columns.get_loc("scaffold")
    by_row = [line.split(",")[place] for line in lines[1:4]]
    assert by_row == ['"c1ccccc1"', '""', ""]


# ---- which molecules


def test_choices(run, tmp_path, write_run):
    def chosen(folder=run, **options):
        return select(read_trace(folder), **options)["canonical_smiles"].tolist()

    assert chosen() == BY_CALL
    assert chosen(threshold=0.85) == ["Cc1ccccc1", "CCc1ccccc1", "C[C@H](N)C(=O)O"]
    assert chosen(top=99) == BEST_FIRST
    assert chosen(top=2) == BEST_FIRST[:2]
    assert chosen(per_scaffold=1) == ["CCc1ccccc1", "C[C@H](N)C(=O)O", "CC1CCCCC1"]
    assert chosen(per_scaffold=2) == BEST_FIRST
    assert chosen(per_scaffold=1, threshold=0.9) == ["CCc1ccccc1"]
    assert chosen(per_scaffold=1, top=2) == ["CCc1ccccc1", "C[C@H](N)C(=O)O"]
    equal = write_run(tmp_path / "equal", [[("CCO", 0.5), ("CCN", 0.5), ("CCC", 0.5)]])
    assert chosen(equal, top=2) == ["CCO", "CCN"]  # in the order of their calls


# ---- mistakes


def test_files_are_replaced_only_with_force(run, tmp_path):
    file = tmp_path / "a.smi"
    file.write_text("mine")
    with pytest.raises(InputError, match=r"--smi \S+a.smi: exists\. .*--force"):
        export(run, smi=file, csv=tmp_path / "new.csv")
    assert file.read_text() == "mine"
    assert not (tmp_path / "new.csv").exists()
    export(run, smi=file, force=True)
    assert smiles_in(file) == BY_CALL


def test_every_problem_with_the_outputs_is_named_at_once(run, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError) as caught:
        export(run, sdf=tmp_path / "a.mol", csv=tmp_path / "folder.csv", smi=run / "trace/a.smi")
    problems = str(caught.value).splitlines()
    assert len(problems) == 3
    assert "a.mol: unknown ending. Allowed: .sdf, .sdf.gz" in problems[0]
    assert "folder.csv: this is a folder" in problems[1]
    assert "a.smi: lies inside a trace" in problems[2]
    both = {"--csv": tmp_path / "a.csv", "--table": tmp_path / "run" / ".." / "a.csv"}
    with pytest.raises(InputError, match=r"a\.csv: given twice"):
        check_outputs(both, {"--csv": (".csv",), "--table": (".csv",)}, force=False)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"a\.csv: cannot be written \(.*\)"):
        export(run, csv=tmp_path / "file" / "a.csv")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "nothing to write: give one or more of --sdf, --csv, --smi"),
        ({"smi": "a.smi", "all_rows": True}, "--all-rows is for --csv only, not for --smi"),
        ({"csv": "a.csv", "all_rows": True, "threshold": 0.0, "top": 3},
         "--all-rows and --threshold, --top contradict"),
        ({"csv": "a.csv", "top": 0}, "--top 0: expected a whole number from 1"),
        ({"csv": "a.csv", "per_scaffold": -1}, "--per-scaffold -1: expected"),
        ({"csv": "a.csv", "threshold": 0.96}, r"no hits: the largest reward in \S+ is 0\.95;"),
        ({"csv": "a.csv", "threshold": float("nan")}, "no hits: the largest reward"),
        ({"csv": "run/a.csv/b.csv", "sdf": "a.txt"}, "a.txt: unknown ending"),
    ],
)  # fmt: skip
def test_invalid_options_are_refused(run, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        export(run, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_without_a_molecule_or_one_that_rdkit_can_read(tmp_path, write_run):
    run = write_run(tmp_path / "run", [[("Cc1ccc2nc(C)=n(C)c12", 0.9)]])
    for threshold in (None, 0.5):
        with pytest.raises(InputError, match="RDKit can read none of the selected molecules"):
            export(run, csv=tmp_path / "a.csv", threshold=threshold)
    run = write_run(tmp_path / "bad", [[("C1CC", 0.0)]])
    with pytest.raises(InputError, match="holds no valid molecule; nothing was written"):
        export(run, csv=tmp_path / "a.csv")
    assert export(run, csv=tmp_path / "a.csv", all_rows=True) == 1


def test_a_failure_on_the_way_leaves_nothing(run, tmp_path, monkeypatch):
    def break_down(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("chemkl.stages.export.sdf_record", break_down)
    with pytest.raises(ZeroDivisionError):
        export(run, sdf=tmp_path / "a.sdf")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# ---- the command


def test_the_command(run, tmp_path, chemkl, capsys):
    files = [tmp_path / "a.sdf", tmp_path / "a.csv", tmp_path / "sub" / "a.smi"]
    options = ["--sdf", files[0], "--csv", files[1], "--smi", files[2]]
    assert chemkl("export", run, *options, "--threshold", 0.8, "--per-scaffold", 1) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"output: {file} (3 molecules)" for file in files
    ]
    assert smiles_in(files[2]) == ["CCc1ccccc1", "C[C@H](N)C(=O)O", "CC1CCCCC1"]
    assert chemkl("export", run, "--csv", files[1]) == 2
    assert "exists" in capsys.readouterr().err
    assert chemkl("export", run, "--csv", files[1], "--all-rows", "--force") == 0
    assert capsys.readouterr().out == f"output: {files[1]} (8 rows)\n"
    assert chemkl("export", run, "--csv", files[1], "--force", "--per-scaffold", 0) == 0
    assert capsys.readouterr().out == f"output: {files[1]} (5 molecules)\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "--smi", "a.smi"], "nowhere: no such run folder"),
        (["run"], "nothing to write"),
        (["run", "--smi", "a.smi", "--top", "0"], "--top"),
        (["run/trace", "--smi", "a.smi"], "this is the trace itself"),
    ],
)
def test_mistakes_are_exit_code_2(run, tmp_path, chemkl, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert chemkl("export", *arguments) == 2
    out, err = capsys.readouterr()
    assert says in out + err
    assert "Traceback" not in err
    assert not (tmp_path / "a.smi").exists()


# ---- convert

SMILES = ["C[C@H](N)O", None, "C1CC", "CCO"]


@pytest.fixture
def file(tmp_path):
    columns = {
        "smiles": SMILES,
        "logp": pa.array([-1.1, None, -2.5, -3.0], pa.float32()),
        "n": [1, 2, 3, None],
        "truncated": [False, True, False, False],
    }
    path = tmp_path / "samples.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_to_sdf(file, tmp_path):
    message = convert(file, tmp_path / "a.sdf")
    assert message == "2 molecules; 2 rows without a molecule left out"
    first, last = Chem.SDMolSupplier(str(tmp_path / "a.sdf"))
    assert [Chem.MolToSmiles(mol) for mol in (first, last)] == ["C[C@H](N)O", "CCO"]
    assert [mol.GetProp("_Name") for mol in (first, last)] == ["samples_1", "samples_4"]
    assert first.GetProp("logp") == "-1.1"
    assert first.GetProp("truncated") == "false"
    assert not last.HasProp("n")


def test_to_smiles_and_csv(file, tmp_path):
    assert convert(file, tmp_path / "a.smi.gz").startswith("2 molecules")
    text = gzip.decompress((tmp_path / "a.smi.gz").read_bytes()).decode()
    assert text == "C[C@H](N)O samples_1\nCCO samples_4\n"
    assert convert(file, tmp_path / "a.csv") == "4 rows"
    table = pd.read_csv(tmp_path / "a.csv")
    assert table["smiles"].fillna("").tolist() == [smiles or "" for smiles in SMILES]
    assert table["n"].dropna().tolist() == [1, 2, 3]
    assert table["logp"].tolist()[0] == -1.1


@pytest.fixture
def converted(tmp_path):
    """Write a table, convert it, and give the text."""

    def convert_it(table, **options):
        pq.write_table(pa.table(table), tmp_path / "a.parquet")
        convert(tmp_path / "a.parquet", tmp_path / "a.smi", force=True, **options)
        return (tmp_path / "a.smi").read_text()

    return convert_it


def test_molecules_keep_their_names(converted, tmp_path):
    text = converted({"smiles": ["CCO", "CC"], "name": ["ethyl\nalcohol", None]})
    assert text == "CCO ethyl alcohol\nCC a_2\n"
    convert(tmp_path / "a.parquet", tmp_path / "a.sdf")
    titles = [mol.GetProp("_Name") for mol in Chem.SDMolSupplier(str(tmp_path / "a.sdf"))]
    assert titles == ["ethyl alcohol", "a_2"]


def test_the_column_is_canonical_smiles_or_the_one_that_is_named(converted):
    table = {"smiles": ["OCC"], "canonical_smiles": ["CCO"], "product": ["CC=O"]}
    assert converted(table) == "CCO a_1\n"
    assert converted(table, column="product") == "CC=O a_1\n"
    assert converted({"Isomeric SMILES": ["CCO"]}) == "CCO a_1\n"  # as in any file of molecules


def test_bytes_and_text_that_is_not_utf8_are_written(tmp_path):
    path = tmp_path / "a.parquet"
    name = pa.array([b"M\xfcller"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"smiles": [b"CCO"], "name": name, "key": [b"\xff1"]}), path)
    convert(path, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == '"smiles","name","key"\n"CCO","M�ller","�1"\n'
    for ending in ("smi", "sdf"):
        assert convert(path, tmp_path / f"a.{ending}") == "1 molecules"
    assert (tmp_path / "a.smi").read_text() == "CCO M�ller\n"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"smiles": ["C1CC", None]}, "no row of the column 'smiles' is a molecule; nothing was"),
        ({"text": ["CCO"]}, "no column is called canonical_smiles or smiles; .* Columns: text"),
        ({"smiles": [1]}, "the column 'smiles' holds int64; expected SMILES as text"),
    ],
)
def test_files_that_hold_no_molecules(tmp_path, table, says):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(table), path)
    with pytest.raises(InputError, match=says):
        convert(path, tmp_path / "a.sdf")
    assert not (tmp_path / "a.sdf").exists()
    assert convert(path, tmp_path / "a.csv").endswith("rows")


def test_the_command_convert(file, tmp_path, monkeypatch, capsys, chemkl):
    monkeypatch.chdir(tmp_path)
    assert chemkl("convert", "samples.parquet", "a.smi") == 0
    message = "output: a.smi (2 molecules; 2 rows without a molecule left out)\n"
    assert capsys.readouterr().out == message
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    for arguments, says in [
        (["samples.parquet", "a.smi"], "OUT a.smi: exists"),
        (["samples.parquet", "a.xyz"], "OUT a.xyz: unknown ending. Allowed: .sdf"),
        (["samples.parquet", "b.smi", "--column", "smile"], "did you mean 'smiles'?"),
        (["nowhere.parquet", "b.smi"], "nowhere.parquet: no such file"),
        (["a.smi", "b.csv"], "a.smi: expected a file that ends in .parquet"),
        (["damaged.parquet", "b.csv"], "damaged.parquet: not a readable Parquet file"),
    ]:
        assert chemkl("convert", *arguments) == 2
        assert says in capsys.readouterr().err
        assert not (tmp_path / "b.smi").exists()
        assert not (tmp_path / "b.csv").exists()
