"""What the donor generator learned last: python -m benchmarks.donor_training OPENKBP OUT --work DIR.

The model of `benchmarks.donor_model --second`, trained on with the 130 donors alone, 17 of them to choose by. Its stage
1 learns from every donor and three warped copies, and thin parts count five times: an airway's front wall is one or two
voxels of its grid, and went under. Its detail learns from donors that the stage 1 before redrew, errors and all, not
from smoothed ones. With --second what that model itself learned after `--first` (see `train_second`). What came of it
is that of `benchmarks.donor_model`.

Label maps come without target volumes, since the test draws none: a target takes the voxels of larynx and airway under
it. Contours that planners left out are drawn in them by `guidegen complete`, whose network learned from the donors too.
The same command goes on where it was stopped; an hour and a half on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.donor_model import first_donor_model, second_donor_model
from benchmarks.downstream_donors import ORGAN_FILES, complete_donors
from benchmarks.nnunet_route import Commands
from benchmarks.openkbp_imaged import clear_all
from benchmarks.openkbp_split import link_donors

#: Classes that detail draws anew, with the air between them.
DETAIL_CLASSES = ("soft tissue", "bone")
#: Warped copies of each donor, and how often more thin parts count.
COPIES, THIN_WEIGHT = 3, 4
#: Steps of the two trainings, --second or not.
STEPS = {True: {"masks": 700, "detail": 1200}, False: {"masks": 2000, "detail": 700}}


def targets_network(imaged: Path, work: Path) -> Path:
    """The donors with their targets, completed; its network completes the donors without them."""
    link_donors(imaged, work / "targets" / "source")
    return complete_donors(work / "targets")


def organs_alone(imaged: Path, work: Path, network: Path, copies: int = 0) -> Path:
    """The donors without their targets, and warped copies of each, completed by a network."""
    link_donors(imaged, work / "source", ORGAN_FILES)
    return complete_donors(work, ["--augment", copies] if copies else [], ["--num-steps", 0, "--init", network])


def train_further(openkbp: Path, work: Path, out: Path, steps: Mapping[str, int]) -> None:
    """The model folder `out`, of so many steps of `masks` and `detail`."""
    imaged, commands, before = clear_all(openkbp, work / "imaged"), Commands(), work / "before"
    network = targets_network(imaged, work)
    warped = organs_alone(imaged, work / "warped", network, COPIES)
    organs = organs_alone(imaged, work / "organs", network)
    if not before.exists():
        second_donor_model(before)
    words = ["--num-steps", steps["masks"], "--learning-rate", 6e-4, "--validate-every", max(1, steps["masks"] // 8)]
    words = [warped, work / "masks", "--init", before, *words, "--thin-weight", THIN_WEIGHT]
    commands.guidegen("train stage 1", "train", "masks", *words)
    words = ["--num-steps", steps["detail"], "--learning-rate", 1e-3, "--validate-every", max(1, steps["detail"] // 7)]
    words = [organs, work / "detail", "--init", before, "--redrawn-by", before, *words]
    commands.guidegen("train detail", "train", "detail", *words)
    commands.guidegen("export", "export", work / "masks", before, out, "--detail", work / "detail")


def train_second(openkbp: Path, work: Path, out: Path, steps: Mapping[str, int]) -> None:
    """The model of `benchmarks.donor_model --second`: from `--first` with what the package's own had since, stage 1
    trained on with scans cleared of slices that were not imaged, detail begun with the torso's, bones held to their HU.
    """
    imaged, commands, history = clear_all(openkbp, work / "imaged"), Commands(), work / "history"
    organs = organs_alone(imaged, work / "organs", targets_network(imaged, work))
    if not history.exists():
        first_donor_model(history)
    words = ["--num-steps", steps["masks"], "--learning-rate", 5e-4, "--validate-every", max(1, steps["masks"] // 4)]
    commands.guidegen("train stage 1", "train", "masks", organs, work / "masks", "--init", history, *words)
    words = ["--num-steps", steps["detail"], "--validate-every", max(1, steps["detail"] // 6)]
    words = [work / "targets" / "cases", work / "detail", "--init", "torso", "--classes", *DETAIL_CLASSES, *words]
    commands.guidegen("train detail", "train", "detail", *words)
    commands.guidegen("export", "export", work / "masks", history, out, "--detail", work / "detail")
    index = out / "model_index.json"
    # As `guidegen export` sets it for slices of so many patients.
    index.write_text(json.dumps(json.loads(index.read_text()) | {"hold_contrast": True}, indent=2) + "\n")


def main(given: Sequence[str] | None = None) -> None:
    """Trains and exports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("openkbp", type=Path, help="folder with index.csv and train, as of benchmarks.openkbp_nifti")
    parser.add_argument("out", type=Path, help="new model folder")
    parser.add_argument("--work", type=Path, required=True, help="folder to work in; the same one goes on")
    parser.add_argument("--second", action="store_true", help="the model before that one, from the first")
    parser.add_argument("--steps-masks", type=int, help="steps of stage 1 (default 2000, with --second 700)")
    parser.add_argument("--steps-detail", type=int, help="steps of the detail (default 700, with --second 1200)")
    args = parser.parse_args(given)
    if args.out.exists():
        sys.exit(f"{args.out} is there already; choose a new folder.")
    wanted = {"masks": args.steps_masks, "detail": args.steps_detail}
    steps = STEPS[args.second] | {stage: number for stage, number in wanted.items() if number is not None}
    (train_second if args.second else train_further)(args.openkbp, args.work, args.out, steps)
    print(f"{args.out}: --model of `python -m benchmarks.downstream ... --setting donor`")


if __name__ == "__main__":
    main()
