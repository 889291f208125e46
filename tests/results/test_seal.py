"""Checksums inside files: any flipped bit is refused, and other readers are not affected."""

import hashlib
import io
import json
import os
import random
import subprocess
import zipfile

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from chemkl.config import InputError
from chemkl.config.paths import shipped_names, shipped_root
from chemkl.results import Manifest, seal, write_bytes, write_json, write_parquet
from chemkl.results.atomic import atomic_file, atomic_folder
from chemkl.results.seal import (
    SEAL,
    SUMS,
    check_seal,
    check_sums,
    is_whole,
    note_of,
    sha256_of_file,
)

TABLE = pa.table({"smiles": ["CCO", "c1ccccc1"] * 40, "reward": [0.25, 0.5] * 40})


def checkpoint(path):
    with atomic_file(path, sealed=True, note="step 50") as draft:
        torch.save({"weight": torch.arange(30.0), "step": 50}, draft)


WRITERS = {
    "a.parquet": lambda path: write_parquet(path, TABLE),
    "last.ckpt": checkpoint,
    "manifest.json": lambda path: write_json(path, {"status": "running", "n": 3}, sealed=True),
}


@pytest.fixture(params=WRITERS)
def sealed(request, tmp_path):
    path = tmp_path / request.param
    WRITERS[request.param](path)
    return path


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_flipped_bit_is_refused(sealed):
    content = sealed.read_bytes()
    check_seal(sealed)
    digest = content.split(b"chemkl-sha256:")[1][:64]  # of the file with zeros in its place
    plain = content.replace(digest, b"0" * 64)
    assert hashlib.sha256(plain).hexdigest().encode() == digest
    n_bits = 8 * len(content)
    at_seal = content.index(SEAL[:14])  # all of its bits, and all around it
    near = range(8 * max(0, at_seal - 40), min(n_bits, 8 * (at_seal + len(SEAL) + 40)))
    bits = {*near, *random.Random(0).sample(range(n_bits), 600), *range(64)}
    changed = [flipped(content, bit) for bit in bits | {*range(n_bits - 64, n_bits)}]
    for other in (*changed, content + b"\n", b" " + content, content[:40] + content[41:]):
        sealed.write_bytes(other)
        with pytest.raises(InputError, match=f"{sealed.name}: damaged, or changed since"):
            check_seal(sealed)


def test_a_table_that_another_program_rewrote_has_no_seal_and_passes(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, TABLE)
    assert pq.read_table(path).equals(TABLE)
    pq.write_table(pq.read_table(path).append_column("own", [list(range(80))]), path)
    check_seal(path)
    pl.read_parquet(path).write_parquet(path)
    check_seal(path)


def test_torch_reads_a_sealed_file_and_unsealed_files_pass(tmp_path):
    checkpoint(tmp_path / "last.ckpt")
    for mmap in (False, True):
        assert torch.load(tmp_path / "last.ckpt", weights_only=True, mmap=mmap)["step"] == 50
    assert zipfile.ZipFile(tmp_path / "last.ckpt").testzip() is None
    assert note_of(tmp_path / "last.ckpt") == "step 50"
    assert note_of(tmp_path / "none.ckpt") is None
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(3)}, buffer)
    (tmp_path / "old.ckpt").write_bytes(buffer.getvalue())
    pq.write_table(TABLE, tmp_path / "old.parquet")
    (tmp_path / "old.json").write_text('{"sha256": ""}')
    (tmp_path / "empty.json").touch()
    for name in ("old.ckpt", "old.parquet", "old.json", "empty.json", "none.json", "."):
        check_seal(tmp_path / name)
    assert note_of(tmp_path / "old.ckpt") is None
    with pytest.raises(ValueError, match="no room for a checksum"):
        write_bytes(tmp_path / "a.json", b"{}", sealed=True)
    assert not (tmp_path / "a.json").exists()


# ---- the manifest


