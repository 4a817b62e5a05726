"""Rows of the README's tables for fidelity and memorisation: (what, figure) from a results file's figures."""

from __future__ import annotations

from typing import Any

Rows = list[tuple[str, str]]
_PLANES = ("axial", "coronal", "sagittal")


def fidelity(figures: dict[str, Any]) -> Rows:
    """Frechet and perceptual distances, each beside real against real, and the paper's figures with their sentence."""
    net, slices = figures["volume_features"]["name"], figures["slice_features"]["name"]
    spacing = " x ".join(f"{mm:g}" for mm in figures["spacing_mm"])
    low, high = figures["volume_features"].get("window_hu", ("?", "?"))
    who = f"{figures['num_cases']} cases for {figures['num_patients']} {figures['compared_with']} patients"
    rows: Rows = []
    for key, what in (
        ("images", "CTs"),
        ("images_of_real_label_maps", "CTs of real label maps"),
        ("masks", "masks"),
    ):
        volume = figures[key]["volume"]
        scale = f", {spacing} mm, [{low:g}, {high:g}] HU; {who}" if key == "images" and low != "?" else ""
        rows += [
            (
                f"Frechet distance of {what}, volumes ({net}{scale}): generated to real / real to real",
                _beside(volume["frechet"]),
            ),
            (
                f"the same, slices ({slices}), {' / '.join(_PLANES)}: times the floor",
                " / ".join(f"{figures[key][p]['frechet']['ratio']:g}" for p in _PLANES),
            ),
        ]
        if volume["kernel"]:
            k = volume["kernel"]
            rows.append(
                (
                    f"kernel distance (MMD^2) of {what}, volumes: value / 95 % of exchanges below",
                    f"{k['value']:.3g} / {k['level_95']:.3g} (p = {k['p_value']:.2g})",
                )
            )
    images, masks = figures["perceptual"]["images"], figures["perceptual"]["masks"]
    order = ("generated", "of_real_label_map", "autoencoded", "two_patients")
    rows += [
        (
            "perceptual distance of CTs, axial: generated for a patient's findings / from its label map / autoencoded, "
            "beside its real CT / two real patients",
            " / ".join(f"{images[name]['axial']['mean']:g}" for name in order),
        ),
        (
            "the same of masks: generated for a patient's findings beside the real one / two real patients",
            f"{masks['generated']['axial']['mean']:g} / {masks['two_patients']['axial']['mean']:g}",
        ),
    ]
    paper = figures["paper"]
    four = ", ".join(f"{name} {value:g}" for name, value in paper.items() if name != "why_they_do_not_compare")
    return [*rows, (f"the paper's own figures. {paper['why_they_do_not_compare']}", four)]


def _beside(frechet: dict[str, Any]) -> str:
    made, floor = frechet["made_to_real"], frechet["real_to_real"]
    # Real against real differs little along axes that only generated cases leave: without this a reader is misled.
    missed = f"which miss {100 * frechet['mean_shift_off_axes']:.0f} % of the shift of the mean"
    sides = f"{frechet['cases_a_side']} cases a side, {frechet['axes']} of {frechet['features']} axes, {missed}"
    return f"{made['mean']:.3g} ± {made['sd']:.2g} / {floor['mean']:.3g} ± {floor['sd']:.2g} ({sides})"


def memorisation(figures: dict[str, Any]) -> Rows:
    """Generated cases nearer to a training case than two people come, by each measure, with the control."""
    rows: Rows = []
    for name, row in figures["by_measure"].items():
        controls = {
            "warped copies": "control_warped_copies_found",
            "held-out patients": "control_held_out_patients_found",
        }
        asked = {who: row[name] for who, name in controls.items() if row[name] is not None}
        control = f" ({', '.join(f'{who} {100 * share:.0f} %' for who, share in asked.items())})" if asked else ""
        near, other = row["nearest_generated"]["median"], row["nearest_other_patient"]["median"]
        rows.append(
            (
                f"generated cases nearer to a training case than 99 % of {figures['num_training_patients']} patients "
                f"to another, by {name.replace('_', ' ')} (median nearest {near:g}, of two people {other:g})",
                f"{row['num_nearer']} of {row['num_generated']}{control}",
            )
        )
    return rows
