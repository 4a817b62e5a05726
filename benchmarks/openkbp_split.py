"""Which OpenKBP patients teach the generator and which the segmenter: python -m benchmarks.openkbp_split OPENKBP OUT.

Of the 170 training patients 40 are the pool from which a segmenter's k real cases are drawn; the other 130 are the
donors, and only they are linked into OUT (`train`, and 17 in `validation` to choose weights on). The pool takes those
with all seven organs contoured first, since nnU-Net would learn a missing contour as background: there are 30 of them,
and the last ten of the pool lack one organ. The download has 200 training patients; the 30 that were not at hand when
the split was made are of neither group, so that it is the same split for everybody.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

POOL_SIZE = 40
DONOR_VALIDATION = 17
#: Training patients of the download that are of neither group.
LEFT_ASIDE = frozenset(
    f"pt_{number}"
    for number in (
        *(8, 19, 23, 32, 44, 46, 56, 63, 69, 73, 75, 81, 85, 102, 107, 110, 117, 125, 134, 135, 138, 142, 145, 153),
        *(161, 174, 175, 179, 186, 191),
    )
)
_SEED = 0


def pool_and_donors(openkbp: Path) -> tuple[list[str], list[str]]:
    """Names of the 40 pool patients, most completely contoured first, and of the other training patients, shuffled.

    SystemExit where there is no index.csv.
    """
    index = openkbp / "index.csv"
    if not index.exists():
        sys.exit(f"{openkbp} holds no index.csv; make it of the download by python -m benchmarks.openkbp_nifti.")
    with index.open(newline="") as file:
        organs = {row["patient"]: len(row["organs"].split()) for row in csv.DictReader(file) if row["split"] == "train"}
    names = sorted(organs.keys() - LEFT_ASIDE)
    shuffled = [names[i] for i in np.random.default_rng(_SEED).permutation(len(names))]
    ranked = sorted(shuffled, key=lambda name: -organs[name])
    pool = ranked[:POOL_SIZE]
    return pool, [name for name in shuffled if name not in set(pool)]


def chosen(openkbp: Path, k: int, seed: int) -> list[str]:
    """The k real cases of a run, sorted: drawn from the completely contoured part of the pool while that suffices."""
    pool, _ = pool_and_donors(openkbp)
    candidates = pool[: max(k, 30)]
    return sorted(candidates[i] for i in np.random.default_rng([_SEED, seed]).permutation(len(candidates))[:k])


def link_donors(openkbp: Path, out: Path, files: Sequence[str] = ("*",)) -> None:
    """`out/train` and `out/validation` with links to those files NAME_FILE of the donors that match one of `files`."""
    _, donors = pool_and_donors(openkbp)
    for split, names in (("validation", donors[:DONOR_VALIDATION]), ("train", donors[DONOR_VALIDATION:])):
        link_cases([openkbp / "train" / f"{name}_ct.nii.gz" for name in names], out / split, files)


def link_cases(scans: Sequence[Path], folder: Path, files: Sequence[str] = ("*",)) -> None:
    """Links in `folder` to those files NAME_FILE of the patients of these CTs that match one of `files`."""
    folder.mkdir(parents=True, exist_ok=True)
    for ct in scans:
        name = ct.name.removesuffix("_ct.nii.gz")
        for file in sorted({f for pattern in files for f in ct.parent.glob(f"{name}_{pattern}")}):
            link = folder / file.name
            if not link.exists():
                link.symlink_to(file.resolve())


def main() -> None:
    """Links the donors' files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("openkbp", type=Path, help="folder with index.csv and train/pt_N_ct.nii.gz")
    parser.add_argument("out", type=Path, help="new folder for the donors' links")
    args = parser.parse_args()
    link_donors(args.openkbp, args.out)


if __name__ == "__main__":
    main()