def test_a_manifest_is_sealed_and_one_that_was_edited_is_refused(tmp_path):
    with Manifest.start(tmp_path, stage="posttrain", config={"seed": 1}):
        pass
    path = tmp_path / "manifest.json"
    content = path.read_bytes()
    rng = random.Random(1)
    for bit in [*range(64), *rng.sample(range(8 * len(content)), 300)]:
        path.write_bytes(flipped(content, bit))
        with pytest.raises(InputError, match=r"manifest\.json: "):
            Manifest.load(tmp_path)
    edited = json.loads(content) | {"status": "running"}
    path.write_text(json.dumps(edited, indent=2))
    with pytest.raises(InputError, match=r"manifest\.json: damaged.*delete its line sha256"):
        Manifest.start(tmp_path, stage="posttrain", config={"seed": 1})
    path.write_text(json.dumps({**edited, "sha256": ""}, indent=2))
    assert Manifest.load(tmp_path).status == "running"
    path.write_text(json.dumps(edited))  # by a program, in another layout
    assert Manifest.load(tmp_path).status == "running"


# ---- folders with files of other libraries


def test_the_checksums_of_a_folder_are_those_of_sha256sum_and_refuse_every_flipped_bit(tmp_path):
    folder = tmp_path / "model"
    with atomic_folder(folder) as draft:
        (draft / "config.json").write_text("{}")
        (draft / "inner").mkdir()
        (draft / "inner" / "with blank.bin").write_bytes(b"\0\1")
        (draft / "model.safetensors").write_bytes(bytes(range(64)))
    program = ["sha256sum", "--strict", "-c", SUMS]
    run = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=True)
    names = ["config.json", "inner/with blank.bin", "model.safetensors"]
    assert run.stdout.splitlines() == [f"{name}: OK" for name in names]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (folder / "notes.txt").write_text("added later")
    check_sums(folder, "Fix.")
    for name in (*names, SUMS):
        content = (folder / name).read_bytes()
        for bit in range(8 * len(content)):
            (folder / name).write_bytes(flipped(content, bit))
            with pytest.raises(InputError, match=name):
                check_sums(folder, "Fix.")
        (folder / name).write_bytes(content)
    (folder / "model.safetensors").unlink()
    check_sums(folder, "Fix.", leave_out=".safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: damaged, missing or changed"):
        check_sums(folder, "Fix.")


# ---- shipped files


def test_shipped_data_have_the_checksums_of_the_list_and_the_readme():
    data = shipped_root() / "data"
    readme = (data / "README.md").read_text(encoding="utf-8")
    lines = [line.split("  ") for line in (data / SUMS).read_text(encoding="utf-8").splitlines()]
    for digest, name in lines:
        assert hashlib.sha256((data / name).read_bytes()).hexdigest() == digest, name
        assert f"| `{name}` |" in readme
        assert f"| `{digest}` |" in readme
    listed = {f"data/{name}" for _, name in lines} | {"data/README.md", f"data/{SUMS}"}
    assert listed == {name for name in shipped_names() if name.startswith("data/")}


def test_a_flipped_bit_in_a_shipped_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(seal, "shipped_root", lambda: tmp_path)
    file, content = tmp_path / "data" / "a.safetensors", b"weights of a model"
    file.parent.mkdir()
    (tmp_path / "data" / SUMS).write_text(f"{hashlib.sha256(content).hexdigest()}  {file.name}\n")
    for whole, other in ((True, content), (False, flipped(content, 9)), (False, b"x" + content)):
        file.write_bytes(other)
        assert is_whole(file) is whole
    file.rename(file.with_name("mine.safetensors"))
    assert is_whole(file.with_name("mine.safetensors"))


def test_a_file_is_hashed_once_while_it_stays_the_same(tmp_path, monkeypatch):
    path, calls = tmp_path / "a.bin", []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: calls.append(1) or digest(*a))
    for content in (b"one", b"two"):
        path.write_bytes(content)
        past = path.stat().st_mtime_ns - 10**10 + len(calls)
        os.utime(path, ns=(past, past))
        assert {sha256_of_file(path) for _ in range(3)} == {hashlib.sha256(content).hexdigest()}
    assert len(calls) == 2
    path.write_bytes(b"old")  # just now: another write could have the same time
    assert len({sha256_of_file(path), sha256_of_file(path)}) == 1
    assert len(calls) == 4
