"""Small torsos with kidneys that somebody drew on both sides, on one or on none, as prepared cases."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from guidegen_data.anatomy import TORSO
from guidegen_data.reports.findings import Findings
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.prepared import save_case

SMALL = replace(TORSO, shape=(32, 32, 32), spacing_mm=(12.0, 12.0, 12.0))
KIDNEY, SPINE, SPLEEN = TORSO.id_of("kidney"), TORSO.id_of("vertebrae"), TORSO.id_of("spleen")
LEFT, RIGHT = (KIDNEY, "left"), (KIDNEY, "right")
#: Where the kidneys of the patients lie, the right one a little smaller; x grows to the patient's right.
BOXES = {"left": np.s_[6:12, 8:14, 10:18], "right": np.s_[20:26, 8:14, 9:16]}


#: The sides that somebody drew, patient for patient.
DRAWN = [("left", "right"), ("left", "right"), ("left",), ("right",), ()]


def label_map(*sides: str) -> np.ndarray:
    """A spine, a spleen, and the kidneys of the sides."""
    made = np.zeros(SMALL.shape, np.uint8)
    made[14:18, 4:8], made[4:9, 16:20, 20:24] = SPINE, SPLEEN
    for side in sides:
        made[BOXES[side]] = KIDNEY
    return made


def chances(*boxes) -> np.ndarray:
    made = np.zeros((TORSO.num_classes, *SMALL.shape), np.float32)
    for box in boxes:
        made[KIDNEY][box] = 0.9
    return made


def make_folders(folder: Path) -> Path:
    for name in ("train", "validation", "cases"):
        (folder / name).mkdir(parents=True)
    return folder


class ByHU(torch.nn.Module):
    """Finds kidneys where a CT is above 100 HU."""

    multiple = 8

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, ct_hu: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(1, TORSO.num_classes, *ct_hu.shape[2:])
        logits[:, KIDNEY] = 50 * (ct_hu[:, 0] > 100).float() - 5
        return logits


def write_prepared(folder: Path, copies: int = 1) -> Path:
    """Patients whose CTs show both kidneys, and of whom somebody drew both, one or none, in so many files each."""
    make_folders(folder)
    ct = np.where(label_map("left", "right") == KIDNEY, 150.0, 20.0)
    for number, sides in enumerate(DRAWN):
        base, labels = f"p{number}", label_map(*sides)
        absent = {f"{side} kidney": "absent" for side in BOXES if side not in sides}
        findings = Findings(region="abdomen", organs=absent)
        for copy in range(copies):
            path = folder / "train" / f"case-{number * copies + copy:06d}.npz"
            save_case(path, TrainingCase(labels, ct, findings, base), "A report.")
        note = {"name": base, "split": "train", "refused": "", "report_read": False, "findings": findings.to_dict()}
        volumes_ml = {"kidney": round(float((labels == KIDNEY).sum()) * 1.728, 2)} if sides else {}
        note |= {"volumes_ml": volumes_ml, "mean_hu": dict.fromkeys(volumes_ml, 150.0)}
        (folder / "cases" / f"{base}.json").write_text(json.dumps(note))
    return folder
