"""`guidegen prepare`: real volumes -> training cases."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "turn a folder of real CTs and label maps into training cases with findings"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen prepare`."""
    parser.description = (
        "Deforms real label maps and their CTs into many training cases: pose, organ sizes, removed organs, contrast "
        "phase, implanted lesions; the findings of each are written from what was done and measured. Running the same "
        "command again makes what is missing."
    )
    parser.add_argument("layout", choices=["nifti"], help="how SRC is laid out: NAME_ct.nii.gz and NAME_label.nii.gz")
    parser.add_argument("src", type=Path, help="folder of volumes, with one *classes.json naming the label ids")
    parser.add_argument("out", type=Path, help="folder for the training cases")
    parser.add_argument("--classes", type=Path, help="JSON file of label id to class name (TotalSegmentator names)")
    parser.add_argument("--num", type=int, default=600, help="number of training cases (default 600)")
    parser.add_argument("--seed", type=int, default=0, help="case i depends on (seed, i) alone (default 0)")
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="NAME", help="volumes to keep aside")


def run(args: argparse.Namespace) -> int:
    """Prepares and prints how many cases there are."""
    from tqdm import tqdm

    from guidegen_data.sources.prepared import PrepareConfig, prepare

    config = PrepareConfig(args.src.name, args.num, args.seed, tuple(args.leave_out))
    steps = prepare(args.src, args.out, config, args.classes)
    for _ in tqdm(steps, total=args.num, desc="preparing", unit="case", disable=None):
        pass
    print(f"{args.num} training cases in {args.out}")
    return 0
