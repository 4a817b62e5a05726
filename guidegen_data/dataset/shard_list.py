"""Shards given as one folder, one tar, a pattern or a list of them, on disk or behind any URL that fsspec opens."""

from __future__ import annotations

import bisect
import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from guidegen_data.case import Case
from guidegen_data.errors import ShardError
from guidegen_data.shards.manifest import INDEX, ShardEntry, read_index
from guidegen_data.shards.reader import TarCases
from guidegen_data.shards.storage import Folder, folder_at

Shards = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class ShardList:
    """The cases of any shards, by position. The tar of a case is opened when it is first needed."""

    def __init__(self, shards: Shards) -> None:
        """ShardError when nothing is there, a pattern matches nothing, or a shard is named twice."""
        given = [shards] if isinstance(shards, str | os.PathLike) else list(shards)
        names = [name for each in given for name in expand(os.fspath(each))]
        folders: dict[str, tuple[Folder, dict[str, ShardEntry]]] = {}
        # A tar that lies without its index has no known number of cases: it is opened at once.
        self._parts: list[tuple[Folder, str, ShardEntry | None]] = []
        for name in names:
            self._parts += _parts(name, folders)
        urls = [f"{folder.url}/{name}" for folder, name, _ in self._parts]
        if double := sorted({url for url in urls if urls.count(url) > 1}):
            raise ShardError(f"{double[0]} is named twice, so its cases would count double; name every shard once.")
        self._tars: dict[int, TarCases] = {}
        counts = [entry.num_cases if entry else len(self._tar(i).keys) for i, (_, _, entry) in enumerate(self._parts)]
        self._ends = list(itertools.accumulate(counts))
        if not len(self):
            raise ShardError(f"expected at least one case in {', '.join(names) or 'an empty list'}, got none.")

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def case(self, position: int) -> tuple[Case, str]:
        """A case and the URL of its folder. IndexError beyond the end, ShardError for a damaged one."""
        tar, key = self.locate(position)
        return tar.case(key), tar.folder.url

    def locate(self, position: int) -> tuple[TarCases, str]:
        """The tar and the key of the case at a position. IndexError beyond the end, ShardError for a bad shard."""
        if not -len(self) <= position < len(self):
            raise IndexError(f"case {position} of {len(self)}")
        position %= len(self)
        shard = bisect.bisect_right(self._ends, position)
        first = self._ends[shard - 1] if shard else 0
        tar = self._tar(shard)
        if len(tar.keys) != self._ends[shard] - first:
            raise ShardError(
                f"{tar.url} should hold {self._ends[shard] - first} cases, not {len(tar.keys)}; run `guidegen verify` "
                f"on its folder."
            )
        return tar, tar.keys[position - first]

    def _tar(self, shard: int) -> TarCases:
        if shard not in self._tars:
            folder, name, entry = self._parts[shard]
            self._tars[shard] = TarCases(folder, name, entry.bytes if entry else None)
        return self._tars[shard]


def expand(pattern: str) -> Iterator[str]:
    """Folders and tars that a pattern stands for: 'run-{a,b}/shard-{000000..000063}.tar', 'runs/*/shard-*.tar'.

    Braces are written out whether the files exist or not, stars list what is there. ShardError when nothing is.
    """
    from braceexpand import braceexpand

    try:
        names = list(braceexpand(pattern))
    except ValueError as error:
        raise ShardError(
            f"the braces of {pattern!r} do not close; write them as in 'shard-{{000..009}}.tar'."
        ) from error
    for name in names:
        if not any(sign in name for sign in "*?["):
            yield name
            continue
        found = sorted(_matches(name))
        if not found:
            raise ShardError(f"no file matches {name!r}; check the pattern.")
        yield from found


def _matches(pattern: str) -> list[str]:
    if "://" not in pattern:
        return glob.glob(pattern)
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(pattern)
        return [fs.unstrip_protocol(found) for found in fs.glob(path)]
    except (ImportError, ValueError, NotImplementedError) as error:
        raise ShardError(f"{pattern!r} cannot be listed ({error}); name its shards with {{000000..000063}}.") from error


def _parts(
    name: str, folders: dict[str, tuple[Folder, dict[str, ShardEntry]]]
) -> list[tuple[Folder, str, ShardEntry | None]]:
    if not name.endswith(".tar"):
        folder = folder_at(name.rstrip("/") or "/")
        return [(folder, entry.name, entry) for entry in read_index(folder)]
    parent, _, file = name.rpartition("/") if "://" in name else (str(Path(name).parent), "", Path(name).name)
    if parent not in folders:
        folder = folder_at(parent)
        entries = read_index(folder) if folder.size(INDEX) is not None else []
        folders[parent] = folder, {entry.name: entry for entry in entries}
    folder, known = folders[parent]
    return [(folder, file, known.get(file))]
