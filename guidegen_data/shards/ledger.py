"""Which shards of a folder are published, and what each says of its cases."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from guidegen_data.errors import ShardError
from guidegen_data.shards import manifest
from guidegen_data.shards.manifest import WORK, RunConfig, ShardEntry, key_of, shard_name
from guidegen_data.shards.reader import TarCases
from guidegen_data.shards.storage import READ_AHEAD, Folder, file_sha256


@dataclass(frozen=True)
class Lines:
    """One shard: its entry in the index and its lines of the manifest and of the rejects."""

    entry: ShardEntry
    manifest: tuple[str, ...]
    rejects: tuple[str, ...]


class Ledger:
    """The published shards of a folder by number: entries in memory, lines in a file beside the waiting blocks."""

    def __init__(self, folder: Folder, config: RunConfig) -> None:
        """Reads what is there. A shard that is damaged, cut or of another recipe does not count as published."""
        self._folder, self._config = folder, config
        self._entries: dict[int, ShardEntry] = {}
        self.num_cases = self.num_rejects = 0
        self._find()

    def __contains__(self, shard: int) -> bool:
        return shard in self._entries

    @property
    def entries(self) -> list[ShardEntry]:
        """The published shards in order."""
        return [self._entries[s] for s in sorted(self._entries)]

    def expected_lines(self, kind: str) -> int:
        """How many lines of the manifest or of the rejects the published shards make."""
        return self.num_cases if kind == "manifest" else self.num_rejects

    def add(self, shard: int, lines: Lines) -> None:
        """Note a shard that was just published."""
        text = manifest.to_json(asdict(lines))
        self._folder.write(_file_name(lines.entry.name), [text.encode()])
        self._count(shard, lines.entry)

    def lines(self, shard: int) -> Lines:
        """What a published shard says: as noted when it was published, else read from the shard itself."""
        entry = self._entries[shard]
        if (noted := self._noted(entry.name)) and noted.entry == entry:
            return noted
        tar = TarCases(self._folder, entry.name)
        return lines_of(entry.name, entry.sha256, entry.bytes, [tar.meta(key) for key in tar.keys])

    def refresh(self) -> None:
        """Count what the index lists by now: without a lock another run may publish shards of the same folder."""
        indexed = self._indexed()
        if new := [s for s in range(self._config.num_shards) if s not in self and shard_name(s) in indexed]:
            sizes = self._folder.sizes()
            for shard in new:
                entry = indexed[shard_name(shard)]
                if entry.bytes == sizes.get(entry.name):
                    self._count(shard, entry)

    def _indexed(self) -> dict[str, ShardEntry]:
        # Killed before the first index, or it is damaged: the shards tell all that it tells.
        with suppress(ShardError):
            return {entry.name: entry for entry in manifest.read_index(self._folder)}
        return {}

    def _find(self) -> None:
        indexed, sizes = self._indexed(), self._folder.sizes()
        for shard in range(self._config.num_shards):
            name = shard_name(shard)
            if name not in sizes:
                continue
            entry = indexed.get(name) or (noted.entry if (noted := self._noted(name)) else None)
            if entry is None:
                entry = self._scan(shard)
            if entry and entry.bytes == sizes[name]:
                self._count(shard, entry)

    def _scan(self, shard: int) -> ShardEntry | None:
        """A shard that was published just before the run was killed; None when it is damaged or of another recipe."""
        name = shard_name(shard)
        try:
            tar = TarCases(self._folder, name)
            metas = [tar.meta(key) for key in tar.keys]
        except ShardError:
            return None
        expected = [key_of(i) for i in self._config.cases_of_shard(shard)]
        if tar.keys != expected or not all(self._config.recipe.made(m.get("recipe_sha256")) for m in metas):
            return None
        return lines_of(name, file_sha256(self._folder, name), self._folder.size(name) or 0, metas).entry

    def _noted(self, name: str) -> Lines | None:
        try:
            with self._folder.open(_file_name(name)) as file:
                record = json.loads(file.read())
            return Lines(ShardEntry(**record["entry"]), tuple(record["manifest"]), tuple(record["rejects"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _count(self, shard: int, entry: ShardEntry) -> None:
        self._entries[shard] = entry
        self.num_cases += entry.num_cases
        self.num_rejects += entry.num_rejects


def lines_of(name: str, sha256: str, size: int, metas: Sequence[Mapping[str, Any]]) -> Lines:
    """Entry and lines of a shard from the metadata of its cases."""
    rejects = [reject | {"shard": name, "index": meta["index"]} for meta in metas for reject in meta["rejects"]]
    entry = ShardEntry(name, sha256, size, len(metas), metas[0]["key"], metas[-1]["key"], len(rejects))
    lines = [manifest.to_json(manifest.manifest_line(meta, name)) for meta in metas]
    return Lines(entry, tuple(lines), tuple(manifest.to_json(reject) for reject in rejects))


def num_lines(folder: Folder, name: str) -> int | None:
    """Lines of a file, None when there is none."""
    try:
        with folder.open(name) as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(READ_AHEAD), b""))
    except FileNotFoundError:
        return None


def _file_name(shard: str) -> str:
    return f"{WORK}/{shard.removesuffix('.tar')}.json"
