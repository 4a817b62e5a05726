"""What cases are prepared from besides the configuration: told in `prepared.json`, so that a run again takes the same.

A folder that does not tell it, because it was made before this was noted, is gone on with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidegen_data.anatomy import Anatomy
from guidegen_data.anatomy_files import FILE_NAME, table_digest, unregistered_anatomy
from guidegen_data.errors import SourceError

#: Keys of `prepared.json` that are no configuration.
TABLE, CLASSES, BASES = "anatomy_sha256", "classes_sha256", "bases"


def real_inputs(given: Anatomy, ids: Mapping[int, str] | None) -> dict[str, Any]:
    """Of real cases: what tells the table that was given, before anything was measured, and the names of label ids."""
    return {TABLE: table_digest(given), CLASSES: _digest(ids)}


def deformed_inputs(found: Mapping[str, tuple[Path | None, Path | None]], ids: Mapping[int, str]) -> dict[str, Any]:
    """Of deformed cases: the names of label ids, and for each labelled volume, (CT, label) by name, whether it has a
    CT. Of which one a case is made is drawn from their list."""
    return {CLASSES: _digest(ids), BASES: {name: found[name][0] is not None for name in sorted(found)}}


def without_inputs(held: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in what a `prepared.json` holds."""
    return {k: v for k, v in held.items() if k not in (TABLE, CLASSES, BASES)}


def check_inputs(out: Path, held: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """SourceError where a folder was begun with something else than there is now, as far as its `prepared.json` tells.

    The folder's own table, as it was measured, may be given instead of the one that it was begun with.
    """
    changed = {name for name in now if name in held and held[name] != now[name]}
    if TABLE in changed and now[TABLE] != table_digest(unregistered_anatomy(out / FILE_NAME)):
        raise SourceError(
            f"the label table that is given is another than the one {out} was begun with, and its cases keep theirs; "
            f"choose another folder, or go on with --anatomy {out / FILE_NAME}."
        )
    if CLASSES in changed:
        raise SourceError(
            f"the class names of the label ids are others than those {out} was begun with; go on with the same, or "
            "choose another folder for all cases."
        )
    if BASES in changed:
        told = "; ".join(_changes(held[BASES], now[BASES]))
        raise SourceError(
            f"the volumes are others than those {out} was begun with ({told}), and of which one a case is made is "
            "drawn from their list; bring the data set back to those, or choose another folder for all cases."
        )


def _changes(before: Mapping[str, bool], now: Mapping[str, bool]) -> list[str]:
    kinds = {
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
        "CT new or gone": [name for name in now if before.get(name, now[name]) != now[name]],
    }
    return [f"{what}: {', '.join(names[:8])}" for what, names in kinds.items() if names]


def _digest(ids: Mapping[int, str] | None) -> str:
    listed = None if ids is None else sorted(ids.items())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
