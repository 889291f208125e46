import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import threading
import tracemalloc
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from chemkl.config import InputError, paths
from chemkl.files.molecules import Line, MoleculeFile, read_molecules

PLAIN_SMI = "CCO ethanol\nC\tmethane\n\nN\n"


def read(path, column=None):
    return [(line.number, line.smiles) for line in read_molecules(path, column)]


def zstd(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def write(folder, name, content):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    pack = PACKERS.get(path.suffix.lower(), lambda data: data)
    path.write_bytes(pack(data))
    return path


def smiles(path, column=None):
    return [line.smiles for line in read_molecules(path, column)]


def rows(path, column=None):
    return [(line.smiles, line.name) for line in read_molecules(path, column)]


def said(capsys):
    return capsys.readouterr().err


# ---- formats


@pytest.mark.parametrize("name", ["a.smi", "a.txt", "a.smiles", "a.SMI", "my.set.v2.smi"])
@pytest.mark.parametrize("packing", ["", ".gz", ".GZ", ".bz2", ".xz", ".zst"])
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
    assert read(path, 1) == expected  # by number, a word of a header is none of the molecules


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
    assert list(read_molecules(write(tmp_path, "a.smi", "C\n"))) == [Line(1, "C", "train")]


# ---- one bad line costs that line


def test_bytes_that_are_not_utf8_are_windows_1252(tmp_path, capsys):
    names = "name;smiles;Löslichkeit\r\nMüller€1;CC;1,5\r\n"  # as Excel saves it
    path = write(tmp_path, "a.csv", names.encode("cp1252") + "Groß;O;µ\r\n".encode())
    file = MoleculeFile(path, keep=["Löslichkeit"])
    assert [(line.name, line.smiles, dict(line.values)) for line in file] == [
        ("Müller€1", "CC", {"Löslichkeit": "1,5"}),
        ("Groß", "O", {"Löslichkeit": "µ"}),
    ]
    assert capsys.readouterr().err.count("read as Windows-1252") == 1
    path = write(tmp_path, "a.smi", b"CC\nC\xff\x81O\nO")
    assert read(path) == [(1, "CC"), (2, "Cÿ�O"), (3, "O")]
    column = pa.array([b"CC", b"C\xff", b"O"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"smiles": column}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [(1, "CC"), (2, "C�"), (3, "O")]


def test_an_open_quote_costs_its_line_and_not_those_behind_it(tmp_path):
    rows = 'smiles,name\nCC,"plain"\nCO,a 5" nail\n"CN,open\nCF,"a, b"\n"C(C)C","x ""y"""\n'
    path = write(tmp_path, "a.csv", rows)
    assert read(path) == [(2, "CC"), (3, "CO"), (4, "CN,open"), (5, "CF"), (6, "C(C)C")]
    names = [line.name for line in read_molecules(path)]
    assert names == ["plain", 'a 5" nail', None, "a, b", 'x "y"']


def test_a_very_long_cell_costs_its_line(tmp_path):
    path = write(tmp_path, "a.csv", 'smiles,x\nCC,1\n"' + "C" * 200_000 + '",2\nO,3\n')
    lines = read(path)
    assert (lines[0], lines[2]) == ((2, "CC"), (4, "O"))
    assert len(lines[1][1]) == 200_000


def test_line_ends_byte_order_marks_and_a_missing_last_newline(tmp_path):
    assert read(write(tmp_path, "a.smi", "\ufeffCC\r\nO")) == [(1, "CC"), (2, "O")]
    assert read(write(tmp_path, "a.csv", "\ufeffSMILES,x\r\nCC,1\r\nO,2")) == [(2, "CC"), (3, "O")]
    assert read(write(tmp_path, "b.smi", "CC\rO\r")) == [(1, "CC"), (2, "O")]


# ---- a file that cannot be read is one clear error


def test_a_format_that_neither_name_nor_content_tells(tmp_path):
    path = write(tmp_path, "a.yaml", "kind: posttrain\nseed: 1\n")
    with pytest.raises(InputError, match=r"a\.yaml: neither its name .* \.smi, .*\.parquet.*\.zst"):
        read(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04xxxx", "zip archive or an Excel"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"a.smi".ljust(257, b"\0") + b"ustar\x0000", "an archive: unpack it, and give one"),
        (b"ARROW1\0\0", "Feather"),
        (b"\x80\x04\x95\0", "pickle"),
        (b"\r\n <!DOCTYPE html>\n<html><body>404</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
        (bytes(range(256)) * 20, "no text"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path, content, what):
    for name in ("a.xlsx", "a.csv", "a", "a.smi.gz"):
        with pytest.raises(InputError, match=what):
            read(write(tmp_path, name, content))


def test_what_is_compressed_twice_or_need_not_be_is_named(tmp_path):
    with pytest.raises(InputError, match="compressed twice"):
        read(write(tmp_path, "a.smi.gz", bz2.compress(b"CCO\n")))
    pd.DataFrame({"smiles": ["CC"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="a Parquet file: give it as it is"):
        read(write(tmp_path, "a.parquet.gz", (tmp_path / "a.parquet").read_bytes()))


def test_devices_are_refused():
    with pytest.raises(InputError, match="/dev/zero: this is a device"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["a.smi", "a.csv.gz", "a.parquet"])
def test_a_missing_file_and_a_folder(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match=rf"{name}: cannot be read .*[Nn]o such"):
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


# ---- compression


@pytest.mark.parametrize("ending", PACKERS)
def test_what_is_compressed_is_seen_where_the_name_does_not_say_it(tmp_path, capsys, ending):
    path = tmp_path / f"set{ending[1:]}.smi"
    path.write_bytes(PACKERS[ending](b"CCO ethanol\n"))
    assert rows(path) == [("CCO", "ethanol")]
    assert "compressed with" in said(capsys)


@pytest.mark.parametrize("ending", PACKERS)
def test_archives_of_several_members_are_read_to_the_end(tmp_path, ending):
    path = tmp_path / f"a.smi{ending}"
    path.write_bytes(PACKERS[ending](b"CCO\nCC\n") + PACKERS[ending](b"N\n"))
    assert smiles(path) == ["CCO", "CC", "N"]


@pytest.mark.parametrize("ending", PACKERS)
def test_truncated_and_foreign_archives(tmp_path, ending):
    lines = "".join(f"C{'N' * (i % 37)}{i}\n" for i in range(3000))
    path = write(tmp_path, f"a.smi{ending}", lines)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"damaged \w+ file .*Copy it again"):
        read(path)
    path.write_bytes(b"CCO\n")
    with pytest.raises(InputError, match=r"damaged \w+ file .*not compressed so.* correct its end"):
        read(path)


def test_an_archive_under_the_name_of_another_names_it(tmp_path):
    path = tmp_path / "a.smi.gz"
    path.write_bytes(bz2.compress(b"CCO\n"))
    with pytest.raises(InputError, match=r"damaged gzip file \(its content is bzip2\)"):
        read(path)


@pytest.mark.parametrize("opener", [gzip.open, partial(lzma.open, preset=0)], ids=["gz", "xz"])
def test_an_archive_of_one_line_takes_little_memory(tmp_path, opener):
    """A line has no end before the file has; 70 MB are more than a line may have."""
    path = tmp_path / "long.smi"
    with opener(path, "wb") as stream:
        for _ in range(70):
            stream.write(b"C" * 10**6)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"smi:1: the line goes on for more than 64 million"):
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 * 2**20  # bytes


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_a_process_stays_small_whatever_the_compression(tmp_path, ending):
    path = tmp_path / f"long.smi{ending}"
    opener = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(ending)
    with opener(path, "wb") if opener else pa.output_stream(str(path), "zstd") as stream:
        for _ in range(200):
            stream.write(b"C" * 10**6)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from chemkl.config import InputError\n"
        "from chemkl.files.molecules import read_molecules\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    list(read_molecules(Path(sys.argv[1])))\n"
        "except InputError as error:\n"
        "    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 2**10)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    message, growth = ended.stdout.splitlines()
    assert "the line goes on for more than 64 million characters" in message
    assert int(growth) < 100  # MiB


def test_a_line_beyond_the_limit_is_one_bad_row(tmp_path):
    path = write(tmp_path, "a.smi.gz", "CCO\n" + "C" * (2**20 + 5) + "\nN\n")
    first, long, last = read_molecules(path)
    assert (first.smiles, long.smiles, last.smiles) == ("CCO", None, "N")
    assert (long.number, last.number) == (2, 3)
    assert long.reason == "too long: the line has more than 1,048,576 characters"


# ---- encodings and line ends


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.smi", "a.csv", "a.csv.gz"])
def test_byte_order_marks_are_understood(tmp_path, encoding, name):
    text = "CCO\tä\n" if name == "a.smi" else "smiles,name\nCCO,ä\n"
    assert rows(write(tmp_path, name, text.encode(encoding))) == [("CCO", "ä")]


@pytest.mark.parametrize("order", ["le", "be"])
def test_utf16_without_a_mark_is_named(tmp_path, order):
    path = write(tmp_path, "a.csv", "smiles\nCCO\n".encode(f"utf-16-{order}"))
    with pytest.raises(InputError, match=f"UTF-16 without .*iconv -f UTF-16{order.upper()}"):
        read(path)


def test_line_ends_may_be_mixed(tmp_path):
    assert read(write(tmp_path, "a.csv", "smiles\r\nCC\rO\nN\r")) == [(2, "CC"), (3, "O"), (4, "N")]


def test_zero_bytes_cost_their_line(tmp_path):
    assert smiles(write(tmp_path, "a.smi", b"CC\nC\0C\nN\n")) == ["CC", "C\0C", "N"]


# ---- delimiters


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt", ".smi", ".dat", ""])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_delimiter_is_seen_whatever_the_ending(tmp_path, capsys, ending, delimiter):
    lines = [("name", "SMILES", "pIC50, nM"), ("ethanol", "CCO", "5,1"), ("x", "CC", "6,3")]
    quote = '"{}"' if delimiter == "," else "{}"
    text = "".join(
        delimiter.join(quote.format(each) if "," in each else each for each in line) + "\r\n"
        for line in lines
    )
    path = write(tmp_path, f"a{ending}", text)
    assert rows(path) == [("CCO", "ethanol"), ("CC", "x")]
    usual = {".csv": ",", ".tsv": "\t"}.get(ending, "\t")
    assert ("to be separated by" in said(capsys)) == (delimiter != usual)


def test_excel_says_its_delimiter_in_the_first_line(tmp_path):
    path = write(tmp_path, "a.csv", "sep=;\nid;Smiles\n1;CCO\n")
    assert list(read_molecules(path)) == [Line(3, "CCO", name="1")]


def test_a_decimal_comma_is_no_delimiter(tmp_path):
    assert smiles(write(tmp_path, "a.csv", "CCO;5,0\nCC;6,1\n")) == ["CCO", "CC"]


def test_trailing_delimiters_and_blank_lines(tmp_path):
    path = write(tmp_path, "a.csv", "smiles,name,\nCCO,a,\n\nCC,b,\n")
    assert read(path) == [(2, "CCO"), (3, ""), (4, "CC")]


def test_a_quoted_cell_may_run_over_lines(tmp_path):
    path = write(tmp_path, "a.csv", 'name,smiles\n"two\nlines, ""so""",CCO\nx,CC\n')
    assert list(read_molecules(path)) == [
        Line(2, "CCO", name='two\nlines, "so"'),
        Line(4, "CC", name="x"),
    ]


def test_a_quote_that_closes_far_away_takes_no_other_line(tmp_path):
    body = '"CN,open\n' + "CC,x\n" * 30 + 'CO,"closed"\n'
    found = smiles(write(tmp_path, "a.csv", "smiles,name\n" + body))
    assert found[1:] == ["CC"] * 30 + ["CO"]


# ---- headers


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize("first", ["CCO", "C", '"C"', "CCO "])
def test_a_first_molecule_is_no_header(tmp_path, capsys, name, first):
    path = write(tmp_path, name, f"{first}\nCC\n")
    assert smiles(path) == [first.strip(' "'), "CC"]
    assert "so the file is taken to have no header" in said(capsys)
    assert smiles(path, 0) == [first.strip(' "'), "CC"]


@pytest.mark.parametrize(
    "header", ["smiles", "Smiles", "SMILES ", '"SMILES"', "canonical_smiles", "Canonical SMILES"]
)
def test_a_header_is_known_by_its_words(tmp_path, capsys, header):
    path = write(tmp_path, "a.csv", f"{header},name\nCCO,x\n")
    assert rows(path) == [("CCO", "x")]
    assert smiles(write(tmp_path, "b.csv", f"{header}\nCCO\n")) == ["CCO"]
    assert said(capsys) == ""


@pytest.mark.parametrize("header", ["smiles name", "#SMILES\tname", "# made today\n#smiles name"])
def test_a_smi_file_may_have_a_header_and_comments(tmp_path, capsys, header):
    path = write(tmp_path, "a.smi", f"{header}\nCCO ethanol\n")
    assert rows(path) == [("CCO", "ethanol")]
    assert "line 1 is taken for the header" in said(capsys)


def test_comments_stand_above_the_molecules_only(tmp_path, capsys):
    path = write(tmp_path, "a.smi", "# one\n# two\nCCO\n# three\n")
    assert read(path) == [(3, "CCO"), (4, "#")]
    assert "taken as comments (2)" in said(capsys)


def test_a_table_without_a_header_is_seen_by_its_molecules(tmp_path, capsys):
    path = write(tmp_path, "a.csv", "ethanol,CCO,1\nethane,CC,2\n,C(,3\n")
    assert smiles(path) == ["CCO", "CC", "C("]
    assert "its column 1 to be the SMILES" in said(capsys)
    assert rows(write(tmp_path, "b.csv", "CCO,ethanol\nCC,ethane\n"))[0] == ("CCO", "ethanol")
    assert smiles(write(tmp_path, "c.smi", "ethanol CCO\nethane CC\n")) == ["CCO", "CC"]


def test_several_columns_of_molecules_are_a_question(tmp_path):
    path = write(tmp_path, "a.csv", "CCO,CC\nCN,CO\n")
    with pytest.raises(InputError, match=r"2 columns hold molecules; .*`column`, by .*: 0, 1"):
        read(path)
    assert smiles(path, 1) == ["CC", "CO"]
    path = write(tmp_path, "b.csv", "smiles,SMILES\nCCO,CC\n")
    with pytest.raises(InputError, match=r"several columns are called smiles; say which"):
        read(path)
    assert smiles(path, 1) == ["CC"]


def test_a_header_that_is_a_molecule_can_be_named(tmp_path):
    path = write(tmp_path, "a.csv", "C\nCC\n")
    assert smiles(path, "C") == ["CC"]


def test_a_line_that_is_neither_molecule_nor_word_is_said_to_be_the_header(tmp_path, capsys):
    assert smiles(write(tmp_path, "a.csv", "ligands\nCC\n")) == ["CC"]
    assert "line 1, 'ligands', is taken for the header" in said(capsys)


def test_column_names_need_not_be_exact(tmp_path):
    path = write(tmp_path, "a.csv", "id, Product \n1,CC\n")
    assert smiles(path, "product") == ["CC"]


# ---- cells


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("CCO", ("CCO", None)),
        ("CCO ethyl alcohol", ("CCO", "ethyl alcohol")),
        ("CCO |$;;R1$|", ("CCO", None)),
        ("CCO |$;a b;R1$| ethanol", ("CCO", "ethanol")),
        ("CCO |open", ("CCO", "|open")),
    ],
)
def test_a_cell_has_a_smiles_an_extension_and_a_name_everywhere(tmp_path, cell, expected):
    assert rows(write(tmp_path, "a.smi", f"{cell}\n")) == [expected]
    assert rows(write(tmp_path, "a.csv", f"smiles\n{cell}\n")) == [expected]
    assert rows(write(tmp_path, "b.csv", f"{cell}\n")) == [expected]
    assert rows(write(tmp_path, "c.csv", f"smiles,x\n{cell},1\n")) == [expected]
    pd.DataFrame({"smiles": [cell]}).to_parquet(tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [expected]


def test_quotes_around_a_smiles_are_no_part_of_it_in_any_format(tmp_path):
    path = write(tmp_path, "a.smi", '"CCO" "ethyl alcohol"\n"CC |$;$|"\nN 5"-x\n')
    assert rows(path) == [("CCO", "ethyl alcohol"), ("CC", None), ("N", '5"-x')]


def test_a_name_with_a_comma_that_is_not_quoted_is_told_of_once(tmp_path, capsys):
    text = "smiles,name,x\nCC,ethane,1,\nCCO,2,4-D,7\nC,a,b,c\n"
    assert rows(write(tmp_path, "a.csv", text)) == [("CC", "ethane"), ("CCO", "2"), ("C", "a")]
    err = said(capsys)
    assert err.count("more cells than the first line has") == 1
    assert "a.csv:3: " in err


def test_columns_are_kept_in_order(tmp_path):
    text = "id,smiles,Name,x\n7,CCO,ethanol,0.50\n8,CC\n"
    file = MoleculeFile(write(tmp_path, "a.csv", text), keep=True)
    assert list(file.types.items()) == [(each, pa.string()) for each in ("id", "Name", "x")]
    assert [(line.name, line.values) for line in file] == [
        ("ethanol", {"id": "7", "Name": "ethanol", "x": "0.50"}),
        (None, {"id": "8", "Name": None, "x": None}),
    ]
    (one, _) = MoleculeFile(tmp_path / "a.csv", keep=["X"])
    assert one.values == {"x": "0.50"}
    with pytest.raises(InputError, match=r"no column 'Nam'; did you mean 'Name'"):
        MoleculeFile(tmp_path / "a.csv", keep=["Nam"])


def test_columns_of_parquet_keep_their_types(tmp_path):
    pd.DataFrame({"n": [1, 2], "smiles": ["C", "N"]}).to_parquet(tmp_path / "a.parquet")
    file = MoleculeFile(tmp_path / "a.parquet", keep=True)
    assert file.types == {"n": pa.int64()}
    assert [line.values for line in file] == [{"n": 1}, {"n": 2}]


def test_columns_of_parquet_that_share_a_name_are_refused(tmp_path):
    columns = [pa.array(["CC"]), pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.table(columns, names=["smiles", "x", "x"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"several columns are called 'x'; rename all but one"):
        read(tmp_path / "a.parquet")


def test_a_null_is_told_from_a_column_that_is_not_there(tmp_path):
    pq.write_table(pa.table({"smiles": ["C", None]}), tmp_path / "a.parquet")
    reasons = [line.reason for line in read_molecules(tmp_path / "a.parquet")]
    assert reasons == [None, "missing: the cell is null"]


def test_a_column_of_lists_is_refused(tmp_path):
    pq.write_table(pa.table({"smiles": [["C"], ["N"]]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"'smiles' holds list<.*expected SMILES as text"):
        read(tmp_path / "a.parquet")


# ---- SD files and JSON lines


def sd_file(*records):
    stream = io.StringIO()
    with Chem.SDWriter(stream) as writer:
        for text, title, properties in records:
            mol = Chem.MolFromSmiles(text)
            mol.SetProp("_Name", title)
            for key, value in properties.items():
                mol.SetProp(key, value)
            writer.write(mol)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["a.sdf", "a.sdf.gz", "a.sdf.xz", "a.dat"])
def test_sd_files(tmp_path, name):
    good = sd_file(("CCO", "ethanol", {"pIC50": "5.5", "note": "two\nlines"}))
    pentavalent = (
        sd_file(("CC", "bad", {"pIC50": "1"}))
        .replace(" C   0", " F   0", 1)
        .replace("  1  2  1  0", "  1  2  3  0")
    )
    path = write(tmp_path, name, good + "no record\n$$$$\n" + pentavalent + sd_file(("C", "", {})))
    file = MoleculeFile(path, keep=True)
    assert list(file.types) == ["pIC50", "note"]
    ethanol, broken, insane, methane = file
    assert ethanol == Line(1, "CCO", name="ethanol", values={"pIC50": "5.5", "note": "two\nlines"})
    assert (broken.smiles, broken.reason) == (None, "not parsable: RDKit cannot read this record")
    assert (insane.smiles, insane.name, insane.values["pIC50"]) == (None, "bad", "1")
    assert insane.reason.startswith("not sane: Explicit valence for atom # 0 F, 3")
    assert methane == Line(4, "C", values={"pIC50": None, "note": None})


def test_a_value_of_an_sd_file_goes_on_over_blank_lines(tmp_path):
    record = sd_file(("CCO", "", {"note": "NOTE", "ID": "9"}))
    path = write(tmp_path, "a.sdf", record.replace("NOTE", "one\n\n>10 uM\n\ntwo"))
    (line,) = MoleculeFile(path, keep=True)
    assert line.values == {"note": "one\n\n>10 uM\n\ntwo", "ID": "9"}
    assert line.name == "9"


def test_the_content_says_what_is_an_sd_file(tmp_path, capsys):
    path = write(tmp_path, "a.smi", sd_file(("CCO", "ethanol", {})))
    assert rows(path) == [("CCO", "ethanol")]
    assert "a.smi: taken for an SD file, by its content" in said(capsys)
    with pytest.raises(
        InputError, match=r"a\.sdf: no SD file, for its first lines have none of M "
    ):
        read(write(tmp_path, "a.sdf", "CCO ethanol\n"))


def test_a_property_of_an_sd_file_may_hold_the_smiles(tmp_path):
    path = write(tmp_path, "a.sdf", sd_file(("CCO", "", {"Parent": "CC"})))
    assert smiles(path, "parent") == ["CC"]
    with pytest.raises(InputError, match=r"no column 'parnt'; did you mean 'Parent'"):
        read(path, "parnt")


def test_json_lines(tmp_path):
    text = '{"id": 1, "smiles": "CCO"}\n\nnot\n{"smiles": null}\n'
    lines = list(read_molecules(write(tmp_path, "a.jsonl", text)))
    assert [(line.number, line.smiles, line.name) for line in lines] == [
        (1, "CCO", "1"), (3, None, None), (4, None, None)
    ]  # fmt: skip
    assert lines[1].reason.startswith("not JSON")


# ---- standard input


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"CCO ethanol\nCC\n", ["CCO", "CC"]),
        (b"id;smiles\n1;CCO\n", ["CCO"]),
        (gzip.compress(b"CCO\n"), ["CCO"]),
        (sd_file(("CCO", "", {})).encode(), ["CCO"]),
    ],
    ids=["lines", "table", "gzip", "sdf"],
)
def test_standard_input_is_read_by_its_content(monkeypatch, content, expected):
    monkeypatch.setattr(paths, "_copies", {})
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert smiles(Path("-")) == expected
    assert smiles(Path("-")) == expected  # what is read once can be read again


def test_a_pipe_is_read_more_than_once(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_copies", {})
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"CCO a\n",))
    writer.start()
    assert rows(pipe) == [("CCO", "a")]
    writer.join()
    assert rows(pipe) == [("CCO", "a")]


def test_a_terminal_is_no_file(monkeypatch):
    monkeypatch.setattr(paths, "_copies", {})
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    with pytest.raises(InputError, match="standard input is closed or a terminal; pipe"):
        smiles(Path("-"))
