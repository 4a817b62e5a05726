"""Anatomies as YAML files: label table, source names, ranges, usual places and sizes, lesion sites.

An anatomy that is read is known by its name from then on, in place of one of the same classes that was measured on
other patients. A model that was loaded keeps its own, which takes that name again whenever the model is at work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from guidegen_data.anatomy import ANATOMIES, TORSO, Anatomy, FindingOrgan, LesionFrame, OrganClass, anatomy_named
from guidegen_data.errors import AnatomyError, GuideGenError

#: Beside a model's networks.
FILE_NAME = "anatomy.yaml"
_HU, _VOLUME_ML = (-1024.0, 3071.0), (0.0, 1e9)
_COLOURS = tuple(c.colour for c in TORSO.classes[1:])


def read_anatomy(path: Path) -> Anatomy:
    """The anatomy of a file, known by its name afterwards. AnatomyError naming file and entry for what cannot be one.

    Of a class only `id` and `name` must be there. AnatomyError too when a table of that name has other classes.
    """
    return register(unregistered_anatomy(path), str(path))


def unregistered_anatomy(path: Path) -> Anatomy:
    """The anatomy of a file to compare with, which leaves its name to the table that has it."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AnatomyError(f"expected a YAML anatomy at {path}, got {type(error).__name__}.") from error
    return unregistered_text(text, str(path))


def parse_anatomy(text: str, where: str) -> Anatomy:
    """The anatomy that a YAML text describes, as `read_anatomy` reads a file; errors name `where` it is from."""
    return register(unregistered_text(text, where), where)


def unregistered_text(text: str, where: str) -> Anatomy:
    """The anatomy of a YAML text to compare with, which leaves its name to the table that has it."""
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise AnatomyError(f"expected a YAML anatomy at {where}, got {type(error).__name__}.") from error
    if not isinstance(data, dict):
        raise AnatomyError(f"{where} must be a mapping with name, classes and organs, got {type(data).__name__}.")
    try:
        return _anatomy(data)
    except GuideGenError:
        raise
    except (TypeError, KeyError, ValueError) as error:
        raise AnatomyError(
            f"{where} is no anatomy: {error}; compare it with one that `guidegen prepare` wrote."
        ) from error


def register(anatomy: Anatomy, source: str = "") -> Anatomy:
    """Makes an anatomy known by its name. AnatomyError when that name is taken by other classes, organs or sites."""
    held = ANATOMIES.get(anatomy.name, anatomy)
    if held is not anatomy and (vocabulary(held) != vocabulary(anatomy) or held.spacing_mm != anatomy.spacing_mm):
        raise AnatomyError(
            f"{source or 'this table'} is called {anatomy.name!r}, but a table of that name has other classes, organs, "
            f"sites or spacing; give it another name."
        )
    ANATOMIES[anatomy.name] = anatomy
    return anatomy


def vocabulary(anatomy: Anatomy) -> tuple[Any, ...]:
    """What models and shards depend on: ids and names of classes, organs with their statuses and sites, regions."""
    organs = tuple((o.name, o.class_name, o.side, o.statuses, o.sites) for o in anatomy.organs)
    return tuple((c.id, c.name) for c in anatomy.classes), organs, anatomy.regions, anatomy.lesion_class


def anatomy_from(name_or_path: str | Path) -> Anatomy:
    """A packaged anatomy by name, or the one of a YAML file."""
    path = Path(name_or_path)
    if str(name_or_path) not in ANATOMIES and path.is_file():
        return read_anatomy(path)
    return anatomy_named(str(name_or_path))


def write_anatomy(anatomy: Anatomy, path: Path) -> None:
    """Writes an anatomy as `read_anatomy` reads it."""
    path.write_text(anatomy_text(anatomy), encoding="utf-8")


def anatomy_text(anatomy: Anatomy) -> str:
    """An anatomy as YAML."""
    data = _plain(asdict(anatomy))
    data["region_organs"] = {k: sorted(v) for k, v in anatomy.region_organs.items()}
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=118, allow_unicode=True)
    return "# Anatomy of a GuideGen model: mm, ml, HU. `guidegen prepare` measures ranges, places and sizes.\n" + text


def table_digest(anatomy: Anatomy) -> str:
    """What tells a table from any other. Entries that are as by default do not count: a version of this package that
    knows one more changes nothing."""
    return hashlib.sha256(json.dumps(_told(anatomy), sort_keys=True).encode()).hexdigest()


def _told(value: Any) -> Any:
    """Everything that an anatomy says, ready for JSON; a whole number is the same with a point and without."""
    if is_dataclass(value):
        entries = ((f, getattr(value, f.name)) for f in fields(value))
        return {f.name: _told(held) for f, held in entries if held != _default(f)}
    if isinstance(value, Mapping):
        return {str(k): _told(v) for k, v in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return [_told(v) for v in (sorted(value) if isinstance(value, frozenset) else value)]
    return float(value) if isinstance(value, int) else value


def _default(of: Field[Any]) -> Any:
    return of.default if of.default_factory is MISSING else of.default_factory()


def _anatomy(data: dict[str, Any]) -> Anatomy:
    known = {f.name for f in fields(Anatomy)}
    if unknown := sorted(set(data) - known):
        raise AnatomyError(f"unknown entries {unknown} of an anatomy; known: {', '.join(sorted(known))}.")
    if missing := sorted(
        {f.name for f in fields(Anatomy) if f.default is MISSING and f.default_factory is MISSING}
        - {"organs", "regions"}
        - set(data)
    ):
        raise AnatomyError(f"an anatomy needs {', '.join(missing)}.")
    classes = tuple(_class(c) for c in data["classes"])
    organs = data.get("organs") or [
        {"name": c.name, "class_name": c.name, "statuses": ["normal", "enlarged", "small", "absent"]}
        for c in classes
        if c.id and c.name != data.get("lesion_class", "tumour")
    ]
    built: dict[str, Any] = {
        **data,
        "classes": classes,
        "organs": tuple(FindingOrgan(**{k: _tupled(v) for k, v in o.items()}) for o in organs),
        "regions": tuple(data.get("regions") or (data["name"],)),
    }
    names = frozenset(o.name for o in built["organs"])
    shown = data.get("region_organs") or {r: sorted(names) for r in built["regions"]}
    built["region_organs"] = {k: frozenset(v) for k, v in shown.items()}
    if data.get("frame"):
        built["frame"] = LesionFrame(**{k: _tupled(v) for k, v in data["frame"].items()})
    for key in ("layout_mm", "size_ml"):
        built[key] = {k: _tupled(v) for k, v in (data.get(key) or {}).items()}
    for key in ("shape", "spacing_mm", "hu_range", "habitus_mm", "habitus_cm2"):
        if data.get(key) is not None:
            built[key] = _tupled(data[key])
    anatomy = Anatomy(**built)
    for organ in anatomy.organs:
        anatomy.id_of(organ.class_name)
    anatomy.id_of(anatomy.lesion_class)
    return anatomy


def _class(entry: dict[str, Any]) -> OrganClass:
    number = int(entry["id"])
    colour = _COLOURS[(number - 1) % len(_COLOURS)] if number else (0, 0, 0)
    defaults: dict[str, Any] = {"sources": (), "hu": _HU, "volume_ml": _VOLUME_ML, "colour": colour}
    return OrganClass(**(defaults | {k: _tupled(v) for k, v in entry.items()}))


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return [_plain(v) for v in (sorted(value) if isinstance(value, frozenset) else value)]
    return value
