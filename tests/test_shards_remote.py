"""Shards on an S3 server and on other file systems: the same bytes, and objects that are whole or not there."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from ellipsoids import EllipsoidGenerator
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer
from test_shards import contents

from guidegen_data.dataset import GuideGenDataset
from guidegen_data.errors import ShardError
from guidegen_data.shards.manifest import WORK, RunConfig
from guidegen_data.shards.reader import ShardReader, TarCases
from guidegen_data.shards.remote import RemoteFolder
from guidegen_data.shards.storage import LocalFolder, folder_at
from guidegen_data.shards.verify import problems
from guidegen_data.shards.workers import make_shards


class Renaming(MemoryFileSystem):
    """A file system that is no object store: what is being written can be seen."""

    protocol = ("renaming",)
    store: dict = {}  # noqa: RUF012 - fsspec keeps it on the class
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("renaming://", "memory://"))


fsspec.register_implementation("renaming", Renaming, clobber=True)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        fsspec.filesystem("s3").clear_instance_cache()
        yield f"http://{host}:{port}"
        fsspec.filesystem("s3").clear_instance_cache()
    moto.stop()


@pytest.fixture(params=["s3", "renaming"])
def place(request: pytest.FixtureRequest, server: str) -> str:
    """URL of an empty folder."""
    name = request.node.name.replace("[", "-").replace("]", "").replace("_", "-").lower()[-60:].strip("-")
    if request.param == "s3":
        fsspec.filesystem("s3", use_listings_cache=False).mkdir(name)
    return f"{request.param}://{name}/made"


def remote_contents(url: str) -> dict[str, bytes]:
    folder = folder_at(url)
    names = [*folder.sizes(), *(f"{WORK}/{name}" for name in folder.sizes(WORK))]
    return {name: folder.open(name).read() for name in names}


def test_a_remote_folder_holds_the_bytes_of_a_local_one(place: str, shards: Path, config: RunConfig) -> None:
    for _ in make_shards(place, config, EllipsoidGenerator):
        pass
    assert remote_contents(place) == contents(shards)
    assert list(problems(place)) == []


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_a_stopped_remote_run_goes_on_from_the_folder_alone(
    place: str, shards: Path, config: RunConfig, tmp_path: Path, num_blocks: int
) -> None:
    trace = tmp_path / "trace"
    for number, _ in enumerate(make_shards(place, config, lambda: EllipsoidGenerator(trace=trace))):
        if number == num_blocks:
            break
    assert remote_contents(place) != contents(shards)
    for _ in make_shards(place, config, lambda: EllipsoidGenerator(trace=trace)):
        pass
    assert remote_contents(place) == contents(shards)
    firsts = [line.split()[1] for line in trace.read_text().splitlines() if len(line.split()) > 2]
    assert len(firsts) == len(set(firsts)) == config.num_blocks  # no block was computed twice


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(place: str, monkeypatch) -> None:
    folder = folder_at(place)
    folder.write("file", [b"old"])

    def fails() -> Iterator[bytes]:
        yield b"half"
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="source is gone"):
        folder.write("file", fails())
    assert remote_contents(place) == {"file": b"old"}
    system = type(folder.connect())
    monkeypatch.setattr(system, "mv", _refuses, raising=False)
    monkeypatch.setattr(system, "_put_file", _refuses_async, raising=False)
    if place.startswith("s3"):
        monkeypatch.setattr(folder.connect(), "put_file", _refuses)
    with pytest.raises(OSError, match="upload broke"):
        folder.write("file", [b"new"])
    monkeypatch.undo()
    assert remote_contents(place) == {"file": b"old"}


def _refuses(*arguments: object, **settings: object) -> None:
    raise OSError("upload broke")


async def _refuses_async(*arguments: object, **settings: object) -> None:
    raise OSError("upload broke")


def test_an_upload_is_not_seen_until_it_is_whole(server: str, monkeypatch) -> None:
    """While the last byte is not sent, a reader finds no object, not half of one."""
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    fs.mkdir("slow")
    folder = folder_at("s3://slow/made")
    seen: list[int | None] = []

    def parts() -> Iterator[bytes]:
        for _ in range(3):
            yield bytes(3_000_000)
            seen.append(folder.size("big"))

    folder.write("big", parts())
    assert seen == [None] * 3
    assert folder.size("big") == 9_000_000


def test_a_damaged_object_is_found_and_made_anew(place: str, shards: Path, config: RunConfig) -> None:
    for _ in make_shards(place, config, EllipsoidGenerator):
        pass
    folder = folder_at(place)
    whole = folder.open("shard-000001.tar").read()
    folder.write("shard-000001.tar", [whole[:5000]])
    assert {problem.file for problem in problems(place)} == {"shard-000001.tar"}
    for _ in make_shards(place, config, EllipsoidGenerator):
        pass
    assert remote_contents(place) == contents(shards)


def test_data_sets_read_from_s3_as_from_a_disk(server: str, shards: Path, config: RunConfig) -> None:
    fsspec.filesystem("s3", use_listings_cache=False).mkdir("reading")
    for _ in make_shards("s3://reading/made", config, EllipsoidGenerator):
        pass
    here, there = GuideGenDataset(shards), pickle.loads(pickle.dumps(GuideGenDataset("s3://reading/made")))
    assert len(here) == len(there) == 10
    for index in (0, 4, 9):
        assert (here[index]["image"] == there[index]["image"]).all()
        assert here[index]["meta"] == there[index]["meta"]
    assert there[0]["image"].meta["filename_or_obj"].startswith("s3://reading/made/s000000000")


def test_overwriting_and_refusing_work_as_on_a_disk(place: str, config: RunConfig) -> None:
    from dataclasses import replace

    for _ in make_shards(place, config, EllipsoidGenerator):
        pass
    other = replace(config, n=2)
    with pytest.raises(ShardError, match="another configuration"):
        next(make_shards(place, other, EllipsoidGenerator))
    for _ in make_shards(place, other, EllipsoidGenerator, overwrite=True):
        pass
    assert [tar for tar in folder_at(place).sizes() if tar.endswith(".tar")] == ["shard-000000.tar"]
    assert len(ShardReader(place)) == 2


@pytest.mark.parametrize(
    ("url", "sentence"),
    [("nosuch://bucket/x", "nosuch"), ("s3://no-such-bucket/x", "bucket")],
)
def test_a_place_that_cannot_be_used_is_refused(server: str, config: RunConfig, url: str, sentence: str) -> None:
    with pytest.raises((ShardError, OSError), match=sentence):
        next(make_shards(url, config, EllipsoidGenerator))


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch) -> None:
    def absent(*arguments: object, **settings: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(ShardError, match=r"guidegen-data\[s3\]"):
        folder_at("s3://bucket/x")


def test_a_file_url_is_a_local_folder(tmp_path: Path) -> None:
    assert folder_at(f"file://{tmp_path}") == folder_at(tmp_path) == LocalFolder(tmp_path)
    assert folder_at("s3://bucket/x/") == RemoteFolder("s3://bucket/x")
    with pytest.raises(ShardError, match="missing"):
        TarCases(tmp_path, "none.tar")
