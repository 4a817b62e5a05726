"""Shards behind an fsspec URL: s3://, gs:// and whatever else fsspec opens."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from guidegen_data.errors import ShardError
from guidegen_data.shards.storage import READ_AHEAD, TEMPORARY, copy_chunks

# An object store shows an object when its upload is complete; elsewhere a file is put under another name and renamed.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "r2", "memory"})
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


@dataclass(frozen=True)
class RemoteFolder:
    """A folder behind an fsspec URL. Files are spooled to the local disk and uploaded in one piece.

    There is no lock: two runs that write to one such folder do work twice, but write the same bytes.
    """

    url: str

    def connect(self) -> Any:
        """The file system. ShardError when its package is missing or the URL is of no known kind."""
        import fsspec

        protocol = self.url.partition("://")[0]
        try:
            # Listings are never cached: other runs and machines write there too. fsspec keeps one instance for us.
            return fsspec.core.url_to_fs(self.url, use_listings_cache=False)[0]
        except ImportError as error:
            extra = _EXTRAS.get(protocol)
            what = f"pip install 'guidegen-data[{extra}]'" if extra else f"install the package it names ({error})"
            raise ShardError(f"{self.url} cannot be opened without another package; {what}.") from error
        except ValueError as error:
            raise ShardError(f"{self.url} is of no kind that fsspec opens ({error}); check the address.") from error

    def sizes(self, under: str = "") -> dict[str, int]:
        """See Folder."""
        place = self._at(under) if under else self._root()
        with self._told():
            try:
                found = self.connect().find(place, maxdepth=1, detail=True)
            except FileNotFoundError:
                return {}
        return {path.rpartition("/")[2]: int(info["size"]) for path, info in sorted(found.items())}

    def size(self, name: str) -> int | None:
        """See Folder."""
        with self._told():
            try:
                return int(self.connect().info(self._at(name))["size"])
            except FileNotFoundError:
                return None

    def open(self, name: str) -> BinaryIO:
        """See Folder."""
        with self._told():
            return self.connect().open(self._at(name), "rb", block_size=READ_AHEAD)

    def write(self, name: str, chunks: Iterable[bytes]) -> tuple[str, int]:
        """See Folder. What fails within the upload leaves no object."""
        protocol = self.url.partition("://")[0]
        final = self._at(name)
        with tempfile.TemporaryDirectory(prefix="guidegen-") as spool:
            path = Path(spool) / "file"
            digest, size = copy_chunks(chunks, path)
            with self._told():
                fs = self.connect()
                if protocol in _OBJECT_STORES:
                    fs.put_file(str(path), final)
                else:
                    _put_and_rename(fs, str(path), final)
        return digest, size

    def remove(self, name: str) -> None:
        """See Folder."""
        with self._told(), suppress(FileNotFoundError):
            self.connect().rm_file(self._at(name))

    def remove_under(self, under: str) -> None:
        """See Folder."""
        for name in self.sizes(under):
            self.remove(f"{under}/{name}")
        if self.url.partition("://")[0] not in _OBJECT_STORES:
            with suppress(OSError):
                self.connect().rmdir(self._at(under))

    def hold(self, name: str) -> IO[str] | None:
        """None: object stores have no locks."""
        return None

    def free_bytes(self) -> int | None:
        """None: nobody can tell."""
        return None

    def _root(self) -> str:
        return self.connect()._strip_protocol(self.url)

    def _at(self, name: str) -> str:
        return f"{self._root()}/{name}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What a cloud library raises that is no OSError (no credentials, say), as a sentence."""
        try:
            yield
        except (OSError, ShardError):
            raise
        except Exception as error:
            raise ShardError(
                f"{self.url} cannot be used ({type(error).__name__}: {error}); check address and credentials, then run "
                f"the same command again."
            ) from error


def _put_and_rename(fs: Any, path: str, final: str) -> None:
    folder, _, name = final.rpartition("/")
    temporary = f"{folder}/.{name}.{os.getpid()}{TEMPORARY}"
    fs.makedirs(folder, exist_ok=True)
    try:
        fs.put_file(path, temporary)
        fs.mv(temporary, final)
    except BaseException:
        with suppress(Exception):
            fs.rm_file(temporary)
        raise
