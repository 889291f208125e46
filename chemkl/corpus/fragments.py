"""Larger tokens for a corpus: runs of tokens that are common in it become tokens themselves."""

from collections.abc import Sequence

import numpy as np

from chemkl.policies.tokenizer import START_ID, Vocabulary

MOLECULES = 100_000
"""So many molecules, evenly spread over the corpus, decide what is common."""


def with_fragments(vocabulary: Vocabulary, smiles: Sequence[str], n: int) -> Vocabulary:
    """Add the n fragments that byte-pair encoding finds: SMILES pair encoding.

    Again and again the commonest pair of neighbours becomes one token (Sennrich et al., arXiv
    1508.07909; on SMILES: Li and Fourches, J. Chem. Inf. Model. 61, 1560, 2021). Of a pair that
    overlaps itself, as in CCC, the first one counts.

    Args:
        vocabulary: without fragments; knows every token of the molecules.
        smiles: the corpus.
        n: fewer are found where no pair is left that stands twice.
    """
    if not n:
        return vocabulary
    sample = smiles[:: -(-len(smiles) // MOLECULES)]
    ids = np.array([i for text in sample for i in vocabulary.encode(text)[1:]])  # ends divide them
    tokens = list(vocabulary.tokens)
    while len(tokens) < len(vocabulary) + n:
        left, right = ids[:-1], ids[1:]
        is_pair = (left > START_ID) & (right > START_ID)
        counts = np.bincount((left * len(tokens) + right)[is_pair])
        if not len(counts) or counts.max() < 2:
            break
        first, second = divmod(int(counts.argmax()), len(tokens))
        text = tokens[first] + tokens[second]
        if text not in tokens:  # C + CC and CC + C are one fragment
            tokens.append(text)
        at = np.flatnonzero((left == first) & (right == second))
        if first == second:
            starts = np.flatnonzero(np.diff(at, prepend=-2) > 1)  # of runs of neighbours
            places = np.arange(len(at)) - np.repeat(starts, np.diff(starts, append=len(at)))
            at = at[places % 2 == 0]
        ids[at] = tokens.index(text)
        ids = np.delete(ids, at + 1)
    return Vocabulary(tuple(tokens))
