"""Counts that a process and the workers of its DataLoaders share."""

from __future__ import annotations

from typing import Any

import torch

from guidegen_data.dataset.places import Place, Process, own_process, place_here

MAX_WORKERS = 1024
#: Of one machine, where they are numbered one after the other.
_MAX_RANKS = 64


class Counters:
    """Whole numbers, 0 at first, by column; a DataLoader's workers, forked or spawned, see them change.

    Ranks that torch.multiprocessing starts get the same memory, and each has a row of its own in it. A process that
    is no rank writes to all rows: what it has set holds for the ranks that it starts.
    """

    def __init__(self, num: int) -> None:
        self._rows = torch.zeros(_MAX_RANKS, num, dtype=torch.int64).share_memory_()
        self._process: Process | None = None

    @property
    def place(self) -> Place:
        """The place of this process; that of a spawned worker is known from the process that started it."""
        return place_here(self._process)

    def __getitem__(self, column: int) -> int:
        return int(self._rows[self.place.rank % _MAX_RANKS, column])

    def __setitem__(self, columns: int | slice, value: int) -> None:
        place = self.place
        self._rows[place.rank % _MAX_RANKS if place.num_ranks > 1 else slice(None), columns] = value

    def changed_places(self, column: int) -> bool:
        """Notes in a column among how many places the work is shared; whether it was shared among others before."""
        before, self[column] = self[column], self.place.num_places
        return before not in (0, self[column])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": own_process() or self._process}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # A pickle or a deep copy has memory of its own, which its workers would not see; a worker's is shared already.
        self._rows.share_memory_()
