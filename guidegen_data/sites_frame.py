"""Sites of lesions that grow in no labelled organ: by side and height in a frame that the labelled organs span.

A target volume of the neck lies in soft tissue that has no label. Its place is told by the side of the midline and by
level, both measured from an origin that every labelled organ votes for: each class has its usual place in the frame
(`Anatomy.layout_mm`), and the median of what they say stands, so that a missing organ changes little.
"""

from __future__ import annotations

import numpy as np

from guidegen_data.anatomy import Anatomy, FindingOrgan, LesionFrame
from guidegen_data.errors import AnatomyError

#: Classes of fewer voxels have no vote on the origin.
_MIN_VOXELS = 8
#: Share of its diameter by which a lesion may reach out of the zone that its centre lies in.
_REACH = 0.35


def class_centres_mm(
    label_map: np.ndarray, spacing_mm: tuple[float, float, float], anatomy: Anatomy
) -> dict[str, np.ndarray]:
    """Class name -> centre of mass in mm from the grid's lower corner, for classes present; lesions are left out."""
    flat = label_map.ravel()
    counts = np.bincount(flat, minlength=anatomy.num_classes)
    centres = np.empty((3, anatomy.num_classes))
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = -1
        at = np.broadcast_to(np.arange(label_map.shape[axis], dtype=np.float64).reshape(shape), label_map.shape)
        total = np.bincount(flat, weights=at.ravel(), minlength=anatomy.num_classes)
        centres[axis] = (total[: anatomy.num_classes] / np.maximum(counts, 1)[: anatomy.num_classes] + 0.5) * (
            spacing_mm[axis]
        )
    skipped = {0, anatomy.lesion_id}
    return {c.name: centres[:, c.id] for c in anatomy.classes if c.id not in skipped and counts[c.id] >= _MIN_VOXELS}


def origin_mm(label_map: np.ndarray, spacing_mm: tuple[float, float, float], anatomy: Anatomy) -> np.ndarray | None:
    """Where the middle of the anatomy's field lies, in mm from the grid's lower corner; None when no class says so."""
    centres = class_centres_mm(label_map, spacing_mm, anatomy)
    votes = [c - np.asarray(anatomy.layout_mm[name]) for name, c in centres.items() if name in anatomy.layout_mm]
    return np.median(votes, axis=0) if votes else None


def site_at(offset_mm: np.ndarray, anatomy: Anatomy) -> tuple[str, str]:
    """(organ, site) of a lesion whose centre lies at an offset (3,) in mm from the origin, x to the patient's right."""
    frame = frame_of(anatomy)
    side = "" if abs(offset_mm[0]) <= frame.central_mm else "right" if offset_mm[0] > 0 else "left"
    organ = next(o for o in anatomy.organs if o.class_name == frame.host and o.side == side)
    level = int(sum(offset_mm[2] < bound for bound in frame.levels_mm))
    return organ.name, organ.sites[level]


def frame_site_of(
    lesion: np.ndarray, label_map: np.ndarray, spacing_mm: tuple[float, float, float], anatomy: Anatomy
) -> tuple[str, str]:
    """(organ, site) of one lesion, bool (X, Y, Z), by its centre of mass."""
    origin = _origin(label_map, spacing_mm, anatomy)
    centre = (np.argwhere(lesion).mean(axis=0) + 0.5) * np.asarray(spacing_mm)
    return site_at(centre - origin, anatomy)


def frame_site_mask(
    label_map: np.ndarray,
    spacing_mm: tuple[float, float, float],
    organ: FindingOrgan,
    site: str,
    anatomy: Anatomy,
    grown_mm: float = 0.0,
) -> np.ndarray:
    """Voxels of the host class, bool (X, Y, Z), in the zone of an organ's site; an empty site means all its levels.

    A zone is the elliptic cylinder that lesions of the population lie in, cut by the side and level bounds, which
    `grown_mm` moves outwards.
    """
    frame = frame_of(anatomy)
    origin = _origin(label_map, spacing_mm, anatomy)
    x, y, z = (
        ((np.arange(n) + 0.5) * s - o).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (n, s, o) in enumerate(zip(label_map.shape, spacing_mm, origin, strict=True))
    )
    low, high = np.asarray(frame.extent_mm).T
    middle, half = (low + high) / 2, (high - low) / 2
    zone = ((x - middle[0]) / half[0]) ** 2 + ((y - middle[1]) / half[1]) ** 2 <= 1
    zone = zone & (z >= low[2]) & (z <= high[2])
    central = frame.central_mm
    zone &= {
        "": np.abs(x) <= central + grown_mm,
        "right": x > central - grown_mm,
        "left": x < -central + grown_mm,
    }[organ.side]
    if site:
        bounds = (np.inf, *frame.levels_mm, -np.inf)
        level = organ.sites.index(site)
        zone &= (z < bounds[level] + grown_mm) & (z >= bounds[level + 1] - grown_mm)
    return zone & (label_map == anatomy.id_of(frame.host))


def lesion_reach_mm(size_mm: float) -> float:
    """How far a lesion of that size may reach out of the zone of its site."""
    return _REACH * size_mm


def frame_of(anatomy: Anatomy) -> LesionFrame:
    """The anatomy's frame; AnatomyError when it has none."""
    if anatomy.frame is None:
        raise AnatomyError(f"the {anatomy.name} table has no frame for lesions; it names their organs instead.")
    return anatomy.frame


def _origin(label_map: np.ndarray, spacing_mm: tuple[float, float, float], anatomy: Anatomy) -> np.ndarray:
    origin = origin_mm(label_map, spacing_mm, anatomy)
    if origin is None:  # nothing labelled: the field lies as it was placed
        return np.asarray(label_map.shape) * np.asarray(spacing_mm) / 2
    return origin
