"""The verdict on a case: every check with its name, measured value, allowed range and outcome, ready for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from guidegen_data.anatomy import Anatomy, FindingOrgan, OrganClass
from guidegen_data.case import Case, Draft
from guidegen_data.lesions import find_lesions, match_lesions
from guidegen_data.scanned import BODY_CM2, areas_cm2
from guidegen_data.sites import is_cut, site_mask
from guidegen_data.tissue_rule import tissue_ids

BODY_HU = -300
BODY_SHARE = (0.03, 0.97)
# An absent organ may leave this much behind, and an organ counts as present from this much on.
TRACE_ML = 0.5
# Organs at the border of the field and the smallest ones are missed in real scans too.
PRESENT_SHARE = (0.6, 1.0)
# A component counts when it holds this share of its class; the mean HU of less than MIN_HU_ML,
# nearly all border voxels, says nothing. Organs under THIN_ML fall apart at 3 mm in real label maps too.
COMPONENT_SHARE = 0.05
MIN_HU_ML = 10.0
THIN_ML = 50.0
# A CT changes where its labels do: |difference| of neighbours across label borders, over the same ASIDE_MM beside them.
# Real pairs have 2.1 to 2.6, labels 6 mm off 1.3, labels of another patient 1.0. One HU step counts up to MAX_STEP_HU.
ADHERENCE = (1.5, 100.0)
ASIDE_MM = 12.0
MAX_STEP_HU = 300
# Organs that show where no body does are the rim that a CT was cut down to. Of real scans 0.978 and more of the organs
# lie where the body is.
SHOWN_SHARE = (0.96, 1.0)
# A label map of which more than this share had to be given away as specks is noise.
SPECK_SHARE = 0.1


def verdict(case: Case) -> dict[str, Any]:
    """`{"passed": bool, "checks": [{"name", "value", "allowed", "pass"}, ...]}` of a case against its own findings.

    Checks the label ids, the volume of lesions, organs said to be absent, enlarged or small (where the table has
    usual sizes), organs that the region should show, volumes and components of each organ, that organs lie where a
    body is (where the table has its tissues), their mean HU, the share
    of the field that is body, and that the CT changes where the labels do. Where the provenance tells what was done
    to the label map after it was drawn: specks given away, lesions added by rule, and that every lesion asked for is
    at its site and no other is there. Where a second reader looked at the CT: that it found the organs of the label
    map there as well as it finds those of real patients. Of organs that no word is said of, lower bounds of volume are
    not checked, because the field may cut any organ.
    """
    of_ct = [*_check_body(case), *_check_hu(case), *_check_adherence(case), *_check_second_read(case)]
    return _passed([*_check_label_map(case), *of_ct])


def verdict_before_ct(draft: Draft) -> dict[str, Any]:
    """The part of the verdict that the label map alone decides, in the same form: it comes out the same with a CT,
    but for models that cut the tissues of their label maps out of it (`tissue_rule`)."""
    return _passed(_check_label_map(draft))


def _passed(checks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    listed = list(checks)
    return {"passed": all(check["pass"] for check in listed), "checks": listed}


def _check_label_map(case: Case | Draft) -> Iterator[dict[str, Any]]:
    highest = int(case.label_map.max(initial=0))
    yield _check("highest label id", highest, (0, case.anatomy.num_classes - 1))
    yield from _check_lesions(case)
    yield from _check_presence(case)
    yield from _check_sizes(case)
    yield from _check_shape(case)
    yield from _check_shown(case)
    yield from _check_mending(case)


def organ_volumes_ml(case: Case | Draft) -> dict[str, float]:
    """Volume of every organ by its report name, in ml; paired ones are told apart by the patient's own left and right.

    The midline is the mean x of the bones in the middle (or of all labels, where there are none); x grows to the right.
    """
    right_of_midline = _world_x(case) > _midline_mm(case)
    voxel_ml = float(np.prod(case.spacing_mm)) / 1000
    columns = _voxels_per_column(case)
    return {
        organ.name: float(_side_of(columns[case.anatomy.ids[organ.class_name]], organ, right_of_midline)) * voxel_ml
        for organ in case.anatomy.organs
    }


def _check_mending(case: Case | Draft) -> Iterator[dict[str, Any]]:
    """Only for cases whose provenance tells what was done to their label map: what that was to bring about is there."""
    made = _as_made(case)
    if "cleaned_voxels" in made:
        removed = sum(made["cleaned_voxels"].values())
        limit = round(SPECK_SHARE * int((case.label_map > 0).sum()))
        yield _check("voxels given away as specks", removed, (0, limit))
    if "lesions_added" in made:
        added = made["lesions_added"]
        asked = case.findings.lesions
        yield _check("lesions added by rule", added, (0, len(asked)))
        missing, strays = match_lesions(asked, find_lesions(case.label_map, case.anatomy, case.spacing_mm))
        yield _check("lesions at the sites asked for", len(asked) - len(missing), (len(asked), len(asked)))
        yield _check("lesions that nobody asked for", len(strays), (0, 0))


def _as_made(case: Case | Draft) -> Mapping[str, Any]:
    """What the pipeline noted of a case."""
    noted: Mapping[str, Any] = case.provenance.get("generation", case.provenance)  # where a shard's metadata keeps it
    return noted


def _check_body(case: Case) -> Iterator[dict[str, Any]]:
    body = float(np.mean((case.ct_hu > BODY_HU) | (case.label_map > 0)))
    yield _check("share of body in the field", body, BODY_SHARE)


def _check_lesions(case: Case | Draft) -> Iterator[dict[str, Any]]:
    lesion = case.anatomy.classes[case.anatomy.lesion_id]
    voxel_ml = float(np.prod(case.spacing_mm)) / 1000
    # None asked means none at all: one stray voxel would be a false label.
    allowed = (voxel_ml, lesion.volume_ml[1]) if case.findings.lesions else (0.0, 0.0)
    yield _check(f"{lesion.name} volume (ml)", case.volumes_ml()[lesion.name], allowed)


def _check_presence(case: Case | Draft) -> Iterator[dict[str, Any]]:
    volumes = organ_volumes_ml(case)
    absent = [organ for organ, status in case.findings.organs.items() if status == "absent"]
    for organ in absent:
        yield _check(f"{organ} absent (ml)", volumes[organ], (0.0, TRACE_ML))
    expected = case.findings.organs_shown()
    if expected:
        share = sum(volumes[organ] > TRACE_ML for organ in expected) / len(expected)
        yield _check(f"share of the {case.findings.region}'s organs present", share, PRESENT_SHARE)


def _check_sizes(case: Case | Draft) -> Iterator[dict[str, Any]]:
    """Organs said to be enlarged or small, against the usual sizes of the label table; one that the field cuts has no
    size."""
    for organ, status in case.findings.sized().items():
        low, high = case.anatomy.size_ml[organ]
        entry = case.anatomy.organ_of(organ)
        where = site_mask(case.label_map, case.spacing_mm, entry, "", case.anatomy)
        if is_cut(where):
            continue
        volume_ml = float(where.sum()) * float(np.prod(case.spacing_mm)) / 1000
        most = case.anatomy.classes[case.anatomy.id_of(entry.class_name)].volume_ml[1]
        yield _check(f"{organ} {status} (ml)", volume_ml, (high, most) if status == "enlarged" else (0.0, low))


def _check_shape(case: Case | Draft) -> Iterator[dict[str, Any]]:
    volumes, compact = case.volumes_ml(), _compact_classes(case.anatomy)
    boxes = ndimage.find_objects(case.label_map, max_label=case.anatomy.num_classes)
    for organ in _organ_classes(case.anatomy):
        if not (box := boxes[organ.id - 1]):
            continue
        yield _check(f"{organ.name} volume (ml)", volumes[organ.name], (0.0, organ.volume_ml[1]))
        if organ.name in compact:
            number = num_components(case.label_map[box] == organ.id)
            yield _check(f"{organ.name} components", number, (1, compact[organ.name] + 1))


def _check_shown(case: Case | Draft) -> Iterator[dict[str, Any]]:
    """Only for tables that have the body's tissues: organs lie in slices that show a body, not in a rim around them."""
    tissues = tissue_ids(case.anatomy)
    if not tissues:
        return
    organs = (~np.isin(case.label_map, [0, *tissues])).sum(axis=(0, 1))
    with_body = areas_cm2(case.label_map > 0, case.spacing_mm) >= BODY_CM2
    shown = float(organs[with_body].sum() / organs.sum()) if organs.any() else 1.0
    yield _check("share of the organs in slices that show a body", shown, SHOWN_SHARE)


