"""Repair keeps what can be proven good, makes the rest anew, and never works beside another run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ellipsoids import EllipsoidGenerator
from test_shards import contents, fill

from guidegen_data.case import Case
from guidegen_data.errors import ShardError
from guidegen_data.shards.manifest import LOCK, META, RunConfig, to_json
from guidegen_data.shards.plan import make_recipe
from guidegen_data.shards.reader import TarCases
from guidegen_data.shards.repair import repair
from guidegen_data.shards.storage import LocalFolder
from guidegen_data.shards.verify import problems
from guidegen_data.shards.workers import make_shards
from guidegen_data.shards.writer import encode_case, write_tar

GENERATOR = EllipsoidGenerator(misses=0)


class OtherArithmetic(EllipsoidGenerator):
    """The same model where it rounds otherwise: a voxel of every label map is another one."""

    def generate(self, *arguments: Any, **how: Any) -> list[Case]:
        cases = super().generate(*arguments, **how)
        for case in cases:
            x, y, z = np.argwhere(case.label_map == case.anatomy.ids["liver"])[0]
            case.label_map[x, y, z] = 0
        return cases


def config_of(n: int, shard_size: int) -> RunConfig:
    return RunConfig(make_recipe(GENERATOR, seed=2), n=n, model="ellipsoids", shard_size=shard_size)


def blocks_made(folder: Path, found: list, trace: Path) -> set[int]:
    """Repairs; the blocks that were computed for it."""
    for _ in repair(LocalFolder(folder), found, lambda: replace(GENERATOR, trace=trace)):
        pass
    lines = trace.read_text().splitlines() if trace.exists() else []
    return {int(line.split()[1][1:]) // 4 for line in lines}


@pytest.mark.parametrize("shard_size", [1, 6])
def test_a_damaged_index_costs_no_case(tmp_path: Path, shard_size: int) -> None:
    out = tmp_path / "out"
    fill(out, config_of(14, shard_size), GENERATOR)
    before = contents(out)
    (out / "index.json").write_text('{"shards": 3')
    assert blocks_made(out, list(problems(out)), tmp_path / "trace") == set()
    assert contents(out) == before


def test_a_damaged_case_is_made_anew_though_the_index_is_damaged_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, config_of(14, 6), GENERATOR)
    before = contents(out)
    (out / "index.json").unlink()
    tar = bytearray((out / "shard-000001.tar").read_bytes())
    tar[tar.index(b"s000000007.report.txt") + 600] ^= 1
    (out / "shard-000001.tar").write_bytes(tar)
    found = list(problems(out))
    assert any(problem.key == "s000000007" for problem in found)
    assert blocks_made(out, found, tmp_path / "trace") == {1, 2}  # a block that two shards share is not kept
    assert contents(out) == before


def test_metadata_without_a_digest_of_their_own_are_not_given_a_new_checksum(tmp_path: Path, monkeypatch) -> None:
    """As earlier versions wrote them: nobody can tell which byte of them was altered."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("guidegen_data.shards.workers.encode_case", _without_digest)
        fill(out, config_of(8, 8), GENERATOR)
    assert list(problems(out)) == []
    tar = (out / "shard-000000.tar").read_bytes()
    (out / "shard-000000.tar").write_bytes(tar.replace(b'"generator": "ellipsoids"', b'"generator": "ellipsoidz"', 1))
    assert blocks_made(out, list(problems(out)), tmp_path / "trace") == {0, 1}
    assert b"ellipsoidz" not in (out / "shard-000000.tar").read_bytes()
    assert list(problems(out)) == []


def _without_digest(case):
    encoded = encode_case(case)
    meta = {**encoded.meta, "sha256": {k: v for k, v in encoded.meta["sha256"].items() if k != META}}
    return replace(encoded, members={**encoded.members, META: (to_json(meta) + "\n").encode()}, meta=meta)


def test_repair_leaves_alone_what_was_mended_since_it_was_looked_at(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, config_of(14, 6), GENERATOR)
    before = contents(out)
    (out / "shard-000000.tar").unlink()
    found = list(problems(out))
    fill(out, config_of(14, 6), GENERATOR)
    assert blocks_made(out, found, tmp_path / "trace") == set()
    assert contents(out) == before


