"""A prepared corpus as batches of token ids, in an order that depends only on (seed, epoch)."""

import multiprocessing
import signal
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from chemkl.chem.molecules import MoleculeError
from chemkl.chem.molecules import randomise as spell
from chemkl.config import InputError
from chemkl.corpus.files import read_split, read_vocabulary, read_weights
from chemkl.policies.base import pad
from chemkl.policies.tokenizer import UnknownTokenError, Vocabulary, with_fragments
from chemkl.processes import follow_parent, shielded

CHUNK_BATCHES = 64
"""Molecules are sorted by length within chunks of so many batches: little padding, but shuffled."""


Batch = Tensor | tuple[Tensor, Tensor]
"""token_BT, or with the weight of each row, whose mean over the data set is 1."""


def _identity(batch: Any) -> Any:
    return batch  # `TokenDataset.__getitems__` has collated it


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the rows of every batch of an epoch, shuffled; a batch has rows of similar length."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), batch_size * CHUNK_BATCHES):
        chunk = order[start : start + batch_size * CHUNK_BATCHES]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


class TokenDataset(Dataset[list[int]]):
    """Molecules as rows of ids; an item is (row, presentation).

    Args:
        smiles: the molecules.
        vocabulary: has all of their tokens.
        randomise_seed: of a random spelling at each presentation; None: the SMILES as it is.
        weights: of the molecules; scaled to a mean of 1.
        rows: indices of the molecules in their split, for messages; None: from 0 on.

    Raises:
        InputError: no molecules, or an unknown token.
    """

    def __init__(
        self,
        smiles: Sequence[str],
        vocabulary: Vocabulary,
        randomise_seed: int | None = None,
        weights: np.ndarray | None = None,
        rows: Sequence[int] | None = None,
    ) -> None:
        if not len(smiles):
            raise InputError("no molecules: a split must hold at least one")
        self.smiles = smiles
        self.vocabulary = vocabulary
        self.weights = None if weights is None else weights / weights.mean()
        self._seed = randomise_seed
        flat, lengths = array("h"), []
        for row, text in zip(rows or range(len(smiles)), smiles, strict=True):
            ids = vocabulary.encode(text, row + 1)
            flat.extend(ids)
            lengths.append(len(ids))
        self.lengths = np.array(lengths)
        self._ends = np.cumsum(self.lengths)
        self._flat = np.array(flat, np.int16 if len(vocabulary) > 127 else np.int8)

    def __len__(self) -> int:
        return len(self.smiles)

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> Batch:
        """Return a batch: token_BT, or (token_BT, weight_B) if there are weights."""
        token_BT = pad([self[item] for item in items])
        if self.weights is None:
            return token_BT
        weight_B = self.weights[[row for row, _ in items]]
        return token_BT, torch.from_numpy(weight_B).float()

    def __getitem__(self, item: tuple[int, int]) -> list[int]:
        """Return the ids of a molecule in its n-th presentation."""
        row, presentation = item
        if self._seed is not None:
            rng = np.random.default_rng([self._seed, presentation, row])
            try:
                return self.vocabulary.encode(spell(self.smiles[row], rng))
            except (UnknownTokenError, InputError, MoleculeError):
                pass  # a ring number that the corpus lacks, or RDKit fails: take it unchanged
        ids: list[int] = self._flat[self._ends[row] - self.lengths[row] : self._ends[row]].tolist()
        return ids


