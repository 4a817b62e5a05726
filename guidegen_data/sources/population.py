"""What is usual in a data set: organ places and sizes, HU, body, lesion places; measured and kept in its anatomy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from guidegen_data.anatomy import Anatomy, LesionFrame, OrganClass
from guidegen_data.sites_frame import class_centres_mm
from guidegen_data.sources.layouts import Labelled

#: Share of the patients whose organ is called small, and of those whose organ is called enlarged.
_TAIL = 0.15
#: An anatomy is measured on this many patients at least; fewer say nothing of what is usual.
MIN_PATIENTS = 3
_ROUNDS = 6


@dataclass(frozen=True)
class Survey:
    """One case on its own grid, ready for JSON: mm from the grid's lower corner, ml, HU."""

    spacing_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]
    centres_mm: dict[str, list[float]]
    volumes_ml: dict[str, float]
    mean_hu: dict[str, float]
    box_mm: list[list[float]]
    lesions_mm: list[list[float]]
    areas_cm2: list[float]
    cut: tuple[str, ...]


def survey(labelled: Labelled, anatomy: Anatomy) -> Survey:
    """Measures one case: `cut` names the classes that touch the end of the scan, `lesions_mm` are up to 200 voxels,
    `areas_cm2` the body's areas slice by slice."""
    labels, spacing = labelled.labels, labelled.ct.spacing_mm
    ids = [c.id for c in anatomy.classes if c.id and (labels == c.id).any()]
    names = {i: anatomy.classes[i].name for i in ids}
    voxel_ml = float(np.prod(spacing)) / 1000
    volumes = {names[i]: float((labels == i).sum()) * voxel_ml for i in ids}
    means = {names[i]: float(labelled.ct.array[labels == i].mean()) for i in ids}
    scanned = np.flatnonzero((labelled.ct.array > -500).any(axis=(0, 1)))
    ends = {0, labels.shape[2] - 1, *(scanned[[0, -1]].tolist() if scanned.size else ())}
    touching = np.unique(labels[:, :, sorted(ends)])
    where = np.argwhere(labels > 0)
    lesion = np.argwhere(labels == anatomy.lesion_id)
    drawn = lesion[np.linspace(0, len(lesion) - 1, min(200, len(lesion))).astype(int)] if len(lesion) else lesion
    mm = np.asarray(spacing)
    return Survey(
        spacing,
        tuple((np.asarray(labels.shape) * mm).tolist()),
        {k: v.tolist() for k, v in class_centres_mm(labels, spacing, anatomy).items()},
        volumes,
        means,
        [(where.min(axis=0) * mm).tolist(), ((where.max(axis=0) + 1) * mm).tolist()],
        ((drawn + 0.5) * mm).tolist(),
        ((labelled.ct.array > -500).sum(axis=(0, 1)) * spacing[0] * spacing[1] / 100).tolist(),
        tuple(names[i] for i in ids if i in touching),
    )


def with_layout(anatomy: Anatomy, surveys: Sequence[Survey]) -> Anatomy:
    """The anatomy with the usual place of each class from the middle of the field, which is put amid the labels.

    Alternates between where each patient's origin lies, given the places, and the places, given the origins; the
    median on both sides, so that a missing or a cut organ changes little.
    """
    origins = [np.mean(s.box_mm, axis=0) for s in surveys]
    places: dict[str, np.ndarray] = {}
    for _ in range(_ROUNDS):
        names = sorted({n for s in surveys for n in s.centres_mm})
        offsets = {
            n: [np.asarray(s.centres_mm[n]) - o for s, o in zip(surveys, origins, strict=True) if n in s.centres_mm]
            for n in names
        }
        places = {n: np.median(v, axis=0) for n, v in offsets.items() if len(v) >= max(2, 0.1 * len(surveys))}
        origins = [
            np.median([np.asarray(c) - places[n] for n, c in s.centres_mm.items() if n in places] or [o], axis=0)
            for s, o in zip(surveys, origins, strict=True)
        ]
    boxes = np.array([np.asarray(s.box_mm) - o for s, o in zip(surveys, origins, strict=True)])
    middle = (np.percentile(boxes[:, 0], 5, axis=0) + np.percentile(boxes[:, 1], 95, axis=0)) / 2
    if anatomy.frame is not None:  # sides are told from the middle of the body, whatever lies at its border
        middle[0] = np.median([p[0] for p in places.values()])
    return replace(anatomy, layout_mm={n: _rounded(p - middle) for n, p in places.items()})


