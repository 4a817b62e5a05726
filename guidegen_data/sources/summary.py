"""The page on a prepared folder: sheets of cases, class volumes and HU, spacings, findings, what was not used."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from guidegen_data.anatomy import Anatomy
from guidegen_data.anatomy_files import read_anatomy
from guidegen_data.case import Case, centred_affine
from guidegen_data.preview import preview_sheet
from guidegen_data.sources.prepared import case_paths, load_case, write_text
from guidegen_data.sources.real import read_notes

_SHEET_CASES = 6
_BARS = 12


def write_summary(out: Path) -> str:
    """Writes `summary.html`, `class_volumes.csv`, `spacings.png` and one sheet a split; what to print of it."""
    anatomy, notes = read_anatomy(out / "anatomy.yaml"), read_notes(out)
    good, refused = [n for n in notes if not n["refused"]], [n for n in notes if n["refused"]]
    splits = [s for s in ("train", "validation") if any((out / s).glob("case-*.npz"))]
    for split in splits:
        _sheet(out / split, anatomy, out / f"sheet-{split}.png")
    rows = _class_rows(good, anatomy)
    with open(out / "class_volumes.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([_HEAD, *rows])
    if good:
        _histogram([n["spacing_mm"] for n in good]).save(out / "spacings.png")
    unmapped = Counter(name for n in good for name in n["unmapped"])
    write_text(out / "summary.html", _page(out, splits, rows, notes, unmapped))
    counts = Counter(n["split"] for n in good)
    files = {s: len(case_paths(out / s)) for s in splits}
    lines = [f"{s}: {counts[s]} patients' cases, {files[s]} files in {out / s}" for s in splits]
    if unmapped:
        lines.append(f"not in the {anatomy.name} table, left out: " + ", ".join(sorted(unmapped)[:40]))
    if left_over := _left_over(out):
        lines.append(f"belong to no NAME_ct, left out: {', '.join(left_over[:40])}")
    if cut := [n for n in good if n.get("num_cleared")]:
        slices = sum(n["num_cleared"] for n in cut)
        lines.append(
            f"cut down to their contours: the CTs of {len(cut)} patients; {slices} slices that show nothing else were "
            "taken out with their contours"
        )
    if refused:
        lines.append(
            f"refused: {len(refused)}, with reasons in {out / 'refused.jsonl'}; the first: {refused[0]['refused']}"
        )
    if odd := [f"{row[0]} of {row[-1]}" for row in rows if row[-1]]:
        lines.append(f"outside the plausible ranges, look at their contours: {'; '.join(odd)}")
    return "\n".join([*lines, f"summary: {out / 'summary.html'}"])


_HEAD = ["class", "cases", "median ml", "5 % ml", "95 % ml", "median of mean HU", "outside the plausible ranges"]


def _class_rows(notes: Sequence[dict[str, Any]], anatomy: Anatomy) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for c in anatomy.classes[1:]:
        held = [(n["volumes_ml"][c.name], n["mean_hu"][c.name], n["name"]) for n in notes if c.name in n["volumes_ml"]]
        odd = [n for ml, hu, n in held if ml > c.volume_ml[1] or not c.hu[0] <= hu <= c.hu[1]]
        ml = np.array([h[0] for h in held] or [0.0])
        hu = np.array([h[1] for h in held] or [0.0])
        middle = [round(float(v), 1) for v in np.percentile(ml, (50, 5, 95))]
        rows.append([c.name, len(held), *middle, round(float(np.median(hu)), 1), " ".join(odd)])
    return rows


def _left_over(out: Path) -> list[str]:
    path = out / "left_over.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _sheet(folder: Path, anatomy: Anatomy, path: Path) -> None:
    paths = case_paths(folder)
    cases = []
    for p in [paths[int(i)] for i in np.linspace(0, len(paths) - 1, min(_SHEET_CASES, len(paths)))]:
        held = load_case(p)
        if held.ct_hu is not None:
            ct = np.rint(held.ct_hu).astype(np.int16)
            affine = centred_affine(anatomy.shape, anatomy.spacing_mm)
            text = f"{held.base}: {held.findings.prompt()}"
            cases.append(Case(p.stem, ct, held.label_map, affine, text, held.findings, {}))
    if cases:
        preview_sheet(cases).save(path)


def _histogram(spacings: Sequence[Sequence[float]]) -> Image.Image:
    """Bars of how many cases have which voxel size, in plane and along z."""
    picture = Image.new("RGB", (620, 240), "white")
    draw = ImageDraw.Draw(picture)
    for k, (title, axis) in enumerate((("in plane, mm", 0), ("along z, mm", 2))):
        counts, edges = np.histogram([s[axis] for s in spacings], bins=_BARS)
        left = 20 + 300 * k
        draw.text((left, 8), title, "black")
        for i, count in enumerate(counts):
            height = round(160 * count / max(1, counts.max()))
            draw.rectangle([left + 22 * i, 200 - height, left + 22 * i + 18, 200], fill=(70, 110, 160))
            if count:
                draw.text((left + 22 * i, 186 - height), str(count), "black")
        draw.text((left, 206), f"{edges[0]:.2f}", "black")
        draw.text((left + 22 * (_BARS - 1), 206), f"{edges[-1]:.2f}", "black")
    return picture


def _page(
    out: Path,
    splits: Sequence[str],
    rows: Sequence[Sequence[Any]],
    notes: Sequence[dict[str, Any]],
    unmapped: Counter[str],
) -> str:
    good, refused = [n for n in notes if not n["refused"]], [n for n in notes if n["refused"]]
    facts: Counter[str] = Counter()
    for note in good:
        found = note["findings"]
        facts.update([f"region {found['region']}", f"habitus {found['habitus'] or 'not stated'}"])
        facts.update(f"{o} {s}" for o, s in found["organs"].items())
        facts.update(f"lesion in {x['organ']} {x['site']}".strip() for x in found["lesions"])
    parts = [
        "<!doctype html><meta charset=utf-8><title>Prepared cases</title>"
        "<style>body{font:15px sans-serif;margin:2em;max-width:1100px}td,th{padding:2px 9px;text-align:left}"
        "img{max-width:100%}</style>",
        f"<h1>{escape(out.name)}: {len(good)} cases, {len(refused)} refused</h1>",
        *(f"<h2>{s}</h2><img src='sheet-{s}.png' alt='sheet of {s} cases'>" for s in splits),
        "<h2>Classes</h2>" + _table(_HEAD, rows),
        "<h2>Spacing</h2><img src='spacings.png' alt='histogram of voxel sizes'>" if good else "",
        "<h2>Findings</h2>" + _table(["finding", "cases"], sorted(facts.items(), key=lambda f: -f[1])),
        "<h2>Slices that were not imaged, taken out with their contours</h2>"
        + _table(["case", "slices"], [(n["name"], n["num_cleared"]) for n in good if n.get("num_cleared")]),
        "<h2>Volumes that belong to no NAME_ct</h2>" + _table(["file"], [[name] for name in _left_over(out)]),
        "<h2>Refused</h2>" + _table(["case", "reason"], [(n["name"], n["refused"]) for n in refused]),
        "<h2>Source classes left out</h2>" + _table(["class", "cases"], sorted(unmapped.items())),
    ]
    return "\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return "<p>None.</p>"
    cells = ["<tr>" + "".join(f"<th>{escape(h)}</th>" for h in head) + "</tr>"]
    cells += ["<tr>" + "".join(f"<td>{escape(str(v))}</td>" for v in row) + "</tr>" for row in rows]
    return "<table>" + "".join(cells) + "</table>"
