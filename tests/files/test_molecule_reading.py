"""Files of molecules of every kind: what is read, reported, and refused in one line."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from chemkl.config import InputError, paths
from chemkl.files.molecules import Line, MoleculeFile

PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


class Packed(bytes):
    """Bytes that `write` does not compress."""


def write(folder, name, content):
    """Write text, bytes or a table, compressed as the name says."""
    path = folder / name
    if isinstance(content, dict | pa.Table):
        pq.write_table(content if isinstance(content, pa.Table) else pa.table(content), path)
        return path
    data = content if isinstance(content, bytes) else content.encode()
    packed = data if isinstance(data, Packed) else PACKERS.get(path.suffix.lower(), bytes)(data)
    path.write_bytes(packed)
    return path


def numbered(path, column=None):
    return [(line.number, line.smiles) for line in MoleculeFile(path, column)]


def smiles(path, column=None):
    return [line.smiles for line in MoleculeFile(path, column)]


def named(path, column=None):
    return [(line.smiles, line.name) for line in MoleculeFile(path, column)]


# ---- formats


@pytest.mark.parametrize("name", ["a.smi", "a.txt", "a.smiles", "a.SMI", "my.set.v2.smi"])
@pytest.mark.parametrize("packing", ["", ".gz", ".GZ", ".bz2", ".xz", ".zst"])
def test_blank_separated_files(tmp_path, name, packing):
    path = write(tmp_path, name + packing, "CCO ethanol\nC\tmethane\n\nN\n")
    assert numbered(path) == [(1, "CCO"), (2, "C"), (3, ""), (4, "N")]
    assert numbered(path, 1) == [(1, "ethanol"), (2, "methane"), (3, ""), (4, None)]


@pytest.mark.parametrize(
    ("ending", "d"), [("csv", ","), ("tsv", "\t"), ("csv.gz", ","), ("CSV", ",")]
)
def test_delimited_files(tmp_path, ending, d):
    text = "name,SMILES,x\na,CCO,1\nb,,2\nc\n\ne, N ,\n".replace(",", d)
    path = write(tmp_path, f"a.{ending}", text)
    expected = [(2, "CCO"), (3, ""), (4, None), (5, ""), (6, "N")]
    assert numbered(path) == expected
    assert numbered(path, "SMILES") == expected
    assert numbered(path, "name") == [(2, "a"), (3, "b"), (4, "c"), (5, ""), (6, "e")]
    assert numbered(path, 1) == expected  # by number the header is skipped too


def test_parquet_files(tmp_path):
    path = write(tmp_path, "a.parquet", {"id": [1, 2], "Smiles": [" N ", None], "x": ["a", ""]})
    assert numbered(path) == numbered(path, 1) == [(1, "N"), (2, None)]
    assert (numbered(path, "x"), numbered(path, "id")) == (
        [(1, "a"), (2, "")],
        [(1, "1"), (2, "2")],
    )
    assert [line.reason for line in MoleculeFile(path)] == [None, "missing: the cell is null"]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view(),
     pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)  # fmt: skip
def test_text_of_any_arrow_type(tmp_path, kind):
    table = pa.table({"smiles": pa.array(["CC", "O", None, "CC"]).cast(kind)})
    assert smiles(write(tmp_path, "a.parquet", table)) == ["CC", "O", None, "CC"]


def test_json_lines(tmp_path):
    text = '{"id": 1, "smiles": "CCO"}\n\nnot\n[1]\n{"smiles": null}\n{"x": 1}\n'
    lines = list(MoleculeFile(write(tmp_path, "a.jsonl", text)))
    assert [line[:2] for line in lines] == [(1, "CCO"), (3, None), (4, None), (5, None), (6, None)]
    assert [line.name for line in lines] == ["1", None, None, None, None]
    whys = ("not JSON", "expected an object", "missing: the cell is null", "missing: the line has")
    assert all(line.reason.startswith(why) for line, why in zip(lines[1:], whys, strict=True))


@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_files_are_recognised_and_read_to_the_end(tmp_path, capsys, ending):
    path = tmp_path / "a.smi"
    path.write_bytes(PACKERS[ending](b"CCO ethanol\nCC\n") + PACKERS[ending](b"N\n"))
    assert named(path) == [("CCO", "ethanol"), ("CC", None), ("N", None)]
    assert "decompressed with" in capsys.readouterr().err


# ---- texts: what is read by name and content, and what is reported


LONG = "C" * 200_000
FAR = "\n".join(['"CN,open', *["CC,x"] * 30, 'CO,"closed"'])
READINGS = {
    # name, content, (line, SMILES, name) of each molecule, part of the report
    "the only column": ("a.csv", "ligands\nCC\nO\n", [(2, "CC", None), (3, "O", None)],
        "line 1, 'ligands', is read as the header"),
    "zero bytes": ("a.smi", b"C\0C\nN\n", [(1, "C\0C", None), (2, "N", None)], ""),
    "Windows-1252": ("a.smi", b"C\xff\x81O\nO", [(1, "Cÿ\ufffdO", None), (2, "O", None)],
        "read as Windows-1252"),
    "a mark, CRLF, no last end": ("a.csv", "\ufeffSMILES,name\r\nCC,1\r\nO,2",
        [(2, "CC", "1"), (3, "O", "2")], ""),
    "CR": ("a.smi", "\ufeffCC\rO\r", [(1, "CC", None), (2, "O", None)], ""),
    "mixed line ends": ("a.csv", "smiles\r\nCC\rO\nN\r",
        [(2, "CC", None), (3, "O", None), (4, "N", None)], ""),
    "Excel's delimiter": ("a.csv", "sep=;\nid;Smiles\n1;CCO\n", [(3, "CCO", "1")], ""),
    "a decimal comma": ("a.csv", "CCO;5,0\nCC;6,1\n", [(1, "CCO", "5,0"), (2, "CC", "6,1")],
        "separated by semicolons"),
    "trailing delimiters and blank lines": ("a.csv", "smiles,name,\nCCO,a,\n\nCC,b,\n",
        [(2, "CCO", "a"), (3, "", None), (4, "CC", "b")], ""),
    "commas in a .smi, a line short": ("a.smi", "smiles,name\nCCO,a\nCCN,b\nCCC\n",
        [(2, "CCO", "a"), (3, "CCN", "b"), (4, "CCC", None)], "separated by commas"),
    "commas in a .smi, a line long": ("a.txt", "smiles,name\nCCO,a\nCCN,b\nCCC,c,d\n",
        [(2, "CCO", "a"), (3, "CCN", "b"), (4, "CCC", "c")], "separated by commas"),
    "semicolons in a .smi, no header": ("a.smi", "CCO;a\nCCN;b\nCCC\nCCCC;d\n",
        [(1, "CCO", "a"), (2, "CCN", "b"), (3, "CCC", None), (4, "CCCC", "d")],
        "separated by semicolons"),
    "commas in names of a .smi": ("a.smi", "CCO 1,2-a\nCCN b,c\nCCC\n",
        [(1, "CCO", "1,2-a"), (2, "CCN", "b,c"), (3, "CCC", None)], ""),
    "a very long cell": ("a.csv", f'smiles,x\n"{LONG}",2\nO,3\n',
        [(2, LONG, None), (3, "O", None)], ""),
    "quotes open and closed": ("a.csv",
        'smiles,name\nCC,"plain"\nCO,a 5" nail\n"CN,open\nCF,"a, b"\n"C(C)C","x ""y"""\n',
        [(2, "CC", "plain"), (3, "CO", 'a 5" nail'), (4, "CN,open", None), (5, "CF", "a, b"),
         (6, "C(C)C", 'x "y"')], ""),
    "a quoted cell over lines": ("a.csv", 'name,smiles\n"two\nlines, ""so""",CCO\nx,CC\n',
        [(2, "CCO", 'two\nlines, "so"'), (4, "CC", "x")], ""),
    "a quote that closes far away": ("a.csv", f"smiles,name\n{FAR}\n",
        [(2, "CN,open", None), *((n, "CC", "x") for n in range(3, 33)), (33, "CO", "closed")], ""),
    "quotes in a .smi": ("a.smi", '"CCO" "ethyl alcohol"\n"CC |$;$|"\nN 5"-x\n',
        [(1, "CCO", "ethyl alcohol"), (2, "CC", None), (3, "N", '5"-x')], ""),
    "a header in a .smi": ("a.smi", "smiles name\nCCO ethanol\n", [(2, "CCO", "ethanol")],
        "line 1 is read as the header"),
    "a header behind #": ("a.smi", "#SMILES\tname\nCCO ethanol\n", [(2, "CCO", "ethanol")],
        "line 1 is read as the header"),
    "a header below a comment": ("a.smi", "# made today\n#smiles name\nCCO ethanol\n",
        [(3, "CCO", "ethanol")], "line 1 is read as the header"),
    "comments above alone": ("a.smi", "# one\n# two\nCCO\n# three\n",
        [(3, "CCO", None), (4, "#", "three")], "read as comments (2)"),
    "no header, molecules in the second column": ("a.csv", "ethanol,CCO,1\nethane,CC,2\n,C(,3\n",
        [(1, "CCO", "1"), (2, "CC", "2"), (3, "C(", "3")], "with the SMILES in column 1"),
    "no header, names behind": ("a.csv", "CCO,ethanol\nCC,ethane\n",
        [(1, "CCO", "ethanol"), (2, "CC", "ethane")], "so the file is read without a header"),
    "the second word of a .smi": ("a.smi", "ethanol CCO\nethane CC\n",
        [(1, "CCO", None), (2, "CC", None)], "read from column 1, which holds"),
    "UTF-8 and Windows-1252": ("a.csv", "smiles;name\nCC;Müller€1\n".encode("cp1252")
        + "O;Groß\n".encode(), [(2, "CC", "Müller€1"), (3, "O", "Groß")], "read as Windows-1252"),
    "a name with a comma": ("a.csv", "smiles,name,x\nCC,ethane,1,\nCCO,2,4-D,7\nC,a,b,c\n",
        [(2, "CC", "ethane"), (3, "CCO", "2"), (4, "C", "a")], "a.csv:3: more cells than"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "lines", "report"), READINGS.values(), ids=[*READINGS])
