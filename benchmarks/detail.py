"""What the detail network adds to stage 1's label maps: python -m benchmarks.detail PREPARED --num 32

Label maps of the same findings and seeds without detail and with it, in several numbers of steps, beside those of
PREPARED (its validation cases where it has some, else training cases: deformed real maps): volume, pieces and roughness
of the classes that are drawn anew, the plausibility of all, seconds. Writes results/detail.json and a sheet of real
maps above both, detail.png.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.plausibility import generated
from benchmarks.record import LABEL_MAP_PARTS, RESULTS, save, weights
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.errors import ModelError
from guidegen_data.metrics.plausibility import compare, population, summary
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.sources.prepared import case_paths, load_label_map, training_folder, validation_folder
from guidegen_data.training.sheets import detail_sheet

_SHOWN = 6


def main() -> None:
    """Measures and writes results/NAME.json and NAME.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="folder of `guidegen prepare`")
    parser.add_argument("--model", default="torso")
    parser.add_argument("--num", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 6, 8])
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--name", default="detail", help="of the results file")
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained(args.model)
    network, anatomy, default = pipe.detail_network, pipe.anatomy, pipe.config.num_steps_detail
    if network is None:
        raise ModelError(f"{args.model} has no detail network.")
    classes = [anatomy.classes[k].name for k in network.config.classes[1:]]
    cases = case_paths(validation_folder(args.prepared) or training_folder(args.prepared))
    real = [load_label_map(p) for p in tqdm(cases[:: max(1, len(cases) // (2 * args.num))], desc="reading")]
    beside, spacing = population(real, anatomy, anatomy.spacing_mm), anatomy.spacing_mm
    rows: list[dict[str, Any]] = []
    held: dict[int, list[torch.Tensor]] = {}
    for steps in (0, *args.steps):
        pipe.register_modules(detail_network=network if steps else None)
        pipe.register_to_config(num_steps_detail=steps)
        started = time.perf_counter()
        made = generated(pipe, args.num, args.seed)
        seconds = (time.perf_counter() - started) / args.num
        shapes = population(made, anatomy, spacing)
        table = compare(beside, shapes)
        rows.append(
            {
                "steps": steps,
                "seconds_a_map": round(seconds, 2),
                "summary": summary(beside, shapes),
                "by_class": {name: table[name] for name in classes if name in table},
            }
        )
        print(rows[-1], flush=True)
        held[steps] = [torch.from_numpy(m) for m in made[:_SHOWN]]
    figures = {"num_generated": args.num, "num_real": len(real), "rows": rows, **weights(args.model, LABEL_MAP_PARTS)}
    save(args.name, figures, seed=args.seed)
    shown = [torch.from_numpy(m) for m in real[:: max(1, len(real) // _SHOWN)][:_SHOWN]]
    best, n = held.get(default, held[args.steps[-1]]), min(len(shown), args.num)
    detail_sheet(shown[:n], held[0][:n], best[:n], anatomy, network.config.classes, RESULTS / f"{args.name}.png")


if __name__ == "__main__":
    main()
