"""`chemkl convert`: a Parquet file for programs that read none."""

import gzip

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from chemkl.config import InputError
from chemkl.stages.export import convert

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


def test_what_rdkit_cannot_read_back_is_left_out(tmp_path):
    path = tmp_path / "old.parquet"
    pq.write_table(pa.table({"smiles": ["Cc1ccc2nc(C)=n(C)c12", "[#119]", "CCO"]}), path)
    said = convert(path, tmp_path / "a.sdf")
    assert said == "1 molecules; 2 rows without a molecule left out"


def test_to_sdf(file, tmp_path):
    said = convert(file, tmp_path / "a.sdf")
    assert said == "2 molecules; 2 rows without a molecule left out"
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
    assert table["smiles"].astype(object).where(table["smiles"].notna(), None).tolist() == SMILES
    assert table["n"].dropna().tolist() == [1, 2, 3]
    assert table["logp"].tolist()[0] == -1.1


def test_molecules_keep_their_names(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"smiles": ["CCO", "CC"], "name": ["ethyl\nalcohol", None]}), path)
    convert(path, tmp_path / "a.smi")
    assert (tmp_path / "a.smi").read_text() == "CCO ethyl alcohol\nCC a_2\n"
    convert(path, tmp_path / "a.sdf")
    titles = [mol.GetProp("_Name") for mol in Chem.SDMolSupplier(str(tmp_path / "a.sdf"))]
    assert titles == ["ethyl alcohol", "a_2"]


def test_the_column_is_canonical_smiles_or_the_one_that_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"smiles": ["OCC"], "canonical_smiles": ["CCO"], "product": ["CC=O"]})
    pq.write_table(table, path)
    convert(path, tmp_path / "a.smi")
    assert (tmp_path / "a.smi").read_text() == "CCO a_1\n"
    convert(path, tmp_path / "a.smi", column="product", force=True)
    assert (tmp_path / "a.smi").read_text() == "CC=O a_1\n"


def test_the_column_may_be_called_as_in_any_file_of_molecules(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"Isomeric SMILES": ["CCO"]}), path)
    convert(path, tmp_path / "a.smi")
    assert (tmp_path / "a.smi").read_text() == "CCO a_1\n"


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
        ({"text": ["CCO"]}, "no column is called canonical_smiles or smiles; .* Known: text"),
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


def test_the_command(file, tmp_path, monkeypatch, capsys, chemkl):
    monkeypatch.chdir(tmp_path)
    assert chemkl("convert", "samples.parquet", "a.smi") == 0
    said = "output: a.smi (2 molecules; 2 rows without a molecule left out)\n"
    assert capsys.readouterr().out == said
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
