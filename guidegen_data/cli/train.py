"""`guidegen train`: one stage of a model from prepared cases."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

HELP = "train one stage: autoencoder, masks or slices"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen train`."""
    parser.description = (
        "Trains one stage. The autoencoder learns from a folder of CTs; masks and slices from the folder that "
        "`guidegen prepare` made. A run is resumed exactly by the same command; losses go to RUN/log.jsonl, the "
        "averaged weights to RUN/model. Join the three with `guidegen export`."
    )
    parser.add_argument("stage", choices=["autoencoder", "masks", "slices"])
    parser.add_argument("data", type=Path, help="autoencoder: folder of CTs; masks, slices: prepared folder")
    parser.add_argument("run", type=Path, help="folder of this run")
    parser.add_argument("--autoencoder", type=Path, help="run folder of the trained autoencoder (needed by slices)")
    parser.add_argument(
        "--anatomy", help="label table: torso, head-neck or a YAML file (default: the prepared folder's)"
    )
    parser.add_argument("--recipe", default="small", help="tiny, small or base (default small)")
    parser.add_argument("--num-steps", type=int, help="train for so many steps instead of the recipe's")
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="NAME", help="autoencoder: CTs to keep aside")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Trains with a progress bar and prints the last losses."""
    import torch
    from tqdm import tqdm

    from guidegen_data.anatomy_files import FILE_NAME, anatomy_from
    from guidegen_data.cli.memory import keep_freed_memory
    from guidegen_data.training.recipes import recipe_named

    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    held = args.data / FILE_NAME
    anatomy = anatomy_from(args.anatomy or (held if held.exists() else "torso"))
    stage = recipe_named(args.recipe).stage(args.stage)
    if args.num_steps:
        stage = replace(stage, fit=replace(stage.fit, num_steps=args.num_steps))
    last = None
    bar = tqdm(total=stage.fit.num_steps, desc=args.stage, unit="step", disable=None)
    with bar:
        for last in _steps(args, stage, anatomy):
            bar.update(last.number + 1 - bar.n)
            bar.set_postfix({k: f"{v:.4f}" for k, v in last.losses.items()}, refresh=False)
    if last is None:
        print(f"{args.run} was complete already")
    else:
        print(f"step {last.number + 1}: " + ", ".join(f"{k} {v:.4f}" for k, v in last.losses.items()))
    return 0


def _steps(args: argparse.Namespace, stage, anatomy) -> Iterator:
    from guidegen_data.errors import ModelError
    from guidegen_data.training import stages

    if args.stage == "autoencoder":
        return stages.train_autoencoder(args.data, args.run, stage, anatomy, tuple(args.leave_out))
    if args.stage == "masks":
        return stages.train_masks(args.data, args.run, stage, anatomy)
    if args.autoencoder is None:
        raise ModelError("training slices needs --autoencoder RUN, the run folder of a trained autoencoder.")
    return stages.train_slices(args.data, args.run, stage, anatomy, args.autoencoder)
