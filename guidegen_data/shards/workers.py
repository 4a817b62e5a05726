"""Who computes the blocks on this machine: this process, or several; and the loop that brings them to the folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import IO

from guidegen_data.errors import GuideGenError, ShardError
from guidegen_data.shards.blocks import generate_block
from guidegen_data.shards.folder import ShardFolder
from guidegen_data.shards.generators import Load, num_cores, prepare
from guidegen_data.shards.manifest import Recipe, RunConfig
from guidegen_data.shards.plan import CaseGenerator, ReportSource
from guidegen_data.shards.storage import Folder
from guidegen_data.shards.writer import EncodedCase, encode_case

Finished = tuple[int, list[EncodedCase]]
#: Blocks that are missing -> each with its cases, in any order.
Compute = Callable[[Sequence[int]], Iterator[Finished]]
_PATIENCE_S = 20


@dataclass(frozen=True)
class Progress:
    """How far a run is, in cases; rejected drafts are no cases."""

    num_done: int
    num_planned: int
    num_rejects: int

    @property
    def reject_share(self) -> float:
        """Rejected drafts among all drafts so far."""
        return self.num_rejects / max(1, self.num_done + self.num_rejects)


def make_shards(
    location: str | os.PathLike[str] | Folder,
    config: RunConfig,
    load: Load,
    num_workers: int = 1,
    overwrite: bool = False,
) -> Iterator[Progress]:
    """Complete the folder on this machine, yielding after every block; the last one means that the folder is whole.

    `load` makes the generator; with several workers it is called in each, so it must be picklable. Bytes do not depend
    on their number.
    """

    def compute(blocks: Sequence[int]) -> Iterator[Finished]:
        return compute_blocks(config.recipe, [load] * num_workers, blocks, config.n)

    return fill_folder(location, config, compute, overwrite)


def fill_folder(
    location: str | os.PathLike[str] | Folder,
    config: RunConfig,
    compute: Compute,
    overwrite: bool = False,
    model_card: str = "",
    lock: IO[str] | None = None,
) -> Iterator[Progress]:
    """Complete the folder with whatever computes blocks, yielding at the start and after every block.

    `lock` is the folder's, where the caller holds it already.
    """
    with ShardFolder(location, config, overwrite, model_card, lock) as shards:
        yield Progress(shards.num_done, config.n, shards.num_rejects)
        # Once, unless another run on an object store takes finished blocks away and does not publish their shards.
        while blocks := shards.missing_blocks:
            for block, cases in compute(blocks):
                shards.add_block(block, cases)
                yield Progress(shards.num_done, config.n, shards.num_rejects)
        shards.finish()


def compute_blocks(recipe: Recipe, loads: Sequence[Load], blocks: Sequence[int], num_cases: int) -> Iterator[Finished]:
    """(block, its encoded cases) as they get done, in any order, by one process for each of `loads`; one is this one.

    Raises what a block raised; nothing runs on after.
    """
    if not loads:
        raise ShardError("the number of workers must be 1 or more, got 0.")
    if len(loads) == 1 or len(blocks) < 2:
        if blocks:
            generator, source = prepare(recipe, loads[0], num_cores())
        for block in blocks:
            yield block, encode_block(generator, recipe, source, block, num_cases)
        return
    num_threads = max(1, num_cores() // len(loads))
    pool = [_Worker(recipe, load, num_cases, num_threads) for load in loads[: len(blocks)]]
    try:
        yield from _share_out(pool, list(blocks))
    finally:
        for worker in pool:
            worker.stop()


def encode_block(
    generator: CaseGenerator, recipe: Recipe, source: ReportSource, block: int, num_cases: int
) -> list[EncodedCase]:
    """The cases of a block below `num_cases`, as they go into a shard."""
    return [encode_case(case) for case in generate_block(generator, recipe, source, block, num_cases)]


class _Worker:
    """A process that computes one block at a time. It ends with this process, however that ends: a killed run leaves
    nothing that goes on computing."""

    def __init__(self, recipe: Recipe, load: Load, num_cases: int, num_threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, recipe, load, num_cases, num_threads)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def give(self, block: int) -> None:
        """Have a block computed. Of a process that has just died the next `receive` tells, once what came before is
        kept."""
        with suppress(ConnectionError):
            self.connection.send(block)

    def receive(self) -> Finished:
        """The block that got done. Raises what it raised; ShardError when the process died."""
        try:
            block, result = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            raise ShardError(_how_it_died(self._process.exitcode)) from error
        if isinstance(result, BaseException):
            raise result
        return block, result

    def stop(self) -> None:
        """End it: at once where it waits for work, within its block otherwise."""
        self.connection.close()
        self._process.terminate()
        self._process.join(_PATIENCE_S)
        self._process.kill()
        self._process.join()


def _how_it_died(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return (
            "a worker process was killed, most likely for want of memory; run the same command again with fewer "
            "--workers, finished blocks are kept."
        )
    return (
        f"a worker process died (exit code {exit_code}), its last words stand above; run the same command again, "
        f"finished blocks are kept. With --workers 1 whatever stops it is told in full."
    )


def _share_out(pool: list[_Worker], blocks: list[int]) -> Iterator[Finished]:
    of = {worker.connection: worker for worker in pool}
    todo, num_left = iter(blocks), len(blocks)
    for worker in pool:
        worker.give(next(todo))
    while num_left:
        for connection in wait(list(of)):
            assert isinstance(connection, Connection)
            finished = of[connection].receive()
            if (following := next(todo, None)) is not None:
                of[connection].give(following)
            else:
                del of[connection]
            num_left -= 1
            yield finished


def _serve(connection: Connection, recipe: Recipe, load: Load, num_cases: int, num_threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    signal.signal(signal.SIGTERM, _leave)  # with its locks given back, which the default would leave behind
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    prepared: tuple[CaseGenerator, ReportSource] | None = None
    with suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            block = connection.recv()
            try:
                prepared = prepared or prepare(recipe, load, num_threads)
                connection.send((block, encode_block(prepared[0], recipe, prepared[1], block, num_cases)))
            except GuideGenError as error:
                connection.send((block, error))
            except ConnectionError:
                raise
            except Exception:
                connection.send((block, RuntimeError(f"in a worker process:\n{traceback.format_exc()}")))


def _leave_with_parent() -> None:
    """Waits for the end of the parent, which cannot tell when it is killed, and ends this process within its block."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
