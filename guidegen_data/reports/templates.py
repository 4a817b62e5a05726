"""Report templates: YAML files of {field} texts and phrase tables, checked when loaded; rendering runs no code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from guidegen_data.errors import ReportError
from guidegen_data.reports.findings import Findings
from guidegen_data.reports.rendering import PLACEHOLDER, Renderer

# What each template field tells of a Findings.
_STATES: dict[str, frozenset[str]] = {
    "exam": frozenset({"region", "phase"}),
    "region": frozenset({"region"}),
    "phase": frozenset({"phase"}),
    "patient": frozenset({"sex", "age_decade"}),
    "habitus": frozenset({"habitus"}),
    "history": frozenset({"sex", "age_decade"}),
    "statuses": frozenset({"organs"}),
    "lesions": frozenset({"lesions"}),
    "findings": frozenset({"organs", "lesions"}),
    "impression": frozenset({"organs", "lesions"}),
    "normals": frozenset(),
    "negatives": frozenset(),
}
_LESION_FIELDS = frozenset({"size", "attenuation", "noun", "in", "of"})


@dataclass(frozen=True)
class _Table:
    """Shape of a phrase table: how many keys deep its lists lie, and the fields its phrases may hold."""

    depth: int
    fields: frozenset[str] = frozenset()


_TABLES = {
    "region": _Table(1),
    "phase": _Table(1),
    "exam": _Table(0, frozenset({"region", "phase"})),
    "patient": _Table(1, frozenset({"age", "decade"})),
    "habitus": _Table(1),
    "history": _Table(0, frozenset({"patient"})),
    "organ": _Table(1),
    "status": _Table(1, frozenset({"organ"})),
    "organ_status": _Table(2, frozenset({"organ"})),
    "place": _Table(3),
    "attenuation": _Table(1),
    "noun": _Table(0),
    "noun_of": _Table(1),
    "size": _Table(0, frozenset({"mm", "cm", "short_mm", "short_cm"})),
    "lesion": _Table(0, _LESION_FIELDS),
    "impression_lesion": _Table(0, _LESION_FIELDS),
    "normal": _Table(0, frozenset({"organ"})),
    "negative": _Table(0),
    "no_lesion": _Table(0),
    "no_finding": _Table(0),
}
_MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Template:
    """One report layout: text with {fields}."""

    name: str
    text: str

    @property
    def states(self) -> frozenset[str]:
        """The fields of Findings that a report of this template tells; the others are left out on purpose."""
        return frozenset().union(*(_STATES[name] for name in PLACEHOLDER.findall(self.text)))


@dataclass(frozen=True)
class TemplateLibrary:
    """Templates and the phrase tables they draw from."""

    name: str
    templates: tuple[Template, ...]
    phrases: Mapping[str, Any]

    def render(self, findings: Findings, rng: np.random.Generator) -> str:
        """Report text of the findings by a template drawn from the library."""
        return self.render_with(self.templates[int(rng.integers(len(self.templates)))], findings, rng)

    def render_with(self, template: Template, findings: Findings, rng: np.random.Generator) -> str:
        """Report text of the findings by that template, its wording drawn from `rng`."""
        return Renderer(self.phrases, findings, rng).fill(template.text)


def library_names() -> tuple[str, ...]:
    """Names of the template libraries that come with the package."""
    files = resources.files("guidegen_data.reports").joinpath("data").iterdir()
    names = (f.name.removeprefix("templates-").removesuffix(".yaml") for f in files if f.name.startswith("templates-"))
    return tuple(sorted(names))


def library_for(anatomy_name: str) -> TemplateLibrary:
    """The library that comes with the package for a label table; the torso's where it has none of its own."""
    return _packaged(anatomy_name if anatomy_name in library_names() else "torso")


