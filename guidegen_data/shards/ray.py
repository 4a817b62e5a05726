"""Blocks computed by actors on a Ray cluster. Nodes only compute; the one driver commits to the folder."""

from __future__ import annotations

import logging
import os
import socket
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

from guidegen_data.errors import GuideGenError, ShardError
from guidegen_data.shards.generators import CORES_PER_WORKER, Load, prepare
from guidegen_data.shards.manifest import Recipe
from guidegen_data.shards.plan import CaseGenerator, ReportSource
from guidegen_data.shards.workers import Finished, encode_block

LOCAL = "local"
# An actor has one block waiting behind the one it computes, so that it never idles while the driver writes.
_AHEAD = 2
_MAX_LOSSES_OF_A_BLOCK = 5
_PATIENCE_S, _KNOCK_S = 30.0, 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Actors:
    """How many actors compute, and what each of them holds of its node."""

    number: int
    num_cpus: int
    num_gpus: float

    def __str__(self) -> str:
        gpus = f", {self.num_gpus:.3g} GPU each" if self.num_gpus else ""
        return f"{self.number} Ray actors, {self.num_cpus} CPU{gpus}"


class RayCluster:
    """A cluster that was joined (an address) or started here ('local'), as a context manager.

    One that was started here ends with it. ShardError when ray is not installed or nothing answers at the address.
    """

    def __init__(self, address: str = LOCAL) -> None:
        self._ray = _import_ray()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # An actor without a GPU must not be told to hide those of its node from itself in a future version.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
        try:
            _knock(address)
            self._ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise ShardError(f"no Ray cluster answers at {address!r} ({error}); check `ray status` there.") from error

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ray.shutdown()

    def actors(self, kind: str, number: int | None = None) -> Actors:
        """What computes on this cluster on devices of a kind, as many as fit where `number` is None.

        One for each GPU (more share them evenly), or one for every two CPUs. ShardError when no node can hold one.
        """
        cpus, gpus = self._room_of("CPU"), self._room_of("GPU")
        if kind == "cuda":
            number = number or max(1, gpus)
            sharing = -(-number // max(1, gpus))
            wanted = Actors(number, 1, 1 / sharing)
        else:
            number = number or max(1, cpus // CORES_PER_WORKER)
            wanted = Actors(number, max(1, min(CORES_PER_WORKER, cpus // number)), 0)
        self._check_room(wanted)
        return wanted

    def has_gpus(self) -> bool:
        """Whether any node has a GPU."""
        return self._room_of("GPU") >= 1

    def _room_of(self, resource: str) -> int:
        """How much the nodes that live have in all; the cluster's own total still counts a node that was just lost."""
        return int(sum(node["Resources"].get(resource, 0) for node in self._ray.nodes() if node["Alive"]))

    def compute_blocks(
        self, recipe: Recipe, load: Load, blocks: Sequence[int], num_cases: int, actors: Actors
    ) -> Iterator[Finished]:
        """(block, its encoded cases) as they get done, in any order. Raises what a block raised.

        The block of an actor that is lost (killed, or its node gone) is given to another, and a new actor starts where
        there is room. No more than two blocks an actor are under way, so results never pile up.
        """
        crew = _Crew(self._ray, recipe, load, num_cases, actors)
        try:
            for _ in range(min(actors.number, len(blocks))):
                crew.employ()
            yield from self._share_out(crew, deque(blocks))
        finally:
            crew.dismiss()

    def _share_out(self, crew: _Crew, todo: deque[int]) -> Iterator[Finished]:
        num_left, losses, blamed = len(todo), 0, Counter[int]()
        while num_left:
            done, _ = self._ray.wait(list(crew.jobs), num_returns=1, timeout=_PATIENCE_S)
            if not done:
                self._check_room(crew.actors)
                continue
            actor, block = crew.jobs.pop(done[0])
            try:
                result = self._ray.get(done[0])
            except self._ray.exceptions.RayError as error:
                blocks = ([] if block is None else [block]) + crew.lose(actor)
                todo.extendleft(reversed(blocks))
                losses += 1
                blamed.update(blocks[:1])
                _log.warning("a Ray actor was lost (%s); %d blocks go to others", type(error).__name__, len(blocks))
                _check_losses(losses, blamed, crew.actors, error)
                crew.deal(todo)  # those that had nothing left to do take over
                continue
            if isinstance(result, BaseException):
                raise result
            crew.ready.add(actor)
            crew.deal(todo)
            if block is not None:
                num_left, losses = num_left - 1, 0
                yield block, result

    def _check_room(self, actors: Actors) -> None:
        for node in self._ray.nodes():
            room = node["Resources"] if node["Alive"] else {}
            if room.get("CPU", 0) >= actors.num_cpus and room.get("GPU", 0) >= actors.num_gpus:
                return
        needed = f"{actors.num_cpus} CPUs" + (f" and {actors.num_gpus:.3g} GPU" if actors.num_gpus else "")
        raise ShardError(
            f"no node of the Ray cluster has the {needed} that an actor needs; add a node or give another --device, "
            f"then run the same command again: finished blocks are kept."
        )


class _Crew:
    """The actors and what each was given: `jobs` maps what Ray will answer to (actor, block); None is its start."""

    def __init__(self, ray: ModuleType, recipe: Recipe, load: Load, num_cases: int, actors: Actors) -> None:
        self.jobs: dict[Any, tuple[Any, int | None]] = {}
        self.actors, self._ray = actors, ray
        self._arguments = (recipe, load, num_cases, actors.num_cpus)
        # Restarts are ours: Ray's own would give the block to the same actor, wherever it comes up again.
        self._kind = ray.remote(num_cpus=actors.num_cpus, num_gpus=actors.num_gpus, max_restarts=0)(_Actor)
        self._all: list[Any] = []
        self.ready: set[Any] = set()

    def employ(self) -> None:
        """Start an actor; it gets its first block once it answers, which may take until a node has room."""
        actor = self._kind.remote(*self._arguments)
        self._all.append(actor)
        self.jobs[actor.ready.remote()] = (actor, None)

    def deal(self, todo: deque[int]) -> None:
        """Give blocks to the actors that answered: one each, and another one ahead while there are many."""
        for ahead in range(_AHEAD if len(todo) >= self.actors.number else 1):
            busy = Counter(actor for actor, _ in self.jobs.values())
            for actor in self.ready:
                if todo and busy[actor] <= ahead:
                    block = todo.popleft()
                    self.jobs[actor.compute.remote(block)] = (actor, block)

    def lose(self, actor: Any) -> list[int]:
        """Replace an actor; the blocks that it had and not answered, the one it was at first."""
        refs = [ref for ref, (other, _) in self.jobs.items() if other == actor]
        blocks = [block for _, block in map(self.jobs.pop, refs) if block is not None]
        self._end(actor)
        self._all.remove(actor)
        self.ready.discard(actor)
        self.employ()
        return blocks

    def dismiss(self) -> None:
        """End all actors, at once."""
        for actor in self._all:
            self._end(actor)

    def _end(self, actor: Any) -> None:
        with suppress(Exception):  # gone already, or the cluster is
            self._ray.kill(actor, no_restart=True)


class _Actor:
    """What runs on the nodes: one generator, one block at a time. Errors are answers, so that they keep their kind."""

    def __init__(self, recipe: Recipe, load: Load, num_cases: int, num_threads: int) -> None:
        self._recipe, self._load, self._num_cases, self._num_threads = recipe, load, num_cases, num_threads
        self._prepared: tuple[CaseGenerator, ReportSource] | None = None

    def ready(self) -> None:
        """Answers when the actor runs; loading waits for the first block."""

    def compute(self, block: int) -> Any:
        """The encoded cases of a block, or the error that it met."""
        try:
            self._prepared = self._prepared or prepare(self._recipe, self._load, self._num_threads)
            return encode_block(self._prepared[0], self._recipe, self._prepared[1], block, self._num_cases)
        except GuideGenError as error:
            return error
        except Exception:
            return RuntimeError(f"in a Ray actor:\n{traceback.format_exc()}")


def _check_losses(losses: int, blamed: Counter[int], actors: Actors, error: Exception) -> None:
    worst = max(blamed.values(), default=0)
    if worst >= _MAX_LOSSES_OF_A_BLOCK or losses > 3 * actors.number + _MAX_LOSSES_OF_A_BLOCK:
        reason = str(error).strip().splitlines()
        raise ShardError(
            f"Ray actors are lost again and again (last: {reason[0] if reason else type(error).__name__}), most likely "
            f"for want of memory or because a node lacks guidegen-data; mend that and run the same command again: "
            f"finished blocks are kept."
        ) from error


def _knock(address: str) -> None:
    """OSError when nothing listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise ShardError("--ray needs ray, which is not installed; pip install 'guidegen-data[ray]'.") from error
    return ray
