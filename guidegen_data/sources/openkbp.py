"""OpenKBP as downloaded: sparse CSV files of 128^3 arrays, one folder a patient (Babier et al., Med Phys 2021).

`provided-data/<split>-pats/pt_N/` holds `ct.csv` (flat C-order index, HU + 1024), one CSV of indices a structure and
`voxel_dimensions.csv` in mm. The array axes are y (front to back), x (right to left), z (head to feet).

In four of ten patients the CT was cut away above and below the treated region, but for a thin rim around the contours:
an image that shows the contour and nothing else. Those slices are no CT, and are taken out with their contours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from guidegen_data.anatomy import Anatomy
from guidegen_data.case import check_hu
from guidegen_data.errors import CaseError, SourceError
from guidegen_data.scanned import body_slices
from guidegen_data.sources.layouts import HELD_OUT, SPLITS, Labelled, LabelNames, SourceCase
from guidegen_data.sources.volumes import Volume

_SHAPE = (128, 128, 128)
#: Files of a patient that are no structures.
_OTHER = {"ct", "dose", "voxel_dimensions", "possible_dose_mask"}
_AIR_HU = -1024.0


def find_openkbp(src: Path) -> list[SourceCase]:
    """Patients of the download; the split is the one of its folders, and the test patients are left alone."""
    cases = []
    for ct in sorted(src.rglob("pt_*/ct.csv"), key=lambda p: (p.parent.parent.name, len(p.parent.name), p.parent.name)):
        folder = ct.parent
        if folder.parent.name.lower() in HELD_OUT:
            continue
        masks = {p.stem: p for p in sorted(folder.glob("*.csv")) if p.stem not in _OTHER}
        split = SPLITS.get(folder.parent.name.lower(), "")
        cases.append(SourceCase(folder.name, folder.name, ct, None, masks, split))
    if not cases:
        raise SourceError(
            f"{src} holds no <split>-pats/pt_N/ct.csv of the train or validation patients; give the provided-data "
            f"folder of the OpenKBP download."
        )
    return cases


def read_openkbp(case: SourceCase, anatomy: Anatomy, mapping: LabelNames) -> Labelled:
    """One patient on an RAS+ grid, without slices that were not imaged.

    SourceError for a file that is missing or damaged, values that are no HU, or a CT that was cut down to contours.
    """
    whole = read_as_it_is(case, anatomy, mapping)
    spacing, labels = whole.ct.spacing_mm, whole.labels
    ct, kept = only_imaged(whole.ct.array, labels, spacing)
    if not kept.any():
        raise SourceError(f"{case.name} shows no body where its structures are: the CT was cut down to them.")
    num_cleared = int((labels.any(axis=(0, 1)) & ~kept.any(axis=(0, 1))).sum())
    return Labelled(Volume(ct, spacing), kept, whole.unmapped, num_cleared)


def read_as_it_is(case: SourceCase, anatomy: Anatomy, mapping: LabelNames) -> Labelled:
    """One patient on an RAS+ grid, every slice of the download. SourceError as for `read_openkbp`."""
    spacing = _spacing(case.ct.with_name("voxel_dimensions.csv"))
    index, stored = _read(case.ct, columns=2)
    ct = np.full(np.prod(_SHAPE), _AIR_HU, np.float32)
    ct[index.astype(np.int64)] = stored + _AIR_HU
    ct = _ras(ct)
    try:
        check_hu(ct, str(case.ct))
    except CaseError as error:
        raise SourceError(str(error)) from error
    labels = np.zeros(_SHAPE, np.uint8)
    names = [mapping.renamed.get(n, n) for n in case.masks]
    table, unmapped = anatomy.lookup(dict(enumerate(names, start=1)))
    files = zip(table[1 : len(names) + 1].tolist(), case.masks.values(), strict=True)
    for value, path in sorted(files, key=lambda item: (item[0] == anatomy.lesion_id, item[0])):
        if value:
            labels[read_structure(path)] = value
    if not labels.any():
        raise SourceError(f"{case.name} holds no structure of the {anatomy.name} table.")
    return Labelled(Volume(np.clip(ct, _AIR_HU, 3071), spacing), labels, tuple(unmapped))


def imaged_slices(ct_hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> slice:
    """The axial slices of a CT (X, Y, Z) in HU that show a body and not contours alone: the longest run of them.

    An empty slice where none does.
    """
    return body_slices(ct_hu > _AIR_HU + 24, spacing_mm)


def only_imaged(
    ct_hu: np.ndarray, labels: np.ndarray, spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """CT and labels (X, Y, Z) with air and background in slices that were not imaged; done twice, it is the same."""
    shown = imaged_slices(ct_hu, spacing_mm)
    ct, kept = np.full_like(ct_hu, _AIR_HU), np.zeros_like(labels)
    ct[:, :, shown], kept[:, :, shown] = ct_hu[:, :, shown], labels[:, :, shown]
    return ct, kept


def read_structure(path: Path) -> np.ndarray:
    """A structure's voxels, bool (X, Y, Z) RAS+. SourceError for a file that is missing or damaged."""
    mask = np.zeros(np.prod(_SHAPE), bool)
    mask[_read(path, columns=1)[0].astype(np.int64)] = True
    return _ras(mask)


def _ras(flat: np.ndarray) -> np.ndarray:
    """A flat array in the data set's order -> (X, Y, Z), x to the patient's right, y to the front, z to the head."""
    return np.ascontiguousarray(flat.reshape(_SHAPE).transpose(1, 0, 2)[::-1, ::-1, ::-1])


def _spacing(path: Path) -> tuple[float, float, float]:
    try:
        y, x, z = (float(v) for v in np.loadtxt(path, delimiter=",").ravel())
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} must hold three voxel sizes in mm ({error}); download the patient again.") from error
    return x, y, z


def _read(path: Path, columns: int) -> np.ndarray:
    """(columns, N): flat indices, and their values where there are some. SourceError when they cannot be those."""
    try:
        table = np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(columns), ndmin=2).T
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} is no sparse CSV of the data set ({error}); download the patient again.") from error
    if table.size and not 0 <= table[0].min() <= table[0].max() < np.prod(_SHAPE):
        raise SourceError(f"{path} holds indices outside of a 128^3 array; download the patient again.")
    return table.reshape(columns, -1)
