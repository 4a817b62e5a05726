"""A donor generator with a second reader: python -m benchmarks.donor_reader CLEARED MODEL OUT --work DIR.

CLEARED holds OpenKBP without slices that were not imaged (`benchmarks.openkbp_imaged`). The reader is the network of
`guidegen complete`, trained on 91 of the 130 donors; the other 39, more than the 17 by which a generator's weights are
chosen, since few have a contour of larynx and esophagus, say how well an organ must be found. OUT is MODEL with it:
what it makes is refused where the reader does not find the organs of the label map.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.downstream_donors import ORGAN_FILES, complete_donors
from benchmarks.nnunet_route import Commands
from benchmarks.openkbp_split import link_cases, pool_and_donors

#: Of the donors, the share that is kept apart from the reader; steps of its training.
HELD_OUT, NUM_STEPS = 0.3, 600


def donor_reader(openkbp: Path, work: Path) -> Path:
    """The folder of a reader that learned from donors alone; made where it is missing."""
    _, donors = pool_and_donors(openkbp)
    # Not in folders of splits: which donors teach it is drawn by the command.
    link_cases([openkbp / "train" / f"{name}_ct.nii.gz" for name in donors], work / "source", ORGAN_FILES)
    return complete_donors(work, ["--validation-share", HELD_OUT], ["--num-steps", NUM_STEPS])


def main() -> None:
    """Trains the reader and writes the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cleared", type=Path, help="folder with index.csv and train/pt_N_ct.nii.gz")
    parser.add_argument("model", type=Path, help="folder of the donors' model")
    parser.add_argument("out", type=Path, help="folder for the same model with the reader")
    parser.add_argument("--work", type=Path, required=True, help="folder to work in; the same one goes on")
    args = parser.parse_args()
    reader = donor_reader(args.cleared, args.work)
    Commands().guidegen("export", "export", args.model, args.model, args.out, "--second-reader", reader)


if __name__ == "__main__":
    main()
