"""The record of one reading of a report: which words became what, which did not and why."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Notes:
    """Lines in the order they were made; the same line is kept once. `taken` counts what was taken in."""

    understood: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    taken: int = 0

    def heard(self) -> None:
        """Something was taken in that is told at the end, or needs no line."""
        self.taken += 1

    def used(self, words: str, became: str) -> None:
        self.taken += 1
        line = f"{words.strip()!r} -> {became}" if words else became
        if line not in self.understood:
            self.understood.append(line)

    def dropped(self, words: str, reason: str) -> None:
        self.taken += 1
        line = f"{words.strip()!r}: {reason}"
        if line not in self.ignored:
            self.ignored.append(line)
