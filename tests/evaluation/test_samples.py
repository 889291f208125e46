import pytest
from rdkit import Chem

from chemkl.chem import scaffolds as structures
from chemkl.chem.fingerprints import packed_morgan
from chemkl.chem.molecules import MoleculeError
from chemkl.config import InputError
from chemkl.evaluation import from_smiles, from_trace
from chemkl.evaluation.samples import sample


def test_a_trace_gives_each_molecule_once_at_its_first_scoring(make_trace):
    trace = make_trace([[("OCC", 0.5), ("C1CC", 0.0)], [("CCO", 0.5), ("CCN", 0.7)]])
    samples = from_trace("x", trace)
    assert samples.n_sampled == 4
    assert list(samples.valid) == ["CCO", "CCO", "CCN"]
    assert [(m.smiles, m.call, m.reward) for m in samples.molecules] == [
        ("CCO", 1, 0.5),
        ("CCN", 2, 0.7),
    ]


def test_rows_from_a_replay_buffer_were_not_sampled(make_trace):
    trace = make_trace([[("CCO", 0.5)], [("CCO", 0.5), ("CCN", 0.1)]])
    trace.loc[1, "is_replay"] = True
    samples = from_trace("x", trace)
    assert samples.n_sampled == 2
    assert list(samples.valid) == ["CCO", "CCN"]


def test_a_valid_molecule_that_was_never_scored_is_not_counted(make_trace):
    trace = make_trace([[("CCO", 0.5), ("CCN", 0.9)]])
    trace.loc[1, "call"] = None  # the budget ended within the batch
    samples = from_trace("x", trace)
    assert [m.smiles for m in samples.molecules] == ["CCO"]
    assert samples.hits(0.8) == []


def test_molecules_are_ordered_by_call_not_by_row(make_trace):
    trace = make_trace([[("CCO", 0.5), ("CCN", 0.9)]])
    samples = from_trace("x", trace.iloc[::-1])
    assert [m.call for m in samples.molecules] == [1, 2]


def test_a_file_gives_distinct_molecules_in_order_without_rewards():
    samples = from_smiles("x", ["OCC", "not a molecule", None, "CCO", "CCN"])
    assert samples.n_sampled == 5
    assert list(samples.valid) == ["CCO", "CCO", "CCN"]
    assert [(m.smiles, m.call) for m in samples.molecules] == [("CCO", 1), ("CCN", 2)]
    assert not samples.is_scored
    assert samples.hits(0.0) == []


def test_fingerprints_have_the_stated_lengths():
    (molecule,) = from_smiles("x", ["CCO"]).molecules
    assert (molecule.bits_moses.GetNumBits(), molecule.bits_pairs.GetNumBits()) == (1024, 2048)


def test_what_rdkit_cannot_read_back_is_skipped_and_counted(make_trace):
    bad = "Cc1ccc2nc(C)=n(C)c12"  # RDKit 2026.09 cannot read what it writes for it
    trace = make_trace([[("CCO", 0.5), (bad, 0.9)], [(bad, 0.9), ("CCN", 0.7), ("CCO", 0.5)]])
    written = trace.loc[1, "canonical_smiles"]
    assert Chem.MolFromSmiles(written) is None
    samples = from_trace("x", trace)
    assert samples.n_sampled == 5
    assert samples.valid == ["CCO", "CCN", "CCO"]
    assert [(m.smiles, m.call) for m in samples.molecules] == [("CCO", 1), ("CCN", 3)]
    assert samples.skipped == {written}
    assert samples.note == (
        "x: 1 molecules recorded as valid are counted as invalid: RDKit cannot read or take apart "
        f"{written}"
    )
    assert from_smiles("x", ["CCO", bad]).skipped == frozenset()  # plainly invalid in a file


def test_a_molecule_without_a_fingerprint_is_skipped_too(make_trace, monkeypatch):
    def fails(mol, **settings):
        if mol.GetNumAtoms() == 2:
            raise MoleculeError("made up")
        return packed_morgan(mol, **settings)

    monkeypatch.setattr(structures, "packed_morgan", fails)
    samples = from_trace("x", make_trace([[("CC", 0.5), ("CCC", 0.5)]]))
    assert (samples.valid, samples.skipped, samples.n_sampled) == (["CCC"], {"CC"}, 2)


def test_a_sample_is_seeded_keeps_the_order_and_leaves_small_sets_alone(real_smiles):
    molecules = from_smiles("x", real_smiles[:60]).molecules
    assert sample(molecules, 60, seed=0) is molecules
    first, again, other = (sample(molecules, 20, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 20
    calls = [m.call for m in first]
    assert calls == sorted(set(calls))


def test_a_run_that_is_paid_for_texts_is_refused(make_text_trace):
    trace = make_text_trace([[("1 or 2?", "1", "1", 1.0), ("1 or 2?", "3", None, 0.0)]])
    with pytest.raises(InputError, match=r"run x: 1 valid rows .* `chemkl evaluate_text`"):
        from_trace("x", trace)
