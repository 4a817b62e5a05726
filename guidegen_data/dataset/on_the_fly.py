"""Cases generated where they are asked for, kept on disk or not, in the processes that a DataLoader starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import get_worker_info

from guidegen_data.anatomy import ANATOMIES, Anatomy
from guidegen_data.anatomy_files import register, table_digest
from guidegen_data.case import Case
from guidegen_data.errors import ShardError
from guidegen_data.shards.blocks import generate_block
from guidegen_data.shards.generators import check_fingerprint, device_kind, load_generator, set_torch_threads
from guidegen_data.shards.manifest import Recipe, key_of
from guidegen_data.shards.plan import CaseGenerator, ReportSource, derive_seed, make_recipe
from guidegen_data.shards.reader import TarCases
from guidegen_data.shards.writer import encode_case, write_tar

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


class OnTheFly:
    """A generator with its recipe, loaded once in each process that uses it: what was loaded from a name is not
    pickled."""

    def __init__(
        self,
        model: str | Path | CaseGenerator,
        device: str,
        seed: int,
        templates: str | None,
        reports: Sequence[str],
        num_steps_mask: int | None,
        num_steps_ct: int | None,
        guidance: float | None,
        quality_control: bool,
    ) -> None:
        """ModelError or ReportError when model or templates cannot be used."""
        self._model, self._device = model, device
        self._loaded: tuple[CaseGenerator, ReportSource] | None = None
        self._loaded_in = os.getpid()
        generator = self._load()
        self.anatomy: Anatomy = generator.anatomy
        self.recipe: Recipe = make_recipe(
            generator,
            device=device_kind(device) if isinstance(model, str | Path) else device_of(generator, device),
            seed=seed,
            templates=templates,
            reports=reports,
            num_steps_mask=num_steps_mask,
            num_steps_ct=num_steps_ct,
            guidance=guidance,
            quality_control=quality_control,
        )
        self._loaded = generator, ReportSource(self.recipe, generator.anatomy)

    def block(self, block: int, epoch: int = 0) -> list[Case]:
        """Every case of a block. Epochs are independent of each other; epoch 0 has the cases of the recipe itself.

        ShardError in a forked process when the generator is on a GPU.
        """
        if self._loaded is None:
            generator = self._load()
            check_fingerprint(generator, self.recipe)
            self._loaded_in = os.getpid()
            self._loaded = generator, ReportSource(self.recipe, generator.anatomy)
        elif self.recipe.device == "cuda" and self._loaded_in != os.getpid():
            raise ShardError(
                "the model is on a GPU, and CUDA does not work in a forked worker; give the DataLoader "
                "multiprocessing_context='spawn' (each worker then loads its own model), or num_workers=0, or use "
                "monai.data.ThreadDataLoader."
            )
        generator, source = self._loaded
        recipe = self.recipe_of(epoch)
        if epoch:
            source = ReportSource(recipe, generator.anatomy)
        return _with_threads_of_a_run(generator, partial(generate_block, generator, recipe, source, block))

    def recipe_of(self, epoch: int) -> Recipe:
        """The recipe of an epoch: the same but for a seed of its own."""
        return replace(self.recipe, seed=derive_seed(self.recipe.seed, "epoch", epoch, 0)) if epoch else self.recipe

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # A new process reads cached cases without the model, which would have made its own table known.
        if self.anatomy.name not in ANATOMIES:
            register(self.anatomy)

    def _load(self) -> CaseGenerator:
        if isinstance(self._model, str | Path):
            return load_generator(self._model, self._device)
        return self._model


def _with_threads_of_a_run(generator: CaseGenerator, make: Callable[[], list[Case]]) -> list[Case]:
    """What `make` returns, computed with the threads that guidegen-shard takes where the bytes depend on their number;
    the process has its own again afterwards."""
    before = torch.get_num_threads()

    def made() -> list[Case]:
        set_torch_threads(generator, before)
        return make()

    if get_worker_info() is not None:
        # The threads of a forked process are gone, and OpenMP waits for them for ever; a new thread starts its own.
        with ThreadPoolExecutor(1) as fresh:
            return fresh.submit(made).result()
    try:
        return made()
    finally:
        torch.set_num_threads(before)


def device_of(generator: CaseGenerator, device: str) -> str:
    """'cpu' or 'cuda': where a generator that came as an object is, else what `device` means here."""
    place = getattr(generator, "device", None)
    return str(getattr(place, "type", place)) if place is not None else device_kind(device)


class GeneratedCases:
    """Cases 0..n-1, generated by blocks when one of them is first asked for; each block is kept as a small tar."""

    def __init__(self, source: OnTheFly, n: int, cache_dir: Path | None) -> None:
        """ShardError for n below 1. Without `cache_dir` cases go to the user's cache folder."""
        if n < 1:
            raise ShardError(f"n must be 1 or more, got {n}.")
        self._source, self._n = source, n
        # The recipe knows a model by its weights and settings; its label table decides sizes and places of organs, too.
        name = f"{source.recipe.sha256[:32]}-{table_digest(source.anatomy)[:8]}"
        self._folder = (cache_dir or _default_cache()) / name
        self._tars: dict[int, TarCases] = {}

    def __len__(self) -> int:
        return self._n

    def case(self, index: int) -> tuple[Case, str]:
        """A case and the URL of the folder that keeps it; one that was damaged there is generated again."""
        tar, key = self.locate(index)
        try:
            return tar.case(key), tar.folder.url
        except ShardError:
            self._forget(tar)
        tar, key = self.locate(index)
        return tar.case(key), tar.folder.url

    def locate(self, index: int) -> tuple[TarCases, str]:
        """The tar and the key of a case, generated now if it is not there yet. IndexError beyond the end."""
        if not -self._n <= index < self._n:
            raise IndexError(f"case {index} of {self._n}")
        index %= self._n
        block = index // self._source.recipe.block_size
        if block not in self._tars:
            self._tars[block] = self._tar(block)
        return self._tars[block], key_of(index)

    def _tar(self, block: int) -> TarCases:
        name = f"block-{block:08d}.tar"
        with suppress(ShardError):  # not there yet, or cut
            return TarCases(self._folder, name)
        self._folder.mkdir(parents=True, exist_ok=True)
        # Workers of one DataLoader ask for cases of one block at the same time: one makes it, the others wait.
        with _held(self._folder / f".{name}.lock"):
            with suppress(ShardError):
                return TarCases(self._folder, name)
            write_tar(self._folder / name, (encode_case(case).tar() for case in self._source.block(block)))
        return TarCases(self._folder, name)

    def _forget(self, tar: TarCases) -> None:
        """Remove a block with a damaged case, unless another worker has made it anew meanwhile."""
        self._tars = {block: other for block, other in self._tars.items() if other is not tar}
        path = self._folder / tar.name
        with _held(self._folder / f".{path.name}.lock"):
            try:
                again = TarCases(self._folder, tar.name)
                for key in again.keys:
                    again.case(key)
            except ShardError:
                path.unlink(missing_ok=True)


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guidegen-data"


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    with open(lock, "w") as file:
        with suppress(OSError):  # a file system without locks: two workers may then make one block, in the same bytes
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    lock.unlink(missing_ok=True)
