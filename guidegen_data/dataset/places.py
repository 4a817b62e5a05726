"""Who shares the cases of an iterable data set: processes of a distributed training, and the workers of each."""

from __future__ import annotations

import os
from dataclasses import dataclass

from torch import distributed
from torch.utils.data import get_worker_info

#: (rank, number of processes) of a distributed training.
Process = tuple[int, int]


@dataclass(frozen=True)
class Place:
    """A worker of a process; without a DataLoader's workers the process itself is its only one."""

    rank: int
    num_ranks: int
    worker: int
    num_workers: int

    @property
    def number(self) -> int:
        """Among all workers of all processes."""
        return self.rank * self.num_workers + self.worker

    @property
    def num_places(self) -> int:
        """All workers of all processes."""
        return self.num_ranks * self.num_workers


def place_here(parent: Process | None) -> Place:
    """The place of this process. `parent` is the training process that a worker was spawned by (see `own_process`)."""
    info = get_worker_info()
    rank, num_ranks = own_process() or (parent if info else None) or process_by_environment()
    return Place(rank, num_ranks, info.id if info else 0, info.num_workers if info else 1)


def own_process() -> Process | None:
    """What this process is in a distributed training that it has joined itself.

    A worker that is spawned joins none, and the environment tells it only where a launcher set it (torchrun): data sets
    take this along when they are pickled.
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return None


def process_by_environment() -> Process:
    """As launchers tell it; the only one where none did."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
