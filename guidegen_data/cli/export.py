"""`guidegen export`: three trained stages -> one model folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "join three trained stages into one model folder"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen export`."""
    parser.description = "Joins the runs of `guidegen train masks` and `guidegen train slices` into a model folder."
    parser.add_argument("masks", type=Path, help="run folder of stage 1")
    parser.add_argument("slices", type=Path, help="run folder of stage 2 (holds its autoencoder and its tissues)")
    parser.add_argument("--decoder", type=Path, help="run folder of a decoder trained for these slices")
    parser.add_argument("out", type=Path, help="model folder to write: safetensors in half precision")
    parser.add_argument(
        "--anatomy", help="label table: torso, head-neck or a YAML file (default: the one the run of stage 1 had)"
    )
    parser.add_argument(
        "--checkpoint", choices=["best", "last"], default="best",
        help="best validated weights where a run was validated, or the last ones (default best)",
    )  # fmt: skip
    parser.add_argument("--licence", default="", help="licence of the weights, for the card, e.g. 'CC BY 4.0'")
    parser.add_argument("--steps-mask", type=int, default=16, help="default steps of stage 1 (default 16)")
    parser.add_argument(
        "--steps-ct", type=int, default=3, help="default steps a slice (default 3; distilled slices may need only 2)"
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
        default=0.0,
        help="correlation of the noise that neighbouring slices start from, 0 to 1 (default 0; the torso has 0.75)",
    )
    parser.add_argument("--last-timestep", type=int, default=130, help="start of the final step (default 130)")
    parser.add_argument(
        "--size-strength",
        type=float,
        default=0.6,
        help="push of organs said to be enlarged or small where the table has no usual sizes (default 0.6)",
    )
    parser.add_argument("--guidance", type=float, default=1.0, help="default guidance of stage 1 (default 1)")


def _weights(run: Path, checkpoint: str) -> Path:
    from guidegen_data.training.run_state import best_or_last

    return best_or_last(run) if checkpoint == "best" else run / "model"


def run(args: argparse.Namespace) -> int:
    """Writes the folder with its card (README.md) and prints its size."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    from guidegen_data.anatomy import TISSUES
    from guidegen_data.anatomy_files import FILE_NAME, anatomy_from, write_anatomy
    from guidegen_data.errors import ModelError
    from guidegen_data.models.autoencoder import CTAutoencoder
    from guidegen_data.models.mask_sampler import MaskSampler
    from guidegen_data.models.slice_generator import SliceGenerator
    from guidegen_data.models.tissue import TissueNetwork
    from guidegen_data.pipeline import CategoricalScheduler, GuideGenPipeline
    from guidegen_data.training.initial import Initial, trained_part
    from guidegen_data.training.masks import read_volume_ratio
    from guidegen_data.training.provenance import model_card
    from guidegen_data.training.run_state import load_part

    if args.delay_ct is not None and args.delay_ct < 1:
        raise ModelError(f"--delay-ct is a number of steps from 1, got {args.delay_ct}.")
    if not 0 <= args.noise_correlation < 1:
        raise ModelError(f"--noise-correlation is from 0 to below 1, got {args.noise_correlation:g}.")
    if args.out.exists() and any(args.out.iterdir()) and not (args.out / "model_index.json").exists():
        raise ModelError(f"{args.out} holds something that is no model; choose an empty folder.")
    for run_of, part in ((args.masks, Initial.MASKS), (args.slices, Initial.SLICES)):
        trained_part(run_of, part)  # or another stage's weights would be read into it, with pages of warnings
    held = args.masks / FILE_NAME
    anatomy = anatomy_from(args.anatomy or (held if held.exists() else "torso"))
    masks = load_part(MaskSampler, _weights(args.masks, args.checkpoint))
    held = args.slices / Initial.TISSUE.value
    tissue = load_part(TissueNetwork, held) if held.is_dir() else None
    slices = load_part(SliceGenerator, _weights(args.slices, args.checkpoint))
    if slices.config.num_classes != anatomy.num_classes + (0 if tissue is None else len(TISSUES)):
        raise ModelError(f"{args.slices} learned another label table than {anatomy.name}; give runs that agree.")
    decoder = _weights(args.decoder, args.checkpoint) if args.decoder else args.slices / "autoencoder"
    pipe = GuideGenPipeline(
        masks,
        CategoricalScheduler(num_classes=masks.config.num_classes, last_timestep=args.last_timestep),
        load_part(CTAutoencoder, decoder),
        slices,
        FlowMatchEulerDiscreteScheduler(),
        tissue_network=tissue,
        anatomy_name=anatomy.name,
        num_steps_mask=args.steps_mask,
        num_steps_ct=args.steps_ct,
        delay_ct=args.delay_ct,
        noise_correlation=args.noise_correlation,
        guidance=args.guidance,
        size_strength=args.size_strength,
        volume_ratio=read_volume_ratio(args.masks),
    )
    for part in filter(None, (pipe.mask_sampler, pipe.autoencoder, pipe.slice_generator, tissue)):
        torch.nn.Module.to(part, torch.float16)
    pipe.save_pretrained(args.out, safe_serialization=True)
    write_anatomy(anatomy, args.out / FILE_NAME)
    for config in args.out.glob(
        "*/config.json"
    ):  # diffusers notes the folder a part came from: this machine's business
        kept = {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"}
        config.write_text(json.dumps(kept, indent=2) + "\n")
    card = model_card(args.out.resolve().name, anatomy, args.masks, args.slices, args.licence, args.decoder)
    (args.out / "README.md").write_text(card, encoding="utf-8")
    size = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB")
    return 0
