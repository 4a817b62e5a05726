"""`guidegen train`: one stage of a model from prepared cases."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

#: Options that only these stages know.
_ONLY_FOR = {
    "autoencoder": ("slices", "decoder"),
    "adversarial": ("decoder",),
    "tissue": ("slices",),
    "classes": ("detail",),
    "thin_weight": ("masks",),
    "redrawn_by": ("detail",),
    "loose_tissues": ("slices",),
}

HELP = "train one stage: autoencoder, masks, detail, tissue, slices or decoder"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen train`."""
    parser.description = (
        "Trains one stage from the folder that `guidegen prepare` made; the autoencoder also from a folder of CTs. A "
        "run is resumed exactly by the same command, and refused with other data; losses go to RUN/log.jsonl, "
        "validation figures to RUN/validation.jsonl, sample sheets to RUN/sheets, the averaged weights to RUN/model "
        "and the best validated ones to RUN/best. Detail is optional: at full resolution it draws classes anew for "
        "which the grid of stage 1 is too coarse (--classes vertebrae rib). Tissue is optional: where no class of the "
        "label table is the body, it says where fat, soft tissue and bone lie, and where one class is all soft tissue, "
        "where the fat in it lies, for slices to be told (--tissue). The "
        "decoder comes last and is optional: it learns to draw borders from the label map and leaves the latents as "
        "they are. Join the stages with `guidegen export`. Several GPUs or nodes: start it with `accelerate launch -m "
        "guidegen_data.cli.main train ...`."
    )
    parser.add_argument("stage", choices=["autoencoder", "masks", "detail", "tissue", "slices", "decoder"])
    parser.add_argument("data", type=Path, help="prepared folder; autoencoder: also a folder of NAME_ct volumes")
    parser.add_argument("run", type=Path, help="folder of this run")
    parser.add_argument(
        "--autoencoder",
        type=Path,
        help="slices: run folder of the trained autoencoder (default: that of the --init model); "
        "decoder: of the slices it decodes",
    )
    parser.add_argument(
        "--tissue",
        type=Path,
        help="slices: run folder of the tissues to be told (default: those of the --init model, if it has some)",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="NAME",
        help="detail: the classes to draw anew, such as no report tells the size of (default: those of --init)",
    )
    parser.add_argument(
        "--thin-weight",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="masks: parts less than three voxels thick, and what lies beside them, count 1 + WEIGHT times, so that "
        "walls and tubes close (e.g. 4; default 0)",
    )
    parser.add_argument(
        "--redrawn-by",
        metavar="MODEL",
        help="detail: learn from label maps as the stage 1 of this model draws them, with its errors, instead of "
        "smoothed ones (slower)",
    )
    parser.add_argument(
        "--loose-tissues",
        action="store_true",
        help="slices: learn from smoothed tissues of the table (those cut out by HU, as soft tissue and bone of "
        "head-neck) and draw their detail; label maps then get the tissues of their CT",
    )
    parser.add_argument(
        "--anatomy", help="label table: torso, head-neck or a YAML file (default: the prepared folder's)"
    )
    parser.add_argument("--recipe", default="small", help="tiny, small, base or paper (default small)")
    parser.add_argument("--recipes", action="store_true", help="print what each recipe costs for this stage, and stop")
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="start from the weights of a model, e.g. torso, or of another run of this stage (fine-tuning)",
    )
    parser.add_argument("--num-steps", type=int, help="train for so many steps instead of the recipe's")
    parser.add_argument("--batch-size", type=int, help="examples a batch instead of the recipe's")
    parser.add_argument("--accumulate", type=int, help="batches a step instead of the recipe's")
    parser.add_argument("--learning-rate", type=float, help="peak learning rate instead of the recipe's")
    parser.add_argument(
        "--validate-every",
        type=int,
        metavar="STEPS",
        help="validate and draw a sheet (default: 10 times a run; 0: never)",
    )
    parser.add_argument("--patience", type=int, help="stop after so many validations without a better total")
    parser.add_argument("--tensorboard", action="store_true", help="also log to RUN/tensorboard")
    parser.add_argument(
        "--leave-out",
        nargs="*",
        default=[],
        metavar="NAME",
        help="volumes to keep aside, e.g. for `guidegen evaluate`: "
        "nothing that was made of them is trained on, and the model's card names them",
    )
    parser.add_argument(
        "--adversarial",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="decoder: train a patch discriminator beside it that counts so much (e.g. 0.01; default 0: none)",
    )
    parser.add_argument(
        "--distil",
        type=int,
        default=0,
        metavar="STEPS",
        help="slices: learn from what the --init model makes in so many steps (e.g. 8), to need fewer (default 0: no)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    parser.add_argument(
        "--workers", type=int, help="processes that read the cases once, before training (default: cores)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Trains with a progress bar and prints the last losses."""
    import sys

    import torch
    from tqdm import tqdm

    from guidegen_data.anatomy_files import FILE_NAME, anatomy_from
    from guidegen_data.cli.memory import keep_freed_memory
    from guidegen_data.models.precision import choose_device, compute_dtype
    from guidegen_data.tissue_rule import fat_class
    from guidegen_data.training.costs import recipe_table, stage_cost
    from guidegen_data.training.recipes import recipe_named

    held = args.data / FILE_NAME
    anatomy = anatomy_from(args.anatomy or (held if held.exists() else "torso"))
    # Where a table has the body, its tissue is the fat in it: a network of its own.
    part = "fat" if args.stage == "tissue" and fat_class(anatomy) is not None else args.stage
    if args.recipes:
        print(recipe_table(part, anatomy))
        return 0
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    stage = recipe_named(args.recipe).stage(part)
    stage = replace(stage, fit=replace(stage.fit, **_fit_choices(args, stage.fit)))
    if not args.init:
        native = compute_dtype(choose_device(args.device)) == torch.bfloat16
        print(f"{args.recipe}, {args.stage}: {stage_cost(part, stage, anatomy, native).line()}", file=sys.stderr)
    last = None
    bar = tqdm(total=stage.fit.num_steps, desc=args.stage, unit="step", disable=None)
    with bar, _Board(args.run, args.tensorboard) as board:
        for last in _steps(args, stage, anatomy):
            bar.update(last.number + 1 - bar.n)
            bar.set_postfix({k: f"{v:.4f}" for k, v in last.losses.items()}, refresh=False)
            board.write(last)
    print(_summary(args.run, last))
    return 0


def _fit_choices(args: argparse.Namespace, fit) -> dict:
    """What the user chose over the recipe. Validation is ten times a run where the data was split."""
    from guidegen_data.sources.prepared import validation_folder

    wanted = {
        "num_steps": args.num_steps,
        "batch_size": args.batch_size,
        "accumulate": args.accumulate,
        "learning_rate": args.learning_rate,
        "patience": args.patience,
    }
    chosen = {k: v for k, v in wanted.items() if v is not None}
    every = args.validate_every
    if every is None:
        every = max(1, chosen.get("num_steps", fit.num_steps) // 10) if validation_folder(args.data) else 0
    return chosen | {"validate_every": every}


def _steps(args: argparse.Namespace, stage, anatomy) -> Iterator:
    from guidegen_data.sources.processes import usable_cores
    from guidegen_data.training import stages
    from guidegen_data.training.provenance import about_run, check_about, write_about

    _check_options(args)
    left_out = tuple(args.leave_out)
    beside = (args.autoencoder, args.tissue, args.distil, args.adversarial, args.redrawn_by, args.thin_weight)
    about = about_run(args.stage, args.recipe, anatomy, args.data, args.init, left_out, *beside)
    check_about(args.run, about)
    if os.environ.get("RANK", "0") == "0":
        write_about(args.run, about)
    workers = args.workers or usable_cores()
    setting = stages.Setting(args.run, stage, anatomy, args.device, args.init, workers=workers, leave_out=left_out)
    if args.stage == "autoencoder":
        return stages.train_autoencoder(args.data, setting)
    if args.stage == "masks":
        return stages.train_masks(args.data, setting, args.thin_weight)
    if args.stage == "decoder":
        from guidegen_data.training.decoder import train_decoder

        return train_decoder(args.data, setting, args.autoencoder, args.adversarial)
    if args.stage == "detail":
        from guidegen_data.training.detail import train_detail

        return train_detail(args.data, setting, args.classes, args.redrawn_by)
    if args.stage == "tissue":
        from guidegen_data.tissue_rule import fat_class
        from guidegen_data.training.fat import train_fat
        from guidegen_data.training.tissue import train_tissue

        return train_tissue(args.data, setting) if fat_class(anatomy) is None else train_fat(args.data, setting)
    return stages.train_slices(args.data, setting, args.autoencoder, args.distil, args.tissue, args.loose_tissues)


def _check_options(args: argparse.Namespace) -> None:
    """ModelError for an option of another stage, and for one that is missing."""
    from guidegen_data.errors import ModelError

    if args.stage == "slices" and args.autoencoder is None and not args.init:
        raise ModelError("training slices needs --autoencoder RUN, the run folder of a trained autoencoder.")
    if args.stage == "decoder" and args.autoencoder is None:
        raise ModelError("training a decoder needs --autoencoder RUN, the run folder of the slices it is for.")
    for option, stages in _ONLY_FOR.items():
        if getattr(args, option) and args.stage not in stages:
            named = " and ".join("the decoder" if stage == "decoder" else stage for stage in stages)
            raise ModelError(f"--{option.replace('_', '-')} is for {named}, not for {args.stage}; leave it.")
    if args.stage == "decoder" and args.init:
        raise ModelError("a decoder starts from its --autoencoder; leave --init.")
    for option in ("adversarial", "thin_weight"):
        if (weight := getattr(args, option)) < 0:
            raise ModelError(f"--{option.replace('_', '-')} is a weight of at least 0, got {weight}.")
    if args.distil and (args.stage != "slices" or not args.init):
        raise ModelError("--distil is for slices, and needs --init MODEL, the model to learn from.")
    if args.distil < 0:
        raise ModelError(f"--distil is a number of steps, got {args.distil}.")


def _summary(run: Path, last) -> str:
    if last is None:
        return f"{run} was complete already"
    said = f"step {last.number + 1}: " + ", ".join(f"{k} {v:.4f}" for k, v in last.losses.items())
    if last.validation is not None:
        said += "; validation " + ", ".join(f"{k} {v:.4f}" for k, v in last.validation.items())
    return said + ("; stopped early, validation got no better" if last.stopped else "")


class _Board:
    """TensorBoard logs, where they are asked for."""

    def __init__(self, run: Path, wanted: bool) -> None:
        self.writer = _writer(run / "tensorboard") if wanted else None

    def __enter__(self) -> _Board:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def write(self, step) -> None:
        """The losses of a step, and its validation figures where there are some."""
        if self.writer is None:
            return
        for name, value in {**step.losses, "gradient_norm": step.gradient_norm}.items():
            self.writer.add_scalar(f"training/{name}", value, step.number)
        for name, value in (step.validation or {}).items():
            self.writer.add_scalar(f"validation/{name}", value, step.number)


def _writer(folder: Path):
    from guidegen_data.errors import ModelError

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ModelError('--tensorboard needs the extra: pip install "guidegen-data[tensorboard]".') from error
    return SummaryWriter(str(folder))
