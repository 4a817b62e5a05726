"""OpenKBP as downloaded, in the form that the benchmarks read: python -m benchmarks.openkbp_nifti PROVIDED_DATA OUT.

PROVIDED_DATA holds <split>-pats/pt_N/*.csv (github.com/ababier/open-kbp). Writes OUT/train, OUT/validation and OUT/test
with pt_N_ct.nii.gz (HU), pt_N_label.nii.gz (seven organs, ids 1 to 7 of the head-neck table) and, where there is one,
pt_N_ptv70.nii.gz, and OUT/index.csv. Slices that were not imaged are kept as they are: the benchmarks tell of them, and
take them out themselves (`benchmarks.openkbp_imaged`). Patients that are there already are left. The test patients are
for a last check alone: `python -m benchmarks.downstream OUT --test OUT/test`.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from guidegen_data import HEAD_NECK
from guidegen_data.case import centred_affine
from guidegen_data.sources.layouts import LabelNames, SourceCase
from guidegen_data.sources.openkbp import read_as_it_is, read_structure

_SPLITS = ("train", "validation", "test")
#: Structures of the download that are organs.
ORGANS = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible")
_TARGET = "PTV70"


def patients(provided: Path) -> list[tuple[str, Path]]:
    """(split, folder) of every patient, by number. SystemExit where there is none."""
    found = [(split, ct.parent) for split in _SPLITS for ct in provided.glob(f"{split}-pats/pt_*/ct.csv")]
    if not found:
        sys.exit(f"{provided} holds no <split>-pats/pt_N/ct.csv; give the provided-data folder of the download.")
    return sorted(found, key=lambda item: int(item[1].name.removeprefix("pt_")))


def convert(patient: Path, out: Path) -> list[str]:
    """Writes the volumes of one patient into `out`, and returns the organs that are contoured."""
    held = {name: patient / f"{name}.csv" for name in ORGANS if (patient / f"{name}.csv").exists()}
    contoured, target = list(held), patient / f"{_TARGET}.csv"
    done = out / f"{patient.name}_label.nii.gz"
    if done.exists():
        return contoured
    out.mkdir(parents=True, exist_ok=True)
    case = SourceCase(patient.name, patient.name, patient / "ct.csv", masks=held)
    read = read_as_it_is(case, HEAD_NECK, LabelNames(None))
    affine = centred_affine(read.labels.shape, read.ct.spacing_mm)

    def write(kind: str, array: np.ndarray) -> None:
        partial = out / f"{patient.name}_{kind}.partial.nii.gz"
        nib.save(nib.Nifti1Image(array, affine), partial)
        os.replace(partial, out / f"{patient.name}_{kind}.nii.gz")

    write("ct", np.rint(read.ct.array).astype(np.int16))
    if target.exists():
        write("ptv70", read_structure(target).astype(np.uint8))
    write("label", read.labels)  # last: it tells that the patient is whole
    return contoured


def convert_all(provided: Path, out: Path) -> None:
    """All patients and the index."""
    rows = []
    for split, patient in tqdm(patients(provided), unit="patient", disable=None):
        rows.append((patient.name, split, " ".join(convert(patient, out / split))))
    with (out / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("patient", "split", "organs"), *rows])


def main() -> None:
    """Converts the download."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("provided", type=Path, help="provided-data folder of the download")
    parser.add_argument("out", type=Path, help="folder for train, validation, test and index.csv")
    args = parser.parse_args()
    convert_all(args.provided, args.out)


if __name__ == "__main__":
    main()
