"""Which organs a label map lacks, and drawing them where a network finds them: of paired organs each side by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import Anatomy
from guidegen_data.sites import right_of_midline_mm, without_lesions
from guidegen_data.sources.prepared import load_label_map, training_paths
from guidegen_data.sources.real import read_notes
from guidegen_data.training.segmenter import organ_ids

#: What is drawn in one piece: a class and its side, 'right' or 'left', or '' of a class that no report tells sides of.
Body = tuple[int, str]
#: A drawn organ counts from this share of the volume that 19 in 20 of the patients who show it exceed.
_LEAST_OF_SMALL = 0.25


def bodies_of(classes: Sequence[str], anatomy: Anatomy) -> list[Body]:
    """The bodies that classes hold: one a side of which reports speak, else one a class."""
    bodies = []
    for name in classes:
        sides = sorted({o.side for o in anatomy.organs if o.class_name == name and o.side})
        bodies += [(anatomy.id_of(name), side) for side in sides or [""]]
    return bodies


def lacking(label_map: np.ndarray, bodies: Collection[Body], anatomy: Anatomy) -> list[Body]:
    """Those of the bodies that a label map (X, Y, Z) shows no voxel of, in order."""
    voxels = _voxels(label_map, bodies, anatomy)
    return [body for body in sorted(bodies) if not voxels[body]]


def least_voxels(prepared: Path, classes: Sequence[str], anatomy: Anatomy) -> dict[Body, float]:
    """The voxels that a drawn body must have, from the training patients who show it; none of a body that none shows.

    A side is measured in their label maps as they were prepared, since what is noted of a patient knows classes only.
    """
    bodies = bodies_of(classes, anatomy)
    voxel_ml = float(np.prod(anatomy.spacing_mm)) / 1000
    held: dict[Body, list[float]] = {body: [] for body in bodies}
    for note in read_notes(prepared):
        if not note["refused"] and note["split"] == "train":
            for k, _ in (body for body in bodies if not body[1]):
                if (ml := note["volumes_ml"].get(anatomy.classes[k].name)) is not None:
                    held[k, ""].append(ml / voxel_ml)
    if sided := [body for body in bodies if body[1]]:
        for path in training_paths(prepared):
            for body, count in _voxels(load_label_map(path), sided, anatomy).items():
                held[body] += [float(count)] if count else []
    return {body: _LEAST_OF_SMALL * float(np.percentile(of, 5)) for body, of in held.items() if of}


def draw_missing(
    label_map: np.ndarray, chances: np.ndarray, wanted: Mapping[Body, float], anatomy: Anatomy
) -> tuple[np.ndarray, dict[Body, int]]:
    """The label map (X, Y, Z) with every wanted body that it lacks drawn where its probability is above one half.

    Of each the largest piece, where that has at least the wanted number of voxels; of a side the largest of those that
    lie mostly there. Organs and lesions that are there keep their voxels. And the voxels that each body was given.
    """
    free = ~np.isin(label_map, [*organ_ids(anatomy), anatomy.lesion_id])
    missing = lacking(label_map, wanted, anatomy)
    found = {k: (chances[k] > 0.5) & free for k, _ in missing}
    out, drawn = label_map.copy(), {}
    shown = label_map.copy()  # where no spine is labelled, the midline is that of all labels: those to be drawn count
    for k, mask in found.items():
        shown[mask] = k
    for k, side in missing:
        pieces, count = ndimage.label(found[k])
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        if side:
            on_side = np.bincount(pieces[_on_side(shown, side, anatomy)], minlength=count + 1)[1:]
            sizes = np.where(2 * on_side > sizes, sizes, 0)
        if count and sizes.max() >= wanted[k, side]:
            out[pieces == int(sizes.argmax()) + 1] = k
            drawn[k, side] = int(sizes.max())
    return out, drawn


def _voxels(label_map: np.ndarray, bodies: Collection[Body], anatomy: Anatomy) -> dict[Body, int]:
    """Voxels of each body in a label map, a side's as reports tell it."""
    voxels: dict[Body, int] = {}
    for k, side in bodies:
        mask = label_map == k
        voxels[k, side] = int((mask & _on_side(label_map, side, anatomy) if side and mask.any() else mask).sum())
    return voxels


def _on_side(label_map: np.ndarray, side: str, anatomy: Anatomy) -> np.ndarray:
    """Which voxels lie on a side of the patient, bool (X, Y, Z)."""
    aside = right_of_midline_mm(without_lesions(label_map, anatomy), anatomy.spacing_mm, anatomy)
    return np.broadcast_to(aside >= 0 if side == "right" else aside < 0, label_map.shape)
