"""Whose lobe a bare 'left lobe' is: of the thyroid or the prostate where that was spoken of last, else of the liver."""

from __future__ import annotations

from dataclasses import replace

from guidegen_data.reports.clauses import Clause, Place
from guidegen_data.reports.lexicon import Lexicon


class LobeOwner:
    """Follows the organs of a report; `assign` takes bare lobes from the liver where another organ has them."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lobes, self._others = lexicon.bare_lobes, lexicon.lobed_others
        self._elsewhere = False

    def assign(self, clause: Clause, new_section: bool) -> None:
        """Turns bare lobes of the clause into a part that this anatomy does not host, where they are of one."""
        places = [(i, item) for i, item in enumerate(clause.items) if item.kind == "place"]
        told = [self._is_other(item.text) for _, item in places if item.text not in self._lobes]
        if new_section:
            self._elsewhere = False
        # '1 cm nodule in the left lobe, thyroid'
        if any(told) and all(told):
            self._elsewhere = True
        for i, item in places:
            if item.text not in self._lobes:
                self._elsewhere = self._is_other(item.text)
            elif self._elsewhere:
                clause.items[i] = replace(item, value=Place(None, explicit=True))

    def _is_other(self, words: str) -> bool:
        return not self._others.isdisjoint(words.split())
