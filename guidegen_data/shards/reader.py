"""Reading shards by random access: the headers of a tar are walked once, then only one case's bytes are read."""

from __future__ import annotations

import bisect
import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from isal import isal_zlib
from isal.igzip_lib import IsalError

from guidegen_data.case import Case
from guidegen_data.errors import GuideGenError, ShardError
from guidegen_data.reports.findings import Findings
from guidegen_data.shards.manifest import (
    CT,
    INDEX,
    LABEL,
    MEMBERS,
    META,
    REPORT,
    ShardEntry,
    meta_sha256,
    read_index,
    read_json,
)
from guidegen_data.shards.storage import Folder, folder_at
from guidegen_data.shards.table import know_anatomy

_BLOCK = 512
_MEND = "copy it again, or have `guidegen verify DIR --repair` make it anew"
#: Folders whose label table this process has read.
TABLES_KNOWN: set[str] = set()
Extents = Mapping[str, Mapping[str, tuple[int, int]]]


def walk_tar(folder: Folder, name: str) -> dict[str, dict[str, tuple[int, int]]]:
    """Case key -> member suffix -> (offset, size) of every file in a tar, in order; reads the headers only.

    Raises ShardError when the file is missing, truncated or no tar.
    """
    extents: dict[str, dict[str, tuple[int, int]]] = {}
    end = 0
    try:
        with folder.open(name) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                key, _, suffix = info.name.partition(".")
                extents.setdefault(key, {})[suffix] = (info.offset_data, info.size)
                end = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
            # tarfile takes a header that is cut or altered for the end, and would lose the cases from there on.
            file.seek(end)
            if file.read(_BLOCK) != bytes(_BLOCK) or file.seek(0, os.SEEK_END) < end + 2 * _BLOCK:
                raise tarfile.ReadError("no end of archive after its last member")
    except FileNotFoundError as error:
        raise ShardError(f"{folder.url}/{name} is missing; {_MEND}.") from error
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"{folder.url}/{name} is truncated or no tar ({error}); {_MEND}.") from error
    return extents


class TarCases:
    """The cases of one tar by key. Holds offsets, no open file, so it can be pickled and forked."""

    def __init__(self, location: str | os.PathLike[str] | Folder, name: str, expected_bytes: int | None = None) -> None:
        """ShardError when the file is missing, no tar, or not as long as it should be."""
        self.folder, self.name = folder_at(location), name
        if expected_bytes is not None and (size := self.folder.size(name)) not in (None, expected_bytes):
            raise ShardError(f"{self.url} should have {expected_bytes} bytes, but has {size}; {_MEND}.")
        self._extents = walk_tar(self.folder, name)
        self.keys = list(self._extents)

    @property
    def url(self) -> str:
        """Path or URL of the tar."""
        return f"{self.folder.url}/{self.name}"

    def members(self, key: str) -> dict[str, bytes]:
        """Suffix -> bytes of a case; reads nothing else. ShardError when one of the four is missing or cut."""
        return self._read(key, MEMBERS)

    def suffixes(self, key: str) -> set[str]:
        """What the tar holds of a case."""
        return set(self._extents.get(key, ()))

    def meta(self, key: str) -> dict[str, Any]:
        """KEY.meta.json."""
        return parse_meta(key, self._read(key, (META,))[META], self.url)

    def case(self, key: str) -> Case:
        """The case, with its metadata as `provenance`. ShardError when a byte of it was altered."""
        if self.folder.url not in TABLES_KNOWN:
            know_anatomy(self.folder)
            TABLES_KNOWN.add(self.folder.url)
        return decode_case(key, self.members(key), self.url)

    def _read(self, key: str, suffixes: Sequence[str]) -> dict[str, bytes]:
        extents, members = self._extents.get(key, {}), {}
        if absent := [suffix for suffix in suffixes if suffix not in extents]:
            raise ShardError(f"{self.url} holds no {key}.{absent[0]}; {_MEND}.")
        try:
            with self.folder.open(self.name) as file:
                for suffix in suffixes:
                    offset, size = extents[suffix]
                    file.seek(offset)
                    members[suffix] = file.read(size)
        except OSError as error:
            raise ShardError(f"{self.url} cannot be read ({error}); {_MEND}.") from error
        if cut := [suffix for suffix in suffixes if len(members[suffix]) != extents[suffix][1]]:
            raise ShardError(f"{self.url} ends within {key}.{cut[0]}; {_MEND}.")
        return members


