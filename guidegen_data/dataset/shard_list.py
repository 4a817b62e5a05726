"""Shards given as one folder, one tar, a pattern or a list of them, on disk or behind any URL that fsspec opens."""

from __future__ import annotations

import bisect
import glob
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from guidegen_data.case import Case
from guidegen_data.errors import ShardError
from guidegen_data.shards.manifest import INDEX, Index, ShardEntry, read_whole_index
from guidegen_data.shards.reader import TarCases
from guidegen_data.shards.storage import Folder, LocalFolder, folder_at

Shards = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Part:
    """One tar of a folder. One that lies without its index has no entry, and no known recipe."""

    folder: Folder
    name: str
    entry: ShardEntry | None = None
    recipe_sha256: str = ""

    @property
    def url(self) -> str:
        """As a person names it."""
        return f"{self.folder.url}/{self.name}"

    @property
    def place(self) -> str:
        """The same for every name of one file: relative, absolute, or over a link."""
        if isinstance(self.folder, LocalFolder):
            return str((self.folder.path / self.name).resolve())
        return self.url


class ShardList:
    """The cases of any shards, by position. The tar of a case is opened when it is first needed."""

    def __init__(self, shards: Shards) -> None:
        """ShardError when nothing is there, a pattern matches nothing, or cases would count double.

        Warns of a folder that holds fewer cases than were planned for it.
        """
        given = [shards] if isinstance(shards, str | os.PathLike) else list(shards)
        names = [name for each in given for name in expand(os.fspath(each))]
        folders: dict[str, tuple[Folder, Index]] = {}
        self._parts: list[Part] = []
        for name in names:
            self._parts += _parts(name, folders)
        _refuse_double(self._parts)
        self._tars: dict[int, TarCases] = {}
        # A tar without an entry has no known number of cases: it is opened at once.
        counts = [p.entry.num_cases if p.entry else len(self._tar(i).keys) for i, p in enumerate(self._parts)]
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
            part = self._parts[shard]
            self._tars[shard] = TarCases(part.folder, part.name, part.entry.bytes if part.entry else None)
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


def _parts(name: str, folders: dict[str, tuple[Folder, Index]]) -> list[Part]:
    if not name.endswith(".tar"):
        folder = folder_at(name.rstrip("/") or "/")
        index = read_whole_index(folder)
        _warn_unfinished(folder, index)
        return [Part(folder, entry.name, entry, index.recipe_sha256) for entry in index.shards]
    parent, _, file = name.rpartition("/") if "://" in name else (str(Path(name).parent), "", Path(name).name)
    if parent not in folders:
        folder = folder_at(parent)
        folders[parent] = folder, read_whole_index(folder) if folder.size(INDEX) is not None else Index(())
    folder, index = folders[parent]
    known = {entry.name: entry for entry in index.shards}
    return [Part(folder, file, known.get(file), index.recipe_sha256 if file in known else "")]


def _warn_unfinished(folder: Folder, index: Index) -> None:
    num_cases = sum(entry.num_cases for entry in index.shards)
    if num_cases < index.num_planned:
        warnings.warn(
            f"{folder.url} holds {num_cases} of {index.num_planned} planned cases: run the same guidegen-shard "
            f"command again for the rest.",
            stacklevel=5,
        )


def _refuse_double(parts: Sequence[Part]) -> None:
    """ShardError for a tar that is named twice, or two that hold the same cases: one recipe makes them the same."""
    places = Counter(part.place for part in parts)
    if double := sorted(part.url for part in parts if places[part.place] > 1):
        raise ShardError(f"{double[0]} is named twice, so its cases would count double; name every shard once.")
    by_recipe: dict[str, list[tuple[tuple[int, str], tuple[int, str], Part]]] = {}
    for part in parts:
        if part.entry and part.entry.num_cases and part.recipe_sha256:
            first, last = (_in_order(key) for key in (part.entry.first_key, part.entry.last_key))
            by_recipe.setdefault(part.recipe_sha256, []).append((first, last, part))
    for ranges in by_recipe.values():
        ranges.sort(key=lambda each: each[:2])
        for (_, last, one), (first, _, other) in itertools.pairwise(ranges):
            if first <= last and one.folder.url != other.folder.url:
                raise ShardError(
                    f"{one.url} and {other.url} hold the same cases, since both folders were made with the same "
                    f"settings and seed; leave one out, or make it anew with another --seed."
                )


def _in_order(key: str) -> tuple[int, str]:
    """Sorts keys as the numbers in them, which have more digits from a thousand million on."""
    return len(key), key
