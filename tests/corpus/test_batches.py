from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem

from chemkl.config import InputError
from chemkl.corpus import batches
from chemkl.corpus.batches import (
    EpochLoader,
    TokenDataModule,
    TokenDataset,
    epoch_batches,
    read_datasets,
)
from chemkl.corpus.files import read_vocabulary
from chemkl.policies import UnknownTokenError, Vocabulary, tokenize

LENGTHS = np.random.default_rng(0).integers(5, 50, 1003)


@pytest.fixture(scope="module")
def smiles(real_smiles):
    return real_smiles[:103]


@pytest.fixture(scope="module")
def vocabulary(real_smiles):
    return Vocabulary.of(token for s in real_smiles for token in tokenize(s))


@pytest.fixture
def make_loader(smiles, vocabulary):
    def make(batch_size=10, seed=1, randomise_seed=None, n_workers=0):
        dataset = TokenDataset(smiles, vocabulary, randomise_seed)
        return EpochLoader(dataset, batch_size, seed, n_workers)

    return make


def decoded(batch, vocabulary):
    return [vocabulary.decode(row) for row in batch.tolist()]


def flat(found):
    return [smiles for batch in found for smiles in batch]


def epoch(loader, vocabulary):
    return [decoded(batch, vocabulary) for batch in loader]