def test_repair_holds_the_folder_from_the_first_removal_to_the_last_block(tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    fill(out, config_of(8, 4), GENERATOR)
    shutil.copytree(out, tmp_path / "other")
    (out / "index.json").unlink()
    found, before = list(problems(out)), contents(out)
    lock = LocalFolder(out).hold(LOCK)
    with pytest.raises(ShardError, match="another run"):
        next(repair(LocalFolder(out), found, lambda: GENERATOR))
    lock.close()
    assert before.items() <= contents(out).items()
    remove, refused = LocalFolder.remove, []

    def tried(self: LocalFolder, name: str) -> None:
        with pytest.raises(ShardError, match="another run"):
            self.hold(LOCK)
        refused.append(name)
        remove(self, name)

    tar = out / "shard-000000.tar"
    tar.unlink()
    monkeypatch.setattr(LocalFolder, "remove", tried)
    assert blocks_made(out, list(problems(out)), tmp_path / "trace") == {0}
    assert "index.json" in refused
    assert contents(out) == contents(tmp_path / "other")


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("again", ["repair", "same command"])
def test_the_manifest_tells_of_a_shard_as_it_was_made_anew(tmp_path: Path, again: str, killed: bool) -> None:
    """Where the machine rounds otherwise, also when the run is killed once the shard is there."""
    out, config = tmp_path / "out", config_of(12, 4)
    fill(out, config, GENERATOR)
    before = (out / "manifest.jsonl").read_bytes()
    (out / "shard-000001.tar").unlink()
    found, other = list(problems(out)), OtherArithmetic(misses=0)
    steps = (
        repair(LocalFolder(out), found, lambda: other) if again == "repair" else make_shards(out, config, lambda: other)
    )
    if killed:
        assert [next(steps).num_done for _ in range(2)] == [8, 12]
        steps.close()
        assert len(TarCases(out, "shard-000001.tar").keys) == 4
        steps = make_shards(out, config, lambda: other)
    for _ in steps:
        pass
    assert list(problems(out)) == []
    after = (out / "manifest.jsonl").read_bytes()
    assert [a == b for a, b in zip(before.splitlines(), after.splitlines(), strict=True)] == (
        [True] * 4 + [False] * 4 + [True] * 4
    )


@pytest.mark.parametrize("cut", [0, 300, 512])
def test_a_tar_that_is_cut_at_a_header_does_not_lose_cases_in_silence(tmp_path: Path, cut: int) -> None:
    """At its first byte, within it, and after it."""
    write_tar(tmp_path / "some.tar", _parts())
    data = (tmp_path / "some.tar").read_bytes()
    (tmp_path / "some.tar").write_bytes(data[: data.index(b"s000000001.ct.nii.gz") + cut])
    with pytest.raises(ShardError, match="truncated"):
        TarCases(tmp_path, "some.tar")


def test_a_header_that_was_altered_does_not_end_a_tar(tmp_path: Path) -> None:
    write_tar(tmp_path / "some.tar", _parts())
    data = bytearray((tmp_path / "some.tar").read_bytes())
    data[data.index(b"s000000001.ct.nii.gz") + 150] ^= 1
    (tmp_path / "some.tar").write_bytes(data)
    with pytest.raises(ShardError, match="truncated or no tar"):
        TarCases(tmp_path, "some.tar")


def _parts() -> list[bytes]:
    from guidegen_data.shards.blocks import generate_block
    from guidegen_data.shards.plan import ReportSource

    recipe = make_recipe(GENERATOR, seed=1)
    cases = generate_block(GENERATOR, recipe, ReportSource(recipe, GENERATOR.anatomy), 0, num_cases=2)
    return [encode_case(case).tar() for case in cases]


def test_altered_metadata_are_noticed_without_an_index(tmp_path: Path) -> None:
    write_tar(tmp_path / "some.tar", _parts())
    data = (tmp_path / "some.tar").read_bytes()
    assert json.loads(TarCases(tmp_path, "some.tar").members("s000000001")[META])["sha256"][META]
    for old, new in ((b'"attempt": 0', b'"attempt": 7'), (b'"seed": 1', b'"seed": 9'), (b"meta.json", b"mete.json")):
        place = data.rindex(old)
        (tmp_path / "some.tar").write_bytes(data[:place] + new + data[place + len(old) :])
        with pytest.raises(ShardError, match="does not match its checksum"):
            TarCases(tmp_path, "some.tar").meta("s000000001")
