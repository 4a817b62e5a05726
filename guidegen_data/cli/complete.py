"""`guidegen complete`: draw organs in the prepared cases that lack them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guidegen_data.anatomy import Anatomy
    from guidegen_data.models.segmenter import Segmenter

HELP = "draw organs that planners left out in some of the training cases"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen complete`."""
    parser.description = (
        "In many data sets an organ was contoured only where someone needed it; a generator trained on them leaves it "
        "out as often, while its CTs show it. This trains a small U-Net on the prepared training cases, of each only "
        "on what was drawn there, tests it on the validation cases that show the organs, and writes the prepared "
        "folder again with the organs of --classes drawn where they are missing. What was drawn by hand stays. Name "
        "only classes that nearly every patient has. OUT/completed.json says how good the network is and how many "
        "cases it completed; OUT/completed.jsonl in which, and how large."
    )
    parser.add_argument("prepared", type=Path, help="folder that `guidegen prepare` made")
    parser.add_argument("out", type=Path, help="folder for the completed cases")
    parser.add_argument("--classes", nargs="+", required=True, metavar="CLASS", help="organs to draw where missing")
    parser.add_argument("--num-steps", type=int, default=1000, help="training steps of one volume (default 1000)")
    parser.add_argument(
        "--init",
        type=Path,
        metavar="COMPLETED",
        help="start from the network of that completed folder; with --num-steps 0 draw with it as it is, and keep it "
        "in OUT: all cases of a folder are drawn by one network",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--workers", type=int, help="threads that read and write cases (default: cores)")


def run(args: argparse.Namespace) -> int:
    """Trains, tests and completes with progress bars, and prints what the network can do."""
    import numpy as np
    import torch
    from tqdm import tqdm

    from guidegen_data.cli.memory import keep_freed_memory
    from guidegen_data.errors import SourceError
    from guidegen_data.sources.prepared import write_text
    from guidegen_data.sources.processes import usable_cores
    from guidegen_data.sources.summary import write_summary
    from guidegen_data.training import completion
    from guidegen_data.training.drawing_network import network_digest
    from guidegen_data.training.segmenter import organs_named

    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    anatomy = completion.anatomy_of(args.prepared)
    classes = organs_named(args.classes, anatomy)
    if args.num_steps <= 0 and args.init is None:
        raise SourceError("--num-steps 0 trains nothing, so it needs --init COMPLETED, whose network draws.")
    completion.claim(args.prepared, args.out, classes)
    model = _network(args, anatomy, classes)
    dice = completion.held_out_dice(args.prepared, model, classes, anatomy)
    total = len(list(args.prepared.glob("*/case-*.npz")))
    for _ in tqdm(
        completion.complete(args.prepared, args.out, model, classes, anatomy, args.workers or usable_cores()),
        total=total, desc="completing", unit="case", disable=None,
    ):  # fmt: skip
        pass
    lines = completion.whole_lines(args.out / completion.RECORD)
    told = {}
    for name in classes:
        drawn = sum(name in line["drawn_ml"] for line in lines)
        told[name] = {"held_out_dice": [round(d, 3) for d in sorted(dice[name])], "drawn_in_files": drawn}
        mean = f"{np.mean(dice[name]):.2f} in {len(dice[name])}" if dice[name] else "not measured: none shows it,"
        print(f"{name}: Dice {mean} held-out patients; drawn in {drawn} of {total} files")
    figures = {"files": total, "classes": told, completion.DRAWN_BY: network_digest(args.out)}
    write_text(args.out / completion.FIGURES, json.dumps(figures, indent=1))
    print(write_summary(args.out))
    return 0


def _network(args: argparse.Namespace, anatomy: Anatomy, classes: list[str]) -> Segmenter:
    """The network of OUT, trained there or taken from --init, on the device."""
    from guidegen_data.models.precision import choose_device
    from guidegen_data.training.completion import drawn_by
    from guidegen_data.training.drawing_network import check_own, take_network
    from guidegen_data.training.segmenter import trained_segmenter

    if args.num_steps > 0:
        check_own(args.out, drawn_by(args.out))
        _train(args, anatomy, [anatomy.id_of(n) for n in classes])
    else:
        take_network(args.init, args.out, anatomy, drawn_by(args.out))
    return trained_segmenter(args.out, anatomy).to(choose_device(args.device))


def _train(args: argparse.Namespace, anatomy: Anatomy, class_ids: list[int]) -> None:
    """Trains the network with a progress bar."""
    from dataclasses import replace

    from tqdm import tqdm

    from guidegen_data.training.segmenter import segmenter_recipe, train_segmenter
    from guidegen_data.training.stages import Setting

    recipe, every = segmenter_recipe(args.num_steps), max(1, args.num_steps // 6)
    recipe = replace(recipe, fit=replace(recipe.fit, validate_every=every))
    setting = Setting(args.out / "segmenter", recipe, anatomy, args.device, args.init and str(args.init))
    with tqdm(total=args.num_steps, desc="training", unit="step", disable=None) as bar:
        for step in train_segmenter(args.prepared, setting, class_ids):
            bar.update(step.number + 1 - bar.n)
            bar.set_postfix({k: f"{v:.3f}" for k, v in step.losses.items()}, refresh=False)
