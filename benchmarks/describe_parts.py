"""Rows of the README's tables on what the parts of stage 2 are worth, each taken away at a time."""

from __future__ import annotations

from typing import Any

from benchmarks.downstream_scores import ORGANS

Rows = list[tuple[str, str]]


def ablations(figures: dict[str, Any]) -> Rows:
    """The slice generator as it is and without one part at a time."""
    what = (
        "slice Frechet distance / slice-to-slice difference / spread, generated over real / HU off what was told / "
        "drift beyond the real one, HU"
    )
    kept = (
        "slice_frechet",
        "median_step_ratio",
        "median_spread_ratio",
        "mean_off_what_was_told_hu",
        "mean_drift_beyond_real_hu",
    )
    rows = [
        (f"slices {name}: {what}" if k == 0 else name, " / ".join(str(part[key]) for key in kept))
        for k, (name, part) in enumerate(figures["parts"].items())
    ]
    return [(f"{figures['training_steps']} steps of training each (N = {figures['num']})", ""), *rows]


def autoencoder_parts(figures: dict[str, Any]) -> Rows:
    """The autoencoder with and without random windows and label slices; lesion contrast before and after."""
    rows: Rows = []
    for name, way in figures["ways"].items():
        errors, lesions = way["mae_hu"], way["lesion_contrast"]
        windows = ("soft", "lung", "bone", "full")
        rows.append(
            (
                f"autoencoder {name}: mean absolute error in the body, {' / '.join(windows)} window "
                f"(N = {figures['num']})",
                " / ".join(str(errors[w]) for w in windows) + " HU",
            )
        )
        sizes = ", ".join(f"{size} (N = {row['N']})" for size, row in lesions.items())
        kept = " / ".join(str(row["share_kept"]) for row in lesions.values())
        rows.append((f"the same: share of their contrast that lesions keep, {sizes}", kept))
    return rows


def detail(figures: dict[str, Any]) -> Rows:
    """Shape of the classes that are drawn anew, by the number of steps; 0 is stage 1 alone."""
    rows = figures["rows"]
    steps = " / ".join(str(r["steps"]) for r in rows)
    told = []
    for name, row in rows[0]["by_class"].items():
        real = [row[f"real_{what}"] for what in ("volume_ml", "pieces", "roughness")]
        made = [
            " / ".join(f"{r['by_class'][name][f'made_{what}']:g}" for r in rows)
            for what in ("volume_ml", "pieces", "roughness")
        ]
        values = "; ".join(f"{m} ({r:g})" for m, r in zip(made, real, strict=True))
        drawn = f"{name}, detail in {steps} steps (deformed real maps)"
        what = f"{drawn}: volume in ml; pieces; roughness (N = {figures['num_generated']})"
        told.append((what, values))
    both = ("volume_log2_error", "roughness_log2_error")
    errors = "; ".join(" / ".join(f"{r['summary'][what]}" for r in rows) for what in both)
    told.append(("all classes: error of volume; of roughness, mean |log2|", errors))
    return told


def slabs(figures: dict[str, Any]) -> Rows:
    """Slabs of several slices against slices one at a time, trained for the same time."""
    what = (
        "slice Frechet distance / slice-to-slice difference / spread, generated over real / differences where slabs "
        "meet over others (real) / CPU seconds a CT"
    )
    rows: Rows = []
    for k, (name, row) in enumerate(figures["settings"].items()):
        seam = f"{row['differences_every_fourth_slice_over_others']} ({row['the_same_in_real_cts']})"
        kept = (
            row["slice_frechet"],
            row["median_step_ratio"],
            row["median_spread_ratio"],
            seam,
            row["cpu_seconds_a_ct"],
        )
        said = f"{name}, {figures['steps']} steps, {row['training_steps']} steps of training"
        rows.append((f"{said}: {what}" if k == 0 else said, " / ".join(map(str, kept))))
    return [(f"{figures['minutes']:g} CPU minutes of training each, from scratch (N = {figures['num']})", ""), *rows]


def crashes(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """How many disturbed runs lost, doubled or altered anything."""
    what = f"runs disturbed ({', '.join(figures['by_mode'])}) and resumed: lost, doubled or altered anything"
    return [(what, f"{figures['failed']} of {figures['took_effect']}")]


def ray_scaling(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Efficiency over actors, and whether a removed node lost cases."""
    scaling, removed = figures["scaling"], figures["node_removed"]
    lost = "nothing lost" if removed["bytes_equal_an_undisturbed_run"] and not removed["problems"] else "cases lost"
    return [
        (
            "Ray, sleeping model: efficiency of " + " / ".join(str(s["actors"]) for s in scaling) + " actors",
            " / ".join(f"{s['efficiency']:.2f}" for s in scaling),
        ),
        (f"one of {figures['nodes']} nodes removed in the middle of {removed['cases']} cases", lost),
    ]


def found(figures: dict[str, Any]) -> str:
    """Dice of a segmenter of real patients with label maps of each kind, organ by organ."""
    organs = [organ for organ in ORGANS if any(organ in of["organs"] for of in figures["found"].values())]
    lines = [
        f"What the segmenter `{figures['segmenter']}` of the downstream benchmark finds, by mean Dice (in brackets: in "
        "how many it hardly finds the organ, below 0.2):",
        "",
        "| looked at | cases | mean | " + " | ".join(organs) + " |",
        "|---" * (3 + len(organs)) + "|",
    ]
    for kind, of in figures["found"].items():
        cells = [_found_cell(of["organs"].get(organ)) for organ in organs]
        lines.append(f"| {kind} | {of['num_cases']} | {of['mean']:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _found_cell(of: dict[str, Any] | None) -> str:
    return "" if of is None else f"{of['dice']:.2f} ({of['hardly_found']} of {of['n']})"


def airway(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """In how much of the neck below the larynx the body closes around air, and how large the hole is there."""
    rows = []
    for what in ("real", "generated"):
        told = figures[what]
        row = f"{what}: slices below the larynx that close around an airway / its median area (N = {told['num']})"
        rows.append((row, f"{told['share_of_slices_closed']:.1%} / {told['median_area_mm2']:.0f} mm2"))
    return rows
