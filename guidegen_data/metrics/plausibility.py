"""Do label maps look like people? Volumes, pieces, roughness and neighbours per class, beside real label maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import Anatomy

#: Classes that touch in every adult when both are in the field of view.
MUST_TOUCH = (
    ("lung", "heart"),
    ("lung", "liver"),
    ("liver", "gallbladder"),
    ("duodenum", "pancreas"),
    ("stomach", "spleen"),
    ("aorta", "vertebrae"),
    ("heart", "aorta"),
    ("esophagus", "aorta"),
    ("inferior vena cava", "liver"),
    ("portal and splenic vein", "pancreas"),
    ("stomach", "esophagus"),
)
#: Two classes this far apart still touch: label maps leave a gap of a voxel or two of fat between neighbours.
_GAP_VOXELS = 2
#: Pieces below this are not counted: 13 voxels at 3 mm.
_PIECE_ML = 0.35


@dataclass(frozen=True)
class ClassShape:
    """One class in one label map: volume, number of pieces, and border faces / voxels^(2/3) (a cube has 6)."""

    volume_ml: float
    num_pieces: int
    roughness: float


def class_shapes(
    label_map: np.ndarray, anatomy: Anatomy, spacing_mm: tuple[float, float, float]
) -> dict[str, ClassShape]:
    """Every class that is in a label map (X, Y, Z), background left out."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    shapes = {}
    boxes = ndimage.find_objects(label_map, anatomy.num_classes - 1)
    for c, box in zip(anatomy.classes[1:], boxes, strict=True):
        if box is None:
            continue
        mask = np.pad(label_map[box] == c.id, 1)
        sizes = np.bincount(ndimage.label(mask)[0].ravel())[1:]
        faces = sum(int(np.count_nonzero(np.diff(mask, axis=axis))) for axis in range(3))
        voxels = int(mask.sum())
        shapes[c.name] = ClassShape(
            volume_ml=voxels * voxel_ml,
            num_pieces=max(1, int((sizes * voxel_ml >= _PIECE_ML).sum())),
            roughness=faces / voxels ** (2 / 3),
        )
    return shapes


def neighbours(
    label_map: np.ndarray, anatomy: Anatomy, pairs: Sequence[tuple[str, str]] = MUST_TOUCH
) -> dict[tuple[str, str], bool]:
    """For each pair of classes that are both in a label map: whether they touch."""
    present = set(np.unique(label_map).tolist())
    touch = {}
    for a, b in pairs:
        if a in anatomy.ids and b in anatomy.ids and {anatomy.ids[a], anatomy.ids[b]} <= present:
            near = ndimage.binary_dilation(label_map == anatomy.ids[a], iterations=_GAP_VOXELS)
            touch[a, b] = bool((near & (label_map == anatomy.ids[b])).any())
    return touch


@dataclass(frozen=True)
class Population:
    """Shapes and neighbours of many label maps, by class: one list entry a map that holds the class."""

    shapes: dict[str, list[ClassShape]]
    touches: dict[tuple[str, str], list[bool]]
    num_maps: int


def population(
    label_maps: Iterable[np.ndarray], anatomy: Anatomy, spacing_mm: tuple[float, float, float]
) -> Population:
    """What `class_shapes` and `neighbours` say of many label maps (X, Y, Z)."""
    shapes: dict[str, list[ClassShape]] = {}
    touches: dict[tuple[str, str], list[bool]] = {}
    count = 0
    for label_map in label_maps:
        count += 1
        for name, shape in class_shapes(label_map, anatomy, spacing_mm).items():
            shapes.setdefault(name, []).append(shape)
        for pair, touch in neighbours(label_map, anatomy).items():
            touches.setdefault(pair, []).append(touch)
    return Population(shapes, touches, count)


def compare(real: Population, made: Population) -> dict[str, dict[str, float | int]]:
    """Per class: median volume, pieces, roughness, real and made; share of made volumes within the real 5-95 %."""
    rows: dict[str, dict[str, float | int]] = {}
    for name in real.shapes:
        row: dict[str, float | int] = {}
        for kind, held in (("real", real), ("made", made)):
            found = held.shapes.get(name, [])
            row[f"{kind}_share_of_maps"] = round(len(found) / held.num_maps, 3)
            if found:
                row[f"{kind}_volume_ml"] = round(float(np.median([s.volume_ml for s in found])), 1)
                row[f"{kind}_pieces"] = round(float(np.mean([s.num_pieces for s in found])), 2)
                row[f"{kind}_roughness"] = round(float(np.median([s.roughness for s in found])), 2)
        volumes = [s.volume_ml for s in made.shapes.get(name, [])]
        if volumes:
            low, high = np.percentile([s.volume_ml for s in real.shapes[name]], [5, 95])
            row["made_volumes_within_real_90_percent"] = round(float(np.mean([low <= v <= high for v in volumes])), 3)
        rows[name] = row
    return rows


def summary(real: Population, made: Population) -> dict[str, float]:
    """Figures to rank samplers by: errors are best at 0, the others at 1.

    Mean over classes of |log2| of made / real median volume and of roughness; mean ratio of pieces; share of pairs that
    must touch and do.
    """
    both = [n for n in real.shapes if n in made.shapes]

    def medians(held: Population, attribute: str) -> np.ndarray:
        return np.array([np.median([getattr(s, attribute) for s in held.shapes[n]]) for n in both])

    def means(held: Population) -> np.ndarray:
        return np.array([np.mean([s.num_pieces for s in held.shapes[n]]) for n in both])

    touching = [t for pair in made.touches.values() for t in pair]
    return {
        "volume_log2_error": round(
            float(np.abs(np.log2(medians(made, "volume_ml") / medians(real, "volume_ml"))).mean()), 3
        ),
        "roughness_log2_error": round(
            float(np.abs(np.log2(medians(made, "roughness") / medians(real, "roughness"))).mean()), 3
        ),
        "pieces_ratio": round(float((means(made) / means(real)).mean()), 3),
        "classes_present": round(len(both) / len(real.shapes), 3),
        "neighbours_touching": round(float(np.mean(touching)), 3) if touching else 0.0,
    }


def mean_dice(a: np.ndarray, b: np.ndarray, num_classes: int) -> float:
    """Mean Dice over the classes, background left out, that are in either label map (X, Y, Z)."""
    ha, hb = (np.bincount(m.ravel(), minlength=num_classes)[1:] for m in (a, b))
    common = np.bincount(a[a == b], minlength=num_classes)[1:]
    held = ha + hb > 0
    return float((2 * common[held] / (ha + hb)[held]).mean()) if held.any() else 1.0
