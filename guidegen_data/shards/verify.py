"""What is wrong in a shard folder, by file and case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidegen_data.anatomy import anatomy_named
from guidegen_data.case import Case
from guidegen_data.errors import ShardError
from guidegen_data.shards import manifest
from guidegen_data.shards.folder import file_sha256
from guidegen_data.shards.manifest import MEMBERS, RunConfig, ShardEntry, key_of
from guidegen_data.shards.reader import TarCases


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `key` is '' when it concerns the whole file."""

    file: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.file, self.key, self.what)))


def problems(folder: str | Path) -> Iterator[Problem]:
    """Everything that is wrong: checksums, members, grids, label ids, reports, index against configuration.

    ShardError when there is no shard folder at all.
    """
    path = Path(folder)
    config, entries = manifest.read_config(path), manifest.read_index(path)
    yield from _check_index(config, entries)
    lines = {line["key"]: line for line in manifest.read_lines(path / manifest.MANIFEST)}
    for entry in entries:
        yield from _check_shard(path / entry.name, entry, config, lines)
    listed = {entry.name for entry in entries}
    for extra in sorted(p.name for p in path.glob("shard-*.tar") if p.name not in listed):
        yield Problem(extra, "", f"not in {manifest.INDEX}; run the same guidegen-shard command again")


def _check_index(config: RunConfig, entries: list[ShardEntry]) -> Iterator[Problem]:
    if (number := sum(entry.num_cases for entry in entries)) != config.n:
        yield Problem(manifest.INDEX, "", f"{number} cases of {config.n}; run the same guidegen-shard command again")
    expected = [manifest.shard_name(shard) for shard in range(config.num_shards)]
    for name in sorted({e.name for e in entries} - set(expected)):
        yield Problem(manifest.INDEX, "", f"{name} belongs to no shard of {manifest.RUN}")


def _check_shard(path: Path, entry: ShardEntry, config: RunConfig, lines: dict[str, Any]) -> Iterator[Problem]:
    try:
        if path.exists() and file_sha256(path) != entry.sha256:
            yield Problem(path.name, "", f"the checksum is not the one in {manifest.INDEX}")
        tar = TarCases(path, entry.bytes)
    except ShardError as error:
        yield Problem(path.name, "", str(error))
        return
    first, last = int(entry.first_key[1:]), int(entry.last_key[1:])
    expected = [key_of(i) for i in range(first, last + 1)]
    for key in sorted(set(expected) ^ set(tar.keys)):
        yield Problem(path.name, key, "missing" if key in expected else "does not belong here")
    for key in tar.keys:
        yield from (Problem(path.name, key, what) for what in _check_case(tar, key, config, lines.get(key)))


def _check_case(tar: TarCases, key: str, config: RunConfig, line: dict[str, Any] | None) -> Iterator[str]:
    try:
        case = tar.case(key)
    except ShardError as error:
        yield str(error)
        return
    if extra := tar.suffixes(key) - set(MEMBERS):
        yield f"unexpected member {', '.join(sorted(extra))}"
    if case.anatomy.name != config.recipe.anatomy:
        yield f"anatomy {case.anatomy.name}, not {config.recipe.anatomy}"
    if not case.report.strip():
        yield "the report is empty"
    if config.recipe.reports and case.report not in config.recipe.reports:
        yield "the report is none of those that were asked for"
    if case.provenance.get("recipe_sha256") != config.recipe.sha256:
        yield "made by another recipe"
    yield from _check_meta(case, line, tar.path.name)


def _check_meta(case: Case, line: dict[str, Any] | None, shard: str) -> Iterator[str]:
    meta = case.provenance
    table = {str(c.id): c.name for c in anatomy_named(case.anatomy.name).classes}
    if meta.get("label_table") != table:
        yield f"its label table is not that of {case.anatomy.name}"
    # NIfTI keeps the affine in float32, so mm and ml come back nearly the same.
    told, found = meta.get("volumes_ml", {}), case.volumes_ml()
    if set(told) != set(found) or not np.allclose([told[name] for name in found], list(found.values()), rtol=1e-5):
        yield "the volumes in its metadata are not those of its label map"
    if meta.get("shape") != list(case.ct_hu.shape) or not np.allclose(meta.get("spacing_mm", 0), case.spacing_mm):
        yield "the grid in its metadata is not that of its CT"
    if line != manifest.manifest_line(meta, shard):
        yield f"its line in {manifest.MANIFEST} is missing or differs"
