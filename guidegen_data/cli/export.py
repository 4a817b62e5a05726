"""`guidegen export`: three trained stages -> one model folder."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from guidegen_data.cli.export_options import OF_RUNS, check_options, config_of_slices, options_of_runs
from guidegen_data.cli.export_parts import autoencoder_of, detail_of, of_many_patients, slices_of, weights_of
from guidegen_data.cli.numbers import finite, not_negative, positive

HELP = "join three trained stages into one model folder"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen export`."""
    parser.description = (
        "Joins the runs of `guidegen train masks` and `guidegen train slices` into a model folder. With a model for "
        "the slices (RUN torso OUT) OUT is that model with this stage 1, with a model for stage 1 (torso RUN OUT) that "
        "model with these slices, with one model for both (torso torso OUT --detail RUN, --decoder RUN or --fat RUN) "
        "that model with this part; all else of it is as it was. "
        "--second-reader adds a network that looks at every CT which the model makes: cases in which it does not find "
        "the organs of the label map are refused."
    )
    parser.add_argument("masks", type=Path, help="run folder of stage 1, or a model")
    parser.add_argument(
        "slices", type=Path, help="run folder of stage 2 (holds its autoencoder and its tissues), or a model"
    )
    parser.add_argument("--decoder", type=Path, help="run folder of a decoder trained for these slices or this model")
    parser.add_argument("--detail", type=Path, help="run folder of the detail to be drawn after stage 1")
    parser.add_argument(
        "--fat",
        type=Path,
        help="run folder of the fat that slices are told of, in place of the one they learned with",
    )
    parser.add_argument(
        "--second-reader",
        type=Path,
        metavar="COMPLETED",
        help="folder that `guidegen complete` wrote: its network shall read every CT that the model makes",
    )
    parser.add_argument(
        "--read-percentile",
        type=float,
        default=10.0,
        metavar="P",
        help="an organ must be found as well as in all but P of 100 held-out patients (default 10)",
    )
    parser.add_argument("out", type=Path, help="model folder to write: safetensors in half precision")
    parser.add_argument(
        "--anatomy", help="label table: torso, head-neck or a YAML file (default: the one the run of stage 1 had)"
    )
    parser.add_argument(
        "--checkpoint", choices=["best", "last"], default="best",
        help="best validated weights where a run was validated, or the last ones (default best)",
    )  # fmt: skip
    parser.add_argument("--licence", help="licence of the weights, for the card, e.g. 'CC BY 4.0'")
    parser.add_argument("--steps-mask", type=positive, help="default steps of stage 1 (default 16)")
    parser.add_argument("--steps-detail", type=int, default=6, help="default steps of the detail (default 6)")
    parser.add_argument(
        "--steps-ct", type=positive, help="default steps a slice (default 3; distilled slices may need only 2)"
    )
    parser.add_argument(
        "--delay-ct",
        type=int,
        metavar="STEPS",
        help="steps after which the next slice starts, side by side with this one; fewer are faster and part slices "
        "more (default: when this one is finished)",
    )
    parser.add_argument(
        "--noise-correlation",
        type=float,
        help="correlation of the noise that neighbouring slices start from, 0 to 1 (default 0; the torso has 0.75)",
    )
    parser.add_argument("--last-timestep", type=not_negative, help="start of the final step (default 130)")
    parser.add_argument(
        "--size-strength",
        type=finite,
        help="push of organs said to be enlarged or small where the table has no usual sizes (default 0.6)",
    )
    parser.add_argument("--guidance", type=finite, help="default guidance of stage 1 (default 1)")
    parser.set_defaults(**OF_RUNS)


