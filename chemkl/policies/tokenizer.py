"""SMILES text to token ids and back: the project's one vocabulary class."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from chemkl.config import InputError

END = "$"
START = "^"
END_ID = 0
"""Id of the end token, which is the padding too, as in REINVENT (arXiv 1704.07555)."""
START_ID = 1

MOST_SHOWN = 40
"""Of more tokens than so many a message has the nearest."""
TOKEN_PATTERN = r"\[[^\]]*\]|%\d{2}|Br|Cl|."
"""A token of a SMILES, as a regular expression."""
_SPLIT = re.compile(TOKEN_PATTERN, re.DOTALL)


class UnknownTokenError(InputError):
    """A SMILES holds a token that the vocabulary does not know."""


def tokenize(smiles: str) -> list[str]:
    """Split a SMILES into bracket atoms, two-digit ring bonds, ``Br``, ``Cl`` and characters.

    The same rule as REINVENT4's tokenizer, so that a vocabulary can move between the two.
    """
    return _SPLIT.findall(smiles)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id; id 0 is the end token (and the padding), id 1 the start token.

    A token may be a fragment, several of the tokenizer's tokens in a row that are tokens by
    themselves too. Then a SMILES has several encodings, and `encode` returns one of them: from the
    left, always the longest token that fits.

    Args:
        tokens: all tokens in the order of their ids, ``$`` and ``^`` first.

    Raises:
        InputError: the first two tokens are not ``$`` and ``^``, a token stands twice, or it is
            neither what the tokenizer calls one token nor a row of such tokens of this vocabulary.
    """

    tokens: tuple[str, ...]
    _id_of: dict[str, int] = field(init=False, repr=False, compare=False)
    _longest: int = field(init=False, repr=False, compare=False)
    """Most of the tokenizer's tokens in one of these; 1: there are no fragments."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        plain = {token for token in self.tokens[2:] if isinstance(token, str)}
        parts = [tokenize(token) if isinstance(token, str) else [] for token in self.tokens]
        odd = [
            token
            for token, made_of in zip(self.tokens, parts, strict=True)
            if made_of != [token] and not (len(made_of) > 1 and {*made_of} <= plain)
        ]
        twice = sorted(token for token, n in Counter(map(str, self.tokens)).items() if n > 1)
        problem = f"tokens that stand twice: {', '.join(twice)}" if twice else ""
        if odd:
            problem = f"not single tokens of a SMILES: {', '.join(map(repr, odd))}"
        if self.tokens[:2] != (END, START):
            first = list(self.tokens[:2])
            problem = f"the first two tokens must be {END!r} and {START!r}, not {first}"
        if problem:
            raise InputError(f"vocabulary: {problem}")
        object.__setattr__(self, "_id_of", {token: i for i, token in enumerate(self.tokens)})
        object.__setattr__(self, "_longest", max(map(len, parts[2:]), default=1))

    @property
    def has_fragments(self) -> bool:
        """Whether a token stands for several of the tokenizer's."""
        return self._longest > 1

    @classmethod
    def of(cls, tokens: Iterable[str]) -> "Vocabulary":
        """Build the vocabulary of a set of tokens: start and end token, then the sorted rest."""
        return cls((END, START, *sorted(set(tokens) - {END, START})))

    def __len__(self) -> int:
        """Return the number of tokens, start and end token included."""
        return len(self.tokens)

    def encode(self, smiles: str, line: int | None = None) -> list[int]:
        """Return the ids of a SMILES between a start and an end token.

        Args:
            smiles: the text.
            line: where it stands in its file (1-based), for the error message only.

        Raises:
            UnknownTokenError: naming token, position (1-based character) and line.
        """
        ids = [START_ID]
        position = 1
        for token in self._pieces(smiles):
            token_id = self._id_of.get(token, -1)
            if token_id <= START_ID:
                where = f"line {line}: " if line is not None else ""
                known = self.tokens[2:]
                listed = f"Known: {' '.join(known)}"
                if len(known) > MOST_SHOWN:
                    near = " ".join(get_close_matches(token, known, n=8, cutoff=0))
                    listed = f"Nearest: {near} (`chemkl show` of the model lists all {len(known)})"
                raise UnknownTokenError(
                    f"{where}{smiles!r}: token {token!r} at position {position} is not in the "
                    f"vocabulary. {listed}. Remove the molecule, or use "
                    f"a prior whose corpus has this token, or let `chemkl pretrain` "
                    f"give it to one (init, extend_vocabulary: true)."
                )
            ids.append(token_id)
            position += len(token)
        ids.append(END_ID)
        return ids

    def _pieces(self, smiles: str) -> list[str]:
        """Split a SMILES into tokens; what the vocabulary lacks stays as the tokenizer has it."""
        parts = tokenize(smiles)
        if not self.has_fragments:
            return parts
        pieces, begin = [], 0
        while begin < len(parts):
            for stop in range(min(len(parts), begin + self._longest), begin, -1):
                piece = "".join(parts[begin:stop])
                if piece in self._id_of or stop == begin + 1:
                    break
            pieces.append(piece)
            begin = stop
        return pieces

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a row of ids: a leading start token is skipped, the first end ends.

        A start token further on was sampled; it stays in the text as ``^``, so that the string is
        no valid SMILES. Skipping it would pass the sequence off as another, more probable one.
        """
        pieces = []
        for place, token_id in enumerate(ids):
            if token_id == END_ID:
                break
            if place or token_id != START_ID:
                pieces.append(self.tokens[token_id])
        return "".join(pieces)
