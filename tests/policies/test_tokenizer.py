"""SMILES to tokens and back, and fragments as tokens."""

import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chemkl.config import InputError
from chemkl.policies import UnknownTokenError, Vocabulary, tokenize
from chemkl.policies.tokenizer import with_fragments


def reinvent_split(smiles):
    """REINVENT4's tokenizer from its description: split by one pattern after the other."""

    def split_by(text, patterns):
        if not patterns:
            return list(text)
        tokens = []
        for i, part in enumerate(re.split(patterns[0], text)):
            tokens += [part] if i % 2 else split_by(part, patterns[1:])  # odd parts are matches
        return tokens

    return split_by(smiles, [r"(\[[^\]]*\])", r"(%\d{2})", r"(Br|Cl)"])


@pytest.mark.parametrize(
    ("smiles", "tokens"),
    [
        ("", []),
        ("CCO", ["C", "C", "O"]),
        ("BrCCl", ["Br", "C", "Cl"]),
        ("[nH]1cccc1", ["[nH]", "1", "c", "c", "c", "c", "1"]),
        ("C[C@@H](N)C", ["C", "[C@@H]", "(", "N", ")", "C"]),
        ("C%12CC%12", ["C", "%12", "C", "C", "%12"]),
        ("C%1C", ["C", "%", "1", "C"]),  # one digit only: not a two-digit ring bond
        ("[Br-].[Cl]", ["[Br-]", ".", "[Cl]"]),  # brackets first
        ("[C", ["[", "C"]),  # never closed
        ("F/C=C\\F", ["F", "/", "C", "=", "C", "\\", "F"]),
        ("C\nC", ["C", "\n", "C"]),
    ],
)
def test_tokens_by_hand(smiles, tokens):
    assert tokenize(smiles) == tokens


@given(st.text("BrClCcNn[]%0123()=@H+-$^\n"))
def test_any_text_is_split_as_by_reinvent(text):
    assert tokenize(text) == reinvent_split(text)
    assert "".join(tokenize(text)) == text


def test_ids_are_reinvents_end_start_then_sorted():
    vocabulary = Vocabulary.of(["c", "C", "Br", "[nH]", "1", "C"])
    assert vocabulary.tokens == ("$", "^", "1", "Br", "C", "[nH]", "c")
    assert len(vocabulary) == 7
    assert vocabulary.encode("Brc1") == [1, 3, 6, 2, 0]
    # vocabularies compare by their tokens
    assert Vocabulary(["$", "^", "C"]) == Vocabulary.of("C")
    assert hash(Vocabulary.of("CO")) == hash(Vocabulary.of("OC"))
    assert Vocabulary.of("C") != Vocabulary.of("O")


def test_encoding_and_decoding_are_a_round_trip(real_smiles):
    vocabulary = Vocabulary.of(token for s in real_smiles for token in reinvent_split(s))
    for smiles in real_smiles:
        ids = vocabulary.encode(smiles)
        assert len(ids) == len(reinvent_split(smiles)) + 2
        assert vocabulary.decode(ids) == smiles
        assert vocabulary.decode([*ids, 0, 0, 5]) == smiles  # nothing counts behind the first end
        assert vocabulary.decode(ids[1:]) == smiles
    # skipped, the sequence C ^ C would be shown as ethane, whose log p is another one
    assert Vocabulary.of("C").decode([1, 2, 1, 2, 0]) == "C^C"


@pytest.mark.parametrize(
    ("smiles", "token", "position"),
    [
        ("CCN", "N", 3),
        ("BrCN", "N", 4),  # positions are characters: Br takes two
        ("[nH]N", "N", 5),
        ("C[Si]C", "[Si]", 2),
        ("I", "I", 1),
        ("C$C", "$", 2),  # a quadruple bond, which would read as the end
        ("^CC", "^", 1),
        ("C C", " ", 2),
    ],
)
def test_an_unknown_token_is_named_with_position_and_line(smiles, token, position):
    vocabulary = Vocabulary.of(["C", "Br", "[nH]"])
    where = re.escape(f"{smiles!r}: token {token!r} at position {position} is not in the vocab")
    with pytest.raises(UnknownTokenError, match=rf"^line 17: {where}.* Known: Br C \[nH\]\."):
        vocabulary.encode(smiles, line=17)
    with pytest.raises(UnknownTokenError, match=f"^{where}"):
        vocabulary.encode(smiles)


def test_of_many_tokens_the_nearest_are_named():
    vocabulary = Vocabulary.of([f"[{n}CH{m}]" for n in range(10, 20) for m in range(5)])
    near = r"Nearest: \[12CH3\] (\S+ ){7}\(`chemkl show` of the model lists all 50\)\. Remove"
    with pytest.raises(UnknownTokenError, match=near):
        vocabulary.encode("[12CH3][12cH3]")
    assert issubclass(UnknownTokenError, InputError)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (("C", "O"), r"the first two tokens must be '\$' and '\^', not \['C', 'O'\]"),
        ((), r"the first two tokens must be"),
        (("^", "$", "C"), r"not \['\^', '\$'\]"),
        (("$", "^", "C", "O", "C", "O", "N"), r"tokens that occur twice: C, O$"),
        (("$", "^", "CC"), r"not single tokens of a SMILES: 'CC'"),
        (("$", "^", "C", ""), r"not single tokens of a SMILES: ''"),
        (("$", "^", 3, None), r"not single tokens of a SMILES: 3, None"),
    ],
)
def test_an_impossible_vocabulary_is_refused(tokens, message):
    with pytest.raises(InputError, match=message):
        Vocabulary(tokens)


def pair_encoding(texts, n):
    """Byte-pair encoding with lists, as its paper has it (arXiv 1508.07909, algorithm 1)."""
    rows, actual = [tokenize(text) for text in texts], []
    while len(actual) < n:
        counts = Counter(pair for row in rows for pair in pairwise(row))
        (pair, count), *rest = counts.most_common(2)
        assert not rest or rest[0][1] < count  # no tie, of which either might be taken
        if "".join(pair) not in actual:
            actual.append("".join(pair))
        for i, row in enumerate(rows):
            merged = []
            for token in row:
                if merged and (merged[-1], token) == pair:
                    merged[-1] += token
                else:
                    merged.append(token)
            rows[i] = merged
    return actual


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
    # a run of one token is split into pairs from the left
    carbon = Vocabulary.of("CO")
    assert with_fragments(carbon, ["CCCC", "CCCCO"], 2).tokens[4:] == ("CC", "CCCC")
    # no pair that occurs once becomes a token
    vocabulary = Vocabulary.of("CNO")
    assert with_fragments(vocabulary, ["CNO", "OCC"], 50) == vocabulary
    assert with_fragments(vocabulary, ["CC", "CC"], 0) == vocabulary
    # an unknown token is named
    vocabulary = Vocabulary(("$", "^", "C", "CC"))
    with pytest.raises(InputError, match=r"'CCCF': token 'F' at position 4 is not in the vocab"):
        vocabulary.encode("CCCF")


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