@pytest.mark.parametrize("batch_size", [1, 16, 100, 1003, 5000])
def test_every_row_is_in_one_batch_of_an_epoch(batch_size):
    actual = epoch_batches(LENGTHS, batch_size, seed=0, epoch=0)
    assert sorted(np.concatenate(actual)) == list(range(1003))
    assert len(actual) == -(-1003 // batch_size)
    sizes = sorted(map(len, actual))
    assert set(sizes[1:]) <= {batch_size}  # one may be smaller
    assert sizes[0] == (1003 % batch_size or batch_size)


def test_the_order_depends_on_seed_and_epoch_alone(monkeypatch):
    def order(seed, epoch):
        return np.concatenate(epoch_batches(LENGTHS, 16, seed, epoch)).tolist()

    np.random.seed(7)  # noqa: NPY002 - the global state plays no part
    first = order(0, 0)
    assert order(0, 0) == first
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    # rows of similar length share a batch
    actual = epoch_batches(LENGTHS, 16, seed=0, epoch=0)
    padding = sum(len(b) * LENGTHS[b].max() - LENGTHS[b].sum() for b in actual) / LENGTHS.sum()
    assert padding < 0.05  # 70 % in a random order
    longest = np.array([LENGTHS[b].max() for b in actual])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3
    monkeypatch.setattr(batches, "CHUNK_BATCHES", 2)  # sorting stays within chunks
    order = np.random.default_rng([0, 0]).permutation(1003)
    chunk_of = {row: i // 20 for i, row in enumerate(order)}
    for batch in epoch_batches(LENGTHS, 10, seed=0, epoch=0):
        assert len({chunk_of[row] for row in batch}) == 1


def test_a_batch_is_padded_rows_of_ids(make_loader, vocabulary):
    batch = next(iter(make_loader()))
    assert batch.dtype == torch.int64
    assert (batch[:, 0] == 1).all()
    lengths = [len(vocabulary.encode(s)) for s in decoded(batch, vocabulary)]
    assert batch.shape == (10, max(lengths))
    for row, length in zip(batch, lengths, strict=True):
        assert (row[length - 1 :] == 0).all()
        assert (row[: length - 1] != 0).all()


@pytest.mark.parametrize("n_done", [1, 4, 10, 11, 12, 25])
def test_a_loader_continues_where_another_stood(make_loader, smiles, vocabulary, n_done):
    whole = make_loader()
    assert len(whole) == 11
    expected = [b for _ in range(4) for b in epoch(whole, vocabulary)]
    assert len(expected) == 44
    for start in range(0, 44, 11):
        assert sorted(flat(expected[start : start + 11])) == sorted(smiles)
    stopped = make_loader()
    n_seen = 0
    while n_seen < n_done:
        for _ in stopped:
            n_seen += 1
            if n_seen == n_done:
                break
    resumed = make_loader()
    resumed.load_state_dict(stopped.state_dict())
    rest = epoch(resumed, vocabulary)
    remaining = -n_done % 11 or 11  # of the present epoch, or all of the next one
    assert rest == expected[n_done : n_done + remaining]
    after = n_done + remaining
    iter(resumed)  # making an iterator hands nothing out
    assert epoch(resumed, vocabulary) == expected[after : after + 11]
    if n_done < 11:  # an epoch that was left early is over
        assert epoch(stopped, vocabulary) == expected[11:22]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_processes_share_every_batch(make_loader, vocabulary, monkeypatch, world):
    expected = epoch(make_loader(), vocabulary)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(batches, "_rank_and_world", lambda rank=rank: (rank, world))
        shares.append(list(make_loader()))
    for whole, parts in zip(expected, zip(*shares, strict=True), strict=True):
        rows = [decoded(part, vocabulary) for part in parts]
        assert sorted(flat(rows)) == sorted(whole)
        assert max(map(len, rows)) - min(map(len, rows)) <= 1
    # the last molecules of an epoch may be fewer than the processes: an empty batch, not a crash
    smallest = min((part for share in shares for part in share), key=len)
    assert smallest.ndim == 2
    assert (smallest.shape == (0, 2)) == (world == 4)


def test_spellings_depend_on_seed_epoch_and_molecule_alone(make_loader, smiles, vocabulary):
    def spellings(n_epochs=1, randomise_seed=5, **how):
        loader = make_loader(randomise_seed=randomise_seed, **how)
        actual = [b for _ in range(n_epochs) for b in epoch(loader, vocabulary)]
        return {Chem.CanonSmiles(s): s for batch in actual[-11:] for s in batch}

    first = spellings()
    assert {*first} == {*map(Chem.CanonSmiles, smiles)}
    assert sum(first[Chem.CanonSmiles(s)] != s for s in smiles) > 0.9 * len(smiles)
    assert spellings() == spellings(batch_size=10, seed=9) == first  # in any order
    for changed in (spellings(n_epochs=2), spellings(randomise_seed=6)):
        assert sum(changed[s] != first[s] for s in first) > 0.8 * len(first)
    one, two = make_loader(randomise_seed=5), make_loader(randomise_seed=5, n_workers=1)
    assert epoch(one, vocabulary) == epoch(two, vocabulary)
    assert one.state_dict() == two.state_dict() == {"done": 11}


def test_a_spelling_with_tokens_of_its_own_gives_way_to_the_canonical_one():
    smiles = ["C1CC1C1CC1"]  # both rings may be open at once in another spelling: number 2
    dataset = TokenDataset(smiles, Vocabulary.of("C1()"), randomise_seed=0)
    vocabulary = Vocabulary.of("C1()2")
    spellings = {vocabulary.decode(TokenDataset(smiles, vocabulary, 0)[0, n]) for n in range(40)}
    assert any("2" in s for s in spellings)
    actual = {Vocabulary.of("C1()").decode(dataset[0, n]) for n in range(40)}
    assert actual == {s for s in spellings if "2" not in s} | set(smiles)
    # RDKit cannot spell a molecule
    # a corpus of an earlier version may hold the first
    smiles = ["CC1=c2c(nc(C)n2C)C=C1", "CCOCCN"]
    vocabulary = Vocabulary.of(token for text in smiles for token in tokenize(text))
    dataset = TokenDataset(smiles, vocabulary, randomise_seed=1)
    spelled = [{vocabulary.decode(dataset[row, n]) for n in range(20)} for row in (0, 1)]
    assert spelled[0] == {smiles[0]}
    assert len(spelled[1]) > 5
    assert {Chem.CanonSmiles(text) for text in spelled[1]} == {"CCOCCN"}


def test_validation_reads_every_molecule_as_it_stands(smiles, vocabulary):
    sets = TokenDataset(smiles[:50], vocabulary, 0), TokenDataset(smiles[50:], vocabulary)
    data = TokenDataModule(*sets, batch_size=20, seed=0)
    actual = epoch(data.val_dataloader(), vocabulary)
    assert sorted(flat(actual)) == sorted(smiles[50:])
    assert [len(b) for b in actual] == [20, 20, 13]
    assert epoch(data.val_dataloader(), vocabulary) == actual
    first = epoch(data.train_dataloader(), vocabulary)
    assert epoch(data.train_dataloader(), vocabulary) != first  # asked for again: the next epoch
    # a prepared folder
    folder = Path(__file__).parents[2] / "data" / "moses_sample"
    train, valid = read_datasets(folder, "train", "valid", 50)
    assert train.vocabulary == valid.vocabulary == read_vocabulary(folder)
    data = TokenDataModule(train, valid, batch_size=100, seed=0)
    assert sum(len(b) for b in data.val_dataloader()) == len(valid) == 50
    assert sum(len(b) for b in data.train_dataloader()) == len(train) > 6000
    with pytest.raises(InputError, match=r"both 'valid': choose two"):
        read_datasets(folder, "valid", "valid", 50)
    # unknown tokens, and no molecules
    with pytest.raises(UnknownTokenError, match=r"^line 3: 'CI': token 'I' at position 2"):
        TokenDataset(["C", "CC", "CI"], Vocabulary.of("C"))
    with pytest.raises(InputError, match="no molecules"):
        TokenDataset([], Vocabulary.of("C"))


@pytest.mark.parametrize("n_tokens", [100, 126, 127, 300])
def test_many_tokens_are_stored_without_loss(n_tokens):
    tokens = [f"[{i}C]" for i in range(n_tokens)]
    vocabulary = Vocabulary.of(tokens)
    dataset = TokenDataset(tokens, vocabulary)
    assert [vocabulary.decode(dataset[row, 0]) for row in range(n_tokens)] == tokens