def test_texts_are_read_with_a_report(tmp_path, capsys, name, content, lines, report):
    path = write(tmp_path, name, content)
    assert [(line.number, line.smiles, line.name) for line in MoleculeFile(path)] == lines
    err = capsys.readouterr().err
    assert bool(err) == bool(report)
    assert err.count(report or "?") == bool(report)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt", ".smi", ".dat", ""])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_recognised_whatever_the_ending(tmp_path, capsys, ending, delimiter):
    lines = [("name", "SMILES", "pIC50, nM"), ("ethanol", "CCO", "5,1"), ("x", "CC", "6,3")]
    if delimiter == ",":
        lines = [[f'"{cell}"' if "," in cell else cell for cell in line] for line in lines]
    text = "".join(delimiter.join(line) + "\r\n" for line in lines)
    assert named(write(tmp_path, f"a{ending}", text)) == [("CCO", "ethanol"), ("CC", "x")]
    usual = {".csv": ","}.get(ending, "\t")
    assert ("columns separated by" in capsys.readouterr().err) == (delimiter != usual)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize("first", ["CCO", "C", '"C"', "CCO "])
def test_a_first_molecule_is_not_a_header_unless_it_is_named(tmp_path, capsys, name, first):
    path = write(tmp_path, name, f"{first}\nCC\n")
    plain = first.strip(' "')
    assert smiles(path) == smiles(path, 0) == [plain, "CC"]
    assert "so the file is read without a header" in capsys.readouterr().err
    assert smiles(path, plain) == ["CC"]


