"""What a disturbed run came to, and the log of all of them. Part of benchmarks/crashes.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CLEAN = "verify clean, all bytes equal"


@dataclass
class Outcome:
    """What one run came to. Anything in `wrong` is a failure; some runs are over before they are disturbed."""

    mode: str
    took_effect: bool
    told: str
    wrong: list[str]


def read_log(path: Path) -> list[Outcome]:
    """The outcomes that stand in a log, as they were told."""
    return [_outcome(line.partition(" ")[2]) for line in path.read_text().splitlines()]


def _outcome(told: str) -> Outcome:
    mode = told.partition(",")[0]
    # A run whose actor was killed goes on by itself; the others end.
    took_effect = "SIGKILL" in told if mode == "Ray actor" else "ended with 0" not in told
    return Outcome(mode, took_effect, told, [] if told.endswith(CLEAN) else [told.rpartition(": ")[2]])
