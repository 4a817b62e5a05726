"""`guidegen nnunet`: synthetic cases into nnU-Net v2, without letting them near plans or validation."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from guidegen_data.errors import GuideGenError

HELP = "mix synthetic cases into an nnU-Net data set and its training"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="{export,plan,install}")
    export = actions.add_parser("export", help="shards (and a real raw data set) -> nnU-Net raw data set")
    export.add_argument("shards", help="folder or URL of guidegen-shard")
    export.add_argument("--real", help="real raw data set to merge with: DatasetXXX_Name or its number")
    export.add_argument("--id", type=int, required=True, help="number of the new data set, 1 to 999")
    export.add_argument("--name", required=True, help="name of the new data set")
    export.add_argument(
        "--label-map",
        default="",
        help="class=label,..., a JSON file or a public label set such as btcv (default: equal names)",
    )
    plan = actions.add_parser("plan", help="plan from the real cases only and preprocess all")
    plan.add_argument("dataset", help="data set made by export: DatasetXXX_Name or its number")
    plan.add_argument("-c", "--configurations", nargs="+", default=["3d_fullres"], help="default: 3d_fullres")
    plan.add_argument("--planner", default="ExperimentPlanner", help="nnU-Net planner, e.g. nnUNetPlannerResEncM")
    plan.add_argument("--processes", type=int, default=2, help="worker processes (default 2)")
    install = actions.add_parser("install", help="print the line that lets nnU-Net find our trainers")
    install.add_argument("--write", type=Path, metavar="FILE", help="append the line to this shell file instead")


def run(args: argparse.Namespace) -> int:
    """Exit status 0; GuideGenError with one sentence when the action is refused."""
    if find_spec("nnunetv2") is None:
        raise GuideGenError("nnU-Net is not installed; install it with `pip install 'guidegen-data[nnunet]'`.")
    return {"export": _export, "plan": _plan, "install": _install}[args.action](args)


def _export(args: argparse.Namespace) -> int:
    from guidegen_nnunet.convert import export
    from guidegen_nnunet.folders import find_dataset
    from guidegen_nnunet.labels import parse_label_map

    real = find_dataset(args.real) if args.real else None
    label_map = parse_label_map(args.label_map) if args.label_map else {}
    result = export(args.shards, real, args.id, args.name, label_map)
    for notice in result.notices:
        print(f"note: {notice}", file=sys.stderr)
    print(f"{result.folder}: {result.num_real} real and {result.num_synthetic} synthetic cases")
    if real:
        print(f"next: guidegen nnunet plan {args.id}")
    return 0


def _plan(args: argparse.Namespace) -> int:
    from guidegen_nnunet.plan import plan

    plans_file = plan(args.dataset, args.configurations, args.planner, args.processes)
    print(plans_file)
    # What nnU-Net takes where -p is not given.
    plans = "" if plans_file.stem == "nnUNetPlans" else f" -p {plans_file.stem}"
    print(f"next: nnUNetv2_train {plans_file.parent.name} {args.configurations[0]} 0 -tr nnUNetTrainerGuideGen{plans}")
    return 0


def _install(args: argparse.Namespace) -> int:
    from guidegen_nnunet.install import append_setting, setting, torchvision_problem

    if args.write is None:
        print(setting())
    else:
        print(f"{args.write}: {'appended' if append_setting(args.write) else 'has the line already'}")
    if problem := torchvision_problem():
        print(f"note: {problem}", file=sys.stderr)
    return 0
