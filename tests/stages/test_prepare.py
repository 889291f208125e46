"""The prepare stage: corpora from files with many faults."""

import gzip
import hashlib
import json
import zipfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from rdkit import Chem
from small_runs import killed_after, manifest_of

from chemkl.config import InputError
from chemkl.corpus import cleaning
from chemkl.corpus import files as sources
from chemkl.policies import tokenize
from chemkl.results.external import Wheel
from chemkl.stages import prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Some 1,000 real molecules in a file."""
    lines = (ROOT / "data" / "moses_sample.smi").read_text().splitlines()[:1000]
    path = tmp_path_factory.mktemp("many") / "many.smi"
    path.write_text("\n".join(lines) + "\n")
    return path


def config_for(path, **settings):
    source = {"kind": "file", "path": str(path), **settings.pop("source", {})}
    return {"source": source, "n_workers": 1, **settings}


def molecules(folder):
    return pd.read_parquet(folder / "corpus.parquet")


def dropped(folder):
    rows = pd.read_parquet(folder / "dropped.parquet")
    return list(zip(rows["line"], rows["text"], rows["reason"], strict=True))


def files_in(folder):
    """Return the names in a folder, without the lock."""
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock")


def of_file(tmp_path, text, out="out", **settings):
    """Prepare a file of these lines."""
    path = tmp_path / "a.smi"
    path.write_text(text)
    return prepare.run(config_for(path, **settings), tmp_path / out)


# ---- what it writes


def test_lines_become_clean_molecules_and_the_rest_has_reasons(tmp_path, capsys):
    path = tmp_path / "a.smi"
    lines = [
        b"OCC ethanol",
        b"C1CC unclosed",
        b"",
        b"c1ccccc1Br",
        b"C(C)O again",
        b"C\xff\xfeC bytes",
        b"C" * 200,
        b"CCN",
        b"[U]$[U]",
        b"c1ccccc1Br",
    ]
    path.write_bytes(b"\n".join(lines))
    out = prepare.run(config_for(path), tmp_path / "out")
    assert out == tmp_path / "out"
    table = molecules(out)
    assert table.columns.tolist() == ["smiles", "split", "line", "n_tokens", "name"]
    assert table.astype(object).where(table.notna(), None).values.tolist() == [
        ["CCO", "train", 1, 3, "ethanol"],
        ["Brc1ccccc1", "train", 4, 9, None],
        ["CCN", "train", 8, 3, None],
    ]
    assert dropped(out) == [
        (2, "C1CC", "not parsable: unclosed ring 1 opened at position 2"),
        (3, "", "empty"),
        (5, "C(C)O", "duplicate: of line 1"),
        (6, "CÿþC", "not ASCII: 'ÿ' at position 2"),  # read as Windows-1252
        (7, "C" * 200, "too many tokens: 200, at most 128"),
        (9, "[U]$[U]", "reserved token: $ marks where a sequence ends"),
        (10, "c1ccccc1Br", "duplicate: of line 4"),
    ]
    tokens = Counter(token for s in table["smiles"] for token in tokenize(s))
    assert json.loads((out / "tokens.json").read_text()) == dict(sorted(tokens.items()))
    text = capsys.readouterr().out
    assert "3 molecules, 6 tokens" in " ".join(text.split())
    for reason, n in [("kept in train", 3), ("dropped: duplicate", 2), ("dropped: empty", 1)]:
        assert any(reason in line and f" {n} " in line for line in text.splitlines())
    manifest = manifest_of(out)
    results = manifest["results"]
    assert (results["molecules"], results["splits"]) == (3, {"train": 3})
    first = ("empty", "not parsable", "not ASCII", "too many tokens", "reserved token")
    assert results["dropped"] == {"duplicate": 2} | dict.fromkeys(first, 1)
    assert manifest["inputs"]["source"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest["status"] == "complete"
    assert 0 < results["seconds"] < 60
    assert 50 < results["peak_memory_mib"] < 8000


def test_names_are_kept_from_tables_and_sd_files_and_left_out_where_there_are_none(tmp_path):
    (tmp_path / "a.csv").write_text("id;canonical_smiles\nx1;OCC\nx2;CC\n")
    table = molecules(prepare.run(config_for(tmp_path / "a.csv"), tmp_path / "csv"))
    assert table[["smiles", "name"]].values.tolist() == [["CCO", "x1"], ["CC", "x2"]]
    with Chem.SDWriter(str(tmp_path / "a.sdf")) as writer:
        mol = Chem.MolFromSmiles("OCC")
        mol.SetProp("_Name", "ethanol")
        writer.write(mol)
    table = molecules(prepare.run(config_for(tmp_path / "a.sdf"), tmp_path / "sdf"))
    assert table[["smiles", "name", "line"]].values.tolist() == [["CCO", "ethanol", 1]]
    table = molecules(of_file(tmp_path, "OCC\nCC\nC\n", limit=2))  # at most two lines are read
    assert table.columns.tolist() == ["smiles", "split", "line", "n_tokens"]
    assert table["line"].tolist() == [1, 2]


def test_molecules_are_canonical_unique_and_what_rdkit_makes_of_the_lines(tmp_path, many):
    (tmp_path / ".corpus.parquet.tmp").write_bytes(b"half a file")  # of a kill: does no harm
    prepare.run(config_for(many), tmp_path)
    expected = list(dict.fromkeys(map(Chem.CanonSmiles, many.read_text().split())))
    table = molecules(tmp_path)
    assert table["smiles"].tolist() == expected
    assert table["n_tokens"].tolist() == [len(tokenize(s)) for s in expected]
    tables = ["corpus.parquet", "dropped.parquet"]
    assert files_in(tmp_path) == [*tables, "log.jsonl", "manifest.json", "tokens.json"]


@pytest.mark.parametrize(
    "settings",
    [
        {"split": "random"},
        {"split": {"kind": "scaffold", "test": 0.2, "valid": 0.1}},
        {"standardise": [{"name": "default"}], "max_tokens": 30},
    ],
    ids=["random", "scaffold", "filters"],
)
def test_one_and_two_workers_write_the_same(tmp_path, many, monkeypatch, settings):
    monkeypatch.setattr(cleaning, "CHUNK", 90)
    for n in (1, 2):
        prepare.run(config_for(many, **settings) | {"n_workers": n}, tmp_path / str(n))
    for name in ("corpus.parquet", "dropped.parquet", "tokens.json"):
        first, two = (tmp_path / n / name for n in "12")
        assert first.read_bytes() == two.read_bytes()
    assert len(molecules(tmp_path / "1")) > 100


def test_filters_standardise_and_then_duplicates_are_found(tmp_path):
    text = "CC[C@H](N)C(=O)[O-].[Na+]\nCC[C@@H](N)C(=O)O\n[Na+].[Cl-]\nC[Si](C)C\n"
    filters = [
        {"name": "get_largest_fragment"},
        {"name": "neutralise_charges"},
        {"name": "allowed_atom_type", "parameters": {"element_list": [6, 7, 8]}},
    ]
    out = of_file(tmp_path, text, standardise=filters)
    assert molecules(out)["smiles"].tolist() == [Chem.CanonSmiles("CCC(N)C(=O)O")]
    reasons = [reason for _, _, reason in dropped(out)]
    assert reasons[0] == "duplicate: of line 1"
    assert reasons[1:] == ["dropped by filter allowed_atom_type"] * 2


def test_the_embedded_sample_is_what_its_config_makes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    prepare.run("configs/prepare/moses_sample.yaml", tmp_path)
    embedded = ROOT / "data" / "moses_sample"
    pd.testing.assert_frame_equal(molecules(tmp_path), molecules(embedded))
    tokens = json.loads((tmp_path / "tokens.json").read_text())
    assert tokens == json.loads((embedded / "tokens.json").read_text())


# ---- public corpora


@pytest.fixture
def small_moses(tmp_path, monkeypatch):
    """The MOSES source with a wheel of seven lines in a cache."""
    lines = {
        "train": ["OCC,train", "C1CC1,train", "C1CC,train"],
        "test": ["CCO", "CCN"],
        "test_scaffolds": ["C1CCC1", "NCC"],
    }
    path = tmp_path / "cache" / "molsets-0.3.1-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for split, rows in lines.items():
            packed = gzip.compress("\n".join(["SMILES,SPLIT", *rows]).encode())
            archive.writestr(f"moses/dataset/data/{split}.csv.gz", packed)
    wheel = Wheel("molsets", "0.3.1", hashlib.sha256(path.read_bytes()).hexdigest())
    members = [(wheel, *member[1:]) for member in sources._MEMBERS["moses"]]
    monkeypatch.setitem(sources._MEMBERS, "moses", members)
    return {"source": "moses", "cache": str(path.parent), "n_workers": 1}


def test_a_public_corpus_keeps_its_splits(tmp_path, small_moses):
    prepare.run(small_moses, tmp_path / "out")
    table = molecules(tmp_path / "out")[["smiles", "split", "line"]].values.tolist()
    of_train, rest = [["CCO", "train", 2], ["C1CC1", "train", 3]], [["CCN", "test", 3]]
    assert table == [*of_train, *rest, ["C1CCC1", "test_scaffolds", 2]]
    rows = pd.read_parquet(tmp_path / "out" / "dropped.parquet").values.tolist()
    assert rows == [
        [4, "train", "C1CC", "not parsable: unclosed ring 1 opened at position 2"],
        [2, "test", "CCO", "duplicate: of line 2 of train"],
        [3, "test_scaffolds", "NCC", "duplicate: of line 3 of test"],
    ]
    prepare.run(small_moses | {"split": "random"}, tmp_path / "new")
    rows = pd.read_parquet(tmp_path / "new" / "dropped.parquet")
    assert rows["split"].tolist() == ["train", "test", "test_scaffolds"]  # the source's own


# ---- what cannot be used


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": {"column": -1}}, r"source\.column: should be .*greater than or equal to 0"),
        ({"source": {"column": "mol"}}, r"column 'mol': this format has no header; give a column"),
        ({"source": {"path": "nowhere.smi"}}, r"source\.path: no such file or folder"),
        ({"split": {"kind": "random", "test": 0.6, "valid": 0.4}}, r"leave nothing to train on"),
        ({"split": {"kind": "scaffold", "test": 1.0}}, r"split.*test: should be less than 1"),
        ({"split": "scafold"}, r"'scafold' is not known; did you mean 'scaffold'\? Known: given"),
        ({"standardise": [{"name": "largest"}]}, r"filters\[0\]: unknown filter 'largest'.*Known:"),
        ({"max_token": 3}, r"max_token: not a known key; did you mean 'max_tokens'"),
        ({"source": {"kind": "zinc"}}, r"'zinc' is not known.* Known: chembl, chembl_sample, file"),
    ],
)
def test_a_mistake_is_one_clear_error_and_makes_no_folder(tmp_path, many, settings, message):
    with pytest.raises(InputError, match=message):
        prepare.run(config_for(many, **settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_breaks_off_leaves_no_half_corpus(tmp_path, many):
    path = tmp_path / "a.smi.gz"
    path.write_bytes(gzip.compress(many.read_bytes())[:-50])
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"a\.smi\.gz: damaged gzip file .*Copy it again"):
        prepare.run(config_for(path), out)
    assert files_in(out) == ["log.jsonl", "manifest.json"]
    assert manifest_of(out)["status"] == "failed"
    path.write_bytes(gzip.compress(many.read_bytes()))  # mended: the same folder will do
    prepare.run(config_for(path), out)
    assert manifest_of(out)["status"] == "complete"


def test_a_file_without_a_single_molecule_says_what_is_wrong_with_its_lines(tmp_path):
    expected = r"no line holds a usable molecule\. Reasons: 2 x not parsable \(first line 1: 'etha"
    with pytest.raises(InputError, match=expected):
        of_file(tmp_path, "ethanol\nmethanol\n\n")
    assert not (tmp_path / "out" / "corpus.parquet").exists()


def test_an_interrupted_run_leaves_no_half_corpus(tmp_path, many, monkeypatch):
    monkeypatch.setattr(cleaning, "CHUNK", 100)
    kill = killed_after(cleaning.Cleaner, "__call__", nth=4, before=True, error=KeyboardInterrupt)
    kill(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        prepare.run(config_for(many), tmp_path)
    assert files_in(tmp_path) == ["log.jsonl", "manifest.json"]
    assert manifest_of(tmp_path)["status"] == "interrupted"


@pytest.mark.slow
def test_all_of_moses_is_read_as_it_stands(tmp_path):
    prepare.run({"source": "moses"}, tmp_path)
    results = manifest_of(tmp_path)["results"]
    assert results["splits"] == {"train": 1_584_663, "test": 176_074, "test_scaffolds": 176_225}
    assert results["dropped"] == {}