@pytest.mark.parametrize(
    "header", ["smiles", "Smiles", "SMILES ", '"SMILES"', "canonical_smiles", "Canonical SMILES"]
)
def test_a_header_is_recognised_by_its_words(tmp_path, capsys, header):
    assert named(write(tmp_path, "a.csv", f"{header},name\nCCO,x\n")) == [("CCO", "x")]
    assert smiles(write(tmp_path, "b.csv", f"{header}\nCCO\n")) == ["CCO"]
    assert capsys.readouterr().err == ""


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
    texts = {
        "a.smi": f"{cell}\n", "a.csv": f"smiles\n{cell}\n", "b.csv": f"{cell}\n",
        "c.csv": f"smiles,x\n{cell},1\n", "a.parquet": {"smiles": [cell]},
    }  # fmt: skip
    for name, content in texts.items():
        assert named(write(tmp_path, name, content)) == [expected]


# ---- further columns


def test_further_columns_are_read_in_order(tmp_path):
    path = write(tmp_path, "a.csv", "id,smiles,Name,x\n7,CCO,ethanol,0.50\n8,CC\n")
    file = MoleculeFile(path, keep=True)
    assert list(file.types.items()) == [(name, pa.string()) for name in ("id", "Name", "x")]
    assert list(file) == [
        Line(2, "CCO", name="ethanol", values={"id": "7", "Name": "ethanol", "x": "0.50"}),
        Line(3, "CC", values={"id": "8", "Name": None, "x": None}),
    ]
    assert next(iter(MoleculeFile(path, keep=["X"]))).values == {"x": "0.50"}
    with pytest.raises(InputError, match=r"no column 'Nam'; did you mean 'Name'"):
        MoleculeFile(path, keep=["Nam"])
    path = write(tmp_path, "a.parquet", {"n": [1, 2], "smiles": ["C", "N"]})
    file = MoleculeFile(path, keep=True)
    assert file.types == {"n": pa.int64()}
    assert [line.values for line in file] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "cp1252"])
