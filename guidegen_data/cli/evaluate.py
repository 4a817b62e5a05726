"""`guidegen evaluate`: figures of a model against real data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "measure a model against real data (autoencoder: reconstruction error in HU)"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen evaluate`."""
    parser.description = (
        "Prints the autoencoder's mean absolute error in HU within the body, for each CT of a folder and each display "
        "window. Give CTs the training never saw; the model card names the ones left out of the default torso model."
    )
    parser.add_argument("what", choices=["autoencoder"])
    parser.add_argument("data", type=Path, help="folder of NAME_ct.nii.gz")
    parser.add_argument("--model", default="torso", help="installed model or folder (default torso)")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="measure these CTs only")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def run(args: argparse.Namespace) -> int:
    """Measures, prints one line a CT, and the table as JSON when asked."""
    from guidegen_data.cli.memory import keep_freed_memory
    from guidegen_data.errors import SourceError
    from guidegen_data.metrics.reconstruction import reconstruct, window_errors_hu
    from guidegen_data.pipeline import GuideGenPipeline
    from guidegen_data.sources.bases import find_bases
    from guidegen_data.sources.volumes import Volume, read_ct, resample_ct, without_table

    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained(args.model, device="cpu")
    found = {n: ct for n, (ct, _) in find_bases(args.data).items() if ct and (not args.only or n in args.only)}
    if not found:
        raise SourceError(f"{args.data} holds no CT named {args.only or 'NAME_ct.nii.gz'}.")
    figures = {}
    for name, path in found.items():
        ct = read_ct(path)
        ct = resample_ct(Volume(without_table(ct.array), ct.spacing_mm), pipe.anatomy.spacing_mm)
        figures[name] = window_errors_hu(ct.array, reconstruct(pipe.autoencoder, ct.array))
        print(f"{name}: " + ", ".join(f"{k} {v:.1f} HU" for k, v in figures[name].items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"model_sha256": pipe.fingerprint, "mae_hu": figures}, indent=1) + "\n")
    return 0