def with_ranges(anatomy: Anatomy, surveys: Sequence[Survey]) -> Anatomy:
    """The anatomy with plausible HU and volumes of each class, and the volumes at which an organ is small or enlarged.

    Plausible is what the data shows and half as much again on either side; cut organs say nothing of volume.
    """
    classes: list[OrganClass] = []
    graded: dict[str, tuple[float, float]] = {}
    for c in anatomy.classes:
        hu = [s.mean_hu[c.name] for s in surveys if c.name in s.mean_hu]
        whole = [s.volumes_ml[c.name] for s in surveys if c.name in s.volumes_ml and c.name not in s.cut]
        if c.id and len(hu) >= MIN_PATIENTS and len(whole) >= MIN_PATIENTS:
            low, high = np.percentile(hu, (1, 99))
            margin = max(30.0, 0.5 * (high - low))
            c = replace(
                c,
                hu=(round(float(low - margin)), round(float(high + margin))),
                volume_ml=(round(0.5 * min(whole), 2), round(1.5 * max(whole), 1)),
            )
            small, large = np.quantile(whole, (_TAIL, 1 - _TAIL))
            graded[c.name] = (round(float(small), 2), round(float(large), 2))
        classes.append(c)
    sizes = {
        o.name: graded[o.class_name]
        for o in anatomy.organs
        if not o.side and o.class_name in graded and {"small", "enlarged"} & set(o.statuses)
    }
    return replace(anatomy, classes=tuple(classes), size_ml=sizes)


def with_frame(anatomy: Anatomy, surveys: Sequence[Survey], origins: Sequence[np.ndarray]) -> Anatomy:
    """The anatomy with its lesion frame measured: the bounds of its levels and the range that lesions lie in."""
    if anatomy.frame is None:
        return anatomy
    pairs = [(np.asarray(s.lesions_mm) - o) for s, o in zip(surveys, origins, strict=True) if s.lesions_mm]
    if len(pairs) < MIN_PATIENTS:
        return anatomy
    heights = [p[:, 2].mean() for p in pairs]
    count = len(anatomy.frame.levels_mm) + 1
    # The highest and the lowest level are rarer than those between: a band as narrow as a third would be no place.
    shares = np.cumsum([1, *[2] * (count - 2), 1])[:-1] / (2 * count - 2)
    bounds = [float(round(np.quantile(heights, 1 - share))) for share in shares]
    low, high = np.percentile(np.concatenate(pairs), (1, 99), axis=0)
    reach = max(-low[0], high[0])  # people are symmetric, samples are not
    extent = ((-reach, reach), (low[1], high[1]), (low[2], high[2]))
    rounded = tuple((float(round(a)), float(round(b))) for a, b in extent)
    frame = LesionFrame(anatomy.frame.central_mm, tuple(bounds), rounded, anatomy.frame.host)  # type: ignore[arg-type]
    return replace(anatomy, frame=frame)


def with_habitus(anatomy: Anatomy, surveys: Sequence[Survey], origins: Sequence[np.ndarray]) -> Anatomy:
    """The anatomy with a quarter of the patients slim and a quarter large, where habitus is measured on the CT."""
    if anatomy.habitus_cm2 is None:
        return anatomy
    reach = 0.1 * anatomy.field_mm[2]
    areas = []
    for s, origin in zip(surveys, origins, strict=True):
        heights = (np.arange(len(s.areas_cm2)) + 0.5) * s.spacing_mm[2] - origin[2]
        band = np.asarray(s.areas_cm2)[np.abs(heights) < reach]
        held = band[band > 10]
        if len(band) and 2 * len(held) >= len(band):
            areas.append(float(held.mean()))
    if len(areas) < MIN_PATIENTS:
        return anatomy
    low, high = np.quantile(areas, (0.25, 0.75))
    return replace(anatomy, habitus_cm2=(round(float(low), 1), round(float(high), 1)))


def measured(anatomy: Anatomy, surveys: Sequence[Survey]) -> Anatomy:
    """The anatomy with everything that is measured on a population."""
    anatomy = with_ranges(with_layout(anatomy, surveys), surveys)
    origins = [
        np.median(
            [np.asarray(c) - anatomy.layout_mm[n] for n, c in s.centres_mm.items() if n in anatomy.layout_mm], axis=0
        )
        if set(s.centres_mm) & set(anatomy.layout_mm)
        else np.mean(s.box_mm, axis=0)
        for s in surveys
    ]
    return with_habitus(with_frame(anatomy, surveys, origins), surveys, origins)


def _rounded(place: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (round(float(v), 1) for v in place)
    return x, y, z