def _check_hu(case: Case) -> Iterator[dict[str, Any]]:
    volumes = case.volumes_ml()
    present = [c for c in case.anatomy.classes if c.id and volumes[c.name] >= MIN_HU_ML]
    means = ndimage.mean(case.ct_hu, case.label_map, [c.id for c in present])
    for organ, mean in zip(present, np.atleast_1d(means), strict=True):
        yield _check(f"{organ.name} mean HU", float(mean), organ.hu)


def _check_adherence(case: Case) -> Iterator[dict[str, Any]]:
    yield _check("HU steps at label borders over those beside them", adherence(case), ADHERENCE)


def _check_second_read(case: Case) -> Iterator[dict[str, Any]]:
    """Only for cases of a model with a second reader, by what it found when the case was made."""
    for name, of in _as_made(case).get("second_read", {}).items():
        yield _check(f"{name} as the second reader finds it (Dice)", of["dice"], (of["least"], 1.0))


def adherence(case: Case) -> float:
    """How much steeper the CT is across label borders than beside them, in x and y; 1 when it ignores the labels."""
    at, beside = np.zeros(2), np.zeros(2)
    for axis in (0, 1):
        step = np.minimum(np.abs(np.diff(case.ct_hu.astype(np.int32), axis=axis)), MAX_STEP_HU)
        border = np.diff(case.label_map.astype(np.int16), axis=axis) != 0
        at += step[border].sum(), border.sum()
        for along in (0, 1):
            voxels = max(1, round(ASIDE_MM / case.spacing_mm[along]))
            for moved in (np.roll(border, voxels, along), np.roll(border, -voxels, along)):
                beside += step[moved].sum(), moved.sum()
    # Without a border nothing contradicts the labels.
    return float(at[0] / at[1] / max(beside[0] / beside[1], 1e-3)) if at[1] and beside[1] else ADHERENCE[0]