def run(args: argparse.Namespace) -> int:
    """Writes the folder with its card (README.md) and prints its size."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    from guidegen_data.anatomy_files import FILE_NAME, anatomy_from, write_anatomy
    from guidegen_data.errors import ModelError
    from guidegen_data.models.folder import is_model
    from guidegen_data.models.mask_sampler import MaskSampler
    from guidegen_data.pipeline import CategoricalScheduler, GuideGenPipeline
    from guidegen_data.training.beside import check_table
    from guidegen_data.training.initial import Initial, trained_part
    from guidegen_data.training.masks import read_volume_ratio
    from guidegen_data.training.model_parts import put_reader
    from guidegen_data.training.provenance import model_card
    from guidegen_data.training.run_state import load_part
    from guidegen_data.training.second_reader import reader_of

    check_options(args)
    if args.out.exists() and any(args.out.iterdir()) and not (args.out / "model_index.json").exists():
        raise ModelError(f"{args.out} holds something that is no model; choose an empty folder.")
    if args.masks == args.slices or is_model(args.slices) or is_model(args.masks):
        return _into_model(args)
    for run_of, part in ((args.masks, Initial.MASKS), (args.slices, Initial.SLICES)):
        trained_part(run_of, part)  # or another stage's weights would be read into it, with pages of warnings
    held = args.masks / FILE_NAME
    anatomy = anatomy_from(args.anatomy or (held if held.exists() else "torso"))
    for run_of in (args.masks, args.slices) if args.anatomy else (args.slices,):
        check_table(run_of, anatomy)
    masks = load_part(MaskSampler, weights_of(args.masks, args.checkpoint))
    slices, tissue = slices_of(args, args.slices, anatomy)
    detail = detail_of(args, anatomy) if args.detail else None
    reader = reader_of(args.second_reader, anatomy, args.read_percentile) if args.second_reader else None
    pipe = GuideGenPipeline(
        masks,
        CategoricalScheduler(num_classes=masks.config.num_classes, last_timestep=args.last_timestep),
        autoencoder_of(args, args.slices, anatomy),
        slices,
        FlowMatchEulerDiscreteScheduler(),
        tissue_network=tissue,
        detail_network=detail,
        anatomy_name=anatomy.name,
        num_steps_mask=args.steps_mask,
        num_steps_ct=args.steps_ct,
        num_steps_detail=args.steps_detail,
        delay_ct=args.delay_ct,
        noise_correlation=args.noise_correlation,
        guidance=args.guidance,
        size_strength=args.size_strength,
        hold_contrast=of_many_patients(args.slices),
        volume_ratio=read_volume_ratio(args.masks),
    )
    for part in filter(None, (pipe.mask_sampler, pipe.autoencoder, pipe.slice_generator, tissue, detail)):
        torch.nn.Module.to(part, torch.float16)
    for name in GuideGenPipeline._optional_components:  # of a model that was here before
        shutil.rmtree(args.out / name, ignore_errors=True)
    pipe.save_pretrained(args.out, safe_serialization=True)
    write_anatomy(anatomy, args.out / FILE_NAME)
    _for_others(args.out)
    name, runs = args.out.resolve().name, (args.masks, args.slices)
    card = model_card(name, anatomy, *runs, args.licence, args.decoder, args.detail, args.checkpoint)
    (args.out / "README.md").write_text(card, encoding="utf-8")
    if reader is not None:
        put_reader(args.out, *reader)
    return _told_size(args.out)


def _into_model(args: argparse.Namespace) -> int:
    """Writes the one that is a model of stage 1 and slices with the parts that are runs."""
    from guidegen_data.anatomy_files import FILE_NAME, anatomy_from
    from guidegen_data.errors import ModelError
    from guidegen_data.models.folder import anatomy_name_of, is_model, model_folder
    from guidegen_data.models.mask_sampler import MaskSampler
    from guidegen_data.training.beside import check_table
    from guidegen_data.training.initial import Initial, trained_part
    from guidegen_data.training.masks import read_volume_ratio
    from guidegen_data.training.model_parts import copy_model, drop_part, put_part, put_reader
    from guidegen_data.training.provenance import run_facts, tissue_facts
    from guidegen_data.training.run_state import load_part
    from guidegen_data.training.second_reader import reader_of

    new_slices, tissue = is_model(args.masks) and not is_model(args.slices), None
    folder = model_folder(str(args.masks if new_slices else args.slices))
    parts: list[tuple[Initial, Any, str, dict[str, Any] | None, dict[str, Any]]] = []
    if args.masks == args.slices and not (args.decoder or args.detail or args.fat or args.second_reader):
        raise ModelError(
            "one model for both stages is exported with another --decoder, --detail, --fat or "
            "--second-reader; give one."
        )
    if changed := options_of_runs(args, new_slices):
        raise ModelError(f"{folder.name} is kept as it is but for its new parts; leave {', '.join(changed)}.")
    held, of_slices = folder / FILE_NAME, args.slices if new_slices else folder
    anatomy = anatomy_from(str(held) if held.exists() else anatomy_name_of(folder))
    if new_slices:
        trained_part(args.slices, Initial.SLICES)
        check_table(args.slices, anatomy)
    if new_slices or args.fat:
        slices, tissue = slices_of(args, of_slices, anatomy)
    if new_slices:
        how = config_of_slices(args)
        parts.append((Initial.SLICES, slices, "slices", run_facts(args.slices, args.checkpoint), how))
        if not args.decoder:
            parts.append((Initial.AUTOENCODER, autoencoder_of(args, args.slices, anatomy), "autoencoder", None, {}))
    elif args.masks != args.slices:
        trained_part(args.masks, Initial.MASKS)
        check_table(args.masks, anatomy)
        masks, ratio = load_part(MaskSampler, weights_of(args.masks, args.checkpoint)), read_volume_ratio(args.masks)
        parts.append((Initial.MASKS, masks, "masks", run_facts(args.masks, args.checkpoint), {"volume_ratio": ratio}))
    if tissue is not None:
        facts = run_facts(args.fat, args.checkpoint) if args.fat else tissue_facts(args.slices)
        parts.append((Initial.TISSUE, tissue, "tissue", facts, {}))
    if args.decoder:
        decoder = autoencoder_of(args, of_slices, anatomy)
        parts.append((Initial.AUTOENCODER, decoder, "decoder", run_facts(args.decoder, args.checkpoint), {}))
    if args.detail:
        detail, steps = detail_of(args, anatomy), {"num_steps_detail": args.steps_detail}
        parts.append((Initial.DETAIL, detail, "detail", run_facts(args.detail, args.checkpoint), steps))
    reader = reader_of(args.second_reader, anatomy, args.read_percentile) if args.second_reader else None
    copy_model(folder, args.out)
    if new_slices and tissue is None:  # of the slices that these take the place of
        drop_part(args.out, Initial.TISSUE.value, "tissue")
    for part, network, stage, told, config in parts:
        put_part(args.out, part.value, network, stage, told, **config)
    if reader is not None:
        put_reader(args.out, *reader)
    _for_others(args.out)
    return _told_size(args.out)


def _for_others(out: Path) -> None:
    """Diffusers notes the folder that a part came from, which is this machine's business, and safetensors lets nobody
    but the owner read weights: they become as readable as the files beside them."""
    for config in out.glob("*/config.json"):
        kept = {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"}
        config.write_text(json.dumps(kept, indent=2) + "\n")
        for weights in config.parent.glob("*.safetensors"):
            shutil.copymode(config, weights)


def _told_size(out: Path) -> int:
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")
    return 0