@pytest.mark.parametrize("name", ["a.smi", "a.csv", "a.csv.gz"])
def test_encodings_are_understood(tmp_path, encoding, name):
    text = "CCO\tä€1\nO Groß\n" if name == "a.smi" else "smiles,name\nCCO,ä€1\nO,Groß\n"
    path = write(tmp_path, name, text.encode(encoding))
    assert named(path) == [("CCO", "ä€1"), ("O", "Groß")]
    column = pa.array([b"CC", b"C\xff"]).cast(pa.string(), safe=False)
    assert smiles(write(tmp_path, "a.parquet", {"smiles": column})) == ["CC", "C\ufffd"]


def test_the_default_split_and_inexact_columns(tmp_path):
    assert list(MoleculeFile(write(tmp_path, "a.smi", "C\n"))) == [Line(1, "C", "train")]
    assert smiles(write(tmp_path, "a.csv", "id, Product \n1,CC\n"), "product") == ["CC"]
    assert smiles(write(tmp_path, "a.csv", "CCO,CC\nCN,CO\n"), 1) == ["CC", "CO"]
    assert smiles(write(tmp_path, "a.csv", "smiles,SMILES\nCCO,CC\n"), 1) == ["CC"]
    # lines of text differ in length, so each one without the cell is a bad line
    assert numbered(write(tmp_path, "a.smi", "CC\n"), 1) == [(1, None)]


# ---- a file that cannot be read is one clear error


def parquet(smiles):
    stream = pa.BufferOutputStream()
    pq.write_table(pa.table({"smiles": smiles}), stream)
    return stream.getvalue().to_pybytes()