def load_templates(name_or_path: str | Path = "torso") -> TemplateLibrary:
    """The library of that name, or of a YAML file: a list of templates, or a mapping of `templates` and `phrases`.

    Lists of phrases given there replace ours, the rest stays. ReportError, naming file and field, for anything else.
    """
    if str(name_or_path) in library_names():
        return _packaged(str(name_or_path))
    path = Path(name_or_path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ReportError(f"{path} is over 1 MB, too large for a template file; split it.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = ", ".join(library_names())
        reason = error.strerror or type(error).__name__
        raise ReportError(
            f"no template library or readable file {str(name_or_path)!r} ({reason}); known: {known}."
        ) from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path} is no UTF-8 text; save the templates as UTF-8 YAML.") from error
    return _library(path.name, _parse(text, str(path)), str(path), _packaged("torso").phrases)


@cache
def _packaged(name: str) -> TemplateLibrary:
    source = f"templates-{name}.yaml"
    text = resources.files("guidegen_data.reports").joinpath("data", source).read_text(encoding="utf-8")
    ours = {} if name == "torso" else _packaged("torso").phrases
    return _library(name, _parse(text, source), source, ours)


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ReportError(
            f"{source} is broken YAML{where} ({problem}); quote texts that hold ':' or braces."
        ) from error


def _library(name: str, data: Any, source: str, ours: Mapping[str, Any]) -> TemplateLibrary:
    if isinstance(data, list):
        data = {"templates": data}
    if not isinstance(data, dict) or not isinstance(data.get("templates"), list) or not data["templates"]:
        raise ReportError(f"{source} must be a list of templates or hold a list `templates`; add at least one.")
    if unknown := [str(key) for key in data if key not in ("templates", "phrases")]:
        raise ReportError(f"{source} has an unknown part {unknown[0]!r}; known: templates, phrases.")
    templates = tuple(_template(item, i, source) for i, item in enumerate(data["templates"]))
    tables = data.get("phrases") or {}
    if not isinstance(tables, dict):
        raise ReportError(f"phrases of {source} must be a mapping of tables; known: {', '.join(_TABLES)}.")
    checked = {str(key): _table(str(key), table, source) for key, table in tables.items()}
    return TemplateLibrary(name, templates, _merge(ours, checked))


def _template(item: Any, index: int, source: str) -> Template:
    if isinstance(item, str):
        item = {"text": item}
    if not isinstance(item, dict) or not isinstance(item.get("text"), str) or set(item) - {"name", "text"}:
        raise ReportError(f"template {index + 1} of {source} must be a text, or hold `text` and perhaps `name`.")
    name = str(item.get("name", index + 1))
    _check_fields(item["text"], frozenset(_STATES), f"template {name!r} of {source}")
    if not PLACEHOLDER.search(item["text"]):
        raise ReportError(f"template {name!r} of {source} has no field, so every report would be the same; add one.")
    return Template(name, item["text"])


def _table(key: str, table: Any, source: str) -> Any:
    if key not in _TABLES:
        raise ReportError(f"unknown phrase table {key!r} in {source}; known: {', '.join(_TABLES)}.")
    return _checked(table, _TABLES[key].depth, _TABLES[key].fields, f"phrases {key!r} of {source}")


def _checked(table: Any, depth: int, fields: frozenset[str], where: str) -> Any:
    """The table with every phrase checked: mappings `depth` deep, then a list of phrases (or one phrase)."""
    if depth:
        if not isinstance(table, dict):
            raise ReportError(f"{where} must be a mapping, got {type(table).__name__}.")
        return {str(key): _checked(value, depth - 1, fields, f"{where}, {str(key)!r},") for key, value in table.items()}
    listed = [table] if isinstance(table, str) else table
    if not isinstance(listed, list) or not listed or not all(isinstance(phrase, str) for phrase in listed):
        raise ReportError(f"{where} must be a list of texts; quote yes, no, on, off and numbers.")
    for phrase in listed:
        _check_fields(phrase, fields, where)
    return listed


def _check_fields(text: str, known: frozenset[str], where: str) -> None:
    for name in _fields(text):
        if name not in known:
            options = ", ".join(sorted(known)) or "none here"
            raise ReportError(f"{where} has an unknown field {name!r}; known fields: {options}.")
    if set("{}") & set(PLACEHOLDER.sub("", text)):
        raise ReportError(f"{where} has a brace without its partner; a field is written {{name}}.")


def _fields(text: str) -> Iterator[str]:
    for match in PLACEHOLDER.finditer(text):
        yield match.group(1)


def _merge(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Their lists over ours, mapping by mapping."""
    merged = dict(ours)
    for key, value in theirs.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
