"""What the autoencoder's parts are worth, and what it leaves of lesions: python -m benchmarks.autoencoder_parts TRAIN
PREPARED --work DIR [--steps 400] [--num 12]

Autoencoders of the default size are trained from scratch for the same steps on the same slices, with and without random
HU windows in the loss. They and the shipped one, with and without the label slice that its decoder was trained to see,
encode and decode the CTs of PREPARED: mean absolute error in the body by window, and the contrast of every lesion
before and after. TRAIN and PREPARED are folders of `guidegen prepare` with different seeds. Can be stopped and started
again; what was trained lies in DIR.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.record import save, weights
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.metrics.reconstruction import lesion_contrasts, reconstruct, window_errors_hu
from guidegen_data.models.autoencoder import CTAutoencoder, autoencoder_loss
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.prepared import case_paths, load_case, training_folder
from guidegen_data.training.ct_slices import SliceSource
from guidegen_data.training.fit import FitConfig, fit
from guidegen_data.training.recipes import RECIPES
from guidegen_data.training.stages import read_training_cts

#: Lesions are told apart by diameter, in mm.
_SIZES_MM = {"under 15 mm": (0, 15), "15 to 30 mm": (15, 30), "over 30 mm": (30, np.inf)}
Reconstruct = Callable[[TrainingCase], np.ndarray]


def trained(source: SliceSource, num_windows: int, config: FitConfig, run_dir: Path) -> CTAutoencoder:
    """The average of an autoencoder trained with so many random windows in its loss."""
    torch.manual_seed(config.seed)
    model = CTAutoencoder(**RECIPES["small"].autoencoder.network)
    ema = copy.deepcopy(model).requires_grad_(False)

    def loss_of(model: Any, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch = source.batch(config.batch_size, generator)
        return autoencoder_loss(model, batch, generator, num_windows=num_windows)._asdict()

    label = f"{num_windows} random windows"
    for _ in tqdm(fit(model, ema, loss_of, config, run_dir), total=config.num_steps, desc=label, disable=None):
        pass
    return ema.eval()


def measure(cases: list[TrainingCase], way: Reconstruct, lesion_id: int, spacing_mm: Any) -> dict[str, Any]:
    """Error by window, mean over CTs, and the share of their contrast that lesions keep, by size."""
    errors: list[dict[str, float]] = []
    lesions: list[tuple[float, ...]] = []
    for case in tqdm(cases, desc="reconstructing", disable=None):
        real, again = np.asarray(case.ct_hu), way(case)
        errors.append(window_errors_hu(real, again))
        lesions += lesion_contrasts([real, again], case.label_map, lesion_id, spacing_mm)
    held = np.array(lesions).reshape(-1, 3)
    by_size = {}
    for name, (low, high) in _SIZES_MM.items():
        diameter, before, after = held[(held[:, 0] >= low) & (held[:, 0] < high)].T
        if len(diameter):
            by_size[name] = {
                "N": len(diameter),
                "median_contrast_before_hu": round(float(np.median(np.abs(before))), 1),
                "median_contrast_after_hu": round(float(np.median(np.abs(after) * np.sign(before * after))), 1),
                "share_kept": round(float((before * after).sum() / (before**2).sum()), 3),
            }
    means = {w: round(float(np.mean([e[w] for e in errors])), 2) for w in errors[0]}
    return {"mae_hu": means, "lesion_contrast": by_size}


def main() -> None:
    """Trains, measures and writes results/autoencoder_parts.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="folder of `guidegen prepare` to train on")
    parser.add_argument("prepared", type=Path, help="another one to compare with")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--num", type=int, default=12)
    parser.add_argument("--seed", type=int, default=9)
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained("torso")
    anatomy, shipped = pipe.anatomy, pipe.autoencoder
    source = SliceSource(read_training_cts(training_folder(args.train), anatomy.spacing_mm, ()), anatomy.shape[0])
    config = FitConfig(args.steps, 16, learning_rate=1.5e-3, warmup_steps=50, ema_decay=0.99, seed=args.seed)
    ways: dict[str, Reconstruct] = {
        "shipped, label slice seen": lambda c: reconstruct(shipped, np.asarray(c.ct_hu), label_map=c.label_map),
        "shipped, label slice withheld": lambda c: reconstruct(shipped, np.asarray(c.ct_hu)),
    }
    for name, num_windows in (("random windows", 2), ("no random windows", 0)):
        made = trained(source, num_windows, config, args.work / f"windows-{num_windows}")
        ways[f"from scratch, {name}"] = lambda c, made=made: reconstruct(made, np.asarray(c.ct_hu))  # type: ignore[misc]
    cases = [c for c in map(load_case, case_paths(args.prepared)) if c.ct_hu is not None][: args.num]
    rows = {name: measure(cases, way, anatomy.lesion_id, anatomy.spacing_mm) for name, way in ways.items()}
    figures = {"num": len(cases), "training_steps": args.steps, "ways": rows, **weights("torso", ("autoencoder",))}
    save("autoencoder_parts", figures, seed=args.seed)


if __name__ == "__main__":
    main()
