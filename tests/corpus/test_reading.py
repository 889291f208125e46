import gzip

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemkl.config import InputError
from chemkl.corpus.reading import Line, read_table

PLAIN_SMI = "CCO ethanol\nC\tmethane\n\nN\n"


def read(path, column=None):
    return [(line.number, line.smiles) for line in read_table(path, column)]


def write(folder, name, content):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    return path


# ---- formats


@pytest.mark.parametrize("name", ["a.smi", "a.txt", "a.smiles", "a.SMI", "my.set.v2.smi"])
@pytest.mark.parametrize("packing", ["", ".gz", ".GZ"])
def test_blank_separated_files(tmp_path, name, packing):
    path = write(tmp_path, name + packing, PLAIN_SMI)
    assert read(path) == [(1, "CCO"), (2, "C"), (3, ""), (4, "N")]
    assert read(path, 1) == [(1, "ethanol"), (2, "methane"), (3, ""), (4, None)]


@pytest.mark.parametrize(
    ("ending", "d"), [("csv", ","), ("tsv", "\t"), ("csv.gz", ","), ("CSV", ",")]
)
def test_delimited_files(tmp_path, ending, d):
    rows = [["name", "SMILES", "x"], ["a", "CCO", "1"], ["b", "", "2"], ["c"], [], ["e", " N ", ""]]
    path = write(tmp_path, f"a.{ending}", "\n".join(d.join(row) for row in rows) + "\n")
    expected = [(2, "CCO"), (3, ""), (4, None), (5, ""), (6, "N")]
    assert read(path) == expected
    assert read(path, "SMILES") == expected
    assert read(path, "name") == [(2, "a"), (3, "b"), (4, "c"), (5, ""), (6, "e")]
    # a number says that there is no header
    assert read(path, 1) == [(1, "SMILES"), *expected]


def test_the_only_column_is_taken_whatever_its_name(tmp_path):
    assert read(write(tmp_path, "a.csv", "structure\nCC\nO\n")) == [(2, "CC"), (3, "O")]
    frame = pd.DataFrame({"structure": ["CC", "O"]})
    frame.to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [(1, "CC"), (2, "O")]


def test_parquet_files(tmp_path):
    frame = pd.DataFrame({"id": [1, 2, 3], "Smiles": ["CCO", None, " N "], "x": ["a", "b", ""]})
    frame.to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [(1, "CCO"), (2, None), (3, "N")]
    assert read(tmp_path / "a.parquet", "x") == [(1, "a"), (2, "b"), (3, "")]
    assert read(tmp_path / "a.parquet", 1) == [(1, "CCO"), (2, None), (3, "N")]
    assert read(tmp_path / "a.parquet", "id") == [(1, "1"), (2, "2"), (3, "3")]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view(),
     pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)  # fmt: skip
