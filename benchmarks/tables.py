"""Writes all tables and draws the curves from results/*.json: python -m benchmarks.tables [--check].

benchmarks/FIGURES.md gets every table, the README those that most readers want (`benchmarks.sections`).
Curves need matplotlib (the `benchmarks` extra) and are left as they are without it. Sheets of cases are drawn by the
benchmarks that made the cases.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from benchmarks import downstream_curve, downstream_scans_table, training_curves
from benchmarks.record import RESULTS
from benchmarks.sections import IN_README, SECTIONS, TIMED
from guidegen_data.models.folder import fingerprint_of, model_folder, part_fingerprint

README = Path(__file__).parent.parent / "README.md"
FIGURES = Path(__file__).parent / "FIGURES.md"
#: Every weight file is read once for all results.
_whole, _part = functools.cache(fingerprint_of), functools.cache(part_fingerprint)
#: What is told of figures of a model that the package no longer has in every part.
_EARLIER = "earlier weights"
_BEGIN, _END = "<!-- figures: python -m benchmarks.tables -->", "<!-- end of figures -->"
_GAIN_BEGIN, _GAIN_END = "<!-- gain: python -m benchmarks.tables -->", "<!-- end of gain -->"


def tables(names: Collection[str] | None = None, title_as: str = "**{}**") -> str:
    """Tables of those committed results (all when None) under their titles, in Markdown."""
    parts = []
    machine = json.loads((RESULTS / "throughput.json").read_text())["machine"]
    for title, describers in SECTIONS.items():
        wanted = {name: describe for name, describe in describers.items() if names is None or name in names}
        held = {name: describe for name, describe in wanted.items() if (RESULTS / f"{name}.json").exists()}
        parts += [title_as.format(title), ""] if held else []
        for name, describe in held.items():
            record = json.loads((RESULTS / f"{name}.json").read_text())
            said = describe(record["figures"])
            how = f"`{record['command']}`{_notes(name, record, machine)}"
            parts += [how, "", said if isinstance(said, str) else _two_columns(said), ""]
    parts.append(
        f"Timings: {_named(machine)}, torch {machine['torch']}, no accelerator, where no other machine is named; every "
        f'results file names its own. "{_EARLIER.capitalize()}": a part of the model has been replaced since, as its '
        "card tells. The Xeon has units for products of bf16 matrices (AMX), the EPYC has none."
    )
    return "\n".join(parts)


def _notes(name: str, record: dict[str, Any], machine: dict[str, Any]) -> str:
    """What is to be said of a result beside its command, in brackets: another machine, weights that are gone."""
    elsewhere = name in TIMED and not _same(record["machine"], machine)
    notes = [f"on {_named(record['machine'])}"] if elsewhere else []
    of_another = "DONORS" in record["command"]  # the downstream test's own generator was never the package's
    notes += [] if of_another or of_now(record["figures"]) else [_EARLIER]
    return f" ({'; '.join(notes)})" if notes else ""


def of_now(figures: dict[str, Any]) -> bool:
    """Whether a model of the package still has the parts that made these figures: all, where they name none."""
    folders = [model_folder(name) for name in ("torso", "head-neck")]
    parts = figures.get("parts_sha256", {})
    if parts:
        return any(all(_part(f, part) == told for part, told in parts.items()) for f in folders)
    return figures.get("model_sha256") in (None, *map(_whole, folders))


def _same(machine: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(machine[key] == other[key] for key in ("cpu", "cores"))


def _named(machine: dict[str, Any]) -> str:
    cores = "one core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    return f"{cores} of {machine['cpu'].replace('(R)', '').removesuffix(' Processor')}"


def _two_columns(rows: list[tuple[str, str]]) -> str:
    cells = (f"| {what} | {figure} |".replace("|log2|", "\\|log2\\|") for what, figure in rows)
    return "\n".join(["| what | figure |", "|---|---|", *cells])


def rewritten() -> dict[Path, str]:
    """The README and benchmarks/FIGURES.md, each with its figures replaced by the current ones."""
    scans = json.loads((RESULTS / "downstream_scans.json").read_text())["figures"]
    readme = _between(README.read_text(), _GAIN_BEGIN, _GAIN_END, downstream_scans_table.gain(scans))
    return {
        README: _between(readme, _BEGIN, _END, tables(IN_README)),
        FIGURES: _between(FIGURES.read_text(), _BEGIN, _END, tables(title_as="## {}")),
    }


def _between(text: str, begin: str, end: str, told: str) -> str:
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}\n{told}\n{end}{tail}"


def draw_curves(folder: Path = RESULTS) -> list[Path]:
    """Every curve of the results in a folder, beside its JSON file; the pictures drawn."""
    drawn = []
    for path in sorted(folder.glob("*.json")):
        figures, picture = json.loads(path.read_text())["figures"], path.with_suffix(".png")
        if path.stem == "downstream_scans":
            downstream_scans_table.draw(figures, picture)
        elif path.stem.startswith("downstream_") and "summary" in figures:
            downstream_curve.draw(figures, picture)
        elif path.stem.endswith("_training"):
            training_curves.draw(figures, picture)
        else:
            continue
        drawn.append(picture)
    return drawn


def main() -> None:
    """Rewrites both files and draws the curves, or with --check exits with 1 when one of them is out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when a table is stale")
    args = parser.parse_args()
    new = rewritten()
    if args.check:
        sys.exit(int(any(path.read_text() != text for path, text in new.items())))
    for path, text in new.items():
        path.write_text(text)
    written = " and ".join(path.name for path in new)
    if importlib.util.find_spec("matplotlib"):
        print(f"{written} and {len(draw_curves())} curves written")
    else:
        print(f"{written} written; curves need matplotlib, which is not installed")


if __name__ == "__main__":
    main()
