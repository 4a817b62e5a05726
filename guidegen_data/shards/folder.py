"""A shard folder while it is filled: what is done, what is missing, and the one place where files are published."""

from __future__ import annotations

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from guidegen_data.errors import GuideGenError, ShardError
from guidegen_data.shards import manifest
from guidegen_data.shards.card import card_text
from guidegen_data.shards.manifest import MANIFEST, META, REJECTS, RUN, WORK, RunConfig, ShardEntry, key_of, shard_name
from guidegen_data.shards.reader import TarCases, parse_meta
from guidegen_data.shards.writer import TEMPORARY, EncodedCase, tar_member, write_tar, write_text

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are then not told apart, but still write the same bytes
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Published:
    """A shard that is done: its entry in the index and its lines of the manifest and of the rejects."""

    entry: ShardEntry
    manifest: tuple[str, ...]
    rejects: tuple[str, ...]


class ShardFolder:
    """Finished blocks go in (`add_block`), whole shards come out under their final names, then the index follows.

    Blocks wait in a hidden work folder, so a killed run loses no more than what was being computed. A context manager:
    it holds the folder against a second run.
    """

    def __init__(self, path: str | Path, config: RunConfig, overwrite: bool = False) -> None:
        """Take the folder, new or begun. ShardError when it holds something else or another configuration."""
        self.path, self.config, self._work = Path(path), config, Path(path) / WORK
        check_folder(self.path, config, overwrite)
        self._work.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self._work / "lock", self.path)
        if overwrite and not self._is_ours():
            self._clear()
        for leftover in (*self.path.glob(f".*{TEMPORARY}"), *self._work.glob(f".*{TEMPORARY}")):
            leftover.unlink()
        if not (self.path / RUN).exists():
            write_text(self.path / RUN, manifest.to_json(manifest.run_record(config)) + "\n")
        self._published = self._find_published()
        self._block_rejects: dict[int, int] = self._find_blocks()
        self._publish_whole_shards(range(config.num_shards))

    def __enter__(self) -> ShardFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._lock:
            self._lock.close()

    @property
    def missing_blocks(self) -> list[int]:
        """Blocks that an unpublished shard needs and that are not finished, in order."""
        return sorted(self._needed_blocks() - set(self._block_rejects))

    @property
    def num_done(self) -> int:
        """Cases that a killed run would keep."""
        waiting = {i for block in self._block_rejects for i in self._cases_of_block(block)}
        unpublished = (set(self.config.cases_of_shard(s)) for s in self._missing_shards())
        return sum(p.entry.num_cases for p in self._published.values()) + sum(len(waiting & s) for s in unpublished)

    @property
    def num_rejects(self) -> int:
        return sum(p.entry.num_rejects for p in self._published.values()) + sum(self._block_rejects.values())

    def add_block(self, block: int, cases: Sequence[EncodedCase]) -> None:
        """Keep a finished block, and publish the shards that it completes. OSError when the disk is full."""
        write_tar(self._block_path(block), (case.tar() for case in cases))
        self._block_rejects[block] = sum(len(case.meta["rejects"]) for case in cases)
        first, last = (
            i // self.config.shard_size for i in (self._cases_of_block(block)[0], self._cases_of_block(block)[-1])
        )
        self._publish_whole_shards(range(first, last + 1))

    def finish(self) -> None:
        """Write the index and the card of the complete folder and remove the work folder."""
        assert not self._missing_shards(), "finish() before every block was added"
        self._write_index()
        entries = [self._published[s].entry for s in sorted(self._published)]
        write_text(
            self.path / manifest.CARD, card_text(self.config, entries, self._lines("manifest"), self._lines("rejects"))
        )
        shutil.rmtree(self._work, ignore_errors=True)

    def _is_ours(self) -> bool:
        with suppress(ShardError):
            return not manifest.read_config(self.path).differences(self.config)
        return False

    def _cases_of_block(self, block: int) -> range:
        size = self.config.recipe.block_size
        return range(block * size, min((block + 1) * size, self.config.n))

    def _block_path(self, block: int) -> Path:
        return self._work / f"block-{block:08d}.tar"

    def _missing_shards(self) -> list[int]:
        return [s for s in range(self.config.num_shards) if s not in self._published]

    def _needed_blocks(self) -> set[int]:
        return {block for shard in self._missing_shards() for block in self.config.blocks_of_shard(shard)}

    def _publish_whole_shards(self, shards: Sequence[int]) -> None:
        for shard in shards:
            if shard not in self._published and set(self.config.blocks_of_shard(shard)) <= set(self._block_rejects):
                self._published[shard] = self._publish(shard)
                self._write_index()
        needed = self._needed_blocks()
        for block in [b for b in self._block_rejects if b not in needed]:
            self._block_path(block).unlink(missing_ok=True)
            del self._block_rejects[block]

    def _publish(self, shard: int) -> Published:
        metas: list[dict[str, Any]] = []
        path = self.path / shard_name(shard)

        def parts() -> Iterator[bytes]:
            for block in self.config.blocks_of_shard(shard):
                tar = TarCases(self._block_path(block))
                for index in self._cases_of_block(block):
                    if index in self.config.cases_of_shard(shard):
                        key = key_of(index)
                        members = tar.members(key)
                        metas.append(parse_meta(key, members[META], str(tar.path)))
                        yield b"".join(tar_member(f"{key}.{suffix}", data) for suffix, data in members.items())

        sha256, size = write_tar(path, parts())
        return _published(path.name, sha256, size, metas)

    def _find_published(self) -> dict[int, Published]:
        try:
            indexed = {entry.name: entry for entry in manifest.read_index(self.path)}
            lines = _by_shard(manifest.read_lines(self.path / MANIFEST))
            rejects = _by_shard(manifest.read_lines(self.path / REJECTS))
        except ShardError:  # killed before the first index, or the index is damaged: the shards tell all that it tells
            indexed, lines, rejects = {}, defaultdict(list), defaultdict(list)
        found = {}
        for shard in range(self.config.num_shards):
            path = self.path / shard_name(shard)
            entry = indexed.get(path.name)
            if not path.exists() or (entry and path.stat().st_size != entry.bytes):
                continue
            told = Published(entry, tuple(lines[path.name]), tuple(rejects[path.name])) if entry else None
            if told and (len(told.manifest), len(told.rejects)) == (told.entry.num_cases, told.entry.num_rejects):
                found[shard] = told
            elif scanned := self._scan(path, shard):
                found[shard] = scanned
        return found

    def _scan(self, path: Path, shard: int) -> Published | None:
        """A shard that the index does not know; None when it is damaged or of another recipe, to be made anew."""
        try:
            tar = TarCases(path)
            metas = [tar.meta(key) for key in tar.keys]
        except ShardError:
            return None
        expected = [key_of(i) for i in self.config.cases_of_shard(shard)]
        if tar.keys != expected or any(m["recipe_sha256"] != self.config.recipe.sha256 for m in metas):
            return None
        return _published(path.name, file_sha256(path), path.stat().st_size, metas)

    def _find_blocks(self) -> dict[int, int]:
        found = {}
        for block in self._needed_blocks():
            # Blocks are renamed into place whole; one that cannot be read was damaged since and is made anew.
            with suppress(GuideGenError):
                tar = TarCases(self._block_path(block))
                if tar.keys == [key_of(i) for i in self._cases_of_block(block)]:
                    found[block] = sum(len(tar.meta(key)["rejects"]) for key in tar.keys)
        return found

    def _write_index(self) -> None:
        entries = [self._published[s].entry for s in sorted(self._published)]
        write_text(self.path / MANIFEST, "".join(line + "\n" for line in self._lines("manifest")))
        write_text(self.path / REJECTS, "".join(line + "\n" for line in self._lines("rejects")))
        write_text(self.path / manifest.INDEX, manifest.to_json(manifest.index_of(self.config, entries)) + "\n")

    def _lines(self, kind: str) -> list[str]:
        return [line for s in sorted(self._published) for line in getattr(self._published[s], kind)]

    def _clear(self) -> None:
        for path in (*self.path.glob("shard-*.tar"), *self._work.glob("block-*.tar")):
            path.unlink()
        for name in (manifest.INDEX, MANIFEST, REJECTS, manifest.CARD, RUN):
            (self.path / name).unlink(missing_ok=True)