PACKED_PARQUET, MANY = parquet(["CC"]), parquet([f"C{'N' * (i % 50)}" for i in range(5000)])
DAMAGED_PAGE = MANY[:4] + b"\0" * 196 + MANY[200:]
GZIP = gzip.compress(b"smiles\n" + b"".join(b"C" * i + b"\n" for i in range(1, 300)))
WRONG_CHECKSUM = Packed(GZIP[:-6] + bytes([GZIP[-6] ^ 0xFF]) + GZIP[-5:])
TABLE = "structure,id\nCC,1\n"
REFUSED = {
    # name, content, column, message
    "no format": ("a.yaml", "kind: posttrain\nseed: 1\n", None,
        r"a\.yaml: neither its name .* \.smi, .*\.parquet.*\.zst"),
    "twice compressed": ("a.smi.gz", bz2.compress(b"CCO\n"), None, "compressed twice"),
    "packed Parquet": ("a.parquet.gz", PACKED_PARQUET, None, "a Parquet file: give it without"),
    "empty": ("a.smi", "", None, r"a\.smi: .*empty; expected"),
    "empty table": ("a.csv", "", None, r"a\.csv: .*empty; expected"),
    "empty archive": ("a.smi.gz", "", None, r"a\.smi\.gz: .*empty; expected"),
    "no rows": ("a.csv", "smiles,x\n", None, "has a header but no rows"),
    "no rows of Parquet": ("a.parquet", {"smiles": pa.array([], pa.string())}, None,
        r"a\.parquet: the file has a header but no rows"),
    "empty Parquet": ("a.parquet", b"", None, r"a\.parquet: not a readable Parquet file"),
    "text as Parquet": ("a.parquet", b"smiles\nCC\n", None, "not a readable Parquet file"),
    "bad Parquet": ("a.parquet", b"PAR1PAR1PAR1PAR1", None, "not a readable Parquet file"),
    "no such name": ("a.csv", TABLE, None, "no column is called smiles; .*Known: structure, id"),
    "no such name in Parquet": ("a.parquet", {"structure": ["CC"], "id": [1]}, None,
        "no column is called smiles; choose .*Known: structure, id"),
    "a near name": ("a.csv", TABLE, "structur", r"no column 'structur'; did you mean 'structure'"),
    "a near name in Parquet": ("a.parquet", {"structure": ["CC"], "id": [1]}, "structur",
        r"no column 'structur'; did you mean 'structure'\? Known"),
    "a number too large": ("a.parquet", {"smiles": ["CC"]}, 1,
        r"no column 1: there are 1, counted from 0\. Known: smil"),
    "a number too large in CSV": ("a.csv", TABLE, 3, r"no column 3: there are 2, counted from 0\."),
    "a name without header": ("a.smi", "CC\n", "smiles", "'smiles': this format has no header"),
    "a blank first line": ("a.csv", "\nsmiles\nCC\n", None, "the first line is empty; expected"),
    "two columns of molecules": ("a.csv", "CCO,CC\nCN,CO\n", None,
        "2 columns hold molecules; .*`column`, by .*: 0, 1"),
    "two columns of a name": ("a.csv", "smiles,SMILES\nCCO,CC\n", None,
        "several columns are called smiles; choose one"),
    "twins in Parquet": ("a.parquet",
        pa.table([pa.array(["CC"]), pa.array(["a"]), pa.array(["b"])], names=["smiles", "x", "x"]),
        None, "several columns are called 'x'; rename all but one"),
    "a column of lists": ("a.parquet", {"smiles": [["C"], ["N"]]}, None,
        "'smiles' holds list<.*expected SMILES as text"),
    "a damaged page": ("a.parquet", DAMAGED_PAGE, None, "not a readable Parquet file"),
    "a wrong checksum": ("a.csv.gz", WRONG_CHECKSUM, None, "damaged gzip file .*Copy it again"),
    "another compression": ("a.csv.gz", Packed(bz2.compress(b"CCO\n")), None,
        r"damaged gzip file \(its content is bzip2\)"),
    "no SD file": ("a.sdf", "CCO ethanol\n", None, "not an SD file: .* none of M "),
    "UTF-16": ("a.csv", "smiles\nCCO\n".encode("utf-16-le"), None, "without .*iconv -f UTF-16LE"),
    "UTF-16, big end first": ("a.csv", "smiles\nCCO\n".encode("utf-16-be"), None, "-f UTF-16BE"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "column", "why"), REFUSED.values(), ids=[*REFUSED])
def test_unreadable_files_are_refused(tmp_path, name, content, column, why):
    path = write(tmp_path, name, content)
    with pytest.raises(InputError, match=why) as caught:
        numbered(path, column)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04xxxx", "zip archive or an Excel"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"a.smi".ljust(257, b"\0") + b"ustar\x0000", "an archive: unpack it and give one"),
        (b"ARROW1\0\0", "Feather"),
        (b"\x80\x04\x95\0", "pickle"),
        (b"\r\n <!DOCTYPE html>\n<html><body>404</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
        (bytes(range(256)) * 20, "not text"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path, content, what):
    for name in ("a.xlsx", "a.csv", "a", "a.smi.gz"):
        with pytest.raises(InputError, match=what):
            numbered(write(tmp_path, name, content))


@pytest.mark.parametrize("name", ["a.smi", "a.csv.gz", "a.parquet"])
def test_missing_files_and_folders_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=rf"{name}: cannot be read .*[Nn]o such"):
        numbered(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=rf"{name}: this is a folder; expected a file"):
        numbered(tmp_path / name)


# ---- damaged and very long compressed files


@pytest.mark.parametrize("ending", PACKERS)
def test_truncated_and_foreign_compressed_files(tmp_path, ending):
    lines = "".join(f"C{'N' * (i % 37)}{i}\n" for i in range(3000))
    path = write(tmp_path, f"a.smi{ending}", lines)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"damaged \w+ file .*Copy it again"):
        numbered(path)
    path.write_bytes(b"CCO\n")
    with pytest.raises(InputError, match=r"damaged \w+ file .*is not .* correct its end"):
        numbered(path)


