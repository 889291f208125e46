import bz2
import gzip
import lzma

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemkl.config import InputError
from chemkl.config.evaluate import TextFile
from chemkl.evaluation.text_samples import read_text_file

TABLE = 'id{d}text{d}reward\n1{d}"one{d} ""two""\nthree"{d}0.5\n2{d} four {d}\n'


def read(path, **settings):
    return read_text_file("x", TextFile(path=path, **settings)).texts


def write(folder, name, content):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    packers = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    packers[".zst"] = lambda data: pa.Codec("zstd").compress(data, asbytes=True)
    path.write_bytes(packers.get(path.suffix, bytes)(data))
    return path


@pytest.mark.parametrize("packing", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("d", [",", ";", "\t"])
def test_tables_are_read_as_those_of_molecules(tmp_path, packing, encoding, d):
    texts = read(write(tmp_path, f"a.csv{packing}", TABLE.format(d=d).encode(encoding)))
    assert texts["completion"].tolist() == [f'one{d} "two"\nthree', " four "]
    assert texts["reward"].fillna(-1).tolist() == [0.5, -1]


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_lines_and_json_lines_may_be_compressed(tmp_path, packing):
    lines = read(write(tmp_path, f"a.txt{packing}", "One, two; three\r\n\n# Four\n"))
    assert lines["completion"].tolist() == ["One, two; three", "# Four"]
    rows = '{"text": "a"}\n' * 60 + '{"text": "b", "answer": "x"}\n'
    found = read(write(tmp_path, f"a.jsonl{packing}", rows))
    assert found["answer"].tolist() == [None] * 60 + ["x"]


def test_a_file_without_a_telling_name_is_read_by_its_content(tmp_path, capsys):
    assert read(write(tmp_path, "a", '{"text": "a"}\n'))["completion"].tolist() == ["a"]
    assert read(write(tmp_path, "b", "Hello, world\n"))["completion"].tolist() == ["Hello, world"]
    assert read(write(tmp_path, "c.log", "id;text\n1;x\n"))["completion"].tolist() == ["x"]
    assert "read as JSON lines, because of its content" in capsys.readouterr().err


def test_a_column_by_number(tmp_path):
    path = write(tmp_path, "a.csv", "1,The sea.\n2,A dog.\n")
    assert read(path, column=1)["completion"].tolist() == ["The sea.", "A dog."]
    path = write(tmp_path, "b.csv", "prompt,text\np,x\n")
    assert read(path, column=1)["completion"].tolist() == ["x"]
    with pytest.raises(InputError, match=r"no column 7: there are 2, .* Known: prompt, text"):
        read(path, column=7)


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.csv: several columns are called 'text'"):
        read(write(tmp_path, "a.csv", "text,text\na,b\n"))


def test_only_the_columns_that_are_used_are_read_from_parquet(tmp_path):
    columns = {"text": ["a", None], "other": [{"x": 1}, None], "reward": [1, 0]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = read_text_file("x", TextFile(path=tmp_path / "a.parquet"))
    assert found.texts["completion"].tolist() == ["a", ""]
    assert found.n_missing == 1
    assert list(found.texts.columns) == ["prompt", "completion", "reward"]
    pd.DataFrame({"text": [1]}).to_parquet(tmp_path / "n.parquet")
    with pytest.raises(InputError, match=r"'text' must hold text, but holds 1 \(int\) in row 1"):
        read(tmp_path / "n.parquet")
