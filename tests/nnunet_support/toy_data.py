"""Toy CTs with two organs: a real nnU-Net raw data set, and a shard folder in the contract's format."""

import json
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np

from guidegen_data.anatomy import TORSO
from guidegen_data.case import Case, centred_affine
from guidegen_data.reports.findings import Findings
from guidegen_data.shards.manifest import ShardEntry
from guidegen_data.shards.writer import encode_case, write_tar

SPACING_MM = 3.0


def volume(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A body of 0 HU in air with a liver (3) on the patient's right and a spleen (1) on the left, as in TORSO."""
    generator = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    ct = np.where(x**2 + y**2 < 0.8, 0, -1000) + generator.normal(0, 10, shape)
    label = np.zeros(shape, np.uint8)
    for number, side, hu in ((3, 0.4, 110), (1, -0.4, 60)):
        centre = generator.uniform(-0.1, 0.1, 3)
        inside = (x - side - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < 0.09
        label[inside] = number
        ct[inside] += hu
    return ct.astype(np.int16), label


def write_real(folder: Path, num_cases: int = 5) -> None:
    """Stored as LAS (first axis to the left), labels {liver: 1, Spleen: 2, prostate: 3}."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    affine = np.diag([-SPACING_MM, SPACING_MM, SPACING_MM, 1])
    for case in range(num_cases):
        ct, label = volume(case, (36, 34, 32))
        theirs = np.select([label == 3, label == 1], [1, 2], 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(ct[::-1], affine), folder / "imagesTr" / f"patient_{case}_0000.nii.gz")
        nib.save(nib.Nifti1Image(theirs[::-1], affine), folder / "labelsTr" / f"patient_{case}.nii.gz")
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "Spleen": 2, "prostate": 3},
        "numTraining": num_cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))


def write_shards(folder: Path, num_cases: int = 4, cases_per_shard: int = 3) -> None:
    """RAS+ cases of a brighter world (HU + 300), so that they would move a fingerprint."""
    folder.mkdir(parents=True)
    affine, entries = centred_affine((40, 40, 40), (SPACING_MM,) * 3), []
    for first in range(0, num_cases, cases_per_shard):
        path, keys, parts = folder / f"shard-{first // cases_per_shard:06d}.tar", [], []
        for index in range(first, min(first + cases_per_shard, num_cases)):
            ct, label = volume(1000 + index, (40, 40, 40))
            label[0:2] = TORSO.id_of("kidney")
            keys.append(f"s{index:09d}")
            findings, report = Findings(region="abdomen"), "CT abdomen. Normal liver and spleen."
            meta = {"key": keys[-1], "findings": findings.to_dict()}
            parts.append(encode_case(Case(keys[-1], ct + np.int16(300), label, affine, report, findings, meta)).tar())
        sha256, size = write_tar(path, parts)
        entries.append(asdict(ShardEntry(path.name, sha256, size, len(keys), keys[0], keys[-1], 0)))
    (folder / "index.json").write_text(json.dumps({"shards": entries}))
