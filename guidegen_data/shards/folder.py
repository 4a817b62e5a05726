"""A shard folder while it is filled: what is done, what is missing, and the one place where files are published."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

from guidegen_data.anatomy import anatomy_named
from guidegen_data.anatomy_files import anatomy_text
from guidegen_data.errors import GuideGenError, ShardError
from guidegen_data.shards import manifest
from guidegen_data.shards.card import write_card
from guidegen_data.shards.ledger import Ledger, lines_of, num_lines
from guidegen_data.shards.manifest import LOCK, MANIFEST, META, REJECTS, RUN, WORK, RunConfig, key_of, shard_name
from guidegen_data.shards.reader import TarCases, parse_meta
from guidegen_data.shards.storage import TEMPORARY, Folder, folder_at, write_text
from guidegen_data.shards.table import check_table
from guidegen_data.shards.writer import EncodedCase, tar_chunks, tar_part


class ShardFolder:
    """Finished blocks go in (`add_block`), whole shards come out under their final names, then the index follows.

    Blocks wait in a hidden work folder, so a killed run loses no more than what was being computed. A context manager:
    it holds the folder against a second run. Memory does not grow with the number of cases: what a shard says of its
    cases is kept beside the blocks until `finish` writes the manifest.
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | Folder,
        config: RunConfig,
        overwrite: bool = False,
        model_card: str = "",
        lock: IO[str] | None = None,
    ) -> None:
        """Take the folder, new or begun. ShardError when it holds something else or another configuration.

        `lock` is the folder's, where the caller holds it already.
        """
        self.folder, self._model_card = folder_at(location), model_card
        check_folder(self.folder, config, overwrite)
        self._lock = lock or self.folder.hold(LOCK)
        if overwrite and not self._is_ours(config):
            self._clear()
        for under in ("", WORK):
            for name in self.folder.sizes(under):
                if name.endswith(TEMPORARY):
                    self.folder.remove(f"{under}/{name}".lstrip("/"))
        if self.folder.size(RUN) is None:
            write_text(self.folder, RUN, manifest.to_json(manifest.run_record(config)) + "\n")
        # As the first run put it: what decides nothing (the model's name, where a template file lies) stays as it is.
        self.config = config = manifest.read_config(self.folder)
        if self.folder.size(manifest.ANATOMY) is None:
            write_text(self.folder, manifest.ANATOMY, anatomy_text(anatomy_named(config.recipe.anatomy)))
        # Written when every shard is there, so beside a missing one they tell of it as it was: made anew on a machine
        # of other arithmetic, it may say something else in as many lines. Asked before the shards are counted, since
        # another run may publish the last one and write both in between.
        told = [name for name in (MANIFEST, REJECTS) if self.folder.size(name) is not None]
        self._ledger = Ledger(self.folder, config)
        for name in told if self._missing_shards() else ():
            self.folder.remove(name)
        # Of every block that waits: how often each of its cases was rejected.
        self._waiting: dict[int, list[int]] = self._find_blocks()
        self._publish_whole_shards(range(config.num_shards))

    def __enter__(self) -> ShardFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._lock:
            self._lock.close()

    @property
    def missing_blocks(self) -> list[int]:
        """Blocks that an unpublished shard needs and that are not finished, in order."""
        return sorted(self._needed_blocks() - set(self._waiting))

    @property
    def num_done(self) -> int:
        """Cases that a killed run would keep."""
        return self._ledger.num_cases + sum(1 for _ in self._waiting_cases())

    @property
    def num_rejects(self) -> int:
        """Drafts that were rejected on the way to the cases that are done."""
        return self._ledger.num_rejects + sum(self._waiting_cases())

    def add_block(self, block: int, cases: Sequence[EncodedCase]) -> None:
        """Keep a finished block, and publish the shards that it completes. OSError when the disk is full."""
        self.folder.write(_block_name(block), tar_chunks(case.tar() for case in cases))
        self._waiting[block] = [len(case.meta["rejects"]) for case in cases]
        self._publish_whole_shards(self._shards_of_block(block))

    def finish(self) -> None:
        """Write manifest, index and card of the complete folder and remove the work folder.

        A folder that is whole already is not touched.
        """
        assert not self._missing_shards(), "finish() before every block was added"
        for name, kind in ((MANIFEST, "manifest"), (REJECTS, "rejects")):
            if num_lines(self.folder, name) != self._ledger.expected_lines(kind):
                self.folder.write(name, (line for s in range(self.config.num_shards) for line in self._lines(s, kind)))
        self._write_index()
        write_card(self.folder, self.config, self._ledger.entries, self._model_card)
        self.folder.remove_under(WORK)

    def _lines(self, shard: int, kind: str) -> Iterator[bytes]:
        for line in getattr(self._ledger.lines(shard), kind):
            yield f"{line}\n".encode()

    def _is_ours(self, config: RunConfig) -> bool:
        with suppress(ShardError):
            check_table(self.folder, config.recipe.anatomy)
            return not manifest.read_config(self.folder).differences(config)
        return False

    def _cases_of_block(self, block: int) -> range:
        size = self.config.recipe.block_size
        return range(block * size, min((block + 1) * size, self.config.n))

    def _shards_of_block(self, block: int) -> range:
        cases = self._cases_of_block(block)
        return range(cases[0] // self.config.shard_size, cases[-1] // self.config.shard_size + 1)

    def _waiting_cases(self) -> Iterator[int]:
        """The rejects of every case of a waiting block whose shard is not published."""
        for block, rejects in self._waiting.items():
            for index, number in zip(self._cases_of_block(block), rejects, strict=True):
                if index // self.config.shard_size not in self._ledger:
                    yield number

    def _missing_shards(self) -> list[int]:
        return [s for s in range(self.config.num_shards) if s not in self._ledger]

    def _needed_blocks(self) -> set[int]:
        return {block for shard in self._missing_shards() for block in self.config.blocks_of_shard(shard)}

    def _publish_whole_shards(self, shards: Sequence[int]) -> None:
        for shard in shards:
            if shard not in self._ledger and all(b in self._waiting for b in self.config.blocks_of_shard(shard)):
                try:
                    self._publish(shard)
                except ShardError:
                    if not self._drop_lost_blocks(shard):
                        raise
                self._write_index()
        for block in list(self._waiting):
            if all(shard in self._ledger for shard in self._shards_of_block(block)):
                self.folder.remove(_block_name(block))
                del self._waiting[block]

    def _drop_lost_blocks(self, shard: int) -> bool:
        """Count blocks as missing that another run removed, as it does once their shards are published; if any was."""
        lost = [b for b in self.config.blocks_of_shard(shard) if self.folder.size(_block_name(b)) is None]
        for block in lost:
            del self._waiting[block]
        return bool(lost)

    def _publish(self, shard: int) -> None:
        metas: list[dict[str, Any]] = []

        def parts() -> Iterator[bytes]:
            for block in self.config.blocks_of_shard(shard):
                tar = TarCases(self.folder, _block_name(block))
                for index in self._cases_of_block(block):
                    if index in self.config.cases_of_shard(shard):
                        key = key_of(index)
                        members = tar.members(key)
                        metas.append(parse_meta(key, members[META], tar.url))
                        yield tar_part(key, members)

        name = shard_name(shard)
        sha256, size = self.folder.write(name, tar_chunks(parts()))
        self._ledger.add(shard, lines_of(name, sha256, size, metas))

    def _find_blocks(self) -> dict[int, list[int]]:
        found, there = {}, self.folder.sizes(WORK)
        for block in self._needed_blocks():
            # Blocks are renamed into place whole; one that cannot be read was damaged since and is made anew.
            if _block_name(block).removeprefix(f"{WORK}/") in there:
                with suppress(GuideGenError):
                    tar = TarCases(self.folder, _block_name(block))
                    metas = [tar.meta(key) for key in tar.keys]
                    # A work folder is hidden, so that blocks of another recipe may outlast the files around it.
                    ours = all(self.config.recipe.made(meta.get("recipe_sha256")) for meta in metas)
                    if ours and tar.keys == [key_of(i) for i in self._cases_of_block(block)]:
                        found[block] = [len(meta["rejects"]) for meta in metas]
        return found

    def _write_index(self) -> None:
        self._ledger.refresh()
        index = manifest.index_of(self.config, self._ledger.entries)
        write_text(self.folder, manifest.INDEX, manifest.to_json(index) + "\n")

    def _clear(self) -> None:
        """Remove all that is ours. The hidden files first and the one that says so last: a run killed in between leaves
        a folder that can still be overwritten."""
        for name in self.folder.sizes(WORK):
            if name.endswith((".tar", ".json")):
                self.folder.remove(f"{WORK}/{name}")
        for name in self.folder.sizes():
            if is_shard(name) or (name in manifest.FILES and name != RUN):
                self.folder.remove(name)
        self.folder.remove(RUN)


def check_folder(folder: Folder, config: RunConfig, overwrite: bool = False) -> None:
    """ShardError unless the folder can be made, is empty, or holds shards of this configuration and label table (any,
    to overwrite)."""
    names = [name for name in folder.sizes() if name != WORK and not name.endswith(TEMPORARY)]
    if names and RUN not in names:
        raise ShardError(
            f"{folder.url} holds something else than shards ({', '.join(names[:3])}); give an empty or new folder."
        )
    if names and not overwrite and (differences := manifest.read_config(folder).differences(config)):
        raise ShardError(
            f"{folder.url} holds shards of another configuration ({'; '.join(differences)}); give the same options, "
            f"another folder, or --overwrite to replace them."
        )
    if names and not overwrite:
        check_table(folder, config.recipe.anatomy)


def salvage(
    folder: Folder, shard: str, keys: Sequence[str], bad: Set[str], block_size: int, is_whole: bool = False
) -> None:
    """Take a shard that holds `keys` out of a folder; its blocks without a bad case are kept as finished ones.

    Unless the file is whole, bit for bit what was published, each case must carry the digest of its metadata: without
    it nobody could tell whether they are true, and they would get a new checksum.
    """
    with suppress(ShardError):
        tar = TarCases(folder, shard)
        for start in range(0, len(keys), block_size):
            # A block that reaches into another shard, or is cut by the end of this one, is made anew.
            block = keys[start : start + block_size]
            number, offset = divmod(int(block[0][1:]), block_size)
            if offset or len(block) != block_size or bad & set(block) or not set(block) <= set(tar.keys):
                continue
            with suppress(ShardError):
                if is_whole or all(META in tar.meta(key).get("sha256", {}) for key in block):
                    folder.write(_block_name(number), tar_chunks(tar_part(key, tar.members(key)) for key in block))
    folder.remove(shard)


def is_shard(name: str) -> bool:
    """Whether a file is named as shards are."""
    return name.startswith("shard-") and name.endswith(".tar")


def _block_name(block: int) -> str:
    return f"{WORK}/block-{block:08d}.tar"
