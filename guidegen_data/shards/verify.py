"""What is wrong in a shard folder, by file and case."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from guidegen_data.anatomy import anatomy_named
from guidegen_data.case import Case
from guidegen_data.errors import GuideGenError, ShardError
from guidegen_data.quality import verdict
from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.shards import manifest
from guidegen_data.shards.folder import is_shard
from guidegen_data.shards.manifest import INDEX, MANIFEST, MEMBERS, REJECTS, RunConfig, ShardEntry, key_of
from guidegen_data.shards.plan import findings_of_reports
from guidegen_data.shards.reader import TABLES_KNOWN, TarCases
from guidegen_data.shards.storage import Folder, file_sha256, folder_at
from guidegen_data.shards.table import know_anatomy

_AGAIN = "run the same guidegen-shard command again"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `key` is '' when it concerns the whole file."""

    file: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.file, self.key, self.what)))


def problems(location: str | os.PathLike[str] | Folder) -> Iterator[Problem]:
    """Everything that is wrong: checksums, members, grids, label ids, reports against label maps, index and manifest.

    ShardError when there is no shard folder at all.
    """
    folder = folder_at(location)
    config = manifest.read_config(folder)
    try:
        know_anatomy(folder)
    except ShardError as error:
        yield Problem(manifest.ANATOMY, "", str(error))
        TABLES_KNOWN.add(folder.url)  # its cases are judged by the table of that name that is known
    try:
        entries = manifest.read_index(folder)
    except ShardError as error:
        entries = []
        yield Problem(INDEX, "", str(error))
    whole = sum(entry.num_cases for entry in entries) == config.n
    yield from _check_index(folder, config, entries)
    told: dict[str, dict[str, str]] | None = None
    if whole or folder.size(MANIFEST) is not None:  # both are written when the folder is whole
        told = {}
        for name in (MANIFEST, REJECTS):
            try:
                told[name] = _told_lines(folder, name)
            except ShardError as error:
                told[name] = {}
                yield Problem(name, "", str(error))
    for entry in entries:
        yield from shard_problems(folder, config, entry.name, entry, told)
    listed = {entry.name for entry in entries}
    for extra in sorted(name for name in folder.sizes() if is_shard(name) and name not in listed):
        yield Problem(extra, "", f"not in {INDEX}; {_AGAIN}")
        if extra in map(manifest.shard_name, range(config.num_shards)):
            yield from shard_problems(folder, config, extra)
    known = {key_of(i) for i in range(config.n)}
    for name, lines in (told or {}).items():
        for key in sorted(lines.keys() - known):
            yield Problem(name, key, f"no case of {manifest.RUN}")


