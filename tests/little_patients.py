"""Small synthetic patients with a liver, a spleen and sometimes a tumour, written in the layouts data sets come in."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, ornt_transform

SHAPE, SPACING_MM = (34, 28, 30), (10.0, 10.0, 12.0)
CLASSES = {1: "liver", 2: "spleen", 3: "tumour"}
ANATOMY = """\
name: two-organs
shape: [32, 32, 32]
spacing_mm: [12.0, 12.0, 12.0]
classes:
  - {id: 0, name: background}
  - {id: 1, name: liver, sources: [Leber]}
  - {id: 2, name: spleen}
  - {id: 3, name: tumour}
organs:
  - {name: liver, class_name: liver, statuses: [normal, enlarged, small], sites: [""]}
  - {name: spleen, class_name: spleen, statuses: [normal, enlarged, small, absent], sites: [""]}
"""


def patient(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(CT int16 HU, label uint8), RAS+ (X, Y, Z): the liver on the right, every second patient with a tumour in it."""
    rng = np.random.default_rng(number)
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)]
    xyz = np.stack(np.meshgrid(*axes, indexing="ij"))
    ct = np.where(_ellipsoid(xyz, (0, 0, 0), (145, 110, 1e5)), -80.0, -1000.0)
    label = np.zeros(SHAPE, np.uint8)
    larger = 1 + 0.05 * number
    for value, centre, radii, hu in ((1, (60, 10, 40), (52, 46, 44), 100), (2, (-75, -20, 30), (30, 34, 36), 110)):
        mask = _ellipsoid(xyz, np.add(centre, rng.uniform(-6, 6, 3)), np.multiply(radii, larger))
        label[mask], ct[mask] = value, hu
    if number % 2:
        mask = _ellipsoid(xyz, (60, 10, 40), (24, 24, 24))
        label[mask], ct[mask] = 3, 50
    return np.rint(ct + rng.normal(0, 8, SHAPE)).astype(np.int16), label


def _ellipsoid(xyz: np.ndarray, centre, radii) -> np.ndarray:
    return (((xyz - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))) ** 2).sum(0) <= 1


def save(array: np.ndarray, path: Path, axes: str = "RAS") -> None:
    """Writes an RAS+ array as NIfTI whose voxel axes run along `axes`, e.g. 'LPS' or 'SAR'."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.diag([*SPACING_MM, 1.0]))
    image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))).to_filename(path)


def write_nifti(folder: Path, num: int, axes: str = "RAS") -> None:
    """`num` patients as NAME_ct and NAME_label, with their classes and the anatomy they are for."""
    for k in range(num):
        ct, label = patient(k)
        save(ct, folder / f"p{k}_ct.nii.gz", axes)
        save(label, folder / f"p{k}_label.nii.gz", axes)
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    (folder / "anatomy.yaml").write_text(ANATOMY)


# OpenKBP structure -> centre and radii in mm, RAS+ from the middle of the field, and HU.
HEAD_AND_NECK = {
    "Brainstem": ((0, -16, 95), (14, 14, 22), 35),
    "SpinalCord": ((0, -36, 0), (6, 6, 90), 30),
    "RightParotid": ((58, 9, 70), (13, 17, 24), 10),
    "LeftParotid": ((-58, 9, 70), (13, 17, 24), 10),
    "Larynx": ((0, 20, -4), (17, 14, 18), 20),
    "Mandible": ((0, 56, 58), (30, 9, 14), 700),
    "PTV70": ((30, 20, 20), (24, 22, 26), 40),
}
RAW_SHAPE, RAW_SPACING_MM = (128, 128, 128), (4.0, 4.0, 3.0)


def write_openkbp(folder: Path, num: int, split: str = "train") -> None:
    """Patients as the OpenKBP download has them: sparse CSVs over y front to back, x right to left, z downwards."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(RAW_SHAPE, RAW_SPACING_MM, strict=True)]
    xyz = np.stack(np.meshgrid(*axes, indexing="ij"))
    for k in range(1, num + 1):
        rng = np.random.default_rng(k)
        here = folder / f"{split}-pats" / f"pt_{k}"
        here.mkdir(parents=True)
        ct = np.where(_ellipsoid(xyz, (0, 0, 0), (85 + 3 * k, 105, 1e5)) & (np.abs(xyz[2]) < 140), 40, -1024)
        for name, (centre, radii, hu) in HEAD_AND_NECK.items():
            mask = _ellipsoid(xyz, np.add(centre, rng.uniform(-3, 3, 3)), np.multiply(radii, 1 + 0.04 * k))
            ct[mask] = hu
            rows = "".join(f"{i},\n" for i in np.flatnonzero(_raw(mask)))
            (here / f"{name}.csv").write_text(",data\n" + rows)
        stored = _raw(ct + 1024)
        held = np.flatnonzero(stored)
        rows = "".join(f"{i},{v}\n" for i, v in zip(held.tolist(), stored[held].tolist(), strict=True))
        (here / "ct.csv").write_text(",data\n" + rows)
        x, y, z = RAW_SPACING_MM
        (here / "voxel_dimensions.csv").write_text(f"{y}\n{x}\n{z}\n")


def _raw(array: np.ndarray) -> np.ndarray:
    return np.flip(array).swapaxes(0, 1).ravel()