def read_datasets(
    folder: Path,
    train_split: str,
    valid_split: str | None,
    valid_molecules: int,
    randomise_seed: int | None = None,
    merges: int = 0,
    *,
    vocabulary: Vocabulary | None = None,
    held_back: tuple[float, int] = (0.1, 0),
    valid_folder: Path | None = None,
) -> tuple[TokenDataset, TokenDataset]:
    """Read the training and the validation split of a prepared corpus.

    Args:
        folder: the corpus.
        train_split: name of the training split.
        valid_split: name of the validation split; None: a share of the training split.
        valid_molecules: maximum size of the validation split.
        randomise_seed: see `TokenDataset`; for training only.
        merges: fragments to learn on the training split, see `with_fragments`.
        vocabulary: None: that of the corpus, with the fragments.
        held_back: share of the training split, and seed to choose it, if valid_split is None.
        valid_folder: the corpus of the validation split; None: the same.

    Raises:
        InputError: the splits are the same, one is empty, or one molecule cannot be divided.
    """
    if train_split == valid_split and valid_folder is None:
        raise InputError(f"train_split and valid_split are both {train_split!r}: choose two")
    smiles, weights = read_split(folder, train_split), read_weights(folder, train_split)
    valid_folder = valid_folder or folder
    valid_weights = rows = held = None
    if valid_split is not None:
        valid_smiles = read_split(valid_folder, valid_split, valid_molecules)
        if weights is not None:
            valid_weights = read_weights(valid_folder, valid_split)
            valid_weights = None if valid_weights is None else valid_weights[:valid_molecules]
    elif len(smiles) > 1:
        share, seed = held_back
        n_held = min(valid_molecules, len(smiles) - 1, max(1, round(share * len(smiles))))
        shuffled = np.random.default_rng(seed).permutation(len(smiles)).tolist()
        held, rows = sorted(shuffled[:n_held]), sorted(shuffled[n_held:])
        valid_smiles, smiles = [smiles[row] for row in held], [smiles[row] for row in rows]
        if weights is not None:
            weights, valid_weights = weights[rows], weights[held]
    else:
        raise InputError(
            f"{folder}: split {train_split!r} has one molecule, but training needs one and "
            "validation another: add molecules, or set valid_split"
        )
    if vocabulary is None:
        vocabulary = with_fragments(read_vocabulary(folder), smiles, merges)
    current = folder
    try:
        train = TokenDataset(smiles, vocabulary, randomise_seed, weights, rows)
        current = valid_folder
        return train, TokenDataset(valid_smiles, vocabulary, weights=valid_weights, rows=held)
    except UnknownTokenError as error:
        raise InputError(f"{current}: {error}") from None


class EpochLoader:
    """Yields batches of token_BT, and saves its position, so that a run resumes exactly there.

    Each process of a distributed run gets its own rows of every batch.
    """

    def __init__(self, dataset: TokenDataset, batch_size: int, seed: int, n_workers: int) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._seed = seed
        self._n_workers = n_workers
        self._done = 0  # batches yielded since the start of the run
        self._restored = False

    def __len__(self) -> int:
        return -(-len(self._dataset) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the remaining batches of the current epoch.

        An epoch that was left early counts as finished, unless the position was just restored.
        """
        epoch, start = divmod(self._done, len(self))
        if start and not self._restored:
            epoch, start = epoch + 1, 0
            self._done = epoch * len(self)
        self._restored = False
        rank, world = _rank_and_world()
        context = None
        if self._n_workers:  # from a server that has imported all that they need
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
        batches = epoch_batches(self._dataset.lengths, self._batch_size, self._seed, epoch)[start:]
        rows = [[(int(row), epoch) for row in batch[rank::world]] for batch in batches]
        loader = DataLoader(
            self._dataset,
            batch_sampler=rows,
            collate_fn=_identity,
            num_workers=self._n_workers,
            multiprocessing_context=context,
            worker_init_fn=_start_worker,
        )
        with shielded():  # workers are started here
            batches_read = iter(loader)
        for batch in batches_read:
            self._done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position; Lightning saves it in every checkpoint."""
        return {"done": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a saved position."""
        self._done = state["done"]
        self._restored = True


def _start_worker(_number: int) -> None:
    """Let a worker end through its queue or with its parent, and ignore signals.

    The step in progress needs the batches that are being loaded.
    """
    follow_parent(signal.SIG_IGN)


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class TokenDataModule(lightning.LightningDataModule):
    """The training and the validation set."""

    def __init__(
        self,
        train: TokenDataset,
        valid: TokenDataset,
        *,
        batch_size: int,
        seed: int,
        n_workers: int = 0,
    ) -> None:
        super().__init__()
        self._batch_size = batch_size
        self._valid = valid
        # one loader for the whole run: a second one would start at the first epoch again
        self._train_loader = EpochLoader(train, batch_size, seed, n_workers)

    def train_dataloader(self) -> EpochLoader:
        """Return the resumable loader of the training split."""
        return self._train_loader

    def val_dataloader(self) -> DataLoader[list[int]]:
        """Return the loader of the validation split, sorted by length."""
        size = self._batch_size
        order = np.argsort(self._valid.lengths, kind="stable")
        rows = [[(int(r), 0) for r in order[i : i + size]] for i in range(0, len(order), size)]
        return DataLoader(self._valid, batch_sampler=rows, collate_fn=_identity)
