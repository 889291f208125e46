"""Which known name was meant by an unknown one: by spelling, by another name of it, by meaning."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

WEAK = frozenset(
    re.findall(
        r"\w+", "a an and by count for from in is mol molecule num number of or score the to"
    )
)
"""Words that say nothing of which name was meant."""


def nearest(
    name: str,
    allowed: Iterable[str],
    also: Mapping[str, Iterable[str]] | None = None,
    meanings: Mapping[str, str] | None = None,
) -> list[str]:
    """Find the names that were probably meant, at most two.

    Args:
        name: the unknown name.
        allowed: the known ones.
        also: what else these are called; then case, blanks and signs are passed over.
        meanings: a sentence on each; one that shares a word with the name may be it.
    """
    names = list(allowed)
    called = {each: {_plain(each), *map(_plain, (also or {}).get(each, ()))} for each in names}
    same = [each for each in names if _plain(name) in called[each]]
    if same:
        return same[:2]
    near = get_close_matches(name, names, n=1, cutoff=0.6 if also is None else 0.75)
    by_plain = {plain: each for each in names for plain in called[each]}
    if not near:
        near = [by_plain[p] for p in get_close_matches(_plain(name), by_plain, n=1, cutoff=0.75)]
    near = near or _of_like_meaning(name, names, also or {}, meanings or {})
    return near or get_close_matches(name, names, n=1, cutoff=0.6)


def _of_like_meaning(
    name: str,
    names: Iterable[str],
    also: Mapping[str, Iterable[str]],
    meanings: Mapping[str, str],
) -> list[str]:
    wanted = _words(name)
    shared = {
        each: (
            len(wanted & _words(" ".join([each, *also.get(each, ())]))),
            len(wanted & _words(meanings.get(each, ""))),
        )
        for each in names
    }
    best = sorted(shared, key=lambda each: shared[each], reverse=True)[:2]
    return [each for each in best if any(shared[each])]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _words(text: str) -> set[str]:
    """The words of a text or of a name such as numHBDonors or ring_count, in the singular."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)
    words = {part.lower() for part in parts if len(part) > 1}
    return {word.removesuffix("s") if len(word) > 3 else word for word in words} - WEAK
