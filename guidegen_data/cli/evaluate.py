"""`guidegen evaluate`: one table of figures of a model beside real cases."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "measure a model against real data: one table"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `guidegen evaluate`."""
    parser.description = (
        "Generates a case for the findings of each of some real cases and prints one table: error of the autoencoder, "
        "plausibility of the masks, findings asked and found, HU of organs, fidelity beside its real-real floor, and "
        "how near the nearest training case is. DATA is a folder of `guidegen prepare`, of which the validation cases "
        "are taken; of a plain folder of NAME_ct volumes the autoencoder's error is measured, CT by CT."
    )
    parser.add_argument("model", help="installed model (e.g. torso) or model folder")
    parser.add_argument("data", type=Path, help="prepared folder, or folder of NAME_ct.nii.gz")
    parser.add_argument("--num", type=int, default=8, help="cases (default 8); more make every figure steadier")
    parser.add_argument("--seed", type=int, default=0, help="case i depends on (seed, i) alone (default 0)")
    parser.add_argument("--out", type=Path, default=Path("evaluation"), help="writes OUT.json and OUT.md (evaluation)")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="plain folder: these CTs only")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and saves it."""
    import torch

    from guidegen_data.cli.memory import keep_freed_memory
    from guidegen_data.errors import ModelError
    from guidegen_data.pipeline import GuideGenPipeline

    if args.num < 2:
        raise ModelError(f"--num must be at least 2, to halve the real cases for the floor, got {args.num}.")
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained(args.model, device=args.device)
    with torch.inference_mode():
        prepared = (args.data / "prepared.json").exists()
        figures, table = _prepared(pipe, args) if prepared else _plain(pipe, args)
    print(table)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_name(args.out.name + ".json").write_text(json.dumps(figures, indent=1) + "\n")
    args.out.with_name(args.out.name + ".md").write_text(table + "\n")
    return 0


def _prepared(pipe, args: argparse.Namespace) -> tuple[dict, str]:
    from tqdm import tqdm

    from guidegen_data.metrics.evaluation import evaluate, evaluation_table, real_cases

    real = real_cases(args.data, pipe.anatomy, args.num)
    with tqdm(total=len(real.cases), desc="generating", unit="case", disable=None) as bar:
        figures = evaluate(pipe, real, args.seed, bar.update)
    return figures, evaluation_table(figures)


def _plain(pipe, args: argparse.Namespace) -> tuple[dict, str]:
    """The autoencoder's error on CTs as they are. Give CTs the training never saw; model cards name those left out."""
    from tqdm import tqdm

    from guidegen_data.errors import SourceError
    from guidegen_data.metrics.reconstruction import reconstruct, window_errors_hu
    from guidegen_data.sources.bases import find_bases
    from guidegen_data.sources.volumes import Volume, read_ct, resample_ct, without_table

    found = {n: ct for n, (ct, _) in find_bases(args.data).items() if ct and (not args.only or n in args.only)}
    if not found:
        raise SourceError(f"{args.data} holds no CT named {args.only or 'NAME_ct.nii.gz'}.")
    errors = {}
    for name, path in tqdm(found.items(), desc="reconstructing", unit="CT", disable=None):
        ct = read_ct(path)
        ct = resample_ct(Volume(without_table(ct.array), ct.spacing_mm), pipe.anatomy.spacing_mm)
        errors[name] = window_errors_hu(ct.array, reconstruct(pipe.autoencoder, ct.array))
    windows = list(next(iter(errors.values())))
    rows = [f"| {name} | " + " | ".join(f"{row[w]:.1f}" for w in windows) + " |" for name, row in errors.items()]
    head = ["| autoencoder, MAE in HU | " + " | ".join(windows) + " |", "|---" * (len(windows) + 1) + "|"]
    return {"model_sha256": pipe.fingerprint, "mae_hu": errors}, "\n".join([*head, *rows])
