"""`guidegen-shard`: report text -> shards of paired CTs and label maps."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from guidegen_data.cli.numbers import finite, not_negative, positive
from guidegen_data.errors import ShardError

if TYPE_CHECKING:
    from guidegen_data.anatomy import Anatomy
    from guidegen_data.reports.abstraction import Abstraction
    from guidegen_data.shards.manifest import Recipe, RunConfig
    from guidegen_data.shards.plan import CaseGenerator
    from guidegen_data.shards.pools import Pool
    from guidegen_data.shards.storage import Folder

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
  guidegen-shard --n 10000 --workers auto --out big     # add --dry-run to see time, disk and memory first
  guidegen-shard --n 10000 --ray 10.0.0.1:6379 --out s3://bucket/big
"""
# From so many cases on a run tells what it will take before it starts; the measurement costs the time of about two.
_WORTH_MEASURING = 100
# Where no bar is shown a line is written so often.
_LOG_EVERY_S = 60.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen-shard`."""
    parser.epilog = _EXAMPLES
    what = parser.add_argument_group("what to generate")
    what.add_argument("--n", type=positive, required=True, help="number of cases")
    what.add_argument("--seed", type=not_negative, default=0, help="another seed gives other cases (default 0)")
    what.add_argument(
        "--report", action="append", default=[], metavar="TEXT",
        help="report to draw; repeat it for several, case i takes them in turns (default: sampled findings)",
    )  # fmt: skip
    what.add_argument(
        "--abstractor", default="", metavar="PATH_OR_HUB_ID",
        help="read the reports with this chat model of transformers (a folder, a .gguf file or a hub id), not by rules",
    )  # fmt: skip
    what.add_argument(
        "--templates", metavar="FILE|NAME", help="how sampled findings are worded (default: those of the anatomy)"
    )
    what.add_argument(
        "--sampling", choices=("prevalence", "coverage", "organs"),
        help="draw findings as often as they are met, or every lesion site and size equally, or as often as they are "
        "met but no lesion and no absent organ: to train an organ segmenter, for organs of the head and neck always "
        "(default prevalence)",
    )  # fmt: skip
    what.add_argument(
        "--styles", type=positive, default=1, metavar="M",
        help="of M cases in a row all show one label map, each in a look of its own: contrast phase (of sampled "
        "findings), noise and grain of the image (default 1)",
    )  # fmt: skip
    how = parser.add_argument_group("model")
    how.add_argument("--model", default="torso", metavar="NAME|PATH", help="installed model or folder (default torso)")
    how.add_argument("--steps-mask", type=positive, metavar="S", help="denoising steps of the mask (default: model's)")
    how.add_argument("--steps-ct", type=positive, metavar="S", help="denoising steps a slice (default: model's)")
    how.add_argument("--guidance", type=finite, metavar="G", help="1 follows the text as trained, more insists on it")
    where = parser.add_argument_group("machine")
    where.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default auto)")
    where.add_argument(
        "--workers", type=_workers, metavar="W|auto",
        help="processes that generate (default 1); auto: one for each GPU, or for every two cores",
    )  # fmt: skip
    where.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS",
        help="generate with actors on the Ray cluster at ADDRESS, or on one started here; --workers of them",
    )  # fmt: skip
    where.add_argument(
        "--compile", action="store_true",
        help="compile stage 2's network first: a minute or two at the start and a C++ compiler for fewer seconds a "
        "case; pays from some hundred cases on, and gives other bytes than without",
    )  # fmt: skip
    folder = parser.add_argument_group("folder")
    folder.add_argument(
        "--out", default="guidegen-shard", metavar="DIR|URL", help="or s3://..., gs://... (%(default)s)"
    )
    folder.add_argument("--shard-size", type=positive, default=64, metavar="N", help="cases a shard (default 64)")
    folder.add_argument("--no-qc", action="store_true", help="keep cases that fail a quality check, with their verdict")
    folder.add_argument("--overwrite", action="store_true", help="replace shards of another configuration in DIR")
    folder.add_argument("--dry-run", action="store_true", help="print plan, time, disk and memory; generate nothing")


def run(args: argparse.Namespace) -> int:
    """Generate what is missing. GuideGenError with a sentence for anything that cannot be done; nothing is begun."""
    from guidegen_data.shards import estimate, generators
    from guidegen_data.shards.folder import check_folder
    from guidegen_data.shards.manifest import RunConfig
    from guidegen_data.shards.pools import open_pool
    from guidegen_data.shards.storage import folder_at

    if args.report and (args.templates or args.sampling):
        raise ShardError("--templates and --sampling are for sampled findings, --report gives the words; use one way.")
    if args.abstractor and not args.report:
        raise ShardError("--abstractor reads the texts of --report, and there is none; give a --report or leave it.")
    for text in args.report:
        if os.path.isfile(text):  # of words too long for a name it says no
            raise ShardError(f'--report takes the words of a report, and {text} is a file; give "$(cat {text})".')
    folder = folder_at(args.out)
    with ExitStack() as stack:
        pool = stack.enter_context(open_pool(args.device, args.workers, args.ray))
        load = partial(_load, generators.load_generator, args.model)
        generator = load(pool.own_device)
        recipe = _recipe(args, generator, pool)
        config = RunConfig(recipe, args.n, args.model, args.shard_size)
        if args.dry_run:
            _print_plan(folder, config, generator.anatomy)
            try:
                check_folder(folder, config, args.overwrite)
            except ShardError as error:
                print(f"the run would be refused: {error}")
            print(*_forecast(generator, recipe, config.n, pool), sep="\n")
            return 0
        check_folder(folder, config, args.overwrite)
        estimate.check_disk(folder, config, generator.anatomy)
        _generate(args, folder, config, generator, load, pool)
    print(f"{args.out}: {_many(config.n, 'case')} in {_many(config.num_shards, 'shard')}")
    return 0


def _recipe(args: argparse.Namespace, generator: CaseGenerator, pool: Pool) -> Recipe:
    from guidegen_data.shards.plan import make_recipe

    abstractions = _read_reports(args, generator.anatomy, pool)
    return make_recipe(
        generator,
        device=pool.kind,
        seed=args.seed,
        templates=args.templates,
        sampling=args.sampling or "prevalence",
        reports=args.report,
        num_steps_mask=args.steps_mask,
        num_steps_ct=args.steps_ct,
        guidance=args.guidance,
        quality_control=not args.no_qc,
        abstractor=args.abstractor,
        readings=[a.findings for a in abstractions] if args.abstractor else (),
        styles=args.styles,
        compiled=args.compile,
    )


def _load(load_generator: Callable[[str, str], CaseGenerator], model: str, device: str) -> CaseGenerator:
    # Called in every worker process too, so that each keeps its memory.
    from guidegen_data.cli.memory import keep_freed_memory

    keep_freed_memory()
    generator = load_generator(model, device)
    # Only now: diffusers sets its own level when it is first imported.
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    return generator


def _generate(
    args: argparse.Namespace,
    folder: Folder,
    config: RunConfig,
    generator: CaseGenerator,
    load: Callable[[str], CaseGenerator],
    pool: Pool,
) -> None:
    from tqdm import tqdm

    from guidegen_data.shards.generators import model_card
    from guidegen_data.shards.workers import fill_folder

    compute = partial(pool.compute, config.recipe, load, config.n, generator)
    steps = fill_folder(folder, config, compute, args.overwrite, model_card(args.model))
    begun = next(steps)
    if (num_left := config.n - begun.num_done) >= _WORTH_MEASURING:
        print(*_forecast(generator, config.recipe, num_left, pool), sep="\n", file=sys.stderr)
    silent, last = not sys.stderr.isatty(), time.monotonic()
    with tqdm(total=config.n, initial=begun.num_done, unit="case", disable=silent) as bar:
        for progress in steps:
            rejects = f"rejects {progress.num_rejects} ({progress.reject_share:.0%})"
            bar.set_postfix_str(rejects, refresh=False)
            bar.update(progress.num_done - bar.n)
            if silent and time.monotonic() - last > _LOG_EVERY_S:
                last = time.monotonic()
                print(f"{progress.num_done} of {config.n} cases, {rejects}", file=sys.stderr, flush=True)


def _read_reports(args: argparse.Namespace, anatomy: Anatomy, pool: Pool) -> list[Abstraction]:
    """What is read in the reports, told on stderr. A chat model leaves the memory before the first case is made."""
    from guidegen_data.models.language_model import load_abstractor

    device = pool.kind if pool.own_device == "auto" else pool.own_device
    read = load_abstractor(args.abstractor, device)
    abstractions = [read(text, anatomy) for text in args.report]
    for number, abstraction in enumerate(abstractions, start=1):
        for what, notes in (("understood", abstraction.understood), ("ignored", abstraction.ignored)):
            for note in notes:
                print(f"report {number}: {what}: {note}", file=sys.stderr)
        for field, rules, model in abstraction.disagreements:
            print(f"report {number}: {field}: the rules read {rules!r}, the model {model!r}", file=sys.stderr)
    return abstractions


def _print_plan(folder: Folder, config: RunConfig, anatomy: Anatomy) -> None:
    from guidegen_data.shards.estimate import bytes_needed

    size = " x ".join(str(v) for v in anatomy.shape)
    spacing = " x ".join(f"{v:g}" for v in anatomy.spacing_mm)
    recipe = config.recipe
    sampled = f"findings by {recipe.sampling}, templates {recipe.templates!r}"
    words = f"{len(recipe.reports)} reports in turns" if recipe.reports else sampled
    print(f"{config.n} cases of {size} voxels at {spacing} mm, by {words}, seed {recipe.seed}")
    print(f"{config.num_shards} shards in {folder.url}, generated in {config.num_blocks} blocks of {recipe.block_size}")
    free = folder.free_bytes()
    needed, room = bytes_needed(config, anatomy), "" if free is None else f"; {free / 1e9:.2f} GB free"
    print(f"about {needed / 1e9:.2f} GB of disk at the most{room}")
    if free is not None and needed > free:
        print("the disk cannot hold that: the run would be refused")
    print(f"model {config.model} {recipe.model_sha256[:16]} on {recipe.device}")


def _forecast(generator: CaseGenerator, recipe: Recipe, num_cases: int, pool: Pool) -> list[str]:
    """What a run takes, in up to three lines; measured by a few drafts with few steps."""
    from guidegen_data.shards.estimate import duration, free_memory_gib, measure

    if pool.kind == "cuda" and pool.own_device == "cpu":
        return [f"{pool}: their GPUs are elsewhere, so time and memory are not measured; see the bar after some blocks"]
    print("measuring how long a case takes here ...", file=sys.stderr, flush=True)
    found = measure(generator, recipe)
    seconds = found.seconds_a_case * num_cases / pool.speedup
    lines = [
        f"about {duration(seconds)} for {num_cases} cases with {pool}, rejected drafts not counted "
        f"({found.seconds_a_case:.2f} s a case, measured just now)",
        f"about {found.peak_gib:.2f} GiB of memory a process, {found.peak_gib * pool.number:.2f} GiB in all",
    ]
    free = free_memory_gib()
    if pool.kind == "cpu" and pool.is_here and free is not None and found.peak_gib * (pool.number - 1) > free:
        lines.append(f"that is more than the {free:.2f} GiB that are free: give fewer --workers")
    return lines


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _workers(text: str) -> int | str:
    return text if text == "auto" else positive(text)
