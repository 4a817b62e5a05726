"""Who computes the blocks: this process, or several; and the loop that brings them to the shard folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from guidegen_data.errors import GuideGenError, ShardError
from guidegen_data.shards.folder import ShardFolder
from guidegen_data.shards.manifest import Recipe, RunConfig
from guidegen_data.shards.plan import CaseGenerator, ReportSource, generate_block
from guidegen_data.shards.writer import EncodedCase, encode_case

Load = Callable[[], CaseGenerator]
Finished = tuple[int, list[EncodedCase]]
_PATIENCE_S = 20


@dataclass(frozen=True)
class Progress:
    """How far a run is, in cases."""

    num_done: int
    num_planned: int
    num_rejects: int


def load_generator(model: str | Path, device: str) -> CaseGenerator:
    """The pipeline of that name or folder on that device. ModelError when there is none or it is damaged."""
    from diffusers.utils import logging

    from guidegen_data.pipeline import GuideGenPipeline

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # loading takes a second; the bar that counts is the one of cases
    try:
        return GuideGenPipeline.from_pretrained(model, device=device)
    finally:
        if shown:
            logging.enable_progress_bar()


def device_kind(device: str) -> str:
    """'cpu' or 'cuda' for a device as the user gives it. ModelError when there is none such here."""
    from guidegen_data.models.precision import choose_device

    return choose_device(device).type


def make_shards(
    folder: str | Path, config: RunConfig, load: Load, num_workers: int = 1, overwrite: bool = False
) -> Iterator[Progress]:
    """Complete the folder, yielding after every block; the last one means that the folder is whole.

    `load` makes the generator; with several workers it is called in each, so it must be picklable. Bytes do not depend
    on their number.
    """
    with ShardFolder(folder, config, overwrite) as shards:
        yield Progress(shards.num_done, config.n, shards.num_rejects)
        for block, cases in compute_blocks(config.recipe, load, shards.missing_blocks, config.n, num_workers):
            shards.add_block(block, cases)
            yield Progress(shards.num_done, config.n, shards.num_rejects)
        shards.finish()


def compute_blocks(
    recipe: Recipe, load: Load, blocks: Sequence[int], num_cases: int, num_workers: int
) -> Iterator[Finished]:
    """(block, its encoded cases) as they get done, in any order. Raises what a block raised; nothing runs on after."""
    if num_workers < 1:
        raise ShardError(f"the number of workers must be 1 or more, got {num_workers}.")
    if num_workers == 1 or len(blocks) < 2:
        if blocks:
            generator, source = _prepare(recipe, load, num_workers=1)
        for block in blocks:
            yield block, _encode(generator, recipe, source, block, num_cases)
        return
    pool = [_Worker(recipe, load, num_cases, num_workers) for _ in range(min(num_workers, len(blocks)))]
    try:
        yield from _share_out(pool, list(blocks))
    finally:
        for worker in pool:
            worker.stop()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """A process that computes one block at a time; it ends when its pipe does, so it never outlives this process."""

    def __init__(self, recipe: Recipe, load: Load, num_cases: int, num_workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, recipe, load, num_cases, num_workers)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def receive(self) -> Finished:
        """The block that got done. Raises what it raised; ShardError when the process died."""
        try:
            block, result = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            raise ShardError(
                f"a worker process died (exit code {self._process.exitcode}), most likely for want of memory; run the "
                f"same command again with fewer --workers, finished blocks are kept."
            ) from error
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


def _share_out(pool: list[_Worker], blocks: list[int]) -> Iterator[Finished]:
    of = {worker.connection: worker for worker in pool}
    todo, num_left = iter(blocks), len(blocks)
    for worker in pool:
        worker.connection.send(next(todo))
    while num_left:
        for connection in wait(list(of)):
            assert isinstance(connection, Connection)
            finished = of[connection].receive()
            if (following := next(todo, None)) is not None:
                connection.send(following)
            else:
                del of[connection]
            num_left -= 1
            yield finished


def _serve(connection: Connection, recipe: Recipe, load: Load, num_cases: int, num_workers: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    signal.signal(signal.SIGTERM, _leave)  # with its locks given back, which the default would leave behind
    prepared: tuple[CaseGenerator, ReportSource] | None = None
    with suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            block = connection.recv()
            try:
                prepared = prepared or _prepare(recipe, load, num_workers)
                connection.send((block, _encode(prepared[0], recipe, prepared[1], block, num_cases)))
            except GuideGenError as error:
                connection.send((block, error))
            except ConnectionError:
                raise
            except Exception:
                connection.send((block, RuntimeError(f"in a worker process:\n{traceback.format_exc()}")))


def _leave(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _prepare(recipe: Recipe, load: Load, num_workers: int) -> tuple[CaseGenerator, ReportSource]:
    generator = load()
    if generator.fingerprint != recipe.model_sha256:
        raise ShardError("the model changed while the run went on; put the first one back and run the command again.")
    set_torch_threads(generator, num_workers)
    return generator, ReportSource(recipe, generator.anatomy)


def set_torch_threads(generator: CaseGenerator, num_workers: int) -> None:
    """Share the cores among the workers, where the bytes do not depend on it.

    Arithmetic in bfloat16 gave the same bits on 1, 2 and 4 threads, float32 on a CPU did not (1e-6): there every worker
    has two threads, however many cores and workers there are.
    """
    if torch := sys.modules.get("torch"):  # a generator without torch need not wait for it
        pinned = getattr(generator, "dtype", None) == torch.float32
        torch.set_num_threads(2 if pinned else max(1, num_cores() // num_workers))


def _encode(
    generator: CaseGenerator, recipe: Recipe, source: ReportSource, block: int, num_cases: int
) -> list[EncodedCase]:
    return [encode_case(case) for case in generate_block(generator, recipe, source, block, num_cases)]
