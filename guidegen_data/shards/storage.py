"""Where shards lie: a local folder or anything fsspec opens (s3://, gs://, ...). Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from guidegen_data.errors import ShardError

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are then not told apart, but still write the same bytes
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp"
READ_AHEAD = 1 << 20


class Folder(Protocol):
    """A folder of files by name; a name may lie in a subfolder, as 'sub/name'. Can be pickled."""

    @property
    def url(self) -> str:
        """How a person names it."""

    def sizes(self, under: str = "") -> dict[str, int]:
        """Name -> bytes of the files directly in the folder, or in its subfolder; empty when there is none."""

    def size(self, name: str) -> int | None:
        """Bytes of a file, None when there is none."""

    def open(self, name: str) -> BinaryIO:
        """A file to read, seekable. FileNotFoundError when there is none."""

    def write(self, name: str, chunks: Iterable[bytes]) -> tuple[str, int]:
        """A file under its final name, whole or not at all; what was there stays until then. (sha256, bytes)."""

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""

    def remove_under(self, under: str) -> None:
        """Delete a subfolder with all that it holds, if it is there."""

    def hold(self, name: str) -> IO[str] | None:
        """A lock file that this process holds until it is closed. ShardError when another holds it."""

    def free_bytes(self) -> int | None:
        """Room that is left, None where nobody can tell."""


def folder_at(location: str | os.PathLike[str] | Folder) -> Folder:
    """The folder at a path or URL. ShardError for a kind of URL that cannot be opened here."""
    if not isinstance(location, str | os.PathLike):
        return location
    text = os.fspath(location)
    protocol, separator, rest = text.partition("://")
    if not separator:
        return LocalFolder(Path(text))
    if protocol in ("file", "local"):
        return LocalFolder(Path(rest))
    from guidegen_data.shards.remote import RemoteFolder

    folder = RemoteFolder(text.rstrip("/"))
    folder.connect()
    return folder


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a disk: temporary name, fsync, rename, fsync of the folder."""

    path: Path

    @property
    def url(self) -> str:
        """The path."""
        return str(self.path)

    def sizes(self, under: str = "") -> dict[str, int]:
        """See Folder. Hidden lock files are no files of the folder's."""
        place = self.path / under
        if not place.is_dir():
            if place.exists():
                raise ShardError(f"{place} is a file; give a folder for the shards.")
            return {}
        with os.scandir(place) as found:
            return {entry.name: entry.stat().st_size for entry in sorted(found, key=lambda e: e.name)}

    def size(self, name: str) -> int | None:
        """See Folder."""
        try:
            return (self.path / name).stat().st_size
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO:
        """See Folder."""
        return open(self.path / name, "rb")

    def write(self, name: str, chunks: Iterable[bytes]) -> tuple[str, int]:
        """See Folder. OSError (a full disk, say) leaves neither the file nor a temporary one."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_whole(path, chunks)

    def remove(self, name: str) -> None:
        """See Folder."""
        (self.path / name).unlink(missing_ok=True)

    def remove_under(self, under: str) -> None:
        """See Folder."""
        shutil.rmtree(self.path / under, ignore_errors=True)

    def hold(self, name: str) -> IO[str] | None:
        """See Folder."""
        if fcntl is None:
            return None
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115 - held as long as the folder is
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise ShardError(f"another run is writing to {self.path}; wait for it, or give another folder.") from error
        except OSError:  # a file system without locks
            pass
        return file

    def free_bytes(self) -> int | None:
        """See Folder."""
        here = self.path.absolute()
        return shutil.disk_usage(next(p for p in (here, *here.parents) if p.exists())).free


def write_whole(path: Path, chunks: Iterable[bytes]) -> tuple[str, int]:
    """A file under its final name, whole or not at all: what was there before stays until then. (sha256, bytes).

    OSError (a full disk, say) leaves neither the file nor a temporary one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        digest, size = copy_chunks(chunks, temporary, sync=True)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)
    return digest, size


def write_text(folder: Folder, name: str, text: str) -> None:
    """A text file, whole or not at all; one that holds the same text already is not touched."""
    write_bytes(folder, name, text.encode())


def write_bytes(folder: Folder, name: str, data: bytes) -> None:
    """A small file, whole or not at all; one that holds the same bytes already is not touched."""
    if folder.size(name) == len(data):
        with folder.open(name) as file:
            if file.read() == data:
                return
    folder.write(name, [data])


def file_sha256(folder: Folder, name: str) -> str:
    """sha256 of a file in hex."""
    digest = hashlib.sha256()
    with folder.open(name) as file:
        while chunk := file.read(READ_AHEAD):
            digest.update(chunk)
    return digest.hexdigest()


def copy_chunks(chunks: Iterable[bytes], path: Path, sync: bool = False) -> tuple[str, int]:
    """Write the chunks to a local file, and to the disk itself if `sync`. (sha256, bytes)."""
    digest, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    return digest.hexdigest(), size


def _sync_folder(folder: Path) -> None:
    # The rename itself is safe on disk only once the folder is. Not every system can open a folder.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
