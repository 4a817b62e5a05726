"""`guidegen-shard`: report text -> shards of paired CTs and label maps."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from guidegen_data.errors import ShardError

if TYPE_CHECKING:
    from guidegen_data.anatomy import Anatomy
    from guidegen_data.shards.manifest import RunConfig
    from guidegen_data.shards.plan import CaseGenerator, ReportSource

HELP = """\
Generate paired CTs and label maps from report text into a folder of shards.

A shard is a plain tar that holds KEY.ct.nii.gz (HU), KEY.label.nii.gz, KEY.report.txt and KEY.meta.json for every
case; MONAI (guidegen_data.GuideGenDataset), webdataset and any NIfTI viewer read it. Case i depends on the model, the
options and (seed, i) alone: the same bytes whatever the number of workers. An interrupted run goes on when the same
command is given again; a finished one is not touched.
"""
_EXAMPLES = """\
examples:
  guidegen-shard --n 4
  guidegen-shard --n 200 --out liver --report "CT abdomen. 30 mm hypodense mass in the right lobe of the liver."
  guidegen-shard --n 10000 --workers 4 --out big      # add --dry-run to see disk and shards first
"""
# Bytes of a case per voxel, CT and label map together, gzipped: 0.85 to 0.9 measured on real CTs at 3 mm.
_BYTES_PER_VOXEL = 1.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen-shard`."""
    parser.epilog = _EXAMPLES
    what = parser.add_argument_group("what to generate")
    what.add_argument("--n", type=_positive, required=True, help="number of cases")
    what.add_argument("--seed", type=_not_negative, default=0, help="another seed gives other cases (default 0)")
    what.add_argument(
        "--report", action="append", default=[], metavar="TEXT",
        help="report to draw; repeat it for several, case i takes them in turns (default: sampled findings)",
    )  # fmt: skip
    what.add_argument(
        "--templates", metavar="FILE|NAME", help="how sampled findings are worded (default: those of the anatomy)"
    )
    how = parser.add_argument_group("model")
    how.add_argument("--model", default="torso", metavar="NAME|PATH", help="installed model or folder (default torso)")
    how.add_argument("--steps-mask", type=_positive, metavar="S", help="denoising steps of the mask (default: model's)")
    how.add_argument("--steps-ct", type=_positive, metavar="S", help="denoising steps a slice (default: model's)")
    how.add_argument("--guidance", type=float, metavar="G", help="1 follows the text as trained, more insists on it")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default auto)")
    how.add_argument("--workers", type=_positive, default=1, metavar="W", help="processes that generate (default 1)")
    where = parser.add_argument_group("folder")
    where.add_argument("--out", type=Path, default=Path("guidegen-shard"), metavar="DIR", help="default %(default)s")
    where.add_argument("--shard-size", type=_positive, default=64, metavar="N", help="cases a shard (default 64)")
    where.add_argument("--no-qc", action="store_true", help="keep cases that fail a quality check, with their verdict")
    where.add_argument("--overwrite", action="store_true", help="replace shards of another configuration in DIR")
    where.add_argument("--dry-run", action="store_true", help="print the plan and the disk it needs, generate nothing")


def run(args: argparse.Namespace) -> int:
    """Generate what is missing. GuideGenError with a sentence for anything that cannot be done; nothing is begun."""
    from guidegen_data.shards import workers
    from guidegen_data.shards.folder import check_folder
    from guidegen_data.shards.manifest import RunConfig
    from guidegen_data.shards.plan import ReportSource, make_recipe

    if args.report and args.templates:
        raise ShardError("--templates word sampled findings, --report gives the words; use one of the two.")
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    kind = workers.device_kind(args.device)
    load = partial(_load, workers.load_generator, args.model, args.device)
    generator = load()
    recipe = make_recipe(
        generator,
        device=kind,
        seed=args.seed,
        templates=args.templates,
        reports=args.report,
        num_steps_mask=args.steps_mask,
        num_steps_ct=args.steps_ct,
        guidance=args.guidance,
        quality_control=not args.no_qc,
    )
    config = RunConfig(recipe, args.n, args.model, args.shard_size)
    _tell_readings(ReportSource(recipe, generator.anatomy))
    check_folder(args.out, config, args.overwrite)
    if args.dry_run:
        _print_plan(args.out, config, generator.anatomy)
        return 0
    _check_disk(args.out, config, generator.anatomy)
    _generate(args, config, generator, load)
    print(f"{args.out}: {config.n} cases in {config.num_shards} shards")
    return 0


def _load(load_generator: Callable[[str, str], CaseGenerator], model: str, device: str) -> CaseGenerator:
    # Called in every worker process too, so that each keeps its memory.
    from guidegen_data.cli.memory import keep_freed_memory

    keep_freed_memory()
    return load_generator(model, device)


def _generate(
    args: argparse.Namespace, config: RunConfig, generator: CaseGenerator, load: partial[CaseGenerator]
) -> None:
    from tqdm import tqdm

    from guidegen_data.shards.workers import make_shards

    # Workers load their own generators; alone, this process uses the one it has.
    source = load if args.workers > 1 else lambda: generator
    steps = make_shards(args.out, config, source, args.workers, args.overwrite)
    begun = next(steps)
    silent = not sys.stderr.isatty()
    with tqdm(total=config.n, initial=begun.num_done, unit="case", disable=silent) as bar:
        for progress in steps:
            bar.set_postfix(rejects=progress.num_rejects, refresh=False)
            bar.update(progress.num_done - bar.n)


def _tell_readings(source: ReportSource) -> None:
    for number, abstraction in enumerate(source.abstractions, start=1):
        for what, notes in (("understood", abstraction.understood), ("ignored", abstraction.ignored)):
            for note in notes:
                print(f"report {number}: {what}: {note}", file=sys.stderr)


def _bytes_needed(config: RunConfig, anatomy: Anatomy) -> float:
    x, y, z = anatomy.shape
    # A shard being written exists twice, as finished blocks and as the shard.
    return (config.n + min(config.n, config.shard_size)) * x * y * z * _BYTES_PER_VOXEL


def _print_plan(folder: Path, config: RunConfig, anatomy: Anatomy) -> None:
    size = " x ".join(str(v) for v in anatomy.shape)
    spacing = " x ".join(f"{v:g}" for v in anatomy.spacing_mm)
    recipe = config.recipe
    words = f"{len(recipe.reports)} reports in turns" if recipe.reports else f"templates {recipe.templates!r}"
    print(f"{config.n} cases of {size} voxels at {spacing} mm, by {words}, seed {recipe.seed}")
    print(f"{config.num_shards} shards in {folder}, generated in {config.num_blocks} blocks of {recipe.block_size}")
    print(f"about {_bytes_needed(config, anatomy) / 1e9:.2f} GB of disk at the most; {_free(folder) / 1e9:.2f} GB free")
    print(f"model {config.model} {recipe.model_sha256[:16]} on {recipe.device}")


def _check_disk(folder: Path, config: RunConfig, anatomy: Anatomy) -> None:
    done = sum(p.stat().st_size for p in folder.rglob("*.tar")) if folder.is_dir() else 0
    needed, free = _bytes_needed(config, anatomy) - done, _free(folder)
    if needed > free:
        raise ShardError(
            f"{config.n} cases need about {needed / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB free; free some "
            f"space, or give another --out or a smaller --n."
        )


def _free(folder: Path) -> int:
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def _not_negative(text: str) -> int:
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {value}")
    return value
