"""The real patients that a donor generator learned from, as training cases: what its cases could be worth at best.

As the generator's own training cases, organs that planners left out are drawn by `guidegen complete`, whose network
learns from these patients alone; otherwise nnU-Net would learn them as background.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.nnunet_route import Commands
from benchmarks.openkbp_split import link_donors
from guidegen_data.sources.prepared import case_paths
from guidegen_data.training.completion import FIGURES

#: A patient's files without the target volume: in a label map it would take the voxels of the organs under it.
ORGAN_FILES = ("ct.nii.gz", "label.nii.gz")
#: Organs that the head-neck model's training cases were completed with.
COMPLETED = ("brainstem", "right parotid", "left parotid", "esophagus", "larynx", "mandible")


def donor_cases(openkbp: Path, work: Path) -> list[Path]:
    """Prepared training cases of the donors, in the order of their shuffled names' split; made where they are missing,
    and taken as they are where `work/completed` holds them.

    The 17 donors that a generator's weights are chosen by test the network that completes, and are none of these.
    """
    if not (work / "completed" / FIGURES).exists():
        link_donors(openkbp, work / "source", ORGAN_FILES)
        complete_donors(work)
    return case_paths(work / "completed" / "train")


def complete_donors(work: Path, prepare: Sequence[object] = (), complete: Sequence[object] = ()) -> Path:
    """The completed folder of the donors linked in `work/source`, with more words for both commands."""
    commands = Commands()
    prepared, completed = work / "cases", work / "completed"
    words = [work / "source", prepared, "--anatomy", "head-neck", *prepare]
    commands.guidegen("prepare the donors", "prepare", "nifti", *words)
    words = [prepared, completed, "--classes", *COMPLETED, *complete]
    commands.guidegen("complete the donors", "complete", *words)
    return completed
