"""The generator of the donor setting, out of this repository's history: python -m benchmarks.donor_model OUT.

The head-neck model of the package learned from all 170 training patients of OpenKBP. Here is one of the 130 donors
alone (`benchmarks.openkbp_split`), 113 of them and 17 to choose by, as `benchmarks.donor_training` trained it on. What
that began with comes with --second, and what that one began with with --first: the package's weights from before the
last part of stage 1's training, with the image stage, which had learned from donors alone too. The model card at the
image stage's commit still describes the image stage before it, which ended on all 170; the card of the next commits
(d5a0b13) describes this one.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_FOLDER = "guidegen_data/weights/head-neck"
#: The commits that hold the generator as it was trained on, and as it was before that.
TRAINED_ON, SECOND = "651a450", "d88ef37"
#: Commits whose stage 1 and image stage learned from donors alone: what it began with.
STAGE_1, IMAGE_STAGE = "c8f344a", "4b89d6e"
_CARD = f"""# Head-neck model of 130 donors

Stage 1 of commit {STAGE_1}, autoencoder and slice generator of commit {IMAGE_STAGE}: none has seen one of the 40
patients that the segmenters of `benchmarks.downstream` may learn from, nor a validation patient. For that alone.
"""


def unpack(commit: str, out: Path) -> None:
    """Writes the model as it was at a commit into `out`. SystemExit where this is no clone that holds the commit."""
    done = subprocess.run(["git", "-C", str(_ROOT), "archive", commit, _FOLDER], capture_output=True)
    if done.returncode:
        sys.exit(f"commit {commit} is not here ({done.stderr.decode().strip()}); use a full clone of the repository.")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        for member in tar:
            if member.isfile():
                target = out / Path(member.name).relative_to(_FOLDER)
                target.parent.mkdir(parents=True, exist_ok=True)
                held = tar.extractfile(member)
                assert held is not None
                target.write_bytes(held.read())


def donor_model(out: Path) -> None:
    """The model folder as it was trained on; whole or not there."""
    _held(TRAINED_ON, out)


def second_donor_model(out: Path) -> None:
    """The model folder as it was before that; whole or not there."""
    _held(SECOND, out)


def _held(commit: str, out: Path) -> None:
    with tempfile.TemporaryDirectory() as made:
        unpack(commit, Path(made) / "model")
        shutil.copytree(Path(made) / "model", out)


def first_donor_model(out: Path) -> None:
    """The model folder: stage 1 with its volume ratios from one commit, all else from the other; whole or not there."""
    with tempfile.TemporaryDirectory() as made:
        folders = [Path(made) / commit for commit in (IMAGE_STAGE, STAGE_1)]
        for commit, folder in zip((IMAGE_STAGE, STAGE_1), folders, strict=True):
            unpack(commit, folder)
        whole, donors = folders
        shutil.rmtree(whole / "mask_sampler")
        shutil.copytree(donors / "mask_sampler", whole / "mask_sampler")
        index, theirs = (json.loads((folder / "model_index.json").read_text()) for folder in folders)
        index["volume_ratio"] = theirs["volume_ratio"]
        (whole / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        (whole / "README.md").write_text(_CARD)
        shutil.copytree(whole, out)


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="new model folder")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--second", action="store_true", help="as it was before its stage 1 and detail were trained on")
    which.add_argument("--first", action="store_true", help="what that one began with")
    args = parser.parse_args()
    if args.out.exists():
        sys.exit(f"{args.out} is there already; choose a new folder.")
    if args.first:
        first_donor_model(args.out)
    elif args.second:
        second_donor_model(args.out)
    else:
        donor_model(args.out)
    print(f"{args.out}: --model of `python -m benchmarks.downstream ... --setting donor`")


if __name__ == "__main__":
    main()
