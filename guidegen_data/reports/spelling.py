"""Misspelt names of organs: 'gallblader', 'pancras'."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

# Shorter words are a letter away from too many others.
_MIN_LETTERS = 7
_ADJECTIVES = ("ic", "al", "ar", "ac", "ry", "yst")


def near_misses(names: Iterable[str]) -> frozenset[str]:
    """The nouns among the names that are long enough to be known by all but one letter.

    Adjectives are left out: 'porta hepatis' is a letter away from 'hepatic'.
    """
    return frozenset(n for n in names if len(n) >= _MIN_LETTERS and n.isalpha() and not n.endswith(_ADJECTIVES))


@lru_cache(maxsize=8192)
def meant(word: str, names: frozenset[str]) -> str:
    """The one name that the word is a letter away from, left out, added, changed or swapped; '' for none.

    The first letter must be right: 'ladder' is no bladder.
    """
    if len(word) < _MIN_LETTERS - 1:
        return ""
    close = [name for name in names if name[0] == word[0] and _one_edit(word, name)]
    return close[0] if len(close) == 1 else ""


def _one_edit(word: str, name: str) -> bool:
    if abs(len(word) - len(name)) > 1:
        return False
    i = next((k for k, (a, b) in enumerate(zip(word, name, strict=False)) if a != b), min(len(word), len(name)))
    if len(word) == len(name):
        swapped = word[i : i + 2] == name[i : i + 2][::-1] and word[i + 2 :] == name[i + 2 :]
        return word[i + 1 :] == name[i + 1 :] or swapped
    return word[i + 1 :] == name[i:] if len(word) > len(name) else word[i:] == name[i + 1 :]