def num_components(mask: np.ndarray) -> int:
    """Components (touching by face, edge or corner) of a mask that hold COMPONENT_SHARE of it or more."""
    labelled, number = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(labelled.ravel(), minlength=number + 1)[1:]
    return int((sizes >= COMPONENT_SHARE * sizes.sum()).sum())


def _organ_classes(anatomy: Anatomy) -> list[OrganClass]:
    return [c for c in anatomy.classes if c.id and c.id != anatomy.lesion_id]


def _compact_classes(anatomy: Anatomy) -> Mapping[str, int]:
    # Solid organs, whose size a report may speak of, and paired ones are one body a side; bowel and bones are many.
    solid: dict[str, int] = {}
    for organ in anatomy.organs:
        thin = anatomy.classes[anatomy.ids[organ.class_name]].volume_ml[1] < THIN_ML
        if not thin and (organ.side or "enlarged" in organ.statuses):
            solid[organ.class_name] = solid.get(organ.class_name, 0) + 1
    return solid


def _world_x(case: Case | Draft) -> np.ndarray:
    return case.affine[0, 3] + case.affine[0, 0] * np.arange(case.label_map.shape[0])


def _midline_mm(case: Case | Draft) -> float:
    spine = case.anatomy.ids.get("vertebrae", case.anatomy.ids.get("spinal cord", 0))
    mask = case.label_map == spine if spine else np.zeros_like(case.label_map, bool)
    if not mask.any():
        mask = case.label_map > 0
    weights = mask.sum((1, 2))
    return float((weights * _world_x(case)).sum() / max(1, weights.sum()))


def _voxels_per_column(case: Case | Draft) -> np.ndarray:
    """Voxels of each class at each x. (K, X)."""
    num_classes, width = case.anatomy.num_classes, case.label_map.shape[0]
    flat = case.label_map.reshape(width, -1) + num_classes * np.arange(width)[:, None]
    return np.bincount(flat.ravel(), minlength=num_classes * width).reshape(width, num_classes).T


def _side_of(column: np.ndarray, organ: FindingOrgan, right_of_midline: np.ndarray) -> int:
    if not organ.side:
        return int(column.sum())
    return int(column[right_of_midline if organ.side == "right" else ~right_of_midline].sum())


def _check(name: str, value: float, allowed: tuple[float, float]) -> dict[str, Any]:
    low, high = allowed
    return {"name": name, "value": round(value, 4), "allowed": [low, high], "pass": bool(low <= value <= high)}