def check_folder(path: Path, config: RunConfig, overwrite: bool = False) -> None:
    """ShardError unless `path` can be made, is empty, or holds shards of this configuration (any, to overwrite)."""
    if path.exists() and not path.is_dir():
        raise ShardError(f"{path} is a file; give a folder for the shards.")
    if not path.exists():
        return
    names = sorted(p.name for p in path.iterdir() if p.name != WORK and not p.name.endswith(TEMPORARY))
    if names and RUN not in names:
        raise ShardError(
            f"{path} holds something else than shards ({', '.join(names[:3])}); give an empty or new folder."
        )
    if names and not overwrite and (differences := manifest.read_config(path).differences(config)):
        raise ShardError(
            f"{path} holds shards of another configuration ({'; '.join(differences)}); give the same options, another "
            f"folder, or --overwrite to replace them."
        )


def file_sha256(path: Path) -> str:
    """sha256 of a file in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _published(name: str, sha256: str, size: int, metas: Sequence[Mapping[str, Any]]) -> Published:
    rejects = [reject | {"shard": name, "index": meta["index"]} for meta in metas for reject in meta["rejects"]]
    entry = ShardEntry(name, sha256, size, len(metas), metas[0]["key"], metas[-1]["key"], len(rejects))
    lines = [manifest.to_json(manifest.manifest_line(meta, name)) for meta in metas]
    return Published(entry, tuple(lines), tuple(manifest.to_json(reject) for reject in rejects))


def _by_shard(lines: Sequence[Mapping[str, Any]]) -> defaultdict[str, list[str]]:
    grouped: defaultdict[str, list[str]] = defaultdict(list)
    for line in lines:
        grouped[line["shard"]].append(manifest.to_json(line))
    return grouped


def _lock(path: Path, folder: Path) -> IO[str] | None:
    if fcntl is None:
        return None
    file = open(path, "w")  # noqa: SIM115 - held as long as the folder is
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ShardError(f"another run is writing to {folder}; wait for it, or give another folder.") from error
    except OSError:  # a file system without locks
        pass
    return file
