"""Fragments as tokens: what is learnt, how a SMILES is cut, and what a model with them does."""

from collections import Counter
from itertools import pairwise

import pytest

from chemkl.config import InputError
from chemkl.policies import Vocabulary, tokenize
from chemkl.policies.tokenizer import with_fragments


def pair_encoding(texts, n):
    """Byte-pair encoding with lists, as its paper has it (arXiv 1508.07909, algorithm 1)."""
    rows, found = [tokenize(text) for text in texts], []
    while len(found) < n:
        counts = Counter(pair for row in rows for pair in pairwise(row))
        (pair, count), *others = counts.most_common(2)
        assert not others or others[0][1] < count  # no tie, of which either might be taken
        if "".join(pair) not in found:
            found.append("".join(pair))
        for i, row in enumerate(rows):
            merged = []
            for token in row:
                if merged and (merged[-1], token) == pair:
                    merged[-1] += token
                else:
                    merged.append(token)
            rows[i] = merged
    return found


def test_the_commonest_pairs_become_tokens(real_smiles):
    single = Vocabulary.of(t for s in real_smiles for t in tokenize(s))
    both = with_fragments(single, real_smiles, 12)
    assert both.tokens[: len(single)] == single.tokens
    assert list(both.tokens[len(single) :]) == pair_encoding(real_smiles, 12)
    assert both.has_fragments
    assert not single.has_fragments
    for smiles in real_smiles:
        ids = both.encode(smiles)
        assert both.decode(ids) == smiles
        assert len(ids) < len(single.encode(smiles))


def test_a_run_of_one_token_is_cut_into_pairs_from_the_left():
    carbon = Vocabulary.of("CO")
    assert with_fragments(carbon, ["CCCC", "CCCCO"], 2).tokens[4:] == ("CC", "CCCC")


def test_no_pair_that_stands_once_becomes_a_token_and_none_changes_nothing():
    vocabulary = Vocabulary.of("CNO")
    assert with_fragments(vocabulary, ["CNO", "OCC"], 50) == vocabulary
    assert with_fragments(vocabulary, ["CC", "CC"], 0) == vocabulary


@pytest.mark.parametrize(
    ("smiles", "pieces"),
    [
        ("CCCCC", ["CCC", "CC"]),  # the longest that fits, from the left
        ("CCCl", ["CC", "Cl"]),  # never a part of a token
        ("NCCCl", ["N", "CC", "Cl"]),
        ("c1ccccc1", ["c1ccccc1"]),
        ("", []),
    ],
)
def test_a_smiles_has_one_encoding(smiles, pieces):
    vocabulary = Vocabulary(("$", "^", *"CNc1", "Cl", "CC", "CCC", "c1ccccc1"))
    assert [vocabulary.tokens[i] for i in vocabulary.encode(smiles)[1:-1]] == pieces


def test_an_unknown_token_is_named_among_fragments_too():
    vocabulary = Vocabulary(("$", "^", "C", "CC"))
    with pytest.raises(InputError, match=r"'CCCF': token 'F' at position 4 is not in the vocab"):
        vocabulary.encode("CCCF")
