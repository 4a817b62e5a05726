"""Work on many cases, spread over processes; in this process where that is quicker."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from typing import Any

#: Starting a process that imports torch takes as long as reading about so many cases.
_CASES_A_PROCESS = 8


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worth_starting(workers: int, num_cases: int) -> int:
    """So many of the `workers` as have enough to do; 1 where all is done sooner in this process."""
    return max(1, min(workers, num_cases // _CASES_A_PROCESS))


class spread:
    """A map over processes, in order; in this process when there is one worker.

    What goes to a process and comes back is pickled: NumPy arrays do, tensors would take an open file each.
    """

    def __init__(self, workers: int) -> None:
        self.processes = None if workers < 2 else multiprocessing.get_context("spawn").Pool(workers, _one_thread)

    def __enter__(self) -> Callable[..., Iterator[Any]]:
        return map if self.processes is None else self.processes.imap

    def __exit__(self, *_: object) -> None:
        if self.processes is not None:
            self.processes.terminate()
            self.processes.join()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