@pytest.mark.parametrize("opener", [gzip.open, lzma.open], ids=["gz", "xz"])
def test_a_compressed_file_of_one_line_takes_little_memory(tmp_path, opener):
    """The line ends with the file; 70 MB are more than a line may have."""
    short = write(tmp_path, "a.smi.gz", "CCO\n" + "C" * (2**20 + 5) + "\nN\n")
    first, long, last = MoleculeFile(short)
    assert (first.smiles, long.smiles, last.smiles, last.number) == ("CCO", None, "N", 3)
    assert long.reason == "too long: the line has more than 1,048,576 characters"
    path = tmp_path / "long.smi"
    with opener(path, "wb", **({"preset": 0} if opener is lzma.open else {})) as stream:
        for _ in range(70):
            stream.write(b"C" * 10**6)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"smi:1: the line has more than 64 million"):
            numbered(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 * 2**20  # bytes


READ_AND_MEASURE = """
import resource, sys
from pathlib import Path
from chemkl.config import InputError
from chemkl.files.molecules import MoleculeFile
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    list(MoleculeFile(Path(sys.argv[1])))
except InputError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 2**10)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", PACKERS)
def test_a_process_stays_small_whatever_the_compression(tmp_path, ending):
    path = tmp_path / f"long.smi{ending}"
    opener = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(ending)
    with opener(path, "wb") if opener else pa.output_stream(str(path), "zstd") as stream:
        for _ in range(200):
            stream.write(b"C" * 10**6)
    command = [sys.executable, "-c", READ_AND_MEASURE, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    message, growth = ended.stdout.splitlines()
    assert "the line has more than 64 million characters" in message
    assert int(growth) < 100  # MiB


# ---- SD files


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


@pytest.mark.parametrize("name", ["a.sdf", "a.sdf.gz", "a.sdf.xz", "a.dat", "a.smi"])
def test_sd_files(tmp_path, capsys, name):
    good = sd_file(("CCO", "ethanol", {"pIC50": "5.5", "note": "two\nlines"}))
    pentavalent = (
        sd_file(("CC", "bad", {"pIC50": "1"}))
        .replace(" C   0", " F   0", 1)
        .replace("  1  2  1  0", "  1  2  3  0")
    )
    path = write(tmp_path, name, good + "no record\n$$$$\n" + pentavalent + sd_file(("C", "", {})))
    file = MoleculeFile(path, keep=True)
    assert list(file.types) == ["pIC50", "note"]
    report = "read as an SD file, because of its content"
    assert (report in capsys.readouterr().err) is (name in ("a.dat", "a.smi"))
    ethanol, broken, insane, methane = file
    assert ethanol == Line(1, "CCO", name="ethanol", values={"pIC50": "5.5", "note": "two\nlines"})
    assert (broken.smiles, broken.reason) == (None, "not parsable: RDKit cannot read this record")
    assert (insane.smiles, insane.name, insane.values["pIC50"]) == (None, "bad", "1")
    assert insane.reason.startswith("not sane: Explicit valence for atom # 0 F, 3")
    assert methane == Line(4, "C", values={"pIC50": None, "note": None})
    record = sd_file(("CCO", "", {"note": "NOTE", "Parent": "CC", "ID": "9"}))
    path = write(tmp_path, name, record.replace("NOTE", "one\n\n>10 uM\n\ntwo"))  # blank lines
    (line,) = MoleculeFile(path, keep=["note", "ID"])
    assert (line.values, line.name) == ({"note": "one\n\n>10 uM\n\ntwo", "ID": "9"}, "9")
    assert smiles(path, "parent") == ["CC"]
    with pytest.raises(InputError, match=r"no column 'parnt'; did you mean 'Parent'"):
        numbered(path, "parnt")


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
    assert smiles(Path("-")) == expected  # it can be read again


def test_devices_are_refused_and_pipes_are_read_more_than_once(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_copies", {})
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"CCO a\n",))
    writer.start()
    assert named(pipe) == [("CCO", "a")]
    writer.join()
    assert named(pipe) == [("CCO", "a")]
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    with pytest.raises(InputError, match="standard input is closed or a terminal; pipe"):
        smiles(Path("-"))
    with pytest.raises(InputError, match="/dev/zero: this is a device"):
        numbered(Path("/dev/zero"))
