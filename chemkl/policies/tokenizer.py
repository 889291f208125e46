"""SMILES text to token ids and back; fragments as larger tokens, learnt by byte-pair encoding."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np

from chemkl.config import InputError

END = "$"
START = "^"
END_ID = 0
"""Id of the end token, which is the padding too, as in REINVENT (arXiv 1704.07555)."""
START_ID = 1

MAX_LISTED = 40
"""A message lists all tokens of a vocabulary up to this size, and the nearest ones of a larger."""
TOKEN_PATTERN = r"\[[^\]]*\]|%\d{2}|Br|Cl|."
"""A token of a SMILES, as a regular expression."""
_SPLIT = re.compile(TOKEN_PATTERN, re.DOTALL)
SAMPLE_SIZE = 100_000
"""Molecules, evenly spaced in the corpus, from which fragments are learnt."""


class UnknownTokenError(InputError):
    """A SMILES has a token that is not in the vocabulary."""


def tokenize(smiles: str) -> list[str]:
    """Split a SMILES into bracket atoms, two-digit ring bonds, ``Br``, ``Cl`` and characters.

    The rule is that of REINVENT4's tokenizer, so the two can share vocabularies.
    """
    return _SPLIT.findall(smiles)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id; id 0 is the end token (and the padding), id 1 the start token.

    A token may be a fragment: several single tokens of the vocabulary in a row. Then a SMILES has
    several encodings; `encode` takes the longest token that fits, from left to right.

    Args:
        tokens: all tokens in the order of their ids, ``$`` and ``^`` first.

    Raises:
        InputError: the first two tokens are not ``$`` and ``^``, a token occurs twice, or it is
            neither a single token of a SMILES nor a sequence of single tokens of this vocabulary.
    """

    tokens: tuple[str, ...]
    _id_of: dict[str, int] = field(init=False, repr=False, compare=False)
    _longest: int = field(init=False, repr=False, compare=False)
    """Single tokens in the largest fragment; 1: there are no fragments."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        texts = {token for token in self.tokens[2:] if isinstance(token, str)}
        parts = [tokenize(token) if isinstance(token, str) else [] for token in self.tokens]
        invalid = [
            token
            for token, single in zip(self.tokens, parts, strict=True)
            if single != [token] and not (len(single) > 1 and {*single} <= texts)
        ]
        twice = sorted(token for token, n in Counter(map(str, self.tokens)).items() if n > 1)
        problem = f"tokens that occur twice: {', '.join(twice)}" if twice else ""
        if invalid:
            problem = f"not single tokens of a SMILES: {', '.join(map(repr, invalid))}"
        if self.tokens[:2] != (END, START):
            first = list(self.tokens[:2])
            problem = f"the first two tokens must be {END!r} and {START!r}, not {first}"
        if problem:
            raise InputError(f"vocabulary: {problem}")
        object.__setattr__(self, "_id_of", {token: i for i, token in enumerate(self.tokens)})
        object.__setattr__(self, "_longest", max(map(len, parts[2:]), default=1))

    @property
    def has_fragments(self) -> bool:
        """Whether a token consists of several single tokens."""
        return self._longest > 1

    @classmethod
    def of(cls, tokens: Iterable[str]) -> "Vocabulary":
        """Build a vocabulary: end and start token, then the other tokens in sorted order."""
        return cls((END, START, *sorted(set(tokens) - {END, START})))

    def __len__(self) -> int:
        """Return the number of tokens, start and end token included."""
        return len(self.tokens)

    def encode(self, smiles: str, line: int | None = None) -> list[int]:
        """Return the ids of a SMILES between a start and an end token.

        Args:
            smiles: the text.
            line: its line in a file (1-based), for the error message only.

        Raises:
            UnknownTokenError: names token, position (1-based character) and line.
        """
        ids = [START_ID]
        position = 1
        for token in self._split(smiles):
            token_id = self._id_of.get(token, -1)
            if token_id <= START_ID:
                where = f"line {line}: " if line is not None else ""
                tokens = self.tokens[2:]
                listed = f"Known: {' '.join(tokens)}"
                if len(tokens) > MAX_LISTED:
                    near = " ".join(get_close_matches(token, tokens, n=8, cutoff=0))
                    listed = f"Nearest: {near} (`chemkl show` of the model lists all {len(tokens)})"
                raise UnknownTokenError(
                    f"{where}{smiles!r}: token {token!r} at position {position} is not in the "
                    f"vocabulary. {listed}. Remove the molecule, use a prior whose corpus has this "
                    "token, or add it to a prior with `chemkl pretrain` (init, extend_vocabulary: "
                    "true)."
                )
            ids.append(token_id)
            position += len(token)
        ids.append(END_ID)
        return ids

    def _split(self, smiles: str) -> list[str]:
        """Split a SMILES into tokens of the vocabulary; unknown ones stay single tokens."""
        single = tokenize(smiles)
        if not self.has_fragments:
            return single
        tokens, begin = [], 0
        while begin < len(single):
            for stop in range(min(len(single), begin + self._longest), begin, -1):
                token = "".join(single[begin:stop])
                if token in self._id_of or stop == begin + 1:
                    break
            tokens.append(token)
            begin = stop
        return tokens

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a row of ids, without a leading start token, up to the end token.

        A later start token was sampled; it becomes ``^`` in the text, so the string is not a valid
        SMILES. Without it the sequence would be taken for another, more probable one.
        """
        tokens = []
        for position, token_id in enumerate(ids):
            if token_id == END_ID:
                break
            if position or token_id != START_ID:
                tokens.append(self.tokens[token_id])
        return "".join(tokens)


def with_fragments(vocabulary: Vocabulary, smiles: Sequence[str], n: int) -> Vocabulary:
    """Add the n fragments that byte-pair encoding finds in a corpus: SMILES pair encoding.

    The most frequent pair of neighbours becomes one token, again and again (Sennrich et al., arXiv
    1508.07909; on SMILES: Li and Fourches, J. Chem. Inf. Model. 61, 1560, 2021). Of overlapping
    pairs, as in CCC, the first one counts.

    Args:
        vocabulary: without fragments; has every token of the molecules.
        smiles: the corpus.
        n: number of fragments; fewer if no pair occurs twice any more.
    """
    if not n:
        return vocabulary
    sample = smiles[:: -(-len(smiles) // SAMPLE_SIZE)]
    # the end tokens separate the molecules
    ids = np.array([i for text in sample for i in vocabulary.encode(text)[1:]])
    tokens = list(vocabulary.tokens)
    while len(tokens) < len(vocabulary) + n:
        left, right = ids[:-1], ids[1:]
        is_pair = (left > START_ID) & (right > START_ID)
        counts = np.bincount((left * len(tokens) + right)[is_pair])
        if not len(counts) or counts.max() < 2:
            break
        first, second = divmod(int(counts.argmax()), len(tokens))
        text = tokens[first] + tokens[second]
        if text not in tokens:  # C + CC and CC + C are the same fragment
            tokens.append(text)
        at = np.flatnonzero((left == first) & (right == second))
        if first == second:
            starts = np.flatnonzero(np.diff(at, prepend=-2) > 1)  # of runs of neighbours
            in_run = np.arange(len(at)) - np.repeat(starts, np.diff(starts, append=len(at)))
            at = at[in_run % 2 == 0]
        ids[at] = tokens.index(text)
        ids = np.delete(ids, at + 1)
    return Vocabulary(tuple(tokens))
