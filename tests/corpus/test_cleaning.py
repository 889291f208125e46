import hashlib
import os
import signal
from collections import defaultdict

import pytest
from pydantic import ValidationError
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from chemkl.chem.molecules import MoleculeError
from chemkl.config import InputError
from chemkl.config.prepare import GivenSplit, HashSplit, PrepareConfig
from chemkl.corpus import cleaning
from chemkl.corpus.cleaning import Clean, Cleaner, assign_split, clean_lines, peak_memory
from chemkl.files.molecules import Line
from chemkl.policies.tokenizer import tokenize


def config(**settings):
    return PrepareConfig(source="moses", **settings)


def clean(smiles, **settings):
    return Cleaner(config(**settings))([Line(7, smiles, "train")])[0]


LARGEST = {"name": "get_largest_fragment"}
C_AND_O = {"name": "allowed_atom_type", "parameters": {"element_list": [6, 8]}}
CHARGED = "[Na+].CC[C@H](N)C(=O)[O-]"


def test_a_good_line_becomes_a_canonical_molecule_and_its_tokens_are_counted(real_smiles):
    reordered = {Chem.MolToSmiles(Chem.MolFromSmiles(s), rootedAtAtom=0) for s in real_smiles[:50]}
    cases = [(text, {}, text) for text in reordered] + [
        ("CCBr", {"max_tokens": 3}, "CCBr"),
        ("[Na+].C[C@H](N)C(=O)[O-]", {}, "C[C@H](N)C(=O)[O-].[Na+]"),
        (CHARGED, {"standardise": [LARGEST, {"name": "neutralise_charges"}]}, "CCC(N)C(=O)O"),
        ("OCC", {"standardise": [C_AND_O]}, "CCO"),
        ("CCN", {"tokens": ["C", "N"]}, "CCN"),
    ]
    for smiles, settings, expected in cases:
        actual = clean(smiles, **settings)
        assert actual.smiles == Chem.CanonSmiles(expected)
        assert actual.n_tokens == len(tokenize(actual.smiles))
        assert (actual.reason, actual.split) == (None, "train")
        assert actual.line == Line(7, smiles, "train")


@pytest.mark.parametrize(
    ("smiles", "settings", "reason"),
    [
        (None, {}, "missing: the line has no such column"),
        ("", {}, "empty"),
        ("C1CC", {}, "not parsable: unclosed ring 1 opened at position 2"),
        ("C(C)(C)(C)(C)C", {}, "not sane: "),
        ("C�O", {}, "not ASCII: "),
        ("C" * 129, {}, "too many tokens: 129, at most 128"),
        ("[U]$[U]", {}, "reserved token: $ marks where a sequence ends"),
        ("C" * 9000, {}, "too long: "),
        ("CCCBr", {"max_tokens": 3}, "too many tokens: 4, at most 3"),
        ("C[Si]NP", {"tokens": ["C", "N"]}, "rare token: P [Si]"),
        ("CCN", {"standardise": [C_AND_O]}, "dropped by filter allowed_atom_type"),
        ("C1C", {"standardise": [C_AND_O]}, "not parsable"),
    ],
)
def test_a_bad_line_gets_a_reason_and_no_molecule(smiles, settings, reason):
    actual = clean(smiles, **settings)
    assert actual.reason.startswith(reason)
    assert (actual.smiles, actual.split, actual.n_tokens) == (None, "", 0)
    assert actual.line.number == 7


def test_a_molecule_that_has_no_scaffold_costs_its_line_only(monkeypatch):
    def fails(mol):
        if mol.GetNumAtoms() == 2:
            raise MoleculeError("scaffold failed: made up")
        return ""

    monkeypatch.setattr(cleaning, "murcko_scaffold", fails)
    cleaner = Cleaner(config(split="scaffold"))
    actual = cleaner([Line(1, "CC", "train"), Line(2, "CCC", "train")])
    assert (actual[0].reason, actual[1].smiles) == ("scaffold failed: made up", "CCC")
    with pytest.raises(InputError, match=r"unknown filter 'largest'"):
        Cleaner(config(standardise=[{"name": "largest"}]))


def lines_of(smiles):
    return [Line(i, s, "train") for i, s in enumerate(smiles, 1)]


def test_two_workers_give_what_one_gives(real_smiles, monkeypatch):
    monkeypatch.setattr(cleaning, "CHUNK", 30)  # 14 chunks, more than the window holds
    lines = lines_of([*real_smiles, "C1C", None, "", *real_smiles[:5]])
    peaks = {}
    settings = config(split="scaffold", standardise=[LARGEST])
    one, two = (
        list(clean_lines(lines, Cleaner(settings.model_copy(update=workers)), peaks))
        for workers in ({"n_workers": 1}, {"n_workers": 2})
    )
    assert one == two
    assert len(peaks) in (1, 2)  # the second may have had nothing to do
    assert os.getpid() not in peaks
    # an interpreter with RDKit takes tens of megabytes, and this test does not take gigabytes
    assert all(2**25 < peak < 2**31 for peak in [*peaks.values(), peak_memory()])
    assert [c.line for chunk in two for c in chunk] == lines
    assert [len(chunk) for chunk in two] == [30] * 13 + [18]