def test_text_of_any_arrow_type(tmp_path, kind):
    table = pa.table({"smiles": pa.array(["CC", "O", None, "CC"]).cast(kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [(1, "CC"), (2, "O"), (3, None), (4, "CC")]


def test_a_file_gives_no_split_of_its_own(tmp_path):
    assert list(read_table(write(tmp_path, "a.smi", "C\n"), None)) == [Line(1, "C", "train")]


# ---- one bad line costs that line


def test_bytes_that_are_not_utf8_cost_their_line(tmp_path):
    path = write(tmp_path, "a.smi", b"CC\nC\xff\xfeO\nN na\xefve\nO")
    lines = read(path)
    assert [number for number, _ in lines] == [1, 2, 3, 4]
    assert lines[0] == (1, "CC")
    assert "�" in lines[1][1]
    assert lines[2:] == [(3, "N"), (4, "O")]  # a bad name does no harm
    column = pa.array([b"CC", b"C\xff", b"O"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"smiles": column}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [(1, "CC"), (2, "C�"), (3, "O")]


def test_an_open_quote_costs_its_line_and_not_those_behind_it(tmp_path):
    rows = 'smiles,name\nCC,"plain"\nCO,a 5" nail\n"CN,open\nCF,"a, b"\n"C(C)C","x ""y"""\n'
    path = write(tmp_path, "a.csv", rows)
    assert read(path) == [(2, "CC"), (3, "CO"), (4, "CN,open"), (5, "CF"), (6, "C(C)C")]
    assert read(path, "name")[3] == (5, "a, b")
    assert read(path, "name")[4] == (6, 'x "y"')


def test_a_quoted_cell_beyond_every_limit_costs_its_line(tmp_path):
    path = write(tmp_path, "a.csv", 'smiles,x\nCC,1\n"' + "C" * 200_000 + '",2\nO,3\n')
    lines = read(path)
    assert (lines[0], lines[2]) == ((2, "CC"), (4, "O"))
    assert len(lines[1][1]) > 200_000


def test_line_ends_byte_order_marks_and_a_missing_last_newline(tmp_path):
    assert read(write(tmp_path, "a.smi", "\ufeffCC\r\nO")) == [(1, "CC"), (2, "O")]
    assert read(write(tmp_path, "a.csv", "\ufeffSMILES,x\r\nCC,1\r\nO,2")) == [(2, "CC"), (3, "O")]
    assert read(write(tmp_path, "b.smi", "CC\rO\r")) == [(1, "CC"), (2, "O")]


# ---- a file that cannot be read is one clear error


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.gz", "a.sdf", "smi"])
def test_an_unknown_ending(tmp_path, name):
    path = write(tmp_path, name, "CC\n")
    with pytest.raises(InputError, match=rf"{name}: cannot tell the format .* \.smi, .*\.parquet"):
        read(path)


@pytest.mark.parametrize("name", ["a.smi", "a.csv.gz", "a.parquet"])
def test_a_missing_file_and_a_folder(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match=rf"{name}: .*(cannot be read|not a readable).*[Nn]o such"):
        read(path)
    path.mkdir()
    with pytest.raises(InputError, match=rf"{name}: this is a folder; expected a file"):
        read(path)


@pytest.mark.parametrize("name", ["a.smi", "a.csv", "a.smi.gz", "a.csv.gz"])
def test_an_empty_file(tmp_path, name):
    with pytest.raises(InputError, match=rf"{name}: .*empty; expected"):
        read(write(tmp_path, name, ""))


def test_a_table_without_rows(tmp_path):
    with pytest.raises(InputError, match=r"a\.csv: the file is empty"):
        read(write(tmp_path, "a.csv", "smiles,x\n"))
    pd.DataFrame({"smiles": []}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: the file is empty"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.smi.gz", "a.csv.gz"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "not gzip"])
def test_a_damaged_gzip_file(tmp_path, name, damage):
    path = write(tmp_path, name, "smiles\n" + "".join(f"{'C' * i}\n" for i in range(1, 300)))
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF  # in the checksum
    damaged = {
        "truncated": path.read_bytes()[:-20],
        "flipped": bytes(content),
        "not gzip": b"smiles\nCC\n",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(InputError, match=rf"{name}: damaged gzip file .*Copy it again"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"smiles\nCC\n", b"PAR1PAR1PAR1PAR1"])
def test_a_file_that_is_no_parquet(tmp_path, content):
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
        read(write(tmp_path, "a.parquet", content))


def test_a_parquet_file_with_a_damaged_page(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"smiles": [f"C{'N' * (i % 50)}" for i in range(5000)]}).to_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:200] = b"\x00" * 196
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
        read(path)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_wrong_column_is_named_with_the_known_ones(tmp_path, name):
    frame = pd.DataFrame({"structure": ["CC"], "id": [1]})
    path = tmp_path / name
    if name == "a.csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    with pytest.raises(InputError, match=r"no column is called smiles; say .*Known: structure, id"):
        read(path)
    with pytest.raises(InputError, match=r"no column 'structur'; did you mean 'structure'\? Known"):
        read(path, "structur")


def test_a_column_number_beyond_the_table(tmp_path):
    pd.DataFrame({"smiles": ["CC"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"no column 1: there are 1, counted from 0\. Known: smil"):
        read(tmp_path / "a.parquet", 1)
    # in text the lines need not be equally long, so each one without the cell is a bad line
    assert read(write(tmp_path, "a.smi", "CC\n"), 1) == [(1, None)]


def test_a_name_for_a_file_without_header(tmp_path):
    with pytest.raises(InputError, match=r"column 'smiles': this format has no header; give a col"):
        read(write(tmp_path, "a.smi", "CC\n"), "smiles")


def test_a_table_whose_first_line_is_blank(tmp_path):
    with pytest.raises(InputError, match=r"a\.csv: the first line is empty; expected the columns'"):
        read(write(tmp_path, "a.csv", "\nsmiles\nCC\n"))
