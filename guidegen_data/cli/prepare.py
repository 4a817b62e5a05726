"""`guidegen prepare`: real volumes -> training cases."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "turn a data set of real CTs and label maps into training cases with findings"
#: Options of real cases that deformed ones have no use for, and what they are when they are not given.
_REAL_ONLY = {"anatomy": "torso", "map": [], "augment": 0, "validation_share": 0, "only": 0, "workers": 1}
_VALIDATION_SHARE = 0.15


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen prepare`."""
    parser.description = (
        "Brings every CT and its labels into the model's field (RAS+, resampled, cropped about the organs), measures "
        "the findings and writes reports from them, splits by patient, and tells what was refused. With --num, a "
        "handful of volumes is deformed into many cases instead. Running the same command again makes what is missing "
        "and tries again what was refused."
    )
    parser.add_argument(
        "layout",
        choices=["nifti", "totalsegmentator", "nnunet", "openkbp"],
        help="nifti: NAME_ct, NAME_label and masks NAME_CLASS; totalsegmentator: CASE/ct and "
        "CASE/segmentations/CLASS; nnunet: a raw DatasetNNN_NAME; openkbp: provided-data as downloaded",
    )
    parser.add_argument("src", type=Path, help="folder of the data set")
    parser.add_argument("out", type=Path, help="folder for the training cases")
    parser.add_argument(
        "--anatomy", help="label table: torso, head-neck or a YAML file (default: torso; openkbp: head-neck)"
    )
    parser.add_argument(
        "--classes",
        type=Path,
        help="nifti: JSON file of label id to class name (default: the folder's one *classes.json)",
    )
    parser.add_argument(
        "--map", nargs="*", default=[], metavar="SOURCE=CLASS", help="source class names to take as ours"
    )
    parser.add_argument(
        "--augment", type=int, default=0, metavar="N", help="mildly warped copies of each training case"
    )
    parser.add_argument(
        "--validation-share", type=float, help="of the patients, where no split is given (default 0.15)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument(
        "--only",
        type=int,
        metavar="N",
        help="the first N cases of the data set; a table measured on them is not taken for more",
    )
    parser.add_argument("--num", type=int, help="nifti: deform the volumes into so many cases of the torso")
    parser.add_argument(
        "--phantoms", type=int, default=0, metavar="N", help="with --num: so many procedural torsos as well"
    )
    parser.add_argument("--seed", type=int, default=0, help="case i depends on (seed, i) alone (default 0)")
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="NAME", help="with --num: volumes to keep aside")


def run(args: argparse.Namespace) -> int:
    """Prepares and prints how many cases there are, and what was not used."""
    from guidegen_data.errors import SourceError

    if args.num is not None:
        if args.layout != "nifti":
            raise SourceError(f"--num deforms the volumes of the nifti layout, not of {args.layout}; leave --num out.")
        if given := [k for k, v in _REAL_ONLY.items() if getattr(args, k) not in (None, v)]:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise SourceError(
                f"{options} cannot go with --num, which makes torso cases, one after another, and splits none off."
            )
        return _deform(args)
    if args.leave_out or args.phantoms:
        raise SourceError("--leave-out and --phantoms go with --num; real cases are split by patient.")
    return _real(args)


def _deform(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from guidegen_data.sources.prepared import PrepareConfig, prepare

    config = PrepareConfig(args.src.name, args.num, args.seed, tuple(args.leave_out), num_phantoms=args.phantoms)
    steps = prepare(args.src, args.out, config, args.classes)
    for _ in tqdm(steps, total=args.num, desc="preparing", unit="case", disable=None):
        pass
    print(f"{args.num} training cases in {args.out}")
    return 0


def _real(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from guidegen_data.anatomy_files import anatomy_from
    from guidegen_data.errors import SourceError
    from guidegen_data.sources.real import RealConfig, prepare_real
    from guidegen_data.sources.summary import write_summary

    anatomy = anatomy_from(args.anatomy or ("head-neck" if args.layout == "openkbp" else "torso"))
    if wrong := [pair for pair in args.map if pair.count("=") != 1]:
        raise SourceError(f"--map takes SOURCE=CLASS, got {wrong[0]!r}.")
    renamed = dict(pair.split("=") for pair in args.map)
    for name in renamed.values():
        anatomy.id_of(name)
    config = RealConfig(
        args.layout,
        args.src.name,
        anatomy.name,
        args.augment,
        _VALIDATION_SHARE if args.validation_share is None else args.validation_share,
        args.seed,
        renamed,
    )
    bar, stage = None, ""
    for stage_now, total, _ in prepare_real(args.src, args.out, config, anatomy, args.classes, args.workers, args.only):
        if stage_now != stage:
            if bar is not None:
                bar.close()
            bar, stage = tqdm(total=total, desc=stage_now, unit="case", disable=None), stage_now
        if bar is not None:
            bar.update()
    if bar is not None:
        bar.close()
    print(write_summary(args.out))
    return 0