def test_few_chunks_are_read_ahead(monkeypatch):
    monkeypatch.setattr(cleaning, "CHUNK", 2)
    read = 0

    def source():
        nonlocal read
        for line in lines_of(["CC"] * 100):
            read += 1
            yield line

    chunks = clean_lines(source(), Cleaner(config(n_workers=2)))
    next(chunks)
    assert read == 2 * (2 * 2 + 1)
    chunks.close()


class Deadly(Cleaner):
    """Dies on a certain line, as by a signal from outside."""

    def __call__(self, lines):
        if any(line.smiles == "die" for line in lines):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(lines)


def test_a_worker_that_dies_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(cleaning, "CHUNK", 2)
    settings = config(n_workers=2)
    deadly = Deadly(settings)
    lines = lines_of(["CC", "C", "CO", "O", "die", "N", *["CN"] * 40])
    with pytest.raises(RuntimeError, match=r"a worker process died at or shortly after line \d+: "):
        list(clean_lines(lines, deadly))


class Environment(Cleaner):
    """Returns a variable of the worker's environment in place of molecules."""

    def __call__(self, lines):
        return [Clean(line, reason=os.environ.get("CHEMKL_TEST")) for line in lines]


@pytest.mark.parametrize("value", ["first", "second"])  # one server process for both
def test_a_worker_has_the_environment_of_the_process_that_starts_it(monkeypatch, value):
    monkeypatch.setenv("CHEMKL_TEST", value)
    (chunk,) = clean_lines(lines_of(["CC"]), Environment(config(n_workers=2)))
    assert chunk[0].reason == value


RANDOM = HashSplit(kind="random", test=0.2, valid=0.1, seed=3)
KEYS = [f"molecule {i}" for i in range(20_000)]


def test_the_split_is_the_place_of_a_hash_on_the_unit_interval():
    for test, valid in ((0.5, 0.5), (0.9, 0.2), (0.99, 0.01)):
        with pytest.raises(ValidationError, match=r"leave nothing to train on: together .* below"):
            HashSplit(kind="random", test=test, valid=valid)
    assert assign_split("test_scaffolds", "CC", GivenSplit(kind="given")) == "test_scaffolds"
    for key in KEYS[:200]:
        digest = hashlib.blake2b(f"3:{key}".encode(), digest_size=8).hexdigest()
        place = int(digest, 16) / 16**16
        expected = "test" if place < 0.2 else "valid" if place < 0.2 + 0.1 else "train"
        assert assign_split("ignored", key, RANDOM) == expected
    # places of BLAKE2b("3:<key>"), computed once by hand: .006, .257, .335 and .735
    actual = {key: assign_split("train", key, RANDOM) for key in ("CO", "C", "N", "CCO")}
    assert actual == {"CO": "test", "C": "valid", "N": "train", "CCO": "train"}


@pytest.mark.parametrize(
    ("test", "valid", "seed"), [(0.2, 0.1, 3), (0.2, 0.1, 4), (0, 0, 3), (0.5, 0, 3), (0, 0.5, 3)]
)
def test_shares_are_as_asked_for_and_another_seed_is_another_split(test, valid, seed):
    split = HashSplit(kind="random", test=test, valid=valid, seed=seed)
    splits = [assign_split("train", key, split) for key in KEYS]
    # binomial: three standard deviations of 20,000 draws are 0.0106 at p = 0.5
    assert splits.count("test") / len(KEYS) == pytest.approx(test, abs=0.0106 if test else 0)
    assert splits.count("valid") / len(KEYS) == pytest.approx(valid, abs=0.0106 if valid else 0)
    if seed == 4:
        moved = sum(a != assign_split("", k, RANDOM) for a, k in zip(splits, KEYS, strict=True))
        # two independent draws differ with probability 1 - (.2^2 + .1^2 + .7^2) = .46
        assert moved / len(KEYS) == pytest.approx(0.46, abs=0.011)


def cleaned(smiles, kind):
    return Cleaner(config(split={"kind": kind, "test": 0.3, "valid": 0.2}))(lines_of(smiles))


def test_no_scaffold_is_in_two_splits(real_smiles):
    splits = defaultdict(set)
    for clean in cleaned(real_smiles, "scaffold"):
        mol = Chem.MolFromSmiles(clean.smiles)
        Chem.RemoveStereochemistry(mol)
        splits[MurckoScaffold.MurckoScaffoldSmiles(mol=mol)].add(clean.split)
    assert len(splits) > 200
    assert all(len(actual) == 1 for actual in splits.values())
    assert set.union(*splits.values()) == {"train", "valid", "test"}
    for together in (["C[C@H]1CC[C@@H](N)O1", "C[C@@H]1CC[C@H](N)O1"], ["CCO", "CCN", "CC=O"]):
        assert len({clean.split for clean in cleaned(together, "scaffold")}) == 1
    assert {clean.split for clean in cleaned(real_smiles, "random")} == {"train", "valid", "test"}
    assert len({clean.split for clean in cleaned(["OCC", "C(O)C"], "random")}) == 1