def shard_problems(
    folder: Folder,
    config: RunConfig,
    name: str,
    entry: ShardEntry | None = None,
    told: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[Problem]:
    """What is wrong in one shard, by its entry in the index where it has one; `told` are the lines about its cases."""
    try:
        if entry and folder.size(name) is not None and file_sha256(folder, name) != entry.sha256:
            yield Problem(name, "", f"the checksum is not the one in {INDEX}")
        tar = TarCases(folder, name, entry.bytes if entry else None)
    except ShardError as error:
        yield Problem(name, "", str(error))
        return
    planned = {manifest.shard_name(shard): shard for shard in range(config.num_shards)}
    expected = [key_of(i) for i in config.cases_of_shard(planned[name])] if name in planned else []
    for key in sorted(set(expected) ^ set(tar.keys)):
        yield Problem(name, key, "missing" if key in expected else "does not belong here")
    for key in tar.keys:
        try:
            case = tar.case(key)
        except ShardError as error:
            yield Problem(name, key, str(error))
            continue
        extra = tar.suffixes(key) - set(MEMBERS)
        for what in (
            *(f"unexpected member {suffix}" for suffix in sorted(extra)),
            *_check_case(case, config),
            *_check_report(case, config),
        ):
            yield Problem(name, key, what)
        if told is not None:
            yield from _check_lines(case, name, told)


def arithmetics(folder: Folder) -> Counter[str]:
    """What the cases were computed in -> how many of them; those that do not tell are left out."""
    found: Counter[str] = Counter()
    for entry in manifest.read_index(folder):
        tar = TarCases(folder, entry.name)
        found.update(tar.meta(key)["generation"].get("arithmetic", "") for key in tar.keys)
    del found[""]
    return found


def _told_lines(folder: Folder, name: str) -> dict[str, str]:
    """Key -> the lines of a .jsonl file about that case, joined."""
    told: dict[str, str] = {}
    for line in manifest.read_lines(folder, name):
        try:
            told[line["key"]] = told.get(line["key"], "") + manifest.to_json(line) + "\n"
        except (KeyError, TypeError) as error:
            raise ShardError(f"{folder.url}/{name} has a line that names no case; {_AGAIN}.") from error
    return told


def _check_index(folder: Folder, config: RunConfig, entries: list[ShardEntry]) -> Iterator[Problem]:
    if (number := sum(entry.num_cases for entry in entries)) != config.n:
        yield Problem(INDEX, "", f"{number} cases of {config.n}; {_AGAIN}")
        return
    expected = {manifest.shard_name(shard) for shard in range(config.num_shards)}
    times = Counter(e.name for e in entries)
    for name in sorted(times.keys() - expected):
        yield Problem(INDEX, "", f"{name} belongs to no shard of {manifest.RUN}")
    for name in sorted(expected - times.keys()):
        yield Problem(INDEX, "", f"{name} is not in it; {_AGAIN}")
    for name in sorted(name for name in times if times[name] > 1):
        yield Problem(INDEX, "", f"{name} is in it {times[name]} times")
    with suppress(ShardError):
        record, totals = manifest.read_json(folder, INDEX), manifest.index_of(config, entries)
        if config.recipe.made(record.get("recipe_sha256")):
            totals["recipe_sha256"] = record["recipe_sha256"]
        if record != totals:
            yield Problem(INDEX, "", "its totals are not those of its shards")
    for name in (manifest.ANATOMY, manifest.CARD, manifest.CROISSANT, manifest.HISTOGRAMS):
        if not folder.size(name):
            yield Problem(name, "", f"missing or empty; {_AGAIN}")


def _check_case(case: Case, config: RunConfig) -> Iterator[str]:
    meta = case.provenance
    if case.anatomy.name != config.recipe.anatomy:
        yield f"anatomy {case.anatomy.name}, not {config.recipe.anatomy}"
    if not config.recipe.made(meta.get("recipe_sha256")):
        yield "made by another recipe"
    table = {str(c.id): c.name for c in anatomy_named(case.anatomy.name).classes}
    if meta.get("label_table") != table:
        yield f"its label table is not that of {case.anatomy.name}"
    # NIfTI keeps the affine in float32, so mm and ml come back nearly the same.
    told, found = meta.get("volumes_ml", {}), case.volumes_ml()
    if set(told) != set(found) or not np.allclose([told[name] for name in found], list(found.values()), rtol=1e-5):
        yield "the volumes in its metadata are not those of its label map"
    if meta.get("shape") != list(case.ct_hu.shape) or not np.allclose(meta.get("spacing_mm", 0), case.spacing_mm):
        yield "the grid in its metadata is not that of its CT"


def _check_report(case: Case, config: RunConfig) -> Iterator[str]:
    """The report against the findings, and the findings against the label map."""
    recipe = config.recipe
    if not case.report.strip():
        yield "the report is empty"
    elif recipe.reports and case.report not in recipe.reports:
        yield "the report is none of those that were asked for"
    elif recipe.readings:  # a chat model may read what the rules do not
        if case.findings != findings_of_reports(recipe, case.anatomy)[recipe.reports.index(case.report)]:
            yield "its findings are not those that the abstractor read in its report"
    elif not recipe.templates_sha256:  # a user's own templates may say things that no rule reads
        yield from _contradictions(case)
    if recipe.package_version != manifest.installed_version("guidegen-data"):
        return  # its checks may have been others
    now, then = verdict(case), case.provenance.get("quality", {})
    outcomes = [{c["name"]: c["pass"] for c in judged.get("checks", [])} for judged in (now, then)]
    if outcomes[0] != outcomes[1] or now["passed"] != then.get("passed"):
        yield "its quality verdict is not the one its label map and CT get"
    if recipe.quality_control and not now["passed"]:
        failed = ", ".join(check["name"] for check in now["checks"] if not check["pass"])
        yield f"the label map does not fit the report: {failed}"


def _contradictions(case: Case) -> Iterator[str]:
    """What the report says and the findings do not; a report may be silent on anything."""
    try:
        read, found = abstract_report(case.report, case.anatomy).findings, case.findings
    except GuideGenError as error:
        yield f"its report cannot be read ({error})"
        return
    for what, said, known in (
        ("lesions", {(x.organ, x.site) for x in read.lesions}, {(x.organ, x.site) for x in found.lesions}),
        ("organ statuses", set(read.organs.items()), {(o, found.status(o)) for o in read.organs}),
    ):
        if more := sorted(said - known):
            yield f"its report tells {what} that its findings lack: {more[0]}"
    for what in ("phase", "sex", "age_decade"):
        said, known = getattr(read, what), getattr(found, what)
        if said not in ("", None) and said != known:
            yield f"its report tells {what} {said}, its findings {known or 'nothing'}"


def _check_lines(case: Case, shard: str, told: Mapping[str, Mapping[str, str]]) -> Iterator[Problem]:
    meta: Mapping[str, Any] = case.provenance
    with suppress(KeyError, TypeError):
        line = manifest.to_json(manifest.manifest_line(meta, shard)) + "\n"
        if told[MANIFEST].get(case.key) != line:
            yield Problem(MANIFEST, case.key, f"its line is missing or is not that of {shard}")
        rejects = (json.loads(manifest.to_json(r)) | {"shard": shard, "index": meta["index"]} for r in meta["rejects"])
        if told[REJECTS].get(case.key, "") != "".join(manifest.to_json(reject) + "\n" for reject in rejects):
            yield Problem(REJECTS, case.key, f"its lines are missing or are not those of {shard}")
