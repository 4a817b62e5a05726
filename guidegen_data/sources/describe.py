"""Findings measured on a real case: what a report would say of its label map and its body, and nothing it would not."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from guidegen_data.anatomy import HABITUS, Anatomy, FindingOrgan
from guidegen_data.errors import FindingsError
from guidegen_data.habitus import habitus_of
from guidegen_data.lesion_contrast import attenuation
from guidegen_data.lesions import find_lesions
from guidegen_data.reports.findings import MAX_LESION_MM, MAX_LESIONS, MIN_LESION_MM, Findings, Lesion
from guidegen_data.sites import is_cut, site_mask

_Spacing = tuple[float, float, float]
#: An organ counts as absent up to this volume.
_TRACE_ML = 0.1
#: HU above which a voxel is body.
_BODY_HU = -500.0


def describe(
    ct_hu: np.ndarray | None,
    label_map: np.ndarray,
    anatomy: Anatomy,
    told: Mapping[str, str] | None = None,
    labelled: Collection[str] | None = None,
) -> Findings:
    """Findings of a case on the anatomy's grid; what the data set tells of the patient comes before what is measured.

    Graded are organs that the field does not cut; `absent` needs the organ's place to lie inside the scan, and the
    organ to be one of the `labelled` ones (None: all are). FindingsError for a region that the table does not have.
    """
    told = told or {}
    spacing = anatomy.spacing_mm
    region = told.get("region") or region_of(ct_hu, label_map, anatomy)
    if region not in anatomy.region_organs:
        raise FindingsError(
            f"region must be one that the {anatomy.name} table has, got {region!r}; name one of "
            f"{', '.join(anatomy.region_organs)}."
        )
    removable = anatomy.organ if labelled is None else labelled
    organs = {}
    for organ in anatomy.organs:
        if len(organ.statuses) > 1 and organ.name in anatomy.region_organs[region]:
            status = status_of(organ, label_map, ct_hu, anatomy)
            if status != "normal" and (status != "absent" or organ.name in removable):
                organs[organ.name] = status
    lesions = []
    for found in find_lesions(label_map, anatomy, spacing):
        fits = found.organ in anatomy.region_organs[region] and organs.get(found.organ) != "absent"
        if fits and found.size_mm >= MIN_LESION_MM:
            size = float(round(min(found.size_mm, MAX_LESION_MM)))
            lesions.append(Lesion(found.organ, found.site, size, attenuation(found, ct_hu, label_map, anatomy)))
    age = told.get("age_decade")
    return Findings(
        region=region,
        phase=told.get("phase", ""),
        sex=told.get("sex", ""),
        age_decade=None if age is None else int(age),
        habitus=told.get("habitus") or habitus(ct_hu, label_map, anatomy),
        organs=organs,
        lesions=tuple(lesions[:MAX_LESIONS]),
        anatomy_name=anatomy.name,
    )


def region_of(ct_hu: np.ndarray | None, label_map: np.ndarray, anatomy: Anatomy) -> str:
    """The region whose width the body reaches (the largest that fits), else the one whose organs the map shows best."""
    if anatomy.region_width_mm and ct_hu is not None:
        width = body_width_mm(ct_hu, anatomy.spacing_mm)
        widths = sorted((least, name) for name, least in anatomy.region_width_mm.items())
        return next((name for least, name in reversed(widths) if width >= least), widths[0][1])
    present = {anatomy.classes[int(k)].name for k in np.unique(label_map) if k}
    shown = {o.name for o in anatomy.organs if o.class_name in present}
    return max(anatomy.regions, key=lambda r: _overlap(shown, anatomy.region_organs.get(r, frozenset())))


def status_of(organ: FindingOrgan, label_map: np.ndarray, ct_hu: np.ndarray | None, anatomy: Anatomy) -> str:
    """'absent', 'small' or 'enlarged' against the population, 'normal' otherwise and where the organ is cut off."""
    mask = site_mask(label_map, anatomy.spacing_mm, organ, "", anatomy)
    volume_ml = float(np.count_nonzero(mask)) * float(np.prod(anatomy.spacing_mm)) / 1000
    if volume_ml <= _TRACE_ML:
        here = "absent" in organ.statuses and _in_view(organ, ct_hu, anatomy)
        return "absent" if here else "normal"
    if organ.name not in anatomy.size_ml or _is_cut(mask, ct_hu):
        return "normal"
    low, high = anatomy.size_ml[organ.name]
    status = "small" if volume_ml < low else "enlarged" if volume_ml > high else "normal"
    return status if status in organ.statuses else "normal"


def body_width_mm(ct_hu: np.ndarray, spacing_mm: _Spacing) -> float:
    """Largest extent of the body along x over the axial slices, specks of under 1 % of a slice's voxels left out."""
    columns = (ct_hu > _BODY_HU).sum(axis=1) >= max(1, 0.01 * ct_hu.shape[1])
    if not columns.any():
        return 0.0
    first, last = columns.argmax(axis=0), len(columns) - 1 - columns[::-1].argmax(axis=0)
    return float(np.where(columns.any(axis=0), last - first + 1, 0).max() * spacing_mm[0])


def body_area_cm2(ct_hu: np.ndarray, spacing_mm: _Spacing) -> float:
    """Mean area of the body in the middle fifth of the slices, 0.0 when fewer than half of them hold any."""
    depth = ct_hu.shape[2]
    band = ct_hu[:, :, round(0.4 * depth) : round(0.6 * depth)] > _BODY_HU
    areas = band.sum(axis=(0, 1)) * spacing_mm[0] * spacing_mm[1] / 100
    held = areas[areas > 10]
    return float(held.mean()) if 2 * len(held) >= len(areas) else 0.0


def habitus(ct_hu: np.ndarray | None, label_map: np.ndarray, anatomy: Anatomy) -> str:
    """'slim', 'average' or 'large' by the body's area in the CT, or by the labelled trunk where the table says so."""
    if anatomy.habitus_cm2 is None:
        return habitus_of(label_map, anatomy.spacing_mm, anatomy)
    area = 0.0 if ct_hu is None else body_area_cm2(ct_hu, anatomy.spacing_mm)
    low, high = anatomy.habitus_cm2
    return "" if not area else HABITUS[int(area >= low) + int(area > high)]


def _overlap(shown: set[str], expected: frozenset[str]) -> float:
    return len(shown & expected) / max(1, len(shown | expected))


def _in_view(organ: FindingOrgan, ct_hu: np.ndarray | None, anatomy: Anatomy) -> bool:
    """Whether the scan shows the height where the organ usually lies; for a table without usual places, always.

    A table with places has none of an organ that hardly any patient had labels of, so nobody knows what it would show.
    """
    usual = anatomy.layout_mm.get(organ.class_name)
    if usual is None or ct_hu is None:
        return usual is not None or not anatomy.layout_mm
    height = round(usual[2] / anatomy.spacing_mm[2] + ct_hu.shape[2] / 2 - 0.5)
    return 0 <= height < ct_hu.shape[2] and bool((ct_hu[:, :, height] > _BODY_HU).any())


def _is_cut(mask: np.ndarray, ct_hu: np.ndarray | None) -> bool:
    """Whether an organ touches the border of the field, or the first or last slice that holds any body."""
    if is_cut(mask):
        return True
    if ct_hu is None:
        return False
    scanned = np.flatnonzero((ct_hu > _BODY_HU).any(axis=(0, 1)))
    return bool(scanned.size and mask[:, :, [scanned[0], scanned[-1]]].any())
