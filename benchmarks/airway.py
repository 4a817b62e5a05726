"""Is the airway a tube below the larynx? python -m benchmarks.airway PREPARED --model head-neck [--num 33].

Label maps of stage 1 for the findings of the validation cases of a prepared head-neck folder, beside the real ones. Of
every case with a larynx and at least 10 mm of body below it: in how many of the axial slices of the 30 mm below does
the body close around air within 25 mm of the larynx's middle, and how large is that hole? An airway that is open to the
front, or that is not there, closes around none. Writes results/airway_MODEL.json (--name for another) and a sheet of
sagittal planes, real above generated.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from benchmarks.record import LABEL_MAP_PARTS, RESULTS, save, weights
from guidegen_data.anatomy import Anatomy
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.metrics.evaluation import real_cases
from guidegen_data.pipeline import GuideGenPipeline

_BELOW_MM = 30.0
_LEAST_BELOW_MM = 10.0
_ASIDE_MM = 25.0
#: Smaller holes are gaps of a voxel or so between tissues, not a trachea.
_LEAST_MM2 = 60.0
_SHOWN = 8
#: Neighbours within an axial slice.
_IN_PLANE = ndimage.generate_binary_structure(2, 1)[..., None]


def holes_mm2(label_map: np.ndarray, anatomy: Anatomy) -> np.ndarray | None:
    """Area (Z,) of the air that the body encloses in each slice below the larynx (X, Y, Z), near it.

    None without a larynx, or with less than 10 mm of body below it.
    """
    larynx = label_map == anatomy.ids["larynx"]
    if not larynx.any():
        return None
    x_mm, y_mm, z_mm = anatomy.spacing_mm
    top = int(np.nonzero(larynx.any(axis=(0, 1)))[0][0])
    lowest = int(np.nonzero((label_map > 0).any(axis=(0, 1)))[0][0])
    bottom = max(top - round(_BELOW_MM / z_mm), lowest)
    if (top - bottom) * z_mm < _LEAST_BELOW_MM:
        return None
    middle, aside = int(np.median(np.nonzero(larynx)[0])), round(_ASIDE_MM / x_mm)
    body = label_map[:, :, bottom:top] > 0
    enclosed = ndimage.binary_fill_holes(body, _IN_PLANE) & ~body
    return enclosed[max(middle - aside, 0) : middle + aside].sum(axis=(0, 1)) * x_mm * y_mm


def airways(holes: Sequence[np.ndarray | None]) -> dict[str, Any]:
    """Of what `holes_mm2` says of label maps: how many have a neck below a larynx, the mean share of its slices with an
    airway, and the median area of that."""
    held = [areas for areas in holes if areas is not None]
    closed = [areas[areas >= _LEAST_MM2] for areas in held]
    shares = [len(c) / len(a) for c, a in zip(closed, held, strict=True)]
    areas = np.concatenate(closed) if closed else np.zeros(0)
    return {
        "num": len(held),
        "share_of_slices_closed": round(float(np.mean(shares)), 3) if shares else None,
        "median_area_mm2": round(float(np.median(areas)), 1) if len(areas) else None,
    }


def sheet(rows: Sequence[Sequence[np.ndarray]], anatomy: Anatomy) -> Image.Image:
    """Rows of label maps (X, Y, Z), each in the sagittal plane through the middle of its spinal cord."""
    colours = np.array([c.colour for c in anatomy.classes], np.uint8)
    drawn = []
    for maps in rows:
        planes = []
        for label_map in maps:
            cord = np.nonzero(label_map == anatomy.ids["spinal cord"])[0]
            middle = int(np.median(cord)) if len(cord) else len(label_map) // 2
            planes.append(colours[label_map[middle, ::-1, ::-1].T])
        drawn.append(np.concatenate(planes, axis=1))
    return Image.fromarray(np.concatenate(drawn, axis=0))


def main() -> None:
    """Draws the label maps and measures them beside the real ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="folder of guidegen prepare, with validation cases")
    parser.add_argument("--model", default="head-neck")
    parser.add_argument("--num", type=int, default=33)
    parser.add_argument("--name", help="of the results file (default airway_MODEL)")
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained(args.model)
    real = real_cases(args.prepared, pipe.anatomy, args.num).cases
    made = []
    for number, case in enumerate(tqdm(real, desc="label maps", unit="case", disable=None)):
        (draft,) = pipe.draft([case.findings], [case.findings.prompt()], [f"case-{number}"], [number])
        made.append(draft.label_map)
    measured = {"real": [c.label_map for c in real], "generated": made}
    holes = {what: [holes_mm2(m, pipe.anatomy) for m in maps] for what, maps in measured.items()}
    figures = {what: airways(areas) for what, areas in holes.items()}
    name = args.name or f"airway_{Path(args.model).name.replace('-', '_')}"
    shown = [number for number, areas in enumerate(holes["real"]) if areas is not None][:_SHOWN]
    rows = [[maps[number] for number in shown] for maps in measured.values()]
    sheet(rows, pipe.anatomy).save(RESULTS / f"{name}.png")
    save(name, {**weights(args.model, LABEL_MAP_PARTS), "num_cases": len(made), **figures})
    print(figures)


if __name__ == "__main__":
    main()
