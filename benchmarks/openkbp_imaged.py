"""OpenKBP without slices that were not imaged: python -m benchmarks.openkbp_imaged OPENKBP OUT.

In four of ten OpenKBP patients the CT was cut away above and below the treated region, but for a thin rim around the
contours. There the image shows the contour and nothing else, and a segmenter that has seen such slices before reads
the cord off the rim. OUT holds the files of OPENKBP's splits with air and background in these slices, and the same
index.csv (who is donor and who is not goes by what was contoured). Patients that are there already are left.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from tqdm import tqdm

from benchmarks.openkbp_nifti import ORGANS
from guidegen_data.sources.openkbp import only_imaged

#: A scan counts as cut where more than this of the cord's contour lies in slices that were not imaged.
CUT_SHARE = 0.1


def clear_patient(ct: Path, out: Path) -> None:
    """Writes NAME_ct, NAME_label and what else lies beside `ct` into `out`, cleared.

    SystemExit for a patient whose organs all lie in slices that were not imaged.
    """
    name = ct.name.removesuffix("_ct.nii.gz")
    if (out / f"{name}_label.nii.gz").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    hu, spacing, affine = _read(ct)
    label = ct.with_name(f"{name}_label.nii.gz")
    shown, labels = only_imaged(hu, _read(label)[0].astype(np.uint8), spacing)
    if not labels.any():
        sys.exit(f"{name} shows no body where its organs are.")
    for beside in sorted(set(ct.parent.glob(f"{name}_*.nii.gz")) - {ct, label}):
        _write(only_imaged(hu, _read(beside)[0].astype(np.uint8), spacing)[1], affine, out / beside.name)
    _write(shown, affine, out / ct.name)
    _write(labels, affine, out / label.name)  # last: it tells that the patient is whole


def cut_shares(ct: Path) -> dict[str, float]:
    """Of every organ that is contoured, the share of its voxels that lies in slices that were not imaged."""
    hu, labels, spacing = patient(ct)
    whole, left = (np.bincount(m.ravel(), minlength=8) for m in (labels, only_imaged(hu, labels, spacing)[1]))
    return {organ: 1 - left[n] / whole[n] for n, organ in enumerate(ORGANS, start=1) if whole[n]}


def patient(ct: Path) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """HU and label ids (X, Y, Z) of NAME_ct.nii.gz and NAME_label.nii.gz, and the voxel's size in mm."""
    hu, spacing, _ = _read(ct)
    return hu, _read(ct.with_name(ct.name.replace("_ct.", "_label.")))[0].astype(np.uint8), spacing


def is_cut(shares: dict[str, float]) -> bool:
    """Whether these shares are those of a scan that was cut down to its contours."""
    return shares.get("SpinalCord", 0.0) > CUT_SHARE


def _read(path: Path) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    image = cast(nib.Nifti1Image, nib.load(path))
    x, y, z = (float(v) for v in image.header.get_zooms()[:3])
    return np.asarray(image.dataobj), (x, y, z), image.affine


def _write(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    partial = path.with_name(f".{path.name}")
    nib.save(nib.Nifti1Image(array, affine), partial)
    os.replace(partial, path)


def clear_folder(folder: Path, out: Path) -> Path:
    """Clears every patient of a folder of NAME_ct.nii.gz into `out`, with a progress bar; `out` itself."""
    scans = sorted(folder.glob("*_ct.nii.gz"))
    for ct in tqdm(scans, desc=f"clearing {folder.name} of what was not imaged", unit="patient", disable=None):
        clear_patient(ct, out)
    return out


def clear_all(openkbp: Path, out: Path) -> Path:
    """Every patient of every split, and the index; `out` itself. SystemExit where there is no index."""
    index = openkbp / "index.csv"
    if not index.exists():
        sys.exit(f"{openkbp} holds no index.csv; make it of the download by python -m benchmarks.openkbp_nifti.")
    for split in ("train", "validation", "test"):
        if (openkbp / split).is_dir():
            clear_folder(openkbp / split, out / split)
    shutil.copyfile(index, out / "index.csv")
    return out


def main() -> None:
    """Clears a folder of patients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("openkbp", type=Path, help="folder with index.csv, train and validation")
    parser.add_argument("out", type=Path, help="folder for the same patients, cleared")
    args = parser.parse_args()
    clear_all(args.openkbp, args.out)


if __name__ == "__main__":
    main()