class ShardReader:
    """The cases of a shard folder, by position: `reader[i]`, `len(reader)`. Opens a shard when it is first needed."""

    def __init__(self, folder: str | os.PathLike[str] | Folder) -> None:
        """A path or any URL that fsspec opens. ShardError when the folder has no index."""
        self.folder = folder_at(folder)
        self.entries: list[ShardEntry] = read_index(self.folder)
        self._ends = list(itertools.accumulate(entry.num_cases for entry in self.entries))
        self._tars: dict[int, TarCases] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def num_planned(self) -> int:
        """Cases that the folder holds once its run is done, by its index; 0 where that does not tell."""
        return int(read_json(self.folder, INDEX).get("num_planned", 0))

    def __getitem__(self, position: int) -> Case:
        tar, key = self.locate(position)
        return tar.case(key)

    def __iter__(self) -> Iterator[Case]:
        return (self[i] for i in range(len(self)))

    def locate(self, position: int) -> tuple[TarCases, str]:
        """The tar and the key of the case at a position. IndexError beyond the end, ShardError for a bad shard."""
        if not -len(self) <= position < len(self):
            raise IndexError(f"case {position} of {len(self)} in {self.folder.url}")
        position %= len(self)
        shard = bisect.bisect_right(self._ends, position)
        entry = self.entries[shard]
        if shard not in self._tars:
            tar = TarCases(self.folder, entry.name, entry.bytes)
            if len(tar.keys) != entry.num_cases:
                raise ShardError(f"{tar.url} should hold {entry.num_cases} cases, not {len(tar.keys)}; {_MEND}.")
            self._tars[shard] = tar
        tar = self._tars[shard]
        return tar, tar.keys[position - self._ends[shard] + entry.num_cases]


def parse_meta(key: str, data: bytes, where: str) -> dict[str, Any]:
    """The metadata of a case; ShardError when it is damaged or belongs to another case.

    Cases of earlier versions carry no digest of their metadata, so that not all damage is seen.
    """
    try:
        meta = json.loads(data)
        digests = meta.get("sha256", {})
        altered = bool(set(digests) - set(MEMBERS)) or digests.get(META, "") not in ("", meta_sha256(meta))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{where}: {key}.{META} is damaged ({type(error).__name__}); {_MEND}.") from error
    if altered:
        raise ShardError(f"{where}: {key}.{META} does not match its checksum; {_MEND}.")
    if meta.get("key") != key:
        raise ShardError(f"{where}: {key}.{META} belongs to case {meta.get('key')!r}; {_MEND}.")
    return meta


def decode_case(key: str, members: Mapping[str, bytes], where: str) -> Case:
    """The case that `encode_case` wrote. ShardError, naming case and member, for anything that was altered."""
    meta = parse_meta(key, members[META], where)
    for suffix in (CT, LABEL, REPORT):
        if hashlib.sha256(members[suffix]).hexdigest() != meta.get("sha256", {}).get(suffix):
            raise ShardError(f"{where}: {key}.{suffix} does not match its checksum; {_MEND}.")
    try:
        (ct_hu, affine), (label_map, label_affine) = (read_nifti(members[suffix]) for suffix in (CT, LABEL))
        if not np.array_equal(affine, label_affine):
            raise ShardError(f"{where}: {key} has a CT and a label map with different affines; {_MEND}.")
        findings = Findings.from_dict(meta["findings"])
        return Case(key, ct_hu, label_map, affine, members[REPORT].decode(), findings, meta)
    except ShardError:
        raise
    except (GuideGenError, ValueError, KeyError, OSError) as error:
        raise ShardError(f"{where}: {key} cannot be read ({error}); {_MEND}.") from error


def read_nifti(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Array (X, Y, Z) and affine of a .nii.gz in memory. ValueError when it is damaged."""
    try:
        image = nib.Nifti1Image.from_stream(io.BytesIO(isal_zlib.decompress(data, wbits=31)))
        return np.asanyarray(image.dataobj), np.asarray(image.affine, np.float64)
    except (IsalError, nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:  # type: ignore[misc]
        raise ValueError(f"damaged NIfTI: {error}") from error
