"""croissant.json: the folder as an ML Croissant description (mlcommons.org/croissant), for tools that look for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from guidegen_data.shards.manifest import CT, LABEL, MANIFEST, META, REPORT, RunConfig, ShardEntry

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_MEMBERS = {
    CT: ("CT in Hounsfield units, int16, RAS+ in mm, NIfTI-1", "application/gzip"),
    LABEL: ("label map on the same grid, uint8, NIfTI-1; the table of classes is in meta.json", "application/gzip"),
    REPORT: ("the report that the case was made from", "text/plain"),
    META: ("seed, findings, label table, volumes, quality verdict, model", "application/json"),
}
_COLUMNS = {
    "key": "sc:Text", "index": "sc:Integer", "shard": "sc:Text", "case_seed": "sc:Integer", "attempt": "sc:Integer",
    "anatomy": "sc:Text", "passed": "sc:Boolean",
}  # fmt: skip


def croissant(config: RunConfig, entries: Sequence[ShardEntry], manifest_sha256: str) -> dict[str, Any]:
    """The description as JSON-LD: every shard with its checksum, the members of a case, the columns of the manifest."""
    recipe, name = config.recipe, "guidegen-data-" + config.recipe.sha256[:12]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": f"{config.n} synthetic CT volumes with label maps and reports ({recipe.anatomy}), made by "
        f"guidegen-data {recipe.package_version}, seed {recipe.seed}. No voxel was measured on a person.",
        "url": f"urn:sha256:{_digest(entries)}",
        "version": recipe.package_version,
        "license": "README.md",
        "citeAs": f"guidegen-data {recipe.package_version}, after GuideGen (arXiv:2403.07247)",
        "isLiveDataset": False,
        "distribution": [*_files(entries, manifest_sha256), *_file_sets(entries)],
        "recordSet": [_record_set()],
    }


def _files(entries: Sequence[ShardEntry], manifest_sha256: str) -> list[dict[str, Any]]:
    manifest = {
        "@type": "cr:FileObject",
        "@id": MANIFEST,
        "name": MANIFEST,
        "description": "one line a case: what one filters a data set by",
        "contentUrl": MANIFEST,
        "encodingFormat": "application/jsonlines",
        "sha256": manifest_sha256,
    }
    shards = [
        {
            "@type": "cr:FileObject",
            "@id": entry.name,
            "name": entry.name,
            "description": f"cases {entry.first_key} to {entry.last_key}",
            "contentUrl": entry.name,
            "contentSize": f"{entry.bytes} B",
            "encodingFormat": "application/x-tar",
            "sha256": entry.sha256,
        }
        for entry in entries
    ]
    return [manifest, *shards]


def _file_sets(entries: Sequence[ShardEntry]) -> list[dict[str, Any]]:
    return [
        {
            "@type": "cr:FileSet",
            "@id": suffix,
            "name": suffix,
            "description": what,
            "containedIn": [{"@id": entry.name} for entry in entries],
            "encodingFormat": kind,
            "includes": f"*.{suffix}",
        }
        for suffix, (what, kind) in _MEMBERS.items()
    ]


def _record_set() -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"cases/{column}",
            "name": column,
            "dataType": kind,
            "source": {"fileObject": {"@id": MANIFEST}, "extract": {"column": column}},
        }
        for column, kind in _COLUMNS.items()
    ]
    return {"@type": "cr:RecordSet", "@id": "cases", "name": "cases", "key": {"@id": "cases/key"}, "field": fields}


def _digest(entries: Sequence[ShardEntry]) -> str:
    return hashlib.sha256("".join(entry.sha256 for entry in entries).encode()).hexdigest()
