"""What the donor generator learned after its history: python -m benchmarks.donor_training OPENKBP OUT --work DIR.

The model of `benchmarks.donor_model --first`, with what the package's own has since: its stage 1 trained on with scans
cleared of slices that were not imaged, a detail network after it that began with the torso's, and bones held to their
HU. Of the 130 donors alone, 17 of them to choose by. What came of it is that of `benchmarks.donor_model`.

Stage 1 learns from label maps without target volumes, since the test draws none: a target takes the voxels of larynx
and airway under it. Contours that planners left out are drawn in them by `guidegen complete`, whose network learned
from the donors too. The same command goes on where it was stopped; two hours on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.donor_model import first_donor_model
from benchmarks.downstream_donors import ORGAN_FILES, complete_donors
from benchmarks.nnunet_route import Commands
from benchmarks.openkbp_imaged import clear_all
from benchmarks.openkbp_split import link_donors

#: Classes that detail draws anew, with the air between them.
DETAIL_CLASSES = ("soft tissue", "bone")


def train_further(openkbp: Path, work: Path, out: Path, masks: list[object], detail: list[object]) -> None:
    """The model folder `out`; `masks` and `detail` are more words for the two trainings."""
    imaged, targets, organs = clear_all(openkbp, work / "imaged"), work / "targets", work / "organs"
    link_donors(imaged, targets / "source")
    completed = complete_donors(targets)
    link_donors(imaged, organs / "source", ORGAN_FILES)
    complete_donors(organs, complete=["--num-steps", 0, "--init", completed])
    if not (history := work / "history").exists():
        first_donor_model(history)
    commands = Commands()
    words = [organs / "completed", work / "masks", "--init", history, *masks]
    commands.guidegen("train stage 1", "train", "masks", *words)
    words = [targets / "cases", work / "detail", "--init", "torso", "--classes", *DETAIL_CLASSES, *detail]
    commands.guidegen("train detail", "train", "detail", *words)
    commands.guidegen("export", "export", work / "masks", history, out, "--detail", work / "detail")
    index = out / "model_index.json"
    # As `guidegen export` sets it for slices of so many patients.
    index.write_text(json.dumps(json.loads(index.read_text()) | {"hold_contrast": True}, indent=2) + "\n")


def main() -> None:
    """Trains and exports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("openkbp", type=Path, help="folder with index.csv and train, as of benchmarks.openkbp_nifti")
    parser.add_argument("out", type=Path, help="new model folder")
    parser.add_argument("--work", type=Path, required=True, help="folder to work in; the same one goes on")
    parser.add_argument("--steps-masks", type=int, default=700, help="steps of stage 1 (default 700)")
    parser.add_argument("--steps-detail", type=int, default=1200, help="steps of the detail (default 1200)")
    args = parser.parse_args()
    if args.out.exists():
        sys.exit(f"{args.out} is there already; choose a new folder.")
    masks = ["--num-steps", args.steps_masks, "--learning-rate", 5e-4, "--validate-every", 175]
    detail = ["--num-steps", args.steps_detail, "--validate-every", 200]
    train_further(args.openkbp, args.work, args.out, masks, detail)
    print(f"{args.out}: --model of `python -m benchmarks.downstream ... --setting donor`")


if __name__ == "__main__":
    main()
