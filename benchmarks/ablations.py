"""What the parts of stage 2 are worth: python -m benchmarks.ablations TRAIN PREPARED --work DIR [--steps 400]

The model's slice generator is trained on for the same steps on the same batches, once as it is and then with one part
taken away at a time: noise on the previous slice, the previous slice itself, class fractions (the label map of every
fourth voxel instead), the neighbouring label slices, the HU of organs, the text; and once from head to feet. Each then
draws CTs for the label maps of PREPARED, slice after slice, told the HU of the case's own CT and held to nothing; they
are compared with these CTs as `benchmarks.ct_quality` does. TRAIN and PREPARED are folders of `guidegen prepare` with
different seeds. Can be stopped and started again; what was trained lies in DIR.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.ct_quality import GOALS_HU, measure
from benchmarks.record import IMAGE_PARTS, save, weights
from guidegen_data.cli.memory import keep_freed_memory
from guidegen_data.models.slice_generator import NO_PREVIOUS, SliceGenerator, slice_loss
from guidegen_data.models.text import TextEncoder
from guidegen_data.pipeline import GuideGenPipeline
from guidegen_data.sources.augment import TrainingCase
from guidegen_data.sources.prepared import case_paths, load_case, training_folder
from guidegen_data.training.fit import FitConfig, fit
from guidegen_data.training.latents import LatentData, load_latent_data

_NOISE, _PREVIOUS, _FRACTIONS = "noise on the previous slice", "previous slice", "class fractions"
_NEIGHBOURS, _HU, _TEXT = "neighbouring label slices", "HU of organs", "text"
_DOWNWARDS = "from head to feet"
PARTS = ("", _NOISE, _PREVIOUS, _FRACTIONS, _NEIGHBOURS, _HU, _TEXT, _DOWNWARDS)
_COARSE = 4


class Ablated(SliceGenerator):
    """The slice generator without one of its parts, in training as in sampling."""

    without: str = ""

    def encode_mask(self, labels: Tensor, class_hu: Tensor | None = None) -> Tensor:
        """As in SliceGenerator."""
        if self.without == _FRACTIONS:
            coarse = labels[..., _COARSE // 2 :: _COARSE, _COARSE // 2 :: _COARSE]
            labels = coarse.repeat_interleave(_COARSE, dim=-2).repeat_interleave(_COARSE, dim=-1)
        if self.without == _NEIGHBOURS:
            labels = labels[:, 1:2].expand_as(labels)
        return super().encode_mask(labels, None if self.without == _HU else class_hu)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        mask: Tensor,
        previous: Tensor,
        level: Tensor,
        tokens: Tensor,
        pooled: Tensor | None = None,
    ) -> Tensor:
        """As in SliceGenerator."""
        if self.without == _PREVIOUS:
            previous, level = torch.zeros_like(previous), torch.full_like(level, NO_PREVIOUS)
        if self.without == _TEXT:
            tokens, pooled = torch.zeros_like(tokens), None
        return super().forward(x, sigma, mask, previous, level, tokens, pooled)


def trained(pipe: GuideGenPipeline, data: LatentData, without: str, config: FitConfig, run_dir: Path) -> Ablated:
    """The average of a generator that started from the pipeline's weights."""
    model = Ablated.from_config(pipe.slice_generator.config)
    assert isinstance(model, Ablated)
    model.load_state_dict(pipe.slice_generator.state_dict())
    model.without = without
    ema = copy.deepcopy(model).requires_grad_(False)
    most = 0.0 if without == _NOISE else 0.6

    def loss_of(model: Any, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        return slice_loss(model, **data.batch(config.batch_size, generator), generator=generator, max_level=most)

    for _ in tqdm(fit(model, ema, loss_of, config, run_dir), total=config.num_steps, desc=named(without), disable=None):
        pass
    return ema.eval()


def named(part: str) -> str:
    """What a row of the table is called."""
    return {"": "as it is", _DOWNWARDS: _DOWNWARDS}.get(part, f"without {part}")


def upside_down(data: LatentData) -> LatentData:
    """The same volumes with their heads where their feet are."""
    return replace(data, latents=data.latents.flip(1), labels=data.labels.flip(3))


def case_upside_down(case: TrainingCase) -> TrainingCase:
    """The same of a case."""
    return replace(case, ct_hu=np.flip(np.asarray(case.ct_hu), 2).copy(), label_map=np.flip(case.label_map, 2).copy())


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """The lines of a table out of the figures of `ct_quality.measure`."""
    classes = figures["by_class"]
    drift = [abs(classes[n]["made"]["drift_hu"] - classes[n]["real"]["drift_hu"]) for n in GOALS_HU if n in classes]
    off = [abs(v) for v in figures["off_what_was_told_hu"].values()]
    return {
        "slice_frechet": figures["slice_frechet"],
        "median_step_ratio": figures["median_step_ratio"],
        "median_spread_ratio": figures["median_spread_ratio"],
        "liver_noise_ratio": figures.get("liver_noise_power", {}).get("total_ratio"),
        "mean_off_what_was_told_hu": round(float(np.mean(off)), 1),
        "mean_drift_beyond_real_hu": round(float(np.nanmean(drift)), 1),
        "median_difference_hu": {n: figures["median_difference_hu"][n] for n in GOALS_HU if n in classes},
    }


def main() -> None:
    """Trains, measures and writes results/ablations.json after every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="folder of `guidegen prepare` to train on")
    parser.add_argument("prepared", type=Path, help="another one to compare with")
    parser.add_argument("--work", type=Path, required=True, help="where runs and latents are kept")
    parser.add_argument("--model", default="torso")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--num", type=int, default=6)
    parser.add_argument(
        "--ct-steps", type=int, default=3, help="of the sampler; what is trained on is distilled no more"
    )
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--seed", type=int, default=9)
    args = parser.parse_args()
    keep_freed_memory()
    pipe = GuideGenPipeline.from_pretrained(args.model)
    pipe.register_to_config(hold_hu=False, delay_ct=args.ct_steps)
    args.work.mkdir(parents=True, exist_ok=True)
    cache = args.work / "latents.pt"
    how = (pipe.anatomy, pipe.autoencoder, TextEncoder(), cache, True)
    data = load_latent_data(training_folder(args.train), *how, tissue=pipe.tissue_network)
    cases = [c for c in map(load_case, case_paths(args.prepared)) if c.ct_hu is not None][: args.num]
    config = FitConfig(args.steps, batch_size=24, learning_rate=8e-4, warmup_steps=50, ema_decay=0.99)
    shipped, level, figures = pipe.slice_generator, pipe.config.previous_level, {}
    for part in args.parts:
        run_dir = args.work / (part.replace(" ", "-") or "whole")
        held = run_dir / f"figures-{len(cases)}-{args.ct_steps}.json"
        if not held.exists():
            turned = part == _DOWNWARDS
            pipe.register_modules(slice_generator=shipped)
            network = trained(pipe, upside_down(data) if turned else data, part, config, run_dir)
            pipe.register_modules(slice_generator=network.to(shipped.dtype))
            pipe.register_to_config(previous_level=0.0 if part == _NOISE else level)
            shown = [case_upside_down(c) for c in cases] if turned else cases
            with torch.inference_mode():
                held.write_text(json.dumps(summary(measure(pipe, shown, args.ct_steps, args.seed, told=True))))
        figures[named(part)] = json.loads(held.read_text())
        print(json.dumps(figures), flush=True)
        settings = {"num": len(cases), "training_steps": args.steps, "ct_steps": args.ct_steps}
        save("ablations", {**settings, "parts": figures, **weights(args.model, IMAGE_PARTS)}, seed=args.seed)


if __name__ == "__main__":
    main()
