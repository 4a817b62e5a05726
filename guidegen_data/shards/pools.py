"""What computes the blocks of a run: this process, several here, or actors on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from guidegen_data.shards import generators
from guidegen_data.shards.manifest import Recipe
from guidegen_data.shards.plan import CaseGenerator
from guidegen_data.shards.ray import Actors, RayCluster
from guidegen_data.shards.workers import Finished, compute_blocks

#: Makes the generator on a device.
LoadOn = Callable[[str], CaseGenerator]


class Pool(Protocol):
    """Computes blocks."""

    @property
    def kind(self) -> str:
        """Kind of the device that computes: 'cpu', 'cuda' ..."""

    @property
    def own_device(self) -> str:
        """What this process loads its own model on."""

    @property
    def number(self) -> int:
        """Processes that compute."""

    @property
    def speedup(self) -> float:
        """How many times as fast as this process alone."""

    @property
    def is_here(self) -> bool:
        """Whether all of it runs on this machine."""

    def compute(
        self, recipe: Recipe, load: LoadOn, num_cases: int, generator: CaseGenerator, blocks: Sequence[int]
    ) -> Iterator[Finished]:
        """(block, its encoded cases) in any order; `generator` is the one that this process has loaded."""


@dataclass(frozen=True)
class Processes:
    """This process, or one for each device named."""

    kind: str
    devices: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.number} worker{'s' if self.number > 1 else ''} on {', '.join(sorted(set(self.devices)))}"

    @property
    def own_device(self) -> str:
        """The first."""
        return self.devices[0]

    @property
    def number(self) -> int:
        """See Pool."""
        return len(self.devices)

    @property
    def speedup(self) -> float:
        """Cores are shared whatever the number of workers; GPUs add up."""
        return float(len(set(self.devices))) if self.kind == "cuda" else 1.0

    @property
    def is_here(self) -> bool:
        """See Pool."""
        return True

    def compute(
        self, recipe: Recipe, load: LoadOn, num_cases: int, generator: CaseGenerator, blocks: Sequence[int]
    ) -> Iterator[Finished]:
        """See Pool. Several load their own generators; alone, this process uses the one it has."""
        loads = [partial(load, device) for device in self.devices] if self.number > 1 else [lambda: generator]
        return compute_blocks(recipe, loads, blocks, num_cases)


@dataclass(frozen=True)
class OnRay:
    """Actors on a cluster; a GPU that an actor holds is its only one, so that it needs no number."""

    kind: str
    cluster: RayCluster
    actors: Actors
    own_device: str = "cpu"

    def __str__(self) -> str:
        return str(self.actors)

    @property
    def number(self) -> int:
        """See Pool."""
        return self.actors.number

    @property
    def speedup(self) -> float:
        """By the processors that the actors hold; that of this process is measured with all its cores."""
        cores = self.actors.number * self.actors.num_cpus / generators.num_cores()
        return self.actors.number * self.actors.num_gpus or max(1.0, cores)

    @property
    def is_here(self) -> bool:
        """See Pool."""
        return False

    def compute(
        self, recipe: Recipe, load: LoadOn, num_cases: int, generator: CaseGenerator, blocks: Sequence[int]
    ) -> Iterator[Finished]:
        """See Pool."""
        return self.cluster.compute_blocks(recipe, partial(load, self.kind), blocks, num_cases, self.actors)


@contextmanager
def open_pool(device: str, workers: int | str | None, ray_address: str | None) -> Iterator[Pool]:
    """What the options ask for; `workers` is a number, 'auto' or None. ShardError or ModelError when it is not there.

    Without Ray the default is this process alone, on Ray as many actors as fit.
    """
    if ray_address is None:
        kind = generators.device_kind(device)
        number = 1 if workers is None else None if workers == "auto" else int(workers)
        yield Processes(kind, tuple(generators.worker_devices(device, kind, number)))
        return
    number = None if workers in (None, "auto") else int(workers)
    with RayCluster(ray_address) as cluster:
        kind = device.partition(":")[0]
        if kind == "auto":
            kind = "cuda" if cluster.has_gpus() else "cpu"
        yield OnRay(kind, cluster, cluster.actors(kind, number))
